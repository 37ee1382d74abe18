//! What an ordered lane knows of one conversation, contact or inbox.

use std::collections::VecDeque;

use crate::{
    domain::{ids::Seq, time::UnixMicros},
    store::{DueDelivery, PendingDelivery},
};

/// How far the deliveries of one tag are.
#[derive(Debug, Default)]
pub(super) struct Tag {
    /// The next ones, in stored order.
    pub(super) queue: VecDeque<PendingDelivery>,
    pub(super) in_flight: Option<Seq>,
    /// What is owed from here on, up to the cursor, is not in the queue but in the store.
    pub(super) skipped: Option<Seq>,
    /// When the first of the skipped ones is tried again. Only with an empty queue.
    pub(super) retry: Option<UnixMicros>,
}

/// What is to be done with a tag.
pub(super) enum Place {
    InFlight,
    Ready(Seq),
    Waiting(UnixMicros),
    Unread(Seq),
    Over,
}

impl Tag {
    /// What is to be done with it.
    pub(super) fn place(&self) -> Place {
        match (self.in_flight, self.queue.front(), self.retry, self.skipped) {
            (Some(_), ..) => Place::InFlight,
            (None, Some(first), ..) => Place::Ready(first.event.seq),
            (None, None, Some(due), _) => Place::Waiting(due),
            (None, None, None, Some(from)) => Place::Unread(from),
            (None, None, None, None) => Place::Over,
        }
    }

    /// Adds what comes after everything that is queued or skipped. No more than `max` are queued; the rest is skipped.
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

    /// The same, but what is not due yet waits: alone if it is the next, else in the store.
    pub(super) fn push_debt(&mut self, debt: DueDelivery, now: UnixMicros, max: usize) {
        match debt.due {
            Some(due) if due > now && self.skipped.is_none() => {
                self.skipped = Some(debt.owed.event.seq);
                if self.queue.is_empty() && self.in_flight.is_none() {
                    self.retry = Some(due);
                }
            }
            _ => self.push(debt.owed, max),
        }
    }

    /// Gives back what is queued from `seq` on: it is read again.
    pub(super) fn skip_from(&mut self, seq: Seq) {
        self.queue.truncate(self.queue.partition_point(|owed| owed.event.seq < seq));
        self.skipped = Some(self.skipped.map_or(seq, |skipped| skipped.min(seq)));
        self.retry = None;
    }

    /// What its queue takes up.
    pub(super) fn bytes(&self) -> usize {
        self.queue.iter().map(|owed| owed.event.memory_bytes()).sum()
    }

    /// The first place of which the lane knows nothing but that there may be something.
    pub(super) fn first(&self) -> Option<Seq> {
        self.queue.front().map(|owed| owed.event.seq).or(self.skipped)
    }
}
