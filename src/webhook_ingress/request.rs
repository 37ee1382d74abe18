//! One request: from whom it is, whether it may be believed, and what becomes of its event.

use std::{net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::EXPECT, request};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    IngestSettings,
    body::{self, Arrived, Room, Unread},
    file::SourcesFile,
    response::{self, HttpError},
    signature,
    sources::Source,
};
use crate::{
    clock::Clock,
    domain::{
        event_routing::EventAddress,
        field_violation::FieldViolations,
        ids::{AccountId, EVENT_ID_CHARS_MAX, EventId},
        webhook_headers::CHATWOOT_DELIVERY,
    },
    event::parse,
    gateway::{CheckedEvent, Gateway, GatewayError, Published},
    limits::FailureRateLimiter,
    log_throttle::LogThrottle,
    metrics::IngestOutcome,
};

/// What the path of every URL begins with; a source's own path follows.
const PREFIX: &str = "/chatwoot/";
/// What stands in front of Chatwoot's delivery id in the id of an event, so that it is no publisher's own.
pub const EVENT_ID_PREFIX: &str = "chatwoot~";
/// Larger bodies are taken apart one after another, and not by the threads that answer: each may take as long as hundreds of
/// usual ones, and many times its size in memory.
const LARGE_BODY_BYTES: usize = 64 << 10;
/// Longest word for an event that is logged as it came.
const EVENT_CHARS_MAX: usize = 64;

/// Answers requests, on any connection.
pub(super) struct Ingest {
    gateway: Gateway,
    clock: Arc<dyn Clock>,
    sources: SourcesFile,
    settings: IngestSettings,
    places: Semaphore,
    room: Room,
    /// Whose turn it is to be taken apart, of large bodies.
    large: Arc<Semaphore>,
    failures: FailureRateLimiter,
    told: LogThrottle,
}

/// What is known of a request when it is refused, for the log.
#[derive(Default)]
struct Known {
    delivery: Option<EventId>,
    event: Option<String>,
}

impl Ingest {
    pub(super) fn new(
        gateway: Gateway,
        clock: Arc<dyn Clock>,
        sources: SourcesFile,
        settings: IngestSettings,
    ) -> Self {
        let room = Room::new(settings.bytes_in_flight_max, Arc::clone(gateway.metrics()));
        Self {
            gateway,
            clock,
            sources,
            places: Semaphore::new(settings.requests_in_flight_max.min(Semaphore::MAX_PERMITS)),
            room,
            large: Arc::new(Semaphore::new(1)),
            failures: FailureRateLimiter::new(
                settings.failures_per_minute_max,
                settings.failure_addresses_max,
            ),
            told: LogThrottle::new(),
            settings,
        }
    }

    /// Answers a request from this address, whatever becomes of it.
    pub(super) async fn answer(&self, address: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, mut body) = request.into_parts();
        let answered = AssertUnwindSafe(self.take(address, &head, &mut body)).catch_unwind().await;
        let answered = answered.unwrap_or_else(|_| {
            tracing::error!("a webhook panicked");
            let (status, outcome) = (StatusCode::INTERNAL_SERVER_ERROR, IngestOutcome::Internal);
            Err(HttpError::new(status, "INTERNAL", outcome, "an internal error; the server's log says more"))
        });
        let metrics = &self.gateway.metrics().ingest;
        match answered {
            Ok(published) => {
                let outcome =
                    if published.duplicate { IngestOutcome::Duplicate } else { IngestOutcome::Accepted };
                metrics.responded(outcome);
                response::stored(&published)
            }
            Err(refusal) => {
                metrics.responded(refusal.outcome());
                // Who waits for a sign to go on has sent nothing.
                if !body.is_end_stream() && !head.headers.contains_key(EXPECT) {
                    body::linger(&mut body).await;
                }
                refusal.into_response()
            }
        }
    }

    async fn take(
        &self,
        address: IpAddr,
        head: &request::Parts,
        body: &mut Incoming,
    ) -> Result<Published, HttpError> {
        let path = head.uri.path().strip_prefix(PREFIX);
        let Some(source) = path.and_then(|path| self.sources.current().find(path)) else {
            let message =
                "there is nothing here: webhooks are POSTed to /chatwoot/ and the path of their source";
            let refusal =
                HttpError::new(StatusCode::NOT_FOUND, "NOT_FOUND", IngestOutcome::NotFound, message);
            return Err(self.failed(address, refusal));
        };
        let mut known = Known::default();
        let taken = self.take_from(&source, address, head, body, &mut known).await;
        taken.inspect_err(|refusal| self.tell(&source, &known, refusal))
    }

    async fn take_from(
        &self,
        source: &Source,
        address: IpAddr,
        head: &request::Parts,
        body: &mut Incoming,
        known: &mut Known,
    ) -> Result<Published, HttpError> {
        let settings = &self.settings;
        known.delivery = delivery_id(&head.headers)?;
        if head.method != Method::POST {
            let (status, outcome) = (StatusCode::METHOD_NOT_ALLOWED, IngestOutcome::Malformed);
            return Err(HttpError::new(status, "METHOD_NOT_ALLOWED", outcome, "webhooks are POSTed"));
        }
        let _place = self.places.try_acquire().map_err(|_| {
            HttpError::overloaded("ingest_requests_in_flight_max", settings.requests_in_flight_max)
        })?;
        let _counted = self.gateway.metrics().ingest.requests_in_flight.track();
        // Before anything of the body is read.
        self.gateway.check_load()?;
        let arrived = body::read(body, settings.body_bytes_max, &self.room, settings.read_timeout).await;
        let arrived = arrived.map_err(|unread| self.unread(unread))?;
        if let Some(secret) = &source.signing_secret {
            let (now, tolerance) = (self.clock.now(), settings.signature_tolerance);
            signature::check(secret, &head.headers, &arrived.bytes, now, tolerance).map_err(|rule| {
                let outcome = IngestOutcome::Unsigned;
                self.failed(
                    address,
                    HttpError::new(StatusCode::UNAUTHORIZED, "SIGNATURE_INVALID", outcome, rule),
                )
            })?;
        }
        let arrived = Arc::new(arrived);
        let limit = settings.call_timeout;
        let publishing = self.publish(source.account, known.delivery.clone(), &arrived);
        let published = timeout(limit, publishing).await.unwrap_or_else(|_| Err(HttpError::too_slow(limit)));
        published.inspect_err(|_| known.event = event_of(&arrived.bytes))
    }

    async fn publish(
        &self,
        account: AccountId,
        id: Option<EventId>,
        arrived: &Arc<Arrived>,
    ) -> Result<Published, HttpError> {
        let address = EventAddress { account, id };
        let checked = if arrived.bytes.len() <= LARGE_BODY_BYTES {
            check(&self.gateway, address, &arrived.bytes)?
        } else {
            let turn = Arc::clone(&self.large).acquire_owned().await.expect("this semaphore is never closed");
            let (gateway, arrived) = (self.gateway.clone(), Arc::clone(arrived));
            let checking = tokio::task::spawn_blocking(move || {
                let _turn = turn; // Kept until it is over, even if nobody waits for it any more.
                check(&gateway, address, &arrived.bytes)
            });
            match checking.await {
                Ok(checked) => checked?,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_ending) => return Err(GatewayError::ShuttingDown.into()),
                },
            }
        };
        let published = self.gateway.publish(vec![checked])?.await?;
        Ok(published.into_iter().next().expect("one event was published"))
    }

    fn unread(&self, unread: Unread) -> HttpError {
        let settings = &self.settings;
        match unread {
            Unread::TooLarge => {
                let message =
                    format!("the body is too large: ingest_body_bytes_max is {}", settings.body_bytes_max);
                HttpError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "BODY_TOO_LARGE",
                    IngestOutcome::TooLarge,
                    message,
                )
            }
            Unread::TooSlow => {
                let message = format!("the body did not arrive within {:?}", settings.read_timeout);
                HttpError::new(StatusCode::REQUEST_TIMEOUT, "BODY_TOO_SLOW", IngestOutcome::Unread, message)
            }
            Unread::Broken => {
                let message = "the body did not arrive whole";
                HttpError::new(StatusCode::BAD_REQUEST, "BODY_BROKEN", IngestOutcome::Unread, message)
            }
            Unread::NoRoom => {
                HttpError::overloaded("ingest_bytes_in_flight_max", settings.bytes_in_flight_max)
            }
        }
    }

    /// Counts a request that did not prove from whom it is; past the limit it hears of that instead.
    fn failed(&self, address: IpAddr, refusal: HttpError) -> HttpError {
        match self.failures.note(Some(address), Instant::now()) {
            Ok(()) => refusal,
            Err(limited) => limited.into(),
        }
    }

    /// Logs a refusal: each that is about the request itself, since nobody may send it again; the others from time to time.
    fn tell(&self, source: &Source, known: &Known, refusal: &HttpError) {
        let (name, reason) = (&source.name, refusal.reason());
        if refusal.is_for_now() {
            if let Some(count) = self.told.happens(Instant::now()) {
                tracing::warn!(
                    source.name = name,
                    reason,
                    count,
                    "webhooks are refused for now: {}",
                    refusal.message()
                );
            }
            return;
        }
        tracing::warn!(
            source.name = name,
            source.account = %source.account,
            delivery.id = known.delivery.as_ref().map(|id| &id.as_str()[EVENT_ID_PREFIX.len()..]),
            webhook.event = known.event,
            status = refusal.status().as_u16(),
            reason,
            faults = refusal.faults(),
            "a webhook is refused: {}", refusal.message()
        );
    }
}

/// Makes an event of a body. Pure.
fn check(gateway: &Gateway, address: EventAddress, body: &[u8]) -> Result<CheckedEvent, FieldViolations> {
    let event = parse::read(body, address.account)?;
    gateway.check_event(address, Box::new(event), "event")
}

/// The id of the event: Chatwoot's for the delivery. Without one the server makes it, and every request is an event of its own.
fn delivery_id(headers: &HeaderMap) -> Result<Option<EventId>, HttpError> {
    let Some(value) = headers.get(CHATWOOT_DELIVERY) else { return Ok(None) };
    let id = value.to_str().ok().filter(|text| !text.is_empty());
    let id = id.and_then(|text| format!("{EVENT_ID_PREFIX}{text}").parse().ok());
    id.map(Some).ok_or_else(|| {
        let max = EVENT_ID_CHARS_MAX - EVENT_ID_PREFIX.len();
        let message = format!("X-Chatwoot-Delivery must be 1 to {max} characters of A-Z a-z 0-9 . _ ~ -");
        HttpError::new(StatusCode::BAD_REQUEST, "DELIVERY_INVALID", IngestOutcome::Malformed, message)
    })
}

/// The event that a body says it is of, as far as it may be logged.
fn event_of(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        event: String,
    }
    let Named { event } = serde_json::from_slice(body).ok()?;
    let is_word = event.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b));
    (is_word && event.len() <= EVENT_CHARS_MAX).then_some(event)
}
