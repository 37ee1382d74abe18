//! The steps of the dispatcher for one subscription, and the start of attempts.

use std::sync::Arc;

use foldhash::HashMap;
use rand::RngExt;

use super::{
    Dispatcher,
    attempt_task::{AttemptKind, AttemptTask},
    lane_read::LaneRead,
    settings::DispatchSettings,
    throttle::{FORGOTTEN_AFTER, Throttle},
};
use crate::{
    delivery::lane::{LaneLimits, ReadKind},
    domain::{
        ids::SubscriptionKey,
        rate_limit::RateUse,
        subscription::{State, Subscription},
        time::UnixMicros,
    },
    store::PendingDelivery,
};

impl Dispatcher {
    /// Makes all progress that a subscription can make now, except sending: for that it is put into the
    /// scheduler.
    pub(super) fn pump(&mut self, id: SubscriptionKey) {
        self.pump_lane(id);
        self.pump_requested(id);
    }

    fn pump_lane(&mut self, id: SubscriptionKey) {
        let is_blocked = self.is_blocked(id);
        let (now, limits) = (self.context.clock.steady(), self.limits());
        let throttle = self.throttles.get(&id).copied().unwrap_or_default();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(subscription) = self.context.store.registry().by_key(id) else { return self.forget(id) };
        let max = may_start(&subscription, throttle, &self.rests_of, &self.context.settings);
        let (limited, waits) = waits_until(&subscription, throttle, self.rates.get(&id), now);
        let lane = &mut slot.lane;
        if is_blocked {
            // The single attempt or the change of state ends in a moment.
            lane.unload();
            return self.measure_prefetch(id);
        }
        if lane.is_ordered() != subscription.settings.ordered {
            // The other kind starts once no attempt of this one is under way.
            lane.unload();
            if lane.in_flight() > 0 {
                return self.measure_prefetch(id);
            }
            lane.change_mode();
        }
        if subscription.state != State::Active {
            lane.unload();
            if lane.in_flight() == 0 {
                self.drop_slot(id);
                self.unloaded.insert(id);
                return;
            }
            return self.measure_prefetch(id);
        }
        if subscription.settings.rate_limit.is_some() || self.rates.contains_key(&id) {
            self.context.metrics.rate_limited.set(id, limited && lane.can_take(max));
        }
        match waits {
            Some(until) => {
                if slot.throttled_until != Some(until) {
                    slot.throttled_until = Some(until);
                    self.timers.set(until, id);
                }
                if self.prefetch_bytes > self.context.settings.delivery_memory_max {
                    // Other subscriptions can use the memory while this one waits.
                    lane.unload();
                    return self.measure_prefetch(id);
                }
            }
            None if lane.can_take(max) => {
                self.scheduler.enqueue(id, subscription.name.account);
            }
            None => {}
        }
        if self.reads.len() >= self.context.settings.reads_in_flight_max {
            self.readers.push(subscription.name.account, id);
        } else if let Some(read) = lane.next_read(now, limits) {
            if matches!(read.kind, ReadKind::Key(..)) {
                self.context.metrics.lane_order_key_reads.inc();
            }
            let reserved = read.limit * self.typical_event_bytes;
            self.reserved_bytes += reserved;
            let format = subscription.settings.payload_format;
            let read = LaneRead { subscription: id, slot: slot.number, read, format, reserved, page: None };
            self.reads.spawn(read.run(Arc::clone(&self.context.store), now));
        }
        if lane.is_out_of_order_keys(limits) {
            if self.out_of_order_keys.insert(id) {
                tracing::warn!(
                    subscription.name = %subscription.name, order_keys.max = limits.order_keys_max,
                    "ordered subscription reached lane_order_keys_max; reading paused",
                );
            }
        } else {
            self.out_of_order_keys.remove(&id);
        }
        if lane.is_idle() {
            self.drop_slot(id);
            if self.throttles.contains_key(&id) {
                self.timers.set(now.plus(FORGOTTEN_AFTER * 2), id);
            }
            if let Some(used) = self.rates.get(&id) {
                self.timers.set(used.ends(), id);
            }
            return;
        }
        if let Some(due) = lane.next_timer(now) {
            self.timers.set(due, id);
        }
        self.measure_prefetch(id);
    }

    /// Updates the memory of all prefetches with that of one subscription.
    fn measure_prefetch(&mut self, id: SubscriptionKey) {
        if let Some(slot) = self.slots.get_mut(&id) {
            let bytes = slot.lane.prefetch_bytes();
            self.prefetch_bytes = self.prefetch_bytes - slot.bytes + bytes;
            slot.bytes = bytes;
        }
    }

    /// Starts attempts in the scheduler's order, as long as it permits some.
    pub(super) fn start_attempts(&mut self) {
        while let Some(id) = self.scheduler.next() {
            let now = self.context.clock.steady();
            let throttle = self.throttles.get(&id).copied().unwrap_or_default();
            let Some(subscription) = self.context.store.registry().by_key(id) else { continue };
            let max = may_start(&subscription, throttle, &self.rests_of, &self.context.settings);
            if self.start_requested(&subscription) {
                // It waits for this attempt.
                self.probing.discard_candidate(id, &mut self.timers);
                continue;
            }
            let (is_busy, is_blocked) = (self.is_busy(id), self.is_blocked(id));
            if let Some(owed) = self.probing.take_probe(id, is_busy, &mut self.timers) {
                self.start_attempt(subscription, owed, AttemptKind::Probe);
                continue;
            }
            let (_, waits) = waits_until(&subscription, throttle, self.rates.get(&id), now);
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if subscription.state == State::Active
                && !is_blocked
                && slot.lane.is_ordered() == subscription.settings.ordered
                && waits.is_none()
                && let Some(owed) = slot.lane.take(max)
            {
                match subscription.settings.rate_limit {
                    Some(limit) => {
                        let used = limit.after_post(self.rates.get(&id).copied(), now);
                        self.rates.insert(id, used);
                    }
                    None => {
                        self.rates.remove(&id);
                    }
                }
                self.start_attempt(subscription, owed, AttemptKind::Lane);
            }
            self.pump(id);
        }
    }

    fn start_attempt(&mut self, subscription: Arc<Subscription>, owed: PendingDelivery, kind: AttemptKind) {
        self.scheduler.acquire(subscription.key, subscription.name.account);
        let seed = self.random.random();
        let context = self.context.clone();
        self.attempts.spawn(AttemptTask { context, subscription, seed, owed, kind }.run());
    }

    /// How much one lane may keep in memory now: less when all of them together use much, but at least one
    /// delivery.
    pub(super) fn limits(&self) -> LaneLimits {
        let settings = &self.context.settings;
        let used = self.prefetch_bytes + self.reserved_bytes;
        let free = settings.delivery_memory_max.saturating_sub(used);
        LaneLimits {
            prefetch: (free / self.typical_event_bytes.max(1)).clamp(1, settings.lane_window),
            order_keys_max: settings.lane_order_keys_max,
            order_key_window: settings.lane_order_key_window,
        }
    }

    pub(super) fn max_in_flight(&self, subscription: &Subscription) -> u16 {
        max_in_flight(subscription, self.context.settings.max_in_flight)
    }
}

/// How many attempts of a lane may be in flight, besides those whose response is still arriving.
fn may_start(
    subscription: &Subscription,
    throttle: Throttle,
    rests_of: &HashMap<SubscriptionKey, usize>,
    settings: &DispatchSettings,
) -> usize {
    let allowed = throttle.allows(max_in_flight(subscription, settings.max_in_flight));
    allowed.saturating_sub(rests_of.get(&subscription.key).copied().unwrap_or_default())
}

/// Whether a lane waits for its rate limit, and the time before which it starts no attempt, for whatever reason.
fn waits_until(
    subscription: &Subscription,
    throttle: Throttle,
    used: Option<&RateUse>,
    now: UnixMicros,
) -> (bool, Option<UnixMicros>) {
    let limited = subscription.settings.rate_limit.and_then(|limit| limit.waits_until(used.copied(), now));
    (limited.is_some(), limited.max(throttle.waits_until(now)))
}

fn max_in_flight(subscription: &Subscription, default: u16) -> u16 {
    subscription.settings.max_in_flight.unwrap_or(default)
}
