//! A lane: what is about to be sent to one subscription. Pure: it is told what happened and asked what to do next.
//!
//! The store is the queue. A lane holds a bounded copy of its head (the *window*): new events come straight from the
//! feed as long as they fit; what does not fit stays in the store, the lane is *behind*, and reads on from there.

use std::{collections::HashSet, sync::Arc};

use crate::{
    domain::{
        event_routing::OrderTag,
        ids::{Seq, SubscriptionKey},
        time::UnixMicros,
    },
    store::{
        DueDelivery, DuePage, OrderFilter, OrderedPage, OwedQuery, PendingDelivery, PendingPage, Store,
        StoreError,
    },
};

mod order_key;
mod ordered;
#[cfg(test)]
mod ordered_tests;
mod unordered;

pub use ordered::OrderedLane;
pub use unordered::UnorderedLane;

/// How much a lane may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Deliveries in memory.
    pub window: usize,
    /// Conversations and the like that an ordered lane keeps apart.
    pub order_keys_max: usize,
    /// Deliveries in memory of each of these.
    pub order_key_window: usize,
}

/// What is about to be sent to one subscription.
#[derive(Debug)]
pub enum Lane {
    /// Whatever is owed may go.
    Unordered(Box<UnorderedLane>),
    /// The events of one conversation go one after another.
    Ordered(Box<OrderedLane>),
}

/// Something to be read from the store for a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// What.
    pub kind: ReadKind,
    /// At most so many.
    pub limit: usize,
    /// What it returns belongs to this stay: see [`Lane::park`].
    stay: u64,
}

/// What is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// First attempts of the events after this one.
    Pending(Seq),
    /// Retries that are due.
    Due,
    /// What is owed of the events after this one, but for these tags.
    Scan(Seq, Arc<HashSet<OrderTag>>),
    /// What is owed with this tag from this event on.
    Tag(OrderTag, Seq),
    /// This delivery, which a caller decided about.
    Visit(Seq),
}

/// What was read.
#[derive(Clone, Debug)]
pub enum ReadPage {
    /// First attempts.
    Pending(PendingPage),
    /// Retries.
    Due(DuePage),
    /// Both.
    Owed(OrderedPage),
}

impl ReadPage {
    /// What is in it.
    pub fn owed(&self) -> impl Iterator<Item = &PendingDelivery> {
        let (owed, debts): (&[PendingDelivery], &[DueDelivery]) = match self {
            Self::Pending(page) => (&page.owed, &[]),
            Self::Due(page) => (&page.owed, &[]),
            Self::Owed(page) => (&[], &page.debts),
        };
        owed.iter().chain(debts.iter().map(|debt| &debt.owed))
    }
}

impl Read {
    /// Asks the store. May wait for the disk.
    pub fn run(
        &self,
        store: &dyn Store,
        lane: SubscriptionKey,
        now: UnixMicros,
    ) -> Result<ReadPage, StoreError> {
        let owed = |after, order| {
            store.owed(&OwedQuery { subscription: lane, after, limit: self.limit, order }).map(ReadPage::Owed)
        };
        match &self.kind {
            ReadKind::Pending(after) => store.pending(lane, *after, self.limit).map(ReadPage::Pending),
            ReadKind::Due => store.due(lane, now, self.limit).map(ReadPage::Due),
            ReadKind::Scan(after, but) => owed(*after, OrderFilter::Except(Arc::clone(but))),
            ReadKind::Tag(tag, from) => owed(before(*from), OrderFilter::Only(*tag)),
            ReadKind::Visit(seq) => owed(before(*seq), OrderFilter::Any),
        }
    }
}

impl Lane {
    /// A lane that owes nothing older than the event after `cursor`.
    pub fn up_to_date(ordered: bool, cursor: Seq) -> Self {
        if ordered {
            Self::Ordered(Box::new(OrderedLane::up_to_date(cursor)))
        } else {
            Self::Unordered(Box::new(UnorderedLane::up_to_date(cursor)))
        }
    }

    /// A lane that has something in the store.
    pub fn behind(ordered: bool, next_due: Option<UnixMicros>) -> Self {
        if ordered {
            Self::Ordered(Box::new(OrderedLane::behind()))
        } else {
            Self::Unordered(Box::new(UnorderedLane::behind(next_due)))
        }
    }

    /// Begins anew as the other kind, with everything to be read again. Nothing may be in flight.
    pub fn switch(&mut self) {
        debug_assert_eq!(self.in_flight(), 0, "an order cannot be kept with what it does not know of");
        // A read that is under way for the old kind must not count for the new one, nor for a later one of the old kind.
        *self = match self {
            Self::Unordered(lane) => Self::Ordered(Box::new(OrderedLane::behind_since(lane.stay() + 1))),
            Self::Ordered(lane) => Self::Unordered(Box::new(UnorderedLane::behind_since(lane.stay() + 1))),
        };
    }

    /// Whether the events of one conversation go one after another.
    pub fn is_ordered(&self) -> bool {
        matches!(self, Self::Ordered(_))
    }

    /// Takes a new event from the feed if it fits into the window; otherwise it is read from the store later.
    pub fn offer(&mut self, owed: PendingDelivery, limits: LaneLimits) {
        match self {
            Self::Unordered(lane) => lane.offer(owed, limits.window),
            Self::Ordered(lane) => lane.offer(owed, limits),
        }
    }

    /// Notes that events may have come that were not offered, and that callers may have decided about others.
    pub fn missed(&mut self) {
        match self {
            Self::Unordered(lane) => lane.missed(),
            Self::Ordered(lane) => lane.missed(),
        }
    }

    /// Notes that a caller wants this delivery made again.
    pub fn made_due(&mut self, seq: Seq, due: UnixMicros) {
        match self {
            Self::Unordered(lane) => lane.made_due(seq, due),
            Self::Ordered(lane) => lane.made_due(seq),
        }
    }

    /// Notes that a caller ended this delivery. What is held of it is noticed when it is about to be sent.
    pub fn cancelled(&mut self, seq: Seq) {
        if let Self::Ordered(lane) = self {
            lane.cancelled(seq);
        }
    }

    /// Notes that deliveries from this one on became owed again.
    pub fn requeued(&mut self, from: Seq) {
        match self {
            Self::Unordered(lane) => lane.requeued(from),
            Self::Ordered(lane) => lane.requeued(from),
        }
    }

    /// Whether there is one to attempt, with fewer than `max_in_flight` under way.
    pub fn can_take(&self, max_in_flight: usize) -> bool {
        match self {
            Self::Unordered(lane) => lane.can_take(max_in_flight),
            Self::Ordered(lane) => lane.can_take(max_in_flight),
        }
    }

    /// About how many bytes of memory its window takes up; not what is in flight.
    pub fn window_bytes(&self) -> usize {
        match self {
            Self::Unordered(lane) => lane.window_bytes(),
            Self::Ordered(lane) => lane.window_bytes(),
        }
    }

    /// The next delivery to attempt, which is in flight from now on, if fewer than `max_in_flight` are.
    pub fn take(&mut self, max_in_flight: usize) -> Option<PendingDelivery> {
        match self {
            Self::Unordered(lane) => lane.take(max_in_flight),
            Self::Ordered(lane) => lane.take(max_in_flight),
        }
    }

    /// Notes that an attempt is over and written down; `due` is when the next one is, if there is one.
    pub fn settled(&mut self, seq: Seq, due: Option<UnixMicros>) {
        match self {
            Self::Unordered(lane) => lane.settled(seq, due),
            Self::Ordered(lane) => lane.settled(seq, due),
        }
    }

    /// What to read from the store now. One read at a time, and only once half of the window is free.
    pub fn next_read(&mut self, now: UnixMicros, limits: LaneLimits) -> Option<Read> {
        match self {
            Self::Unordered(lane) => lane.next_read(now, limits.window),
            Self::Ordered(lane) => lane.next_read(now, limits),
        }
    }

    /// Takes what was read.
    pub fn take_page(&mut self, read: &Read, page: ReadPage, now: UnixMicros, limits: LaneLimits) {
        match (self, page) {
            (Self::Unordered(lane), ReadPage::Pending(page)) => lane.take_pending(read, page),
            (Self::Unordered(lane), ReadPage::Due(page)) => lane.take_due(read, page),
            (Self::Ordered(lane), ReadPage::Owed(page)) => lane.take_owed(read, page, now, limits),
            // Read for a lane of the other kind, before it was changed.
            (Self::Unordered(_), ReadPage::Owed(_)) | (Self::Ordered(_), _) => {}
        }
    }

    /// Notes that a read failed: it is to be made again.
    pub fn read_failed(&mut self, read: &Read) {
        match self {
            Self::Unordered(lane) => lane.read_failed(read),
            Self::Ordered(lane) => lane.read_failed(read),
        }
    }

    /// Gives back the window, since nothing is to be sent for a while. It is read again from the store afterwards.
    pub fn park(&mut self) {
        match self {
            Self::Unordered(lane) => lane.park(),
            Self::Ordered(lane) => lane.park(),
        }
    }

    /// The time to set a timer to, if none is set to it yet. What is due already needs none: it is read once there is room.
    pub fn arm(&mut self, now: UnixMicros) -> Option<UnixMicros> {
        match self {
            Self::Unordered(lane) => lane.arm(now),
            Self::Ordered(lane) => lane.arm(now),
        }
    }

    /// Notes that a timer rang: none is set any more. If the clock steps back before there is room, it must be set again.
    pub fn rang(&mut self) {
        match self {
            Self::Unordered(lane) => lane.rang(),
            Self::Ordered(lane) => lane.rang(),
        }
    }

    /// How many attempts are under way.
    pub fn in_flight(&self) -> usize {
        match self {
            Self::Unordered(lane) => lane.in_flight(),
            Self::Ordered(lane) => lane.in_flight(),
        }
    }

    /// Whether nothing is held, under way or known to wait.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Unordered(lane) => lane.is_idle(),
            Self::Ordered(lane) => lane.is_idle(),
        }
    }

    /// Whether it reads no further since it keeps as many conversations apart as it may.
    pub fn is_out_of_order_keys(&self, limits: LaneLimits) -> bool {
        matches!(self, Self::Ordered(lane) if lane.is_full(limits))
    }
}

/// The place before `seq`.
fn before(seq: Seq) -> Seq {
    Seq(seq.0.saturating_sub(1))
}
