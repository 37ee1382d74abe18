//! Subscriptions that wait to read from the store, since enough others do: accounts take turns, and so do the
//! subscriptions of each.

use std::collections::VecDeque;

use foldhash::{HashMap, HashMapExt, HashSet, HashSetExt};

use crate::domain::ids::{AccountId, SubscriptionKey};

/// The waiting subscriptions, each once.
pub(super) struct ReadQueue {
    /// Accounts with a subscription that waits.
    turns: VecDeque<AccountId>,
    of_account: HashMap<AccountId, VecDeque<SubscriptionKey>>,
    waiting: HashSet<SubscriptionKey>,
}

impl ReadQueue {
    pub(super) fn new() -> Self {
        Self { turns: VecDeque::new(), of_account: HashMap::new(), waiting: HashSet::new() }
    }

    /// Lets a subscription wait. Doing it twice has no further effect.
    pub(super) fn push(&mut self, account: AccountId, id: SubscriptionKey) {
        if !self.waiting.insert(id) {
            return;
        }
        let of_account = self.of_account.entry(account).or_default();
        if of_account.is_empty() {
            self.turns.push_back(account);
        }
        of_account.push_back(id);
    }

    /// Takes the subscription whose turn it is.
    pub(super) fn pop(&mut self) -> Option<SubscriptionKey> {
        let account = self.turns.pop_front()?;
        let of_account = self.of_account.get_mut(&account)?;
        let id = of_account.pop_front()?;
        if of_account.is_empty() {
            self.of_account.remove(&account);
        } else {
            self.turns.push_back(account);
        }
        self.waiting.remove(&id);
        Some(id)
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_with_many_subscriptions_does_not_keep_another_waiting() {
        let account = |number| AccountId::new(number).unwrap();
        let mut queue = ReadQueue::new();
        for id in 0..100 {
            queue.push(account(1), SubscriptionKey(id));
        }
        for _ in 0..2 {
            queue.push(account(2), SubscriptionKey(200));
        }
        queue.push(account(2), SubscriptionKey(201));
        let next = |queue: &mut ReadQueue| queue.pop().map(|id| id.0);
        assert_eq!([0; 5].map(|_| next(&mut queue).unwrap()), [0, 200, 1, 201, 2]);
        assert_eq!(queue.len(), 97);
        queue.push(account(2), SubscriptionKey(200));
        assert_eq!([0; 3].map(|_| next(&mut queue).unwrap()), [3, 200, 4]);
        while queue.pop().is_some() {}
        assert_eq!((queue.len(), queue.of_account.len()), (0, 0));
    }
}
