//! What the store is told and what it tells: the values that [`super::Store`] speaks of.

use std::{cmp::Reverse, collections::HashSet, sync::Arc, time::Duration};

use uuid::Uuid;

use super::StoreError;
use crate::{
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState},
        event::{EventAddress, EventContent, OrderTag, StoredEvent},
        ids::{AccountId, EventId, LaneId, Seq, SubscriptionName},
        key_pair::KeyPair,
        signature::Signer,
        subscription::{Health, Settings, State, Subscription},
        time::UnixMicros,
    },
    proto::v1::EventType,
};

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
    pub fn into_subscription(self, lane: LaneId, uid: Uuid, now: UnixMicros) -> Subscription {
        Subscription {
            lane,
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
            Self::Settings(settings) => changed.decide(*settings),
            Self::Scheme(settings, key_pair) => {
                changed.decide(*settings);
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
    fn decide(&mut self, settings: Settings) {
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
    /// To whom it is owed; each once, rising.
    pub lanes: Vec<LaneId>,
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
pub enum Fed {
    /// Events were stored, in this order.
    Events(Arc<Vec<FedEvent>>),
    /// A caller wanted this delivery to be made again: it is due at this time.
    Due(DeliveryKey, UnixMicros),
    /// A caller ended this delivery.
    Cancelled(DeliveryKey),
    /// Deliveries of this lane that were over became owed again, none of them of an event before this one.
    Requeued(LaneId, Seq),
}

impl Fed {
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
pub struct FedEvent {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// To whom it is owed.
    pub lanes: Vec<LaneId>,
}

/// How an attempt ended and what follows.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which delivery.
    pub key: DeliveryKey,
    /// The attempt.
    pub attempt: Attempt,
    /// How far the delivery is now; never pending.
    pub state: DeliveryState,
}

/// What a caller decides about a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// An attempt is made now, whatever the state but succeeded.
    Retry,
    /// No further attempt is made. Cancelling again is no fault.
    Cancel,
}

impl Decision {
    /// The state that follows `state`; `None` if it stays as it is.
    pub fn apply(self, state: DeliveryState, now: UnixMicros) -> Result<Option<DeliveryState>, StoreError> {
        match (self, state) {
            (Self::Retry, DeliveryState::Succeeded)
            | (Self::Cancel, DeliveryState::Succeeded | DeliveryState::Failed) => {
                Err(StoreError::DeliveryOver(state))
            }
            (Self::Retry, _) => Ok(Some(DeliveryState::Retrying { due: now })),
            (Self::Cancel, DeliveryState::Cancelled) => Ok(None),
            (Self::Cancel, _) => Ok(Some(DeliveryState::Cancelled)),
        }
    }
}

/// A delivery that an attempt is to be made for.
#[derive(Clone, Debug)]
pub struct Owed {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// Attempts made since it was last queued.
    pub attempts: u32,
}

/// A part of what waits in a lane.
#[derive(Clone, Debug)]
pub struct PendingPage {
    /// The deliveries, in stored order.
    pub owed: Vec<Owed>,
    /// Everything of the lane up to here is in this page or before it. Read on from here.
    pub until: Seq,
    /// Whether more waited when this was read.
    pub more: bool,
}

/// A part of what is to be tried again in a lane.
#[derive(Clone, Debug)]
pub struct DuePage {
    /// The deliveries, the longest due first.
    pub owed: Vec<Owed>,
    /// When the next one is due that is not in this page.
    pub next_due: Option<UnixMicros>,
}

/// Which owed deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedQuery {
    /// Of this lane.
    pub lane: LaneId,
    /// Of events after this one.
    pub after: Seq,
    /// At most so many.
    pub limit: usize,
    /// Of these conversations and the like.
    pub order: OrderFilter,
}

/// Which events, by what they keep their order within.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderFilter {
    /// All of them.
    Any,
    /// All but those with these tags.
    Except(Arc<HashSet<OrderTag>>),
    /// Those with this tag.
    Only(OrderTag),
}

impl OrderFilter {
    /// Whether an event with this tag is wanted.
    pub fn wants(&self, tag: OrderTag) -> bool {
        match self {
            Self::Any => true,
            Self::Except(tags) => !tags.contains(&tag),
            Self::Only(only) => *only == tag,
        }
    }
}

/// A part of what is owed in a lane, waiting for its first attempt or for another.
#[derive(Clone, Debug)]
pub struct OwedPage {
    /// The deliveries, in stored order.
    pub debts: Vec<Debt>,
    /// Everything that is wanted up to here is in this page or before it. Read on from here.
    pub until: Seq,
    /// Whether more of it was owed when this was read.
    pub more: bool,
}

/// A delivery that is owed, and when.
#[derive(Clone, Debug)]
pub struct Debt {
    /// What.
    pub owed: Owed,
    /// When its next attempt is due; `None` before the first one.
    pub due: Option<UnixMicros>,
}

/// Which events are to be owed to a subscription once more.
#[derive(Clone, Debug)]
pub struct ReplayQuery {
    /// To this one.
    pub lane: LaneId,
    /// Events of this account.
    pub account: AccountId,
    /// Of these kinds; empty means all.
    pub types: Vec<EventType>,
    /// Stored within this time.
    pub time: TimeRange,
    /// Whose delivery is over in one of these states, and has been since `changed_until`.
    pub states: Vec<DeliveryState>,
    /// A replay that is repeated does not take again what it queued itself.
    pub changed_until: UnixMicros,
    /// That were never queued for this subscription, if they are like this.
    pub never_queued: Option<Wanted>,
    /// After this place.
    pub after: Seq,
    /// Up to this place.
    pub until: Seq,
    /// At most so many.
    pub limit: usize,
}

/// What a subscription wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Events of these kinds.
    pub types: Vec<EventType>,
    /// Of these inboxes; empty means all.
    pub inbox_ids: Vec<i64>,
}

impl ReplayQuery {
    /// Whether an event is wanted, whatever became of it.
    pub fn wants_event(&self, seq: Seq, account: AccountId, event_type: EventType, time: UnixMicros) -> bool {
        account == self.account
            && seq > self.after
            && seq <= self.until
            && self.time.contains(time)
            && (self.types.is_empty() || self.types.contains(&event_type))
    }

    /// Whether an event that was never queued is wanted.
    pub fn wants_new(&self, event_type: EventType, inbox_id: Option<i64>) -> bool {
        self.never_queued.as_ref().is_some_and(|wanted| {
            wanted.types.contains(&event_type)
                && (wanted.inbox_ids.is_empty()
                    || inbox_id.is_some_and(|inbox| wanted.inbox_ids.contains(&inbox)))
        })
    }

    /// Whether an event is wanted whose delivery is in this state since then.
    pub fn wants_over(&self, state: DeliveryState, changed: UnixMicros) -> bool {
        !state.is_owed()
            && changed <= self.changed_until
            && self.states.iter().any(|wanted| wanted.is_same_kind(state))
    }
}

/// The deliveries of a lane by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneSummary {
    /// Waiting for their first attempt.
    pub pending: u64,
    /// Waiting for another attempt.
    pub retrying: u64,
    /// Arrived.
    pub succeeded: u64,
    /// Given up.
    pub failed: u64,
    /// Ended by a caller.
    pub cancelled: u64,
    /// When the next retry is due.
    pub next_due: Option<UnixMicros>,
}

impl LaneSummary {
    /// Counts one delivery.
    pub fn add(&mut self, state: DeliveryState) {
        *self.count_mut(state) += 1;
        if let DeliveryState::Retrying { due } = state {
            self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        }
    }

    /// Adds the counts of another lane.
    pub fn add_all(&mut self, other: Self) {
        self.pending += other.pending;
        self.retrying += other.retrying;
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.next_due = self.next_due.into_iter().chain(other.next_due).min();
    }

    /// How many deliveries there are in a state, whatever the time of a retry.
    pub fn count_mut(&mut self, state: DeliveryState) -> &mut u64 {
        match state {
            DeliveryState::Pending => &mut self.pending,
            DeliveryState::Retrying { .. } => &mut self.retrying,
            DeliveryState::Succeeded => &mut self.succeeded,
            DeliveryState::Failed => &mut self.failed,
            DeliveryState::Cancelled => &mut self.cancelled,
        }
    }

    /// Deliveries that are still to be made.
    pub fn owed(&self) -> u64 {
        self.pending + self.retrying
    }
}

/// What is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
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
    /// Bytes that are still there, as [`Keep::bytes_max`] counts them.
    pub bytes_left: u64,
}

/// Which events.
#[derive(Clone, Debug)]
pub struct EventQuery {
    /// Of this account.
    pub account: AccountId,
    /// Of these kinds; empty means all.
    pub types: Vec<EventType>,
    /// Stored within this time.
    pub time: TimeRange,
    /// Only those before this one.
    pub before: Option<Seq>,
    /// At most so many.
    pub limit: usize,
}

/// Which deliveries.
#[derive(Clone, Debug)]
pub struct DeliveryQuery {
    /// Of these lanes.
    pub lanes: Vec<LaneId>,
    /// In these states (the time of a retry does not matter); empty means all.
    pub states: Vec<DeliveryState>,
    /// Of this event only.
    pub event: Option<(AccountId, EventId)>,
    /// Of events stored within this time.
    pub time: TimeRange,
    /// Only those after this one in the order of the list: lower seq first, then higher lane.
    pub after: Option<DeliveryKey>,
    /// At most so many.
    pub limit: usize,
}

impl DeliveryQuery {
    /// Sorts deliveries as they are listed: the newest event first, then by lane.
    pub fn order(key: DeliveryKey) -> (Reverse<Seq>, LaneId) {
        (Reverse(key.seq), key.lane)
    }

    /// Whether deliveries in this state are wanted.
    pub fn wants_state(&self, state: DeliveryState) -> bool {
        self.states.is_empty() || self.states.iter().any(|wanted| wanted.is_same_kind(state))
    }
}

/// From `start` on and before `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// The first time that is in it.
    pub start: Option<UnixMicros>,
    /// The first time that is no longer in it.
    pub end: Option<UnixMicros>,
}

impl TimeRange {
    /// Whether `time` is in it.
    pub fn contains(&self, time: UnixMicros) -> bool {
        self.start.is_none_or(|start| start <= time) && self.end.is_none_or(|end| time < end)
    }
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T, C> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page goes on; `None` at the end.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// The same of a list that was broken off: what comes after `broken_off` was not looked at.
    pub fn cut_at(rows: Vec<T>, limit: usize, cursor: impl Fn(&T) -> C, broken_off: Option<C>) -> Self {
        let page = Self::cut(rows, limit, cursor);
        Self { next: page.next.or(broken_off), ..page }
    }

    /// The first `limit` of `rows`; that there were more tells that a page follows.
    pub fn cut(mut rows: Vec<T>, limit: usize, cursor: impl Fn(&T) -> C) -> Self {
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(cursor) } else { None };
        Self { rows, next }
    }
}

/// A delivery as it stands.
#[derive(Clone, Debug)]
pub struct DeliveryRecord {
    /// Which.
    pub key: DeliveryKey,
    /// The event.
    pub event: Arc<StoredEvent>,
    /// How far it is.
    pub state: DeliveryState,
    /// Attempts made so far.
    pub attempt_count: u32,
    /// The latest attempts, the latest last.
    pub attempts: Vec<Attempt>,
    /// When the event was stored, or first replayed to this subscription.
    pub create_time: UnixMicros,
    /// When it last changed.
    pub update_time: UnixMicros,
}
