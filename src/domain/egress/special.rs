//! Special-purpose addresses, and IPv6 addresses with an embedded IPv4 address.
//!
//! From IANA's registries of special-purpose addresses, and from the documentation of cloud providers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::BlockedReason;

/// The parts of IPv4 that are not public. The first match is the reason.
const SPECIAL_V4: [(Ipv4Net, BlockedReason); 24] = [
    // The metadata of Amazon, Google, Azure, Oracle, DigitalOcean and others; of Amazon's containers; of
    // Alibaba; of Azure, in the public range; of Oracle, formerly.
    (v4([169, 254, 169, 254], 32), BlockedReason::CloudMetadata),
    (v4([169, 254, 170, 2], 32), BlockedReason::CloudMetadata),
    (v4([100, 100, 100, 200], 32), BlockedReason::CloudMetadata),
    (v4([168, 63, 129, 16], 32), BlockedReason::CloudMetadata),
    (v4([192, 0, 0, 192], 32), BlockedReason::CloudMetadata),
    // "This network", RFC 791.
    (v4([0, 0, 0, 0], 8), BlockedReason::Unspecified),
    // Private use, RFC 1918.
    (v4([10, 0, 0, 0], 8), BlockedReason::Private),
    // Shared between a carrier and its customers, RFC 6598.
    (v4([100, 64, 0, 0], 10), BlockedReason::CarrierNat),
    // Loopback, RFC 1122.
    (v4([127, 0, 0, 0], 8), BlockedReason::Loopback),
    // Link local, RFC 3927.
    (v4([169, 254, 0, 0], 16), BlockedReason::LinkLocal),
    // Private use, RFC 1918.
    (v4([172, 16, 0, 0], 12), BlockedReason::Private),
    // Assignments of protocols, RFC 6890.
    (v4([192, 0, 0, 0], 24), BlockedReason::Reserved),
    // TEST-NET-1, RFC 5737.
    (v4([192, 0, 2, 0], 24), BlockedReason::Documentation),
    // AS112, RFC 7535.
    (v4([192, 31, 196, 0], 24), BlockedReason::Reserved),
    // Automatic multicast tunnels, RFC 7450.
    (v4([192, 52, 193, 0], 24), BlockedReason::Reserved),
    // Relays of 6to4, RFC 7526.
    (v4([192, 88, 99, 0], 24), BlockedReason::Translated),
    // Private use, RFC 1918.
    (v4([192, 168, 0, 0], 16), BlockedReason::Private),
    // AS112, RFC 7534.
    (v4([192, 175, 48, 0], 24), BlockedReason::Reserved),
    // Benchmarks, RFC 2544.
    (v4([198, 18, 0, 0], 15), BlockedReason::Benchmarking),
    // TEST-NET-2 and TEST-NET-3, RFC 5737.
    (v4([198, 51, 100, 0], 24), BlockedReason::Documentation),
    (v4([203, 0, 113, 0], 24), BlockedReason::Documentation),
    // Multicast, RFC 5771.
    (v4([224, 0, 0, 0], 4), BlockedReason::Multicast),
    // Limited broadcast, RFC 919.
    (v4([255, 255, 255, 255], 32), BlockedReason::Broadcast),
    // Reserved, RFC 1112.
    (v4([240, 0, 0, 0], 4), BlockedReason::Reserved),
];

/// The only part of IPv6 that is assigned for public use, RFC 4291.
const GLOBAL_UNICAST: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// IPv4-compatible addresses, RFC 4291: deprecated.
const COMPATIBLE: Ipv6Net = v6([0; 8], 96);
/// IPv4-translated addresses, RFC 2765: obsolete.
const TRANSLATED: Ipv6Net = v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96);
/// NAT64's well-known prefix, RFC 6052.
const NAT64: Ipv6Net = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
/// NAT64's prefix for local use, RFC 8215.
const NAT64_LOCAL: Ipv6Net = v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48);
/// Teredo, RFC 4380.
const TEREDO: Ipv6Net = v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32);
/// 6to4, RFC 3056.
const SIX_TO_FOUR: Ipv6Net = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);

/// The parts of IPv6 that are not public. The first match is the reason. Parts outside of [`GLOBAL_UNICAST`]
/// are listed for their reasons only. [`is_isatap`] finds the addresses of ISATAP, which have no part of
/// their own.
const SPECIAL_V6: [(Ipv6Net, BlockedReason); 22] = [
    // The metadata of Amazon, and of Google.
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), BlockedReason::CloudMetadata),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), BlockedReason::CloudMetadata),
    // The unspecified address and loopback, RFC 4291.
    (v6([0; 8], 128), BlockedReason::Unspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), BlockedReason::Loopback),
    (COMPATIBLE, BlockedReason::Translated),
    (TRANSLATED, BlockedReason::Translated),
    (NAT64, BlockedReason::Translated),
    (NAT64_LOCAL, BlockedReason::Translated),
    // Discard only, RFC 6666.
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), BlockedReason::Reserved),
    (TEREDO, BlockedReason::Translated),
    // Benchmarks, RFC 5180.
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), BlockedReason::Benchmarking),
    // Assignments of protocols, RFC 2928: ORCHID, AS112, automatic multicast tunnels, drones.
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), BlockedReason::Reserved),
    // Documentation, RFC 3849.
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), BlockedReason::Documentation),
    (SIX_TO_FOUR, BlockedReason::Translated),
    // AS112, RFC 7534.
    (v6([0x2620, 0x4f, 0x8000, 0, 0, 0, 0, 0], 48), BlockedReason::Reserved),
    // Documentation, RFC 9637.
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), BlockedReason::Documentation),
    // Segments of SRv6, RFC 9602.
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), BlockedReason::Reserved),
    // Unique local, RFC 4193.
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), BlockedReason::Private),
    // Link local, RFC 4291.
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), BlockedReason::LinkLocal),
    // Site local, RFC 3879: deprecated.
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), BlockedReason::Private),
    // Multicast, RFC 4291.
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), BlockedReason::Multicast),
    // Dummy prefix, RFC 9780.
    (v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64), BlockedReason::Reserved),
];

const fn v4(octets: [u8; 4], bits: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(segments: [u16; 8], bits: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), bits)
}

/// Why an address is not public; `None` if it is.
pub(super) fn reason(address: IpAddr) -> Option<BlockedReason> {
    match address {
        IpAddr::V4(v4) => {
            SPECIAL_V4.iter().find(|(network, _)| network.contains(&v4)).map(|(_, reason)| *reason)
        }
        IpAddr::V6(v6) => match SPECIAL_V6.iter().find(|(network, _)| network.contains(&v6)) {
            Some((_, reason)) => Some(*reason),
            None if is_isatap(v6) => Some(BlockedReason::Translated),
            None if GLOBAL_UNICAST.contains(&v6) => None,
            None => Some(BlockedReason::Reserved),
        },
    }
}

/// The IPv4 address embedded in an IPv6 address for a translator or a tunnel.
pub(super) fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let [_, a, b, .., c, d] = v6.segments();
    let last = to_v4([c, d]);
    if v6.is_unspecified() || v6.is_loopback() {
        None
    } else if TEREDO.contains(&v6) {
        // The client's address with inverted bits.
        Some(to_v4([!c, !d]))
    } else if SIX_TO_FOUR.contains(&v6) {
        Some(to_v4([a, b]))
    } else if [COMPATIBLE, TRANSLATED, NAT64, NAT64_LOCAL].iter().any(|network| network.contains(&v6))
        || is_isatap(v6)
    {
        Some(last)
    } else {
        None
    }
}

/// ISATAP, RFC 5214: recognised by its interface identifier, with any prefix.
fn is_isatap(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, _, _])
}

fn to_v4([high, low]: [u16; 2]) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}
