//! When a failed delivery is tried again. Pure: time and randomness are passed in.

use std::time::Duration;

use super::{
    delivery::{Attempt, DeliveryState},
    time::UnixMicros,
};

/// When a failed delivery is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1.
    pub max_attempts: u32,
    /// The bound of the first wait.
    pub min_backoff: Duration,
    /// The bound of the longest wait; at least `min_backoff`.
    pub max_backoff: Duration,
}

impl RetryPolicy {
    /// How far a delivery is after its attempt number `attempts` (the first is 1) ended as `attempt` at `now`.
    pub fn next_state(
        &self,
        _attempt: &Attempt,
        _attempts: u32,
        _now: UnixMicros,
        _retry_after_max: Duration,
        _random: &mut impl rand::Rng,
    ) -> DeliveryState {
        unimplemented!()
    }
}
