//! The reference engine: everything in memory, in the plainest way. The other engines are compared with it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::broadcast;

use self::{
    audit::Audit,
    inner::{FirstResults, Inner, change_of, new_delivery, shown},
};
use super::{
    Accepted, AcceptedEvent, AuditQuery, AuditWrite, Change, Changes, CommitFuture, Created, DeliveryChange,
    DeliveryQuery, DeliveryRecord, DueDelivery, DuePage, EventQuery, FEED_GROUPS_MAX, NewEvent,
    NewSubscription, NewToken, OperatorAction, OrderedPage, Owed, OwedQuery, Page, PageRows, PendingDelivery,
    PendingPage, Purged, QueueEvent, QueueSummary, Registry, ReplayQuery, RequestKey, RetentionLimit,
    Settlement, Store, StoreError, TokenChange, TokenRow, Tokens, changes::ChangeFeed, registry,
};
use crate::{
    clock::Clock,
    domain::{
        access::TokenId,
        audit::{AuditKey, AuditRecord},
        delivery::{ATTEMPTS_SHOWN_MAX, DeliveryKey, DeliveryState},
        ids::{AccountId, EventId, Seq, SubscriptionKey},
        secret::Secret,
        subscription::Subscription,
        time::UnixMicros,
    },
    event::StoredEvent,
};

mod audit;
mod inner;

/// Keeps everything in memory.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    registry: Registry,
    tokens: Tokens,
    feed: broadcast::Sender<QueueEvent>,
    changes: ChangeFeed,
    inner: Mutex<Inner>,
    audit: Mutex<Audit>,
}

impl MemoryStore {
    /// An empty store. Ids are made from `seed`.
    pub fn new(clock: Arc<dyn Clock>, seed: u64) -> Self {
        Self::auditing(clock, seed, u64::MAX)
    }

    /// A store that keeps at most this many bytes of audit records.
    pub fn auditing(clock: Arc<dyn Clock>, seed: u64, audit_bytes_max: u64) -> Self {
        let inner = Inner {
            random: StdRng::seed_from_u64(seed),
            closed: false,
            last_key: 0,
            last_time: UnixMicros(0),
            last_seq: 0,
            requests: HashMap::new(),
            token_requests: HashMap::new(),
            events: Vec::new(),
            deliveries: BTreeMap::new(),
            attempts_before: HashMap::new(),
        };
        Self {
            clock,
            registry: Registry::default(),
            tokens: Tokens::default(),
            feed: broadcast::Sender::new(FEED_GROUPS_MAX),
            changes: ChangeFeed::default(),
            inner: Mutex::new(inner),
            audit: Mutex::new(Audit::new(audit_bytes_max)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }

    fn write<T>(&self, work: impl FnOnce(&mut Inner) -> Result<T, StoreError>) -> CommitFuture<T> {
        let mut inner = self.lock();
        CommitFuture::ready(if inner.closed { Err(StoreError::Closed) } else { work(&mut inner) })
    }

    fn create(&self, inner: &mut Inner, new: NewSubscription) -> Result<Created, StoreError> {
        if let Some(subscription) = first_result(&inner.requests, new.name.account, new.request.as_ref())? {
            return Ok(Created { subscription, repeated: true });
        }
        registry::check_free(&self.registry, &new.name, &new.settings.url, None)?;
        inner.last_key += 1;
        let uid = uuid::Builder::from_random_bytes(inner.random.random()).into_uuid();
        let request =
            new.request.clone().map(|request| ((new.name.account, request.id), request.fingerprint));
        let subscription =
            Arc::new(new.into_subscription(SubscriptionKey(inner.last_key), uid, self.clock.now()));
        if let Some((key, fingerprint)) = request {
            inner.requests.insert(key, (fingerprint, Arc::clone(&subscription)));
        }
        self.registry.put(Arc::clone(&subscription));
        Ok(Created { subscription, repeated: false })
    }
}

/// The result of the first use of this request id, if there was one.
fn first_result<S: Copy + Eq + Hash, T: Clone>(
    requests: &FirstResults<S, T>,
    scope: S,
    request: Option<&RequestKey>,
) -> Result<Option<T>, StoreError> {
    match request.and_then(|request| Some((request, requests.get(&(scope, request.id))?))) {
        None => Ok(None),
        Some((request, (fingerprint, first))) if *fingerprint == request.fingerprint => {
            Ok(Some(first.clone()))
        }
        Some(_) => Err(StoreError::RequestIdReused),
    }
}

impl Store for MemoryStore {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn create_subscription(&self, new: NewSubscription) -> CommitFuture<Created> {
        self.write(|inner| self.create(inner, new))
    }

    fn update_subscription(
        &self,
        subscription: SubscriptionKey,
        expected_version: u64,
        change: Change,
    ) -> CommitFuture<Arc<Subscription>> {
        self.write(|inner| {
            let account = registry::known(&self.registry, subscription)?.name.account;
            let request = change.request().cloned();
            if let Some(first) = first_result(&inner.requests, account, request.as_ref())? {
                return Ok(first);
            }
            let current = registry::check_version(&self.registry, subscription, expected_version)?;
            change.check(&current, self.clock.now())?;
            let changed = Arc::new(change.apply(&current, self.clock.now()));
            registry::check_free(&self.registry, &changed.name, &changed.settings.url, Some(subscription))?;
            self.registry.put(Arc::clone(&changed));
            if let Some(request) = request {
                let result = (request.fingerprint, Arc::clone(&changed));
                inner.requests.insert((account, request.id), result);
            }
            Ok(changed)
        })
    }

    fn delete_subscription(
        &self,
        subscription: SubscriptionKey,
        expected_version: u64,
        force: bool,
    ) -> CommitFuture<u64> {
        self.write(|inner| {
            registry::check_version(&self.registry, subscription, expected_version)?;
            let owed = inner
                .deliveries
                .values()
                .filter(|d| d.key.subscription == subscription && d.state.is_owed())
                .count();
            if owed > 0 && !force {
                return Err(StoreError::Owed(owed as u64));
            }
            inner.deliveries.retain(|key, _| key.subscription != subscription);
            inner.attempts_before.retain(|key, _| key.subscription != subscription);
            self.registry.remove(subscription);
            Ok(owed as u64)
        })
    }

    fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    fn create_token(&self, new: NewToken) -> CommitFuture<(TokenId, Option<Secret>)> {
        self.write(|inner| {
            let NewToken { token, secret, request, tokens_max, administrator } = new;
            if let Some(first) = first_result(&inner.token_requests, (), request.as_ref())? {
                return Ok((first, None));
            }
            let id = token.id.clone();
            let rows = self.tokens.rows_of_new(token, tokens_max, &administrator, self.clock.now())?;
            for id in rows.iter().filter_map(TokenRow::removed) {
                inner.token_requests.retain(|_, (_, created)| created != id);
            }
            self.tokens.apply(rows);
            if let Some(request) = request {
                inner.token_requests.insert(((), request.id), (request.fingerprint, id.clone()));
            }
            Ok((id, Some(secret)))
        })
    }

    fn change_tokens(&self, change: TokenChange) -> CommitFuture<()> {
        self.write(|_| {
            self.tokens.apply(self.tokens.rows_of(change, self.clock.now())?);
            Ok(())
        })
    }

    fn accept(&self, events: Vec<NewEvent>) -> CommitFuture<Vec<Accepted>> {
        self.write(|inner| {
            let (events_before, seq_before) = (inner.events.len(), inner.last_seq);
            let now = self.clock.now().max(inner.last_time);
            let mut answers = Vec::with_capacity(events.len());
            let mut fed = Vec::new();
            for (index, new) in events.into_iter().enumerate() {
                match inner.accept_one(&self.registry, index, new, now, self.clock.steady()) {
                    Ok((answer, new)) => {
                        answers.push(answer);
                        fed.extend(new);
                    }
                    Err(error) => {
                        inner.events.truncate(events_before);
                        inner.last_seq = seq_before;
                        return Err(error);
                    }
                }
            }
            inner.last_time = now;
            let made = fed
                .iter()
                .flat_map(|fed| fed.subscriptions.iter().map(|subscription| (fed.event.seq, *subscription)));
            self.changes.publish(
                now,
                made.map(|(seq, subscription)| DeliveryChange {
                    key: DeliveryKey { seq, subscription },
                    state: DeliveryState::Pending,
                    attempts: 0,
                }),
            );
            for AcceptedEvent { event, subscriptions } in &fed {
                for &subscription in subscriptions {
                    let key = DeliveryKey { seq: event.seq, subscription };
                    inner.deliveries.insert(key, new_delivery(key, Arc::clone(event)));
                }
            }
            if !fed.is_empty() {
                // Nobody listening is fine: what is owed is in the ledger.
                drop(self.feed.send(QueueEvent::Events(Arc::new(fed))));
            }
            Ok(answers)
        })
    }

    fn subscribe_accepted(&self) -> broadcast::Receiver<QueueEvent> {
        self.feed.subscribe()
    }

    fn settle(&self, settlements: Vec<Settlement>) -> CommitFuture<()> {
        self.write(|inner| {
            let now = self.clock.now();
            let mut changed = Vec::new();
            for settlement in settlements {
                let Some(delivery) = inner.deliveries.get_mut(&settlement.key) else { continue };
                let state = match delivery.state {
                    state if state.is_owed() => settlement.state,
                    DeliveryState::Cancelled => DeliveryState::Cancelled,
                    _ => continue,
                };
                delivery.state = state;
                delivery.attempt_count += 1;
                delivery.attempts.push(settlement.attempt);
                delivery.update_time = now;
                changed.push(change_of(delivery));
            }
            self.changes.publish(now, changed.into_iter());
            Ok(())
        })
    }

    fn changes(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.changes.subscribe()
    }

    fn override_delivery(&self, key: DeliveryKey, decision: OperatorAction) -> CommitFuture<DeliveryState> {
        self.write(|inner| {
            let now = self.clock.now();
            let delivery = inner.deliveries.get_mut(&key).ok_or(StoreError::DeliveryNotFound)?;
            if let Some(state) = decision.apply(delivery.state, self.clock.steady())? {
                delivery.state = state;
                delivery.update_time = now;
                self.changes.publish(now, std::iter::once(change_of(delivery)));
                if let Some(fed) = QueueEvent::decided(key, state) {
                    drop(self.feed.send(fed));
                }
            }
            Ok(delivery.state)
        })
    }

    fn replayable(&self, query: &ReplayQuery) -> Result<Page<Seq, Seq>, StoreError> {
        let inner = self.lock();
        let wanted =
            inner.events.iter().filter(|row| inner.is_replayable(query, row)).map(|row| row.event.seq);
        Ok(Page::cut(wanted.take(query.limit + 1).collect(), query.limit, |seq| *seq))
    }

    fn replay(&self, query: ReplayQuery, events: Vec<Seq>) -> CommitFuture<u64> {
        self.write(|inner| {
            if self.registry.by_key(query.subscription).is_none() {
                return Err(StoreError::SubscriptionNotFound);
            }
            let now = self.clock.now();
            let rows = inner.events.iter().filter(|row| events.contains(&row.event.seq));
            let rows = rows.filter(|row| inner.is_replayable(&query, row)).map(|row| Arc::clone(&row.event));
            let rows: Vec<Arc<StoredEvent>> = rows.collect();
            let mut changed = Vec::new();
            for event in &rows {
                let key = DeliveryKey { seq: event.seq, subscription: query.subscription };
                let fresh = DeliveryRecord { create_time: now, ..new_delivery(key, Arc::clone(event)) };
                let delivery = inner.deliveries.entry(key).or_insert(fresh);
                (delivery.state, delivery.update_time) = (DeliveryState::Pending, now);
                inner.attempts_before.insert(key, delivery.attempt_count);
                changed.push(change_of(delivery));
            }
            self.changes.publish(now, changed.into_iter());
            if let Some(first) = rows.first() {
                drop(self.feed.send(QueueEvent::Requeued(query.subscription, first.seq)));
            }
            Ok(rows.len() as u64)
        })
    }

    fn newest(&self) -> Seq {
        Seq(self.lock().last_seq)
    }

    fn pending(
        &self,
        subscription: SubscriptionKey,
        after: Seq,
        limit: usize,
    ) -> Result<PendingPage, StoreError> {
        let inner = self.lock();
        let waits = |d: &&DeliveryRecord| {
            d.key.subscription == subscription && d.key.seq > after && d.state == DeliveryState::Pending
        };
        let mut owed: Vec<PendingDelivery> =
            inner.deliveries.values().filter(waits).take(limit + 1).map(|d| inner.owed_of(d)).collect();
        let more = owed.len() > limit;
        owed.truncate(limit);
        let last = Seq(inner.last_seq);
        let until = if more { owed.last().map_or(after, |o| o.event.seq) } else { last.max(after) };
        Ok(PendingPage { owed, until, more })
    }

    fn due(
        &self,
        subscription: SubscriptionKey,
        now: UnixMicros,
        limit: usize,
    ) -> Result<DuePage, StoreError> {
        let inner = self.lock();
        let mut retries: Vec<(UnixMicros, &DeliveryRecord)> = (inner.deliveries.values())
            .filter(|d| d.key.subscription == subscription)
            .filter_map(|d| match d.state {
                DeliveryState::Retrying { due } => Some((due, d)),
                _ => None,
            })
            .collect();
        retries.sort_by_key(|(due, delivery)| (*due, delivery.key));
        let due = retries.iter().take_while(|(due, _)| *due <= now).take(limit).count();
        let next_due = retries.get(due).map(|(due, _)| *due);
        Ok(DuePage {
            owed: retries[..due].iter().map(|(_, delivery)| inner.owed_of(delivery)).collect(),
            next_due,
        })
    }

    fn owed(&self, query: &OwedQuery) -> Result<OrderedPage, StoreError> {
        let inner = self.lock();
        let mut debts: Vec<DueDelivery> = (inner.deliveries.values())
            .filter(|d| {
                d.key.subscription == query.subscription && d.key.seq > query.after && d.state.is_owed()
            })
            .filter(|d| query.order.wants(d.event.order_tag()))
            .map(|d| DueDelivery { owed: inner.owed_of(d), due: d.state.due() })
            .take(query.limit.saturating_add(1))
            .collect();
        let more = debts.len() > query.limit;
        debts.truncate(query.limit);
        let last = Seq(inner.last_seq).max(query.after);
        let until = if more { debts.last().map_or(query.after, |debt| debt.owed.event.seq) } else { last };
        Ok(OrderedPage { debts, until, more })
    }

    fn queue_summary(&self, subscription: SubscriptionKey) -> QueueSummary {
        let inner = self.lock();
        let mut summary = QueueSummary::default();
        for delivery in inner.deliveries.values().filter(|d| d.key.subscription == subscription) {
            summary.add(delivery.state);
        }
        summary
    }

    fn owed_in_all(&self) -> Owed {
        self.lock().owed(|_| true)
    }

    fn owed_by(&self, account: AccountId) -> Owed {
        self.lock().owed(|other| other == account)
    }

    fn oldest_owed(&self, subscriptions: &[SubscriptionKey]) -> Result<Option<UnixMicros>, StoreError> {
        let inner = self.lock();
        let owed = inner
            .deliveries
            .values()
            .filter(|d| subscriptions.contains(&d.key.subscription) && d.state.is_owed());
        Ok(owed.map(|delivery| delivery.event.create_time).min())
    }

    fn accounts(&self) -> BTreeSet<AccountId> {
        let inner = self.lock();
        inner
            .events
            .iter()
            .map(|row| row.event.name.account)
            .filter(|account| *account != AccountId::ALL)
            .collect()
    }

    fn event(&self, account: AccountId, id: &EventId) -> Result<Option<Arc<StoredEvent>>, StoreError> {
        Ok(self.lock().find(account, id).map(|row| Arc::clone(&row.event)))
    }

    fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, StoreError> {
        let inner = self.lock();
        let wanted = |event: &&Arc<StoredEvent>| {
            query.scope.contains(event.name.account)
                && query.before.is_none_or(|before| event.seq < before)
                && query.wants_type(event.event_type())
                && query.time.contains(event.create_time)
        };
        let mut found = PageRows::new(query.limit);
        let _ends = inner
            .events
            .iter()
            .rev()
            .map(|row| &row.event)
            .filter(wanted)
            .try_for_each(|event| found.push(Arc::clone(event), event.content.encoded.len()));
        Ok(found.finish(|event| event.seq, None))
    }

    fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, StoreError> {
        Ok(self.lock().deliveries.get(&key).map(|delivery| shown(delivery, ATTEMPTS_SHOWN_MAX)))
    }

    fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, StoreError> {
        let inner = self.lock();
        let mut found: Vec<&DeliveryRecord> = (inner.deliveries.values())
            .filter(|d| {
                query.subscriptions.as_ref().is_none_or(|listed| listed.contains(&d.key.subscription))
            })
            .filter(|d| query.wants_state(d.state))
            .filter(|d| query.time.contains(d.create_time))
            .filter(|d| match &query.event {
                Some((account, id)) => d.event.name.account == *account && d.event.name.id == *id,
                None => true,
            })
            .filter(|d| {
                query.after.is_none_or(|after| DeliveryQuery::order(after) < DeliveryQuery::order(d.key))
            })
            .collect();
        found.sort_by_key(|delivery| DeliveryQuery::order(delivery.key));
        let (mut rows, mut last) = (PageRows::new(query.limit), None);
        let _ends = found.into_iter().try_for_each(|delivery| {
            // The event is read once for all its deliveries.
            let is_read = last.replace(delivery.key.seq) == Some(delivery.key.seq);
            let bytes = if is_read { 0 } else { delivery.event.content.encoded.len() };
            rows.push(shown(delivery, 1), bytes)
        });
        Ok(rows.finish(|row| row.key, None))
    }

    fn purge(&self, keep: RetentionLimit) -> CommitFuture<Purged> {
        self.write(|inner| {
            let now = self.clock.now();
            for subscription in self.registry.keys() {
                let current = self.registry.by_key(subscription);
                if let Some(changed) = current.and_then(|current| current.without_old_secrets(now)) {
                    self.registry.put(Arc::new(changed));
                }
            }
            let mut purged = Purged { events: 0, bytes_left: inner.events.iter().map(|row| row.bytes).sum() };
            let Inner { events, deliveries, attempts_before, .. } = inner;
            let owed: HashSet<Seq> =
                deliveries.values().filter(|d| d.state.is_owed()).map(|d| d.key.seq).collect();
            let mut gone = HashSet::new();
            events.retain(|row| {
                let seq = row.event.seq;
                let goes = row.stored < keep.since || purged.bytes_left > keep.bytes_max;
                if !goes || owed.contains(&seq) {
                    return true;
                }
                gone.insert(seq);
                purged.events += 1;
                purged.bytes_left -= row.bytes;
                false
            });
            deliveries.retain(|key, _| !gone.contains(&key.seq));
            attempts_before.retain(|key, _| !gone.contains(&key.seq));
            Ok(purged)
        })
    }

    fn audit(&self, note: AuditWrite) -> CommitFuture<AuditKey> {
        let now = self.clock.now();
        self.write(|_| Ok(self.audit.lock().expect("nothing panics under this lock").note(note, now)))
    }

    fn audit_records(&self, query: &AuditQuery) -> Result<Page<AuditRecord, AuditKey>, StoreError> {
        Ok(self.audit.lock().expect("nothing panics under this lock").records(query))
    }

    fn purge_audit(&self, since: UnixMicros) -> CommitFuture<u64> {
        self.write(|_| Ok(self.audit.lock().expect("nothing panics under this lock").purge(since)))
    }

    fn blocks_on_io(&self) -> bool {
        false
    }

    fn close(&self) -> Result<(), StoreError> {
        self.lock().closed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{self, Engine, TestClock};

    struct Memory;

    impl Engine for Memory {
        fn open(&mut self, clock: Arc<TestClock>) -> Arc<dyn Store> {
            Arc::new(MemoryStore::auditing(clock, 1, conformance::AUDIT_BYTES_MAX))
        }

        fn keeps(&self) -> bool {
            false
        }

        fn break_reads(&mut self) -> bool {
            false
        }
    }

    #[tokio::test]
    async fn the_reference_conforms() {
        conformance::run(|| Memory).await;
    }
}
