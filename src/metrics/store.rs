//! What the store alone knows, as it is when somebody looks.

use std::time::Duration;

use prometheus::{Gauge, IntGauge, Registry};

use super::make::{gauge, labelled_float_gauges, labelled_gauges};

const OWED: [&str; 2] = ["pending", "retrying"];
const STATES: [&str; 3] = ["active", "paused", "suspended"];

/// How the store stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// Deliveries that wait for their first attempt.
    pub pending: u64,
    /// Deliveries that wait for another attempt.
    pub retrying: u64,
    /// How long ago the oldest event was stored that is pending for somebody; zero if none is.
    pub oldest_pending_age: Duration,
    /// How long ago the oldest event was stored that is being retried; zero if none is.
    pub oldest_retrying_age: Duration,
    /// Subscriptions that are active, paused and suspended.
    pub subscriptions: [u64; 3],
    /// What the files take up.
    pub disk_bytes: u64,
    /// Volumes that the events are in.
    pub volumes: u64,
    /// Writes that wait for the next commit.
    pub waiting_writes: u64,
    /// Bytes of events among them.
    pub waiting_bytes: u64,
}

/// The gauges that a report is shown by.
pub(super) struct StoreGauges {
    owed: Vec<IntGauge>,
    oldest_owed: Vec<Gauge>,
    subscriptions: Vec<IntGauge>,
    disk_bytes: IntGauge,
    volumes: IntGauge,
    waiting_writes: IntGauge,
    waiting_bytes: IntGauge,
}

impl StoreGauges {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            owed: labelled_gauges(
                r,
                "tidings_deliveries_owed",
                "Deliveries that are still to be made.",
                "state",
                &OWED,
            ),
            oldest_owed: labelled_float_gauges(
                r,
                "tidings_oldest_owed_age_seconds",
                "How long ago the oldest event was stored that is still owed; 0 if none is.",
                "state",
                &OWED,
            ),
            subscriptions: labelled_gauges(
                r,
                "tidings_subscriptions",
                "Subscriptions of all accounts.",
                "state",
                &STATES,
            ),
            disk_bytes: gauge(r, "tidings_store_disk_bytes", "What the store's files take up."),
            volumes: gauge(r, "tidings_store_volumes", "Volumes of some thousand events that are kept."),
            waiting_writes: gauge(
                r,
                "tidings_store_waiting_writes",
                "Writes of any kind that wait for the next commit.",
            ),
            waiting_bytes: gauge(
                r,
                "tidings_store_waiting_bytes",
                "Bytes of events that wait for the next commit.",
            ),
        }
    }

    pub(super) fn set(&self, report: &StoreReport) {
        let set = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.owed[0], report.pending);
        set(&self.owed[1], report.retrying);
        self.oldest_owed[0].set(report.oldest_pending_age.as_secs_f64());
        self.oldest_owed[1].set(report.oldest_retrying_age.as_secs_f64());
        for (gauge, count) in self.subscriptions.iter().zip(report.subscriptions) {
            set(gauge, count);
        }
        set(&self.disk_bytes, report.disk_bytes);
        set(&self.volumes, report.volumes);
        set(&self.waiting_writes, report.waiting_writes);
        set(&self.waiting_bytes, report.waiting_bytes);
    }
}
