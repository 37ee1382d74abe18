//! The engine on disk: that it conforms, and what it does with a directory that is not as it left it.

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
    proto::v1::{self, EventType},
    store::{
        TimeRange,
        conformance::{self, Engine, TestClock},
    },
};

mod secrets;

/// So little that details come and go, and files follow one another.
const SETTINGS: StoreSettings = StoreSettings {
    cache_bytes: 256 * 1024,
    file_bytes: 128 * 1024,
    audit_bytes_max: conformance::AUDIT_BYTES_MAX,
};

struct Disk(tempfile::TempDir);

impl Engine for Disk {
    fn open(&mut self, clock: Arc<TestClock>) -> Arc<dyn Store> {
        Arc::new(
            DiskStore::open(self.0.path(), SETTINGS, &keys(1), clock, 1, Metrics::new(UnixMicros(0)))
                .unwrap(),
        )
    }

    fn keeps(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn the_disk_conforms() {
    conformance::run(|| Disk(tempfile::tempdir().unwrap())).await;
}

/// A key beside the data; a new store gets this one.
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
    let accepted = store.accept(vec![conformance::new_event(1, Some("e"), 1, &[])]).await.unwrap();
    assert_eq!(accepted.len(), 1);
    store.close().unwrap();
    dir
}

#[tokio::test]
async fn what_one_lane_holds_is_not_read_again_for_another() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let mut lanes = Vec::new();
    for name in ["a", "b"] {
        let created = store.create_subscription(conformance::new_subscription(1, name)).await.unwrap();
        lanes.push(created.subscription.lane);
    }
    let events = (0..10).map(|number| conformance::new_event(1, None, number, &lanes));
    store.accept(events.collect()).await.unwrap();
    let read = |lane, limit| -> Result<Vec<Arc<StoredEvent>>, StoreError> {
        let page = store.pending(lane, Seq(0), limit)?;
        Ok(page.owed.into_iter().map(|owed| owed.event).collect())
    };
    let mut of_a = read(lanes[0], 6).unwrap();
    of_a.remove(2);
    let of_b = read(lanes[1], 10).unwrap();
    assert_eq!(of_b.iter().map(|event| event.seq.0).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    for event in &of_a {
        assert!(of_b.iter().any(|other| Arc::ptr_eq(event, other)), "{:?} was read again", event.seq);
    }

    let log = dir.path().join("ledger/0000000001.log");
    let len = usize::try_from(fs::metadata(&log).unwrap().len()).unwrap();
    fs::write(&log, vec![0x5a; len]).unwrap();
    assert_eq!(read(lanes[0], 10).expect("all of it is held").len(), 10);
    drop((of_a, of_b));
    assert!(
        matches!(read(lanes[0], 10), Err(StoreError::Failed(_))),
        "nobody holds it, and the disk is damaged"
    );
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
    let damages: [(&str, Damage); 11] = [
        ("the marker is gone", |dir| fs::remove_file(dir.join("TIDINGS")).unwrap()),
        ("the marker says something else", |dir| fs::write(dir.join("TIDINGS"), "hello").unwrap()),
        ("another format", |dir| fs::write(dir.join("TIDINGS"), "tidings format 999 ready\n").unwrap()),
        ("sled's directory is gone", |dir| fs::remove_dir_all(dir.join("store")).unwrap()),
        ("the log's directory is gone", |dir| fs::remove_dir_all(dir.join("ledger")).unwrap()),
        ("the manifest is gone", |dir| fs::remove_file(dir.join("ledger/manifest")).unwrap()),
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
            let opened = DiskStore::open(
                other.path(),
                SETTINGS,
                &keys(1),
                TestClock::new(),
                2,
                Metrics::new(UnixMicros(0)),
            );
            opened.unwrap().close().unwrap();
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
    for file in ["store/db", "ledger/0000000001.log", "ledger/manifest"] {
        let dir = closed_store().await;
        let bytes = fs::read(dir.path().join(file)).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
        let mut refused = 0;
        for place in (0..=used).step_by((used / 40).max(1)) {
            let dir = closed_store().await;
            let path = dir.path().join(file);
            let mut bytes = fs::read(&path).unwrap();
            bytes[place] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            match open(dir.path()) {
                Err(OpenError::Unreadable(..)) => refused += 1,
                Err(other) => panic!("{file}, byte {place}: {other}"),
                Ok(store) => {
                    let event = store.event(AccountId::new(1).unwrap(), &"e".parse().unwrap());
                    assert!(
                        event.is_ok_and(|event| event.is_some()),
                        "{file}, byte {place}: the event is lost, silently"
                    );
                }
            }
        }
        assert!(refused > 0, "no damage of {file} was noticed");
    }
}

/// Work that fills several log files, some of it owed.
async fn work(store: &DiskStore, lane: LaneId, rounds: u64) {
    for _ in 0..rounds {
        let events = (0..50).map(|number| conformance::new_event(1, None, number, &[lane])).collect();
        store.accept(events).await.unwrap();
        let newest = store.shared.ledger().next_seq.0;
        let keys = (newest - 50..newest)
            .filter(|seq| !seq.is_multiple_of(10))
            .map(|seq| DeliveryKey { seq: Seq(seq), lane });
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

/// The same data directory once more, with this in place of one of its log files.
fn copy_with(data_dir: &Path, log: &Path, bytes: &[u8]) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for dir in ["", "store", "store/blobs", "ledger"] {
        fs::create_dir_all(copy.path().join(dir)).unwrap();
        for file in fs::read_dir(data_dir.join(dir)).unwrap().map(|file| file.unwrap()) {
            if file.file_type().unwrap().is_file() {
                fs::copy(file.path(), copy.path().join(dir).join(file.file_name())).unwrap();
            }
        }
    }
    fs::write(copy.path().join("ledger").join(log.file_name().unwrap()), bytes).unwrap();
    copy
}

#[tokio::test]
async fn what_a_crash_tore_off_is_cut_and_what_was_damaged_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let lane =
        store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap().subscription.lane;
    work(&store, lane, 4).await;
    let before = store.lane_summary(lane);
    // As after a kill: nothing notes how far it came.
    store.close().unwrap();
    drop(store);
    fs::remove_file(dir.path().join("clean")).unwrap();
    let log = log_files(dir.path()).pop().unwrap();
    let whole = fs::read(&log).unwrap();
    let end = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let mut records: Vec<usize> = (0..end).filter(|at| whole[*at..].starts_with(b"Tdgs")).collect();
    let last = records.pop().unwrap();

    for cut in [last + 1, last + 39, last + 41, end - 1] {
        let mut torn = whole.clone();
        torn[cut..].fill(0);
        // Of its own: what follows may begin a file, and write a manifest that is past the tear.
        let dir = copy_with(dir.path(), &log, &torn);
        let store = open(dir.path()).unwrap();
        let now = store.lane_summary(lane);
        assert_eq!(
            (now.pending, now.succeeded),
            (before.pending + 45, before.succeeded - 45),
            "cut at {cut}"
        );
        // Its place is used again.
        work(&store, lane, 1).await;
        drop(store);
        let store = open(dir.path()).unwrap();
        assert_eq!(store.lane_summary(lane).pending, before.pending + 45 + 5);
    }
    // What lies before the manifest's place is read when it is asked for.
    let replayed = manifest::Manifest::read(&dir.path().join("ledger")).unwrap().pos.offset() as usize;
    records.retain(|record| *record >= replayed);
    assert!(!records.is_empty());
    for record in records {
        let mut damaged = whole.clone();
        damaged[record + 50] ^= 1;
        let dir = copy_with(dir.path(), &log, &damaged);
        let refused = open(dir.path()).err().unwrap_or_else(|| panic!("damaged at {record}, and opened"));
        assert!(refused.to_string().contains("later ones are there"), "{refused}");
    }
}

#[tokio::test]
async fn a_start_reads_the_manifest_and_the_last_file_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let lane =
        store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap().subscription.lane;
    work(&store, lane, 200).await;
    let before = store.lane_summary(lane);
    drop(store);
    let files = log_files(dir.path());
    assert!(files.len() > 5, "{} files", files.len());
    let store = open(dir.path()).unwrap();
    let in_memory = store.shared.ledger().details.len();
    let volumes = store.shared.ledger().volumes.len();
    assert!(in_memory < volumes / 2, "{in_memory} of {volumes} volumes were read");
    assert_eq!(store.lane_summary(lane), before);
    let mut after = Seq(0);
    let mut owed = 0;
    loop {
        let page = store.pending(lane, after, 7).unwrap();
        owed += page.owed.len() as u64;
        after = page.until;
        if !page.more {
            break;
        }
    }
    assert_eq!(owed, before.pending);
    drop(store);
    // A file that is missing is noticed, whichever it is.
    for file in files {
        let away = dir.path().join("away");
        fs::rename(&file, &away).unwrap();
        let refused = open(dir.path()).err().unwrap_or_else(|| panic!("{} is missing", file.display()));
        assert!(matches!(refused, OpenError::Unreadable(..)), "{refused}");
        fs::rename(&away, &file).unwrap();
    }
    open(dir.path()).unwrap();
}

#[tokio::test]
async fn retention_frees_files_whoever_holds_on_to_an_event_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let lane =
        store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap().subscription.lane;
    let keep = Keep { since: UnixMicros(0), bytes_max: 2 * 1024 * 1024 };
    for round in 0..40 {
        work(&store, lane, 20).await;
        let purged = store.purge(keep).await.unwrap();
        assert!(purged.bytes_left <= keep.bytes_max, "round {round}: {purged:?}");
        let owed = store.lane_summary(lane).pending;
        assert_eq!(owed, (round + 1) * 100, "what is owed stays");
    }
    let files = log_files(dir.path());
    assert!(files.len() <= 24, "{} files", files.len());
    let before = store.lane_summary(lane);
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.lane_summary(lane), before);
    let page = store.pending(lane, Seq(0), 10_000).unwrap();
    assert_eq!(page.owed.len() as u64, before.pending);
    assert!(page.owed.iter().all(|owed| owed.event.seq.0.is_multiple_of(10)));
}

#[tokio::test]
async fn retention_ends_where_nothing_but_what_is_owed_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let lane =
        store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap().subscription.lane;
    const EVENTS: u64 = 6000;
    let keys: Vec<DeliveryKey> = (1..=EVENTS).map(|seq| DeliveryKey { seq: Seq(seq), lane }).collect();
    let state = DeliveryState::Retrying { due: store.shared.clock.now() };
    for _ in keys.chunks(50) {
        let events = (0..50).map(|number| conformance::new_event(1, None, number, &[lane])).collect();
        store.accept(events).await.unwrap();
    }
    // Files without events: what is described in them is described anew when they go.
    for keys in [keys.clone(), keys].concat().chunks(50) {
        let attempt = conformance::attempt(store.shared.clock.now(), state);
        let settlements = keys.iter().map(|&key| Settlement { key, attempt: attempt.clone(), state });
        store.settle(settlements.collect()).await.unwrap();
    }
    let purge = store.purge(Keep { since: UnixMicros(0), bytes_max: 1 });
    let purged = tokio::time::timeout(Duration::from_secs(20), purge).await;
    purged.expect("it writes the same anew for ever").unwrap();
    assert_eq!(store.lane_summary(lane).retrying, EVENTS);
    assert_eq!(store.owed_in_all(), EVENTS);
}

#[tokio::test]
async fn an_interrupted_creation_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("TIDINGS"), "tidings format 2 creating\n").unwrap();
    fs::create_dir(dir.path().join("store")).unwrap();
    fs::write(dir.path().join("store/conf"), "half").unwrap();
    open(dir.path()).expect("nothing was ever acknowledged from it");
}

/// What a report should say, from what the store says of each delivery.
fn expected_backlog(
    store: &DiskStore,
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
    let open = || {
        DiskStore::open(dir.path(), SETTINGS, &keys(1), clock.clone(), 1, Metrics::new(UnixMicros(0)))
            .unwrap()
    };
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

fn report_of(store: &DiskStore) -> StoreReport {
    let mut shown = None;
    store.report(&mut |report| shown = Some(*report));
    shown.expect("it is shown once")
}

/// Events enough for more volumes than one page looks at, the newest of which are of no interest, and the rare ones far apart.
const EVENTS: u64 = 12_000;
const RARE_EVERY: u64 = 2_000;

/// A store with a thousand lanes that get one event after another in turn, and another lane that gets the rare ones.
async fn store_of_a_thousand_lanes(dir: &Path, metrics: &Arc<Metrics>) -> (DiskStore, LaneId) {
    let store = DiskStore::open(dir, SETTINGS, &keys(1), TestClock::new(), 1, Arc::clone(metrics)).unwrap();
    let mut lanes = Vec::new();
    for number in 0..=1000 {
        let new = conformance::new_subscription(1, &format!("s{number}"));
        lanes.push(store.create_subscription(new).await.unwrap().subscription.lane);
    }
    let rare = lanes.pop().unwrap();
    for numbers in (0..EVENTS).collect::<Vec<_>>().chunks(100) {
        let events = numbers.iter().map(|&number| {
            let is_rare = number % RARE_EVERY == 1;
            let lane = if is_rare { rare } else { lanes[usize::try_from(number).unwrap() % lanes.len()] };
            let mut new = conformance::new_event(1, None, i64::try_from(number).unwrap() + 1, &[lane]);
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
    (store, rare)
}

#[tokio::test]
async fn a_list_reads_the_volumes_that_hold_what_it_wants_and_no_page_reads_many() {
    let (dir, metrics) = (tempfile::tempdir().unwrap(), Metrics::new(UnixMicros(0)));
    let (store, rare) = store_of_a_thousand_lanes(dir.path(), &metrics).await;
    let volumes = store.shared.ledger().volumes.len();
    assert!(volumes > query::VOLUMES_OF_PAGE_MAX, "{volumes} volumes");
    let read = || usize::try_from(metrics.volumes_read.get()).unwrap();

    let rare_count = usize::try_from(EVENTS / RARE_EVERY).unwrap();
    let all = DeliveryQuery {
        lanes: vec![rare],
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
    let everybody: Vec<LaneId> = (0..=rare.0).map(LaneId).collect();
    for lanes in [all.lanes.clone(), everybody.clone()] {
        let failed = DeliveryQuery { lanes, states: vec![DeliveryState::Failed], ..all.clone() };
        assert!(store.deliveries(&failed).unwrap().rows.is_empty());
    }
    assert_eq!(read(), before, "it is known of every volume that it has none");
    let page = store.deliveries(&DeliveryQuery { lanes: everybody, ..all }).unwrap();
    let listed: Vec<u64> = page.rows.iter().map(|row| row.key.seq.0).collect();
    assert_eq!(listed, (EVENTS - 49..=EVENTS).rev().collect::<Vec<_>>(), "to whomever it goes");

    let types = vec![EventType::ContactUpdated];
    let account = AccountId::new(1).unwrap();
    let mut query = EventQuery { account, types, time: TimeRange::default(), before: None, limit: 50 };
    let (mut found, mut pages) = (0, 0);
    loop {
        let before = read();
        let page = store.events(&query).unwrap();
        assert!(read() - before <= query::VOLUMES_OF_PAGE_MAX, "{} volumes for a page", read() - before);
        (found, pages) = (found + page.rows.len(), pages + 1);
        match page.next {
            Some(next) => query.before = Some(next),
            None => break,
        }
    }
    assert!(found == rare_count && pages > 1, "{found} in {pages} pages");
}
