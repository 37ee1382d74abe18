//! Points in time, in the resolution of the store.

use std::time::Duration;

/// Microseconds since 1970-01-01T00:00:00Z. The resolution of all times that Tidings stores and shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMicros(pub i64);

impl UnixMicros {
    /// `later` after this time; the largest time if that overflows.
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(later.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The time elapsed since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since the epoch, rounded down.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

impl From<UnixMicros> for prost_types::Timestamp {
    fn from(time: UnixMicros) -> Self {
        let micros = i32::try_from(time.0.rem_euclid(1_000_000)).expect("a remainder of a million fits");
        Self { seconds: time.seconds(), nanos: micros * 1000 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_the_epoch_has_positive_nanos() {
        let time = prost_types::Timestamp::from(UnixMicros(-1));
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_000));
    }

    #[test]
    fn arithmetic_stays_in_range() {
        assert_eq!(UnixMicros(i64::MAX).plus(Duration::MAX), UnixMicros(i64::MAX));
        assert_eq!(UnixMicros(5).since(UnixMicros(9)), Duration::ZERO);
        assert_eq!(UnixMicros(9).since(UnixMicros(5)), Duration::from_micros(4));
    }
}
