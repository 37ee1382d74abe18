//! Damaged data directories: bytes change, files disappear, are swapped, or are those of an earlier day. Each
//! directory is checked, started and compared with what callers were told. What may come of it is only: everything
//! is right; the start is refused, with the cause and the way out; or it is right but for damaged records, which are
//! counted.

use std::{
    collections::BTreeMap,
    fmt, fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::task::{LocalSet, spawn_local};

use crate::support::{
    copy_dir,
    facts::{Difference, Facts, Load, Note, check, counts_add_up, launcher, publish_one_more},
    process::Launcher,
    profile::{count, in_full_or_short},
    receiver::Receiver,
    scrape::Scrape,
};

const VARIANTS: usize = 300;
const VARIANTS_SHORT: usize = 22;
const SEED: u64 = 11;
/// What a refusal says to do: one of these is in it.
const WAYS_OUT: [&str; 5] = ["tidings check", "put the newer", "start the version", "backup", "chmod"];

/// A data directory, and what callers had been told when it was copied.
struct Copied {
    dir: tempfile::TempDir,
    facts: Facts,
}

/// The directories of one gateway: of an earlier day, after a stop, and after a kill.
struct Directories {
    earlier: Copied,
    stopped: Copied,
    killed: Copied,
}

impl Directories {
    async fn new() -> Self {
        let endpoint = Receiver::start().await;
        let launcher = launcher();
        let facts = Arc::<Mutex<Facts>>::default();
        let noted = Arc::clone(&facts);
        let note: Note = Arc::new(move |line| noted.lock().unwrap().note(line));
        let copied = || {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(&launcher.data_dir(), dir.path());
            Copied { dir, facts: facts.lock().unwrap().clone() }
        };
        let gateway = launcher.start().await;
        Load { filler: 5, events: 12, changes: 12 }.run(&gateway, "a", &endpoint.url(""), &note).await;
        gateway.stop().await;
        let earlier = copied();
        let gateway = launcher.start().await;
        Load { filler: 20, events: 12, changes: 12 }.run(&gateway, "b", &endpoint.url(""), &note).await;
        gateway.stop().await;
        let stopped = copied();
        let gateway = launcher.start().await;
        Load { filler: 0, events: 6, changes: 8 }.run(&gateway, "c", &endpoint.url(""), &note).await;
        gateway.kill().await;
        Self { earlier, stopped, killed: copied() }
    }

    fn of(&self, was_killed: bool) -> &Copied {
        if was_killed { &self.killed } else { &self.stopped }
    }
}

/// One damage.
#[derive(Clone, Debug)]
enum Damage {
    /// One bit is another.
    Flip(PathBuf, u64),
    /// So many bytes are zero.
    Zero(PathBuf, u64, usize),
    Truncate(PathBuf, u64),
    Delete(PathBuf),
    Swap(PathBuf, PathBuf),
    /// These are those of an earlier day.
    Earlier(&'static [&'static str]),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flip(..) => "a bit flipped",
            Self::Zero(..) => "bytes zeroed",
            Self::Truncate(..) => "truncated",
            Self::Delete(_) => "deleted",
            Self::Swap(..) => "swapped",
            Self::Earlier(_) => "an older copy",
        })
    }
}

/// Parts of a directory that may be an older copy together.
const PARTS: [&[&str]; 8] = [
    &["store"],
    &["ledger"],
    &["ledger/registry"],
    &["store", "ledger/registry"],
    &["ledger/manifest"],
    &["ledger/0000000001.log"],
    &["store", "ledger/manifest"],
    &["clean"],
];

/// The files of a directory, relative to it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(next).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => found.push(entry.path().strip_prefix(dir).unwrap().to_owned()),
            }
        }
    }
    found.sort();
    found
}

/// A byte of a file that is used.
fn used_byte(file: &Path, random: &mut StdRng) -> Option<u64> {
    let bytes = fs::read(file).unwrap();
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    used.choose(random).map(|at| *at as u64)
}

fn any_damage(dir: &Path, random: &mut StdRng) -> Damage {
    // Empty ones, and those whose content means nothing.
    let there = files(dir).into_iter().filter(|file| !file.ends_with("lock") && !file.ends_with("spare"));
    let files: Vec<PathBuf> = there.filter(|file| fs::metadata(dir.join(file)).unwrap().len() > 0).collect();
    let file = files.choose(random).unwrap().clone();
    let at = used_byte(&dir.join(&file), random).unwrap_or(0);
    match random.random_range(0..8) {
        0 | 1 => Damage::Flip(file, at),
        2 => Damage::Zero(file, at / 512 * 512, 512),
        3 => Damage::Zero(file, at / 4096 * 4096, 4096),
        4 => Damage::Truncate(file, at),
        5 => Damage::Delete(file),
        6 => Damage::Swap(file, files.choose(random).unwrap().clone()),
        _ => Damage::Earlier(PARTS.choose(random).unwrap()),
    }
}

impl Damage {
    fn apply(&self, dir: &Path, earlier: &Path) {
        let open = |file: &PathBuf| fs::File::options().read(true).write(true).open(dir.join(file)).unwrap();
        match self {
            Self::Flip(file, at) => {
                let (file, mut byte) = (open(file), [0]);
                file.read_exact_at(&mut byte, *at).unwrap();
                file.write_all_at(&[byte[0] ^ 0x10], *at).unwrap();
            }
            Self::Zero(file, at, length) => {
                let file = open(file);
                let left = usize::try_from(file.metadata().unwrap().len() - at).unwrap();
                file.write_all_at(&vec![0; left.min(*length)], *at).unwrap();
            }
            Self::Truncate(file, length) => open(file).set_len(*length).unwrap(),
            Self::Delete(file) => fs::remove_file(dir.join(file)).unwrap(),
            Self::Swap(one, other) => {
                let bytes = fs::read(dir.join(one)).unwrap();
                fs::copy(dir.join(other), dir.join(one)).unwrap();
                fs::write(dir.join(other), bytes).unwrap();
            }
            Self::Earlier(parts) => {
                for part in *parts {
                    let (from, to) = (earlier.join(part), dir.join(part));
                    if from.is_dir() {
                        fs::remove_dir_all(&to).unwrap();
                        copy_dir(&from, &to);
                    } else {
                        fs::copy(from, to).unwrap();
                    }
                }
            }
        }
    }
}

/// What came of a damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Came {
    Right,
    /// Right but for damaged records, which are counted.
    RightButDamaged,
    /// A power cut may leave the same: the end of the log of a gateway that was killed.
    EndOfLogLost,
    RefusedAndRepaired,
    RefusedForABackup,
}

fn is_of_registry(difference: &Difference) -> bool {
    matches!(&*difference.kind, "token" | "subscription")
}

/// Tries a damaged directory as an operator would. Panics if something else comes of it than may.
async fn try_out(launcher: &Launcher, copied: &Copied, damage: &Damage, was_killed: bool) -> Came {
    let checked = check(launcher, &[]).await;
    let gateway = match launcher.try_start().await {
        Ok(gateway) => gateway,
        Err(ended) => {
            assert_eq!(ended.code, Some(1), "a refusal: {ended:?}");
            let said = &ended.stderr;
            assert!(WAYS_OUT.iter().any(|way| said.contains(way)), "no way out: {said}");
            assert_ne!(checked.code, Some(0), "a check finds nothing, and the start is refused: {said}");
            return repair(launcher, copied).await;
        }
    };
    let differences = copied.facts.differences(&gateway).await;
    let of_registry: Vec<_> = differences.iter().filter(|one| is_of_registry(one)).collect();
    assert!(of_registry.is_empty(), "back in time without a word: {of_registry:?}");
    counts_add_up(&gateway).await;
    publish_one_more(&gateway, "one-more").await;
    let damaged = Scrape::of(&gateway).await.value("tidings_records_damaged_total");
    gateway.terminate();
    assert_eq!(gateway.wait().await.code, Some(0));
    if differences.is_empty() {
        return Came::Right;
    }
    if damaged > 0.0 || checked.code == Some(1) {
        return Came::RightButDamaged;
    }
    let is_of_log = match damage {
        Damage::Flip(file, _) | Damage::Zero(file, ..) | Damage::Truncate(file, _) => {
            file.extension().is_some_and(|end| end == "log")
        }
        _ => false,
    };
    assert!(was_killed && is_of_log, "lost without a word: {differences:?}");
    Came::EndOfLogLost
}

/// Repairs a directory whose start was refused. Either a gateway starts on it then, or the check says that only a
/// backup helps; a revoked token that is valid again was warned of.
async fn repair(launcher: &Launcher, copied: &Copied) -> Came {
    let repaired = check(launcher, &["--repair"]).await;
    let gateway = match launcher.try_start().await {
        Ok(gateway) => gateway,
        Err(ended) => {
            let said = format!("{}{}{}", repaired.stdout, repaired.stderr, ended.stderr);
            assert!(said.contains("backup") || said.contains("put the"), "no way out: {said}");
            return Came::RefusedForABackup;
        }
    };
    let differences = copied.facts.differences(&gateway).await;
    let back = differences.iter().any(is_of_registry);
    assert!(!back || repaired.stdout.contains("revoked"), "{differences:?}, and no warning: {repaired:?}");
    counts_add_up(&gateway).await;
    publish_one_more(&gateway, "one-more").await;
    gateway.terminate();
    assert_eq!(gateway.wait().await.code, Some(0));
    Came::RefusedAndRepaired
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_directory_is_served_right_or_refused_or_shows_what_is_damaged() {
    let directories = Arc::new(Directories::new().await);
    let mut random = StdRng::seed_from_u64(SEED);
    let (mut outcomes, mut wrong) = (BTreeMap::<(String, Came), usize>::new(), Vec::new());
    let variants = in_full_or_short(VARIANTS, VARIANTS_SHORT);
    for nth in 0..variants {
        let was_killed = nth % 3 == 2;
        let launcher = launcher();
        copy_dir(directories.of(was_killed).dir.path(), &launcher.data_dir());
        let damage = any_damage(&launcher.data_dir(), &mut random);
        damage.apply(&launcher.data_dir(), directories.earlier.dir.path());
        println!(
            "{nth}: {damage:?}, of a gateway that was {}",
            if was_killed { "killed" } else { "stopped" }
        );
        let (of, tried) = (Arc::clone(&directories), damage.clone());
        let trying = async move { try_out(&launcher, of.of(was_killed), &tried, was_killed).await };
        match LocalSet::new().run_until(async { spawn_local(trying).await }).await {
            Ok(came) => *outcomes.entry((damage.to_string(), came)).or_default() += 1,
            Err(_) => wrong.push((nth, damage)),
        }
    }
    count(&format!("{variants} damaged directories: {} silently wrong, {outcomes:?}", wrong.len()));
    assert!(wrong.is_empty(), "{wrong:?}");
}
