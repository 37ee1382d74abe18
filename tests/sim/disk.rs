//! A disk that takes its time, in front of the reference engine. Writes are gathered into commits as the real writer does
//! it, and take effect at the end of a commit. At a crash those that are on their way are lost, and nobody was told of them.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tidings::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        event::StoredEvent,
        ids::{AccountId, EventId, LaneId, Seq},
        subscription::Subscription,
        time::UnixMicros,
    },
    store::{
        Accepted, Change, Changes, Commit, Created, Decision, DeliveryQuery, DeliveryRecord, DuePage,
        EventQuery, Fed, Keep, LaneSummary, NewEvent, NewSubscription, OwedPage, OwedQuery, Page,
        PendingPage, Purged, Registry, ReplayQuery, Settlement, Store, StoreError, memory::MemoryStore,
    },
};
use tokio::sync::{broadcast, mpsc};

/// The longest that a commit takes.
const COMMIT_MAX: Duration = Duration::from_millis(20);

type Write = Box<dyn FnOnce(&MemoryStore) + Send>;

/// What one incarnation of the gateway sees of the disk. It writes as long as the host that it was started on lives.
pub struct Disk {
    engine: Arc<MemoryStore>,
    writes: mpsc::UnboundedSender<Write>,
}

impl Disk {
    /// To be called on the gateway's host.
    pub fn start(engine: Arc<MemoryStore>, seed: u64) -> Arc<Self> {
        let (writes, waiting) = mpsc::unbounded_channel();
        tokio::spawn(commit(Arc::clone(&engine), waiting, StdRng::seed_from_u64(seed)));
        Arc::new(Self { engine, writes })
    }

    fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&MemoryStore) -> Commit<T> + Send + 'static,
    ) -> Commit<T> {
        let (answer, commit) = Commit::pair();
        let write: Write = Box::new(move |engine| {
            let done = write(engine).now_or_never().expect("the reference answers at once");
            // Whoever asked may be gone.
            drop(answer.send(done));
        });
        drop(self.writes.send(write));
        commit
    }
}

/// Makes one commit after another of what waits.
async fn commit(engine: Arc<MemoryStore>, mut waiting: mpsc::UnboundedReceiver<Write>, mut random: StdRng) {
    while let Some(first) = waiting.recv().await {
        let mut group = vec![first];
        while let Ok(next) = waiting.try_recv() {
            group.push(next);
        }
        tokio::time::sleep(COMMIT_MAX.mul_f64(random.random())).await;
        for write in group {
            write(&engine);
        }
    }
}

impl Store for Disk {
    fn registry(&self) -> &Registry {
        self.engine.registry()
    }

    fn create_subscription(&self, new: NewSubscription) -> Commit<Created> {
        self.write(|engine| engine.create_subscription(new))
    }

    fn update_subscription(&self, lane: LaneId, version: u64, change: Change) -> Commit<Arc<Subscription>> {
        self.write(move |engine| engine.update_subscription(lane, version, change))
    }

    fn delete_subscription(&self, lane: LaneId, version: u64, force: bool) -> Commit<()> {
        self.write(move |engine| engine.delete_subscription(lane, version, force))
    }

    fn accept(&self, events: Vec<NewEvent>) -> Commit<Vec<Accepted>> {
        self.write(|engine| engine.accept(events))
    }

    fn feed(&self) -> broadcast::Receiver<Fed> {
        self.engine.feed()
    }

    fn changes(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.engine.changes()
    }

    fn settle(&self, settlements: Vec<Settlement>) -> Commit<()> {
        self.write(|engine| engine.settle(settlements))
    }

    fn decide(&self, key: DeliveryKey, decision: Decision) -> Commit<DeliveryState> {
        self.write(move |engine| engine.decide(key, decision))
    }

    fn replayable(&self, query: &ReplayQuery) -> Result<Page<Seq, Seq>, StoreError> {
        self.engine.replayable(query)
    }

    fn replay(&self, query: ReplayQuery, events: Vec<Seq>) -> Commit<u64> {
        self.write(move |engine| engine.replay(query, events))
    }

    fn newest(&self) -> Seq {
        self.engine.newest()
    }

    fn owed(&self, query: &OwedQuery) -> Result<OwedPage, StoreError> {
        self.engine.owed(query)
    }

    fn owed_in_all(&self) -> u64 {
        self.engine.owed_in_all()
    }

    fn state(&self, key: DeliveryKey) -> Option<DeliveryState> {
        self.engine.state(key)
    }

    fn pending(&self, lane: LaneId, after: Seq, limit: usize) -> Result<PendingPage, StoreError> {
        self.engine.pending(lane, after, limit)
    }

    fn due(&self, lane: LaneId, now: UnixMicros, limit: usize) -> Result<DuePage, StoreError> {
        self.engine.due(lane, now, limit)
    }

    fn lane_summary(&self, lane: LaneId) -> LaneSummary {
        self.engine.lane_summary(lane)
    }

    fn oldest_owed(&self, lanes: &[LaneId]) -> Option<UnixMicros> {
        self.engine.oldest_owed(lanes)
    }

    fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError> {
        self.engine.event(account, id)
    }

    fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, StoreError> {
        self.engine.events(query)
    }

    fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError> {
        self.engine.delivery(key)
    }

    fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, StoreError> {
        self.engine.deliveries(query)
    }

    fn purge(&self, keep: Keep) -> Commit<Purged> {
        self.write(move |engine| engine.purge(keep))
    }

    fn reads_wait(&self) -> bool {
        false
    }

    fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
