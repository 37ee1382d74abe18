//! Attempts over time, as several pages draw them.

use super::time;
use crate::{
    console::{
        api::{Api, Called},
        charts::{Bar, Bars},
        view::{self, Time},
    },
    proto::v1::{self, get_delivery_stats_request::Period},
};

/// Counts over time.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    pub(super) bars: Vec<Bar>,
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    pub(super) given_up: i64,
    /// The slowest of the buckets' medians and 95ths.
    pub(super) p50: String,
    pub(super) p95: String,
    pub(super) since: Option<Time>,
}

impl Stats {
    pub(super) fn bars(&self, title: &str) -> Bars {
        let (good, bad) = (view::number(self.succeeded), view::number(self.failed));
        Bars { label: format!("{title}: {good} succeeded, {bad} failed"), bars: self.bars.clone() }
    }

    pub(super) fn succeeded_shown(&self) -> String {
        view::number(self.succeeded)
    }

    pub(super) fn failed_shown(&self) -> String {
        view::number(self.failed)
    }

    pub(super) fn given_up_shown(&self) -> String {
        view::number(self.given_up)
    }
}

/// The counts of a subscription, an account, or everything.
pub(super) async fn stats(api: &Api, parent: &str, period: Period) -> Called<Stats> {
    let request = v1::GetDeliveryStatsRequest { parent: parent.to_owned(), period: period.into() };
    let response = api.deliveries().get_delivery_stats(api.request(request)).await?.into_inner();
    let mut stats = Stats { since: time(response.since_time), ..Stats::default() };
    for bucket in &response.buckets {
        stats.succeeded += bucket.succeeded_count();
        stats.failed += bucket.failed_attempt_count();
        stats.given_up += bucket.given_up_count();
        stats.bars.push(Bar { good: bucket.succeeded_count(), bad: bucket.failed_attempt_count() });
    }
    stats.p50 = view::proto_duration(response.latency_p50);
    stats.p95 = view::proto_duration(response.latency_p95);
    Ok(stats)
}
