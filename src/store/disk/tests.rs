//! The engine on disk: that it conforms, and what it does with a directory that is not as it left it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{kv::subscriptions::REGISTRY_TREE, *};
use crate::{
    clock::Clock,
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState},
        ids::{AccountId, AccountScope, Seq, SubscriptionKey},
        seal::SealingKey,
        time::UnixMicros,
    },
    event::StoredEvent,
    metrics::Metrics,
    proto::v1::EventType,
    store::{
        Change, CommitFuture, DeliveryQuery, EventQuery, NewEvent, NewSubscription, RetentionLimit,
        Settlement, Store, StoreError,
        conformance::{self, Engine, TestClock},
    },
};

mod backup;
mod check;
mod damage;
mod damaged_records;
mod older_copies;
mod reading;
mod registry;
mod secrets;

/// So little that details come and go, and files follow one another.
const SETTINGS: StoreSettings = StoreSettings {
    store_memory_max: 256 * 1024,
    file_bytes: 128 * 1024,
    audit_bytes_max: conformance::AUDIT_BYTES_MAX,
};

struct Disk(tempfile::TempDir, Weak<DiskStore>);

impl Engine for Disk {
    fn open(&mut self, clock: Arc<TestClock>) -> Arc<dyn Store> {
        let metrics = Metrics::new(UnixMicros(0));
        let store = Arc::new(DiskStore::open(self.0.path(), SETTINGS, &keys(1), clock, 1, metrics).unwrap());
        self.1 = Arc::downgrade(&store);
        store
    }

    fn keeps(&self) -> bool {
        true
    }

    fn break_reads(&mut self) -> bool {
        self.1.upgrade().expect("it is open").shared.log.make_unreadable();
        true
    }
}

#[tokio::test]
async fn the_disk_conforms() {
    conformance::run(|| Disk(tempfile::tempdir().unwrap(), Weak::new())).await;
}

/// A key in the data directory; a new store gets this one.
fn keys(seed: u64) -> KeySource {
    KeySource::Beside(SealingKey::draw(&mut StdRng::seed_from_u64(seed)))
}

fn open(dir: &Path) -> Result<DiskStore, OpenError> {
    DiskStore::open(dir, SETTINGS, &keys(1), TestClock::new(), 1, Metrics::new(UnixMicros(0)))
}

/// A directory in which a store with an event was closed.
async fn closed_store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let accepted = store.accept(vec![conformance::new_event(1, Some("e"), 1)]).await.unwrap();
    assert_eq!(accepted.len(), 1);
    store.close().unwrap();
    dir
}

#[tokio::test]
async fn a_second_opening_is_refused_while_the_first_lasts() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    let refused = open(dir.path()).err().expect("it is open");
    assert!(matches!(&refused, OpenError::Locked(..)));
    assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");
    drop(first);
    open(dir.path()).expect("it is free again");
}

/// Work that fills several log files, some of it owed.
async fn work(store: &DiskStore, subscription: SubscriptionKey, rounds: u64) {
    for _ in 0..rounds {
        let events = (0..50).map(|number| conformance::new_event(1, None, number)).collect();
        store.accept(events).await.unwrap();
        let newest = store.shared.ledger().next_seq.0;
        let keys = (newest - 50..newest)
            .filter(|seq| !seq.is_multiple_of(10))
            .map(|seq| DeliveryKey { seq: Seq(seq), subscription });
        let (state, now) = (DeliveryState::Succeeded, store.shared.clock.now());
        let settlements =
            keys.map(|key| Settlement { key, attempt: conformance::attempt(now, state), state });
        store.settle(settlements.collect()).await.unwrap();
    }
}

fn log_files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("ledger")).unwrap().map(|file| file.unwrap().path());
    let mut logs: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "log")).collect();
    logs.sort();
    logs
}

#[tokio::test]
async fn many_long_response_bodies_at_once_make_several_commits() {
    let dir = tempfile::tempdir().unwrap();
    let settings = StoreSettings { file_bytes: 2 << 20, ..SETTINGS };
    let metrics = Metrics::new(UnixMicros(0));
    let store = DiskStore::open(dir.path(), settings, &keys(1), TestClock::new(), 1, metrics).unwrap();
    let subscription =
        store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap().subscription.key;
    let events = (0..64).map(|number| conformance::new_event(1, None, number)).collect();
    store.accept(events).await.unwrap();
    let (state, now) = (DeliveryState::Succeeded, store.shared.clock.now());
    let mut commits = Vec::new();
    for seq in (1..=64).map(Seq) {
        let attempt = Attempt { response_body: "x".repeat(64 << 10), ..conformance::attempt(now, state) };
        let (reply, commit) = CommitFuture::pair();
        let key = DeliveryKey { seq, subscription };
        store.shared.settling().push((vec![Settlement { key, attempt, state }], reply));
        commits.push(commit);
    }
    // Any write takes them all.
    store.accept(vec![conformance::new_event(1, None, 65)]).await.unwrap();
    for commit in commits {
        commit.await.unwrap();
    }
    for seq in (1..=64).map(Seq) {
        let delivery = store.delivery(DeliveryKey { seq, subscription }).unwrap().unwrap();
        assert_eq!(delivery.attempts[0].response_body.len(), 64 << 10, "{seq:?}");
    }
    for file in log_files(dir.path()) {
        let bytes = fs::metadata(&file).unwrap().len();
        assert!(bytes <= 2 << 20, "{file:?} has {bytes} bytes");
    }
}

#[tokio::test]
async fn retention_frees_files_whoever_holds_on_to_an_event_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let subscription =
        store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap().subscription.key;
    let keep = RetentionLimit { since: UnixMicros(0), bytes_max: 2 * 1024 * 1024 };
    for round in 0..40 {
        work(&store, subscription, 20).await;
        let purged = store.purge(keep).await.unwrap();
        assert!(purged.bytes_left <= keep.bytes_max, "round {round}: {purged:?}");
        let owed = store.queue_summary(subscription).pending;
        assert_eq!(owed, (round + 1) * 100, "what is owed stays");
    }
    let files = log_files(dir.path());
    assert!(files.len() <= 24, "{} files", files.len());
    let before = store.queue_summary(subscription);
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.queue_summary(subscription), before);
    let page = store.pending(subscription, Seq(0), 10_000).unwrap();
    assert_eq!(page.owed.len() as u64, before.pending);
    assert!(page.owed.iter().all(|owed| owed.event.seq.0.is_multiple_of(10)));
}

#[tokio::test]
async fn retention_ends_where_nothing_but_what_is_owed_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let subscription =
        store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap().subscription.key;
    const EVENTS: u64 = 6000;
    let keys: Vec<DeliveryKey> =
        (1..=EVENTS).map(|seq| DeliveryKey { seq: Seq(seq), subscription }).collect();
    let state = DeliveryState::Retrying { due: store.shared.clock.now() };
    for _ in keys.chunks(50) {
        let events = (0..50).map(|number| conformance::new_event(1, None, number)).collect();
        store.accept(events).await.unwrap();
    }
    // Files without events: retention copies the indexes in them.
    for keys in [keys.clone(), keys].concat().chunks(50) {
        let attempt = conformance::attempt(store.shared.clock.now(), state);
        let settlements = keys.iter().map(|&key| Settlement { key, attempt: attempt.clone(), state });
        store.settle(settlements.collect()).await.unwrap();
    }
    let purge = store.purge(RetentionLimit { since: UnixMicros(0), bytes_max: 1 });
    let purged = tokio::time::timeout(Duration::from_secs(20), purge).await;
    purged.expect("it copies the same events for ever").unwrap();
    assert_eq!(store.queue_summary(subscription).retrying, EVENTS);
    assert_eq!(store.owed_in_all().deliveries, EVENTS);
}
