//! The fields of a subscription that its owner sets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use url::Url;

use super::{
    event_types::EventTypes,
    tls::{TlsOptions, TlsProfile},
};
use crate::{
    domain::{
        give_up::GiveUpStatuses, notice::NoticeKinds, payload_format::PayloadFormat, rate_limit::RateLimit,
        retry::RetryPolicy, secret::Secret,
    },
    proto::v1::EventType,
};

/// The settings of a subscription. Built by [`check_new`](super::check_new) and
/// [`check_update`](super::check_update).
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Human-readable name; at most 63 characters.
    pub display_name: String,
    /// The endpoint: an absolute http or https URL without user info and fragment.
    pub url: Url,
    /// The notices that it receives, if it is a sink. It gets no events then.
    pub notices: Option<NoticeKinds>,
    /// The event types.
    pub event_types: EventTypes,
    /// Only events of these inboxes; empty means all.
    pub inbox_ids: Vec<i64>,
    /// The form of the body.
    pub payload_format: PayloadFormat,
    /// Extra headers of every POST, with names in lower case.
    pub headers: BTreeMap<String, Secret>,
    /// Overrides of the server's retry policy.
    pub retry: RetryOverrides,
    /// The timeout of one POST; `None` for the server's default.
    pub timeout: Option<Duration>,
    /// Most concurrent POSTs; `None` for the server's default.
    pub max_in_flight: Option<u16>,
    /// The bound on the rate of POSTs; `None` for no bound.
    pub rate_limit: Option<RateLimit>,
    /// Whether the events of one conversation are sent in order, one after another.
    pub ordered: bool,
    /// Labels for the client's own use.
    pub annotations: BTreeMap<String, String>,
    /// TLS options; `None` for the server's defaults. Never set with an http URL.
    pub tls: Option<Arc<TlsProfile>>,
    /// The signature scheme of POSTs. With Ed25519 the newest signing secret has a key pair.
    pub signature_scheme: SignatureScheme,
}

/// Bytes that a subscription counts for besides its texts and numbers.
pub const SUBSCRIPTION_BYTES: u64 = 1024;

impl Settings {
    /// Bytes of their texts and numbers, and a kilobyte for the rest.
    pub fn bytes(&self) -> u64 {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.expose().len());
        let annotations = self.annotations.iter().map(|(key, value)| key.len() + value.len());
        let tls = self.tls.as_ref().map_or(0, |tls| {
            let TlsOptions { server_name, ca_certificates, client_certificate, client_key } = tls.options();
            let key = client_key.as_ref().map_or(0, |key| key.expose().len());
            server_name.len() + ca_certificates.len() + client_certificate.len() + key
        });
        let numbers =
            self.inbox_ids.len() * size_of::<i64>() + self.event_types.listed().len() * size_of::<i32>();
        let texts = self.url.as_str().len() + self.display_name.len();
        let bytes = headers.chain(annotations).sum::<usize>() + tls + numbers + texts;
        bytes as u64 + SUBSCRIPTION_BYTES
    }

    /// The settings of a subscription to `event_types` at `url`, with everything else unset.
    pub fn new(url: Url, event_types: Vec<EventType>) -> Self {
        Self {
            display_name: String::new(),
            url,
            notices: None,
            event_types: event_types.into(),
            inbox_ids: Vec::new(),
            payload_format: PayloadFormat::Documented,
            headers: BTreeMap::new(),
            retry: RetryOverrides::default(),
            timeout: None,
            max_in_flight: None,
            rate_limit: None,
            ordered: false,
            annotations: BTreeMap::new(),
            tls: None,
            signature_scheme: SignatureScheme::default(),
        }
    }

    /// Whether events of this type are asked for, and have a body in the payload format.
    pub fn wants_type(&self, event_type: EventType) -> bool {
        self.event_types.wants(event_type) && self.payload_format.has_body_of(event_type)
    }

    /// The TLS options; all of them unset if there are none.
    pub fn tls_options(&self) -> TlsOptions {
        self.tls.as_ref().map(|tls| tls.options().clone()).unwrap_or_default()
    }
}

/// The signature scheme of POSTs (`Subscription.signature_scheme` of the contract).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignatureScheme {
    /// `v1`: receivers verify with the secret.
    #[default]
    HmacSha256,
    /// `v1a`: receivers verify with the public key.
    Ed25519,
}

/// The parts of the retry policy that a subscription overrides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOverrides {
    /// Most attempts, 1 to 50.
    pub max_attempts: Option<u32>,
    /// The first wait.
    pub min_backoff: Option<Duration>,
    /// The longest wait.
    pub max_backoff: Option<Duration>,
    /// Responses after which a delivery fails at once. The server's default has none.
    pub give_up: GiveUpStatuses,
}

impl RetryOverrides {
    /// `defaults` with the overridden parts replaced.
    pub fn over(self, defaults: RetryPolicy) -> RetryPolicy {
        let min_backoff = self.min_backoff.unwrap_or(defaults.min_backoff);
        RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(defaults.max_attempts),
            min_backoff,
            // If only the minimum is overridden, it may exceed the default maximum.
            max_backoff: self.max_backoff.unwrap_or(defaults.max_backoff).max(min_backoff),
            give_up: self.give_up,
        }
    }
}
