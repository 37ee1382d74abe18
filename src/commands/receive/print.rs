//! Formats a received request, for a person or a program.

use std::{collections::BTreeMap, fmt::Write};

use http::Version;
use serde::{Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{Keys, Received, Signatures, Verdict};

/// Spaces for each level of indentation of a JSON body.
const INDENT: usize = 2;

/// Formats a request: method and status, headers with the verdicts on its signatures, and body.
///
/// Control characters are escaped: the text cannot control a terminal.
pub fn describe(received: &Received, keys: &Keys) -> String {
    let Received { number, method, uri, status, .. } = received;
    let version = version(received);
    let mut text = format!("#{number} {method} {uri} {version}, status {}\n", status.as_u16());
    if let Some(error) = &received.forward_error {
        writeln!(text, "not forwarded: {}", error.escape_debug()).expect("writing to a string cannot fail");
    }
    let verdicts = verdicts(received, keys);
    for (name, value) in &received.headers {
        let verdict = verdicts.iter().find(|(header, _)| header == name);
        let verdict = verdict.map(|(_, verdict)| format!(" ({})", verdict.text())).unwrap_or_default();
        writeln!(text, "{name}: {}{verdict}", value.as_bytes().escape_ascii())
            .expect("writing to a string cannot fail");
    }
    for (name, verdict) in verdicts {
        if verdict == Verdict::Missing && !keys.is_empty() {
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

/// A request as a JSON object on one line.
#[derive(Serialize)]
struct Line<'a> {
    number: u64,
    method: &'a str,
    path: String,
    version: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    forward_error: Option<&'a str>,
    headers: BTreeMap<&'a str, String>,
    signatures: BTreeMap<&'static str, &'static str>,
    /// The body, if it is JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    /// Any other body.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// Formats a request as a JSON object on one line.
pub fn json_line(received: &Received, keys: &Keys) -> String {
    let mut headers: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in &received.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let known = headers.entry(name.as_str()).or_default();
        if !known.is_empty() {
            known.push_str(", ");
        }
        known.push_str(&value);
    }
    // Outside of strings only; in them JSON has no line ends.
    let one_line = String::from_utf8_lossy(&received.body).replace(['\n', '\r'], " ");
    let body = RawValue::from_string(one_line).ok();
    let text = (body.is_none() && !received.body.is_empty())
        .then(|| String::from_utf8_lossy(&received.body).into_owned());
    let line = Line {
        number: received.number,
        method: received.method.as_str(),
        path: received.uri.to_string(),
        version: version(received),
        status: received.status.as_u16(),
        forward_error: received.forward_error.as_deref(),
        headers,
        signatures: verdicts(received, keys).map(|(name, verdict)| (name, verdict.text())).into(),
        body,
        text,
    };
    let mut line = serde_json::to_string(&line).expect("it has keys that are strings");
    line.push('\n');
    line
}

fn version(received: &Received) -> &'static str {
    if received.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }
}

fn verdicts(received: &Received, keys: &Keys) -> [(&'static str, Verdict); 2] {
    let Signatures { standard, chatwoot } = keys.check(received);
    [("webhook-signature", standard), ("x-chatwoot-signature", chatwoot)]
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
    use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
    use uuid::Uuid;

    use super::*;
    use crate::domain::{secret::Secret, signature};

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
            forward_error: None,
        }
    }

    fn keys(secrets: &[&str]) -> Keys {
        Keys { secrets: secrets.iter().map(|secret| Secret::new(*secret)).collect(), public_keys: Vec::new() }
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
        let text =
            describe(&received(&[("content-type", "application/json".to_owned())], BODY), &Keys::default());
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
        use Verdict::{Invalid, Missing, NewerSecret, NotChecked, Valid};

        let check = |received: &Received, secrets: &[&str]| {
            let signatures = keys(secrets).check(received);
            (signatures.standard, signatures.chatwoot)
        };
        const OTHER: &str = "another-secret-of-mine";
        assert_eq!(check(&signed(BODY), &[SECRET]), (Valid { of: 2 }, Valid { of: 1 }));
        // The older secret still signs, but the other header has room for the newest only.
        assert_eq!(check(&signed(BODY), &[OTHER]), (Valid { of: 2 }, NewerSecret));
        assert_eq!(check(&signed(BODY), &[OTHER, SECRET]), (Valid { of: 2 }, Valid { of: 1 }));
        assert_eq!(check(&signed(BODY), &["a-third-secret-of-mine"]), (Invalid, Invalid));
        assert_eq!(check(&signed("{}"), &[SECRET]), (Invalid, Invalid));
        assert_eq!(check(&received(&[], BODY), &[SECRET]), (Missing, Missing));
        assert_eq!(check(&signed(BODY), &[]), (NotChecked, NotChecked));
    }

    #[test]
    fn the_verdict_follows_each_signature() {
        let secret = &keys(&[SECRET]);
        let good = describe(&signed(BODY), secret);
        assert_eq!(good.matches(" (valid; the secret is being rotated)\n").count(), 1, "{good}");
        assert_eq!(good.matches(" (valid)\n").count(), 1, "{good}");
        let bad = describe(&signed("{}"), secret);
        assert_eq!(bad.matches(" (INVALID)\n").count(), 2, "{bad}");
        let none = describe(&received(&[], ""), secret);
        assert_eq!(none.matches(" is missing\n").count(), 2, "{none}");
        let unknown = describe(&signed(BODY), &Keys::default());
        assert_eq!(unknown.matches(" (not checked)\n").count(), 2, "{unknown}");
        assert!(!good.contains(SECRET) && !bad.contains(SECRET));
    }

    #[test]
    fn a_request_is_one_line_of_json() {
        let mut request = signed("{\n\"a\": 9007199254740993}");
        request.forward_error = Some("nobody listens".to_owned());
        let line = json_line(&request, &keys(&[SECRET]));
        assert_eq!(line.lines().count(), 1, "{line}");
        // The number keeps its digits.
        assert!(line.contains("9007199254740993"), "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["headers"]["x-chatwoot-timestamp"], "1700000000");
        assert_eq!(read["signatures"]["webhook-signature"], "INVALID");
        assert_eq!((&read["path"], &read["status"]), (&"/hook?x=1".into(), &200.into()));
        assert_eq!(read["forward_error"], "nobody listens");
        let text: serde_json::Value =
            serde_json::from_str(&json_line(&received(&[], "no\nJSON"), &Keys::default())).unwrap();
        assert_eq!(text["text"], "no\nJSON");
        assert_eq!(text["signatures"]["webhook-signature"], "missing");
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
        assert!(describe(&request, &Keys::default()).contains("x: \\xc2\\x9b2J\n"));
    }
}
