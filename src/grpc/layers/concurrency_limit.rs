//! Limits concurrent calls. A call past the limit is rejected before its message is read, which costs a few
//! headers and leaves the machine to the calls in flight.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::Either;
use http::{HeaderMap, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::filter::{FilterFuture, GrpcService, reject};
use crate::{
    gateway::{Gateway, GatewayError},
    grpc::wire::status::GrpcError,
};

/// The methods that publish in one message. A stream is limited event by event.
const PUBLISH_METHODS: [&str; 2] =
    ["/tidings.v1.EventService/PublishEvent", "/tidings.v1.EventService/BatchPublishEvents"];
/// The longest time of a handler that [`crate::grpc::GrpcSettings::call_timeout`] does not limit:
/// TestSubscription takes as long as a POST may.
const HANDLER_TIME_MAX: Duration = Duration::from_secs(30);
/// The longest time that a message may take to arrive. Without it, clients that open calls and send nothing
/// would use up all permits.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Limits concurrent calls over all connections together. Health checks are exempt: an overloaded server is
/// not a dead one.
#[derive(Clone)]
pub(in crate::grpc) struct ConcurrencyLimitLayer {
    gateway: Gateway,
    permits: Arc<Semaphore>,
    calls_max: usize,
    timeout: Duration,
}

impl ConcurrencyLimitLayer {
    /// At most `calls_max` calls, each with `call_timeout` for its handler.
    pub(in crate::grpc) fn new(gateway: Gateway, calls_max: usize, call_timeout: Duration) -> Self {
        let timeout = call_timeout.max(HANDLER_TIME_MAX) + MESSAGE_TIMEOUT;
        Self { gateway, permits: Arc::new(Semaphore::new(calls_max)), calls_max, timeout }
    }

    /// A permit for one call. A call that publishes also needs room in the gateway.
    fn acquire(&self, publishes: bool) -> Result<OwnedSemaphorePermit, GrpcError> {
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        let permit = permit.map_err(|_| GatewayError::overloaded("grpc_calls_in_flight_max", self.calls_max));
        let load = if publishes { self.gateway.check_load() } else { Ok(()) };
        load.and(permit).map_err(|error| {
            let error = GrpcError::from(error);
            if publishes {
                self.gateway.metrics().publish_refused(error.reason());
            }
            error
        })
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

impl<S: GrpcService> Service<Request<Body>> for ConcurrencyLimit<S> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = FilterFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let limit = &self.limit;
        let path = request.uri().path();
        if is_health_check(path) {
            return Either::Left(self.inner.call(request));
        }
        let permit = match limit.acquire(PUBLISH_METHODS.contains(&path)) {
            Ok(permit) => permit,
            Err(error) => return reject(error),
        };
        let gauge = limit.gateway.metrics().grpc_calls.track();
        let timeout =
            requested_timeout(request.headers()).map_or(limit.timeout, |asked| asked.min(limit.timeout));
        let call = self.inner.call(request);
        Either::Right(Box::pin(async move {
            // Kept until the response begins. A streaming response runs for long, and has limits of its own.
            let _in_flight = (permit, gauge);
            tokio::time::timeout(timeout, call)
                .await
                .unwrap_or_else(|_| Ok(Status::from(GrpcError::too_slow(timeout)).into_http()))
        }))
    }
}

fn is_health_check(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.Health/")
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
    use super::*;

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
