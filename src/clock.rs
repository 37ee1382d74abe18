//! The clock, which tests can replace.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::time::UnixMicros;

/// The source of time. A trait, so that a simulation can set the time.
pub trait Clock: Send + Sync + 'static {
    /// The wall-clock time. It may step back.
    fn now(&self) -> UnixMicros;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "only this function reads the machine's clock")]
    fn now(&self) -> UnixMicros {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970");
        UnixMicros(i64::try_from(now.as_micros()).expect("the clock is before the year 294,000"))
    }
}
