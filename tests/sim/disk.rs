//! A disk that takes its time, in front of the reference engine. Writes are gathered into commits as the real
//! writer does it, and take effect at the end of a commit. At a crash those that are on their way are lost,
//! unacknowledged. Writes go into the ledger of the simulation.

use std::{sync::Mutex, time::Duration};

use futures_util::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{delegate_store, gateway::STOPS_AFTER, ledger::Ledger, support::delegate_store::*, world::TICK};

/// The longest that a commit takes.
const COMMIT_MAX_MILLIS: u64 = 20;

/// Why a commit of the engine's is there.
const AT_ONCE: &str = "the reference engine is done at once";

type Write = Box<dyn FnOnce(&MemoryStore) + Send>;

/// The disk as one incarnation of the gateway sees it. It writes as long as the host that it was started on
/// lives.
pub struct Disk {
    engine: Arc<MemoryStore>,
    ledger: Arc<Ledger>,
    /// `None` once it is closed.
    writes: Mutex<Option<mpsc::UnboundedSender<Write>>>,
}

impl Disk {
    /// To be called on the gateway's host. The task ends when the disk is closed and everything is written.
    pub fn start(engine: Arc<MemoryStore>, ledger: Arc<Ledger>, seed: u64) -> (Arc<Self>, JoinHandle<()>) {
        let (writes, waiting) = mpsc::unbounded_channel();
        let random = StdRng::seed_from_u64(seed);
        let writing = tokio::spawn(commit(Arc::clone(&engine), Arc::clone(&ledger), waiting, random));
        (Arc::new(Self { engine, ledger, writes: Mutex::new(Some(writes)) }), writing)
    }

    fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&MemoryStore) -> CommitFuture<T> + Send + 'static,
    ) -> CommitFuture<T> {
        let (response, commit) = CommitFuture::pair();
        let write: Write = Box::new(move |engine| {
            let done = write(engine).now_or_never().expect(AT_ONCE);
            // Whoever asked may be gone.
            drop(response.send(done));
        });
        if let Some(writes) = &*self.writes.lock().unwrap() {
            drop(writes.send(write));
        }
        commit
    }
}

/// Makes one commit after another of the waiting writes.
async fn commit(
    engine: Arc<MemoryStore>,
    ledger: Arc<Ledger>,
    mut waiting: mpsc::UnboundedReceiver<Write>,
    mut random: StdRng,
) {
    while let Some(first) = waiting.recv().await {
        let mut group = vec![first];
        while let Ok(next) = waiting.try_recv() {
            group.push(next);
        }
        tokio::time::sleep(commit_time(&mut random)).await;
        for write in group {
            write(&engine);
            ledger.listen();
        }
    }
}

/// How long a commit takes from now on. None ends when a gateway may stop.
fn commit_time(random: &mut StdRng) -> Duration {
    let drawn = Duration::from_millis(random.random_range(0..=COMMIT_MAX_MILLIS));
    let end = turmoil::sim_elapsed().expect("a commit is made on a host") + drawn;
    let stops = end.as_millis() % TICK.as_millis() == STOPS_AFTER.as_millis();
    if stops { drawn + Duration::from_millis(1) } else { drawn }
}

impl Store for Disk {
    delegate_store!(reads of engine);

    fn create_token(&self, new: NewToken) -> CommitFuture<(TokenId, Option<Secret>)> {
        self.write(|engine| engine.create_token(new))
    }

    fn change_tokens(&self, change: TokenChange) -> CommitFuture<()> {
        self.write(|engine| engine.change_tokens(change))
    }

    fn create_subscription(&self, new: NewSubscription) -> CommitFuture<Created> {
        let ledger = Arc::clone(&self.ledger);
        self.write(move |engine| {
            let created = engine.create_subscription(new).now_or_never().expect(AT_ONCE);
            created.iter().for_each(|created| ledger.subscribed(&created.subscription));
            CommitFuture::ready(created)
        })
    }

    fn update_subscription(
        &self,
        subscription: SubscriptionKey,
        version: u64,
        change: Change,
    ) -> CommitFuture<Arc<Subscription>> {
        let ledger = Arc::clone(&self.ledger);
        self.write(move |engine| {
            let is_noted = !matches!(change, Change::Health(_));
            let commit = engine.update_subscription(subscription, version, change);
            if is_noted {
                ledger.subscribed(&engine.registry().by_key(subscription).unwrap());
            }
            commit
        })
    }

    fn delete_subscription(
        &self,
        subscription: SubscriptionKey,
        version: u64,
        force: bool,
    ) -> CommitFuture<u64> {
        self.write(move |engine| engine.delete_subscription(subscription, version, force))
    }

    fn accept(&self, events: Vec<NewEvent>) -> CommitFuture<Vec<Accepted>> {
        self.write(|engine| engine.accept(events))
    }

    fn settle(&self, settlements: Vec<Settlement>) -> CommitFuture<()> {
        self.write(|engine| engine.settle(settlements))
    }

    fn override_delivery(&self, key: DeliveryKey, decision: OperatorAction) -> CommitFuture<DeliveryState> {
        self.write(move |engine| engine.override_delivery(key, decision))
    }

    fn replay(&self, query: ReplayQuery, events: Vec<Seq>) -> CommitFuture<u64> {
        self.write(move |engine| engine.replay(query, events))
    }

    fn purge(&self, keep: RetentionLimit) -> CommitFuture<Purged> {
        self.write(move |engine| engine.purge(keep))
    }

    fn audit(&self, note: AuditWrite) -> CommitFuture<AuditKey> {
        self.write(move |engine| engine.audit(note))
    }

    fn purge_audit(&self, since: UnixMicros) -> CommitFuture<u64> {
        self.write(move |engine| engine.purge_audit(since))
    }

    fn blocks_on_io(&self) -> bool {
        false
    }

    fn close(&self) -> Result<(), StoreError> {
        *self.writes.lock().unwrap() = None;
        Ok(())
    }
}
