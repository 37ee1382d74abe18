//! The server: which services, with which settings, and how it comes to its end.

use std::{any::Any, sync::Arc, time::Duration};

use futures_util::Stream;
use http::Response;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codec::CompressionEncoding::{Gzip, Zstd},
    server::NamedService,
    service::{Routes, RoutesBuilder},
    transport::server::Connected,
};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::{Builder as Reflection, v1, v1alpha};
use tower::{ServiceBuilder, layer::layer_fn};
use tower_http::catch_panic::CatchPanicLayer;

use super::{
    accept::{self, Accepted, NotOpened},
    connection::{ConnectionSettings, Connections, http2},
};
use crate::{
    domain::caller::Peer,
    gateway::Gateway,
    grpc::{
        layers::{
            auth::{Access, AccessSettings},
            concurrency_limit::Bounded,
            fast_path::Straight,
            filter::Gate,
            unknown_method::Known,
        },
        services::{
            access_tokens::AccessTokens,
            audit_log::Audit,
            deliveries::Deliveries,
            events::Events,
            health::{Health, HealthService},
            subscriptions::Subscriptions,
        },
        wire::{audited::Changes, status::GrpcError},
    },
    proto::{
        self,
        v1::{
            access_token_service_server::AccessTokenServiceServer, audit_service_server::AuditServiceServer,
            delivery_service_server::DeliveryServiceServer, event_service_server::EventServiceServer,
            subscription_service_server::SubscriptionServiceServer,
        },
    },
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
        // Outermost, so that it catches what panics anywhere below.
        .layer(CatchPanicLayer::custom(panicked))
        // Before the routes, whose own answer to an unknown method says nothing.
        .layer(Known::described_by(&DESCRIBED).layer())
        // Before it takes up a place: who may not call must not keep others from it.
        .layer(Access::new(gateway.clone(), settings.access, &DESCRIBED).layer())
        // Before anything of a message is read.
        .layer(Bounded::new(gateway.clone(), settings.calls_in_flight_max, settings.call_timeout).layer())
        // Most calls publish: the router, which takes every call and its answer apart, is for the others.
        .layer(layer_fn(|others| Straight { service: events(gateway.clone(), &settings, &shutdown), others }))
        .service(routes(gateway.clone(), &settings, &health, &shutdown).prepare());
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

/// What is served and spoken of: the contract, the details of errors, health, and reflection itself.
pub(crate) static DESCRIBED: [&[u8]; 5] = [
    proto::DESCRIPTORS,
    tonic_types::pb::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
];

/// Every service takes both encodings, and bounds what it takes. Answers are not compressed: most are smaller than their
/// frame, and clients offer gzip by default. A macro, since the generated servers share these methods but no trait.
macro_rules! tuned {
    ($server:expr, $settings:expr) => {
        $server
            .accept_compressed(Gzip)
            .accept_compressed(Zstd)
            .max_decoding_message_size($settings.message_bytes_max)
    };
}

fn routes(
    gateway: Gateway,
    settings: &GrpcSettings,
    health: &Health,
    shutdown: &CancellationToken,
) -> Routes {
    let call_timeout = settings.call_timeout;
    let changes = Changes::new(gateway.clone(), call_timeout, settings.calls_in_flight_max);
    let subscriptions = Subscriptions { gateway: gateway.clone(), call_timeout, changes: changes.clone() };
    let tokens = AccessTokens { gateway: gateway.clone(), call_timeout, changes: changes.clone() };
    let audit = Audit { gateway: gateway.clone(), call_timeout };
    let deliveries = Deliveries { gateway, call_timeout, changes, shutdown: shutdown.clone() };
    let health = HealthService {
        health: health.clone(),
        services: vec![
            SubscriptionServiceServer::<Subscriptions>::NAME,
            EventServiceServer::<Events>::NAME,
            DeliveryServiceServer::<Deliveries>::NAME,
            AccessTokenServiceServer::<AccessTokens>::NAME,
            AuditServiceServer::<Audit>::NAME,
        ],
        shutdown: shutdown.clone(),
    };
    let mut routes = RoutesBuilder::default();
    routes
        .add_service(tuned!(SubscriptionServiceServer::new(subscriptions), settings))
        .add_service(tuned!(DeliveryServiceServer::new(deliveries), settings))
        .add_service(tuned!(AccessTokenServiceServer::new(tokens), settings))
        .add_service(tuned!(AuditServiceServer::new(audit), settings))
        .add_service(tuned!(HealthServer::new(health), settings))
        .add_service(tuned!(reflection_v1(), settings))
        .add_service(tuned!(reflection_v1alpha(), settings));
    routes.routes()
}

fn events(
    gateway: Gateway,
    settings: &GrpcSettings,
    shutdown: &CancellationToken,
) -> EventServiceServer<Events> {
    let events = Events {
        gateway,
        call_timeout: settings.call_timeout,
        stream_events_in_flight_max: settings.stream_events_in_flight_max.max(1),
        shutdown: shutdown.clone(),
    };
    tuned!(EventServiceServer::new(events), settings)
}

fn reflection() -> Reflection<'static> {
    DESCRIBED.iter().fold(Reflection::configure().include_reflection_service(false), |builder, set| {
        builder.register_encoded_file_descriptor_set(set)
    })
}

fn reflection_v1() -> v1::ServerReflectionServer<impl v1::ServerReflection> {
    reflection().build_v1().expect("descriptors that were built in are valid")
}

fn reflection_v1alpha() -> v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection> {
    reflection().build_v1alpha().expect("descriptors that were built in are valid")
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
