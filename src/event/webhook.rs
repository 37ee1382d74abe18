//! One webhook request: an event for a subscription's endpoint, its id, and the client that sends it.

use std::{convert::Infallible, sync::Arc};

use tower::util::BoxCloneSyncService;
use uuid::Uuid;

use super::StoredEvent;
use crate::domain::{delivery::Attempt, subscription::Subscription};

/// The id that receivers tell deliveries apart by: the same on every attempt and replay, another for every other event
/// and subscription. Made from the subscription's uid and the event's name, so that nothing needs to remember it.
pub fn webhook_id(subscription_uid: Uuid, event_name: &str) -> Uuid {
    Uuid::new_v5(&subscription_uid, event_name.as_bytes())
}

/// One POST to be made: this event, to this subscription's endpoint, in its form, with its headers, within its time.
#[derive(Clone, Debug)]
pub struct WebhookRequest {
    /// To whom.
    pub subscription: Arc<Subscription>,
    /// What.
    pub event: Arc<StoredEvent>,
}

/// What makes POSTs. A receiver's failure is an [`Attempt`] like any other, never an error.
pub type WebhookClient = BoxCloneSyncService<WebhookRequest, Attempt, Infallible>;
