//! The power is cut: everything that a gateway writes is recorded, and directories are made that could be there
//! after a power cut at any time. Each is checked, started, and compared with what callers were told until then.

use std::{collections::BTreeMap, sync::Arc};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::support::{
    facts::{Facts, Load, Note, check, counts_add_up, has_event, launcher, publish_one_more},
    interposer::Recorder,
    process::Launcher,
    profile::{count, in_full_or_short},
    receiver::{Receiver, Response},
    recorded_disk::{Operation, RecordedDisk, Unsynced},
};

/// Directories that are made and started.
const STATES: usize = 200;
const STATES_SHORT: usize = 18;
const SEED: u64 = 7;
/// What the test notes when the gateway listens.
const READY: &str = "told gateway started yes";

/// What a gateway did from its first start on, while callers published and changed things: stopped and started
/// once in between.
async fn recorded(endpoint: &Receiver, load: Load) -> Vec<Operation> {
    let launcher = launcher();
    let recorder = Recorder::new(launcher.dir());
    let recorded = recorder.recording(&launcher);
    let marks = recorder.clone();
    let note: Note = Arc::new(move |line| marks.mark(line));
    let gateway = recorded.start().await;
    note(READY);
    load.run(&gateway, "a", &endpoint.url(""), &note).await;
    gateway.stop().await;
    let gateway = recorded.start().await;
    gateway.kill().await;
    let operations = recorder.operations();
    let mut disk = RecordedDisk::new();
    operations.iter().for_each(|operation| disk.apply(operation));
    let missed = disk.differences(launcher.dir());
    assert!(missed.is_empty(), "calls that change files and are not recorded: {missed:?}");
    if load.filler > 0 {
        let freed = |operation: &Operation| match operation {
            Operation::Remove(path) | Operation::Rename(path, _) => {
                path.extension().is_some_and(|end| end == "log")
            }
            _ => false,
        };
        assert!(operations.iter().any(freed), "retention removed nothing");
    }
    operations
}

/// Half of the places anywhere, half around the operations that are rare.
fn places(operations: &[Operation], count: usize, random: &mut StdRng) -> Vec<usize> {
    let rare: Vec<usize> = (0..operations.len()).filter(|at| operations[*at].is_rare()).collect();
    let mut places: Vec<usize> = (0..count)
        .map(|nth| match nth % 2 {
            0 => random.random_range(0..operations.len()),
            _ => *rare.choose(random).expect("files were synced"),
        })
        .collect();
    places.sort_unstable();
    places
}

/// Starts a gateway on a directory that a power cut left, and demands what callers were told until then.
async fn assert_recovers(launcher: &Launcher, facts: &Facts, was_ready: bool, random: &mut StdRng) {
    if was_ready {
        let checked = check(launcher, &[]).await;
        assert_eq!(checked.code, Some(0), "no damage is reported: {checked:?}");
    }
    let gateway = launcher.start().await;
    assert_eq!(facts.differences(&gateway).await, [], "callers were told otherwise");
    counts_add_up(&gateway).await;
    publish_one_more(&gateway, "one-more").await;
    if random.random() {
        gateway.kill().await;
    } else {
        gateway.stop().await;
    }
    if random.random_ratio(1, 4) {
        let gateway = launcher.start().await;
        assert!(has_event(&gateway, "one-more").await, "what was published after the power cut is lost");
        gateway.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_time_loses_nothing_that_callers_were_told_and_the_next_start_serves() {
    let mut requests = 0;
    let endpoint = Receiver::with(move |_| {
        requests += 1;
        Response::status(if requests % 4 == 0 { 500 } else { 200 })
    })
    .await;
    let load = Load { filler: 170, events: in_full_or_short(60, 30), changes: in_full_or_short(30, 15) };
    let operations = recorded(&endpoint, load).await;
    let mut random = StdRng::seed_from_u64(SEED);
    let places = places(&operations, in_full_or_short(STATES, STATES_SHORT), &mut random);

    let (mut disk, mut facts, mut was_ready) = (RecordedDisk::new(), Facts::default(), false);
    let (mut at, mut made) = (0, BTreeMap::<Unsynced, usize>::new());
    for (nth, place) in places.iter().enumerate() {
        for operation in &operations[at..*place] {
            disk.apply(operation);
            match operation {
                Operation::Mark(line) if line == READY => was_ready = true,
                Operation::Mark(line) => facts.note(line),
                _ => {}
            }
        }
        at = *place;
        let unsynced = Unsynced::ALL[nth % Unsynced::ALL.len()];
        println!("after {place} of {} operations, with what was not synced {unsynced:?}", operations.len());
        let launcher = launcher();
        disk.write_state(unsynced, &mut random, launcher.dir());
        assert_recovers(&launcher, &facts, was_ready, &mut random).await;
        *made.entry(unsynced).or_default() += 1;
    }
    count(&format!(
        "{} power cuts in {} operations, with {} facts in the end: 0 starts refused, 0 facts lost {made:?}",
        places.len(),
        operations.len(),
        facts.len()
    ));
}

/// The control: on a disk that forgets what was synced, something that was told is lost, and that is noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_forgets_what_was_synced_is_noticed() {
    let endpoint = Receiver::start().await;
    let operations = recorded(&endpoint, Load { filler: 0, events: 5, changes: 0 }).await;
    let last_change = operations.iter().rposition(|operation| matches!(operation, Operation::Mark(_)));
    let operations = &operations[..last_change.expect("something was told")];
    let mut facts = Facts::default();
    let marks = operations.iter().filter_map(|operation| match operation {
        Operation::Mark(line) if line != READY => Some(line),
        _ => None,
    });
    marks.for_each(|line| facts.note(line));
    let mut disk = RecordedDisk::new();
    // From one of the last events on, no sync of a file of the log reaches the disk.
    let told_event =
        |at: &usize| matches!(&operations[*at], Operation::Mark(line) if line.starts_with("told event"));
    let first = (0..operations.len()).rev().filter(told_event).nth(3).expect("events were published");
    let forgets = |at: usize, operation: &Operation| {
        let of_log =
            matches!(operation, Operation::Sync(path) if path.extension().is_some_and(|end| end == "log"));
        of_log && at > first
    };
    for (at, operation) in operations.iter().enumerate() {
        if !forgets(at, operation) {
            disk.apply(operation);
        }
    }
    let launcher = launcher();
    disk.write_state(Unsynced::BytesDropped, &mut StdRng::seed_from_u64(SEED), launcher.dir());
    let gateway = launcher.start().await;
    let differences = facts.differences(&gateway).await;
    assert!(differences.iter().any(|difference| difference.kind == "event"), "{differences:?}");
    gateway.kill().await;
}
