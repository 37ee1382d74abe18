//! Why there is no complete response: turns the client's errors into an outcome and a readable text.

use std::{error::Error, fmt::Write, io, time::Duration};

use super::{
    connection::ConnectError,
    proxy::ProxyError,
    send_error::{Resend, SendError, of_http2},
    tls::TlsError,
};
use crate::{domain::delivery::Outcome, event::exchange};

/// Most bytes of a response's headers.
pub(crate) const RESPONSE_HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Most headers of a response over HTTP/1: hyper's own bound.
pub(crate) const RESPONSE_HEADERS_MAX: usize = 100;

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
    /// The attempt took longer than its timeout.
    pub(crate) fn timeout(limit: Duration) -> Self {
        let is_connected = exchange::note(|exchange| exchange.remote_address.is_some());
        let what = if is_connected == Some(false) { "no connection" } else { "no complete response" };
        Self::new(Outcome::Timeout, format!("{what} within {limit:?}, the timeout of the subscription"))
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
        format!(
            "the response has more than {RESPONSE_HEADERS_MAX} headers, or more than {RESPONSE_HEADERS_BYTES_MAX} bytes of \
             them"
        )
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
        let cause = describe(error);
        http2_text(&cause).unwrap_or_else(|| format!("the connection broke: {cause}"))
    }
}

/// The library's text of an HTTP/2 error, in words that say who did what.
fn http2_text(cause: &str) -> Option<String> {
    const SUBJECTS: [(&str, &str); 2] = [
        ("connection error detected: ", "the endpoint broke the rules of HTTP/2, which ended the connection"),
        ("stream error detected: ", "the endpoint broke the rules of HTTP/2, which ended the stream"),
    ];
    let (reason, text) =
        SUBJECTS.iter().find_map(|(start, text)| Some((cause.strip_prefix(start)?, text)))?;
    Some(format!("{text}: {reason}"))
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

/// The text of an attempt's error, and what to do.
#[derive(Clone, Copy, Debug)]
pub struct AttemptError {
    /// The text, with `…` for what differs.
    pub text: &'static str,
    /// The outcome of the attempt.
    pub outcome: Outcome,
    /// What the owner of the endpoint or the operator can do.
    pub remedy: &'static str,
}

const fn row(text: &'static str, outcome: Outcome, remedy: &'static str) -> AttemptError {
    AttemptError { text, outcome, remedy }
}

/// Every text of an attempt's error. docs/errors.md shows it.
pub const ATTEMPT_ERRORS: &[AttemptError] = &[
    row(
        "answered …, and redirects are not followed",
        Outcome::HttpStatus,
        "Give the subscription the URL that the redirect names.",
    ),
    row(
        "answered …, which is no answer to a POST",
        Outcome::HttpStatus,
        "Have the endpoint respond with 2xx; a cache in between may have answered in its place.",
    ),
    row(
        "answered …",
        Outcome::HttpStatus,
        "Look at `response_body` and at the endpoint's log. 401 and 403: its credentials, or the signature. 404: the URL. \
         410 suspends the subscription at once. 429 and 503: `Retry-After` is respected.",
    ),
    row(
        "no connection within …, the timeout of the subscription",
        Outcome::Timeout,
        "Look whether the endpoint can be reached from the gateway: its name, its address, a firewall that drops packets.",
    ),
    row(
        "no complete response within …, the timeout of the subscription",
        Outcome::Timeout,
        "Have the endpoint respond first and work afterwards, or raise `timeout`.",
    ),
    row(
        "no connection within …",
        Outcome::Timeout,
        "Look whether the endpoint's address can be reached: a firewall may drop packets.",
    ),
    row(
        "no connection by the proxy within …",
        Outcome::Timeout,
        "Look whether the operator's proxy reaches the endpoint.",
    ),
    row(
        "… did not resolve within …",
        Outcome::Timeout,
        "Look at the name servers of the name: they are silent or slow.",
    ),
    row("… did not resolve: …", Outcome::Connect, "Correct the host in the URL, or its entry in the DNS."),
    row("could not connect to the proxy: …", Outcome::Connect, "The operator looks at the proxy."),
    row(
        "could not connect to …: …",
        Outcome::Connect,
        "Start the endpoint, correct the port, or open the firewall.",
    ),
    row(
        "the proxy…",
        Outcome::Connect,
        "The operator looks at the proxy: it refused, or did not respond as proxies do.",
    ),
    row("the connection to the proxy broke: …", Outcome::Connect, "The operator looks at the proxy."),
    row(
        "tls failed: …",
        Outcome::Connect,
        "Renew the endpoint's certificate or complete its chain; of a private authority, set `tls.ca_certificates`.",
    ),
    row(
        "the subscription's tls options cannot be used: …",
        Outcome::Connect,
        "Correct the `tls` of the subscription.",
    ),
    row(
        "the url's host is no name that a certificate could be for",
        Outcome::Connect,
        "Use another host in the URL, or set `tls.server_name`.",
    ),
    row("the url cannot be requested: …", Outcome::Connect, "Correct the URL."),
    row(
        "the gateway had no file descriptor free for a connection",
        Outcome::Connect,
        "The attempt is made again and does not count. The operator raises the limit of open files.",
    ),
    row(
        "the header … is blocked: it is in egress_headers_deny",
        Outcome::Blocked,
        "Remove the header from the subscription.",
    ),
    row(
        "… is blocked: …",
        Outcome::Blocked,
        "Use a public address, or have the operator allow this one (`egress_allow`).",
    ),
    row(
        "the connection was closed before the response was complete",
        Outcome::Io,
        "Look at the endpoint's log: it crashed, or closes connections early. Behind a proxy, look at its timeouts.",
    ),
    row(
        "the response has more than … headers, or more than … bytes of them",
        Outcome::Io,
        "Have the endpoint respond with fewer and shorter headers.",
    ),
    row(
        "the response is not http: …",
        Outcome::Io,
        "Correct the port or the scheme of the URL: something else listens there, or TLS is expected.",
    ),
    row(
        "the endpoint ended the request before the response was complete (HTTP/2 …, …)",
        Outcome::Io,
        "Often a restart or a limit of a proxy, and the next attempt succeeds. If it persists, look at the log of the endpoint \
         or of the proxy before it.",
    ),
    row(
        "the endpoint broke the rules of HTTP/2…",
        Outcome::Io,
        "Update the endpoint's HTTP server or proxy.",
    ),
    row(
        "the connection broke: …",
        Outcome::Io,
        "Often a restart or the network, and the next attempt succeeds. If it persists, look at the endpoint's log.",
    ),
    row("internal error of the gateway", Outcome::Io, "A bug of the gateway: the operator reads its log."),
    row(
        "the stored event is damaged and was not sent; the gateway's log says where",
        Outcome::Damaged,
        "Publish the event again under another id.",
    ),
    row(
        "the record of this attempt is damaged; earlier ones are lost with it",
        Outcome::Damaged,
        "Nothing: deliveries are not affected.",
    ),
    row(
        "the event was not sent: it waited for a paused subscription for longer than paused_backlog_age",
        Outcome::Expired,
        "RetryDelivery sends it nevertheless. Resume subscriptions earlier.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::http::dns::LookupDelay;

    /// The row of a text: the first whose parts are in it, in their order.
    fn row_of(text: &str) -> Option<&'static AttemptError> {
        ATTEMPT_ERRORS.iter().find(|row| {
            let mut parts = row.text.split('…');
            let rest = text.strip_prefix(parts.next().unwrap_or_default());
            let found = parts.try_fold(rest.unwrap_or_default(), |rest, part| Some(rest.split_once(part)?.1));
            rest.is_some() && found.is_some_and(|rest| rest.is_empty() || row.text.ends_with('…'))
        })
    }

    fn io(kind: io::ErrorKind) -> io::Error {
        kind.into()
    }

    /// One of each kind.
    fn connect_errors() -> Vec<ConnectError> {
        let (host, limit) = (|| "a.example".to_owned(), Duration::from_secs(2));
        vec![
            ConnectError::Lookup { host: host(), reason: "no such name".into() },
            ConnectError::LookupTimeout { host: host(), limit, delay: LookupDelay::Silent },
            ConnectError::NoDescriptor,
            ConnectError::BlockedName { host: host() },
            ConnectError::Refused { endpoint: host(), source: io(io::ErrorKind::ConnectionRefused) },
            ConnectError::Proxy(ProxyError::Lookup),
            ConnectError::Proxy(ProxyError::Unreachable(io(io::ErrorKind::ConnectionRefused))),
            ConnectError::Proxy(ProxyError::Refused(http::StatusCode::FORBIDDEN)),
            ConnectError::Proxy(ProxyError::NotHttp),
            ConnectError::Proxy(ProxyError::Broken(io(io::ErrorKind::ConnectionReset))),
            ConnectError::ProxyTimeout(limit),
            ConnectError::Tls(TlsError::Unusable(rustls::Error::DecryptError)),
            ConnectError::Tls(TlsError::Ended(rustls::Error::DecryptError)),
            ConnectError::Tls(TlsError::Handshake(io(io::ErrorKind::UnexpectedEof))),
            ConnectError::Timeout(limit),
        ]
    }

    #[test]
    fn every_text_has_a_row_of_its_outcome() {
        let failures = connect_errors().iter().map(no_connection).collect::<Vec<_>>();
        let url = "http://[".parse::<http::Uri>().unwrap_err();
        let others = [
            Failure::timeout(Duration::from_secs(2)),
            Failure::denied_header("x-a"),
            Failure::unusable_url(&url),
        ];
        for failure in failures.iter().chain(&others) {
            let row = row_of(&failure.text).unwrap_or_else(|| panic!("{failure:?} has no row"));
            assert_eq!(row.outcome, failure.outcome, "{failure:?} has the row {row:?}");
        }
        for (status, location) in [(302, true), (304, false), (500, false)] {
            let location = location.then(|| http::HeaderValue::from_static("/next"));
            let status = http::StatusCode::from_u16(status).unwrap();
            let text = crate::domain::response::status_text(status, location.as_ref());
            assert_eq!(row_of(&text).map(|row| row.outcome), Some(Outcome::HttpStatus), "{text}");
        }
    }

    #[test]
    fn errors_of_http2_say_who_did_what() {
        let text = "the endpoint broke the rules of HTTP/2, which ended the connection: unspecific protocol error detected";
        let cause = "connection error detected: unspecific protocol error detected";
        assert_eq!(http2_text(cause).as_deref(), Some(text));
        assert_eq!(row_of(text).map(|row| row.outcome), Some(Outcome::Io), "{text}");
        let ended =
            "the endpoint ended the request before the response was complete (HTTP/2 GOAWAY, NO_ERROR)";
        assert_eq!(row_of(ended).map(|row| row.outcome), Some(Outcome::Io), "{ended}");
        assert_eq!(http2_text("connection reset"), None);
    }

    #[tokio::test]
    async fn a_timeout_says_whether_there_was_a_connection() {
        let after = |address: Option<&str>| {
            let remote = address.map(|address| address.parse().unwrap());
            exchange::observe(async move {
                exchange::note(|exchange| exchange.remote_address = remote);
                Failure::timeout(Duration::from_secs(2)).text
            })
        };
        let text = |what: &str| format!("{what} within 2s, the timeout of the subscription");
        assert_eq!(after(None).await.0, text("no connection"));
        assert_eq!(after(Some("192.0.2.1:443")).await.0, text("no complete response"));
    }
}
