//! Fuzz checks of endpoint URLs.

use std::net::IpAddr;

use http::{Uri, uri::Scheme};
use ipnet::IpNet;
use url::{Host, Url};

use super::http::dns::literal;
use crate::domain::{
    egress::EgressPolicy, secret::Secret, subscription::parse_url, webhook_headers::check_header,
};

/// The URL of an endpoint from a caller. An accepted URL stays the same when it is parsed again, means the
/// same to the client that sends to it, and gets the same egress verdict as its connection.
pub fn url(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok((url, credentials)) = parse_url(text) else { return };
    assert_eq!(parse_url(url.as_str()), Ok((url.clone(), None)), "a displayed URL can be sent back");
    let is_header = |value: &Secret| check_header("authorization", value.expose()).is_ok();
    assert!(credentials.as_ref().is_none_or(is_header));
    assert_eq!(Url::parse(url.as_str()).as_ref(), Ok(&url), "a stored URL can be parsed");
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());

    let uri = Uri::try_from(url.as_str()).expect("the client accepts every accepted URL");
    let is_https = uri.scheme() == Some(&Scheme::HTTPS);
    assert_eq!(is_https, url.scheme() == "https");
    let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    assert_eq!(Some(port), url.port_or_known_default());
    assert_ne!(port, 0);
    let host = uri.host().expect("it names a host");
    let address = match url.host().expect("it names a host") {
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => IpAddr::V6(address),
        Host::Domain(name) => {
            assert_eq!(host, name);
            assert_eq!(literal(host), None, "an address was taken for a name");
            return;
        }
    };
    let connected = literal(host);
    assert_eq!(connected, Some(address), "the address that is checked is the one that is connected to");
    for (allowed, denied) in [("", ""), ("127.0.0.0/8", ""), ("::/0", "10.0.0.0/8"), ("0.0.0.0/0", "::/0")] {
        let networks = |text: &str| text.parse::<IpNet>().into_iter().collect();
        let policy = EgressPolicy::new(networks(allowed)).denying(networks(denied));
        assert_eq!(policy.verdict_on_url(&url), policy.verdict(address));
        assert_eq!(policy.verdict(address).is_ok(), policy.verdict(address.to_canonical()).is_ok());
    }
    if EgressPolicy::default().verdict(address).is_ok() {
        assert!(!is_inside(address.to_canonical()), "{address} is not public");
    }
}

/// Whether the standard library knows that the address is not public.
fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_private()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_documentation()
                || v4.octets()[0] == 0
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
        }
    }
}
