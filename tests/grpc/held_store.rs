//! The reference store behind a gate: what is accepted is stored at once, but answered only when a test lets it, or
//! refused as a failing disk would; audit records likewise.

use std::sync::{Arc, Mutex};

use crate::harness::in_time;
use tidings::{
    clock::SystemClock,
    domain::{
        audit::{AuditKey, AuditRecord},
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountId, EventId, LaneId, Seq},
        subscription::Subscription,
        time::UnixMicros,
    },
    event::StoredEvent,
    store::{
        Accepted, AuditNote, AuditQuery, Change, Changes, Commit, Created, Decision, DeliveryQuery,
        DeliveryRecord, DuePage, EventQuery, Fed, Keep, LaneSummary, NewEvent, NewSubscription, OwedPage,
        OwedQuery, Page, PendingPage, Purged, Registry, ReplayQuery, Settlement, Store, StoreError,
        TokenChange, Tokens, memory::MemoryStore,
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
    fn accept(&self, events: Vec<NewEvent>) -> Commit<Vec<Accepted>> {
        let failure = self.failure.lock().expect("no test panics while it holds this lock").clone();
        let stored = match failure {
            Some(error) => Commit::ready(Err(error)),
            None => self.inner.accept(events),
        };
        let (answer, commit) = Commit::pair();
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

    fn change_tokens(&self, change: TokenChange) -> Commit<()> {
        self.inner.change_tokens(change)
    }

    fn create_subscription(&self, new: NewSubscription) -> Commit<Created> {
        self.inner.create_subscription(new)
    }

    fn update_subscription(&self, lane: LaneId, version: u64, change: Change) -> Commit<Arc<Subscription>> {
        self.inner.update_subscription(lane, version, change)
    }

    fn delete_subscription(&self, lane: LaneId, version: u64, force: bool) -> Commit<()> {
        self.inner.delete_subscription(lane, version, force)
    }

    fn feed(&self) -> broadcast::Receiver<Fed> {
        self.inner.feed()
    }

    fn changes(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.inner.changes()
    }

    fn decide(&self, key: DeliveryKey, decision: Decision) -> Commit<DeliveryState> {
        self.inner.decide(key, decision)
    }

    fn replayable(&self, query: &ReplayQuery) -> Result<Page<Seq, Seq>, StoreError> {
        self.inner.replayable(query)
    }

    fn replay(&self, query: ReplayQuery, events: Vec<Seq>) -> Commit<u64> {
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

    fn oldest_owed(&self, lanes: &[LaneId]) -> Option<UnixMicros> {
        self.inner.oldest_owed(lanes)
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Commit<()> {
        self.inner.settle(settlements)
    }

    fn pending(&self, lane: LaneId, after: Seq, limit: usize) -> Result<PendingPage, StoreError> {
        self.inner.pending(lane, after, limit)
    }

    fn due(&self, lane: LaneId, now: UnixMicros, limit: usize) -> Result<DuePage, StoreError> {
        self.inner.due(lane, now, limit)
    }

    fn owed(&self, query: &OwedQuery) -> Result<OwedPage, StoreError> {
        self.inner.owed(query)
    }

    fn lane_summary(&self, lane: LaneId) -> LaneSummary {
        self.inner.lane_summary(lane)
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

    fn purge(&self, keep: Keep) -> Commit<Purged> {
        self.inner.purge(keep)
    }

    fn audit(&self, note: AuditNote) -> Commit<AuditKey> {
        match self.audit_failure.lock().expect("no test panics while it holds this lock").clone() {
            Some(error) => Commit::ready(Err(error)),
            None => self.inner.audit(note),
        }
    }

    fn audit_records(&self, query: &AuditQuery) -> Result<Page<AuditRecord, AuditKey>, StoreError> {
        self.inner.audit_records(query)
    }

    fn purge_audit(&self, since: UnixMicros) -> Commit<u64> {
        self.inner.purge_audit(since)
    }

    fn close(&self) -> Result<(), StoreError> {
        self.inner.close()
    }
}
