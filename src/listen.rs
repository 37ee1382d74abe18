//! The accept loop of every listener: limits connections, and drains them at the shutdown.

use std::{future::Future, io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    limits::{ConnectionLimiter, ConnectionPermit, LimitReached},
    log_throttle::LogThrottle,
};

/// Pause after a failed accept, for example if no file descriptor is free. Without it the loop would spin
/// until one is.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The longest wait for connections that were cut to be gone.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections. Further ones wait in the system's backlog.
    pub connections_max: usize,
    /// Most connections of one address, in IPv6 of one /64. Further ones are closed.
    pub per_address_max: usize,
    /// Most connections whose handshake is not complete. Further ones are closed.
    pub handshaking_max: usize,
    /// The longest time that connections may take to end after the shutdown. Then they are cut.
    pub drain_timeout: Duration,
}

impl Limits {
    /// Limits without a share for each address, and for connections without a handshake.
    pub fn new(connections_max: usize, drain_timeout: Duration) -> Self {
        Self { connections_max, per_address_max: usize::MAX, handshaking_max: usize::MAX, drain_timeout }
    }
}

/// An accepted connection.
#[derive(Debug)]
pub struct Connection<T> {
    /// Its stream.
    pub stream: T,
    /// The client's address, if the transport has addresses.
    pub address: Option<SocketAddr>,
    /// Its share of the limits. To be dropped when the connection ends.
    pub permit: ConnectionPermit,
}

/// How a listener ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// All connections ended by themselves.
    Complete,
    /// Some connections had not ended at the end of the drain, and were cut.
    Cut,
}

/// The connections that `listener` accepts. Failures to accept are logged, and `failed` hears of each; they do
/// not end the stream, which pauses after one.
pub fn incoming(
    listener: TcpListener,
    failed: impl Fn() + Send + Sync + 'static,
) -> impl Stream<Item = (TcpStream, Option<SocketAddr>)> + Send {
    let (failed, log) = (Arc::new(failed), Arc::new(LogThrottle::new()));
    stream::unfold(listener, move |listener| {
        let (failed, log) = (Arc::clone(&failed), Arc::clone(&log));
        async move {
            loop {
                match listener.accept().await {
                    // Responses are small, and must not wait for others to fill a packet.
                    Ok((stream, address)) => match stream.set_nodelay(true) {
                        Ok(()) => return Some(((stream, Some(address)), listener)),
                        Err(error) => tracing::debug!(%error, "a connection broke as it was accepted"),
                    },
                    Err(error) if concerns_one_connection(&error) => {}
                    Err(error) => {
                        failed();
                        if let Some(times) = log.record() {
                            let address = listener.local_addr().ok().map(tracing::field::display);
                            tracing::warn!(%error, times, address, "cannot accept connections; trying again");
                        }
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    })
}

/// Runs `serve` on every connection of `incoming` until `shutdown`, then waits for the connections to end.
///
/// `serve` also gets the shutdown, and should end its connection gracefully then. `refused` hears of every
/// connection that is closed because a limit is reached. If `incoming` ends, the connections stay until the
/// shutdown.
pub async fn serve_connections<T, F>(
    incoming: impl Stream<Item = (T, Option<SocketAddr>)>,
    limits: Limits,
    shutdown: CancellationToken,
    refused: impl Fn(LimitReached),
    serve: impl Fn(Connection<T>, CancellationToken) -> F,
) -> Drain
where
    F: Future<Output = ()> + Send + 'static,
{
    let limiter = ConnectionLimiter::new(limits.per_address_max, limits.handshaking_max);
    // Cuts the connections that are left when it is dropped, also when this future is.
    let mut connections = JoinSet::new();
    {
        // Closed with this block: the system refuses later clients.
        let mut incoming = pin!(incoming);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = incoming.next(), if connections.len() < limits.connections_max => {
                    let Some((stream, address)) = accepted else { break };
                    match limiter.acquire(address.map(|address| address.ip())) {
                        Ok(permit) => {
                            connections.spawn(serve(Connection { stream, address, permit }, shutdown.clone()));
                        }
                        Err(limit) => refused(limit),
                    }
                }
            }
        }
    }
    let drain_deadline = async {
        shutdown.cancelled().await;
        sleep(limits.drain_timeout).await;
    };
    tokio::select! {
        biased;
        () = all_ended(&mut connections) => return Drain::Complete,
        () = drain_deadline => {}
    }
    tracing::debug!(connections = connections.len(), "connections are cut");
    connections.abort_all();
    if timeout(CUT_TIMEOUT, all_ended(&mut connections)).await.is_err() {
        tracing::debug!("connections that were cut are not gone yet");
    }
    Drain::Cut
}

async fn all_ended(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

/// Whether accepting failed only for one connection, which its client gave up.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
