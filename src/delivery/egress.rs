//! Which addresses may be POSTed to.
//!
//! A URL comes from a caller, and names lead wherever their owner lets them lead, at any time. So the verdict is about
//! the address that is about to be connected to: public, or explicitly allowed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// Which addresses may be POSTed to: those of the public internet, and those of the networks that are allowed.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    allowed: Vec<IpNet>,
}

/// An address that is not POSTed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{address} is not posted to: it is {reason}")]
pub struct Blocked {
    /// The address.
    pub address: IpAddr,
    /// Why.
    pub reason: BlockedReason,
}

/// Why an address is not POSTed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockedReason {
    /// This machine.
    Loopback,
    /// No address at all, or "this network".
    Unspecified,
    /// Of a private network: RFC 1918, unique local, site local.
    Private,
    /// Of the local link, where clouds keep their metadata services.
    LinkLocal,
    /// Behind a carrier's NAT.
    CarrierNat,
    /// Of many receivers.
    Multicast,
    /// Of everybody on the network.
    Broadcast,
    /// For examples in texts.
    Documentation,
    /// For measuring networks.
    Benchmarking,
    /// An IPv4 address wrapped in an IPv6 one, which leads to wherever a translator takes it.
    Translated,
    /// Set aside by the standards for something else, or for later.
    Reserved,
}

impl EgressPolicy {
    /// Public addresses, and those within `allowed`.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed: allowed.into_iter().map(unmapped).collect() }
    }

    /// Whether `address` may be POSTed to. An IPv4-mapped IPv6 address is judged by its IPv4 address, since that is
    /// what a socket connects to.
    pub fn verdict(&self, address: IpAddr) -> Result<(), Blocked> {
        let canonical = address.to_canonical();
        if self.allowed.iter().any(|network| network.contains(&canonical)) {
            return Ok(());
        }
        let reason = match canonical {
            IpAddr::V4(v4) => reason_v4(v4),
            IpAddr::V6(v6) => reason_v6(v6),
        };
        reason.map_or(Ok(()), |reason| Err(Blocked { address, reason }))
    }

    /// The verdict on a URL whose host is an address, the same that a POST to it would meet. A name passes: what it
    /// leads to is judged whenever it is connected to.
    pub fn verdict_on_url(&self, url: &Url) -> Result<(), Blocked> {
        match url.host() {
            Some(Host::Ipv4(address)) => self.verdict(address.into()),
            Some(Host::Ipv6(address)) => self.verdict(address.into()),
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }
}

/// The network in the form in which addresses are judged: `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    match (network.addr().to_canonical(), network.prefix_len().checked_sub(MAPPED_BITS)) {
        (IpAddr::V4(v4), Some(bits)) if matches!(network, IpNet::V6(_)) => {
            Ipv4Net::new(v4, bits).map_or(network, IpNet::V4)
        }
        _ => network,
    }
}

/// The parts of IPv4 that are not the public internet, from IANA's registry of special-purpose addresses.
const SPECIAL_V4: [(Ipv4Net, BlockedReason); 18] = [
    (v4([0, 0, 0, 0], 8), BlockedReason::Unspecified),
    (v4([10, 0, 0, 0], 8), BlockedReason::Private),
    (v4([100, 64, 0, 0], 10), BlockedReason::CarrierNat),
    (v4([127, 0, 0, 0], 8), BlockedReason::Loopback),
    (v4([169, 254, 0, 0], 16), BlockedReason::LinkLocal),
    (v4([172, 16, 0, 0], 12), BlockedReason::Private),
    (v4([192, 0, 0, 0], 24), BlockedReason::Reserved),
    (v4([192, 0, 2, 0], 24), BlockedReason::Documentation),
    (v4([192, 31, 196, 0], 24), BlockedReason::Reserved),
    (v4([192, 52, 193, 0], 24), BlockedReason::Reserved),
    (v4([192, 88, 99, 0], 24), BlockedReason::Translated),
    (v4([192, 168, 0, 0], 16), BlockedReason::Private),
    (v4([192, 175, 48, 0], 24), BlockedReason::Reserved),
    (v4([198, 18, 0, 0], 15), BlockedReason::Benchmarking),
    (v4([198, 51, 100, 0], 24), BlockedReason::Documentation),
    (v4([203, 0, 113, 0], 24), BlockedReason::Documentation),
    (v4([224, 0, 0, 0], 4), BlockedReason::Multicast),
    (v4([240, 0, 0, 0], 4), BlockedReason::Reserved),
];

/// The only part of IPv6 that is handed out for public use.
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0], 3);

/// The parts of IPv6 that are not the public internet. Those outside of [`GLOBAL_UNICAST`] would be refused anyway; here
/// they have their reasons.
const SPECIAL_V6: [(Ipv6Net, BlockedReason); 14] = [
    // IPv4-compatible addresses; the unspecified address and loopback, which lie among them, are judged before.
    (v6([0, 0, 0, 0], 96), BlockedReason::Translated),
    // NAT64, the well-known prefix and the one for local use.
    (v6([0x64, 0xff9b, 0, 0], 96), BlockedReason::Translated),
    (v6([0x64, 0xff9b, 1, 0], 48), BlockedReason::Translated),
    (v6([0x100, 0, 0, 0], 64), BlockedReason::Reserved),
    (v6([0x2001, 0, 0, 0], 32), BlockedReason::Translated),
    (v6([0x2001, 2, 0, 0], 48), BlockedReason::Benchmarking),
    (v6([0x2001, 0, 0, 0], 23), BlockedReason::Reserved),
    (v6([0x2001, 0xdb8, 0, 0], 32), BlockedReason::Documentation),
    (v6([0x2002, 0, 0, 0], 16), BlockedReason::Translated),
    (v6([0x3fff, 0, 0, 0], 20), BlockedReason::Documentation),
    (v6([0xfc00, 0, 0, 0], 7), BlockedReason::Private),
    (v6([0xfe80, 0, 0, 0], 10), BlockedReason::LinkLocal),
    (v6([0xfec0, 0, 0, 0], 10), BlockedReason::Private),
    (v6([0xff00, 0, 0, 0], 8), BlockedReason::Multicast),
];

const fn v4(octets: [u8; 4], bits: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(start: [u16; 4], bits: u8) -> Ipv6Net {
    let [a, b, c, d] = start;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), bits)
}

fn reason_v4(address: Ipv4Addr) -> Option<BlockedReason> {
    if address.is_broadcast() {
        return Some(BlockedReason::Broadcast);
    }
    SPECIAL_V4.iter().find(|(network, _)| network.contains(&address)).map(|(_, reason)| *reason)
}

fn reason_v6(address: Ipv6Addr) -> Option<BlockedReason> {
    if address.is_loopback() {
        return Some(BlockedReason::Loopback);
    }
    if address.is_unspecified() {
        return Some(BlockedReason::Unspecified);
    }
    match SPECIAL_V6.iter().find(|(network, _)| network.contains(&address)) {
        Some((_, reason)) => Some(*reason),
        None if GLOBAL_UNICAST.contains(&address) => None,
        None => Some(BlockedReason::Reserved),
    }
}

impl fmt::Display for BlockedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::Unspecified => "an unspecified address",
            Self::Private => "a private address",
            Self::LinkLocal => "a link-local address",
            Self::CarrierNat => "an address behind a carrier's nat",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "the broadcast address",
            Self::Documentation => "an address for documentation",
            Self::Benchmarking => "an address for benchmarks",
            Self::Translated => "an address that a translator takes elsewhere",
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

    #[test]
    fn public_addresses_are_posted_to() {
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
    fn addresses_that_are_not_public_are_refused_with_the_reason() {
        use BlockedReason::*;
        let policy = EgressPolicy::default();
        for (address, reason) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("100.64.0.0", CarrierNat),
            ("100.127.255.255", CarrierNat),
            ("127.0.0.1", Loopback),
            ("127.255.255.255", Loopback),
            ("169.254.169.254", LinkLocal),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("192.0.0.1", Reserved),
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
            ("::ffff:169.254.169.254", LinkLocal),
            ("::ffff:0:127.0.0.1", Reserved),
            ("64:ff9b::127.0.0.1", Translated),
            ("64:ff9b::8.8.8.8", Translated),
            ("64:ff9b:1::1", Translated),
            ("64:ff9b:2::1", Reserved),
            ("100::1", Reserved),
            ("2001::1", Translated),
            ("2001:2::1", Benchmarking),
            ("2001:10::1", Reserved),
            ("2001:20::1", Reserved),
            ("2001:db8::1", Documentation),
            ("2002:7f00:1::", Translated),
            ("3fff::1", Documentation),
            ("3fff:fff::1", Documentation),
            ("4000::1", Reserved),
            ("5f00::1", Reserved),
            ("fc00::1", Private),
            ("fd12:3456::1", Private),
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
    fn an_allowed_network_is_posted_to_and_its_neighbours_are_not() {
        let nets = ["127.0.0.0/8", "10.1.0.0/16", "fd00::/8", "64:ff9b::/96"];
        let policy = EgressPolicy::new(nets.iter().map(|net| net.parse().unwrap()).collect());
        for address in ["127.0.0.1", "::ffff:127.0.0.1", "10.1.255.255", "fd00::1", "64:ff9b::8.8.8.8"] {
            assert_eq!(verdict(&policy, address), None, "{address}");
        }
        for address in ["::1", "10.2.0.0", "192.168.0.1", "fc00::1", "64:ff9b:1::1"] {
            assert!(verdict(&policy, address).is_some(), "{address}");
        }
    }

    #[test]
    fn a_network_of_mapped_addresses_is_the_network_that_they_stand_for() {
        let policy = EgressPolicy::new(vec!["::ffff:10.0.0.0/104".parse().unwrap()]);
        assert_eq!(verdict(&policy, "10.9.8.7"), None);
        assert_eq!(verdict(&policy, "::ffff:10.9.8.7"), None);
        assert!(verdict(&policy, "127.0.0.1").is_some());
        // Everything in IPv6 is not everything in IPv4.
        let v6 = EgressPolicy::new(vec!["::/0".parse().unwrap()]);
        assert_eq!(verdict(&v6, "::1"), None);
        assert!(verdict(&v6, "127.0.0.1").is_some());
        assert!(verdict(&v6, "::ffff:127.0.0.1").is_some());
    }

    #[test]
    fn an_address_in_a_url_is_judged_in_whatever_spelling() {
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
            assert!(policy.verdict_on_url(&url).is_err(), "{url} was taken");
        }
        assert_eq!(policy.verdict_on_url(&Url::parse("http://localhost/").unwrap()), Ok(()));
        assert_eq!(policy.verdict_on_url(&Url::parse("https://1.1.1.1/").unwrap()), Ok(()));
    }

    #[test]
    fn the_error_says_which_address_and_why() {
        let blocked = EgressPolicy::default().verdict([127, 0, 0, 1].into()).unwrap_err();
        assert_eq!(blocked.to_string(), "127.0.0.1 is not posted to: it is a loopback address");
    }
}
