//! A delivery of one event to one subscription, and its attempts.

use std::time::Duration;

use super::{
    ids::{Seq, SubscriptionKey},
    time::UnixMicros,
};

/// Most bytes kept of an error message (`DeliveryAttempt.error`).
pub const ERROR_BYTES_KEPT: usize = 512;

/// Deliveries in the prefetch of one subscription; further ones wait in the store.
pub const LANE_WINDOW: usize = 1024;
/// Most attempts kept and shown of one delivery (`Delivery.attempts`).
pub const ATTEMPTS_SHOWN_MAX: usize = 20;

/// Identifies a delivery by its event and its subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryKey {
    /// The event.
    pub seq: Seq,
    /// The subscription.
    pub subscription: SubscriptionKey,
}

/// The state of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeliveryState {
    /// Waiting for its first attempt.
    Pending,
    /// An attempt failed; the next one waits until it is due.
    Retrying {
        /// The steady time of the next attempt; the gateway shows people the wall clock's.
        due: UnixMicros,
    },
    /// The receiver responded with a 2xx status.
    Succeeded,
    /// Failed permanently.
    Failed,
    /// Cancelled by a caller.
    Cancelled,
}

impl DeliveryState {
    /// Whether both are the same state, ignoring the times of retries.
    pub fn is_same_kind(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }

    /// The time of the next attempt, if one is scheduled.
    pub fn due(self) -> Option<UnixMicros> {
        match self {
            Self::Retrying { due } => Some(due),
            _ => None,
        }
    }

    /// Whether another attempt will be made.
    pub fn is_owed(self) -> bool {
        matches!(self, Self::Pending | Self::Retrying { .. })
    }
}

/// The outcome of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A 2xx status.
    Ok,
    /// Another status.
    HttpStatus,
    /// No complete response before the timeout.
    Timeout,
    /// No connection: the name did not resolve, refused, or TLS failed.
    Connect,
    /// The connection broke before the response was complete.
    Io,
    /// The URL resolves to an address that the egress policy blocks.
    Blocked,
    /// Nothing was sent: the stored event is damaged. Of an attempt that is listed: its record is damaged, and
    /// how it ended is unknown.
    Damaged,
    /// Nothing was sent: the event waited for a paused subscription for longer than the operator allows.
    Expired,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Ok,
        Self::HttpStatus,
        Self::Timeout,
        Self::Connect,
        Self::Io,
        Self::Blocked,
        Self::Damaged,
        Self::Expired,
    ];

    /// What happened, and what the owner of the endpoint or the operator can do.
    pub fn explanation(self) -> (&'static str, &'static str) {
        match self {
            Self::Ok => ("The endpoint responded with 2xx.", "Nothing."),
            Self::HttpStatus => (
                "The endpoint responded with another status.",
                "Have it respond with 2xx once it has the event; its log says why it did not.",
            ),
            Self::Timeout => (
                "There was no connection, or no complete response, within the timeout.",
                "Have the endpoint respond first and work afterwards; or raise the subscription's `timeout` (30 s at most).",
            ),
            Self::Connect => (
                "No connection: the name did not resolve, nobody accepted it, or TLS failed.",
                "Correct the URL, its name, its port, its certificate, or the firewall in between.",
            ),
            Self::Io => (
                "The connection broke, or the response was not HTTP, before it was complete.",
                "Look at the endpoint's log and at proxies in between: something closes connections early.",
            ),
            Self::Blocked => (
                "The gateway does not POST to this address, or not with this header.",
                "Use a public address; or have the operator allow it (`egress_allow`, `egress_headers_deny`).",
            ),
            Self::Damaged => (
                "Nothing was sent: the stored event is damaged.",
                "Publish the event again under another id; the operator reads [damaged records](delivery.md#damaged-records).",
            ),
            Self::Expired => (
                "Nothing was sent: the event waited for a paused subscription for longer than `paused_backlog_age`.",
                "Resume subscriptions earlier, or have the operator raise the setting. RetryDelivery sends it nevertheless.",
            ),
        }
    }

    /// Whether a request was sent, or would have been if there had been a connection.
    pub fn is_of_request(self) -> bool {
        !matches!(self, Self::Damaged | Self::Expired)
    }
}

/// One POST and its outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Its start.
    pub start_time: UnixMicros,
    /// Its duration.
    pub duration: Duration,
    /// Its outcome.
    pub outcome: Outcome,
    /// The status of the response; 0 without one.
    pub http_status: u16,
    /// Human-readable error; empty on success. At most [`ERROR_BYTES_KEPT`].
    pub error: String,
    /// The start of the response body, converted to valid UTF-8. The webhook client bounds it
    /// (`response_body_kept`).
    pub response_body: String,
    /// The wait that the response asks for (`Retry-After`), before any cap.
    pub retry_after: Option<Duration>,
    /// How often the POST was sent again, after a connection ended before the receiver took it.
    pub resent: u32,
    /// The URL of the POST.
    pub url: String,
}

impl Attempt {
    /// In place of a POST of an event that is damaged.
    pub fn of_damaged_event(now: UnixMicros) -> Self {
        let error = "the stored event is damaged and was not sent; the gateway's log says where".to_owned();
        Self { start_time: now, ..Self::unsent(Outcome::Damaged, error) }
    }

    /// In place of a POST of an event that waited for a paused subscription for too long.
    pub fn of_expired_delivery(now: UnixMicros) -> Self {
        let error =
            "the event was not sent: it waited for a paused subscription for longer than paused_backlog_age";
        Self { start_time: now, ..Self::unsent(Outcome::Expired, error.to_owned()) }
    }

    /// In place of an attempt whose record is damaged. Its time is 0.
    pub fn of_damaged_record() -> Self {
        let error = "the record of this attempt is damaged; earlier ones are lost with it";
        Self::unsent(Outcome::Damaged, error.to_owned())
    }

    fn unsent(outcome: Outcome, error: String) -> Self {
        Self {
            start_time: UnixMicros(0),
            duration: Duration::ZERO,
            outcome,
            http_status: 0,
            error,
            response_body: String::new(),
            retry_after: None,
            resent: 0,
            url: String::new(),
        }
    }
}
