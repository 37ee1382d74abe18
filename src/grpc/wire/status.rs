//! Errors as `google.rpc.Status`: code, stable reason and details, within the size of the headers that carry
//! them.

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    domain::field_violation::{FieldViolation, FieldViolations, ViolationKind},
    gateway::{ErrorKind, ErrorReport, GatewayError, reasons::is_listed},
    limits::Limited,
    log_throttle::LogThrottle,
    proto::{self, codec::Unreadable, v1},
};

/// The domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = proto::ERROR_DOMAIN;
/// The reason of an error about an address that did something too often.
pub(in crate::grpc) const RATE_LIMITED: &str = "RATE_LIMITED";
/// Most field violations of one status. The message and the ErrorInfo's metadata count the others.
pub const VIOLATIONS_MAX: usize = 20;
/// Longest message.
pub const MESSAGE_BYTES_MAX: usize = 640;
/// Largest encoded `google.rpc.Status`, message included. It travels in a header, base64, and common clients
/// break the call at 8 KiB of headers.
pub const DETAILS_BYTES_MAX: usize = 3 * 1024;

/// Most bytes of all field violations together. Leaves room for the rest of the status.
const VIOLATIONS_BYTES_MAX: usize = 1600;
/// Longest path, and longest description, of one violation. Callers choose parts of them.
const VIOLATION_TEXT_BYTES_MAX: usize = 240;

/// Throttles the log of failed calls. Once storage has failed, every call does.
static STORAGE_FAILURES: LogThrottle = LogThrottle::new();

/// The error of a call, or of one event of a stream. Boxed, to keep results small.
#[derive(Debug)]
pub(in crate::grpc) struct GrpcError(Box<Parts>);

#[derive(Debug)]
struct Parts {
    code: Code,
    reason: &'static str,
    message: String,
    metadata: HashMap<String, String>,
    violations: Vec<(String, String)>,
    about: About,
}

/// The details of an error, beyond field violations.
#[derive(Debug)]
enum About {
    Nothing,
    Resource { kind: &'static str, name: String },
    Precondition { subject: String },
    Quota { subject: String, wait: Option<Duration> },
    Wait(Duration),
}

impl GrpcError {
    pub(in crate::grpc) fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(is_listed(reason), "{reason} is not in the list of reasons");
        let (metadata, violations) = (HashMap::new(), Vec::new());
        let message = message.into();
        Self(Box::new(Parts { code, reason, message, metadata, violations, about: About::Nothing }))
    }

    fn about(mut self, about: About) -> Self {
        self.0.about = about;
        self
    }

    pub(in crate::grpc) fn with_metadata(mut self, key: &str, value: impl Into<String>) -> Self {
        self.0.metadata.insert(key.into(), value.into());
        self
    }

    fn with_violation(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.0.violations.push((field.into(), description.into()));
        self
    }

    /// The error of one request of a batch, as the error of the whole batch.
    pub(in crate::grpc) fn of_request(mut self, index: usize) -> Self {
        for (field, _) in &mut self.0.violations {
            *field = format!("requests[{index}].{field}");
        }
        self.with_metadata("request_index", index.to_string())
    }

    /// The page token is malformed, or of another list.
    pub(in crate::grpc) fn page_token() -> Self {
        let rule = "is not a next_page_token of a call with the same parameters";
        Self::new(Code::InvalidArgument, "PAGE_TOKEN_INVALID", format!("page_token {rule}"))
            .with_violation("page_token", rule)
    }

    /// The method does not exist.
    pub(in crate::grpc) fn unknown_method(message: String) -> Self {
        Self::new(Code::Unimplemented, "METHOD_UNKNOWN", message)
    }

    /// The server is shutting down.
    pub(in crate::grpc) fn shutting_down() -> Self {
        GatewayError::ShuttingDown.into()
    }

    /// An address is past what it may do in a minute: `what` it did too often, and the name of the limit.
    pub(in crate::grpc) fn rate_limited(what: &str, name: &'static str, limited: Limited) -> Self {
        let Limited { subject, max, wait } = limited;
        Self::new(Code::ResourceExhausted, RATE_LIMITED, format!("too many {what}: {name} is {max}"))
            .with_metadata("limit", name)
            .with_metadata("max", max.to_string())
            .about(About::Quota { subject, wait: Some(wait) })
    }

    /// The call took longer than the server allows.
    pub(in crate::grpc) fn too_slow(limit: Duration) -> Self {
        let message = format!("the call was not done within {limit:?}; a write may still take effect");
        Self::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", message)
    }

    /// A bug of the gateway.
    pub(in crate::grpc) fn internal() -> Self {
        Self::new(Code::Internal, "INTERNAL", "an internal error; the server's log says more")
    }

    /// The gRPC code.
    pub(in crate::grpc) fn code(&self) -> Code {
        self.0.code
    }

    /// The stable reason.
    pub(in crate::grpc) fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// The error as the response to one message of a stream, the one with this index.
    pub(in crate::grpc) fn into_publish_error(self, message_index: usize) -> v1::PublishError {
        let Parts { code, reason, message, violations, .. } = *self.0;
        let (violations, _omitted) = within_bounds(&violations);
        let field_violations =
            violations.into_iter().map(|(field, description)| v1::FieldViolation { field, description });
        v1::PublishError {
            code: code.into(),
            reason: reason.into(),
            message: cut(&message, MESSAGE_BYTES_MAX),
            field_violations: field_violations.collect(),
            message_index: Some(i64::try_from(message_index).unwrap_or(i64::MAX)),
        }
    }
}

impl From<GrpcError> for Status {
    fn from(error: GrpcError) -> Self {
        let Parts { code, reason, message, mut metadata, violations, about } = *error.0;
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
        let report = error.report();
        match error {
            GatewayError::Invalid(violations) => return violations.into(),
            GatewayError::Storage(cause) | GatewayError::ReadFailed(cause) => {
                if let Some(calls) = STORAGE_FAILURES.record() {
                    tracing::error!(error = %cause, calls, "calls fail since storage failed");
                }
            }
            _ => {}
        }
        report.into()
    }
}

impl From<ErrorReport> for GrpcError {
    fn from(report: ErrorReport) -> Self {
        let ErrorReport { kind, reason, message, resource, subject, violation, metadata, retry_after } =
            report;
        let code = match kind {
            ErrorKind::Invalid => Code::InvalidArgument,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::AlreadyExists | ErrorKind::EventConflict => Code::AlreadyExists,
            ErrorKind::Changed => Code::Aborted,
            ErrorKind::Precondition => Code::FailedPrecondition,
            ErrorKind::LimitReached | ErrorKind::Overloaded | ErrorKind::DiskFull => Code::ResourceExhausted,
            ErrorKind::Unavailable => Code::Unavailable,
            ErrorKind::DataLoss => Code::DataLoss,
        };
        let about = match (resource, subject, retry_after) {
            (Some((kind, name)), ..) => About::Resource { kind, name },
            (None, Some(subject), _) if kind == ErrorKind::Precondition => About::Precondition { subject },
            (None, Some(subject), wait) => About::Quota { subject, wait },
            (None, None, Some(wait)) => About::Wait(wait),
            (None, None, None) => About::Nothing,
        };
        let mut error = Self::new(code, reason, message).about(about);
        error.0.metadata.extend(metadata.into_iter().map(|(key, value)| (key.to_owned(), value)));
        error.0.violations.extend(violation.map(|(field, rule)| (field.to_owned(), rule.to_owned())));
        error
    }
}

impl From<Unreadable> for GrpcError {
    fn from(unreadable: Unreadable) -> Self {
        let error = Self::new(Code::InvalidArgument, unreadable.reason(), unreadable.to_string());
        let error = unreadable
            .metadata()
            .into_iter()
            .fold(error, |error, (key, value)| error.with_metadata(key, value));
        match unreadable.violation() {
            Some((field, rule)) => error.with_violation(field, rule),
            None => error,
        }
    }
}

impl From<FieldViolations> for GrpcError {
    fn from(violations: FieldViolations) -> Self {
        if let Some(denied) =
            violations.iter().find(|violation| violation.kind == ViolationKind::AccountDenied)
        {
            // Reports nothing else: other violations could reveal resources that exist.
            let message = cut(&format!("{} {}", denied.field, denied.description), VIOLATION_TEXT_BYTES_MAX);
            return Self::new(Code::PermissionDenied, "ACCOUNT_DENIED", message);
        }
        let all = |kind| violations.iter().all(|violation| violation.kind == kind);
        let reason = if all(ViolationKind::Required) {
            "FIELD_REQUIRED"
        } else if all(ViolationKind::AccountMismatch) {
            "ACCOUNT_MISMATCH"
        } else {
            "FIELD_INVALID"
        };
        let text = |violation: &FieldViolation| {
            (
                cut(&violation.field, VIOLATION_TEXT_BYTES_MAX),
                cut(&violation.description, VIOLATION_TEXT_BYTES_MAX),
            )
        };
        let violations: Vec<_> = violations.iter().map(text).collect();
        let mut error = Self::new(Code::InvalidArgument, reason, summary(&violations));
        error.0.violations = violations;
        error
    }
}

/// The first violations in words, and the count of the others.
fn summary(violations: &[(String, String)]) -> String {
    const NAMED_MAX: usize = 3;
    let named: Vec<_> =
        violations.iter().take(NAMED_MAX).map(|(field, rule)| cut(&format!("{field} {rule}"), 180)).collect();
    let more = violations.len().saturating_sub(NAMED_MAX);
    let more = if more == 0 { String::new() } else { format!("; and {more} more") };
    named.join("; ") + &more
}

/// The first violations that fit, and the count of the others.
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

/// `text`, cut to `bytes_max` with an ellipsis.
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

    fn status(violations: impl IntoIterator<Item = (ViolationKind, String)>) -> Status {
        let mut all = FieldViolations::default();
        for (kind, field) in violations {
            all.push(kind, field, "breaks a rule that takes some words to describe");
        }
        GrpcError::from(all).into()
    }

    #[test]
    fn the_reason_names_a_kind_only_if_all_violations_are_of_it() {
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
    fn a_status_stays_within_its_bound_for_any_violations() {
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
