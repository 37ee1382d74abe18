//! The ordered lane against a simple model of a store in which feed, reads and settlements arrive late.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;
use crate::{
    domain::{
        event_routing::{OrderKey, OrderTag},
        ids::{EventName, Seq},
        time::UnixMicros,
    },
    event::StoredEvent,
    proto::v1,
    store::{DueDelivery, OrderFilter, OrderedPage, PendingDelivery},
};

const LIMITS: LaneLimits = LaneLimits { prefetch: 16, order_keys_max: 5, order_key_window: 8 };

fn event(seq: u64, contact: i64) -> Arc<StoredEvent> {
    let name: EventName = format!("accounts/1/events/e{seq}").parse().unwrap();
    let contact = v1::Contact { id: contact, ..Default::default() };
    let payload = v1::event::Payload::ContactCreated(v1::ContactCreated { contact: Some(contact) });
    let event = v1::Event { payload: Some(payload), ..Default::default() };
    Arc::new(StoredEvent::new(Seq(seq), name, UnixMicros(0), event))
}

fn tag(contact: i64) -> OrderTag {
    OrderKey::Contact(contact).into()
}

/// The state of a delivery in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Retrying(i64),
    Over,
    Cancelled,
}

struct Row {
    event: Arc<StoredEvent>,
    state: State,
    attempts: u32,
    /// A caller asked to retry or replay it.
    reopened: bool,
    /// The lane heard of that: later deliveries of the same key wait for it.
    heard: bool,
    /// The lane heard that it is cancelled: it is not sent.
    heard_cancelled: bool,
}

/// An event of the feed that the lane has not heard yet.
enum FeedEvent {
    Accepted(Seq),
    Due(Seq),
    Cancelled(Seq),
    Requeued(Seq),
    Lagged,
}

struct Model {
    lane: OrderedLane,
    now: i64,
    rows: BTreeMap<Seq, Row>,
    feed: VecDeque<FeedEvent>,
    read: Option<(Read, Option<OrderedPage>)>,
    /// In flight, and how each ended in the store, if it has.
    in_flight: BTreeMap<Seq, Option<Option<i64>>>,
    first_attempts: HashMap<OrderTag, Vec<Seq>>,
}

impl Model {
    fn new() -> Self {
        Self {
            lane: OrderedLane::with_backlog(),
            now: 0,
            rows: BTreeMap::new(),
            feed: VecDeque::new(),
            read: None,
            in_flight: BTreeMap::new(),
            first_attempts: HashMap::new(),
        }
    }

    fn publish(&mut self, contact: i64) {
        let seq = self.rows.len() as u64 + 1;
        let event = event(seq, contact);
        let row = Row {
            event,
            state: State::Pending,
            attempts: 0,
            reopened: false,
            heard: true,
            heard_cancelled: false,
        };
        self.rows.insert(Seq(seq), row);
        self.feed.push_back(FeedEvent::Accepted(Seq(seq)));
    }

    fn hear_feed(&mut self) {
        match self.feed.pop_front() {
            Some(FeedEvent::Accepted(seq)) => {
                let event = Arc::clone(&self.rows[&seq].event);
                self.lane.push(PendingDelivery { event, attempts: 0 }, LIMITS);
            }
            Some(FeedEvent::Due(seq)) => {
                self.lane.retry_requested(seq);
                self.rows.get_mut(&seq).unwrap().heard = true;
            }
            Some(FeedEvent::Cancelled(seq)) => {
                self.lane.cancelled(seq);
                let row = self.rows.get_mut(&seq).unwrap();
                row.heard_cancelled = row.state == State::Cancelled;
            }
            Some(FeedEvent::Requeued(from)) => {
                self.lane.requeued(from);
                self.rows.range_mut(from..).for_each(|(_, row)| row.heard = true);
            }
            Some(FeedEvent::Lagged) => {
                self.lane.feed_lagged();
                let cancelled = self.rows.values_mut().filter(|row| row.state == State::Cancelled);
                cancelled.for_each(|row| row.heard_cancelled = true);
            }
            None => {}
        }
    }

    fn read(&mut self) {
        if let Some(read) = self.lane.next_read(UnixMicros(self.now), LIMITS) {
            // A read that the lane abandoned may still be under way; its result is ignored.
            self.read = Some((read, None));
        }
    }

    /// The store reads now; the lane gets the page later.
    fn look(&mut self) {
        let Some((read, page @ None)) = &mut self.read else { return };
        let (after, filter) = match &read.kind {
            ReadKind::Scan(after, but) => (*after, OrderFilter::Except(Arc::clone(but))),
            ReadKind::Key(tag, from) => (before(*from), OrderFilter::Only(*tag)),
            ReadKind::Recheck(seq) => (before(*seq), OrderFilter::Any),
            other => panic!("{other:?}"),
        };
        let debt = |row: &Row| {
            let due = match row.state {
                State::Pending => None,
                State::Retrying(due) => Some(UnixMicros(due)),
                State::Over | State::Cancelled => return None,
            };
            Some(DueDelivery {
                owed: PendingDelivery { event: Arc::clone(&row.event), attempts: row.attempts },
                due,
            })
        };
        let rows = self.rows.range(Seq(after.0 + 1)..).map(|(_, row)| row);
        let mut debts: Vec<DueDelivery> =
            rows.filter(|row| filter.wants(row.event.order_tag())).filter_map(debt).collect();
        let more = debts.len() > read.limit;
        debts.truncate(read.limit);
        let last = Seq(self.rows.len() as u64).max(after);
        let until = if more { debts.last().unwrap().owed.event.seq } else { last };
        *page = Some(OrderedPage { debts, until, more });
    }

    fn respond(&mut self, fails: bool) {
        self.look();
        let Some((read, page)) = self.read.take() else { return };
        if fails {
            self.lane.read_failed(&read);
        } else {
            self.lane.take_owed(&read, page.unwrap(), UnixMicros(self.now), LIMITS);
        }
    }

    fn take(&mut self, max: usize) -> bool {
        let Some(owed) = self.lane.take(max) else { return false };
        let seq = owed.event.seq;
        let key = owed.event.order_tag();
        let row = &self.rows[&seq];
        assert!(row.state != State::Over, "{seq:?} is sent though it is over");
        assert!(!row.heard_cancelled, "{seq:?} is sent though it is cancelled");
        if let State::Retrying(due) = row.state {
            assert!(due <= self.now, "{seq:?} is sent before its time");
        }
        for other in self.in_flight.keys() {
            assert_ne!(self.rows[other].event.order_tag(), key, "{seq:?} is sent together with {other:?}");
        }
        for (earlier, row) in self.rows.range(..seq) {
            let waits = matches!(row.state, State::Pending | State::Retrying(_)) && row.heard;
            assert!(
                !waits || row.event.order_tag() != key,
                "{seq:?} is sent before {earlier:?}, which is still owed"
            );
        }
        if row.attempts == 0 {
            let sent = self.first_attempts.entry(key).or_default();
            assert!(sent.last() < Some(&seq) || row.reopened, "{seq:?} after {sent:?}");
            sent.push(seq);
        }
        self.in_flight.insert(seq, None);
        true
    }

    /// The store settles an attempt in flight; the lane hears of it later.
    fn settle(&mut self, which: usize, retry: Option<i64>) {
        let open: Vec<Seq> =
            self.in_flight.iter().filter(|(_, end)| end.is_none()).map(|(seq, _)| *seq).collect();
        if open.is_empty() {
            return;
        }
        let seq = open[which % open.len()];
        let row = self.rows.get_mut(&seq).unwrap();
        let due = retry.map(|wait| self.now + wait);
        if row.state != State::Cancelled {
            row.state = due.map_or(State::Over, State::Retrying);
            row.attempts += 1;
        }
        self.in_flight.insert(seq, Some(due));
    }

    fn hear_settled(&mut self) {
        let ended = self.in_flight.iter().find_map(|(seq, end)| end.map(|due| (*seq, due)));
        if let Some((seq, due)) = ended {
            self.in_flight.remove(&seq);
            self.lane.settled(seq, due.map(UnixMicros));
        }
    }

    fn some(&self, which: usize) -> Option<Seq> {
        (!self.rows.is_empty()).then(|| Seq((which % self.rows.len()) as u64 + 1))
    }

    fn retry(&mut self, which: usize) {
        let Some(seq) = self.some(which) else { return };
        let row = self.rows.get_mut(&seq).unwrap();
        row.state = State::Retrying(self.now);
        row.heard_cancelled = false;
        (row.reopened, row.heard) = (true, false);
        self.feed.push_back(FeedEvent::Due(seq));
    }

    fn cancel(&mut self, which: usize) {
        let Some(seq) = self.some(which) else { return };
        let row = self.rows.get_mut(&seq).unwrap();
        if row.state != State::Over {
            row.state = State::Cancelled;
            self.feed.push_back(FeedEvent::Cancelled(seq));
        }
    }

    fn requeue(&mut self, which: usize) {
        let Some(from) = self.some(which) else { return };
        for (_, row) in
            self.rows.range_mut(from..).filter(|(seq, row)| row.state == State::Over && seq.0 % 2 == 0)
        {
            row.state = State::Pending;
            (row.reopened, row.heard) = (true, false);
        }
        self.feed.push_back(FeedEvent::Requeued(from));
    }

    /// The feed lags: its events are lost.
    fn lag(&mut self) {
        self.feed.clear();
        self.feed.push_back(FeedEvent::Lagged);
    }

    /// Finishes every delivery and asserts that the lane becomes idle.
    fn finish(mut self) {
        for _ in 0..100_000 {
            while !self.feed.is_empty() {
                self.hear_feed();
            }
            self.respond(false);
            while self.take(4) {}
            self.settle(0, None);
            self.hear_settled();
            self.read();
            self.now += 1;
            if self.lane.is_idle() && self.in_flight.is_empty() {
                let owed = |row: &&Row| matches!(row.state, State::Pending | State::Retrying(_));
                assert_eq!(self.rows.values().filter(owed).count(), 0, "the lane forgets what is owed");
                return;
            }
        }
        panic!("the lane never comes to its end: {:?}", self.lane);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Publish(i64),
    Feed,
    Read,
    Look,
    Respond(bool),
    Take,
    Settle(usize, Option<i64>),
    Settled,
    Pass(i64),
    Retry(usize),
    Cancel(usize),
    Requeue(usize),
    Lag,
    Unload,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0_i64..12).prop_map(|n| Step::Publish(n.min(8))),
        20 => Just(Step::Feed),
        15 => Just(Step::Read),
        8 => Just(Step::Look),
        15 => proptest::bool::weighted(0.1).prop_map(Step::Respond),
        20 => Just(Step::Take),
        15 => (any::<usize>(), proptest::option::of(0_i64..30)).prop_map(|(n, due)| Step::Settle(n, due)),
        15 => Just(Step::Settled),
        8 => (0_i64..20).prop_map(Step::Pass),
        3 => any::<usize>().prop_map(Step::Retry),
        3 => any::<usize>().prop_map(Step::Cancel),
        1 => any::<usize>().prop_map(Step::Requeue),
        1 => Just(Step::Lag),
        1 => Just(Step::Unload),
    ]
}

proptest! {
    #[test]
    fn order_is_kept_and_nothing_is_lost(steps in proptest::collection::vec(step(), 0..400)) {
        let mut model = Model::new();
        for step in steps {
            match step {
                Step::Publish(contact) => model.publish(contact),
                Step::Feed => model.hear_feed(),
                Step::Read => model.read(),
                Step::Look => model.look(),
                Step::Respond(fails) => model.respond(fails),
                Step::Take => drop(model.take(4)),
                Step::Settle(which, retry) => model.settle(which, retry),
                Step::Settled => model.hear_settled(),
                Step::Pass(time) => model.now += time,
                Step::Retry(which) => model.retry(which),
                Step::Cancel(which) => model.cancel(which),
                Step::Requeue(which) => model.requeue(which),
                Step::Lag => model.lag(),
                Step::Unload => model.lane.unload(),
            }
        }
        model.finish();
    }
}

/// Sends all that the lane offers; attempts of the stuck contact fail.
fn run(model: &mut Model, stuck: i64, rounds: usize) -> BTreeSet<u64> {
    let mut sent = BTreeSet::new();
    for _ in 0..rounds {
        model.hear_feed();
        model.read();
        model.respond(false);
        while model.take(4) {}
        let seqs: Vec<Seq> = model.in_flight.keys().copied().collect();
        for seq in seqs {
            let stays = model.rows[&seq].event.order_tag() == tag(stuck);
            sent.insert(seq.0);
            model.settle(0, stays.then_some(1_000_000));
            model.hear_settled();
        }
    }
    sent
}

#[test]
fn other_keys_flow_past_a_stuck_one_with_any_backlog() {
    let mut model = Model::new();
    for _ in 0..5_000 {
        model.publish(1);
    }
    for contact in 2..50 {
        model.publish(contact);
    }
    // The lane hears of none of it.
    model.lag();
    let sent = run(&mut model, 1, 200);
    assert_eq!(sent, (5_001..=5_048).chain([1]).collect());
    assert_eq!(model.lane.take(4).map(|owed| owed.event.seq), None, "the stuck one waits");
    model.cancel(0);
    model.feed.push_back(FeedEvent::Cancelled(Seq(1)));
    let sent = run(&mut model, 1, 3);
    assert_eq!(sent, [2].into(), "the cancelled delivery makes room for the next");
}

#[test]
fn more_stuck_keys_than_the_lane_tracks_block_it_until_one_is_delivered() {
    let mut model = Model::new();
    for contact in 1..10 {
        model.publish(contact);
    }
    for round in 0..30 {
        model.hear_feed();
        model.read();
        model.respond(false);
        while model.take(9) {}
        if round == 20 {
            let seqs: Vec<u64> = model.in_flight.keys().map(|seq| seq.0).collect();
            assert_eq!(seqs, [1, 2, 3, 4, 5]);
            assert!(model.lane.is_full(LIMITS));
            model.settle(2, None);
            model.hear_settled();
            assert!(!model.lane.is_full(LIMITS));
        }
    }
    let seqs: Vec<u64> = model.in_flight.keys().map(|seq| seq.0).collect();
    assert_eq!(seqs, [1, 2, 4, 5, 6]);
    model.finish();
}

#[test]
fn a_retry_by_hand_goes_first_even_if_the_prefetch_is_full() {
    // The prefetch is full, and so is the number of order keys: the lane has no room to read anything.
    for contacts in [[1, 1, 1, 1, 2, 2, 2, 2, 2, 2], [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]] {
        let mut model = Model::new();
        contacts.into_iter().for_each(|contact| model.publish(contact));
        model.rows.get_mut(&Seq(1)).unwrap().state = State::Over;
        for _ in 0..20 {
            model.hear_feed();
            model.read();
            model.respond(false);
        }
        model.retry(0);
        model.hear_feed();
        assert_eq!(model.lane.take(4).map(|owed| owed.event.seq), None, "the lane rechecks it first");
        for _ in 0..2 {
            model.read();
            model.respond(false);
        }
        assert_eq!(model.lane.take(4).map(|owed| owed.event.seq), Some(Seq(1)));
    }
}

#[test]
fn a_retry_by_hand_waits_while_no_other_key_can_be_tracked() {
    let mut model = Model::new();
    (1..=6).for_each(|contact| model.publish(contact));
    model.rows.get_mut(&Seq(1)).unwrap().state = State::Over;
    run(&mut model, 0, 1);
    model.retry(0);
    for contact in 2..=6 {
        model.publish(contact);
    }
    model.publish(1);
    model.finish();
}

#[test]
fn a_retry_by_hand_during_a_scan_that_has_passed_it_is_rechecked() {
    let mut model = Model::new();
    model.publish(1);
    model.rows.get_mut(&Seq(1)).unwrap().state = State::Over;
    model.read();
    model.look();
    model.retry(0);
    model.hear_feed();
    model.hear_feed();
    model.respond(false);
    model.finish();
}
