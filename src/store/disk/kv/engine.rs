//! sled while a store is open, with the registry's log that it must agree with.
//!
//! A change is in the log before sled has it, so the log decides: at every opening sled's rows are made equal
//! to the log's. After a write for which there was no room, or no file descriptor, sled takes nothing more; it
//! is closed then, and opened again with a later use.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ::sled::{Batch, Db, Tree};

use super::{
    access_tokens::TOKENS_TREE,
    sled::open_engine,
    subscriptions::{REGISTRY_TREE, RegistryError},
};
use crate::{
    descriptors,
    metrics::Metrics,
    store::{
        StoreError,
        disk::{
            data_dir::{ENGINE_DIR, LEDGER_DIR},
            log::{
                LogReader, ReadError, WriteError,
                registry_log::{Begin, REGISTRY_LOG, RegistryLog, Rows},
            },
            open_error::{OpenError, of_different_stores},
            records::{RecordError, RegistryKind, RowRecord, RowTree, UNREADABLE},
        },
    },
};

/// Least time between two tries to open sled again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);
/// The row with the number of the last change that sled has.
const LAST_CHANGE: [u8; 1] = [RegistryKind::LastChange as u8];

/// The trees of sled, while it is open.
pub struct Engine {
    data_dir: PathBuf,
    metrics: Arc<Metrics>,
    log: Mutex<RegistryLog>,
    /// The number of the last change in the log.
    last_change: AtomicU64,
    /// The number of the next record of the log of events: those before it are durable.
    next_record: AtomicU64,
    state: RwLock<State>,
}

enum State {
    Open(Sled),
    /// A write, or the opening, failed at this time: there was no room, or no file descriptor.
    Lacking(Instant, StoreError),
    Closed,
}

/// sled and its file, which `flush` writes but does not sync.
pub struct Sled {
    db: Db,
    file: File,
}

impl Sled {
    fn of(data_dir: &Path, db: Db) -> std::io::Result<Self> {
        let path = data_dir.join(ENGINE_DIR).join("db");
        Ok(Self { db, file: OpenOptions::new().read(true).write(true).open(path)? })
    }

    /// One of its trees. Nobody may keep it longer than this borrow.
    pub fn tree(&self, name: &str) -> Result<Tree, RegistryError> {
        Ok(self.db.open_tree(name)?)
    }

    /// Makes changes durable. sled's flush only starts the writing, so the file is synced as well.
    pub fn sync(&self) -> Result<(), RegistryError> {
        self.db.flush()?;
        Ok(self.file.sync_data()?)
    }

    fn apply(&self, tree: RowTree, rows: Vec<RowRecord>, number: u64) -> Result<(), RegistryError> {
        self.tree(name_of(tree))?.apply_batch(batch_of(rows))?;
        note_last_change(&self.db, number)?;
        self.sync()
    }
}

impl Engine {
    /// Takes over sled, which agrees with the log.
    pub fn new(data_dir: &Path, db: Db, log: RegistryLog, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let state = RwLock::new(State::Open(Sled::of(data_dir, db)?));
        let (last_change, next_record) = (log.last().into(), log.next_record().into());
        let data_dir = data_dir.to_owned();
        Ok(Self { data_dir, metrics, log: Mutex::new(log), last_change, next_record, state })
    }

    /// The number of the last change, which is durable in the log.
    pub fn last_change(&self) -> u64 {
        self.last_change.load(Ordering::Relaxed)
    }

    /// Takes note of the number of the next record of the log of events, for later changes: those before it are durable.
    pub fn note_next_record(&self, number: u64) {
        self.next_record.store(number, Ordering::Relaxed);
    }

    /// Uses sled, and opens it before if it lacked something. It stays open for as long as `work` takes.
    ///
    /// # Errors
    ///
    /// The error of `work`. [`StoreError::Full`] or [`StoreError::NoDescriptor`] if sled lacks that; what `work`
    /// did not sync is gone then.
    pub fn with<T>(&self, work: impl FnOnce(&Sled) -> Result<T, RegistryError>) -> Result<T, StoreError> {
        if matches!(*self.state.read().expect(NO_PANIC), State::Lacking(..)) {
            self.reopen(&mut self.log())?;
        }
        self.with_open(work)
    }

    /// Changes rows of a tree, durably: all or none.
    pub fn change(&self, tree: RowTree, rows: Vec<RowRecord>) -> Result<(), StoreError> {
        let mut log = self.log();
        self.reopen(&mut log)?;
        let start = Instant::now();
        let number = log.append(tree, rows.clone(), self.next_record.load(Ordering::Relaxed))?;
        self.last_change.store(number, Ordering::Relaxed);
        match self.with_open(|sled| sled.apply(tree, rows, number)) {
            // The change is made all the same: sled gets it from the log when it is opened again.
            Ok(()) => {}
            Err(error) if error.is_lack() => {}
            Err(error) => return Err(error),
        }
        self.metrics.sync_seconds.observe(start.elapsed().as_secs_f64());
        if log.is_long() {
            match self.with_open(|sled| self.shorten(&mut log, &sled.db)) {
                // Only the next start takes longer.
                Ok(()) => {}
                Err(error) if error.is_lack() => {}
                Err(error) => return Err(error),
            }
            self.last_change.store(log.last(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// A reader of the log, and the bytes that it has now.
    pub fn log_now(&self) -> (LogReader, u32) {
        self.log().now()
    }

    /// Closes sled for good.
    pub fn close(&self) {
        *self.state.write().expect(NO_PANIC) = State::Closed;
    }

    fn log(&self) -> MutexGuard<'_, RegistryLog> {
        self.log.lock().expect(NO_PANIC)
    }

    fn with_open<T>(&self, work: impl FnOnce(&Sled) -> Result<T, RegistryError>) -> Result<T, StoreError> {
        let result = match &*self.state.read().expect(NO_PANIC) {
            State::Open(sled) => work(sled).map_err(StoreError::from),
            State::Lacking(_, lack) => return Err(lack.clone()),
            State::Closed => return Err(StoreError::Closed),
        };
        if let Err(lack) = result.as_ref().map(drop)
            && lack.is_lack()
        {
            let mut state = self.state.write().expect(NO_PANIC);
            if matches!(*state, State::Open(_)) {
                tracing::error!(
                    error = %lack,
                    "a change of subscriptions, access tokens or audit records could not be written; trying again"
                );
                *state = State::Lacking(Instant::now(), lack.clone());
            }
        }
        result
    }

    fn reopen(&self, log: &mut RegistryLog) -> Result<(), StoreError> {
        let mut state = self.state.write().expect(NO_PANIC);
        match &mut *state {
            State::Open(_) => return Ok(()),
            State::Closed => return Err(StoreError::Closed),
            State::Lacking(tried, lack) if tried.elapsed() < REOPEN_INTERVAL => return Err(lack.clone()),
            State::Lacking(tried, _) => *tried = Instant::now(),
        }
        let db = open_engine(&self.data_dir, false)?;
        *log = agree(&self.data_dir, &db)?;
        let sled = Sled::of(&self.data_dir, db).map_err(RegistryError::from)?;
        tracing::info!("subscriptions, access tokens and audit records can be changed again");
        *state = State::Open(sled);
        Ok(())
    }

    /// Writes the log again, without the changes that later ones replaced.
    fn shorten(&self, log: &mut RegistryLog, db: &Db) -> Result<(), RegistryError> {
        let dir = self.data_dir.join(LEDGER_DIR);
        RegistryLog::replace(&dir, log.continued(), rows_of(db))?;
        *log = RegistryLog::open(&dir)
            .map_err(|error| match error {
                ReadError::Io(error) => RegistryError::Io(error),
                error => RecordError(error.to_string()).into(),
            })?
            .0;
        note_last_change(db, log.last())
    }
}

const NO_PANIC: &str = "no code panics while it holds this lock";

/// Begins the log of a store without one, with the rows that sled has.
pub(in crate::store::disk) fn create_log(
    data_dir: &Path,
    db: &Db,
    begin: Begin,
) -> Result<RegistryLog, OpenError> {
    let of_registry = |error| OpenError::of_registry(data_dir, error);
    let dir = data_dir.join(LEDGER_DIR);
    RegistryLog::replace(&dir, begin, rows_of(db)).map_err(of_registry)?;
    let (log, _) = RegistryLog::open(&dir)
        .map_err(|error| OpenError::Unreadable(data_dir.to_owned(), error.to_string()))?;
    // Before the marker says that there is a log: sled without this row is refused.
    note_last_change(db, log.last()).map_err(of_registry)?;
    db.flush().map_err(|error| OpenError::of_engine(data_dir, error))?;
    let synced = Sled::of(data_dir, db.clone()).and_then(|sled| sled.file.sync_data());
    synced.map_err(|error| OpenError::of_file_system(data_dir, error))?;
    Ok(log)
}

/// Opens the log of a store whose format had none. A conversion that a crash interrupted has made one of the same rows; any other
/// one is of a later time, and is kept.
pub(in crate::store::disk) fn convert(data_dir: &Path, db: &Db) -> Result<RegistryLog, OpenError> {
    let unreadable = |why: String| OpenError::Unreadable(data_dir.to_owned(), why);
    let of_registry = |error| OpenError::of_registry(data_dir, error);
    let dir = data_dir.join(LEDGER_DIR);
    let had = last_change(db).map_err(of_registry)?;
    if !dir.join(REGISTRY_LOG).try_exists().map_err(|error| OpenError::of_file_system(data_dir, error))? {
        // A number means that there was a log: the log of events knows whether this is its last change.
        return create_log(data_dir, db, Begin { number: had.unwrap_or(1), next_record: 0 });
    }
    if had.is_some() {
        return agree(data_dir, db);
    }
    let (_, mut rows) = RegistryLog::open(&dir).map_err(|error| unreadable(error.to_string()))?;
    for tree in [RowTree::Registry, RowTree::Tokens] {
        let of_sled = db.open_tree(name_of(tree)).map_err(|error| OpenError::of_engine(data_dir, error))?;
        let differences = differences(&of_sled, rows.remove(&tree).unwrap_or_default());
        if !differences.map_err(of_registry)?.is_empty() {
            let why = "TIDINGS and store/ are of a format without ledger/registry, which is there and has other subscriptions or \
                       access tokens: the first two are older copies, so put the newer ones back";
            return Err(unreadable(why.to_owned()));
        }
    }
    create_log(data_dir, db, Begin::FIRST)
}

/// Opens the log, and makes sled's rows equal to the log's. An error if sled had later changes: the log is
/// older then, or its end is damaged. An error as well if sled had nothing, unless it was just made.
pub(in crate::store::disk) fn agree(data_dir: &Path, db: &Db) -> Result<RegistryLog, OpenError> {
    if last_change(db).map_err(|error| OpenError::of_registry(data_dir, error))?.is_none() {
        let why = format!("{ENGINE_DIR}/db: sled found nothing in it, and ledger/registry has changes");
        return Err(OpenError::Unreadable(data_dir.to_owned(), why));
    }
    fill_from_log(data_dir, db)
}

/// The same for a sled that may be empty.
pub(in crate::store::disk) fn fill_from_log(data_dir: &Path, db: &Db) -> Result<RegistryLog, OpenError> {
    let opened = RegistryLog::open(&data_dir.join(LEDGER_DIR));
    let (log, rows) = opened.map_err(|error| match error {
        ReadError::Io(error) if descriptors::is_exhausted(&error) => {
            OpenError::of_file_system(data_dir, error)
        }
        error => {
            let why = error.to_string().trim_start_matches(UNREADABLE).to_owned();
            OpenError::Unreadable(data_dir.to_owned(), why)
        }
    })?;
    apply_missing(db, log.last(), rows).map_err(|error| OpenError::of_registry(data_dir, error))?;
    Ok(log)
}

fn apply_missing(db: &Db, last: u64, mut rows: BTreeMap<RowTree, Rows>) -> Result<(), RegistryError> {
    let registry = db.open_tree(REGISTRY_TREE)?;
    let store = [RegistryKind::Store as u8];
    let of_log = rows.get(&RowTree::Registry).and_then(|rows| rows.get(&store[..]));
    // First: numbers of different stores say nothing about each other.
    if registry.get(store)?.is_some_and(|of_sled| Some(&of_sled.to_vec()) != of_log) {
        return Err(RecordError(of_different_stores(&format!(
            "{ENGINE_DIR}/ and {LEDGER_DIR}/{REGISTRY_LOG}"
        )))
        .into());
    }
    let had = last_change(db)?;
    if let Some(had) = had.filter(|had| *had > last) {
        return Err(RecordError(format!(
            "ledger/registry ends with change {last}, and store/ has change {had}: the first is damaged or an older copy. Put the newer one back if you \
             have it"
        ))
        .into());
    }
    let mut missing = 0;
    for tree in [RowTree::Registry, RowTree::Tokens] {
        let changes = differences(&db.open_tree(name_of(tree))?, rows.remove(&tree).unwrap_or_default())?;
        missing += changes.len();
        db.open_tree(name_of(tree))?.apply_batch(batch_of(changes))?;
    }
    if missing > 0 {
        tracing::warn!(
            rows = missing,
            had,
            last,
            "store/ was behind ledger/registry, as after a crash or if store/db is damaged; its subscriptions and access \
             tokens were brought up to date. If it was more than the last change, audit records are lost",
        );
    }
    if had != Some(last) {
        note_last_change(db, last)?;
    }
    Ok(())
}

/// The number of the last change that sled has; `None` if it never had one.
pub(in crate::store::disk) fn last_change(db: &Db) -> Result<Option<u64>, RegistryError> {
    let row = db.open_tree(REGISTRY_TREE)?.get(LAST_CHANGE)?;
    Ok(row.and_then(|row| Some(u64::from_be_bytes(row.as_ref().try_into().ok()?))))
}

/// The changes that make a tree equal to these rows.
fn differences(tree: &Tree, mut wanted: Rows) -> Result<Vec<RowRecord>, RegistryError> {
    let mut changes = Vec::new();
    for row in tree {
        let (key, value) = row?;
        match wanted.remove(&*key) {
            _ if *key == LAST_CHANGE => {}
            Some(same) if *same == *value => {}
            Some(other) => changes.push(RowRecord::put(&*key, other)),
            None => changes.push(RowRecord::removed(&*key)),
        }
    }
    changes.extend(wanted.into_iter().map(|(key, value)| RowRecord::put(key, value)));
    Ok(changes)
}

/// Every row that the log has.
pub(in crate::store::disk) fn rows_of(
    db: &Db,
) -> impl Iterator<Item = Result<(RowTree, RowRecord), RegistryError>> {
    [RowTree::Registry, RowTree::Tokens].into_iter().flat_map(|tree| {
        let (rows, failed) = match db.open_tree(name_of(tree)) {
            Ok(found) => (Some(found.iter()), None),
            Err(error) => (None, Some(Err(error.into()))),
        };
        let rows = rows.into_iter().flatten().filter_map(move |row| match row {
            Ok((key, _)) if *key == LAST_CHANGE && tree == RowTree::Registry => None,
            Ok((key, value)) => Some(Ok((tree, RowRecord::put(&*key, &*value)))),
            Err(error) => Some(Err(error.into())),
        });
        failed.into_iter().chain(rows)
    })
}

fn note_last_change(db: &Db, number: u64) -> Result<(), RegistryError> {
    db.open_tree(REGISTRY_TREE)?.insert(LAST_CHANGE, &number.to_be_bytes())?;
    Ok(())
}

fn name_of(tree: RowTree) -> &'static str {
    match tree {
        RowTree::Registry => REGISTRY_TREE,
        RowTree::Tokens => TOKENS_TREE,
    }
}

fn batch_of(rows: Vec<RowRecord>) -> Batch {
    let mut batch = Batch::default();
    for RowRecord { key, value } in rows {
        match value {
            Some(value) => batch.insert(key, value),
            None => batch.remove(key),
        }
    }
    batch
}

impl From<WriteError> for StoreError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Full => Self::Full,
            WriteError::NoDescriptor => Self::NoDescriptor,
            error @ WriteError::Failed(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<RegistryError> for StoreError {
    fn from(error: RegistryError) -> Self {
        error.lack().unwrap_or_else(|| Self::Failed(error.to_string()))
    }
}

impl From<OpenError> for StoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NoRoom { .. } => Self::Full,
            OpenError::Io(_, error) if descriptors::is_exhausted(&error) => Self::NoDescriptor,
            other => Self::Failed(other.to_string()),
        }
    }
}
