//! Decides whether a request may be looked at: from which host name, from which site, and with which headers
//! every response goes out.

use std::net::{IpAddr, SocketAddr};

use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, StatusCode,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};
use url::{Host, Url};

use crate::http_host::{self, single};

/// Everything comes from the console itself; scripts cannot make markup of text but by the policy `tidings`.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'; \
                      require-trusted-types-for 'script'; trusted-types tidings";

/// Headers of every response, refusals and files included.
const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
];

/// The console would be reachable from other machines in clear text.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExposedError {
    /// Neither a certificate nor a proxy with one.
    #[error(
        "console_listen {0} is not a loopback address: set console_tls_cert_file and console_tls_key_file, or \
         console_url=https://… if a proxy in front of it speaks TLS"
    )]
    Exposed(SocketAddr),
    /// It is not an address of a site.
    #[error("console_url {0:?} is not an address such as https://tidings.example.com")]
    Url(String),
}

/// Why a request is refused before anything of it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its Host is not one of ours: a name of somebody else's may lead here (DNS rebinding).
    Host,
    /// Another site made it.
    Site,
}

impl Refusal {
    pub(super) fn response(self) -> (StatusCode, &'static str) {
        match self {
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "The console is not served under this host name. Use 127.0.0.1, localhost or [::1], or set console_url.\n",
            ),
            Self::Site => (StatusCode::FORBIDDEN, "Another site made this request, so it is refused.\n"),
        }
    }
}

/// The rules of one console.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// TLS ends here.
    tls: bool,
    /// The site in front, if `console_url` names one.
    site: Option<Site>,
    /// Beyond loopback, or behind a proxy: nobody may come in without a token.
    pub(super) is_exposed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Site {
    /// `https://tidings.example.com`.
    origin: String,
    /// As in the header Host: without the port if it is the scheme's own.
    host: String,
    https: bool,
}

/// What is known of an allowed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// The browser speaks TLS, to us or to the proxy.
    pub(super) https: bool,
}

impl Guard {
    /// The rules of a console on this address.
    ///
    /// # Errors
    ///
    /// Other machines would reach it in clear text, or `console_url` is wrong.
    pub(super) fn new(
        listen: SocketAddr,
        tls: bool,
        console_url: Option<&str>,
    ) -> Result<Self, ExposedError> {
        let site = console_url.map(Site::parse).transpose()?;
        let is_remote = !listen.ip().to_canonical().is_loopback();
        if is_remote && !tls && !site.as_ref().is_some_and(|site| site.https) {
            return Err(ExposedError::Exposed(listen));
        }
        Ok(Self { tls, is_exposed: is_remote || site.is_some(), site })
    }

    /// Checks where a request comes from. `local` is the address that it arrived at.
    pub(super) fn check(
        &self,
        method: &Method,
        headers: &HeaderMap,
        local: SocketAddr,
    ) -> Result<Allowed, Refusal> {
        let host = single(headers, &HOST).ok_or(Refusal::Host)?.to_ascii_lowercase();
        let of_site = self.site.as_ref().filter(|site| site.host == host);
        if of_site.is_none() && !is_local(&host, local.ip()) {
            return Err(Refusal::Host);
        }
        let forwarded = single(headers, &HeaderName::from_static("x-forwarded-proto"));
        let https = self.tls
            || of_site.is_some_and(|site| site.https)
            // A proxy that does not pass the Host on. A liar makes its own cookie useless, nothing else.
            || self.site.is_some() && forwarded == Some("https");
        if !self.is_own_site(method, headers, &host) {
            return Err(Refusal::Site);
        }
        Ok(Allowed { https })
    }

    /// Whether one of our own pages made the request, or the person at the browser did.
    fn is_own_site(&self, method: &Method, headers: &HeaderMap, host: &str) -> bool {
        let is_read = matches!(*method, Method::GET | Method::HEAD);
        match single(headers, &HeaderName::from_static("sec-fetch-site")) {
            Some("same-origin" | "none") => true,
            // A link to us on another site.
            Some(_) if is_read => {
                let mode = single(headers, &HeaderName::from_static("sec-fetch-mode"));
                let dest = single(headers, &HeaderName::from_static("sec-fetch-dest"));
                mode == Some("navigate") && matches!(dest, None | Some("document"))
            }
            Some(_) => false,
            // A browser that is old, or that reads us over plain HTTP through a tunnel with a name.
            None if is_read => headers.get(ORIGIN).is_none() || self.is_own_origin(headers, host),
            None => self.is_own_origin(headers, host),
        }
    }

    fn is_own_origin(&self, headers: &HeaderMap, host: &str) -> bool {
        let Some(origin) = single(headers, &ORIGIN) else { return false };
        let scheme = if self.tls { "https" } else { "http" };
        origin == format!("{scheme}://{host}") || self.site.as_ref().is_some_and(|site| site.origin == origin)
    }
}

impl Site {
    fn parse(text: &str) -> Result<Self, ExposedError> {
        let wrong = || ExposedError::Url(text.to_owned());
        let url = Url::parse(text).map_err(|_| wrong())?;
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(wrong()),
        };
        let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let is_public = url.username().is_empty() && url.password().is_none();
        let Some(name) = url.host_str().filter(|_| is_bare && is_public) else { return Err(wrong()) };
        // In clear text only to the machine itself.
        let is_near = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if !https && !is_near {
            return Err(wrong());
        }
        let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        Ok(Self { origin: url.origin().ascii_serialization(), host, https })
    }
}

/// Sets the headers of every response. A response may have a stricter policy of its own.
pub(super) fn secure(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(value);
    }
}

/// Whether a Host is a name of this machine: no web page can make one of these lead elsewhere. Any port,
/// since a tunnel may change it.
fn is_local(host: &str, local: IpAddr) -> bool {
    let Some(name) = http_host::name(host) else { return false };
    if matches!(name, "127.0.0.1" | "localhost" | "[::1]") {
        return true;
    }
    http_host::literal(name).is_some_and(|address| address.to_canonical() == local.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:8090";

    fn guard(listen: &str, tls: bool, url: Option<&str>) -> Result<Guard, ExposedError> {
        Guard::new(listen.parse().unwrap(), tls, url)
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn check(guard: &Guard, method: &Method, pairs: &[(&'static str, &str)]) -> Result<Allowed, Refusal> {
        guard.check(method, &headers(pairs), LOOPBACK.parse().unwrap())
    }

    #[test]
    fn beyond_loopback_it_needs_a_certificate_or_a_proxy_with_one() {
        for listen in ["0.0.0.0:8090", "[::]:8090", "192.0.2.1:8090"] {
            let address = listen.parse().unwrap();
            assert_eq!(guard(listen, false, None).unwrap_err(), ExposedError::Exposed(address));
            assert!(guard(listen, false, Some("http://localhost:8090")).is_err());
            assert!(guard(listen, true, None).unwrap().is_exposed);
            assert!(guard(listen, false, Some("https://tidings.example.com")).unwrap().is_exposed);
        }
        for listen in ["127.0.0.1:8090", "[::1]:8090", "127.0.0.2:1"] {
            assert!(!guard(listen, false, None).unwrap().is_exposed);
        }
        for url in [
            "",
            "tidings",
            "ftp://a.example",
            "https://a.example/path",
            "https://u:p@a.example",
            "http://a.example",
        ] {
            assert_eq!(guard(LOOPBACK, false, Some(url)).unwrap_err(), ExposedError::Url(url.to_owned()));
        }
    }

    #[test]
    fn only_names_of_this_machine_and_the_configured_one_are_hosts() {
        let plain = guard(LOOPBACK, false, None).unwrap();
        let named = guard(LOOPBACK, false, Some("https://tidings.example.com")).unwrap();
        for host in ["127.0.0.1:8090", "localhost:8090", "LOCALHOST", "[::1]:8090", "localhost:9000"] {
            assert!(check(&plain, &Method::GET, &[("host", host)]).is_ok(), "{host}");
            assert!(check(&named, &Method::GET, &[("host", host)]).is_ok(), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8090",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8090",
            "",
            ":8090",
            "[::1",
            "localhost:",
            "localhost:8090:1",
            "localhost.",
            "192.0.2.9",
            "127.0.0.2:8090",
            "[::1]x",
        ] {
            assert_eq!(check(&plain, &Method::GET, &[("host", host)]), Err(Refusal::Host), "{host}");
        }
        assert_eq!(check(&plain, &Method::GET, &[]), Err(Refusal::Host));
        assert_eq!(check(&plain, &Method::GET, &[("host", "tidings.example.com")]), Err(Refusal::Host));
        assert_eq!(
            check(&named, &Method::GET, &[("host", "tidings.example.com")]),
            Ok(Allowed { https: true })
        );
        let mut twice = headers(&[("host", "localhost")]);
        twice.append("host", HeaderValue::from_static("localhost"));
        assert_eq!(plain.check(&Method::GET, &twice, LOOPBACK.parse().unwrap()), Err(Refusal::Host));
    }

    #[test]
    fn other_sites_change_nothing_and_link_here_at_most() {
        let guard = guard(LOOPBACK, false, Some("https://tidings.example.com")).unwrap();
        let host = ("host", "localhost:8090");
        let site = |site| ("sec-fetch-site", site);
        for (method, pairs, allowed) in [
            (Method::POST, vec![host, site("same-origin")], true),
            (Method::POST, vec![host, site("none")], true),
            (Method::POST, vec![host, site("same-site")], false),
            (Method::POST, vec![host, site("cross-site")], false),
            (Method::POST, vec![host, site("cross-site"), ("origin", "http://localhost:8090")], false),
            (Method::POST, vec![host, site("cross-site"), ("sec-fetch-mode", "navigate")], false),
            (Method::POST, vec![host], false),
            (Method::POST, vec![host, ("origin", "null")], false),
            (Method::POST, vec![host, ("origin", "http://localhost:3000")], false),
            (Method::POST, vec![host, ("origin", "https://localhost:8090")], false),
            (Method::POST, vec![host, ("origin", "http://localhost:8090")], true),
            (Method::POST, vec![host, ("origin", "https://tidings.example.com")], true),
            (Method::DELETE, vec![host, site("cross-site")], false),
            (Method::GET, vec![host], true),
            (Method::GET, vec![host, ("origin", "http://evil.example")], false),
            (Method::GET, vec![host, site("cross-site")], false),
            (Method::GET, vec![host, site("cross-site"), ("sec-fetch-mode", "no-cors")], false),
            (Method::GET, vec![host, site("cross-site"), ("sec-fetch-mode", "navigate")], true),
            (
                Method::GET,
                vec![host, site("cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
                false,
            ),
            (Method::GET, vec![host, site("same-site"), ("sec-fetch-mode", "cors")], false),
        ] {
            let expected = if allowed { Ok(Allowed { https: false }) } else { Err(Refusal::Site) };
            assert_eq!(check(&guard, &method, &pairs), expected, "{method} {pairs:?}");
        }
    }

    #[test]
    fn a_proxy_that_speaks_tls_makes_the_cookie_secure() {
        let named = guard(LOOPBACK, false, Some("https://tidings.example.com")).unwrap();
        let pairs = [("host", "127.0.0.1:8090"), ("x-forwarded-proto", "https")];
        assert_eq!(check(&named, &Method::GET, &pairs), Ok(Allowed { https: true }));
        let plain = guard(LOOPBACK, false, None).unwrap();
        assert_eq!(check(&plain, &Method::GET, &pairs), Ok(Allowed { https: false }));
        let tls = guard(LOOPBACK, true, None).unwrap();
        assert_eq!(check(&tls, &Method::GET, &pairs[..1]), Ok(Allowed { https: true }));
    }

    #[test]
    fn every_header_is_set_and_a_stricter_policy_stays() {
        let mut own = headers(&[("content-security-policy", "sandbox")]);
        secure(&mut own);
        assert_eq!(own["content-security-policy"], "sandbox");
        let mut headers = HeaderMap::new();
        secure(&mut headers);
        assert_eq!(headers.len(), HEADERS.len());
        assert!(headers["content-security-policy"].to_str().unwrap().ends_with("trusted-types tidings"));
    }
}
