//! A lane without order: first attempts in stored order, retries as they become due.

use std::collections::VecDeque;

use foldhash::{HashMap, HashSet, HashSetExt};

use super::read::{Read, ReadKind, before};
use crate::{
    domain::{ids::Seq, time::UnixMicros},
    store::{DuePage, PendingDelivery, PendingPage},
};

/// The delivery loop of a subscription without order.
#[derive(Debug, Default)]
pub struct UnorderedLane {
    /// The prefetch: deliveries to attempt, in this order.
    ready: VecDeque<PendingDelivery>,
    /// Memory of the prefetch.
    bytes: usize,
    /// The events of the prefetch.
    queued: HashSet<Seq>,
    /// Events whose attempt is under way.
    in_flight: HashSet<Seq>,
    /// Every delivery up to here that had no attempt was taken from the store.
    cursor: Seq,
    /// The store may have more past the cursor.
    has_backlog: bool,
    /// Time of the next retry in the store.
    next_due: Option<UnixMicros>,
    /// Time of the last timer.
    timer: Option<UnixMicros>,
    /// A read is under way. Its result is valid only in this epoch.
    reading: bool,
    epoch: u64,
    /// Deliveries that were settled or cancelled since that read began: it may have seen their earlier state.
    ended_since: HashSet<Seq>,
    /// Deliveries that may be pending again although their attempt is under way: looked for when it ends.
    look_later: HashMap<Seq, LookFor>,
}

/// The state in which a delivery may be found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum LookFor {
    Retry,
    Anything,
}

impl UnorderedLane {
    /// A lane with nothing to send up to `cursor`.
    pub fn up_to_date(cursor: Seq) -> Self {
        Self { cursor, ..Self::default() }
    }

    /// A lane with deliveries in the store.
    pub fn with_backlog(next_due: Option<UnixMicros>) -> Self {
        Self { has_backlog: true, next_due, ..Self::default() }
    }

    /// A lane that reads everything, in this epoch.
    pub(super) fn with_backlog_since(epoch: u64) -> Self {
        Self { epoch, ..Self::with_backlog(Some(UnixMicros(0))) }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// See [`super::Lane::push`].
    pub fn push(&mut self, owed: PendingDelivery, prefetch: usize) {
        let seq = owed.event.seq;
        if seq <= self.cursor {
            return;
        }
        if self.has_backlog || self.reading || self.ready.len() >= prefetch {
            self.has_backlog = true;
            return;
        }
        self.cursor = seq;
        self.enqueue(owed);
    }

    /// See [`super::Lane::feed_lagged`].
    pub fn feed_lagged(&mut self) {
        self.look_later(Seq(0), LookFor::Retry);
        // A cancellation may be missing: only the store knows which of the prefetch is still pending.
        let first = self.queued.iter().min().copied();
        self.drop_prefetch();
        self.read_again(first.unwrap_or(Seq(u64::MAX)));
    }

    /// See [`super::Lane::cancelled`].
    pub fn cancelled(&mut self, seq: Seq) {
        if self.reading {
            self.ended_since.insert(seq);
        }
        if self.queued.remove(&seq)
            && let Some(index) = self.ready.iter().position(|owed| owed.event.seq == seq)
            && let Some(owed) = self.ready.remove(index)
        {
            self.bytes -= owed.event.memory_bytes();
        }
    }

    /// See [`super::Lane::requeued`].
    pub fn requeued(&mut self, from: Seq) {
        self.look_later(from, LookFor::Anything);
        self.read_again(from);
    }

    /// See [`super::Lane::retry_requested`].
    pub fn retry_requested(&mut self, seq: Seq, due: UnixMicros) {
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
        self.has_backlog = true;
        self.next_due = Some(UnixMicros(0));
        // The result of a read under way may be out of date.
        self.reading = false;
        self.epoch += 1;
    }

    /// See [`super::Lane::take`].
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

    /// See [`super::Lane::settled`].
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

    /// See [`super::Lane::next_read`].
    pub fn next_read(&mut self, now: UnixMicros, prefetch: usize) -> Option<Read> {
        if self.reading || self.ready.len() > prefetch / 2 {
            return None;
        }
        let room = prefetch.saturating_sub(self.ready.len()).max(1);
        let read = if self.next_due.is_some_and(|due| due <= now) {
            // Deliveries of the prefetch and in flight are still due in the store and come first: read that
            // many more.
            let known = self.queued.len() + self.in_flight.len();
            // Retries that become due from now on set it again: the read may not see them.
            self.next_due = None;
            Read { kind: ReadKind::Due, limit: room + known, epoch: self.epoch }
        } else if self.has_backlog {
            // An event that does not fit during the read sets it again.
            self.has_backlog = false;
            Read { kind: ReadKind::Pending(self.cursor), limit: room, epoch: self.epoch }
        } else {
            return None;
        };
        self.reading = true;
        self.ended_since.clear();
        Some(read)
    }

    /// See [`super::Lane::take_page`].
    pub fn take_pending(&mut self, read: &Read, page: PendingPage) {
        if !self.end_read(read) {
            return;
        }
        self.cursor = self.cursor.max(page.until);
        self.has_backlog |= page.more;
        self.push_new(page.owed);
    }

    /// See [`super::Lane::take_page`].
    pub fn take_due(&mut self, read: &Read, page: DuePage) {
        if !self.end_read(read) {
            return;
        }
        self.next_due = earlier(self.next_due, page.next_due);
        self.push_new(page.owed);
    }

    /// See [`super::Lane::read_failed`].
    pub fn read_failed(&mut self, read: &Read) {
        if !self.end_read(read) {
            return;
        }
        match read.kind {
            ReadKind::Pending(_) => self.has_backlog = true,
            ReadKind::Due => self.next_due = Some(UnixMicros(0)),
            ReadKind::Scan(..) | ReadKind::Key(..) | ReadKind::Recheck(_) => {
                unreachable!("an unordered lane makes no such read")
            }
        }
    }

    /// See [`super::Lane::unload`].
    pub fn unload(&mut self) {
        self.drop_prefetch();
        self.read_again(Seq(0));
        self.timer = None;
    }

    fn drop_prefetch(&mut self) {
        self.ready = VecDeque::new();
        self.bytes = 0;
        self.queued = HashSet::new();
    }

    /// See [`super::Lane::next_timer`].
    pub fn next_timer(&mut self, now: UnixMicros) -> Option<UnixMicros> {
        if self.next_due == self.timer || self.next_due.is_some_and(|due| due <= now) {
            return None;
        }
        self.timer = self.next_due;
        self.timer
    }

    /// See [`super::Lane::timer_fired`].
    pub fn timer_fired(&mut self) {
        self.timer = None;
    }

    /// See [`super::Lane::can_take`].
    pub fn can_take(&self, max_in_flight: usize) -> bool {
        self.in_flight.len() < max_in_flight && !self.ready.is_empty()
    }

    /// See [`super::Lane::prefetch_bytes`].
    pub fn prefetch_bytes(&self) -> usize {
        self.bytes
    }

    /// See [`super::Lane::in_flight`].
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// See [`super::Lane::is_idle`].
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty()
            && self.in_flight.is_empty()
            && !self.has_backlog
            && !self.reading
            && self.next_due.is_none()
    }

    /// Ends a read. Its result is valid only if it began in this epoch.
    fn end_read(&mut self, read: &Read) -> bool {
        let is_valid = read.epoch == self.epoch;
        if is_valid {
            self.reading = false;
        }
        is_valid
    }

    fn push_new(&mut self, owed: Vec<PendingDelivery>) {
        for owed in owed {
            let seq = owed.event.seq;
            // A retry of such a delivery was noted when its attempt ended.
            let is_current = !self.ended_since.contains(&seq);
            if is_current && !self.queued.contains(&seq) && !self.in_flight.contains(&seq) {
                self.enqueue(owed);
            }
        }
    }

    fn enqueue(&mut self, owed: PendingDelivery) {
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
