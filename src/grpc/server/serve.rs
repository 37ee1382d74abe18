//! The server: its HTTP/2 settings, its routes, its protocols, and its shutdown.

use std::{any::Any, future::ready, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use futures_util::{Stream, StreamExt};
use http::{Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, transport::server::Connected};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    accept::{AcceptError, already_open, handshake},
    connection::{ConnectionServer, http2},
    routes::routes,
    settings::GrpcSettings,
};
use crate::{
    domain::caller::Peer,
    gateway::Gateway,
    grpc::{
        layers::{
            protocols::{ProtocolsLayer, Services},
            web_rules::WebRules,
        },
        services::health::Health,
        wire::status::GrpcError,
    },
    listen::{Drain, incoming},
    metrics::Listener,
};

/// Interval of HTTP/2 pings on a quiet connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// The longest time that the response to a ping may take.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow-control windows, sized for streams of large events.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Most streams that a client may cancel before the server has accepted them. The library's own limit of 20
/// breaks connections of clients that cancel a lot.
const PENDING_RESETS_MAX: usize = 1000;
/// Most streams of a connection that may end in an error during its life. The library's own limit is too low
/// as well.
const ERROR_RESETS_MAX: usize = 100_000;

/// Serves `gateway` on `listener` until `shutdown` is cancelled, then drains: open streams end with
/// UNAVAILABLE at once, calls when they are complete, everything else after [`GrpcSettings::drain_timeout`].
///
/// `health` reports serving until the shutdown.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    settings: GrpcSettings,
    health: Health,
    shutdown: CancellationToken,
) -> Drain {
    let calls = Calls::new(gateway.clone(), &settings, &health, &shutdown);
    serve_calls(listener, calls, gateway, settings, health, shutdown).await
}

/// Like [`serve`], with the services made before, so that others in this process can call them too.
pub async fn serve_calls(
    listener: TcpListener,
    calls: Calls,
    gateway: Gateway,
    settings: GrpcSettings,
    health: Health,
    shutdown: CancellationToken,
) -> Drain {
    let tls = settings.connections.tls.clone();
    let handshake = move |stream, address| handshake(stream, address, tls.clone());
    let metrics = Arc::clone(gateway.metrics());
    let incoming = incoming(listener, move || metrics.accept_failed(Listener::Grpc));
    serve_incoming(incoming, handshake, calls, &gateway, settings, health, shutdown).await
}

/// The services behind everything that guards them: authentication, limits, audit. Clones share the limits.
#[derive(Clone)]
pub struct Calls(Router);

impl Calls {
    /// The services of `gateway`.
    pub fn new(
        gateway: Gateway,
        settings: &GrpcSettings,
        health: &Health,
        shutdown: &CancellationToken,
    ) -> Self {
        Self(routes(gateway, settings, health, shutdown))
    }

    /// The services for callers in this process. The extensions of a request have its [`Peer`].
    pub fn in_process(&self) -> Services {
        let calls = ServiceBuilder::new().layer(CatchPanicLayer::custom(panicked)).service(self.0.clone());
        let calls = ServiceExt::<Request<Body>>::map_response(calls, |response| response.map(Body::new));
        BoxCloneSyncService::new(calls)
    }
}

/// Like [`serve`], on connections that were accepted elsewhere and need no handshake, such as those of a
/// simulated network.
pub async fn serve_accepted<T>(
    accepted: impl Stream<Item = T>,
    gateway: Gateway,
    settings: GrpcSettings,
    health: Health,
    shutdown: CancellationToken,
) -> Drain
where
    T: AsyncRead + AsyncWrite + Connected<ConnectInfo = Peer> + Send + Unpin + 'static,
{
    let incoming = accepted.map(|stream| {
        let address = stream.connect_info().address;
        (stream, address)
    });
    let handshake = |stream, _address| ready(already_open(stream));
    let calls = Calls::new(gateway.clone(), &settings, &health, &shutdown);
    serve_incoming(incoming, handshake, calls, &gateway, settings, health, shutdown).await
}

async fn serve_incoming<T, H, U>(
    incoming: impl Stream<Item = (T, Option<SocketAddr>)>,
    handshake: impl Fn(T, Option<SocketAddr>) -> H,
    calls: Calls,
    gateway: &Gateway,
    settings: GrpcSettings,
    health: Health,
    shutdown: CancellationToken,
) -> Drain
where
    H: Future<Output = Result<(U, Peer), AcceptError>> + Send + 'static,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut http2 = http2();
    http2
        .keep_alive_interval(Some(KEEPALIVE_INTERVAL))
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(settings.calls_per_connection_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(settings.header_bytes_max)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX);
    let is_tls = settings.connections.tls.is_some();
    let rules = WebRules::new(gateway.clone(), settings.cors_allow_origins.clone(), is_tls);
    let metrics = Arc::clone(gateway.metrics());
    let protocols = ProtocolsLayer::new(&metrics, rules, calls.in_process(), settings.message_bytes_max);
    let calls = ServiceBuilder::new()
        // Outermost, so that it catches every panic below.
        .layer(CatchPanicLayer::custom(panicked))
        .layer(protocols)
        .service(calls.0);
    let (connections, header_bytes_max) = (settings.connections.clone(), settings.header_bytes_max);
    let server = ConnectionServer::new(connections, header_bytes_max, http2, calls, metrics);
    // Later than the shutdown itself: clients that check health first learn of the shutdown on a connection
    // that still serves.
    let stop = CancellationToken::new();
    let mut serving = pin!(server.serve(incoming, handshake, settings.drain_timeout, stop.clone()));
    health.set_serving();
    let ended = tokio::select! {
        biased;
        // Only if `incoming` ends, and all its connections with it.
        drain = &mut serving => Some(drain),
        () = shutdown.cancelled() => None,
    };
    health.set_not_serving();
    stop.cancel();
    let drain = match ended {
        Some(drain) => drain,
        None => serving.await,
    };
    if drain == Drain::Cut {
        tracing::warn!(timeout = ?settings.drain_timeout, "connections were still open at the end of the drain; cut");
    }
    drain
}

/// Responds to a call whose handler panicked. The panic hook has logged where.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response<Body> {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("without a message"), "a call panicked");
    Status::from(GrpcError::internal()).into_http()
}
