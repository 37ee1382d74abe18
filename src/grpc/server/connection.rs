//! Serves connections: never more than a bound, each with an end. What is not open in time, does nothing for long, or does
//! not take its answers is closed; all of them end with the server.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use http::{Request, Response};
use hyper::{
    body::{Body as HttpBody, Bytes, Incoming},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::body::Body;
use tower::{BoxError, Service, ServiceExt};

use super::{
    accept::{Accepted, NotOpened},
    buffer_limits::{Arriving, Bound},
    idle::Activity,
    preface::{Begun, Turn, begun},
    tls::Tls,
};
use crate::{
    domain::caller::Peer,
    limits::{ConnectionLimiter, ConnectionPermit, LimitReached},
    metrics::{CloseReason, Metrics},
};

/// How long a client that was told to go may take to close a connection that nothing happens on.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(10);

/// What bounds connections.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    /// Most connections; further ones wait to be accepted.
    pub connections_max: usize,
    /// Most connections of one address, in IPv6 of one /64; further ones are closed.
    pub per_address_max: usize,
    /// Most connections on which TLS and HTTP/2 have not begun; further ones are closed. One address may have a quarter.
    pub half_open_max: usize,
    /// How long TLS and the beginning of HTTP/2 may take.
    pub handshake_timeout: Duration,
    /// How long a connection may be without a call before its client is told to go; up to a quarter longer.
    pub idle_timeout: Duration,
    /// How long an answer may wait for its client to take more of it before the connection is cut; up to a quarter longer.
    pub answer_timeout: Duration,
    /// Most bytes of messages that have not arrived whole. One connection may have a quarter; a call that would make it more
    /// is RESOURCE_EXHAUSTED.
    pub unfinished_bytes_max: usize,
    /// Most bytes of answers that their clients have not taken, likewise.
    pub unread_bytes_max: usize,
    /// What TLS is spoken with; `None` for none.
    pub tls: Option<Tls>,
}

impl Default for ConnectionSettings {
    /// What is in force when nobody sets anything.
    fn default() -> Self {
        Self {
            connections_max: 4096,
            per_address_max: 1024,
            half_open_max: 512,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_hours(1),
            answer_timeout: Duration::from_mins(1),
            unfinished_bytes_max: 256 * 1024 * 1024,
            unread_bytes_max: 256 * 1024 * 1024,
            tls: None,
        }
    }
}

/// Serves what is accepted.
pub(crate) struct Connections<S> {
    settings: ConnectionSettings,
    unfinished: Bound,
    unread: Bound,
    http2: http2::Builder<TokioExecutor>,
    calls: S,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    cut: CancellationToken,
}

impl<S> Connections<S> {
    /// Has `calls` answer what is called over `http2`.
    pub(crate) fn new(
        settings: ConnectionSettings,
        http2: http2::Builder<TokioExecutor>,
        calls: S,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            unfinished: Bound::new("grpc_unfinished_bytes_max", settings.unfinished_bytes_max),
            unread: Bound::new("grpc_unread_bytes_max", settings.unread_bytes_max),
            settings,
            http2,
            calls,
            metrics,
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// From its cancellation on no more are accepted, and those that are there end when their calls are done.
    pub(crate) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// From its cancellation on there are none.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }
}

impl<S, B> Connections<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError> + Send + Unpin> + Send + Unpin + 'static,
{
    /// Serves until the stop, and then until the last connection has ended.
    pub(crate) async fn serve<F, T>(self, accepted: impl Stream<Item = Accepted<F>>)
    where
        F: Future<Output = Result<(T, Peer), NotOpened>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let places = ConnectionLimiter::new(self.settings.per_address_max, self.settings.half_open_max);
        let (seats, running) = (Arc::new(Semaphore::new(self.settings.connections_max)), TaskTracker::new());
        let this = Arc::new(self);
        {
            // Dropped with this block: who comes later is told so by the system.
            let mut accepted = pin!(accepted);
            loop {
                let next = async {
                    let seat =
                        Arc::clone(&seats).acquire_owned().await.expect("this semaphore is never closed");
                    Some((seat, accepted.next().await?))
                };
                let Some(Some((seat, next))) = this.stop.run_until_cancelled(next).await else { break };
                let place = match places.take(next.address) {
                    Ok(place) => place,
                    Err(full) => {
                        this.metrics.connections.closed(match full {
                            LimitReached::Address => CloseReason::Address,
                            LimitReached::HalfOpen => CloseReason::HalfOpen,
                        });
                        continue;
                    }
                };
                let (this, opened) = (Arc::clone(&this), this.metrics.grpc_connections.track());
                running.spawn(async move {
                    let _taken = (seat, opened);
                    this.cut.run_until_cancelled(this.serve_one(next.opening, place)).await;
                });
            }
        }
        running.close();
        running.wait().await;
    }

    async fn serve_one<F, T>(&self, opening: F, mut place: ConnectionPermit)
    where
        F: Future<Output = Result<(T, Peer), NotOpened>>,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let opening = async {
            let (stream, peer) = opening.await?;
            Ok((begun(stream).await?, peer))
        };
        let opening = timeout(self.settings.handshake_timeout, opening);
        let opened = match self.stop.run_until_cancelled(opening).await {
            Some(Ok(Ok(opened))) => opened,
            Some(Ok(Err(NotOpened { reason, error }))) => return self.close(reason, &error),
            Some(Err(_)) => {
                return self.close(Some(CloseReason::HandshakeTimeout), "it took too long to begin");
            }
            None => return,
        };
        place.open();
        self.serve_open(opened.0, opened.1).await;
    }

    async fn serve_open<T>(&self, stream: Begun<T>, peer: Peer)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let activity = Arc::new(Activity::default());
        let (unfinished, unread) = (self.unfinished.share(), self.unread.share());
        let answers = service_fn(|mut request: Request<Incoming>| {
            let call = activity.call();
            request.extensions_mut().insert(peer.clone());
            let request = request.map(|body| Body::new(Arriving::new(body, &unfinished)));
            let (answering, held) = (self.calls.clone().oneshot(request), unread.held());
            async move { Ok::<_, Infallible>(call.answered(answering.await?, held).await) }
        });
        let turn = stream.turn();
        let connection = pin!(self.http2.serve_connection(TokioIo::new(stream), answers));
        let mut connection = InTurns { connection, turn };
        tokio::select! {
            biased;
            ended = &mut connection => return ended_early(ended),
            () = self.stop.cancelled() => {
                connection.connection.as_mut().graceful_shutdown();
                return ended_early(connection.await);
            }
            () = activity.stalled(self.settings.answer_timeout) => {
                return self.close(Some(CloseReason::Stalled), "its client does not take its answers");
            }
            () = activity.idle(self.settings.idle_timeout) => {}
        }
        self.metrics.connections.closed(CloseReason::Idle);
        connection.connection.as_mut().graceful_shutdown();
        // Calls that came in the meantime are answered.
        loop {
            match timeout(GOODBYE_TIMEOUT, &mut connection).await {
                Ok(ended) => return ended_early(ended),
                Err(_) if activity.is_quiet() => return,
                Err(_) => {}
            }
        }
    }

    fn close(&self, reason: Option<CloseReason>, error: &str) {
        if let Some(reason) = reason {
            self.metrics.connections.closed(reason);
        }
        tracing::debug!(error, "a connection was closed");
    }
}

/// A connection that begins a turn whenever it is polled.
struct InTurns<'a, C> {
    connection: Pin<&'a mut C>,
    turn: Turn,
}

impl<C: Future> Future for InTurns<'_, C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        self.turn.begin();
        self.connection.as_mut().poll(context)
    }
}

fn ended_early(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// What HTTP/2 is spoken with, but for what the caller sets.
pub(crate) fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    builder
}

#[cfg(test)]
mod tests;
