//! Why a use case did not do as asked.

use std::{fmt, time::Duration};

use crate::{
    domain::{
        access::TokenId,
        delivery::DeliveryState,
        field_violation::FieldViolations,
        ids::{AccountId, DeliveryName, EventName, SubscriptionName},
    },
    store::StoreError,
};

/// Why a use case did not do as asked. Each kind is one that a caller acts differently on. Nothing has changed then,
/// but for [`GatewayError::ShuttingDown`] and [`GatewayError::Storage`] of a write, which may have taken effect.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GatewayError {
    /// The request breaks rules: correct it.
    #[error("the request is invalid")]
    Invalid(FieldViolations),
    /// There is no such thing.
    #[error("{0} was not found")]
    NotFound(Resource),
    /// The account has a subscription of this name already.
    #[error("{0} exists already")]
    NameTaken(SubscriptionName),
    /// The account has a subscription with this URL already: the one named.
    #[error("{0} has this url already")]
    UrlTaken(SubscriptionName),
    /// The request id was used before for another request.
    #[error("the request id was used before for another request")]
    RequestIdReused,
    /// The event's id is that of another event.
    #[error("{name} is stored with another content")]
    EventExists {
        /// The stored event.
        name: EventName,
        /// Which event of the call, counted from 0.
        index: usize,
    },
    /// The subscription has changed since the caller read it: read it again.
    #[error("{0} has changed since its etag was read")]
    EtagMismatch(SubscriptionName),
    /// Deliveries of the subscription are not yet made: wait, or force.
    #[error("{count} deliveries of {subscription} are not yet made; set force to drop them")]
    OwedDeliveries {
        /// Whose they are.
        subscription: SubscriptionName,
        /// How many, at least 1.
        count: u64,
    },
    /// The subscription signs with as many older secrets as it may: wait, or rotate without an overlap.
    #[error(
        "{subscription} still signs with {max} older secrets, which is as many as there may be; wait until the first of them \
         ends, or rotate with an overlap of 0s, which ends them all"
    )]
    TooManySecrets {
        /// Whose they are.
        subscription: SubscriptionName,
        /// How many there may be.
        max: usize,
    },
    /// The delivery is over, and its state does not allow what was asked.
    #[error("{name} is over: it {}", over(*.state))]
    DeliveryOver {
        /// Which.
        name: DeliveryName,
        /// In which state.
        state: DeliveryState,
    },
    /// The account may have no more subscriptions: remove some.
    #[error(
        "account {account} has as many subscriptions as it may have: subscriptions_per_account_max is {max}"
    )]
    TooManySubscriptions {
        /// Which account.
        account: AccountId,
        /// How many it may have.
        max: usize,
    },
    /// There are as many access tokens as there may be: revoke some that nobody needs, which makes room after a while, or allow
    /// more.
    #[error("there are as many access tokens as there may be: {}", reached(Some(.0)))]
    TooManyTokens(Limit),
    /// From the first access token on every call needs one; with this one nobody could make another.
    #[error(
        "the first access token must have the scope admin for all accounts: from then on every call needs a token, and nobody \
         could make another"
    )]
    FirstTokenNotAdmin,
    /// Too much is under way: come back later.
    #[error("the gateway is overloaded: {}", reached(.limit.as_ref()))]
    Overloaded {
        /// The bound that was reached; `None` if it is one of the store's own.
        limit: Option<Limit>,
        /// How long to wait at least.
        retry_after: Duration,
    },
    /// The store holds as much as it may, and all of it is still owed: have some of it delivered or cancelled, or allow more.
    #[error("the store is full of deliveries that are still owed: {}", reached(Some(.limit)))]
    StoreFull {
        /// The bound that was reached.
        limit: Limit,
        /// How long to wait at least.
        retry_after: Duration,
    },
    /// The event would make too much be owed: have some of it delivered or cancelled, delete the subscription, or allow
    /// more.
    #[error("{} owed {owed} deliveries: {}", debtor(.subscription.as_ref()), reached(Some(.limit)))]
    BacklogFull {
        /// The subscription that is owed too much; `None` if all together are.
        subscription: Option<SubscriptionName>,
        /// How much it is owed already.
        owed: u64,
        /// The bound that would be passed.
        limit: Limit,
        /// How long to wait at least.
        retry_after: Duration,
    },
    /// There is no room on the disk. Nothing was stored; delivering goes on, and publishing as soon as there is room.
    #[error("the disk is full")]
    DiskFull {
        /// How long to wait at least.
        retry_after: Duration,
    },
    /// The gateway stops: go elsewhere, or come back later.
    #[error("the gateway is shutting down")]
    ShuttingDown,
    /// The disk, or what is on it, failed.
    #[error("storage failed: {0}")]
    Storage(String),
}

/// A bound of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The setting that it comes from.
    pub name: &'static str,
    /// How much it allows.
    pub max: u64,
}

/// What was looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A subscription.
    Subscription(SubscriptionName),
    /// An event.
    Event(EventName),
    /// A delivery.
    Delivery(DeliveryName),
    /// An access token.
    AccessToken(TokenId),
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscription(name) => name.fmt(f),
            Self::Event(name) => name.fmt(f),
            Self::Delivery(name) => name.fmt(f),
            Self::AccessToken(id) => f.write_str(&id.name()),
        }
    }
}

impl GatewayError {
    /// As much is under way as this setting allows.
    pub fn overloaded(name: &'static str, max: usize) -> Self {
        let limit = Some(Limit { name, max: max as u64 });
        Self::Overloaded { limit, retry_after: OVERLOADED_RETRY_AFTER }
    }

    /// There is no such subscription.
    pub(super) fn no_subscription(name: &SubscriptionName) -> Self {
        Self::NotFound(Resource::Subscription(name.clone()))
    }

    /// What the store's refusal of a call about `subscription` means to a caller.
    pub(super) fn about(subscription: &SubscriptionName, error: StoreError) -> Self {
        match error {
            StoreError::SubscriptionNotFound => Self::no_subscription(subscription),
            StoreError::VersionMismatch => Self::EtagMismatch(subscription.clone()),
            StoreError::Owed(count) => Self::OwedDeliveries { subscription: subscription.clone(), count },
            other => Self::from(other),
        }
    }
}

/// Which bound it is, to be said after what it is about.
fn reached(limit: Option<&Limit>) -> String {
    match limit {
        Some(Limit { name, max }) => format!("{name} is {max}"),
        None => "too many writes wait for the disk".to_owned(),
    }
}

fn debtor(subscription: Option<&SubscriptionName>) -> String {
    subscription.map_or_else(|| "all subscriptions together are".to_owned(), |name| format!("{name} is"))
}

/// How a delivery ended, to be said after its name.
fn over(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Succeeded => "succeeded",
        DeliveryState::Failed => "failed; RetryDelivery tries again",
        DeliveryState::Cancelled => "was cancelled",
        DeliveryState::Pending | DeliveryState::Retrying { .. } => "is still owed",
    }
}

/// How long a caller is asked to wait while the disk is full.
const DISK_FULL_RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long an overloaded caller is asked to wait. Commits take milliseconds, so the backlog is gone by then.
const OVERLOADED_RETRY_AFTER: Duration = Duration::from_millis(500);

impl From<StoreError> for GatewayError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NameTaken(name) => Self::NameTaken(name),
            StoreError::UrlTaken(name) => Self::UrlTaken(name),
            StoreError::RequestIdReused => Self::RequestIdReused,
            StoreError::Busy => Self::Overloaded { limit: None, retry_after: OVERLOADED_RETRY_AFTER },
            StoreError::Full => Self::DiskFull { retry_after: DISK_FULL_RETRY_AFTER },
            StoreError::Closed => Self::ShuttingDown,
            StoreError::Failed(why) => Self::Storage(why),
            // Each is an answer to one kind of call, which says what it is about; elsewhere the store is wrong.
            misplaced @ (StoreError::SubscriptionNotFound
            | StoreError::VersionMismatch
            | StoreError::Owed(_)
            | StoreError::TokenNotFound
            | StoreError::DeliveryNotFound
            | StoreError::DeliveryOver(_)
            | StoreError::EventExists { .. }) => Self::Storage(misplaced.to_string()),
        }
    }
}

impl From<FieldViolations> for GatewayError {
    fn from(faults: FieldViolations) -> Self {
        Self::Invalid(faults)
    }
}
