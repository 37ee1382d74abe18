//! The host name of a request, as far as it tells where a browser believes to be (DNS rebinding).

use std::net::IpAddr;

use http::{HeaderMap, HeaderName};

/// The name in a Host or `:authority`, without its port; `None` if it is malformed. An IPv6 address keeps its brackets.
pub fn name(host: &str) -> Option<&str> {
    let end = match host.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => host.find(':').unwrap_or(host.len()),
    };
    let (name, rest) = host.split_at_checked(end)?;
    let is_port = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)).then_some(name)
}

/// The IP address that a name is, if it is one.
pub fn literal(name: &str) -> Option<IpAddr> {
    name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name).parse().ok()
}

/// The value of a header that is there once.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_and_perhaps_a_port() {
        for (host, expected) in [
            ("localhost", Some("localhost")),
            ("localhost:50051", Some("localhost")),
            ("127.0.0.1:1", Some("127.0.0.1")),
            ("[::1]:50051", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("[::1", None),
            ("[::1]x", None),
            ("localhost:", None),
            ("localhost:1:2", None),
            ("localhost:x", None),
        ] {
            assert_eq!(name(host), expected, "{host}");
        }
        assert_eq!(literal("[::1]"), Some("::1".parse().unwrap()));
        assert_eq!(literal("192.0.2.1"), Some("192.0.2.1".parse().unwrap()));
        for text in ["localhost", "", "127.0.0.1.evil.example", "1.2.3"] {
            assert_eq!(literal(text), None, "{text}");
        }
    }
}
