//! The store in a data directory: it sends writes to the writing thread, and reads by itself.

use std::{
    collections::BTreeSet,
    fs::File,
    path::PathBuf,
    sync::{Arc, Mutex, atomic::Ordering, mpsc},
    thread,
};

use tokio::sync::{broadcast, oneshot, watch};

use super::{
    backup, data_dir,
    kv::{audit_log::AuditLog, engine::Engine},
    log::{ReadError, damage_at},
    retention::RetentionThread,
    shared::Shared,
    writer::{BYTES_WAITING_MAX, Write, bytes_of},
};
use crate::{
    domain::{
        access::TokenId,
        audit::{AuditKey, AuditRecord},
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountId, EventId, Seq, SubscriptionKey},
        secret::Secret,
        subscription::Subscription,
        time::UnixMicros,
    },
    event::StoredEvent,
    store::{
        Accepted, AuditQuery, AuditWrite, Backup, Change, Changes, CommitFuture, Created, DeliveryQuery,
        DeliveryRecord, DuePage, EventQuery, NewEvent, NewSubscription, NewToken, OperatorAction,
        OrderedPage, Owed, OwedQuery, Page, PendingPage, Purged, QueueEvent, QueueSummary, Registry,
        ReplayQuery, RetentionLimit, Settlement, Store, StoreError, TokenChange, Tokens,
    },
};

/// The store in a data directory.
pub struct DiskStore {
    pub(super) shared: Arc<Shared>,
    pub(super) writes: mpsc::SyncSender<Write>,
    pub(super) writer: Mutex<Option<thread::JoinHandle<()>>>,
    pub(super) retention: RetentionThread,
    pub(super) audit: AuditLog,
    pub(super) engine: Arc<Engine>,
    /// Locked while the store is open, so that no second process opens it.
    pub(super) _lock: File,
    pub(super) data_dir: PathBuf,
}

impl DiskStore {
    /// The failure after which the store takes no more writes; `None` while it works.
    pub fn failure(&self) -> watch::Receiver<Option<StoreError>> {
        self.shared.failure.subscribe()
    }

    fn write<T>(
        &self,
        write: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Write,
    ) -> CommitFuture<T> {
        let (reply, commit) = CommitFuture::pair();
        self.send(write(reply)).map_or_else(|error| CommitFuture::ready(Err(error)), |()| commit)
    }

    fn send(&self, write: Write) -> Result<(), StoreError> {
        // Increment before sending: the writer decrements when it takes the write.
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

impl Store for DiskStore {
    fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    fn create_subscription(&self, new: NewSubscription) -> CommitFuture<Created> {
        self.write(|reply| Write::Create(Box::new(new), reply))
    }

    fn update_subscription(
        &self,
        subscription: SubscriptionKey,
        expected_version: u64,
        change: Change,
    ) -> CommitFuture<Arc<Subscription>> {
        self.write(|reply| Write::Update(subscription, expected_version, Box::new(change), reply))
    }

    fn delete_subscription(
        &self,
        subscription: SubscriptionKey,
        expected_version: u64,
        force: bool,
    ) -> CommitFuture<u64> {
        self.write(|reply| Write::Delete(subscription, expected_version, force, reply))
    }

    fn tokens(&self) -> &Tokens {
        &self.shared.tokens
    }

    fn create_token(&self, new: NewToken) -> CommitFuture<(TokenId, Option<Secret>)> {
        self.write(|reply| Write::CreateToken(Box::new(new), reply))
    }

    fn change_tokens(&self, change: TokenChange) -> CommitFuture<()> {
        self.write(|reply| Write::Tokens(Box::new(change), reply))
    }

    fn accept(&self, events: Vec<NewEvent>) -> CommitFuture<Vec<Accepted>> {
        let bytes = bytes_of(&events);
        let waiting = &self.shared.waiting_bytes;
        if waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > BYTES_WAITING_MAX {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
            return CommitFuture::ready(Err(StoreError::Busy));
        }
        let (reply, commit) = CommitFuture::pair();
        match self.send(Write::Accept(events, reply)) {
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
        let (reply, commit) = CommitFuture::pair();
        let is_first = {
            let mut waiting = self.shared.settling();
            waiting.push((settlements, reply));
            waiting.len() == 1
        };
        // The writer takes all waiting settlements at once: the first of them wakes it.
        if is_first && let Err(error) = self.send(Write::Settle) {
            for (_, reply) in std::mem::take(&mut *self.shared.settling()) {
                drop(reply.send(Err(error.clone())));
            }
        }
        commit
    }

    fn changes(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.shared.changes.subscribe()
    }

    fn override_delivery(&self, key: DeliveryKey, decision: OperatorAction) -> CommitFuture<DeliveryState> {
        self.write(|reply| Write::Decide(key, decision, reply))
    }

    fn replayable(&self, query: &ReplayQuery) -> Result<Page<Seq, Seq>, StoreError> {
        retry_if_removed(|| self.shared.replayable(query))
    }

    fn replay(&self, query: ReplayQuery, events: Vec<Seq>) -> CommitFuture<u64> {
        self.write(|reply| Write::Replay(Box::new(query), events, reply))
    }

    fn newest(&self) -> Seq {
        Seq(self.shared.ledger().next_seq.0 - 1)
    }

    fn pending(
        &self,
        subscription: SubscriptionKey,
        after: Seq,
        limit: usize,
    ) -> Result<PendingPage, StoreError> {
        retry_if_removed(|| self.shared.pending(subscription, after, limit))
    }

    fn due(
        &self,
        subscription: SubscriptionKey,
        now: UnixMicros,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        retry_if_removed(|| self.shared.due(subscription, now, limit))
    }

    fn owed(&self, query: &OwedQuery) -> Result<OrderedPage, StoreError> {
        retry_if_removed(|| self.shared.owed(query))
    }

    fn queue_summary(&self, subscription: SubscriptionKey) -> QueueSummary {
        self.shared.ledger().summary(subscription)
    }

    fn owed_in_all(&self) -> Owed {
        self.shared.owed.get()
    }

    fn owed_by(&self, account: AccountId) -> Owed {
        self.shared.ledger().owed_by(account)
    }

    fn oldest_owed(&self, subscriptions: &[SubscriptionKey]) -> Result<Option<UnixMicros>, StoreError> {
        retry_if_removed(|| self.shared.oldest_owed(subscriptions))
    }

    fn accounts(&self) -> BTreeSet<AccountId> {
        let ledger = self.shared.ledger();
        let accounts = ledger.volumes.iter().flat_map(|volume| &volume.accounts);
        accounts.filter_map(|account| AccountId::new(*account).ok()).collect()
    }

    fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError> {
        retry_if_removed(|| match self.shared.find(account, id)? {
            Some(found) => Ok(self.shared.load(&[found])?.pop()),
            None => Ok(None),
        })
    }

    fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, StoreError> {
        retry_if_removed(|| self.shared.events(query))
    }

    fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError> {
        retry_if_removed(|| self.shared.delivery(key))
    }

    fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, StoreError> {
        retry_if_removed(|| self.shared.deliveries(query))
    }

    fn purge(&self, keep: RetentionLimit) -> CommitFuture<Purged> {
        let (reply, commit) = CommitFuture::pair();
        self.retention.request(keep, reply);
        commit
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

    fn begin_backup(&self) -> CommitFuture<Backup> {
        let engine = Arc::clone(&self.engine);
        self.write(|reply| {
            Write::Step(Box::new(move |writer| {
                let begun = backup::begin(writer, &engine);
                writer.reply(reply, begun);
            }))
        })
    }

    fn close(&self) -> Result<(), StoreError> {
        self.audit.close();
        self.retention.close();
        let Some(writer) = self.writer.lock().expect("nothing panics under this lock").take() else {
            return Ok(());
        };
        let (reply, mut stopped) = oneshot::channel();
        // Blocks while the queue is full: accepted writes still have to be written.
        self.shared.waiting_writes.fetch_add(1, Ordering::Relaxed);
        let sent = self.writes.send(Write::Stop(reply));
        let joined = writer.join();
        self.engine.close();
        sent.map_err(|_| StoreError::Closed)?;
        joined.map_err(|_| StoreError::Failed("the writing thread panicked".to_owned()))?;
        let next_record = stopped.try_recv().unwrap_or(Err(StoreError::Closed))?;
        if self.shared.failure.borrow().is_none() {
            let next_seq = self.shared.ledger().next_seq;
            data_dir::note_clean_end(&self.data_dir, next_seq, next_record, self.engine.last_change())
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

/// Reads, and once more if retention removed a file meanwhile: by then the ledger has the new position.
fn retry_if_removed<T>(read: impl Fn() -> Result<T, ReadError>) -> Result<T, StoreError> {
    match read() {
        Err(ReadError::Gone) => Ok(read()?),
        result => Ok(result?),
    }
}

impl From<ReadError> for StoreError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Damaged(pos) => Self::Damaged(Box::new(damage_at(pos))),
            other => Self::ReadFailed(other.to_string()),
        }
    }
}
