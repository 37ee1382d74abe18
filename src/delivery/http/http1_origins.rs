//! Origins that require HTTP/1.1 although they offer HTTP/2.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

/// How long an origin is remembered.
const KEPT_FOR: Duration = Duration::from_hours(1);
/// Most origins that are remembered. Past it the one that was noted first is forgotten.
const ORIGINS_MAX: usize = 1024;

/// The origins, and when each was noted.
#[derive(Default)]
pub(super) struct Http1Origins(BTreeMap<Arc<str>, Instant>);

impl Http1Origins {
    /// Remembers an origin.
    pub(super) fn note(&mut self, origin: &str) {
        self.0.retain(|_, noted| noted.elapsed() < KEPT_FOR);
        if self.0.len() >= ORIGINS_MAX
            && let Some(oldest) =
                self.0.iter().min_by_key(|(_, noted)| **noted).map(|(origin, _)| Arc::clone(origin))
        {
            self.0.remove(&oldest);
        }
        self.0.insert(origin.into(), Instant::now());
    }

    /// Whether an origin is remembered.
    pub(super) fn contains(&self, origin: &str) -> bool {
        self.0.get(origin).is_some_and(|noted| noted.elapsed() < KEPT_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_origin_is_forgotten_after_its_time_and_when_there_are_too_many() {
        let mut origins = Http1Origins::default();
        origins.note("https://first");
        tokio::time::advance(KEPT_FOR / 2).await;
        for number in 1..ORIGINS_MAX {
            origins.note(&format!("https://{number}"));
        }
        assert!(origins.contains("https://first"));
        origins.note("https://last");
        assert!(!origins.contains("https://first"));
        assert!(origins.contains("https://1"));
        assert_eq!(origins.0.len(), ORIGINS_MAX);
        tokio::time::advance(KEPT_FOR).await;
        assert!(!origins.contains("https://last"));
        origins.note("https://another");
        assert_eq!(origins.0.len(), 1);
    }
}
