//! The engine of the gateway: subscriptions on sled, events and deliveries in a log of their own.
//!
//! sled keeps the subscriptions and the access tokens: few, small, and changed rarely. Events come by the thousand and are gone a week later; for them sled
//! reads all that was written since the last start before it serves again, which is half a minute for ten million
//! (docs/benchmarks.md). So they are in a log (`log`): a commit is one record, written and synced at once. Which delivery is how far is
//! kept in memory by volumes of some thousand events (`volume`, `detail`), described in the log from time to time (`describe`,
//! `writer/checkpoint`), found by the `manifest`, and read back from there when it is needed.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use tokio::sync::{broadcast, oneshot, watch};

use self::{
    index::ledger::Ledger,
    kv::audit_log::AuditLog,
    log::{LogReader, ReadError},
    read::event_cache::HeldEvents,
    writer::{Settling, Write, bytes_of},
};
use super::{
    AUDIT_BYTES_DEFAULT, Accepted, AuditQuery, AuditWrite, Change, Changes, CommitFuture, Created,
    DeliveryQuery, DeliveryRecord, DuePage, EventQuery, NewEvent, NewSubscription, OperatorAction,
    OrderedPage, OwedQuery, Page, PendingPage, Purged, QueueEvent, QueueSummary, Registry, ReplayQuery,
    RetentionLimit, Settlement, Store, StoreError, TokenChange, Tokens, changes::ChangeFeed,
};
use crate::{
    clock::Clock,
    domain::{
        audit::{AuditKey, AuditRecord},
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountId, EventId, Seq, SubscriptionKey},
        seal::SealingKey,
        subscription::Subscription,
        time::UnixMicros,
    },
    event::StoredEvent,
    metrics::Metrics,
};

mod data_dir;
mod fs;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod index;
mod keys;
pub mod kv;
mod log;
mod open;
pub(crate) mod open_error;
mod read;
pub mod records;
mod report;
mod writer;

pub use index::volume::{VOLUME_BYTES, VOLUME_EVENTS};
pub use keys::key_file::{KEY_FILE, KEY_FILE_BYTES_MAX, KeyFileError, KeySource};
pub use kv::subscriptions::REQUEST_MEMORY;
pub use log::{FILE_BYTES_MAX, FILE_BYTES_MIN};
pub use open::Rotation;
pub use open_error::OpenError;
pub use writer::{BYTES_WAITING_MAX, COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX, WRITES_WAITING_MAX};

/// Memory for what is known of events and deliveries that are on disk as well, unless configured, in bytes.
pub const CACHE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// A log has about so many files, if retention keeps as much as it may.
const FILES: u64 = 16;

/// How the store works.
#[derive(Clone, Copy, Debug)]
pub struct StoreSettings {
    /// Memory for what is known of events and deliveries that are on disk as well, in bytes. As much again may be taken by what is not
    /// described on disk yet.
    pub cache_bytes: u64,
    /// Bytes of a log file. What retention removes is whole files.
    pub file_bytes: u32,
    /// Bytes of audit records that are kept.
    pub audit_bytes_max: u64,
}

impl StoreSettings {
    /// Settings for a store of which retention keeps so many bytes.
    pub fn keeping(retention_bytes_max: u64, cache_bytes: u64) -> Self {
        let share = u32::try_from(retention_bytes_max / FILES).unwrap_or(u32::MAX);
        let file_bytes = share.clamp(FILE_BYTES_MIN, FILE_BYTES_MAX);
        Self { cache_bytes, file_bytes, audit_bytes_max: AUDIT_BYTES_DEFAULT }
    }

    /// The same, with so many bytes of audit records.
    pub fn auditing(self, audit_bytes_max: u64) -> Self {
        Self { audit_bytes_max, ..self }
    }
}

/// The store in a data directory.
pub struct DiskStore {
    shared: Arc<Shared>,
    writes: mpsc::SyncSender<Write>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    audit: AuditLog,
    /// Held as long as the store is open, so that no second process opens it.
    _lock: File,
    data_dir: PathBuf,
}

/// Seals the secrets of the store in `data_dir`, which nobody has open, with another key: the first, where the source has several, else
/// `new`, which takes the place of the only one in its file.
///
/// At every moment the keys in the file are enough to open the store; interrupted, it goes on when it is called again or the store is
/// opened. Nothing that was written with the key before is left in the data directory.
///
/// # Errors
///
/// There is no store, another process has it open, or the key is not its key: then nothing is changed. Or the file system refused.
pub fn rotate_secrets_key(
    data_dir: &Path,
    source: &KeySource,
    new: SealingKey,
    seed: u64,
) -> Result<Rotation, OpenError> {
    open::rotate_key(data_dir, source, new, seed)
}

/// What the writing thread shares with everybody.
pub struct Shared {
    clock: Arc<dyn Clock>,
    registry: Registry,
    tokens: Tokens,
    ledger: RwLock<Ledger>,
    log: Arc<LogReader>,
    held: Mutex<HeldEvents>,
    /// The ledger's count of what is owed.
    owed: Arc<AtomicU64>,
    /// Settlements that wait for the writer, with who waits for them. They go into the next commit, whatever else waits.
    settling: Mutex<Vec<Settling>>,
    feed: broadcast::Sender<QueueEvent>,
    changes: ChangeFeed,
    /// Why nothing can be written any more, once that is so.
    failure: watch::Sender<Option<StoreError>>,
    /// Bytes of events that wait for the writer.
    waiting_bytes: AtomicUsize,
    /// Writes that wait for it.
    waiting_writes: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl DiskStore {
    /// Opens the store in `data_dir`, and makes one where there is none.
    ///
    /// Its secrets are sealed with the first of the keys from then on, if they are not yet.
    ///
    /// Errors if another process has it open, or if what is there cannot be read; nothing is changed then.
    pub fn open(
        data_dir: &Path,
        settings: StoreSettings,
        keys: &KeySource,
        clock: Arc<dyn Clock>,
        seed: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        open::open(data_dir, settings, keys, clock, seed, metrics)
    }

    /// Why a write failed, after which the store takes no more; `None` as long as it does.
    pub fn failure(&self) -> watch::Receiver<Option<StoreError>> {
        self.shared.failure.subscribe()
    }

    fn write<T>(
        &self,
        write: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Write,
    ) -> CommitFuture<T> {
        let (answer, commit) = CommitFuture::pair();
        self.send(write(answer)).map_or_else(|error| CommitFuture::ready(Err(error)), |()| commit)
    }

    fn send(&self, write: Write) -> Result<(), StoreError> {
        // Before it is sent: the writer counts down when it takes it.
        self.shared.waiting_writes.fetch_add(1, Ordering::Relaxed);
        self.writes.try_send(write).map_err(|error| {
            self.shared.waiting_writes.fetch_sub(1, Ordering::Relaxed);
            match error {
                mpsc::TrySendError::Full(_) => StoreError::Busy,
                mpsc::TrySendError::Disconnected(_) => StoreError::Closed,
            }
        })
    }
}

impl Shared {
    /// Errors once nothing can be written any more.
    fn working(&self) -> Result<(), StoreError> {
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// After a failed write nobody knows what is on disk: nothing more is written until a restart has read it.
    fn fail(&self, failure: StoreError) {
        self.failure.send_if_modified(|known| {
            let is_first = known.is_none();
            if is_first {
                tracing::error!(error = %failure, "the store failed and takes no more writes until a restart");
                *known = Some(failure);
            }
            is_first
        });
    }

    fn settling(&self) -> MutexGuard<'_, Vec<Settling>> {
        self.settling.lock().expect("no code panics while it holds this lock")
    }

    fn held(&self) -> MutexGuard<'_, HeldEvents> {
        self.held.lock().expect("no code panics while it holds this lock")
    }

    fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().expect("no code panics while it holds this lock")
    }

    fn ledger_mut(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().expect("no code panics while it holds this lock")
    }
}

impl Store for DiskStore {
    fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    fn create_subscription(&self, new: NewSubscription) -> CommitFuture<Created> {
        self.write(|answer| Write::Create(Box::new(new), answer))
    }

    fn update_subscription(
        &self,
        subscription: SubscriptionKey,
        expected_version: u64,
        change: Change,
    ) -> CommitFuture<Arc<Subscription>> {
        self.write(|answer| Write::Update(subscription, expected_version, Box::new(change), answer))
    }

    fn delete_subscription(
        &self,
        subscription: SubscriptionKey,
        expected_version: u64,
        force: bool,
    ) -> CommitFuture<()> {
        self.write(|answer| Write::Delete(subscription, expected_version, force, answer))
    }

    fn tokens(&self) -> &Tokens {
        &self.shared.tokens
    }

    fn change_tokens(&self, change: TokenChange) -> CommitFuture<()> {
        self.write(|answer| Write::Tokens(Box::new(change), answer))
    }

    fn accept(&self, events: Vec<NewEvent>) -> CommitFuture<Vec<Accepted>> {
        let bytes = bytes_of(&events);
        let waiting = &self.shared.waiting_bytes;
        if waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > BYTES_WAITING_MAX {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            return CommitFuture::ready(Err(StoreError::Busy));
        }
        let (answer, commit) = CommitFuture::pair();
        match self.send(Write::Accept(events, answer)) {
            Ok(()) => commit,
            Err(error) => {
                waiting.fetch_sub(bytes, Ordering::Relaxed);
                CommitFuture::ready(Err(error))
            }
        }
    }

    fn subscribe_accepted(&self) -> broadcast::Receiver<QueueEvent> {
        self.shared.feed.subscribe()
    }

    fn settle(&self, settlements: Vec<Settlement>) -> CommitFuture<()> {
        let (answer, commit) = CommitFuture::pair();
        let is_first = {
            let mut waiting = self.shared.settling();
            waiting.push((settlements, answer));
            waiting.len() == 1
        };
        // The writer takes all that wait at once: the first of them calls it.
        if is_first && let Err(error) = self.send(Write::Settle) {
            for (_, answer) in std::mem::take(&mut *self.shared.settling()) {
                drop(answer.send(Err(error.clone())));
            }
        }
        commit
    }

    fn changes(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.shared.changes.listen()
    }

    fn override_delivery(&self, key: DeliveryKey, decision: OperatorAction) -> CommitFuture<DeliveryState> {
        self.write(|answer| Write::Decide(key, decision, answer))
    }

    fn replayable(&self, query: &ReplayQuery) -> Result<Page<Seq, Seq>, StoreError> {
        look_again(|| self.shared.replayable(query))
    }

    fn replay(&self, query: ReplayQuery, events: Vec<Seq>) -> CommitFuture<u64> {
        self.write(|answer| Write::Replay(Box::new(query), events, answer))
    }

    fn newest(&self) -> Seq {
        Seq(self.shared.ledger().next_seq.0 - 1)
    }

    fn state(&self, key: DeliveryKey) -> Option<DeliveryState> {
        match self.shared.state(key) {
            Ok(state) => state,
            Err(error) => {
                tracing::error!(%error, "cannot read how far a delivery is");
                None
            }
        }
    }

    fn pending(
        &self,
        subscription: SubscriptionKey,
        after: Seq,
        limit: usize,
    ) -> Result<PendingPage, StoreError> {
        look_again(|| self.shared.pending(subscription, after, limit))
    }

    fn due(
        &self,
        subscription: SubscriptionKey,
        now: UnixMicros,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        look_again(|| self.shared.due(subscription, now, limit))
    }

    fn owed(&self, query: &OwedQuery) -> Result<OrderedPage, StoreError> {
        look_again(|| self.shared.owed(query))
    }

    fn queue_summary(&self, subscription: SubscriptionKey) -> QueueSummary {
        self.shared.ledger().summary(subscription)
    }

    fn owed_in_all(&self) -> u64 {
        self.shared.owed.load(Ordering::Relaxed)
    }

    fn oldest_owed(&self, subscriptions: &[SubscriptionKey]) -> Option<UnixMicros> {
        match self.shared.oldest_owed(subscriptions) {
            Ok(oldest) => oldest,
            Err(error) => {
                tracing::error!(%error, "cannot read what is owed longest");
                None
            }
        }
    }

    fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError> {
        look_again(|| match self.shared.find(account, id)? {
            Some(found) => Ok(self.shared.load(&[found])?.pop()),
            None => Ok(None),
        })
    }

    fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, StoreError> {
        look_again(|| self.shared.events(query))
    }

    fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError> {
        look_again(|| self.shared.delivery(key))
    }

    fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, StoreError> {
        look_again(|| self.shared.deliveries(query))
    }

    fn purge(&self, keep: RetentionLimit) -> CommitFuture<Purged> {
        self.write(|answer| Write::Purge(keep, answer))
    }

    fn audit(&self, note: AuditWrite) -> CommitFuture<AuditKey> {
        self.audit.note(note)
    }

    fn audit_records(&self, query: &AuditQuery) -> Result<Page<AuditRecord, AuditKey>, StoreError> {
        self.audit.records(query)
    }

    fn purge_audit(&self, since: UnixMicros) -> CommitFuture<u64> {
        self.audit.purge(since)
    }

    fn close(&self) -> Result<(), StoreError> {
        self.audit.close();
        let Some(writer) = self.writer.lock().expect("nothing panics under this lock").take() else {
            return Ok(());
        };
        let (answer, mut stopped) = oneshot::channel();
        // The queue may be full: wait for room, since what was accepted is still to be written.
        self.shared.waiting_writes.fetch_add(1, Ordering::Relaxed);
        let sent = self.writes.send(Write::Stop(answer));
        let joined = writer.join();
        sent.map_err(|_| StoreError::Closed)?;
        joined.map_err(|_| StoreError::Failed("the writing thread panicked".to_owned()))?;
        let next_record = stopped.try_recv().unwrap_or(Err(StoreError::Closed))?;
        if self.shared.failure.borrow().is_none() {
            let next_seq = self.shared.ledger().next_seq;
            data_dir::note_clean_end(&self.data_dir, next_seq, next_record)
                .map_err(|error| StoreError::Failed(error.to_string()))?;
        }
        Ok(())
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        // An error has been logged by the writer already.
        drop(self.close());
    }
}

/// Reads, and once more if retention removed something meanwhile: the ledger does not know it any more then.
fn look_again<T>(read: impl Fn() -> Result<T, ReadError>) -> Result<T, StoreError> {
    match read() {
        Err(ReadError::Gone) => Ok(read()?),
        result => Ok(result?),
    }
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What the tree of the registry is called.
const REGISTRY_TREE: &str = "registry";

#[cfg(test)]
mod tests;
