//! Subscriptions: which events are sent where, and how.

use std::fmt;

use uuid::Uuid;

use super::{
    ids::{Seq, SubscriptionKey, SubscriptionName},
    key_pair::KeyPair,
    notice::Noticed,
    time::UnixMicros,
};
use crate::proto::v1::EventType;

mod check;
mod endpoint_url;
mod event_types;
mod fields;
mod mask;
mod secrets;
mod settings;
pub mod tls;

pub use check::{check_new, check_update};
pub use endpoint_url::{has_credentials, origin_of, parse_url};
pub use event_types::EventTypes;
pub use fields::Field;
pub use mask::Mask;
pub use secrets::{
    OLDER_SECRETS_MAX, OVERLAP_DEFAULT, OVERLAP_MAX, OlderSecret, SigningSecrets, check_overlap,
};
pub use settings::{RetryOverrides, Settings, SignatureScheme};
pub use tls::{TlsOptions, TlsProfile};

/// A stored subscription. Its values have been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// Its number in the store.
    pub key: SubscriptionKey,
    /// A UUID; a later subscription of the same name has another one.
    pub uid: Uuid,
    /// The number of its changes, from 1; part of the etag.
    pub version: u64,
    /// Its name.
    pub name: SubscriptionName,
    /// The fields that its owner sets.
    pub settings: Settings,
    /// Whether deliveries are made.
    pub state: State,
    /// Human-readable reason for the state; may be empty.
    pub state_reason: String,
    /// The health of its endpoint.
    pub health: Health,
    /// What sinks were told of it.
    pub noticed: Noticed,
    /// The secrets that sign its POSTs.
    pub signing_secrets: SigningSecrets,
    /// Its creation.
    pub create_time: UnixMicros,
    /// Its last change.
    pub update_time: UnixMicros,
}

/// The health of an endpoint, as far as it survives a restart. The server measures it: a change of it changes
/// neither the version nor the update time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The start of the failure streak; `None` if the last attempt succeeded, or the streak is not recorded
    /// yet.
    pub failing_since: Option<UnixMicros>,
    /// Failed attempts of the streak when it was recorded.
    pub failures: u32,
    /// The delivery that probed the endpoint last, while the subscription was suspended.
    pub probed: Option<Seq>,
    /// Probes among the attempts of that delivery. They are not attempts of the retry policy.
    pub probes: u32,
}

impl Health {
    /// The same without the failure streak.
    pub fn forgiven(self) -> Self {
        Self { failing_since: None, failures: 0, ..self }
    }

    /// The number of probes among the attempts of a delivery.
    pub fn probes_of(self, seq: Seq) -> u32 {
        if self.probed == Some(seq) { self.probes } else { 0 }
    }
}

/// Whether deliveries are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Events are queued and delivered.
    Active,
    /// Events are queued until ResumeSubscription.
    Paused,
    /// The server stopped deliveries; events are queued.
    Suspended,
}

impl Subscription {
    /// The same without the older secrets that have expired at `now`; `None` if none has. The version stays
    /// the same.
    pub fn without_old_secrets(&self, now: UnixMicros) -> Option<Self> {
        if self.signing_secrets.older_at(now).count() == self.signing_secrets.older.len() {
            return None;
        }
        let mut changed = self.clone();
        changed.signing_secrets.forget_old(now);
        Some(changed)
    }

    /// Bytes that it counts for of the bounds on subscriptions: its texts and numbers, and a kilobyte for the rest.
    pub fn bytes(&self) -> u64 {
        self.settings.bytes() + self.name.id.as_str().len() as u64
    }

    /// The public key of the newest signatures; `None` with HMAC.
    pub fn public_key(&self) -> Option<String> {
        self.signing_secrets.newest.key_pair.as_ref().map(KeyPair::public)
    }

    /// Whether it is a sink: it receives notices, and no events.
    pub fn is_sink(&self) -> bool {
        self.settings.notices.is_some()
    }

    /// Whether it receives an event of its account.
    ///
    /// A subscription with inboxes does not receive events without an inbox, such as those of contacts.
    pub fn wants(&self, event_type: EventType, inbox_id: Option<i64>) -> bool {
        self.settings.wants_type(event_type)
            && (self.settings.inbox_ids.is_empty()
                || inbox_id.is_some_and(|inbox| self.settings.inbox_ids.contains(&inbox)))
    }

    /// Changes with every version, and differs between two subscriptions of the same name.
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
