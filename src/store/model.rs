//! What the store is told and what it tells: the values that [`super::Store`] speaks of.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        event_routing::EventAddress,
        ids::{EventId, Seq, SubscriptionKey, SubscriptionName},
        key_pair::KeyPair,
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

/// A subscription to be added.
#[derive(Clone, Debug)]
pub struct NewSubscription {
    /// Its name.
    pub name: SubscriptionName,
    /// What its owner decided.
    pub settings: Settings,
    /// What POSTs are signed with.
    pub signer: Signer,
    /// Makes a repetition return the first answer.
    pub request: Option<RequestKey>,
}

impl NewSubscription {
    /// The subscription that is stored for it.
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
            signing_secrets: self.signer.into(),
            create_time: now,
            update_time: now,
        }
    }
}

/// A caller's request id, and what the request was, so that its repetition is told from another request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestKey {
    /// The caller's id.
    pub id: Uuid,
    /// A digest of the request.
    pub fingerprint: [u8; 32],
}

/// What came of adding a subscription.
#[derive(Clone, Debug)]
pub struct Created {
    /// The subscription as it was when it was added.
    pub subscription: Arc<Subscription>,
    /// The request had been made before; nothing was added now.
    pub repeated: bool,
}

/// A change of a subscription.
#[derive(Clone, Debug)]
pub enum Change {
    /// Its owner's decisions; how POSTs are signed is as before.
    Settings(Box<Settings>),
    /// Its owner's decisions, how POSTs are signed among them, and the key pair for it.
    Scheme(Box<Settings>, Option<KeyPair>),
    /// Whether deliveries are made, and why.
    State(State, String),
    /// What POSTs are signed with from now on.
    Secret {
        /// The new secret, with a key pair where there was one.
        new: Signer,
        /// For how long the one so far signs as well.
        overlap: Duration,
    },
    /// How its endpoint does. The version stays.
    Health(Health),
}

impl Change {
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
            Self::Secret { new, overlap } => changed.signing_secrets.rotate(new, overlap, now),
            Self::Health(health) => {
                changed.health = health;
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

/// An event to be stored.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Where it belongs.
    pub address: EventAddress,
    /// What was published, checked, and rendered in the forms that it is sent in at once.
    pub content: EventContent,
    /// The inbox that it belongs to, if it belongs to one.
    pub inbox_id: Option<i64>,
    /// Tells this event from another one with the same id.
    pub fingerprint: u128,
}

/// What came of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its id.
    pub id: EventId,
    /// When it was stored; for a duplicate, when the first one was.
    pub create_time: UnixMicros,
    /// It was stored before; nothing was stored now.
    pub duplicate: bool,
    /// To how many subscriptions it was owed when it was stored.
    pub delivery_count: u32,
}

/// What the feed tells.
#[derive(Clone, Debug)]
pub enum QueueEvent {
    /// Events were stored, in this order.
    Events(Arc<Vec<AcceptedEvent>>),
    /// A caller wanted this delivery to be made again: it is due at this time.
    Due(DeliveryKey, UnixMicros),
    /// A caller ended this delivery.
    Cancelled(DeliveryKey),
    /// Deliveries of this subscription that were over became owed again, none of them of an event before this one.
    Requeued(SubscriptionKey, Seq),
}

impl QueueEvent {
    /// What is told of a delivery that a caller decided about, and that is in this state now.
    pub fn decided(key: DeliveryKey, state: DeliveryState) -> Option<Self> {
        match state {
            DeliveryState::Retrying { due } => Some(Self::Due(key, due)),
            DeliveryState::Cancelled => Some(Self::Cancelled(key)),
            DeliveryState::Pending | DeliveryState::Succeeded | DeliveryState::Failed => None,
        }
    }
}

/// How deliveries changed in one commit.
#[derive(Clone, Debug)]
pub struct Changes {
    /// How many changes the store had told of before these.
    pub before: u64,
    /// When they were written.
    pub time: UnixMicros,
    /// The changes.
    pub deliveries: Vec<DeliveryChange>,
}

/// How one delivery changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryChange {
    /// Which.
    pub key: DeliveryKey,
    /// Its state after that.
    pub state: DeliveryState,
    /// Attempts made by then.
    pub attempts: u32,
}

/// A stored event and those to whom it is owed.
#[derive(Clone, Debug)]
pub struct AcceptedEvent {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// To whom it is owed.
    pub subscriptions: Vec<SubscriptionKey>,
}

/// What is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionLimit {
    /// Events stored at this time or later.
    pub since: UnixMicros,
    /// At most so many bytes of events, attempts and what describes them.
    pub bytes_max: u64,
}

/// What came of a purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Events that were removed.
    pub events: u64,
    /// Bytes that are still there, as [`RetentionLimit::bytes_max`] counts them.
    pub bytes_left: u64,
}
