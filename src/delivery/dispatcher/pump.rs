//! The dispatcher's hands: what is done for one lane at a time, and how places are given.

use std::{cmp::Reverse, panic::AssertUnwindSafe, sync::Arc};

use rand::RngExt;

use super::{
    Dispatcher,
    settings::{DispatchSettings, STORE_RETRY_WAIT},
};
use crate::{
    delivery::{
        dispatcher::{attempt_task::Sending, throttle::FORGOTTEN_AFTER},
        lane::{LaneLimits, Read, ReadKind, ReadPage},
    },
    domain::{
        ids::SubscriptionKey,
        payload_format::PayloadFormat,
        subscription::{State, Subscription},
        time::UnixMicros,
    },
    store::{self, PendingDelivery, Store, StoreError},
};

/// A read of the store for a lane. Once it is over, it failed if there is no page.
pub(super) struct Reading {
    pub(super) lane: SubscriptionKey,
    pub(super) slot: u64,
    pub(super) read: Read,
    /// In which form the lane sends what is read.
    pub(super) format: PayloadFormat,
    pub(super) reserved: usize,
    pub(super) page: Option<ReadPage>,
}

impl Dispatcher {
    /// Does for a lane whatever can be done now, but for sending: it is put among those who want a place.
    pub(super) fn pump(&mut self, id: SubscriptionKey) {
        let (now, limits) = (self.means.clock.now(), self.limits());
        let pace = self.paces.get(&id).copied().unwrap_or_default();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some(subscription) = self.means.store.registry().by_key(id) else { return self.forget(id) };
        let lane = &mut slot.lane;
        if self.probing.contains(&id) || self.changing.contains(&id) {
            // What follows is known in a moment.
            lane.park();
            return self.weigh(id);
        }
        if lane.is_ordered() != subscription.settings.ordered {
            // The other kind begins once nothing of this one is under way.
            lane.park();
            if lane.in_flight() > 0 {
                return self.weigh(id);
            }
            lane.switch();
        }
        if subscription.state != State::Active {
            lane.park();
            if lane.in_flight() == 0 {
                self.drop_slot(id);
                self.parked.insert(id);
                return;
            }
            return self.weigh(id);
        }
        match pace.waits_until(now) {
            Some(until) => {
                if slot.armed != Some(until) {
                    slot.armed = Some(until);
                    self.timers.push(Reverse((until, id)));
                }
                if self.window_bytes > self.means.settings.lane_windows_bytes_max {
                    // Others could use the room while this one waits.
                    lane.park();
                    return self.weigh(id);
                }
            }
            None if lane.can_take(pace.allows(max_in_flight(&subscription, &self.means.settings))) => {
                self.places.want(id);
            }
            None => {}
        }
        if self.reads.len() >= self.means.settings.reads_in_flight_max {
            if self.waiting_readers.insert(id) {
                self.readers.push_back(id);
            }
        } else if let Some(read) = lane.next_read(now, limits) {
            if matches!(read.kind, ReadKind::Tag(..)) {
                self.means.metrics.lane_order_key_reads.inc();
            }
            let reserved = read.limit * self.typical_weight;
            self.reserved_bytes += reserved;
            let format = subscription.settings.payload_format;
            let reading = Reading { lane: id, slot: slot.number, read, format, reserved, page: None };
            self.reads.spawn(reading.run(Arc::clone(&self.means.store), now));
        }
        if lane.is_out_of_order_keys(limits) {
            if self.out_of_order_keys.insert(id) {
                tracing::warn!(
                    subscription.name = %subscription.name, order_keys.max = limits.order_keys_max,
                    "an ordered subscription has as many conversations waiting as it may keep apart; it reads no further",
                );
            }
        } else {
            self.out_of_order_keys.remove(&id);
        }
        if lane.is_idle() {
            self.drop_slot(id);
            if self.paces.contains_key(&id) {
                self.timers.push(Reverse((now.plus(FORGOTTEN_AFTER * 2), id)));
            }
            return;
        }
        if let Some(due) = lane.arm(now) {
            self.timers.push(Reverse((due, id)));
        }
        self.weigh(id);
    }

    /// Notes what the window of a lane takes up now.
    fn weigh(&mut self, id: SubscriptionKey) {
        if let Some(slot) = self.slots.get_mut(&id) {
            let bytes = slot.lane.window_bytes();
            self.window_bytes = self.window_bytes - slot.bytes + bytes;
            slot.bytes = bytes;
        }
    }

    /// Gives places to who wants them, in their turn.
    pub(super) fn serve(&mut self) {
        while let Some(id) = self.places.next() {
            let now = self.means.clock.now();
            let pace = self.paces.get(&id).copied().unwrap_or_default();
            let Some(subscription) = self.means.store.registry().by_key(id) else { continue };
            let max = pace.allows(self.max_in_flight(&subscription));
            if let Some(owed) = self.take_probe(id) {
                self.send(subscription, owed, true);
                continue;
            }
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            if subscription.state == State::Active
                && !self.probing.contains(&id)
                && !self.changing.contains(&id)
                && slot.lane.is_ordered() == subscription.settings.ordered
                && pace.waits_until(now).is_none()
                && let Some(owed) = slot.lane.take(max)
            {
                self.send(subscription, owed, false);
            }
            self.pump(id);
        }
    }

    fn send(&mut self, subscription: Arc<Subscription>, owed: PendingDelivery, is_probe: bool) {
        self.places.take(subscription.key);
        let seed = self.random.random();
        self.attempts.spawn(Sending { means: self.means.clone(), subscription, seed, owed, is_probe }.run());
    }

    /// How much a lane may hold now: less when all of them together hold much, and one delivery at least.
    pub(super) fn limits(&self) -> LaneLimits {
        let settings = &self.means.settings;
        let free = settings.lane_windows_bytes_max.saturating_sub(self.window_bytes + self.reserved_bytes);
        LaneLimits {
            window: (free / self.typical_weight.max(1)).clamp(1, settings.lane_window),
            order_keys_max: settings.lane_order_keys_max,
            order_key_window: settings.lane_order_key_window,
        }
    }

    pub(super) fn max_in_flight(&self, subscription: &Subscription) -> u16 {
        max_in_flight(subscription, &self.means.settings)
    }
}

impl Reading {
    /// Reads and renders, and is over with that.
    async fn run(mut self, store: Arc<dyn Store>, now: UnixMicros) -> Self {
        let (read, lane, format) = (self.read.clone(), self.lane, self.format);
        let read_and_render = move |store: &dyn Store| {
            let page = read.run(store, lane, now)?;
            page.owed().for_each(|owed| render(owed, format));
            Ok::<_, StoreError>(page)
        };
        self.page = match store::read_blocking(&store, read_and_render).await {
            Ok(Ok(page)) => Some(page),
            Ok(Err(error)) => {
                tracing::error!(lane = lane.0, %error, "cannot read what is owed; trying again");
                tokio::time::sleep(STORE_RETRY_WAIT).await;
                None
            }
            // The runtime is ending.
            Err(_) => None,
        };
        self
    }
}

/// Renders what is about to be sent, so that its attempt need not decode it. If that panics, so does the attempt: it costs that one
/// and not the whole read.
fn render(owed: &PendingDelivery, format: PayloadFormat) {
    drop(std::panic::catch_unwind(AssertUnwindSafe(|| owed.event.body(format))));
}

fn max_in_flight(subscription: &Subscription, settings: &DispatchSettings) -> u16 {
    subscription.settings.max_in_flight.unwrap_or(settings.max_in_flight)
}
