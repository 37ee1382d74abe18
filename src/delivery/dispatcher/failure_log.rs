//! The log lines of a subscription that begins to fail, and that works again: one of each for a streak of failures, and
//! at most once a minute for one whose endpoint comes and goes.

use std::time::Duration;

use foldhash::{HashMap, HashSet};

use crate::domain::{delivery::Attempt, ids::SubscriptionKey, subscription::Subscription, time::UnixMicros};

/// Least time between two streaks of a subscription that are logged.
const INTERVAL: Duration = Duration::from_mins(1);
/// Subscriptions whose last line is remembered before those past the interval are dropped.
const REMEMBERED: usize = 1024;

/// The streaks that were logged.
#[derive(Default)]
pub(super) struct FailureLog {
    /// Subscriptions that were logged as failing, and not as working again.
    failing: HashSet<SubscriptionKey>,
    /// The steady time of each subscription's last line.
    logged: HashMap<SubscriptionKey, UnixMicros>,
    /// How many to remember before the next look for those that can be dropped.
    remembered: usize,
}

impl FailureLog {
    /// Handles a failed attempt of an active subscription at the steady time `now`.
    pub(super) fn failed(&mut self, subscription: &Subscription, attempt: &Attempt, now: UnixMicros) {
        let id = subscription.key;
        let is_recent = |at: &UnixMicros| now.since(*at) < INTERVAL;
        if self.failing.contains(&id) || self.logged.get(&id).is_some_and(is_recent) {
            return;
        }
        if self.logged.len() >= self.remembered.max(REMEMBERED) {
            self.logged.retain(|_, at| is_recent(at));
            self.remembered = 2 * self.logged.len();
        }
        self.failing.insert(id);
        self.logged.insert(id, now);
        tracing::warn!(
            subscription.name = %subscription.name, subscription.display_name = subscription.settings.display_name,
            http.status = attempt.http_status, error = attempt.error, "subscription begins to fail",
        );
    }

    /// Handles an attempt that succeeded.
    pub(super) fn succeeded(&mut self, subscription: &Subscription) {
        if self.failing.remove(&subscription.key) {
            tracing::info!(
                subscription.name = %subscription.name, subscription.display_name = subscription.settings.display_name,
                "subscription works again",
            );
        }
    }

    /// Forgets a deleted subscription.
    pub(super) fn forget(&mut self, id: SubscriptionKey) {
        self.failing.remove(&id);
        self.logged.remove(&id);
    }
}
