//! Formats a received request for a person.

use std::fmt::Write;

use http::{HeaderName, Version};
use serde::de::IgnoredAny;
use uuid::Uuid;

use super::Received;
use crate::domain::{secret::Secret, signature};

/// Spaces for each level of indentation of a JSON body.
const INDENT: usize = 2;

/// Whether the two signatures of a request are valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signatures {
    /// `webhook-signature`: any of its signatures.
    pub standard: bool,
    /// `x-chatwoot-signature`.
    pub chatwoot: bool,
}

impl Signatures {
    /// Verifies the signatures with `secret`. A missing or malformed header is not valid.
    pub fn check(received: &Received, secret: &Secret) -> Self {
        let header = |name: &str| received.headers.get(name)?.to_str().ok();
        let standard = || {
            let id = Uuid::try_parse(header("webhook-id")?).ok()?;
            let timestamp = header("webhook-timestamp")?.parse().ok()?;
            let expected = signature::standard(&[secret.clone().into()], id, timestamp, &received.body);
            Some(header("webhook-signature")?.split(' ').any(|given| given == expected))
        };
        let chatwoot = || {
            let timestamp = header("x-chatwoot-timestamp")?.parse().ok()?;
            Some(header("x-chatwoot-signature")? == signature::chatwoot(secret, timestamp, &received.body))
        };
        Self { standard: standard() == Some(true), chatwoot: chatwoot() == Some(true) }
    }
}

/// Formats a request: method and status, headers, body, and the verdicts on its signatures if there is a
/// `secret`.
///
/// Control characters are escaped: the text cannot control a terminal.
pub fn describe(received: &Received, secret: Option<&Secret>) -> String {
    let Received { number, method, uri, version, status, .. } = received;
    let version = if *version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" };
    let mut text = format!("#{number} {method} {uri} {version}, status {}\n", status.as_u16());

    let verdicts = secret.map(|secret| Signatures::check(received, secret));
    for (name, value) in &received.headers {
        let verdict = verdicts.and_then(|signatures| verdict(name, signatures)).unwrap_or_default();
        writeln!(text, "{name}: {}{verdict}", value.as_bytes().escape_ascii())
            .expect("writing to a string cannot fail");
    }
    for (name, valid) in verdicts.into_iter().flat_map(|v| [(STANDARD, v.standard), (CHATWOOT, v.chatwoot)]) {
        if !valid && !received.headers.contains_key(name) {
            writeln!(text, "{name} is missing").expect("writing to a string cannot fail");
        }
    }
    text.push('\n');
    if !received.body.is_empty() {
        text.push_str(&describe_body(&received.body));
        text.push_str("\n\n");
    }
    text
}

const STANDARD: &str = "webhook-signature";
const CHATWOOT: &str = "x-chatwoot-signature";

fn verdict(header: &HeaderName, signatures: Signatures) -> Option<&'static str> {
    let valid = match header.as_str() {
        STANDARD => signatures.standard,
        CHATWOOT => signatures.chatwoot,
        _ => return None,
    };
    Some(if valid { " (valid)" } else { " (INVALID)" })
}

/// Formats a body: JSON indented, anything else as it is. Control characters are escaped.
pub fn describe_body(body: &[u8]) -> String {
    let text = match (serde_json::from_slice::<IgnoredAny>(body), std::str::from_utf8(body)) {
        (Ok(_), Ok(json)) => indent(json),
        _ => String::from_utf8_lossy(body).into_owned(),
    };
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && !matches!(character, '\n' | '\t') {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Indents JSON, one member a line. Only white space between tokens changes: keys keep their order, and
/// numbers and escapes their spelling. Parsing and printing would not guarantee that.
fn indent(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut level = 0;
    let mut characters = json.chars().peekable();
    let new_line = |out: &mut String, level: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', level * INDENT));
    };
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                out.push('"');
                while let Some(character) = characters.next() {
                    out.push(character);
                    match character {
                        '"' => break,
                        '\\' => out.extend(characters.next()),
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                out.push(character);
                while characters.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(close) = characters.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    level += 1;
                    new_line(&mut out, level);
                }
            }
            '}' | ']' => {
                level -= 1;
                new_line(&mut out, level);
                out.push(character);
            }
            ',' => {
                out.push(',');
                new_line(&mut out, level);
            }
            ':' => out.push_str(": "),
            white if white.is_ascii_whitespace() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};

    use super::*;

    const SECRET: &str = "test-secret-of-mine";
    const BODY: &str = r#"{"event":"message_created","id":9007199254740993,"tags":[],"a":{"b":[1,2.50]}}"#;

    fn received(headers: &[(&'static str, String)], body: &str) -> Received {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect(name)))
            .collect();
        Received {
            number: 7,
            method: Method::POST,
            uri: Uri::from_static("/hook?x=1"),
            version: Version::HTTP_11,
            headers,
            body: body.to_owned().into(),
            status: StatusCode::OK,
        }
    }

    fn signed(body: &str) -> Received {
        let (secret, other) = (Secret::new(SECRET), Secret::new("another-secret-of-mine"));
        let id = Uuid::from_u128(42);
        let both = [other.into(), secret.clone().into()];
        received(
            &[
                ("webhook-id", id.to_string()),
                ("webhook-timestamp", "1700000000".to_owned()),
                ("webhook-signature", signature::standard(&both, id, 1_700_000_000, BODY.as_bytes())),
                ("x-chatwoot-timestamp", "1700000000".to_owned()),
                ("x-chatwoot-signature", signature::chatwoot(&secret, 1_700_000_000, BODY.as_bytes())),
            ],
            body,
        )
    }

    #[test]
    fn a_request_is_shown_with_its_body_indented() {
        let text = describe(&received(&[("content-type", "application/json".to_owned())], BODY), None);
        let expected = r#"#7 POST /hook?x=1 HTTP/1.1, status 200
content-type: application/json

{
  "event": "message_created",
  "id": 9007199254740993,
  "tags": [],
  "a": {
    "b": [
      1,
      2.50
    ]
  }
}

"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn signatures_are_valid_for_the_body_and_secret_that_they_were_made_with() {
        let check = |received: &Received, secret: &str| {
            let signatures = Signatures::check(received, &Secret::new(secret));
            (signatures.standard, signatures.chatwoot)
        };
        assert_eq!(check(&signed(BODY), SECRET), (true, true));
        assert_eq!(check(&signed(BODY), "another-secret-of-mine"), (true, false));
        assert_eq!(check(&signed(BODY), "a-third-secret-of-mine"), (false, false));
        assert_eq!(check(&signed("{}"), SECRET), (false, false));
        assert_eq!(check(&received(&[], BODY), SECRET), (false, false));
    }

    #[test]
    fn the_verdict_follows_each_signature() {
        let secret = Secret::new(SECRET);
        let good = describe(&signed(BODY), Some(&secret));
        assert_eq!(good.matches(" (valid)\n").count(), 2, "{good}");
        let bad = describe(&signed("{}"), Some(&secret));
        assert_eq!(bad.matches(" (INVALID)\n").count(), 2, "{bad}");
        let none = describe(&received(&[], ""), Some(&secret));
        assert_eq!(none.matches(" is missing\n").count(), 2, "{none}");
        assert!(!good.contains(SECRET) && !bad.contains(SECRET));
    }

    #[test]
    fn braces_in_strings_are_not_structure() {
        let cases = [
            (r#"{"a\"{":"[,:]\\"}"#, "{\n  \"a\\\"{\": \"[,:]\\\\\"\n}"),
            ("[ ]", "[]"),
            (" { \"a\" : [ ] , \"b\" : null } ", "{\n  \"a\": [],\n  \"b\": null\n}"),
            ("3", "3"),
        ];
        for (json, expected) in cases {
            assert_eq!(describe_body(json.as_bytes()), expected, "{json}");
        }
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(describe_body(b"\x1b[2Jhello\r\n\xff"), "\\u{1b}[2Jhello\\u{d}\n\u{fffd}");
        assert_eq!(describe_body("\"\u{9b}2J\"".as_bytes()), "\"\\u{9b}2J\"");
        let mut request = received(&[], "");
        request
            .headers
            .insert("x", HeaderValue::from_bytes(b"\xc2\x9b2J").expect("bytes above 127 are allowed"));
        assert!(describe(&request, None).contains("x: \\xc2\\x9b2J\n"));
    }
}
