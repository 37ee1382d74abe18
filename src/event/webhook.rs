//! One webhook request: an event for a subscription's endpoint, its id, and the client that sends it.

use std::{convert::Infallible, fmt, future::Future, pin::Pin, sync::Arc};

use tower::util::BoxCloneSyncService;
use uuid::Uuid;

use super::StoredEvent;
use crate::domain::{
    delivery::Attempt, subscription::Subscription, time::UnixMicros, webhook_headers::PostFacts,
};

/// The id by which receivers recognise a delivery: the same on every attempt and replay, and unique to event
/// and subscription. It is derived from the subscription's uid and the event's name, so it need not be
/// stored.
pub fn webhook_id(subscription_uid: Uuid, event_name: &str) -> Uuid {
    Uuid::new_v5(&subscription_uid, event_name.as_bytes())
}

/// One POST: the event, for the subscription's endpoint, with its payload format, headers and timeout.
#[derive(Clone, Debug)]
pub struct WebhookRequest {
    /// The subscription that it is for.
    pub subscription: Arc<Subscription>,
    /// The event to send.
    pub event: Arc<StoredEvent>,
    /// The number of the attempt, from 1 on.
    pub attempt: u32,
    /// Whether it needs a connection of its own, so that the receiver gets it once: a kept one may break.
    pub is_test: bool,
}

impl WebhookRequest {
    /// What its headers say, if it is sent at this time.
    pub fn facts(&self, at: UnixMicros) -> PostFacts {
        PostFacts {
            webhook_id: webhook_id(self.subscription.uid, &self.event.name.to_text()),
            event_type: self.event.event_type_name(),
            attempt: self.attempt,
            at,
            hops: self.event.content.hops(),
        }
    }
}

/// The end of an attempt: nothing that arrives later changes it.
pub struct WebhookResponse {
    /// The attempt.
    pub attempt: Attempt,
    /// The rest of the response's body, if it has not arrived yet. It ends with the body or the attempt's time.
    /// Until then the receiver may be at work: dropping this closes the connection.
    pub rest: Option<ResponseRest>,
}

/// Reads the rest of a response's body, and drops it.
pub type ResponseRest = Pin<Box<dyn Future<Output = ()> + Send>>;

impl From<Attempt> for WebhookResponse {
    /// An attempt whose response is over.
    fn from(attempt: Attempt) -> Self {
        Self { attempt, rest: None }
    }
}

impl fmt::Debug for WebhookResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookResponse").field("attempt", &self.attempt).finish_non_exhaustive()
    }
}

/// A service that sends webhook requests. A receiver's failure is an [`Attempt`] like any other, never an
/// error.
pub type WebhookClient = BoxCloneSyncService<WebhookRequest, WebhookResponse, Infallible>;
