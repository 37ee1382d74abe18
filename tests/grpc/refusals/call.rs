//! A line of the table of refusals: a call of any method, and its refusal.

use tidings::proto::v1;
use tonic::{
    Code::{self, AlreadyExists, InvalidArgument, NotFound},
    Status,
};

use crate::support::client::Client;

/// The name of a subscription that does not exist.
pub const NO_SUBSCRIPTION: &str = "accounts/1/subscriptions/none";

/// A call of any method.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Call {
    Create(v1::CreateSubscriptionRequest),
    GetSubscription(&'static str),
    ListSubscriptions(v1::ListSubscriptionsRequest),
    Update(v1::UpdateSubscriptionRequest),
    Delete(v1::DeleteSubscriptionRequest),
    Pause(&'static str),
    Resume(&'static str),
    Rotate(v1::RotateSigningSecretRequest),
    Test(v1::TestSubscriptionRequest),
    Publish(v1::PublishEventRequest),
    Batch(v1::BatchPublishEventsRequest),
    GetEvent(&'static str),
    ListEvents(v1::ListEventsRequest),
    Render(v1::RenderEventRequest),
    GetDelivery(&'static str),
    ListDeliveries(v1::ListDeliveriesRequest),
    Replay(v1::ReplayDeliveriesRequest),
}

impl Call {
    pub async fn make(self, client: &Client) -> Result<(), Status> {
        let mut subscriptions = client.subscriptions.clone();
        let (mut events, mut deliveries) = (client.events.clone(), client.deliveries.clone());
        match self {
            Self::Create(request) => subscriptions.create_subscription(request).await.map(drop),
            Self::GetSubscription(name) => {
                let request = v1::GetSubscriptionRequest { name: name.into() };
                subscriptions.get_subscription(request).await.map(drop)
            }
            Self::ListSubscriptions(request) => subscriptions.list_subscriptions(request).await.map(drop),
            Self::Update(request) => subscriptions.update_subscription(request).await.map(drop),
            Self::Delete(request) => subscriptions.delete_subscription(request).await.map(drop),
            Self::Pause(name) => client.try_pause(name).await.map(drop),
            Self::Resume(name) => {
                let request = v1::ResumeSubscriptionRequest { name: name.into() };
                subscriptions.resume_subscription(request).await.map(drop)
            }
            Self::Rotate(request) => subscriptions.rotate_signing_secret(request).await.map(drop),
            Self::Test(request) => subscriptions.test_subscription(request).await.map(drop),
            Self::Publish(request) => events.publish_event(request).await.map(drop),
            Self::Batch(request) => events.batch_publish_events(request).await.map(drop),
            Self::GetEvent(name) => {
                events.get_event(v1::GetEventRequest { name: name.into() }).await.map(drop)
            }
            Self::ListEvents(request) => events.list_events(request).await.map(drop),
            Self::Render(request) => events.render_event(request).await.map(drop),
            Self::GetDelivery(name) => {
                deliveries.get_delivery(v1::GetDeliveryRequest { name: name.into() }).await.map(drop)
            }
            Self::Replay(request) => deliveries.replay_deliveries(request).await.map(drop),
            Self::ListDeliveries(request) => deliveries.list_deliveries(request).await.map(drop),
        }
    }
}

/// A line of the table: the fault, the call, and its refusal.
pub type Line = (&'static str, Call, Code, &'static str, Vec<String>);

pub fn line(what: &'static str, call: Call, code: Code, reason: &'static str, fields: &[&str]) -> Line {
    (what, call, code, reason, fields.iter().map(ToString::to_string).collect())
}

pub fn required(what: &'static str, call: Call, fields: &[&str]) -> Line {
    line(what, call, InvalidArgument, "FIELD_REQUIRED", fields)
}

pub fn invalid(what: &'static str, call: Call, fields: &[&str]) -> Line {
    line(what, call, InvalidArgument, "FIELD_INVALID", fields)
}

pub fn mismatch(what: &'static str, call: Call, fields: &[&str]) -> Line {
    line(what, call, InvalidArgument, "ACCOUNT_MISMATCH", fields)
}

pub fn page_token(what: &'static str, call: Call) -> Line {
    line(what, call, InvalidArgument, "PAGE_TOKEN_INVALID", &["page_token"])
}

pub fn exists(what: &'static str, call: Call, fields: &[&str]) -> Line {
    line(what, call, AlreadyExists, "SUBSCRIPTION_EXISTS", fields)
}

pub fn missing(what: &'static str, call: Call, reason: &'static str) -> Line {
    line(what, call, NotFound, reason, &[])
}

/// A call about a subscription that does not exist.
pub fn no_subscription(what: &'static str, call: Call) -> Line {
    missing(what, call, "SUBSCRIPTION_NOT_FOUND")
}
