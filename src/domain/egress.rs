//! The egress policy: which addresses may be connected to, and which headers subscriptions may send there.
//!
//! URLs come from callers, and the owner of a host name may change its address at any time. So the policy
//! judges the address of every connection: it must be public or explicitly allowed, and not denied.

use std::{fmt, net::IpAddr};

use http::HeaderName;
use ipnet::{IpNet, Ipv4Net};
use url::{Host, Url};

mod proxy;
mod special;

pub use proxy::{HostPattern, PROXY_URL_BYTES_MAX, Proxy, ProxyRules};

/// The addresses that may be connected to: those of the public internet and of allowed networks, but not of
/// denied networks. And the headers that subscriptions may not set.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    allowed: Vec<IpNet>,
    denied: Vec<IpNet>,
    denied_headers: Vec<HeaderName>,
}

/// An address that the policy blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is blocked: it is {reason}{}", .reason.way_out())]
pub struct Blocked {
    /// The address.
    pub address: IpAddr,
    /// The reason.
    pub reason: BlockedReason,
}

/// The reason for blocking an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedReason {
    /// In a network that the operator denies.
    Denied,
    /// A cloud's metadata service, which gives machines their credentials.
    CloudMetadata,
    /// This machine.
    Loopback,
    /// The unspecified address, or "this network".
    Unspecified,
    /// A private network: RFC 1918, unique local, site local.
    Private,
    /// A link-local address.
    LinkLocal,
    /// Behind a carrier's NAT.
    CarrierNat,
    /// A multicast address.
    Multicast,
    /// The broadcast address.
    Broadcast,
    /// Reserved for documentation.
    Documentation,
    /// Reserved for benchmarks.
    Benchmarking,
    /// An IPv4 address embedded in an IPv6 one, which a translator routes elsewhere.
    Translated,
    /// Reserved by the standards.
    Reserved,
}

impl EgressPolicy {
    /// Public addresses, and those in `allowed`.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed: allowed.into_iter().map(unmapped).collect(), ..Self::default() }
    }

    /// The same without the addresses in `denied`, even if they are public or allowed.
    #[must_use]
    pub fn denying(self, denied: Vec<IpNet>) -> Self {
        Self { denied: denied.into_iter().map(unmapped).collect(), ..self }
    }

    /// The same without the headers in `denied`, which subscriptions may not set.
    #[must_use]
    pub fn denying_headers(self, denied: Vec<HeaderName>) -> Self {
        Self { denied_headers: denied, ..self }
    }

    /// The headers of a subscription, by their names in lower case, that it may not set.
    pub fn denied_headers<'a>(&self, names: impl IntoIterator<Item = &'a String>) -> Vec<&'a str> {
        let is_denied = |name: &&String| self.denied_headers.iter().any(|denied| denied == name.as_str());
        names.into_iter().filter(is_denied).map(String::as_str).collect()
    }

    /// Whether `address` may be connected to.
    ///
    /// An IPv4-mapped IPv6 address is judged by its IPv4 address, to which a socket connects. For another
    /// IPv6 address with an embedded IPv4 one, both must pass.
    pub fn verdict(&self, address: IpAddr) -> Result<(), Blocked> {
        let canonical = address.to_canonical();
        let embedded = special::embedded(canonical).map(IpAddr::V4);
        let reason = self.reason(canonical).or_else(|| self.reason(embedded?));
        reason.map_or(Ok(()), |reason| Err(Blocked { address, reason }))
    }

    /// The verdict on a URL whose host is an address. A host name passes: its addresses are judged on every
    /// connection.
    pub fn verdict_on_url(&self, url: &Url) -> Result<(), Blocked> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.verdict(address.into()),
            Some(Host::Ipv6(address)) => self.verdict(address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    /// The reason for blocking the address, ignoring an embedded one.
    fn reason(&self, address: IpAddr) -> Option<BlockedReason> {
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        if within(&self.denied) {
            Some(BlockedReason::Denied)
        } else if within(&self.allowed) {
            None
        } else {
            special::reason(address)
        }
    }
}

/// The network in canonical form: `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(MAPPED_BITS)) {
        (IpAddr::V4(v4), Some(bits)) if matches!(network, IpNet::V6(_)) => {
            Ipv4Net::new(v4, bits).map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

impl BlockedReason {
    /// The end of a refusal: the setting that lets such an address through.
    pub fn way_out(self) -> &'static str {
        match self {
            Self::Denied => "",
            _ => ", and not in egress_allow",
        }
    }
}

impl fmt::Display for BlockedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "in a denied network",
            Self::CloudMetadata => "the address of a cloud's metadata service",
            Self::Loopback => "a loopback address",
            Self::Unspecified => "an unspecified address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::CarrierNat => "an address behind a carrier's nat",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Documentation => "an address for documentation",
            Self::Benchmarking => "an address for benchmarks",
            Self::Translated => "an address that is translated to another one",
            Self::Reserved => "a reserved address",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(policy: &EgressPolicy, address: &str) -> Option<BlockedReason> {
        policy.verdict(address.parse().unwrap()).err().map(|blocked| blocked.reason)
    }

    fn networks(networks: &[&str]) -> Vec<IpNet> {
        networks.iter().map(|network| network.parse().unwrap()).collect()
    }

    #[test]
    fn public_addresses_are_allowed() {
        let policy = EgressPolicy::default();
        for address in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2a00:1450::1",
            "3ffe::1",
            "::ffff:1.1.1.1",
        ] {
            assert_eq!(verdict(&policy, address), None, "{address}");
        }
    }

    #[test]
    fn other_addresses_are_blocked_with_the_reason() {
        use BlockedReason::*;
        let policy = EgressPolicy::default();
        for (address, reason) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("100.64.0.0", CarrierNat),
            ("100.127.255.255", CarrierNat),
            ("100.100.100.200", CloudMetadata),
            ("127.0.0.1", Loopback),
            ("127.255.255.255", Loopback),
            ("169.254.169.253", LinkLocal),
            ("169.254.169.254", CloudMetadata),
            ("169.254.170.2", CloudMetadata),
            ("168.63.129.16", CloudMetadata),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("192.0.0.1", Reserved),
            ("192.0.0.192", CloudMetadata),
            ("192.0.2.1", Documentation),
            ("192.31.196.1", Reserved),
            ("192.52.193.1", Reserved),
            ("192.88.99.1", Translated),
            ("192.168.0.1", Private),
            ("192.175.48.1", Reserved),
            ("198.18.0.0", Benchmarking),
            ("198.19.255.255", Benchmarking),
            ("198.51.100.1", Documentation),
            ("203.0.113.1", Documentation),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.0", Reserved),
            ("255.255.255.254", Reserved),
            ("255.255.255.255", Broadcast),
            ("::", Unspecified),
            ("::1", Loopback),
            ("::2", Translated),
            ("::127.0.0.1", Translated),
            ("::8.8.8.8", Translated),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:10.1.2.3", Private),
            ("::ffff:169.254.169.254", CloudMetadata),
            ("::ffff:0:127.0.0.1", Translated),
            ("::fffe:127.0.0.1", Reserved),
            ("64:ff9b::127.0.0.1", Translated),
            ("64:ff9b::8.8.8.8", Translated),
            ("64:ff9b:1::1", Translated),
            ("64:ff9b:2::1", Reserved),
            ("100::1", Reserved),
            ("100:0:0:1::1", Reserved),
            ("2001::1", Translated),
            ("2001:2::1", Benchmarking),
            ("2001:3::1", Reserved),
            ("2001:4:112::1", Reserved),
            ("2001:10::1", Reserved),
            ("2001:20::1", Reserved),
            ("2001:db8::1", Documentation),
            ("2002:7f00:1::", Translated),
            ("2620:4f:8000::1", Reserved),
            ("2a00:1450::5efe:7f00:1", Translated),
            ("2a00:1450::200:5efe:808:808", Translated),
            ("3fff::1", Documentation),
            ("3fff:fff::1", Documentation),
            ("4000::1", Reserved),
            ("5f00::1", Reserved),
            ("fc00::1", Private),
            ("fd12:3456::1", Private),
            ("fd00:ec2::254", CloudMetadata),
            ("fd20:ce::254", CloudMetadata),
            ("fe00::1", Reserved),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("fec0::1", Private),
            ("feff::1", Private),
            ("ff02::1", Multicast),
        ] {
            assert_eq!(verdict(&policy, address), Some(reason), "{address}");
        }
    }

    #[test]
    fn an_allowed_network_passes_and_its_neighbours_are_blocked() {
        let policy = EgressPolicy::new(networks(&["127.0.0.0/8", "10.1.0.0/16", "fd00::/8", "64:ff9b::/96"]));
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "10.1.255.255", "fd00::1", "64:ff9b::8.8.8.8"] {
            assert_eq!(verdict(&policy, address), None, "{address}");
        }
        for address in ["::1", "10.2.0.0", "192.168.0.1", "fc00::1", "64:ff9b:1::1"] {
            assert!(verdict(&policy, address).is_some(), "{address}");
        }
    }

    #[test]
    fn a_denied_network_is_blocked_even_if_it_is_public_or_allowed() {
        let policy = EgressPolicy::new(networks(&["10.0.0.0/8", "fd00::/8", "64:ff9b::/96"]))
            .denying(networks(&["10.1.0.0/16", "fd00:1::/32", "1.1.1.0/24", "::ffff:8.8.8.8/128"]));
        for address in ["10.1.0.1", "::ffff:10.1.0.1", "fd00:1::1", "1.1.1.1", "8.8.8.8", "64:ff9b::8.8.8.8"]
        {
            assert_eq!(verdict(&policy, address), Some(BlockedReason::Denied), "{address}");
        }
        for address in ["10.2.0.1", "fd00:2::1", "1.1.2.1", "8.8.4.4", "64:ff9b::8.8.4.4"] {
            assert_eq!(verdict(&policy, address), None, "{address}");
        }
        assert_eq!(verdict(&policy, "127.0.0.1"), Some(BlockedReason::Loopback));
    }

    #[test]
    fn an_embedded_address_must_pass_both_as_it_is_written_and_by_the_ipv4_address() {
        use BlockedReason::*;
        let inside = EgressPolicy::new(networks(&["127.0.0.0/8"]));
        let outside = EgressPolicy::new(networks(&["::/0"]));
        let both = EgressPolicy::new(networks(&["127.0.0.0/8", "::/0"]));
        for wrapped in [
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::127.0.0.1",
            "2001:0:808:808::80ff:fffe",
            "2002:7f00:1::1",
            "2a00:1450::5efe:127.0.0.1",
        ] {
            assert_eq!(verdict(&inside, wrapped), Some(Translated), "{wrapped}");
            assert_eq!(verdict(&outside, wrapped), Some(Loopback), "{wrapped}");
            assert_eq!(verdict(&both, wrapped), None, "{wrapped}");
        }
    }

    #[test]
    fn a_network_of_mapped_addresses_is_the_network_that_they_stand_for() {
        let policy = EgressPolicy::new(networks(&["::ffff:10.0.0.0/104"]));
        assert_eq!(verdict(&policy, "10.9.8.7"), None);
        assert_eq!(verdict(&policy, "::ffff:10.9.8.7"), None);
        assert!(verdict(&policy, "127.0.0.1").is_some());
        // Everything in IPv6 is not everything in IPv4.
        let v6 = EgressPolicy::new(networks(&["::/0"]));
        assert_eq!(verdict(&v6, "::1"), None);
        assert!(verdict(&v6, "127.0.0.1").is_some());
        assert!(verdict(&v6, "::ffff:127.0.0.1").is_some());
    }

    #[test]
    fn an_address_in_a_url_is_judged_in_every_spelling() {
        let policy = EgressPolicy::default();
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://0x7f.1/",
            "http://[::1]/",
            "http://[::ffff:7f00:1]/",
            "http://１２７.0.0.1/",
        ] {
            let url = Url::parse(url).unwrap();
            assert!(policy.verdict_on_url(&url).is_err(), "{url} was accepted");
        }
        assert_eq!(policy.verdict_on_url(&Url::parse("http://localhost/").unwrap()), Ok(()));
        assert_eq!(policy.verdict_on_url(&Url::parse("https://1.1.1.1/").unwrap()), Ok(()));
    }

    #[test]
    fn the_error_says_which_address_and_why() {
        let blocked = EgressPolicy::default().verdict([127, 0, 0, 1].into()).unwrap_err();
        assert_eq!(
            blocked.to_string(),
            "127.0.0.1 is blocked: it is a loopback address, and not in egress_allow"
        );
    }
}
