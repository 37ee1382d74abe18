//! Use cases of deliveries: get, list, summarize, retry, cancel.

use std::sync::Arc;

use super::{Applied, Gateway, GatewayError, Resource};
use crate::{
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState, Outcome},
        ids::{AccountScope, DeliveryName, EventName, SubscriptionId, SubscriptionKey, SubscriptionName},
        subscription::Subscription,
        time::UnixMicros,
    },
    proto::v1::EventType,
    store::{
        DeliveryQuery, DeliveryRecord, OperatorAction, PAGE_BYTES_MAX, Page, QueueSummary, StoreError,
        TimeRange,
    },
};

/// Selects deliveries. Those of the latest events come first.
#[derive(Clone, Debug)]
pub struct ListDeliveries {
    /// Of this account, or of all.
    pub scope: AccountScope,
    /// Of this subscription of the account; `None` means all.
    pub subscription: Option<SubscriptionId>,
    /// Only deliveries in these states, whatever the time of a retry; empty means all.
    pub states: Vec<DeliveryState>,
    /// Of this event.
    pub event: Option<EventName>,
    /// Of events of these types; empty means all.
    pub event_types: Vec<EventType>,
    /// Whose last attempt ended in one of these ways; empty means any.
    pub results: Vec<AttemptResult>,
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

/// Reads of the store for one page, where rows are left out by what the store does not filter by.
const FILTERED_READS_MAX: usize = 20;

/// How the last attempt of a delivery ended, as a filter asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// With this outcome.
    Outcome(Outcome),
    /// With an HTTP status of this class: 2 for 200 to 299.
    StatusClass(u16),
}

impl AttemptResult {
    fn is_of(self, attempt: &Attempt) -> bool {
        match self {
            Self::Outcome(outcome) => attempt.outcome == outcome,
            Self::StatusClass(class) => attempt.http_status / 100 == class,
        }
    }
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
        Ok((subscription, self.shown(delivery.ok_or_else(missing)?)))
    }

    /// A delivery as people see it: its next attempt by the wall clock.
    pub(super) fn shown(&self, delivery: DeliveryRecord) -> DeliveryRecord {
        match delivery.state {
            DeliveryState::Retrying { due } => {
                let state = DeliveryState::Retrying { due: self.0.clock.wall_of(due) };
                DeliveryRecord { state, ..delivery }
            }
            _ => delivery,
        }
    }

    /// Schedules an attempt now. Possible in every state but succeeded.
    pub async fn retry_delivery(
        &self,
        name: &DeliveryName,
    ) -> Result<Applied<(Arc<Subscription>, DeliveryRecord)>, GatewayError> {
        self.override_delivery(name, OperatorAction::Retry).await
    }

    /// Stops further attempts. An attempt under way finishes and is recorded. Safe to repeat.
    pub async fn cancel_delivery(
        &self,
        name: &DeliveryName,
    ) -> Result<Applied<(Arc<Subscription>, DeliveryRecord)>, GatewayError> {
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
            Ok(Summary { counts, oldest_owed: store.oldest_owed(&subscriptions)? })
        })
        .await
    }

    async fn override_delivery(
        &self,
        name: &DeliveryName,
        action: OperatorAction,
    ) -> Result<Applied<(Arc<Subscription>, DeliveryRecord)>, GatewayError> {
        let (_, delivery) = self.get_delivery(name).await?;
        let state =
            self.0.store.override_delivery(delivery.key, action).await.map_err(|error| match error {
                StoreError::DeliveryNotFound => GatewayError::NotFound(Resource::Delivery(name.clone())),
                StoreError::DeliveryOver(state) => GatewayError::DeliveryOver { name: name.clone(), state },
                other => other.into(),
            })?;
        // Of two such calls at once, both may count as one that changed something or neither: both are on record.
        Ok(Applied { result: self.get_delivery(name).await?, changed: state != delivery.state })
    }

    pub(super) fn subscriptions(&self, scope: AccountScope) -> Vec<SubscriptionKey> {
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
        let is_of_all = list.scope == AccountScope::All;
        let subscriptions = match (list.scope, list.subscription) {
            // Of all accounts without the list of their subscriptions, of which there may be very many.
            (AccountScope::All, _) => None,
            (AccountScope::One(account), Some(id)) => {
                Some(vec![self.get_subscription(&SubscriptionName { account, id })?.key])
            }
            (scope, None) => Some(self.subscriptions(scope)),
        };
        if subscriptions.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Page { rows: Vec::new(), next: None });
        }
        let (event_types, results) = (list.event_types, list.results);
        let is_wanted = |row: &DeliveryRecord| {
            (event_types.is_empty() || event_types.contains(&row.event.event_type()))
                && (results.is_empty()
                    || row
                        .attempts
                        .last()
                        .is_some_and(|last| results.iter().any(|wanted| wanted.is_of(last))))
        };
        let is_filtered = !event_types.is_empty() || !results.is_empty();
        let mut query = DeliveryQuery {
            subscriptions,
            states: list.states,
            event: list.event.map(|event| (event.account, event.id)),
            time: list.time,
            after: list.after,
            limit: list.limit,
        };
        let (mut found, mut bytes) = (Vec::new(), 0);
        for _ in 0..if is_filtered { FILTERED_READS_MAX } else { 1 } {
            let asked = query.clone();
            let page = self.read(move |store| store.deliveries(&asked)).await?;
            for row in page.rows.into_iter().filter(&is_wanted) {
                // A subscription that was deleted in between has taken its deliveries with it.
                let Some(subscription) = registry.by_key(row.key.subscription) else { continue };
                // Notices are listed by the name of their sink only.
                if is_of_all && subscription.is_sink() {
                    continue;
                }
                bytes += row.event.content.encoded.len();
                found.push((subscription, self.shown(row)));
                if is_filtered && (found.len() == list.limit || bytes > PAGE_BYTES_MAX) {
                    let next = found.last().map(|(_, row)| row.key);
                    return Ok(Page { rows: found, next });
                }
            }
            query.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
        Ok(Page { rows: found, next: query.after })
    }
}
