//! The values that [`super::Store`] takes and returns.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::error::StoreError;
use crate::{
    domain::{
        access::{AccessToken, Accounts},
        delivery::{DeliveryKey, DeliveryState},
        event_routing::EventAddress,
        ids::{EventId, Seq, SubscriptionKey, SubscriptionName},
        key_pair::KeyPair,
        notice::Noticed,
        secret::Secret,
        signature::Signer,
        subscription::{Health, Settings, State, Subscription},
        time::UnixMicros,
    },
    event::{EventContent, StoredEvent},
};

mod owed;
mod query;

pub use owed::*;
pub use query::*;

/// A new subscription.
#[derive(Clone, Debug)]
pub struct NewSubscription {
    /// Its name.
    pub name: SubscriptionName,
    /// The settings.
    pub settings: Settings,
    /// The signing secret of its requests.
    pub signer: Signer,
    /// Makes a repeated request return the first result.
    pub request: Option<RequestKey>,
}

impl NewSubscription {
    /// The subscription that the store keeps.
    pub fn into_subscription(self, key: SubscriptionKey, uid: Uuid, now: UnixMicros) -> Subscription {
        Subscription {
            key,
            uid,
            version: 1,
            name: self.name,
            settings: self.settings,
            state: State::Active,
            state_reason: String::new(),
            health: Health::default(),
            noticed: Noticed::default(),
            signing_secrets: self.signer.into(),
            create_time: now,
            update_time: now,
        }
    }
}

/// The caller's request id with a digest of the request: the same id with another digest is another request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The caller's id.
    pub id: Uuid,
    /// A digest of the request.
    pub fingerprint: [u8; 32],
}

/// A new access token, with its text, of which the store keeps only the hash.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The token.
    pub token: AccessToken,
    /// Its text.
    pub secret: Secret,
    /// Makes a repeated request return the first result.
    pub request: Option<RequestKey>,
    /// Tokens that are remembered at most, this one included.
    pub tokens_max: usize,
    /// The accounts of the administrator who creates it: of tokens for no others there may be a quarter.
    pub administrator: Accounts,
}

/// The result of adding a subscription.
#[derive(Clone, Debug)]
pub struct Created {
    /// The subscription as it was added.
    pub subscription: Arc<Subscription>,
    /// The request was made before; nothing was added.
    pub repeated: bool,
}

/// A change of a subscription.
#[derive(Clone, Debug)]
pub enum Change {
    /// New settings; the signing scheme stays.
    Settings(Box<Settings>),
    /// New settings with another signing scheme, and its key pair.
    Scheme(Box<Settings>, Option<KeyPair>),
    /// A new state and its reason.
    State(State, String),
    /// A new signing secret.
    Secret {
        /// The new secret, with a key pair where there was one.
        new: Signer,
        /// How long the previous secret signs as well.
        overlap: Duration,
        /// Makes a repeated request return the first result.
        request: Option<RequestKey>,
    },
    /// The health of the endpoint. Does not change the version.
    Health(Health),
    /// What sinks were told of it. Does not change the version.
    Noticed(Noticed),
}

impl Change {
    /// The request that makes this change, if it may be repeated.
    pub fn request(&self) -> Option<&RequestKey> {
        if let Self::Secret { request, .. } = self { request.as_ref() } else { None }
    }

    /// Whether `current` may be changed at `now`. For engines.
    ///
    /// # Errors
    ///
    /// The most older secrets sign already.
    pub(super) fn check(&self, current: &Subscription, now: UnixMicros) -> Result<(), StoreError> {
        match self {
            Self::Secret { overlap, .. }
                if !overlap.is_zero() && !current.signing_secrets.may_rotate(now) =>
            {
                Err(StoreError::TooManySecrets)
            }
            _ => Ok(()),
        }
    }

    /// `current`, changed at `now`.
    pub fn apply(self, current: &Subscription, now: UnixMicros) -> Subscription {
        let mut changed = current.clone();
        match self {
            Self::Settings(settings) => changed.override_delivery(*settings),
            Self::Scheme(settings, key_pair) => {
                changed.override_delivery(*settings);
                changed.signing_secrets.change_scheme(key_pair, now);
            }
            Self::State(state, reason) => {
                if state == State::Active {
                    changed.health = changed.health.forgiven();
                }
                changed.state = state;
                changed.state_reason = reason;
            }
            Self::Secret { new, overlap, .. } => changed.signing_secrets.rotate(new, overlap, now),
            Self::Health(health) => {
                changed.health = health;
                return changed;
            }
            Self::Noticed(noticed) => {
                changed.noticed = noticed;
                return changed;
            }
        }
        changed.signing_secrets.forget_old(now);
        changed.version += 1;
        changed.update_time = now;
        changed
    }
}

impl Subscription {
    fn override_delivery(&mut self, settings: Settings) {
        if settings.url != self.settings.url {
            self.health = self.health.forgiven();
        }
        self.settings = settings;
    }
}

/// A new event.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its account, and the id that its publisher chose, if any.
    pub address: EventAddress,
    /// The checked event. Bodies that are sent soon are rendered already.
    pub content: EventContent,
    /// The inbox that it belongs to, if it belongs to one.
    pub inbox_id: Option<i64>,
    /// Hash of the content: a repeated id with the same fingerprint is a duplicate, with another one a
    /// conflict.
    pub fingerprint: u128,
    /// The subscriptions of its account that it is for, in the order of their keys, instead of those that want its
    /// type: a notice names its sinks. Those that no longer exist are left out.
    pub recipients: Option<Vec<SubscriptionKey>>,
}

/// The result of storing one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: EventId,
    /// When it was stored; for a duplicate, when the first one was.
    pub create_time: UnixMicros,
    /// It was stored before; nothing was stored now.
    pub duplicate: bool,
    /// Deliveries made when it was stored.
    pub delivery_count: u32,
}

/// A message to the dispatcher: see [`super::Store::subscribe_accepted`].
#[derive(Clone, Debug)]
pub enum QueueEvent {
    /// Events were stored, in this order.
    Events(Arc<Vec<AcceptedEvent>>),
    /// A caller made this delivery due at this time.
    Due(DeliveryKey, UnixMicros),
    /// A caller ended this delivery, or retention found its event damaged.
    Cancelled(DeliveryKey),
    /// A replay queued deliveries to this subscription, none of an event before this one.
    Requeued(SubscriptionKey, Seq),
}

impl QueueEvent {
    /// The message for a delivery after an [`OperatorAction`].
    pub fn decided(key: DeliveryKey, state: DeliveryState) -> Option<Self> {
        match state {
            DeliveryState::Retrying { due } => Some(Self::Due(key, due)),
            DeliveryState::Cancelled => Some(Self::Cancelled(key)),
            DeliveryState::Pending | DeliveryState::Succeeded | DeliveryState::Failed => None,
        }
    }
}

/// The deliveries that one commit changed.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Number of changes published before these.
    pub before: u64,
    /// When they were written.
    pub time: UnixMicros,
    /// The changes.
    pub deliveries: Vec<DeliveryChange>,
}

/// The new state of one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryChange {
    /// Which.
    pub key: DeliveryKey,
    /// Its state after that.
    pub state: DeliveryState,
    /// Attempts made by then.
    pub attempts: u32,
}

/// A stored event and the subscriptions that it was queued for.
#[derive(Clone, Debug)]
pub struct AcceptedEvent {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// The subscriptions.
    pub subscriptions: Vec<SubscriptionKey>,
}

/// The bounds of retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionLimit {
    /// Events stored at this steady time or later.
    pub since: UnixMicros,
    /// Bytes of events, attempts and index that may be kept.
    pub bytes_max: u64,
}

/// The result of a purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Events that were removed.
    pub events: u64,
    /// Bytes left, measured as for [`RetentionLimit::bytes_max`].
    pub bytes_left: u64,
}
