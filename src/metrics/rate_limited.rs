//! The subscriptions whose deliveries wait for their rate limit.

use std::sync::{Mutex, PoisonError};

use foldhash::{HashSet, HashSetExt};
use prometheus::IntGauge;

use crate::domain::ids::SubscriptionKey;

/// Which subscriptions wait for their rate limit now, and how many.
pub struct RateLimited {
    waiting: Mutex<HashSet<SubscriptionKey>>,
    count: IntGauge,
}

impl RateLimited {
    pub(super) fn new(count: IntGauge) -> Self {
        Self { waiting: Mutex::new(HashSet::new()), count }
    }

    /// Notes whether a subscription waits.
    pub fn set(&self, subscription: SubscriptionKey, waits: bool) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waits {
            waiting.insert(subscription);
        } else {
            waiting.remove(&subscription);
        }
        self.count.set(i64::try_from(waiting.len()).unwrap_or(i64::MAX));
    }

    /// Whether a subscription waits.
    pub fn waits(&self, subscription: SubscriptionKey) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).contains(&subscription)
    }
}
