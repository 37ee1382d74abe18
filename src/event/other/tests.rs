//! The outline of bodies, and bodies that are kept.

use super::*;

fn account() -> AccountId {
    AccountId::new(1).unwrap()
}

fn read(json: &str) -> Outline {
    Outline::read(json.as_bytes()).unwrap_or_else(|rule| panic!("{json}: {rule}"))
}

fn route(json: &str) -> (Option<i64>, OrderKey) {
    let EventRouting { inbox_id, order_key, .. } = read(json).routing();
    (inbox_id, order_key)
}

#[test]
fn the_conversation_the_contact_and_the_inbox_are_found_where_chatwoot_writes_them() {
    use OrderKey::{Contact, Conversation, Inbox};
    for (json, inbox, order) in [
        ("{}", None, Conversation(0)),
        (r#"{"event":"conversation_deleted","id":7,"inbox_id":3}"#, Some(3), Conversation(7)),
        (r#"{"event":"automation_event.x","id":7,"inbox_id":3,"messages":[]}"#, Some(3), Conversation(7)),
        (
            r#"{"event":"message_created","id":9,"conversation":{"id":7,"inbox_id":3}}"#,
            Some(3),
            Conversation(7),
        ),
        (
            r#"{"event":"message_created","id":9,"inbox":{"id":4},"conversation":{"id":7,"inbox_id":3}}"#,
            Some(4),
            Conversation(7),
        ),
        (r#"{"event":"x","id":9,"conversation_id":7}"#, None, Conversation(7)),
        (r#"{"event":"webwidget_triggered","current_conversation":{"id":7}}"#, None, Conversation(7)),
        (r#"{"event":"webwidget_triggered","contact":{"id":5},"inbox":{"id":3}}"#, Some(3), Contact(5)),
        (r#"{"event":"contact_deleted","id":5}"#, None, Contact(5)),
        (r#"{"event":"message_created","id":9,"sender":{"id":5}}"#, None, Contact(5)),
        (r#"{"event":"message_created","id":9,"sender":{"id":5,"type":"user"}}"#, None, Conversation(0)),
        (r#"{"event":"inbox_created","working_hours":[{"inbox_id":3},1]}"#, Some(3), Inbox(3)),
        (r#"{"event":"x","inbox_id":"3"}"#, Some(3), Inbox(3)),
        // Values of other types, and out of any range.
        (r#"{"event":"conversation_x","id":{},"inbox_id":[1],"conversation":[]}"#, None, Conversation(0)),
        (r#"{"event":"conversation_x","id":1e999,"inbox_id":-3}"#, None, Conversation(0)),
        (r#"{"inbox_id":1,"inbox_id":2}"#, Some(2), Inbox(2)),
    ] {
        assert_eq!(route(json), (inbox, order), "{json}");
    }
}

#[test]
fn only_a_json_object_can_be_kept_and_whatever_it_holds() {
    for json in [
        "{}",
        " {\"a\" : 1e999 } \n",
        "\u{feff}{}",
        r#"{"a":18446744073709551617,"a":[null],"\ud800":"\ud800","event":"\ud800"}"#,
        &format!(r#"{{"deep":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000)),
    ] {
        let (event, _) = keep(json.as_bytes(), account(), &FieldViolations::default()).unwrap();
        let Some(Payload::Other(other)) = event.payload else { unreachable!() };
        assert_eq!((other.name.as_str(), &*other.json), ("", json.as_bytes()));
    }
    for (json, rule) in [
        (&b""[..], "is not valid JSON"),
        (b"{\"a\":}", "is not valid JSON"),
        (b"{\"a\n\":1}", "is not valid JSON"),
        (b"{} {}", "is not valid JSON"),
        (b"{\"a\":\"\xff\"}", "is not valid JSON"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "is not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
    ] {
        let error = Outline::read(json).unwrap_err();
        assert!(error.starts_with(rule), "{error}");
    }
}

#[test]
fn a_name_is_a_short_text() {
    assert_eq!(read(r#"{"event":"contact_deleted"}"#).name, "contact_deleted");
    assert_eq!(read(r#"{"event":"\u00e9"}"#).name, "é");
    let long = format!(r#"{{"event":"{}"}}"#, "x".repeat(NAME_CHARS_MAX + 1));
    for json in [r#"{"event":1}"#, r#"{"event":"a\nb"}"#, r#"{"event":null}"#, &long] {
        assert_eq!(read(json).name, "", "{json}");
    }
}

#[test]
fn a_body_of_another_account_is_not_kept() {
    let refused = |json: &str| {
        let violations = keep(json.as_bytes(), account(), &FieldViolations::default()).unwrap_err();
        violations.iter().map(|violation| (violation.kind, violation.field.clone())).collect::<Vec<_>>()
    };
    for (json, path) in [
        (r#"{"account":{"id":2}}"#, "account.id"),
        (r#"{"account":{"id":"2"}}"#, "account.id"),
        (r#"{"account":{"id":1},"messages":[{"account_id":2}]}"#, "messages.0.account_id"),
    ] {
        assert_eq!(refused(json), [(ViolationKind::AccountMismatch, path.to_owned())], "{json}");
    }
    assert_eq!(read(r#"{"account":{"id":1}}"#).account(), Some(1));
}

#[test]
fn reasons_are_few_and_short() {
    let mut why = FieldViolations::default();
    for _ in 0..20 {
        why.invalid("a\0".repeat(500), "must not be");
    }
    let (event, _) = keep(b"{}", account(), &why).unwrap();
    let Some(Payload::Other(other)) = event.payload else { unreachable!() };
    assert_eq!(other.reasons.len(), REASONS_MAX);
    let fits = |reason: &String| reason.len() <= REASON_BYTES_MAX + "…".len() && !reason.contains('\0');
    assert!(other.reasons.iter().all(fits), "{:?}", other.reasons[0]);
}

#[test]
fn an_escaped_null_character_is_found_and_an_escaped_backslash_is_none() {
    for (json, has) in [
        (r#"{"a":"\u0000"}"#, true),
        (r#"{"a":"\\\u0000"}"#, true),
        (r#"{"a":"\\u0000"}"#, false),
        (r#"{"a":"\u0001"}"#, false),
        (r#"{"\u0000":1}"#, true),
    ] {
        assert_eq!(has_null_character(json.as_bytes()), has, "{json}");
    }
}
