//! The engine on sled: that it conforms, and what it does with a directory that is not as it left it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::*;
use crate::store::conformance::{self, Engine, TestClock};

const CACHE_BYTES: u64 = 8 * 1024 * 1024;

struct Sled(tempfile::TempDir);

impl Engine for Sled {
    fn open(&mut self, clock: Arc<TestClock>) -> Arc<dyn Store> {
        Arc::new(SledStore::open(self.0.path(), CACHE_BYTES, clock, 1).unwrap())
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
    SledStore::open(dir, CACHE_BYTES, TestClock::new(), 1)
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
