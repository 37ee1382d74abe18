//! The dispatcher: one loop that serves all lanes. It waits, takes what can be sent, and sends.
//!
//! It learns of work from the store alone: from the feed of accepted events, from what the store owes when it starts,
//! and from what becomes due. A lane with nothing to do costs nothing: it is forgotten until there is work.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, VecDeque},
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};
use futures_util::FutureExt;
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    sync::broadcast::error::RecvError,
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
        subscription::State,
        time::UnixMicros,
    },
    event::webhook::WebhookClient,
    metrics::Metrics,
    store::{AcceptedEvent, PendingDelivery, QueueEvent, Store},
};
use attempt_task::{Ended, Means};
use fair_share::Places;
use probing::{Oldest, Probe};
use settings::DispatchSettings;
use suspension::Failing;
use throttle::{Pace, WaitLimits};

pub(super) mod attempt_task;
pub(super) mod fair_share;
mod probing;
mod pump;
pub mod settings;
pub mod suspension;
pub(super) mod throttle;

use pump::Reading;

/// Longest time between two looks at what is due, so that a step of the clock is noticed.
pub const DUE_POLL_MAX: Duration = Duration::from_secs(5);
/// What an event is taken to weigh before the first ones were seen, in bytes of memory: much.
const FIRST_WEIGHT: usize = 1 << 20;

/// Serves all lanes.
pub struct Dispatcher {
    means: Means,
    random: StdRng,
    /// Lanes with something to do.
    slots: HashMap<SubscriptionKey, Slot>,
    slots_made: u64,
    /// Lanes of subscriptions that are not delivered to, whose debts are in the store alone.
    parked: HashSet<SubscriptionKey>,
    /// Of lanes that do not go at full speed, or whose endpoint did not answer.
    paces: HashMap<SubscriptionKey, Pace>,
    places: Places,
    /// Subscriptions whose last attempt failed.
    failing: HashMap<SubscriptionKey, Failing>,
    /// Suspended subscriptions.
    probes: HashMap<SubscriptionKey, Probe>,
    /// Those with a probe under way: nothing else is sent meanwhile.
    probing: HashSet<SubscriptionKey>,
    /// Subscriptions whose state is being changed from here: nothing is sent meanwhile.
    changing: HashSet<SubscriptionKey>,
    changes: JoinSet<SubscriptionKey>,
    notes: JoinSet<()>,
    oldest: JoinSet<Oldest>,
    /// When lanes have something to try again. Entries may be out of date: they only say when to look.
    timers: BinaryHeap<Reverse<(UnixMicros, SubscriptionKey)>>,
    /// Ordered lanes that read no further: see [`Lane::is_out_of_order_keys`].
    out_of_order_keys: HashSet<SubscriptionKey>,
    /// What all windows take up, and what the reads under way may add.
    window_bytes: usize,
    reserved_bytes: usize,
    /// What an event weighed of late.
    typical_weight: usize,
    /// Changes of the registry that were looked at.
    changes_seen: u64,
    attempts: JoinSet<Ended>,
    reads: JoinSet<Reading>,
    /// Lanes that may want to read, and wait until fewer do; each once.
    readers: VecDeque<SubscriptionKey>,
    waiting_readers: HashSet<SubscriptionKey>,
}

/// A lane with something to do.
struct Slot {
    lane: Lane,
    /// Tells it from an earlier slot of the same lane, whose reads may still be under way.
    number: u64,
    /// What its window took up when it was looked at last.
    bytes: usize,
    /// The end of a wait that a timer was set to.
    armed: Option<UnixMicros>,
}

impl Dispatcher {
    /// A dispatcher of what `store` owes, by `webhook_client`. Jitter comes from `seed`.
    pub fn new(
        store: Arc<dyn Store>,
        webhook_client: WebhookClient,
        clock: Arc<dyn Clock>,
        settings: DispatchSettings,
        metrics: Arc<Metrics>,
        seed: u64,
    ) -> Self {
        Self {
            means: Means { store, webhook_client, clock, settings, metrics },
            random: StdRng::seed_from_u64(seed),
            slots: HashMap::new(),
            slots_made: 0,
            parked: HashSet::new(),
            paces: HashMap::new(),
            places: Places::new(settings.attempts_in_flight_max),
            failing: HashMap::new(),
            probes: HashMap::new(),
            probing: HashSet::new(),
            changing: HashSet::new(),
            changes: JoinSet::new(),
            notes: JoinSet::new(),
            oldest: JoinSet::new(),
            timers: BinaryHeap::new(),
            out_of_order_keys: HashSet::new(),
            window_bytes: 0,
            reserved_bytes: 0,
            typical_weight: FIRST_WEIGHT,
            changes_seen: 0,
            attempts: JoinSet::new(),
            reads: JoinSet::new(),
            readers: VecDeque::new(),
            waiting_readers: HashSet::new(),
        }
    }

    /// Sends until `shutdown`, then waits for the attempts under way. Dropping the future ends these at once; what they
    /// were about is still owed.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Listen before looking: what is accepted in between is then seen twice, and taken once.
        let mut feed = self.means.store.subscribe_accepted();
        let mut changes = self.means.store.registry().changes();
        self.changes_seen = self.means.store.registry().changed_since(0).0;
        self.look_at_everything();
        loop {
            self.serve();
            self.show();
            let due = self.next_look();
            tokio::select! {
                // Never by chance, so that a simulation can be repeated. What can be ready all the time comes last.
                biased;
                () = shutdown.cancelled() => break,
                changed = changes.changed() => match changed {
                    Ok(()) => self.registry_changed(),
                    Err(_) => break,
                },
                () = sleep_until(due) => self.look_at_timers(),
                Some(Ok(id)) = self.changes.join_next() => {
                    self.changing.remove(&id);
                    self.pump(id);
                }
                Some(_) = self.notes.join_next() => {}
                Some(Ok(oldest)) = self.oldest.join_next() => self.oldest_read(oldest),
                Some(Ok(ended)) = self.reads.join_next() => self.read_ended(ended),
                // A panic was caught within the attempt, and nobody cancels one: only the runtime's end is an error.
                Some(Ok(ended)) = self.attempts.join_next() => {
                    self.attempt_ended(&ended);
                    // In turns with the feed: neither keeps the other waiting.
                    if let Some(fed) = feed.recv().now_or_never()
                        && self.hear(fed).is_break()
                    {
                        break;
                    }
                }
                fed = feed.recv() => if self.hear(fed).is_break() {
                    break;
                },
            }
        }
        while self.attempts.join_next().await.is_some() {}
    }

    fn hear(&mut self, fed: Result<QueueEvent, RecvError>) -> ControlFlow<()> {
        match fed {
            Ok(QueueEvent::Events(events)) => self.accepted(&events),
            Ok(QueueEvent::Due(key, due)) => self.tell(key.subscription, |lane| lane.made_due(key.seq, due)),
            Ok(QueueEvent::Cancelled(key)) => self.tell(key.subscription, |lane| lane.cancelled(key.seq)),
            Ok(QueueEvent::Requeued(lane, from)) => self.tell(lane, |lane| lane.requeued(from)),
            Err(RecvError::Lagged(_)) => self.look_at_everything(),
            Err(RecvError::Closed) => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Every lane that owes something may have more in the store than is known here.
    fn look_at_everything(&mut self) {
        for id in self.means.store.registry().keys() {
            match self.slots.get_mut(&id) {
                Some(slot) => slot.lane.missed(),
                None => self.look_at(id),
            }
            if let Some(subscription) = self.means.store.registry().by_key(id) {
                self.look_at_state(&subscription);
            }
            self.pump(id);
        }
    }

    /// Begins to serve a lane of which nothing is known here, if it owes something.
    fn look_at(&mut self, id: SubscriptionKey) {
        let Some(subscription) = self.means.store.registry().by_key(id) else { return };
        let summary = self.means.store.queue_summary(id);
        if summary.owed() > 0 {
            self.add_slot(id, Lane::behind(subscription.settings.ordered, summary.next_due));
        }
    }

    fn accepted(&mut self, group: &[AcceptedEvent]) {
        for fed in group {
            self.note_weight(fed.event.memory_bytes());
            for &id in &fed.subscriptions {
                let limits = self.limits();
                if !self.slots.contains_key(&id) {
                    let Some(subscription) = self.means.store.registry().by_key(id) else { continue };
                    if subscription.state != State::Active {
                        self.parked.insert(id);
                        continue;
                    }
                    let ordered = subscription.settings.ordered;
                    let lane = if self.parked.remove(&id) {
                        // It was resumed a moment ago.
                        Lane::behind(ordered, Some(UnixMicros(0)))
                    } else {
                        Lane::up_to_date(ordered, Seq(fed.event.seq.0 - 1))
                    };
                    self.add_slot(id, lane);
                }
                let slot = self.slots.get_mut(&id).expect("it was just put there");
                slot.lane.offer(PendingDelivery { event: Arc::clone(&fed.event), attempts: 0 }, limits);
                self.pump(id);
            }
        }
    }

    /// Tells a lane what happened to its deliveries. One that is not known reads everything that is owed.
    fn tell(&mut self, id: SubscriptionKey, tell: impl FnOnce(&mut Lane)) {
        let Some(subscription) = self.means.store.registry().by_key(id) else { return };
        if !self.slots.contains_key(&id) {
            self.add_slot(id, Lane::behind(subscription.settings.ordered, Some(UnixMicros(0))));
        }
        tell(&mut self.slots.get_mut(&id).expect("it was just put there").lane);
        self.pump(id);
    }

    fn add_slot(&mut self, id: SubscriptionKey, lane: Lane) {
        self.slots_made += 1;
        self.slots.insert(id, Slot { lane, number: self.slots_made, bytes: 0, armed: None });
    }

    fn registry_changed(&mut self) {
        let (seen, changed) = self.means.store.registry().changed_since(self.changes_seen);
        self.changes_seen = seen;
        let known = || {
            let known =
                self.slots.keys().chain(&self.parked).chain(self.paces.keys()).chain(self.probes.keys());
            known.copied().collect::<BTreeSet<_>>().into_iter().collect()
        };
        for id in changed.unwrap_or_else(known) {
            self.subscription_changed(id);
        }
    }

    fn subscription_changed(&mut self, id: SubscriptionKey) {
        let Some(subscription) = self.means.store.registry().by_key(id) else { return self.forget(id) };
        self.look_at_state(&subscription);
        let resumed = subscription.state == State::Active && self.parked.remove(&id);
        if resumed && !self.slots.contains_key(&id) {
            self.look_at(id);
        }
        self.pump(id);
    }

    /// The subscription is gone.
    fn forget(&mut self, id: SubscriptionKey) {
        if self.slots.get(&id).is_none_or(|slot| slot.lane.in_flight() == 0) {
            self.drop_slot(id);
            self.set_pace(id, None);
        }
        self.parked.remove(&id);
        self.failing.remove(&id);
        self.probes.remove(&id);
        self.out_of_order_keys.remove(&id);
        self.places.forget(id);
    }

    fn drop_slot(&mut self, id: SubscriptionKey) {
        if let Some(slot) = self.slots.remove(&id) {
            self.window_bytes -= slot.bytes;
        }
    }

    fn attempt_ended(&mut self, Ended { key, due, attempt, is_probe }: &Ended) {
        let (id, now) = (key.subscription, self.means.clock.now());
        self.places.free(id, attempt.as_ref().map(|attempt| attempt.outcome == Outcome::Ok));
        if let (Some(attempt), Some(subscription)) = (attempt, self.means.store.registry().by_key(id)) {
            if !is_probe {
                let mut pace = self.paces.get(&id).copied().unwrap_or_default();
                let DispatchSettings { retry_after_max, pace_wait_max, .. } = self.means.settings;
                let waits = WaitLimits { asked_max: retry_after_max, unasked_max: pace_wait_max };
                pace.ended(attempt, now, self.max_in_flight(&subscription), waits);
                self.set_pace(id, Some(pace).filter(|pace| !pace.is_free(now)));
            }
            self.judge(&subscription, attempt, key.seq, *is_probe);
        }
        if *is_probe {
            self.probe_ended(id, now);
        } else if let Some(slot) = self.slots.get_mut(&id) {
            slot.lane.settled(key.seq, *due);
        }
        self.pump(id);
    }

    fn read_ended(&mut self, ended: Reading) {
        self.reserved_bytes -= ended.reserved;
        if let Some(page) = &ended.page {
            page.owed().for_each(|owed| self.note_weight(owed.event.memory_bytes()));
        }
        let (now, limits) = (self.means.clock.now(), self.limits());
        let slot = self.slots.get_mut(&ended.lane);
        if let Some(slot) = slot.filter(|slot| slot.number == ended.slot) {
            match ended.page {
                Some(page) => slot.lane.take_page(&ended.read, page, now, limits),
                None => slot.lane.read_failed(&ended.read),
            }
        }
        // Those who wait come before the lane that has just read.
        while self.reads.len() < self.means.settings.reads_in_flight_max
            && let Some(next) = self.readers.pop_front()
        {
            self.waiting_readers.remove(&next);
            self.pump(next);
        }
        self.pump(ended.lane);
    }

    /// Notes what an event weighs.
    fn note_weight(&mut self, memory_bytes: usize) {
        self.typical_weight = (self.typical_weight * 15 + memory_bytes) / 16;
    }

    /// When to look at the timers.
    fn next_look(&self) -> Instant {
        let wait = match self.timers.peek() {
            Some(Reverse((due, _))) => due.since(self.means.clock.now()).min(DUE_POLL_MAX),
            None => DUE_POLL_MAX,
        };
        Instant::now() + wait
    }

    fn look_at_timers(&mut self) {
        let now = self.means.clock.now();
        while let Some(&Reverse((due, id))) = self.timers.peek() {
            if due > now {
                return;
            }
            self.timers.pop();
            self.look_at_probe(id);
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.armed = None;
                slot.lane.rang();
                self.pump(id);
            } else if self.paces.get(&id).is_some_and(|pace| pace.is_free(now)) {
                self.set_pace(id, None);
            }
        }
    }

    fn set_timer(&mut self, time: UnixMicros, id: SubscriptionKey) {
        self.timers.push(Reverse((time, id)));
    }

    fn set_pace(&mut self, id: SubscriptionKey, pace: Option<Pace>) {
        let before = match pace {
            Some(pace) => self.paces.insert(id, pace),
            None => self.paces.remove(&id),
        };
        let slowed = |pace: Option<Pace>| i64::from(pace.is_some_and(|pace| pace.is_slowed()));
        self.means.metrics.lanes_slowed.add(slowed(pace) - slowed(before));
    }

    /// Shows how things are.
    fn show(&self) {
        let metrics = &self.means.metrics;
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.lanes_active.set(number(self.slots.len()));
        metrics.lanes_waiting.set(number(self.places.waiting()));
        metrics.lanes_waiting_to_read.set(number(self.readers.len()));
        metrics.lanes_out_of_order_keys.set(number(self.out_of_order_keys.len()));
        metrics.lane_windows_bytes.set(number(self.window_bytes));
    }
}

#[cfg(test)]
mod tests;
