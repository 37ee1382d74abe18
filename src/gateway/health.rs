//! How deliveries fare: counts over time, the latest results of a subscription, and the accounts that there
//! are.

use std::collections::BTreeSet;

use super::{Gateway, GatewayError};
use crate::{
    domain::{
        access::Accounts,
        delivery::DeliveryKey,
        ids::{AccountId, AccountScope, SubscriptionId, SubscriptionName},
        subscription::{State, Subscription},
        time::UnixMicros,
    },
    event::exchange::Exchange,
    metrics::{LatestResults, StatsPeriod, StatsReport},
};

/// How one subscription fares.
#[derive(Clone, Debug)]
pub struct SubscriptionHealth {
    /// Deliveries that are pending or retrying.
    pub owed: u64,
    /// The latest results of its attempts.
    pub latest: LatestResults,
    /// Whether deliveries wait for its rate limit.
    pub rate_limited: bool,
}

impl Gateway {
    /// How a subscription fares now.
    pub fn health(&self, subscription: &Subscription) -> SubscriptionHealth {
        let latest =
            self.0.metrics.delivery_stats.latest(subscription.key).unwrap_or_else(|| LatestResults {
                // No attempt since the start: the streak of failures that the subscription itself remembers.
                failing_since: subscription.health.failing_since,
                ..LatestResults::default()
            });
        SubscriptionHealth {
            owed: self.0.store.queue_summary(subscription.key).owed(),
            latest,
            rate_limited: self.0.metrics.rate_limited.waits(subscription.key),
        }
    }

    /// When the oldest event was stored that has an unfinished delivery to it. Reads the disk.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn oldest_owed(&self, subscription: &Subscription) -> Result<Option<UnixMicros>, GatewayError> {
        let key = subscription.key;
        if self.0.store.queue_summary(key).owed() == 0 {
            return Ok(None);
        }
        self.read(move |store| store.oldest_owed(&[key])).await
    }

    /// Whether it is suspended, or its latest attempt failed.
    pub(super) fn is_failing(&self, subscription: &Subscription) -> bool {
        let failing = self.0.metrics.delivery_stats.is_failing(subscription.key);
        subscription.state == State::Suspended
            || failing.unwrap_or_else(|| subscription.health.failing_since.is_some())
    }

    /// The wire's side of an attempt; `None` if it is no longer kept.
    pub fn exchange(&self, delivery: DeliveryKey, start_time: UnixMicros) -> Option<Exchange> {
        self.0.metrics.delivery_stats.exchange(delivery, start_time)
    }

    /// Attempts over time, of one subscription or of all of these accounts, and when counting began.
    ///
    /// # Errors
    ///
    /// There is no such subscription.
    pub fn delivery_stats(
        &self,
        scope: AccountScope,
        subscription: Option<SubscriptionId>,
        period: StatsPeriod,
    ) -> Result<(StatsReport, UnixMicros), GatewayError> {
        let subscriptions = match (scope, subscription) {
            (AccountScope::One(account), Some(id)) => {
                vec![self.get_subscription(&SubscriptionName { account, id })?.key]
            }
            (scope, _) => self.subscriptions(scope),
        };
        let stats = &self.0.metrics.delivery_stats;
        Ok((stats.report(subscriptions, period, self.0.clock.now()), stats.since()))
    }

    /// The accounts that have subscriptions or events, of those that the caller may name.
    ///
    /// # Errors
    ///
    /// The store's.
    pub async fn list_accounts(&self, granted: &Accounts) -> Result<BTreeSet<AccountId>, GatewayError> {
        let mut accounts = self.read(|store| Ok(store.accounts())).await?;
        self.0.store.registry().walk(AccountScope::All, None, |subscription| {
            accounts.insert(subscription.name.account);
            true
        });
        accounts.retain(|account| granted.cover(AccountScope::One(*account)));
        Ok(accounts)
    }
}
