//! The routes of the gRPC server: each method to its service, behind the filters, and a fallback for all
//! other paths.

use std::{collections::BTreeMap, convert::Infallible};

use axum::{Router, body::Body as AxumBody, response::IntoResponse};
use http::{Request, Response, Uri};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codec::CompressionEncoding::{Gzip, Zstd},
    server::NamedService,
};
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::{Builder as Reflection, v1, v1alpha};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, util::MapResponse};

use super::{event_server::EventServer, settings::GrpcSettings};
use crate::{
    gateway::Gateway,
    grpc::{
        layers::{
            auth::AuthLayer,
            concurrency_limit::{CallLimits, ConcurrencyLimitLayer},
        },
        services::{
            access_tokens::AccessTokens,
            audit_log::Audit,
            backups::Backups,
            deliveries::Deliveries,
            events::Events,
            health::{Health, HealthService},
            notices::NoticeSinks,
            subscriptions::Subscriptions,
        },
        wire::{
            audited::AuditedCalls,
            library_errors::explain_response,
            methods::{self, DESCRIPTOR_SETS, OPEN_MESSAGE_BYTES_MAX},
            status::GrpcError,
        },
    },
    proto::v1::{
        access_token_service_server::AccessTokenServiceServer, audit_service_server::AuditServiceServer,
        backup_service_server::BackupServiceServer, delivery_service_server::DeliveryServiceServer,
        event_service_server::EventServiceServer, notice_service_server::NoticeServiceServer,
        subscription_service_server::SubscriptionServiceServer,
    },
};

/// Longest part of an unknown name that an error repeats.
const NAME_CHARS_MAX: usize = 100;

/// Applies the settings that all services share. Responses are not compressed: most are smaller than their
/// frame, and clients offer gzip by default. A macro, since the generated servers share these methods but no
/// trait.
macro_rules! configured {
    ($server:expr, $message_bytes_max:expr) => {
        $server.accept_compressed(Gzip).accept_compressed(Zstd).max_decoding_message_size($message_bytes_max)
    };
}

/// The router of all services.
pub(super) fn routes(
    gateway: Gateway,
    settings: &GrpcSettings,
    health: &Health,
    shutdown: &CancellationToken,
) -> Router {
    let filters = ServiceBuilder::new()
        // First, so that callers without access cannot use up the concurrency limit.
        .layer(AuthLayer::new(gateway.clone(), settings.access.clone()))
        // Before anything of a message is read.
        .layer(ConcurrencyLimitLayer::new(
            gateway.clone(),
            CallLimits {
                calls_max: settings.calls_in_flight_max,
                lists_max: settings.lists_in_flight_max,
                call_timeout: settings.call_timeout,
                message_timeout: settings.connections.message_timeout,
                health_checks_max: settings.health_checks_max,
                health_watches_max: settings.health_watches_max,
                reflections_max: settings.reflections_max,
                streams_max: settings.streams_max,
                streams_per_connection_max: settings.streams_per_connection_max,
            },
        ));
    let call_timeout = settings.call_timeout;
    let audited = AuditedCalls::new(gateway.clone(), call_timeout, settings.calls_in_flight_max);
    let events = Events {
        gateway: gateway.clone(),
        call_timeout,
        stream_events_in_flight_max: settings.stream_events_in_flight_max.max(1),
        shutdown: shutdown.clone(),
    };
    let subscriptions = Subscriptions { gateway: gateway.clone(), call_timeout, audited: audited.clone() };
    let tokens = AccessTokens { gateway: gateway.clone(), call_timeout, audited: audited.clone() };
    let audit = Audit { gateway: gateway.clone(), call_timeout };
    let backups = Backups { audited: audited.clone(), shutdown: shutdown.clone() };
    let notices = NoticeSinks { gateway: gateway.clone(), audited: audited.clone() };
    let deliveries = Deliveries { gateway, call_timeout, audited, shutdown: shutdown.clone() };
    let health = HealthService {
        health: health.clone(),
        services: vec![
            SubscriptionServiceServer::<Subscriptions>::NAME,
            EventServiceServer::<Events>::NAME,
            DeliveryServiceServer::<Deliveries>::NAME,
            AccessTokenServiceServer::<AccessTokens>::NAME,
            AuditServiceServer::<Audit>::NAME,
            BackupServiceServer::<Backups>::NAME,
            NoticeServiceServer::<NoticeSinks>::NAME,
        ],
        shutdown: shutdown.clone(),
    };
    let router = Router::new().fallback(unknown_method);
    let bytes_max = settings.message_bytes_max;
    let router = add(router, &filters, EventServer::new(events, bytes_max));
    let router = add(router, &filters, configured!(SubscriptionServiceServer::new(subscriptions), bytes_max));
    let router = add(router, &filters, configured!(DeliveryServiceServer::new(deliveries), bytes_max));
    let router = add(router, &filters, configured!(AccessTokenServiceServer::new(tokens), bytes_max));
    let router = add(router, &filters, configured!(AuditServiceServer::new(audit), bytes_max));
    let router = add(router, &filters, configured!(BackupServiceServer::new(backups), bytes_max));
    let router = add(router, &filters, configured!(NoticeServiceServer::new(notices), bytes_max));
    let router = add(router, &filters, configured!(HealthServer::new(health), OPEN_MESSAGE_BYTES_MAX));
    let router = add(router, &filters, configured!(reflection_v1(), OPEN_MESSAGE_BYTES_MAX));
    let router = add(router, &filters, configured!(reflection_v1alpha(), OPEN_MESSAGE_BYTES_MAX));
    // axum routes faster once the state is fixed.
    router.with_state(())
}

/// Makes the library's own errors those of the contract.
type Explained<T> = MapResponse<T, fn(Response<Body>) -> Response<Body>>;

/// Adds a route to `service` for each of its methods.
fn add<T, L>(router: Router, filters: &L, service: T) -> Router
where
    T: NamedService + Service<Request<Body>, Response = Response<Body>>,
    L: Layer<Explained<T>>,
    L::Service:
        Service<Request<Body>, Error = Infallible, Future: Send + 'static> + Clone + Send + Sync + 'static,
    <L::Service as Service<Request<Body>>>::Response: IntoResponse,
{
    let filtered = filters.layer(service.map_response(explain_response as fn(_) -> _));
    methods::served().iter().filter(|method| method.service == T::NAME).fold(router, |router, method| {
        let service = filtered.clone().map_request(|request: Request<AxumBody>| request.map(Body::new));
        router.route_service(&method.path, service)
    })
}

/// Responds to a call of a method that does not exist: names the methods that do.
async fn unknown_method(uri: Uri) -> Response<Body> {
    Status::from(GrpcError::unknown_method(unknown_method_message(uri.path()))).into_http()
}

fn unknown_method_message(path: &str) -> String {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let shown = |text: &str| text.chars().take(NAME_CHARS_MAX).collect::<String>();
    let mut services: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for known in methods::served() {
        services.entry(&known.service).or_default().push(&known.name);
    }
    match services.get_mut(service) {
        Some(names) => {
            names.sort_unstable();
            format!("{service} has no method {}; it has {}", shown(method), names.join(", "))
        }
        None => {
            let names = Vec::from_iter(services.into_keys()).join(", ");
            format!("there is no service {}; there are {names}", shown(service))
        }
    }
}

fn reflection() -> Reflection<'static> {
    DESCRIPTOR_SETS.iter().fold(Reflection::configure().include_reflection_service(false), |builder, set| {
        builder.register_encoded_file_descriptor_set(set)
    })
}

fn reflection_v1() -> v1::ServerReflectionServer<impl v1::ServerReflection> {
    reflection().build_v1().expect("descriptors that were built in are valid")
}

fn reflection_v1alpha() -> v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection> {
    reflection().build_v1alpha().expect("descriptors that were built in are valid")
}
