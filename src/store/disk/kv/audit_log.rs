//! The audit records on disk: a tree of sled's of their own, written by a thread of its own. Publishing neither waits for it nor is
//! waited for; what many callers note at the same time is synced once.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, RwLock, mpsc},
    thread,
    time::Instant,
};

use ::sled::{Batch, Db, Tree};
use prost::Message;
use tokio::sync::oneshot;

use super::{
    audit_record::{AuditKind, AuditRow, decode, key_in, key_of, u64_at},
    subscriptions::RegistryError,
};
use crate::{
    domain::{
        audit::{AuditKey, AuditOutcome, AuditRecord},
        time::UnixMicros,
    },
    store::{
        AuditQuery, AuditWrite, CommitFuture, Page, StoreError,
        audit::{AuditEviction, AuditUsage},
        disk::{Shared, fs::free_bytes, kv::sled::SEGMENT_BYTES, records::RecordError},
    },
};

/// What the tree of audit records is called.
const AUDIT_TREE: &str = "audit";
/// Notes that may wait to be written; past them [`StoreError::Busy`].
pub const AUDIT_WAITING_MAX: usize = 4096;
/// Notes that are synced at once, at most.
const GROUP_MAX: usize = 256;
/// Records that one page looks at, at most.
const LOOKED_AT_MAX: usize = 10_000;
/// Records that one purge removes, at most.
const PURGED_MAX: usize = 10_000;
/// Least bytes free on the disk while calls are noted, as for changes of subscriptions: sled does not survive without.
const ROOM_BYTES: u64 = 3 * SEGMENT_BYTES as u64;
/// The same while they end: what was begun is to be told to its end.
const ROOM_TO_END_BYTES: u64 = 2 * SEGMENT_BYTES as u64;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;

enum Write {
    Note(Box<AuditWrite>, Answer<AuditKey>),
    Purge(UnixMicros, Answer<u64>),
    Stop,
}

/// What the writing thread needs beside what it shares.
pub struct AuditSettings {
    /// The engine.
    pub db: Db,
    /// Its file, which `flush` writes but does not sync.
    pub db_file: File,
    /// A directory on the same disk.
    pub dir: PathBuf,
    /// Bytes of records that are kept.
    pub bytes_max: u64,
}

/// The audit records.
pub struct AuditLog {
    /// `None` once it is closed.
    tree: RwLock<Option<Tree>>,
    writes: mpsc::SyncSender<Write>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
}

impl AuditLog {
    /// Reads what is kept, and begins to write.
    pub fn open(settings: AuditSettings, shared: Arc<Shared>) -> Result<Self, RegistryError> {
        let tree = settings.db.open_tree(AUDIT_TREE)?;
        let book = read_book(&tree)?;
        let (writes, waiting) = mpsc::sync_channel(AUDIT_WAITING_MAX);
        let writer = Writer { settings, shared: Arc::clone(&shared), tree: tree.clone(), book };
        let write = move || {
            if catch_unwind(AssertUnwindSafe(|| writer.run(&waiting))).is_err() {
                shared.fail(StoreError::Failed("the thread that writes audit records panicked".to_owned()));
            }
        };
        let writer = thread::Builder::new().name("store-audit".to_owned()).spawn(write);
        let writer = writer.map_err(|error| RecordError(format!("no thread for audit records: {error}")))?;
        Ok(Self { tree: RwLock::new(Some(tree)), writes, writer: Mutex::new(Some(writer)) })
    }

    /// See [`crate::store::Store::audit`].
    pub fn note(&self, note: AuditWrite) -> CommitFuture<AuditKey> {
        self.write(|answer| Write::Note(Box::new(note), answer))
    }

    /// See [`crate::store::Store::purge_audit`].
    pub fn purge(&self, since: UnixMicros) -> CommitFuture<u64> {
        self.write(|answer| Write::Purge(since, answer))
    }

    /// See [`crate::store::Store::audit_records`].
    pub fn records(&self, query: &AuditQuery) -> Result<Page<AuditRecord, AuditKey>, StoreError> {
        let tree = self.tree.read().expect("nothing panics under this lock").clone();
        let tree = tree.ok_or(StoreError::Closed)?;
        let start = key_in(AuditKind::Record, query.start()).to_vec();
        let end = query
            .end()
            .map_or_else(|| vec![AuditKind::Record as u8 + 1], |end| key_in(AuditKind::Record, end).to_vec());
        let (mut rows, mut broken_off) = (Vec::new(), None);
        if start < end {
            for (looked_at, row) in tree.range(start..end).rev().enumerate() {
                let (key, value) = row.map_err(failed)?;
                let record = decode(&key, &value).map_err(failed)?;
                let key = record.key;
                if query.wants(&record) {
                    rows.push(record);
                }
                if rows.len() > query.limit {
                    break;
                }
                if looked_at + 1 == LOOKED_AT_MAX {
                    broken_off = Some(key);
                    break;
                }
            }
        }
        Ok(Page::cut_at(rows, query.limit, |record| record.key, broken_off))
    }

    /// Writes what waits, and ends.
    pub fn close(&self) {
        let Some(writer) = self.writer.lock().expect("nothing panics under this lock").take() else { return };
        // It has ended already if this cannot be sent; and if it panicked, it has said so.
        drop(self.writes.send(Write::Stop));
        drop(writer.join());
        self.tree.write().expect("nothing panics under this lock").take();
    }

    fn write<T>(&self, write: impl FnOnce(Answer<T>) -> Write) -> CommitFuture<T> {
        let (answer, commit) = CommitFuture::pair();
        match self.writes.try_send(write(answer)) {
            Ok(()) => commit,
            Err(mpsc::TrySendError::Full(_)) => CommitFuture::ready(Err(StoreError::Busy)),
            Err(mpsc::TrySendError::Disconnected(_)) => CommitFuture::ready(Err(StoreError::Closed)),
        }
    }
}

/// What the writing thread owns.
struct Writer {
    settings: AuditSettings,
    shared: Arc<Shared>,
    tree: Tree,
    book: AuditUsage,
}

/// Something that is written and not yet synced.
enum Written {
    Note(Result<AuditKey, StoreError>, Answer<AuditKey>),
    Purge(Result<u64, StoreError>, Answer<u64>),
}

impl Writer {
    fn run(mut self, writes: &mpsc::Receiver<Write>) {
        while let Ok(first) = writes.recv() {
            let (mut group, mut stops) = (Vec::new(), false);
            let mut next = Some(first);
            let room = free_bytes(&self.settings.dir).unwrap_or(u64::MAX);
            while let Some(write) = next.take().or_else(|| writes.try_recv().ok()) {
                match write {
                    Write::Note(note, answer) => group.push(Written::Note(self.note(*note, room), answer)),
                    Write::Purge(since, answer) => {
                        group.push(Written::Purge(self.purge(since, room), answer));
                    }
                    Write::Stop => stops = true,
                }
                if stops || group.len() == GROUP_MAX {
                    break;
                }
            }
            self.finish(group);
            if stops {
                return;
            }
        }
    }

    /// Syncs what was written, and answers.
    fn finish(&self, group: Vec<Written>) {
        let wrote = group.iter().any(|written| {
            matches!(written, Written::Note(Ok(_), _)) || matches!(written, Written::Purge(Ok(1..), _))
        });
        let synced = if wrote { self.sync() } else { Ok(()) };
        if let Err(failure) = &synced {
            self.shared.fail(failure.clone());
        }
        for written in group {
            match written {
                Written::Note(result, answer) => drop(answer.send(synced.clone().and(result))),
                Written::Purge(result, answer) => drop(answer.send(synced.clone().and(result))),
            }
        }
    }

    fn sync(&self) -> Result<(), StoreError> {
        let start = Instant::now();
        self.settings.db.flush().map_err(failed)?;
        self.settings.db_file.sync_data().map_err(failed)?;
        self.shared.metrics.sync_seconds.observe(start.elapsed().as_secs_f64());
        Ok(())
    }

    fn note(&mut self, note: AuditWrite, room: u64) -> Result<AuditKey, StoreError> {
        let least = if matches!(note, AuditWrite::Ended(..)) { ROOM_TO_END_BYTES } else { ROOM_BYTES };
        self.check(room, least)?;
        let written = self.write(note);
        self.noticing(written)
    }

    fn purge(&mut self, since: UnixMicros, room: u64) -> Result<u64, StoreError> {
        self.check(room, ROOM_BYTES)?;
        let purged = self.remove_before(since);
        self.noticing(purged)
    }

    /// Errors if nothing can be written.
    fn check(&self, room: u64, least: u64) -> Result<(), StoreError> {
        self.shared.working()?;
        if room < least { Err(StoreError::Full) } else { Ok(()) }
    }

    fn noticing<T>(&self, written: Result<T, RegistryError>) -> Result<T, StoreError> {
        written.map_err(|error| {
            let failure = StoreError::from(error);
            self.shared.fail(failure.clone());
            failure
        })
    }

    fn write(&mut self, note: AuditWrite) -> Result<AuditKey, RegistryError> {
        let now = self.shared.clock.now();
        let record = match note {
            AuditWrite::Begun(call) => AuditRecord::begun(self.book.next(now), call),
            AuditWrite::Refused(call, end) => {
                let key = self.book.next(now);
                AuditRecord::begun(key, call).ended(end, key.time)
            }
            AuditWrite::Ended(key, end) => {
                let Some(record) = self.get(key)?.filter(|record| record.end_time.is_none()) else {
                    return Ok(key);
                };
                self.book.remove(&record);
                record.ended(end, now.max(key.time))
            }
        };
        let key = record.key;
        self.book.add(&record);
        let mut batch = Batch::default();
        if record.outcome == AuditOutcome::Refused {
            batch.insert(&key_in(AuditKind::Refused, key), Vec::new());
        }
        batch.insert(&key_in(AuditKind::Record, key), AuditRow::from(record).encode_to_vec());
        self.apply(batch)?;
        while let Some(excess) = self.book.excess(self.settings.bytes_max) {
            let kind = match excess {
                AuditEviction::Refused => AuditKind::Refused,
                AuditEviction::Any => AuditKind::Record,
            };
            let Some(oldest) = self.tree.scan_prefix([kind as u8]).keys().next().transpose()? else { break };
            let oldest =
                key_of(&oldest).ok_or_else(|| RecordError("the key of an audit record".to_owned()))?;
            self.remove(oldest)?;
            self.shared.metrics.audit_removed_for_size.inc();
        }
        Ok(key)
    }

    fn remove_before(&mut self, since: UnixMicros) -> Result<u64, RegistryError> {
        let end = key_in(AuditKind::Record, AuditKey { time: since, number: 0 });
        let old = self.tree.range([AuditKind::Record as u8; 1].to_vec()..end.to_vec()).keys();
        let old: Vec<_> = old.take(PURGED_MAX).collect::<Result<_, _>>()?;
        for key in old.iter().filter_map(|key| key_of(key)) {
            self.remove(key)?;
            self.shared.metrics.audit_removed_for_age.inc();
        }
        Ok(old.len() as u64)
    }

    fn get(&self, key: AuditKey) -> Result<Option<AuditRecord>, RegistryError> {
        let bytes = key_in(AuditKind::Record, key);
        let value = self.tree.get(bytes)?;
        Ok(value.map(|value| decode(&bytes, &value)).transpose()?)
    }

    fn remove(&mut self, key: AuditKey) -> Result<(), RegistryError> {
        if let Some(record) = self.get(key)? {
            self.book.remove(&record);
        }
        let mut batch = Batch::default();
        batch.remove(&key_in(AuditKind::Record, key));
        batch.remove(&key_in(AuditKind::Refused, key));
        self.apply(batch)
    }

    /// The books are in every batch, so that they are those of what is there.
    fn apply(&self, mut batch: Batch) -> Result<(), RegistryError> {
        let AuditUsage { bytes, refused_bytes, last } = self.book;
        let mut value = Vec::with_capacity(32);
        for number in [bytes, refused_bytes, last.time.0.cast_unsigned(), last.number] {
            value.extend(number.to_be_bytes());
        }
        batch.insert(&[AuditKind::Book as u8], value);
        Ok(self.tree.apply_batch(batch)?)
    }
}

fn read_book(tree: &Tree) -> Result<AuditUsage, RegistryError> {
    let Some(value) = tree.get([AuditKind::Book as u8])? else { return Ok(AuditUsage::default()) };
    let number = |nth: usize| {
        u64_at(&value, nth * 8).ok_or_else(|| RecordError("the book of the audit records".to_owned()))
    };
    let last = AuditKey { time: UnixMicros(number(2)?.cast_signed()), number: number(3)? };
    Ok(AuditUsage { bytes: number(0)?, refused_bytes: number(1)?, last })
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}
