//! Errors of the use cases, and how each is reported to callers.

use std::{fmt, time::Duration};

use super::reasons::is_listed;
use crate::{
    domain::{
        access::TokenId,
        damage::Damage,
        delivery::DeliveryState,
        field_violation::FieldViolations,
        ids::{AccountId, DeliveryName, EventName, SubscriptionName},
        subscription::OLDER_SECRETS_MAX,
    },
    store::StoreError,
};

/// The subject of a quota that all accounts share.
const ALL_ACCOUNTS: &str = "accounts/-";
/// Resource types of the contract.
const SUBSCRIPTION: &str = "tidings.v1.Subscription";
const NOTICE_SINK: &str = "tidings.v1.NoticeSink";
const EVENT: &str = "tidings.v1.Event";

/// The error of a use case. Callers act differently on each variant. Nothing has changed, except after
/// [`GatewayError::ShuttingDown`] or [`GatewayError::Storage`] of a write, which may have taken effect.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GatewayError {
    /// The request breaks rules: correct it.
    #[error("the request is invalid")]
    Invalid(FieldViolations),
    /// The resource does not exist.
    #[error("{0} was not found")]
    NotFound(Resource),
    /// The account has a subscription of this name already.
    #[error("{0} exists already")]
    NameTaken(SubscriptionName),
    /// The account has a subscription with this URL already: this one.
    #[error("{0} has this url already")]
    UrlTaken(SubscriptionName),
    /// The request id was used before for another request.
    #[error("the request id was used before for another request")]
    RequestIdReused,
    /// Another event has this id.
    #[error("{name} is stored with other content")]
    EventExists {
        /// The stored event.
        name: EventName,
        /// The event's index in the call, from 0.
        index: usize,
    },
    /// The subscription has changed since the caller read it: read it again.
    #[error("{0} has changed since its etag was read")]
    EtagMismatch(SubscriptionName),
    /// The subscription has unfinished deliveries: wait, or force.
    #[error(
        "{subscription} has {}: wait until none is left, or set force to delete them with it",
        unfinished(*.count)
    )]
    OwedDeliveries {
        /// The subscription.
        subscription: SubscriptionName,
        /// Its unfinished deliveries, at least 1.
        count: u64,
    },
    /// The subscription signs with the most older secrets that it may: wait, or rotate without an overlap.
    #[error(
        "{subscription} still signs with {max} older secrets, which is the limit; wait until the first of them ends, or rotate \
         with an overlap of 0s, which ends them all"
    )]
    TooManySecrets {
        /// The subscription.
        subscription: SubscriptionName,
        /// Most older secrets.
        max: usize,
    },
    /// The delivery has ended, and its state does not allow the operation.
    #[error("{name} is over: it {}", over(*.state))]
    DeliveryOver {
        /// The delivery.
        name: DeliveryName,
        /// Its state.
        state: DeliveryState,
    },
    /// A backup is running: wait until it has ended.
    #[error("another backup is running, and one may run at a time; wait until it has ended")]
    BackupRunning,
    /// The backup was not read within this time.
    #[error("the backup was not read within {} hours, and was ended", .0.as_secs() / 3600)]
    BackupTooSlow(Duration),
    /// The store is in memory only.
    #[error("the store is in memory only: there is nothing to back up")]
    NothingToBackUp,
    /// The account may have no more subscriptions: remove some.
    #[error("account {account} has reached its subscription limit: subscriptions_per_account_max is {max}")]
    TooManySubscriptions {
        /// The account.
        account: AccountId,
        /// Most subscriptions.
        max: usize,
    },
    /// The account may have no more sinks of notices: remove some.
    #[error("accounts/{account} has {max} sinks of notices, which is the limit; delete one")]
    TooManySinks {
        /// The account; all accounts for sinks of all.
        account: AccountId,
        /// Most sinks.
        max: usize,
    },
    /// The account has its share of the bytes of subscriptions: remove some, or raise the limit.
    #[error(
        "the subscriptions of account {account} would take {bytes} bytes, and its share is now {share}; {}", reached(Some(.limit))
    )]
    TooManySubscriptionBytes {
        /// The account.
        account: AccountId,
        /// What it would have.
        bytes: u64,
        /// What it may have now.
        share: u64,
        /// The limit that all accounts share.
        limit: Limit,
    },
    /// The access token limit is reached: revoke tokens that nobody needs, which makes room after a while, or
    /// raise the limit.
    #[error("access token limit reached: the administrator's share is now {share}; {}", reached(Some(.limit)))]
    TooManyTokens {
        /// The limit on all tokens.
        limit: Limit,
        /// How many tokens there may be now of the accounts of whoever creates them.
        share: u64,
    },
    /// From the first access token on every call needs one, and with this one nobody could create another.
    #[error(
        "the first access token must have the scope admin for all accounts: from then on every call needs a token, and nobody \
         could create another"
    )]
    FirstTokenNotAdmin,
    /// Too much is in flight: retry later.
    #[error("the gateway is overloaded: {}", reached(.limit.as_ref()))]
    Overloaded {
        /// The limit that was reached; `None` if it is one of the store's own.
        limit: Option<Limit>,
        /// Shortest wait before a retry.
        retry_after: Duration,
    },
    /// Too much is under way for the account: retry when some of it has ended.
    #[error("too much is under way for account {account}, or for all together: {}", reached(Some(.limit)))]
    ShareUsedUp {
        /// The account.
        account: AccountId,
        /// The limit that all accounts share.
        limit: Limit,
        /// Shortest wait before a retry.
        retry_after: Duration,
    },
    /// The account has its share of the store in events that cannot be removed: wait for its deliveries to
    /// finish, cancel some, or raise the limit.
    #[error(
        "the store is full of unfinished deliveries for account {account}: it has {owed_bytes} bytes of them, and its share is now \
         {share}; {}", reached(Some(.limit))
    )]
    StoreFull {
        /// The account.
        account: AccountId,
        /// What it has.
        owed_bytes: u64,
        /// What it may have now.
        share: u64,
        /// The limit that all accounts share.
        limit: Limit,
        /// Shortest wait before a retry.
        retry_after: Duration,
    },
    /// The event would make the backlog too long: wait for deliveries to finish, cancel some, delete the
    /// subscription, or raise the limit.
    #[error("{debtor} has {}{}: {}", unfinished(*.owed), share_of(.debtor), reached(Some(.limit)))]
    BacklogFull {
        /// Whose backlog it is.
        debtor: Debtor,
        /// Its unfinished deliveries.
        owed: u64,
        /// The limit that would be passed.
        limit: Limit,
        /// Shortest wait before a retry.
        retry_after: Duration,
    },
    /// The disk is full. Nothing was stored. Deliveries continue, and publishing does once there is room.
    #[error("the disk is full")]
    DiskFull {
        /// Shortest wait before a retry.
        retry_after: Duration,
    },
    /// No file descriptor is free. Nothing was stored: retry later.
    #[error("the gateway is overloaded: no file descriptor is free")]
    NoDescriptor {
        /// Shortest wait before a retry.
        retry_after: Duration,
    },
    /// The gateway is shutting down: retry later, or elsewhere.
    #[error("the gateway is shutting down")]
    ShuttingDown,
    /// Writing to the disk failed.
    #[error("storage failed: {0}")]
    Storage(String),
    /// Reading from the disk failed. Nothing has changed: retry later.
    #[error("reading from the disk failed: {0}")]
    ReadFailed(String),
    /// The disk has lost a record that the call needs. Nothing has changed, and a retry does not help.
    #[error("{0}")]
    Damaged(Box<Damage>),
}

/// The kinds of errors. Each has one gRPC code and one HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request breaks rules.
    Invalid,
    /// A resource does not exist.
    NotFound,
    /// A resource with the same name, or a request with the same id, exists.
    AlreadyExists,
    /// An event with the same id and other content is stored.
    EventConflict,
    /// The resource has changed since it was read.
    Changed,
    /// The state of a resource does not allow the operation.
    Precondition,
    /// A limit is reached that waiting does not lift.
    LimitReached,
    /// A limit is reached for now.
    Overloaded,
    /// The disk is full.
    DiskFull,
    /// The gateway cannot serve the call now.
    Unavailable,
    /// Stored data is damaged.
    DataLoss,
}

/// An error as callers see it, for every protocol.
#[derive(Clone, Debug)]
pub struct ErrorReport {
    /// Decides the code or status.
    pub kind: ErrorKind,
    /// Stable word for programs.
    pub reason: &'static str,
    /// Sentence for people. Never names what failed inside the gateway.
    pub message: String,
    /// Type and name of the resource, if the error is about one that exists or does not.
    pub resource: Option<(&'static str, String)>,
    /// The resource whose state or quota does not allow the call.
    pub subject: Option<String>,
    /// Field and rule, if a field of the request is at fault.
    pub violation: Option<(&'static str, &'static str)>,
    /// Further facts for programs.
    pub metadata: Vec<(&'static str, String)>,
    /// Shortest wait before a retry.
    pub retry_after: Option<Duration>,
}

/// A limit of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The setting that sets it.
    pub name: &'static str,
    /// Its value.
    pub max: u64,
}

/// Who has too many unfinished deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Debtor {
    /// A subscription.
    Subscription(SubscriptionName),
    /// All subscriptions of an account.
    Account {
        /// The account.
        account: AccountId,
        /// How many it may have now.
        share: u64,
    },
}

impl fmt::Display for Debtor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscription(name) => name.fmt(f),
            Self::Account { account, .. } => write!(f, "accounts/{account}"),
        }
    }
}

/// A resource that does not exist.
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
    /// The error as callers see it. The only mapping of variants to kinds and reasons. The violations of
    /// [`GatewayError::Invalid`] are not part of it.
    pub fn report(&self) -> ErrorReport {
        use ErrorKind::{
            AlreadyExists, Changed, DataLoss, DiskFull, EventConflict, Invalid, LimitReached, NotFound,
            Overloaded, Precondition, Unavailable,
        };
        let report = |kind, reason| ErrorReport::new(kind, reason, self.to_string());
        match self {
            Self::Invalid(_) => report(Invalid, "FIELD_INVALID"),
            Self::NotFound(resource) => {
                let (reason, kind) = match resource {
                    Resource::Subscription(name) if name.is_sink() => ("NOTICE_SINK_NOT_FOUND", NOTICE_SINK),
                    Resource::Subscription(_) => ("SUBSCRIPTION_NOT_FOUND", SUBSCRIPTION),
                    Resource::Event(_) => ("EVENT_NOT_FOUND", EVENT),
                    Resource::Delivery(_) => ("DELIVERY_NOT_FOUND", "tidings.v1.Delivery"),
                    Resource::AccessToken(_) => ("ACCESS_TOKEN_NOT_FOUND", "tidings.v1.AccessToken"),
                };
                report(NotFound, reason).resource(kind, resource)
            }
            Self::NameTaken(name) if name.is_sink() => report(AlreadyExists, "NOTICE_SINK_EXISTS")
                .violation("notice_sink_id", "is that of another sink")
                .resource(NOTICE_SINK, name),
            Self::NameTaken(name) => report(AlreadyExists, "SUBSCRIPTION_EXISTS")
                .violation("subscription_id", "is that of another subscription")
                .resource(SUBSCRIPTION, name),
            Self::UrlTaken(name) => report(AlreadyExists, "SUBSCRIPTION_EXISTS")
                .violation("subscription.url", "is that of another subscription of the account")
                .resource(SUBSCRIPTION, name),
            Self::RequestIdReused => report(AlreadyExists, "REQUEST_ID_REUSED")
                .violation("request_id", "was used before for another request"),
            Self::EventExists { name, .. } => report(EventConflict, "EVENT_EXISTS")
                .violation("event_id", "is that of another event")
                .resource(EVENT, name),
            Self::EtagMismatch(_) => report(Changed, "ETAG_MISMATCH"),
            Self::OwedDeliveries { subscription, count } => {
                report(Precondition, "UNDELIVERED_EVENTS").metadata("count", count).subject(subscription)
            }
            Self::TooManySecrets { subscription, max } => {
                report(Precondition, "ROTATIONS_OVERLAP").metadata("max", max).subject(subscription)
            }
            Self::DeliveryOver { name, .. } => report(Precondition, "DELIVERY_OVER").subject(name),
            Self::BackupRunning => report(Precondition, "BACKUP_RUNNING").subject(ALL_ACCOUNTS),
            Self::BackupTooSlow(_) => report(Precondition, "BACKUP_TOO_SLOW").subject(ALL_ACCOUNTS),
            Self::NothingToBackUp => report(Precondition, "NOTHING_TO_BACK_UP").subject(ALL_ACCOUNTS),
            Self::FirstTokenNotAdmin => report(Precondition, "FIRST_TOKEN_NOT_ADMIN")
                .violation("access_token.scopes", "must have SCOPE_ADMIN in the first token")
                .subject("accessTokens"),
            Self::TooManySubscriptions { account, max } => report(LimitReached, "SUBSCRIPTION_LIMIT")
                .limit(&Limit { name: "subscriptions_per_account_max", max: *max as u64 })
                .subject(&format_args!("accounts/{account}")),
            Self::TooManySinks { account, max } => report(LimitReached, "NOTICE_SINK_LIMIT")
                .metadata("max", max)
                .subject(&format_args!("accounts/{account}")),
            Self::TooManySubscriptionBytes { account, bytes, share, limit } => {
                report(LimitReached, "SUBSCRIPTION_LIMIT")
                    .limit(limit)
                    .metadata("bytes", bytes)
                    .metadata("share", share)
                    .subject(&format_args!("accounts/{account}"))
            }
            Self::TooManyTokens { limit, share } => report(LimitReached, "TOKEN_LIMIT")
                .limit(limit)
                .metadata("share", share)
                .subject(ALL_ACCOUNTS),
            Self::ShareUsedUp { account, limit, retry_after } => report(Overloaded, "OVERLOADED")
                .limit(limit)
                .subject(&format_args!("accounts/{account}"))
                .retry(*retry_after),
            Self::Overloaded { limit, retry_after } => {
                let report = report(Overloaded, "OVERLOADED").subject(ALL_ACCOUNTS).retry(*retry_after);
                limit.as_ref().into_iter().fold(report, ErrorReport::limit)
            }
            Self::StoreFull { account, owed_bytes, share, limit, retry_after } => {
                report(Overloaded, "STORE_FULL")
                    .limit(limit)
                    .metadata("owed_bytes", owed_bytes)
                    .metadata("share", share)
                    .subject(&format_args!("accounts/{account}"))
                    .retry(*retry_after)
            }
            Self::BacklogFull { debtor, owed, limit, retry_after } => {
                let report = report(Overloaded, "BACKLOG_FULL").limit(limit).metadata("owed", owed);
                let report = report.subject(debtor).retry(*retry_after);
                match debtor {
                    Debtor::Subscription(_) => report,
                    Debtor::Account { share, .. } => report.metadata("share", share),
                }
            }
            Self::DiskFull { retry_after } => report(DiskFull, "DISK_FULL").retry(*retry_after),
            Self::NoDescriptor { retry_after } => {
                report(Overloaded, "OVERLOADED").subject(ALL_ACCOUNTS).retry(*retry_after)
            }
            Self::ShuttingDown => report(Unavailable, "SHUTTING_DOWN").retry(UNAVAILABLE_RETRY_AFTER),
            Self::Storage(_) => {
                let message = "storage failed; the server's log says more. A write may have taken effect";
                ErrorReport::new(Unavailable, "STORAGE_FAILED", message).retry(UNAVAILABLE_RETRY_AFTER)
            }
            Self::ReadFailed(_) => {
                let message = "reading from the disk failed; the server's log says more. Nothing has changed";
                ErrorReport::new(Unavailable, "STORAGE_FAILED", message).retry(UNAVAILABLE_RETRY_AFTER)
            }
            Self::Damaged(damage) => {
                let what =
                    damage.event.as_ref().map_or_else(|| "a stored record".to_owned(), ToString::to_string);
                let message = format!(
                    "{what} is damaged on the disk; the server's log says where. Nothing has changed"
                );
                let report = ErrorReport::new(DataLoss, "RECORD_DAMAGED", message);
                damage.event.iter().fold(report, |report, event| report.resource(EVENT, event))
            }
        }
    }

    /// The limit that this setting sets is reached.
    pub fn overloaded(name: &'static str, max: usize) -> Self {
        let limit = Some(Limit { name, max: max as u64 });
        Self::Overloaded { limit, retry_after: OVERLOADED_RETRY_AFTER }
    }

    /// The account's share of this limit is used up, or the limit is reached.
    pub(super) fn share_used_up(account: AccountId, name: &'static str, max: usize) -> Self {
        let limit = Limit { name, max: max as u64 };
        Self::ShareUsedUp { account, limit, retry_after: OVERLOADED_RETRY_AFTER }
    }

    /// The subscription does not exist.
    pub fn no_subscription(name: &SubscriptionName) -> Self {
        Self::NotFound(Resource::Subscription(name.clone()))
    }

    /// The error of a call about `subscription` that the store rejected.
    pub(super) fn about(subscription: &SubscriptionName, error: StoreError) -> Self {
        match error {
            StoreError::SubscriptionNotFound => Self::no_subscription(subscription),
            StoreError::VersionMismatch => Self::EtagMismatch(subscription.clone()),
            StoreError::TooManySecrets => {
                Self::TooManySecrets { subscription: subscription.clone(), max: OLDER_SECRETS_MAX }
            }
            StoreError::Owed(count) => Self::OwedDeliveries { subscription: subscription.clone(), count },
            other => Self::from(other),
        }
    }
}

impl ErrorReport {
    fn new(kind: ErrorKind, reason: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(is_listed(reason), "{reason} is not in the list of reasons");
        Self {
            kind,
            reason,
            message: message.into(),
            resource: None,
            subject: None,
            violation: None,
            metadata: Vec::new(),
            retry_after: None,
        }
    }

    fn resource(self, kind: &'static str, name: &impl ToString) -> Self {
        Self { resource: Some((kind, name.to_string())), ..self }
    }

    fn subject(self, subject: &(impl ToString + ?Sized)) -> Self {
        Self { subject: Some(subject.to_string()), ..self }
    }

    fn violation(self, field: &'static str, rule: &'static str) -> Self {
        Self { violation: Some((field, rule)), ..self }
    }

    fn metadata(mut self, key: &'static str, value: &(impl ToString + ?Sized)) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    fn limit(self, limit: &Limit) -> Self {
        self.metadata("limit", limit.name).metadata("max", &limit.max)
    }

    fn retry(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

/// The limit and its value, for the end of a message.
fn reached(limit: Option<&Limit>) -> String {
    match limit {
        Some(Limit { name, max }) => format!("{name} is {max}"),
        None => "too many writes wait for the disk".to_owned(),
    }
}

/// A number of deliveries, in words.
fn unfinished(count: u64) -> String {
    let noun = if count == 1 { "delivery" } else { "deliveries" };
    format!("{count} unfinished {noun}")
}

fn share_of(debtor: &Debtor) -> String {
    match debtor {
        Debtor::Subscription(_) => String::new(),
        Debtor::Account { share, .. } => format!(", and its share is now {share}"),
    }
}

/// How a delivery ended, for the end of a message.
fn over(state: DeliveryState) -> &'static str {
    match state {
        DeliveryState::Succeeded => "succeeded",
        DeliveryState::Failed => "failed; RetryDelivery tries again",
        DeliveryState::Cancelled => "was cancelled",
        DeliveryState::Pending | DeliveryState::Retrying { .. } => "is still pending",
    }
}

/// Shortest wait before a retry while the disk is full.
const DISK_FULL_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Shortest wait before a retry in an overload. Commits take milliseconds, so it is over by then.
const OVERLOADED_RETRY_AFTER: Duration = Duration::from_millis(500);
/// Shortest wait before a retry while the gateway shuts down, its storage fails, or it has no file descriptor.
pub const UNAVAILABLE_RETRY_AFTER: Duration = Duration::from_secs(1);

impl From<StoreError> for GatewayError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NameTaken(name) => Self::NameTaken(name),
            StoreError::UrlTaken(name) => Self::UrlTaken(name),
            StoreError::RequestIdReused => Self::RequestIdReused,
            StoreError::Busy => Self::Overloaded { limit: None, retry_after: OVERLOADED_RETRY_AFTER },
            StoreError::Full => Self::DiskFull { retry_after: DISK_FULL_RETRY_AFTER },
            StoreError::NoDescriptor => Self::NoDescriptor { retry_after: UNAVAILABLE_RETRY_AFTER },
            StoreError::NothingOnDisk => Self::NothingToBackUp,
            StoreError::Closed => Self::ShuttingDown,
            StoreError::Failed(why) => Self::Storage(why),
            StoreError::ReadFailed(why) => Self::ReadFailed(why),
            StoreError::Damaged(damage) => Self::Damaged(damage),
            // Only calls that know the resource get these errors, and they map them. Elsewhere the store is
            // wrong.
            misplaced @ (StoreError::SubscriptionNotFound
            | StoreError::VersionMismatch
            | StoreError::TooManySecrets
            | StoreError::TooManyTokens { .. }
            | StoreError::Owed(_)
            | StoreError::TokenNotFound
            | StoreError::DeliveryNotFound
            | StoreError::DeliveryOver(_)
            | StoreError::EventExists { .. }) => Self::Storage(misplaced.to_string()),
        }
    }
}

impl From<FieldViolations> for GatewayError {
    fn from(violations: FieldViolations) -> Self {
        Self::Invalid(violations)
    }
}
