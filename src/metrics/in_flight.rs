//! Gauges of connections and calls under way, which go down by themselves.

use prometheus::IntGauge;

/// Counts connections, calls or requests under way.
#[derive(Clone, Debug)]
pub struct InFlightGauge(IntGauge);

/// One connection, call or request. It is counted until this is dropped.
#[derive(Debug)]
pub struct InFlightGuard(IntGauge);

impl InFlightGauge {
    pub(super) const fn new(gauge: IntGauge) -> Self {
        Self(gauge)
    }

    /// Counts one more until the guard is dropped.
    pub fn track(&self) -> InFlightGuard {
        self.0.inc();
        InFlightGuard(self.0.clone())
    }
}

impl Default for InFlightGauge {
    /// A gauge that is not exported.
    fn default() -> Self {
        Self(IntGauge::new("unregistered", "Not registered.").expect("the name is valid"))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
