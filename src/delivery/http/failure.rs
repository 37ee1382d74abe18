//! Why there is no complete response: turns the client's errors into an outcome and a readable text.

use std::{error::Error, fmt::Write, io, time::Duration};

use super::{
    connection::ConnectError,
    proxy::ProxyError,
    send_error::{Resend, SendError, of_http2},
    tls::TlsError,
};
use crate::domain::delivery::Outcome;

/// Why there is no complete response. The text is for people and contains nothing that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) outcome: Outcome,
    pub(crate) text: String,
    /// Whether the request may be sent again in the same attempt.
    pub(crate) resend: Resend,
    /// The gateway had no file descriptor free: nothing was sent, and it says nothing about the receiver.
    pub(crate) lacked_descriptor: bool,
}

impl Failure {
    pub(crate) fn timeout(limit: Duration) -> Self {
        Self::new(Outcome::Timeout, format!("no complete response within {limit:?}"))
    }

    /// The URL passed validation and still cannot be requested.
    pub(crate) fn unusable_url(error: &http::uri::InvalidUri) -> Self {
        Self::new(Outcome::Connect, format!("the url cannot be requested: {error}"))
    }

    /// The operator denies a header of the subscription.
    pub(crate) fn denied_header(name: &str) -> Self {
        Self::new(Outcome::Blocked, format!("the header {name} is blocked: it is in egress_headers_deny"))
    }

    fn new(outcome: Outcome, text: String) -> Self {
        Self { outcome, text, resend: Resend::Never, lacked_descriptor: false }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Connect(error) => no_connection(&error),
            // An endpoint rejects a client certificate only after the handshake.
            SendError::Broken { error, kept: false, .. } if find::<rustls::Error>(&error).is_some() => {
                Self::new(Outcome::Connect, broken_text(&error))
            }
            SendError::Broken { error, resend, .. } => Self { resend, ..Self::from(error) },
        }
    }
}

impl From<hyper::Error> for Failure {
    /// An error in the middle of a response.
    fn from(error: hyper::Error) -> Self {
        Self::new(Outcome::Io, broken_text(&error))
    }
}

fn no_connection(error: &ConnectError) -> Failure {
    use ConnectError as E;
    let outcome = match error {
        E::Blocked(_) | E::BlockedName { .. } => Outcome::Blocked,
        E::Timeout(_) | E::ProxyTimeout(_) | E::LookupTimeout { .. } => Outcome::Timeout,
        E::Refused { source, .. }
        | E::Proxy(ProxyError::Unreachable(source) | ProxyError::Broken(source))
            if source.kind() == io::ErrorKind::TimedOut =>
        {
            Outcome::Timeout
        }
        _ => Outcome::Connect,
    };
    let text = match error {
        E::Tls(TlsError::Handshake(error)) => format!("tls failed: {}", describe(error)),
        error => error.to_string(),
    };
    Failure { lacked_descriptor: matches!(error, E::NoDescriptor), ..Failure::new(outcome, text) }
}

fn broken_text(error: &hyper::Error) -> String {
    if let Some(tls) = find::<rustls::Error>(error) {
        format!("tls failed: {tls}")
    } else if error.is_incomplete_message() {
        "the connection was closed before the response was complete".to_owned()
    } else if error.is_parse_too_large() {
        "the response's headers are too large".to_owned()
    } else if error.is_parse() {
        format!("the response is not http: {}", describe(error))
    } else if let Some((http2, reason)) = of_http2(error).and_then(|http2| Some((http2, http2.reason()?)))
        && http2.is_remote()
    {
        let frame = if http2.is_go_away() { "GOAWAY" } else { "RST_STREAM" };
        format!(
            "the endpoint ended the request before the response was complete (HTTP/2 {frame}, {reason:?})"
        )
    } else {
        format!("the connection broke: {}", describe(error))
    }
}

/// The root cause of an error: the most specific part.
fn describe(error: &(dyn Error + 'static)) -> String {
    let mut bottom = error;
    while let Some(source) = source(bottom) {
        bottom = source;
    }
    let mut text = String::new();
    match bottom.downcast_ref::<io::Error>() {
        // Without "(os error 104)".
        Some(io) if io.raw_os_error().is_some() => write!(text, "{}", io.kind()),
        _ => write!(text, "{bottom}"),
    }
    .expect("writing to a string does not fail");
    text
}

/// The first error of a type in the chain of causes.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = source(error);
    }
    None
}

/// The cause of an error. `io::Error::source` skips the error that it wraps, which is where TLS reports its
/// failures.
fn source<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    wrapped.map(|inner| inner as _).or_else(|| error.source())
}
