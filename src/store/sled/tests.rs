//! The engine on sled: that it conforms, and what it does with a directory that is not as it left it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    metrics::StoreReport,
    store::conformance::{self, Engine, TestClock},
};

const CACHE_BYTES: u64 = 8 * 1024 * 1024;

struct Sled(tempfile::TempDir);

impl Engine for Sled {
    fn open(&mut self, clock: Arc<TestClock>) -> Arc<dyn Store> {
        Arc::new(SledStore::open(self.0.path(), CACHE_BYTES, clock, 1, Metrics::new(UnixMicros(0))).unwrap())
    }

    fn keeps(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn sled_conforms() {
    conformance::run(|| Sled(tempfile::tempdir().unwrap())).await;
}

fn open(dir: &Path) -> Result<SledStore, OpenError> {
    SledStore::open(dir, CACHE_BYTES, TestClock::new(), 1, Metrics::new(UnixMicros(0)))
}

/// A directory in which a store with an event was closed.
async fn closed_store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let accepted = store.accept(vec![conformance::new_event(1, Some("e"), 1, &[])]).await.unwrap();
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

#[tokio::test]
async fn a_damaged_directory_is_refused_and_never_made_anew() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 9] = [
        ("the marker is gone", |dir| fs::remove_file(dir.join("TIDINGS")).unwrap()),
        ("the marker says something else", |dir| fs::write(dir.join("TIDINGS"), "hello").unwrap()),
        ("another format", |dir| fs::write(dir.join("TIDINGS"), "tidings format 999 ready\n").unwrap()),
        ("sled's directory is gone", |dir| fs::remove_dir_all(dir.join("store")).unwrap()),
        ("sled's file is gone", |dir| fs::remove_file(dir.join("store/db")).unwrap()),
        ("sled's file is empty", |dir| fs::write(dir.join("store/db"), "").unwrap()),
        ("sled's configuration is gone", |dir| fs::remove_file(dir.join("store/conf")).unwrap()),
        ("sled's file is overwritten", |dir| {
            let db = dir.join("store/db");
            let len = fs::metadata(&db).unwrap().len();
            fs::write(db, vec![0x5a; usize::try_from(len).unwrap()]).unwrap();
        }),
        ("another store's file is put in place", |dir| {
            let other = tempfile::tempdir().unwrap();
            open(other.path()).unwrap().close().unwrap();
            fs::copy(other.path().join("store/db"), dir.join("store/db")).unwrap();
            for snap in snapshots(dir) {
                fs::remove_file(snap).unwrap();
            }
        }),
    ];
    for (what, damage) in damages {
        let dir = closed_store().await;
        damage(dir.path());
        let refused = open(dir.path()).err().unwrap_or_else(|| panic!("{what}: it was opened"));
        assert!(matches!(refused, OpenError::Unreadable(..) | OpenError::Format(..)), "{what}: {refused}");
    }
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("store")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).collect()
}

#[tokio::test]
async fn every_flipped_byte_is_noticed_or_harmless() {
    let dir = closed_store().await;
    let bytes = fs::read(dir.path().join("store/db")).unwrap();
    let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
    let mut refused = 0;
    for place in (0..=used).step_by(used / 40) {
        let dir = closed_store().await;
        let db = dir.path().join("store/db");
        let mut bytes = fs::read(&db).unwrap();
        bytes[place] ^= 0x10;
        fs::write(&db, bytes).unwrap();
        match open(dir.path()) {
            Err(OpenError::Unreadable(..)) => refused += 1,
            Err(other) => panic!("byte {place}: {other}"),
            Ok(store) => {
                let event = store.event(AccountId::new(1).unwrap(), &"e".parse().unwrap());
                assert!(
                    event.is_ok_and(|event| event.is_some()),
                    "byte {place}: the event is lost, silently"
                );
            }
        }
    }
    assert!(refused > 0, "no damage was noticed");
}

#[tokio::test]
async fn an_interrupted_creation_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("TIDINGS"), "tidings format 1 creating\n").unwrap();
    fs::create_dir(dir.path().join("store")).unwrap();
    fs::write(dir.path().join("store/conf"), "half").unwrap();
    open(dir.path()).expect("nothing was ever acknowledged from it");
}

/// What a report should say, from what the store says of each delivery.
fn expected_backlog(
    store: &SledStore,
    lanes: &[LaneId],
    times: &[UnixMicros],
    now: UnixMicros,
) -> [(u64, Duration); 2] {
    let mut backlog = [(0, Duration::ZERO); 2];
    for (seq, time) in (1..).map(Seq).zip(times) {
        for &lane in lanes {
            let place = match store.state(DeliveryKey { seq, lane }) {
                Some(DeliveryState::Pending) => 0,
                Some(DeliveryState::Retrying { .. }) => 1,
                _ => continue,
            };
            let (count, age) = &mut backlog[place];
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
    let open =
        || SledStore::open(dir.path(), CACHE_BYTES, clock.clone(), 1, Metrics::new(UnixMicros(0))).unwrap();
    let (mut store, mut lanes, mut times) = (open(), Vec::new(), Vec::new());
    for step in 0..300 {
        clock.step(random.random_range(1..1000));
        match random.random_range(0..12) {
            0 => {
                let new = conformance::new_subscription(1, &format!("s{step}"));
                lanes.push(store.create_subscription(new).await.unwrap().subscription.lane);
            }
            1 if lanes.len() > 2 => {
                let lane = lanes.swap_remove(random.random_range(0..lanes.len()));
                store.delete_subscription(lane, 1, true).await.unwrap();
            }
            2 if random.random() => {
                drop(store);
                store = open();
            }
            3..6 => {
                // Enough for several volumes.
                let mut to = lanes.clone();
                to.sort_unstable();
                let events = (0..60).map(|number| conformance::new_event(1, None, number, &to)).collect();
                times.extend(store.accept(events).await.unwrap().iter().map(|accepted| accepted.create_time));
            }
            _ if !lanes.is_empty() && !times.is_empty() => {
                let states = [
                    DeliveryState::Succeeded,
                    DeliveryState::Retrying { due: clock.now() },
                    DeliveryState::Failed,
                ];
                let settlements = (0..200).map(|_| {
                    let seq = Seq(random.random_range(0..times.len() as u64) + 1);
                    let key = DeliveryKey { seq, lane: lanes[random.random_range(0..lanes.len())] };
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
        let expected = expected_backlog(&store, &lanes, &times, clock.now());
        assert_eq!(said, expected, "seed {SEED}, step {step}");
        assert_eq!(report.subscriptions, [lanes.len() as u64, 0, 0]);
        assert_eq!((report.waiting_writes, report.waiting_bytes), (0, 0));
    }
    let report = report_of(&store);
    assert!(report.volumes > 1 && report.disk_bytes > 0, "{report:?}");
}

fn report_of(store: &SledStore) -> StoreReport {
    let mut shown = None;
    store.report(&mut |report| shown = Some(*report));
    shown.expect("it is shown once")
}
