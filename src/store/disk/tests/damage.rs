//! Starts on damaged, torn or unfinished data, and how much a start reads.

use super::*;

#[tokio::test]
async fn a_damaged_directory_is_refused_and_never_made_anew() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 12] = [
        ("the marker is no text", |dir| fs::write(dir.join("TIDINGS"), [0xff; 9]).unwrap()),
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
        ("another store's file is copied here", |dir| {
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

pub fn snapshots(dir: &Path) -> Vec<PathBuf> {
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
        for position in (0..=used).step_by((used / 40).max(1)) {
            let dir = closed_store().await;
            let path = dir.path().join(file);
            let mut bytes = fs::read(&path).unwrap();
            bytes[position] ^= 0x10;
            fs::write(&path, bytes).unwrap();
            match open(dir.path()) {
                Err(OpenError::Unreadable(..)) => refused += 1,
                Err(other) => panic!("{file}, byte {position}: {other}"),
                Ok(store) => {
                    let event = store.event(AccountId::new(1).unwrap(), &"e".parse().unwrap());
                    assert!(
                        event.is_ok_and(|event| event.is_some()),
                        "{file}, byte {position}: the event is lost, silently"
                    );
                }
            }
        }
        assert!(refused > 0, "no damage of {file} was noticed");
    }
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
    let subscription =
        store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap().subscription.key;
    work(&store, subscription, 4).await;
    let before = store.queue_summary(subscription);
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
        let now = store.queue_summary(subscription);
        assert_eq!(
            (now.pending, now.succeeded),
            (before.pending + 45, before.succeeded - 45),
            "cut at {cut}"
        );
        // Its place is used again.
        work(&store, subscription, 1).await;
        drop(store);
        let store = open(dir.path()).unwrap();
        assert_eq!(store.queue_summary(subscription).pending, before.pending + 45 + 5);
    }
    // What lies before the manifest's place is read when it is asked for.
    let replayed = index::manifest::Manifest::read(&dir.path().join("ledger")).unwrap().pos.offset() as usize;
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
async fn a_damaged_body_that_a_start_replays_costs_only_its_event() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap();
    for id in ["first", "second", "last"] {
        store.accept(vec![conformance::new_event(1, Some(id), 1)]).await.unwrap();
    }
    let found =
        |id: &str| store.shared.find(AccountId::new(1).unwrap(), &id.parse().unwrap()).unwrap().unwrap();
    let positions = ["first", "second", "last"].map(|id| found(id).meta.pos);
    store.close().unwrap();
    drop(store);
    let log = log_files(dir.path()).pop().unwrap();
    let whole = fs::read(&log).unwrap();
    for (damaged, pos) in ["first", "second", "last"].into_iter().zip(positions) {
        for killed in [false, true] {
            let mut bytes = whole.clone();
            bytes[pos.offset() as usize + 3] ^= 1;
            let copy = copy_with(dir.path(), &log, &bytes);
            if killed {
                fs::remove_file(copy.path().join("clean")).unwrap();
            }
            if killed && damaged == "last" {
                // It may as well be what the kill tore.
                assert_eq!(open(copy.path()).unwrap().newest(), Seq(2));
                continue;
            }
            let report = super::check::checked(copy.path());
            let [damage] = &report.damages[..] else { panic!("{damaged}: {report:?}") };
            assert!(damage.meaning.contains(&format!("accounts/1/events/{damaged}")), "{damage}");
            assert!(damage.meaning.contains("accounts/1/subscriptions/a"), "{damage}");
            let store = open(copy.path()).unwrap_or_else(|error| panic!("{damaged}: {error}"));
            for id in ["first", "second", "last"] {
                let event = store.event(AccountId::new(1).unwrap(), &id.parse().unwrap()).unwrap().unwrap();
                assert_eq!(event.damage.is_some(), id == damaged, "{id} of {damaged}");
            }
            store.accept(vec![conformance::new_event(1, None, 1)]).await.unwrap();
            store.close().unwrap();
            drop(store);
            assert_eq!(open(copy.path()).unwrap().newest(), Seq(4));
        }
    }
}

#[tokio::test]
async fn a_start_reads_the_manifest_and_the_last_file_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let subscription =
        store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap().subscription.key;
    work(&store, subscription, 200).await;
    let before = store.queue_summary(subscription);
    drop(store);
    let files = log_files(dir.path());
    assert!(files.len() > 5, "{} files", files.len());
    let store = open(dir.path()).unwrap();
    let in_memory = store.shared.ledger().details.len();
    let volumes = store.shared.ledger().volumes.len();
    assert!(in_memory < volumes / 2, "{in_memory} of {volumes} volumes were read");
    assert_eq!(store.queue_summary(subscription), before);
    let mut after = Seq(0);
    let mut owed = 0;
    loop {
        let page = store.pending(subscription, after, 7).unwrap();
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
async fn left_overs_of_an_unfinished_snapshot_are_removed_before_sled_opens() {
    for content in [&b""[..], b"half of one"] {
        let dir = closed_store().await;
        let left_over = dir.path().join("store/snap.FFFFFFFFFFFFFFFF.generating");
        fs::write(&left_over, content).unwrap();
        open(dir.path()).expect("nothing is damaged");
        assert!(!left_over.exists());
    }
}

#[tokio::test]
async fn an_interrupted_creation_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("TIDINGS"), "tidings format 2 creating\n").unwrap();
    fs::create_dir(dir.path().join("store")).unwrap();
    fs::write(dir.path().join("store/conf"), "half").unwrap();
    open(dir.path()).expect("nothing was ever acknowledged from it");
}
