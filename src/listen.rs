//! Takes connections from a listener, as many at once as are allowed, until told to end.

use std::{future::Future, io, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// How long to wait before the next try when the system has no connection to give, as when it is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a listener may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once. Further ones wait in the system's backlog.
    pub connections_max: usize,
    /// How long connections may take to end after the shutdown; then they are cut.
    pub drain_timeout: Duration,
}

/// Runs `serve` on every connection, until `shutdown` and the end of the connections.
///
/// `serve` is given the shutdown too, and should end its connection gracefully then.
pub async fn serve_connections<S, F>(
    listener: TcpListener,
    limits: Limits,
    shutdown: CancellationToken,
    serve: S,
) where
    S: Fn(TcpStream, CancellationToken) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    // Dropped, it ends what is still in it; also when this future is dropped itself.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < limits.connections_max => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, shutdown.clone()));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
            },
        }
    }
    drop(listener);
    let drained =
        timeout(limits.drain_timeout, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::debug!(connections = connections.len(), "connections are cut off");
    }
}

/// Whether accepting failed because of that one connection, which its client gave up.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
