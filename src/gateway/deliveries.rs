//! Use cases of deliveries: get, list, summarize, retry, cancel.

use std::sync::Arc;

use super::{Gateway, GatewayError, Resource};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{
            AccountId, AccountScope, DeliveryName, EventId, SubscriptionId, SubscriptionKey, SubscriptionName,
        },
        subscription::Subscription,
        time::UnixMicros,
    },
    store::{DeliveryQuery, DeliveryRecord, OperatorAction, Page, QueueSummary, StoreError, TimeRange},
};

/// Selects deliveries. Those of the latest events come first.
#[derive(Clone, Debug)]
pub struct ListDeliveries {
    /// Of this account.
    pub account: AccountId,
    /// Of this subscription; `None` means all of the account.
    pub subscription: Option<SubscriptionId>,
    /// Only deliveries in these states, whatever the time of a retry; empty means all.
    pub states: Vec<DeliveryState>,
    /// Of this event.
    pub event: Option<EventId>,
    /// Of events stored within this time.
    pub time: TimeRange,
    /// Only those after this one.
    pub after: Option<DeliveryKey>,
    /// Most deliveries in the page.
    pub limit: usize,
}

/// Deliveries by state.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Deliveries in each state.
    pub counts: QueueSummary,
    /// When the oldest event with an unfinished delivery was stored.
    pub oldest_owed: Option<UnixMicros>,
}

impl Gateway {
    /// Reads one delivery with its attempts, and its subscription.
    pub async fn get_delivery(
        &self,
        name: &DeliveryName,
    ) -> Result<(Arc<Subscription>, DeliveryRecord), GatewayError> {
        let missing = || GatewayError::NotFound(Resource::Delivery(name.clone()));
        let subscription = self.0.store.registry().by_name(&name.subscription).ok_or_else(missing)?;
        let (account, event, key) = (name.subscription.account, name.event.clone(), subscription.key);
        let delivery = self
            .read(move |store| match store.event(account, &event)? {
                Some(event) => store.delivery(DeliveryKey { seq: event.seq, subscription: key }),
                None => Ok(None),
            })
            .await?;
        Ok((subscription, delivery.ok_or_else(missing)?))
    }

    /// Schedules an attempt now. Possible in every state but succeeded.
    pub async fn retry_delivery(
        &self,
        name: &DeliveryName,
    ) -> Result<(Arc<Subscription>, DeliveryRecord), GatewayError> {
        self.override_delivery(name, OperatorAction::Retry).await
    }

    /// Stops further attempts. An attempt under way finishes and is recorded. Safe to repeat.
    pub async fn cancel_delivery(
        &self,
        name: &DeliveryName,
    ) -> Result<(Arc<Subscription>, DeliveryRecord), GatewayError> {
        self.override_delivery(name, OperatorAction::Cancel).await
    }

    /// Counts deliveries by state.
    pub async fn summarize_deliveries(
        &self,
        scope: AccountScope,
        subscription: Option<SubscriptionId>,
    ) -> Result<Summary, GatewayError> {
        let subscriptions = match (scope, subscription) {
            (AccountScope::One(account), Some(id)) => {
                vec![self.get_subscription(&SubscriptionName { account, id })?.key]
            }
            (scope, _) => self.subscriptions(scope),
        };
        self.read(move |store| {
            let mut counts = QueueSummary::default();
            for &subscription in &subscriptions {
                counts.add_all(store.queue_summary(subscription));
            }
            Ok(Summary { counts, oldest_owed: store.oldest_owed(&subscriptions) })
        })
        .await
    }

    async fn override_delivery(
        &self,
        name: &DeliveryName,
        action: OperatorAction,
    ) -> Result<(Arc<Subscription>, DeliveryRecord), GatewayError> {
        let (_, delivery) = self.get_delivery(name).await?;
        self.0.store.override_delivery(delivery.key, action).await.map_err(|error| match error {
            StoreError::DeliveryNotFound => GatewayError::NotFound(Resource::Delivery(name.clone())),
            StoreError::DeliveryOver(state) => GatewayError::DeliveryOver { name: name.clone(), state },
            other => other.into(),
        })?;
        self.get_delivery(name).await
    }

    fn subscriptions(&self, scope: AccountScope) -> Vec<SubscriptionKey> {
        let mut subscriptions = Vec::new();
        self.0.store.registry().walk(scope, None, |subscription| {
            subscriptions.push(subscription.key);
            true
        });
        subscriptions
    }

    /// Lists deliveries with their subscriptions.
    pub async fn list_deliveries(
        &self,
        list: ListDeliveries,
    ) -> Result<Page<(Arc<Subscription>, DeliveryRecord), DeliveryKey>, GatewayError> {
        let registry = self.0.store.registry();
        let subscriptions = match list.subscription {
            Some(id) => vec![self.get_subscription(&SubscriptionName { account: list.account, id })?.key],
            None => self.subscriptions(AccountScope::One(list.account)),
        };
        if subscriptions.is_empty() {
            return Ok(Page { rows: Vec::new(), next: None });
        }
        let query = DeliveryQuery {
            subscriptions,
            states: list.states,
            event: list.event.map(|id| (list.account, id)),
            time: list.time,
            after: list.after,
            limit: list.limit,
        };
        let page = self.read(move |store| store.deliveries(&query)).await?;
        // A subscription may have been deleted since, with its deliveries.
        let rows =
            page.rows.into_iter().filter_map(|row| Some((registry.by_key(row.key.subscription)?, row)));
        Ok(Page { rows: rows.collect(), next: page.next })
    }
}
