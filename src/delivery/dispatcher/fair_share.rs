//! Who may send next: the attempts under way over all lanes have a bound, and this shares them fairly. Pure.
//!
//! A free place goes to a lane that has none before it goes to one that has some, and lanes take turns. At most half of all
//! places is for lanes whose last attempt did not succeed (or that made none yet), and a quarter for more than the first
//! place of such a lane. So a thousand endpoints that hang hold half of the places, and whoever's last attempt
//! succeeded never waits for them.

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use crate::domain::ids::SubscriptionKey;

/// The places, and who wants one.
#[derive(Debug)]
pub struct Places {
    max: usize,
    used: usize,
    /// Those of lanes that are not proven.
    used_unproven: usize,
    held: HashMap<SubscriptionKey, usize>,
    /// Lanes whose last attempt succeeded.
    proven: HashSet<SubscriptionKey>,
    /// Who wants a place, each in one queue.
    wanting: HashMap<SubscriptionKey, Class>,
    queues: [VecDeque<SubscriptionKey>; 4],
    /// Whose turn it is among those who want their first place.
    unproven_turn: bool,
}

/// In which queue a lane waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    FirstProven,
    FirstUnproven,
    MoreProven,
    MoreUnproven,
}

impl Places {
    /// So many places, all of them free.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            used: 0,
            used_unproven: 0,
            held: HashMap::new(),
            proven: HashSet::new(),
            wanting: HashMap::new(),
            queues: Default::default(),
            unproven_turn: false,
        }
    }

    /// Notes that a lane could send something. Wanting twice is wanting once.
    pub fn want(&mut self, lane: SubscriptionKey) {
        let class = match (self.held.contains_key(&lane), self.proven.contains(&lane)) {
            (false, true) => Class::FirstProven,
            (false, false) => Class::FirstUnproven,
            (true, true) => Class::MoreProven,
            (true, false) => Class::MoreUnproven,
        };
        // What it was in another queue is passed over there.
        if self.wanting.insert(lane, class) != Some(class) {
            self.queues[class as usize].push_back(lane);
        }
    }

    /// Who is next; it wants nothing more until it says so again. [`Places::take`] follows if it still has something.
    pub fn next(&mut self) -> Option<SubscriptionKey> {
        if self.used >= self.max {
            return None;
        }
        let half = self.used_unproven < (self.max / 2).max(1);
        let quarter = self.used_unproven < (self.max / 4).max(1);
        let firsts = if self.unproven_turn {
            [Class::FirstUnproven, Class::FirstProven]
        } else {
            [Class::FirstProven, Class::FirstUnproven]
        };
        let more = [Class::MoreProven, Class::MoreUnproven];
        for class in firsts.into_iter().chain(more) {
            let may = match class {
                Class::FirstUnproven => half,
                Class::MoreUnproven => quarter,
                Class::FirstProven | Class::MoreProven => true,
            };
            if may && let Some(lane) = self.pop(class) {
                self.unproven_turn = class == Class::FirstProven;
                return Some(lane);
            }
        }
        None
    }

    /// Gives a place to a lane.
    pub fn take(&mut self, lane: SubscriptionKey) {
        self.used += 1;
        *self.held.entry(lane).or_default() += 1;
        if !self.proven.contains(&lane) {
            self.used_unproven += 1;
        }
    }

    /// Takes a place back; `succeeded` is how the attempt ended, if one was made.
    pub fn free(&mut self, lane: SubscriptionKey, succeeded: Option<bool>) {
        let was_proven = self.proven.contains(&lane);
        let held = self.held.get_mut(&lane).expect("a place is freed by who has it");
        self.used -= 1;
        *held -= 1;
        let left = *held;
        if left == 0 {
            self.held.remove(&lane);
        }
        if !was_proven {
            self.used_unproven -= 1;
        }
        match succeeded {
            Some(true) if !was_proven => {
                self.proven.insert(lane);
                self.used_unproven -= left;
            }
            Some(false) if was_proven => {
                self.proven.remove(&lane);
                self.used_unproven += left;
            }
            _ => {}
        }
        if self.wanting.contains_key(&lane) {
            // It may belong into another queue now.
            self.want(lane);
        }
    }

    /// Forgets a lane that is no more. Places that it has are still to be freed.
    pub fn forget(&mut self, lane: SubscriptionKey) {
        self.wanting.remove(&lane);
        if self.proven.remove(&lane) {
            self.used_unproven += self.held.get(&lane).copied().unwrap_or(0);
        }
    }

    /// How many lanes wait for a place.
    pub fn waiting(&self) -> usize {
        self.wanting.len()
    }

    fn pop(&mut self, class: Class) -> Option<SubscriptionKey> {
        while let Some(lane) = self.queues[class as usize].pop_front() {
            if self.wanting.get(&lane) == Some(&class) {
                self.wanting.remove(&lane);
                return Some(lane);
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

    fn lane(number: u64) -> SubscriptionKey {
        SubscriptionKey(number)
    }

    /// Gives places as long as there are some, to lanes that always want more.
    fn serve(places: &mut Places) -> Vec<u64> {
        let mut served = Vec::new();
        while let Some(next) = places.next() {
            places.take(next);
            places.want(next);
            served.push(next.0);
        }
        served
    }

    fn prove(places: &mut Places, number: u64) {
        places.take(lane(number));
        places.free(lane(number), Some(true));
    }

    #[test]
    fn one_lane_may_have_everything_while_nobody_else_wants_it() {
        let mut places = Places::new(MAX);
        prove(&mut places, 1);
        places.want(lane(1));
        assert_eq!(serve(&mut places), [1; MAX]);
    }

    #[test]
    fn lanes_take_turns() {
        let mut places = Places::new(MAX);
        (1..=4).for_each(|number| prove(&mut places, number));
        (1..=4).for_each(|number| places.want(lane(number)));
        let served = serve(&mut places);
        for number in 1..=4 {
            assert_eq!(served.iter().filter(|served| **served == number).count(), MAX / 4);
        }
    }

    #[test]
    fn who_has_nothing_gets_the_next_free_place() {
        let mut places = Places::new(MAX);
        prove(&mut places, 1);
        places.want(lane(1));
        serve(&mut places);
        places.want(lane(2));
        places.free(lane(1), Some(true));
        assert_eq!(places.next(), Some(lane(2)));
    }

    #[test]
    fn endpoints_that_hang_hold_no_more_than_their_share() {
        let mut places = Places::new(MAX);
        prove(&mut places, 0);
        (1..=1000).for_each(|number| places.want(lane(number)));
        assert_eq!(serve(&mut places).len(), MAX / 2);
        places.want(lane(0));
        assert_eq!(serve(&mut places), [0; MAX / 2], "the rest is for those who succeed");
    }

    #[test]
    fn a_lane_that_begins_to_hang_loses_its_share_and_gets_it_back() {
        let mut places = Places::new(MAX);
        prove(&mut places, 1);
        places.want(lane(1));
        serve(&mut places);
        places.free(lane(1), Some(false));
        assert_eq!(places.next(), None, "it holds more than half");
        places.want(lane(2));
        assert_eq!(places.next(), None, "and so does everybody of whom nothing is known");
        prove(&mut places, 3);
        places.want(lane(3));
        assert_eq!(places.next(), Some(lane(3)));
        places.free(lane(1), Some(true));
        places.want(lane(1));
        assert_eq!(serve(&mut places), [2, 1]);
    }

    proptest! {
        #[test]
        fn places_add_up_and_nobody_is_forgotten(
            steps in proptest::collection::vec((0_u64..6, 0_u8..5), 0..400)
        ) {
            let mut places = Places::new(8);
            let mut held: Vec<u64> = Vec::new();
            for (number, step) in steps {
                match step {
                    0 | 1 => places.want(lane(number)),
                    2 => {
                        if let Some(next) = places.next() {
                            places.take(next);
                            held.push(next.0);
                        }
                    }
                    3 => {
                        if let Some(at) = held.iter().position(|held| *held == number) {
                            held.remove(at);
                            places.free(lane(number), [None, Some(true), Some(false)][at % 3]);
                        }
                    }
                    _ => places.forget(lane(number)),
                }
                prop_assert_eq!(places.used, held.len());
                prop_assert!(places.used <= 8 && places.used_unproven <= places.used);
                let unproven = held.iter().filter(|held| !places.proven.contains(&lane(**held))).count();
                prop_assert_eq!(places.used_unproven, unproven);
            }
            for number in held {
                places.free(lane(number), Some(true));
            }
            (0..6).for_each(|number| places.want(lane(number)));
            let mut served = Vec::new();
            while let Some(next) = places.next() {
                served.push(next.0);
                places.take(next);
                places.free(next, None);
            }
            served.sort_unstable();
            prop_assert_eq!(served, (0..6).collect::<Vec<_>>());
        }
    }
}
