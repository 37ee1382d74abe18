//! Serves the connections of clients, over HTTP/2 and HTTP/1.1. Closes those whose handshake takes too long, that are
//! idle, or whose client does not read its responses.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use clap::Args;
use futures_util::Stream;
use http::{Request, Response};
use hyper::{
    body::{Body as HttpBody, Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tower::{BoxError, Service, ServiceExt};

use super::{
    accept::AcceptError,
    buffer_limits::{ByteBudget, MeteredBody, RequestLimits},
    idle::ConnectionActivity,
    preface::{HttpVersion, PrefacedStream, ReadBudget, read_preface},
    tls::Tls,
};
use crate::{
    config::{ClientSettings, declared_defaults, quantities::duration},
    domain::caller::Peer,
    grpc::layers::{call_share::ConnectionShare, protocol::Protocol},
    limits::{ConnectionPermit, ConnectionState, LimitReached, ShareKey, Shares, UNPROVEN_TIMEOUT},
    listen::{self, Drain, Limits, serve_connections},
    metrics::{CallRefused, CloseReason, Metrics},
};

/// The longest time that the client of an idle connection may take to close it after GOAWAY.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(10);

/// Most bytes that are buffered of a connection over HTTP/1.1, in each direction.
const HTTP1_BUFFER_BYTES: usize = 64 * 1024;

/// Settings of connections, and their limits.
#[derive(Args, Clone, Debug)]
pub struct ConnectionSettings {
    /// Longest time of a gRPC connection without a call, up to a quarter longer. Then its client is asked to
    /// close it.
    ///
    /// Set it below the idle timeout of a load balancer between clients and the gateway.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration("100ms", "365d"))]
    pub grpc_idle_timeout: Duration,
    /// Most connections. A further one takes the place of the idlest of the address that has the most.
    #[arg(skip)]
    pub connections_max: usize,
    /// Most connections of one address, in IPv6 of one /64; further ones are closed.
    #[arg(skip)]
    pub per_address_max: usize,
    /// Most connections on which TLS and HTTP have not begun; further ones are closed. One address may have
    /// a quarter.
    #[arg(skip)]
    pub half_open_max: usize,
    /// Longest time without a call for a connection on which no call has had access.
    #[arg(skip = UNPROVEN_TIMEOUT)]
    pub unproven_timeout: Duration,
    /// Longest time for TLS and the first bytes of HTTP.
    #[arg(skip)]
    pub handshake_timeout: Duration,
    /// Longest time for a client to take more of a response before the connection is cut; up to a quarter
    /// longer. Over HTTP/1.1 also that from a response to the end of the next request's headers.
    #[arg(skip)]
    pub response_timeout: Duration,
    /// Longest time for a message to arrive: of a stream from its first byte, of any other call from its
    /// beginning.
    #[arg(skip)]
    pub message_timeout: Duration,
    /// Most bytes of messages that have not arrived completely. One caller may have half; a call past it is
    /// RESOURCE_EXHAUSTED.
    #[arg(skip)]
    pub unfinished_bytes_max: usize,
    /// Most bytes of responses that their clients have not read, with the same share and effect.
    #[arg(skip)]
    pub unread_bytes_max: usize,
    /// TLS; `None` serves without it.
    #[arg(skip)]
    pub tls: Option<Tls>,
}

impl ConnectionSettings {
    /// Sets the limits that follow from other settings.
    pub fn derive(&mut self, clients: &ClientSettings) {
        let (connections_max, memory_max) = (clients.client_connections_max, clients.publish_memory_max);
        self.connections_max = connections_max;
        self.per_address_max = clients.client_connections_per_address_max;
        self.half_open_max = (connections_max / 8).max(4);
        self.handshake_timeout = clients.client_timeout / 3;
        self.message_timeout = clients.client_timeout / 3;
        self.response_timeout = clients.client_timeout * 2;
        self.unfinished_bytes_max = memory_max / 10 * 4;
        self.unread_bytes_max = memory_max / 10 * 4;
    }
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        let mut settings: Self = declared_defaults();
        settings.derive(&ClientSettings::default());
        settings
    }
}

/// Serves connections.
pub(super) struct ConnectionServer<S> {
    settings: ConnectionSettings,
    requests: Arc<RequestLimits>,
    unread: Arc<ByteBudget>,
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    calls: S,
    metrics: Arc<Metrics>,
}

impl<S> ConnectionServer<S> {
    /// A server that passes every call to `calls`.
    pub(super) fn new(
        settings: ConnectionSettings,
        header_bytes_max: u32,
        http2: http2::Builder<TokioExecutor>,
        calls: S,
        metrics: Arc<Metrics>,
    ) -> Self {
        let budget = |name, max, reason| ByteBudget::new(name, max, reason, Arc::clone(&metrics));
        let unfinished =
            budget("grpc_unfinished_bytes_max", settings.unfinished_bytes_max, CallRefused::UnfinishedBytes);
        Self {
            requests: Arc::new(RequestLimits { unfinished, message_timeout: settings.message_timeout }),
            unread: Arc::new(budget(
                "grpc_unread_bytes_max",
                settings.unread_bytes_max,
                CallRefused::UnreadBytes,
            )),
            http1: http1(&settings, header_bytes_max),
            settings,
            http2,
            calls,
            metrics,
        }
    }
}

impl<S, B> ConnectionServer<S>
where
    S: Service<Request<MeteredBody<Incoming>>, Response = Response<B>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static,
    B: HttpBody<Data = Bytes, Error: Into<BoxError> + Send + Unpin> + Send + Unpin + 'static,
{
    /// Serves `incoming` until `shutdown`, then drains it. `handshake` opens a connection.
    pub(super) async fn serve<T, H, U>(
        self,
        incoming: impl Stream<Item = (T, Option<SocketAddr>)>,
        handshake: impl Fn(T, Option<SocketAddr>) -> H,
        drain_timeout: Duration,
        shutdown: CancellationToken,
    ) -> Drain
    where
        H: Future<Output = Result<(U, Peer), AcceptError>> + Send + 'static,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let settings = &self.settings;
        let shares = Shares {
            handshaking_max: settings.half_open_max,
            unproven_timeout: settings.unproven_timeout,
            ..Shares::of(settings.connections_max, settings.per_address_max)
        };
        let limits = Limits::new(settings.connections_max, shares, drain_timeout);
        let server = Arc::new(self);
        let closed = |limit| {
            server.metrics.connections.closed(match limit {
                LimitReached::Address => CloseReason::Address,
                LimitReached::Handshaking => CloseReason::HalfOpen,
                LimitReached::Unproven => CloseReason::Unproven,
                LimitReached::UnprovenTimeout => CloseReason::UnprovenTimeout,
                LimitReached::Evicted => CloseReason::Evicted,
            });
        };
        serve_connections(incoming, limits, shutdown, closed, |connection, shutdown| {
            let (server, gauge) = (Arc::clone(&server), server.metrics.grpc_connections.track());
            let listen::Connection { stream, address, permit } = connection;
            let handshake = handshake(stream, address);
            async move {
                let _open = gauge;
                server.serve_one(handshake, permit, shutdown).await;
            }
        })
        .await
    }

    async fn serve_one<H, U>(&self, handshake: H, mut permit: ConnectionPermit, shutdown: CancellationToken)
    where
        H: Future<Output = Result<(U, Peer), AcceptError>>,
        U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = async {
            let (stream, peer) = handshake.await?;
            Ok((read_preface(stream).await?, peer))
        };
        let handshake = timeout(self.settings.handshake_timeout, handshake);
        let (stream, peer) = match shutdown.run_until_cancelled(handshake).await {
            Some(Ok(Ok(open))) => open,
            Some(Ok(Err(AcceptError { reason, error }))) => return self.close(reason, &error),
            Some(Err(_)) => {
                return self.close(Some(CloseReason::HandshakeTimeout), "the handshake took too long");
            }
            None => return,
        };
        permit.established();
        self.serve_http(stream, peer, permit.state().clone(), shutdown).await;
    }

    async fn serve_http<T>(
        &self,
        stream: PrefacedStream<T>,
        peer: Peer,
        state: ConnectionState,
        shutdown: CancellationToken,
    ) where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let activity = Arc::new(ConnectionActivity::new(Some(state.clone())));
        let address = ShareKey::of_address(peer.address.map(|address| address.ip()));
        let share = ConnectionShare::new(address, Some(state));
        let responses = service_fn(|mut request: Request<Incoming>| {
            let (guard, call) = (activity.call(), share.call());
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(call.clone());
            let protocol = Protocol::of(request.headers());
            let (head, body) = request.into_parts();
            let (is_framed, limits) = (protocol.is_some_and(Protocol::is_framed), Arc::clone(&self.requests));
            let body = MeteredBody::new(body, head.uri.path(), is_framed, call.clone(), limits);
            let response = self.calls.clone().oneshot(Request::from_parts(head, body));
            let unread = Arc::clone(&self.unread);
            async move { Ok::<_, Infallible>(guard.track(response.await?, &unread, &call, protocol).await) }
        });
        let (version, budget) = (stream.version, stream.budget());
        match version {
            HttpVersion::Http1 => {
                let connection = self.http1.serve_connection(TokioIo::new(stream), responses);
                self.run(connection, budget, &activity, shutdown).await;
            }
            HttpVersion::Http2 => {
                let connection = self.http2.serve_connection(TokioIo::new(stream), responses);
                self.run(connection, budget, &activity, shutdown).await;
            }
        }
    }

    /// Runs a connection to its end, or ends it.
    async fn run(
        &self,
        connection: impl GracefulConnection<Error = hyper::Error>,
        budget: ReadBudget,
        activity: &ConnectionActivity,
        shutdown: CancellationToken,
    ) {
        let mut connection = Budgeted { connection: pin!(connection), budget };
        tokio::select! {
            biased;
            ended = &mut connection => return self.log_end(ended),
            () = shutdown.cancelled() => {
                connection.connection.as_mut().graceful_shutdown();
                return self.log_end(connection.await);
            }
            () = activity.stalled(self.settings.response_timeout) => {
                return self.close(Some(CloseReason::Stalled), "its client does not read its responses");
            }
            () = activity.idle(self.settings.grpc_idle_timeout) => {}
        }
        self.metrics.connections.closed(CloseReason::Idle);
        connection.connection.as_mut().graceful_shutdown();
        // Completes calls that arrived in the meantime.
        loop {
            match timeout(GOAWAY_TIMEOUT, &mut connection).await {
                Ok(ended) => return self.log_end(ended),
                Err(_) if activity.is_quiet() => return,
                Err(_) => {}
            }
        }
    }

    fn log_end(&self, ended: hyper::Result<()>) {
        let Err(error) = ended else { return };
        if error.is_parse() {
            self.metrics.connections.closed(CloseReason::NotHttp);
        } else if error.is_timeout() {
            // No headers of a request over HTTP/1.1 have come.
            self.metrics.connections.closed(CloseReason::Idle);
        }
        tracing::debug!(%error, "a connection ended early");
    }

    fn close(&self, reason: Option<CloseReason>, error: &str) {
        if let Some(reason) = reason {
            self.metrics.connections.closed(reason);
        }
        tracing::debug!(error, "a connection was closed");
    }
}

/// A connection whose read budget is reset at every poll.
struct Budgeted<'a, C> {
    connection: Pin<&'a mut C>,
    budget: ReadBudget,
}

impl<C: Future> Future for Budgeted<'_, C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        self.budget.reset();
        self.connection.as_mut().poll(context)
    }
}

/// A builder of HTTP/1.1 connections.
fn http1(settings: &ConnectionSettings, header_bytes_max: u32) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        // Runs from the response before, too: it is the idle timeout as well.
        .header_read_timeout(settings.response_timeout.min(settings.grpc_idle_timeout))
        .max_header_size(usize::try_from(header_bytes_max).expect("it is small"))
        .max_buf_size(HTTP1_BUFFER_BYTES);
    builder
}

/// A builder of HTTP/2 connections with tokio's executor and timer.
pub(super) fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new());
    builder
}

#[cfg(test)]
mod tests;
