//! What Tidings remembers: the registry of subscriptions, and the ledger of events, deliveries and attempts.
//!
//! [`Store`] is the contract; `conformance` is its proof, run against every engine. `sled` is the engine of the
//! gateway, `memory` the reference that says in the plainest way what an engine must do.

use std::{
    cmp::Reverse,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::{broadcast, oneshot};
use uuid::Uuid;

use crate::domain::{
    delivery::{Attempt, DeliveryKey, DeliveryState},
    event::{EventAddress, StoredEvent},
    ids::{AccountId, EventId, LaneId, Seq, SubscriptionName},
    secret::Secret,
    subscription::{Settings, State, Subscription},
    time::UnixMicros,
};
use crate::proto::v1::{self, EventType};

mod changes;
#[cfg(test)]
mod conformance;
pub mod memory;
pub mod registry;
pub mod sled;

pub use registry::Registry;

/// Groups of events that a listener of [`Store::feed`] may be behind before it is told that it missed some.
pub const FEED_GROUPS_MAX: usize = 64;

/// Groups of changes that a listener of [`Store::changes`] may be behind before it is told that it missed some.
pub const CHANGES_GROUPS_MAX: usize = 256;

/// Remembers subscriptions, events, deliveries and attempts.
///
/// # Promises
///
/// * *Durable*: when a [`Commit`] resolves to `Ok`, what it stands for survives a crash of the process and of the
///   machine. What failed or was never answered is wholly there or wholly absent after a restart.
/// * *Detached*: a call takes effect whether or not its [`Commit`] is awaited. Dropping it loses only the answer.
/// * *Atomic*: the events of one [`Store::accept`] are stored together with all their deliveries, or not at all.
/// * *Idempotent*: within an account, an event id is stored once.
/// * *Ordered*: events get rising [`Seq`]s in the order in which they are stored, and rising (or equal) times. A
///   reader that sees an event sees every earlier one.
/// * *Read your writes*: what a resolved commit stored is visible to every later call, and to [`Registry`] before.
/// * *In one state*: every delivery is in exactly one [`DeliveryState`]; the counts of [`Store::lane_summary`] add up
///   to the deliveries ever made for the lane.
///
/// Reads may wait for the disk: call them where blocking is allowed.
pub trait Store: Send + Sync + 'static {
    /// The subscriptions, in memory and always current.
    fn registry(&self) -> &Registry;

    /// Adds a subscription.
    fn create_subscription(&self, new: NewSubscription) -> Commit<Created>;

    /// Changes a subscription, if it is still at the version that the change was made for.
    fn update_subscription(
        &self,
        lane: LaneId,
        expected_version: u64,
        change: Change,
    ) -> Commit<Arc<Subscription>>;

    /// Removes a subscription with its deliveries. [`StoreError::Owed`] if some are owed, unless `force`.
    fn delete_subscription(&self, lane: LaneId, expected_version: u64, force: bool) -> Commit<()>;

    /// Stores events with the deliveries that they owe: all, or none. The answers are in the order of the events.
    ///
    /// A repeated id with the same fingerprint is answered as [`Accepted::duplicate`] and stored once, also within one
    /// call. [`StoreError::EventExists`] where the fingerprint differs.
    fn accept(&self, events: Vec<NewEvent>) -> Commit<Vec<Accepted>>;

    /// Tells of every group of events as it is stored, in order, and of what a caller made due. A listener that falls
    /// behind is told that it missed some, and reads them with [`Store::pending`] and [`Store::due`].
    fn feed(&self) -> broadcast::Receiver<Fed>;

    /// Tells how deliveries change, group by group, in order. A listener that falls behind is told that it missed some.
    fn changes(&self) -> broadcast::Receiver<Arc<Changes>>;

    /// Writes down how attempts ended. A settlement of a delivery that is over changes nothing, but that the attempt of
    /// one that was cancelled meanwhile is written down.
    fn settle(&self, settlements: Vec<Settlement>) -> Commit<()>;

    /// Does to a delivery what a caller decides, and tells its state after that. [`StoreError::DeliveryNotFound`] if there
    /// is none, [`StoreError::DeliveryOver`] if its state does not allow it.
    fn decide(&self, key: DeliveryKey, decision: Decision) -> Commit<DeliveryState>;

    /// How far a delivery is; `None` if there is none. Does not wait for the disk.
    fn state(&self, key: DeliveryKey) -> Option<DeliveryState>;

    /// The deliveries of a lane that wait for their first attempt, after `after`, in stored order, at most `limit`.
    fn pending(&self, lane: LaneId, after: Seq, limit: usize) -> Result<PendingPage, StoreError>;

    /// The deliveries of a lane whose next attempt is due at `now` or before, the longest due first, at most `limit`.
    fn due(&self, lane: LaneId, now: UnixMicros, limit: usize) -> Result<DuePage, StoreError>;

    /// What a lane owes and has settled. Does not wait for the disk.
    fn lane_summary(&self, lane: LaneId) -> LaneSummary;

    /// When the oldest event was stored that is still owed to one of these lanes.
    fn oldest_owed(&self, lanes: &[LaneId]) -> Option<UnixMicros>;

    /// One event by its name.
    fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError>;

    /// Events of an account, newest first.
    fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, StoreError>;

    /// One delivery with its latest attempts, the latest last.
    fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError>;

    /// Deliveries, those of the newest events first, each with its last attempt only.
    fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, StoreError>;

    /// Makes everything durable and stops; every later write fails with [`StoreError::Closed`]. Safe to repeat.
    fn close(&self) -> Result<(), StoreError>;
}

/// Why the store did not do as asked. A caller acts differently on each.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The account has a subscription of this name.
    #[error("subscription {0} exists already")]
    NameTaken(SubscriptionName),
    /// The account has a subscription with this URL: the one named.
    #[error("subscription {0} has this URL already")]
    UrlTaken(SubscriptionName),
    /// The request id was used for another request.
    #[error("the request id was used before for another request")]
    RequestIdReused,
    /// There is no such subscription.
    #[error("there is no such subscription")]
    SubscriptionNotFound,
    /// The subscription has changed since it was read.
    #[error("the subscription has changed since")]
    VersionMismatch,
    /// Deliveries are still owed.
    #[error("{0} deliveries are not yet made")]
    Owed(u64),
    /// An event with this id but another content is stored. `index` counts the events of the call from 0.
    #[error("event {id} is stored with another content")]
    EventExists {
        /// Which event of the call.
        index: usize,
        /// Its id.
        id: EventId,
    },
    /// There is no such delivery.
    #[error("there is no such delivery")]
    DeliveryNotFound,
    /// The delivery is over, in this state.
    #[error("the delivery is over")]
    DeliveryOver(DeliveryState),
    /// Too much waits to be written: see the bounds of the engine.
    #[error("too many writes are waiting")]
    Busy,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The disk or what is on it failed.
    #[error("storage failed: {0}")]
    Failed(String),
}

/// A subscription to be added.
#[derive(Clone, Debug)]
pub struct NewSubscription {
    /// Its name.
    pub name: SubscriptionName,
    /// What its owner decided.
    pub settings: Settings,
    /// What POSTs are signed with.
    pub signing_secret: Secret,
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
            signing_secret: self.signing_secret,
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
    /// Its owner's decisions.
    Settings(Box<Settings>),
    /// Whether deliveries are made, and why.
    State(State, String),
}

impl Change {
    /// `current`, changed at `now`.
    pub fn apply(self, current: &Subscription, now: UnixMicros) -> Subscription {
        let mut changed = current.clone();
        match self {
            Self::Settings(settings) => changed.settings = *settings,
            Self::State(state, reason) => {
                changed.state = state;
                changed.state_reason = reason;
            }
        }
        changed.version += 1;
        changed.update_time = now;
        changed
    }
}

/// An event to be stored.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Where it belongs.
    pub address: EventAddress,
    /// What was published, checked, with `name`, `type` and `create_time` unset.
    pub event: v1::Event,
    /// Its encoding: what is written.
    pub encoded: Vec<u8>,
    /// Its kind.
    pub event_type: EventType,
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
    /// A delivery of this lane is due at this time.
    Due(LaneId, UnixMicros),
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
    /// Attempts made so far.
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
    /// When it last changed.
    pub update_time: UnixMicros,
}

/// The answer to a write, once it is on disk. Dropping it does not undo the write.
#[derive(Debug)]
pub struct Commit<T>(oneshot::Receiver<Result<T, StoreError>>);

impl<T> Commit<T> {
    /// A commit and what resolves it.
    pub fn pair() -> (oneshot::Sender<Result<T, StoreError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }

    /// A commit that is resolved already.
    pub fn ready(result: Result<T, StoreError>) -> Self {
        let (sender, commit) = Self::pair();
        drop(sender.send(result));
        commit
    }
}

impl<T> Future for Commit<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A writer that is gone without an answer has stopped.
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}
