//! Counts the tries of callers that failed to prove who they are, by where they come from.
//!
//! A caller with a token that counts is never kept waiting by others at its address, such as behind the same proxy: tokens have
//! 256 bits, and no number of tries finds one. The limit keeps what fails cheap, and makes it seen.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Mutex,
    time::{Duration, Instant},
};

/// What tries are counted for.
const WINDOW: Duration = Duration::from_secs(60);
/// Least time between two looks for what can be forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// The failed tries of each address in the last minute.
pub struct FailureRateLimiter {
    max: u32,
    addresses_max: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    // Callers choose their addresses: the map's hashes must not be foreseen.
    by_network: HashMap<Network, Window>,
    /// Of all that have no count of their own.
    others: Option<Window>,
    swept: Option<Instant>,
}

/// Who is counted as one: an IPv4 address, or what an IPv6 host has all addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    tries: u32,
}

/// There were too many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    /// Whose they were; `-` for all addresses that have no count of their own.
    pub subject: String,
    /// How many an address may have in a minute.
    pub max: u32,
    /// How long until the next is looked at.
    pub wait: Duration,
}

impl FailureRateLimiter {
    /// At most `max` tries in a minute, counted apart for at most `addresses_max` addresses.
    pub fn new(max: u32, addresses_max: usize) -> Self {
        Self { max, addresses_max, counts: Mutex::default() }
    }

    /// Notes a try that failed at `now`. Errors if there were too many.
    pub fn note(&self, address: Option<IpAddr>, now: Instant) -> Result<(), Limited> {
        let network = address.map(Network::of);
        let mut counts = self.counts.lock().expect("no code panics while it holds this lock");
        let (subject, window) = counts.window(network, now, self.addresses_max);
        if window.is_over(now) {
            *window = Window { begin: now, tries: 0 };
        }
        window.tries = window.tries.saturating_add(1);
        if window.tries <= self.max {
            return Ok(());
        }
        let wait = WINDOW.saturating_sub(now.saturating_duration_since(window.begin));
        Err(Limited { subject: subject.map_or_else(|| "-".to_owned(), Network::shown), max: self.max, wait })
    }
}

impl Counts {
    /// Where to count a try, and for whom; `None` for all that have no count of their own.
    fn window(
        &mut self,
        network: Option<Network>,
        now: Instant,
        addresses_max: usize,
    ) -> (Option<Network>, &mut Window) {
        let fresh = Window { begin: now, tries: 0 };
        if let Some(network) = network.filter(|network| self.has_room_for(network, now, addresses_max)) {
            return (Some(network), self.by_network.entry(network).or_insert(fresh));
        }
        (None, self.others.get_or_insert(fresh))
    }

    fn has_room_for(&mut self, network: &Network, now: Instant, addresses_max: usize) -> bool {
        if self.by_network.contains_key(network) || self.by_network.len() < addresses_max {
            return true;
        }
        // Looking through all of them with every try would make a flood of tries dear.
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

    fn shown(self) -> String {
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
    fn tries_are_limited_by_address_and_by_64_bits_of_ipv6() {
        let (failures, now) = (FailureRateLimiter::new(2, 100), Instant::now());
        let tried = |text: &str| failures.note(address(text), now).map_err(|limited| limited.subject);
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
    fn a_minute_later_all_is_forgotten_and_until_then_the_wait_is_told() {
        let (failures, start) = (FailureRateLimiter::new(1, 100), Instant::now());
        let note = |seconds| failures.note(address("10.0.0.1"), start + Duration::from_secs(seconds));
        assert_eq!(note(0), Ok(()));
        assert_eq!(note(20).unwrap_err().wait, Duration::from_secs(40));
        assert_eq!(note(59).unwrap_err().wait, Duration::from_secs(1));
        assert_eq!(note(60), Ok(()));
        assert!(note(61).is_err());
    }

    #[test]
    fn addresses_past_the_bound_share_a_count_until_there_is_room() {
        let (failures, start) = (FailureRateLimiter::new(1, 2), Instant::now());
        let note = |text, seconds| failures.note(address(text), start + Duration::from_secs(seconds));
        assert_eq!([note("10.0.0.1", 0), note("10.0.0.2", 0), note("10.0.0.3", 0)], [Ok(()), Ok(()), Ok(())]);
        assert_eq!(note("10.0.0.4", 0).unwrap_err().subject, "-");
        assert_eq!(failures.counts.lock().unwrap().by_network.len(), 2);
        assert_eq!(note("10.0.0.5", 60), Ok(()));
        assert_eq!(note("10.0.0.5", 60).unwrap_err().subject, "10.0.0.5");
    }
}
