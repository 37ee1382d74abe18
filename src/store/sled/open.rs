//! Opening a data directory: nothing is made anew where something was, and nothing is taken that does not add up.
//!
//! Beside sled's directory `store` lie `TIDINGS` (says that this is a data directory, its format, and whether it was
//! ever completed), `lock` (held by the process that has it open) and `clean` (how far the store had come at the last
//! clean end: less than that on opening is a loss).

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock, atomic::AtomicUsize, mpsc},
    thread,
};

use rand::{SeedableRng, rngs::StdRng};
use tokio::sync::{broadcast, watch};

use super::{
    REGISTRY_TREE, Shared, SledStore,
    ledger::Ledger,
    purged::Purged,
    records::{self, FORMAT, RecordError, VolumeKind},
    registry_tree::{RegistryError, RegistryTree},
    values::ReadError,
    volume::Volume,
    volume_tree::{BODIES_PREFIX, VOLUME_PREFIX, VolumeTree, tree_name},
    writer::{WRITES_WAITING_MAX, Writer},
};
use crate::{
    clock::Clock,
    domain::{
        ids::{LaneId, Seq},
        time::UnixMicros,
    },
    metrics::Metrics,
    store::{FEED_GROUPS_MAX, Registry, changes::ChangeFeed},
};

/// sled's segment, in bytes: the largest that it takes. Smaller ones are slower and let the file creep (measured;
/// docs/benchmarks.md).
const SEGMENT_BYTES: usize = 16 * 1024 * 1024;
/// How often sled flushes on its own, in milliseconds. Its garbage collector runs only then.
const FLUSH_EVERY_MS: u64 = 500;

const MARKER: &str = "TIDINGS";
const LOCK: &str = "lock";
const CLEAN: &str = "clean";
/// sled's own directory.
pub(super) const ENGINE_DIR: &str = "store";
/// Where sled keeps values that are too large for its log.
pub(super) const BLOBS_DIR: &str = "blobs";

/// Why a data directory was not opened. Shown to the operator as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "data directory {0} is in use by another process ({1}): stop that one, or choose another with --data-dir"
    )]
    Locked(PathBuf, String),
    /// It is of another version.
    #[error("data directory {0} has format {1}, and this version of tidings reads format {FORMAT} only")]
    Format(PathBuf, String),
    /// What is there cannot be read, or does not add up.
    #[error(
        "data directory {0} cannot be read: {1}. Nothing was made anew. Copy the directory before anything else; then \
         restore it from a backup, or start with another --data-dir"
    )]
    Unreadable(PathBuf, String),
    /// The file system refused.
    #[error("data directory {0}: {1}")]
    Io(PathBuf, io::Error),
}

/// See [`SledStore::open`].
pub fn open(
    data_dir: &Path,
    cache_bytes: u64,
    clock: Arc<dyn Clock>,
    seed: u64,
    metrics: Arc<Metrics>,
) -> Result<SledStore, OpenError> {
    let io = |error| OpenError::Io(data_dir.to_owned(), error);
    let unreadable = |why: String| OpenError::Unreadable(data_dir.to_owned(), why);
    create_private_dir(data_dir).map_err(io)?;
    let lock = take_lock(data_dir)?;
    let fresh = prepare(data_dir)?;
    let engine_dir = data_dir.join(ENGINE_DIR);
    let db = open_engine(&engine_dir, cache_bytes, fresh).map_err(unreadable)?;
    let db_file = OpenOptions::new().read(true).write(true).open(engine_dir.join("db")).map_err(io)?;

    let registry = Registry::default();
    let tree = db.open_tree(REGISTRY_TREE).map_err(|e| unreadable(e.to_string()))?;
    let purged = Purged::open(&tree).map_err(|e| unreadable(e.to_string()))?;
    let (registry_tree, subscriptions) =
        RegistryTree::open(tree).map_err(|e: RegistryError| unreadable(e.to_string()))?;
    let lanes: Vec<LaneId> = subscriptions.iter().map(|subscription| subscription.lane).collect();
    for subscription in subscriptions {
        registry.put(Arc::new(subscription));
    }
    let ledger = read_ledger(&db, &purged, lanes).map_err(|e| unreadable(e.to_string()))?;
    check_clean_end(data_dir, &ledger).map_err(unreadable)?;
    if fresh {
        db.flush().map_err(|e| unreadable(e.to_string()))?;
        db_file.sync_all().map_err(io)?;
        sync_dir(&engine_dir).map_err(io)?;
        write_marker(data_dir, READY).map_err(io)?;
    }

    let shared = Arc::new(Shared {
        clock,
        registry,
        owed: Arc::clone(&ledger.owed),
        ledger: RwLock::new(ledger),
        feed: broadcast::Sender::new(FEED_GROUPS_MAX),
        changes: ChangeFeed::default(),
        failed: watch::Sender::new(false),
        waiting_bytes: AtomicUsize::new(0),
        waiting_writes: AtomicUsize::new(0),
        metrics,
    });
    let random = StdRng::seed_from_u64(seed);
    let writer =
        Writer { shared: Arc::clone(&shared), db, db_file, registry_tree, purged, random, failure: None };
    let (writes, waiting) = mpsc::sync_channel(WRITES_WAITING_MAX);
    let failed = shared.failed.clone();
    let write = move || {
        if catch_unwind(AssertUnwindSafe(|| writer.run(&waiting))).is_err() {
            tracing::error!("the store's writer panicked and takes no more writes until a restart");
            failed.send_replace(true);
        }
    };
    let writer = thread::Builder::new().name("store-writer".to_owned()).spawn(write);
    let writer = Mutex::new(Some(writer.map_err(io)?));
    Ok(SledStore { shared, writes, writer, _lock: lock, data_dir: data_dir.to_owned() })
}

/// Notes how far the store had come when it was closed.
pub fn note_clean_end(data_dir: &Path, next_seq: Seq, next_journal: u64) -> io::Result<()> {
    replace_file(data_dir, CLEAN, &format!("next_seq {}\nnext_journal {next_journal}\n", next_seq.0))
}

fn check_clean_end(data_dir: &Path, ledger: &Ledger) -> Result<(), String> {
    let noted = match fs::read_to_string(data_dir.join(CLEAN)) {
        Ok(noted) => noted,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("the file {CLEAN}: {error}")),
    };
    for (name, found) in [("next_seq", ledger.next_seq.0), ("next_journal", ledger.next_journal)] {
        let line = noted.lines().find_map(|line| line.strip_prefix(name));
        let noted: u64 = line
            .and_then(|number| number.trim().parse().ok())
            .ok_or_else(|| format!("the file {CLEAN} does not tell {name}"))?;
        if found < noted {
            return Err(format!("it ended with {name} {noted}, and now has {found}: something is lost"));
        }
    }
    Ok(())
}

fn take_lock(data_dir: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::Io(data_dir.to_owned(), error);
    let path = data_dir.join(LOCK);
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // Who holds it is for people only.
            if file.read_to_string(&mut holder).is_err() || holder.trim().is_empty() {
                holder = "unknown".to_owned();
            }
            return Err(OpenError::Locked(data_dir.to_owned(), holder.trim().to_owned()));
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    file.set_len(0).map_err(io)?;
    writeln!(file, "pid {}", std::process::id()).map_err(io)?;
    Ok(file)
}

const CREATING: &str = "creating";
const READY: &str = "ready";

/// Looks at what is there before sled does. True if the store is to be made.
fn prepare(data_dir: &Path) -> Result<bool, OpenError> {
    let io = |error| OpenError::Io(data_dir.to_owned(), error);
    let unreadable = |why: &str| OpenError::Unreadable(data_dir.to_owned(), why.to_owned());
    let engine_dir = data_dir.join(ENGINE_DIR);
    let engine_exists = engine_dir.try_exists().map_err(io)?;
    let marker = match fs::read_to_string(data_dir.join(MARKER)) {
        Ok(marker) => marker,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if engine_exists {
                return Err(unreadable(
                    "there is a store, but the file TIDINGS that belongs to it is missing",
                ));
            }
            write_marker(data_dir, CREATING).map_err(io)?;
            return Ok(true);
        }
        Err(error) => return Err(io(error)),
    };
    let mut words = marker.split_whitespace();
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("tidings"), Some("format"), Some(format), Some(state)) => {
            if format != FORMAT.to_string() {
                return Err(OpenError::Format(data_dir.to_owned(), format.to_owned()));
            }
            if state == CREATING {
                // Nothing was ever acknowledged from a store that was not completed.
                if engine_exists {
                    fs::remove_dir_all(&engine_dir).map_err(io)?;
                }
                return Ok(true);
            }
        }
        _ => return Err(unreadable("the file TIDINGS does not say what it should")),
    }
    for file in ["db", "conf"] {
        if !engine_dir.join(file).try_exists().map_err(io)? {
            return Err(unreadable(&format!("the file {ENGINE_DIR}/{file} is missing")));
        }
    }
    Ok(false)
}

fn open_engine(engine_dir: &Path, cache_bytes: u64, fresh: bool) -> Result<::sled::Db, String> {
    let config = ::sled::Config::new()
        .path(engine_dir)
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(cache_bytes)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    // sled panics on some damages that it does not expect.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    let db =
        opened.map_err(|_| "sled cannot make sense of it".to_owned())?.map_err(|error| error.to_string())?;
    if !fresh && !db.was_recovered() {
        return Err("sled found nothing to recover".to_owned());
    }
    Ok(db)
}

/// Reads every volume's indexes and outcomes. Finishes the removal of volumes that retention had begun.
fn read_ledger(db: &::sled::Db, purged: &Purged, lanes: Vec<LaneId>) -> Result<Ledger, ReadError> {
    let mut ledger = Ledger::new(lanes);
    ledger.next_journal = ledger.next_journal.max(purged.next_journal);
    let names: BTreeSet<String> =
        db.tree_names().into_iter().filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect();
    for name in names.iter().filter(|name| name.starts_with(BODIES_PREFIX)) {
        // Left by a removal, or by a volume that was not completed: nothing in it counts.
        if !names.contains(&name.replacen(BODIES_PREFIX, VOLUME_PREFIX, 1)) {
            db.drop_tree(name)?;
        }
    }
    for name in names.iter().filter(|name| name.starts_with(VOLUME_PREFIX)) {
        let first: u64 =
            name[VOLUME_PREFIX.len()..].parse().map_err(|_| RecordError(format!("tree {name}")))?;
        if purged.skip(Seq(first)) != Seq(first) {
            VolumeTree::open(db, Seq(first))?.drop_from(db)?;
            continue;
        }
        ledger.next_seq = purged.skip(ledger.next_seq);
        if first != ledger.next_seq.0 {
            let message = format!("event {} is followed by {first}: some are missing", ledger.next_seq.0 - 1);
            return Err(RecordError(message).into());
        }
        if !names.contains(&tree_name(BODIES_PREFIX, Seq(first))) {
            return Err(
                RecordError(format!("the bodies of the volume from event {first} on are missing")).into()
            );
        }
        ledger.volumes.push_back(Volume::new(VolumeTree::open(db, Seq(first))?, Seq(first)));
        read_volume(&mut ledger)?;
    }
    ledger.next_seq = purged.skip(ledger.next_seq);
    ledger.forget_unknown_lanes();
    Ok(ledger)
}

/// Reads the last volume that was added.
fn read_volume(ledger: &mut Ledger) -> Result<(), ReadError> {
    let tree = ledger.volumes.back().expect("one was added").tree.clone();
    for first in tree.numbers(VolumeKind::Index)? {
        if first != ledger.next_seq.0 {
            return Err(RecordError(format!("commit {first} follows event {}", ledger.next_seq.0 - 1)).into());
        }
        let index = tree.index(Seq(first))?;
        let time = UnixMicros(index.create_time);
        ledger.last_time = ledger.last_time.max(time);
        ledger.volumes.back_mut().expect("one was added").begin_segment(time);
        let bytes: u64 = index.events.iter().map(|entry| u64::from(entry.body_len)).sum();
        ledger.count_new_bytes(bytes);
        for entry in &index.events {
            let id = entry.id.parse().map_err(|e| RecordError(format!("event id: {e}")))?;
            let lanes: Vec<LaneId> = entry.lanes.iter().copied().map(LaneId).collect();
            ledger.push(records::account(entry)?, &id, entry.id_given, &lanes);
        }
    }
    for number in tree.numbers(VolumeKind::Outcomes)? {
        ledger.next_journal = ledger.next_journal.max(number + 1);
        let outcomes = tree.outcomes(number)?;
        ledger.count_new_bytes(outcomes.attempts_bytes);
        for outcome in outcomes.deliveries {
            ledger.replay(&outcome)?;
        }
    }
    Ok(())
}

fn write_marker(data_dir: &Path, state: &str) -> io::Result<()> {
    replace_file(data_dir, MARKER, &format!("tidings format {FORMAT} {state}\n"))
}

/// Writes a file so that after a crash it is the old one or the new one.
fn replace_file(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = dir.join(format!("{name}.new"));
    let mut file = File::create(&path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(path, dir.join(name))?;
    sync_dir(dir)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}
