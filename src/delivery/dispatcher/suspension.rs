//! When a subscription is suspended, and when it is probed. Pure: time and randomness are passed in.
//!
//! The failure streak of a subscription is written to disk rarely: first when it has lasted for a part of
//! `suspend_after`, then each time it has doubled. So a restart loses half of the streak at most, and a short
//! failure causes no write.

use std::time::Duration;

use clap::Args;
use http::StatusCode;
use rand::{Rng, RngExt};

use crate::{
    config::quantities::duration,
    domain::{
        delivery::{Attempt, Outcome},
        notice::FailureStreak,
        subscription::Health,
        time::UnixMicros,
    },
};

/// A failure streak is written once it has lasted for this part of `suspend_after`.
pub const WRITTEN_AFTER_PART: u32 = 64;

/// When a subscription is suspended, and when it is probed.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq)]
pub struct SuspensionSettings {
    /// Time of nothing but failed attempts after which a subscription is suspended: deliveries collect, and
    /// it is probed.
    #[arg(long, value_name = "DURATION", default_value = "5d", value_parser = duration("1s", "365d"))]
    pub suspend_after: Duration,
    /// Longest wait between two probes of a suspended subscription. The first comes after a sixtieth of it,
    /// at most.
    ///
    /// The waits double. Lower it to notice sooner that an endpoint is back.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration("1ms", "7d"))]
    pub probe_interval_max: Duration,
    /// Attempts that must have failed in `suspend_after`.
    #[arg(skip = 20_u32)]
    pub suspend_attempts_min: u32,
    /// Bound of the first wait for a probe; it doubles up to `probe_interval_max`.
    #[arg(skip)]
    pub probe_interval_min: Duration,
}

impl SuspensionSettings {
    /// Sets the limits that follow from other settings.
    pub fn derive(&mut self) {
        self.probe_interval_min = self.probe_interval_max / 60;
    }
}

/// The present by both times of [`crate::clock::Clock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// For people.
    pub wall: UnixMicros,
    /// To count in.
    pub steady: UnixMicros,
}

/// A subscription whose last attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Its beginning by the wall clock, for people.
    since: UnixMicros,
    /// How long it had lasted, and the steady time of that.
    lasted: Duration,
    as_of: UnixMicros,
    attempts: u32,
    /// URL of the attempts. Another URL starts a new streak.
    url: String,
    /// Length of the streak when it was last written.
    written: Option<Duration>,
}

/// The consequence of a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Ignore,
    /// Write the failure streak to disk.
    WriteHealth(Health),
    /// Suspend the subscription, for this reason.
    Suspend(String),
}

impl Failing {
    /// A streak that continues that of `health`, or begins with `attempt`.
    ///
    /// Of a streak that an earlier process wrote, nobody knows how long it has really lasted: the wall clock
    /// decides.
    pub fn new(health: Health, attempt: &Attempt, now: Moment) -> Self {
        let written = health.failing_since.map(|since| now.wall.since(since));
        Self {
            since: health.failing_since.unwrap_or(attempt.start_time.min(now.wall)),
            lasted: written.unwrap_or(attempt.duration),
            as_of: now.steady,
            attempts: health.failures,
            url: attempt.url.clone(),
            written,
        }
    }

    /// Whether the streak is about this URL.
    pub fn is_about(&self, url: &str) -> bool {
        self.url == url
    }

    /// Whether the streak was written to disk.
    pub fn is_written(&self) -> bool {
        self.written.is_some()
    }

    /// How long it has lasted.
    pub fn lasted(&self, now: Moment) -> Duration {
        self.lasted + now.steady.since(self.as_of)
    }

    /// It, with the error of its latest attempt.
    pub fn streak(&self, latest: &Attempt) -> FailureStreak {
        FailureStreak { since: self.since, attempts: self.attempts, error: latest.error.clone() }
    }

    /// Records a failed attempt. `health` is the state on disk.
    pub fn failed(
        &mut self,
        attempt: &Attempt,
        health: Health,
        now: Moment,
        settings: SuspensionSettings,
    ) -> Verdict {
        self.attempts = self.attempts.saturating_add(1);
        if is_gone(attempt) {
            return Verdict::Suspend(format!("The endpoint answered 410 Gone at {}.", text_of(now.wall)));
        }
        let failing_for = self.lasted(now);
        if failing_for >= settings.suspend_after && self.attempts >= settings.suspend_attempts_min {
            return Verdict::Suspend(format!(
                "Every attempt has failed since {}, {} of them; the last one: {}.",
                text_of(self.since),
                self.attempts,
                attempt.error,
            ));
        }
        let due = self.written.map_or(settings.suspend_after / WRITTEN_AFTER_PART, |noted| noted * 2);
        if failing_for < due || failing_for.is_zero() {
            return Verdict::Ignore;
        }
        self.written = Some(failing_for);
        Verdict::WriteHealth(Health { failing_since: Some(self.since), failures: self.attempts, ..health })
    }
}

/// Whether the endpoint responded that it is gone for good.
pub fn is_gone(attempt: &Attempt) -> bool {
    attempt.outcome == Outcome::HttpStatus && attempt.http_status == StatusCode::GONE.as_u16()
}

/// When a suspended subscription is probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTimes {
    bound: Duration,
    /// Time of the next probe.
    pub due: UnixMicros,
}

impl ProbeTimes {
    /// Times for a subscription that was just suspended, or found suspended at the start.
    pub fn new(now: UnixMicros, settings: SuspensionSettings, random: &mut impl Rng) -> Self {
        let mut times = Self { bound: settings.probe_interval_min, due: now };
        times.due = now.plus(times.wait(random));
        times
    }

    /// Schedules the next probe after one failed.
    pub fn failed(&mut self, now: UnixMicros, settings: SuspensionSettings, random: &mut impl Rng) {
        self.bound = (self.bound * 2).min(settings.probe_interval_max);
        self.due = now.plus(self.wait(random));
    }

    /// Schedules another probe without a longer wait, because there was nothing to probe with.
    pub fn later(&mut self, now: UnixMicros, random: &mut impl Rng) {
        self.due = now.plus(self.wait(random));
    }

    /// A wait from half the bound up to all of it, so that subscriptions suspended together are not probed
    /// together.
    fn wait(&self, random: &mut impl Rng) -> Duration {
        self.bound.mul_f64(random.random_range(0.5..=1.0))
    }
}

fn text_of(time: UnixMicros) -> String {
    prost_types::Timestamp { seconds: time.seconds(), nanos: 0 }.to_string()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const SETTINGS: SuspensionSettings = SuspensionSettings {
        suspend_after: Duration::from_hours(120),
        suspend_attempts_min: 20,
        probe_interval_min: Duration::from_mins(1),
        probe_interval_max: Duration::from_hours(1),
    };

    fn at(minutes: i64) -> UnixMicros {
        UnixMicros(1_700_000_000_000_000 + minutes * 60_000_000)
    }

    /// With a wall clock that was never set.
    fn now(minutes: i64) -> Moment {
        Moment { wall: at(minutes), steady: at(minutes) }
    }

    fn attempt(http_status: u16, time: UnixMicros) -> Attempt {
        Attempt {
            start_time: time,
            duration: Duration::ZERO,
            outcome: Outcome::HttpStatus,
            http_status,
            error: format!("answered {http_status}"),
            response_body: String::new(),
            retry_after: None,
            resent: 0,
            url: "https://a.example.com/".to_owned(),
        }
    }

    /// Fails every `every` minutes. Returns the minutes of the writes, and the minute and reason of the
    /// suspension.
    fn fail(mut failing: Failing, from: i64, every: i64) -> (Vec<i64>, i64, String) {
        let (mut noted, mut minute) = (Vec::new(), from);
        loop {
            match failing.failed(&attempt(500, at(minute)), Health::default(), now(minute), SETTINGS) {
                Verdict::Ignore => {}
                Verdict::WriteHealth(health) => {
                    assert_eq!(health.failing_since, Some(at(0)));
                    noted.push(minute);
                }
                Verdict::Suspend(reason) => return (noted, minute, reason),
            }
            minute += every;
        }
    }

    #[test]
    fn it_takes_the_time_and_the_attempts() {
        let new = || Failing::new(Health::default(), &attempt(500, at(0)), now(0));
        let (noted, minute, reason) = fail(new(), 0, 10);
        assert_eq!(minute, 7200);
        assert_eq!(noted, [120, 240, 480, 960, 1920, 3840], "written down rarely");
        assert_eq!(
            reason,
            "Every attempt has failed since 2023-11-14T22:13:20Z, 721 of them; the last one: answered 500."
        );
        let (_, minute, _) = fail(new(), 0, 1000);
        assert_eq!(minute, 19_000, "the time is not enough without the attempts");
    }

    #[test]
    fn a_restart_goes_on_from_what_was_noted() {
        let health = Health { failing_since: Some(at(0)), failures: 96, ..Health::default() };
        let failing = Failing::new(health, &attempt(500, at(1000)), now(1000));
        assert!(failing.is_written());
        let (noted, minute, _) = fail(failing, 1000, 10);
        assert_eq!((noted, minute), (vec![2000, 4000], 7200));
    }

    #[test]
    fn a_clock_that_is_set_neither_suspends_early_nor_late() {
        let years = 10 * 365 * 24 * 60;
        for ahead in [years, -years] {
            let mut failing = Failing::new(Health::default(), &attempt(500, at(0)), now(0));
            let mut verdict = |minute: i64| {
                let now = Moment { wall: at(minute + ahead), steady: at(minute) };
                failing.failed(&attempt(500, now.wall), Health::default(), now, SETTINGS)
            };
            let is_suspended = |verdict| matches!(verdict, Verdict::Suspend(_));
            assert!((1..7200).all(|minute| !is_suspended(verdict(minute))), "{ahead}");
            assert!(is_suspended(verdict(7200)), "{ahead}");
        }
    }

    #[test]
    fn gone_is_enough_at_once() {
        let mut failing = Failing::new(Health::default(), &attempt(410, at(0)), now(0));
        let verdict = failing.failed(&attempt(410, at(0)), Health::default(), now(0), SETTINGS);
        let reason = "The endpoint answered 410 Gone at 2023-11-14T22:13:20Z.".to_owned();
        assert_eq!(verdict, Verdict::Suspend(reason));
    }

    #[test]
    fn probes_come_at_growing_intervals() {
        let mut random = StdRng::seed_from_u64(3);
        let mut times = ProbeTimes::new(at(0), SETTINGS, &mut random);
        let mut bound = 60.0;
        for _ in 0..10 {
            let wait = times.due.since(at(0)).as_secs_f64();
            assert!((bound / 2.0..=bound).contains(&wait), "{wait} s of {bound}");
            times.failed(at(0), SETTINGS, &mut random);
            bound = (bound * 2.0_f64).min(3600.0);
        }
    }
}
