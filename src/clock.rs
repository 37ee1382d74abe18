//! The clock, which tests can replace.
//!
//! There are two times. The wall clock's is for people, for records and for other programs, and somebody may set
//! it at any moment. The steady time only passes: waits and ages are counted in it.

use std::{
    sync::atomic::{AtomicI64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{ClockId, clock_gettime};

use crate::domain::time::UnixMicros;

/// A smaller change of the wall clock is no step: nobody needs to know of it.
pub const STEP_MIN: Duration = Duration::from_mins(1);

/// The source of time. A trait, so that a simulation can set the time.
pub trait Clock: Send + Sync + 'static {
    /// The wall-clock time. It may step, either way.
    fn now(&self) -> UnixMicros;

    /// The steady time: begins as the wall clock's or later, never steps, and counts the sleep of the machine.
    /// Due times and the ages of log files are steady times.
    fn steady(&self) -> UnixMicros;

    /// By how many microseconds the wall clock is ahead of the steady time, as of the last step that was noticed.
    fn ahead(&self) -> i64;

    /// Makes the steady time go on from this one if it is earlier: an earlier process has reached it. Returns by
    /// how much it was. To be called before anything uses the steady time.
    fn continue_from(&self, _reached: UnixMicros) -> Duration {
        Duration::ZERO
    }

    /// Whether the wall clock was set since the last look, by [`STEP_MIN`] or more, and by how many microseconds.
    fn notice_step(&self) -> Option<i64> {
        None
    }

    /// The wall-clock time of a steady time, for people.
    fn wall_of(&self, steady: UnixMicros) -> UnixMicros {
        UnixMicros(steady.0.saturating_add(self.ahead()))
    }
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    /// The steady time at the machine's start.
    steady_start: AtomicI64,
    ahead: AtomicI64,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { steady_start: AtomicI64::new(wall().saturating_sub(uptime())), ahead: AtomicI64::new(0) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UnixMicros {
        UnixMicros(wall())
    }

    fn steady(&self) -> UnixMicros {
        UnixMicros(self.steady_start.load(Relaxed).saturating_add(uptime()))
    }

    fn ahead(&self) -> i64 {
        self.ahead.load(Relaxed)
    }

    fn continue_from(&self, reached: UnixMicros) -> Duration {
        let behind = reached.since(self.steady());
        let micros = i64::try_from(behind.as_micros()).unwrap_or(i64::MAX);
        self.steady_start.fetch_add(micros, Relaxed);
        self.ahead.fetch_sub(micros, Relaxed);
        behind
    }

    fn notice_step(&self) -> Option<i64> {
        let step = step(self.now(), self.steady(), self.ahead())?;
        self.ahead.fetch_add(step, Relaxed);
        Some(step)
    }
}

/// The step of a wall clock that was `ahead` before.
fn step(wall: UnixMicros, steady: UnixMicros, ahead: i64) -> Option<i64> {
    let step = wall.0.saturating_sub(steady.0).saturating_sub(ahead);
    (u128::from(step.unsigned_abs()) >= STEP_MIN.as_micros()).then_some(step)
}

#[expect(clippy::disallowed_methods, reason = "only this function reads the machine's wall clock")]
fn wall() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
    i64::try_from(now.as_micros()).expect("the clock is before the year 294,000")
}

/// Microseconds since the machine's start, sleep included where the system counts it.
fn uptime() -> i64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let time = clock_gettime(CLOCK);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    #[test]
    fn a_change_of_a_minute_is_a_step_and_a_smaller_one_is_not() {
        let step = |wall, ahead| step(UnixMicros(wall), UnixMicros(5 * MINUTE), ahead);
        assert_eq!(step(5 * MINUTE, 0), None);
        assert_eq!(step(6 * MINUTE - 1, 0), None);
        assert_eq!(step(6 * MINUTE, 0), Some(MINUTE));
        assert_eq!(step(6 * MINUTE, MINUTE), None, "it was noticed");
        assert_eq!(step(0, MINUTE), Some(-6 * MINUTE));
        assert_eq!(step(i64::MAX, -1), Some(i64::MAX - 5 * MINUTE + 1));
    }

    #[test]
    fn the_steady_time_begins_as_the_wall_clocks_and_only_passes() {
        let clock = SystemClock::default();
        let before = clock.steady();
        assert!(before.since(clock.now()) < Duration::from_secs(60));
        assert!(clock.now().since(before) < Duration::from_secs(60));
        assert!(clock.steady() >= before);
        assert_eq!((clock.notice_step(), clock.ahead()), (None, 0));
    }

    #[test]
    fn the_steady_time_goes_on_from_where_an_earlier_process_was_and_people_see_the_wall_clocks() {
        let clock = SystemClock::default();
        assert_eq!(clock.continue_from(UnixMicros(0)), Duration::ZERO);
        let hour = Duration::from_hours(1);
        let reached = clock.steady().plus(hour);
        let behind = clock.continue_from(reached);
        assert!(behind <= hour && behind > hour / 2, "{behind:?}");
        assert!(clock.steady() >= reached);
        assert_eq!(clock.notice_step(), None, "it is not a step of this process");
        let shown = clock.wall_of(clock.steady());
        assert!(shown.since(clock.now()).max(clock.now().since(shown)) < STEP_MIN, "{shown:?}");
    }
}
