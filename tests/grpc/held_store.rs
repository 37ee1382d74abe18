//! The reference store behind a gate: what is accepted is stored at once, but answered only when a test lets it, or
//! refused as a failing disk would; audit records likewise.

use std::sync::{Arc, Mutex};

use crate::harness::in_time;
use tidings::{
    clock::SystemClock,
    domain::{
        audit::{AuditKey, AuditRecord},
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountId, EventId, Seq, SubscriptionKey},
        subscription::Subscription,
        time::UnixMicros,
    },
    event::StoredEvent,
    store::{
        Accepted, AuditQuery, AuditWrite, Change, Changes, CommitFuture, Created, DeliveryQuery,
        DeliveryRecord, DuePage, EventQuery, NewEvent, NewSubscription, OperatorAction, OrderedPage,
        OwedQuery, Page, PendingPage, Purged, QueueEvent, QueueSummary, Registry, ReplayQuery,
        RetentionLimit, Settlement, Store, StoreError, TokenChange, Tokens, memory::MemoryStore,
    },
};
use tokio::sync::{broadcast, watch};

/// A store whose answers to `accept` are held back.
pub struct HeldStore {
    inner: MemoryStore,
    held: watch::Sender<bool>,
    accepts: watch::Sender<usize>,
    failure: Mutex<Option<StoreError>>,
    audit_failure: Mutex<Option<StoreError>>,
}

impl HeldStore {
    pub fn holding() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(Arc::new(SystemClock), 1),
            held: watch::Sender::new(true),
            accepts: watch::Sender::new(0),
            failure: Mutex::default(),
            audit_failure: Mutex::default(),
        })
    }

    /// Answers everything from now on.
    pub fn release(&self) {
        self.held.send_replace(false);
    }

    /// Refuses every event from now on.
    pub fn fail_with(&self, error: StoreError) {
        *self.failure.lock().expect("no test panics while it holds this lock") = Some(error);
    }

    /// Refuses every audit record from now on.
    pub fn fail_audit_with(&self, error: StoreError) {
        *self.audit_failure.lock().expect("no test panics while it holds this lock") = Some(error);
    }

    /// How many calls of `accept` there were.
    pub fn accepts(&self) -> usize {
        *self.accepts.borrow()
    }

    /// Waits for the call of `accept` of this number.
    pub async fn has_accepts(&self, count: usize) {
        let mut accepts = self.accepts.subscribe();
        in_time(accepts.wait_for(|seen| *seen >= count)).await.expect("the store is there");
    }
}

impl Store for HeldStore {
    fn accept(&self, events: Vec<NewEvent>) -> CommitFuture<Vec<Accepted>> {
        let failure = self.failure.lock().expect("no test panics while it holds this lock").clone();
        let stored = match failure {
            Some(error) => CommitFuture::ready(Err(error)),
            None => self.inner.accept(events),
        };
        let (answer, commit) = CommitFuture::pair();
        let mut held = self.held.subscribe();
        tokio::spawn(async move {
            held.wait_for(|held| !held).await.expect("the store outlives its commits");
            // Whether anybody still waits is what some tests are about.
            drop(answer.send(stored.await));
        });
        self.accepts.send_modify(|accepts| *accepts += 1);
        commit
    }

    fn registry(&self) -> &Registry {
        self.inner.registry()
    }

    fn tokens(&self) -> &Tokens {
        self.inner.tokens()
    }

    fn change_tokens(&self, change: TokenChange) -> CommitFuture<()> {
        self.inner.change_tokens(change)
    }

    fn create_subscription(&self, new: NewSubscription) -> CommitFuture<Created> {
        self.inner.create_subscription(new)
    }

    fn update_subscription(
        &self,
        subscription: SubscriptionKey,
        version: u64,
        change: Change,
    ) -> CommitFuture<Arc<Subscription>> {
        self.inner.update_subscription(subscription, version, change)
    }

    fn delete_subscription(
        &self,
        subscription: SubscriptionKey,
        version: u64,
        force: bool,
    ) -> CommitFuture<()> {
        self.inner.delete_subscription(subscription, version, force)
    }

    fn subscribe_accepted(&self) -> broadcast::Receiver<QueueEvent> {
        self.inner.subscribe_accepted()
    }

    fn changes(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.inner.changes()
    }

    fn override_delivery(&self, key: DeliveryKey, decision: OperatorAction) -> CommitFuture<DeliveryState> {
        self.inner.override_delivery(key, decision)
    }

    fn replayable(&self, query: &ReplayQuery) -> Result<Page<Seq, Seq>, StoreError> {
        self.inner.replayable(query)
    }

    fn replay(&self, query: ReplayQuery, events: Vec<Seq>) -> CommitFuture<u64> {
        self.inner.replay(query, events)
    }

    fn newest(&self) -> Seq {
        self.inner.newest()
    }

    fn state(&self, key: DeliveryKey) -> Option<DeliveryState> {
        self.inner.state(key)
    }

    fn owed_in_all(&self) -> u64 {
        self.inner.owed_in_all()
    }

    fn oldest_owed(&self, subscriptions: &[SubscriptionKey]) -> Option<UnixMicros> {
        self.inner.oldest_owed(subscriptions)
    }

    fn settle(&self, settlements: Vec<Settlement>) -> CommitFuture<()> {
        self.inner.settle(settlements)
    }

    fn pending(
        &self,
        subscription: SubscriptionKey,
        after: Seq,
        limit: usize,
    ) -> Result<PendingPage, StoreError> {
        self.inner.pending(subscription, after, limit)
    }

    fn due(
        &self,
        subscription: SubscriptionKey,
        now: UnixMicros,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        self.inner.due(subscription, now, limit)
    }

    fn owed(&self, query: &OwedQuery) -> Result<OrderedPage, StoreError> {
        self.inner.owed(query)
    }

    fn queue_summary(&self, subscription: SubscriptionKey) -> QueueSummary {
        self.inner.queue_summary(subscription)
    }

    fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError> {
        self.inner.event(account, id)
    }

    fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, StoreError> {
        self.inner.events(query)
    }

    fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError> {
        self.inner.delivery(key)
    }

    fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, StoreError> {
        self.inner.deliveries(query)
    }

    fn purge(&self, keep: RetentionLimit) -> CommitFuture<Purged> {
        self.inner.purge(keep)
    }

    fn audit(&self, note: AuditWrite) -> CommitFuture<AuditKey> {
        match self.audit_failure.lock().expect("no test panics while it holds this lock").clone() {
            Some(error) => CommitFuture::ready(Err(error)),
            None => self.inner.audit(note),
        }
    }

    fn audit_records(&self, query: &AuditQuery) -> Result<Page<AuditRecord, AuditKey>, StoreError> {
        self.inner.audit_records(query)
    }

    fn purge_audit(&self, since: UnixMicros) -> CommitFuture<u64> {
        self.inner.purge_audit(since)
    }

    fn close(&self) -> Result<(), StoreError> {
        self.inner.close()
    }
}
