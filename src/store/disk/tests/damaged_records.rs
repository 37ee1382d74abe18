//! Records that the disk loses while the store is open: each costs itself and nothing else.

use std::os::unix::fs::FileExt;

use super::*;
use crate::{
    domain::{delivery::Outcome, ids::EventId},
    store::{
        OperatorAction, TimeRange,
        disk::log::{LogPosition, LogSlice},
    },
};

const EVENTS: u64 = 8_000;
const KEEP_ALL: RetentionLimit = RetentionLimit { since: UnixMicros(0), bytes_max: u64::MAX };

struct Bench {
    dir: tempfile::TempDir,
    metrics: Arc<Metrics>,
    clock: Arc<TestClock>,
    store: Arc<DiskStore>,
    subscription: SubscriptionKey,
}

impl Bench {
    /// A store with owed events in several files; the older ones are not in memory.
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (metrics, clock) = (Metrics::new(UnixMicros(0)), TestClock::new());
        let open = |metrics: &Arc<Metrics>| {
            DiskStore::open(dir.path(), SETTINGS, &keys(1), clock.clone(), 1, Arc::clone(metrics)).unwrap()
        };
        let store = open(&metrics);
        let new = conformance::subscription_to(1, "a", &[1]);
        let subscription = store.create_subscription(new).await.unwrap().subscription.key;
        for hundred in 0..EVENTS / 100 {
            // One in ten is of inbox 1, and owed.
            let events = (0..100).map(|number| NewEvent {
                inbox_id: Some(if number % 10 == 0 { 1 } else { 2 }),
                ..conformance::new_event(1, Some(&format!("e{}", hundred * 100 + number)), 7)
            });
            store.accept(events.collect()).await.unwrap();
        }
        drop(store);
        let store = Arc::new(open(&metrics));
        assert!(store.shared.ledger().details.len() < store.shared.ledger().volumes.len());
        Self { dir, metrics, clock, store, subscription }
    }

    fn key(&self, seq: u64) -> DeliveryKey {
        DeliveryKey { seq: Seq(seq), subscription: self.subscription }
    }

    /// Changes a byte of the log on the disk.
    fn damage(&self, pos: LogPosition) {
        let path = self.dir.path().join("ledger").join(format!("{:010}.log", pos.file()));
        let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, pos.offset().into()).unwrap();
        file.write_all_at(&[!byte[0]], pos.offset().into()).unwrap();
    }

    fn body(&self, id: &str) -> LogPosition {
        let found = self.store.shared.find(AccountId::new(1).unwrap(), &id.parse().unwrap()).unwrap();
        found.unwrap().meta.pos
    }

    /// The index of the first volume, and the number of its events.
    fn first_index(&self) -> (LogSlice, u64) {
        let ledger = self.store.shared.ledger();
        assert!(!ledger.details.contains_key(&Seq(1)), "it would not be read");
        (ledger.volumes[0].index.unwrap().events, ledger.volumes[0].events.into())
    }

    fn damaged(&self) -> u64 {
        self.metrics.records_damaged.get()
    }

    fn is_working(&self) -> bool {
        self.store.failure().borrow().is_none()
    }
}

fn id(text: &str) -> EventId {
    text.parse().unwrap()
}

#[tokio::test]
async fn a_damaged_event_is_read_with_its_name_and_its_neighbours_are_whole() {
    let bench = Bench::new().await;
    bench.damage(bench.body("e20"));
    let account = AccountId::new(1).unwrap();
    let page = bench.store.pending(bench.subscription, Seq(0), 10_000).unwrap();
    let damaged: Vec<&str> = page
        .owed
        .iter()
        .filter_map(|owed| owed.event.damage.as_ref())
        .map(|damage| damage.event.as_ref().unwrap().id.as_str())
        .collect();
    assert_eq!((page.owed.len() as u64, damaged), (EVENTS / 10, vec!["e20"]));
    let event = bench.store.event(account, &id("e20")).unwrap().unwrap();
    let damage = event.damage.as_ref().unwrap();
    assert_eq!(
        (damage.file.as_str(), event.event_type()),
        ("ledger/0000000001.log", EventType::ContactCreated)
    );
    let query = EventQuery {
        scope: AccountScope::One(account),
        types: Vec::new(),
        time: TimeRange::default(),
        before: None,
        limit: 10_000,
    };
    let (mut query, mut listed) = (query, Vec::new());
    loop {
        let page = bench.store.events(&query).unwrap();
        listed.extend(page.rows);
        match page.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
    }
    assert_eq!(listed.len() as u64, EVENTS);
    assert_eq!(listed.iter().filter(|event| event.damage.is_some()).count(), 1);
    let delivery = bench.store.delivery(bench.key(21)).unwrap().unwrap();
    assert_eq!(delivery.state, DeliveryState::Pending);
    let decided = bench.store.override_delivery(bench.key(21), OperatorAction::Cancel).await.unwrap();
    assert_eq!((decided, bench.damaged()), (DeliveryState::Cancelled, 1), "it is counted once");
}

#[tokio::test]
async fn a_damaged_attempt_costs_the_history_of_its_delivery() {
    let bench = Bench::new().await;
    let now = bench.clock.now();
    let newest = bench.store.newest().0;
    let key = bench.key(newest - newest % 10 - 9);
    for state in [DeliveryState::Retrying { due: now }, DeliveryState::Failed] {
        let attempt = conformance::attempt(now, state);
        bench.store.settle(vec![Settlement { key, attempt, state }]).await.unwrap();
    }
    let last = bench.store.shared.ledger().delivery(key).unwrap().last;
    bench.damage(last.plus(12));
    let delivery = bench.store.delivery(key).unwrap().unwrap();
    assert_eq!((delivery.state, delivery.attempt_count), (DeliveryState::Failed, 2));
    assert_eq!(delivery.attempts.iter().map(|one| one.outcome).collect::<Vec<_>>(), [Outcome::Damaged]);
    assert_eq!(bench.damaged(), 1);
}

#[tokio::test]
async fn a_damaged_index_costs_its_own_events_and_everything_else_is_read() {
    let bench = Bench::new().await;
    let (index, lost) = bench.first_index();
    bench.damage(index.pos);
    let page = bench.store.pending(bench.subscription, Seq(0), 10_000).unwrap();
    let first = page.owed[0].event.seq.0;
    assert!(first > lost && !page.more, "{first}");
    let damaged = bench.store.delivery(bench.key(1)).unwrap_err();
    assert!(
        matches!(&damaged, StoreError::Damaged(damage) if damage.offset == u64::from(index.pos.offset()))
    );
    assert!(bench.store.delivery(bench.key(first)).unwrap().is_some());
    assert_eq!((bench.damaged(), bench.is_working()), (1, true));
}

#[tokio::test]
async fn retention_fails_the_deliveries_of_damaged_events_and_drops_damaged_indexes() {
    let bench = Bench::new().await;
    let (index, lost) = bench.first_index();
    let after = format!("e{}", (lost / 10 + 1) * 10);
    bench.damage(bench.body(&after));
    bench.damage(index.pos);
    bench.clock.step(1_000_000_000);
    let before = bench.store.queue_summary(bench.subscription);
    let by_age = RetentionLimit { since: bench.clock.now(), bytes_max: u64::MAX };
    let purged = bench.store.purge(by_age).await.unwrap();
    assert!(purged.events > EVENTS / 2, "{purged:?}");
    assert_eq!((bench.damaged(), bench.is_working()), (2, true));
    let summary = bench.store.queue_summary(bench.subscription);
    assert_eq!(summary.pending, before.pending - lost.div_ceil(10) - 1, "what is whole is kept");
    let page = bench.store.pending(bench.subscription, Seq(0), 10_000).unwrap();
    assert_eq!(page.owed.len() as u64, summary.pending);
    assert!(page.owed.iter().all(|owed| owed.event.damage.is_none()));
    assert_eq!(bench.store.purge(KEEP_ALL).await.unwrap().events, 0);
    let Bench { dir, store, subscription, .. } = bench;
    drop(store);
    assert_eq!(open(dir.path()).unwrap().queue_summary(subscription), summary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_goes_on_while_many_files_age_at_once() {
    let bench = Bench::new().await;
    let files = log_files(bench.dir.path()).len();
    assert!(files > 5, "{files} files");
    bench.clock.step(1_000_000_000);
    let by_age = RetentionLimit { since: bench.clock.now(), bytes_max: u64::MAX };
    let store = Arc::clone(&bench.store);
    let purge = tokio::spawn(async move { store.purge(by_age).await.unwrap() });
    let mut meanwhile = 0;
    while !purge.is_finished() {
        bench.store.accept(vec![conformance::new_event(1, None, 7)]).await.unwrap();
        meanwhile += 1;
    }
    assert!(purge.await.unwrap().events > EVENTS / 2);
    assert!(meanwhile > files, "{meanwhile} publishes while {files} files were removed");
    assert_eq!(bench.store.queue_summary(bench.subscription).pending, EVENTS / 10 + meanwhile as u64);
}
