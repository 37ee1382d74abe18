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
    limits::{ConnectionLimiter, ConnectionPermit, ConnectionState, LimitReached, Shares},
    log_throttle::LogThrottle,
};

/// Pause after a failed accept, for example if no file descriptor is free. Without it the loop would spin
/// until one is.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// While a connection waits for room, an idle one is looked for this often.
const EVICTION_PAUSE: Duration = Duration::from_millis(100);
/// The longest time for a connection that shall end, and whose client has proven who it is, to end gracefully.
const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// The longest wait for connections that were cut to be gone.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most connections. A further one takes the place of the idlest of the address that has the most, or waits until
    /// one is idle.
    pub connections_max: usize,
    /// The shares of addresses; connections past them are closed. Without shares no connection makes room for another.
    pub shares: Option<Shares>,
    /// The longest time that connections may take to end after the shutdown. Then they are cut.
    pub drain_timeout: Duration,
}

impl Limits {
    /// Limits with these shares.
    pub fn new(connections_max: usize, shares: Shares, drain_timeout: Duration) -> Self {
        Self { connections_max, shares: Some(shares), drain_timeout }
    }

    /// Limits of a listener whose clients need no shares, such as that of a receiver, whose client is a gateway.
    pub fn without_shares(connections_max: usize, drain_timeout: Duration) -> Self {
        Self { connections_max, shares: None, drain_timeout }
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
/// `serve` also gets a token, and should end its connection gracefully when it is cancelled. `closed` hears of every
/// connection that is closed because a limit is reached. If `incoming` ends, the connections stay until the shutdown.
pub async fn serve_connections<T, F>(
    incoming: impl Stream<Item = (T, Option<SocketAddr>)>,
    limits: Limits,
    shutdown: CancellationToken,
    closed: impl Fn(LimitReached),
    serve: impl Fn(Connection<T>, CancellationToken) -> F,
) -> Drain
where
    F: Future<Output = ()> + Send + 'static,
{
    let limiter = ConnectionLimiter::new(limits.shares.unwrap_or(Shares::UNLIMITED));
    // Cuts the connections that are left when it is dropped, also when this future is.
    let mut connections = JoinSet::new();
    {
        // Closed with this block: the system refuses later clients.
        let mut incoming = pin!(incoming);
        // The one that waits for room.
        let mut waiting: Option<Connection<T>> = None;
        let mut makes_room = false;
        loop {
            if connections.len() < limits.connections_max
                && let Some(connection) = waiting.take()
            {
                makes_room = false;
                let (state, ends) = (connection.permit.state().clone(), shutdown.child_token());
                let served = serve(connection, ends.clone());
                connections.spawn(until_it_shall_end(served, state, ends));
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    if let Ok(Some(limit)) = ended {
                        closed(limit);
                    }
                }
                accepted = incoming.next(), if waiting.is_none() => {
                    let Some((stream, address)) = accepted else { break };
                    match limiter.acquire(address.map(|address| address.ip())) {
                        Ok(permit) => waiting = Some(Connection { stream, address, permit }),
                        Err(limit) => closed(limit),
                    }
                }
                () = sleep(EVICTION_PAUSE), if waiting.is_some() && !makes_room => {}
            }
            if let Some(connection) = &waiting
                && !makes_room
                && limits.shares.is_some()
                && connections.len() >= limits.connections_max
            {
                makes_room = connection.permit.evict_another();
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

/// Serves a connection until it ends, or shall end and has had time for it. Returns why it was ended.
async fn until_it_shall_end(
    served: impl Future<Output = ()>,
    state: ConnectionState,
    ends: CancellationToken,
) -> Option<LimitReached> {
    let mut served = pin!(served);
    let limit = tokio::select! {
        biased;
        () = &mut served => return None,
        limit = state.ends() => limit,
    };
    if limit == LimitReached::UnprovenTimeout || state.is_proven() {
        ends.cancel();
        // Cut after that.
        drop(timeout(EVICTION_GRACE, served).await);
    }
    Some(limit)
}

async fn all_ended(connections: &mut JoinSet<Option<LimitReached>>) {
    while connections.join_next().await.is_some() {}
}

/// Whether accepting failed only for one connection, which its client gave up.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
