//! The audit log: a sled tree with a writing thread of its own. Publishing and auditing do not wait for each
//! other. Concurrent writes share one sync.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Instant,
};

use ::sled::{Batch, Tree};

use super::{
    audit_index::AuditIndex,
    audit_record::{AuditKind, decode, key_in, key_of},
    engine::{Engine, Sled},
    subscriptions::RegistryError,
};
use crate::{
    domain::{
        audit::{AuditKey, AuditRecord},
        time::UnixMicros,
    },
    store::{
        AuditQuery, AuditWrite, CommitFuture, Page, StoreError,
        audit::counts_up,
        disk::{
            fs::free_bytes,
            kv::SEGMENT_BYTES,
            shared::{Reply, Shared},
        },
    },
};

/// Name of the tree.
pub const AUDIT_TREE: &str = "audit";
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
    /// sled.
    pub engine: Arc<Engine>,
    /// A directory on the same disk.
    pub dir: PathBuf,
    /// Bytes of records that are kept.
    pub bytes_max: u64,
}

/// The audit records.
pub struct AuditLog {
    engine: Arc<Engine>,
    writes: mpsc::SyncSender<Write>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
}

impl AuditLog {
    /// Opens the log and starts its thread.
    pub fn open(settings: AuditSettings, shared: Arc<Shared>) -> Result<Self, StoreError> {
        let engine = Arc::clone(&settings.engine);
        let index = engine.with(|sled| AuditIndex::open(&sled.tree(AUDIT_TREE)?))?;
        let (writes, waiting) = mpsc::sync_channel(AUDIT_WAITING_MAX);
        let writer = Writer { settings, shared: Arc::clone(&shared), index, is_stale: false };
        let write = move || {
            if catch_unwind(AssertUnwindSafe(|| writer.run(&waiting))).is_err() {
                shared.fail(StoreError::Failed("the thread that writes audit records panicked".to_owned()));
            }
        };
        let writer = thread::Builder::new().name("store-audit".to_owned()).spawn(write);
        let writer = writer.map_err(|error| failed(format!("no thread for audit records: {error}")))?;
        Ok(Self { engine, writes, writer: Mutex::new(Some(writer)) })
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
        let start = key_in(AuditKind::Record, query.start()).to_vec();
        let end = query
            .end()
            .map_or_else(|| vec![AuditKind::Record as u8 + 1], |end| key_in(AuditKind::Record, end).to_vec());
        let (mut rows, mut stopped_at) = (Vec::new(), None);
        if start < end {
            self.engine.with(|sled| {
                for (scanned, row) in sled.tree(AUDIT_TREE)?.range(start..end).rev().enumerate() {
                    let (key, value) = row?;
                    let record = decode(&key, &value)?;
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
                Ok(())
            })?;
        }
        Ok(Page::cut_at(rows, query.limit, |record| record.key, stopped_at))
    }

    /// Writes waiting records and stops.
    pub fn close(&self) {
        let Some(writer) = self.writer.lock().expect("nothing panics under this lock").take() else { return };
        // Ignored: the thread has stopped already, and reported a panic itself.
        drop(self.writes.send(Write::Stop));
        drop(writer.join());
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
    index: AuditIndex,
    /// sled was opened again: the totals have to be read.
    is_stale: bool,
}

/// A write with its result before the sync.
enum Written {
    Note(Result<AuditKey, StoreError>, Reply<AuditKey>),
    Purge(Result<u64, StoreError>, Reply<u64>),
}

impl Writer {
    fn run(mut self, writes: &mpsc::Receiver<Write>) {
        while let Ok(first) = writes.recv() {
            let (mut batch, mut stops) = (Vec::new(), false);
            let mut next = Some(first);
            while let Some(write) = next.take().or_else(|| writes.try_recv().ok()) {
                match write {
                    Write::Stop => stops = true,
                    write => batch.push(write),
                }
                if stops || batch.len() == BATCH_MAX {
                    break;
                }
            }
            self.write_batch(batch);
            if stops {
                return;
            }
        }
    }

    /// Makes the writes of a batch, syncs them and sends the replies.
    fn write_batch(&mut self, batch: Vec<Write>) {
        let engine = Arc::clone(&self.settings.engine);
        let (mut waiting, mut written) = (batch.into_iter(), Vec::new());
        let synced = match self.shared.working() {
            Ok(()) => engine.with(|sled| self.write_all(sled, &mut waiting, &mut written)),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = &synced {
            self.is_stale = true;
            if matches!(failure, StoreError::Failed(_)) {
                self.shared.fail(failure.clone());
            }
        }
        for written in written {
            match written {
                Written::Note(result, reply) => drop(reply.send(synced.clone().and(result))),
                Written::Purge(result, reply) => drop(reply.send(synced.clone().and(result))),
            }
        }
        // sled takes no more, or took none.
        let failure = synced.err().unwrap_or(StoreError::Closed);
        for write in waiting {
            match write {
                Write::Note(_, reply) => drop(reply.send(Err(failure.clone()))),
                Write::Purge(_, reply) => drop(reply.send(Err(failure.clone()))),
                Write::Stop => {}
            }
        }
    }

    fn write_all(
        &mut self,
        sled: &Sled,
        waiting: &mut impl Iterator<Item = Write>,
        written: &mut Vec<Written>,
    ) -> Result<(), RegistryError> {
        let tree = sled.tree(AUDIT_TREE)?;
        if self.is_stale {
            (self.index, self.is_stale) = (AuditIndex::open(&tree)?, false);
        }
        let room = free_bytes(&self.settings.dir).unwrap_or(u64::MAX);
        let mut wrote = false;
        for write in waiting {
            let failure = match write {
                Write::Note(note, reply) => {
                    let least =
                        if matches!(*note, AuditWrite::Ended(..)) { ROOM_TO_END_BYTES } else { ROOM_BYTES };
                    let (result, failure) = if_room(room, least, || self.write(&tree, *note));
                    wrote |= result.is_ok();
                    written.push(Written::Note(result, reply));
                    failure
                }
                Write::Purge(since, reply) => {
                    let (result, failure) = if_room(room, ROOM_BYTES, || self.remove_before(&tree, since));
                    wrote |= matches!(result, Ok(1..));
                    written.push(Written::Purge(result, reply));
                    failure
                }
                Write::Stop => None,
            };
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
        if !wrote {
            return Ok(());
        }
        let start = Instant::now();
        sled.sync()?;
        self.shared.metrics.sync_seconds.observe(start.elapsed().as_secs_f64());
        Ok(())
    }

    fn write(&mut self, tree: &Tree, note: AuditWrite) -> Result<AuditKey, RegistryError> {
        let (now, mut batch) = (self.shared.clock.now(), Batch::default());
        let (record, counts_up) = match note {
            AuditWrite::Begun(call) => (AuditRecord::begun(self.index.usage.next(now), call), false),
            AuditWrite::Refused(call, end) => {
                let (key, counts_up) = (self.index.usage.next(now), counts_up(&end));
                (AuditRecord::begun(key, call).ended(end, key.time), counts_up)
            }
            AuditWrite::Ended(key, end) => {
                let Some(record) = get(tree, key)?.filter(|record| record.end_time.is_none()) else {
                    return Ok(key);
                };
                self.index.take(&mut batch, &record);
                let counts_up = counts_up(&end);
                (record.ended(end, now.max(key.time)), counts_up)
            }
        };
        let account = record.charged_account();
        if counts_up {
            let repeated =
                AuditIndex::repeated(tree, &record)?.map(|key| get(tree, key)).transpose()?.flatten();
            if let Some(first) = repeated.filter(|first| first.is_repeated_by(&record)) {
                let key = first.key;
                self.index.take(&mut batch, &first);
                self.index.put(&mut batch, first.counting(&record));
                self.index.apply(tree, batch, &[account])?;
                return Ok(key);
            }
            AuditIndex::expect_repeats(&mut batch, &record);
        }
        let key = record.key;
        self.index.put(&mut batch, record);
        self.index.apply(tree, batch, &[account])?;
        while let Some(excess) = self.index.usage.excess(self.settings.bytes_max) {
            let Some(oldest) = AuditIndex::oldest(tree, excess)? else { break };
            self.remove(tree, oldest)?;
            self.shared.metrics.audit_removed_for_size.inc();
        }
        Ok(key)
    }

    fn remove_before(&mut self, tree: &Tree, since: UnixMicros) -> Result<u64, RegistryError> {
        let end = key_in(AuditKind::Record, AuditKey { time: since, number: 0 });
        let old = tree.range([AuditKind::Record as u8; 1].to_vec()..end.to_vec()).keys();
        let old: Vec<_> = old.take(PURGED_MAX).collect::<Result<_, _>>()?;
        for key in old.iter().filter_map(|key| key_of(key)) {
            self.remove(tree, key)?;
            self.shared.metrics.audit_removed_for_age.inc();
        }
        Ok(old.len() as u64)
    }

    fn remove(&mut self, tree: &Tree, key: AuditKey) -> Result<(), RegistryError> {
        let Some(record) = get(tree, key)? else { return Ok(()) };
        let mut batch = Batch::default();
        self.index.remove(tree, &mut batch, &record)?;
        self.index.apply(tree, batch, &[record.charged_account()])
    }
}

fn get(tree: &Tree, key: AuditKey) -> Result<Option<AuditRecord>, RegistryError> {
    let bytes = key_in(AuditKind::Record, key);
    let value = tree.get(bytes)?;
    Ok(value.map(|value| decode(&bytes, &value)).transpose()?)
}

/// Writes if there is room: the result to send after the sync, and the error after which sled takes no more.
fn if_room<T>(
    room: u64,
    least: u64,
    write: impl FnOnce() -> Result<T, RegistryError>,
) -> (Result<T, StoreError>, Option<RegistryError>) {
    if room < least {
        return (Err(StoreError::Full), None);
    }
    match write() {
        Ok(made) => (Ok(made), None),
        Err(error) => (Err(StoreError::Closed), Some(error)),
    }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError::Failed(error.to_string())
}
