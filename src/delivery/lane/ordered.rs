//! A lane that sends the events of one order key (conversation, contact or inbox) one after another, in
//! stored order. A stuck key does not hold up the others.
//!
//! The lane tracks every order key that has an unfinished delivery before the cursor. Such a delivery is
//! queued, in flight, waiting for its retry, or *skipped*: the cursor has passed it and it stays in the
//! store. So a stuck key costs a few bytes, no matter how many deliveries wait behind it.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use foldhash::HashSet;

use super::{
    order_key::{KeyQueue, Position},
    read::{LaneLimits, Read, ReadKind, before},
};
use crate::{
    domain::{event_routing::OrderTag, ids::Seq, time::UnixMicros},
    store::{OrderedPage, PendingDelivery},
};

/// Most retries requested by callers that wait to be read. With more, the lane reads everything again.
pub const RECHECKS_MAX: usize = 1024;

/// The delivery loop of an ordered subscription.
///
/// Invariants: an unfinished delivery up to the cursor is queued, in flight, to be rechecked, or at or after
/// the position from which its key is skipped. Queued deliveries lie before the cursor.
#[derive(Debug, Default)]
pub struct OrderedLane {
    keys: HashMap<OrderTag, KeyQueue>,
    /// Keys whose first delivery may be attempted, by its sequence number.
    ready: BTreeSet<(Seq, OrderTag)>,
    /// Keys that wait for a retry, by its time.
    waiting: BTreeSet<(UnixMicros, OrderTag)>,
    /// Keys with an empty queue, and the sequence number to read on from.
    unread: BTreeSet<(Seq, OrderTag)>,
    in_flight: foldhash::HashMap<Seq, OrderTag>,
    /// Deliveries in all queues.
    queued: usize,
    /// Memory of these.
    bytes: usize,
    /// Deliveries that callers asked to retry, read once the cursor is past them.
    rechecks: BTreeSet<Seq>,
    /// Those of them that were in flight: they are rechecked when the attempt ends.
    recheck_later: HashSet<Seq>,
    /// Those of them that are pending and whose key found no room. The lane tracks nothing else of that key.
    deferred: BTreeSet<Seq>,
    /// Deliveries that were cancelled in flight: no retry of theirs holds up their key.
    cancelled: HashSet<Seq>,
    cursor: Seq,
    /// The store may have more past the cursor.
    has_backlog: bool,
    /// The feed lagged: any delivery may be pending again.
    feed_lagged: bool,
    /// Time of the last timer.
    timer: Option<UnixMicros>,
    /// The read under way. Its result is valid only in this epoch.
    reading: Option<ReadKind>,
    epoch: u64,
    /// There was room for another key when that read began.
    has_room: bool,
    /// The last read was a scan: now a key has its turn.
    scanned: bool,
    /// Deliveries that were settled or cancelled since that read began: it may have seen their earlier state.
    ended_since: HashSet<Seq>,
}

impl OrderedLane {
    /// A lane with nothing to send up to `cursor`.
    pub fn up_to_date(cursor: Seq) -> Self {
        Self { cursor, ..Self::default() }
    }

    /// A lane with deliveries in the store.
    pub fn with_backlog() -> Self {
        Self { has_backlog: true, ..Self::default() }
    }

    /// A lane that reads everything, in this epoch.
    pub(super) fn with_backlog_since(epoch: u64) -> Self {
        Self { epoch, ..Self::with_backlog() }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// See [`super::Lane::push`].
    pub fn push(&mut self, owed: PendingDelivery, limits: LaneLimits) {
        let seq = owed.event.seq;
        if seq <= self.cursor {
            return;
        }
        let tag = owed.event.order_tag();
        let fits = match self.keys.get(&tag) {
            Some(known) if known.skipped.is_some() => true,
            Some(_) => self.queued < limits.prefetch,
            // A deferred delivery may have the same key, and goes first.
            None => {
                self.queued < limits.prefetch
                    && self.keys.len() < limits.order_keys_max
                    && self.deferred.is_empty()
            }
        };
        if self.has_backlog || self.reading.is_some() || !fits {
            self.has_backlog = true;
            return;
        }
        self.cursor = seq;
        self.update(tag, |queue| queue.push(owed, limits.order_key_window));
    }

    /// See [`super::Lane::feed_lagged`].
    pub fn feed_lagged(&mut self) {
        // A cancellation may be missing: only the store knows which deliveries are still pending.
        self.abandon_read();
        let queued: Vec<OrderTag> =
            self.keys.iter().filter(|(_, queue)| !queue.queue.is_empty()).map(|(key, _)| *key).collect();
        for key in queued {
            self.update(key, KeyQueue::skip_queue);
        }
        self.has_backlog = true;
        self.feed_lagged = true;
    }

    /// See [`super::Lane::retry_requested`].
    pub fn retry_requested(&mut self, seq: Seq) {
        if self.in_flight.contains_key(&seq) {
            self.recheck_later.insert(seq);
        } else {
            // Also past the cursor: a scan under way may have seen its earlier state.
            self.rechecks.insert(seq);
            if self.rechecks.len() + self.deferred.len() > RECHECKS_MAX {
                self.rewind(Seq(0));
            }
        }
    }

    /// See [`super::Lane::cancelled`].
    pub fn cancelled(&mut self, seq: Seq) {
        if self.reading.is_some() {
            self.ended_since.insert(seq);
        }
        if self.in_flight.contains_key(&seq) {
            self.cancelled.insert(seq);
        } else if let Some(key) = self.keys.iter().find(|(_, queue)| queue.has(seq)).map(|(key, _)| *key) {
            self.update(key, |queue| queue.remove(seq));
        }
    }

    /// See [`super::Lane::requeued`].
    pub fn requeued(&mut self, from: Seq) {
        self.rewind(from);
    }

    /// See [`super::Lane::take`].
    pub fn take(&mut self, max_in_flight: usize) -> Option<PendingDelivery> {
        if !self.can_take(max_in_flight) {
            return None;
        }
        let &(seq, tag) = self.ready.first()?;
        self.in_flight.insert(seq, tag);
        self.update(tag, |queue| {
            queue.in_flight = Some(seq);
            queue.queue.pop_front()
        })
    }

    /// See [`super::Lane::settled`].
    pub fn settled(&mut self, seq: Seq, due: Option<UnixMicros>) {
        let Some(tag) = self.in_flight.remove(&seq) else { return };
        if self.reading.is_some() {
            self.ended_since.insert(seq);
        }
        let was_cancelled = self.cancelled.remove(&seq);
        // The scan finds again a delivery past the cursor.
        let due = due.filter(|_| seq <= self.cursor && !was_cancelled);
        self.update(tag, |queue| {
            queue.in_flight = None;
            if let Some(due) = due {
                queue.skip_from(seq);
                if queue.queue.is_empty() && queue.skipped == Some(seq) {
                    queue.retry = Some(due);
                }
            }
        });
        if self.recheck_later.remove(&seq) {
            self.retry_requested(seq);
        }
    }

    /// See [`super::Lane::next_read`].
    pub fn next_read(&mut self, now: UnixMicros, limits: LaneLimits) -> Option<Read> {
        while let Some(&(due, tag)) = self.waiting.first()
            && due <= now
        {
            self.update(tag, |queue| queue.retry = None);
        }
        let has_room = self.keys.len() < limits.order_keys_max;
        if has_room {
            self.rechecks.append(&mut self.deferred);
        }
        if self.reading.is_some() {
            return None;
        }
        if self.feed_lagged && !self.has_backlog && self.unread.is_empty() {
            self.rewind(Seq(0));
            self.feed_lagged = false;
        }
        let has_room = self.keys.len() < limits.order_keys_max;
        // A recheck needs no room in the prefetch, and later deliveries wait for it.
        let rechecks = self.first_recheck().is_some();
        let scans = has_room && self.has_backlog;
        if !rechecks && !scans && self.unread.is_empty() {
            return None;
        }
        if !rechecks && self.queued > limits.prefetch / 2 {
            if !self.ready.is_empty() {
                return None;
            }
            self.release_queues();
        }
        let room = limits.prefetch.saturating_sub(self.queued).max(1);
        let (kind, limit) = if rechecks {
            (ReadKind::Recheck(self.rechecks.pop_first()?), 1)
        } else if scans && (self.unread.is_empty() || !self.scanned) {
            // An event that does not fit during the read sets it again.
            self.has_backlog = false;
            let skipped = self.keys.iter().filter(|(_, queue)| queue.skipped.is_some()).map(|(tag, _)| *tag);
            let kind = ReadKind::Scan(self.cursor, Arc::new(skipped.collect()));
            (kind, room.min(limits.order_keys_max - self.keys.len()))
        } else {
            let &(from, tag) = self.unread.first()?;
            (ReadKind::Key(tag, from), room.min(limits.order_key_window))
        };
        self.has_room = has_room;
        self.scanned = matches!(kind, ReadKind::Scan(..));
        self.reading = Some(kind.clone());
        self.ended_since.clear();
        Some(Read { kind, limit, epoch: self.epoch })
    }

    /// See [`super::Lane::take_page`].
    pub fn take_owed(&mut self, read: &Read, page: OrderedPage, now: UnixMicros, limits: LaneLimits) {
        if !self.end_read(read) {
            return;
        }
        match read.kind {
            ReadKind::Scan(..) => self.take_scanned(page, now, limits),
            ReadKind::Key(tag, _) => self.take_of_key(tag, page, now, limits),
            ReadKind::Recheck(seq) => self.take_rechecked(seq, &page),
            ReadKind::Pending(_) | ReadKind::Due => unreachable!("an ordered lane makes no such read"),
        }
    }

    /// See [`super::Lane::read_failed`].
    pub fn read_failed(&mut self, read: &Read) {
        if !self.end_read(read) {
            return;
        }
        match read.kind {
            ReadKind::Scan(..) => self.has_backlog = true,
            ReadKind::Recheck(seq) => drop(self.rechecks.insert(seq)),
            // The key is still among those to read.
            ReadKind::Key(..) | ReadKind::Pending(_) | ReadKind::Due => {}
        }
    }

    /// See [`super::Lane::unload`].
    pub fn unload(&mut self) {
        self.rewind(Seq(0));
        self.rechecks = BTreeSet::new();
        self.feed_lagged = false;
        self.keys.shrink_to_fit();
        self.timer = None;
    }

    /// See [`super::Lane::next_timer`].
    pub fn next_timer(&mut self, now: UnixMicros) -> Option<UnixMicros> {
        let next_due = self.waiting.first().map(|(due, _)| *due);
        if next_due == self.timer || next_due.is_some_and(|due| due <= now) {
            return None;
        }
        self.timer = next_due;
        self.timer
    }

    /// See [`super::Lane::timer_fired`].
    pub fn timer_fired(&mut self) {
        self.timer = None;
    }

    /// See [`super::Lane::can_take`].
    pub fn can_take(&self, max_in_flight: usize) -> bool {
        let first_recheck = self.first_recheck();
        let goes_first = |seq: Seq| first_recheck.is_none_or(|recheck| seq <= recheck);
        self.in_flight.len() < max_in_flight && self.ready.first().is_some_and(|(seq, _)| goes_first(*seq))
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
        self.keys.is_empty()
            && self.rechecks.is_empty()
            && self.deferred.is_empty()
            && !self.has_backlog
            && !self.feed_lagged
            && self.reading.is_none()
    }

    /// Whether the lane pauses reading until it can forget a key.
    pub fn is_full(&self, limits: LaneLimits) -> bool {
        self.has_backlog && self.keys.len() >= limits.order_keys_max
    }

    fn take_scanned(&mut self, page: OrderedPage, now: UnixMicros, limits: LaneLimits) {
        for debt in page.debts {
            let seq = debt.owed.event.seq;
            if self.in_flight.contains_key(&seq) {
                continue;
            }
            let ended = self.ended_since.contains(&seq);
            self.update(debt.owed.event.order_tag(), |queue| {
                // If its attempt ended meanwhile, only the store knows its state.
                if ended { queue.skip_from(seq) } else { queue.push_due(debt, now, limits.order_key_window) }
            });
        }
        self.cursor = self.cursor.max(page.until);
        self.has_backlog |= page.more;
    }

    fn take_of_key(&mut self, tag: OrderTag, page: OrderedPage, now: UnixMicros, limits: LaneLimits) {
        let cursor = self.cursor;
        let rest = Seq(page.until.0 + 1);
        let cancelled = mem::take(&mut self.ended_since);
        self.update(tag, |queue| {
            queue.skipped = None;
            // The scan finds deliveries past the cursor. One that was cancelled during the read is finished.
            let debts = page.debts.into_iter().take_while(|debt| debt.owed.event.seq <= cursor);
            let debts = debts.filter(|debt| !cancelled.contains(&debt.owed.event.seq));
            debts.for_each(|debt| queue.push_due(debt, now, limits.order_key_window));
            if page.more && rest <= cursor && queue.skipped.is_none() {
                queue.skipped = Some(rest);
            }
        });
    }

    fn take_rechecked(&mut self, seq: Seq, page: &OrderedPage) {
        let found = page.debts.first().filter(|debt| debt.owed.event.seq == seq);
        let Some(tag) = found.map(|debt| debt.owed.event.order_tag()) else { return };
        if self.has_room || self.keys.contains_key(&tag) {
            self.update(tag, |queue| queue.skip_from(seq));
        } else {
            self.deferred.insert(seq);
        }
    }

    /// The first delivery to recheck now, or being rechecked. Later deliveries may have the same key and wait
    /// for it.
    fn first_recheck(&self) -> Option<Seq> {
        let rechecking = match self.reading {
            Some(ReadKind::Recheck(seq)) => Some(seq),
            _ => None,
        };
        let next = self.rechecks.first().copied().filter(|seq| *seq <= self.cursor);
        rechecking.into_iter().chain(next).min()
    }

    /// Ends a read. Its result is valid only if it began in this epoch.
    fn end_read(&mut self, read: &Read) -> bool {
        let is_valid = read.epoch == self.epoch;
        if is_valid {
            self.reading = None;
        }
        is_valid
    }

    /// Ignores the result of the read under way: it may be out of date.
    fn abandon_read(&mut self) {
        if let Some(ReadKind::Recheck(seq)) = self.reading.take() {
            self.rechecks.insert(seq);
        }
        self.epoch += 1;
    }

    /// Drops the queues behind deliveries in flight.
    fn release_queues(&mut self) {
        self.keys.values_mut().for_each(KeyQueue::skip_queue);
        (self.queued, self.bytes) = (0, 0);
    }

    /// Moves the cursor to before `from` and forgets everything but the attempts in flight: the lane reads it
    /// again.
    fn rewind(&mut self, from: Seq) {
        self.recheck_later.extend(self.in_flight.keys().filter(|seq| **seq >= from));
        let first = self.keys.values().filter_map(KeyQueue::first).min();
        let from = first.map_or(from, |first| first.min(from));
        self.cursor = self.cursor.min(before(from));
        self.keys.retain(|_, queue| queue.in_flight.is_some());
        for queue in self.keys.values_mut() {
            *queue = KeyQueue { in_flight: queue.in_flight, ..KeyQueue::default() };
        }
        self.ready.clear();
        self.waiting.clear();
        self.unread.clear();
        (self.queued, self.bytes) = (0, 0);
        self.abandon_read();
        let cursor = self.cursor;
        self.rechecks.append(&mut self.deferred);
        self.rechecks.retain(|seq| *seq <= cursor);
        self.has_backlog = true;
    }

    /// Changes the queue of a key and moves the key to the set that its new position belongs to.
    fn update<T>(&mut self, key: OrderTag, change: impl FnOnce(&mut KeyQueue) -> T) -> T {
        let mut queue = self.keys.remove(&key).unwrap_or_default();
        match queue.position() {
            Position::Ready(seq) => drop(self.ready.remove(&(seq, key))),
            Position::Waiting(due) => drop(self.waiting.remove(&(due, key))),
            Position::Unread(from) => drop(self.unread.remove(&(from, key))),
            Position::InFlight | Position::Drained => {}
        }
        self.queued -= queue.queue.len();
        self.bytes -= queue.bytes();
        let changed = change(&mut queue);
        self.queued += queue.queue.len();
        self.bytes += queue.bytes();
        match queue.position() {
            Position::Ready(seq) => drop(self.ready.insert((seq, key))),
            Position::Waiting(due) => drop(self.waiting.insert((due, key))),
            Position::Unread(from) => drop(self.unread.insert((from, key))),
            Position::InFlight => {}
            Position::Drained => return changed,
        }
        self.keys.insert(key, queue);
        changed
    }
}

#[cfg(test)]
mod tests;
