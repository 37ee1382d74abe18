//! Limits what one address may do in a minute: fail to authenticate, or call what is open to everybody.
//!
//! A caller with a valid token is never limited by the failures of others at its address, such as behind the same
//! proxy: tokens have 256 bits, so that no number of attempts finds one. The limit keeps failures cheap, and makes
//! them visible.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Mutex,
    time::{Duration, Instant},
};

/// Failed attempts that one address may make in a minute.
pub const FAILURES_PER_MINUTE_MAX: u32 = 60;
/// Addresses that are counted separately; all others share one count.
pub const RATED_ADDRESSES_MAX: usize = 10_000;
/// Length of a window in which is counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Shortest time between two removals of expired windows.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Counts of each address in the last minute.
pub struct AddressRateLimiter {
    max: u32,
    addresses_max: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    // A map with random hashes, since callers choose their addresses.
    by_network: HashMap<Network, Window>,
    /// The shared count of all further networks.
    others: Option<Window>,
    swept: Option<Instant>,
}

/// The network that is limited as one address: an IPv4 address, or the /64 of an IPv6 host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    count: u32,
}

/// The limit is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// The network; `-` for all networks that share a count.
    pub subject: String,
    /// Most of one address in a minute.
    pub max: u32,
    /// Time until the next window.
    pub wait: Duration,
}

impl AddressRateLimiter {
    /// At most `max` of one address in a minute. At most `addresses_max` addresses have a count of their own.
    pub fn new(max: u32, addresses_max: usize) -> Self {
        Self { max, addresses_max, counts: Mutex::default() }
    }

    /// Counts one at `now`.
    ///
    /// # Errors
    ///
    /// The limit is passed.
    pub fn record(&self, address: Option<IpAddr>, now: Instant) -> Result<(), Limited> {
        let network = address.map(Network::of);
        let mut counts = self.counts.lock().expect("no code panics while it holds this lock");
        let (subject, window) = counts.window(network, now, self.addresses_max);
        if window.is_over(now) {
            *window = Window { begin: now, count: 0 };
        }
        window.count = window.count.saturating_add(1);
        if window.count <= self.max {
            return Ok(());
        }
        let wait = WINDOW.saturating_sub(now.saturating_duration_since(window.begin));
        Err(Limited { subject: subject.map_or_else(|| "-".to_owned(), Network::text), max: self.max, wait })
    }
}

impl Counts {
    /// The window that counts one, and its network; `None` for the shared count.
    fn window(
        &mut self,
        network: Option<Network>,
        now: Instant,
        addresses_max: usize,
    ) -> (Option<Network>, &mut Window) {
        let fresh = Window { begin: now, count: 0 };
        if let Some(network) = network.filter(|network| self.has_room_for(network, now, addresses_max)) {
            return (Some(network), self.by_network.entry(network).or_insert(fresh));
        }
        (None, self.others.get_or_insert(fresh))
    }

    fn has_room_for(&mut self, network: &Network, now: Instant, addresses_max: usize) -> bool {
        if self.by_network.contains_key(network) || self.by_network.len() < addresses_max {
            return true;
        }
        // Not each time: a flood would make that expensive.
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_INTERVAL) {
            self.swept = Some(now);
            self.by_network.retain(|_, window| !window.is_over(now));
        }
        self.by_network.len() < addresses_max
    }
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begin) >= WINDOW
    }
}

impl Network {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }

    fn text(self) -> String {
        match self {
            Self::V4(address) => address.to_string(),
            Self::V6([a, b, c, d]) => format!("{}/64", std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn failures_are_limited_by_address_and_by_64_bits_of_ipv6() {
        let (failures, now) = (AddressRateLimiter::new(2, 100), Instant::now());
        let tried = |text: &str| failures.record(address(text), now).map_err(|limited| limited.subject);
        for (text, expected) in [
            ("10.0.0.1", Ok(())),
            ("10.0.0.1", Ok(())),
            ("10.0.0.2", Ok(())),
            ("::ffff:10.0.0.1", Err("10.0.0.1".to_owned())),
            ("2001:db8:1:2::1", Ok(())),
            ("2001:db8:1:2:ffff::9", Ok(())),
            ("2001:db8:1:3::1", Ok(())),
            ("2001:db8:1:2::3", Err("2001:db8:1:2::/64".to_owned())),
        ] {
            assert_eq!(tried(text), expected, "{text}");
        }
    }

    #[test]
    fn the_count_ends_after_a_minute_and_the_error_has_the_wait() {
        let (failures, start) = (AddressRateLimiter::new(1, 100), Instant::now());
        let note = |seconds| failures.record(address("10.0.0.1"), start + Duration::from_secs(seconds));
        assert_eq!(note(0), Ok(()));
        assert_eq!(note(20).unwrap_err().wait, Duration::from_secs(40));
        assert_eq!(note(59).unwrap_err().wait, Duration::from_secs(1));
        assert_eq!(note(60), Ok(()));
        assert!(note(61).is_err());
    }

    #[test]
    fn addresses_past_the_bound_share_a_count_until_there_is_room() {
        let (failures, start) = (AddressRateLimiter::new(1, 2), Instant::now());
        let note = |text, seconds| failures.record(address(text), start + Duration::from_secs(seconds));
        assert_eq!([note("10.0.0.1", 0), note("10.0.0.2", 0), note("10.0.0.3", 0)], [Ok(()), Ok(()), Ok(())]);
        assert_eq!(note("10.0.0.4", 0).unwrap_err().subject, "-");
        assert_eq!(failures.counts.lock().unwrap().by_network.len(), 2);
        assert_eq!(note("10.0.0.5", 60), Ok(()));
        assert_eq!(note("10.0.0.5", 60).unwrap_err().subject, "10.0.0.5");
    }
}
