//! A lane that sends the events of one conversation one after another, in stored order, and those of others past a
//! stuck one.
//!
//! What keeps its order together has one tag. Of every tag the lane knows how far it is, as long as something of it is
//! owed before the cursor: queued, in flight, waiting for its next attempt, or *skipped* from some place on: what the
//! lane has passed by and left in the store. So a stuck tag costs a few bytes, whatever waits behind it.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use foldhash::HashSet;

use super::{
    LaneLimits, Read, ReadKind, before,
    order_key::{Place, Tag},
};
use crate::{
    domain::{event_routing::OrderTag, ids::Seq, time::UnixMicros},
    store::{OrderedPage, PendingDelivery},
};

/// Deliveries that callers decided about and that are still to be looked at. Past it the lane reads everything again.
pub const VISITS_MAX: usize = 1024;

/// What is about to be sent to a subscription that asked for order.
///
/// Whatever is owed up to the cursor is held, in flight, to be visited, or of a tag that is skipped from there or from
/// before there. Whatever is held lies before the cursor.
#[derive(Debug, Default)]
pub struct OrderedLane {
    tags: HashMap<OrderTag, Tag>,
    /// Tags whose first delivery may be attempted, by its place.
    ready: BTreeSet<(Seq, OrderTag)>,
    /// Tags that wait for a retry, by its time.
    waiting: BTreeSet<(UnixMicros, OrderTag)>,
    /// Tags of which nothing is held, that are to be read on from a place.
    unread: BTreeSet<(Seq, OrderTag)>,
    in_flight: foldhash::HashMap<Seq, OrderTag>,
    /// Deliveries in all queues.
    held: usize,
    /// What these take up.
    bytes: usize,
    /// Deliveries that callers decided about, to be looked at once the cursor is past them.
    visits: BTreeSet<Seq>,
    /// Those of them that were in flight: they are visited once the attempt is over.
    visit_later: HashSet<Seq>,
    /// Those of them that are owed, and for whose tag there was no room. Nothing else is held of that tag.
    put_off: BTreeSet<Seq>,
    cursor: Seq,
    /// The store may have more past the cursor.
    behind: bool,
    /// Some of the feed was missed: any delivery may have become owed again.
    missed: bool,
    /// The time that a timer was last set to.
    armed: Option<UnixMicros>,
    /// The read under way; what it returns belongs to this stay.
    reading: Option<ReadKind>,
    stay: u64,
    /// There was room for another tag when that read began.
    has_room: bool,
    /// The last read was a scan: a tag has its turn.
    scanned: bool,
    /// Events whose attempt ended since that read began: it may have seen them as they were before.
    ended_since: HashSet<Seq>,
}

impl OrderedLane {
    /// A lane that owes nothing older than the event after `cursor`.
    pub fn up_to_date(cursor: Seq) -> Self {
        Self { cursor, ..Self::default() }
    }

    /// A lane that has something in the store.
    pub fn behind() -> Self {
        Self { behind: true, ..Self::default() }
    }

    /// The same, with this stay.
    pub(super) fn behind_since(stay: u64) -> Self {
        Self { stay, ..Self::behind() }
    }

    pub(super) fn stay(&self) -> u64 {
        self.stay
    }

    /// See [`super::Lane::offer`].
    pub fn offer(&mut self, owed: PendingDelivery, limits: LaneLimits) {
        let seq = owed.event.seq;
        if seq <= self.cursor {
            return;
        }
        let tag = owed.event.order_tag();
        let fits = match self.tags.get(&tag) {
            Some(known) if known.skipped.is_some() => true,
            Some(_) => self.held < limits.window,
            // What was put off may be of the same tag, and comes first.
            None => {
                self.held < limits.window
                    && self.tags.len() < limits.order_keys_max
                    && self.put_off.is_empty()
            }
        };
        if self.behind || self.reading.is_some() || !fits {
            self.behind = true;
            return;
        }
        self.cursor = seq;
        self.change(tag, |tag| tag.push(owed, limits.order_key_window));
    }

    /// See [`super::Lane::missed`].
    pub fn missed(&mut self) {
        self.behind = true;
        self.missed = true;
    }

    /// See [`super::Lane::made_due`].
    pub fn made_due(&mut self, seq: Seq) {
        if self.in_flight.contains_key(&seq) {
            self.visit_later.insert(seq);
        } else {
            // Also past the cursor: a scan under way may have seen it as it was before.
            self.visits.insert(seq);
            if self.visits.len() + self.put_off.len() > VISITS_MAX {
                self.rewind(Seq(0));
            }
        }
    }

    /// See [`super::Lane::cancelled`].
    pub fn cancelled(&mut self, seq: Seq) {
        let waits = |tag: &OrderTag| self.tags[tag].skipped == Some(seq);
        if let Some(tag) = self.waiting.iter().map(|(_, tag)| *tag).find(waits) {
            self.change(tag, |tag| tag.retry = None);
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
        self.change(tag, |tag| {
            tag.in_flight = Some(seq);
            tag.queue.pop_front()
        })
    }

    /// See [`super::Lane::settled`].
    pub fn settled(&mut self, seq: Seq, due: Option<UnixMicros>) {
        let Some(tag) = self.in_flight.remove(&seq) else { return };
        if self.reading.is_some() {
            self.ended_since.insert(seq);
        }
        // What lies past the cursor is found again by the scan.
        let due = due.filter(|_| seq <= self.cursor);
        self.change(tag, |tag| {
            tag.in_flight = None;
            if let Some(due) = due {
                tag.skip_from(seq);
                if tag.queue.is_empty() && tag.skipped == Some(seq) {
                    tag.retry = Some(due);
                }
            }
        });
        if self.visit_later.remove(&seq) {
            self.made_due(seq);
        }
    }

    /// See [`super::Lane::next_read`].
    pub fn next_read(&mut self, now: UnixMicros, limits: LaneLimits) -> Option<Read> {
        while let Some(&(due, tag)) = self.waiting.first()
            && due <= now
        {
            self.change(tag, |tag| tag.retry = None);
        }
        let has_room = self.tags.len() < limits.order_keys_max;
        if has_room {
            self.visits.append(&mut self.put_off);
        }
        if self.reading.is_some() {
            return None;
        }
        if self.missed && !self.behind && self.unread.is_empty() {
            self.rewind(Seq(0));
            self.missed = false;
        }
        let has_room = self.tags.len() < limits.order_keys_max;
        // Visits take no place in the window, and what comes after them waits for them.
        let visits = self.first_visit().is_some();
        let scans = has_room && self.behind;
        if !visits && !scans && self.unread.is_empty() {
            return None;
        }
        if !visits && self.held > limits.window / 2 {
            if !self.ready.is_empty() {
                return None;
            }
            self.give_back();
        }
        let room = limits.window.saturating_sub(self.held).max(1);
        let (kind, limit) = if visits {
            (ReadKind::Visit(self.visits.pop_first()?), 1)
        } else if scans && (self.unread.is_empty() || !self.scanned) {
            // What is offered and refused during the read sets it again.
            self.behind = false;
            let skipped = self.tags.iter().filter(|(_, tag)| tag.skipped.is_some()).map(|(tag, _)| *tag);
            let kind = ReadKind::Scan(self.cursor, Arc::new(skipped.collect()));
            (kind, room.min(limits.order_keys_max - self.tags.len()))
        } else {
            let &(from, tag) = self.unread.first()?;
            (ReadKind::Tag(tag, from), room.min(limits.order_key_window))
        };
        self.has_room = has_room;
        self.scanned = matches!(kind, ReadKind::Scan(..));
        self.reading = Some(kind.clone());
        self.ended_since.clear();
        Some(Read { kind, limit, stay: self.stay })
    }

    /// See [`super::Lane::take_page`].
    pub fn take_owed(&mut self, read: &Read, page: OrderedPage, now: UnixMicros, limits: LaneLimits) {
        if !self.end_read(read) {
            return;
        }
        match read.kind {
            ReadKind::Scan(..) => self.take_scanned(page, now, limits),
            ReadKind::Tag(tag, _) => self.take_of_tag(tag, page, now, limits),
            ReadKind::Visit(seq) => self.take_visited(seq, &page),
            ReadKind::Pending(_) | ReadKind::Due => unreachable!("an ordered lane asks for no such read"),
        }
    }

    /// See [`super::Lane::read_failed`].
    pub fn read_failed(&mut self, read: &Read) {
        if !self.end_read(read) {
            return;
        }
        match read.kind {
            ReadKind::Scan(..) => self.behind = true,
            ReadKind::Visit(seq) => drop(self.visits.insert(seq)),
            // The tag is still there as one that is to be read.
            ReadKind::Tag(..) | ReadKind::Pending(_) | ReadKind::Due => {}
        }
    }

    /// See [`super::Lane::park`].
    pub fn park(&mut self) {
        self.rewind(Seq(0));
        self.visits = BTreeSet::new();
        self.missed = false;
        self.tags.shrink_to_fit();
        self.armed = None;
    }

    /// See [`super::Lane::arm`].
    pub fn arm(&mut self, now: UnixMicros) -> Option<UnixMicros> {
        let next_due = self.waiting.first().map(|(due, _)| *due);
        if next_due == self.armed || next_due.is_some_and(|due| due <= now) {
            return None;
        }
        self.armed = next_due;
        self.armed
    }

    /// See [`super::Lane::rang`].
    pub fn rang(&mut self) {
        self.armed = None;
    }

    /// See [`super::Lane::can_take`].
    pub fn can_take(&self, max_in_flight: usize) -> bool {
        let first_visit = self.first_visit();
        let goes_first = |seq: Seq| first_visit.is_none_or(|visit| seq <= visit);
        self.in_flight.len() < max_in_flight && self.ready.first().is_some_and(|(seq, _)| goes_first(*seq))
    }

    /// See [`super::Lane::window_bytes`].
    pub fn window_bytes(&self) -> usize {
        self.bytes
    }

    /// See [`super::Lane::in_flight`].
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// See [`super::Lane::is_idle`].
    pub fn is_idle(&self) -> bool {
        self.tags.is_empty()
            && self.visits.is_empty()
            && self.put_off.is_empty()
            && !self.behind
            && !self.missed
            && self.reading.is_none()
    }

    /// Whether it reads no further until it can forget a tag.
    pub fn is_full(&self, limits: LaneLimits) -> bool {
        self.behind && self.tags.len() >= limits.order_keys_max
    }

    fn take_scanned(&mut self, page: OrderedPage, now: UnixMicros, limits: LaneLimits) {
        for debt in page.debts {
            let seq = debt.owed.event.seq;
            if self.in_flight.contains_key(&seq) {
                continue;
            }
            let ended = self.ended_since.contains(&seq);
            self.change(debt.owed.event.order_tag(), |tag| {
                // If it ended meanwhile, only the store knows how.
                if ended { tag.skip_from(seq) } else { tag.push_debt(debt, now, limits.order_key_window) }
            });
        }
        self.cursor = self.cursor.max(page.until);
        self.behind |= page.more;
    }

    fn take_of_tag(&mut self, tag: OrderTag, page: OrderedPage, now: UnixMicros, limits: LaneLimits) {
        let cursor = self.cursor;
        let rest = Seq(page.until.0 + 1);
        self.change(tag, |tag| {
            tag.skipped = None;
            // What lies past the cursor is found by the scan.
            let debts = page.debts.into_iter().take_while(|debt| debt.owed.event.seq <= cursor);
            debts.for_each(|debt| tag.push_debt(debt, now, limits.order_key_window));
            if page.more && rest <= cursor && tag.skipped.is_none() {
                tag.skipped = Some(rest);
            }
        });
    }

    fn take_visited(&mut self, seq: Seq, page: &OrderedPage) {
        let found = page.debts.first().filter(|debt| debt.owed.event.seq == seq);
        let Some(tag) = found.map(|debt| debt.owed.event.order_tag()) else { return };
        if self.has_room || self.tags.contains_key(&tag) {
            self.change(tag, |tag| tag.skip_from(seq));
        } else {
            self.put_off.insert(seq);
        }
    }

    /// The first delivery that is to be visited now, or is being visited. What follows it may be of the same tag.
    fn first_visit(&self) -> Option<Seq> {
        let visiting = match self.reading {
            Some(ReadKind::Visit(seq)) => Some(seq),
            _ => None,
        };
        let next = self.visits.first().copied().filter(|seq| *seq <= self.cursor);
        visiting.into_iter().chain(next).min()
    }

    /// Whether the read still counts.
    fn end_read(&mut self, read: &Read) -> bool {
        let counts = read.stay == self.stay;
        if counts {
            self.reading = None;
        }
        counts
    }

    /// Gives back what is queued behind deliveries in flight.
    fn give_back(&mut self) {
        for tag in self.tags.values_mut() {
            if let Some(first) = tag.queue.front() {
                tag.skip_from(first.event.seq);
            }
        }
        (self.held, self.bytes) = (0, 0);
    }

    /// Goes back to before `from` and forgets everything but what is in flight: all of it is read again.
    fn rewind(&mut self, from: Seq) {
        self.visit_later.extend(self.in_flight.keys().filter(|seq| **seq >= from));
        let first = self.tags.values().filter_map(Tag::first).min();
        let from = first.map_or(from, |first| first.min(from));
        self.cursor = self.cursor.min(before(from));
        self.tags.retain(|_, tag| tag.in_flight.is_some());
        for tag in self.tags.values_mut() {
            *tag = Tag { in_flight: tag.in_flight, ..Tag::default() };
        }
        self.ready.clear();
        self.waiting.clear();
        self.unread.clear();
        (self.held, self.bytes) = (0, 0);
        if let Some(ReadKind::Visit(seq)) = mem::take(&mut self.reading) {
            self.visits.insert(seq);
        }
        let cursor = self.cursor;
        self.visits.append(&mut self.put_off);
        self.visits.retain(|seq| *seq <= cursor);
        self.behind = true;
        self.stay += 1;
    }

    /// Changes a tag, and puts it where it belongs then.
    fn change<T>(&mut self, key: OrderTag, change: impl FnOnce(&mut Tag) -> T) -> T {
        let mut tag = self.tags.remove(&key).unwrap_or_default();
        match tag.place() {
            Place::Ready(seq) => drop(self.ready.remove(&(seq, key))),
            Place::Waiting(due) => drop(self.waiting.remove(&(due, key))),
            Place::Unread(from) => drop(self.unread.remove(&(from, key))),
            Place::InFlight | Place::Over => {}
        }
        self.held -= tag.queue.len();
        self.bytes -= tag.bytes();
        let changed = change(&mut tag);
        self.held += tag.queue.len();
        self.bytes += tag.bytes();
        match tag.place() {
            Place::Ready(seq) => drop(self.ready.insert((seq, key))),
            Place::Waiting(due) => drop(self.waiting.insert((due, key))),
            Place::Unread(from) => drop(self.unread.insert((from, key))),
            Place::InFlight => {}
            Place::Over => return changed,
        }
        self.tags.insert(key, tag);
        changed
    }
}
