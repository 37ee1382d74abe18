//! What tests ask of a gateway, in the words of the domain. Calls that should succeed end the test when they do not.

use std::time::Duration;

use tidings::proto::v1::{
    self, EventType, audit_service_client::AuditServiceClient,
    delivery_service_client::DeliveryServiceClient, event_service_client::EventServiceClient,
    subscription_service_client::SubscriptionServiceClient,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::{gateway::PATIENCE, watched::Channel};

/// How often a state is looked at that a test waits for.
pub const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A client of a gateway. Every answer is watched for secrets.
#[derive(Clone)]
pub struct Client {
    pub subscriptions: SubscriptionServiceClient<Channel>,
    pub events: EventServiceClient<Channel>,
    pub deliveries: DeliveryServiceClient<Channel>,
    pub audit: AuditServiceClient<Channel>,
}

/// A subscription that was made.
#[derive(Clone, Debug)]
pub struct Subscribed {
    /// Its name.
    pub name: String,
    /// What its POSTs are signed with.
    pub secret: String,
}

impl Subscribed {
    /// The name of the delivery of the event with this id to this subscription.
    pub fn delivery(&self, event_id: &str) -> String {
        format!("{}/deliveries/{event_id}", self.name)
    }
}

/// How many deliveries are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub pending: usize,
    pub retrying: usize,
    pub succeeded: usize,
    pub failed: usize,
    pub cancelled: usize,
}

impl Counts {
    /// Deliveries that are not over.
    pub fn owed(self) -> usize {
        self.pending + self.retrying
    }

    /// Deliveries in any state.
    pub fn all(self) -> usize {
        self.pending + self.retrying + self.succeeded + self.failed + self.cancelled
    }
}

/// A subscription of every kind of event.
pub fn subscription(url: String) -> v1::Subscription {
    let event_types = EventType::all().map(Into::into).collect();
    v1::Subscription { url, event_types, ..Default::default() }
}

/// A policy of so many attempts.
pub fn attempts(max_attempts: i32) -> Option<v1::RetryPolicy> {
    Some(v1::RetryPolicy { max_attempts, ..Default::default() })
}

/// A duration of the protocol.
pub fn duration(duration: Duration) -> Option<prost_types::Duration> {
    Some(duration.try_into().unwrap())
}

/// The last part of a name.
pub fn id_of(name: &str) -> &str {
    name.rsplit('/').next().unwrap()
}

impl Client {
    pub fn new(channel: Channel) -> Self {
        Self {
            subscriptions: SubscriptionServiceClient::new(channel.clone()),
            events: EventServiceClient::new(channel.clone()),
            deliveries: DeliveryServiceClient::new(channel.clone()),
            audit: AuditServiceClient::new(channel),
        }
    }

    /// Adds a subscription to the account.
    pub async fn subscribe(&self, account: i64, subscription: v1::Subscription) -> Subscribed {
        self.try_subscribe(account, subscription).await.unwrap()
    }

    pub async fn try_subscribe(
        &self,
        account: i64,
        subscription: v1::Subscription,
    ) -> Result<Subscribed, Status> {
        let request = v1::CreateSubscriptionRequest {
            parent: format!("accounts/{account}"),
            subscription: Some(subscription),
            ..Default::default()
        };
        let created = self.subscriptions.clone().create_subscription(request).await?.into_inner();
        Ok(Subscribed { name: created.subscription.unwrap().name, secret: created.signing_secret })
    }

    pub async fn subscription(&self, name: &str) -> v1::Subscription {
        let request = v1::GetSubscriptionRequest { name: name.into() };
        let got = self.subscriptions.clone().get_subscription(request).await.unwrap();
        got.into_inner().subscription.unwrap()
    }

    /// Waits until the subscription is in this state.
    pub async fn subscription_in(&self, name: &str, state: v1::subscription::State) -> v1::Subscription {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let subscription = self.subscription(name).await;
            if subscription.state() == state {
                return subscription;
            }
            assert!(Instant::now() < deadline, "not {state:?} in time, but {subscription:#?}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Changes what is set in `change`, whose name says which subscription.
    pub async fn update(&self, change: v1::Subscription) -> v1::Subscription {
        self.try_update(change).await.unwrap()
    }

    pub async fn try_update(&self, change: v1::Subscription) -> Result<v1::Subscription, Status> {
        let request = v1::UpdateSubscriptionRequest { subscription: Some(change), ..Default::default() };
        let updated = self.subscriptions.clone().update_subscription(request).await?;
        Ok(updated.into_inner().subscription.unwrap())
    }

    pub async fn pause(&self, name: &str) {
        let request = v1::PauseSubscriptionRequest { name: name.into() };
        self.subscriptions.clone().pause_subscription(request).await.unwrap();
    }

    pub async fn resume(&self, name: &str) {
        let request = v1::ResumeSubscriptionRequest { name: name.into() };
        self.subscriptions.clone().resume_subscription(request).await.unwrap();
    }

    pub async fn delete(&self, name: &str, force: bool) -> Result<(), Status> {
        let request = v1::DeleteSubscriptionRequest { name: name.into(), force, ..Default::default() };
        self.subscriptions.clone().delete_subscription(request).await.map(drop)
    }

    /// POSTs the made-up event of this kind.
    pub async fn test(&self, name: &str, event_type: EventType) -> v1::TestSubscriptionResponse {
        let request = v1::TestSubscriptionRequest { name: name.into(), event_type: event_type.into() };
        self.subscriptions.clone().test_subscription(request).await.unwrap().into_inner()
    }

    /// Publishes an event under an id that the gateway makes.
    pub async fn publish(&self, account: i64, event: v1::Event) -> v1::PublishResult {
        self.try_publish(account, "", event).await.unwrap()
    }

    /// Publishes an event under this id.
    pub async fn publish_as(&self, account: i64, id: &str, event: v1::Event) -> v1::PublishResult {
        self.try_publish(account, id, event).await.unwrap()
    }

    pub async fn try_publish(
        &self,
        account: i64,
        id: &str,
        event: v1::Event,
    ) -> Result<v1::PublishResult, Status> {
        let response = self.events.clone().publish_event(publish_request(account, id, event)).await?;
        Ok(response.into_inner().result.unwrap())
    }

    /// Publishes as soon as the store has room again.
    pub async fn publish_when_there_is_room(&self, account: i64, event: v1::Event) {
        let deadline = Instant::now() + PATIENCE;
        while let Err(status) = self.try_publish(account, "", event.clone()).await {
            assert!(status.code() == Code::ResourceExhausted && Instant::now() < deadline, "{status:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// What would be POSTed for a stored event to a subscription.
    pub async fn render(&self, event: &str, subscription: &str) -> v1::RenderEventResponse {
        let request = v1::RenderEventRequest {
            source: Some(v1::render_event_request::Source::Name(event.into())),
            subscription: subscription.into(),
        };
        self.events.clone().render_event(request).await.unwrap().into_inner()
    }

    /// All stored events of an account, the latest first.
    pub async fn stored_events(&self, account: i64) -> Vec<v1::Event> {
        let mut request = v1::ListEventsRequest {
            parent: format!("accounts/{account}"),
            page_size: 1000,
            ..Default::default()
        };
        let mut events = Vec::new();
        loop {
            let page = self.events.clone().list_events(request.clone()).await.unwrap().into_inner();
            events.extend(page.events);
            if page.next_page_token.is_empty() {
                return events;
            }
            request.page_token = page.next_page_token;
        }
    }

    pub async fn retry(&self, name: &str) {
        let request = v1::RetryDeliveryRequest { name: name.into() };
        self.deliveries.clone().retry_delivery(request).await.unwrap();
    }

    pub async fn cancel(&self, name: &str) {
        let request = v1::CancelDeliveryRequest { name: name.into() };
        self.deliveries.clone().cancel_delivery(request).await.unwrap();
    }

    pub async fn delivery(&self, name: &str) -> v1::Delivery {
        let request = v1::GetDeliveryRequest { name: name.into() };
        self.deliveries.clone().get_delivery(request).await.unwrap().into_inner().delivery.unwrap()
    }

    /// Waits until the delivery is in this state.
    pub async fn delivery_in(&self, name: &str, state: v1::delivery::State) -> v1::Delivery {
        self.delivery_when(name, &format!("{state:?}"), |delivery| delivery.state() == state).await
    }

    /// Waits until the delivery is as `wanted` wants it.
    pub async fn delivery_when(
        &self,
        name: &str,
        what: &str,
        wanted: impl Fn(&v1::Delivery) -> bool,
    ) -> v1::Delivery {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let delivery = self.delivery(name).await;
            if wanted(&delivery) {
                return delivery;
            }
            assert!(Instant::now() < deadline, "not {what} in time, but {delivery:#?}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// All deliveries of an account in one of these states, or in any if there are none. The latest first.
    pub async fn deliveries_in(&self, account: i64, states: &[v1::delivery::State]) -> Vec<v1::Delivery> {
        let mut request = v1::ListDeliveriesRequest {
            parent: format!("accounts/{account}/subscriptions/-"),
            page_size: 1000,
            states: states.iter().map(|state| i32::from(*state)).collect(),
            ..Default::default()
        };
        let mut deliveries = Vec::new();
        loop {
            let page = self.deliveries.clone().list_deliveries(request.clone()).await.unwrap().into_inner();
            deliveries.extend(page.deliveries);
            if page.next_page_token.is_empty() {
                return deliveries;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The deliveries of a subscription by state; `accounts/1/subscriptions/-` stands for all of the account.
    pub async fn counts(&self, parent: &str) -> Counts {
        use v1::delivery::State;
        let request = v1::SummarizeDeliveriesRequest { parent: parent.into() };
        let summary = self.deliveries.clone().summarize_deliveries(request).await.unwrap().into_inner();
        let mut counts = Counts::default();
        for row in summary.counts {
            let count = match row.state() {
                State::Pending => &mut counts.pending,
                State::Retrying => &mut counts.retrying,
                State::Succeeded => &mut counts.succeeded,
                State::Failed => &mut counts.failed,
                State::Cancelled => &mut counts.cancelled,
                State::Unspecified => panic!("no state: {row:?}"),
            };
            *count += usize::try_from(row.count).unwrap();
        }
        counts
    }

    /// Waits until the deliveries of a subscription are as `wanted` wants them.
    pub async fn counts_when(&self, parent: &str, what: &str, wanted: impl Fn(Counts) -> bool) -> Counts {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let counts = self.counts(parent).await;
            if wanted(counts) {
                return counts;
            }
            assert!(Instant::now() < deadline, "not {what} in time, but {counts:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until nothing is owed in the account any more.
    pub async fn nothing_owed(&self, account: i64) {
        use v1::delivery::State::{Pending, Retrying};
        let deadline = Instant::now() + PATIENCE;
        loop {
            let owed = self.deliveries_in(account, &[Pending, Retrying]).await;
            if owed.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{} are still owed, as {:#?}", owed.len(), owed[0]);
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Asks to publish an event; an empty id lets the gateway make one.
pub fn publish_request(account: i64, id: &str, event: v1::Event) -> v1::PublishEventRequest {
    v1::PublishEventRequest {
        parent: format!("accounts/{account}"),
        event_id: id.into(),
        event: Some(event.into()),
        ..Default::default()
    }
}
