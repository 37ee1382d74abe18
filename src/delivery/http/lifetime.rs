//! How long a connection is used for new requests: one kept for ever would go to the same node behind a
//! balancer.

use std::time::Duration;

use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

/// The bounds of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LifetimeMax {
    pub(crate) age: Duration,
    pub(crate) requests: u32,
}

/// What is left to a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    end: Instant,
    requests_left: u32,
}

impl Lifetime {
    /// Of a connection that opens now, with a first request: a random part of each bound, between three
    /// quarters and all, so that connections that opened together do not end together.
    pub(super) fn draw(max: LifetimeMax, random: &mut StdRng) -> Self {
        let least = max.requests - max.requests / 4;
        let age = max.age.mul_f64(random.random_range(0.75..=1.0));
        let requests = random.random_range(least..=max.requests);
        Self { end: Instant::now() + age, requests_left: requests.saturating_sub(1) }
    }

    /// Counts another request.
    pub(super) fn count(&mut self) {
        self.requests_left = self.requests_left.saturating_sub(1);
    }

    /// Whether it gets no further request.
    pub(super) fn is_over(&self) -> bool {
        self.requests_left == 0 || Instant::now() >= self.end
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_connection_has_between_three_quarters_and_all_of_both_bounds() {
        let max = LifetimeMax { age: Duration::from_secs(100), requests: 100 };
        let (mut random, now) = (StdRng::seed_from_u64(1), Instant::now());
        let drawn: Vec<_> = (0..1000).map(|_| Lifetime::draw(max, &mut random)).collect();
        let ages: Vec<_> = drawn.iter().map(|lifetime| (lifetime.end - now).as_secs()).collect();
        let requests: Vec<_> = drawn.iter().map(|lifetime| lifetime.requests_left + 1).collect();
        assert_eq!((*requests.iter().min().unwrap(), *requests.iter().max().unwrap()), (75, 100));
        assert!(ages.iter().all(|age| (75..=100).contains(age)), "{ages:?}");
        assert!(ages.iter().any(|age| *age < 80) && ages.iter().any(|age| *age > 95), "{ages:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_over_after_its_requests_and_after_its_time() {
        let max = LifetimeMax { age: Duration::from_secs(100), requests: 1 };
        assert!(Lifetime::draw(max, &mut StdRng::seed_from_u64(1)).is_over(), "it has its first request");
        let max = LifetimeMax { requests: 3, ..max };
        let mut lifetime = Lifetime::draw(max, &mut StdRng::seed_from_u64(1));
        lifetime.count();
        assert!(!lifetime.is_over());
        lifetime.count();
        assert!(lifetime.is_over());
        let lifetime = Lifetime::draw(max, &mut StdRng::seed_from_u64(1));
        tokio::time::advance(max.age * 3 / 4 - Duration::from_secs(1)).await;
        assert!(!lifetime.is_over());
        tokio::time::advance(max.age).await;
        assert!(lifetime.is_over());
    }
}
