//! The engine of the gateway, on sled.
//!
//! sled is good at few large values and whole trees, not at many small rows (docs/benchmarks.md), so it is used so: a
//! group commit of events is one value with an index beside it; a group of settlements is one value with the attempts
//! beside it; about a thousand events with all that belongs to them are a *volume*, a tree of its own. Which delivery
//! is in which state is kept in memory and read back from the indexes and outcomes when the store is opened.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use tokio::sync::{broadcast, oneshot, watch};

use self::{
    ledger::Ledger,
    records::EventEntry,
    values::ReadError,
    writer::{Write, bytes_of},
};
use super::{
    Accepted, Change, Changes, Commit, Created, Decision, DeliveryQuery, DeliveryRecord, DuePage, EventQuery,
    Fed, Keep, LaneSummary, NewEvent, NewSubscription, Page, PendingPage, Purged, Registry, Settlement,
    Store, StoreError, changes::ChangeFeed,
};
use crate::{
    clock::Clock,
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        event::StoredEvent,
        ids::{AccountId, EventId, LaneId, Seq},
        subscription::Subscription,
        time::UnixMicros,
    },
    metrics::Metrics,
};

mod ledger;
mod open;
mod purged;
mod query;
pub mod records;
mod registry_tree;
mod report;
mod values;
mod volume;
mod volume_tree;
mod writer;

pub use open::OpenError;
pub use registry_tree::REQUEST_MEMORY;
pub use volume::{VOLUME_BYTES, VOLUME_EVENTS};
pub use writer::{BYTES_WAITING_MAX, COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX, WRITES_WAITING_MAX};

/// Memory for sled's cache unless configured, in bytes.
pub const CACHE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;

/// The store in a data directory.
pub struct SledStore {
    shared: Arc<Shared>,
    writes: mpsc::SyncSender<Write>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    /// Held as long as the store is open, so that no second process opens it.
    _lock: File,
    data_dir: PathBuf,
}

/// What the writing thread shares with everybody.
pub struct Shared {
    clock: Arc<dyn Clock>,
    registry: Registry,
    ledger: RwLock<Ledger>,
    /// The ledger's count of what is owed.
    owed: Arc<AtomicU64>,
    feed: broadcast::Sender<Fed>,
    changes: ChangeFeed,
    failed: watch::Sender<bool>,
    /// Bytes of events that wait for the writer.
    waiting_bytes: AtomicUsize,
    /// Writes that wait for it.
    waiting_writes: AtomicUsize,
    metrics: Arc<Metrics>,
}

impl SledStore {
    /// Opens the store in `data_dir`, and makes one where there is none. Reads `cache_bytes` at most into its cache.
    ///
    /// Errors if another process has it open, or if what is there cannot be read; nothing is changed then.
    pub fn open(
        data_dir: &Path,
        cache_bytes: u64,
        clock: Arc<dyn Clock>,
        seed: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        open::open(data_dir, cache_bytes, clock, seed, metrics)
    }

    /// Whether a write failed, after which the store takes no more.
    pub fn failed(&self) -> watch::Receiver<bool> {
        self.shared.failed.subscribe()
    }

    fn write<T>(&self, write: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Write) -> Commit<T> {
        let (answer, commit) = Commit::pair();
        self.send(write(answer)).map_or_else(|error| Commit::ready(Err(error)), |()| commit)
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
    fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().expect("no code panics while it holds this lock")
    }

    fn ledger_mut(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().expect("no code panics while it holds this lock")
    }

    /// The event of this id on disk, by its entry, with the time when it was stored.
    fn find(
        &self,
        account: AccountId,
        id: &EventId,
    ) -> Result<Option<(Seq, EventEntry, UnixMicros)>, ReadError> {
        let candidates: Vec<_> = {
            let ledger = self.ledger();
            let place = |seq| {
                let volume = ledger.volume_of(seq).expect("only places of volumes are candidates");
                (seq, volume.tree.clone(), volume.segment_of(seq))
            };
            ledger.candidates(account, id).map(place).collect()
        };
        for (seq, tree, segment) in candidates {
            let mut entries = tree.index(segment.first)?.events;
            let place = usize::try_from(seq.0 - segment.first.0).expect("a segment is small");
            if entries
                .get(place)
                .is_some_and(|entry| entry.account == account.get() && entry.id == id.as_str())
            {
                return Ok(Some((seq, entries.swap_remove(place), segment.create_time)));
            }
        }
        Ok(None)
    }
}

impl Store for SledStore {
    fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    fn create_subscription(&self, new: NewSubscription) -> Commit<Created> {
        self.write(|answer| Write::Create(Box::new(new), answer))
    }

    fn update_subscription(
        &self,
        lane: LaneId,
        expected_version: u64,
        change: Change,
    ) -> Commit<Arc<Subscription>> {
        self.write(|answer| Write::Update(lane, expected_version, change, answer))
    }

    fn delete_subscription(&self, lane: LaneId, expected_version: u64, force: bool) -> Commit<()> {
        self.write(|answer| Write::Delete(lane, expected_version, force, answer))
    }

    fn accept(&self, events: Vec<NewEvent>) -> Commit<Vec<Accepted>> {
        let bytes = bytes_of(&events);
        let waiting = &self.shared.waiting_bytes;
        if waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > BYTES_WAITING_MAX {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            return Commit::ready(Err(StoreError::Busy));
        }
        let (answer, commit) = Commit::pair();
        match self.send(Write::Accept(events, answer)) {
            Ok(()) => commit,
            Err(error) => {
                waiting.fetch_sub(bytes, Ordering::Relaxed);
                Commit::ready(Err(error))
            }
        }
    }

    fn feed(&self) -> broadcast::Receiver<Fed> {
        self.shared.feed.subscribe()
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Commit<()> {
        self.write(|answer| Write::Settle(settlements, answer))
    }

    fn changes(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.shared.changes.listen()
    }

    fn decide(&self, key: DeliveryKey, decision: Decision) -> Commit<DeliveryState> {
        self.write(|answer| Write::Decide(key, decision, answer))
    }

    fn state(&self, key: DeliveryKey) -> Option<DeliveryState> {
        self.shared.ledger().state(key)
    }

    fn pending(&self, lane: LaneId, after: Seq, limit: usize) -> Result<PendingPage, StoreError> {
        Ok(self.shared.pending(lane, after, limit)?)
    }

    fn due(&self, lane: LaneId, now: UnixMicros, limit: usize) -> Result<DuePage, StoreError> {
        Ok(self.shared.due(lane, now, limit)?)
    }

    fn lane_summary(&self, lane: LaneId) -> LaneSummary {
        self.shared.ledger().summary(lane)
    }

    fn owed_in_all(&self) -> u64 {
        self.shared.owed.load(Ordering::Relaxed)
    }

    fn oldest_owed(&self, lanes: &[LaneId]) -> Option<UnixMicros> {
        self.shared.ledger().oldest_owed(lanes)
    }

    fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError> {
        look_again(|| match self.shared.find(account, id)? {
            Some((seq, _, _)) => Ok(self.shared.load(&[seq])?.pop()),
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

    fn purge(&self, keep: Keep) -> Commit<Purged> {
        self.write(|answer| Write::Purge(keep, answer))
    }

    fn close(&self) -> Result<(), StoreError> {
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
        stopped.try_recv().unwrap_or(Err(StoreError::Closed))?;
        if !*self.shared.failed.borrow() {
            let ledger = self.shared.ledger();
            open::note_clean_end(&self.data_dir, ledger.next_seq, ledger.next_journal)
                .map_err(|error| StoreError::Failed(error.to_string()))?;
        }
        Ok(())
    }
}

impl Drop for SledStore {
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
