//! The meaning of a receiver's response, and the excerpt of it that is kept.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderValue, StatusCode};

use super::{
    delivery::{ERROR_BYTES_KEPT, Outcome},
    time::UnixMicros,
};

/// Longest wait read from a `Retry-After`; a longer one is cut to this. Far above any sensible setting.
pub const RETRY_AFTER_READ_MAX: Duration = Duration::from_hours(366 * 24);

/// Most characters of a `Location` in an error's text.
const LOCATION_CHARS_MAX: usize = 200;

/// The outcome of a complete response with this status: only 2xx is a success.
pub fn classify(status: StatusCode) -> Outcome {
    if status.is_success() { Outcome::Ok } else { Outcome::HttpStatus }
}

/// The wait from `now` that a `Retry-After` requests: seconds, or any of the three forms of an HTTP date.
/// Zero for a time in the past; `None` if the value is neither.
pub fn parse_retry_after(value: &HeaderValue, now: UnixMicros) -> Option<Duration> {
    let text = value.to_str().ok()?.trim_ascii();
    let (digits, negative) = text.strip_prefix('-').map_or((text, false), |digits| (digits, true));
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        // Digits only: a number that does not parse is too large.
        let seconds = if negative { 0 } else { digits.parse().unwrap_or(u64::MAX) };
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_READ_MAX));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(UnixMicros(0).plus(date).since(now).min(RETRY_AFTER_READ_MAX))
}

/// A readable text for a response with another status than 2xx. Names the target of a redirect without its
/// query and user info, which may contain secrets.
pub fn status_text(status: StatusCode, location: Option<&HeaderValue>) -> String {
    let name = status.canonical_reason().map(|name| format!(" {name}")).unwrap_or_default();
    let mut text = format!("answered {}{name}", status.as_u16());
    if status == StatusCode::NOT_MODIFIED {
        text.push_str(", which is no answer to a POST");
    } else if status.is_redirection() {
        if let Some(location) = location {
            text.push_str(" to ");
            let location = String::from_utf8_lossy(location.as_bytes()).replace(char::is_control, "");
            let target = location.split(['?', '#']).next().unwrap_or_default();
            text.extend(without_user_info(target).chars().take(LOCATION_CHARS_MAX));
        }
        text.push_str(", and redirects are not followed");
    }
    fit_error(text)
}

/// A URL without its user info, as browsers would find one: they accept `\\` for `/`, and need neither slash.
fn without_user_info(url: &str) -> String {
    let is_slash = |c| matches!(c, '/' | '\\');
    let is_scheme = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    let trimmed = url.trim_start();
    let scheme = trimmed
        .split_once(':')
        .filter(|(scheme, _)| is_scheme(scheme))
        .map_or(0, |(scheme, _)| scheme.len() + 1);
    let rest = &trimmed[scheme..];
    let slashes = rest.len() - rest.trim_start_matches(is_slash).len();
    if scheme == 0 && slashes < 2 {
        // A path.
        return trimmed.to_owned();
    }
    let (start, rest) = trimmed.split_at(scheme + slashes);
    let end = rest.find(is_slash).unwrap_or(rest.len());
    let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
    format!("{start}{}", &rest[host..])
}

/// An error text cut to [`ERROR_BYTES_KEPT`] and without control characters.
pub fn fit_error(text: String) -> String {
    let mut text = if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text };
    if text.len() > ERROR_BYTES_KEPT {
        const CUT: &str = "…";
        text.truncate(text.floor_char_boundary(ERROR_BYTES_KEPT - CUT.len()));
        text.push_str(CUT);
    }
    text
}

/// The excerpt of a response's body that starts with `start`, at most `bytes_max`. Invalid UTF-8, and NUL,
/// which some databases reject in text, is replaced by U+FFFD. With `whole`, `start` is the complete body.
pub fn excerpt(start: &[u8], whole: bool, bytes_max: usize) -> String {
    let mut text = String::with_capacity(start.len().min(bytes_max));
    let mut chunks = start.utf8_chunks().peekable();
    while let Some(chunk) = chunks.next() {
        text.extend(chunk.valid().chars().map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }));
        // A character that is cut at the end of an incomplete body is not the receiver's fault.
        let halved = !whole && chunks.peek().is_none() && is_start_of_char(chunk.invalid());
        if !chunk.invalid().is_empty() && !halved {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

/// Whether these bytes are the start of a character.
fn is_start_of_char(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2023-11-14T22:13:20Z.
    const NOW: UnixMicros = UnixMicros(1_700_000_000_000_000);

    fn retry_after(text: &str) -> Option<Duration> {
        parse_retry_after(&HeaderValue::from_bytes(text.as_bytes()).unwrap(), NOW)
    }

    #[test]
    fn only_a_2xx_status_is_a_success() {
        for status in 100..1000 {
            let expected = if (200..300).contains(&status) { Outcome::Ok } else { Outcome::HttpStatus };
            assert_eq!(classify(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }

    #[test]
    fn a_redirect_target_is_shown_without_its_user_info() {
        for (location, shown) in [
            ("https://user:secret@example.com/a@b", "https://example.com/a@b"),
            ("https://user:secret@example.com?secret", "https://example.com"),
            ("https://secret@user:secret@example.com", "https://example.com"),
            ("//user:secret@example.com/a", "//example.com/a"),
            ("  https:\\\\user:secret@example.com\\a", "https:\\\\example.com\\a"),
            ("https:user:secret@example.com/a", "https:example.com/a"),
            ("ht\ttps://user:secret@example.com/", "https://example.com/"),
            ("https://example.com/a?b=c@d", "https://example.com/a"),
            ("/users/@me", "/users/@me"),
            ("@me", "@me"),
            ("a@b/c", "a@b/c"),
        ] {
            let value = HeaderValue::from_bytes(location.as_bytes()).unwrap();
            let text = status_text(StatusCode::FOUND, Some(&value));
            assert_eq!(text, format!("answered 302 Found to {shown}, and redirects are not followed"));
        }
    }

    #[test]
    fn retry_after_is_read_in_all_its_forms() {
        let cases = [
            ("0", 0),
            ("120", 120),
            (" 7 ", 7),
            ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
            ("Tuesday, 14-Nov-23 22:14:20 GMT", 60),
            ("Tue Nov 14 22:14:20 2023", 60),
        ];
        for (text, seconds) in cases {
            assert_eq!(retry_after(text), Some(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn retry_after_in_the_past_is_no_wait_and_a_huge_one_is_bounded() {
        for text in ["-1", "Tue, 14 Nov 2023 22:13:19 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"] {
            assert_eq!(retry_after(text), Some(Duration::ZERO), "{text}");
        }
        for text in ["99999999999", "99999999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
            assert_eq!(retry_after(text), Some(RETRY_AFTER_READ_MAX), "{text}");
        }
    }

    #[test]
    fn an_unreadable_retry_after_is_ignored() {
        for text in
            ["", "-", "soon", "1.5", "+3", "1 2", "2023-11-14T22:14:20Z", "Tue, 99 Nov 2023", "\u{e9}"]
        {
            assert_eq!(retry_after(text), None, "{text}");
        }
    }

    #[test]
    fn the_text_of_a_redirect_names_the_target_without_the_query() {
        let location = HeaderValue::from_static("https://example.com/hook?token=secret#x");
        assert_eq!(
            status_text(StatusCode::MOVED_PERMANENTLY, Some(&location)),
            "answered 301 Moved Permanently to https://example.com/hook, and redirects are not followed"
        );
        let long = HeaderValue::from_str(&"x".repeat(5000)).unwrap();
        assert!(status_text(StatusCode::FOUND, Some(&long)).len() <= ERROR_BYTES_KEPT);
        assert_eq!(
            status_text(StatusCode::INTERNAL_SERVER_ERROR, Some(&location)),
            "answered 500 Internal Server Error"
        );
        assert_eq!(status_text(StatusCode::from_u16(599).unwrap(), None), "answered 599");
    }

    #[test]
    fn an_excerpt_is_valid_text_within_its_bound() {
        assert_eq!(excerpt(b"ok\n\t\x1b", true, 100), "ok\n\t\x1b");
        assert_eq!(excerpt(b"a\0b\xffc", true, 100), "a\u{fffd}b\u{fffd}c");
        assert_eq!(excerpt("aé".as_bytes(), true, 100), "aé");
        // Cut in the middle of a character: an incomplete body, and a complete one.
        assert_eq!(excerpt(b"a\xc3", false, 100), "a");
        assert_eq!(excerpt(b"a\xc3", true, 100), "a\u{fffd}");
        assert_eq!(excerpt(&[0xff; 100], true, 100).len(), 99);
        assert_eq!(excerpt(b"ok", true, 0), "");
    }

    proptest! {
        #[test]
        fn texts_stay_within_their_bounds(bytes: Vec<u8>, text in ".{0,700}", whole: bool, max in 0..100_usize) {
            prop_assert!(excerpt(&bytes, whole, max).len() <= max);
            let fitted = fit_error(text);
            prop_assert!(fitted.len() <= ERROR_BYTES_KEPT && !fitted.contains(char::is_control));
        }
    }
}
