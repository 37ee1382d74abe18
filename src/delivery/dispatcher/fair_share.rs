//! Fair share: the attempts in flight have a bound, and this scheduler shares its permits among accounts and their
//! subscriptions. Pure.
//!
//! Accounts take turns, and so do the subscriptions of an account among themselves. A *first* permit, of a
//! subscription with no attempt in flight, goes before a further one, and that of an account with none before both.
//! *Healthy* is a subscription whose last attempt succeeded within [`SLOW_AFTER`]: it gives its permits back soon.
//! A permit is given as long as fewer than these parts of all are in use:
//!
//! | permit | of all | of those of subscriptions that are not healthy, where this one is not |
//! |---|---|---|
//! | the first one of an account | all | 3/4 |
//! | the first one of a subscription | 31/32; 1/2 if the account has 1/4 | 3/4 |
//! | a further one | 15/16; 1/2 if the account has 1/4, or the subscription 1/8 | 1/2; 1/4 if the account has 1/8 |
//!
//! So an account alone may use half of the permits, and others have theirs all the same: neither endpoints that hang
//! nor those that take their time keep them waiting.

use std::{collections::BTreeMap, time::Duration};

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use crate::domain::ids::{AccountId, SubscriptionKey};

/// An endpoint that takes longer for a response holds permits for too long to have as many as others.
pub const SLOW_AFTER: Duration = Duration::from_secs(5);

/// Members by the numbers of their turns.
type Turns<T> = BTreeMap<u64, T>;

/// Decides which subscription may start an attempt next.
#[derive(Debug)]
pub struct FairScheduler {
    max: usize,
    used: usize,
    /// Permits of subscriptions that are not healthy.
    used_unhealthy: usize,
    /// Subscriptions that are healthy, also those with nothing to do.
    healthy: HashSet<SubscriptionKey>,
    /// Subscriptions that have permits or wait for one.
    lanes: HashMap<SubscriptionKey, LaneShare>,
    /// Their accounts.
    accounts: HashMap<AccountId, AccountShare>,
    /// Accounts with a subscription that waits, by [`Rank`].
    turns: [Turns<AccountId>; Rank::ALL.len()],
    last_turn: u64,
    waiting: usize,
    /// Whether unhealthy subscriptions have the next turn among those without a permit.
    unhealthy_turn: bool,
}

#[derive(Clone, Copy, Debug)]
struct LaneShare {
    account: AccountId,
    in_flight: usize,
    /// Where and since which turn it waits.
    waits: Option<(Class, u64)>,
}

#[derive(Debug, Default)]
struct AccountShare {
    in_flight: usize,
    /// Its subscriptions that wait, by [`Class`].
    lanes: [Turns<SubscriptionKey>; Class::COUNT],
    /// The turns that it waits for, by [`Rank`].
    turns: [Option<u64>; Rank::ALL.len()],
}

/// What a subscription waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    FirstHealthy,
    FirstUnhealthy,
    MoreHealthy,
    MoreUnhealthy,
}

/// What an account waits for on behalf of its subscriptions of one class. Accounts without a permit come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    NewHealthy,
    NewUnhealthy,
    FirstHealthy,
    FirstUnhealthy,
    MoreHealthy,
    MoreUnhealthy,
}

impl Class {
    const COUNT: usize = 4;

    fn of(is_first: bool, is_healthy: bool) -> Self {
        match (is_first, is_healthy) {
            (true, true) => Self::FirstHealthy,
            (true, false) => Self::FirstUnhealthy,
            (false, true) => Self::MoreHealthy,
            (false, false) => Self::MoreUnhealthy,
        }
    }
}

impl Rank {
    /// In the order of precedence.
    const ALL: [Self; 6] = [
        Self::NewHealthy,
        Self::NewUnhealthy,
        Self::FirstHealthy,
        Self::FirstUnhealthy,
        Self::MoreHealthy,
        Self::MoreUnhealthy,
    ];

    fn class(self) -> Class {
        match self {
            Self::NewHealthy | Self::FirstHealthy => Class::FirstHealthy,
            Self::NewUnhealthy | Self::FirstUnhealthy => Class::FirstUnhealthy,
            Self::MoreHealthy => Class::MoreHealthy,
            Self::MoreUnhealthy => Class::MoreUnhealthy,
        }
    }

    /// Whether it is for accounts without a permit. Others have the other ranks.
    fn is_of_new(self) -> bool {
        matches!(self, Self::NewHealthy | Self::NewUnhealthy)
    }
}

impl FairScheduler {
    /// A scheduler with `max` permits, all of them free.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            used: 0,
            used_unhealthy: 0,
            healthy: HashSet::new(),
            lanes: HashMap::new(),
            accounts: HashMap::new(),
            turns: Default::default(),
            last_turn: 0,
            waiting: 0,
            unhealthy_turn: false,
        }
    }

    /// Whether a subscription is healthy after an attempt that took so long.
    pub fn is_healthy_after(succeeded: bool, duration: Duration) -> bool {
        succeeded && duration <= SLOW_AFTER
    }

    /// Queues a subscription of `account` that could send something. Doing it twice has no further effect.
    pub fn enqueue(&mut self, id: SubscriptionKey, account: AccountId) {
        let lane = self.lanes.get(&id).copied();
        let LaneShare { in_flight, waits, .. } =
            lane.unwrap_or(LaneShare { account, in_flight: 0, waits: None });
        let class = Class::of(in_flight == 0, self.healthy.contains(&id));
        if waits.is_some_and(|(waits, _)| waits == class) {
            return;
        }
        self.stop_waiting(id);
        self.last_turn += 1;
        self.waiting += 1;
        let turn = self.last_turn;
        self.lanes.insert(id, LaneShare { account, in_flight, waits: Some((class, turn)) });
        self.accounts.entry(account).or_default().lanes[class as usize].insert(turn, id);
        self.update_turns(account);
    }

    /// Takes the next subscription from the queues. [`FairScheduler::acquire`] follows if it has something to
    /// send.
    pub fn next(&mut self) -> Option<SubscriptionKey> {
        let mut ranks = Rank::ALL;
        if self.unhealthy_turn {
            ranks.swap(0, 1);
            ranks.swap(2, 3);
        }
        let (rank, account, id) = ranks.into_iter().find_map(|rank| self.find(rank))?;
        self.unhealthy_turn = matches!(rank, Rank::NewHealthy | Rank::FirstHealthy);
        // The account has had its turn, and gets the last one if it waits for more.
        if let Some(turn) = self.account_mut(account).turns[rank as usize].take() {
            self.turns[rank as usize].remove(&turn);
        }
        self.stop_waiting(id);
        Some(id)
    }

    /// Gives a permit to a subscription of `account`.
    pub fn acquire(&mut self, id: SubscriptionKey, account: AccountId) {
        self.used += 1;
        if !self.healthy.contains(&id) {
            self.used_unhealthy += 1;
        }
        let lane = self.lanes.entry(id).or_insert(LaneShare { account, in_flight: 0, waits: None });
        lane.in_flight += 1;
        self.accounts.entry(account).or_default().in_flight += 1;
        self.update_turns(account);
    }

    /// Takes a permit back. `is_healthy` is what the subscription is from now on.
    pub fn release(&mut self, id: SubscriptionKey, is_healthy: bool) {
        let was_healthy = self.healthy.contains(&id);
        let lane = self.lanes.get_mut(&id).expect("a subscription releases a permit that it has");
        lane.in_flight -= 1;
        let LaneShare { account, in_flight: left, waits } = *lane;
        self.used -= 1;
        if !was_healthy {
            self.used_unhealthy -= 1;
        }
        match is_healthy {
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
        self.account_mut(account).in_flight -= 1;
        if waits.is_some() {
            // It may be of another class now.
            self.enqueue(id, account);
        } else if left == 0 {
            self.lanes.remove(&id);
        }
        self.update_turns(account);
    }

    /// Whether a subscription is healthy.
    pub fn is_healthy(&self, id: SubscriptionKey) -> bool {
        self.healthy.contains(&id)
    }

    /// Forgets a deleted subscription. Its permits must still be released.
    pub fn forget(&mut self, id: SubscriptionKey) {
        self.stop_waiting(id);
        if self.healthy.remove(&id) {
            self.used_unhealthy += self.lanes.get(&id).map_or(0, |lane| lane.in_flight);
        }
    }

    /// Subscriptions that wait for a permit.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// The subscription that gets the next permit of a rank, if there is one. Passes over accounts and
    /// subscriptions that have their share: there can only be a few.
    fn find(&self, rank: Rank) -> Option<(Rank, AccountId, SubscriptionKey)> {
        if !self.may_have(rank, 0, 0) {
            return None;
        }
        self.turns[rank as usize].values().find_map(|account| {
            let share = &self.accounts[account];
            if !self.may_have(rank, share.in_flight, 0) {
                return None;
            }
            let mut lanes = share.lanes[rank.class() as usize].values().copied();
            let id = lanes.find(|id| self.may_have(rank, share.in_flight, self.lanes[id].in_flight))?;
            Some((rank, *account, id))
        })
    }

    /// Whether a subscription of a rank may have one more permit: the table above.
    fn may_have(&self, rank: Rank, of_account: usize, of_lane: usize) -> bool {
        let part = |whole: usize| (self.max / whole).max(1);
        let (all, unhealthy) = match rank {
            Rank::NewHealthy | Rank::NewUnhealthy => (self.max, 3 * self.max / 4),
            Rank::FirstHealthy | Rank::FirstUnhealthy => {
                let all = if of_account >= part(4) { part(2) } else { self.max - part(32) };
                (all, 3 * self.max / 4)
            }
            Rank::MoreHealthy | Rank::MoreUnhealthy => {
                let is_large = of_account >= part(4) || of_lane >= part(8);
                let all = if is_large { part(2) } else { self.max - part(16) };
                (all, if of_account >= part(8) { part(4) } else { part(2) })
            }
        };
        let is_healthy = matches!(rank.class(), Class::FirstHealthy | Class::MoreHealthy);
        self.used < all && (is_healthy || self.used_unhealthy < unhealthy.max(1))
    }

    /// Takes a subscription out of its queue.
    fn stop_waiting(&mut self, id: SubscriptionKey) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let LaneShare { account, in_flight, waits } = *lane;
        lane.waits = None;
        if in_flight == 0 {
            self.lanes.remove(&id);
        }
        if let Some((class, turn)) = waits {
            self.waiting -= 1;
            self.account_mut(account).lanes[class as usize].remove(&turn);
            self.update_turns(account);
        }
    }

    fn account_mut(&mut self, account: AccountId) -> &mut AccountShare {
        self.accounts
            .get_mut(&account)
            .expect("accounts of subscriptions that have or want permits are there")
    }

    /// Makes an account wait for the turns that its subscriptions need, and for no other; forgets it if it has
    /// nothing to do.
    fn update_turns(&mut self, account: AccountId) {
        let Some(share) = self.accounts.get_mut(&account) else { return };
        for rank in Rank::ALL {
            let has_waiting = !share.lanes[rank.class() as usize].is_empty();
            let waits = has_waiting && rank.is_of_new() == (share.in_flight == 0);
            let (turn, turns) = (&mut share.turns[rank as usize], &mut self.turns[rank as usize]);
            match *turn {
                None if waits => {
                    self.last_turn += 1;
                    *turn = Some(self.last_turn);
                    turns.insert(self.last_turn, account);
                }
                Some(number) if !waits => {
                    *turn = None;
                    turns.remove(&number);
                }
                _ => {}
            }
        }
        if share.in_flight == 0 && share.lanes.iter().all(BTreeMap::is_empty) {
            self.accounts.remove(&account);
        }
    }
}

#[cfg(test)]
mod tests;
