//! Responses: a status, a word for programs, a sentence for people, and every field violation.

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
    gateway::{ErrorKind, GatewayError, Published, UNAVAILABLE_RETRY_AFTER, reasons::is_listed},
    limits::Limited,
    metrics::IngestOutcome,
};

/// Most violations that one response, or one log line, lists.
const FIELD_VIOLATIONS_MAX: usize = 50;
/// Longest path, and longest rule, of a violation. Senders choose parts of them.
const VIOLATION_TEXT_BYTES_MAX: usize = 240;

/// The error of a request. Boxed, to keep results small.
#[derive(Debug)]
pub(super) struct HttpError(Box<Parts>);

#[derive(Debug)]
struct Parts {
    status: StatusCode,
    reason: &'static str,
    message: String,
    violations: Vec<(String, String)>,
    violations_omitted: usize,
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
        debug_assert!(is_listed(reason), "{reason} is not in the list of reasons");
        let (message, violations) = (message.into(), Vec::new());
        Self(Box::new(Parts {
            status,
            reason,
            message,
            violations,
            violations_omitted: 0,
            retry_after: None,
            outcome,
        }))
    }

    fn retry(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// A bug of the gateway.
    pub(super) fn internal() -> Self {
        let message = "an internal error; the server's log says more";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", IngestOutcome::Internal, message)
    }

    /// The limit that this setting sets is reached.
    pub(super) fn overloaded(name: &'static str, max: usize) -> Self {
        GatewayError::overloaded(name, max).into()
    }

    /// The event was not stored in time.
    pub(super) fn too_slow(limit: Duration) -> Self {
        let message = format!("the event was not stored within {limit:?}; it may still be stored");
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

    /// Whether the sender did nothing wrong, and may retry.
    pub(super) fn is_temporary(&self) -> bool {
        self.0.retry_after.is_some()
    }

    /// The field violations in one line, without any value of a field.
    pub(super) fn violations(&self) -> String {
        one_line(&self.0.violations, self.0.violations_omitted)
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let Parts { status, reason, message, violations, violations_omitted, retry_after, .. } = *self.0;
        let mut body = json!({ "reason": reason, "message": message });
        put_violations(&mut body, violations, violations_omitted);
        let mut response = respond(status, &body);
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if let Some(wait) = retry_after {
            // In whole seconds, rounded up.
            let seconds = (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1);
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// The response for a stored event. `kept` is why it is kept as it came, if it is.
pub(super) fn stored(published: &Published, kept: Option<&FieldViolations>) -> Response<Full<Bytes>> {
    let id = published.id.as_ref().map(ToString::to_string).unwrap_or_default();
    let name = format!("accounts/{}/events/{id}", published.account);
    let mut body = json!({ "name": name, "duplicate": published.duplicate });
    if let Some(why) = kept {
        body["event_type"] = "EVENT_TYPE_OTHER".into();
        let (violations, omitted) = listed(why);
        put_violations(&mut body, violations, omitted);
    }
    respond(StatusCode::OK, &body)
}

/// Field violations in one line, without any value of a field.
pub(super) fn in_one_line(violations: &FieldViolations) -> String {
    let (listed, omitted) = listed(violations);
    one_line(&listed, omitted)
}

fn one_line(violations: &[(String, String)], omitted: usize) -> String {
    let listed: Vec<_> = violations.iter().map(|(field, rule)| format!("{field} {rule}")).collect();
    match omitted {
        0 => listed.join("; "),
        more => format!("{}; and {more} more", listed.join("; ")),
    }
}

/// The first violations, and how many more there are.
fn listed(violations: &FieldViolations) -> (Vec<(String, String)>, usize) {
    let listed = violations
        .iter()
        .take(FIELD_VIOLATIONS_MAX)
        .map(|violation| (cut(&violation.field), cut(&violation.description)));
    (listed.collect(), violations.iter().len().saturating_sub(FIELD_VIOLATIONS_MAX))
}

fn put_violations(body: &mut serde_json::Value, violations: Vec<(String, String)>, omitted: usize) {
    if !violations.is_empty() {
        let violations = violations.into_iter().map(|(field, rule)| json!({ "field": field, "rule": rule }));
        body["faults"] = violations.collect();
    }
    if omitted > 0 {
        body["faults_omitted"] = omitted.into();
    }
}

fn respond(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

impl From<FieldViolations> for HttpError {
    fn from(violations: FieldViolations) -> Self {
        let message = "the body cannot be published as an event of its account: nothing was stored";
        let mut error =
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "FIELD_INVALID", IngestOutcome::Invalid, message);
        (error.0.violations, error.0.violations_omitted) = listed(&violations);
        error
    }
}

impl From<GatewayError> for HttpError {
    fn from(error: GatewayError) -> Self {
        let report = error.report();
        if let GatewayError::Invalid(violations) = error {
            return violations.into();
        }
        let (status, outcome) = match report.kind {
            ErrorKind::EventConflict => (StatusCode::CONFLICT, IngestOutcome::Conflict),
            ErrorKind::Overloaded => (StatusCode::TOO_MANY_REQUESTS, IngestOutcome::Overloaded),
            ErrorKind::DiskFull | ErrorKind::Unavailable => {
                (StatusCode::SERVICE_UNAVAILABLE, IngestOutcome::Unavailable)
            }
            ErrorKind::DataLoss => (StatusCode::INTERNAL_SERVER_ERROR, IngestOutcome::Internal),
            // Publishing has no other errors.
            _ => return Self::internal(),
        };
        let mut error = Self::new(status, report.reason, outcome, report.message);
        error.0.retry_after = report.retry_after;
        error
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

/// The beginning of a text, cut between characters.
fn cut(text: &str) -> String {
    if text.len() <= VIOLATION_TEXT_BYTES_MAX {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(VIOLATION_TEXT_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::{
        domain::ids::{AccountId, EventName},
        gateway::{Debtor, Limit},
    };

    /// The status, `Retry-After` and the body of a response.
    async fn response_to(error: impl Into<HttpError>) -> (u16, Option<String>, serde_json::Value) {
        let response = error.into().into_response();
        let wait = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, wait, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn each_gateway_error_has_its_status_and_its_wait() {
        let limit = Limit { name: "backlog_max", max: 7 };
        let millis = Duration::from_millis;
        let account = AccountId::new(1).unwrap();
        let name = EventName { account, id: "e".parse().unwrap() };
        let cases = [
            (GatewayError::overloaded("publish_events_in_flight_max", 7), 429, "OVERLOADED", Some("1")),
            (
                GatewayError::BacklogFull {
                    debtor: Debtor::Account { account, share: 7 },
                    owed: 7,
                    limit,
                    retry_after: millis(10_001),
                },
                429,
                "BACKLOG_FULL",
                Some("11"),
            ),
            (
                GatewayError::StoreFull {
                    account,
                    owed_bytes: 7,
                    share: 7,
                    limit,
                    retry_after: millis(5000),
                },
                429,
                "STORE_FULL",
                Some("5"),
            ),
            (GatewayError::DiskFull { retry_after: millis(5000) }, 503, "DISK_FULL", Some("5")),
            (GatewayError::ShuttingDown, 503, "SHUTTING_DOWN", Some("1")),
            (GatewayError::Storage("hunter2".to_owned()), 503, "STORAGE_FAILED", Some("1")),
            (GatewayError::EventExists { name, index: 0 }, 409, "EVENT_EXISTS", None),
            (GatewayError::RequestIdReused, 500, "INTERNAL", None),
        ];
        for (error, status, reason, wait) in cases {
            let response = response_to(error).await;
            assert_eq!(
                (response.0, response.1.as_deref(), &response.2["reason"]),
                (status, wait, &json!(reason))
            );
            assert!(!response.2["message"].as_str().unwrap().contains("hunter2"), "{response:?}");
        }
        let limited = Limited { subject: "10.0.0.1".to_owned(), max: 7, wait: Duration::ZERO };
        let (status, wait, body) = response_to(limited).await;
        assert_eq!((status, wait.as_deref(), &body["reason"]), (429, Some("1"), &json!("RATE_LIMITED")));
    }

    #[tokio::test]
    async fn violations_past_the_limit_are_counted() {
        let mut violations = FieldViolations::default();
        for number in 0..FIELD_VIOLATIONS_MAX + 3 {
            violations.invalid(format!("ä{number}").repeat(1000), "must not be so long");
        }
        let error = HttpError::from(violations);
        assert!(error.violations().ends_with("; and 3 more"));
        let (status, wait, body) = response_to(error).await;
        assert_eq!((status, wait, &body["faults_omitted"]), (422, None, &json!(3)));
        let listed = body["faults"].as_array().unwrap();
        let longest =
            listed.iter().map(|violation| violation["field"].as_str().unwrap().len()).max().unwrap();
        assert!(
            listed.len() == FIELD_VIOLATIONS_MAX && longest <= VIOLATION_TEXT_BYTES_MAX + "…".len(),
            "{longest}"
        );
    }
}
