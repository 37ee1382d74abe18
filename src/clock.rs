//! Where the time comes from.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::time::UnixMicros;

/// Tells the time. A trait, so that a simulation can set it.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock. May step back.
    fn now(&self) -> UnixMicros;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    fn now(&self) -> UnixMicros {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the machine's clock is past 1970");
        UnixMicros(i64::try_from(now.as_micros()).expect("the clock is before the year 294,000"))
    }
}
