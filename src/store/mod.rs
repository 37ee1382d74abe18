//! What Tidings remembers: the registry of subscriptions, the access tokens, and the ledger of events, deliveries and attempts.
//!
//! [`Store`] is the contract; `conformance` is its proof, run against every engine. `disk` is the engine of the
//! gateway, `memory` the reference that says in the plainest way what an engine must do.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::{
    domain::{
        audit::{AuditKey, AuditRecord},
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountId, EventId, Seq, SubscriptionKey},
        subscription::Subscription,
        time::UnixMicros,
    },
    event::StoredEvent,
};

pub mod access_tokens;
mod audit;
mod changes;
mod commit_future;
#[cfg(test)]
pub(crate) mod conformance;
pub mod disk;
mod error;
pub mod memory;
mod model;
pub mod registry;

pub use access_tokens::{Issued, TokenChange, TokenRow, Tokens};
pub use audit::{AUDIT_BYTES_DEFAULT, AUDIT_REFUSED_PART, AuditQuery, AuditWrite};
pub use commit_future::CommitFuture;
pub use error::StoreError;
pub use model::*;
pub use registry::{Matches, Registry};

/// Groups of events that a listener of [`Store::feed`] may be behind before it is told that it missed some.
pub const FEED_GROUPS_MAX: usize = 64;

/// Groups of changes that a listener of [`Store::changes`] may be behind before it is told that it missed some.
pub const CHANGES_GROUPS_MAX: usize = 256;

/// Remembers subscriptions, events, deliveries and attempts.
///
/// # Promises
///
/// * *Durable*: when a [`Commit`] resolves to `Ok`, what it stands for survives a crash of the process and of the
///   machine. What failed or was never answered is wholly there or wholly absent after a restart.
/// * *Detached*: a call takes effect whether or not its [`Commit`] is awaited. Dropping it loses only the answer.
/// * *Atomic*: the events of one [`Store::accept`] are stored together with all their deliveries, or not at all.
/// * *Idempotent*: within an account, an event id is stored once.
/// * *Ordered*: events get rising [`Seq`]s in the order in which they are stored, and rising (or equal) times. A
///   reader that sees an event sees every earlier one.
/// * *Read your writes*: what a resolved commit stored is visible to every later call, and to [`Registry`] and [`Tokens`]
///   before.
/// * *In one state*: every delivery is in exactly one [`DeliveryState`]; the counts of [`Store::queue_summary`] add up
///   to the deliveries ever made for the subscription.
///
/// Reads may wait for the disk, but for those that say otherwise: make them with [`read_blocking`].
pub trait Store: Send + Sync + 'static {
    /// The subscriptions, in memory and always current.
    fn registry(&self) -> &Registry;

    /// Adds a subscription.
    fn create_subscription(&self, new: NewSubscription) -> CommitFuture<Created>;

    /// Changes a subscription, if it is still at the version that the change was made for.
    fn update_subscription(
        &self,
        subscription: SubscriptionKey,
        expected_version: u64,
        change: Change,
    ) -> CommitFuture<Arc<Subscription>>;

    /// Removes a subscription with its deliveries. [`StoreError::Owed`] if some are owed, unless `force`.
    fn delete_subscription(
        &self,
        subscription: SubscriptionKey,
        expected_version: u64,
        force: bool,
    ) -> CommitFuture<()>;

    /// The access tokens, in memory and always current.
    fn tokens(&self) -> &Tokens;

    /// Changes the access tokens. [`StoreError::TokenNotFound`] if there is none to be revoked.
    fn change_tokens(&self, change: TokenChange) -> CommitFuture<()>;

    /// Stores events, all or none, each with a delivery to every subscription that wants it at that moment: the
    /// registry as the calls before this one left it. The results are in the order of the events.
    ///
    /// An id that is stored with the same fingerprint, or comes twice in one call, gives [`Accepted::duplicate`]
    /// and stores nothing. [`StoreError::EventExists`] where the fingerprint differs.
    fn accept(&self, events: Vec<NewEvent>) -> CommitFuture<Vec<Accepted>>;

    /// Tells of every group of events as it is stored, in order, and of what callers decided about deliveries. A listener
    /// that falls behind is told that it missed some, and reads them with [`Store::pending`] and [`Store::due`], or with
    /// [`Store::owed`].
    fn subscribe_accepted(&self) -> broadcast::Receiver<QueueEvent>;

    /// Tells how deliveries change, group by group, in order. A listener that falls behind is told that it missed some.
    fn changes(&self) -> broadcast::Receiver<Arc<Changes>>;

    /// Writes down how attempts ended. A settlement of a delivery that is over changes nothing, but that the attempt of
    /// one that was cancelled meanwhile is written down.
    fn settle(&self, settlements: Vec<Settlement>) -> CommitFuture<()>;

    /// Does to a delivery what a caller decides, and tells its state after that. [`StoreError::DeliveryNotFound`] if there
    /// is none, [`StoreError::DeliveryOver`] if its state does not allow it.
    fn override_delivery(&self, key: DeliveryKey, decision: OperatorAction) -> CommitFuture<DeliveryState>;

    /// The events that a replay would queue, in stored order; no more than [`ReplayQuery::limit`]. The page goes on after its last one.
    fn replayable(&self, query: &ReplayQuery) -> Result<Page<Seq, Seq>, StoreError>;

    /// Queues these of the events that `query` wants, as they are then: their deliveries are pending, as if they were new, though their
    /// attempts are counted on. Tells how many.
    fn replay(&self, query: ReplayQuery, events: Vec<Seq>) -> CommitFuture<u64>;

    /// The place of the newest event. Does not wait for the disk.
    fn newest(&self) -> Seq;

    /// How far a delivery is; `None` if there is none. LogThrottle waits for the disk, and not for long.
    fn state(&self, key: DeliveryKey) -> Option<DeliveryState>;

    /// The deliveries of a subscription that wait for their first attempt, after `after`, in stored order, at most `limit`.
    fn pending(
        &self,
        subscription: SubscriptionKey,
        after: Seq,
        limit: usize,
    ) -> Result<PendingPage, StoreError>;

    /// The deliveries of a subscription whose next attempt is due at `now` or before, the longest due first, at most `limit`.
    fn due(
        &self,
        subscription: SubscriptionKey,
        now: UnixMicros,
        limit: usize,
    ) -> Result<DuePage, StoreError>;

    /// What a subscription owes, whether it waits for its first attempt or for another, in stored order.
    ///
    /// A page has no more than `limit` deliveries, and has those of the lowest places that the query wants. With none of
    /// them left, [`OrderedPage::until`] is the newest event of all or [`OwedQuery::after`], whichever is later. Pages
    /// that each begin where the one before ended have everything once, but for what changes meanwhile.
    fn owed(&self, query: &OwedQuery) -> Result<OrderedPage, StoreError>;

    /// What a subscription owes and has settled. Does not wait for the disk.
    fn queue_summary(&self, subscription: SubscriptionKey) -> QueueSummary;

    /// How many deliveries are owed in all. Asked for with every publish: waits for nothing, and takes no longer however
    /// much is stored.
    fn owed_in_all(&self) -> u64;

    /// When the oldest event was stored that is still owed to one of these subscriptions.
    fn oldest_owed(&self, subscriptions: &[SubscriptionKey]) -> Option<UnixMicros>;

    /// One event by its name.
    fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError>;

    /// Events of an account, newest first. A page may have fewer than its limit and tell all the same where the next one goes on: no
    /// page looks at more than a bounded part of what is stored, however rare it is what the query wants.
    fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, StoreError>;

    /// One delivery with its latest attempts, the latest last.
    fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError>;

    /// Deliveries, those of the newest events first, each with its last attempt only. Pages may be short, as those of
    /// [`Store::events`].
    fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, StoreError>;

    /// Removes events with their deliveries, the oldest first: those that are older than `keep` says, and more as long as the
    /// store holds more bytes than `keep` says. What is still owed stays. More may stay than was asked for: what is stored
    /// in one piece with something that stays.
    fn purge(&self, keep: RetentionLimit) -> CommitFuture<Purged>;

    /// Writes down a call that changes something: before it does, and how it ended. Tells under which key. Beyond the engine's bound
    /// on their bytes the oldest records go, those of refusals first once they take up more than their part
    /// ([`AUDIT_REFUSED_PART`]). Never waits for events, nor do they wait for it.
    fn audit(&self, note: AuditWrite) -> CommitFuture<AuditKey>;

    /// Audit records, newest first. Pages may be short, as those of [`Store::events`].
    fn audit_records(&self, query: &AuditQuery) -> Result<Page<AuditRecord, AuditKey>, StoreError>;

    /// Removes audit records that were written down before `since`. Tells how many; one call removes a bounded number of them, and
    /// further calls the rest.
    fn purge_audit(&self, since: UnixMicros) -> CommitFuture<u64>;

    /// Whether reads may wait for the disk. If not, they are quick, and may be made anywhere.
    fn blocks_on_io(&self) -> bool {
        true
    }

    /// Makes everything durable and stops; every later write fails with [`StoreError::Closed`]. Safe to repeat.
    fn close(&self) -> Result<(), StoreError>;
}

/// Reads from a store: on a thread that may wait for the disk, if the store's reads do. The read is finished then whether
/// or not its end is waited for.
///
/// # Errors
///
/// The runtime is ending.
///
/// # Panics
///
/// As `read` does.
pub async fn read_blocking<T: Send + 'static>(
    store: &Arc<dyn Store>,
    read: impl FnOnce(&dyn Store) -> T + Send + 'static,
) -> Result<T, StoreError> {
    if !store.blocks_on_io() {
        return Ok(read(&**store));
    }
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || read(&*store)).await {
        Ok(result) => Ok(result),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(StoreError::Closed),
        },
    }
}
