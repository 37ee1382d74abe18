//! Why the store refused or failed.

use crate::domain::{
    delivery::DeliveryState,
    ids::{EventId, SubscriptionName},
};

/// Why the store did not do as asked. A caller acts differently on each.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The account has a subscription of this name.
    #[error("subscription {0} exists already")]
    NameTaken(SubscriptionName),
    /// The account has a subscription with this URL: the one named.
    #[error("subscription {0} has this URL already")]
    UrlTaken(SubscriptionName),
    /// The request id was used for another request.
    #[error("the request id was used before for another request")]
    RequestIdReused,
    /// There is no such subscription.
    #[error("there is no such subscription")]
    SubscriptionNotFound,
    /// The subscription has changed since it was read.
    #[error("the subscription has changed since")]
    VersionMismatch,
    /// Deliveries are still owed.
    #[error("{0} deliveries are not yet made")]
    Owed(u64),
    /// An event with this id but another content is stored. `index` counts the events of the call from 0.
    #[error("event {id} is stored with another content")]
    EventExists {
        /// Which event of the call.
        index: usize,
        /// Its id.
        id: EventId,
    },
    /// There is no such access token.
    #[error("there is no such access token")]
    TokenNotFound,
    /// There is no such delivery.
    #[error("there is no such delivery")]
    DeliveryNotFound,
    /// The delivery is over, in this state.
    #[error("the delivery is over")]
    DeliveryOver(DeliveryState),
    /// Too much waits to be written: see the bounds of the engine.
    #[error("too many writes are waiting")]
    Busy,
    /// There is no room on the disk. What was there is as before.
    #[error("the disk is full")]
    Full,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The disk or what is on it failed.
    #[error("storage failed: {0}")]
    Failed(String),
}
