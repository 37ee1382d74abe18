//! The use cases about deliveries.

use std::sync::Arc;

use super::{Gateway, GatewayError, Resource};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountId, AccountScope, DeliveryName, EventId, SubscriptionId, SubscriptionName},
        subscription::Subscription,
    },
    store::{DeliveryQuery, DeliveryRecord, Page, TimeRange},
};

/// Which deliveries, those of the latest events first.
#[derive(Clone, Debug)]
pub struct ListDeliveries {
    /// Of this account.
    pub account: AccountId,
    /// Of this subscription; `None` means all of the account.
    pub subscription: Option<SubscriptionId>,
    /// In these states (the time of a retry does not matter); empty means all.
    pub states: Vec<DeliveryState>,
    /// Of this event.
    pub event: Option<EventId>,
    /// Of events stored within this time.
    pub time: TimeRange,
    /// Only those after this one.
    pub after: Option<DeliveryKey>,
    /// At most so many.
    pub limit: usize,
}

impl Gateway {
    /// Reads one delivery with its attempts, and the subscription that it belongs to.
    pub async fn get_delivery(
        &self,
        name: &DeliveryName,
    ) -> Result<(Arc<Subscription>, DeliveryRecord), GatewayError> {
        let missing = || GatewayError::NotFound(Resource::Delivery(name.clone()));
        let subscription = self.0.store.registry().by_name(&name.subscription).ok_or_else(missing)?;
        let (account, event, lane) = (name.subscription.account, name.event.clone(), subscription.lane);
        let delivery = self
            .read(move |store| match store.event(account, &event)? {
                Some(event) => store.delivery(DeliveryKey { seq: event.seq, lane }),
                None => Ok(None),
            })
            .await?;
        Ok((subscription, delivery.ok_or_else(missing)?))
    }

    /// Lists deliveries with the subscriptions that they belong to.
    pub async fn list_deliveries(
        &self,
        list: ListDeliveries,
    ) -> Result<Page<(Arc<Subscription>, DeliveryRecord), DeliveryKey>, GatewayError> {
        let registry = self.0.store.registry();
        let mut lanes = Vec::new();
        match list.subscription {
            Some(id) => {
                let name = SubscriptionName { account: list.account, id };
                lanes.push(self.get_subscription(&name)?.lane);
            }
            None => registry.walk(AccountScope::One(list.account), None, |subscription| {
                lanes.push(subscription.lane);
                true
            }),
        }
        if lanes.is_empty() {
            return Ok(Page { rows: Vec::new(), next: None });
        }
        let query = DeliveryQuery {
            lanes,
            states: list.states,
            event: list.event.map(|id| (list.account, id)),
            time: list.time,
            after: list.after,
            limit: list.limit,
        };
        let page = self.read(move |store| store.deliveries(&query)).await?;
        // A subscription that was deleted in between has taken its deliveries with it.
        let rows = page.rows.into_iter().filter_map(|row| Some((registry.by_lane(row.key.lane)?, row)));
        Ok(Page { rows: rows.collect(), next: page.next })
    }
}
