//! Waits for the shutdown of a gateway, drains it, and closes its store.

use std::{panic, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{access, grpc_runtime::GrpcRuntime, ops_server::OpsServer};
use crate::{
    gateway::Gateway,
    store::{Store, disk::DiskStore},
};

/// The error of a gateway whose store failed while it ran.
const STORE_FAILED: &str = "the store failed while the gateway ran, and took no more writes; \
                            acknowledged events are on disk, and the next start reads them";

/// A gateway that serves.
pub(super) struct Running {
    pub(super) store: Arc<DiskStore>,
    pub(super) gateway: Gateway,
    pub(super) ops: OpsServer,
    pub(super) runtime: GrpcRuntime,
    pub(super) grpc: JoinHandle<()>,
    pub(super) ingest: Option<JoinHandle<()>>,
    pub(super) console: Option<JoinHandle<()>>,
    pub(super) dispatcher: JoinHandle<()>,
    pub(super) store_watch: JoinHandle<()>,
    pub(super) drain_timeout: Duration,
}

impl Running {
    /// Waits for `shutdown` and the end of calls and attempts, then closes the store. Health and metrics are
    /// served until the store is closed.
    pub(super) async fn wait(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let grpc = async {
            let ended = self.grpc.await;
            // If the server panicked, stop everything else too.
            shutdown.cancel();
            ended
        };
        let [ingest, console] = [self.ingest, self.console].map(|task| async {
            match task {
                Some(task) => task.await,
                None => Ok(()),
            }
        });
        // Concurrently: calls and attempts share the drain timeout.
        let drained = drain_attempts(self.dispatcher, self.drain_timeout, &shutdown);
        let (grpc, ingest, console, ()) = tokio::join!(grpc, ingest, console, drained);
        self.store_watch.abort();
        access::write_last_token_uses(&self.gateway).await;
        drop(self.gateway);
        let failure = self.store.failure();
        let store = self.store;
        let closed = tokio::task::spawn_blocking(move || store.close()).await?;
        self.ops.stop().await;
        drop(self.runtime);
        for ended in [grpc, ingest, console] {
            ended.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()));
        }
        if let Some(failure) = failure.borrow().clone() {
            return Err(failure).context(STORE_FAILED);
        }
        closed.context("cannot close the store")?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// Waits for the shutdown, then for the attempts under way, up to the drain timeout.
async fn drain_attempts(
    mut dispatcher: JoinHandle<()>,
    drain_timeout: Duration,
    shutdown: &CancellationToken,
) {
    shutdown.cancelled().await;
    if timeout(drain_timeout, &mut dispatcher).await.is_err() {
        tracing::warn!(
            "drain timeout reached: attempts under way are cancelled and repeated after the next start"
        );
        dispatcher.abort();
    }
}
