//! What would be told with every call while something is broken: told at once, and counted up from time to time after that.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Least time between two log lines that tell the same.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// What happens too often to be told each time.
#[derive(Debug)]
pub struct LogThrottle(Mutex<Told>);

#[derive(Debug)]
struct Told {
    last: Option<Instant>,
    /// How often it has happened since.
    untold: u64,
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self::new()
    }
}

impl LogThrottle {
    /// Nothing has happened yet.
    pub const fn new() -> Self {
        Self(Mutex::new(Told { last: None, untold: 0 }))
    }

    /// Counts that it happens at `now`. How often it has happened and was not told, this time included, if it is time to tell.
    pub fn happens(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().expect("no code panics while it holds this lock");
        told.untold += 1;
        if told.last.is_some_and(|last| now.saturating_duration_since(last) < TELL_INTERVAL) {
            return None;
        }
        told.last = Some(now);
        Some(std::mem::take(&mut told.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_are_counted_up() {
        let (seldom, start) = (LogThrottle::new(), Instant::now());
        assert_eq!(seldom.happens(start), Some(1));
        assert_eq!(seldom.happens(start), None);
        assert_eq!(seldom.happens(start + TELL_INTERVAL - Duration::from_millis(1)), None);
        assert_eq!(seldom.happens(start + TELL_INTERVAL), Some(3));
        assert_eq!(seldom.happens(start + TELL_INTERVAL * 3), Some(1));
    }
}
