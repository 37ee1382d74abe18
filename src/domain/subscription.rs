//! A subscription: who wants which events, and how they are sent.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use url::Url;
use uuid::Uuid;

use super::{
    event_routing::EventRouting,
    ids::{Seq, SubscriptionKey, SubscriptionName},
    key_pair::KeyPair,
    payload_format::PayloadFormat,
    retry::RetryPolicy,
    secret::Secret,
    time::UnixMicros,
};
use crate::proto::v1::EventType;

mod check;
mod endpoint_url;
mod fields;
mod mask;
mod secrets;
pub mod tls;

pub use check::{check_new, check_update};
pub use endpoint_url::parse_url;
pub use fields::Field;
pub use mask::Mask;
pub use secrets::{
    OLDER_SECRETS_MAX, OVERLAP_DEFAULT, OVERLAP_MAX, OlderSecret, SigningSecrets, check_overlap,
};
pub use tls::{TlsOptions, TlsProfile};

/// A stored subscription. Its values have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Its number within the store.
    pub key: SubscriptionKey,
    /// A UUID that no later subscription of the same name shares.
    pub uid: Uuid,
    /// Counts its changes, from 1. The etag is made of it.
    pub version: u64,
    /// Its name.
    pub name: SubscriptionName,
    /// What its owner decides.
    pub settings: Settings,
    /// Whether deliveries are made.
    pub state: State,
    /// Why the state is what it is; may be empty.
    pub state_reason: String,
    /// How its endpoint does.
    pub health: Health,
    /// What POSTs are signed with.
    pub signing_secrets: SigningSecrets,
    /// When it was created.
    pub create_time: UnixMicros,
    /// When it last changed.
    pub update_time: UnixMicros,
}

/// What the owner of a subscription decides. Built by the checks at the edge only.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// For people; at most 63 characters.
    pub display_name: String,
    /// Where events are POSTed: absolute, http or https, no user info, no fragment.
    pub url: Url,
    /// The kinds wanted: at least one, each once, none unspecified, in the owner's order.
    pub event_types: Vec<EventType>,
    /// Only events of these inboxes; empty means all.
    pub inbox_ids: Vec<i64>,
    /// The form of the body.
    pub payload_format: PayloadFormat,
    /// Headers sent with every POST, names in lower case.
    pub headers: BTreeMap<String, Secret>,
    /// Overrides of the server's retry policy.
    pub retry: RetryOverrides,
    /// How long one POST may take; `None` is the server's default.
    pub timeout: Option<Duration>,
    /// POSTs under way at once; `None` is the server's default.
    pub max_in_flight: Option<u16>,
    /// Whether the events of one conversation go one after another.
    pub ordered: bool,
    /// For the client's own use.
    pub annotations: BTreeMap<String, String>,
    /// How an https endpoint is known; `None` is the server's way. Never there with an http URL.
    pub tls: Option<Arc<TlsProfile>>,
    /// How POSTs are signed; the newest of the signing secrets has a key pair if it is by Ed25519.
    pub signature_scheme: SignatureScheme,
}

impl Settings {
    /// The settings of a subscription to `event_types` at `url`, with everything else unset.
    pub fn new(url: Url, event_types: Vec<EventType>) -> Self {
        Self {
            display_name: String::new(),
            url,
            event_types,
            inbox_ids: Vec::new(),
            payload_format: PayloadFormat::Documented,
            headers: BTreeMap::new(),
            retry: RetryOverrides::default(),
            timeout: None,
            max_in_flight: None,
            ordered: false,
            annotations: BTreeMap::new(),
            tls: None,
            signature_scheme: SignatureScheme::default(),
        }
    }

    /// The TLS options; all of them unset if there are none.
    pub fn tls_options(&self) -> TlsOptions {
        self.tls.as_ref().map(|tls| tls.options().clone()).unwrap_or_default()
    }
}

/// How the endpoint of a subscription does, as far as that is to survive a restart. No decision of anybody's: a change of
/// it leaves the version and the time of the last change as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Since when every attempt has failed; `None` if the last one succeeded, or it was not yet noted that it fails.
    pub failing_since: Option<UnixMicros>,
    /// How many have failed since then, when that was noted.
    pub failures: u32,
    /// The delivery that it was probed with last, while it was suspended.
    pub probed: Option<Seq>,
    /// How many attempts of that delivery were probes. They do not count as attempts of its policy.
    pub probes: u32,
}

impl Health {
    /// Forgets that it failed.
    pub fn forgiven(self) -> Self {
        Self { failing_since: None, failures: 0, ..self }
    }

    /// How many attempts of a delivery were probes.
    pub fn probes_of(self, seq: Seq) -> u32 {
        if self.probed == Some(seq) { self.probes } else { 0 }
    }
}

/// The parts of a retry policy that a subscription sets itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOverrides {
    /// Attempts in all, 1 to 50.
    pub max_attempts: Option<u32>,
    /// The first wait.
    pub min_backoff: Option<Duration>,
    /// The longest wait.
    pub max_backoff: Option<Duration>,
}

impl RetryOverrides {
    /// `defaults`, with what is overridden put in its place.
    pub fn over(self, defaults: RetryPolicy) -> RetryPolicy {
        let min_backoff = self.min_backoff.unwrap_or(defaults.min_backoff);
        RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(defaults.max_attempts),
            min_backoff,
            // Only one of the two may be overridden; the wait must not shrink then.
            max_backoff: self.max_backoff.unwrap_or(defaults.max_backoff).max(min_backoff),
        }
    }
}

/// Whether deliveries are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Events are queued and delivered.
    Active,
    /// Events are queued and wait for ResumeSubscription.
    Paused,
    /// The server stopped delivering; events are queued.
    Suspended,
}

/// How POSTs are signed (`Subscription.signature_scheme` of the contract).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignatureScheme {
    /// `v1`: whoever verifies knows the secret.
    #[default]
    HmacSha256,
    /// `v1a`: whoever verifies knows the public key.
    Ed25519,
}

impl Subscription {
    /// The same without the older secrets that do not sign at `now`, nor later; `None` if there are none. No decision of anybody's:
    /// the version stays.
    pub fn without_old_secrets(&self, now: UnixMicros) -> Option<Self> {
        if self.signing_secrets.older_at(now).count() == self.signing_secrets.older.len() {
            return None;
        }
        let mut changed = self.clone();
        changed.signing_secrets.forget_old(now);
        Some(changed)
    }

    /// The public key that belongs to the newest signatures; `None` where they are made with a secret.
    pub fn public_key(&self) -> Option<String> {
        self.signing_secrets.newest.key_pair.as_ref().map(KeyPair::public)
    }

    /// Whether an event of its account is for it.
    ///
    /// An event that belongs to no inbox (a contact's) is not for a subscription that names inboxes.
    pub fn wants(&self, facts: &EventRouting) -> bool {
        self.settings.event_types.contains(&facts.event_type)
            && (self.settings.inbox_ids.is_empty()
                || facts.inbox_id.is_some_and(|inbox| self.settings.inbox_ids.contains(&inbox)))
    }

    /// Changes whenever the subscription does, and differs between two of the same name.
    pub fn etag(&self) -> String {
        format!("\"{:x}-{}\"", self.key.0, self.version)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
        })
    }
}
