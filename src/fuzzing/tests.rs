//! Tests of the corpus: every file passes its target, and the program's own output is among the seeds.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use prost::Message;

use super::{TARGETS, run};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{Seq, SubscriptionKey},
    },
    store::disk::records::{CommitRecord, EventEntry, OutcomeRecord},
};

mod seeds;

/// Most bytes of all files together.
const CORPUS_BYTES_MAX: u64 = 256 * 1024;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(name)
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_file_of_the_corpus_passes_its_target() {
    let mut bytes = 0;
    for (name, run) in TARGETS {
        let folder = folder("corpus").join(name);
        let files = names_in(&folder);
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let data = fs::read(folder.join(&file)).unwrap();
            bytes += data.len() as u64;
            // The output of a failed test names the file.
            println!("{name}/{file}");
            run(&data);
        }
        run(&[]);
    }
    assert!(
        bytes <= CORPUS_BYTES_MAX,
        "the corpus has {bytes} bytes: keep inputs that found faults, and a few others"
    );
}

#[test]
fn every_target_has_a_corpus_and_a_program() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names_in(&folder("corpus")), names);
    let programs = names.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names_in(&folder("fuzz_targets")), programs);
    let manifest = fs::read_to_string(folder("Cargo.toml")).unwrap();
    for name in &names {
        let text = fs::read_to_string(folder("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(text.contains(&format!("run(\"{name}\", data)")), "{name}.rs runs another target");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not built");
    }
}

#[test]
fn damage_at_the_start_of_a_file_is_detected_if_a_whole_record_follows() {
    // One bit of the first record of the second file is flipped, and one more record follows it there.
    run("log", b"\x01\x29\0\0\0\x03abc\x80\x03def\0\x03ghi");
}

#[test]
fn a_malformed_commit_is_refused_without_a_panic() {
    let event =
        EventEntry { account: 1, id: "e".to_owned(), subscriptions: vec![1, 2], ..EventEntry::default() };
    let of =
        |event: &EventEntry| CommitRecord { first: 1, events: vec![event.clone()], ..Default::default() };
    let nobody = of(&EventEntry { account: 0, id_given: true, ..event.clone() });
    let nameless = of(&EventEntry { id: "a/b".to_owned(), id_given: true, ..event.clone() });
    let no_lane = of(&EventEntry { subscriptions: vec![1, u64::MAX], ..event.clone() });
    let twice = of(&EventEntry { subscriptions: vec![1, 1], ..event.clone() });
    let settled = |change: fn(&mut OutcomeRecord)| {
        let key = DeliveryKey { seq: Seq(1), subscription: SubscriptionKey(1) };
        let mut outcome = OutcomeRecord::new(key, DeliveryState::Failed, 1);
        change(&mut outcome);
        CommitRecord { outcomes: vec![outcome], ..of(&event) }
    };
    let to_no_lane = settled(|outcome| (outcome.subscription, outcome.added) = (1 << 40, true));
    let without_attempt = settled(|_| ());
    let without_count = settled(|outcome| (outcome.attempts, outcome.attempt_len) = (0, 9));
    let early = CommitRecord { time: i64::MIN, ..of(&event) };
    let late = CommitRecord { first: 2, time: i64::MAX, ..of(&event) };
    for commits in [
        vec![nobody],
        vec![nameless],
        vec![no_lane],
        vec![twice],
        vec![to_no_lane],
        vec![without_attempt],
        vec![without_count],
        vec![early, late],
    ] {
        let mut bytes = Vec::new();
        for commit in commits {
            bytes.extend(u16::try_from(commit.encoded_len()).unwrap().to_le_bytes());
            bytes.extend(commit.encode_to_vec());
        }
        run("commit", &bytes);
    }
}

#[test]
#[should_panic(expected = "duplicate key \"a\"")]
fn a_duplicate_key_is_detected() {
    crate::event::fuzz::is_sound(br#"{"b": [{"a": 1, "a": 2}]}"#);
}
