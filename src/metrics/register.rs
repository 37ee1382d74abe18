//! Creates and registers series. Every name is a constant of this crate and is registered once.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, core::Collector,
};

use super::EventType;
use crate::event::catalogue;

const VALID: &str = "the name, the help and the buckets are valid";
const ONCE: &str = "each name is registered once";
const LABELS: &str = "one label was declared and one value is given";

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    registry.register(Box::new(collector.clone())).expect(ONCE);
    collector
}

/// Registers a counter.
pub(super) fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    registered(registry, IntCounter::new(name, help).expect(VALID))
}

/// Registers a counter for every value of a label, in the order of `values`.
pub(super) fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: &[impl AsRef<str>],
) -> Vec<IntCounter> {
    let all = registered(registry, IntCounterVec::new(Opts::new(name, help), &[label]).expect(VALID));
    values.iter().map(|value| all.get_metric_with_label_values(&[value.as_ref()]).expect(LABELS)).collect()
}

/// Registers a gauge.
pub(super) fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    registered(registry, IntGauge::new(name, help).expect(VALID))
}

/// Registers a gauge for every value of a label, in the order of `values`.
pub(super) fn labelled_gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: &[&str],
) -> Vec<IntGauge> {
    let all = registered(registry, IntGaugeVec::new(Opts::new(name, help), &[label]).expect(VALID));
    values.iter().map(|value| all.get_metric_with_label_values(&[value]).expect(LABELS)).collect()
}

/// Registers a gauge of fractions for every value of a label, in the order of `values`.
pub(super) fn labelled_float_gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: &[&str],
) -> Vec<Gauge> {
    let all = registered(registry, GaugeVec::new(Opts::new(name, help), &[label]).expect(VALID));
    values.iter().map(|value| all.get_metric_with_label_values(&[value]).expect(LABELS)).collect()
}

/// Registers a histogram with these upper bounds.
pub(super) fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    registered(registry, Histogram::with_opts(options).expect(VALID))
}

/// The label values of event types, by number from 1 on.
pub(super) fn event_types() -> Vec<String> {
    EventType::all().filter_map(catalogue::get).map(|descriptor| descriptor.name.to_owned()).collect()
}
