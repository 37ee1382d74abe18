//! How many connections there may be of one address, and how many that are not open yet.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// One address may have so many of the half-open connections: one part in so many of the whole bound.
const HALF_OPEN_SHARE: usize = 4;

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitReached {
    /// The address has as many as it may.
    Address,
    /// As many as may be are not open yet, in all or of its address.
    HalfOpen,
}

/// The places of connections. Clones share them.
#[derive(Clone, Debug)]
pub struct ConnectionLimiter {
    per_address_max: usize,
    half_open_max: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    half_open: usize,
    /// Only of those that have any.
    by_origin: HashMap<IpAddr, Counts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    all: usize,
    half_open: usize,
}

impl ConnectionLimiter {
    /// At most so many of one address, and so many half-open ones in all.
    pub fn new(per_address_max: usize, half_open_max: usize) -> Self {
        Self { per_address_max, half_open_max, taken: Arc::default() }
    }

    /// A place for a connection that is not open yet.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn take(&self, address: Option<IpAddr>) -> Result<ConnectionPermit, LimitReached> {
        let origin = address.map(origin);
        let mut taken = self.lock();
        let of_origin = origin.and_then(|origin| taken.by_origin.get(&origin)).copied().unwrap_or_default();
        if of_origin.all >= self.per_address_max {
            return Err(LimitReached::Address);
        }
        let share = self.half_open_max.div_ceil(HALF_OPEN_SHARE);
        if taken.half_open >= self.half_open_max || of_origin.half_open >= share {
            return Err(LimitReached::HalfOpen);
        }
        taken.half_open += 1;
        if let Some(origin) = origin {
            let counts = taken.by_origin.entry(origin).or_default();
            counts.all += 1;
            counts.half_open += 1;
        }
        drop(taken);
        Ok(ConnectionPermit { places: self.clone(), origin, is_half_open: true })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of a connection, until it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    places: ConnectionLimiter,
    origin: Option<IpAddr>,
    is_half_open: bool,
}

impl ConnectionPermit {
    /// The connection is open now.
    pub fn open(&mut self) {
        if !std::mem::take(&mut self.is_half_open) {
            return;
        }
        let mut taken = self.places.lock();
        taken.half_open -= 1;
        if let Some(counts) = self.origin.and_then(|origin| taken.by_origin.get_mut(&origin)) {
            counts.half_open -= 1;
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.open();
        let Some(origin) = self.origin else { return };
        let mut taken = self.places.lock();
        if let Some(counts) = taken.by_origin.get_mut(&origin) {
            counts.all -= 1;
            if counts.all == 0 {
                taken.by_origin.remove(&origin);
            }
        }
    }
}

/// What counts as one address: in IPv6 a /64, of which every host has as many addresses as it likes.
fn origin(address: IpAddr) -> IpAddr {
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
        let places = ConnectionLimiter::new(2, 100);
        let one = places.take(address("192.0.2.1")).unwrap();
        // The same in another spelling.
        let _two = places.take(address("::ffff:192.0.2.1")).unwrap();
        assert_eq!(places.take(address("192.0.2.1")).unwrap_err(), LimitReached::Address);
        let _other = places.take(address("192.0.2.2")).unwrap();
        drop(one);
        places.take(address("192.0.2.1")).expect("one is gone");
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let places = ConnectionLimiter::new(1, 100);
        let _one = places.take(address("2001:db8:0:1::1")).unwrap();
        assert_eq!(places.take(address("2001:db8:0:1:ffff::")).unwrap_err(), LimitReached::Address);
        places.take(address("2001:db8:0:2::1")).expect("another network");
    }

    #[test]
    fn half_open_ones_are_bounded_in_all_and_by_address_until_they_open() {
        let places = ConnectionLimiter::new(100, 4);
        let mut one = places.take(address("192.0.2.1")).unwrap();
        assert_eq!(places.take(address("192.0.2.1")).unwrap_err(), LimitReached::HalfOpen);
        one.open();
        one.open();
        let _two = places.take(address("192.0.2.1")).unwrap();
        let _others: Vec<_> =
            (2..5).map(|n| places.take(address(&format!("192.0.2.{n}"))).unwrap()).collect();
        assert_eq!(places.take(address("192.0.2.9")).unwrap_err(), LimitReached::HalfOpen);
        assert_eq!(places.take(None).unwrap_err(), LimitReached::HalfOpen);
    }

    #[test]
    fn nothing_is_kept_of_an_address_without_connections() {
        let places = ConnectionLimiter::new(100, 100);
        for n in 0..=255 {
            let mut place = places.take(address(&format!("192.0.2.{n}"))).unwrap();
            if n % 2 == 0 {
                place.open();
            }
        }
        let taken = places.lock();
        assert_eq!((taken.half_open, taken.by_origin.len()), (0, 0));
    }
}
