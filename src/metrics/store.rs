//! The store's figures, read when the metrics are rendered.

use std::time::Duration;

use prometheus::{Gauge, IntGauge, Registry};

use super::register::{gauge, labelled_float_gauges, labelled_gauges};

const OWED: [&str; 2] = ["pending", "retrying"];
const STATES: [&str; 3] = ["active", "paused", "suspended"];

/// Figures of the store at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// Deliveries that wait for their first attempt.
    pub pending: u64,
    /// Deliveries that wait for another attempt.
    pub retrying: u64,
    /// Bytes that the store must keep for both.
    pub owed_bytes: u64,
    /// Age of the oldest event with a pending delivery; zero without one.
    pub oldest_pending_age: Duration,
    /// Age of the oldest event with a delivery that is being retried; zero without one.
    pub oldest_retrying_age: Duration,
    /// Subscriptions that are active, paused and suspended.
    pub subscriptions: [u64; 3],
    /// Bytes that they count for of the bound on them.
    pub subscription_bytes: u64,
    /// Size of the files.
    pub disk_bytes: u64,
    /// Volumes of events.
    pub volumes: u64,
    /// Writes that wait for the next commit.
    pub waiting_writes: u64,
    /// Bytes of events among them.
    pub waiting_bytes: u64,
}

/// The gauges that show a [`StoreReport`].
pub(super) struct StoreGauges {
    owed: Vec<IntGauge>,
    owed_bytes: IntGauge,
    oldest_owed: Vec<Gauge>,
    subscriptions: Vec<IntGauge>,
    subscription_bytes: IntGauge,
    disk_bytes: IntGauge,
    volumes: IntGauge,
    waiting_writes: IntGauge,
    waiting_bytes: IntGauge,
}

impl StoreGauges {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            owed: labelled_gauges(r, "tidings_deliveries_owed", "Unfinished deliveries.", "state", &OWED),
            owed_bytes: gauge(
                r,
                "tidings_store_owed_bytes",
                "Bytes that the store must keep for unfinished deliveries.",
            ),
            oldest_owed: labelled_float_gauges(
                r,
                "tidings_oldest_owed_age_seconds",
                "Age of the oldest event with an unfinished delivery; 0 without one.",
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
            subscription_bytes: gauge(
                r,
                "tidings_subscription_bytes",
                "Bytes of all subscriptions in memory, as subscription_bytes_max counts them.",
            ),
            disk_bytes: gauge(r, "tidings_store_disk_bytes", "Size of the store's files, in bytes."),
            volumes: gauge(
                r,
                "tidings_store_volumes",
                "Volumes (blocks of a few thousand events) in the store.",
            ),
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
        set(&self.owed_bytes, report.owed_bytes);
        self.oldest_owed[0].set(report.oldest_pending_age.as_secs_f64());
        self.oldest_owed[1].set(report.oldest_retrying_age.as_secs_f64());
        for (gauge, count) in self.subscriptions.iter().zip(report.subscriptions) {
            set(gauge, count);
        }
        set(&self.subscription_bytes, report.subscription_bytes);
        set(&self.disk_bytes, report.disk_bytes);
        set(&self.volumes, report.volumes);
        set(&self.waiting_writes, report.waiting_writes);
        set(&self.waiting_bytes, report.waiting_bytes);
    }
}
