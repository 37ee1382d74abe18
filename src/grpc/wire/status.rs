//! The one place where a refusal becomes a `google.rpc.Status`: code, stable reason, details, all within what fits into
//! the headers that carry them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    domain::field_violation::{FieldViolation, FieldViolations, ViolationKind},
    gateway::{GatewayError, Limit, Resource},
    limits::Limited,
    log_throttle::LogThrottle,
    proto::v1,
};

/// The domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "tidings";
/// Most field violations of one status. What is beyond is counted in the message and in the ErrorInfo's metadata.
pub const VIOLATIONS_MAX: usize = 20;
/// Longest message.
pub const MESSAGE_BYTES_MAX: usize = 640;
/// Largest encoded `google.rpc.Status`, message included. It travels in a header, base64, and common clients break the
/// call at 8 KiB of headers.
pub const DETAILS_BYTES_MAX: usize = 3 * 1024;

/// Most bytes of all field violations together, so that the rest fits as well.
const VIOLATIONS_BYTES_MAX: usize = 1600;
/// Longest path and longest description of one violation. Callers choose a part of them.
const VIOLATION_TEXT_BYTES_MAX: usize = 240;
/// How long a caller is asked to wait for a server that stops or whose disk fails.
const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Calls that failed since storage did. Once it has failed, that is every call.
static STORAGE_FAILURES: LogThrottle = LogThrottle::new();

/// The subject of a quota that all accounts use up together.
const EVERYBODY: &str = "accounts/-";

/// A call, or one event of a stream, that is refused. Boxed, since every result that may be one has its size.
#[derive(Debug)]
pub(crate) struct GrpcError(Box<Parts>);

#[derive(Debug)]
struct Parts {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: HashMap<String, String>,
    violations: Vec<(String, String)>,
    about: About,
}

/// What a refusal is about, beyond fields.
#[derive(Debug)]
enum About {
    Nothing,
    Resource { kind: &'static str, name: String },
    Precondition { subject: String },
    Quota { subject: String, wait: Option<Duration> },
    Wait(Duration),
}

impl GrpcError {
    pub(crate) fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        let (metadata, violations) = (HashMap::new(), Vec::new());
        let message = message.into();
        Self(Box::new(Parts { code, reason, message, metadata, violations, about: About::Nothing }))
    }

    fn about(mut self, about: About) -> Self {
        self.0.about = about;
        self
    }

    pub(crate) fn with_metadata(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.into(), value.into());
        self
    }

    fn with_violation(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.0.violations.push((field.into(), description.into()));
        self
    }

    /// A bound of the gateway is reached; `subject` uses it up.
    pub(crate) fn exhausted(
        reason: &'static str,
        message: String,
        subject: String,
        limit: Option<Limit>,
        retry_after: Duration,
    ) -> Self {
        let refusal = Self::new(Code::ResourceExhausted, reason, message)
            .about(About::Quota { subject, wait: Some(retry_after) });
        match limit {
            Some(Limit { name, max }) => {
                refusal.with_metadata("limit", name).with_metadata("max", max.to_string())
            }
            None => refusal,
        }
    }

    /// The same refusal of a batch: names the request that is at fault.
    pub(crate) fn of_request(mut self, index: usize) -> Self {
        for (field, _) in &mut self.0.violations {
            *field = format!("requests[{index}].{field}");
        }
        self.with_metadata("request_index", index.to_string())
    }

    /// A page token that is not one, or is one of another list.
    pub(crate) fn page_token() -> Self {
        let rule = "is not a next_page_token of a call with the same parameters";
        Self::new(Code::InvalidArgument, "PAGE_TOKEN_INVALID", format!("page_token {rule}"))
            .with_violation("page_token", rule)
    }

    /// A method that is not in the contract.
    pub(crate) fn unknown_method(message: String) -> Self {
        Self::new(Code::Unimplemented, "METHOD_UNKNOWN", message)
    }

    /// The server stops.
    pub(crate) fn shutting_down() -> Self {
        GatewayError::ShuttingDown.into()
    }

    /// The call took longer than the server lets it.
    pub(crate) fn too_slow(limit: Duration) -> Self {
        let message = format!("the call was not done within {limit:?}; a write may still take effect");
        Self::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message)
    }

    /// A bug of ours.
    pub(crate) fn internal() -> Self {
        Self::new(Code::Internal, "INTERNAL", "an internal error; the server's log says more")
    }

    /// The kind of it.
    pub(crate) fn code(&self) -> Code {
        self.0.code
    }

    /// The stable word for why.
    pub(crate) fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// As the answer to one event of a stream.
    pub(crate) fn into_publish_error(self) -> v1::PublishError {
        let Parts { code, reason, message, violations, .. } = *self.0;
        let (violations, _omitted) = within_bounds(&violations);
        let field_violations =
            violations.into_iter().map(|(field, description)| v1::FieldViolation { field, description });
        v1::PublishError {
            code: code.into(),
            reason: reason.into(),
            message: cut(&message, MESSAGE_BYTES_MAX),
            field_violations: field_violations.collect(),
        }
    }
}

impl From<GrpcError> for Status {
    fn from(refusal: GrpcError) -> Self {
        let Parts { code, reason, message, mut metadata, violations, about } = *refusal.0;
        let mut details = ErrorDetails::new();
        if !violations.is_empty() {
            let (violations, omitted) = within_bounds(&violations);
            for (field, description) in violations {
                details.add_bad_request_violation(field, description);
            }
            if omitted > 0 {
                metadata.insert("violations_omitted".into(), omitted.to_string());
            }
        }
        let message = cut(&message, MESSAGE_BYTES_MAX);
        match about {
            About::Nothing => {}
            About::Resource { kind, name } => {
                details.set_resource_info(kind, name, "", "");
            }
            About::Precondition { subject } => {
                details.add_precondition_failure_violation(reason, subject, message.as_str());
            }
            About::Quota { subject, wait } => {
                details.add_quota_failure_violation(subject, message.as_str());
                if wait.is_some() {
                    details.set_retry_info(wait);
                }
            }
            About::Wait(wait) => {
                details.set_retry_info(Some(wait));
            }
        }
        details.set_error_info(reason, DOMAIN, metadata);
        Status::with_error_details(code, message, details)
    }
}

impl From<GatewayError> for Status {
    fn from(error: GatewayError) -> Self {
        GrpcError::from(error).into()
    }
}

impl From<GatewayError> for GrpcError {
    fn from(error: GatewayError) -> Self {
        const SUBSCRIPTION: &str = "tidings.v1.Subscription";
        const EVENT: &str = "tidings.v1.Event";
        const DELIVERY: &str = "tidings.v1.Delivery";
        const ACCESS_TOKEN: &str = "tidings.v1.AccessToken";

        let message = error.to_string();
        match error {
            GatewayError::Invalid(faults) => faults.into(),
            GatewayError::NotFound(resource) => {
                let (reason, kind) = match resource {
                    Resource::Subscription(_) => ("SUBSCRIPTION_NOT_FOUND", SUBSCRIPTION),
                    Resource::Event(_) => ("EVENT_NOT_FOUND", EVENT),
                    Resource::Delivery(_) => ("DELIVERY_NOT_FOUND", DELIVERY),
                    Resource::AccessToken(_) => ("ACCESS_TOKEN_NOT_FOUND", ACCESS_TOKEN),
                };
                let name = resource.to_string();
                Self::new(Code::NotFound, reason, message).about(About::Resource { kind, name })
            }
            GatewayError::NameTaken(name) => Self::new(Code::AlreadyExists, "SUBSCRIPTION_EXISTS", message)
                .with_violation("subscription_id", "is that of another subscription")
                .about(About::Resource { kind: SUBSCRIPTION, name: name.to_string() }),
            GatewayError::UrlTaken(name) => Self::new(Code::AlreadyExists, "SUBSCRIPTION_EXISTS", message)
                .with_violation("subscription.url", "is that of another subscription of the account")
                .about(About::Resource { kind: SUBSCRIPTION, name: name.to_string() }),
            GatewayError::RequestIdReused => Self::new(Code::AlreadyExists, "REQUEST_ID_REUSED", message)
                .with_violation("request_id", "was used before for another request"),
            GatewayError::EventExists { name, .. } => Self::new(Code::AlreadyExists, "EVENT_EXISTS", message)
                .with_violation("event_id", "is that of another event")
                .about(About::Resource { kind: EVENT, name: name.to_string() }),
            GatewayError::EtagMismatch(_) => Self::new(Code::Aborted, "ETAG_MISMATCH", message),
            GatewayError::OwedDeliveries { subscription, count } => {
                Self::new(Code::FailedPrecondition, "UNDELIVERED_EVENTS", message)
                    .with_metadata("count", count.to_string())
                    .about(About::Precondition { subject: subscription.to_string() })
            }
            GatewayError::TooManySecrets { subscription, max } => {
                Self::new(Code::FailedPrecondition, "ROTATIONS_OVERLAP", message)
                    .with_metadata("max", max.to_string())
                    .about(About::Precondition { subject: subscription.to_string() })
            }
            GatewayError::DeliveryOver { name, .. } => {
                Self::new(Code::FailedPrecondition, "DELIVERY_OVER", message)
                    .about(About::Precondition { subject: name.to_string() })
            }
            GatewayError::TooManySubscriptions { account, max } => {
                Self::new(Code::ResourceExhausted, "SUBSCRIPTION_LIMIT", message)
                    .with_metadata("limit", "subscriptions_per_account_max")
                    .with_metadata("max", max.to_string())
                    .about(About::Quota { subject: format!("accounts/{account}"), wait: None })
            }
            GatewayError::TooManyTokens(limit) => Self::new(Code::ResourceExhausted, "TOKEN_LIMIT", message)
                .with_metadata("limit", limit.name)
                .with_metadata("max", limit.max.to_string())
                .about(About::Quota { subject: EVERYBODY.to_owned(), wait: None }),
            GatewayError::FirstTokenNotAdmin => {
                Self::new(Code::FailedPrecondition, "FIRST_TOKEN_NOT_ADMIN", message)
                    .with_violation("access_token.scopes", "must have SCOPE_ADMIN in the first token")
                    .about(About::Precondition { subject: "accessTokens".to_owned() })
            }
            GatewayError::Overloaded { limit, retry_after } => {
                Self::exhausted("OVERLOADED", message, EVERYBODY.to_owned(), limit, retry_after)
            }
            GatewayError::StoreFull { limit, retry_after } => {
                Self::exhausted("STORE_FULL", message, EVERYBODY.to_owned(), Some(limit), retry_after)
            }
            GatewayError::BacklogFull { subscription, owed, limit, retry_after } => {
                let subject = subscription.map_or_else(|| EVERYBODY.to_owned(), |name| name.to_string());
                Self::exhausted("BACKLOG_FULL", message, subject, Some(limit), retry_after)
                    .with_metadata("owed", owed.to_string())
            }
            GatewayError::DiskFull { retry_after } => {
                Self::new(Code::ResourceExhausted, "DISK_FULL", message).about(About::Wait(retry_after))
            }
            GatewayError::ShuttingDown => Self::new(Code::Unavailable, "SHUTTING_DOWN", message)
                .about(About::Wait(UNAVAILABLE_RETRY_AFTER)),
            GatewayError::Storage(why) => {
                if let Some(calls) = STORAGE_FAILURES.happens(Instant::now()) {
                    tracing::error!(error = %why, calls, "calls fail since storage failed");
                }
                let message = "storage failed; the server's log says more. A write may have taken effect";
                Self::new(Code::Unavailable, "STORAGE_FAILED", message)
                    .about(About::Wait(UNAVAILABLE_RETRY_AFTER))
            }
        }
    }
}

impl From<Limited> for GrpcError {
    fn from(limited: Limited) -> Self {
        let Limited { subject, max, wait } = limited;
        let limit = Limit { name: "access_failures_per_minute_max", max: max.into() };
        let message = format!("too many calls without an access token that counts: {} is {max}", limit.name);
        Self::exhausted("RATE_LIMITED", message, subject, Some(limit), wait)
    }
}

impl From<FieldViolations> for GrpcError {
    fn from(faults: FieldViolations) -> Self {
        if let Some(denied) = faults.iter().find(|fault| fault.kind == ViolationKind::AccountDenied) {
            // Of anything else that is wrong nobody speaks: it could tell of what is there.
            let message = cut(&format!("{} {}", denied.field, denied.description), VIOLATION_TEXT_BYTES_MAX);
            return Self::new(Code::PermissionDenied, "ACCOUNT_DENIED", message);
        }
        let all = |kind| faults.iter().all(|fault| fault.kind == kind);
        let reason = if all(ViolationKind::Required) {
            "FIELD_REQUIRED"
        } else if all(ViolationKind::AccountMismatch) {
            "ACCOUNT_MISMATCH"
        } else {
            "FIELD_INVALID"
        };
        let text = |fault: &FieldViolation| {
            (cut(&fault.field, VIOLATION_TEXT_BYTES_MAX), cut(&fault.description, VIOLATION_TEXT_BYTES_MAX))
        };
        let violations: Vec<_> = faults.iter().map(text).collect();
        let mut refusal = Self::new(Code::InvalidArgument, reason, summary(&violations));
        refusal.0.violations = violations;
        refusal
    }
}

/// The first faults in words, and how many more there are.
fn summary(violations: &[(String, String)]) -> String {
    const NAMED_MAX: usize = 3;
    let named: Vec<_> =
        violations.iter().take(NAMED_MAX).map(|(field, rule)| cut(&format!("{field} {rule}"), 180)).collect();
    let more = violations.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    named.join("; ") + &more
}

/// The first violations that fit, and the count of those that do not.
fn within_bounds(violations: &[(String, String)]) -> (Vec<(String, String)>, usize) {
    let mut bytes = 0;
    let fitting = violations.iter().take(VIOLATIONS_MAX).take_while(|(field, rule)| {
        bytes += field.len() + rule.len();
        bytes <= VIOLATIONS_BYTES_MAX
    });
    let fitting: Vec<_> = fitting.cloned().collect();
    let omitted = violations.len() - fitting.len();
    (fitting, omitted)
}

/// `text`, or its start and an ellipsis within `bytes_max`.
fn cut(text: &str, bytes_max: usize) -> String {
    const ELLIPSIS: &str = "...";
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    format!("{}{ELLIPSIS}", &text[..text.floor_char_boundary(bytes_max - ELLIPSIS.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(faults: impl IntoIterator<Item = (ViolationKind, String)>) -> Status {
        let mut all = FieldViolations::default();
        for (kind, field) in faults {
            all.push(kind, field, "breaks a rule that takes some words to tell");
        }
        GrpcError::from(all).into()
    }

    #[test]
    fn the_reason_names_a_kind_only_where_all_faults_are_of_it() {
        use ViolationKind::{AccountMismatch, Invalid, Required};
        for (kinds, reason) in [
            (vec![Required, Required], "FIELD_REQUIRED"),
            (vec![AccountMismatch], "ACCOUNT_MISMATCH"),
            (vec![Invalid], "FIELD_INVALID"),
            (vec![Required, AccountMismatch], "FIELD_INVALID"),
        ] {
            let status = status(kinds.into_iter().map(|kind| (kind, "f".into())));
            let details = status.get_error_details();
            assert_eq!(details.error_info().unwrap().reason, reason);
        }
    }

    #[test]
    fn however_many_and_long_the_faults_a_status_stays_within_its_bound() {
        for (count, length) in [(1, 9000), (100, 10), (1000, 300), (20, 1)] {
            let status =
                status((0..count).map(|i| (ViolationKind::Invalid, format!("{i}{}", "ä".repeat(length)))));
            assert!(status.details().len() <= DETAILS_BYTES_MAX, "{} bytes", status.details().len());
            assert!(status.message().len() <= MESSAGE_BYTES_MAX, "{} bytes", status.message().len());
            let details = status.get_error_details();
            let shown = details.bad_request().unwrap().field_violations.len();
            let omitted = details.error_info().unwrap().metadata.get("violations_omitted");
            assert_eq!(shown + omitted.map_or(0, |count| count.parse().unwrap()), count);
        }
    }

    #[test]
    fn a_cut_text_stays_text() {
        assert_eq!(cut("ääää", 8), "ääää");
        assert_eq!(cut("ääää", 7), "ää...");
    }
}
