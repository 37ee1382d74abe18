//! Reads of the store for lanes, and the bounds of what lanes keep in memory.

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

/// Bounds of what a lane keeps in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneLimits {
    /// Deliveries in the prefetch.
    pub prefetch: usize,
    /// Order keys (conversations, contacts, inboxes) that an ordered lane tracks.
    pub order_keys_max: usize,
    /// Deliveries in the prefetch per order key.
    pub order_key_window: usize,
}

/// A read of the store on behalf of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The deliveries to read.
    pub kind: ReadKind,
    /// Most deliveries to read.
    pub limit: usize,
    /// Epoch of the lane when the read began. Results of an earlier epoch are ignored: see
    /// [`super::Lane::unload`].
    pub(super) epoch: u64,
}

/// The deliveries to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// Deliveries of events after this one that had no attempt yet.
    Pending(Seq),
    /// Retries that are due.
    Due,
    /// Unfinished deliveries of events after this one, except those with these order keys.
    Scan(Seq, Arc<HashSet<OrderTag>>),
    /// Unfinished deliveries with this order key, from this event on.
    Key(OrderTag, Seq),
    /// One delivery that a caller asked to retry.
    Recheck(Seq),
}

/// The result of a [`Read`].
#[derive(Clone, Debug)]
pub enum ReadPage {
    /// Deliveries without an attempt.
    Pending(PendingPage),
    /// Retries.
    Due(DuePage),
    /// Both, in stored order.
    Owed(OrderedPage),
}

impl ReadPage {
    /// The deliveries of the page.
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
    /// Reads from the store. May block on the disk.
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
            ReadKind::Key(tag, from) => owed(before(*from), OrderFilter::Only(*tag)),
            ReadKind::Recheck(seq) => owed(before(*seq), OrderFilter::Any),
        }
    }
}

/// The sequence number before `seq`.
pub(super) fn before(seq: Seq) -> Seq {
    Seq(seq.0.saturating_sub(1))
}
