//! State that the writing threads share with the readers.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::AtomicUsize},
};

use tokio::sync::{broadcast, oneshot, watch};

use super::{
    index::{ledger::Ledger, owed::OwedInAll},
    log::LogReader,
    read::{damaged::DamagedRecords, event_cache::WeakEventCache},
    writer::Writer,
};
use crate::{
    clock::Clock,
    metrics::Metrics,
    store::{QueueEvent, Registry, Settlement, StoreError, Tokens, changes::ChangeFeed},
};

/// Where the result of a write goes.
pub type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Settlements, and the caller that waits until they are durable.
pub type Settling = (Vec<Settlement>, Reply<()>);

/// A short piece of work of retention on the writing thread, which sends its own reply.
pub type Step = Box<dyn FnOnce(&mut Writer) + Send>;

/// State shared by the writing threads and the readers.
pub struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) registry: Registry,
    pub(super) tokens: Tokens,
    pub(super) ledger: RwLock<Ledger>,
    pub(super) log: Arc<LogReader>,
    pub(super) event_cache: Mutex<WeakEventCache>,
    pub(super) damaged: DamagedRecords,
    /// What is owed in all, as the ledger counts it.
    pub(super) owed: Arc<OwedInAll>,
    /// Settlements that wait for the writer. The next commit takes all of them, before any events.
    pub(super) settling: Mutex<Vec<Settling>>,
    /// Steps that wait for the writer. It makes them before the next commit, however many writes wait.
    pub(super) steps: Mutex<VecDeque<Step>>,
    pub(super) feed: broadcast::Sender<QueueEvent>,
    pub(super) changes: ChangeFeed,
    /// The first failure of a write; none are made after it.
    pub(super) failure: watch::Sender<Option<StoreError>>,
    /// Bytes of events in the queue of writes.
    pub(super) waiting_bytes: AtomicUsize,
    /// Writes in the queue.
    pub(super) waiting_writes: AtomicUsize,
    pub(super) metrics: Arc<Metrics>,
}

impl Shared {
    /// Errors once a write has failed.
    pub(super) fn working(&self) -> Result<(), StoreError> {
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// Stops all writes. After a failed write the content of the disk is unknown until a restart has read it.
    pub(super) fn fail(&self, failure: StoreError) {
        self.failure.send_if_modified(|known| {
            let is_first = known.is_none();
            if is_first {
                tracing::error!(error = %failure, "the store failed and takes no more writes until a restart");
                *known = Some(failure);
            }
            is_first
        });
    }

    pub(super) fn settling(&self) -> MutexGuard<'_, Vec<Settling>> {
        self.settling.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn steps(&self) -> MutexGuard<'_, VecDeque<Step>> {
        self.steps.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn event_cache(&self) -> MutexGuard<'_, WeakEventCache> {
        self.event_cache.lock().expect("no code panics while it holds this lock")
    }

    pub(super) fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().expect("no code panics while it holds this lock")
    }

    pub(super) fn ledger_mut(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().expect("no code panics while it holds this lock")
    }
}
