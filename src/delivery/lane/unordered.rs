//! A lane that sends whatever is owed, first attempts in stored order, retries as they become due.

use std::collections::{HashMap, HashSet, VecDeque};

use super::{Read, ReadKind, before};
use crate::{
    domain::{ids::Seq, time::UnixMicros},
    store::{DuePage, Owed, PendingPage},
};

/// What is about to be sent to one subscription.
#[derive(Debug, Default)]
pub struct UnorderedLane {
    /// Deliveries to be attempted, in this order.
    ready: VecDeque<Owed>,
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
    pub fn offer(&mut self, owed: Owed, window: usize) {
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
    pub fn take(&mut self, max_in_flight: usize) -> Option<Owed> {
        if self.in_flight.len() >= max_in_flight {
            return None;
        }
        let owed = self.ready.pop_front()?;
        self.bytes -= owed.event.weight();
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

    /// The time to set a timer to, if none is set to it yet.
    pub fn arm(&mut self) -> Option<UnixMicros> {
        if self.next_due == self.armed {
            return None;
        }
        self.armed = self.next_due;
        self.armed
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

    fn push_new(&mut self, owed: Vec<Owed>) {
        for owed in owed {
            let seq = owed.event.seq;
            // If it is still to be tried again, its time was noted when its attempt ended.
            let is_news = !self.ended_since.contains(&seq);
            if is_news && !self.queued.contains(&seq) && !self.in_flight.contains(&seq) {
                self.push(owed);
            }
        }
    }

    fn push(&mut self, owed: Owed) {
        self.queued.insert(owed.event.seq);
        self.bytes += owed.event.weight();
        self.ready.push_back(owed);
    }
}

fn earlier(one: Option<UnixMicros>, other: Option<UnixMicros>) -> Option<UnixMicros> {
    one.into_iter().chain(other).min()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        domain::{event::StoredEvent, ids::EventName},
        proto::v1,
    };

    const WINDOW: usize = 4;
    const NOW: UnixMicros = UnixMicros(1_000);

    fn owed(seq: u64) -> Owed {
        let name: EventName = format!("accounts/1/events/e{seq}").parse().unwrap();
        Owed { event: Arc::new(StoredEvent::new(Seq(seq), name, NOW, v1::Event::default())), attempts: 0 }
    }

    fn page(seqs: std::ops::RangeInclusive<u64>, more: bool) -> PendingPage {
        PendingPage { until: Seq(*seqs.end()), owed: seqs.map(owed).collect(), more }
    }

    fn drain(lane: &mut UnorderedLane) -> Vec<u64> {
        let mut seqs = Vec::new();
        while let Some(owed) = lane.take(usize::MAX) {
            seqs.push(owed.event.seq.0);
            lane.settled(owed.event.seq, None);
        }
        seqs
    }

    #[test]
    fn what_fits_goes_straight_through_in_order() {
        let mut lane = UnorderedLane::up_to_date(Seq(0));
        (1..=4).for_each(|seq| lane.offer(owed(seq), WINDOW));
        assert_eq!(drain(&mut lane), [1, 2, 3, 4]);
        assert!(lane.is_idle());
    }

    #[test]
    fn what_does_not_fit_is_read_on_from_the_store_and_nothing_twice() {
        let mut lane = UnorderedLane::up_to_date(Seq(0));
        (1..=6).for_each(|seq| lane.offer(owed(seq), WINDOW));
        assert_eq!(lane.next_read(NOW, WINDOW), None, "the window is full");
        assert_eq!(drain(&mut lane), [1, 2, 3, 4]);
        let read = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(read.kind, ReadKind::Pending(Seq(4)));
        assert_eq!(lane.next_read(NOW, WINDOW), None, "one read at a time");
        lane.offer(owed(7), WINDOW); // stored while the read was under way, and seen by it
        lane.take_pending(&read, page(5..=7, false));
        assert_eq!(drain(&mut lane), [5, 6, 7]);
        let read = lane.next_read(NOW, WINDOW).unwrap();
        lane.take_pending(&read, PendingPage { owed: Vec::new(), until: Seq(7), more: false });
        lane.offer(owed(7), WINDOW); // the feed may lag behind the read
        assert_eq!(drain(&mut lane), [0_u64; 0]);
        lane.offer(owed(8), WINDOW);
        assert_eq!(drain(&mut lane), [8]);
    }

    #[test]
    fn no_more_are_in_flight_than_allowed() {
        let mut lane = UnorderedLane::up_to_date(Seq(0));
        (1..=3).for_each(|seq| lane.offer(owed(seq), WINDOW));
        assert!(lane.take(2).is_some() && lane.take(2).is_some());
        assert!(lane.take(2).is_none());
        lane.settled(Seq(1), None);
        assert_eq!(lane.take(2).unwrap().event.seq, Seq(3));
    }

    #[test]
    fn a_retry_is_read_when_it_is_due_and_not_while_it_is_held() {
        let mut lane = UnorderedLane::up_to_date(Seq(0));
        lane.offer(owed(1), WINDOW);
        lane.take(1).unwrap();
        lane.settled(Seq(1), Some(UnixMicros(NOW.0 + 5)));
        assert!(!lane.is_idle());
        assert_eq!(lane.next_read(NOW, WINDOW), None, "it is not due yet");
        let later = UnixMicros(NOW.0 + 5);
        let read = lane.next_read(later, WINDOW).unwrap();
        assert_eq!(read.kind, ReadKind::Due);
        lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
        assert_eq!(lane.next_read(later, WINDOW), None);
        lane.take(1).unwrap();
        lane.settled(Seq(1), None);
        assert!(lane.is_idle());
    }

    #[test]
    fn what_ends_during_a_read_is_not_sent_again_and_its_retry_is_not_forgotten() {
        let mut lane = UnorderedLane::up_to_date(Seq(0));
        (1..=2).for_each(|seq| lane.offer(owed(seq), WINDOW));
        lane.take(2).unwrap();
        lane.take(2).unwrap();
        lane.settled(Seq(1), Some(NOW));
        let read = lane.next_read(NOW, WINDOW).unwrap();
        lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
        lane.take(2).unwrap();
        lane.settled(Seq(2), Some(NOW));
        let read = lane.next_read(NOW, WINDOW).unwrap();
        // Both are in the store as due when it is read, and then the attempt of the first ends.
        let later = UnixMicros(NOW.0 + 5);
        lane.settled(Seq(1), Some(later));
        lane.take_due(&read, DuePage { owed: vec![owed(1), owed(2)], next_due: None });
        assert_eq!(drain(&mut lane), [2]);
        let read = lane.next_read(later, WINDOW).unwrap();
        lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
        assert_eq!(drain(&mut lane), [1]);
        assert!(lane.is_idle());
    }

    #[test]
    fn a_read_of_retries_that_failed_is_made_again() {
        let mut lane = UnorderedLane::behind(Some(NOW));
        let read = lane.next_read(NOW, WINDOW).unwrap();
        lane.read_failed(&read);
        let again = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(again.kind, ReadKind::Due);
    }

    #[test]
    fn a_parked_lane_keeps_nothing_and_reads_everything_again() {
        let mut lane = UnorderedLane::up_to_date(Seq(0));
        (1..=3).for_each(|seq| lane.offer(owed(seq), WINDOW));
        lane.take(1).unwrap();
        lane.missed();
        lane.settled(Seq(1), None);
        let stale = lane.next_read(NOW, WINDOW).unwrap();
        lane.park();
        lane.take_pending(&stale, page(4..=5, false));
        assert_eq!(drain(&mut lane), [0_u64; 0], "what was read before is not taken");
        let due = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(due.kind, ReadKind::Due);
        lane.take_due(&due, DuePage { owed: Vec::new(), next_due: None });
        let read = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(read.kind, ReadKind::Pending(Seq(0)));
        lane.take_pending(&read, page(2..=5, false));
        assert_eq!(drain(&mut lane), [2, 3, 4, 5]);
    }

    #[test]
    fn what_is_requeued_is_read_again_and_nothing_that_is_held_twice() {
        let mut lane = UnorderedLane::up_to_date(Seq(0));
        (1..=4).for_each(|seq| lane.offer(owed(seq), WINDOW));
        for seq in 1..=2 {
            lane.take(4).unwrap();
            lane.settled(Seq(seq), None);
        }
        lane.take(4).unwrap();
        // 3 is under way and 4 queued; 2 became owed again.
        lane.requeued(Seq(2));
        let due = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(due.kind, ReadKind::Due);
        lane.take_due(&due, DuePage { owed: vec![], next_due: None });
        let read = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(read.kind, ReadKind::Pending(Seq(1)));
        lane.take_pending(&read, page(2..=4, false));
        assert_eq!(drain(&mut lane), [4, 2]);
    }

    #[test]
    fn what_is_requeued_while_it_is_under_way_is_found_once_that_is_over() {
        for tell in [
            (|lane: &mut UnorderedLane| lane.requeued(Seq(1))) as fn(&mut UnorderedLane),
            |lane| lane.made_due(Seq(1), NOW),
            UnorderedLane::missed,
        ] {
            let mut lane = UnorderedLane::up_to_date(Seq(0));
            lane.offer(owed(1), WINDOW);
            lane.take(1).unwrap();
            tell(&mut lane);
            // The store has it as owed again already; the lane does not know that the attempt is over.
            while let Some(read) = lane.next_read(NOW, WINDOW) {
                match read.kind {
                    ReadKind::Due => lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None }),
                    _ => lane.take_pending(&read, page(1..=0, false)),
                }
            }
            lane.settled(Seq(1), None);
            let read = lane.next_read(NOW, WINDOW).unwrap();
            assert_eq!(read.kind, ReadKind::Due);
            lane.take_due(&read, DuePage { owed: vec![owed(1)], next_due: None });
            assert_eq!(drain(&mut lane), [1]);
        }
    }

    #[test]
    fn a_read_from_before_a_requeue_does_not_count() {
        let mut lane = UnorderedLane::up_to_date(Seq(9));
        lane.missed();
        let due = lane.next_read(NOW, WINDOW).unwrap();
        lane.take_due(&due, DuePage { owed: vec![], next_due: None });
        let stale = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(stale.kind, ReadKind::Pending(Seq(9)));
        lane.requeued(Seq(3));
        lane.take_pending(&stale, PendingPage { owed: vec![], until: Seq(20), more: false });
        let due = lane.next_read(NOW, WINDOW).unwrap();
        lane.take_due(&due, DuePage { owed: vec![], next_due: None });
        assert_eq!(lane.next_read(NOW, WINDOW).unwrap().kind, ReadKind::Pending(Seq(2)));
    }
}
