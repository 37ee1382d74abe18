//! A delivery, one event owed to one subscription, and its attempts.

use std::time::Duration;

use super::{
    ids::{Seq, SubscriptionKey},
    time::UnixMicros,
};

/// Most bytes kept of the start of an answer's body (`DeliveryAttempt.response_body`).
pub const RESPONSE_BYTES_KEPT: usize = 1024;
/// Most bytes kept of an error's text (`DeliveryAttempt.error`).
pub const ERROR_BYTES_KEPT: usize = 512;

/// Most attempts kept to be shown of one delivery (`Delivery.attempts`).
pub const ATTEMPTS_SHOWN_MAX: usize = 20;

/// Which delivery: the event's place, and the subscription's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryKey {
    /// The event.
    pub seq: Seq,
    /// The subscription.
    pub subscription: SubscriptionKey,
}

/// How far a delivery is. Every delivery is in exactly one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeliveryState {
    /// Waits for its first attempt.
    Pending,
    /// An attempt failed; another is made when it is due.
    Retrying {
        /// When that is.
        due: UnixMicros,
    },
    /// The receiver answered with a 2xx status.
    Succeeded,
    /// Given up.
    Failed,
    /// Ended by a caller.
    Cancelled,
}

impl DeliveryState {
    /// Whether both are the same state, whatever the times of retries.
    pub fn is_same_kind(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }

    /// When the next attempt is due, if one is made again.
    pub fn due(self) -> Option<UnixMicros> {
        match self {
            Self::Retrying { due } => Some(due),
            _ => None,
        }
    }

    /// Whether an attempt is still to be made.
    pub fn is_owed(self) -> bool {
        matches!(self, Self::Pending | Self::Retrying { .. })
    }
}

/// What came of a POST.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A 2xx status.
    Ok,
    /// Another status.
    HttpStatus,
    /// No complete answer in time.
    Timeout,
    /// No connection: the name did not resolve, refused, or TLS failed.
    Connect,
    /// The connection broke before the answer was complete.
    Io,
    /// The URL leads to an address that is not POSTed to.
    Blocked,
}

/// One POST and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// When it began.
    pub start_time: UnixMicros,
    /// How long it took.
    pub duration: Duration,
    /// What came of it.
    pub outcome: Outcome,
    /// The answer's status; 0 if there was none.
    pub http_status: u16,
    /// For people; empty on success. At most [`ERROR_BYTES_KEPT`].
    pub error: String,
    /// The start of the answer's body, made valid UTF-8. At most [`RESPONSE_BYTES_KEPT`].
    pub response_body: String,
    /// How long the answer asks to wait (`Retry-After`), before any cap.
    pub retry_after: Option<Duration>,
    /// Where it went.
    pub url: String,
}
