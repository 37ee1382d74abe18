//! Wake-up times of subscriptions.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::domain::{ids::SubscriptionKey, time::UnixMicros};

/// Wake-up times, the earliest first. An entry may be out of date: it only says when to look at a
/// subscription.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(UnixMicros, SubscriptionKey)>>);

impl Timers {
    pub(super) fn set(&mut self, time: UnixMicros, subscription: SubscriptionKey) {
        self.0.push(Reverse((time, subscription)));
    }

    /// The earliest time.
    pub(super) fn next(&self) -> Option<UnixMicros> {
        self.0.peek().map(|Reverse((time, _))| *time)
    }

    /// Removes and returns a subscription whose time has come.
    pub(super) fn pop_due(&mut self, now: UnixMicros) -> Option<SubscriptionKey> {
        self.next().filter(|time| *time <= now)?;
        self.0.pop().map(|Reverse((_, subscription))| subscription)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
