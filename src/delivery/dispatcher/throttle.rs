//! The throttle of one subscription: it sends slower when its endpoint asks for it or does not respond, and
//! faster again with each success. Pure: the time, a steady one, is passed in.
//!
//! Additive increase, multiplicative decrease, as in TCP congestion control. Attempts that were in flight
//! together are one signal, so that one bad moment does not bring a subscription down to nothing.

use std::time::Duration;

use http::StatusCode;

use crate::domain::{
    delivery::{Attempt, Outcome},
    time::UnixMicros,
};

// These constants shape the curve. The limits are settings: see `WaitLimits`.

/// Attempts in a row without a response after which a subscription is slowed. With fewer, a burst of errors
/// would look like a dead endpoint.
pub const NO_RESPONSES_IN_ROW: u32 = 10;
/// Attempts in flight that remain to a subscription whose endpoint does not respond. With only one, a single
/// delivery that makes the endpoint fail would block the subscription.
pub const NO_RESPONSE_FLOOR: u16 = 2;
/// First wait of a slowed subscription between two rounds of attempts. It doubles from there.
pub const WAIT_MIN: Duration = Duration::from_millis(100);
/// A throttle without an attempt for this long is forgotten: it says nothing about the endpoint any more.
pub const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

/// Longest waits of a subscription between two rounds of attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitLimits {
    /// Longest wait that an endpoint can request with `Retry-After`.
    pub retry_after_max: Duration,
    /// Longest wait otherwise; at least [`WAIT_MIN`]. A dead endpoint costs [`NO_RESPONSE_FLOOR`] attempts
    /// per wait, no matter how many deliveries are pending.
    pub backoff_max: Duration,
}

/// The throttle of one subscription. The default does not slow it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Throttle {
    /// Bound of the attempts in flight, if any; grows by fractions.
    allowed: Option<f64>,
    /// No attempt starts before this time.
    not_before: Option<UnixMicros>,
    /// The last wait that the endpoint did not request.
    backoff: Duration,
    /// Attempts without a response since the last response.
    no_responses: u32,
    /// Time of the last slowdown. Attempts that were in flight then are no further signal.
    slowed_at: Option<UnixMicros>,
    /// End of the last attempt.
    updated_at: Option<UnixMicros>,
}

impl Throttle {
    /// The throttle of a subscription that is resumed after its endpoint was down for long: one attempt at a
    /// time at first.
    pub fn slow_start(now: UnixMicros) -> Self {
        Self { allowed: Some(1.0), updated_at: Some(now), ..Self::default() }
    }

    /// Attempts that may be in flight, of `max` that the subscription allows. At least one.
    pub fn allows(&self, max: u16) -> usize {
        let allowed = self.allowed.map_or(f64::from(max), |allowed| allowed.min(f64::from(max)));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 1 to 65,535")]
        let whole = allowed.max(1.0) as usize;
        whole
    }

    /// The time before which no attempt starts, if it is in the future.
    pub fn waits_until(&self, now: UnixMicros) -> Option<UnixMicros> {
        self.not_before.filter(|time| *time > now)
    }

    /// Whether the throttle is the same as the default, and need not be kept.
    pub fn is_default(&self, now: UnixMicros) -> bool {
        let slowed = self.allowed.is_some() || self.waits_until(now).is_some();
        let forgotten = self.updated_at.is_none_or(|updated| now.since(updated) > FORGOTTEN_AFTER);
        !slowed && self.no_responses == 0 || forgotten && self.waits_until(now).is_none()
    }

    /// Whether the subscription sends slower than its settings allow.
    pub fn is_slowed(&self) -> bool {
        self.allowed.is_some() || self.not_before.is_some()
    }

    /// Records an attempt that ran from `start` to `now`, of a subscription that allows `max` in flight.
    pub fn record(
        &mut self,
        attempt: &Attempt,
        start: UnixMicros,
        now: UnixMicros,
        max: u16,
        waits: WaitLimits,
    ) {
        self.updated_at = Some(now);
        if self.not_before.is_some_and(|time| time <= now) {
            self.not_before = None;
        }
        match attempt.outcome {
            Outcome::Ok => self.succeeded(max),
            Outcome::HttpStatus => {
                self.no_responses = 0;
                let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
                if busy.iter().any(|status| status.as_u16() == attempt.http_status) {
                    self.endpoint_busy(attempt, start, now, max, waits);
                }
            }
            Outcome::Damaged | Outcome::Expired => {}
            Outcome::Timeout | Outcome::Connect | Outcome::Io | Outcome::Blocked => {
                self.no_responses = self.no_responses.saturating_add(1);
                if self.no_responses >= NO_RESPONSES_IN_ROW && self.is_after_slowdown(start) {
                    self.slow_down(now, max, NO_RESPONSE_FLOOR);
                    self.back_off(now, waits);
                }
            }
        }
    }

    fn succeeded(&mut self, max: u16) {
        self.no_responses = 0;
        self.backoff = Duration::ZERO;
        // One more for each round of successes.
        self.allowed =
            self.allowed.map(|allowed| allowed + 1.0 / allowed).filter(|allowed| *allowed < f64::from(max));
    }

    fn endpoint_busy(
        &mut self,
        attempt: &Attempt,
        start: UnixMicros,
        now: UnixMicros,
        max: u16,
        waits: WaitLimits,
    ) {
        if self.is_after_slowdown(start) {
            self.slow_down(now, max, 1);
            if attempt.retry_after.is_none() {
                self.back_off(now, waits);
            }
        }
        if let Some(asked) = attempt.retry_after {
            self.not_before = self.not_before.max(Some(now.plus(asked.min(waits.retry_after_max))));
        }
    }

    /// Whether an attempt began after the last slowdown.
    fn is_after_slowdown(&self, start: UnixMicros) -> bool {
        self.slowed_at.is_none_or(|slowed| start >= slowed)
    }

    fn slow_down(&mut self, now: UnixMicros, max: u16, floor: u16) {
        let allowed = self.allowed.unwrap_or(f64::from(max)) / 2.0;
        self.allowed = Some(allowed.max(f64::from(floor.min(max))));
        self.slowed_at = Some(now);
    }

    fn back_off(&mut self, now: UnixMicros, waits: WaitLimits) {
        self.backoff = (self.backoff * 2).max(WAIT_MIN).min(waits.backoff_max);
        self.not_before = self.not_before.max(Some(now.plus(self.backoff)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u16 = 32;
    const WAITS: WaitLimits =
        WaitLimits { retry_after_max: Duration::from_hours(1), backoff_max: Duration::from_secs(5) };

    fn at(millis: i64) -> UnixMicros {
        UnixMicros(1_700_000_000_000_000 + millis * 1000)
    }

    fn attempt(start: UnixMicros, outcome: Outcome, http_status: u16, retry_after: Option<u64>) -> Attempt {
        Attempt {
            start_time: start,
            duration: Duration::ZERO,
            outcome,
            http_status,
            error: String::new(),
            response_body: String::new(),
            retry_after: retry_after.map(Duration::from_secs),
            resent: 0,
            url: String::new(),
        }
    }

    fn ended(
        throttle: &mut Throttle,
        start: i64,
        end: i64,
        outcome: Outcome,
        status: u16,
        after: Option<u64>,
    ) {
        throttle.record(&attempt(at(start), outcome, status, after), at(start), at(end), MAX, WAITS);
    }

    #[test]
    fn retry_after_delays_the_whole_subscription() {
        for status in [429, 503] {
            let mut throttle = Throttle::default();
            ended(&mut throttle, 0, 1, Outcome::HttpStatus, status, Some(7));
            assert_eq!(throttle.waits_until(at(2)), Some(at(7_001)));
            assert_eq!(throttle.waits_until(at(7_001)), None);
            assert_eq!(throttle.allows(MAX), 16, "and does not come back with everything at once");
            ended(&mut throttle, 0, 3, Outcome::HttpStatus, status, Some(1));
            assert_eq!(throttle.waits_until(at(4)), Some(at(7_001)), "the longest wait wins");
            ended(&mut throttle, 0, 4, Outcome::HttpStatus, status, Some(1_000_000));
            assert_eq!(throttle.waits_until(at(5)), Some(at(4 + 3_600_000)), "up to what is allowed");
        }
    }

    #[test]
    fn without_a_time_each_round_halves_what_is_under_way_and_waits_longer() {
        let mut throttle = Throttle::default();
        let mut now = 0;
        let mut steps = Vec::new();
        for _ in 0..9 {
            for _ in 0..5 {
                // All of one round: one sign.
                ended(&mut throttle, now, now + 5, Outcome::HttpStatus, 429, None);
            }
            let until = throttle.waits_until(at(now + 5)).unwrap();
            steps.push((throttle.allows(MAX), until.since(at(now + 5)).as_millis()));
            now += 10_000;
        }
        let expected = [(16, 100), (8, 200), (4, 400), (2, 800), (1, 1600), (1, 3200), (1, 5000), (1, 5000)];
        assert_eq!(steps[..8], expected);
    }

    #[test]
    fn successes_speed_up_again_until_nothing_is_held_back() {
        let mut throttle = Throttle::slow_start(at(0));
        let mut rounds = 0;
        while throttle.is_slowed() {
            let before = throttle.allows(MAX);
            for _ in 0..before {
                ended(&mut throttle, rounds * 10, rounds * 10 + 5, Outcome::Ok, 200, None);
            }
            assert!(throttle.allows(MAX) <= before + 1, "gently");
            rounds += 1;
            assert!(rounds < 100);
        }
        assert!(rounds >= 31, "{rounds}");
        assert!(throttle.is_default(at(rounds * 10)));
    }

    #[test]
    fn a_dead_endpoint_is_not_tried_at_full_speed_for_ever() {
        for outcome in [Outcome::Timeout, Outcome::Connect, Outcome::Io, Outcome::Blocked] {
            let (mut throttle, mut now, mut attempts) = (Throttle::default(), 0, 0);
            while now < 600_000 {
                let start = throttle.waits_until(at(now)).map_or(now, |until| (until.0 - at(0).0) / 1000);
                let round = throttle.allows(MAX);
                (0..round).for_each(|_| ended(&mut throttle, start, start + 1, outcome, 0, None));
                attempts += round;
                now = start + 1;
            }
            assert!((200..500).contains(&attempts), "{attempts} attempts in ten minutes");
            assert_eq!(throttle.allows(MAX), 2);
            // What has a smaller bound keeps it.
            assert_eq!(throttle.allows(1), 1);
        }
    }

    #[test]
    fn other_responses_slow_nothing_and_a_response_ends_the_row() {
        let mut throttle = Throttle::default();
        for n in 0..100 {
            ended(
                &mut throttle,
                n,
                n,
                if n % 5 == 0 { Outcome::HttpStatus } else { Outcome::Connect },
                500,
                None,
            );
            assert!(!throttle.is_slowed());
        }
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            steps in proptest::collection::vec((0_u8..6, 0_i64..3000, 0_i64..100, 0_u64..20), 0..200),
            max in 1_u16..=256,
        ) {
            let (mut throttle, mut now) = (Throttle::default(), 0);
            for (kind, passes, took, after) in steps {
                now += passes;
                let (outcome, status) = match kind {
                    0 | 1 => (Outcome::Ok, 200),
                    2 => (Outcome::HttpStatus, 503),
                    3 => (Outcome::HttpStatus, 429),
                    4 => (Outcome::Timeout, 0),
                    _ => (Outcome::Connect, 0),
                };
                let after = (after > 15).then_some(after);
                throttle.record(&attempt(at(now - took), outcome, status, after), at(now - took), at(now), max, WAITS);
                prop_assert!((1..=usize::from(max)).contains(&throttle.allows(max)));
                let wait = throttle.waits_until(at(now)).map_or(Duration::ZERO, |until| until.since(at(now)));
                prop_assert!(wait <= Duration::from_secs(20));
            }
            // It comes back to full speed.
            for _ in 0..40_000 {
                now += 20_000;
                throttle.record(&attempt(at(now), Outcome::Ok, 200, None), at(now), at(now), max, WAITS);
            }
            prop_assert!(throttle.is_default(at(now)));
        }
    }
}
