//! How fast one lane may go: slower when its endpoint asks for it or gives no answer, faster again with each success.
//! Pure: the time is passed in.
//!
//! Additive up, multiplicative down, as congestion is handled everywhere: the attempts that were under way together
//! count as one sign, so that one bad moment does not bring a lane down to nothing.

use std::time::Duration;

use http::StatusCode;

use crate::domain::{
    delivery::{Attempt, Outcome},
    time::UnixMicros,
};

// What follows is the shape of the curve and no limit: how slow a lane becomes in the end is for `WaitLimits` to say.

/// Attempts in a row without any answer, after which a lane is slowed. Fewer would take a burst of errors for a dead endpoint.
pub const NO_ANSWERS_IN_ROW: u32 = 10;
/// What is left to a lane whose endpoint gives no answer: attempts under way at once. With one alone, a lane would be held up by the
/// one delivery that its endpoint cannot stand.
pub const NO_ANSWER_FLOOR: u16 = 2;
/// The first wait of a lane that is slowed, between one round of attempts and the next. It doubles from there.
pub const WAIT_MIN: Duration = Duration::from_millis(100);
/// A pace that nothing was heard of for so long is forgotten: it tells nothing of the endpoint any more.
pub const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);

/// The longest waits between one round of attempts of a lane and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitLimits {
    /// What an endpoint can ask for with `Retry-After`.
    pub asked_max: Duration,
    /// What a lane waits that was not asked; at least [`WAIT_MIN`]. A dead endpoint costs [`NO_ANSWER_FLOOR`] attempts in that time,
    /// whatever waits for it.
    pub unasked_max: Duration,
}

/// How fast one lane may go. The default is as fast as its subscription allows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// Attempts under way at once, if there is a bound; grows by fractions.
    allowed: Option<f64>,
    /// No attempt starts before.
    not_before: Option<UnixMicros>,
    /// The last wait that was not asked for by the endpoint.
    wait: Duration,
    /// Attempts without answer since the last answer.
    no_answers: u32,
    /// When it was slowed last. What was under way at that time is no further sign.
    slowed_at: Option<UnixMicros>,
    /// When an attempt ended last.
    heard_at: Option<UnixMicros>,
}

impl Pace {
    /// The pace of a lane that begins anew, after its endpoint was away for long: one at a time at first.
    pub fn gentle(now: UnixMicros) -> Self {
        Self { allowed: Some(1.0), heard_at: Some(now), ..Self::default() }
    }

    /// How many attempts may be under way at once, of `max` that the subscription allows. At least one.
    pub fn allows(&self, max: u16) -> usize {
        let allowed = self.allowed.map_or(f64::from(max), |allowed| allowed.min(f64::from(max)));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 1 to 65,535")]
        let whole = allowed.max(1.0) as usize;
        whole
    }

    /// Until when no attempt starts, if that is still to come.
    pub fn waits_until(&self, now: UnixMicros) -> Option<UnixMicros> {
        self.not_before.filter(|time| *time > now)
    }

    /// Whether there is nothing to remember.
    pub fn is_free(&self, now: UnixMicros) -> bool {
        let slowed = self.allowed.is_some() || self.waits_until(now).is_some();
        let forgotten = self.heard_at.is_none_or(|heard| now.since(heard) > FORGOTTEN_AFTER);
        !slowed && self.no_answers == 0 || forgotten && self.waits_until(now).is_none()
    }

    /// Whether the lane goes slower than its subscription allows.
    pub fn is_slowed(&self) -> bool {
        self.allowed.is_some() || self.not_before.is_some()
    }

    /// Takes what came of an attempt at `now`, of a lane that may have `max` under way.
    pub fn ended(&mut self, attempt: &Attempt, now: UnixMicros, max: u16, waits: WaitLimits) {
        self.heard_at = Some(now);
        if self.not_before.is_some_and(|time| time <= now) {
            self.not_before = None;
        }
        match attempt.outcome {
            Outcome::Ok => self.succeeded(max),
            Outcome::HttpStatus => {
                self.no_answers = 0;
                let busy = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
                if busy.iter().any(|status| status.as_u16() == attempt.http_status) {
                    self.asked_to_wait(attempt, now, max, waits);
                }
            }
            Outcome::Timeout | Outcome::Connect | Outcome::Io | Outcome::Blocked => {
                self.no_answers = self.no_answers.saturating_add(1);
                if self.no_answers >= NO_ANSWERS_IN_ROW && self.is_news(attempt) {
                    self.slow_down(now, max, NO_ANSWER_FLOOR);
                    self.wait_longer(now, waits);
                }
            }
        }
    }

    fn succeeded(&mut self, max: u16) {
        self.no_answers = 0;
        self.wait = Duration::ZERO;
        // One more for each round of successes.
        self.allowed =
            self.allowed.map(|allowed| allowed + 1.0 / allowed).filter(|allowed| *allowed < f64::from(max));
    }

    fn asked_to_wait(&mut self, attempt: &Attempt, now: UnixMicros, max: u16, waits: WaitLimits) {
        if self.is_news(attempt) {
            self.slow_down(now, max, 1);
            if attempt.retry_after.is_none() {
                self.wait_longer(now, waits);
            }
        }
        if let Some(asked) = attempt.retry_after {
            self.not_before = self.not_before.max(Some(now.plus(asked.min(waits.asked_max))));
        }
    }

    /// Whether an attempt began after the lane was slowed last.
    fn is_news(&self, attempt: &Attempt) -> bool {
        self.slowed_at.is_none_or(|slowed| attempt.start_time >= slowed)
    }

    fn slow_down(&mut self, now: UnixMicros, max: u16, floor: u16) {
        let allowed = self.allowed.unwrap_or(f64::from(max)) / 2.0;
        self.allowed = Some(allowed.max(f64::from(floor.min(max))));
        self.slowed_at = Some(now);
    }

    fn wait_longer(&mut self, now: UnixMicros, waits: WaitLimits) {
        self.wait = (self.wait * 2).max(WAIT_MIN).min(waits.unasked_max);
        self.not_before = self.not_before.max(Some(now.plus(self.wait)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: u16 = 32;
    const WAITS: WaitLimits =
        WaitLimits { asked_max: Duration::from_hours(1), unasked_max: Duration::from_secs(5) };

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
            url: String::new(),
        }
    }

    fn ended(pace: &mut Pace, start: i64, end: i64, outcome: Outcome, status: u16, after: Option<u64>) {
        pace.ended(&attempt(at(start), outcome, status, after), at(end), MAX, WAITS);
    }

    #[test]
    fn who_asks_to_wait_is_waited_for_by_the_whole_lane() {
        for status in [429, 503] {
            let mut pace = Pace::default();
            ended(&mut pace, 0, 1, Outcome::HttpStatus, status, Some(7));
            assert_eq!(pace.waits_until(at(2)), Some(at(7_001)));
            assert_eq!(pace.waits_until(at(7_001)), None);
            assert_eq!(pace.allows(MAX), 16, "and does not come back with everything at once");
            ended(&mut pace, 0, 3, Outcome::HttpStatus, status, Some(1));
            assert_eq!(pace.waits_until(at(4)), Some(at(7_001)), "the longest counts");
            ended(&mut pace, 0, 4, Outcome::HttpStatus, status, Some(1_000_000));
            assert_eq!(pace.waits_until(at(5)), Some(at(4 + 3_600_000)), "up to what is allowed");
        }
    }

    #[test]
    fn without_a_time_each_round_halves_what_is_under_way_and_waits_longer() {
        let mut pace = Pace::default();
        let mut now = 0;
        let mut steps = Vec::new();
        for _ in 0..9 {
            for _ in 0..5 {
                // All of one round: one sign.
                ended(&mut pace, now, now + 5, Outcome::HttpStatus, 429, None);
            }
            let until = pace.waits_until(at(now + 5)).unwrap();
            steps.push((pace.allows(MAX), until.since(at(now + 5)).as_millis()));
            now += 10_000;
        }
        let expected = [(16, 100), (8, 200), (4, 400), (2, 800), (1, 1600), (1, 3200), (1, 5000), (1, 5000)];
        assert_eq!(steps[..8], expected);
    }

    #[test]
    fn successes_speed_up_again_until_nothing_is_held_back() {
        let mut pace = Pace::gentle(at(0));
        let mut rounds = 0;
        while pace.is_slowed() {
            let before = pace.allows(MAX);
            for _ in 0..before {
                ended(&mut pace, rounds * 10, rounds * 10 + 5, Outcome::Ok, 200, None);
            }
            assert!(pace.allows(MAX) <= before + 1, "gently");
            rounds += 1;
            assert!(rounds < 100);
        }
        assert!(rounds >= 31, "{rounds}");
        assert!(pace.is_free(at(rounds * 10)));
    }

    #[test]
    fn a_dead_endpoint_is_not_knocked_at_for_ever_at_full_speed() {
        for outcome in [Outcome::Timeout, Outcome::Connect, Outcome::Io, Outcome::Blocked] {
            let (mut pace, mut now, mut attempts) = (Pace::default(), 0, 0);
            while now < 600_000 {
                let start = pace.waits_until(at(now)).map_or(now, |until| (until.0 - at(0).0) / 1000);
                let round = pace.allows(MAX);
                (0..round).for_each(|_| ended(&mut pace, start, start + 1, outcome, 0, None));
                attempts += round;
                now = start + 1;
            }
            assert!((200..500).contains(&attempts), "{attempts} attempts in ten minutes");
            assert_eq!(pace.allows(MAX), 2);
            // What has a smaller bound keeps it.
            assert_eq!(pace.allows(1), 1);
        }
    }

    #[test]
    fn other_answers_slow_nothing_and_an_answer_breaks_the_row() {
        let mut pace = Pace::default();
        for n in 0..100 {
            ended(
                &mut pace,
                n,
                n,
                if n % 5 == 0 { Outcome::HttpStatus } else { Outcome::Connect },
                500,
                None,
            );
            assert!(!pace.is_slowed());
        }
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(
            steps in proptest::collection::vec((0_u8..6, 0_i64..3000, 0_i64..100, 0_u64..20), 0..200),
            max in 1_u16..=256,
        ) {
            let (mut pace, mut now) = (Pace::default(), 0);
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
                pace.ended(&attempt(at(now - took), outcome, status, after), at(now), max, WAITS);
                prop_assert!((1..=usize::from(max)).contains(&pace.allows(max)));
                let wait = pace.waits_until(at(now)).map_or(Duration::ZERO, |until| until.since(at(now)));
                prop_assert!(wait <= Duration::from_secs(20));
            }
            // It comes back to full speed.
            for _ in 0..40_000 {
                now += 20_000;
                pace.ended(&attempt(at(now), Outcome::Ok, 200, None), at(now), max, WAITS);
            }
            prop_assert!(pace.is_free(at(now)));
        }
    }
}
