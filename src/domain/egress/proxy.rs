//! Which endpoints are reached by an HTTP proxy, and by which one.

use std::{fmt, net::IpAddr};

use base64::{Engine, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::domain::secret::{REDACTED, Secret};

/// Longest URL of a proxy, in bytes.
pub const PROXY_URL_BYTES_MAX: usize = 2048;

/// The port of a proxy whose URL names none: that of its scheme.
const PORT_DEFAULT: u16 = 80;

/// An HTTP proxy. Shown without its password.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Proxy {
    /// A name or an address, the latter without brackets.
    host: String,
    port: u16,
    /// Both without percent signs.
    user: String,
    password: String,
}

/// Which endpoints are reached by a proxy. The default is none.
///
/// The proxy looks the endpoint's name up, and connects to whatever it finds: the verdict on addresses is about those that
/// a URL names itself, and about endpoints that are reached directly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyRules {
    /// For http endpoints.
    pub http: Option<Proxy>,
    /// For https endpoints.
    pub https: Option<Proxy>,
    /// What is reached directly all the same.
    pub direct: Vec<HostPattern>,
}

/// Hosts that are reached directly: an entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostPattern {
    /// Every host.
    Every,
    /// Hosts that are addresses within a network, at one port or at all.
    Network(IpNet, Option<u16>),
    /// A name and all names below it, at one port or at all. In lower case, without a dot on either side.
    Name(String, Option<u16>),
}

impl Proxy {
    /// Reads the URL of a proxy: `http://user:password@proxy.example:3128`. The scheme may be left out.
    ///
    /// # Errors
    ///
    /// The rule that it breaks. It never repeats the URL, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "is not the URL of a proxy, such as http://proxy.example:3128";
        if text.len() > PROXY_URL_BYTES_MAX {
            return Err(format!("is longer than {PROXY_URL_BYTES_MAX} bytes"));
        }
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&text).map_err(|_| FORM)?;
        if url.scheme() != "http" {
            return Err(format!(
                "is a proxy of the scheme {}, and only http is spoken with proxies",
                url.scheme()
            ));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err("has something behind its host and port".to_owned());
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
        let user = plain(url.username()).ok_or("has a user that is not made of visible characters")?;
        let password = plain(url.password().unwrap_or_default())
            .ok_or("has a password that is not made of visible characters")?;
        if user.contains(':') {
            return Err("has a user with a colon, which cannot be told from the password".to_owned());
        }
        if password == REDACTED {
            return Err(format!("has {REDACTED} for a password: that is what is shown in place of one"));
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

    /// The value of `Proxy-Authorization` (RFC 7617), if it wants one.
    pub fn authorization(&self) -> Option<Secret> {
        let Self { user, password, .. } = self;
        let wanted = !user.is_empty() || !password.is_empty();
        wanted.then(|| Secret::new(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("http://")?;
        if self.authorization().is_some() {
            // Not even the user: what looks like one may be a token.
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
    /// The proxy by which an endpoint is reached; `None` if it is reached directly, as this machine's own always are:
    /// `localhost`, and loopback addresses.
    ///
    /// `host` is spelled as in a URL.
    pub fn route(&self, is_https: bool, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = if is_https { &self.https } else { &self.http }.as_ref()?;
        let host = Named::of(host);
        let is_direct = host.is_this_machine() || self.direct.iter().any(|pattern| pattern.fits(&host, port));
        (!is_direct).then_some(proxy)
    }
}

impl HostPattern {
    /// Reads one entry: `example.com`, `.example.com`, `example.com:8443`, `10.0.0.0/8`, `192.0.2.7`, `[::1]:80` or `*`.
    /// `None` if it is nothing of the kind.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Every);
        }
        let network = |text: &str| {
            let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
            let network = bare.parse::<IpNet>().or_else(|_| bare.parse::<IpAddr>().map(IpNet::from));
            network.ok().map(|network| network.trunc())
        };
        // Before the port is looked for: an IPv6 address has colons of its own.
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
                // No host is called so: the pattern would be taken, and fit nothing.
                let is_name = name.split('.').all(|label| !label.is_empty() && !label.contains('*'));
                is_name.then_some(Self::Name(name, port))
            }
            Host::Ipv4(_) | Host::Ipv6(_) => None,
        }
    }

    fn fits(&self, host: &Named, port: u16) -> bool {
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

/// A name in lower case without the dot at its end; `None` if there are more of these.
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
    fn what_is_no_proxy_is_refused_without_repeating_it() {
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
    fn this_machine_is_never_reached_by_a_proxy() {
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
    fn what_is_reached_directly_is_told_by_name_network_and_port() {
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
            assert_eq!(again, HostPattern::parse(pattern), "{pattern} is written otherwise than it is read");
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
