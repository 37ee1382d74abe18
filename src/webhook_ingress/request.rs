//! Handles one request: finds its source, checks its signature, and publishes its event.

use std::{net::IpAddr, panic::AssertUnwindSafe, sync::Arc, time::Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::EXPECT, request};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use tokio::{sync::Semaphore, time::timeout};

use super::{
    IngestSettings,
    body::{self, BufferedBody, ByteBudget, ReadError},
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
        webhook_headers::{self, CHATWOOT_DELIVERY},
    },
    event::other,
    gateway::{Gateway, GatewayError, Published},
    limits::{AddressRateLimiter, ShareKey, SharedPool},
    log_throttle::LogThrottle,
    metrics::{IngestOutcome, KeptReason},
};

/// Prefix of every URL's path. The path of the source follows.
const PREFIX: &str = "/chatwoot/";
/// Prefix of Chatwoot's delivery id in the id of an event. Keeps it apart from the ids of other publishers.
pub const EVENT_ID_PREFIX: &str = "chatwoot~";
/// Larger bodies are parsed one at a time, on a thread for blocking work: each may take as long as hundreds
/// of usual ones, and many times its size in memory.
const LARGE_BODY_BYTES: usize = 64 << 10;
/// Most gateways that an event may have come through. A gateway may so feed another one, and a loop of them ends.
const HOPS_MAX: u32 = 1;
/// Longest event name that is logged.
const EVENT_CHARS_MAX: usize = 64;

/// Handles the requests of all connections.
pub(super) struct Ingest {
    gateway: Gateway,
    clock: Arc<dyn Clock>,
    sources: SourcesFile,
    settings: IngestSettings,
    in_flight: SharedPool,
    budget: ByteBudget,
    /// One permit: the turn to parse a large body.
    large_body: Arc<Semaphore>,
    failures: AddressRateLimiter,
    log_throttle: LogThrottle,
    /// Of webhooks that are kept as they came: for each reason the log lines of its own.
    kept_log: [LogThrottle; KeptReason::ALL.len()],
}

/// A webhook whose event is stored.
struct Stored {
    published: Published,
    /// Why it is kept as it came; `None` if its event has a type.
    kept: Option<Kept>,
}

/// Why a webhook is kept as it came.
struct Kept {
    reason: KeptReason,
    violations: FieldViolations,
}

/// Facts about a rejected request, for the log.
#[derive(Default)]
struct RequestFacts {
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
        let budget = ByteBudget::new(settings.bytes_in_flight_max, Arc::clone(gateway.metrics()));
        Self {
            gateway,
            clock,
            sources,
            in_flight: SharedPool::of_places(settings.requests_in_flight_max),
            budget,
            large_body: Arc::new(Semaphore::new(1)),
            failures: AddressRateLimiter::new(
                settings.failures_per_minute_max,
                settings.failure_addresses_max,
            ),
            log_throttle: LogThrottle::new(),
            kept_log: KeptReason::ALL.map(|_| LogThrottle::new()),
            settings,
        }
    }

    /// Responds to a request from this address.
    pub(super) async fn respond(&self, address: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, mut body) = request.into_parts();
        let result = AssertUnwindSafe(self.handle(address, &head, &mut body)).catch_unwind().await;
        let result = result.unwrap_or_else(|_| {
            tracing::error!("the handler of a webhook panicked");
            Err(HttpError::internal())
        });
        let metrics = &self.gateway.metrics().ingest;
        match result {
            Ok(Stored { published, kept }) => {
                let outcome =
                    if published.duplicate { IngestOutcome::Duplicate } else { IngestOutcome::Accepted };
                metrics.responded(outcome);
                response::stored(&published, kept.as_ref().map(|kept| &kept.violations))
            }
            Err(error) => {
                metrics.responded(error.outcome());
                // A client that waits for 100 Continue has not sent its body.
                if !body.is_end_stream() && !head.headers.contains_key(EXPECT) {
                    body::drain(&mut body).await;
                }
                error.into_response()
            }
        }
    }

    async fn handle(
        &self,
        address: IpAddr,
        head: &request::Parts,
        body: &mut Incoming,
    ) -> Result<Stored, HttpError> {
        let path = head.uri.path().strip_prefix(PREFIX);
        let Some(source) = path.and_then(|path| self.sources.current().find(path)) else {
            let message = "not found: POST webhooks to /chatwoot/ and the path of their source";
            let error = HttpError::new(StatusCode::NOT_FOUND, "NOT_FOUND", IngestOutcome::NotFound, message);
            return Err(self.count_failure(address, error));
        };
        let mut facts = RequestFacts::default();
        let result = self.publish_from(&source, address, head, body, &mut facts).await;
        match &result {
            Ok(Stored { published, kept: Some(kept) }) if !published.duplicate => {
                self.note_kept(&source, published, &facts, kept);
            }
            Ok(_) => {}
            Err(error) => self.log_rejection(&source, &facts, error),
        }
        result
    }

    async fn publish_from(
        &self,
        source: &Source,
        address: IpAddr,
        head: &request::Parts,
        body: &mut Incoming,
        facts: &mut RequestFacts,
    ) -> Result<Stored, HttpError> {
        let settings = &self.settings;
        facts.delivery = delivery_id(&head.headers)?;
        if head.method != Method::POST {
            let (status, outcome) = (StatusCode::METHOD_NOT_ALLOWED, IngestOutcome::Malformed);
            return Err(HttpError::new(
                status,
                "METHOD_NOT_ALLOWED",
                outcome,
                "webhooks need the method POST",
            ));
        }
        let hops = webhook_headers::hops(&head.headers);
        if hops > HOPS_MAX {
            let message = format!(
                "the event has come through {hops} gateways, by the header CDN-Loop: at most {HOPS_MAX} may be before \
                 this one. Delete the subscription that sends the events of a gateway back to it"
            );
            let (status, outcome) = (StatusCode::LOOP_DETECTED, IngestOutcome::Looped);
            return Err(HttpError::new(status, "LOOP_DETECTED", outcome, message));
        }
        let key = ShareKey::Account(source.account.get());
        let _permit = self.in_flight.try_acquire(key, 1).map_err(|_| {
            HttpError::overloaded("ingest_requests_in_flight_max", settings.requests_in_flight_max)
        })?;
        let _gauge = self.gateway.metrics().ingest.requests_in_flight.track();
        // Before the body is read.
        self.gateway.check_load()?;
        let buffered = self.budget.body(source.account);
        let body = body::read(body, settings.body_bytes_max, buffered, settings.read_timeout).await;
        let body = body.map_err(|error| self.read_error(error))?;
        if let Some(secret) = &source.signing_secret {
            let (now, tolerance) = (self.clock.now(), settings.signature_tolerance);
            signature::check(secret, &head.headers, &body.bytes, now, tolerance).map_err(|rule| {
                let outcome = IngestOutcome::Unsigned;
                self.count_failure(
                    address,
                    HttpError::new(StatusCode::UNAUTHORIZED, "SIGNATURE_INVALID", outcome, rule),
                )
            })?;
        }
        let body = Arc::new(body);
        let limit = settings.call_timeout;
        let publishing = self.publish(source.account, facts.delivery.clone(), hops, &body);
        let stored = timeout(limit, publishing).await.unwrap_or_else(|_| Err(HttpError::too_slow(limit)));
        if !matches!(stored, Ok(Stored { kept: None, .. })) {
            facts.event = event_name(&body.bytes);
        }
        stored
    }

    async fn publish(
        &self,
        account: AccountId,
        id: Option<EventId>,
        hops: u32,
        body: &Arc<BufferedBody>,
    ) -> Result<Stored, HttpError> {
        let address = EventAddress { account, id };
        let (checked, kept) = if body.bytes.len() <= LARGE_BODY_BYTES {
            self.gateway.check_webhook(address, &body.bytes)?
        } else {
            let turn =
                Arc::clone(&self.large_body).acquire_owned().await.expect("this semaphore is never closed");
            let (gateway, body) = (self.gateway.clone(), Arc::clone(body));
            let checking = tokio::task::spawn_blocking(move || {
                let _turn = turn; // Kept until the check ends, even if the request is gone.
                gateway.check_webhook(address, &body.bytes)
            });
            match checking.await {
                Ok(checked) => checked?,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_ending) => return Err(GatewayError::ShuttingDown.into()),
                },
            }
        };
        let published = self.gateway.publish(vec![checked.after_hops(hops)])?.await?;
        let published = published.into_iter().next().expect("one event was published");
        let kept = kept.map(|violations| Kept { reason: kept_reason(&body.bytes, &violations), violations });
        Ok(Stored { published, kept })
    }

    fn read_error(&self, error: ReadError) -> HttpError {
        let settings = &self.settings;
        match error {
            ReadError::TooLarge => {
                let max = settings.body_bytes_max;
                let message = format!(
                    "the body is too large: {max} bytes are allowed, as body_bytes_max and publish_memory_max say"
                );
                HttpError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "BODY_TOO_LARGE",
                    IngestOutcome::TooLarge,
                    message,
                )
            }
            ReadError::TooSlow => {
                let message = format!("the body did not arrive within {:?}", settings.read_timeout);
                HttpError::new(StatusCode::REQUEST_TIMEOUT, "BODY_TOO_SLOW", IngestOutcome::Unread, message)
            }
            ReadError::Broken => {
                let message = "the body did not arrive completely";
                HttpError::new(StatusCode::BAD_REQUEST, "BODY_BROKEN", IngestOutcome::Unread, message)
            }
            ReadError::BudgetExhausted => {
                HttpError::overloaded("ingest_bytes_in_flight_max", settings.bytes_in_flight_max)
            }
        }
    }

    /// Counts a request whose sender is unknown. Returns the error to respond with: another one past the
    /// address's limit.
    fn count_failure(&self, address: IpAddr, error: HttpError) -> HttpError {
        match self.failures.record(Some(address), Instant::now()) {
            Ok(()) => error,
            Err(limited) => limited.into(),
        }
    }

    /// Counts and logs a webhook that is kept as it came. Nothing is lost: the lines of a reason are throttled.
    fn note_kept(&self, source: &Source, published: &Published, facts: &RequestFacts, kept: &Kept) {
        let reason = kept.reason;
        self.gateway.metrics().ingest.kept(reason);
        if let Some(count) = self.kept_log[reason as usize].record() {
            tracing::warn!(
                source.name = source.name,
                source.account = %source.account,
                event.id = published.id.as_ref().map(EventId::as_str),
                webhook.event = facts.event,
                reason = reason.label(),
                count,
                faults = response::in_one_line(&kept.violations),
                "webhooks are kept as they came: only subscriptions in Chatwoot's form that ask for EVENT_TYPE_OTHER \
                 get them"
            );
        }
    }

    /// Logs a rejected request. Each one is logged if the request itself is at fault, since its sender may
    /// not retry; temporary rejections are throttled.
    fn log_rejection(&self, source: &Source, facts: &RequestFacts, error: &HttpError) {
        let (name, reason) = (&source.name, error.reason());
        if error.is_temporary() {
            if let Some(count) = self.log_throttle.record() {
                tracing::warn!(
                    source.name = name,
                    reason,
                    count,
                    "webhooks are rejected for now: {}",
                    error.message()
                );
            }
            return;
        }
        tracing::warn!(
            source.name = name,
            source.account = %source.account,
            delivery.id = facts.delivery.as_ref().map(|id| &id.as_str()[EVENT_ID_PREFIX.len()..]),
            webhook.event = facts.event,
            status = error.status().as_u16(),
            reason,
            faults = error.violations(),
            "a webhook was rejected: {}", error.message()
        );
    }
}

/// Why a body is kept as it came: of several reasons the one that matters most to receivers.
fn kept_reason(body: &[u8], why: &FieldViolations) -> KeptReason {
    match why.iter().next() {
        _ if other::has_null_character(body) => KeptReason::NullCharacter,
        Some(violation) if violation.field == "event" => KeptReason::UnknownEvent,
        _ => KeptReason::Inexact,
    }
}

/// The id of the event, from Chatwoot's delivery id. Without one the server creates it, so that every request
/// is a new event.
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

/// The event name in a body, if it may be logged.
fn event_name(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        event: String,
    }
    let Named { event } = serde_json::from_slice(body).ok()?;
    let is_word = event.bytes().all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b));
    (is_word && event.len() <= EVENT_CHARS_MAX).then_some(event)
}
