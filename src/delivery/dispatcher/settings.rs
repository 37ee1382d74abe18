//! Settings of the dispatcher, and its limits.

use std::time::Duration;

use clap::Args;

use super::{notices::settings::NoticeSettings, suspension::SuspensionSettings};
use crate::{
    config::{
        declared_defaults,
        quantities::{bytes, count, duration},
    },
    domain::{delivery::LANE_WINDOW, give_up::GiveUpStatuses, retry::RetryPolicy},
};

/// Wait before repeating a read or a settlement that the store refused.
pub const STORE_RETRY_WAIT: Duration = Duration::from_millis(200);
/// Wait before an attempt that had no file descriptor is made again.
pub const DESCRIPTOR_RETRY_WAIT: Duration = Duration::from_secs(1);
/// POSTs under way at once that a subscription may ask for at most, from the contract
/// (`Subscription.max_in_flight`).
const MAX_IN_FLIGHT_MAX: u64 = 256;

/// Scheduling of deliveries.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Delivery")]
pub struct DispatchSettings {
    /// POSTs of one subscription under way at once, where the subscription does not say.
    #[arg(
        long, value_name = "COUNT", default_value = "32",
        value_parser = count::<u16>(1, MAX_IN_FLIGHT_MAX)
    )]
    pub max_in_flight: u16,
    /// POSTs under way at once over all subscriptions. One account has half of them at most, and a quarter once
    /// others want theirs.
    ///
    /// Raise it if deliveries wait while many endpoints are slow. Four times as many idle connections are
    /// kept open.
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = count::<usize>(16, 65_536))]
    pub attempts_in_flight_max: usize,
    /// Memory for prefetched deliveries. Near it each subscription prefetches fewer and reads on from the
    /// store.
    ///
    /// Raise it if many subscriptions have a backlog, lower it on a small machine.
    #[arg(
        long, value_name = "SIZE", default_value = "128MiB",
        value_parser = bytes::<usize>("1MiB", "64GiB")
    )]
    pub delivery_memory_max: usize,
    /// Conversations, contacts and inboxes that an ordered subscription keeps apart while their deliveries
    /// are pending.
    ///
    /// Past it the subscription reads no further until one is done. Raise it if the log says so.
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = count::<usize>(1, 1_000_000))]
    pub lane_order_keys_max: usize,
    /// Retries where the subscription does not set them.
    #[command(flatten)]
    pub retry: RetrySettings,
    /// Longest wait that an endpoint may ask for with Retry-After.
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = duration("0s", "7d"))]
    pub retry_after_max: Duration,
    /// Longest wait of a subscription between POSTs while its endpoint fails to respond, or sends 429 or 503.
    ///
    /// Raise it to relieve endpoints that are overloaded, lower it to use them again sooner.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration("100ms", "5m"))]
    pub throttle_wait_max: Duration,
    /// Suspension of subscriptions.
    #[command(flatten)]
    pub suspension: SuspensionSettings,
    /// Notices for operators.
    #[command(flatten)]
    pub notices: NoticeSettings,
    /// Deliveries in the prefetch of one subscription.
    #[arg(skip = LANE_WINDOW)]
    pub lane_window: usize,
    /// Prefetched deliveries of one conversation, contact or inbox. Further ones are read again.
    #[arg(skip = 8_usize)]
    pub lane_order_key_window: usize,
    /// Most concurrent store reads for lanes. At the start every lane with pending deliveries wants one.
    #[arg(skip = 16_usize)]
    pub reads_in_flight_max: usize,
}

/// Retries where the subscription does not set them.
#[derive(Args, Clone, Copy, Debug)]
pub struct RetrySettings {
    /// Attempts for a delivery in all, where the subscription does not say.
    #[arg(long, value_name = "COUNT", default_value = "12", value_parser = count::<u32>(1, 50))]
    pub retry_max_attempts: u32,
    /// Bound of the random wait before the second attempt, where the subscription does not say.
    ///
    /// It doubles with every further attempt.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration("10ms", "1d"))]
    pub retry_min_backoff: Duration,
    /// Bound of the longest wait, where the subscription does not say. At least retry_min_backoff.
    #[arg(long, value_name = "DURATION", default_value = "6h", value_parser = duration("10ms", "7d"))]
    pub retry_max_backoff: Duration,
}

impl RetrySettings {
    /// The policy of subscriptions that set none.
    pub fn policy(&self) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.retry_max_attempts,
            min_backoff: self.retry_min_backoff,
            max_backoff: self.retry_max_backoff,
            give_up: GiveUpStatuses::NONE,
        }
    }
}

impl DispatchSettings {
    /// Sets the limits that follow from other settings.
    pub fn derive(&mut self) {
        self.suspension.derive();
    }
}

impl Default for DispatchSettings {
    fn default() -> Self {
        let mut settings: Self = declared_defaults();
        settings.derive();
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        assert_eq!(DispatchSettings::default().retry.policy(), RetryPolicy::default());
    }
}
