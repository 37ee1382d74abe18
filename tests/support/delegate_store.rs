//! A macro for stores in front of another one, with methods that hand on to it; and the names that such
//! stores need.

pub use std::sync::Arc;

pub use tidings::{
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
        Accepted, AuditQuery, AuditWrite, Change, Changes, CommitFuture, Created, DeliveryQuery,
        DeliveryRecord, DuePage, EventQuery, NewEvent, NewSubscription, NewToken, OperatorAction,
        OrderedPage, Owed, OwedQuery, Page, PendingPage, Purged, QueueEvent, QueueSummary, Registry,
        ReplayQuery, RetentionLimit, Settlement, Store, StoreError, TokenChange, Tokens, memory::MemoryStore,
    },
};
pub use tokio::sync::broadcast;

/// Methods of [`tidings::store::Store`] that call the store in this field: `delegate_store!(inner: fn
/// newest(&self) -> Seq;)`.
///
/// `delegate_store!(reads of inner)` makes those that read, but for `state`. The names of this module must be
/// in scope.
#[macro_export]
macro_rules! delegate_store {
    ($inner:ident: $(fn $method:ident(&self $(, $argument:ident: $type:ty)*) -> $result:ty;)*) => {
        $(fn $method(&self $(, $argument: $type)*) -> $result { self.$inner.$method($($argument),*) })*
    };
    (reads of $inner:ident) => {
        $crate::delegate_store!($inner:
            fn registry(&self) -> &Registry;
            fn tokens(&self) -> &Tokens;
            fn subscribe_accepted(&self) -> broadcast::Receiver<QueueEvent>;
            fn changes(&self) -> broadcast::Receiver<Arc<Changes>>;
            fn replayable(&self, query: &ReplayQuery) -> Result<Page<Seq, Seq>, StoreError>;
            fn newest(&self) -> Seq;
            fn pending(&self, subscription: SubscriptionKey, after: Seq, limit: usize) -> Result<PendingPage, StoreError>;
            fn due(&self, subscription: SubscriptionKey, now: UnixMicros, limit: usize) -> Result<DuePage, StoreError>;
            fn owed(&self, query: &OwedQuery) -> Result<OrderedPage, StoreError>;
            fn owed_in_all(&self) -> Owed;
            fn owed_by(&self, account: AccountId) -> Owed;
            fn oldest_owed(&self, subscriptions: &[SubscriptionKey]) -> Result<Option<UnixMicros>, StoreError>;
            fn accounts(&self) -> std::collections::BTreeSet<AccountId>;
            fn queue_summary(&self, subscription: SubscriptionKey) -> QueueSummary;
            fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError>;
            fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, StoreError>;
            fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError>;
            fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, StoreError>;
            fn audit_records(&self, query: &AuditQuery) -> Result<Page<AuditRecord, AuditKey>, StoreError>;
        );
    };
}
