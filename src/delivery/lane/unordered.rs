//! A lane that sends whatever is owed, first attempts in stored order, retries as they become due.

use std::collections::VecDeque;

use foldhash::{HashMap, HashSet, HashSetExt};

use super::{Read, ReadKind, before};
use crate::{
    domain::{ids::Seq, time::UnixMicros},
    store::{DuePage, PendingDelivery, PendingPage},
};

/// What is about to be sent to one subscription.
#[derive(Debug, Default)]
pub struct UnorderedLane {
    /// Deliveries to be attempted, in this order.
    ready: VecDeque<PendingDelivery>,
    /// What these take up.
    bytes: usize,
    /// Which events these are.
    queued: HashSet<Seq>,
    /// Events whose attempt is under way.
    in_flight: HashSet<Seq>,
    /// Every delivery up to here that waits for its first attempt was taken from the store.
    cursor: Seq,
    /// The store may have more past the cursor.
    behind: bool,
    /// When the store has something to try again.
    next_due: Option<UnixMicros>,
    /// The time that a timer was last set to.
    armed: Option<UnixMicros>,
    /// A read is under way; what it returns belongs to this stay (see [`UnorderedLane::park`]).
    reading: bool,
    stay: u64,
    /// Events whose attempt ended since that read began: it may have seen them as they were before.
    ended_since: HashSet<Seq>,
    /// What may have become owed again while its attempt was under way: looked for once that is over.
    look_later: HashMap<Seq, LookFor>,
}

/// As what a delivery may be owed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LookFor {
    Retry,
    Anything,
}

impl UnorderedLane {
    /// A lane that owes nothing older than the event after `cursor`.
    pub fn up_to_date(cursor: Seq) -> Self {
        Self { cursor, ..Self::default() }
    }

    /// A lane that has something in the store.
    pub fn behind(next_due: Option<UnixMicros>) -> Self {
        Self { behind: true, next_due, ..Self::default() }
    }

    /// A lane of which everything is to be read, with this stay.
    pub(super) fn behind_since(stay: u64) -> Self {
        Self { stay, ..Self::behind(Some(UnixMicros(0))) }
    }

    pub(super) fn stay(&self) -> u64 {
        self.stay
    }

    /// Takes a new event from the feed if it fits into the window; otherwise it is read from the store later.
    pub fn offer(&mut self, owed: PendingDelivery, window: usize) {
        let seq = owed.event.seq;
        if seq <= self.cursor {
            return;
        }
        if self.behind || self.reading || self.ready.len() >= window {
            self.behind = true;
            return;
        }
        self.cursor = seq;
        self.push(owed);
    }

    /// Notes that events may have come that were not offered.
    pub fn missed(&mut self) {
        self.look_later(Seq(0), LookFor::Retry);
        self.behind = true;
        self.next_due = Some(UnixMicros(0));
    }

    /// See [`super::Lane::requeued`].
    pub fn requeued(&mut self, from: Seq) {
        self.look_later(from, LookFor::Anything);
        self.read_again(from);
    }

    /// See [`super::Lane::made_due`].
    pub fn made_due(&mut self, seq: Seq, due: UnixMicros) {
        if self.in_flight.contains(&seq) {
            self.look_later.entry(seq).or_insert(LookFor::Retry);
        }
        self.next_due = earlier(self.next_due, Some(due));
    }

    fn look_later(&mut self, from: Seq, what: LookFor) {
        for seq in self.in_flight.iter().filter(|seq| **seq >= from) {
            let entry = self.look_later.entry(*seq).or_insert(what);
            *entry = what.max(*entry);
        }
    }

    fn read_again(&mut self, from: Seq) {
        self.cursor = self.cursor.min(before(from));
        self.behind = true;
        self.next_due = Some(UnixMicros(0));
        // What a read under way returns may be from before.
        self.reading = false;
        self.stay += 1;
    }

    /// The next delivery to attempt, which is in flight from now on, if fewer than `max_in_flight` are.
    pub fn take(&mut self, max_in_flight: usize) -> Option<PendingDelivery> {
        if self.in_flight.len() >= max_in_flight {
            return None;
        }
        let owed = self.ready.pop_front()?;
        self.bytes -= owed.event.memory_bytes();
        self.queued.remove(&owed.event.seq);
        self.in_flight.insert(owed.event.seq);
        Some(owed)
    }

    /// Notes that an attempt is over and written down; `due` is when the next one is, if there is one.
    pub fn settled(&mut self, seq: Seq, due: Option<UnixMicros>) {
        self.in_flight.remove(&seq);
        self.next_due = earlier(self.next_due, due);
        if self.reading {
            self.ended_since.insert(seq);
        }
        match self.look_later.remove(&seq) {
            Some(LookFor::Anything) => self.read_again(seq),
            Some(LookFor::Retry) => self.next_due = Some(UnixMicros(0)),
            None => {}
        }
    }

    /// What to read from the store now. One read at a time, and only once half of the window is free.
    pub fn next_read(&mut self, now: UnixMicros, window: usize) -> Option<Read> {
        if self.reading || self.ready.len() > window / 2 {
            return None;
        }
        let room = window.saturating_sub(self.ready.len()).max(1);
        let read = if self.next_due.is_some_and(|due| due <= now) {
            // What is held is still due in the store and comes first: ask for so many more.
            let held = self.queued.len() + self.in_flight.len();
            // What becomes due from now on is noted anew: the read may not see it.
            self.next_due = None;
            Read { kind: ReadKind::Due, limit: room + held, stay: self.stay }
        } else if self.behind {
            // What is offered and refused during the read sets it again.
            self.behind = false;
            Read { kind: ReadKind::Pending(self.cursor), limit: room, stay: self.stay }
        } else {
            return None;
        };
        self.reading = true;
        self.ended_since.clear();
        Some(read)
    }

    /// Takes what was read.
    pub fn take_pending(&mut self, read: &Read, page: PendingPage) {
        if !self.end_read(read) {
            return;
        }
        self.cursor = self.cursor.max(page.until);
        self.behind |= page.more;
        self.push_new(page.owed);
    }

    /// Takes what was read.
    pub fn take_due(&mut self, read: &Read, page: DuePage) {
        if !self.end_read(read) {
            return;
        }
        self.next_due = earlier(self.next_due, page.next_due);
        self.push_new(page.owed);
    }

    /// Notes that a read failed: it is to be made again.
    pub fn read_failed(&mut self, read: &Read) {
        if !self.end_read(read) {
            return;
        }
        match read.kind {
            ReadKind::Pending(_) => self.behind = true,
            ReadKind::Due => self.next_due = Some(UnixMicros(0)),
            ReadKind::Scan(..) | ReadKind::Tag(..) | ReadKind::Visit(_) => {
                unreachable!("an unordered lane asks for no such read")
            }
        }
    }

    /// Gives back the window, since nothing is to be sent for a while. It is read again from the store afterwards.
    pub fn park(&mut self) {
        self.ready = VecDeque::new();
        self.bytes = 0;
        self.queued = HashSet::new();
        self.cursor = Seq(0);
        self.behind = true;
        self.next_due = Some(UnixMicros(0));
        self.armed = None;
        self.reading = false;
        self.stay += 1;
    }

    /// See [`super::Lane::arm`].
    pub fn arm(&mut self, now: UnixMicros) -> Option<UnixMicros> {
        if self.next_due == self.armed || self.next_due.is_some_and(|due| due <= now) {
            return None;
        }
        self.armed = self.next_due;
        self.armed
    }

    /// See [`super::Lane::rang`].
    pub fn rang(&mut self) {
        self.armed = None;
    }

    /// See [`super::Lane::can_take`].
    pub fn can_take(&self, max_in_flight: usize) -> bool {
        self.in_flight.len() < max_in_flight && !self.ready.is_empty()
    }

    /// See [`super::Lane::window_bytes`].
    pub fn window_bytes(&self) -> usize {
        self.bytes
    }

    /// How many attempts are under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether nothing is held, under way or known to wait.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && self.in_flight.is_empty()
            && !self.behind
            && !self.reading
            && self.next_due.is_none()
    }

    /// Whether the read still counts.
    fn end_read(&mut self, read: &Read) -> bool {
        let counts = read.stay == self.stay;
        if counts {
            self.reading = false;
        }
        counts
    }

    fn push_new(&mut self, owed: Vec<PendingDelivery>) {
        for owed in owed {
            let seq = owed.event.seq;
            // If it is still to be tried again, its time was noted when its attempt ended.
            let is_news = !self.ended_since.contains(&seq);
            if is_news && !self.queued.contains(&seq) && !self.in_flight.contains(&seq) {
                self.push(owed);
            }
        }
    }

    fn push(&mut self, owed: PendingDelivery) {
        self.queued.insert(owed.event.seq);
        self.bytes += owed.event.memory_bytes();
        self.ready.push_back(owed);
    }
}

fn earlier(one: Option<UnixMicros>, other: Option<UnixMicros>) -> Option<UnixMicros> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests;
