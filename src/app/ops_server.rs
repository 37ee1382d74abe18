//! The task that serves `/healthz`, `/readyz` and `/metrics`.

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    metrics::Metrics,
    ops::{self, Readiness},
};

/// The server of health and metrics. It stops when this is dropped.
pub(super) struct OpsServer {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
    shutdown: DropGuard,
}

impl OpsServer {
    /// Starts to serve.
    ///
    /// # Errors
    ///
    /// The system cannot determine the address of the socket.
    pub(super) fn start(
        listener: TcpListener,
        readiness: Readiness,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(ops::serve(listener, readiness, metrics, shutdown.clone()));
        Ok(Self { address, task, shutdown: shutdown.drop_guard() })
    }

    /// Stops the server and waits for its end.
    pub(super) async fn stop(self) {
        drop(self.shutdown);
        // A panic has been logged already.
        drop(self.task.await);
    }
}
