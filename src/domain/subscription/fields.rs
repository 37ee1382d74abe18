//! The fields of a subscription that its owner sets: one row for each, with its path, whether a message sets
//! it, and how it is read, checked and applied.
//!
//! A new field of [`Settings`] is one row of [`FIELDS`]. A rule that does not fit a row is a method of
//! [`Reader`].

use std::{collections::BTreeMap, fmt, time::Duration};

use url::Url;

use super::{
    endpoint_url::parse_url,
    event_types::EventTypes,
    settings::{RetryOverrides, Settings, SignatureScheme},
    tls::TlsOptions,
};
use crate::{
    domain::{
        field_violation::FieldViolations,
        give_up::GiveUpStatuses,
        payload_format::PayloadFormat,
        rate_limit::{EVENTS_MAX, INTERVAL_MAX, INTERVAL_MIN, RateLimit},
        retry::{ATTEMPTS_MAX, BACKOFF_MAX, BACKOFF_MIN},
        secret::{REDACTED, Secret},
        webhook_headers,
    },
    proto::v1::{self, EventType, subscription::SignatureScheme as WireSignatureScheme},
};

/// Longest `display_name`, in characters.
pub const DISPLAY_NAME_CHARS_MAX: usize = 63;
/// Most `inbox_ids`.
pub const INBOX_IDS_MAX: usize = 1000;
/// Shortest `timeout`.
pub const TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Longest `timeout`.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Largest `max_in_flight`.
pub const MAX_IN_FLIGHT_MAX: u16 = 256;
/// Most `annotations`.
pub const ANNOTATIONS_MAX: usize = 64;
/// Longest key of `annotations`, in characters.
pub const ANNOTATION_KEY_CHARS_MAX: usize = 63;
/// Longest value of `annotations`, in bytes.
pub const ANNOTATION_VALUE_BYTES_MAX: usize = 1024;
/// Most bytes of all keys and values of `annotations` together.
pub const ANNOTATIONS_BYTES_MAX: usize = 16 * 1024;

/// A field that an owner may change.
#[derive(Clone, Copy)]
pub struct Field {
    /// Its path in an update mask, as the contract spells it. The path of a part has a dot:
    /// `retry_policy.max_attempts`.
    path: &'static str,
    /// Whether a message sets it.
    is_set: fn(&v1::Subscription) -> bool,
    /// Reads it from the message, reports its violations, and puts the value into the draft.
    apply: fn(&mut Reader<'_>, &mut Draft),
}

/// The settings as they will be, field by field.
pub(super) struct Draft {
    pub(super) settings: Settings,
    /// TLS options; they become [`Settings::tls`] once all of their parts are applied.
    pub(super) tls: TlsOptions,
    /// Credentials of the URL, as the value of a header.
    pub(super) credentials: Option<Secret>,
}

/// Every field, and every part of a field that a mask may name.
const FIELDS: [Field; 23] = [
    Field {
        path: "display_name",
        is_set: |message| !message.display_name.is_empty(),
        apply: |reader, draft| draft.settings.display_name = reader.display_name(),
    },
    Field {
        path: "url",
        is_set: |message| !message.url.is_empty(),
        apply: |reader, draft| {
            if let Some((url, credentials)) = reader.url() {
                draft.settings.url = url;
                draft.credentials = credentials;
            }
        },
    },
    Field {
        path: "event_types",
        is_set: |message| !message.event_types.is_empty(),
        apply: |reader, draft| draft.settings.event_types = reader.event_types(),
    },
    Field {
        path: "all_event_types",
        is_set: |message| message.all_event_types,
        apply: |reader, draft| {
            if let Some(event_types) = reader.all_event_types(&draft.settings.event_types) {
                draft.settings.event_types = event_types;
            }
        },
    },
    Field {
        path: "inbox_ids",
        is_set: |message| !message.inbox_ids.is_empty(),
        apply: |reader, draft| draft.settings.inbox_ids = reader.inbox_ids(),
    },
    Field {
        path: "payload_format",
        is_set: |message| message.payload_format != 0,
        apply: |reader, draft| draft.settings.payload_format = reader.payload_format(),
    },
    Field {
        path: "headers",
        is_set: |message| !message.headers.is_empty(),
        apply: |reader, draft| draft.settings.headers = reader.headers(),
    },
    Field {
        path: "retry_policy",
        is_set: |message| message.retry_policy.is_some(),
        apply: |reader, draft| draft.settings.retry = reader.retry_policy(),
    },
    Field {
        path: "retry_policy.max_attempts",
        is_set: |message| message.retry_policy.as_ref().is_some_and(|policy| policy.max_attempts != 0),
        apply: |reader, draft| draft.settings.retry.max_attempts = reader.max_attempts(),
    },
    Field {
        path: "retry_policy.min_backoff",
        is_set: |message| message.retry_policy.as_ref().is_some_and(|policy| policy.min_backoff.is_some()),
        apply: |reader, draft| draft.settings.retry.min_backoff = reader.min_backoff(),
    },
    Field {
        path: "retry_policy.max_backoff",
        is_set: |message| message.retry_policy.as_ref().is_some_and(|policy| policy.max_backoff.is_some()),
        apply: |reader, draft| draft.settings.retry.max_backoff = reader.max_backoff(),
    },
    Field {
        path: "retry_policy.give_up_statuses",
        is_set: |message| {
            message.retry_policy.as_ref().is_some_and(|policy| !policy.give_up_statuses.is_empty())
        },
        apply: |reader, draft| draft.settings.retry.give_up = reader.give_up_statuses(),
    },
    Field {
        path: "timeout",
        is_set: |message| message.timeout.is_some(),
        apply: |reader, draft| draft.settings.timeout = reader.timeout(),
    },
    Field {
        path: "max_in_flight",
        is_set: |message| message.max_in_flight != 0,
        apply: |reader, draft| draft.settings.max_in_flight = reader.max_in_flight(),
    },
    Field {
        path: "rate_limit",
        is_set: |message| message.rate_limit.is_some(),
        apply: |reader, draft| draft.settings.rate_limit = reader.rate_limit(),
    },
    Field {
        path: "ordered",
        is_set: |message| message.ordered,
        apply: |reader, draft| draft.settings.ordered = reader.message.ordered,
    },
    Field {
        path: "annotations",
        is_set: |message| !message.annotations.is_empty(),
        apply: |reader, draft| draft.settings.annotations = reader.annotations(),
    },
    Field {
        path: "tls",
        is_set: |message| message.tls.is_some(),
        apply: |reader, draft| draft.tls = reader.tls(),
    },
    Field {
        path: "tls.server_name",
        is_set: |message| message.tls.as_ref().is_some_and(|tls| !tls.server_name.is_empty()),
        apply: |reader, draft| draft.tls.server_name = reader.tls_message().server_name,
    },
    Field {
        path: "tls.ca_certificates",
        is_set: |message| message.tls.as_ref().is_some_and(|tls| !tls.ca_certificates.is_empty()),
        apply: |reader, draft| draft.tls.ca_certificates = reader.tls_message().ca_certificates,
    },
    Field {
        path: "tls.client_certificate",
        is_set: |message| message.tls.as_ref().is_some_and(|tls| !tls.client_certificate.is_empty()),
        apply: |reader, draft| draft.tls.client_certificate = reader.tls_message().client_certificate,
    },
    Field {
        path: "tls.client_key",
        is_set: |message| message.tls.as_ref().is_some_and(|tls| !tls.client_key.is_empty()),
        apply: |reader, draft| draft.tls.client_key = reader.tls_key(),
    },
    Field {
        path: "signature_scheme",
        is_set: |message| message.signature_scheme != 0,
        apply: |reader, draft| draft.settings.signature_scheme = reader.signature_scheme(),
    },
];

impl Field {
    /// The fields of the contract's message itself, without the parts of its `retry_policy` and `tls`.
    pub(super) fn top_level() -> impl Iterator<Item = Self> {
        FIELDS.into_iter().filter(|field| !field.path.contains('.'))
    }

    /// The field with this path.
    pub fn by_path(path: &str) -> Option<Self> {
        FIELDS.into_iter().find(|field| field.path == path)
    }

    /// Its path in an update mask, as the contract spells it.
    pub fn path(self) -> &'static str {
        self.path
    }

    pub(super) fn is_set_in(self, message: &v1::Subscription) -> bool {
        (self.is_set)(message)
    }

    pub(super) fn apply(self, reader: &mut Reader<'_>, draft: &mut Draft) {
        (self.apply)(reader, draft);
    }
}

impl PartialEq for Field {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Field {}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path)
    }
}

/// Reads the fields of one message and collects their violations. The value returned for an invalid field is
/// not used.
pub(super) struct Reader<'a> {
    pub(super) message: &'a v1::Subscription,
    path: &'a str,
    /// The settings before the change; `***` keeps one of their secrets.
    pub(super) stored: &'a Settings,
    pub(super) violations: FieldViolations,
}

impl<'a> Reader<'a> {
    /// A reader of `message`, found at `path` in the request.
    pub(super) fn new(message: &'a v1::Subscription, path: &'a str, stored: &'a Settings) -> Self {
        Self { message, path, stored, violations: FieldViolations::default() }
    }

    /// Reports a violation of `field`.
    pub(super) fn invalid(&mut self, field: &str, description: impl fmt::Display) {
        self.violations.invalid(format!("{}.{field}", self.path), description);
    }

    /// Whether a violation of `field` was reported.
    pub(super) fn is_invalid(&self, field: &str) -> bool {
        self.violations.iter().any(|violation| violation.field == format!("{}.{field}", self.path))
    }

    fn display_name(&mut self) -> String {
        let name = &self.message.display_name;
        if name.chars().count() > DISPLAY_NAME_CHARS_MAX {
            self.invalid(
                "display_name",
                format_args!("must have at most {DISPLAY_NAME_CHARS_MAX} characters"),
            );
        }
        if name.chars().any(char::is_control) {
            self.invalid("display_name", "must not contain control characters");
        }
        name.clone()
    }

    fn url(&mut self) -> Option<(Url, Option<Secret>)> {
        let text = &self.message.url;
        if text.is_empty() {
            self.violations.required(format!("{}.url", self.path));
            return None;
        }
        parse_url(text).map_err(|description| self.invalid("url", description)).ok()
    }

    fn event_types(&mut self) -> EventTypes {
        let mut types = Vec::new();
        if self.message.event_types.is_empty() {
            if self.message.all_event_types {
                return EventTypes::All;
            }
            self.event_types_required();
        } else if self.message.all_event_types {
            self.invalid("event_types", "must be empty if all_event_types is set");
        }
        for (index, number) in self.message.event_types.iter().enumerate() {
            let description = match EventType::try_from(*number) {
                Ok(EventType::Unspecified) => "must not be EVENT_TYPE_UNSPECIFIED",
                Ok(known) if types.contains(&known) => "is repeated: each type may be named once",
                Ok(known) => {
                    types.push(known);
                    continue;
                }
                Err(_) => "is not a known event type",
            };
            self.invalid(&format!("event_types[{index}]"), description);
        }
        types.into()
    }

    fn event_types_required(&mut self) {
        if !self.is_invalid("event_types") {
            self.violations.required(format!("{}.event_types", self.path));
        }
    }

    /// All types if the message asks for them; `None` if it does not and those of the draft, which it may have set as
    /// well, stay.
    fn all_event_types(&mut self, draft: &EventTypes) -> Option<EventTypes> {
        let lists = !self.message.event_types.is_empty();
        match (self.message.all_event_types, draft) {
            (true, _) if lists && !self.is_invalid("event_types") => {
                self.invalid("event_types", "must be empty if all_event_types is set");
            }
            (true, _) => return Some(EventTypes::All),
            (false, EventTypes::All) => self.event_types_required(),
            (false, EventTypes::Only(_)) => {}
        }
        None
    }

    fn inbox_ids(&mut self) -> Vec<i64> {
        let ids = &self.message.inbox_ids;
        if ids.len() > INBOX_IDS_MAX {
            self.invalid("inbox_ids", format_args!("must have at most {INBOX_IDS_MAX} entries"));
            return Vec::new();
        }
        let mut seen = std::collections::HashSet::new();
        for (index, id) in ids.iter().enumerate() {
            if *id <= 0 {
                self.invalid(&format!("inbox_ids[{index}]"), "must be positive");
            } else if !seen.insert(*id) {
                self.invalid(&format!("inbox_ids[{index}]"), "is repeated: each inbox may be named once");
            }
        }
        ids.clone()
    }

    fn payload_format(&mut self) -> PayloadFormat {
        PayloadFormat::from_wire(self.message.payload_format).unwrap_or_else(|| {
            self.invalid("payload_format", "is not a known payload format");
            PayloadFormat::Documented
        })
    }

    fn signature_scheme(&mut self) -> SignatureScheme {
        match WireSignatureScheme::try_from(self.message.signature_scheme) {
            Ok(WireSignatureScheme::Unspecified | WireSignatureScheme::HmacSha256) => {
                SignatureScheme::HmacSha256
            }
            Ok(WireSignatureScheme::Ed25519) => SignatureScheme::Ed25519,
            Err(_) => {
                self.invalid("signature_scheme", "is not a known signature scheme");
                SignatureScheme::HmacSha256
            }
        }
    }

    fn headers(&mut self) -> BTreeMap<String, Secret> {
        let mut headers = BTreeMap::new();
        for (name, value) in &self.message.headers {
            let lower = name.to_ascii_lowercase();
            let value = if value == REDACTED {
                self.stored
                    .headers
                    .get(&lower)
                    .cloned()
                    .ok_or("\"***\" keeps a stored value, but no header of this name is stored")
            } else {
                Ok(Secret::new(value.as_str()))
            };
            let checked = webhook_headers::check_header(name, value.as_ref().map_or("", Secret::expose));
            match (checked, value) {
                (Err(description), _) => self.invalid(&header_path(name), description),
                (Ok(()), Err(description)) => self.invalid(&header_path(name), description),
                (Ok(()), Ok(value)) => {
                    if headers.insert(lower, value).is_some() {
                        self.invalid(&header_path(name), "is repeated in another letter case");
                    }
                }
            }
        }
        let total = headers.iter().map(|(name, value): (&String, &Secret)| (name.as_str(), value.expose()));
        if let Err(description) = webhook_headers::check_headers_total(total) {
            self.invalid("headers", description);
        }
        headers
    }

    fn retry_policy(&mut self) -> RetryOverrides {
        RetryOverrides {
            max_attempts: self.max_attempts(),
            min_backoff: self.min_backoff(),
            max_backoff: self.max_backoff(),
            give_up: self.give_up_statuses(),
        }
    }

    fn max_attempts(&mut self) -> Option<u32> {
        let attempts = self.message.retry_policy.as_ref()?.max_attempts;
        match u32::try_from(attempts) {
            Ok(0) => None,
            Ok(attempts) if attempts <= ATTEMPTS_MAX => Some(attempts),
            _ => {
                let description = format_args!("must be 1 to {ATTEMPTS_MAX}, or 0 for the server's default");
                self.invalid("retry_policy.max_attempts", description);
                None
            }
        }
    }

    fn min_backoff(&mut self) -> Option<Duration> {
        let wait = self.message.retry_policy.as_ref()?.min_backoff?;
        self.duration("retry_policy.min_backoff", wait, BACKOFF_MIN, BACKOFF_MAX)
    }

    fn max_backoff(&mut self) -> Option<Duration> {
        let wait = self.message.retry_policy.as_ref()?.max_backoff?;
        self.duration("retry_policy.max_backoff", wait, BACKOFF_MIN, BACKOFF_MAX)
    }

    fn give_up_statuses(&mut self) -> GiveUpStatuses {
        let mut statuses = GiveUpStatuses::NONE;
        let Some(policy) = &self.message.retry_policy else { return statuses };
        for (index, text) in policy.give_up_statuses.iter().enumerate() {
            if let Err(description) = statuses.insert(text) {
                self.invalid(&format!("retry_policy.give_up_statuses[{index}]"), description);
            }
        }
        statuses
    }

    fn tls_message(&self) -> v1::TlsOptions {
        self.message.tls.clone().unwrap_or_default()
    }

    fn tls(&mut self) -> TlsOptions {
        let v1::TlsOptions { server_name, ca_certificates, client_certificate, client_key: _ } =
            self.tls_message();
        TlsOptions { server_name, ca_certificates, client_certificate, client_key: self.tls_key() }
    }

    fn tls_key(&mut self) -> Option<Secret> {
        let key = self.tls_message().client_key;
        let stored = self.stored.tls_options().client_key;
        match key.as_str() {
            "" => None,
            REDACTED if stored.is_none() => {
                self.invalid("tls.client_key", "\"***\" keeps the stored key, but no key is stored");
                None
            }
            REDACTED => stored,
            _ => Some(Secret::new(key)),
        }
    }

    fn timeout(&mut self) -> Option<Duration> {
        self.duration("timeout", self.message.timeout?, TIMEOUT_MIN, TIMEOUT_MAX)
    }

    fn max_in_flight(&mut self) -> Option<u16> {
        match u16::try_from(self.message.max_in_flight) {
            Ok(0) => None,
            Ok(count) if count <= MAX_IN_FLIGHT_MAX => Some(count),
            _ => {
                let description =
                    format_args!("must be 1 to {MAX_IN_FLIGHT_MAX}, or 0 for the server's default");
                self.invalid("max_in_flight", description);
                None
            }
        }
    }

    fn rate_limit(&mut self) -> Option<RateLimit> {
        let v1::RateLimit { events, interval, burst } = self.message.rate_limit?;
        let count = |number: i32| u32::try_from(number).ok().filter(|count| (1..=EVENTS_MAX).contains(count));
        if count(events).is_none() {
            self.invalid("rate_limit.events", format_args!("must be 1 to {EVENTS_MAX}"));
        }
        let interval = match interval {
            Some(interval) => self.duration("rate_limit.interval", interval, INTERVAL_MIN, INTERVAL_MAX),
            None => Some(INTERVAL_MIN),
        };
        let burst = if burst == 0 { events } else { burst };
        if count(burst).is_none() && count(events).is_some() {
            let description = format_args!("must be 1 to {EVENTS_MAX}, or 0 for as many as events");
            self.invalid("rate_limit.burst", description);
        }
        Some(RateLimit { events: count(events)?, interval: interval?, burst: count(burst)? })
    }

    fn annotations(&mut self) -> BTreeMap<String, String> {
        let annotations = &self.message.annotations;
        if annotations.len() > ANNOTATIONS_MAX {
            self.invalid("annotations", format_args!("must have at most {ANNOTATIONS_MAX} entries"));
            return BTreeMap::new();
        }
        for (key, value) in annotations {
            if !(1..=ANNOTATION_KEY_CHARS_MAX).contains(&key.chars().count()) {
                let description = format_args!("a key must have 1 to {ANNOTATION_KEY_CHARS_MAX} characters");
                self.invalid("annotations", description);
            }
            if value.len() > ANNOTATION_VALUE_BYTES_MAX {
                let description = format_args!("must have at most {ANNOTATION_VALUE_BYTES_MAX} bytes");
                self.invalid(&format!("annotations[{key:?}]"), description);
            }
        }
        if annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
            > ANNOTATIONS_BYTES_MAX
        {
            let description = format_args!("must have at most {ANNOTATIONS_BYTES_MAX} bytes in total");
            self.invalid("annotations", description);
        }
        annotations.clone()
    }

    fn duration(
        &mut self,
        field: &str,
        duration: prost_types::Duration,
        min: Duration,
        max: Duration,
    ) -> Option<Duration> {
        let checked = to_duration(duration).filter(|duration| (min..=max).contains(duration));
        if checked.is_none() {
            self.invalid(field, format_args!("must be {min:?} to {max:?}"));
        }
        checked
    }
}

fn header_path(name: &str) -> String {
    format!("headers[{name:?}]")
}

/// A duration of the contract; `None` unless it is well-formed and not negative.
pub(super) fn to_duration(duration: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}
