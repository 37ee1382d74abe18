//! The server: which services, with which settings, and how it comes to its end.

use std::{any::Any, sync::Arc, time::Duration};

use futures_util::Stream;
use http::Response;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, body::Body, transport::server::Connected};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    accept::{self, Accepted, NotOpened},
    connection::{ConnectionSettings, Connections, http2},
    routes::routes,
};
use crate::{
    domain::caller::Peer,
    gateway::Gateway,
    grpc::{layers::auth::AccessSettings, services::health::Health, wire::status::GrpcError},
};

/// How often a connection on which nothing happens is asked whether it is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Flow control, for streams of large events.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// How many streams a client may cancel before the server has taken them up. The library's own bound of 20 breaks
/// connections of clients that cancel a lot.
const PENDING_RESETS_MAX: usize = 1000;
/// How many streams of a connection may end in an error in its whole life, likewise.
const ERROR_RESETS_MAX: usize = 100_000;
/// How long connections that were cut may take to be gone.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// What bounds the server.
#[derive(Clone, Debug)]
pub struct GrpcSettings {
    /// Largest request, in bytes before compression. A larger one is OUT_OF_RANGE.
    pub message_bytes_max: usize,
    /// Longest list of request headers, in bytes.
    pub header_bytes_max: u32,
    /// What bounds connections.
    pub connections: ConnectionSettings,
    /// Most calls that are answered at once, over all connections.
    pub calls_in_flight_max: usize,
    /// Most calls at once on one connection.
    pub calls_per_connection_max: u32,
    /// Most events of one StreamPublishEvents call that are taken but not yet answered, at least 1.
    pub stream_events_in_flight_max: usize,
    /// How long a call may take, but for streams and TestSubscription. A longer one is DEADLINE_EXCEEDED.
    pub call_timeout: Duration,
    /// How long what is under way may take to end once the server is told to stop.
    pub drain_timeout: Duration,
    /// Who may call, beside what the gateway knows of tokens.
    pub access: AccessSettings,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Everything that was under way came to its end.
    Complete,
    /// Some connections had not, and were cut.
    Cut,
}

/// Serves `gateway` on `listener` until `shutdown` is cancelled, then ends what is under way: open streams with
/// UNAVAILABLE at once, calls when they are done, everything else after [`GrpcSettings::drain_timeout`].
///
/// `health` says that calls are served until the moment of the shutdown.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    settings: GrpcSettings,
    health: Health,
    shutdown: CancellationToken,
) -> Drain {
    let accepted = accept::accepted(listener, settings.connections.tls.clone());
    serve_opening(accepted, gateway, settings, health, shutdown).await
}

/// The same on connections that are `accepted` and opened elsewhere, such as those of a simulated network.
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
    serve_opening(accept::opened(accepted), gateway, settings, health, shutdown).await
}

async fn serve_opening<F, T>(
    accepted: impl Stream<Item = Accepted<F>>,
    gateway: Gateway,
    settings: GrpcSettings,
    health: Health,
    shutdown: CancellationToken,
) -> Drain
where
    F: Future<Output = Result<(T, Peer), NotOpened>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
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
    let calls = ServiceBuilder::new()
        // Outermost, so that it catches every panic below.
        .layer(CatchPanicLayer::custom(panicked))
        .service(routes(gateway.clone(), &settings, &health, &shutdown));
    let connections =
        Connections::new(settings.connections.clone(), http2, calls, Arc::clone(gateway.metrics()));
    let (stop, cut) = (connections.stop(), connections.cut());
    let _cut_on_drop = cut.clone().drop_guard();
    let serving = connections.serve(accepted);
    let mut serving = std::pin::pin!(serving);

    health.set_serving();
    tokio::select! {
        biased;
        // There is nothing more to accept.
        () = &mut serving => {
            health.set_not_serving();
            return Drain::Complete;
        }
        () = shutdown.cancelled() => {}
    }
    // Before anything is closed: who asks now is still answered, and goes elsewhere.
    health.set_not_serving();
    stop.cancel();
    if tokio::time::timeout(settings.drain_timeout, &mut serving).await.is_ok() {
        return Drain::Complete;
    }
    tracing::warn!(timeout = ?settings.drain_timeout, "connections were still open at the end of the drain; cut");
    cut.cancel();
    if tokio::time::timeout(CUT_TIMEOUT, &mut serving).await.is_err() {
        tracing::debug!("connections that were cut are not gone yet");
    }
    Drain::Cut
}

/// Answers a call whose handler panicked. The panic has been logged by the hook; this says what it cost.
#[expect(clippy::needless_pass_by_value, reason = "the layer hands it over")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response<Body> {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("without a message"), "a call panicked");
    Status::from(GrpcError::internal()).into_http()
}

/// Answers with what `call` comes to, or with DEADLINE_EXCEEDED.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, GrpcError>>,
) -> Result<tonic::Response<T>, Status> {
    Ok(in_time(limit, call).await.map(tonic::Response::new)?)
}

/// Comes to what `call` comes to, or is refused.
pub(crate) async fn in_time<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, GrpcError>>,
) -> Result<T, GrpcError> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(GrpcError::too_slow(limit)))
}
