//! Settings of the dispatcher.

use std::time::Duration;

use super::suspension::SuspensionSettings;
use crate::domain::retry::RetryPolicy;

/// Wait before repeating a read or a settlement that the store refused.
pub const STORE_RETRY_WAIT: Duration = Duration::from_millis(200);

/// How the dispatcher works. The defaults are the configuration's.
#[derive(Clone, Copy, Debug)]
pub struct DispatchSettings {
    /// POSTs of one subscription under way at once, where it does not say itself.
    pub max_in_flight: u16,
    /// Deliveries of one subscription kept in memory before they are sent.
    pub lane_window: usize,
    /// Bytes of memory of all deliveries that are kept so.
    pub lane_windows_bytes_max: usize,
    /// Conversations and the like that the lane of one ordered subscription keeps apart.
    pub lane_order_keys_max: usize,
    /// Deliveries of each of these kept in memory.
    pub lane_order_key_window: usize,
    /// Reads of the store for lanes at once. At the start every lane that owes something wants one.
    pub reads_in_flight_max: usize,
    /// Attempts under way at once, over all subscriptions.
    pub attempts_in_flight_max: usize,
    /// Where a subscription does not say itself.
    pub retry: RetryPolicy,
    /// The longest wait that an answer can ask for with `Retry-After`.
    pub retry_after_max: Duration,
    /// The longest wait of a lane whose endpoint gives no answer, or is busy and does not say for how long.
    pub pace_wait_max: Duration,
    /// When a subscription is suspended, and when it is probed.
    pub suspension: SuspensionSettings,
}
