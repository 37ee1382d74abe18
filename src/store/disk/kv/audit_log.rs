//! The audit log: a sled tree with a writing thread of its own. Publishing and auditing do not wait for each
//! other. Concurrent writes share one sync.

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
        disk::{
            fs::free_bytes,
            kv::SEGMENT_BYTES,
            records::RecordError,
            shared::{Reply, Shared},
        },
    },
};

/// Name of the tree.
const AUDIT_TREE: &str = "audit";
/// Writes in the queue at most; [`StoreError::Busy`] beyond.
pub const AUDIT_WAITING_MAX: usize = 4096;
/// Writes per sync at most.
const BATCH_MAX: usize = 256;
/// Records that one page scans at most.
const SCANNED_MAX: usize = 10_000;
/// Records that one purge removes, at most.
const PURGED_MAX: usize = 10_000;
/// Free bytes required to record a call, as for changes of subscriptions: sled does not survive a full disk.
const ROOM_BYTES: u64 = 3 * SEGMENT_BYTES as u64;
/// Free bytes required to record the end of a call: calls that began shall end in the log.
const ROOM_TO_END_BYTES: u64 = 2 * SEGMENT_BYTES as u64;

enum Write {
    Note(Box<AuditWrite>, Reply<AuditKey>),
    Purge(UnixMicros, Reply<u64>),
    Stop,
}

/// Settings of the audit log.
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
    /// Opens the log and starts its thread.
    pub fn open(settings: AuditSettings, shared: Arc<Shared>) -> Result<Self, RegistryError> {
        let tree = settings.db.open_tree(AUDIT_TREE)?;
        let usage = read_usage(&tree)?;
        let (writes, waiting) = mpsc::sync_channel(AUDIT_WAITING_MAX);
        let writer = Writer { settings, shared: Arc::clone(&shared), tree: tree.clone(), usage };
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
        self.write(|reply| Write::Note(Box::new(note), reply))
    }

    /// See [`crate::store::Store::purge_audit`].
    pub fn purge(&self, since: UnixMicros) -> CommitFuture<u64> {
        self.write(|reply| Write::Purge(since, reply))
    }

    /// See [`crate::store::Store::audit_records`].
    pub fn records(&self, query: &AuditQuery) -> Result<Page<AuditRecord, AuditKey>, StoreError> {
        let tree = self.tree.read().expect("nothing panics under this lock").clone();
        let tree = tree.ok_or(StoreError::Closed)?;
        let start = key_in(AuditKind::Record, query.start()).to_vec();
        let end = query
            .end()
            .map_or_else(|| vec![AuditKind::Record as u8 + 1], |end| key_in(AuditKind::Record, end).to_vec());
        let (mut rows, mut stopped_at) = (Vec::new(), None);
        if start < end {
            for (scanned, row) in tree.range(start..end).rev().enumerate() {
                let (key, value) = row.map_err(failed)?;
                let record = decode(&key, &value).map_err(failed)?;
                let key = record.key;
                if query.wants(&record) {
                    rows.push(record);
                }
                if rows.len() > query.limit {
                    break;
                }
                if scanned + 1 == SCANNED_MAX {
                    stopped_at = Some(key);
                    break;
                }
            }
        }
        Ok(Page::cut_at(rows, query.limit, |record| record.key, stopped_at))
    }

    /// Writes waiting records and stops.
    pub fn close(&self) {
        let Some(writer) = self.writer.lock().expect("nothing panics under this lock").take() else { return };
        // Ignored: the thread has stopped already, and reported a panic itself.
        drop(self.writes.send(Write::Stop));
        drop(writer.join());
        self.tree.write().expect("nothing panics under this lock").take();
    }

    fn write<T>(&self, write: impl FnOnce(Reply<T>) -> Write) -> CommitFuture<T> {
        let (reply, commit) = CommitFuture::pair();
        match self.writes.try_send(write(reply)) {
            Ok(()) => commit,
            Err(mpsc::TrySendError::Full(_)) => CommitFuture::ready(Err(StoreError::Busy)),
            Err(mpsc::TrySendError::Disconnected(_)) => CommitFuture::ready(Err(StoreError::Closed)),
        }
    }
}

/// State of the writing thread.
struct Writer {
    settings: AuditSettings,
    shared: Arc<Shared>,
    tree: Tree,
    usage: AuditUsage,
}

/// A write before its sync.
enum Written {
    Note(Result<AuditKey, StoreError>, Reply<AuditKey>),
    Purge(Result<u64, StoreError>, Reply<u64>),
}

impl Writer {
    fn run(mut self, writes: &mpsc::Receiver<Write>) {
        while let Ok(first) = writes.recv() {
            let (mut batch, mut stops) = (Vec::new(), false);
            let mut next = Some(first);
            let room = free_bytes(&self.settings.dir).unwrap_or(u64::MAX);
            while let Some(write) = next.take().or_else(|| writes.try_recv().ok()) {
                match write {
                    Write::Note(note, reply) => batch.push(Written::Note(self.note(*note, room), reply)),
                    Write::Purge(since, reply) => {
                        batch.push(Written::Purge(self.purge(since, room), reply));
                    }
                    Write::Stop => stops = true,
                }
                if stops || batch.len() == BATCH_MAX {
                    break;
                }
            }
            self.finish(batch);
            if stops {
                return;
            }
        }
    }

    /// Syncs a batch and sends the replies.
    fn finish(&self, batch: Vec<Written>) {
        let wrote = batch.iter().any(|written| {
            matches!(written, Written::Note(Ok(_), _)) || matches!(written, Written::Purge(Ok(1..), _))
        });
        let synced = if wrote { self.sync() } else { Ok(()) };
        if let Err(failure) = &synced {
            self.shared.fail(failure.clone());
        }
        for written in batch {
            match written {
                Written::Note(result, reply) => drop(reply.send(synced.clone().and(result))),
                Written::Purge(result, reply) => drop(reply.send(synced.clone().and(result))),
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
        self.note_failure(written)
    }

    fn purge(&mut self, since: UnixMicros, room: u64) -> Result<u64, StoreError> {
        self.check(room, ROOM_BYTES)?;
        let purged = self.remove_before(since);
        self.note_failure(purged)
    }

    /// Errors if nothing can be written.
    fn check(&self, room: u64, least: u64) -> Result<(), StoreError> {
        self.shared.working()?;
        if room < least { Err(StoreError::Full) } else { Ok(()) }
    }

    fn note_failure<T>(&self, written: Result<T, RegistryError>) -> Result<T, StoreError> {
        written.map_err(|error| {
            let failure = StoreError::from(error);
            self.shared.fail(failure.clone());
            failure
        })
    }

    fn write(&mut self, note: AuditWrite) -> Result<AuditKey, RegistryError> {
        let now = self.shared.clock.now();
        let record = match note {
            AuditWrite::Begun(call) => AuditRecord::begun(self.usage.next(now), call),
            AuditWrite::Refused(call, end) => {
                let key = self.usage.next(now);
                AuditRecord::begun(key, call).ended(end, key.time)
            }
            AuditWrite::Ended(key, end) => {
                let Some(record) = self.get(key)?.filter(|record| record.end_time.is_none()) else {
                    return Ok(key);
                };
                self.usage.remove(&record);
                record.ended(end, now.max(key.time))
            }
        };
        let key = record.key;
        self.usage.add(&record);
        let mut batch = Batch::default();
        if record.outcome == AuditOutcome::Refused {
            batch.insert(&key_in(AuditKind::Refused, key), Vec::new());
        }
        batch.insert(&key_in(AuditKind::Record, key), AuditRow::from(record).encode_to_vec());
        self.apply(batch)?;
        while let Some(excess) = self.usage.excess(self.settings.bytes_max) {
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
            self.usage.remove(&record);
        }
        let mut batch = Batch::default();
        batch.remove(&key_in(AuditKind::Record, key));
        batch.remove(&key_in(AuditKind::Refused, key));
        self.apply(batch)
    }

    /// Every batch includes the usage, so that it matches the records.
    fn apply(&self, mut batch: Batch) -> Result<(), RegistryError> {
        let AuditUsage { bytes, refused_bytes, last } = self.usage;
        let mut value = Vec::with_capacity(32);
        for number in [bytes, refused_bytes, last.time.0.cast_unsigned(), last.number] {
            value.extend(number.to_be_bytes());
        }
        batch.insert(&[AuditKind::Usage as u8], value);
        Ok(self.tree.apply_batch(batch)?)
    }
}

fn read_usage(tree: &Tree) -> Result<AuditUsage, RegistryError> {
    let Some(value) = tree.get([AuditKind::Usage as u8])? else { return Ok(AuditUsage::default()) };
    let number = |nth: usize| {
        u64_at(&value, nth * 8).ok_or_else(|| RecordError("the usage of the audit records".to_owned()))
    };
    let last = AuditKey { time: UnixMicros(number(2)?.cast_signed()), number: number(3)? };
    Ok(AuditUsage { bytes: number(0)?, refused_bytes: number(1)?, last })
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}
