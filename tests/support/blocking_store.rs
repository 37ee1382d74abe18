//! The reference store behind a barrier: accepted events are stored at once, and acknowledged only when a
//! test says so. Events and audit records can be refused as a failing disk would.

use std::sync::Mutex;

use tidings::clock::SystemClock;
use tokio::sync::watch;

use super::{delegate_store::*, in_time};
use crate::delegate_store;

/// A store that does not acknowledge events until it is released.
pub struct BlockingStore {
    inner: MemoryStore,
    is_blocked: watch::Sender<bool>,
    accepts: watch::Sender<usize>,
    failure: Mutex<Option<StoreError>>,
    audit_failure: Mutex<Option<StoreError>>,
}

impl BlockingStore {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(Arc::new(SystemClock::default()), 1),
            is_blocked: watch::Sender::new(true),
            accepts: watch::Sender::new(0),
            failure: Mutex::default(),
            audit_failure: Mutex::default(),
        })
    }

    /// Acknowledges everything from now on.
    pub fn release(&self) {
        self.is_blocked.send_replace(false);
    }

    /// Refuses every event from now on.
    pub fn fail_with(&self, error: StoreError) {
        *self.failure.lock().unwrap() = Some(error);
    }

    /// Refuses every audit record from now on.
    pub fn fail_audit_with(&self, error: StoreError) {
        *self.audit_failure.lock().unwrap() = Some(error);
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

impl Store for BlockingStore {
    fn accept(&self, events: Vec<NewEvent>) -> CommitFuture<Vec<Accepted>> {
        let failure = self.failure.lock().unwrap().clone();
        let stored =
            failure.map_or_else(|| self.inner.accept(events), |error| CommitFuture::ready(Err(error)));
        let (acknowledge, commit) = CommitFuture::pair();
        let mut is_blocked = self.is_blocked.subscribe();
        tokio::spawn(async move {
            is_blocked.wait_for(|is_blocked| !is_blocked).await.expect("the store outlives its commits");
            // Whether anybody still waits is the subject of some tests.
            drop(acknowledge.send(stored.await));
        });
        self.accepts.send_modify(|accepts| *accepts += 1);
        commit
    }

    fn audit(&self, note: AuditWrite) -> CommitFuture<AuditKey> {
        let failure = self.audit_failure.lock().unwrap().clone();
        failure.map_or_else(|| self.inner.audit(note), |error| CommitFuture::ready(Err(error)))
    }

    delegate_store!(reads of inner);
    delegate_store!(inner:
        fn create_token(&self, new: NewToken) -> CommitFuture<(TokenId, Option<Secret>)>;
        fn change_tokens(&self, change: TokenChange) -> CommitFuture<()>;
        fn create_subscription(&self, new: NewSubscription) -> CommitFuture<Created>;
        fn update_subscription(&self, subscription: SubscriptionKey, version: u64, change: Change) -> CommitFuture<Arc<Subscription>>;
        fn delete_subscription(&self, subscription: SubscriptionKey, version: u64, force: bool) -> CommitFuture<u64>;
        fn settle(&self, settlements: Vec<Settlement>) -> CommitFuture<()>;
        fn override_delivery(&self, key: DeliveryKey, decision: OperatorAction) -> CommitFuture<DeliveryState>;
        fn replay(&self, query: ReplayQuery, events: Vec<Seq>) -> CommitFuture<u64>;
        fn purge(&self, keep: RetentionLimit) -> CommitFuture<Purged>;
        fn purge_audit(&self, since: UnixMicros) -> CommitFuture<u64>;
        fn close(&self) -> Result<(), StoreError>;
    );
}
