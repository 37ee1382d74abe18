//! How much may be owed. Past it an event is refused as a whole: it is not stored for some subscriptions and dropped for
//! others, and whoever publishes is told whose debt it is.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use super::{Gateway, GatewayError, Limit};
use crate::{domain::ids::LaneId, store::NewEvent};

/// How long a caller is asked to wait while too much is owed. Deliveries must be made before there is room again.
const BACKLOG_FULL_RETRY_AFTER: Duration = Duration::from_secs(10);
/// Shortest time between two log lines about it.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// When it was last told that too much is owed.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicI64);

impl Gateway {
    /// Errors if these events would make one subscription, or all together, be owed more than the settings allow. What is
    /// being stored at this moment is not counted: a bound may be passed by as much as is in flight.
    pub(super) fn check_backlog(&self, events: &[NewEvent]) -> Result<(), GatewayError> {
        let settings = &self.0.settings;
        let (max, each_max) = (settings.backlog_max, settings.backlog_per_subscription_max);
        let new: u64 = events.iter().map(|event| event.lanes.len() as u64).sum();
        let owed = self.0.store.owed_in_all();
        if new > 0 && owed + new > max {
            self.tell_backlog(owed, max);
            let limit = Limit { name: "backlog_max", max };
            return Err(GatewayError::BacklogFull {
                subscription: None,
                owed,
                limit,
                retry_after: BACKLOG_FULL_RETRY_AFTER,
            });
        }
        if owed + new <= each_max {
            // Nobody can be owed more than all together, so in most gateways nobody is ever looked at.
            return Ok(());
        }
        let mut new_by_lane: HashMap<LaneId, u64> = HashMap::new();
        for lane in events.iter().flat_map(|event| &event.lanes) {
            *new_by_lane.entry(*lane).or_default() += 1;
        }
        for (lane, new) in new_by_lane {
            let owed = self.0.store.lane_summary(lane).owed();
            if owed + new > each_max
                && let Some(subscription) = self.0.store.registry().by_lane(lane)
            {
                self.tell_backlog(owed, each_max);
                return Err(GatewayError::BacklogFull {
                    subscription: Some(subscription.name.clone()),
                    owed,
                    limit: Limit { name: "backlog_per_subscription_max", max: each_max },
                    retry_after: BACKLOG_FULL_RETRY_AFTER,
                });
            }
        }
        Ok(())
    }

    /// Logs from time to time that events are refused, and which subscription is owed the most.
    fn tell_backlog(&self, owed: u64, max: u64) {
        let (told, now) = (&self.0.backlog_told.0, self.0.clock.now());
        let interval = i64::try_from(TELL_INTERVAL.as_micros()).expect("it is short");
        let last = told.load(Ordering::Relaxed);
        let is_time = last == 0 || !(last..last + interval).contains(&now.0);
        if !is_time || told.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let store = Arc::clone(&self.0.store);
        // Looks at every subscription, and nobody waits for it.
        tokio::task::spawn_blocking(move || {
            let lanes = store.registry().lanes().into_iter();
            let most = lanes.map(|lane| (store.lane_summary(lane).owed(), lane)).max();
            let most = most.and_then(|(owed, lane)| Some((owed, store.registry().by_lane(lane)?)));
            if let Some((most, subscription)) = most {
                tracing::warn!(
                    deliveries.owed = owed, deliveries.max = max,
                    subscription.name = %subscription.name, subscription.owed = most,
                    "events are refused, since too much is owed; this subscription is owed the most",
                );
            }
        });
    }
}
