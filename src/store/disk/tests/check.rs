//! `tidings check`: names each damage, and a repair leaves a store that opens.

use super::*;
use crate::store::{
    TimeRange,
    disk::check::{CheckReport, QUARANTINE, Remedy, check},
};

/// A closed store with a subscription, and events in several files and at the end of the log.
async fn filled_store() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let subscription =
        store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap().subscription.key;
    work(&store, subscription, 60).await;
    store.close().unwrap();
    dir
}

fn events_in(store: &DiskStore) -> usize {
    let account = AccountId::new(1).unwrap();
    let mut query = EventQuery {
        scope: AccountScope::One(account),
        types: Vec::new(),
        time: TimeRange::default(),
        before: None,
        limit: 1000,
    };
    let mut count = 0;
    loop {
        let page = store.events(&query).unwrap();
        count += page.rows.len();
        let Some(next) = page.next else { return count };
        query.before = Some(next);
    }
}

/// Positions of the records in a log file.
fn records(file: &Path) -> Vec<usize> {
    let bytes = fs::read(file).unwrap();
    (0..bytes.len()).step_by(8).filter(|at| bytes[*at..].starts_with(b"Tdgs")).collect()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 4;
    fs::write(file, bytes).unwrap();
}

pub(super) fn checked(dir: &Path) -> CheckReport {
    check(dir, false).unwrap()
}

#[tokio::test]
async fn a_check_of_a_whole_store_reads_everything_and_finds_nothing() {
    let dir = filled_store().await;
    let report = checked(dir.path());
    assert_eq!(report.damages, []);
    assert_eq!(report.subscriptions, 1);
    assert_eq!(report.events, 3000, "{report:?}");
    assert!(!dir.path().join(QUARANTINE).exists());
    let open = open(dir.path()).unwrap();
    assert!(matches!(check(dir.path(), false), Err(OpenError::Locked(..))));
    drop(open);
    let nothing = tempfile::tempdir().unwrap();
    assert!(matches!(check(nothing.path(), true), Err(OpenError::NoStore(_))));
}

#[tokio::test]
async fn a_damage_that_refuses_a_start_is_named_and_a_repair_opens_the_rest() {
    type Damage = fn(&Path);
    /// A damage, the file that is named, and how many of the events are lost at most.
    type Case = (&'static str, Damage, &'static str, usize);
    let cases: [Case; 11] = [
        ("the marker is gone", |dir| fs::remove_file(dir.join("TIDINGS")).unwrap(), "TIDINGS", 0),
        ("the marker is garbage", |dir| fs::write(dir.join("TIDINGS"), "hello").unwrap(), "TIDINGS", 0),
        (
            "the marker ends early",
            |dir| fs::write(dir.join("TIDINGS"), "tidings format 5").unwrap(),
            "TIDINGS",
            0,
        ),
        ("sled's directory is gone", |dir| fs::remove_dir_all(dir.join("store")).unwrap(), "store", 0),
        ("sled's configuration is gone", |dir| fs::remove_file(dir.join("store/conf")).unwrap(), "store", 0),
        (
            "sled's file is overwritten",
            |dir| fs::write(dir.join("store/db"), [0x5a; 70_000]).unwrap(),
            "store",
            0,
        ),
        (
            "a snapshot is damaged",
            |dir| damage::snapshots(dir).iter().for_each(|snap| flip(snap, 9)),
            "store",
            0,
        ),
        (
            "the registry's log is gone",
            |dir| fs::remove_file(dir.join("ledger/registry")).unwrap(),
            "ledger/registry",
            0,
        ),
        ("the registry's log is damaged", |dir| flip(&dir.join("ledger/registry"), 60), "ledger/registry", 0),
        (
            "the end is noted too far",
            |dir| fs::write(dir.join("clean"), "next_seq 9999\nnext_record 9999\n").unwrap(),
            "clean",
            0,
        ),
        (
            "a commit is damaged",
            |dir| {
                let log = log_files(dir).pop().unwrap();
                let manifest = index::manifest::Manifest::read(&dir.join("ledger")).unwrap();
                let after = |at: &usize| *at >= manifest.pos.offset() as usize;
                let record = records(&log).into_iter().find(after).unwrap();
                flip(&log, record + 50);
            },
            ".log",
            50,
        ),
    ];
    for (what, damage, file, lost) in cases {
        let dir = filled_store().await;
        let before = events_in(&open(dir.path()).unwrap());
        damage(dir.path());
        let refused = open(dir.path()).err().unwrap_or_else(|| panic!("{what}: it was opened")).to_string();
        assert!(refused.contains(file), "{what}: {refused}");
        assert!(refused.contains(&format!("tidings check {}", dir.path().display())), "{what}: {refused}");
        let report = checked(dir.path());
        assert!(
            report.is_damaged() && report.damages.iter().any(|d| d.file.contains(file)),
            "{what}: {report:?}"
        );
        for damage in &report.damages {
            let text = damage.to_string();
            assert!(!text.contains("unreadable record"), "{what}: {text}");
            assert!(!text.starts_with(&format!("{0}: {0}", damage.file)), "{what}: {text}");
        }
        let repaired = check(dir.path(), true).unwrap();
        assert!(!repaired.is_damaged(), "{what}: {repaired:?}");
        assert_eq!(checked(dir.path()).damages, [], "{what}");
        let store = open(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let events = events_in(&store);
        assert!(events <= before && events >= before - lost, "{what}: {events} of {before}");
        assert_eq!(store.registry().keys().len(), 1, "{what}");
        // It goes on, and opens again.
        let accepted = store.accept(vec![conformance::new_event(1, None, 1)]).await.unwrap();
        assert_eq!(accepted[0].delivery_count, 1, "{what}");
        store.close().unwrap();
        drop(store);
        open(dir.path()).unwrap();
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_taken_out_of_both_copies() {
    let dir = filled_store().await;
    let key = [&[records::RegistryKind::Request as u8][..], &[7; 24]].concat();
    let (mut log, _) = log::registry_log::RegistryLog::open(&dir.path().join("ledger")).unwrap();
    let row = records::RowRecord::put(key, [0xff; 9]);
    log.append(records::RowTree::Registry, vec![row], log.next_record()).unwrap();
    let refused = open(dir.path()).err().expect("it was opened").to_string();
    assert!(refused.contains("tidings check"), "{refused}");
    let report = checked(dir.path());
    let [damage] = &report.damages[..] else { panic!("{report:?}") };
    assert!(damage.file == "ledger/registry" && damage.fault.contains("the row 0207"), "{damage}");
    assert!(!check(dir.path(), true).unwrap().is_damaged());
    assert_eq!(checked(dir.path()).damages, [], "store/ is not behind");
    open(dir.path()).unwrap();
}

#[tokio::test]
async fn a_file_that_is_missing_or_cut_costs_what_was_in_it_visibly() {
    let dir = filled_store().await;
    let before = events_in(&open(dir.path()).unwrap());
    let manifest = index::manifest::Manifest::read(&dir.path().join("ledger")).unwrap();
    let (mut lost_bodies, mut lost_indexes) = (0, 0);
    for file in log_files(dir.path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let is_last = name == log::file_name(manifest.pos.file());
        for cut in [false, true] {
            if cut && !is_last {
                continue;
            }
            let copy = tempfile::tempdir().unwrap();
            secrets::copy(dir.path(), copy.path());
            let path = copy.path().join("ledger").join(name);
            if cut {
                fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(9).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
            let refused =
                open(copy.path()).err().unwrap_or_else(|| panic!("{name}: it was opened")).to_string();
            assert!(refused.contains(name), "{refused}");
            let report = checked(copy.path());
            let [damage, ..] = &report.damages[..] else { panic!("{name}: {report:?}") };
            assert!(damage.file.ends_with(name) && matches!(damage.remedy, Remedy::Repair(_)), "{damage}");
            assert!(damage.meaning.contains("events are lost in all"), "{damage}");
            let indexes =
                report.damages.iter().filter(|damage| damage.meaning.contains("It is the index of"));
            for index in indexes {
                assert!(index.file.ends_with(name), "the index is in another file: {index}");
                assert!(cut || index.fault == "the file is missing", "{index}");
            }
            lost_indexes += report.lost_events;
            let repaired = check(copy.path(), true).unwrap();
            let is_repaired = |remedy: &Remedy| matches!(remedy, Remedy::Served | Remedy::Repaired(_));
            assert!(
                repaired.damages.iter().all(|damage| is_repaired(&damage.remedy)),
                "{name}: {repaired:?}"
            );
            let left = checked(copy.path());
            assert!(left.damages.iter().all(|damage| damage.remedy == Remedy::Served), "{name}: {left:?}");
            lost_bodies += left.damages.len();
            let store = open(copy.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
            let events = events_in(&store);
            assert!(events > 0 && events <= before, "{name}: {events} of {before}");
            if !is_last {
                assert_eq!(events + repaired.lost_events, before, "{name}");
            }
            store.accept(vec![conformance::new_event(1, None, 1)]).await.unwrap();
            store.close().unwrap();
            drop(store);
            open(copy.path()).unwrap();
        }
    }
    assert!(lost_bodies > 0, "some file had bodies whose index was in another one");
    assert!(lost_indexes > 0, "some file had indexes");
}

#[tokio::test]
async fn without_the_ledger_or_its_manifest_nothing_is_repaired_and_a_backup_is_asked_for() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 2] = [
        ("ledger", |dir| fs::remove_dir_all(dir.join("ledger")).unwrap()),
        ("ledger/manifest", |dir| {
            flip(&dir.join("ledger/manifest"), 20);
            fs::remove_dir_all(dir.join("store")).unwrap();
        }),
    ];
    for (file, damage) in damages {
        let dir = filled_store().await;
        damage(dir.path());
        let repaired = check(dir.path(), true).unwrap();
        let [damage, ..] = &repaired.damages[..] else { panic!("{file}: {repaired:?}") };
        assert_eq!((&*damage.file, &damage.remedy), (file, &Remedy::Restore), "{damage}");
        assert!(repaired.is_damaged() && !dir.path().join(QUARANTINE).exists(), "{repaired:?}");
    }
}

#[tokio::test]
async fn an_index_that_cannot_be_read_costs_its_events_after_a_repair() {
    let dir = filled_store().await;
    let before = events_in(&open(dir.path()).unwrap());
    let manifest = index::manifest::Manifest::read(&dir.path().join("ledger")).unwrap();
    let volume = &manifest.volumes[0];
    let stored = volume.stored().unwrap();
    let file = dir.path().join("ledger").join(log::file_name(stored.index.events.pos.file()));
    flip(&file, stored.index.events.pos.offset() as usize + 3);
    let report = checked(dir.path());
    let [damage] = &report.damages[..] else { panic!("{report:?}") };
    assert!(damage.meaning.contains(&format!("index of {} events", volume.events)), "{damage}");
    assert!(damage.meaning.contains("accounts/1/subscriptions/a"), "{damage}");
    assert!(matches!(damage.remedy, Remedy::Repair(_)), "{damage}");
    assert!(!check(dir.path(), true).unwrap().is_damaged());
    assert_eq!(checked(dir.path()).damages, []);
    assert_eq!(fs::read_dir(dir.path().join(QUARANTINE)).unwrap().count(), 2);
    let after = events_in(&open(dir.path()).unwrap());
    assert_eq!(after, before - volume.events as usize);
}

#[tokio::test]
async fn a_damaged_body_is_named_with_its_event_and_subscriptions() {
    let dir = filled_store().await;
    let manifest = index::manifest::Manifest::read(&dir.path().join("ledger")).unwrap();
    let reader = log::LogReader::read_only(&dir.path().join("ledger")).unwrap();
    let detail = read::fetch::read_detail(&reader, manifest.volumes[0].stored().unwrap()).unwrap();
    let is_owed = |nth: &usize| {
        detail.deliveries_of(manifest.volumes[0].first, *nth).any(|(_, entry)| entry.state.is_owed())
    };
    let event = &detail.events[(0..detail.events.len()).find(is_owed).unwrap()];
    flip(&dir.path().join("ledger").join(log::file_name(event.pos.file())), event.pos.offset() as usize + 5);
    let report = checked(dir.path());
    let [damage] = &report.damages[..] else { panic!("{report:?}") };
    assert_eq!((damage.place, &damage.remedy), (Some(event.pos.offset().into()), &Remedy::Served));
    assert!(damage.meaning.contains(&format!("accounts/1/events/{}", event.id)), "{damage}");
    assert!(damage.meaning.contains("accounts/1/subscriptions/a"), "{damage}");
    open(dir.path()).unwrap();
}

/// Every file of a directory with its bytes, but for the lock.
fn content(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(content(&path));
        } else if !path.ends_with("lock") {
            files.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    files.sort();
    files
}

/// Moves a part out of a directory.
fn move_out(dir: &Path, part: &str) {
    let path = dir.join(part);
    if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
}

#[tokio::test]
async fn parts_of_another_store_are_named_and_a_repair_changes_nothing_until_they_are_put_right() {
    /// The foreign parts, the file that is named, and the part without which a repair opens the rest.
    type Case = (&'static [&'static str], &'static str, Option<&'static str>);
    let cases: [Case; 4] = [
        (&["store"], "store", Some("store")),
        (&["ledger/registry"], "ledger/registry", Some("ledger/registry")),
        (&["ledger"], "store", None),
        (&["ledger/manifest", "ledger/0000000001.log"], "ledger/manifest", None),
    ];
    let other = tempfile::tempdir().unwrap();
    // Of another seed, so that it has another id; with fewer changes and events.
    let metrics = Metrics::new(UnixMicros(0));
    let store = DiskStore::open(other.path(), SETTINGS, &keys(1), TestClock::new(), 2, metrics).unwrap();
    store.accept(vec![conformance::new_event(1, None, 1)]).await.unwrap();
    store.close().unwrap();
    drop(store);
    for (parts, named, movable) in cases {
        let dir = filled_store().await;
        for part in parts {
            move_out(dir.path(), part);
            let (from, to) = (other.path().join(part), dir.path().join(part));
            if from.is_dir() {
                secrets::copy(&from, &to);
            } else {
                fs::copy(from, to).unwrap();
            }
        }
        let refused =
            open(dir.path()).err().unwrap_or_else(|| panic!("{parts:?}: it was opened")).to_string();
        assert!(
            refused.contains("are of different stores. Put back the two that belong together"),
            "{refused}"
        );
        assert!(!refused.contains("unreadable record"), "{refused}");
        fs::remove_file(dir.path().join("TIDINGS")).unwrap();
        let before = content(dir.path());
        for repair in [false, true] {
            let report = check(dir.path(), repair).unwrap();
            let [damage] = &report.damages[..] else { panic!("{parts:?}: {report:?}") };
            assert_eq!(damage.file, named, "{damage}");
            assert!(damage.fault.contains("of another store"), "{damage}");
            assert!(damage.to_string().contains("Put back those that belong together"), "{damage}");
            assert_eq!(damage.to_string().contains("run --repair"), named != "ledger/manifest", "{damage}");
            assert!(content(dir.path()) == before, "{parts:?}: something was changed");
        }
        let Some(movable) = movable else { continue };
        move_out(dir.path(), movable);
        let repaired = check(dir.path(), true).unwrap();
        assert!(!repaired.is_damaged(), "{parts:?}: {repaired:?}");
        let store = open(dir.path()).unwrap_or_else(|error| panic!("{parts:?}: {error}"));
        assert_eq!((events_in(&store), store.registry().keys().len()), (3000, 1), "{parts:?}");
    }
}
