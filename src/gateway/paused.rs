//! An optional bound on the age of what paused subscriptions are owed.

use std::{collections::HashSet, time::Duration};

use super::{Gateway, GatewayError};
use crate::{
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState},
        ids::{Seq, SubscriptionKey},
        subscription::State,
        time::UnixMicros,
    },
    store::{OrderFilter, OwedQuery, Settlement},
};

/// Deliveries that are read and ended together.
const ENDED_TOGETHER: usize = 64;

impl Gateway {
    /// Ends unfinished deliveries of paused subscriptions whose events are older than the settings allow: they
    /// fail with an attempt that says so.
    pub(super) async fn end_old_deliveries_of_paused(&self) -> Result<(), GatewayError> {
        let Some(age) = self.0.settings.paused_backlog_age else { return Ok(()) };
        let before = self.passed_since(age);
        let paused: Vec<SubscriptionKey> =
            self.0.store.registry().keys().into_iter().filter(|key| self.is_paused(*key)).collect();
        // The oldest first. Those that owe nothing so old are not read.
        let mut left: HashSet<SubscriptionKey> = paused.into_iter().collect();
        while !left.is_empty() {
            let keys: Vec<_> = left.iter().copied().collect();
            let oldest = self.read(move |store| store.oldest_owed(&keys)).await?;
            if oldest.is_none_or(|oldest| oldest >= before) {
                return Ok(());
            }
            for key in left.clone() {
                if !self.is_paused(key) || !self.end_deliveries(key, before).await? {
                    left.remove(&key);
                }
            }
        }
        Ok(())
    }

    /// Ends some deliveries of events from before `before`. Returns whether there may be more.
    async fn end_deliveries(&self, key: SubscriptionKey, before: UnixMicros) -> Result<bool, GatewayError> {
        if self.0.store.queue_summary(key).owed() == 0 {
            return Ok(false);
        }
        let query =
            OwedQuery { subscription: key, after: Seq(0), limit: ENDED_TOGETHER, order: OrderFilter::Any };
        let page = self.read(move |store| store.owed(&query)).await?;
        let old = page.debts.iter().map(|debt| &debt.owed).take_while(|owed| owed.event.create_time < before);
        let attempt = Attempt::of_expired_delivery(self.0.clock.now());
        let mut settlements = Vec::new();
        for owed in old {
            self.0.metrics.attempt_ended(&owed.event, &attempt, owed.attempts == 0);
            settlements.push(Settlement {
                key: DeliveryKey { seq: owed.event.seq, subscription: key },
                attempt: attempt.clone(),
                state: DeliveryState::Failed,
            });
        }
        let is_whole_page = settlements.len() == page.debts.len();
        if !settlements.is_empty() {
            self.0.store.settle(settlements).await?;
        }
        Ok(page.more && is_whole_page)
    }

    fn is_paused(&self, key: SubscriptionKey) -> bool {
        self.0.store.registry().by_key(key).is_some_and(|subscription| subscription.state == State::Paused)
    }

    /// The time of this age, of both clocks the earlier: after a step of the wall clock nothing ends early.
    pub(super) fn passed_since(&self, age: Duration) -> UnixMicros {
        let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        let now = self.0.clock.steady().min(self.0.clock.now());
        UnixMicros(now.0.saturating_sub(age))
    }
}
