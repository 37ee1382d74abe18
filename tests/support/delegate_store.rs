//! A macro for stores in front of another one: methods that hand on to it.

/// Methods of [`tidings::store::Store`] that call the store in this field: `delegate_store!(inner: fn newest(&self) -> Seq;)`.
///
/// `delegate_store!(reads of inner)` makes those that read, but for `state`. The names of their types must be in scope.
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
            fn owed_in_all(&self) -> u64;
            fn oldest_owed(&self, subscriptions: &[SubscriptionKey]) -> Option<UnixMicros>;
            fn queue_summary(&self, subscription: SubscriptionKey) -> QueueSummary;
            fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError>;
            fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, StoreError>;
            fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError>;
            fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, StoreError>;
            fn audit_records(&self, query: &AuditQuery) -> Result<Page<AuditRecord, AuditKey>, StoreError>;
        );
    };
}
