//! A lane: the delivery loop of one subscription. Pure: callers report events and ask for the next step.
//!
//! The store is the queue. A lane keeps a bounded copy of its head, the *prefetch*. New events come from the
//! feed as long as they fit. The rest stays in the store: the lane then *has a backlog* and reads on from
//! there.
//!
//! A delivery that a caller cancels leaves the prefetch as soon as the feed reports it. When the feed lagged,
//! a cancellation may be missing, so the lane drops its prefetch and reads it again.

use crate::{
    domain::{ids::Seq, time::UnixMicros},
    store::PendingDelivery,
};

mod order_key;
mod ordered;
mod read;
mod unordered;

pub use ordered::OrderedLane;
pub use read::{LaneLimits, Read, ReadKind, ReadPage};
pub use unordered::UnorderedLane;

/// The delivery loop of one subscription.
#[derive(Debug)]
pub enum Lane {
    /// Sends pending deliveries in any order.
    Unordered(Box<UnorderedLane>),
    /// Sends the events of one order key one after another.
    Ordered(Box<OrderedLane>),
}

impl Lane {
    /// A lane with nothing to send up to `cursor`.
    pub fn up_to_date(ordered: bool, cursor: Seq) -> Self {
        if ordered {
            Self::Ordered(Box::new(OrderedLane::up_to_date(cursor)))
        } else {
            Self::Unordered(Box::new(UnorderedLane::up_to_date(cursor)))
        }
    }

    /// A lane with deliveries in the store.
    pub fn with_backlog(ordered: bool, next_due: Option<UnixMicros>) -> Self {
        if ordered {
            Self::Ordered(Box::new(OrderedLane::with_backlog()))
        } else {
            Self::Unordered(Box::new(UnorderedLane::with_backlog(next_due)))
        }
    }

    /// Restarts as the other kind and reads everything again. Nothing may be in flight.
    pub fn change_mode(&mut self) {
        debug_assert_eq!(
            self.in_flight(),
            0,
            "a lane cannot keep the order of attempts that it does not know"
        );
        // The new epoch rejects a read that is under way, also for a later lane of the old kind.
        *self = match self {
            Self::Unordered(lane) => {
                Self::Ordered(Box::new(OrderedLane::with_backlog_since(lane.epoch() + 1)))
            }
            Self::Ordered(lane) => {
                Self::Unordered(Box::new(UnorderedLane::with_backlog_since(lane.epoch() + 1)))
            }
        };
    }

    /// Whether the lane sends the events of one order key one after another.
    pub fn is_ordered(&self) -> bool {
        matches!(self, Self::Ordered(_))
    }

    /// Adds a new event from the feed if it fits; otherwise the lane reads it from the store later.
    pub fn push(&mut self, owed: PendingDelivery, limits: LaneLimits) {
        match self {
            Self::Unordered(lane) => lane.push(owed, limits.prefetch),
            Self::Ordered(lane) => lane.push(owed, limits),
        }
    }

    /// Handles a gap in the feed: new events, retries and cancellations may be missing. The lane reads its
    /// prefetch again before it sends any of it.
    pub fn feed_lagged(&mut self) {
        match self {
            Self::Unordered(lane) => lane.feed_lagged(),
            Self::Ordered(lane) => lane.feed_lagged(),
        }
    }

    /// Handles a caller's request to retry a delivery.
    pub fn retry_requested(&mut self, seq: Seq, due: UnixMicros) {
        match self {
            Self::Unordered(lane) => lane.retry_requested(seq, due),
            Self::Ordered(lane) => lane.retry_requested(seq),
        }
    }

    /// Handles a caller's cancellation: the delivery is not sent any more.
    pub fn cancelled(&mut self, seq: Seq) {
        match self {
            Self::Unordered(lane) => lane.cancelled(seq),
            Self::Ordered(lane) => lane.cancelled(seq),
        }
    }

    /// Handles a replay: finished deliveries, none of them before `from`, are pending again.
    pub fn requeued(&mut self, from: Seq) {
        match self {
            Self::Unordered(lane) => lane.requeued(from),
            Self::Ordered(lane) => lane.requeued(from),
        }
    }

    /// Whether a delivery is ready and fewer than `max_in_flight` attempts are under way.
    pub fn can_take(&self, max_in_flight: usize) -> bool {
        match self {
            Self::Unordered(lane) => lane.can_take(max_in_flight),
            Self::Ordered(lane) => lane.can_take(max_in_flight),
        }
    }

    /// About how many bytes of memory the prefetch uses, without attempts in flight.
    pub fn prefetch_bytes(&self) -> usize {
        match self {
            Self::Unordered(lane) => lane.prefetch_bytes(),
            Self::Ordered(lane) => lane.prefetch_bytes(),
        }
    }

    /// Takes the next delivery to attempt, if fewer than `max_in_flight` are in flight. It is in flight from
    /// now on.
    pub fn take(&mut self, max_in_flight: usize) -> Option<PendingDelivery> {
        match self {
            Self::Unordered(lane) => lane.take(max_in_flight),
            Self::Ordered(lane) => lane.take(max_in_flight),
        }
    }

    /// Handles the end of an attempt that is settled in the store. `due` is the time of the next one, if any.
    pub fn settled(&mut self, seq: Seq, due: Option<UnixMicros>) {
        match self {
            Self::Unordered(lane) => lane.settled(seq, due),
            Self::Ordered(lane) => lane.settled(seq, due),
        }
    }

    /// The next read of the store. One at a time, and only once half of the prefetch is free.
    pub fn next_read(&mut self, now: UnixMicros, limits: LaneLimits) -> Option<Read> {
        match self {
            Self::Unordered(lane) => lane.next_read(now, limits.prefetch),
            Self::Ordered(lane) => lane.next_read(now, limits),
        }
    }

    /// Takes the result of a read.
    pub fn take_page(&mut self, read: &Read, page: ReadPage, now: UnixMicros, limits: LaneLimits) {
        match (self, page) {
            (Self::Unordered(lane), ReadPage::Pending(page)) => lane.take_pending(read, page),
            (Self::Unordered(lane), ReadPage::Due(page)) => lane.take_due(read, page),
            (Self::Ordered(lane), ReadPage::Owed(page)) => lane.take_owed(read, page, now, limits),
            // The read began before the lane changed its mode.
            (Self::Unordered(_), ReadPage::Owed(_)) | (Self::Ordered(_), _) => {}
        }
    }

    /// Handles a failed read: the lane makes it again.
    pub fn read_failed(&mut self, read: &Read) {
        match self {
            Self::Unordered(lane) => lane.read_failed(read),
            Self::Ordered(lane) => lane.read_failed(read),
        }
    }

    /// Drops the prefetch of a lane that sends nothing for a while, and starts a new epoch. The lane reads
    /// everything again afterwards.
    pub fn unload(&mut self) {
        match self {
            Self::Unordered(lane) => lane.unload(),
            Self::Ordered(lane) => lane.unload(),
        }
    }

    /// The time of the next timer, unless it is set already. A delivery that is due needs none: the lane
    /// reads it once there is room.
    pub fn next_timer(&mut self, now: UnixMicros) -> Option<UnixMicros> {
        match self {
            Self::Unordered(lane) => lane.next_timer(now),
            Self::Ordered(lane) => lane.next_timer(now),
        }
    }

    /// Handles a timer: none is set any more. If the clock steps back before there is room, it must be set
    /// again.
    pub fn timer_fired(&mut self) {
        match self {
            Self::Unordered(lane) => lane.timer_fired(),
            Self::Ordered(lane) => lane.timer_fired(),
        }
    }

    /// Attempts under way.
    pub fn in_flight(&self) -> usize {
        match self {
            Self::Unordered(lane) => lane.in_flight(),
            Self::Ordered(lane) => lane.in_flight(),
        }
    }

    /// Whether the lane has nothing to send, to read or to wait for.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Unordered(lane) => lane.is_idle(),
            Self::Ordered(lane) => lane.is_idle(),
        }
    }

    /// Whether the lane pauses reading because it tracks as many order keys as it may.
    pub fn is_out_of_order_keys(&self, limits: LaneLimits) -> bool {
        matches!(self, Self::Ordered(lane) if lane.is_full(limits))
    }
}
