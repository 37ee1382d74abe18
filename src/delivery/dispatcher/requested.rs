//! Attempts that callers request (RetryDelivery) of subscriptions that are paused or suspended: one each, outside of
//! the lane, which stays as it is.
//!
//! They are in memory only. One that a restart loses is made by the lane once the subscription is active.

use std::collections::VecDeque;

use foldhash::{HashMap, HashSet};
use rand::RngExt;

use super::{
    Dispatcher,
    attempt_task::{AttemptContext, AttemptDone, AttemptKind, AttemptTask},
    settings::STORE_RETRY_WAIT,
};
use crate::{
    domain::{
        delivery::DeliveryKey,
        ids::{Seq, SubscriptionKey},
        subscription::{State, Subscription},
    },
    log_throttle::LogThrottle,
    store::{self, OrderFilter, OwedQuery, PendingDelivery},
};

/// Most requested attempts that wait for their turn. Past it the lane makes them once the subscription is active.
const REQUESTED_MAX: usize = 10_000;

/// The requested attempts that wait, and those under way.
#[derive(Default)]
pub(super) struct RequestedAttempts {
    waiting: HashMap<SubscriptionKey, VecDeque<Seq>>,
    /// How many wait in all.
    count: usize,
    /// Subscriptions with one under way: one at a time.
    in_flight: HashSet<SubscriptionKey>,
}

impl RequestedAttempts {
    /// Adds a request. Returns whether there was room.
    fn push(&mut self, key: DeliveryKey) -> bool {
        if self.count >= REQUESTED_MAX {
            return false;
        }
        let waiting = self.waiting.entry(key.subscription).or_default();
        if !waiting.contains(&key.seq) {
            waiting.push_back(key.seq);
            self.count += 1;
        }
        true
    }

    /// Takes the next request of a subscription; it is under way from now on.
    fn take(&mut self, id: SubscriptionKey) -> Option<Seq> {
        let waiting = self.waiting.get_mut(&id)?;
        let seq = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&id);
        }
        self.count -= 1;
        self.in_flight.insert(id);
        Some(seq)
    }

    /// Handles the end of an attempt.
    pub(super) fn ended(&mut self, id: SubscriptionKey) {
        self.in_flight.remove(&id);
    }

    /// Whether an attempt is under way: nothing else may be sent to the subscription.
    pub(super) fn blocks(&self, id: SubscriptionKey) -> bool {
        self.in_flight.contains(&id)
    }

    /// Forgets the requests of a subscription that is active, or deleted.
    pub(super) fn forget(&mut self, id: SubscriptionKey) {
        self.count -= self.waiting.remove(&id).map_or(0, |waiting| waiting.len());
    }
}

impl Dispatcher {
    /// Handles a caller's request for an attempt now, where the lane of the subscription makes none.
    pub(super) fn attempt_requested(&mut self, key: DeliveryKey) {
        static LOG: LogThrottle = LogThrottle::new();
        let id = key.subscription;
        if self.context.store.registry().by_key(id).is_none_or(|found| found.state == State::Active) {
            return;
        }
        if !self.requested.push(key)
            && let Some(attempts) = LOG.record()
        {
            tracing::warn!(
                attempts,
                max = REQUESTED_MAX,
                "too many attempts were requested of paused and suspended subscriptions; they are made once these are active"
            );
        }
        self.pump_requested(id);
    }

    /// Queues a subscription in the scheduler if requested attempts wait that can be made.
    pub(super) fn pump_requested(&mut self, id: SubscriptionKey) {
        if !self.requested.waiting.contains_key(&id) {
            return;
        }
        match self.context.store.registry().by_key(id) {
            // The lane of an active one makes them.
            Some(subscription) if subscription.state != State::Active => {
                if !self.is_busy(id) {
                    self.scheduler.enqueue(id, subscription.name.account);
                }
            }
            _ => self.requested.forget(id),
        }
    }

    /// Starts the next requested attempt of a subscription, if it can be made. Returns whether one was started.
    pub(super) fn start_requested(&mut self, subscription: &Subscription) -> bool {
        let id = subscription.key;
        if subscription.state == State::Active || self.is_busy(id) {
            return false;
        }
        let Some(seq) = self.requested.take(id) else { return false };
        self.scheduler.acquire(id, subscription.name.account);
        let (context, seed) = (self.context.clone(), self.random.random());
        self.attempts.spawn(run(context, DeliveryKey { seq, subscription: id }, seed));
        true
    }

    /// Whether attempts of the lane, a probe or a requested attempt are under way, or the state is changing.
    pub(super) fn is_busy(&self, id: SubscriptionKey) -> bool {
        self.slots.contains_key(&id) || self.is_blocked(id)
    }

    /// Whether the lane of a subscription must not send: a single attempt is under way, or the state is changing.
    pub(super) fn is_blocked(&self, id: SubscriptionKey) -> bool {
        self.probing.blocks(id) || self.requested.blocks(id)
    }
}

/// Reads the delivery and makes the attempt, if it is still owed and the lane does not make it. Again if no file
/// descriptor was free.
async fn run(context: AttemptContext, key: DeliveryKey, seed: u64) -> AttemptDone {
    let kind = AttemptKind::Requested;
    loop {
        let found = context.store.registry().by_key(key.subscription);
        let inactive = found.filter(|subscription| subscription.state != State::Active);
        let Some(subscription) = inactive else { break };
        let Some(owed) = read(&context, &subscription, key.seq).await else { break };
        let done = AttemptTask { context: context.clone(), subscription, seed, owed, kind }.run().await;
        if done.attempt.is_some() {
            return done;
        }
    }
    AttemptDone::unsent(key, context.clock.steady(), kind)
}

/// The delivery of an event, if it is owed.
async fn read(context: &AttemptContext, subscription: &Subscription, seq: Seq) -> Option<PendingDelivery> {
    let after = Seq(seq.0.saturating_sub(1));
    let query = OwedQuery { subscription: subscription.key, after, limit: 1, order: OrderFilter::Any };
    loop {
        let query = query.clone();
        match store::read_blocking(&context.store, move |store| store.owed(&query)).await {
            Ok(Ok(page)) => {
                let owed = page.debts.into_iter().next().map(|debt| debt.owed);
                return owed.filter(|owed| owed.event.seq == seq);
            }
            Ok(Err(error)) => {
                tracing::error!(
                    subscription.name = %subscription.name, %error,
                    "cannot read a delivery to attempt; retrying",
                );
                tokio::time::sleep(STORE_RETRY_WAIT).await;
            }
            // The runtime is ending.
            Err(_) => return None,
        }
    }
}
