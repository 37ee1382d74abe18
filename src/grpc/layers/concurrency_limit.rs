//! Limits concurrent calls and open streams. A call past a limit is rejected before its message is read, which
//! costs a few headers and leaves the machine to the calls in flight.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::Either;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    call_share::{CallShare, OpenStream},
    filter::{FilterFuture, GrpcService, reject, reject_later},
};
use crate::{
    domain::caller::Peer,
    gateway::{Gateway, GatewayError},
    grpc::wire::status::GrpcError,
    limits::{AddressRateLimiter, Permit, RATED_ADDRESSES_MAX, ShareKey, SharedPool},
    metrics::CallRefused,
};

/// The methods that publish in one message. A stream is limited event by event.
const PUBLISH_METHODS: [&str; 2] =
    ["/tidings.v1.EventService/PublishEvent", "/tidings.v1.EventService/BatchPublishEvents"];
/// The methods of tidings.v1 whose calls are streams.
const STREAM_METHODS: [&str; 3] = [
    "/tidings.v1.EventService/StreamPublishEvents",
    "/tidings.v1.DeliveryService/WatchDeliveries",
    "/tidings.v1.BackupService/CreateBackup",
];
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
/// How the names of the methods begin that respond with a page of a list.
const LISTS: &str = "/List";
/// The longest time of a handler that [`crate::grpc::GrpcSettings::call_timeout`] does not limit:
/// TestSubscription takes as long as a POST may.
const HANDLER_TIME_MAX: Duration = Duration::from_secs(30);
/// Calls of health and reflection that one address may make in a minute. They are open to everybody, and whoever
/// repeats them without end would take the processor.
const OPEN_CALLS_PER_MINUTE_MAX: u32 = 6_000;

/// Most calls and streams of each kind, over all connections.
#[derive(Clone, Copy, Debug)]
pub(in crate::grpc) struct CallLimits {
    /// Calls that are not of the other kinds.
    pub(in crate::grpc) calls_max: usize,
    /// Those of them that make a page of a list, or whose page its client has not taken; further ones wait for their
    /// turn. Each takes a few times the bytes of a page.
    pub(in crate::grpc) lists_max: usize,
    /// Longest time for the handler of one.
    pub(in crate::grpc) call_timeout: Duration,
    /// Longest time for its message.
    pub(in crate::grpc) message_timeout: Duration,
    /// Health checks. They have a limit of their own, since an overloaded server is not a dead one.
    pub(in crate::grpc) health_checks_max: usize,
    /// Streams of health.
    pub(in crate::grpc) health_watches_max: usize,
    /// Streams of reflection.
    pub(in crate::grpc) reflections_max: usize,
    /// Other streams.
    pub(in crate::grpc) streams_max: usize,
    /// Streams of any kind on one connection.
    pub(in crate::grpc) streams_per_connection_max: usize,
}

/// Limits concurrent calls over all connections together, with a share for each caller.
#[derive(Clone)]
pub(in crate::grpc) struct ConcurrencyLimitLayer {
    gateway: Gateway,
    calls: Limit,
    lists: SharedPool,
    open_calls: Arc<AddressRateLimiter>,
    health_checks: Limit,
    health_watches: Limit,
    reflections: Limit,
    streams: Limit,
    streams_per_connection_max: usize,
    timeout: Duration,
}

/// The limit on one kind of calls.
#[derive(Clone)]
struct Limit {
    name: &'static str,
    places: SharedPool,
    reason: CallRefused,
}

impl Limit {
    fn new(name: &'static str, max: usize, reason: CallRefused) -> Self {
        Self { name, places: SharedPool::of_places(max), reason }
    }
}

impl ConcurrencyLimitLayer {
    pub(in crate::grpc) fn new(gateway: Gateway, limits: CallLimits) -> Self {
        Self {
            gateway,
            calls: Limit::new("grpc_calls_in_flight_max", limits.calls_max, CallRefused::Calls),
            lists: SharedPool::of_places(limits.lists_max),
            open_calls: Arc::new(AddressRateLimiter::new(OPEN_CALLS_PER_MINUTE_MAX, RATED_ADDRESSES_MAX)),
            health_checks: Limit::new(
                "grpc_health_checks_max",
                limits.health_checks_max,
                CallRefused::HealthChecks,
            ),
            health_watches: Limit::new(
                "grpc_health_watches_max",
                limits.health_watches_max,
                CallRefused::HealthWatches,
            ),
            reflections: Limit::new("grpc_reflections_max", limits.reflections_max, CallRefused::Reflections),
            streams: Limit::new("grpc_streams_max", limits.streams_max, CallRefused::Streams),
            streams_per_connection_max: limits.streams_per_connection_max,
            timeout: limits.call_timeout.max(HANDLER_TIME_MAX) + limits.message_timeout,
        }
    }

    /// A place for one call.
    fn acquire(&self, limit: &Limit, share: &CallShare) -> Result<Permit, GrpcError> {
        limit.places.try_acquire(share.key(), 1).map_err(|_| {
            self.gateway.metrics().connections.call_refused(limit.reason);
            GatewayError::overloaded(limit.name, limit.places.max()).into()
        })
    }

    /// Counts a call of health or reflection.
    fn count_open_call(&self, request: &Request<Body>) -> Result<(), GrpcError> {
        let address = request.extensions().get::<Peer>().and_then(|peer| peer.address);
        self.open_calls.record(address.map(|address| address.ip()), Instant::now()).map_err(|limited| {
            self.gateway.metrics().connections.call_refused(CallRefused::OpenCalls);
            let what = "calls of health and reflection from this address";
            GrpcError::rate_limited(what, "open_calls_per_minute_max", limited)
        })
    }

    /// A place for one call of tidings.v1. A call that publishes also needs room in the gateway.
    fn acquire_call(&self, publishes: bool, share: &CallShare) -> Result<Permit, GrpcError> {
        let permit = self.acquire(&self.calls, share);
        let load = if publishes { self.gateway.check_load() } else { Ok(()) };
        load.map_err(GrpcError::from).and(permit).inspect_err(|error| {
            if publishes {
                self.gateway.metrics().publish_refused(error.reason());
            }
        })
    }

    /// A place for one stream, in all and of its connection.
    fn acquire_stream(&self, limit: &Limit, share: &CallShare) -> Result<StreamPermit, GrpcError> {
        let max = self.streams_per_connection_max;
        let stream = share.open_stream(max).ok_or_else(|| {
            self.gateway.metrics().connections.call_refused(CallRefused::ConnectionStreams);
            GatewayError::overloaded("grpc_streams_per_connection_max", max)
        })?;
        Ok(StreamPermit { _place: self.acquire(limit, share)?, _stream: stream })
    }
}

impl<S> Layer<S> for ConcurrencyLimitLayer {
    type Service = ConcurrencyLimit<S>;

    fn layer(&self, inner: S) -> ConcurrencyLimit<S> {
        ConcurrencyLimit { limit: self.clone(), inner }
    }
}

/// A service behind [`ConcurrencyLimitLayer`].
#[derive(Clone)]
pub(in crate::grpc) struct ConcurrencyLimit<S> {
    limit: ConcurrencyLimitLayer,
    inner: S,
}

impl<S: GrpcService> ConcurrencyLimit<S> {
    /// A stream: its place is taken until the response has ended.
    fn stream(&mut self, request: Request<Body>, permit: StreamPermit) -> FilterFuture<S::Future> {
        // Until the response begins, which may wait for a message.
        let (timeout, call) = (self.limit.timeout, self.inner.call(request));
        Either::Right(Box::pin(async move {
            let response = in_time(timeout, call).await?;
            Ok(response.map(|body| Body::new(HeldBody { body, _place: permit })))
        }))
    }

    /// A call: its place is taken until the response begins.
    fn call<P: Send + 'static>(&mut self, request: Request<Body>, permit: P) -> FilterFuture<S::Future> {
        let timeout = self.timeout(&request);
        let call = self.inner.call(request);
        Either::Right(Box::pin(async move {
            let _in_flight = permit;
            in_time(timeout, call).await
        }))
    }

    /// A call that makes a page: it waits for a place among the lists before anything of it is read, and has it until
    /// the client has taken the page.
    fn list<P: Send + 'static>(
        &mut self,
        request: Request<Body>,
        key: ShareKey,
        permit: P,
    ) -> FilterFuture<S::Future> {
        let timeout = self.timeout(&request);
        let (lists, call) = (self.limit.lists.clone(), self.inner.call(request));
        Either::Right(Box::pin(async move {
            let _in_flight = permit;
            in_time(timeout, async move {
                let place = lists.acquire(key, 1).await;
                let response = call.await?;
                Ok(response.map(|body| Body::new(HeldBody { body, _place: place })))
            })
            .await
        }))
    }

    /// The longest time of a call.
    fn timeout(&self, request: &Request<Body>) -> Duration {
        let limit = self.limit.timeout;
        requested_timeout(request.headers()).map_or(limit, |asked| asked.min(limit))
    }
}

/// The response to `call`, or DEADLINE_EXCEEDED after `timeout`.
async fn in_time(
    timeout: Duration,
    call: impl Future<Output = Result<Response<Body>, Infallible>>,
) -> Result<Response<Body>, Infallible> {
    let late = |_| Ok(Status::from(GrpcError::too_slow(timeout)).into_http());
    tokio::time::timeout(timeout, call).await.unwrap_or_else(late)
}

impl<S: GrpcService> Service<Request<Body>> for ConcurrencyLimit<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = FilterFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let limit = &self.limit;
        let (path, share) = (request.uri().path(), request.extensions().get::<CallShare>());
        // Access control, which is in front of this, leaves one in every request.
        let Some(share) = share else { return reject(GrpcError::internal()) };
        let streams = match path {
            HEALTH_CHECK => {
                let permit =
                    limit.count_open_call(&request).and_then(|()| limit.acquire(&limit.health_checks, share));
                return match permit {
                    Ok(permit) => self.call(request, permit),
                    Err(error) => reject_later(error),
                };
            }
            path if STREAM_METHODS.contains(&path) => &limit.streams,
            path if path.starts_with("/tidings.") => {
                let permit = limit.acquire_call(PUBLISH_METHODS.contains(&path), share);
                let permit = permit.map(|permit| (permit, limit.gateway.metrics().grpc_calls.track()));
                return match permit {
                    Ok(permit) if path.contains(LISTS) => {
                        let key = share.key();
                        self.list(request, key, permit)
                    }
                    Ok(permit) => self.call(request, permit),
                    Err(error) => reject(error),
                };
            }
            path => {
                let streams = if path == HEALTH_WATCH { &limit.health_watches } else { &limit.reflections };
                let permit =
                    limit.count_open_call(&request).and_then(|()| limit.acquire_stream(streams, share));
                return match permit {
                    Ok(permit) => self.stream(request, permit),
                    Err(error) => reject_later(error),
                };
            }
        };
        match limit.acquire_stream(streams, share) {
            Ok(permit) => self.stream(request, permit),
            Err(error) => reject(error),
        }
    }
}

/// The place of an open stream.
struct StreamPermit {
    _place: Permit,
    _stream: OpenStream,
}

/// The body of a response, with the place that it takes until it has ended.
struct HeldBody<P> {
    body: Body,
    _place: P,
}

impl<P: Unpin> HttpBody for HeldBody<P> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The client's own timeout: one to eight digits and a unit, as gRPC over HTTP/2 writes it. Any other value
/// is ignored.
fn requested_timeout(headers: &HeaderMap) -> Option<Duration> {
    const DIGITS_MAX: usize = 8;
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if number.len() > DIGITS_MAX || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = number.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn the_streams_of_the_contract_are_limited_as_streams() {
        let methods = crate::grpc::wire::methods::served().iter();
        let streams = methods.filter(|method| method.streams_responses && !method.is_open());
        let streams: std::collections::BTreeSet<_> = streams.map(|method| method.path.as_str()).collect();
        assert_eq!(streams, STREAM_METHODS.into());
    }

    #[test]
    fn the_lists_of_the_contract_are_limited_as_lists() {
        let set = prost_types::FileDescriptorSet::decode(crate::proto::DESCRIPTORS).expect("it was built in");
        let has_pages = |name: &str| {
            let messages = set.file.iter().flat_map(|file| &file.message_type);
            let mut messages = messages.filter(|message| name.ends_with(&format!(".{}", message.name())));
            messages.any(|message| message.field.iter().any(|field| field.name() == "next_page_token"))
        };
        for method in set.file.iter().flat_map(|file| &file.service).flat_map(|service| &service.method) {
            let is_list = format!("/{}", method.name()).contains(LISTS);
            // A replay reads the index, not events.
            assert_eq!(
                is_list,
                has_pages(method.output_type()) && method.name() != "ReplayDeliveries",
                "{method:?}"
            );
        }
    }

    #[test]
    fn the_clients_timeout_is_read_as_grpc_writes_it() {
        let parsed = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().unwrap());
            requested_timeout(&headers)
        };
        for (value, expected) in [
            ("2H", Some(Duration::from_hours(2))),
            ("3M", Some(Duration::from_mins(3))),
            ("4S", Some(Duration::from_secs(4))),
            ("5m", Some(Duration::from_millis(5))),
            ("6u", Some(Duration::from_micros(6))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("+5S", None),
            ("S", None),
            ("5", None),
            ("5s", None),
            ("", None),
        ] {
            assert_eq!(parsed(value), expected, "{value}");
        }
        assert_eq!(requested_timeout(&HeaderMap::new()), None);
    }
}
