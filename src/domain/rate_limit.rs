//! A bound on the rate of POSTs to an endpoint. Pure.

use std::time::Duration;

use super::time::UnixMicros;

/// Most POSTs per interval, and at once.
pub const EVENTS_MAX: u32 = 10_000;
/// Shortest interval.
pub const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// Longest interval.
pub const INTERVAL_MAX: Duration = Duration::from_hours(1);

/// The bound: within any span of time there are at most `burst` POSTs, and `events` more for each `interval` of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// POSTs per interval, 1 to [`EVENTS_MAX`].
    pub events: u32,
    /// The interval, [`INTERVAL_MIN`] to [`INTERVAL_MAX`].
    pub interval: Duration,
    /// POSTs at once after a pause, 1 to [`EVENTS_MAX`].
    pub burst: u32,
}

/// How far a lane has used its rate limit: the time at which all of it is free again. (The "theoretical arrival time"
/// of the generic cell rate algorithm.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateUse(UnixMicros);

impl RateLimit {
    /// The time before which no POST may be made, if it is in the future.
    pub fn waits_until(&self, used: Option<RateUse>, now: UnixMicros) -> Option<UnixMicros> {
        let free_at = self.free_at(used, now);
        let earliest = UnixMicros(free_at.0 - self.spacing() * i64::from(self.burst - 1));
        (earliest > now).then_some(earliest)
    }

    /// The use after a POST at `now`.
    pub fn after_post(&self, used: Option<RateUse>, now: UnixMicros) -> RateUse {
        RateUse(UnixMicros(self.free_at(used, now).0 + self.spacing()))
    }

    /// When all of it is free, at `now` at the earliest. A use under another limit counts as one of this at most.
    fn free_at(&self, used: Option<RateUse>, now: UnixMicros) -> UnixMicros {
        let latest = UnixMicros(now.0 + self.spacing() * i64::from(self.burst));
        used.map_or(now, |RateUse(free_at)| free_at.clamp(now, latest))
    }

    /// Microseconds between two POSTs of a steady rate, rounded up.
    fn spacing(&self) -> i64 {
        let interval = u64::try_from(self.interval.as_micros()).unwrap_or(u64::MAX);
        i64::try_from(interval.div_ceil(self.events.into())).unwrap_or(i64::MAX / i64::from(EVENTS_MAX + 1))
    }
}

impl RateUse {
    /// Whether nothing is left of it, so that it need not be kept.
    pub fn is_over(self, now: UnixMicros) -> bool {
        self.0 <= now
    }

    /// When nothing is left of it.
    pub fn ends(self) -> UnixMicros {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_700_000_000_000_000;

    /// The times of POSTs, in microseconds, of a lane that always has something to send.
    fn posts(limit: RateLimit, count: usize) -> Vec<i64> {
        let (mut used, mut now) = (None, UnixMicros(START));
        let mut times = Vec::new();
        while times.len() < count {
            now = limit.waits_until(used, now).unwrap_or(now);
            assert_eq!(limit.waits_until(used, now), None);
            used = Some(limit.after_post(used, now));
            times.push(now.0 - START);
        }
        times
    }

    #[test]
    fn a_burst_goes_at_once_and_then_the_rate_applies() {
        let limit = RateLimit { events: 10, interval: Duration::from_secs(1), burst: 3 };
        assert_eq!(posts(limit, 6), [0, 0, 0, 100_000, 200_000, 300_000]);
        let steady = RateLimit { burst: 1, ..limit };
        assert_eq!(posts(steady, 3), [0, 100_000, 200_000]);
        let slow = RateLimit { events: 1, interval: Duration::from_secs(60), burst: 1 };
        assert_eq!(posts(slow, 2), [0, 60_000_000]);
    }

    #[test]
    fn what_was_used_under_a_slower_limit_does_not_hold_up_a_faster_one() {
        let slow = RateLimit { events: 1, interval: Duration::from_secs(3600), burst: 1 };
        let fast = RateLimit { events: 10, interval: Duration::from_secs(1), burst: 1 };
        let used = Some(slow.after_post(None, UnixMicros(START)));
        assert_eq!(slow.waits_until(used, UnixMicros(START)), Some(UnixMicros(START + 3_600_000_000)));
        assert_eq!(fast.waits_until(used, UnixMicros(START)), Some(UnixMicros(START + 100_000)));
    }

    proptest! {
        #[test]
        fn no_span_of_time_has_more_posts_than_it_may(
            events in 1..=EVENTS_MAX,
            seconds in 1_u64..=3600,
            burst in 1_u32..=50,
            pauses in proptest::collection::vec(0_i64..2_000_000, 100),
        ) {
            let limit = RateLimit { events, interval: Duration::from_secs(seconds), burst };
            let (mut used, mut now, mut times) = (None, UnixMicros(START), Vec::new());
            for pause in pauses {
                now = UnixMicros(now.0 + pause);
                now = limit.waits_until(used, now).unwrap_or(now);
                used = Some(limit.after_post(used, now));
                times.push(now.0);
            }
            for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first) {
                    let span = u128::try_from(to - from).unwrap();
                    let most = u128::from(burst) + span * u128::from(events) / (u128::from(seconds) * 1_000_000);
                    prop_assert!((last - first + 1) as u128 <= most, "{} of {most}", last - first + 1);
                }
            }
        }
    }
}
