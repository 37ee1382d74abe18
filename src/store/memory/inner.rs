//! The state of the reference engine, and the queries that several of its methods share.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use rand::{RngExt, rngs::StdRng};
use uuid::Uuid;

use crate::{
    domain::{
        access::TokenId,
        delivery::{Attempt, DeliveryKey, DeliveryState},
        event_routing::EventAddress,
        ids::{AccountId, EventId, EventName, Seq},
        subscription::Subscription,
        time::UnixMicros,
    },
    event::StoredEvent,
    store::{
        Accepted, AcceptedEvent, DeliveryChange, DeliveryRecord, NewEvent, OWED_DELIVERY_BYTES,
        OWED_EVENT_BYTES, Owed, PendingDelivery, Registry, ReplayQuery, StoreError,
    },
};

/// The digest and the result of the first use of each request id, by what the id belongs to.
pub(super) type FirstResults<S, T> = HashMap<(S, Uuid), ([u8; 32], T)>;

/// State of the engine.
pub(super) struct Inner {
    pub(super) random: StdRng,
    pub(super) closed: bool,
    pub(super) last_key: u64,
    pub(super) last_time: UnixMicros,
    pub(super) last_seq: u64,
    pub(super) requests: FirstResults<AccountId, Arc<Subscription>>,
    pub(super) token_requests: FirstResults<(), TokenId>,
    /// In stored order.
    pub(super) events: Vec<Row>,
    pub(super) deliveries: BTreeMap<DeliveryKey, DeliveryRecord>,
    /// The attempts that were made of a delivery before it was replayed.
    pub(super) attempts_before: HashMap<DeliveryKey, u32>,
}

/// An event.
pub(super) struct Row {
    pub(super) event: Arc<StoredEvent>,
    /// When it was stored, as a steady time.
    pub(super) stored: UnixMicros,
    pub(super) fingerprint: u128,
    pub(super) delivery_count: u32,
    pub(super) bytes: u64,
    pub(super) inbox_id: Option<i64>,
}

impl Inner {
    /// Adds one event; what is fed is `None` for a duplicate.
    pub(super) fn accept_one(
        &mut self,
        registry: &Registry,
        index: usize,
        new: NewEvent,
        now: UnixMicros,
        stored: UnixMicros,
    ) -> Result<(Accepted, Option<AcceptedEvent>), StoreError> {
        let NewEvent { address, content, inbox_id, fingerprint, recipients } = new;
        let EventAddress { account, id } = address;
        let bytes = content.encoded.len() as u64;
        if let Some(row) = id.as_ref().and_then(|id| self.find(account, id)) {
            let id = row.event.name.id.clone();
            if row.fingerprint != fingerprint {
                return Err(StoreError::EventExists { index, id });
            }
            let (create_time, delivery_count) = (row.event.create_time, row.delivery_count);
            return Ok((Accepted { id, create_time, duplicate: true, delivery_count }, None));
        }
        let subscriptions = registry.recipients(recipients, account, content.event_type, inbox_id);
        self.last_seq += 1;
        let seq = Seq(self.last_seq);
        let id = id.unwrap_or_else(|| EventId::made(now, seq, self.random.random()));
        let delivery_count =
            u32::try_from(subscriptions.len()).expect("an account has less than 2^32 subscriptions");
        let answer = Accepted { id: id.clone(), create_time: now, duplicate: false, delivery_count };
        let event = Arc::new(StoredEvent::new(seq, EventName { account, id }, now, content));
        self.events.push(Row {
            stored,
            event: Arc::clone(&event),
            fingerprint,
            delivery_count,
            bytes,
            inbox_id,
        });
        Ok((answer, Some(AcceptedEvent { event, subscriptions })))
    }

    pub(super) fn is_replayable(&self, query: &ReplayQuery, row: &Row) -> bool {
        let event = &row.event;
        let event_type = event.event_type();
        let key = DeliveryKey { seq: event.seq, subscription: query.subscription };
        query.wants_event(event.seq, event.name.account, event_type, event.create_time)
            && match self.deliveries.get(&key) {
                Some(delivery) => query.wants_over(delivery.state, delivery.update_time),
                None => query.wants_new(event_type, row.inbox_id),
            }
    }

    /// What is owed to these accounts.
    pub(super) fn owed(&self, is_wanted: impl Fn(AccountId) -> bool) -> Owed {
        let owed = self.deliveries.values().filter(|delivery| delivery.state.is_owed());
        let mut owed: Vec<_> =
            owed.map(|delivery| &delivery.event).filter(|event| is_wanted(event.name.account)).collect();
        let deliveries = owed.len() as u64;
        // By event, as the deliveries are.
        owed.dedup_by_key(|event| event.seq);
        let events = owed.iter().map(|event| event.content.encoded.len() as u64 + OWED_EVENT_BYTES);
        Owed { deliveries, bytes: events.sum::<u64>() + deliveries * OWED_DELIVERY_BYTES }
    }

    pub(super) fn owed_of(&self, delivery: &DeliveryRecord) -> PendingDelivery {
        let before = self.attempts_before.get(&delivery.key).copied().unwrap_or(0);
        PendingDelivery { event: Arc::clone(&delivery.event), attempts: delivery.attempt_count - before }
    }

    pub(super) fn find(&self, account: AccountId, id: &EventId) -> Option<&Row> {
        self.events.iter().find(|row| row.event.name.account == account && row.event.name.id == *id)
    }
}

pub(super) fn new_delivery(key: DeliveryKey, event: Arc<StoredEvent>) -> DeliveryRecord {
    let (create_time, update_time) = (event.create_time, event.create_time);
    let state = DeliveryState::Pending;
    DeliveryRecord { key, event, state, attempt_count: 0, attempts: Vec::new(), create_time, update_time }
}

pub(super) fn change_of(delivery: &DeliveryRecord) -> DeliveryChange {
    DeliveryChange { key: delivery.key, state: delivery.state, attempts: delivery.attempt_count }
}

pub(super) fn shown(delivery: &DeliveryRecord, attempts_max: usize) -> DeliveryRecord {
    let from = delivery.attempts.len().saturating_sub(attempts_max);
    let attempts: Vec<Attempt> = delivery.attempts[from..].to_vec();
    DeliveryRecord { attempts, ..delivery.clone() }
}
