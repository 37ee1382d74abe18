//! The URL of a gateway, as an argument.

use std::{fmt, str::FromStr};

use http::Uri;

/// A URL with a scheme, a host and optionally a port. It has no path, query or user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    uri: Uri,
    https: bool,
}

impl Address {
    /// Whether the scheme is https.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// The host. An IPv6 address is without its brackets.
    pub fn host(&self) -> &str {
        let host = self.uri.host().unwrap_or_default();
        host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
    }

    /// The port; the default of the scheme if the URL has none.
    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.https { 443 } else { 80 })
    }

    /// The URL as a URI.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str =
            "must be a URL such as http://127.0.0.1:50051 or https://gateway.example.com:50051";
        let uri: Uri = text.parse().map_err(|_| RULE)?;
        let https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(RULE),
        };
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        if plain && has_host && !has_user { Ok(Self { uri, https }) } else { Err(RULE) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}://{}",
            if self.https { "https" } else { "http" },
            self.uri.authority().map_or("", |a| a.as_str())
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_a_scheme_and_a_host_is_an_address() {
        for (text, https, host, port) in [
            ("http://127.0.0.1:50051", false, "127.0.0.1", 50051),
            ("http://[::1]:50051/", false, "::1", 50051),
            ("https://gateway.example.com", true, "gateway.example.com", 443),
            ("http://gateway", false, "gateway", 80),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!((address.is_https(), address.host(), address.port()), (https, host, port));
            assert_eq!(address.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "127.0.0.1:50051",
            "grpc://127.0.0.1:50051",
            "http://",
            "http://a/tidings",
            "http://a?b",
            "http://user:word@a",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}
