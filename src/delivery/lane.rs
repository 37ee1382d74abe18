//! A lane: what is about to be sent to one subscription. Pure: it is told what happened and asked what to do next.
//!
//! The store is the queue. A lane holds a bounded copy of its head (the *window*): new events come straight from the
//! feed as long as they fit; what does not fit stays in the store, the lane is *behind*, and reads on from there.

use std::collections::{HashSet, VecDeque};

use crate::{
    domain::{ids::Seq, time::UnixMicros},
    store::{DuePage, Owed, PendingPage},
};

/// What is about to be sent to one subscription.
#[derive(Debug, Default)]
pub struct Lane {
    /// Deliveries to be attempted, in this order.
    ready: VecDeque<Owed>,
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
    /// A read is under way; what it returns belongs to this stay (see [`Lane::park`]).
    reading: bool,
    stay: u64,
    /// Events whose attempt ended since that read began: it may have seen them as they were before.
    ended_since: HashSet<Seq>,
}

/// Something to be read from the store for a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// What.
    pub kind: ReadKind,
    /// At most so many.
    pub limit: usize,
    stay: u64,
}

/// What is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// First attempts of the events after this one.
    Pending(Seq),
    /// Retries that are due.
    Due,
}

impl Lane {
    /// A lane that owes nothing older than the event after `cursor`.
    pub fn up_to_date(cursor: Seq) -> Self {
        Self { cursor, ..Self::default() }
    }

    /// A lane that has something in the store.
    pub fn behind(next_due: Option<UnixMicros>) -> Self {
        Self { behind: true, next_due, ..Self::default() }
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
        self.behind = true;
    }

    /// The next delivery to attempt, which is in flight from now on, if fewer than `max_in_flight` are.
    pub fn take(&mut self, max_in_flight: usize) -> Option<Owed> {
        if self.in_flight.len() >= max_in_flight {
            return None;
        }
        let owed = self.ready.pop_front()?;
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
    }

    /// Notes that the store has something to try again at `due`.
    pub fn due_at(&mut self, due: UnixMicros) {
        self.next_due = earlier(self.next_due, Some(due));
    }

    /// What to read from the store now. One read at a time, and only once half of the window is free.
    pub fn next_read(&mut self, now: UnixMicros, window: usize) -> Option<Read> {
        if self.reading || self.ready.len() > window / 2 {
            return None;
        }
        let room = window - self.ready.len();
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
    pub fn take_pending(&mut self, read: Read, page: PendingPage) {
        if !self.end_read(read) {
            return;
        }
        self.cursor = self.cursor.max(page.until);
        self.behind |= page.more;
        self.push_new(page.owed);
    }

    /// Takes what was read.
    pub fn take_due(&mut self, read: Read, page: DuePage) {
        if !self.end_read(read) {
            return;
        }
        self.next_due = earlier(self.next_due, page.next_due);
        self.push_new(page.owed);
    }

    /// Notes that a read failed: it is to be made again.
    pub fn read_failed(&mut self, read: Read) {
        if !self.end_read(read) {
            return;
        }
        match read.kind {
            ReadKind::Pending(_) => self.behind = true,
            ReadKind::Due => self.next_due = Some(UnixMicros(0)),
        }
    }

    /// Gives back the window, since nothing is to be sent for a while. It is read again from the store afterwards.
    pub fn park(&mut self) {
        self.ready = VecDeque::new();
        self.queued = HashSet::new();
        self.cursor = Seq(0);
        self.behind = true;
        self.next_due = Some(UnixMicros(0));
        self.armed = None;
        self.reading = false;
        self.stay += 1;
    }

    /// The time to set a timer to, if none is set to it yet. What is due already needs none: it is read once there is room.
    pub fn arm(&mut self, now: UnixMicros) -> Option<UnixMicros> {
        if self.next_due == self.armed || self.next_due.is_some_and(|due| due <= now) {
            return None;
        }
        self.armed = self.next_due;
        self.armed
    }

    /// Notes that a timer rang: it is set no more. If the clock steps back before there is room, it must be set again.
    pub fn rang(&mut self) {
        self.armed = None;
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
    fn end_read(&mut self, read: Read) -> bool {
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

    fn drain(lane: &mut Lane) -> Vec<u64> {
        let mut seqs = Vec::new();
        while let Some(owed) = lane.take(usize::MAX) {
            seqs.push(owed.event.seq.0);
            lane.settled(owed.event.seq, None);
        }
        seqs
    }

    #[test]
    fn what_fits_goes_straight_through_in_order() {
        let mut lane = Lane::up_to_date(Seq(0));
        (1..=4).for_each(|seq| lane.offer(owed(seq), WINDOW));
        assert_eq!(drain(&mut lane), [1, 2, 3, 4]);
        assert!(lane.is_idle());
    }

    #[test]
    fn what_does_not_fit_is_read_on_from_the_store_and_nothing_twice() {
        let mut lane = Lane::up_to_date(Seq(0));
        (1..=6).for_each(|seq| lane.offer(owed(seq), WINDOW));
        assert_eq!(lane.next_read(NOW, WINDOW), None, "the window is full");
        assert_eq!(drain(&mut lane), [1, 2, 3, 4]);
        let read = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(read.kind, ReadKind::Pending(Seq(4)));
        assert_eq!(lane.next_read(NOW, WINDOW), None, "one read at a time");
        lane.offer(owed(7), WINDOW); // stored while the read was under way, and seen by it
        lane.take_pending(read, page(5..=7, false));
        assert_eq!(drain(&mut lane), [5, 6, 7]);
        let read = lane.next_read(NOW, WINDOW).unwrap();
        lane.take_pending(read, PendingPage { owed: Vec::new(), until: Seq(7), more: false });
        lane.offer(owed(7), WINDOW); // the feed may lag behind the read
        assert_eq!(drain(&mut lane), [0_u64; 0]);
        lane.offer(owed(8), WINDOW);
        assert_eq!(drain(&mut lane), [8]);
    }

    #[test]
    fn no_more_are_in_flight_than_allowed() {
        let mut lane = Lane::up_to_date(Seq(0));
        (1..=3).for_each(|seq| lane.offer(owed(seq), WINDOW));
        assert!(lane.take(2).is_some() && lane.take(2).is_some());
        assert!(lane.take(2).is_none());
        lane.settled(Seq(1), None);
        assert_eq!(lane.take(2).unwrap().event.seq, Seq(3));
    }

    #[test]
    fn a_retry_is_read_when_it_is_due_and_not_while_it_is_held() {
        let mut lane = Lane::up_to_date(Seq(0));
        lane.offer(owed(1), WINDOW);
        lane.take(1).unwrap();
        lane.settled(Seq(1), Some(UnixMicros(NOW.0 + 5)));
        assert!(!lane.is_idle());
        assert_eq!(lane.next_read(NOW, WINDOW), None, "it is not due yet");
        let later = UnixMicros(NOW.0 + 5);
        let read = lane.next_read(later, WINDOW).unwrap();
        assert_eq!(read.kind, ReadKind::Due);
        lane.take_due(read, DuePage { owed: vec![owed(1)], next_due: None });
        assert_eq!(lane.next_read(later, WINDOW), None);
        lane.take(1).unwrap();
        lane.settled(Seq(1), None);
        assert!(lane.is_idle());
    }

    #[test]
    fn a_retry_that_was_due_before_the_clock_stepped_back_is_waited_for_again() {
        let mut lane = Lane::up_to_date(Seq(0));
        (1..=4).for_each(|seq| lane.offer(owed(seq), WINDOW));
        lane.take(1).unwrap();
        let due = UnixMicros(NOW.0 + 5);
        lane.settled(Seq(1), Some(due));
        assert_eq!(lane.arm(NOW), Some(due));
        assert_eq!(lane.arm(NOW), None, "it is set already");
        lane.rang();
        assert_eq!(lane.next_read(due, WINDOW), None, "the window is too full");
        assert_eq!(lane.arm(due), None, "it would ring at once, again and again");
        drain(&mut lane);
        assert_eq!(lane.next_read(NOW, WINDOW), None, "it is not due any more");
        assert_eq!(lane.arm(NOW), Some(due));
    }

    #[test]
    fn what_ends_during_a_read_is_not_sent_again_and_its_retry_is_not_forgotten() {
        let mut lane = Lane::up_to_date(Seq(0));
        (1..=2).for_each(|seq| lane.offer(owed(seq), WINDOW));
        lane.take(2).unwrap();
        lane.take(2).unwrap();
        lane.settled(Seq(1), Some(NOW));
        let read = lane.next_read(NOW, WINDOW).unwrap();
        lane.take_due(read, DuePage { owed: vec![owed(1)], next_due: None });
        lane.take(2).unwrap();
        lane.settled(Seq(2), Some(NOW));
        let read = lane.next_read(NOW, WINDOW).unwrap();
        // Both are in the store as due when it is read, and then the attempt of the first ends.
        let later = UnixMicros(NOW.0 + 5);
        lane.settled(Seq(1), Some(later));
        lane.take_due(read, DuePage { owed: vec![owed(1), owed(2)], next_due: None });
        assert_eq!(drain(&mut lane), [2]);
        let read = lane.next_read(later, WINDOW).unwrap();
        lane.take_due(read, DuePage { owed: vec![owed(1)], next_due: None });
        assert_eq!(drain(&mut lane), [1]);
        assert!(lane.is_idle());
    }

    #[test]
    fn a_read_of_retries_that_failed_is_made_again() {
        let mut lane = Lane::behind(Some(NOW));
        let read = lane.next_read(NOW, WINDOW).unwrap();
        lane.read_failed(read);
        let again = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(again.kind, ReadKind::Due);
    }

    #[test]
    fn a_parked_lane_keeps_nothing_and_reads_everything_again() {
        let mut lane = Lane::up_to_date(Seq(0));
        (1..=3).for_each(|seq| lane.offer(owed(seq), WINDOW));
        lane.take(1).unwrap();
        lane.missed();
        lane.settled(Seq(1), None);
        let stale = lane.next_read(NOW, WINDOW).unwrap();
        lane.park();
        lane.take_pending(stale, page(4..=5, false));
        assert_eq!(drain(&mut lane), [0_u64; 0], "what was read before is not taken");
        let due = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(due.kind, ReadKind::Due);
        lane.take_due(due, DuePage { owed: Vec::new(), next_due: None });
        let read = lane.next_read(NOW, WINDOW).unwrap();
        assert_eq!(read.kind, ReadKind::Pending(Seq(0)));
        lane.take_pending(read, page(2..=5, false));
        assert_eq!(drain(&mut lane), [2, 3, 4, 5]);
    }
}
