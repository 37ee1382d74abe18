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
use crate::{domain::ids::SubscriptionKey, store::Matches};

/// How long a caller is asked to wait while too much is owed. Deliveries must be made before there is room again.
const BACKLOG_FULL_RETRY_AFTER: Duration = Duration::from_secs(10);
/// Shortest time between two log lines about it.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// When it was last told that too much is owed.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicI64);

impl Gateway {
    /// Errors if events that so many want would make one subscription, or all together, be owed more than the settings allow. What is
    /// being stored at this moment is not counted: a bound may be passed by as much as is in flight.
    pub(super) fn check_backlog(&self, events: &[Matches]) -> Result<(), GatewayError> {
        let new = events.iter().map(|event| event.subscriptions.len() as u64).sum();
        if self.check_backlog_in_all(new)? {
            return Ok(());
        }
        let mut new_by_subscription: HashMap<SubscriptionKey, u64> = HashMap::new();
        for subscription in events.iter().flat_map(|event| &event.subscriptions) {
            *new_by_subscription.entry(*subscription).or_default() += 1;
        }
        new_by_subscription
            .into_iter()
            .try_for_each(|(subscription, new)| self.check_backlog_of_one(subscription, new))
    }

    /// Errors if so many more deliveries to one subscription would be too many.
    pub(super) fn check_backlog_of(
        &self,
        subscription: SubscriptionKey,
        new: u64,
    ) -> Result<(), GatewayError> {
        if self.check_backlog_in_all(new)? { Ok(()) } else { self.check_backlog_of_one(subscription, new) }
    }

    /// True if not even one subscription can be owed too much: none is owed more than all together, so in most gateways nobody is
    /// ever looked at.
    fn check_backlog_in_all(&self, new: u64) -> Result<bool, GatewayError> {
        let max = self.0.settings.backlog_max;
        let owed = self.0.store.owed_in_all();
        if new == 0 || owed + new <= max {
            return Ok(owed + new <= self.0.settings.backlog_per_subscription_max);
        }
        self.tell_backlog(owed, max);
        let limit = Limit { name: "backlog_max", max };
        Err(GatewayError::BacklogFull {
            subscription: None,
            owed,
            limit,
            retry_after: BACKLOG_FULL_RETRY_AFTER,
        })
    }

    fn check_backlog_of_one(&self, subscription: SubscriptionKey, new: u64) -> Result<(), GatewayError> {
        let max = self.0.settings.backlog_per_subscription_max;
        let owed = self.0.store.queue_summary(subscription).owed();
        let subscription = self.0.store.registry().by_key(subscription).filter(|_| owed + new > max);
        let Some(subscription) = subscription else { return Ok(()) };
        self.tell_backlog(owed, max);
        Err(GatewayError::BacklogFull {
            subscription: Some(subscription.name.clone()),
            owed,
            limit: Limit { name: "backlog_per_subscription_max", max },
            retry_after: BACKLOG_FULL_RETRY_AFTER,
        })
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
            let subscriptions = store.registry().keys().into_iter();
            let most = subscriptions
                .map(|subscription| (store.queue_summary(subscription).owed(), subscription))
                .max();
            let most =
                most.and_then(|(owed, subscription)| Some((owed, store.registry().by_key(subscription)?)));
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
