//! Divides a limit among callers: whoever has more than its share is refused or waits, and nobody else.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::connections::network;

/// The part of a pool that a caller may have, unless the pool says otherwise.
const SHARE_PART: usize = 2;
/// The last part of a pool that is only for callers that have no more than a first place, unless it says otherwise.
const FIRST_PART: usize = 4;

/// A caller, as pools tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ShareKey {
    /// The holders of one access token or client certificate, by a hash of its name. Two names with the same hash,
    /// which nobody can arrange, share.
    Name(u64),
    /// Callers without one, by address: in IPv6 all addresses of a /64.
    Network(IpAddr),
    /// Callers without one whose transport has no addresses.
    Local,
    /// An account, for work that the gateway does on its behalf.
    Account(i64),
    /// All accounts together, for work on behalf of callers that may use every one.
    AllAccounts,
}

impl ShareKey {
    /// The holders of the token or certificate of this name.
    pub fn of_name(name: &str) -> Self {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self::Name(HASHER.hash_one(name))
    }

    /// Callers at this address.
    pub fn of_address(address: Option<IpAddr>) -> Self {
        address.map_or(Self::Local, |address| Self::Network(network(address)))
    }
}

/// A pool of places or bytes. Clones share it.
///
/// A caller may have half of it, and takes more than a first place only from the first three quarters: so two
/// callers cannot use it up, and the last quarter is left for those who have nothing yet. A pool may have other parts.
#[derive(Clone, Debug)]
pub struct SharedPool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max: usize,
    share_max: usize,
    first: usize,
    /// The last of it, which is for first places.
    first_max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// Only callers that use some of it.
    by_key: HashMap<ShareKey, usize, foldhash::fast::RandomState>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    key: ShareKey,
    amount: usize,
    admit: oneshot::Sender<Permit>,
}

/// A part of a [`SharedPool`] that is in use until this is dropped.
#[derive(Debug)]
pub struct Permit {
    pool: SharedPool,
    key: ShareKey,
    amount: usize,
}

/// The pool, or the caller's share of it, is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharesUsedUp;

impl SharedPool {
    /// A pool of `max` places.
    pub fn of_places(max: usize) -> Self {
        Self::new(max, 1)
    }

    /// A pool of `max` bytes, of which `first` count as a first place.
    pub fn new(max: usize, first: usize) -> Self {
        Self::in_parts(max, first, SHARE_PART, FIRST_PART)
    }

    /// A pool of `max` places: a caller may have one in `share_part`, and one in `first_part` is for first places.
    pub fn of_places_in_parts(max: usize, share_part: usize, first_part: usize) -> Self {
        Self::in_parts(max, 1, share_part, first_part)
    }

    fn in_parts(max: usize, first: usize, share_part: usize, first_part: usize) -> Self {
        let (share_max, first_max) = (max.div_ceil(share_part), max / first_part);
        Self(Arc::new(Inner { max, share_max, first, first_max, state: Mutex::default() }))
    }

    /// The size of the pool.
    pub fn max(&self) -> usize {
        self.0.max
    }

    /// What one caller may have at most.
    pub fn share_max(&self) -> usize {
        self.0.share_max.max(self.0.first.min(self.0.max))
    }

    /// What nobody uses.
    pub fn free(&self) -> usize {
        self.0.max.saturating_sub(self.lock().used)
    }

    /// A part for this caller that is empty so far.
    pub fn empty(&self, key: ShareKey) -> Permit {
        Permit { pool: self.clone(), key, amount: 0 }
    }

    /// A part of `amount` for this caller.
    ///
    /// # Errors
    ///
    /// It does not fit.
    pub fn try_acquire(&self, key: ShareKey, amount: usize) -> Result<Permit, SharesUsedUp> {
        let mut permit = self.empty(key);
        permit.try_resize(amount).map(|()| permit)
    }

    /// The same as soon as it fits. Callers of one share get theirs in turn, and none waits for another share.
    /// `amount` must be no more than a first place, so that it fits at some time.
    pub async fn acquire(&self, key: ShareKey, amount: usize) -> Permit {
        debug_assert!(amount <= self.0.first);
        let receiver = {
            let mut state = self.lock();
            // Nobody passes those that wait in the same share.
            let passes = !state.waiting.iter().any(|waiting| waiting.key == key);
            if passes && self.0.fits(&state, key, amount) {
                state.add(key, amount);
                return Permit { pool: self.clone(), key, amount };
            }
            let (admit, receiver) = oneshot::channel();
            state.waiting.push_back(Waiting { key, amount, admit });
            receiver
        };
        receiver.await.expect("the pool, which has the sender, is not dropped while it is borrowed")
    }

    /// Admits those of the waiting for whom there is room. Returns what they get, to be sent without the lock: a
    /// caller that has gone drops it.
    fn admit(&self, state: &mut State) -> Vec<(oneshot::Sender<Permit>, Permit)> {
        let (mut admitted, mut passed) = (Vec::new(), Vec::new());
        let mut index = 0;
        while let Some(waiting) = state.waiting.get(index) {
            let (key, amount) = (waiting.key, waiting.amount);
            let is_gone = waiting.admit.is_closed();
            if !is_gone && (passed.contains(&key) || !self.0.fits(state, key, amount)) {
                passed.push(key);
                index += 1;
                continue;
            }
            let waiting = state.waiting.remove(index).expect("it was just there");
            if !is_gone {
                state.add(key, amount);
                admitted.push((waiting.admit, Permit { pool: self.clone(), key, amount }));
            }
        }
        admitted
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether the caller may have so much more.
    fn fits(&self, state: &State, key: ShareKey, more: usize) -> bool {
        let own = state.by_key.get(&key).copied().unwrap_or_default() + more;
        let used = state.used + more;
        used <= self.max
            && (own <= self.first || (own <= self.share_max && used <= self.max - self.first_max))
    }
}

impl State {
    fn add(&mut self, key: ShareKey, more: usize) {
        self.used += more;
        *self.by_key.entry(key).or_default() += more;
    }

    fn remove(&mut self, key: ShareKey, less: usize) {
        self.used -= less;
        if let Entry::Occupied(mut own) = self.by_key.entry(key) {
            *own.get_mut() -= less;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

impl Permit {
    /// What it has of the pool.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Makes it larger, or smaller, which always succeeds.
    ///
    /// # Errors
    ///
    /// It does not fit; nothing has changed.
    pub fn try_resize(&mut self, amount: usize) -> Result<(), SharesUsedUp> {
        if amount > self.amount {
            let more = amount - self.amount;
            let mut state = self.pool.lock();
            if !self.pool.0.fits(&state, self.key, more) {
                return Err(SharesUsedUp);
            }
            state.add(self.key, more);
        } else if amount < self.amount {
            self.shrink(amount);
        }
        self.amount = amount;
        Ok(())
    }

    /// Makes it as large as something that is there already, whether it fits or not.
    pub fn resize(&mut self, amount: usize) {
        if amount > self.amount {
            self.pool.lock().add(self.key, amount - self.amount);
        } else if amount < self.amount {
            self.shrink(amount);
        }
        self.amount = amount;
    }

    fn shrink(&self, amount: usize) {
        let admitted = {
            let mut state = self.pool.lock();
            state.remove(self.key, self.amount - amount);
            self.pool.admit(&mut state)
        };
        for (admit, permit) in admitted {
            drop(admit.send(permit));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.amount > 0 {
            self.shrink(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn key(number: u64) -> ShareKey {
        ShareKey::Name(number)
    }

    #[test]
    fn a_caller_has_half_and_the_last_quarter_is_for_those_who_have_nothing() {
        let pool = SharedPool::of_places(16);
        let mut kept = Vec::new();
        let mut takes = |number| pool.try_acquire(key(number), 1).map(|permit| kept.push(permit)).is_ok();
        assert_eq!((0..20).filter(|_| takes(1)).count(), 8);
        assert_eq!((0..20).filter(|_| takes(2)).count(), 4);
        for number in 3..7 {
            assert_eq!((0..20).filter(|_| takes(number)).count(), 1, "{number}");
        }
        assert!(!takes(7), "there are 16");
        kept.clear();
        let state = pool.lock();
        assert_eq!((state.used, state.by_key.len()), (0, 0));
    }

    #[test]
    fn a_pool_may_have_other_parts() {
        let pool = SharedPool::of_places_in_parts(16, 4, 8);
        let mut kept = Vec::new();
        let mut takes = |number| pool.try_acquire(key(number), 1).map(|permit| kept.push(permit)).is_ok();
        let taken = [1, 2, 3, 4, 5, 6, 7].map(|number| (0..20).filter(|_| takes(number)).count());
        assert_eq!(taken, [4, 4, 4, 2, 1, 1, 0]);
    }

    #[test]
    fn the_smallest_pools_have_a_place() {
        for max in 1..4 {
            let pool = SharedPool::of_places(max);
            let _first = pool.try_acquire(key(1), 1).expect("a first place");
            assert_eq!(pool.try_acquire(key(2), 1).is_ok(), max > 1);
        }
        assert!(SharedPool::of_places(0).try_acquire(key(1), 1).is_err());
    }

    #[test]
    fn a_part_grows_as_far_as_it_fits_and_shrinks() {
        let pool = SharedPool::new(160, 10);
        let mut large = pool.try_acquire(key(1), 80).unwrap();
        assert_eq!(large.try_resize(81), Err(SharesUsedUp));
        assert_eq!(large.amount(), 80);
        let mut other = pool.try_acquire(key(2), 40).unwrap();
        assert_eq!(other.try_resize(41), Err(SharesUsedUp));
        let mut first = pool.empty(key(3));
        assert_eq!((first.try_resize(11), first.try_resize(10)), (Err(SharesUsedUp), Ok(())));
        large.try_resize(0).unwrap();
        other.try_resize(41).unwrap();
        first.resize(1000);
        assert!(pool.try_acquire(key(4), 1).is_err());
        drop(first);
        assert!(pool.try_acquire(key(4), 1).is_ok());
    }

    #[test]
    fn whoever_waits_gets_its_part_in_turn_and_waits_for_no_other_share() {
        let pool = SharedPool::new(4, 1);
        let mut own: Vec<_> = (0..2).map(|_| pool.try_acquire(key(1), 1).unwrap()).collect();
        let mut second = Box::pin(pool.acquire(key(1), 1));
        let mut third = Box::pin(pool.acquire(key(1), 1));
        assert!((&mut second).now_or_never().is_none());
        assert!((&mut third).now_or_never().is_none());
        let _other = pool.acquire(key(2), 1).now_or_never().expect("it has nothing yet");
        own.pop();
        assert!(pool.acquire(key(1), 1).now_or_never().is_none(), "others wait for longer");
        drop(second);
        own.pop();
        assert!((&mut third).now_or_never().is_some(), "the second has gone");
        drop(third);
        let state = pool.lock();
        assert_eq!(state.used, 1, "{state:?}");
    }

    #[test]
    fn callers_are_told_apart_by_name_and_by_network() {
        assert_eq!(ShareKey::of_name("a"), ShareKey::of_name("a"));
        assert_ne!(ShareKey::of_name("a"), ShareKey::of_name("b"));
        let of = |address: &str| ShareKey::of_address(Some(address.parse().unwrap()));
        assert_eq!(of("2001:db8::1"), of("2001:db8::2"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(ShareKey::of_address(None), ShareKey::Local);
    }
}
