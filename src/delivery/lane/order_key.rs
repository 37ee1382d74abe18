//! The deliveries of one order key (a conversation, a contact or an inbox) in an ordered lane.

use std::collections::VecDeque;

use crate::{
    domain::{ids::Seq, time::UnixMicros},
    store::{DueDelivery, PendingDelivery},
};

/// The deliveries of one order key.
#[derive(Debug, Default)]
pub(super) struct KeyQueue {
    /// The next deliveries, in stored order.
    pub(super) queue: VecDeque<PendingDelivery>,
    pub(super) in_flight: Option<Seq>,
    /// Unfinished deliveries from here on, up to the cursor, are not in the queue but in the store.
    pub(super) skipped: Option<Seq>,
    /// Time of the retry of the first skipped delivery. Only with an empty queue.
    pub(super) retry: Option<UnixMicros>,
}

/// The next step for an order key.
pub(super) enum Position {
    InFlight,
    Ready(Seq),
    Waiting(UnixMicros),
    Unread(Seq),
    Drained,
}

impl KeyQueue {
    /// The next step.
    pub(super) fn position(&self) -> Position {
        match (self.in_flight, self.queue.front(), self.retry, self.skipped) {
            (Some(_), ..) => Position::InFlight,
            (None, Some(first), ..) => Position::Ready(first.event.seq),
            (None, None, Some(due), _) => Position::Waiting(due),
            (None, None, None, Some(from)) => Position::Unread(from),
            (None, None, None, None) => Position::Drained,
        }
    }

    /// Adds a delivery after all that are queued or skipped. At most `max` are queued; the rest is skipped.
    pub(super) fn push(&mut self, owed: PendingDelivery, max: usize) {
        if self.skipped.is_some() {
            return;
        }
        if self.queue.len() >= max {
            self.skipped = Some(owed.event.seq);
        } else {
            self.queue.push_back(owed);
        }
    }

    /// Adds a delivery that may be a retry. One that is not due yet blocks the key if it is next; otherwise
    /// the lane skips it and reads it later.
    pub(super) fn push_due(&mut self, delivery: DueDelivery, now: UnixMicros, max: usize) {
        match delivery.due {
            Some(due) if due > now && self.skipped.is_none() => {
                self.skipped = Some(delivery.owed.event.seq);
                if self.queue.is_empty() && self.in_flight.is_none() {
                    self.retry = Some(due);
                }
            }
            _ => self.push(delivery.owed, max),
        }
    }

    /// Drops the queue from `seq` on: the lane reads it again.
    pub(super) fn skip_from(&mut self, seq: Seq) {
        self.queue.truncate(self.queue.partition_point(|owed| owed.event.seq < seq));
        self.skipped = Some(self.skipped.map_or(seq, |skipped| skipped.min(seq)));
        self.retry = None;
    }

    /// Drops the whole queue: the lane reads it again.
    pub(super) fn skip_queue(&mut self) {
        if let Some(first) = self.queue.front() {
            self.skip_from(first.event.seq);
        }
    }

    /// Whether a delivery is queued, or the first that is skipped.
    pub(super) fn has(&self, seq: Seq) -> bool {
        self.skipped == Some(seq) || self.index_of(seq).is_some()
    }

    /// Removes a cancelled delivery: the next one need not wait for it.
    pub(super) fn remove(&mut self, seq: Seq) {
        match self.index_of(seq) {
            Some(index) => drop(self.queue.remove(index)),
            None if self.skipped == Some(seq) => self.retry = None,
            None => {}
        }
    }

    fn index_of(&self, seq: Seq) -> Option<usize> {
        self.queue.binary_search_by_key(&seq, |owed| owed.event.seq).ok()
    }

    /// Memory of the queue.
    pub(super) fn bytes(&self) -> usize {
        self.queue.iter().map(|owed| owed.event.memory_bytes()).sum()
    }

    /// The first delivery that is queued or skipped.
    pub(super) fn first(&self) -> Option<Seq> {
        self.queue.front().map(|owed| owed.event.seq).or(self.skipped)
    }
}
