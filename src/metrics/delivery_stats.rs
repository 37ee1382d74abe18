//! Attempts over time, and the latest results of each subscription: for people who ask how an endpoint fares.
//! In memory, and empty after a start. Counts are kept of a bounded number of subscriptions, the latest results (about
//! a hundred bytes) of every one that exists, so that none that fails is forgotten.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    domain::{
        delivery::{Attempt, DeliveryKey, Outcome},
        ids::{Seq, SubscriptionKey},
        time::UnixMicros,
    },
    event::exchange::Exchange,
};

/// Subscriptions that are counted separately. Past it the one that was idle longest is forgotten.
const SUBSCRIPTIONS_MAX: usize = 4096;
/// Locks, so that attempts of different subscriptions seldom wait for each other.
const SHARDS: usize = 16;
/// Classes of durations: each is twice as long as the one before.
const CLASSES: usize = 17;
/// The longest duration of the first class.
const FIRST_CLASS_MICROS: u64 = 500;
/// Attempts of a subscription whose exchange is kept: those that failed, and those that succeeded.
const FAILURES_KEPT: usize = 8;
const SUCCESSES_KEPT: usize = 4;
/// Most bytes that are kept of an error.
const ERROR_BYTES_MAX: usize = 256;

/// The span of time that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsPeriod {
    /// 60 buckets of a minute.
    Hour,
    /// 168 buckets of an hour.
    Week,
}

impl StatsPeriod {
    /// The number of its buckets.
    pub const fn buckets(self) -> usize {
        match self {
            Self::Hour => 60,
            Self::Week => 168,
        }
    }

    /// The length of one bucket.
    pub const fn bucket(self) -> Duration {
        match self {
            Self::Hour => Duration::from_mins(1),
            Self::Week => Duration::from_hours(1),
        }
    }

    /// The number of the bucket that a moment is in, since 1970.
    fn number(self, time: UnixMicros) -> i64 {
        let seconds = i64::try_from(self.bucket().as_secs()).unwrap_or(i64::MAX);
        time.seconds().div_euclid(seconds)
    }
}

/// The attempts of one bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AttemptCounts {
    /// Attempts that succeeded.
    pub succeeded: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Deliveries that failed for good.
    pub given_up: u64,
    classes: [u32; CLASSES],
}

impl AttemptCounts {
    /// The duration that this part of the attempts stayed within, from 0 to 100; accurate to a factor of two.
    /// `None` without attempts.
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let all: u64 = self.classes.iter().copied().map(u64::from).sum();
        let rank = (all * percent).div_ceil(100).max(1);
        let mut seen = 0;
        for (class, count) in self.classes.iter().enumerate().filter(|(_, count)| **count > 0) {
            seen += u64::from(*count);
            if seen >= rank {
                return Some(Duration::from_micros(FIRST_CLASS_MICROS << class));
            }
        }
        None
    }

    fn add(&mut self, other: &Self) {
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.given_up += other.given_up;
        for (class, more) in self.classes.iter_mut().zip(other.classes) {
            *class = class.saturating_add(more);
        }
    }

    fn note(&mut self, succeeded: bool, given_up: bool, took: Duration) {
        if succeeded {
            self.succeeded += 1;
        } else {
            self.failed += 1;
        }
        self.given_up += u64::from(given_up);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = (0..CLASSES).find(|class| micros <= FIRST_CLASS_MICROS << class).unwrap_or(CLASSES - 1);
        self.classes[class] = self.classes[class].saturating_add(1);
    }
}

/// Attempts over a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsReport {
    /// The beginning of the first bucket.
    pub start: UnixMicros,
    /// All buckets, the latest last.
    pub buckets: Vec<AttemptCounts>,
}

impl StatsReport {
    /// The sum of all buckets.
    pub fn total(&self) -> AttemptCounts {
        self.buckets.iter().fold(AttemptCounts::default(), |mut total, bucket| {
            total.add(bucket);
            total
        })
    }
}

/// The latest results of a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatestResults {
    /// The first of the failures since the last success.
    pub failing_since: Option<UnixMicros>,
    /// The latest success.
    pub last_success: Option<UnixMicros>,
    /// The latest failure.
    pub last_failure: Option<UnixMicros>,
    /// The error of the latest failure.
    pub last_error: String,
}

/// The counts of all subscriptions.
pub struct DeliveryStats {
    since: UnixMicros,
    shards: [Mutex<Shard>; SHARDS],
    latest: [Mutex<LatestShard>; SHARDS],
}

type Shard = foldhash::HashMap<SubscriptionKey, Lane>;
type LatestShard = foldhash::HashMap<SubscriptionKey, LatestResults>;

/// The wire's side of one attempt: of which event, and when it started.
type Recent = (Seq, UnixMicros, Box<Exchange>);

#[derive(Default)]
struct Lane {
    minutes: Ring,
    hours: Ring,
    noted: UnixMicros,
    recent_successes: VecDeque<Recent>,
    recent_failures: VecDeque<Recent>,
}

/// The buckets that have attempts, by their numbers.
#[derive(Default)]
struct Ring(VecDeque<(i64, AttemptCounts)>);

impl DeliveryStats {
    pub(super) fn new(since: UnixMicros) -> Self {
        Self { since, shards: Default::default(), latest: Default::default() }
    }

    /// When counting began.
    pub fn since(&self) -> UnixMicros {
        self.since
    }

    /// Counts an attempt that ended at `now`; `given_up` if no other will be made of its delivery.
    pub fn note(
        &self,
        delivery: DeliveryKey,
        attempt: &Attempt,
        exchange: Box<Exchange>,
        given_up: bool,
        now: UnixMicros,
    ) {
        let subscription = delivery.subscription;
        let succeeded = attempt.outcome == Outcome::Ok;
        let mut shard = self.shard(subscription);
        if shard.len() >= SUBSCRIPTIONS_MAX / SHARDS && !shard.contains_key(&subscription) {
            let idlest = shard.iter().min_by_key(|(_, lane)| lane.noted).map(|(key, _)| *key);
            idlest.and_then(|key| shard.remove(&key));
        }
        let lane = shard.entry(subscription).or_default();
        lane.noted = now;
        for (ring, period) in [(&mut lane.minutes, StatsPeriod::Hour), (&mut lane.hours, StatsPeriod::Week)] {
            ring.bucket(period, now).note(succeeded, given_up, attempt.duration);
        }
        let (recent, max) = if succeeded {
            (&mut lane.recent_successes, SUCCESSES_KEPT)
        } else {
            (&mut lane.recent_failures, FAILURES_KEPT)
        };
        if recent.len() == max {
            recent.pop_front();
        }
        recent.push_back((delivery.seq, attempt.start_time, exchange));
        drop(shard);
        let mut shard = self.latest_shard(subscription);
        let latest = shard.entry(subscription).or_default();
        if succeeded {
            latest.failing_since = None;
            latest.last_success = Some(now);
        } else {
            latest.failing_since.get_or_insert(attempt.start_time);
            latest.last_failure = Some(now);
            latest.last_error.clear();
            let end = attempt.error.floor_char_boundary(ERROR_BYTES_MAX);
            latest.last_error.push_str(&attempt.error[..end]);
        }
    }

    /// The latest results of a subscription; `None` if no attempt was counted.
    pub fn latest(&self, subscription: SubscriptionKey) -> Option<LatestResults> {
        self.latest_shard(subscription).get(&subscription).cloned()
    }

    /// Whether the latest attempt of a subscription failed; `None` if no attempt was counted.
    pub fn is_failing(&self, subscription: SubscriptionKey) -> Option<bool> {
        self.latest_shard(subscription).get(&subscription).map(|latest| latest.failing_since.is_some())
    }

    /// Forgets a deleted subscription.
    pub fn forget(&self, subscription: SubscriptionKey) {
        self.shard(subscription).remove(&subscription);
        self.latest_shard(subscription).remove(&subscription);
    }

    /// Forgets all subscriptions that do not exist.
    pub fn retain(&self, exists: impl Fn(SubscriptionKey) -> bool) {
        for shard in &self.latest {
            shard.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| exists(*key));
        }
    }

    /// The wire's side of an attempt; `None` if it is no longer kept.
    pub fn exchange(&self, delivery: DeliveryKey, start_time: UnixMicros) -> Option<Exchange> {
        let shard = self.shard(delivery.subscription);
        let lane = shard.get(&delivery.subscription)?;
        let mut all = lane.recent_failures.iter().chain(&lane.recent_successes);
        let found = all.find(|(seq, start, _)| *seq == delivery.seq && *start == start_time);
        found.map(|(_, _, exchange)| Exchange::clone(exchange))
    }

    /// The attempts of these subscriptions together, up to `now`.
    pub fn report(
        &self,
        subscriptions: impl IntoIterator<Item = SubscriptionKey>,
        period: StatsPeriod,
        now: UnixMicros,
    ) -> StatsReport {
        let count = i64::try_from(period.buckets()).unwrap_or(i64::MAX);
        let first = period.number(now) + 1 - count;
        let mut buckets = vec![AttemptCounts::default(); period.buckets()];
        for subscription in subscriptions {
            let shard = self.shard(subscription);
            let Some(lane) = shard.get(&subscription) else { continue };
            for (number, counts) in &lane.ring(period).0 {
                if let Some(bucket) =
                    usize::try_from(number - first).ok().and_then(|place| buckets.get_mut(place))
                {
                    bucket.add(counts);
                }
            }
        }
        let micros = i64::try_from(period.bucket().as_micros()).unwrap_or(i64::MAX);
        StatsReport { start: UnixMicros(first.saturating_mul(micros)), buckets }
    }

    fn shard(&self, subscription: SubscriptionKey) -> MutexGuard<'_, Shard> {
        self.shards[place(subscription)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn latest_shard(&self, subscription: SubscriptionKey) -> MutexGuard<'_, LatestShard> {
        self.latest[place(subscription)].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of its shard.
fn place(subscription: SubscriptionKey) -> usize {
    usize::try_from(subscription.0).unwrap_or_default() % SHARDS
}

impl Lane {
    fn ring(&self, period: StatsPeriod) -> &Ring {
        match period {
            StatsPeriod::Hour => &self.minutes,
            StatsPeriod::Week => &self.hours,
        }
    }
}

impl Ring {
    /// The bucket of `now`, or the latest one if the clock has stepped back.
    fn bucket(&mut self, period: StatsPeriod, now: UnixMicros) -> &mut AttemptCounts {
        let number = period.number(now);
        let oldest = number - i64::try_from(period.buckets()).unwrap_or(i64::MAX);
        while self.0.front().is_some_and(|(first, _)| *first <= oldest) {
            self.0.pop_front();
        }
        if self.0.back().is_none_or(|(last, _)| *last < number) {
            self.0.push_back((number, AttemptCounts::default()));
        }
        &mut self.0.back_mut().expect("one was pushed if there was none").1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMicros = UnixMicros(1_700_000_000_000_000);
    const ONE: SubscriptionKey = SubscriptionKey(1);

    fn attempt(outcome: Outcome, millis: u64) -> Attempt {
        Attempt {
            start_time: NOW,
            duration: Duration::from_millis(millis),
            outcome,
            http_status: 200,
            error: if outcome == Outcome::Ok { String::new() } else { "no".to_owned() },
            response_body: String::new(),
            retry_after: None,
            resent: 0,
            url: String::new(),
        }
    }

    fn note(stats: &DeliveryStats, subscription: u64, attempt: &Attempt, given_up: bool, now: UnixMicros) {
        let delivery = DeliveryKey { seq: Seq(7), subscription: SubscriptionKey(subscription) };
        stats.note(delivery, attempt, Box::default(), given_up, now);
    }

    #[test]
    fn the_exchanges_of_the_latest_attempts_are_kept() {
        let stats = DeliveryStats::new(NOW);
        let at = |number: u64| NOW.plus(Duration::from_secs(number));
        for number in 0..20 {
            let attempt = Attempt { start_time: at(number), ..attempt(Outcome::Io, 1) };
            note(&stats, 1, &attempt, false, at(number));
        }
        let delivery = DeliveryKey { seq: Seq(7), subscription: ONE };
        let kept = (0..20).filter(|number| stats.exchange(delivery, at(*number)).is_some());
        assert_eq!(kept.collect::<Vec<_>>(), (12..20).collect::<Vec<_>>());
        assert!(stats.exchange(DeliveryKey { seq: Seq(8), ..delivery }, at(19)).is_none());
    }

    #[test]
    fn attempts_are_counted_in_their_minute_and_forgotten_after_the_period() {
        let stats = DeliveryStats::new(NOW);
        let minutes = |minutes: u64| NOW.plus(Duration::from_mins(minutes));
        note(&stats, 1, &attempt(Outcome::Ok, 3), false, NOW);
        note(&stats, 1, &attempt(Outcome::Timeout, 900), true, minutes(1));
        let hour = stats.report([ONE, SubscriptionKey(2)], StatsPeriod::Hour, minutes(1));
        assert_eq!(hour.buckets.len(), 60);
        let last = &hour.buckets[58..];
        assert_eq!((last[0].succeeded, last[0].failed), (1, 0));
        assert_eq!((last[1].succeeded, last[1].failed, last[1].given_up), (0, 1, 1));
        assert_eq!(stats.report([ONE], StatsPeriod::Hour, minutes(60)).total().failed, 1);
        assert_eq!(stats.report([ONE], StatsPeriod::Hour, minutes(61)).total(), AttemptCounts::default());
        assert_eq!(stats.report([ONE], StatsPeriod::Week, minutes(61)).total().succeeded, 1);
    }

    #[test]
    fn percentiles_are_within_a_factor_of_two() {
        let mut counts = AttemptCounts::default();
        assert_eq!(counts.percentile(50), None);
        for millis in 1..=100 {
            counts.note(true, false, Duration::from_millis(millis));
        }
        for (percent, exact) in [(50, 50), (95, 95), (100, 100)] {
            let shown = counts.percentile(percent).unwrap();
            assert!(
                shown >= Duration::from_millis(exact) && shown <= Duration::from_millis(2 * exact),
                "{shown:?}"
            );
        }
        counts.note(true, false, Duration::from_hours(1));
        assert!(counts.percentile(100).is_some());
    }

    #[test]
    fn a_streak_of_failures_begins_with_its_first_and_ends_with_a_success() {
        let stats = DeliveryStats::new(NOW);
        let later = NOW.plus(Duration::from_secs(5));
        note(&stats, 1, &attempt(Outcome::Io, 1), false, later);
        note(&stats, 1, &attempt(Outcome::Io, 1), false, later);
        let failing = stats.latest(ONE).unwrap();
        assert_eq!((failing.failing_since, failing.last_error.as_str()), (Some(NOW), "no"));
        note(&stats, 1, &attempt(Outcome::Ok, 1), false, later);
        let fine = stats.latest(ONE).unwrap();
        assert_eq!(
            (fine.failing_since, fine.last_success, fine.last_failure),
            (None, Some(later), Some(later))
        );
    }

    #[test]
    fn the_number_of_subscriptions_is_bounded() {
        let stats = DeliveryStats::new(NOW);
        for number in 0..2 * SUBSCRIPTIONS_MAX as u64 {
            note(&stats, number, &attempt(Outcome::Ok, 1), false, NOW.plus(Duration::from_micros(number)));
        }
        let kept: usize = stats.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(kept, SUBSCRIPTIONS_MAX);
    }

    #[test]
    fn a_subscription_that_fails_is_known_however_many_there_are_until_it_is_deleted() {
        let stats = DeliveryStats::new(NOW);
        note(&stats, 0, &attempt(Outcome::Io, 1), false, NOW);
        for number in 1..2 * SUBSCRIPTIONS_MAX as u64 {
            note(&stats, number, &attempt(Outcome::Ok, 1), false, NOW.plus(Duration::from_micros(number)));
        }
        let first = SubscriptionKey(0);
        assert_eq!((stats.is_failing(first), stats.is_failing(ONE)), (Some(true), Some(false)));
        assert_eq!(stats.latest(first).unwrap().last_error, "no");
        stats.forget(first);
        stats.retain(|key| key != ONE);
        assert_eq!((stats.is_failing(first), stats.is_failing(ONE)), (None, None));
        assert_eq!(stats.is_failing(SubscriptionKey(2)), Some(false));
    }
}
