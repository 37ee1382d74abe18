//! The rules for the URL of an endpoint.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::Uri;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::domain::secret::Secret;

/// Longest `url` in bytes, as sent and as stored.
pub const URL_BYTES_MAX: usize = 2048;

/// Parses the URL of an endpoint. Credentials in it leave it: they are returned as the value of an `authorization`
/// header (Basic, RFC 7617). The error never contains the URL, which may contain a password.
///
/// [`EgressPolicy`](crate::domain::egress::EgressPolicy) decides which addresses may be connected to.
pub fn parse_url(text: &str) -> Result<(Url, Option<Secret>), String> {
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
    let authority = authority_of(rest);
    if authority.is_empty() {
        return Err("must name a host".into());
    }
    let credentials = authority.rsplit_once('@').map(|(user_info, _)| basic(user_info)).transpose()?;
    let mut url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if credentials.is_some() && url.set_username("").and_then(|()| url.set_password(None)).is_err() {
        return Err("must name a host".into());
    }
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
    Ok((url, credentials))
}

/// Whether a URL contains credentials.
pub fn has_credentials(url: &str) -> bool {
    url.split_once("://").is_some_and(|(_, rest)| authority_of(rest).contains('@'))
}

/// The user info, host and port of a URL without its scheme.
fn authority_of(rest: &str) -> &str {
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// The value of an `authorization` header for the user info of a URL.
fn basic(user_info: &str) -> Result<Secret, &'static str> {
    if user_info.contains('@') {
        return Err("must have one @ before its host: write others as %40");
    }
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decoded = |text| percent_decode_str(text).collect::<Vec<u8>>();
    let (user, password) = (decoded(user), decoded(password));
    if user.is_empty() && password.is_empty() {
        return Err("must not have an @ without credentials before it");
    }
    if user.contains(&b':') {
        return Err("must not have a colon in its user name: receivers could not tell where the name ends");
    }
    if user.iter().chain(&password).any(u8::is_ascii_control) {
        return Err("must not have control characters in its credentials");
    }
    let credentials = [user, password].join(&b':');
    Ok(Secret::new(format!("Basic {}", STANDARD.encode(credentials))))
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
    fn credentials_leave_the_url_and_become_a_header() {
        for (text, url, credentials) in [
            ("https://user:pass@example.com/a", "https://example.com/a", "user:pass"),
            ("https://user@example.com", "https://example.com/", "user:"),
            ("https://:token@example.com:8443/?a=@", "https://example.com:8443/?a=@", ":token"),
            ("https://a%40b:p%3Aq:r@[::1]/", "https://[::1]/", "a@b:p:q:r"),
            ("https://ü:%C3%BC@example.com", "https://example.com/", "ü:ü"),
        ] {
            let (parsed, header) = parse_url(text).unwrap();
            assert_eq!(parsed.as_str(), url);
            assert_eq!(header.unwrap().expose(), format!("Basic {}", STANDARD.encode(credentials)));
            assert!(has_credentials(text) && !has_credentials(url));
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
            "http://@example.com",
            "http://:@example.com",
            "http://user:password@b@example.com",
            "http://us%3Aer:password@example.com",
            "http://user:password%0a@example.com",
            "http://user:password@",
            "http://user:password@example.com/#part",
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
