//! Which fields of a subscription an update changes.

use crate::{
    domain::field_violation::FieldViolations,
    proto::v1::{
        self,
        subscription::{PayloadFormat, SignatureScheme},
    },
};

/// A field that an owner may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `display_name`
    DisplayName,
    /// `url`
    Url,
    /// `event_types`
    EventTypes,
    /// `inbox_ids`
    InboxIds,
    /// `payload_format`
    PayloadFormat,
    /// `headers`
    Headers,
    /// `retry_policy`, whole
    RetryPolicy,
    /// `retry_policy.max_attempts`
    RetryMaxAttempts,
    /// `retry_policy.min_backoff`
    RetryMinBackoff,
    /// `retry_policy.max_backoff`
    RetryMaxBackoff,
    /// `timeout`
    Timeout,
    /// `max_in_flight`
    MaxInFlight,
    /// `ordered`
    Ordered,
    /// `annotations`
    Annotations,
    /// `tls`, whole
    Tls,
    /// `tls.server_name`
    TlsServerName,
    /// `tls.ca_certificates`
    TlsCaCertificates,
    /// `tls.client_certificate`
    TlsClientCertificate,
    /// `tls.client_key`
    TlsClientKey,
    /// `signature_scheme`
    SignatureScheme,
}

impl Field {
    /// Every field that stands for itself; those of the retry policy are within [`Field::RetryPolicy`], and
    /// those of TLS within [`Field::Tls`].
    const WHOLE: [Self; 13] = [
        Self::DisplayName,
        Self::Url,
        Self::EventTypes,
        Self::InboxIds,
        Self::PayloadFormat,
        Self::Headers,
        Self::RetryPolicy,
        Self::Timeout,
        Self::MaxInFlight,
        Self::Ordered,
        Self::Annotations,
        Self::Tls,
        Self::SignatureScheme,
    ];

    /// Its path in a mask, as the contract spells it.
    pub fn path(self) -> &'static str {
        match self {
            Self::DisplayName => "display_name",
            Self::Url => "url",
            Self::EventTypes => "event_types",
            Self::InboxIds => "inbox_ids",
            Self::PayloadFormat => "payload_format",
            Self::Headers => "headers",
            Self::RetryPolicy => "retry_policy",
            Self::RetryMaxAttempts => "retry_policy.max_attempts",
            Self::RetryMinBackoff => "retry_policy.min_backoff",
            Self::RetryMaxBackoff => "retry_policy.max_backoff",
            Self::Timeout => "timeout",
            Self::MaxInFlight => "max_in_flight",
            Self::Ordered => "ordered",
            Self::Annotations => "annotations",
            Self::Tls => "tls",
            Self::TlsServerName => "tls.server_name",
            Self::TlsCaCertificates => "tls.ca_certificates",
            Self::TlsClientCertificate => "tls.client_certificate",
            Self::TlsClientKey => "tls.client_key",
            Self::SignatureScheme => "signature_scheme",
        }
    }

    fn is_set_in(self, message: &v1::Subscription) -> bool {
        let policy = message.retry_policy.unwrap_or_default();
        let tls = |part: fn(&v1::TlsOptions) -> &String| {
            message.tls.as_ref().is_some_and(|tls| !part(tls).is_empty())
        };
        match self {
            Self::DisplayName => !message.display_name.is_empty(),
            Self::Url => !message.url.is_empty(),
            Self::EventTypes => !message.event_types.is_empty(),
            Self::InboxIds => !message.inbox_ids.is_empty(),
            Self::PayloadFormat => message.payload_format != i32::from(PayloadFormat::Unspecified),
            Self::Headers => !message.headers.is_empty(),
            Self::RetryPolicy => message.retry_policy.is_some(),
            Self::RetryMaxAttempts => policy.max_attempts != 0,
            Self::RetryMinBackoff => policy.min_backoff.is_some(),
            Self::RetryMaxBackoff => policy.max_backoff.is_some(),
            Self::Timeout => message.timeout.is_some(),
            Self::MaxInFlight => message.max_in_flight != 0,
            Self::Ordered => message.ordered,
            Self::Annotations => !message.annotations.is_empty(),
            Self::Tls => message.tls.is_some(),
            Self::TlsServerName => tls(|tls| &tls.server_name),
            Self::TlsCaCertificates => tls(|tls| &tls.ca_certificates),
            Self::TlsClientCertificate => tls(|tls| &tls.client_certificate),
            Self::TlsClientKey => tls(|tls| &tls.client_key),
            Self::SignatureScheme => message.signature_scheme != i32::from(SignatureScheme::Unspecified),
        }
    }
}

/// What an `update_mask` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// No mask, or one without paths: every field that the message sets.
    WhatIsSet,
    /// `*`: every field; what the message leaves unset becomes unset.
    Everything,
    /// These fields, set or not.
    These(Vec<Field>),
}

impl Mask {
    /// Reads the paths of a mask that is found at `path` in the request. Both spellings are taken: `display_name` and
    /// `displayName`.
    pub fn parse(paths: &[String], path: &str) -> Result<Self, FieldViolations> {
        if paths.is_empty() {
            return Ok(Self::WhatIsSet);
        }
        if paths == ["*"] {
            return Ok(Self::Everything);
        }
        let mut faults = FieldViolations::default();
        let mut fields = Vec::new();
        for (index, text) in paths.iter().enumerate() {
            match field(&snake_case(text)) {
                Ok(field) => fields.push(field),
                Err(rule) => faults.invalid(format!("{path}.paths[{index}]"), rule),
            }
        }
        faults.into_result(Self::These(fields))
    }

    /// The fields that an update with this `message` changes.
    pub fn fields(&self, message: &v1::Subscription) -> Vec<Field> {
        match self {
            Self::WhatIsSet => Field::WHOLE.into_iter().filter(|field| field.is_set_in(message)).collect(),
            Self::Everything => Field::WHOLE.to_vec(),
            Self::These(fields) => fields.clone(),
        }
    }
}

fn field(path: &str) -> Result<Field, &'static str> {
    Ok(match path {
        "display_name" => Field::DisplayName,
        "url" => Field::Url,
        "event_types" => Field::EventTypes,
        "inbox_ids" => Field::InboxIds,
        "payload_format" => Field::PayloadFormat,
        "headers" => Field::Headers,
        "retry_policy" => Field::RetryPolicy,
        "retry_policy.max_attempts" => Field::RetryMaxAttempts,
        "retry_policy.min_backoff" => Field::RetryMinBackoff,
        "retry_policy.max_backoff" => Field::RetryMaxBackoff,
        "timeout" => Field::Timeout,
        "max_in_flight" => Field::MaxInFlight,
        "ordered" => Field::Ordered,
        "annotations" => Field::Annotations,
        "tls" => Field::Tls,
        "tls.server_name" => Field::TlsServerName,
        "tls.ca_certificates" => Field::TlsCaCertificates,
        "tls.client_certificate" => Field::TlsClientCertificate,
        "tls.client_key" => Field::TlsClientKey,
        "signature_scheme" => Field::SignatureScheme,
        "*" => return Err("must be the only path if it is \"*\""),
        "name" => return Err("cannot be changed: it says which subscription is meant"),
        "uid" | "state" | "state_reason" | "create_time" | "update_time" | "etag" | "public_key" => {
            return Err("is output only and cannot be changed here");
        }
        _ if path.starts_with("headers.") || path.starts_with("annotations.") => {
            return Err("cannot name a single entry: name the whole map, and send it whole");
        }
        _ => return Err("is not a field of a subscription (paths start at it, for example display_name)"),
    })
}

/// `displayName` and `display_name` alike as `display_name`.
fn snake_case(path: &str) -> String {
    let mut snake = String::with_capacity(path.len() + 4);
    for letter in path.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(paths: &[&str]) -> Result<Mask, FieldViolations> {
        Mask::parse(&paths.iter().map(ToString::to_string).collect::<Vec<_>>(), "update_mask")
    }

    #[test]
    fn both_spellings_name_the_same_field() {
        for (snake, camel) in [
            ("display_name", "displayName"),
            ("event_types", "eventTypes"),
            ("retry_policy.max_attempts", "retryPolicy.maxAttempts"),
            ("tls.ca_certificates", "tls.caCertificates"),
        ] {
            assert_eq!(parse(&[snake]).unwrap(), parse(&[camel]).unwrap());
        }
    }

    #[test]
    fn a_field_is_found_by_its_path() {
        let of_policy = [Field::RetryMaxAttempts, Field::RetryMinBackoff, Field::RetryMaxBackoff];
        for known in Field::WHOLE.into_iter().chain(of_policy) {
            assert_eq!(field(known.path()), Ok(known));
        }
    }

    #[test]
    fn every_bad_path_is_named_by_its_index() {
        let faults = parse(&["url", "etag", "nonsense", "*", "headers.x"]).unwrap_err();
        let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(
            fields,
            ["update_mask.paths[1]", "update_mask.paths[2]", "update_mask.paths[3]", "update_mask.paths[4]"]
        );
    }

    #[test]
    fn without_a_mask_only_what_is_set_changes() {
        let message = v1::Subscription { url: "http://a".into(), max_in_flight: 3, ..Default::default() };
        assert_eq!(parse(&[]).unwrap().fields(&message), [Field::Url, Field::MaxInFlight]);
        assert_eq!(parse(&[]).unwrap().fields(&v1::Subscription::default()), []);
        assert_eq!(parse(&["*"]).unwrap().fields(&message).len(), Field::WHOLE.len());
    }
}
