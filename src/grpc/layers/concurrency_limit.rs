//! How many calls are answered at once. One more is refused before its message is read: that costs its frames and a few
//! headers, and leaves the machine to what was taken on.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Request};
use tokio::sync::Semaphore;
use tonic::{Status, body::Body, server::NamedService};
use tonic_health::pb::health_server::HealthServer;

use super::filter::{Behind, Gate, Passing, refused, through, watched};
use crate::{
    gateway::{Gateway, GatewayError},
    grpc::{services::health::HealthService, wire::status::GrpcError},
};

/// The methods that publish in one message. A stream is bounded event by event.
const PUBLISHING: [&str; 2] =
    ["/tidings.v1.EventService/PublishEvent", "/tidings.v1.EventService/BatchPublishEvents"];
/// The longest that a handler takes which [`crate::grpc::GrpcSettings::call_timeout`] does not bound: TestSubscription, as long as a
/// POST may take.
const HANDLER_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a message may take to arrive. Without it, whoever opens calls and sends nothing would take up all places.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds the calls of all connections together, but for those of health checks: overloaded is not dead.
#[derive(Clone)]
pub(crate) struct Bounded {
    gateway: Gateway,
    places: Arc<Semaphore>,
    calls_max: usize,
    timeout: Duration,
}

impl Bounded {
    /// At most `calls_max` calls, each with `call_timeout` for its handler.
    pub(crate) fn new(gateway: Gateway, calls_max: usize, call_timeout: Duration) -> Self {
        let timeout = call_timeout.max(HANDLER_TIME_MAX) + MESSAGE_TIMEOUT;
        Self { gateway, places: Arc::new(Semaphore::new(calls_max)), calls_max, timeout }
    }

    fn refused<F>(&self, publishes: bool, error: GatewayError) -> Passing<F> {
        let refusal = GrpcError::from(error);
        if publishes {
            self.gateway.metrics().publish_refused(refusal.reason());
        }
        refused(refusal)
    }
}

impl Gate for Bounded {
    fn call<S: Behind>(&self, behind: &mut S, request: Request<Body>) -> Passing<S::Future> {
        let path = request.uri().path();
        if is_of_health(path) {
            return through(behind.call(request));
        }
        let publishes = PUBLISHING.contains(&path);
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| GatewayError::overloaded("grpc_calls_in_flight_max", self.calls_max));
        let room = if publishes { self.gateway.check_load() } else { Ok(()) };
        let place = match room.and(place) {
            Ok(place) => place,
            Err(error) => return self.refused(publishes, error),
        };
        let counted = self.gateway.metrics().grpc_calls.track();
        let timeout = asked(request.headers()).map_or(self.timeout, |asked| asked.min(self.timeout));
        let call = behind.call(request);
        watched(async move {
            // Until the answer begins: a stream is a call that is answered for long, and bounded elsewhere.
            let _taken = (place, counted);
            tokio::time::timeout(timeout, call)
                .await
                .unwrap_or_else(|_| Ok(Status::from(GrpcError::too_slow(timeout)).into_http()))
        })
    }
}

fn is_of_health(path: &str) -> bool {
    let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(HealthServer::<HealthService>::NAME));
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// How long the client is going to wait: one to eight digits and a unit, as gRPC over HTTP/2 has it. Something else counts for
/// nothing.
fn asked(headers: &HeaderMap) -> Option<Duration> {
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
    fn the_clients_patience_is_read_as_grpc_writes_it() {
        let asked = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().unwrap());
            asked(&headers)
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
            assert_eq!(asked(value), expected, "{value}");
        }
        assert_eq!(super::asked(&HeaderMap::new()), None);
    }
}
