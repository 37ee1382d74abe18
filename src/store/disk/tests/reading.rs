//! Reports and lists of many deliveries, and how little they read.

use super::*;
use crate::{
    metrics::StoreReport,
    proto::v1,
    store::{
        TimeRange,
        disk::{
            index::volume::VOLUME_DELIVERIES,
            log::LogPosition,
            records::{CommitRecord, EventEntry},
        },
    },
};

#[tokio::test]
async fn what_one_lane_holds_is_not_read_again_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut subscriptions = Vec::new();
    for name in ["a", "b"] {
        let created = store.create_subscription(conformance::new_subscription(1, name)).await.unwrap();
        subscriptions.push(created.subscription.key);
    }
    let events = (0..10).map(|number| conformance::new_event(1, None, number));
    store.accept(events.collect()).await.unwrap();
    let read = |subscription, limit| -> Result<Vec<Arc<StoredEvent>>, StoreError> {
        let page = store.pending(subscription, Seq(0), limit)?;
        Ok(page.owed.into_iter().map(|owed| owed.event).collect())
    };
    let mut of_a = read(subscriptions[0], 6).unwrap();
    of_a.remove(2);
    let of_b = read(subscriptions[1], 10).unwrap();
    assert_eq!(of_b.iter().map(|event| event.seq.0).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    for event in &of_a {
        assert!(of_b.iter().any(|other| Arc::ptr_eq(event, other)), "{:?} was read again", event.seq);
    }

    let log = dir.path().join("ledger/0000000001.log");
    let len = usize::try_from(fs::metadata(&log).unwrap().len()).unwrap();
    fs::write(&log, vec![0x5a; len]).unwrap();
    assert_eq!(read(subscriptions[0], 10).expect("all of it is held").len(), 10);
    drop((of_a, of_b));
    let damaged = read(subscriptions[0], 10).unwrap();
    assert!(damaged.iter().all(|event| event.damage.is_some()), "nobody holds it, and the disk is damaged");
}

/// The expected report, computed from the store's deliveries one by one.
fn expected_backlog(
    store: &DiskStore,
    subscriptions: &[SubscriptionKey],
    times: &[UnixMicros],
    now: UnixMicros,
) -> [(u64, Duration); 2] {
    let mut backlog = [(0, Duration::ZERO); 2];
    for (seq, time) in (1..).map(Seq).zip(times) {
        for &subscription in subscriptions {
            let found = store.delivery(DeliveryKey { seq, subscription }).unwrap();
            let position = match found.map(|found| found.state) {
                Some(DeliveryState::Pending) => 0,
                Some(DeliveryState::Retrying { .. }) => 1,
                _ => continue,
            };
            let (count, age) = &mut backlog[position];
            *count += 1;
            *age = now.since(*time).max(*age);
        }
    }
    backlog
}

#[tokio::test]
async fn a_report_says_what_all_deliveries_say_together_whatever_was_done() {
    const SEED: u64 = 5;
    let (dir, clock, mut random) =
        (tempfile::tempdir().unwrap(), TestClock::new(), StdRng::seed_from_u64(SEED));
    let open = || {
        DiskStore::open(dir.path(), SETTINGS, &keys(1), clock.clone(), 1, Metrics::new(UnixMicros(0)))
            .unwrap()
    };
    let (mut store, mut subscriptions, mut times) = (open(), Vec::new(), Vec::new());
    for step in 0..300 {
        clock.step(random.random_range(1..1000));
        match random.random_range(0..12) {
            0 => {
                let new = conformance::new_subscription(1, &format!("s{step}"));
                subscriptions.push(store.create_subscription(new).await.unwrap().subscription.key);
            }
            1 if subscriptions.len() > 2 => {
                let subscription = subscriptions.swap_remove(random.random_range(0..subscriptions.len()));
                store.delete_subscription(subscription, 1, true).await.unwrap();
            }
            2 if random.random() => {
                drop(store);
                store = open();
            }
            3..6 => {
                // Enough for several volumes.
                let events = (0..60).map(|number| conformance::new_event(1, None, number)).collect();
                times.extend(store.accept(events).await.unwrap().iter().map(|accepted| accepted.create_time));
            }
            _ if !subscriptions.is_empty() && !times.is_empty() => {
                let states = [
                    DeliveryState::Succeeded,
                    DeliveryState::Retrying { due: clock.now() },
                    DeliveryState::Failed,
                ];
                let settlements = (0..200).map(|_| {
                    let seq = Seq(random.random_range(0..times.len() as u64) + 1);
                    let key = DeliveryKey {
                        seq,
                        subscription: subscriptions[random.random_range(0..subscriptions.len())],
                    };
                    let state = states[random.random_range(0..states.len())];
                    Settlement { key, attempt: conformance::attempt(clock.now(), state), state }
                });
                store.settle(settlements.collect()).await.unwrap();
            }
            _ => continue,
        }
        let report = report_of(&store);
        let said =
            [(report.pending, report.oldest_pending_age), (report.retrying, report.oldest_retrying_age)];
        let expected = expected_backlog(&store, &subscriptions, &times, clock.now());
        assert_eq!(said, expected, "seed {SEED}, step {step}");
        assert_eq!(report.subscriptions, [subscriptions.len() as u64, 0, 0]);
        assert_eq!((report.waiting_writes, report.waiting_bytes), (0, 0));
    }
    let report = report_of(&store);
    assert!(report.volumes > 1 && report.disk_bytes > 0, "{report:?}");
}

fn report_of(store: &DiskStore) -> StoreReport {
    let mut shown = None;
    store.report(&mut |report| shown = Some(*report));
    shown.expect("it is shown once")
}

/// Enough events for more volumes than one page scans; the rare ones are far apart.
const EVENTS: u64 = 12_000;

const RARE_EVERY: u64 = 2_000;

/// A store with a thousand subscriptions that get the events in turn, and one that gets the rare ones.
async fn store_of_a_thousand_subscriptions(
    dir: &Path,
    metrics: &Arc<Metrics>,
) -> (DiskStore, SubscriptionKey) {
    let open = || DiskStore::open(dir, SETTINGS, &keys(1), TestClock::new(), 1, Arc::clone(metrics)).unwrap();
    let store = open();
    let mut subscriptions = Vec::new();
    for number in 0..=1000 {
        let mut new = conformance::subscription_to(1, &format!("s{number}"), &[number + 1]);
        let types = [new.settings.event_types.listed(), &[EventType::ContactUpdated]].concat();
        new.settings.event_types = types.into();
        subscriptions.push(store.create_subscription(new).await.unwrap().subscription.key);
    }
    let rare = subscriptions.pop().unwrap();
    for numbers in (0..i64::try_from(EVENTS).unwrap()).collect::<Vec<_>>().chunks(100) {
        let events = numbers.iter().map(|&number| {
            let is_rare = number.unsigned_abs() % RARE_EVERY == 1;
            let inbox = if is_rare { 1000 } else { number % 1000 } + 1;
            let mut new = NewEvent { inbox_id: Some(inbox), ..conformance::new_event(1, None, number + 1) };
            let mut event = new.content.decode();
            let Some(v1::event::Payload::ContactCreated(created)) = &mut event.payload else {
                unreachable!()
            };
            created.contact.as_mut().unwrap().name = "x".repeat(1000);
            new.content = event.into();
            if is_rare {
                new.content.event_type = EventType::ContactUpdated;
            }
            new
        });
        store.accept(events.collect()).await.unwrap();
    }
    // Opened again: a checkpoint that goes on meanwhile may evict what a list has just read, and it is read twice.
    store.close().unwrap();
    drop(store);
    (open(), rare)
}

#[tokio::test]
async fn a_list_reads_the_volumes_that_hold_what_it_wants_and_no_page_reads_many() {
    let (dir, metrics) = (tempfile::tempdir().unwrap(), Metrics::new(UnixMicros(0)));
    let (store, rare) = store_of_a_thousand_subscriptions(dir.path(), &metrics).await;
    let volumes = store.shared.ledger().volumes.len();
    assert!(volumes > read::query::VOLUMES_PER_PAGE_MAX, "{volumes} volumes");
    let read = || usize::try_from(metrics.volumes_read.get()).unwrap();

    let rare_count = usize::try_from(EVENTS / RARE_EVERY).unwrap();
    let all = DeliveryQuery {
        subscriptions: Some(vec![rare]),
        states: vec![],
        event: None,
        time: TimeRange::default(),
        after: None,
        limit: 50,
    };
    let before = read();
    assert_eq!(store.deliveries(&all).unwrap().rows.len(), rare_count);
    assert!(read() - before <= rare_count, "{} volumes for {rare_count} deliveries", read() - before);
    let before = read();
    let everybody: Vec<SubscriptionKey> = (0..=rare.0).map(SubscriptionKey).collect();
    for subscriptions in [all.subscriptions.clone(), Some(everybody.clone()), None] {
        let failed = DeliveryQuery { subscriptions, states: vec![DeliveryState::Failed], ..all.clone() };
        assert!(store.deliveries(&failed).unwrap().rows.is_empty());
    }
    assert_eq!(read(), before, "it is known of every volume that it has none");
    for subscriptions in [Some(everybody), None] {
        let before = read();
        let page = store.deliveries(&DeliveryQuery { subscriptions, ..all.clone() }).unwrap();
        let listed: Vec<u64> = page.rows.iter().map(|row| row.key.seq.0).collect();
        assert_eq!(listed, (EVENTS - 49..=EVENTS).rev().collect::<Vec<_>>(), "to whomever it goes");
        assert!(read() - before <= 1, "{} volumes for the latest deliveries", read() - before);
    }

    let types = vec![EventType::ContactUpdated];
    let account = AccountId::new(1).unwrap();
    let mut query = EventQuery {
        scope: AccountScope::One(account),
        types,
        time: TimeRange::default(),
        before: None,
        limit: 50,
    };
    let (mut found, mut pages) = (0, 0);
    loop {
        let before = read();
        let page = store.events(&query).unwrap();
        assert!(
            read() - before <= read::query::VOLUMES_PER_PAGE_MAX,
            "{} volumes for a page",
            read() - before
        );
        (found, pages) = (found + page.rows.len(), pages + 1);
        match page.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
    }
    assert!(found == rare_count && pages > 1, "{found} in {pages} pages");
}

#[test]
fn a_volume_ends_once_the_deliveries_of_its_events_fill_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let event = EventEntry {
        account: 1,
        subscriptions: (1..=VOLUME_DELIVERIES as u64 / 2).collect(),
        ..Default::default()
    };
    let events = (0..5).map(|number| EventEntry { id: format!("e{number}"), ..event.clone() }).collect();
    let record = CommitRecord { first: 1, events, ..Default::default() };
    let mut ledger = store.shared.ledger_mut();
    index::apply::apply(&mut ledger, &record, LogPosition::default(), 0, |_, _| {}).unwrap();
    let events: Vec<u32> = ledger.volumes.iter().map(|volume| volume.events).collect();
    assert_eq!((events, ledger.is_open), (vec![2, 2, 1], true));
}
