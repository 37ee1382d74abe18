//! The rules for the URL of an endpoint.

use http::Uri;
use url::Url;

/// Longest `url` in bytes, as sent and as stored.
pub const URL_BYTES_MAX: usize = 2048;

/// Parses the URL of an endpoint. The error never contains the URL, which may contain a password.
///
/// [`EgressPolicy`](crate::domain::egress::EgressPolicy) decides which addresses may be connected to.
pub fn parse_url(text: &str) -> Result<Url, String> {
    const FORM: &str = "must be an absolute http or https URL, for example https://example.com/webhooks";
    let too_long = || format!("must have at most {URL_BYTES_MAX} bytes");
    if text.len() > URL_BYTES_MAX {
        return Err(too_long());
    }
    // The WHATWG parser is lenient: it drops tabs and spaces, and accepts "http:x" and "http:\\x".
    if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err("must not contain spaces, control characters or backslashes".into());
    }
    let (scheme, rest) = text.split_once("://").ok_or(FORM)?;
    if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(FORM.into());
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err("must name a host".into());
    }
    if authority.contains('@') {
        return Err("must not contain user info: put credentials into headers".into());
    }
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if url.fragment().is_some() {
        return Err("must not have a fragment".into());
    }
    if url.port() == Some(0) {
        return Err("must not name port 0".into());
    }
    if url.as_str().len() > URL_BYTES_MAX {
        return Err(too_long());
    }
    // The WHATWG parser accepts hosts with `"` or `{`; HTTP does not.
    Uri::try_from(url.as_str()).map_err(|error| format!("cannot be POSTed to: {error}"))?;
    Ok(url)
}

/// The scheme, host and port of a URL: the part that is no secret.
pub fn origin_of(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + "://".len());
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
    &url[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_origin_of_a_url_has_nothing_of_its_path() {
        for (url, origin) in [
            ("https://a.example:8443/hook/secret?key=1", "https://a.example:8443"),
            ("https://a.example?key=1", "https://a.example"),
            ("http://[::1]:80/", "http://[::1]:80"),
            ("https://a.example", "https://a.example"),
            ("", ""),
        ] {
            assert_eq!(origin_of(url), origin);
        }
    }

    #[test]
    fn urls_that_browsers_would_accept_are_refused() {
        for text in [
            "example.com",
            "/hook",
            "http:example.com",
            "http:///hook",
            "http://",
            "ftp://example.com",
            "file:///etc/passwd",
            "http://user@example.com",
            "http://user:password@example.com",
            "http://@example.com",
            "http://example.com/#part",
            "http://example.com/#",
            "http://exa mple.com",
            "http://example.com\\@other",
            "http://example.com:0",
            "http://example.com:99999",
            "http://[::1",
            " http://example.com",
            "http://exa\"mple.com",
            "http://exa`mple.com",
            "http://{example}.com",
            "http://example.com/\n",
            &format!("http://example.com/{}", "x".repeat(URL_BYTES_MAX)),
            &format!("http://example.com/{}", "ä".repeat(URL_BYTES_MAX / 4)),
        ] {
            let error = parse_url(text).expect_err(text);
            assert!(!error.contains("password"), "{error}");
        }
        for text in [
            "http://example.com",
            "HTTPS://Example.com:8443/a?b=c@d",
            "http://[::1]:3000/",
            "http://ä.example",
        ] {
            assert!(parse_url(text).is_ok(), "{text}");
        }
    }
}
