//! Limits connections: of one address, and during the handshake.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// One address may have this fraction of the connections that handshake: 1/4 of the limit.
const HANDSHAKING_SHARE: usize = 4;

/// The limit that keeps a connection from being accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// The address has its most connections.
    Address,
    /// Too many handshakes are in progress, in total or of the address.
    Handshaking,
}

/// Counts connections. Clones share the counts.
#[derive(Clone, Debug)]
pub struct ConnectionLimiter {
    per_address_max: usize,
    handshaking_max: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    handshaking: usize,
    /// Only networks that have a connection.
    by_network: HashMap<IpAddr, Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    all: usize,
    handshaking: usize,
}

impl ConnectionLimiter {
    /// At most `per_address_max` connections of one address, and `handshaking_max` in total whose handshake is
    /// not complete.
    pub fn new(per_address_max: usize, handshaking_max: usize) -> Self {
        Self { per_address_max, handshaking_max, open: Arc::default() }
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
        if counts.all >= self.per_address_max {
            return Err(LimitReached::Address);
        }
        let share = self.handshaking_max.div_ceil(HANDSHAKING_SHARE);
        if open.handshaking >= self.handshaking_max || counts.handshaking >= share {
            return Err(LimitReached::Handshaking);
        }
        open.handshaking += 1;
        if let Some(network) = network {
            let counts = open.by_network.entry(network).or_default();
            counts.all += 1;
            counts.handshaking += 1;
        }
        drop(open);
        Ok(ConnectionPermit { limiter: self.clone(), network, is_handshaking: true })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's share of the limits. Dropping it frees the share.
#[derive(Debug)]
pub struct ConnectionPermit {
    limiter: ConnectionLimiter,
    network: Option<IpAddr>,
    is_handshaking: bool,
}

impl ConnectionPermit {
    /// The handshake is complete: the connection no longer falls under the limit of handshakes.
    pub fn established(&mut self) {
        if !std::mem::take(&mut self.is_handshaking) {
            return;
        }
        let mut open = self.limiter.lock();
        open.handshaking -= 1;
        if let Some(counts) = self.network.and_then(|network| open.by_network.get_mut(&network)) {
            counts.handshaking -= 1;
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.established();
        let Some(network) = self.network else { return };
        let mut open = self.limiter.lock();
        if let Some(counts) = open.by_network.get_mut(&network) {
            counts.all -= 1;
            if counts.all == 0 {
                open.by_network.remove(&network);
            }
        }
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
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn one_address_takes_its_share_and_leaves_the_others_theirs() {
        let limiter = ConnectionLimiter::new(2, 100);
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
        let limiter = ConnectionLimiter::new(1, 100);
        let _one = limiter.acquire(address("2001:db8:0:1::1")).unwrap();
        assert_eq!(limiter.acquire(address("2001:db8:0:1:ffff::")).unwrap_err(), LimitReached::Address);
        limiter.acquire(address("2001:db8:0:2::1")).expect("another network");
    }

    #[test]
    fn handshakes_are_limited_in_all_and_by_address_until_they_complete() {
        let limiter = ConnectionLimiter::new(100, 4);
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
        let limiter = ConnectionLimiter::new(100, 100);
        for n in 0..=255 {
            let mut permit = limiter.acquire(address(&format!("192.0.2.{n}"))).unwrap();
            if n % 2 == 0 {
                permit.established();
            }
        }
        let open = limiter.lock();
        assert_eq!((open.handshaking, open.by_network.len()), (0, 0));
    }
}
