//! The last hour of the gateway's gauges and rates, for the charts of the status page.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Samples of a minute.
pub(super) const SAMPLES_PER_MINUTE: usize = 4;
/// Time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(15);
/// Samples that are kept: an hour.
const SAMPLES_MAX: usize = 240;

/// One reading of the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Deliveries that are pending or retrying.
    pub(super) owed: f64,
    /// Age of the oldest of them, in seconds.
    pub(super) oldest: f64,
    /// Events accepted since the start.
    pub(super) accepted: f64,
    /// Attempts since the start.
    pub(super) attempts: f64,
    /// Attempts that failed since the start.
    pub(super) failed: f64,
    /// Commits since the start, and the seconds that they took.
    pub(super) commits: f64,
    pub(super) commit_seconds: f64,
    /// Bytes of files.
    pub(super) disk: f64,
    /// Lanes that go slower than they may.
    pub(super) slowed: f64,
    /// Subscriptions that are suspended.
    pub(super) suspended: f64,
    /// Attempts under way.
    pub(super) in_flight: f64,
    /// Publishes that were refused since the start.
    pub(super) refused: f64,
    /// Those of them that the disk could not store.
    pub(super) refused_by_disk: f64,
    /// Records that the disk has lost, found since the start.
    pub(super) damaged: f64,
    /// Connections of gRPC clients.
    pub(super) connections: f64,
    /// Whether the store has reported.
    pub(super) has_store: bool,
}

/// The samples of the last hour.
#[derive(Default)]
pub(super) struct History(Mutex<VecDeque<Sample>>);

impl History {
    /// Takes samples until the shutdown.
    pub(super) async fn keep(self: Arc<Self>, metrics: Arc<Metrics>, shutdown: CancellationToken) {
        let mut ticks = interval(SAMPLE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
            let Some(sample) = read(Arc::clone(&metrics)).await else { continue };
            let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if samples.len() == SAMPLES_MAX {
                samples.pop_front();
            }
            samples.push_back(sample);
        }
    }

    /// The samples, the oldest first.
    pub(super) fn samples(&self) -> Vec<Sample> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// Reads the metrics now. The store looks at the disk for it, so that happens where blocking is allowed.
pub(super) async fn read(metrics: Arc<Metrics>) -> Option<Sample> {
    tokio::task::spawn_blocking(move || Sample::parse(&metrics.text())).await.ok()
}

impl Sample {
    /// Reads the text of `/metrics`. A family with labels is the sum of its series.
    fn parse(text: &str) -> Self {
        let mut families: HashMap<&str, f64> = HashMap::new();
        let (mut failed, mut suspended, mut oldest, mut refused_by_disk) = (0.0, 0.0, 0.0_f64, 0.0);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            *families.entry(name).or_default() += value;
            match name {
                "tidings_attempts_total" if !labels.contains("\"ok\"") => failed += value,
                "tidings_publishes_refused_total"
                    if labels.contains("\"STORAGE_FAILED\"") || labels.contains("\"DISK_FULL\"") =>
                {
                    refused_by_disk += value;
                }
                "tidings_subscriptions" if labels.contains("\"suspended\"") => suspended = value,
                "tidings_oldest_owed_age_seconds" => oldest = oldest.max(value),
                _ => {}
            }
        }
        let family = |name: &str| families.get(name).copied().unwrap_or_default();
        Self {
            owed: family("tidings_deliveries_owed"),
            oldest,
            accepted: family("tidings_events_accepted_total"),
            attempts: family("tidings_attempts_total"),
            failed,
            commits: family("tidings_commits_total"),
            commit_seconds: family("tidings_commit_duration_seconds_sum"),
            disk: family("tidings_store_disk_bytes"),
            slowed: family("tidings_lanes_slowed"),
            suspended,
            in_flight: family("tidings_attempts_in_flight"),
            refused: family("tidings_publishes_refused_total"),
            refused_by_disk,
            damaged: family("tidings_records_damaged_total"),
            connections: family("tidings_grpc_connections"),
            has_store: families.contains_key("tidings_deliveries_owed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_sums_the_series_of_each_family() {
        let text = "# HELP tidings_deliveries_owed x\n\
                    tidings_deliveries_owed{state=\"pending\"} 3\n\
                    tidings_deliveries_owed{state=\"retrying\"} 4\n\
                    tidings_attempts_total{outcome=\"ok\"} 10\n\
                    tidings_attempts_total{outcome=\"timeout\"} 2\n\
                    tidings_oldest_owed_age_seconds{state=\"pending\"} 1.5\n\
                    tidings_oldest_owed_age_seconds{state=\"retrying\"} 60\n\
                    tidings_publishes_refused_total{reason=\"DISK_FULL\"} 2\n\
                    tidings_publishes_refused_total{reason=\"OVERLOADED\"} 3\n\
                    tidings_publishes_refused_total{reason=\"STORAGE_FAILED\"} 4\n\
                    tidings_subscriptions{state=\"suspended\"} 1\n";
        let sample = Sample::parse(text);
        assert_eq!((sample.owed, sample.attempts, sample.failed), (7.0, 12.0, 2.0));
        assert_eq!((sample.oldest, sample.suspended, sample.has_store), (60.0, 1.0, true));
        assert_eq!((sample.refused, sample.refused_by_disk), (9.0, 6.0));
    }

    #[test]
    fn the_names_are_those_of_the_metrics() {
        let text = Metrics::new(crate::domain::time::UnixMicros(0)).text();
        for name in [
            "tidings_attempts_total",
            "tidings_commits_total",
            "tidings_commit_duration_seconds_sum",
            "tidings_lanes_slowed",
            "tidings_attempts_in_flight",
            "tidings_publishes_refused_total",
            "tidings_records_damaged_total",
            "tidings_grpc_connections",
            "tidings_events_accepted_total",
        ] {
            assert!(text.contains(name), "{name}");
        }
    }
}
