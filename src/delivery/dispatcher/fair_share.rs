//! Fair share: the attempts in flight have a bound, and this scheduler shares it between subscriptions. Pure.
//!
//! A free permit goes to a subscription without an attempt in flight before it goes to one that has some, and
//! subscriptions take turns. *Healthy* is a subscription whose last attempt succeeded. The others get at most
//! half of all permits, and at most a quarter for more than their first. So a thousand endpoints that hang
//! use half of the permits, and a healthy subscription never waits for them.

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use crate::domain::ids::SubscriptionKey;

/// Decides which subscription may start an attempt next.
#[derive(Debug)]
pub struct FairScheduler {
    max: usize,
    used: usize,
    /// Permits of subscriptions that are not healthy.
    used_unhealthy: usize,
    in_flight: HashMap<SubscriptionKey, usize>,
    /// Subscriptions whose last attempt succeeded.
    healthy: HashSet<SubscriptionKey>,
    /// Subscriptions that wait for a permit, each in one queue. Other entries in the queues are out of date.
    waiting: HashMap<SubscriptionKey, Class>,
    queues: [VecDeque<SubscriptionKey>; 4],
    /// Whether unhealthy subscriptions have the next turn among those without a permit.
    unhealthy_turn: bool,
}

/// The queue that a subscription waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    FirstHealthy,
    FirstUnhealthy,
    MoreHealthy,
    MoreUnhealthy,
}

impl FairScheduler {
    /// A scheduler with `max` permits, all of them free.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            used: 0,
            used_unhealthy: 0,
            in_flight: HashMap::new(),
            healthy: HashSet::new(),
            waiting: HashMap::new(),
            queues: Default::default(),
            unhealthy_turn: false,
        }
    }

    /// Queues a subscription that could send something. Doing it twice has no further effect.
    pub fn enqueue(&mut self, id: SubscriptionKey) {
        let class = match (self.in_flight.contains_key(&id), self.healthy.contains(&id)) {
            (false, true) => Class::FirstHealthy,
            (false, false) => Class::FirstUnhealthy,
            (true, true) => Class::MoreHealthy,
            (true, false) => Class::MoreUnhealthy,
        };
        // Its entry in another queue is skipped there.
        if self.waiting.insert(id, class) != Some(class) {
            self.queues[class as usize].push_back(id);
        }
    }

    /// Takes the next subscription from the queues. [`FairScheduler::acquire`] follows if it has something to
    /// send.
    pub fn next(&mut self) -> Option<SubscriptionKey> {
        if self.used >= self.max {
            return None;
        }
        let half = self.used_unhealthy < (self.max / 2).max(1);
        let quarter = self.used_unhealthy < (self.max / 4).max(1);
        let firsts = if self.unhealthy_turn {
            [Class::FirstUnhealthy, Class::FirstHealthy]
        } else {
            [Class::FirstHealthy, Class::FirstUnhealthy]
        };
        let more = [Class::MoreHealthy, Class::MoreUnhealthy];
        for class in firsts.into_iter().chain(more) {
            let may = match class {
                Class::FirstUnhealthy => half,
                Class::MoreUnhealthy => quarter,
                Class::FirstHealthy | Class::MoreHealthy => true,
            };
            if may && let Some(id) = self.pop(class) {
                self.unhealthy_turn = class == Class::FirstHealthy;
                return Some(id);
            }
        }
        None
    }

    /// Gives a permit to a subscription.
    pub fn acquire(&mut self, id: SubscriptionKey) {
        self.used += 1;
        *self.in_flight.entry(id).or_default() += 1;
        if !self.healthy.contains(&id) {
            self.used_unhealthy += 1;
        }
    }

    /// Takes a permit back. `succeeded` is the outcome of the attempt.
    pub fn release(&mut self, id: SubscriptionKey, succeeded: bool) {
        let was_healthy = self.healthy.contains(&id);
        let in_flight = self.in_flight.get_mut(&id).expect("a subscription releases a permit that it has");
        self.used -= 1;
        *in_flight -= 1;
        let left = *in_flight;
        if left == 0 {
            self.in_flight.remove(&id);
        }
        if !was_healthy {
            self.used_unhealthy -= 1;
        }
        match succeeded {
            true if !was_healthy => {
                self.healthy.insert(id);
                self.used_unhealthy -= left;
            }
            false if was_healthy => {
                self.healthy.remove(&id);
                self.used_unhealthy += left;
            }
            _ => {}
        }
        if self.waiting.contains_key(&id) {
            // It may belong to another queue now.
            self.enqueue(id);
        }
    }

    /// Whether the last attempt of a subscription succeeded.
    pub fn is_healthy(&self, id: SubscriptionKey) -> bool {
        self.healthy.contains(&id)
    }

    /// Forgets a deleted subscription. Its permits must still be released.
    pub fn forget(&mut self, id: SubscriptionKey) {
        self.waiting.remove(&id);
        if self.healthy.remove(&id) {
            self.used_unhealthy += self.in_flight.get(&id).copied().unwrap_or(0);
        }
    }

    /// Subscriptions that wait for a permit.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn pop(&mut self, class: Class) -> Option<SubscriptionKey> {
        while let Some(id) = self.queues[class as usize].pop_front() {
            if self.waiting.get(&id) == Some(&class) {
                self.waiting.remove(&id);
                return Some(id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 64;

    fn key(number: u64) -> SubscriptionKey {
        SubscriptionKey(number)
    }

    /// Gives permits as long as there are some, to subscriptions that always want more.
    fn serve(scheduler: &mut FairScheduler) -> Vec<u64> {
        let mut served = Vec::new();
        while let Some(next) = scheduler.next() {
            scheduler.acquire(next);
            scheduler.enqueue(next);
            served.push(next.0);
        }
        served
    }

    fn succeed(scheduler: &mut FairScheduler, number: u64) {
        scheduler.acquire(key(number));
        scheduler.release(key(number), true);
    }

    #[test]
    fn one_subscription_may_have_everything_while_no_other_wants_it() {
        let mut scheduler = FairScheduler::new(MAX);
        succeed(&mut scheduler, 1);
        scheduler.enqueue(key(1));
        assert_eq!(serve(&mut scheduler), [1; MAX]);
    }

    #[test]
    fn subscriptions_take_turns() {
        let mut scheduler = FairScheduler::new(MAX);
        (1..=4).for_each(|number| succeed(&mut scheduler, number));
        (1..=4).for_each(|number| scheduler.enqueue(key(number)));
        let served = serve(&mut scheduler);
        for number in 1..=4 {
            assert_eq!(served.iter().filter(|served| **served == number).count(), MAX / 4);
        }
    }

    #[test]
    fn a_subscription_without_a_permit_gets_the_next_one() {
        let mut scheduler = FairScheduler::new(MAX);
        succeed(&mut scheduler, 1);
        scheduler.enqueue(key(1));
        serve(&mut scheduler);
        scheduler.enqueue(key(2));
        scheduler.release(key(1), true);
        assert_eq!(scheduler.next(), Some(key(2)));
    }

    #[test]
    fn endpoints_that_hang_use_no_more_than_their_share() {
        let mut scheduler = FairScheduler::new(MAX);
        succeed(&mut scheduler, 0);
        (1..=1000).for_each(|number| scheduler.enqueue(key(number)));
        assert_eq!(serve(&mut scheduler).len(), MAX / 2);
        scheduler.enqueue(key(0));
        assert_eq!(serve(&mut scheduler), [0; MAX / 2], "the rest is for healthy subscriptions");
    }

    #[test]
    fn a_subscription_that_begins_to_hang_loses_its_share_and_gets_it_back() {
        let mut scheduler = FairScheduler::new(MAX);
        succeed(&mut scheduler, 1);
        scheduler.enqueue(key(1));
        serve(&mut scheduler);
        scheduler.release(key(1), false);
        assert_eq!(scheduler.next(), None, "it uses more than half");
        scheduler.enqueue(key(2));
        assert_eq!(scheduler.next(), None, "and so do all that are not known to be healthy");
        succeed(&mut scheduler, 3);
        scheduler.enqueue(key(3));
        assert_eq!(scheduler.next(), Some(key(3)));
        scheduler.release(key(1), true);
        scheduler.enqueue(key(1));
        assert_eq!(serve(&mut scheduler), [2, 1]);
    }

    proptest! {
        #[test]
        fn permits_add_up_and_no_subscription_is_forgotten(
            steps in proptest::collection::vec((0_u64..6, 0_u8..5), 0..400)
        ) {
            let mut scheduler = FairScheduler::new(8);
            let mut in_flight: Vec<u64> = Vec::new();
            for (number, step) in steps {
                match step {
                    0 | 1 => scheduler.enqueue(key(number)),
                    2 => {
                        if let Some(next) = scheduler.next() {
                            scheduler.acquire(next);
                            in_flight.push(next.0);
                        }
                    }
                    3 => {
                        if let Some(at) = in_flight.iter().position(|in_flight| *in_flight == number) {
                            in_flight.remove(at);
                            scheduler.release(key(number), at % 2 == 0);
                        }
                    }
                    _ => scheduler.forget(key(number)),
                }
                prop_assert_eq!(scheduler.used, in_flight.len());
                prop_assert!(scheduler.used <= 8 && scheduler.used_unhealthy <= scheduler.used);
                let is_unhealthy = |number: &&u64| !scheduler.healthy.contains(&key(**number));
                let unhealthy = in_flight.iter().filter(is_unhealthy).count();
                prop_assert_eq!(scheduler.used_unhealthy, unhealthy);
            }
            for number in in_flight {
                scheduler.release(key(number), true);
            }
            (0..6).for_each(|number| scheduler.enqueue(key(number)));
            let mut served = Vec::new();
            while let Some(next) = scheduler.next() {
                served.push(next.0);
                scheduler.acquire(next);
                scheduler.release(next, true);
            }
            served.sort_unstable();
            prop_assert_eq!(served, (0..6).collect::<Vec<_>>());
        }
    }
}
