//! The dispatcher: one loop that delivers to all subscriptions. It waits, takes deliveries that can be sent,
//! and sends.
//!
//! It learns of work from the store only: from the feed of the queue, from the deliveries that are pending
//! when it starts, and from retries as they become due. A subscription with nothing to send uses no memory
//! here.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc, time::Duration};

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::broadcast::{
        Receiver,
        error::{RecvError, TryRecvError},
    },
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::lane::Lane;
use crate::{
    clock::Clock,
    domain::{
        delivery::Outcome,
        ids::{Seq, SubscriptionKey},
        rate_limit::RateUse,
        subscription::{State, Subscription},
        time::UnixMicros,
    },
    event::webhook::WebhookClient,
    metrics::Metrics,
    store::{AcceptedEvent, PendingDelivery, QueueEvent, Store},
};
use attempt_task::{AttemptContext, AttemptDone, AttemptKind, RestDone};
use fair_share::FairScheduler;
use lane_read::LaneRead;
use notices::{Notices, Notifier};
use probing::{Done, Next, Probing};
use read_queue::ReadQueue;
use requested::RequestedAttempts;
use settings::DispatchSettings;
use throttle::{Throttle, WaitLimits};
use timers::Timers;

pub(super) mod attempt_task;
mod failure_log;
pub(super) mod fair_share;
mod lane_read;
mod notices;
mod probing;
mod pump;
mod read_queue;
mod requested;
pub mod settings;
pub mod suspension;
pub(super) mod throttle;
mod timers;

/// Longest time between two looks at the timers: they do not count the time in which the machine slept.
pub const DUE_POLL_MAX: Duration = Duration::from_secs(5);
/// Assumed memory of an event before the first ones were seen, in bytes. Deliberately high.
const FIRST_EVENT_BYTES: usize = 1 << 20;

/// Delivers to all subscriptions.
pub struct Dispatcher {
    context: AttemptContext,
    random: StdRng,
    /// Subscriptions with something to do.
    slots: HashMap<SubscriptionKey, Slot>,
    slots_made: u64,
    /// Subscriptions that are not active: their pending deliveries are in the store only.
    unloaded: HashSet<SubscriptionKey>,
    /// Subscriptions that do not send at full speed, or whose endpoint did not respond.
    throttles: HashMap<SubscriptionKey, Throttle>,
    /// Subscriptions that have used some of their rate limit.
    rates: HashMap<SubscriptionKey, RateUse>,
    scheduler: FairScheduler,
    probing: Probing,
    requested: RequestedAttempts,
    timers: Timers,
    /// Ordered subscriptions that pause reading: see [`Lane::is_out_of_order_keys`].
    out_of_order_keys: HashSet<SubscriptionKey>,
    /// Memory of all prefetches, and of the reads under way.
    prefetch_bytes: usize,
    reserved_bytes: usize,
    /// Moving average of the memory of an event.
    typical_event_bytes: usize,
    /// Version of the registry that was handled last.
    changes_seen: u64,
    attempts: JoinSet<AttemptDone>,
    /// Settled attempts whose responses are still arriving: they keep their permits.
    rests: JoinSet<RestDone>,
    /// How many of them each subscription has.
    rests_of: HashMap<SubscriptionKey, usize>,
    reads: JoinSet<LaneRead>,
    /// Subscriptions that may want to read and wait until fewer do; each once.
    readers: ReadQueue,
}

/// A subscription with something to do.
struct Slot {
    lane: Lane,
    /// Distinguishes the slot from an earlier one of the same subscription, whose reads may still be under
    /// way.
    number: u64,
    /// Memory of its prefetch when it was last measured.
    bytes: usize,
    /// End of the wait for the throttle or the rate limit that a timer was set to.
    throttled_until: Option<UnixMicros>,
}

impl Dispatcher {
    /// A dispatcher of the pending deliveries of `store`, sent by `webhook_client`. `seed` determines the
    /// jitter.
    pub fn new(
        store: Arc<dyn Store>,
        webhook_client: WebhookClient,
        clock: Arc<dyn Clock>,
        settings: DispatchSettings,
        metrics: Arc<Metrics>,
        seed: u64,
    ) -> Self {
        let notices = Notices::new(Arc::clone(&store), &settings.notices);
        Self {
            context: AttemptContext { store, webhook_client, clock, settings, metrics, notices },
            random: StdRng::seed_from_u64(seed),
            slots: HashMap::new(),
            slots_made: 0,
            unloaded: HashSet::new(),
            throttles: HashMap::new(),
            rates: HashMap::new(),
            scheduler: FairScheduler::new(settings.attempts_in_flight_max),
            probing: Probing::default(),
            requested: RequestedAttempts::default(),
            timers: Timers::default(),
            out_of_order_keys: HashSet::new(),
            prefetch_bytes: 0,
            reserved_bytes: 0,
            typical_event_bytes: FIRST_EVENT_BYTES,
            changes_seen: 0,
            attempts: JoinSet::new(),
            rests: JoinSet::new(),
            rests_of: HashMap::new(),
            reads: JoinSet::new(),
            readers: ReadQueue::new(),
        }
    }

    /// Sends until `shutdown`, then waits for the attempts under way. Dropping the future aborts these; their
    /// deliveries stay pending in the store.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Subscribe before reading: an event accepted in between is seen twice, and taken once.
        let mut feed = self.context.store.subscribe_accepted();
        let mut changes = self.context.store.registry().changes();
        self.changes_seen = self.context.store.registry().changed_since(0).0;
        let (mut notifying, attempts_over) = (JoinSet::new(), CancellationToken::new());
        notifying.spawn(self.notifier().run(attempts_over.clone()));
        self.recheck_all();
        loop {
            // Before anything is sent, so that nothing is that a caller has cancelled.
            if self.drain_feed(&mut feed).is_break() {
                break;
            }
            self.start_attempts();
            self.update_metrics();
            let due = self.next_wakeup();
            tokio::select! {
                // Never by chance, so that a simulation can be repeated. Branches that can be ready all the
                // time come last.
                biased;
                () = shutdown.cancelled() => break,
                changed = changes.changed() => match changed {
                    Ok(()) => self.registry_changed(),
                    Err(_) => break,
                },
                () = sleep_until(due) => self.fire_timers(),
                Some(done) = self.probing.join_next() => self.probing_done(done),
                Some(Ok(done)) = self.reads.join_next() => self.read_ended(done),
                // The task catches panics and is never cancelled: an error means that the runtime ends.
                Some(Ok(done)) = self.attempts.join_next() => self.attempt_ended(done),
                Some(Ok(done)) = self.rests.join_next() => self.rest_ended(&done),
                received = feed.recv() => match received {
                    Ok(event) => self.handle_queue_event(event),
                    Err(RecvError::Lagged(_)) => self.feed_lagged(&mut feed),
                    Err(RecvError::Closed) => break,
                },
            }
        }
        while self.attempts.join_next().await.is_some() {}
        attempts_over.cancel();
        while notifying.join_next().await.is_some() {}
    }

    fn notifier(&self) -> Notifier {
        let AttemptContext { notices, clock, settings, metrics, .. } = &self.context;
        Notifier::new(notices.clone(), Arc::clone(clock), settings.notices, Arc::clone(metrics))
    }

    /// Handles the events that the feed has now.
    fn drain_feed(&mut self, feed: &mut Receiver<QueueEvent>) -> ControlFlow<()> {
        // Bounded: events that arrive meanwhile wait for the next turn.
        for _ in 0..feed.len() {
            match feed.try_recv() {
                Ok(event) => self.handle_queue_event(event),
                Err(TryRecvError::Lagged(_)) => {
                    self.feed_lagged(feed);
                    break;
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Closed) => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(())
    }

    fn handle_queue_event(&mut self, event: QueueEvent) {
        match event {
            QueueEvent::Events(events) => self.accepted(&events),
            QueueEvent::Due(key, due) => {
                self.with_lane(key.subscription, |lane| lane.retry_requested(key.seq, due));
                self.attempt_requested(key);
            }
            QueueEvent::Cancelled(key) => {
                self.probing.discard_candidate(key.subscription, &mut self.timers);
                if let Some(slot) = self.slots.get_mut(&key.subscription) {
                    slot.lane.cancelled(key.seq);
                    self.pump(key.subscription);
                }
            }
            QueueEvent::Requeued(id, from) => self.with_lane(id, |lane| lane.requeued(from)),
        }
    }

    /// Handles a gap in the feed. The rest of the feed is dropped as well: every subscription reads from the
    /// store.
    fn feed_lagged(&mut self, feed: &mut Receiver<QueueEvent>) {
        *feed = feed.resubscribe();
        self.recheck_all();
    }

    /// Every subscription with pending deliveries may have more in the store than is known here.
    fn recheck_all(&mut self) {
        for id in self.context.store.registry().keys() {
            match self.slots.get_mut(&id) {
                Some(slot) => slot.lane.feed_lagged(),
                None => self.start_lane(id),
            }
            if let Some(subscription) = self.context.store.registry().by_key(id) {
                self.observe_state(&subscription);
                self.probing.discard_candidate(id, &mut self.timers);
            }
            self.pump(id);
        }
    }

    /// Starts the lane of a subscription if it has pending deliveries.
    fn start_lane(&mut self, id: SubscriptionKey) {
        let Some(subscription) = self.context.store.registry().by_key(id) else { return };
        let summary = self.context.store.queue_summary(id);
        if summary.owed() > 0 {
            self.add_slot(id, Lane::with_backlog(subscription.settings.ordered, summary.next_due));
        }
    }

    fn accepted(&mut self, group: &[AcceptedEvent]) {
        for accepted in group {
            self.record_event_bytes(accepted.event.memory_bytes());
            for &id in &accepted.subscriptions {
                let limits = self.limits();
                if !self.slots.contains_key(&id) {
                    let Some(subscription) = self.context.store.registry().by_key(id) else { continue };
                    if subscription.state != State::Active {
                        self.unloaded.insert(id);
                        continue;
                    }
                    let ordered = subscription.settings.ordered;
                    let lane = if self.unloaded.remove(&id) {
                        // It was resumed a moment ago.
                        Lane::with_backlog(ordered, Some(UnixMicros(0)))
                    } else {
                        Lane::up_to_date(ordered, Seq(accepted.event.seq.0 - 1))
                    };
                    self.add_slot(id, lane);
                }
                let slot = self.slots.get_mut(&id).expect("it was just added");
                slot.lane.push(PendingDelivery { event: Arc::clone(&accepted.event), attempts: 0 }, limits);
                self.pump(id);
            }
        }
    }

    /// Changes the lane of a subscription. A subscription without one gets one that reads all pending
    /// deliveries.
    fn with_lane(&mut self, id: SubscriptionKey, change: impl FnOnce(&mut Lane)) {
        let Some(subscription) = self.context.store.registry().by_key(id) else { return };
        if !self.slots.contains_key(&id) {
            self.add_slot(id, Lane::with_backlog(subscription.settings.ordered, Some(UnixMicros(0))));
        }
        change(&mut self.slots.get_mut(&id).expect("it was just added").lane);
        self.pump(id);
    }

    fn add_slot(&mut self, id: SubscriptionKey, lane: Lane) {
        self.slots_made += 1;
        self.slots.insert(id, Slot { lane, number: self.slots_made, bytes: 0, throttled_until: None });
    }

    fn registry_changed(&mut self) {
        let (seen, changed) = self.context.store.registry().changed_since(self.changes_seen);
        self.changes_seen = seen;
        let known = || {
            let known = self.slots.keys().chain(&self.unloaded).chain(self.throttles.keys());
            known.chain(self.probing.suspended()).copied().collect::<BTreeSet<_>>().into_iter().collect()
        };
        if changed.is_none() {
            let registry = self.context.store.registry();
            self.context.metrics.delivery_stats.retain(|key| registry.by_key(key).is_some());
        }
        for id in changed.unwrap_or_else(known) {
            self.subscription_changed(id);
        }
    }

    fn subscription_changed(&mut self, id: SubscriptionKey) {
        let Some(subscription) = self.context.store.registry().by_key(id) else { return self.forget(id) };
        self.observe_state(&subscription);
        let resumed = subscription.state == State::Active && self.unloaded.remove(&id);
        if resumed && !self.slots.contains_key(&id) {
            self.start_lane(id);
        }
        self.pump(id);
    }

    fn observe_state(&mut self, subscription: &Subscription) {
        let resumed =
            self.probing.observe_state(&self.context, subscription, &mut self.timers, &mut self.random);
        if resumed {
            self.set_throttle(subscription.key, Some(Throttle::slow_start(self.context.clock.steady())));
        }
    }

    /// Forgets a deleted subscription.
    fn forget(&mut self, id: SubscriptionKey) {
        if self.slots.get(&id).is_none_or(|slot| slot.lane.in_flight() == 0) {
            self.drop_slot(id);
            self.set_throttle(id, None);
        }
        self.unloaded.remove(&id);
        if self.rates.remove(&id).is_some() {
            self.context.metrics.rate_limited.set(id, false);
        }
        self.probing.forget(id);
        self.requested.forget(id);
        self.context.metrics.delivery_stats.forget(id);
        self.out_of_order_keys.remove(&id);
        self.scheduler.forget(id);
    }

    fn drop_slot(&mut self, id: SubscriptionKey) {
        if let Some(slot) = self.slots.remove(&id) {
            self.prefetch_bytes -= slot.bytes;
            if self.rates.contains_key(&id) {
                self.context.metrics.rate_limited.set(id, false);
            }
        }
    }

    fn attempt_ended(&mut self, done: AttemptDone) {
        let AttemptDone { key, began, due, attempt, kind, rest } = done;
        let (id, now) = (key.subscription, self.context.clock.steady());
        // A damaged event was not sent, nor was one without a descriptor: it says nothing about the endpoint.
        let sent = attempt.as_ref().filter(|attempt| attempt.outcome != Outcome::Damaged);
        if let Some(rest) = rest {
            *self.rests_of.entry(id).or_default() += 1;
            self.rests.spawn(rest.run());
        } else {
            let is_healthy = sent.map_or_else(
                || self.scheduler.is_healthy(id),
                |sent| FairScheduler::is_healthy_after(sent.outcome == Outcome::Ok, sent.duration),
            );
            self.scheduler.release(id, is_healthy);
        }
        if let Some(attempt) = sent
            && let Some(subscription) = self.context.store.registry().by_key(id)
        {
            if kind == AttemptKind::Lane {
                let mut throttle = self.throttles.get(&id).copied().unwrap_or_default();
                let DispatchSettings { retry_after_max, throttle_wait_max, .. } = self.context.settings;
                let waits = WaitLimits { retry_after_max, backoff_max: throttle_wait_max };
                throttle.record(attempt, began, now, self.max_in_flight(&subscription), waits);
                self.set_throttle(id, Some(throttle).filter(|throttle| !throttle.is_default(now)));
            }
            self.probing.record_outcome(&self.context, &subscription, attempt, key.seq, kind);
        }
        match kind {
            AttemptKind::Lane => {
                if let Some(slot) = self.slots.get_mut(&id) {
                    slot.lane.settled(key.seq, due);
                    if attempt.is_none() {
                        // It is as it was in the store: pending, or a retry that is due.
                        slot.lane.requeued(key.seq);
                    }
                }
            }
            AttemptKind::Probe => {
                let was_sent = sent.is_some();
                self.probing.probe_ended(&self.context, id, was_sent, &mut self.timers, &mut self.random);
            }
            AttemptKind::Requested => self.requested.ended(id),
        }
        if self.context.store.registry().by_key(id).is_none() {
            // It was deleted meanwhile, and the attempt was counted.
            self.context.metrics.delivery_stats.forget(id);
        }
        self.pump(id);
    }

    fn rest_ended(&mut self, RestDone { subscription: id, succeeded, duration }: &RestDone) {
        let is_healthy = FairScheduler::is_healthy_after(*succeeded, *duration);
        self.scheduler.release(*id, is_healthy);
        if let Some(rests) = self.rests_of.get_mut(id) {
            *rests -= 1;
            if *rests == 0 {
                self.rests_of.remove(id);
            }
        }
        self.pump(*id);
    }

    fn probing_done(&mut self, done: Done) {
        let now = self.context.clock.steady();
        match self.probing.done(done, now, &mut self.timers, &mut self.random) {
            Some(Next::Pump(id)) => self.pump(id),
            Some(Next::Enqueue(id)) => {
                if let Some(subscription) = self.context.store.registry().by_key(id) {
                    self.scheduler.enqueue(id, subscription.name.account);
                }
            }
            None => {}
        }
    }

    fn read_ended(&mut self, done: LaneRead) {
        self.reserved_bytes -= done.reserved;
        if let Some(page) = &done.page {
            page.owed().for_each(|owed| self.record_event_bytes(owed.event.memory_bytes()));
        }
        let (now, limits) = (self.context.clock.steady(), self.limits());
        let slot = self.slots.get_mut(&done.subscription);
        if let Some(slot) = slot.filter(|slot| slot.number == done.slot) {
            match done.page {
                Some(page) => slot.lane.take_page(&done.read, page, now, limits),
                None => slot.lane.read_failed(&done.read),
            }
        }
        // Waiting subscriptions come before the one that has just read.
        while self.reads.len() < self.context.settings.reads_in_flight_max
            && let Some(next) = self.readers.pop()
        {
            self.pump(next);
        }
        self.pump(done.subscription);
    }

    /// Updates the moving average of an event's memory.
    fn record_event_bytes(&mut self, memory_bytes: usize) {
        self.typical_event_bytes = (self.typical_event_bytes * 15 + memory_bytes) / 16;
    }

    fn next_wakeup(&self) -> Instant {
        let wait = self.timers.next().map(|due| due.since(self.context.clock.steady()));
        Instant::now() + wait.unwrap_or(DUE_POLL_MAX).min(DUE_POLL_MAX)
    }

    fn fire_timers(&mut self) {
        let now = self.context.clock.steady();
        while let Some(id) = self.timers.pop_due(now) {
            let is_busy = self.is_busy(id);
            self.probing.start_due_probe(&self.context, id, is_busy, &mut self.timers);
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.throttled_until = None;
                slot.lane.timer_fired();
                self.pump(id);
            } else {
                if self.throttles.get(&id).is_some_and(|throttle| throttle.is_default(now)) {
                    self.set_throttle(id, None);
                }
                if self.rates.get(&id).is_some_and(|used| used.is_over(now)) {
                    self.rates.remove(&id);
                }
            }
        }
    }

    fn set_throttle(&mut self, id: SubscriptionKey, throttle: Option<Throttle>) {
        let before = match throttle {
            Some(throttle) => self.throttles.insert(id, throttle),
            None => self.throttles.remove(&id),
        };
        let slowed =
            |throttle: Option<Throttle>| i64::from(throttle.is_some_and(|throttle| throttle.is_slowed()));
        self.context.metrics.lanes_slowed.add(slowed(throttle) - slowed(before));
    }

    fn update_metrics(&self) {
        let metrics = &self.context.metrics;
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.lanes_active.set(number(self.slots.len()));
        metrics.lanes_waiting.set(number(self.scheduler.waiting()));
        metrics.lanes_waiting_to_read.set(number(self.readers.len()));
        metrics.lanes_out_of_order_keys.set(number(self.out_of_order_keys.len()));
        metrics.lane_windows_bytes.set(number(self.prefetch_bytes));
    }
}

#[cfg(test)]
mod tests;
