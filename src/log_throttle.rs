//! Throttled logging: the first occurrence at once, then a count every 10 s.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

/// Least time between two log lines about the same failure.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Decides when to log a failure that would repeat with every call.
#[derive(Debug)]
pub struct LogThrottle(Mutex<State>);

#[derive(Debug)]
struct State {
    last_logged: Option<Instant>,
    /// Occurrences since then.
    unlogged: u64,
}

impl Default for LogThrottle {
    fn default() -> Self {
        Self::new()
    }
}

impl LogThrottle {
    /// A throttle that lets the first occurrence through.
    pub const fn new() -> Self {
        Self(Mutex::new(State { last_logged: None, unlogged: 0 }))
    }

    /// Counts an occurrence. If it is time for a log line, returns the occurrences since the last line, this
    /// one included.
    pub fn record(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.0.lock().expect("no code panics while it holds this lock");
        state.unlogged += 1;
        if state.last_logged.is_some_and(|last| now.saturating_duration_since(last) < LOG_INTERVAL) {
            return None;
        }
        state.last_logged = Some(now);
        Some(std::mem::take(&mut state.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_occurrence_is_logged_at_once_and_later_ones_are_counted() {
        const MOMENT: Duration = Duration::from_millis(1);
        let throttle = LogThrottle::new();
        assert_eq!(throttle.record(), Some(1));
        assert_eq!(throttle.record(), None);
        advance(LOG_INTERVAL - MOMENT).await;
        assert_eq!(throttle.record(), None);
        advance(MOMENT).await;
        assert_eq!(throttle.record(), Some(3));
        advance(LOG_INTERVAL * 2).await;
        assert_eq!(throttle.record(), Some(1));
    }
}
