//! Owed deliveries: settlements, operator actions, pages and counts.

use std::{collections::HashSet, sync::Arc};

use crate::{
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState},
        event_routing::OrderTag,
        ids::{Seq, SubscriptionKey},
        time::UnixMicros,
    },
    event::StoredEvent,
    store::error::StoreError,
};

/// The result of one attempt and the state that follows.
#[derive(Clone, Debug)]
pub struct Settlement {
    /// Which delivery.
    pub key: DeliveryKey,
    /// The attempt.
    pub attempt: Attempt,
    /// The new state of the delivery; never pending.
    pub state: DeliveryState,
}

/// A caller's action on one delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperatorAction {
    /// Make an attempt now. Refused for a delivery that succeeded.
    Retry,
    /// Make no further attempt. Cancelling twice is allowed.
    Cancel,
}

impl OperatorAction {
    /// The state after `state`; `None` if nothing changes.
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

/// Bytes of the store that an event with unfinished deliveries takes besides its own.
pub const OWED_EVENT_BYTES: u64 = 100;
/// Bytes of the store that an unfinished delivery takes.
pub const OWED_DELIVERY_BYTES: u64 = 16;

/// Unfinished deliveries, and what the store must keep for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// How many there are.
    pub deliveries: u64,
    /// Bytes of their events, each counted once, with [`OWED_EVENT_BYTES`] and [`OWED_DELIVERY_BYTES`].
    pub bytes: u64,
}

/// A delivery with an attempt still to be made.
#[derive(Clone, Debug)]
pub struct PendingDelivery {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// Attempts made since it was last queued.
    pub attempts: u32,
}

/// A page of the deliveries that wait for their first attempt.
#[derive(Clone, Debug)]
pub struct PendingPage {
    /// The deliveries, in stored order.
    pub owed: Vec<PendingDelivery>,
    /// The page covers every event up to this one. Continue after it.
    pub until: Seq,
    /// Whether more deliveries were waiting.
    pub more: bool,
}

/// A page of the deliveries that are due for another attempt.
#[derive(Clone, Debug)]
pub struct DuePage {
    /// The deliveries, the earliest due time first.
    pub owed: Vec<PendingDelivery>,
    /// The due time of the next delivery after this page.
    pub next_due: Option<UnixMicros>,
}

/// A query for owed deliveries in stored order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedQuery {
    /// Of this subscription.
    pub subscription: SubscriptionKey,
    /// Of events after this one.
    pub after: Seq,
    /// Deliveries in a page at most.
    pub limit: usize,
    /// Restriction by order key.
    pub order: OrderFilter,
}

/// A filter by order key.
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

/// A page of owed deliveries, whether they wait for the first attempt or for another.
#[derive(Clone, Debug)]
pub struct OrderedPage {
    /// The deliveries, in stored order.
    pub debts: Vec<DueDelivery>,
    /// The page covers every matching event up to this one. Continue after it.
    pub until: Seq,
    /// Whether more matching deliveries were owed.
    pub more: bool,
}

/// An owed delivery and its due time.
#[derive(Clone, Debug)]
pub struct DueDelivery {
    /// The delivery.
    pub owed: PendingDelivery,
    /// When its next attempt is due; `None` before the first one.
    pub due: Option<UnixMicros>,
}

/// The deliveries of a subscription by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueSummary {
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

impl QueueSummary {
    /// Counts one delivery.
    pub fn add(&mut self, state: DeliveryState) {
        *self.count_mut(state) += 1;
        if let DeliveryState::Retrying { due } = state {
            self.next_due = Some(self.next_due.map_or(due, |next| next.min(due)));
        }
    }

    /// Adds the counts of another subscription.
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
