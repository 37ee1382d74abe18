//! Settings of notices, and their limits.

use std::time::Duration;

use clap::Args;

use crate::config::{
    declared_defaults,
    quantities::{count, duration},
};

/// When sinks get notices.
#[derive(Args, Clone, Copy, Debug)]
pub struct NoticeSettings {
    /// Time of nothing but failed attempts after which the sinks of notices get endpoint.failing.
    ///
    /// Lower it to hear of outages sooner, raise it if endpoints are often away for a while.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration("1s", "30d"))]
    pub notice_failing_after: Duration,
    /// Shortest time between two notices of failed deliveries (delivery.failed) of one subscription. Those that fail
    /// meanwhile are in the next one, by number.
    ///
    /// Raise it to get fewer notices.
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = duration("1s", "1d"))]
    pub notice_interval: Duration,
    /// Unfinished deliveries of one subscription from which on the sinks of notices get backlog.growing, and again
    /// each time that they have doubled.
    ///
    /// Set it above what a healthy endpoint is owed at its peak.
    #[arg(
        long, value_name = "COUNT", default_value = "100000",
        value_parser = count::<u64>(1, 1_000_000_000)
    )]
    pub notice_backlog: u64,
    /// Interval between looks at the backlogs.
    #[arg(skip = Duration::from_secs(2))]
    pub backlog_interval: Duration,
    /// Unfinished notices of one sink at most: further ones are dropped for it.
    #[arg(skip = 10_000_u64)]
    pub owed_notices_max: u64,
    /// Subscriptions of one batch of notices at most.
    #[arg(skip = 64_usize)]
    pub batch_max: usize,
}

impl Default for NoticeSettings {
    fn default() -> Self {
        declared_defaults()
    }
}
