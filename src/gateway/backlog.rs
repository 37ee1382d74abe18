//! Limits on unfinished deliveries, in number and in bytes, and the shares of accounts in them. Past a limit an
//! event is refused as a whole, not stored for some subscriptions only. The error names the account or the
//! subscription that is at its limit, and concerns nobody else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{Gateway, GatewayError, Limit, error::Debtor};
use crate::{
    domain::{
        ids::{AccountId, AccountScope, SubscriptionKey},
        shared_limit::SharedLimit,
        subscription::Subscription,
    },
    store::{self, Matches, OWED_DELIVERY_BYTES, OWED_EVENT_BYTES, Owed},
};

/// Retry delay that the errors recommend. Deliveries must succeed before there is capacity again.
const BACKLOG_FULL_RETRY_AFTER: Duration = Duration::from_secs(10);
impl Gateway {
    /// Fails if the deliveries of these events, each with its account and the length of its encoding, would exceed
    /// the limit of a subscription or the share of an account.
    ///
    /// Events that are being stored at this moment are not counted: a limit may be exceeded by the events in
    /// flight.
    pub(super) fn check_backlog(
        &self,
        events: &[(AccountId, usize)],
        matching: &[Matches],
    ) -> Result<(), GatewayError> {
        let mut new_by_account: BTreeMap<AccountId, Owed> = BTreeMap::new();
        for ((account, len), event) in events.iter().zip(matching) {
            let deliveries = event.subscriptions.len() as u64;
            if deliveries > 0 {
                let new = new_by_account.entry(*account).or_default();
                new.deliveries += deliveries;
                new.bytes += *len as u64 + OWED_EVENT_BYTES + deliveries * OWED_DELIVERY_BYTES;
            }
        }
        for (account, new) in &new_by_account {
            self.check_account_backlog(*account, *new)?;
        }
        let new = new_by_account.values().map(|new| new.deliveries).sum();
        if self.has_no_full_subscription(new) {
            return Ok(());
        }
        let mut new_by_key: HashMap<SubscriptionKey, u64> = HashMap::new();
        for key in matching.iter().flat_map(|event| &event.subscriptions) {
            *new_by_key.entry(*key).or_default() += 1;
        }
        new_by_key.into_iter().try_for_each(|(key, new)| self.check_subscription_backlog(key, new))
    }

    /// Fails if `new` more deliveries of stored events to one subscription would exceed a limit.
    pub(super) fn check_backlog_of(&self, subscription: &Subscription, new: u64) -> Result<(), GatewayError> {
        let owed = Owed { deliveries: new, bytes: new * OWED_DELIVERY_BYTES };
        self.check_account_backlog(subscription.name.account, owed)?;
        if self.has_no_full_subscription(new) {
            return Ok(());
        }
        self.check_subscription_backlog(subscription.key, new)
    }

    /// Whether no subscription can be at its limit, because all together are below it: most gateways never look at
    /// single subscriptions.
    fn has_no_full_subscription(&self, new: u64) -> bool {
        self.0.store.owed_in_all().deliveries + new <= self.0.settings.backlog_per_subscription_max
    }

    /// Fails if the account would have more than its share of deliveries or bytes.
    fn check_account_backlog(&self, account: AccountId, new: Owed) -> Result<(), GatewayError> {
        let settings = &self.0.settings;
        let in_all = self.0.store.owed_in_all();
        let deliveries = SharedLimit { max: settings.backlog_max, own_max: settings.backlog_per_account_max };
        let bytes_max = settings.retention_bytes_max;
        let bytes = SharedLimit { max: bytes_max, own_max: bytes_max / 2 };
        let has_room =
            deliveries.has_room(in_all.deliveries, new.deliveries) && bytes.has_room(in_all.bytes, new.bytes);
        if new.deliveries == 0 || has_room {
            return Ok(());
        }
        let owed = self.0.store.owed_by(account);
        let share = deliveries.share(in_all.deliveries, new.deliveries);
        if owed.deliveries + new.deliveries > share {
            self.log_backlog(AccountScope::One(account), owed, share);
            let limit = if share == deliveries.own_max {
                Limit { name: "backlog_per_account_max", max: share }
            } else {
                Limit { name: "backlog_max", max: deliveries.max }
            };
            return Err(GatewayError::BacklogFull {
                debtor: Debtor::Account { account, share },
                owed: owed.deliveries,
                limit,
                retry_after: BACKLOG_FULL_RETRY_AFTER,
            });
        }
        let share = bytes.share(in_all.bytes, new.bytes);
        if owed.bytes + new.bytes > share {
            self.log_backlog(AccountScope::One(account), owed, share);
            return Err(GatewayError::StoreFull {
                account,
                owed_bytes: owed.bytes,
                share,
                limit: Limit { name: "retention_bytes_max", max: bytes_max },
                retry_after: BACKLOG_FULL_RETRY_AFTER,
            });
        }
        Ok(())
    }

    fn check_subscription_backlog(&self, key: SubscriptionKey, new: u64) -> Result<(), GatewayError> {
        let max = self.0.settings.backlog_per_subscription_max;
        let owed = self.0.store.queue_summary(key).owed();
        let subscription = self.0.store.registry().by_key(key).filter(|_| owed + new > max);
        let Some(subscription) = subscription else { return Ok(()) };
        let account = subscription.name.account;
        self.log_backlog(AccountScope::One(account), Owed { deliveries: owed, bytes: 0 }, max);
        Err(GatewayError::BacklogFull {
            debtor: Debtor::Subscription(subscription.name.clone()),
            owed,
            limit: Limit { name: "backlog_per_subscription_max", max },
            retry_after: BACKLOG_FULL_RETRY_AFTER,
        })
    }

    /// Logs at intervals that events are refused, and the subscription of the account with the most unfinished
    /// deliveries.
    fn log_backlog(&self, scope: AccountScope, owed: Owed, max: u64) {
        let Some(calls) = self.0.backlog_log.record() else { return };
        let store = Arc::clone(&self.0.store);
        // Looks at every subscription of the account: not on the thread of the call.
        tokio::spawn(async move {
            let most = store::read_blocking(&store, move |store| {
                let mut most: Option<(u64, Arc<Subscription>)> = None;
                store.registry().walk(scope, None, |subscription| {
                    let owed = store.queue_summary(subscription.key).owed();
                    if most.as_ref().is_none_or(|(most, _)| owed > *most) {
                        most = Some((owed, Arc::clone(subscription)));
                    }
                    true
                });
                most
            });
            // Without an answer the runtime is ending.
            if let Ok(Some((most, subscription))) = most.await {
                tracing::warn!(
                    calls, deliveries.owed = owed.deliveries, bytes.owed = owed.bytes, share = max,
                    subscription.name = %subscription.name, subscription.owed = most,
                    "refused to store events: too many unfinished deliveries; this subscription of the account has \
                     the most",
                );
            }
        });
    }
}
