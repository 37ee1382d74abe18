//! Retry policies: when a failed delivery is attempted again. Pure: time and randomness are passed in.

use std::time::Duration;

use http::StatusCode;
use rand::{Rng, RngExt};

use super::{
    delivery::{Attempt, DeliveryState, Outcome},
    give_up::GiveUpStatuses,
    time::UnixMicros,
};

/// Upper bound of `RetryPolicy.max_attempts` in the contract.
pub const ATTEMPTS_MAX: u32 = 50;
/// Lower bound of the backoffs of a policy.
pub const BACKOFF_MIN: Duration = Duration::from_millis(1);
/// Upper bound of the backoffs of a policy.
pub const BACKOFF_MAX: Duration = Duration::from_hours(7 * 24);

/// When a failed delivery is attempted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts per delivery, at least 1.
    pub max_attempts: u32,
    /// Longest wait before the first retry.
    pub min_backoff: Duration,
    /// Longest wait before any retry; at least `min_backoff`.
    pub max_backoff: Duration,
    /// Responses after which a delivery fails at once.
    pub give_up: GiveUpStatuses,
}

/// The rule that a retry policy breaks. The text is for the caller that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetryPolicyError {
    /// `max_attempts` is out of bounds.
    #[error("must be 1 to 50 attempts")]
    Attempts,
    /// `min_backoff` is out of bounds.
    #[error("must be 1 ms to 7 days")]
    MinBackoff,
    /// `max_backoff` is out of bounds.
    #[error("must be 1 ms to 7 days")]
    MaxBackoff,
    /// `max_backoff` is below `min_backoff`.
    #[error("must not be shorter than min_backoff")]
    Order,
}

impl RetryPolicyError {
    /// The invalid field, by its name in the contract.
    pub fn field(self) -> &'static str {
        match self {
            Self::Attempts => "max_attempts",
            Self::MinBackoff => "min_backoff",
            Self::MaxBackoff | Self::Order => "max_backoff",
        }
    }
}

impl Default for RetryPolicy {
    /// 12 attempts, 5 seconds doubling to 6 hours. The eleven waits add up to 2 hours 51 minutes at most and
    /// half of that on average. Only policies with more attempts reach the 6 hours.
    fn default() -> Self {
        Self {
            max_attempts: 12,
            min_backoff: Duration::from_secs(5),
            max_backoff: Duration::from_hours(6),
            give_up: GiveUpStatuses::NONE,
        }
    }
}

impl RetryPolicy {
    /// A policy with these values, or the first rule that they break.
    pub fn try_new(
        max_attempts: u32,
        min_backoff: Duration,
        max_backoff: Duration,
    ) -> Result<Self, RetryPolicyError> {
        let waits = BACKOFF_MIN..=BACKOFF_MAX;
        if !(1..=ATTEMPTS_MAX).contains(&max_attempts) {
            Err(RetryPolicyError::Attempts)
        } else if !waits.contains(&min_backoff) {
            Err(RetryPolicyError::MinBackoff)
        } else if !waits.contains(&max_backoff) {
            Err(RetryPolicyError::MaxBackoff)
        } else if max_backoff < min_backoff {
            Err(RetryPolicyError::Order)
        } else {
            Ok(Self { max_attempts, min_backoff, max_backoff, give_up: GiveUpStatuses::NONE })
        }
    }

    /// The state of a delivery after attempt number `attempts` (the first is 1) ended as `attempt` at `now`.
    ///
    /// The wait is drawn evenly from zero to [`RetryPolicy::backoff`] (full jitter), so that deliveries that
    /// failed together do not return together. A longer wait that the response requests with `Retry-After` is
    /// respected up to
    /// `retry_after_max`.
    pub fn next_state(
        &self,
        attempt: &Attempt,
        attempts: u32,
        now: UnixMicros,
        retry_after_max: Duration,
        random: &mut impl Rng,
    ) -> DeliveryState {
        if attempt.outcome == Outcome::Ok {
            return DeliveryState::Succeeded;
        }
        // The event can never be sent.
        if attempt.outcome == Outcome::Damaged {
            return DeliveryState::Failed;
        }
        // An endpoint that is gone for good is suspended, and its deliveries wait for it.
        let has_responded = attempt.outcome == Outcome::HttpStatus;
        let gone = has_responded && attempt.http_status == StatusCode::GONE.as_u16();
        if has_responded && self.give_up.contains(attempt.http_status) {
            return DeliveryState::Failed;
        }
        if attempts >= self.max_attempts && !gone {
            return DeliveryState::Failed;
        }
        self.retry(attempt, attempts, now, retry_after_max, random)
    }

    /// The state of a delivery after a probe of a suspended subscription: a probe never makes it fail for
    /// good, unless its event is damaged.
    pub fn next_state_of_probe(
        &self,
        attempt: &Attempt,
        attempts: u32,
        now: UnixMicros,
        retry_after_max: Duration,
        random: &mut impl Rng,
    ) -> DeliveryState {
        match attempt.outcome {
            Outcome::Ok => DeliveryState::Succeeded,
            Outcome::Damaged | Outcome::Expired => DeliveryState::Failed,
            _ => self.retry(attempt, attempts, now, retry_after_max, random),
        }
    }

    fn retry(
        &self,
        attempt: &Attempt,
        attempts: u32,
        now: UnixMicros,
        retry_after_max: Duration,
        random: &mut impl Rng,
    ) -> DeliveryState {
        let bound = u64::try_from(self.backoff(attempts).as_micros()).unwrap_or(u64::MAX);
        let wait = Duration::from_micros(random.random_range(0..=bound));
        let requested = attempt.retry_after.unwrap_or_default().min(retry_after_max);
        DeliveryState::Retrying { due: now.plus(wait.max(requested)) }
    }

    /// The longest wait after attempt number `attempts` (the first is 1): `min_backoff`, doubled with each
    /// further attempt up to `max_backoff`.
    pub fn backoff(&self, attempts: u32) -> Duration {
        let doubled =
            2_u32.checked_pow(attempts.saturating_sub(1)).and_then(|n| self.min_backoff.checked_mul(n));
        doubled.map_or(self.max_backoff, |wait| wait.min(self.max_backoff))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const NOW: UnixMicros = UnixMicros(1_700_000_000_000_000);

    fn ended(outcome: Outcome, http_status: u16, retry_after: Option<Duration>) -> Attempt {
        Attempt {
            start_time: NOW,
            duration: Duration::ZERO,
            outcome,
            http_status,
            error: String::new(),
            response_body: String::new(),
            retry_after,
            resent: 0,
            url: String::new(),
        }
    }

    fn next(policy: RetryPolicy, attempt: &Attempt, attempts: u32, seed: u64) -> DeliveryState {
        policy.next_state(attempt, attempts, NOW, Duration::from_hours(1), &mut StdRng::seed_from_u64(seed))
    }

    #[test]
    fn success_ends_a_delivery() {
        let policy = RetryPolicy::default();
        assert_eq!(next(policy, &ended(Outcome::Ok, 204, None), 1, 0), DeliveryState::Succeeded);
        assert_eq!(next(policy, &ended(Outcome::Ok, 200, None), 12, 0), DeliveryState::Succeeded);
    }

    #[test]
    fn what_an_endpoint_does_not_take_that_is_gone_stays_owed_and_so_does_what_it_is_probed_with() {
        let policy = RetryPolicy::default();
        for attempts in [1, 12, 5000] {
            let gone = ended(Outcome::HttpStatus, 410, None);
            assert!(matches!(next(policy, &gone, attempts, 0), DeliveryState::Retrying { .. }));
            let random = || StdRng::seed_from_u64(0);
            let hour = Duration::from_hours(1);
            let failed = ended(Outcome::Timeout, 0, None);
            let state = policy.next_state_of_probe(&failed, attempts, NOW, hour, &mut random());
            assert!(matches!(state, DeliveryState::Retrying { .. }));
            let ok = ended(Outcome::Ok, 200, None);
            let state = policy.next_state_of_probe(&ok, attempts, NOW, hour, &mut random());
            assert_eq!(state, DeliveryState::Succeeded);
        }
    }

    #[test]
    fn a_delivery_of_a_damaged_event_fails_at_once_and_so_does_a_probe_with_it() {
        let (policy, random) = (RetryPolicy::default(), &mut StdRng::seed_from_u64(0));
        let damaged = ended(Outcome::Damaged, 0, None);
        assert_eq!(next(policy, &damaged, 1, 0), DeliveryState::Failed);
        let probe = policy.next_state_of_probe(&damaged, 1, NOW, Duration::from_hours(1), random);
        assert_eq!(probe, DeliveryState::Failed);
    }

    #[test]
    fn every_other_outcome_is_tried_again_until_the_attempts_are_used_up() {
        let policy = RetryPolicy::default();
        for outcome in
            [Outcome::HttpStatus, Outcome::Timeout, Outcome::Connect, Outcome::Io, Outcome::Blocked]
        {
            for status in [0, 400, 503] {
                let attempt = ended(outcome, status, None);
                assert!(matches!(next(policy, &attempt, 11, 0), DeliveryState::Retrying { .. }));
                assert_eq!(next(policy, &attempt, 12, 0), DeliveryState::Failed);
                assert_eq!(next(policy, &attempt, u32::MAX, 0), DeliveryState::Failed);
            }
        }
    }

    #[test]
    fn a_status_that_is_given_up_on_ends_a_delivery_and_no_other_failure_does() {
        let mut policy = RetryPolicy::default();
        policy.give_up.insert("4xx").unwrap();
        let random = &mut StdRng::seed_from_u64(0);
        let not_found = ended(Outcome::HttpStatus, 404, Some(Duration::from_secs(9)));
        assert_eq!(next(policy, &not_found, 1, 0), DeliveryState::Failed);
        for (outcome, status) in [
            (Outcome::HttpStatus, 429),
            (Outcome::HttpStatus, 500),
            (Outcome::HttpStatus, 410),
            (Outcome::Timeout, 0),
        ] {
            let other = ended(outcome, status, None);
            assert!(matches!(next(policy, &other, 1, 0), DeliveryState::Retrying { .. }), "{status}");
        }
        let probe = policy.next_state_of_probe(&not_found, 1, NOW, Duration::from_hours(1), random);
        assert!(matches!(probe, DeliveryState::Retrying { .. }), "a probe never makes a delivery fail");
    }

    #[test]
    fn the_bound_doubles_from_the_shortest_to_the_longest() {
        let policy = RetryPolicy::default();
        let bounds: Vec<u64> = (1..=14).map(|n| policy.backoff(n).as_secs()).collect();
        assert_eq!(bounds, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_240, 20_480, 21_600]);
        assert_eq!(policy.backoff(0), Duration::from_secs(5));
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let (policy, failed) = (RetryPolicy::default(), ended(Outcome::Timeout, 0, None));
        let waits: Vec<f64> = (0..1000)
            .map(|seed| match next(policy, &failed, 1, seed) {
                DeliveryState::Retrying { due } => due.since(NOW).as_secs_f64(),
                other => panic!("{other:?}"),
            })
            .collect();
        let mean = waits.iter().sum::<f64>() / 1000.0;
        assert!((2.3..2.7).contains(&mean), "mean {mean}");
        assert!(waits.iter().any(|wait| *wait < 0.1) && waits.iter().any(|wait| *wait > 4.9));
    }

    #[test]
    fn a_policy_out_of_bounds_cannot_be_built() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
        let cases = [
            (0, second, hour, RetryPolicyError::Attempts),
            (51, second, hour, RetryPolicyError::Attempts),
            (1, Duration::ZERO, hour, RetryPolicyError::MinBackoff),
            (1, second, BACKOFF_MAX + second, RetryPolicyError::MaxBackoff),
            (1, hour, second, RetryPolicyError::Order),
        ];
        for (attempts, min, max, rule) in cases {
            assert_eq!(RetryPolicy::try_new(attempts, min, max), Err(rule));
        }
        assert!(RetryPolicy::try_new(1, second, second).is_ok());
        assert!(RetryPolicy::try_new(ATTEMPTS_MAX, BACKOFF_MIN, BACKOFF_MAX).is_ok());
        let default = RetryPolicy::default();
        let same = RetryPolicy::try_new(default.max_attempts, default.min_backoff, default.max_backoff);
        assert_eq!(same, Ok(default));
    }

    proptest! {
        #[test]
        fn a_retry_is_never_in_the_past_nor_beyond_its_bound(
            attempts in 1_u32..ATTEMPTS_MAX,
            min_ms in 1_u64..=604_800_000,
            more_ms in 0_u64..=604_800_000,
            asked in proptest::option::of(0_u64..=u64::MAX),
            cap in 0_u64..100_000,
            now in any::<i64>(),
            seed in any::<u64>(),
        ) {
            let min_backoff = Duration::from_millis(min_ms);
            let max_backoff = Duration::from_millis(min_ms + more_ms).min(BACKOFF_MAX);
            let policy = RetryPolicy::try_new(ATTEMPTS_MAX, min_backoff, max_backoff).unwrap();
            let failed = ended(Outcome::HttpStatus, 503, asked.map(Duration::from_secs));
            let (now, cap) = (UnixMicros(now), Duration::from_secs(cap));
            let state = policy.next_state(&failed, attempts, now, cap, &mut StdRng::seed_from_u64(seed));
            let DeliveryState::Retrying { due } = state else { panic!("{state:?}") };
            let asked = failed.retry_after.unwrap_or_default().min(cap);
            prop_assert!(due >= now.plus(asked));
            prop_assert!(due <= now.plus(policy.backoff(attempts).max(asked)));
            prop_assert!(policy.backoff(attempts) <= policy.backoff(attempts + 1));
            let again = policy.next_state(&failed, attempts, now, cap, &mut StdRng::seed_from_u64(seed));
            prop_assert_eq!(state, again);
        }
    }
}
