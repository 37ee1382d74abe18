//! Settings of the dispatcher.

use std::time::Duration;

use super::suspension::SuspensionSettings;
use crate::domain::retry::RetryPolicy;

/// Wait before repeating a read or a settlement that the store refused.
pub const STORE_RETRY_WAIT: Duration = Duration::from_millis(200);

/// Settings of the dispatcher. The defaults are the configuration's.
#[derive(Clone, Copy, Debug)]
pub struct DispatchSettings {
    /// Attempts in flight per subscription, unless the subscription sets its own limit.
    pub max_in_flight: u16,
    /// Deliveries in the prefetch of one subscription.
    pub lane_window: usize,
    /// Bytes of memory of all prefetches.
    pub lane_windows_bytes_max: usize,
    /// Order keys (conversations, contacts, inboxes) that one ordered subscription tracks.
    pub lane_order_keys_max: usize,
    /// Deliveries in the prefetch per order key.
    pub lane_order_key_window: usize,
    /// Concurrent reads of the store. At the start every subscription with pending deliveries wants one.
    pub reads_in_flight_max: usize,
    /// Attempts in flight of all subscriptions.
    pub attempts_in_flight_max: usize,
    /// Retry policy of subscriptions that set none.
    pub retry: RetryPolicy,
    /// Longest wait that an endpoint can request with `Retry-After`.
    pub retry_after_max: Duration,
    /// Longest wait of a throttled subscription whose endpoint does not respond, or is busy without
    /// `Retry-After`.
    pub pace_wait_max: Duration,
    /// When a subscription is suspended, and when it is probed.
    pub suspension: SuspensionSettings,
}
