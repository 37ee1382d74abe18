//! Which endpoints are reached through an HTTP proxy, and through which one.
//!
//! hyper-util's `proxy::matcher::Matcher` is not used: it ignores a proxy URL that it cannot read and then
//! connects directly, while an operator who sets a proxy expects an error; and its `NO_PROXY` knows no ports,
//! no IPv4-mapped addresses, no dot at the end of a name and no `localhost`.

use std::{fmt, net::IpAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::domain::secret::{REDACTED, Secret};

/// Longest URL of a proxy, in bytes.
pub const PROXY_URL_BYTES_MAX: usize = 2048;

/// The port of a proxy whose URL names none.
const PORT_DEFAULT: u16 = 80;

/// An HTTP proxy. Displayed without its credentials.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proxy {
    /// A name or an address, the latter without brackets.
    host: String,
    port: u16,
    /// Both percent-decoded.
    user: String,
    password: String,
}

/// Which endpoints are reached through a proxy. By default none.
///
/// The proxy resolves the endpoint's name and connects to any address of it. The egress policy applies only
/// to an address in the URL itself, and to endpoints that are reached directly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyRules {
    /// For http endpoints.
    pub http: Option<Proxy>,
    /// For https endpoints.
    pub https: Option<Proxy>,
    /// Hosts that are reached directly nevertheless.
    pub direct: Vec<HostPattern>,
}

/// Hosts that are reached directly: an entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPattern {
    /// Every host.
    Every,
    /// Addresses of a network, on one port or all.
    Network(IpNet, Option<u16>),
    /// A name and its subdomains, on one port or all. In lower case, without a dot on either side.
    Name(String, Option<u16>),
}

impl Proxy {
    /// Parses the URL of a proxy: `http://user:password@proxy.example:3128`. The scheme is optional.
    ///
    /// # Errors
    ///
    /// The rule that the URL breaks. The text never repeats the URL, which may contain a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "is not the URL of a proxy, such as http://proxy.example:3128";
        if text.len() > PROXY_URL_BYTES_MAX {
            return Err(format!("is longer than {PROXY_URL_BYTES_MAX} bytes"));
        }
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&text).map_err(|_| FORM)?;
        if url.scheme() != "http" {
            return Err(format!("is a proxy of the scheme {}; only http is supported", url.scheme()));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err("has a path, a query or a fragment".to_owned());
        }
        let host = match url.host().ok_or(FORM)? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let port = url.port().unwrap_or(PORT_DEFAULT);
        if port == 0 {
            return Err("names port 0".to_owned());
        }
        let plain = |part: &str| {
            let part = percent_decode_str(part).decode_utf8().ok()?;
            (!part.contains(char::is_control)).then(|| part.into_owned())
        };
        let user = plain(url.username()).ok_or("has a user with control characters")?;
        let password =
            plain(url.password().unwrap_or_default()).ok_or("has a password with control characters")?;
        if user.contains(':') {
            return Err("has a user with a colon, which separates user and password".to_owned());
        }
        if password == REDACTED {
            return Err(format!("has {REDACTED} for a password, which is how a password is displayed"));
        }
        Ok(Self { host, port, user, password })
    }

    /// Its name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The value of `Proxy-Authorization` (RFC 7617), if the URL has credentials.
    pub fn authorization(&self) -> Option<Secret> {
        let Self { user, password, .. } = self;
        let has_credentials = !user.is_empty() || !password.is_empty();
        has_credentials
            .then(|| Secret::new(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http://")?;
        if self.authorization().is_some() {
            // The user is hidden as well: it may be a token.
            write!(f, "{REDACTED}:{REDACTED}@")?;
        }
        let is_v6 = self.host.contains(':');
        let (open, close) = if is_v6 { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ProxyRules {
    /// The proxy of an endpoint; `None` if it is reached directly. `localhost` and loopback addresses always
    /// are.
    ///
    /// `host` is spelled as in a URL.
    pub fn route(&self, is_https: bool, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = if is_https { &self.https } else { &self.http }.as_ref()?;
        let host = Named::of(host);
        let is_direct =
            host.is_this_machine() || self.direct.iter().any(|pattern| pattern.matches(&host, port));
        (!is_direct).then_some(proxy)
    }
}

impl HostPattern {
    /// Parses one entry: `example.com`, `.example.com`, `example.com:8443`, `10.0.0.0/8`, `192.0.2.7`,
    /// `[::1]:80` or `*`.
    /// `None` if it is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Every);
        }
        let network = |text: &str| {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            let network = bare.parse::<IpNet>().or_else(|_| bare.parse::<IpAddr>().map(IpNet::from));
            network.ok().map(|network| network.trunc())
        };
        // Before the port: an IPv6 address contains colons.
        if let Some(network) = network(text) {
            return Some(Self::Network(network, None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
            None => (text, None),
        };
        if let Some(network) = network(host) {
            return Some(Self::Network(network, port));
        }
        let name = host.strip_prefix("*.").or(host.strip_prefix('.')).unwrap_or(host);
        match Host::parse(name).ok()? {
            Host::Domain(name) => {
                let name = bare(&name)?;
                // No host has such a name: the pattern would match nothing.
                let is_name = name.split('.').all(|label| !label.is_empty() && !label.contains('*'));
                is_name.then_some(Self::Name(name, port))
            }
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }

    fn matches(&self, host: &Named, port: u16) -> bool {
        let at = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match (self, host) {
            (Self::Every, _) => true,
            (Self::Network(network, wanted), Named::Address(address)) => {
                network.contains(address) && at(wanted)
            }
            (Self::Name(suffix, wanted), Named::Name(name)) => {
                let above = name.strip_suffix(suffix.as_str());
                above.is_some_and(|above| above.is_empty() || above.ends_with('.')) && at(wanted)
            }
            _ => false,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |port: &Option<u16>| port.map(|port| format!(":{port}")).unwrap_or_default();
        match self {
            Self::Every => f.write_str("*"),
            Self::Network(network, None) => network.fmt(f),
            Self::Network(network, port) => write!(f, "[{network}]{}", at(port)),
            Self::Name(name, port) => write!(f, "{name}{}", at(port)),
        }
    }
}

/// The host of an endpoint.
enum Named {
    Address(IpAddr),
    /// In lower case, without a dot at the end.
    Name(String),
}

impl Named {
    fn of(host: &str) -> Self {
        let literal = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        match literal.parse::<IpAddr>() {
            Ok(address) => Self::Address(address.to_canonical()),
            Err(_) => Self::Name(bare(host).unwrap_or_default()),
        }
    }

    /// RFC 6761 gives `localhost` and all names below it to this machine.
    fn is_this_machine(&self) -> bool {
        match self {
            Self::Address(address) => address.is_loopback() || address.is_unspecified(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }
}

/// A name in lower case without the dot at its end; `None` if there is more than one.
fn bare(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    (!name.ends_with('.')).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(direct: &[&str]) -> ProxyRules {
        let proxy = |text| Some(Proxy::parse(text).unwrap());
        let direct = direct.iter().map(|text| HostPattern::parse(text).expect(text)).collect();
        ProxyRules { http: proxy("plain.example:1"), https: proxy("http://secure.example:2"), direct }
    }

    fn is_direct(direct: &str, host: &str, port: u16) -> bool {
        rules(&[direct]).route(true, host, port).is_none()
    }

    #[test]
    fn a_proxy_is_read_from_its_url() {
        for (text, host, port, shown) in [
            ("http://proxy.example:3128", "proxy.example", 3128, "http://proxy.example:3128"),
            ("http://proxy.example/", "proxy.example", 80, "http://proxy.example:80"),
            ("proxy.example:3128", "proxy.example", 3128, "http://proxy.example:3128"),
            ("http://[::1]:8080", "::1", 8080, "http://[::1]:8080"),
            ("http://user:secret@10.0.0.1:1", "10.0.0.1", 1, "http://***:***@10.0.0.1:1"),
            ("http://token@proxy.example", "proxy.example", 80, "http://***:***@proxy.example:80"),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!((proxy.host(), proxy.port()), (host, port), "{text}");
            assert_eq!((proxy.to_string(), format!("{proxy:?}")), (shown.to_owned(), shown.to_owned()));
        }
    }

    #[test]
    fn an_invalid_proxy_is_rejected_without_repeating_it() {
        for text in [
            "",
            "http://",
            "https://user:hunter2@proxy.example",
            "socks5://user:hunter2@proxy.example:1080",
            "http://user:hunter2@proxy.example/path",
            "http://user:hunter2@proxy.example?query",
            "http://user:hunter2@proxy.example:99999",
            "http://user:hunter2@proxy.example:0",
            "http://user:hunter2%0d%0ax: y@proxy.example",
            "http://us%3aer:hunter2@proxy.example",
            "http://user:***@proxy.example",
            &format!("http://user:hunter2@{}", "x".repeat(PROXY_URL_BYTES_MAX)),
        ] {
            let error = Proxy::parse(text).expect_err(text);
            assert!(!error.contains("hunter2") && !error.contains("user:"), "{error}");
        }
    }

    #[test]
    fn user_and_password_are_decoded_before_they_are_encoded() {
        let proxy = Proxy::parse("http://Aladdin:open%20sesame@proxy.example").unwrap();
        // The example of RFC 7617.
        assert_eq!(proxy.authorization().unwrap().expose(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(Proxy::parse("http://proxy.example").unwrap().authorization(), None);
    }

    #[test]
    fn each_scheme_has_a_proxy_of_its_own() {
        let rules = rules(&[]);
        assert_eq!(rules.route(false, "example.com", 80).map(Proxy::host), Some("plain.example"));
        assert_eq!(rules.route(true, "example.com", 443).map(Proxy::host), Some("secure.example"));
        assert_eq!(ProxyRules { https: None, ..rules }.route(true, "example.com", 443), None);
    }

    #[test]
    fn this_machine_is_never_reached_through_a_proxy() {
        for host in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "127.0.0.1",
            "127.9.9.9",
            "[::1]",
            "[::ffff:7f00:1]",
            "0.0.0.0",
        ] {
            assert!(rules(&[]).route(true, host, 443).is_none(), "{host}");
        }
        for host in ["localhost.example", "notlocalhost", "10.0.0.1", "[::2]"] {
            assert!(rules(&[]).route(true, host, 443).is_some(), "{host}");
        }
    }

    #[test]
    fn direct_hosts_match_by_name_network_and_port() {
        for (pattern, host, port) in [
            ("*", "example.com", 443),
            ("example.com", "example.com", 443),
            ("example.com", "EXAMPLE.com.", 443),
            ("Example.Com", "a.example.com", 443),
            (".example.com", "a.example.com", 443),
            ("*.example.com", "example.com", 443),
            ("example.com:8443", "example.com", 8443),
            ("10.0.0.0/8", "10.1.2.3", 443),
            ("10.1.2.3", "10.1.2.3", 443),
            ("10.1.2.3:80", "10.1.2.3", 80),
            ("10.0.0.0/8", "[::ffff:10.1.2.3]", 443),
            ("[fd00::1]:80", "[fd00::1]", 80),
            ("fd00::/8", "[fd00::1]", 443),
        ] {
            assert!(is_direct(pattern, host, port), "{pattern} {host}:{port}");
            let again = HostPattern::parse(&HostPattern::parse(pattern).unwrap().to_string());
            assert_eq!(again, HostPattern::parse(pattern), "{pattern} is not parsed as it is displayed");
        }
        for (pattern, host, port) in [
            ("example.com", "notexample.com", 443),
            ("example.com", "example.com.evil", 443),
            ("example.com:8443", "example.com", 443),
            ("10.0.0.0/8", "11.0.0.1", 443),
            ("10.1.2.3:80", "10.1.2.3", 443),
            ("10.0.0.0/8", "10.example", 443),
        ] {
            assert!(!is_direct(pattern, host, port), "{pattern} {host}:{port}");
        }
        for text in [
            "",
            ".",
            "..",
            "..example.com",
            "a..example",
            "*.*.example",
            ".*.example",
            "ex*mple",
            "a b",
            "example.com:0",
            "example.com:http",
            "10.0.0.0/33",
            "exa/mple",
        ] {
            assert_eq!(HostPattern::parse(text), None, "{text}");
        }
    }
}
