//! Limits on unfinished deliveries. Past a limit an event is refused as a whole, not stored for some
//! subscriptions only. The error names the subscription that is at its limit.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::{Gateway, GatewayError, Limit};
use crate::{domain::ids::SubscriptionKey, store::Matches};

/// Retry delay that the error recommends. Deliveries must succeed before there is capacity again.
const BACKLOG_FULL_RETRY_AFTER: Duration = Duration::from_secs(10);

impl Gateway {
    /// Fails if the deliveries of these events would exceed the limit of a subscription or of all together.
    ///
    /// Events that are being stored at this moment are not counted: a limit may be exceeded by the events in
    /// flight.
    pub(super) fn check_backlog(&self, events: &[Matches]) -> Result<(), GatewayError> {
        let new = events.iter().map(|event| event.subscriptions.len() as u64).sum();
        if self.check_total_backlog(new)? {
            return Ok(());
        }
        let mut new_by_key: HashMap<SubscriptionKey, u64> = HashMap::new();
        for key in events.iter().flat_map(|event| &event.subscriptions) {
            *new_by_key.entry(*key).or_default() += 1;
        }
        new_by_key.into_iter().try_for_each(|(key, new)| self.check_subscription_backlog(key, new))
    }

    /// Fails if `new` more deliveries to one subscription would exceed a limit.
    pub(super) fn check_backlog_of(&self, key: SubscriptionKey, new: u64) -> Result<(), GatewayError> {
        if self.check_total_backlog(new)? { Ok(()) } else { self.check_subscription_backlog(key, new) }
    }

    /// Checks the limit of all deliveries together. Returns true if no subscription can be at its own limit,
    /// because the total is below it: most gateways never look at single subscriptions.
    fn check_total_backlog(&self, new: u64) -> Result<bool, GatewayError> {
        let max = self.0.settings.backlog_max;
        let owed = self.0.store.owed_in_all();
        if new == 0 || owed + new <= max {
            return Ok(owed + new <= self.0.settings.backlog_per_subscription_max);
        }
        self.log_backlog(owed, max);
        let limit = Limit { name: "backlog_max", max };
        Err(GatewayError::BacklogFull {
            subscription: None,
            owed,
            limit,
            retry_after: BACKLOG_FULL_RETRY_AFTER,
        })
    }

    fn check_subscription_backlog(&self, key: SubscriptionKey, new: u64) -> Result<(), GatewayError> {
        let max = self.0.settings.backlog_per_subscription_max;
        let owed = self.0.store.queue_summary(key).owed();
        let subscription = self.0.store.registry().by_key(key).filter(|_| owed + new > max);
        let Some(subscription) = subscription else { return Ok(()) };
        self.log_backlog(owed, max);
        Err(GatewayError::BacklogFull {
            subscription: Some(subscription.name.clone()),
            owed,
            limit: Limit { name: "backlog_per_subscription_max", max },
            retry_after: BACKLOG_FULL_RETRY_AFTER,
        })
    }

    /// Logs at intervals that events are refused, and the subscription with the most unfinished deliveries.
    fn log_backlog(&self, owed: u64, max: u64) {
        let Some(calls) = self.0.backlog_log.record() else { return };
        let store = Arc::clone(&self.0.store);
        // Looks at every subscription: not on the thread of the call.
        tokio::task::spawn_blocking(move || {
            let keys = store.registry().keys().into_iter();
            let most = keys.map(|key| (store.queue_summary(key).owed(), key)).max();
            let most = most.and_then(|(owed, key)| Some((owed, store.registry().by_key(key)?)));
            if let Some((most, subscription)) = most {
                tracing::warn!(
                    calls, deliveries.owed = owed, deliveries.max = max,
                    subscription.name = %subscription.name, subscription.owed = most,
                    "refused to store events: too many unfinished deliveries; this subscription has the most",
                );
            }
        });
    }
}
