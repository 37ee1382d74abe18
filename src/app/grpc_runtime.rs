//! Threads for calls, apart from those for deliveries.

use std::{io, thread};

use tokio::{
    runtime::{self, Runtime},
    task::JoinHandle,
};

/// Threads that serve gRPC calls and webhooks, and nothing else. Deliveries run on the threads of the app:
/// the kernel divides the cores between all threads, so that a flood of calls leaves deliveries their share.
pub(super) struct GrpcRuntime(Option<Runtime>);

impl GrpcRuntime {
    /// Starts half as many threads as there are for deliveries. `delivery_threads` of 0 means one for each
    /// core.
    ///
    /// # Errors
    ///
    /// The system refuses to start a thread.
    pub(super) fn start(delivery_threads: usize) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, Into::into);
        let threads = if delivery_threads == 0 { cores } else { delivery_threads }.div_ceil(2);
        let mut builder = runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(threads).thread_name("intake").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    /// Runs a future on these threads.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.0.as_ref().expect("only drop takes the runtime").spawn(future)
    }
}

impl Drop for GrpcRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Without waiting: the drain is over, and a runtime must not block where it is dropped in async
            // code.
            runtime.shutdown_background();
        }
    }
}
