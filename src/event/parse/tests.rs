//! Bodies that are parsed, and violations of those that are refused.

use proptest::prelude::*;
use serde_json::json;

use super::*;

mod documented;
mod odd;

use crate::{domain::field_violation::ViolationKind, event::samples, proto::v1::EventType};

const FORM: PayloadFormat = PayloadFormat::Chatwoot;

fn account() -> AccountId {
    AccountId::new(7).unwrap()
}

/// The kinds of events that bodies are read as.
fn kinds() -> impl Iterator<Item = EventType> {
    EventType::all().filter(|kind| *kind != EventType::Other)
}

/// The body of the sample of a kind.
fn body(kind: EventType) -> Value {
    let mut event = samples::sample(kind, account());
    event::check(&mut event, account(), "event").unwrap();
    serde_json::from_slice(&render::render(&event, FORM)).unwrap()
}

fn read_value(body: &Value) -> Result<v1::Event, FieldViolations> {
    read(&serde_json::to_vec(body).unwrap(), account())
}

/// Asserts that the sample's body is refused once `change` was made to it, with these violations.
#[track_caller]
fn refused(kind: EventType, change: impl FnOnce(&mut Value), expected: &[(&str, &str)]) {
    let mut body = body(kind);
    change(&mut body);
    let violations = read_value(&body).unwrap_err();
    let found: Vec<_> = violations
        .iter()
        .map(|violation| (violation.field.as_str(), violation.description.as_str()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn every_sample_is_read_as_an_event_with_the_same_body() {
    for kind in kinds() {
        let mut event = samples::sample(kind, account());
        event::check(&mut event, account(), "event").unwrap();
        let body = render::render(&event, FORM);
        let again = read(&body, account()).unwrap_or_else(|violations| panic!("{violations:?}"));
        assert_eq!(catalogue::event_type(again.payload.as_ref().unwrap()), kind);
        let text = |body| String::from_utf8(body).unwrap();
        assert_eq!(text(render::render(&again, FORM)), text(body));
    }
}

#[test]
fn a_value_of_another_type_is_refused() {
    let kind = EventType::MessageCreated;
    refused(kind, |b| b["id"] = json!("1"), &[("id", "must be an integer of 64 bits")]);
    refused(kind, |b| b["private"] = json!(0), &[("private", "must be a boolean")]);
    refused(kind, |b| b["conversation"] = json!([]), &[("conversation", "must be an object")]);
    refused(kind, |b| b["attachments"] = json!([1]), &[("attachments[0]", "must be an object")]);
    refused(
        kind,
        |b| b["conversation"]["labels"] = json!([1]),
        &[("conversation.labels", "must be an array of strings")],
    );
    refused(
        kind,
        |b| b["conversation"]["unread_count"] = json!(1_i64 << 31),
        &[("conversation.unread_count", "must be an integer of 32 bits")],
    );
    refused(
        kind,
        |b| b["message_type"] = json!("sideways"),
        &[("message_type", "must be incoming, outgoing, activity or template, or 0 to 3")],
    );
    refused(
        kind,
        |b| b["created_at"] = json!("yesterday"),
        &[("created_at", "must be a time: unix seconds, or ISO 8601")],
    );
    refused(
        kind,
        |b| b["sender"] = json!({"type": "ghost"}),
        &[("sender.type", "must be contact, user, agent_bot or captain_assistant")],
    );
}

#[test]
fn values_that_an_event_cannot_represent_are_refused() {
    let kind = EventType::MessageCreated;
    refused(
        kind,
        |b| b["conversation"]["meta"]["assignee"]["email"] = json!("a@b"),
        &[("conversation.meta.assignee.email", "cannot be represented by an event")],
    );
    refused(
        kind,
        |b| b["conversation"]["messages"][0]["message_type"] = json!(9),
        &[(
            "conversation.messages[0].message_type",
            "must be incoming, outgoing, activity or template, or 0 to 3",
        )],
    );
    refused(
        kind,
        |b| b["conversation"]["messages"][0]["conversation_id"] = json!(99),
        &[("conversation.messages[0].conversation_id", "would be sent as another number")],
    );
    refused(
        kind,
        |b| {
            let messages = b["conversation"]["messages"].as_array_mut().unwrap();
            messages.push(messages[0].clone());
        },
        &[("conversation.messages", "would be sent as another array")],
    );
    refused(
        kind,
        |b| b["content_attributes"] = json!({"a": [{"b": 9_007_199_254_740_993_i64}]}),
        &[(
            "content_attributes.a[0].b",
            "must be a whole number that a float represents exactly, such as those up to 2^53",
        )],
    );
    refused(
        EventType::MessageUpdated,
        |b| b["created_at"] = json!("2020-03-03T13:05:57.0001Z"),
        &[("created_at", "would be sent as another string")],
    );
    refused(
        EventType::ContactUpdated,
        |b| b["changed_attributes"][0]["and"] = json!({}),
        &[("changed_attributes[0].name", "cannot be represented by an event")],
    );
    refused(
        EventType::ConversationCreated,
        |b| b["updated_at"] = json!(1_583_240_757.123_456_7),
        &[("updated_at", "would be sent as another number")],
    );
}

#[test]
fn a_violation_of_the_check_has_its_path_in_the_body() {
    refused(EventType::MessageCreated, |b| b["id"] = json!(null), &[("id", "is required")]);
    refused(
        EventType::ConversationTypingOn,
        |b| b["user"]["id"] = json!(-1),
        &[("user.id", "must be positive")],
    );
    refused(EventType::WebwidgetTriggered, |b| b["contact"] = json!(null), &[("contact", "is required")]);
    refused(
        EventType::InboxUpdated,
        |b| b["name"] = json!("Website"),
        &[("name", "is the name of a field: set that instead")],
    );
    let deep = (0..30).fold(json!(1), |inner, _| json!({ "a": inner }));
    let mut too_deep = body(EventType::ContactCreated);
    too_deep["custom_attributes"] = deep;
    let violations = read_value(&too_deep).unwrap_err();
    assert_eq!(violations.iter().len(), 1);
    assert!(
        violations.iter().all(|violation| violation.field.starts_with("custom_attributes.a.a.a")),
        "{violations:?}"
    );
}

#[test]
fn a_body_that_is_no_event_is_refused() {
    let text = |text: &str| {
        let violations = read(text.as_bytes(), account()).unwrap_err();
        let found: Vec<_> = violations
            .iter()
            .map(|violation| format!("{}: {}", violation.field, violation.description))
            .collect();
        found.join("; ")
    };
    assert!(text("").starts_with("body: is not valid JSON: EOF"));
    assert!(text("{\"event\":").starts_with("body: is not valid JSON: EOF"));
    assert_eq!(text("[]"), "body: must be a JSON object");
    assert_eq!(text("{}"), "event: is not a known event name");
    assert_eq!(text(r#"{"event":"conversation_opened"}"#), "event: is not a known event name");
    assert_eq!(text(r#"{"event":1}"#), "event: must be a string; event: is not a known event name");
}

#[test]
fn a_body_of_another_account_is_refused() {
    let rule = "must be 7, the account that the body is imported into";
    let conversation: fn(&mut Value) = |b| b["account"]["id"] = json!(8);
    refused(EventType::ConversationCreated, conversation, &[("account.id", rule)]);
    refused(EventType::ContactCreated, |b| b["account"]["id"] = json!(8), &[("account.id", rule)]);
    refused(
        EventType::WebwidgetTriggered,
        |b| b["contact"]["account"]["id"] = json!(8),
        &[("contact.account.id", rule)],
    );
    refused(
        EventType::MessageCreated,
        |b| b["conversation"]["messages"][0]["account_id"] = json!(8),
        &[("conversation.messages[0].account_id", rule)],
    );
    refused(
        EventType::InboxCreated,
        |b| b["working_hours"][0]["account_id"] = json!(8),
        &[("working_hours[0].account_id", rule)],
    );
    refused(
        EventType::InboxCreated,
        |b| b["channel"] = json!({"account_id": 8}),
        &[("channel.account_id", rule)],
    );
    let mut other = body(EventType::InboxUpdated);
    other["account"] = json!({"id": 8, "name": "Chatwoot"});
    let violations = read_value(&other).unwrap_err();
    assert!(violations.iter().all(|violation| violation.kind == ViolationKind::AccountMismatch));
}

#[test]
fn a_body_without_an_account_belongs_to_the_account_of_the_import() {
    let mut body = body(EventType::ConversationCreated);
    body.as_object_mut().unwrap().remove("account");
    let event = read_value(&body).unwrap();
    let Some(Payload::ConversationCreated(created)) = event.payload else { unreachable!() };
    assert_eq!(created.conversation.unwrap().account_id, 7);
}

#[test]
fn a_hundred_violations_are_reported_at_most() {
    let mut body = body(EventType::MessageCreated);
    body["conversation"]["messages"] = json!(vec![1; 1000]);
    assert_eq!(read_value(&body).unwrap_err().iter().len(), event::FIELD_VIOLATIONS_MAX);
}

/// Long keys with many values: only violations become text.
#[test]
fn a_path_stays_short() {
    let mut body = body(EventType::ContactCreated);
    let key = "k".repeat(1 << 19);
    body["custom_attributes"] = json!({ key: vec![0; 90_000] });
    read_value(&body).unwrap();
    body["blocked"] = json!("no");
    body["custom_attributes"]["n"] = json!(i64::MAX);
    let violations = read_value(&body).unwrap_err();
    assert_eq!(
        violations.iter().map(|violation| violation.field.as_str()).collect::<Vec<_>>(),
        ["blocked", "custom_attributes.n"]
    );
}

#[test]
fn another_spelling_of_the_same_value_is_accepted() {
    let mut spelled = body(EventType::ConversationUpdated);
    spelled["channel"] = json!(null);
    spelled["custom_attributes"] = json!({"a": 2.0});
    spelled["updated_at"] = json!(1_583_240_757);
    spelled["contact_inbox"]["created_at"] = json!("2020-03-03T14:05:57+01:00");
    let came = render::render(&read_value(&spelled).unwrap(), FORM);
    let goes: Value = serde_json::from_slice(&came).unwrap();
    assert_eq!(goes["channel"], json!(null));
    assert_eq!(goes["custom_attributes"], json!({"a": 2}));
    assert_eq!(goes["updated_at"], json!(1_583_240_757.0));
    assert_eq!(goes["contact_inbox"]["created_at"], json!("2020-03-03T13:05:57.000Z"));
}

#[test]
fn a_message_without_a_creation_time_round_trips() {
    for (of_event, of_message) in [(json!("1970-01-01T00:00:00.000Z"), json!(0)), (json!(null), json!(0))] {
        let mut unknown = body(EventType::MessageCreated);
        unknown["created_at"] = of_event;
        unknown["conversation"]["messages"][0]["created_at"] = of_message;
        unknown["conversation"]["messages"][0]["updated_at"] = json!(null);
        let goes = render::render(&read_value(&unknown).unwrap(), FORM);
        let again = render::render(&read(&goes, account()).unwrap(), FORM);
        assert_eq!(again, goes);
        let goes: Value = serde_json::from_slice(&goes).unwrap();
        assert_eq!(goes["created_at"], unknown["created_at"]);
        assert_eq!(goes["conversation"]["messages"][0]["updated_at"], json!(null));
    }
}

/// Any JSON, now and then with the keys and values of an event.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec!["contact", "user", "incoming", "2020-03-03T13:05:57Z"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        let key = prop_oneof![
            prop::sample::select(vec!["id", "type", "sender", "meta", "messages", "account", "created_at"])
                .prop_map(str::to_owned),
            any::<String>(),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(key, inner, 0..6).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn every_body_is_accepted_whole_or_refused(
        kind in prop::sample::select(kinds().collect::<Vec<_>>()),
        keys in prop::collection::vec(any::<prop::sample::Index>(), 1..4),
        value in any_json(),
    ) {
        let mut body = body(kind);
        let mut target = &mut body;
        for key in keys {
            if target.as_object().is_none_or(serde_json::Map::is_empty) {
                break;
            }
            let object = target.as_object_mut().unwrap();
            let at = key.index(object.len());
            target = object.values_mut().nth(at).unwrap();
        }
        *target = value;
        if let Ok(event) = read_value(&body) {
            let rendered = render::render(&event, FORM);
            let again = read(&rendered, account()).unwrap();
            prop_assert_eq!(render::render(&again, FORM), rendered);
        }
    }
}
