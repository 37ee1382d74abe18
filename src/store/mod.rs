//! Storage: subscriptions, access tokens, events, deliveries, attempts and the audit log.
//!
//! [`Store`] is the contract, and `conformance` its proof, run against every engine. `disk` is the engine of
//! the gateway; `memory` is the reference that does the same in the plainest way.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::broadcast;

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
};

pub mod access_tokens;
mod audit;
mod backup;
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
pub use audit::{AUDIT_REFUSED_PART, AuditQuery, AuditWrite};
pub use backup::{Backup, BackupPart, FileSum};
pub use commit_future::CommitFuture;
pub use error::StoreError;
pub use model::*;
pub use registry::{Matches, Registry};

/// Batches of events that a receiver of [`Store::subscribe_accepted`] may lag behind before it misses some.
pub const FEED_GROUPS_MAX: usize = 64;

/// Batches of changes that a receiver of [`Store::changes`] may lag behind before it misses some.
pub const CHANGES_GROUPS_MAX: usize = 256;

/// Stores subscriptions, access tokens, events, deliveries, attempts and audit records.
///
/// # Promises
///
/// * *Durable*: once a [`CommitFuture`] resolves to `Ok`, its write survives a crash of the process and of
///   the machine. A write that failed or never resolved is wholly there or wholly absent after a restart.
/// * *Detached*: a call takes effect whether or not its [`CommitFuture`] is awaited. Dropping it loses the
///   result.
/// * *Atomic*: the events of one [`Store::accept`] are stored together with all their deliveries, or not at
///   all.
/// * *Idempotent*: within an account, an event id is stored once.
/// * *Ordered*: events get increasing sequence numbers ([`Seq`]) in the order in which they are stored, and
///   increasing or equal times. A reader that sees an event sees every earlier one.
/// * *Read your writes*: the write of a resolved future is visible to every later call; [`Registry`] and
///   [`Tokens`] show it before the future resolves.
/// * *One state*: every delivery is in exactly one [`DeliveryState`]. The numbers of [`Store::queue_summary`]
///   add up to the deliveries ever made for the subscription.
///
/// Reads may block on the disk unless their documentation says otherwise: call them through
/// [`read_blocking`]. A read that fails is an error and never an empty result. An event whose content the
/// disk has lost is returned with [`StoredEvent::damage`], so that it costs nothing but itself.
pub trait Store: Send + Sync + 'static {
    /// The subscriptions, in memory and always current.
    fn registry(&self) -> &Registry;

    /// Adds a subscription.
    fn create_subscription(&self, new: NewSubscription) -> CommitFuture<Created>;

    /// Changes a subscription. [`StoreError::VersionMismatch`] if it no longer has the expected version.
    fn update_subscription(
        &self,
        subscription: SubscriptionKey,
        expected_version: u64,
        change: Change,
    ) -> CommitFuture<Arc<Subscription>>;

    /// Removes a subscription with its deliveries, and returns how many of them were owed. [`StoreError::Owed`] if
    /// some were and `force` is not set.
    fn delete_subscription(
        &self,
        subscription: SubscriptionKey,
        expected_version: u64,
        force: bool,
    ) -> CommitFuture<u64>;

    /// The access tokens, in memory and always current.
    fn tokens(&self) -> &Tokens;

    /// Adds an access token, and returns its id and its text; no text for a request that was made before, which
    /// is not kept. [`StoreError::TooManyTokens`] if there are as many as there may be; tokens that
    /// ended and were never used are removed before.
    fn create_token(&self, new: NewToken) -> CommitFuture<(TokenId, Option<Secret>)>;

    /// Changes the access tokens. [`StoreError::TokenNotFound`] if the token to revoke does not exist.
    fn change_tokens(&self, change: TokenChange) -> CommitFuture<()>;

    /// Stores events, all or none, each with a delivery to every subscription that wants it at that moment:
    /// the registry as the calls before this one left it. The results are in the order of the events.
    ///
    /// An id that is stored with the same fingerprint, or comes twice in one call, gives
    /// [`Accepted::duplicate`] and stores nothing. [`StoreError::EventExists`] where the fingerprint differs.
    fn accept(&self, events: Vec<NewEvent>) -> CommitFuture<Vec<Accepted>>;

    /// Sends every batch of events after it is stored, in order, and the effects of operator actions and
    /// replays. A receiver that lags misses some and reads them with [`Store::pending`] and [`Store::due`],
    /// or with [`Store::owed`].
    fn subscribe_accepted(&self) -> broadcast::Receiver<QueueEvent>;

    /// Sends the changes of deliveries, one batch per commit, in order. A receiver that lags misses some.
    fn changes(&self) -> broadcast::Receiver<Arc<Changes>>;

    /// Stores the results of attempts. A settlement of a delivery that is over changes nothing, except that
    /// the attempt is recorded if the delivery was cancelled meanwhile.
    fn settle(&self, settlements: Vec<Settlement>) -> CommitFuture<()>;

    /// Applies an operator action to a delivery and returns its new state. [`StoreError::DeliveryNotFound`]
    /// if it does not exist, [`StoreError::DeliveryOver`] if its state does not allow the action.
    fn override_delivery(&self, key: DeliveryKey, decision: OperatorAction) -> CommitFuture<DeliveryState>;

    /// The events that a replay would queue, in stored order; at most [`ReplayQuery::limit`]. [`Page::next`]
    /// is the last of the page.
    fn replayable(&self, query: &ReplayQuery) -> Result<Page<Seq, Seq>, StoreError>;

    /// Queues those of `events` that `query` matches at the time of the commit, and returns their number. The
    /// deliveries become pending; attempts so far stay in their history and do not count towards the retry
    /// limit.
    fn replay(&self, query: ReplayQuery, events: Vec<Seq>) -> CommitFuture<u64>;

    /// The sequence number of the newest event. Does not block.
    fn newest(&self) -> Seq;

    /// The deliveries of a subscription that wait for their first attempt, of events after `after`, in stored
    /// order; at most `limit`.
    fn pending(
        &self,
        subscription: SubscriptionKey,
        after: Seq,
        limit: usize,
    ) -> Result<PendingPage, StoreError>;

    /// The deliveries of a subscription whose next attempt is due at `now`, a steady time, or before, the
    /// earliest due time first; at most `limit`.
    fn due(
        &self,
        subscription: SubscriptionKey,
        now: UnixMicros,
        limit: usize,
    ) -> Result<DuePage, StoreError>;

    /// The owed deliveries of a subscription, before the first attempt or between attempts, in stored order.
    ///
    /// A page has at most `limit` deliveries: the matching ones with the lowest sequence numbers. When none
    /// are left, [`OrderedPage::until`] is the newest event of the store or [`OwedQuery::after`], whichever
    /// is later. Pages that each start where the one before ended cover everything once, apart from changes
    /// in between.
    fn owed(&self, query: &OwedQuery) -> Result<OrderedPage, StoreError>;

    /// The deliveries of a subscription by state. Does not block.
    fn queue_summary(&self, subscription: SubscriptionKey) -> QueueSummary;

    /// What is owed to all accounts together. Read with every publish: never blocks and takes constant time.
    fn owed_in_all(&self) -> Owed;

    /// What is owed to the subscriptions of one account. Does not wait for the disk. Its bytes may be an estimate
    /// after the removal of a subscription, until the next [`Store::purge`].
    fn owed_by(&self, account: AccountId) -> Owed;

    /// The time of the oldest event that is still owed to one of these subscriptions.
    fn oldest_owed(&self, subscriptions: &[SubscriptionKey]) -> Result<Option<UnixMicros>, StoreError>;

    /// The accounts that have events. Does not wait for the disk.
    fn accounts(&self) -> BTreeSet<AccountId>;

    /// One event by account and id.
    fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError>;

    /// Events of an account, newest first. One page examines a bounded part of the store, however rare the
    /// matches: it may be shorter than its limit, or empty, and still have a next page.
    fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, StoreError>;

    /// One delivery with its latest attempts, the newest last.
    fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError>;

    /// Deliveries, those of the newest events first, each with its last attempt. Pages may be short, as those
    /// of [`Store::events`].
    fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, StoreError>;

    /// Removes events with their deliveries, the oldest first: events older than `keep` allows, and more
    /// while the store has more bytes than `keep` allows. Events that are still owed stay. An engine removes
    /// whole files, so more may stay.
    fn purge(&self, keep: RetentionLimit) -> CommitFuture<Purged>;

    /// Records a mutating call, before it takes effect or when it ended, and returns its key. Beyond the
    /// engine's bound in bytes the oldest records are removed; those of refused calls first while they take
    /// more than [`AUDIT_REFUSED_PART`]. Independent of event writes: neither waits for the other.
    fn audit(&self, note: AuditWrite) -> CommitFuture<AuditKey>;

    /// Audit records, newest first. Pages may be short, as those of [`Store::events`].
    fn audit_records(&self, query: &AuditQuery) -> Result<Page<AuditRecord, AuditKey>, StoreError>;

    /// Removes audit records from before `since` and returns their number. One call removes a bounded number;
    /// call again for the rest.
    fn purge_audit(&self, since: UnixMicros) -> CommitFuture<u64>;

    /// Begins a consistent copy of everything as of a moment between this call and its result. Writes go on while
    /// it is read. [`StoreError::NothingOnDisk`] if the engine has no files.
    fn begin_backup(&self) -> CommitFuture<Backup> {
        CommitFuture::ready(Err(StoreError::NothingOnDisk))
    }

    /// Whether reads may block on the disk. If not, they are quick and allowed on any thread.
    fn blocks_on_io(&self) -> bool {
        true
    }

    /// Makes everything durable and stops; later writes fail with [`StoreError::Closed`]. Can be called
    /// again.
    fn close(&self) -> Result<(), StoreError>;
}

/// Reads from a store, on a blocking thread if reads may block. The read runs to its end even if the future
/// is dropped.
///
/// # Errors
///
/// [`StoreError::Closed`] while the runtime shuts down.
///
/// # Panics
///
/// If `read` panics.
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
