//! What a request is answered with: a status, a word for programs, a sentence for people, and every field at fault.

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
};
use http_body_util::Full;
use serde_json::json;

use crate::{
    domain::field_violation::FieldViolations,
    gateway::{GatewayError, Published},
    limits::Limited,
    metrics::IngestOutcome,
};

/// Most faults that one answer, or one log line, names.
const FIELD_VIOLATIONS_MAX: usize = 50;
/// Longest path and longest rule of a fault: senders choose a part of them.
const FAULT_TEXT_BYTES_MAX: usize = 240;
/// How long a sender is asked to wait for a gateway that stops or whose disk fails.
const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A request that is refused. Boxed, since every result that may be one has its size.
#[derive(Debug)]
pub(super) struct HttpError(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    reason: &'static str,
    message: String,
    faults: Vec<(String, String)>,
    faults_omitted: usize,
    retry_after: Option<Duration>,
    outcome: IngestOutcome,
}

impl HttpError {
    pub(super) fn new(
        status: StatusCode,
        reason: &'static str,
        outcome: IngestOutcome,
        message: impl Into<String>,
    ) -> Self {
        let (message, faults) = (message.into(), Vec::new());
        Self(Box::new(Parts {
            status,
            reason,
            message,
            faults,
            faults_omitted: 0,
            retry_after: None,
            outcome,
        }))
    }

    fn retry(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// As much is under way as this setting allows.
    pub(super) fn overloaded(name: &'static str, max: usize) -> Self {
        GatewayError::overloaded(name, max).into()
    }

    /// The event did not get to its place on disk in time.
    pub(super) fn too_slow(limit: Duration) -> Self {
        let message = format!("the event was not stored within {limit:?}; it may be stored all the same");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "DEADLINE_EXCEEDED", IngestOutcome::Unavailable, message)
            .retry(UNAVAILABLE_RETRY_AFTER)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(super) fn reason(&self) -> &'static str {
        self.0.reason
    }

    pub(super) fn message(&self) -> &str {
        &self.0.message
    }

    pub(super) fn outcome(&self) -> IngestOutcome {
        self.0.outcome
    }

    /// Whether the sender did nothing wrong, and need only come back.
    pub(super) fn is_for_now(&self) -> bool {
        self.0.retry_after.is_some()
    }

    /// The fields at fault with their rules, in one line; without any value.
    pub(super) fn faults(&self) -> String {
        let told: Vec<_> = self.0.faults.iter().map(|(field, rule)| format!("{field} {rule}")).collect();
        match self.0.faults_omitted {
            0 => told.join("; "),
            more => format!("{}; and {more} more", told.join("; ")),
        }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let Parts { status, reason, message, faults, faults_omitted, retry_after, .. } = *self.0;
        let mut body = json!({ "reason": reason, "message": message });
        if !faults.is_empty() {
            let faults = faults.into_iter().map(|(field, rule)| json!({ "field": field, "rule": rule }));
            body["faults"] = faults.collect();
        }
        if faults_omitted > 0 {
            body["faults_omitted"] = faults_omitted.into();
        }
        let mut response = respond(status, &body);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if let Some(wait) = retry_after {
            // Whole seconds, and never too few.
            let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The answer to what is stored.
pub(super) fn stored(published: &Published) -> Response<Full<Bytes>> {
    let id = published.id.as_ref().map(ToString::to_string).unwrap_or_default();
    let name = format!("accounts/{}/events/{id}", published.account);
    respond(StatusCode::OK, &json!({ "name": name, "duplicate": published.duplicate }))
}

fn respond(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl From<FieldViolations> for HttpError {
    fn from(faults: FieldViolations) -> Self {
        let message = "the body cannot be published as an event of its account: nothing was stored";
        let mut refusal =
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "FIELD_INVALID", IngestOutcome::Invalid, message);
        let told = faults
            .iter()
            .take(FIELD_VIOLATIONS_MAX)
            .map(|fault| (cut(&fault.field), cut(&fault.description)));
        refusal.0.faults = told.collect();
        refusal.0.faults_omitted = faults.iter().len().saturating_sub(FIELD_VIOLATIONS_MAX);
        refusal
    }
}

impl From<GatewayError> for HttpError {
    fn from(error: GatewayError) -> Self {
        const BUSY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
        const DOWN: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        use IngestOutcome::{Conflict, Internal, Overloaded, Unavailable};
        let message = error.to_string();
        match error {
            GatewayError::Invalid(faults) => faults.into(),
            GatewayError::EventExists { .. } => {
                Self::new(StatusCode::CONFLICT, "EVENT_EXISTS", Conflict, message)
            }
            GatewayError::Overloaded { retry_after, .. } => {
                Self::new(BUSY, "OVERLOADED", Overloaded, message).retry(retry_after)
            }
            GatewayError::StoreFull { retry_after, .. } => {
                Self::new(BUSY, "STORE_FULL", Overloaded, message).retry(retry_after)
            }
            GatewayError::BacklogFull { retry_after, .. } => {
                Self::new(BUSY, "BACKLOG_FULL", Overloaded, message).retry(retry_after)
            }
            GatewayError::DiskFull { retry_after } => {
                Self::new(DOWN, "DISK_FULL", Unavailable, message).retry(retry_after)
            }
            GatewayError::ShuttingDown => {
                Self::new(DOWN, "SHUTTING_DOWN", Unavailable, message).retry(UNAVAILABLE_RETRY_AFTER)
            }
            // What failed is in the server's log.
            GatewayError::Storage(_) => {
                let message =
                    "storage failed; the server's log says more. The event may be stored all the same";
                Self::new(DOWN, "STORAGE_FAILED", Unavailable, message).retry(UNAVAILABLE_RETRY_AFTER)
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", Internal, "an internal error"),
        }
    }
}

impl From<Limited> for HttpError {
    fn from(limited: Limited) -> Self {
        let message = format!(
            "too many webhooks with an unknown path or a wrong signature: access_failures_per_minute_max is {}",
            limited.max
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", IngestOutcome::RateLimited, message)
            .retry(limited.wait)
    }
}

/// The beginning of a text, in whole characters.
fn cut(text: &str) -> String {
    if text.len() <= FAULT_TEXT_BYTES_MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(FAULT_TEXT_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::{
        domain::ids::{AccountId, EventName},
        gateway::Limit,
    };

    /// The status, `Retry-After` and the body of an answer.
    async fn answered(refusal: impl Into<HttpError>) -> (u16, Option<String>, serde_json::Value) {
        let response = refusal.into().into_response();
        let wait = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, wait, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn what_the_gateway_refuses_has_its_status_and_its_wait() {
        let limit = Limit { name: "backlog_max", max: 7 };
        let millis = Duration::from_millis;
        let name = EventName { account: AccountId::new(1).unwrap(), id: "e".parse().unwrap() };
        let cases = [
            (GatewayError::overloaded("publish_events_in_flight_max", 7), 429, "OVERLOADED", Some("1")),
            (
                GatewayError::BacklogFull { subscription: None, owed: 7, limit, retry_after: millis(10_001) },
                429,
                "BACKLOG_FULL",
                Some("11"),
            ),
            (GatewayError::StoreFull { limit, retry_after: millis(5000) }, 429, "STORE_FULL", Some("5")),
            (GatewayError::DiskFull { retry_after: millis(5000) }, 503, "DISK_FULL", Some("5")),
            (GatewayError::ShuttingDown, 503, "SHUTTING_DOWN", Some("1")),
            (GatewayError::Storage("hunter2".to_owned()), 503, "STORAGE_FAILED", Some("1")),
            (GatewayError::EventExists { name, index: 0 }, 409, "EVENT_EXISTS", None),
            (GatewayError::RequestIdReused, 500, "INTERNAL", None),
        ];
        for (error, status, reason, wait) in cases {
            let told = answered(error).await;
            assert_eq!((told.0, told.1.as_deref(), &told.2["reason"]), (status, wait, &json!(reason)));
            assert!(!told.2["message"].as_str().unwrap().contains("hunter2"), "{told:?}");
        }
        let limited = Limited { subject: "10.0.0.1".to_owned(), max: 7, wait: Duration::ZERO };
        let (status, wait, body) = answered(limited).await;
        assert_eq!((status, wait.as_deref(), &body["reason"]), (429, Some("1"), &json!("RATE_LIMITED")));
    }

    #[tokio::test]
    async fn faults_are_told_in_part_and_the_rest_is_counted() {
        let mut faults = FieldViolations::default();
        for number in 0..FIELD_VIOLATIONS_MAX + 3 {
            faults.invalid(format!("ä{number}").repeat(1000), "must not be so long");
        }
        let refusal = HttpError::from(faults);
        assert!(refusal.faults().ends_with("; and 3 more"));
        let (status, wait, body) = answered(refusal).await;
        assert_eq!((status, wait, &body["faults_omitted"]), (422, None, &json!(3)));
        let told = body["faults"].as_array().unwrap();
        let longest = told.iter().map(|fault| fault["field"].as_str().unwrap().len()).max().unwrap();
        assert!(
            told.len() == FIELD_VIOLATIONS_MAX && longest <= FAULT_TEXT_BYTES_MAX + "…".len(),
            "{longest}"
        );
    }
}
