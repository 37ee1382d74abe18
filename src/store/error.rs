//! Why the store refused or failed.

use crate::domain::{
    damage::Damage,
    delivery::DeliveryState,
    ids::{EventId, SubscriptionName},
};

/// Why the store refused or failed. A caller acts differently on each.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The account has a subscription with this name.
    #[error("subscription {0} already exists")]
    NameTaken(SubscriptionName),
    /// The named subscription of the account has this URL.
    #[error("subscription {0} already has this URL")]
    UrlTaken(SubscriptionName),
    /// The request id was used for another request.
    #[error("the request id was already used for another request")]
    RequestIdReused,
    /// There is no such subscription.
    #[error("there is no such subscription")]
    SubscriptionNotFound,
    /// The subscription has changed since it was read.
    #[error("the subscription was changed meanwhile")]
    VersionMismatch,
    /// The most older secrets sign already.
    #[error("the most older secrets sign already")]
    TooManySecrets,
    /// Deliveries are still pending.
    #[error("{0} deliveries are still pending")]
    Owed(u64),
    /// An event with this id and other content is stored. `index` is the event's position in the call, from
    /// 0.
    #[error("event {id} is already stored with other content")]
    EventExists {
        /// Which event of the call.
        index: usize,
        /// Its id.
        id: EventId,
    },
    /// There are as many access tokens as there may be.
    #[error("there are too many access tokens")]
    TooManyTokens {
        /// How many there may be now of the accounts of whoever creates them.
        share: u64,
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
    /// The queue of writes is full: see the bounds of the engine.
    #[error("too many writes are waiting")]
    Busy,
    /// The disk is full. Stored data is unchanged.
    #[error("the disk is full")]
    Full,
    /// No file descriptor is free. Stored data is unchanged: try again.
    #[error("no file descriptor is free")]
    NoDescriptor,
    /// The engine has no files that could be copied.
    #[error("the store is in memory only")]
    NothingOnDisk,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The disk has lost a record that is needed for this: one place, and what was there. Everything else
    /// works, and nothing has changed.
    #[error("{0}")]
    Damaged(Box<Damage>),
    /// The disk could not be read. Nothing has changed: try again.
    #[error("reading failed: {0}")]
    ReadFailed(String),
    /// A write or a sync failed: what is on the disk is unknown, and nothing more is written until a restart.
    #[error("storage failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// Whether a write was refused for lack of room or of a file descriptor. Stored data is unchanged, and a
    /// later try may succeed.
    pub fn is_lack(&self) -> bool {
        matches!(self, Self::Full | Self::NoDescriptor)
    }
}
