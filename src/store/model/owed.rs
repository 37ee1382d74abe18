//! What is owed, and what becomes of it.

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
pub enum OperatorAction {
    /// An attempt is made now, whatever the state but succeeded.
    Retry,
    /// No further attempt is made. Cancelling again is no fault.
    Cancel,
}

impl OperatorAction {
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
pub struct PendingDelivery {
    /// The event.
    pub event: Arc<StoredEvent>,
    /// Attempts made since it was last queued.
    pub attempts: u32,
}

/// A part of what waits in a subscription.
#[derive(Clone, Debug)]
pub struct PendingPage {
    /// The deliveries, in stored order.
    pub owed: Vec<PendingDelivery>,
    /// Everything of the subscription up to here is in this page or before it. Read on from here.
    pub until: Seq,
    /// Whether more waited when this was read.
    pub more: bool,
}

/// A part of what is to be tried again in a subscription.
#[derive(Clone, Debug)]
pub struct DuePage {
    /// The deliveries, the longest due first.
    pub owed: Vec<PendingDelivery>,
    /// When the next one is due that is not in this page.
    pub next_due: Option<UnixMicros>,
}

/// Which owed deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwedQuery {
    /// Of this subscription.
    pub subscription: SubscriptionKey,
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

/// A part of what is owed in a subscription, waiting for its first attempt or for another.
#[derive(Clone, Debug)]
pub struct OrderedPage {
    /// The deliveries, in stored order.
    pub debts: Vec<DueDelivery>,
    /// Everything that is wanted up to here is in this page or before it. Read on from here.
    pub until: Seq,
    /// Whether more of it was owed when this was read.
    pub more: bool,
}

/// A delivery that is owed, and when.
#[derive(Clone, Debug)]
pub struct DueDelivery {
    /// What.
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
