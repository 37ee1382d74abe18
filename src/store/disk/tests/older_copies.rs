//! Older copies of any of the files beside newer ones: the registry, its log and the log of events each know how far the others
//! have come, so nothing goes back in time without a word.

use super::{
    registry::{changed_store, flip, known},
    *,
};
use crate::store::disk::check::{CheckReport, check};

/// Copies files and directories of a data directory, and removes those that the other one has not.
fn put(from: &Path, dir: &Path, parts: &[&str]) {
    for part in parts {
        let (from, to) = (from.join(part), dir.join(part));
        if to.is_dir() {
            fs::remove_dir_all(&to).unwrap();
        } else if to.exists() {
            fs::remove_file(&to).unwrap();
        }
        if from.is_dir() {
            secrets::copy(&from, &to);
        } else if from.exists() {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// A store at three times: before its registry changed, after, and after more events.
struct Ages {
    older: tempfile::TempDir,
    changed: tempfile::TempDir,
    newest: tempfile::TempDir,
}

async fn ages() -> Ages {
    let (changed, older) = changed_store().await;
    let newest = tempfile::tempdir().unwrap();
    secrets::copy(changed.path(), newest.path());
    let store = open(newest.path()).unwrap();
    for number in 0..20 {
        store.accept(vec![conformance::new_event(1, None, number)]).await.unwrap();
    }
    store.close().unwrap();
    drop(store);
    Ages { older, changed, newest }
}

/// The directory as it is after a kill: nothing notes how far it came.
fn copy_without_note(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    secrets::copy(dir, copy.path());
    fs::remove_file(copy.path().join("clean")).unwrap();
    copy
}

fn refusal(dir: &Path) -> String {
    let refused = open(dir).err().expect("it was opened").to_string();
    assert!(refused.contains(&format!("tidings check {}", dir.display())), "{refused}");
    refused
}

fn text(report: &CheckReport) -> String {
    report.damages.iter().map(|damage| format!("{damage}\n")).collect()
}

/// Repairs, and expects nothing to be left.
fn repaired(dir: &Path) -> String {
    let repaired = check(dir, true).unwrap();
    assert!(!repaired.is_damaged(), "{}", text(&repaired));
    let again = check(dir, false).unwrap();
    assert_eq!(again.damages, [], "after {}", text(&repaired));
    text(&repaired)
}

#[tokio::test]
async fn both_copies_of_the_registry_from_an_earlier_time_are_refused_after_a_stop_and_after_a_kill() {
    let Ages { older, changed, newest } = ages().await;
    // A kill right after the changes, too: no event was published since.
    for dir in [&changed, &newest] {
        let dir = copy_without_note(dir.path());
        put(older.path(), dir.path(), &["store", "ledger/registry"]);
        let refused = refusal(dir.path());
        assert!(refused.contains("ledger/registry ends with change"), "{refused}");
        assert!(refused.contains("a revoked token would work again"), "{refused}");
        let found = text(&check(dir.path(), false).unwrap());
        assert!(found.contains("revoke them again"), "{found}");
        refusal(dir.path());
        let repaired = repaired(dir.path());
        assert!(repaired.contains("revoke them again") && repaired.contains("Changes "), "{repaired}");
        let store = open(dir.path()).unwrap();
        assert_eq!(known(&store).1, Some(false), "as the repair said");
        store.close().unwrap();
        drop(store);
        assert_eq!(check(dir.path(), false).unwrap().damages, []);
        open(dir.path()).unwrap();
    }
}

#[tokio::test]
async fn a_repair_of_two_damages_says_what_comes_back_and_of_one_that_nothing_does() {
    let Ages { older, newest, .. } = ages().await;
    let expected = known(&open(newest.path()).unwrap());
    let one = copy_without_note(newest.path());
    flip(&one.path().join("ledger/registry"), 60);
    refusal(one.path());
    let words = repaired(one.path());
    assert!(words.contains("none of them is lost"), "{words}");
    assert_eq!(known(&open(one.path()).unwrap()), expected);

    let two = copy_without_note(newest.path());
    flip(&two.path().join("ledger/registry"), 60);
    put(older.path(), two.path(), &["store"]);
    refusal(two.path());
    let words = repaired(two.path());
    assert!(words.contains("tokens revoked then may work again, so revoke them again"), "{words}");
    assert_eq!(known(&open(two.path()).unwrap()).1, Some(false));

    // The last change is damaged in one copy, and the other one is older still.
    let cut = copy_without_note(newest.path());
    put(older.path(), cut.path(), &["store"]);
    let log = cut.path().join("ledger/registry");
    let bytes = fs::read(&log).unwrap();
    let last = (0..bytes.len()).rev().find(|at| bytes[*at..].starts_with(b"Tdgs")).unwrap();
    flip(&log, last + 50);
    refusal(cut.path());
    let words = repaired(cut.path());
    assert!(words.contains("ledger/registry") && words.contains("are lost"), "{words}");
    assert_eq!(known(&open(cut.path()).unwrap()).1, Some(true), "only the last change was lost");
}

/// A closed store with 20 events, and a copy of its log of events from before them. `has_change` after them as well.
async fn with_older_log(has_change: bool) -> (tempfile::TempDir, tempfile::TempDir) {
    let (dir, older) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(dir.path()).unwrap();
    store.create_subscription(conformance::new_subscription(1, "a")).await.unwrap();
    secrets::copy(&dir.path().join("ledger"), &older.path().join("ledger"));
    for number in 0..20 {
        store.accept(vec![conformance::new_event(1, None, number)]).await.unwrap();
    }
    if has_change {
        store.create_subscription(conformance::new_subscription(1, "b")).await.unwrap();
    }
    store.close().unwrap();
    (dir, older)
}

const LOG_OF_EVENTS: [&str; 2] = ["ledger/0000000001.log", "ledger/manifest"];

#[tokio::test]
async fn a_log_of_events_from_an_earlier_time_is_refused_after_a_kill() {
    let (dir, older) = with_older_log(true).await;
    let dir = copy_without_note(dir.path());
    put(older.path(), dir.path(), &LOG_OF_EVENTS);
    let refused = refusal(dir.path());
    assert!(refused.contains("the log of events ends before record"), "{refused}");
    let words = repaired(dir.path());
    assert!(
        words.contains("ledger/0000000001.log") && words.contains("The last events are missing"),
        "{words}"
    );
    let store = open(dir.path()).unwrap();
    assert_eq!((store.newest(), store.registry().keys().len()), (Seq(0), 2));
    store.accept(vec![conformance::new_event(1, None, 1)]).await.unwrap();
    store.close().unwrap();
    drop(store);
    assert_eq!(check(dir.path(), false).unwrap().damages, []);
}

#[tokio::test]
async fn a_log_of_events_from_before_the_last_clean_stop_is_to_be_put_back_before_a_repair() {
    let (dir, older) = with_older_log(false).await;
    let newer = tempfile::tempdir().unwrap();
    secrets::copy(dir.path(), newer.path());
    put(older.path(), dir.path(), &LOG_OF_EVENTS);
    let ends = "the log of events ends before event number 1, and the file clean knows of event number 20: ledger/*.log are older \
                copies, or their end is damaged. Put the newer ones back if you have them";
    let refused = refusal(dir.path());
    assert!(refused.contains(ends), "{refused}");
    let found = text(&check(dir.path(), false).unwrap());
    assert!(found.contains(ends) && found.contains("only if there are none, repair"), "{found}");
    // As it says.
    put(newer.path(), dir.path(), &LOG_OF_EVENTS);
    assert_eq!(check(dir.path(), false).unwrap().damages, []);
    assert_eq!(open(dir.path()).unwrap().newest(), Seq(20));
    // Without the newer ones.
    put(older.path(), dir.path(), &LOG_OF_EVENTS);
    assert!(repaired(dir.path()).contains("Repaired: this takes the end that is there"));
    assert_eq!(open(dir.path()).unwrap().newest(), Seq(0));
}

#[tokio::test]
async fn a_damaged_note_of_the_last_clean_stop_costs_nothing() {
    let (dir, _older) = with_older_log(false).await;
    let note = fs::read_to_string(dir.path().join("clean")).unwrap();
    let damaged = [
        note.replace("next_seq", "next_sep"),
        note.replace("registry_change", "registry_chang%"),
        note.replace("next_record ", "next_record"),
        format!("{note}more 5\n"),
        "next_seq 21\n".to_owned(),
        String::new(),
    ];
    for damaged in damaged {
        fs::write(dir.path().join("clean"), &damaged).unwrap();
        let refused = refusal(dir.path());
        assert!(refused.contains("the file clean is not as it was written"), "{damaged}: {refused}");
        let words = repaired(dir.path());
        assert!(
            words.contains("nothing is lost with it") && words.contains("changes nothing else"),
            "{words}"
        );
        let store = open(dir.path()).unwrap();
        assert_eq!(store.newest(), Seq(20));
        store.close().unwrap();
    }
}

#[tokio::test]
async fn an_older_marker_costs_nothing() {
    let Ages { older, newest, .. } = ages().await;
    let expected = known(&open(newest.path()).unwrap());
    // It would be made anew.
    let dir = copy_without_note(newest.path());
    fs::write(dir.path().join("TIDINGS"), "tidings format 5 creating\n").unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("TIDINGS") && refused.contains("older copy"), "{refused}");
    assert!(repaired(dir.path()).contains("TIDINGS"));
    assert_eq!(known(&open(dir.path()).unwrap()), expected);
    // It would be converted: from what sled has.
    for format in [2, 3] {
        let dir = copy_without_note(newest.path());
        fs::write(dir.path().join("TIDINGS"), format!("tidings format {format} ready\n")).unwrap();
        put(older.path(), dir.path(), &["store"]);
        let store = open(dir.path()).unwrap();
        assert_eq!(known(&store), expected, "format {format}");
        drop(store);
        assert_eq!(fs::read_to_string(dir.path().join("TIDINGS")).unwrap(), "tidings format 5 ready\n");
    }
}

#[tokio::test]
async fn a_marker_and_a_store_from_before_the_conversion_do_not_replace_the_registrys_log() {
    let (dir, older) = changed_store().await;
    let expected = known(&open(dir.path()).unwrap());
    // As it was in a format without a log: nothing says which change it has.
    put(older.path(), dir.path(), &["store"]);
    let db = kv::sled::open_engine(dir.path(), false).unwrap();
    db.open_tree(REGISTRY_TREE).unwrap().remove([records::RegistryKind::LastChange as u8]).unwrap();
    drop(db);
    fs::write(dir.path().join("TIDINGS"), "tidings format 3 ready\n").unwrap();
    let log = fs::read(dir.path().join("ledger/registry")).unwrap();
    let refused = refusal(dir.path());
    assert!(refused.contains("ledger/registry") && refused.contains("older copies"), "{refused}");
    assert_eq!(fs::read(dir.path().join("ledger/registry")).unwrap(), log, "it is still there");
    assert!(repaired(dir.path()).contains("store"));
    assert_eq!(known(&open(dir.path()).unwrap()), expected);
}
