//! Writes that are made one at a time: changes of the registry, operator actions, replays, retention.

use std::sync::Arc;

use rand::RngExt;

use super::{CommitBatch, Reply, Write, Writer};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountId, Seq, SubscriptionKey},
        subscription::Subscription,
        time::UnixMicros,
    },
    store::{
        Change, Created, NewSubscription, OperatorAction, QueueEvent, ReplayQuery, RequestKey, StoreError,
        disk::{
            fs::free_bytes,
            kv::{SEGMENT_BYTES, subscriptions::FirstResult},
            read::query::is_replayable,
            records::OutcomeRecord,
        },
        registry,
    },
};

/// Free bytes that a change of subscriptions requires: sled allocates its next segment ahead.
const REGISTRY_ROOM_BYTES: u64 = 3 * SEGMENT_BYTES as u64;

impl Writer {
    /// Makes one rare write, in a commit of its own. False if the thread shall end.
    pub(super) fn write_exclusive(&mut self, write: Write) -> bool {
        match write {
            Write::Decide(key, decision, reply) => {
                let result = self.override_delivery(key, decision);
                self.reply(reply, result);
            }
            Write::Replay(query, events, reply) => {
                let result = self.replay(&query, &events);
                self.reply(reply, result);
            }
            Write::Steps => self.make_steps(),
            Write::Step(step) => step(self),
            Write::Create(new, reply) => {
                let result = self.create(*new);
                self.reply_to_change(reply, result);
            }
            Write::Update(subscription, version, change, reply) => {
                let result = self.update(subscription, version, *change);
                self.reply_to_change(reply, result);
            }
            Write::Delete(subscription, version, force, reply) => {
                let result = self.delete(subscription, version, force);
                self.reply_to_change(reply, result);
            }
            Write::CreateToken(new, reply) => {
                let result = self.create_token(*new);
                self.reply_to_change(reply, result);
            }
            Write::Tokens(change, reply) => {
                let result = self.change_tokens(*change);
                self.reply_to_change(reply, result);
            }
            Write::Stop(reply) => {
                self.reply(reply, Ok(self.log.next_number()));
                return false;
            }
            Write::Accept(..) | Write::Settle => unreachable!("commits gather these"),
        }
        true
    }

    /// Replies to a change of the registry, after the log of events knows of it: so a start notices if both copies of the
    /// registry are older ones.
    fn reply_to_change<T>(&mut self, reply: Reply<T>, mut result: Result<T, StoreError>) {
        let noted = self.write_batch(&mut self.begin());
        // While the disk is full the next commit notes it.
        if let (Err(failure @ StoreError::Failed(_)), true) = (noted, result.is_ok()) {
            result = Err(failure);
        }
        self.reply(reply, result);
    }

    pub fn reply<T>(&mut self, reply: Reply<T>, result: Result<T, StoreError>) {
        if let Err(failure @ StoreError::Failed(_)) = &result {
            self.shared.fail(failure.clone());
        }
        drop(reply.send(result));
    }

    fn override_delivery(
        &mut self,
        key: DeliveryKey,
        decision: OperatorAction,
    ) -> Result<DeliveryState, StoreError> {
        self.working()?;
        let entry = self.delivery(key)?.ok_or(StoreError::DeliveryNotFound)?;
        let before = entry.delivery_state();
        let now = self.shared.clock.now();
        let Some(state) = decision.apply(before, self.shared.clock.steady())? else { return Ok(before) };
        let mut batch = CommitBatch { time: now, ..CommitBatch::default() };
        batch.settle(key, state, entry.attempts, None);
        self.write_batch(&mut batch)?;
        if let Some(fed) = QueueEvent::decided(key, state) {
            drop(self.shared.feed.send(fed));
        }
        Ok(state)
    }

    fn replay(&mut self, query: &ReplayQuery, events: &[Seq]) -> Result<u64, StoreError> {
        self.working()?;
        if self.shared.registry.by_key(query.subscription).is_none() {
            return Err(StoreError::SubscriptionNotFound);
        }
        let mut batch = CommitBatch { time: self.shared.clock.now(), ..CommitBatch::default() };
        let mut first = None;
        for &seq in events {
            let volume = self.shared.ledger().volume_of(seq).map(|volume| volume.first);
            let Some(volume) = volume else { continue };
            self.load_dirty(volume)?;
            let ledger = self.shared.ledger();
            let (Some(volume), Some(detail)) = (ledger.volume(volume), ledger.detail(volume)) else {
                continue;
            };
            let Some(event) = detail.event_at(volume.first, seq) else { continue };
            if is_replayable(query, volume, detail, event) {
                let key = DeliveryKey { seq, subscription: query.subscription };
                let entry = detail.position(volume.first, key).map(|entry| detail.deliveries[entry]);
                let attempts = entry.map_or(0, |entry| entry.attempts);
                let outcome = OutcomeRecord::new(key, DeliveryState::Pending, attempts);
                batch.outcomes.push(OutcomeRecord { added: entry.is_none(), queued: true, ..outcome });
                first = first.or(Some(seq));
            }
        }
        let count = batch.outcomes.len() as u64;
        self.write_batch(&mut batch)?;
        if let Some(first) = first {
            drop(self.shared.feed.send(QueueEvent::Requeued(query.subscription, first)));
        }
        Ok(count)
    }

    fn create(&mut self, new: NewSubscription) -> Result<Created, StoreError> {
        self.registry_room()?;
        let account = new.name.account;
        let now = self.shared.clock.now();
        if let Some(first) = self.first_result(Some(account), new.request.as_ref(), now)? {
            return Ok(Created { subscription: first.subscription()?, repeated: true });
        }
        registry::check_free(&self.shared.registry, &new.name, &new.settings.url, None)?;
        let key = self.registry_tree.next_key()?;
        let uid = uuid::Builder::from_random_bytes(self.random.random()).into_uuid();
        let request = new.request.clone();
        let subscription = Arc::new(new.into_subscription(key, uid, now));
        self.registry_tree.create(&subscription, request.as_ref(), now)?;
        self.shared.ledger_mut().add_subscription(key, account);
        self.shared.registry.put(Arc::clone(&subscription));
        Ok(Created { subscription, repeated: false })
    }

    /// The result of the first use of this request id, if it is remembered.
    pub(super) fn first_result(
        &self,
        account: Option<AccountId>,
        request: Option<&RequestKey>,
        now: UnixMicros,
    ) -> Result<Option<FirstResult>, StoreError> {
        let Some(request) = request else { return Ok(None) };
        match self.registry_tree.request(account, request.id, now)? {
            None => Ok(None),
            Some((fingerprint, first)) if fingerprint == request.fingerprint => Ok(Some(first)),
            Some(_) => Err(StoreError::RequestIdReused),
        }
    }

    fn update(
        &mut self,
        subscription: SubscriptionKey,
        version: u64,
        change: Change,
    ) -> Result<Arc<Subscription>, StoreError> {
        self.registry_room()?;
        let now = self.shared.clock.now();
        let account = registry::known(&self.shared.registry, subscription)?.name.account;
        let request = change.request().cloned();
        if let Some(first) = self.first_result(Some(account), request.as_ref(), now)? {
            return first.subscription();
        }
        let current = registry::check_version(&self.shared.registry, subscription, version)?;
        change.check(&current, now)?;
        let changed = Arc::new(change.apply(&current, now));
        registry::check_free(
            &self.shared.registry,
            &changed.name,
            &changed.settings.url,
            Some(subscription),
        )?;
        self.registry_tree.put(&changed, request.as_ref(), now)?;
        self.shared.registry.put(Arc::clone(&changed));
        Ok(changed)
    }

    fn delete(
        &mut self,
        subscription: SubscriptionKey,
        version: u64,
        force: bool,
    ) -> Result<u64, StoreError> {
        self.registry_room()?;
        registry::check_version(&self.shared.registry, subscription, version)?;
        let owed = self.shared.ledger().summary(subscription).owed();
        if owed > 0 && !force {
            return Err(StoreError::Owed(owed));
        }
        self.registry_tree.remove(subscription)?;
        {
            // Readers see both changes or neither.
            let mut ledger = self.shared.ledger_mut();
            ledger.remove_subscription(subscription);
            self.shared.metrics.deliveries_dropped.inc_by(owed);
        }
        self.shared.registry.remove(subscription);
        Ok(owed)
    }

    /// Errors while the disk has too little room for sled, which does not survive a full disk.
    pub(super) fn registry_room(&self) -> Result<(), StoreError> {
        self.working()?;
        let free = free_bytes(&self.ledger_dir);
        if free.is_some_and(|free| free < REGISTRY_ROOM_BYTES) { Err(StoreError::Full) } else { Ok(()) }
    }

    pub(super) fn working(&self) -> Result<(), StoreError> {
        self.shared.working()
    }
}
