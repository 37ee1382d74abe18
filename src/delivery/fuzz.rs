//! What fuzzing checks of the URLs of endpoints.

use std::net::IpAddr;

use futures_util::FutureExt;
use http::{Uri, uri::Scheme};
use ipnet::IpNet;
use url::{Host, Url};

use super::http::dns::Resolver;
use crate::domain::{egress::EgressPolicy, subscription::parse_url};

/// The URL of an endpoint, in the words of a caller: what is taken stays as it is when it is read again, is understood the same by the
/// client that POSTs to it, and gets the verdict that its connection gets.
pub fn url(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(url) = parse_url(text) else { return };
    assert_eq!(parse_url(url.as_str()).as_ref(), Ok(&url), "what is shown can be sent back");
    assert_eq!(Url::parse(url.as_str()).as_ref(), Ok(&url), "what is stored is read again");
    assert!(url.username().is_empty() && url.password().is_none() && url.fragment().is_none());

    let uri = Uri::try_from(url.as_str()).expect("the client takes what was taken");
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
            assert!(host.parse::<IpAddr>().is_err(), "an address was taken for a name");
            return;
        }
    };
    let connected = Resolver::new().resolve(host).now_or_never().expect("an address is not looked up");
    assert_eq!(
        connected.as_deref(),
        Ok(&[address][..]),
        "the address that is judged is the one that is connected to"
    );
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

/// What the standard library knows to be no address of the public internet.
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
