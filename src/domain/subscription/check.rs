//! The rules for what the owner of a subscription sends: from the contract's message to [`Settings`], with every fault.

use std::{collections::BTreeMap, time::Duration};

use url::Url;

use super::{Field, Mask, RetryOverrides, Settings, SignatureScheme, TlsOptions, endpoint_url::parse_url};
use crate::{
    domain::{
        field_violation::FieldViolations,
        payload_format::PayloadFormat,
        retry::{ATTEMPTS_MAX, BACKOFF_MAX, BACKOFF_MIN, RetryPolicy},
        secret::{REDACTED, Secret},
        webhook_headers,
    },
    proto::v1::{
        self, EventType,
        subscription::{PayloadFormat as WirePayloadFormat, SignatureScheme as WireSignatureScheme},
    },
};

mod tls;

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

/// The settings of a new subscription, or every fault, with paths that start with `path`.
///
/// `defaults` is the server's retry policy, which what is set must go together with.
pub fn check_new(
    message: &v1::Subscription,
    path: &str,
    defaults: RetryPolicy,
) -> Result<Settings, FieldViolations> {
    let mut check = Check::new(message, path);
    let settings = Settings {
        display_name: check.display_name(),
        url: match check.url() {
            Some(url) => url,
            // Never returned: there is a fault. The other fields are still to be looked at.
            None => Url::parse("http://url.invalid").expect("a literal that is a URL"),
        },
        event_types: check.event_types(),
        inbox_ids: check.inbox_ids(),
        payload_format: check.payload_format(),
        headers: check.headers(&BTreeMap::new()),
        retry: check.retry_policy(),
        timeout: check.timeout(),
        max_in_flight: check.max_in_flight(),
        ordered: message.ordered,
        annotations: check.annotations(),
        tls: {
            let options = check.tls(&TlsOptions::default());
            check.tls_profile(options)
        },
        signature_scheme: check.signature_scheme(),
    };
    check.backoffs_go_together(settings.retry, defaults);
    check.tls_needs_https(&settings, "tls");
    check.faults.into_result(settings)
}

/// `stored` with the fields of `mask` replaced from `message`, or every fault of these fields.
pub fn check_update(
    stored: &Settings,
    message: &v1::Subscription,
    mask: &Mask,
    path: &str,
    defaults: RetryPolicy,
) -> Result<Settings, FieldViolations> {
    let mut check = Check::new(message, path);
    let mut new = stored.clone();
    let stored_tls = stored.tls.as_ref().map(|tls| tls.options().clone()).unwrap_or_default();
    let mut tls = stored_tls.clone();
    for field in mask.fields(message) {
        match field {
            Field::DisplayName => new.display_name = check.display_name(),
            Field::Url => new.url = check.url().unwrap_or(new.url),
            Field::EventTypes => new.event_types = check.event_types(),
            Field::InboxIds => new.inbox_ids = check.inbox_ids(),
            Field::PayloadFormat => new.payload_format = check.payload_format(),
            Field::Headers => new.headers = check.headers(&stored.headers),
            Field::RetryPolicy => new.retry = check.retry_policy(),
            Field::RetryMaxAttempts => new.retry.max_attempts = check.max_attempts(),
            Field::RetryMinBackoff => new.retry.min_backoff = check.min_backoff(),
            Field::RetryMaxBackoff => new.retry.max_backoff = check.max_backoff(),
            Field::Timeout => new.timeout = check.timeout(),
            Field::MaxInFlight => new.max_in_flight = check.max_in_flight(),
            Field::Ordered => new.ordered = message.ordered,
            Field::Annotations => new.annotations = check.annotations(),
            Field::Tls => tls = check.tls(&stored_tls),
            Field::TlsServerName => tls.server_name = check.tls_message().server_name,
            Field::TlsCaCertificates => tls.ca_certificates = check.tls_message().ca_certificates,
            Field::TlsClientCertificate => tls.client_certificate = check.tls_message().client_certificate,
            Field::TlsClientKey => tls.client_key = check.tls_key(&stored_tls),
            Field::SignatureScheme => new.signature_scheme = check.signature_scheme(),
        }
    }
    if tls != stored_tls {
        new.tls = check.tls_profile(tls);
        check.tls_needs_https(&new, "tls");
    } else {
        check.tls_needs_https(&new, "url");
    }
    if new.retry != stored.retry {
        // Not otherwise: the server's defaults may have changed since, which is no fault of this request.
        check.backoffs_go_together(new.retry, defaults);
    }
    check.faults.into_result(new)
}

/// One message under check. Each method reads one field and notes its faults; what it returns for a field at fault is
/// not used.
struct Check<'a> {
    message: &'a v1::Subscription,
    path: &'a str,
    faults: FieldViolations,
}

impl<'a> Check<'a> {
    fn new(message: &'a v1::Subscription, path: &'a str) -> Self {
        Self { message, path, faults: FieldViolations::default() }
    }

    fn invalid(&mut self, field: &str, rule: impl std::fmt::Display) {
        self.faults.invalid(format!("{}.{field}", self.path), rule);
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

    fn url(&mut self) -> Option<Url> {
        let text = &self.message.url;
        if text.is_empty() {
            self.faults.required(format!("{}.url", self.path));
            return None;
        }
        parse_url(text).map_err(|rule| self.invalid("url", rule)).ok()
    }

    fn event_types(&mut self) -> Vec<EventType> {
        let mut types = Vec::new();
        if self.message.event_types.is_empty() {
            self.faults.required(format!("{}.event_types", self.path));
        }
        for (index, number) in self.message.event_types.iter().enumerate() {
            let rule = match EventType::try_from(*number) {
                Ok(EventType::Unspecified) => "must not be EVENT_TYPE_UNSPECIFIED",
                Ok(known) if types.contains(&known) => "is there already: each type may be named once",
                Ok(known) => {
                    types.push(known);
                    continue;
                }
                Err(_) => "is not a known event type",
            };
            self.invalid(&format!("event_types[{index}]"), rule);
        }
        types
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
                self.invalid(
                    &format!("inbox_ids[{index}]"),
                    "is there already: each inbox may be named once",
                );
            }
        }
        ids.clone()
    }

    fn payload_format(&mut self) -> PayloadFormat {
        match WirePayloadFormat::try_from(self.message.payload_format) {
            Ok(WirePayloadFormat::Unspecified | WirePayloadFormat::Documented) => {
                return PayloadFormat::Documented;
            }
            Ok(WirePayloadFormat::Sample) => return PayloadFormat::Sample,
            Ok(WirePayloadFormat::Chatwoot) => return PayloadFormat::Chatwoot,
            Err(_) => self.invalid("payload_format", "is not a known payload format"),
        }
        PayloadFormat::Documented
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

    /// `stored` is what `***` stands for.
    fn headers(&mut self, stored: &BTreeMap<String, Secret>) -> BTreeMap<String, Secret> {
        let mut headers = BTreeMap::new();
        for (name, value) in &self.message.headers {
            let lower = name.to_ascii_lowercase();
            let value = if value == REDACTED {
                stored
                    .get(&lower)
                    .cloned()
                    .ok_or("\"***\" keeps a stored value, and there is none of this name")
            } else {
                Ok(Secret::new(value.as_str()))
            };
            let checked = webhook_headers::check_header(name, value.as_ref().map_or("", Secret::expose));
            match (checked, value) {
                (Err(rule), _) => self.invalid(&header_path(name), rule),
                (Ok(()), Err(rule)) => self.invalid(&header_path(name), rule),
                (Ok(()), Ok(value)) => {
                    if headers.insert(lower, value).is_some() {
                        self.invalid(&header_path(name), "is there already in another case");
                    }
                }
            }
        }
        let total = headers.iter().map(|(name, value): (&String, &Secret)| (name.as_str(), value.expose()));
        if let Err(rule) = webhook_headers::check_headers_total(total) {
            self.invalid("headers", rule);
        }
        headers
    }

    fn retry_policy(&mut self) -> RetryOverrides {
        RetryOverrides {
            max_attempts: self.max_attempts(),
            min_backoff: self.min_backoff(),
            max_backoff: self.max_backoff(),
        }
    }

    fn max_attempts(&mut self) -> Option<u32> {
        let attempts = self.message.retry_policy.as_ref()?.max_attempts;
        match u32::try_from(attempts) {
            Ok(0) => None,
            Ok(attempts) if attempts <= ATTEMPTS_MAX => Some(attempts),
            _ => {
                let rule = format_args!("must be 1 to {ATTEMPTS_MAX}, or 0 for the server's default");
                self.invalid("retry_policy.max_attempts", rule);
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

    fn backoffs_go_together(&mut self, retry: RetryOverrides, defaults: RetryPolicy) {
        let min = retry.min_backoff.unwrap_or(defaults.min_backoff);
        let Some(max) = retry.max_backoff else {
            return; // The server's default gives way to a longer minimum.
        };
        if max < min {
            let whose = if retry.min_backoff.is_some() { "" } else { ", the server's default" };
            self.invalid(
                "retry_policy.max_backoff",
                format_args!("must not be less than min_backoff ({min:?}{whose})"),
            );
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
                let rule = format_args!("must be 1 to {MAX_IN_FLIGHT_MAX}, or 0 for the server's default");
                self.invalid("max_in_flight", rule);
                None
            }
        }
    }

    fn annotations(&mut self) -> BTreeMap<String, String> {
        let annotations = &self.message.annotations;
        if annotations.len() > ANNOTATIONS_MAX {
            self.invalid("annotations", format_args!("must have at most {ANNOTATIONS_MAX} entries"));
            return BTreeMap::new();
        }
        for (key, value) in annotations {
            if !(1..=ANNOTATION_KEY_CHARS_MAX).contains(&key.chars().count()) {
                let rule = format_args!("a key must have 1 to {ANNOTATION_KEY_CHARS_MAX} characters");
                self.invalid("annotations", rule);
            }
            if value.len() > ANNOTATION_VALUE_BYTES_MAX {
                let rule = format_args!("must have at most {ANNOTATION_VALUE_BYTES_MAX} bytes");
                self.invalid(&format!("annotations[{key:?}]"), rule);
            }
        }
        if annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
            > ANNOTATIONS_BYTES_MAX
        {
            let rule = format_args!("must have at most {ANNOTATIONS_BYTES_MAX} bytes in all");
            self.invalid("annotations", rule);
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

/// A duration of the wire, if it is well-formed and not negative.
pub(super) fn to_duration(duration: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests;
