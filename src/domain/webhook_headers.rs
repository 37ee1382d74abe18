//! The headers of a POST, and the rules for the headers of a subscription.

use std::borrow::Cow;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
};
use uuid::Uuid;

use super::{payload_format::PayloadFormat, signature, subscription::Subscription, time::UnixMicros};

/// Most headers of a subscription.
pub const HEADERS_MAX: usize = 32;
/// Longest name of such a header in bytes.
pub const HEADER_NAME_BYTES_MAX: usize = 128;
/// Longest value of such a header in bytes.
pub const HEADER_VALUE_BYTES_MAX: usize = 4096;
/// Most bytes of these headers, names and values together: receivers commonly refuse more than 8 to 16 KiB.
pub const HEADERS_BYTES_MAX: usize = 8192;

/// Identifies a delivery (Standard Webhooks).
pub const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// The time of the attempt, in seconds since the epoch (Standard Webhooks).
pub const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// The signature of the sender (Standard Webhooks).
pub const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// The same as `webhook-id`, under Chatwoot's name.
pub const CHATWOOT_DELIVERY: HeaderName = HeaderName::from_static("x-chatwoot-delivery");
/// The same as `webhook-timestamp`, under Chatwoot's name.
pub const CHATWOOT_TIMESTAMP: HeaderName = HeaderName::from_static("x-chatwoot-timestamp");
/// The signature of the sender in Chatwoot's format.
pub const CHATWOOT_SIGNATURE: HeaderName = HeaderName::from_static("x-chatwoot-signature");

/// The number of the attempt, from 1 on.
pub const WEBHOOK_ATTEMPT: HeaderName = HeaderName::from_static("webhook-attempt");
/// The type of the event, as in the body's `event`.
pub const WEBHOOK_EVENT_TYPE: HeaderName = HeaderName::from_static("webhook-event-type");

/// Counts the gateways that an event has been POSTed by (RFC 8586), so that a loop ends: `tidings; hops=1`.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
/// The gateway among the senders in a `CDN-Loop` header.
const LOOP_ID: &str = "tidings";
/// The parameter with the number of gateways so far. Without it, it is 1.
const LOOP_HOPS: &str = "hops";

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The `User-Agent` of the gateway.
pub const AGENT_NAME: &str = concat!("tidings/", env!("CARGO_PKG_VERSION"));
const AGENT: HeaderValue = HeaderValue::from_static(AGENT_NAME);

/// Number of headers that Tidings itself adds to every POST.
const OWN_HEADERS: usize = 12;

/// Names that a subscription may not set: headers that Tidings sets, headers that HTTP clients derive from
/// the request, and hop-by-hop headers.
const RESERVED: [&str; 25] = [
    "accept",
    "cdn-loop",
    "connection",
    "content-length",
    "content-type",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "webhook-attempt",
    "webhook-event-type",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-chatwoot-delivery",
    "x-chatwoot-signature",
    "x-chatwoot-timestamp",
];

/// What the headers of a POST say of its event and its attempt.
#[derive(Clone, Debug)]
pub struct PostFacts {
    /// Identifies the delivery.
    pub webhook_id: Uuid,
    /// The type of the event, as in the body's `event`.
    pub event_type: Cow<'static, str>,
    /// The number of the attempt, from 1 on.
    pub attempt: u32,
    /// When it is made.
    pub at: UnixMicros,
    /// Gateways that have POSTed the event before.
    pub hops: u32,
}

/// The headers of a POST of `body` to `subscription`. The connection adds `Host` and `Content-Length`.
pub fn headers(subscription: &Subscription, facts: PostFacts, body: &[u8]) -> HeaderMap {
    let PostFacts { webhook_id, event_type, attempt, at, hops } = facts;
    let own = &subscription.settings.headers;
    let mut headers = HeaderMap::with_capacity(OWN_HEADERS + own.len());
    put_plain_headers(&mut headers, subscription.settings.payload_format);

    let id = value(webhook_id.hyphenated().to_string());
    headers.insert(WEBHOOK_ID, id.clone());
    headers.insert(CHATWOOT_DELIVERY, id);

    let timestamp = at.seconds();
    let seconds = HeaderValue::from(timestamp);
    headers.insert(WEBHOOK_TIMESTAMP, seconds.clone());
    headers.insert(CHATWOOT_TIMESTAMP, seconds);

    let signers = subscription.signing_secrets.at(at);
    let standard = signature::standard(&signers, webhook_id, timestamp, body);
    headers.insert(WEBHOOK_SIGNATURE, sensitive(standard));
    headers.insert(CHATWOOT_SIGNATURE, sensitive(signature::chatwoot(&signers[0].secret, timestamp, body)));

    for (name, secret) in own {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("check_header accepted the name");
        headers.insert(name, sensitive(secret.expose().to_owned()));
    }
    // The last ones: a subscription of an earlier version may have set them.
    headers.insert(WEBHOOK_ATTEMPT, HeaderValue::from(attempt));
    headers.insert(WEBHOOK_EVENT_TYPE, type_value(event_type));
    headers.insert(CDN_LOOP, value(format!("{LOOP_ID}; {LOOP_HOPS}={}", hops.saturating_add(1))));
    headers
}

/// The type of an event in a header. Of an event that was kept as it came it is any text, which may be no header.
fn type_value(event_type: Cow<'static, str>) -> HeaderValue {
    match event_type {
        Cow::Borrowed(known) => HeaderValue::from_static(known),
        Cow::Owned(name) if name.bytes().all(|b| b.is_ascii_graphic()) => value(name),
        Cow::Owned(_) => HeaderValue::from_static("other"),
    }
}

/// The gateways that have POSTed an event so far, by the `CDN-Loop` headers of a request with it.
pub fn hops(headers: &HeaderMap) -> u32 {
    let values = headers.get_all(CDN_LOOP).iter().filter_map(|value| value.to_str().ok());
    let senders = values.flat_map(|value| value.split(','));
    senders.filter_map(hops_of).max().unwrap_or_default()
}

/// The hops that one of the senders in a `CDN-Loop` header counts; `None` if it is no gateway.
fn hops_of(sender: &str) -> Option<u32> {
    let mut parts = sender.split(';').map(str::trim);
    parts.next().filter(|id| id.eq_ignore_ascii_case(LOOP_ID))?;
    let mut parameters = parts.filter_map(|parameter| parameter.split_once('='));
    let hops = parameters.find(|(name, _)| name.eq_ignore_ascii_case(LOOP_HOPS));
    // A number that is none counts as many.
    Some(hops.map_or(1, |(_, hops)| hops.parse().unwrap_or(u32::MAX)))
}

/// The headers of a POST in `format` that depend on no subscription.
pub fn plain_headers(format: PayloadFormat) -> HeaderMap {
    let mut headers = HeaderMap::new();
    put_plain_headers(&mut headers, format);
    headers
}

/// Checks a header of a subscription; errors with the rule that it violates. Letter case does not matter.
pub fn check_header(name: &str, value: &str) -> Result<(), &'static str> {
    if name.len() > HEADER_NAME_BYTES_MAX {
        return Err("the name must have at most 128 characters");
    }
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err("the name must be letters, digits and !#$%&'*+-.^_`|~ only");
    }
    if RESERVED.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
        return Err("the name is reserved: the server sets this header");
    }
    if value.len() > HEADER_VALUE_BYTES_MAX {
        return Err("the value must have at most 4096 characters");
    }
    let allowed = |b: u8| b == b'\t' || b == b' ' || b.is_ascii_graphic();
    if !value.bytes().all(allowed) {
        return Err("the value must be printable ASCII");
    }
    // HTTP strips them: the receiver would get a different value.
    if value.trim_ascii() != value {
        return Err("the value must not begin or end with a space");
    }
    Ok(())
}

/// Checks the number and the size of a subscription's headers; errors with the rule that they violate.
pub fn check_headers_total<'a>(
    headers: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), &'static str> {
    let (mut count, mut bytes) = (0_usize, 0_usize);
    for (name, value) in headers {
        count += 1;
        bytes += name.len() + value.len();
    }
    if count > HEADERS_MAX {
        return Err("must be at most 32 headers");
    }
    if bytes > HEADERS_BYTES_MAX {
        return Err("must have at most 8192 characters of names and values in total");
    }
    Ok(())
}

fn put_plain_headers(headers: &mut HeaderMap, format: PayloadFormat) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    headers.insert(ACCEPT, JSON);
    headers.insert(USER_AGENT, AGENT);
}

fn value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("printable ASCII is a header value")
}

/// A value that `Debug` does not print and HTTP/2 does not index.
fn sensitive(text: String) -> HeaderValue {
    let mut value = value(text);
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_name_that_tidings_sets_is_reserved() {
        let set = [
            CONTENT_TYPE,
            ACCEPT,
            USER_AGENT,
            WEBHOOK_ID,
            WEBHOOK_TIMESTAMP,
            WEBHOOK_SIGNATURE,
            CHATWOOT_DELIVERY,
            CHATWOOT_TIMESTAMP,
            CHATWOOT_SIGNATURE,
            WEBHOOK_ATTEMPT,
            WEBHOOK_EVENT_TYPE,
            CDN_LOOP,
        ];
        assert_eq!(set.len(), OWN_HEADERS);
        for name in set {
            assert!(RESERVED.contains(&name.as_str()), "{name} can be overwritten");
        }
    }

    #[test]
    fn the_hops_of_gateways_are_counted() {
        let hops_in = |values: &[&str]| {
            let values = values.iter().map(|value| (CDN_LOOP, HeaderValue::from_str(value).unwrap()));
            hops(&values.collect())
        };
        for (values, expected) in [
            (&[][..], 0),
            (&["cloudflare; loops=1"], 0),
            (&["tidings; hops=1"], 1),
            (&["Tidings;HOPS=2"], 2),
            (&["tidings"], 1),
            (&["fastly, tidings; a=b; hops=3, tidings; hops=1"], 3),
            (&["other", "tidings; hops=2"], 2),
            (&["tidings; hops=-1"], u32::MAX),
            (&["tidings; hops=99999999999"], u32::MAX),
        ] {
            assert_eq!(hops_in(values), expected, "{values:?}");
        }
    }

    #[test]
    fn reserved_names_are_refused_in_any_letter_case() {
        for name in
            ["Host", "CONTENT-LENGTH", "Transfer-Encoding", "connection", "X-Chatwoot-Signature", "TE"]
        {
            assert!(check_header(name, "x").is_err(), "{name} was accepted");
        }
        assert!(RESERVED.is_sorted());
    }

    #[test]
    fn headers_keep_to_their_rules() {
        let (name, long) = ("n".repeat(HEADER_NAME_BYTES_MAX), "v".repeat(HEADER_VALUE_BYTES_MAX));
        for (name, value) in [
            ("Authorization", "Bearer abc"),
            ("x-empty", ""),
            ("X-Tab", "a\tb"),
            (name.as_str(), long.as_str()),
        ] {
            assert_eq!(check_header(name, value), Ok(()), "{name}");
        }
        let (name, long) = (format!("{name}n"), format!("{long}v"));
        for (name, value) in [
            ("", "x"),
            ("with space", "x"),
            ("colon:", "x"),
            (":path", "x"),
            ("newline\n", "x"),
            ("ümlaut", "x"),
            (name.as_str(), "x"),
            ("x", "a\r\nInjected: b"),
            ("x", "a\nb"),
            ("x", "a\0b"),
            ("x", "a\u{7f}b"),
            ("x", "ümlaut"),
            ("x", " x"),
            ("x", "x\t"),
            ("x", long.as_str()),
        ] {
            assert!(check_header(name, value).is_err(), "{name:?}: {value:?} was accepted");
        }
    }

    #[test]
    fn many_or_long_headers_are_refused_together() {
        let total = |count: usize, value: &str| check_headers_total(vec![("x", value); count]);
        assert_eq!(total(HEADERS_MAX, "v"), Ok(()));
        assert!(total(HEADERS_MAX + 1, "v").is_err());
        assert_eq!(total(1, &"v".repeat(HEADERS_BYTES_MAX - 1)), Ok(()));
        assert!(total(1, &"v".repeat(HEADERS_BYTES_MAX)).is_err());
    }

    #[test]
    fn the_limits_are_those_in_the_messages() {
        let limits = (HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX, HEADERS_BYTES_MAX);
        assert_eq!(limits, (128, 4096, 32, 8192));
    }

    proptest! {
        #[test]
        fn accepted_headers_can_be_sent(name in "[!-~]{0,20}", text in ".{0,40}") {
            if check_header(&name, &text).is_ok() {
                prop_assert!(HeaderName::from_bytes(name.to_ascii_lowercase().as_bytes()).is_ok());
                let sent = value(text.clone());
                prop_assert_eq!(sent.to_str().ok(), Some(text.as_str()));
            }
        }
    }
}
