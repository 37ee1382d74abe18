//! Limits connections: of one address, during the handshake, and until their client has proven who it is. Chooses who
//! goes when there are too many.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// One address may have this fraction of the connections that handshake: 1/4 of the limit.
const HANDSHAKING_SHARE: usize = 4;

/// Longest time without a call for a connection that has proven nothing.
pub const UNPROVEN_TIMEOUT: Duration = Duration::from_secs(30);
/// One address may have this fraction of all connections without having proven anything: 1/16.
const UNPROVEN_SHARE: usize = 16;
/// Where that is fewer, so many.
const UNPROVEN_MIN: usize = 16;

/// What ends a connection, or keeps it from being accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// The address has its most connections.
    Address,
    /// The address has its most connections that have proven nothing.
    Unproven,
    /// Too many handshakes are in progress, in total or of the address.
    Handshaking,
    /// It had proven nothing, and nothing was under way on it for [`Shares::unproven_timeout`].
    UnprovenTimeout,
    /// There were too many connections, its address had the most, and it was the idlest of them.
    Evicted,
}

/// The shares of addresses in the connections of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Most connections of one address, in IPv6 of one /64.
    pub per_address_max: usize,
    /// Most of them that have not proven who they are.
    pub unproven_per_address_max: usize,
    /// Most connections in total whose handshake is not complete; one address may have a quarter.
    pub handshaking_max: usize,
    /// Longest time without a call for a connection that has proven nothing.
    pub unproven_timeout: Duration,
}

impl Shares {
    /// No bound on anything.
    pub const UNLIMITED: Self = Self {
        per_address_max: usize::MAX,
        unproven_per_address_max: usize::MAX,
        handshaking_max: usize::MAX,
        unproven_timeout: Duration::MAX,
    };

    /// Of one address at most `per_address_max` connections of a listener of `connections_max`, and a sixteenth of all
    /// that have proven nothing, for 30 seconds without a call. No bound on handshakes.
    pub fn of(connections_max: usize, per_address_max: usize) -> Self {
        let unproven_per_address_max = (connections_max / UNPROVEN_SHARE).max(UNPROVEN_MIN);
        Self {
            per_address_max,
            unproven_per_address_max,
            unproven_timeout: UNPROVEN_TIMEOUT,
            ..Self::UNLIMITED
        }
    }
}

/// Counts connections. Clones share the counts.
#[derive(Clone, Debug)]
pub struct ConnectionLimiter {
    shares: Shares,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    last_id: u64,
    connections: HashMap<u64, Arc<Activity>>,
    handshaking: usize,
    /// Only networks that have a connection.
    by_network: HashMap<IpAddr, Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    all: usize,
    handshaking: usize,
    unproven: usize,
}

/// What is known of a connection.
#[derive(Debug)]
struct Activity {
    network: Option<IpAddr>,
    accepted: Instant,
    is_proven: AtomicBool,
    /// Calls under way.
    calls: AtomicUsize,
    /// When a call last began or ended: milliseconds since `accepted`.
    last: AtomicU64,
    evicted: CancellationToken,
}

impl Activity {
    fn note(&self) {
        let since = self.accepted.elapsed().as_millis();
        self.last.store(u64::try_from(since).unwrap_or(u64::MAX), Relaxed);
    }

    /// When a call last began or ended, or else when it was accepted.
    fn last(&self) -> Instant {
        self.accepted + Duration::from_millis(self.last.load(Relaxed))
    }
}

impl ConnectionLimiter {
    /// No connections so far.
    pub fn new(shares: Shares) -> Self {
        Self { shares, open: Arc::default() }
    }

    /// A permit for a new connection, whose handshake is not complete yet.
    ///
    /// # Errors
    ///
    /// A limit is reached.
    pub fn acquire(&self, address: Option<IpAddr>) -> Result<ConnectionPermit, LimitReached> {
        let network = address.map(network);
        let mut open = self.lock();
        let counts = network.and_then(|network| open.by_network.get(&network)).copied().unwrap_or_default();
        if counts.all >= self.shares.per_address_max {
            return Err(LimitReached::Address);
        }
        if counts.unproven >= self.shares.unproven_per_address_max {
            return Err(LimitReached::Unproven);
        }
        let share = self.shares.handshaking_max.div_ceil(HANDSHAKING_SHARE);
        if open.handshaking >= self.shares.handshaking_max || counts.handshaking >= share {
            return Err(LimitReached::Handshaking);
        }
        open.handshaking += 1;
        if let Some(network) = network {
            let counts = open.by_network.entry(network).or_default();
            counts.all += 1;
            counts.handshaking += 1;
            counts.unproven += 1;
        }
        let activity = Arc::new(Activity {
            network,
            accepted: Instant::now(),
            is_proven: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            evicted: CancellationToken::new(),
        });
        open.last_id += 1;
        let id = open.last_id;
        open.connections.insert(id, Arc::clone(&activity));
        drop(open);
        let state = ConnectionState { limiter: self.clone(), activity };
        Ok(ConnectionPermit { state, id, is_handshaking: true })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's share of the limits. Dropping it frees the share.
#[derive(Debug)]
pub struct ConnectionPermit {
    state: ConnectionState,
    id: u64,
    is_handshaking: bool,
}

impl ConnectionPermit {
    /// The handshake is complete: the connection no longer falls under the limit of handshakes.
    pub fn established(&mut self) {
        if !std::mem::take(&mut self.is_handshaking) {
            return;
        }
        let mut open = self.state.limiter.lock();
        open.handshaking -= 1;
        if let Some(counts) = self.state.counts(&mut open) {
            counts.handshaking -= 1;
        }
    }

    /// What its calls tell of the connection.
    pub fn state(&self) -> &ConnectionState {
        &self.state
    }

    /// Chooses another connection that shall end, so that there is room for this one: the idlest of the address that
    /// has the most. First those go that have proven nothing; never one that has and has a call under way. Returns
    /// whether there was one.
    pub fn evict_another(&self) -> bool {
        let open = self.state.limiter.lock();
        let own = self.state.activity.network;
        // Of two that have as many, the newcomer's.
        let largest =
            open.by_network.iter().max_by_key(|(network, counts)| (counts.all, Some(**network) == own));
        let largest = largest.map(|(network, _)| *network);
        let evictable = open.connections.iter().filter(|(id, activity)| {
            **id != self.id && activity.network == largest && !activity.evicted.is_cancelled()
        });
        let idlest = evictable
            .map(|(_, activity)| {
                let is_busy = activity.calls.load(Relaxed) > 0;
                (activity.is_proven.load(Relaxed), is_busy, activity.last(), activity)
            })
            .filter(|(is_proven, is_busy, ..)| !(*is_proven && *is_busy))
            .min_by_key(|(is_proven, is_busy, last, _)| (*is_proven, *is_busy, *last));
        idlest.inspect(|(.., activity)| activity.evicted.cancel()).is_some()
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.established();
        let mut open = self.state.limiter.lock();
        open.connections.remove(&self.id);
        let is_proven = self.state.is_proven();
        let Some(counts) = self.state.counts(&mut open) else { return };
        counts.all -= 1;
        counts.unproven -= usize::from(!is_proven);
        if counts.all == 0
            && let Some(network) = self.state.activity.network
        {
            open.by_network.remove(&network);
        }
    }
}

/// What the calls of a connection tell of it. Clones are of the same connection.
#[derive(Clone, Debug)]
pub struct ConnectionState {
    limiter: ConnectionLimiter,
    activity: Arc<Activity>,
}

impl ConnectionState {
    /// A call is under way until the result is dropped.
    pub fn call(&self) -> CallUnderWay {
        self.activity.calls.fetch_add(1, Relaxed);
        self.activity.note();
        CallUnderWay(Arc::clone(&self.activity))
    }

    /// Its client has proven who it is.
    pub fn prove(&self) {
        if self.activity.is_proven.load(Relaxed) {
            return;
        }
        let mut open = self.limiter.lock();
        // Under the lock, so that it is counted off once.
        if !self.activity.is_proven.swap(true, Relaxed)
            && let Some(counts) = self.counts(&mut open)
        {
            counts.unproven -= 1;
        }
    }

    /// Whether its client has proven who it is.
    pub fn is_proven(&self) -> bool {
        self.activity.is_proven.load(Relaxed)
    }

    /// Completes when the connection shall end, with the reason.
    pub async fn ends(&self) -> LimitReached {
        tokio::select! {
            () = self.activity.evicted.cancelled() => LimitReached::Evicted,
            () = self.is_unproven_too_long() => LimitReached::UnprovenTimeout,
        }
    }

    async fn is_unproven_too_long(&self) {
        let limit = self.limiter.shares.unproven_timeout;
        loop {
            let idle = self.activity.last().elapsed();
            if self.is_proven() {
                // It cannot be undone.
                return std::future::pending().await;
            }
            let is_idle = self.activity.calls.load(Relaxed) == 0;
            if is_idle && idle >= limit {
                return;
            }
            sleep(if is_idle { limit - idle } else { limit }).await;
        }
    }

    fn counts<'a>(&self, open: &'a mut Open) -> Option<&'a mut Counts> {
        self.activity.network.and_then(|network| open.by_network.get_mut(&network))
    }
}

/// A call of a connection, until this is dropped.
#[derive(Debug)]
pub struct CallUnderWay(Arc<Activity>);

impl Drop for CallUnderWay {
    fn drop(&mut self) {
        self.0.note();
        self.0.calls.fetch_sub(1, Relaxed);
    }
}

/// The network that is limited as one address: in IPv6 a /64, since every host may use all addresses of its
/// own.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn limiter(per_address_max: usize, handshaking_max: usize) -> ConnectionLimiter {
        ConnectionLimiter::new(Shares {
            per_address_max,
            handshaking_max,
            unproven_per_address_max: usize::MAX,
            unproven_timeout: Duration::from_secs(30),
        })
    }

    #[test]
    fn one_address_takes_its_share_and_leaves_the_others_theirs() {
        let limiter = limiter(2, 100);
        let one = limiter.acquire(address("192.0.2.1")).unwrap();
        // The same address, written differently.
        let _two = limiter.acquire(address("::ffff:192.0.2.1")).unwrap();
        assert_eq!(limiter.acquire(address("192.0.2.1")).unwrap_err(), LimitReached::Address);
        let _other = limiter.acquire(address("192.0.2.2")).unwrap();
        drop(one);
        limiter.acquire(address("192.0.2.1")).expect("one is gone");
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let limiter = limiter(1, 100);
        let _one = limiter.acquire(address("2001:db8:0:1::1")).unwrap();
        assert_eq!(limiter.acquire(address("2001:db8:0:1:ffff::")).unwrap_err(), LimitReached::Address);
        limiter.acquire(address("2001:db8:0:2::1")).expect("another network");
    }

    #[test]
    fn handshakes_are_limited_in_all_and_by_address_until_they_complete() {
        let limiter = limiter(100, 4);
        let mut one = limiter.acquire(address("192.0.2.1")).unwrap();
        assert_eq!(limiter.acquire(address("192.0.2.1")).unwrap_err(), LimitReached::Handshaking);
        one.established();
        one.established();
        let _two = limiter.acquire(address("192.0.2.1")).unwrap();
        let _others: Vec<_> =
            (2..5).map(|n| limiter.acquire(address(&format!("192.0.2.{n}"))).unwrap()).collect();
        assert_eq!(limiter.acquire(address("192.0.2.9")).unwrap_err(), LimitReached::Handshaking);
        assert_eq!(limiter.acquire(None).unwrap_err(), LimitReached::Handshaking);
    }

    #[test]
    fn nothing_is_kept_of_an_address_without_connections() {
        let limiter = limiter(100, 100);
        for n in 0..=255 {
            let mut permit = limiter.acquire(address(&format!("192.0.2.{n}"))).unwrap();
            if n % 2 == 0 {
                permit.established();
            }
        }
        let open = limiter.lock();
        assert_eq!((open.handshaking, open.by_network.len(), open.connections.len()), (0, 0, 0));
    }

    #[test]
    fn an_address_has_its_share_of_connections_that_have_proven_nothing() {
        let limiter =
            ConnectionLimiter::new(Shares { unproven_per_address_max: 2, ..limiter(100, 100).shares });
        let one = limiter.acquire(address("192.0.2.1")).unwrap();
        let _two = limiter.acquire(address("192.0.2.1")).unwrap();
        assert_eq!(limiter.acquire(address("192.0.2.1")).unwrap_err(), LimitReached::Unproven);
        let _other = limiter.acquire(address("192.0.2.2")).unwrap();
        one.state().prove();
        one.state().prove();
        let three = limiter.acquire(address("192.0.2.1")).expect("one has proven it");
        assert_eq!(limiter.acquire(address("192.0.2.1")).unwrap_err(), LimitReached::Unproven);
        drop((one, three));
        limiter.acquire(address("192.0.2.1")).expect("one that has proven nothing is gone");
    }

    #[tokio::test(start_paused = true)]
    async fn the_idlest_connection_of_the_largest_address_goes() {
        let limiter = limiter(100, 100);
        let mut permits = Vec::new();
        for (client, proves) in [(1, true), (1, false), (1, true), (1, false), (2, false), (2, false)] {
            let permit = limiter.acquire(address(&format!("192.0.2.{client}"))).unwrap();
            if proves {
                permit.state().prove();
            }
            permits.push(permit);
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let gone = |permits: &[ConnectionPermit]| -> Vec<usize> {
            let is_gone =
                |(_, permit): &(usize, &ConnectionPermit)| permit.state.activity.evicted.is_cancelled();
            permits.iter().enumerate().filter(is_gone).map(|(index, _)| index).collect()
        };
        // Of those that have proven nothing, the second of all has a call now, and is not the idlest any more.
        let _call = permits[1].state().call();
        let newcomer = limiter.acquire(address("192.0.2.3")).unwrap();
        assert!(newcomer.evict_another());
        assert_eq!(gone(&permits), [3]);
        assert!(newcomer.evict_another(), "a call of one that has proven nothing protects it from nothing");
        assert_eq!(gone(&permits), [1, 3]);
        // Of those that have, the first of all has been idle since later.
        drop(permits[0].state().call());
        assert!(newcomer.evict_another());
        assert_eq!(gone(&permits), [1, 2, 3]);
        let _call = permits[0].state().call();
        assert!(!newcomer.evict_another(), "it has a call under way");
        assert_eq!(newcomer.state().ends().now_or_never(), None);
        assert_eq!(permits[3].state().ends().await, LimitReached::Evicted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_proof_and_without_a_call_ends_after_the_time() {
        let limiter = limiter(100, 100);
        let permit = limiter.acquire(address("192.0.2.1")).unwrap();
        let (state, begin) = (permit.state().clone(), Instant::now());
        let call = state.call();
        let ends = tokio::spawn({
            let state = state.clone();
            async move { (state.ends().await, begin.elapsed()) }
        });
        sleep(Duration::from_secs(50)).await;
        drop(call);
        let (reason, after) = ends.await.unwrap();
        assert_eq!((reason, after.as_secs()), (LimitReached::UnprovenTimeout, 80));
        let proven = limiter.acquire(address("192.0.2.1")).unwrap();
        proven.state().prove();
        let ends = tokio::time::timeout(Duration::from_hours(1), proven.state().ends()).await;
        assert!(ends.is_err(), "it has proven it");
    }
}
