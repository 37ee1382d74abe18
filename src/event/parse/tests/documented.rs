//! Bodies as Chatwoot's documentation shows them: those that can be pasted, and the examples with elided values.

use serde_json::{Value, json};

use super::*;

const DOCUMENTED: PayloadFormat = PayloadFormat::Documented;
const SAMPLE: PayloadFormat = PayloadFormat::Sample;

/// The documentation's first sample, without its comments and with its missing comma.
const SAMPLE_PAYLOAD: &str = r#"{
  "event": "message_created",
  "id": "1",
  "content": "Hi",
  "created_at": "2020-03-03 13:05:57 UTC",
  "message_type": "incoming",
  "content_type": "enum",
  "content_attributes": {},
  "source_id": "",
  "sender": {"id": "1", "name": "Agent", "email": "agent@example.com"},
  "contact": {"id": "1", "name": "contact-name"},
  "conversation": {
    "display_id": "1",
    "additional_attributes": {
      "browser": {
        "device_name": "Macbook",
        "browser_name": "Chrome",
        "platform_name": "Macintosh",
        "browser_version": "80.0.3987.122",
        "platform_version": "10.15.2"
      },
      "referer": "<http://www.chatwoot.com>",
      "initiated_at": "Tue Mar 03 2020 18:37:38 GMT-0700 (Mountain Standard Time)"
    }
  },
  "account": {"id": "7", "name": "Chatwoot"}
}"#;

/// The documentation's object Message, with its names of types instead of values, as it stands there.
const MESSAGE_OBJECT: &str = r#"{
  "event": "message_created",
  "id": "integer",
  "content": "string",
  "message_type": "integer",
  "created_at": "unix-timestamp",
  "private": "boolean",
  "source_id": "string / null",
  "content_type": "string",
  "content_attributes": "object",
  "sender": {"type": "string - contact/user"},
  "account": {},
  "conversation": {},
  "inbox": {}
}"#;

/// The documentation's object Conversation.
const CONVERSATION_OBJECT: &str = r#"{
  "event": "conversation_created",
  "additional_attributes": {"initiated_at": {"timestamp": "iso-datetime"}},
  "can_reply": "boolean",
  "channel": "string",
  "id": "integer",
  "inbox_id": "integer",
  "contact_inbox": {"id": "integer", "created_at": "datetime", "hmac_verified": "boolean"},
  "messages": ["Array of message objects"],
  "meta": {"sender": {}, "assignee": {}},
  "status": "string",
  "unread_count": "integer",
  "agent_last_seen_at": "unix-timestamp",
  "account_id": "integer"
}"#;

/// The violations of a body in a form, as lines.
#[track_caller]
fn violations(form: PayloadFormat, body: &str) -> Vec<String> {
    let violations = read_form(form, body.as_bytes(), account()).unwrap_err();
    violations.iter().map(|one| format!("{}: {}", one.field, one.description)).collect()
}

/// The documented body of a sample.
fn documented(kind: EventType) -> Value {
    let mut event = samples::sample(kind, account());
    event::check(&mut event, account(), "event").unwrap();
    serde_json::from_slice(&render::render(&event, DOCUMENTED)).unwrap()
}

#[test]
fn the_first_sample_of_the_documentation_is_read_with_every_value() {
    let event = read_form(SAMPLE, SAMPLE_PAYLOAD.as_bytes(), account()).unwrap();
    let goes: Value = serde_json::from_slice(&render::render(&event, SAMPLE)).unwrap();
    assert_eq!(goes, serde_json::from_str::<Value>(SAMPLE_PAYLOAD).unwrap());

    let Some(Payload::MessageCreated(created)) = &event.payload else { unreachable!() };
    let message = created.message.as_ref().unwrap();
    assert_eq!(message.created_at.unwrap().seconds, 1_583_240_757);
    assert_eq!(message.sender, Some(sender(v1::sender::Kind::User(agent()))));
    let meta = message.conversation.as_ref().unwrap().meta.as_ref().unwrap();
    assert_eq!(meta.sender.as_ref().unwrap().name, "contact-name");
    // The form shows in the ids.
    assert_eq!(read_any(SAMPLE_PAYLOAD.as_bytes(), account()).unwrap().0, SAMPLE);
}

fn sender(kind: v1::sender::Kind) -> v1::Sender {
    v1::Sender { kind: Some(kind) }
}

fn agent() -> v1::User {
    v1::User { id: 1, name: "Agent".into(), email: "agent@example.com".into(), ..v1::User::default() }
}

#[test]
fn an_incoming_message_without_an_agent_is_the_contacts() {
    let mut body: Value = serde_json::from_str(SAMPLE_PAYLOAD).unwrap();
    body["sender"] = json!(null);
    for (message_type, is_author) in [("incoming", true), ("activity", false)] {
        body["message_type"] = json!(message_type);
        let event = read_form(SAMPLE, body.to_string().as_bytes(), account()).unwrap();
        let Some(Payload::MessageCreated(created)) = event.payload else { unreachable!() };
        assert_eq!(created.message.unwrap().sender.is_some(), is_author, "{message_type}");
    }
}

#[test]
fn comments_are_named_where_the_examples_have_them() {
    let found = violations(SAMPLE, "{\n  \"event\": \"message_created\", // The name\n  \"id\": \"1\"\n}");
    assert!(found[0].starts_with("body: is not valid JSON: "), "{found:?}");
    assert!(found[0].ends_with("JSON has no comments: remove them"), "{found:?}");
    assert!(!violations(SAMPLE, "{\"a\": \"http://b\" 1}")[0].contains("comments"));
}

#[test]
fn examples_with_elided_values_are_refused_with_each_field() {
    assert_eq!(violations(DOCUMENTED, r#"{"event": "event_name"}"#), ["event: is not a known event name"]);
    assert_eq!(
        violations(DOCUMENTED, r#"{"event": "message_created"}"#),
        ["id: is required", "message_type: is required"]
    );
    assert_eq!(
        violations(
            DOCUMENTED,
            r#"{"event": "conversation_updated",
        "changed_attributes": [{"<attribute_name>": {"current_value": "", "previous_value": ""}}]}"#
        ),
        ["id: is required"]
    );
    assert_eq!(
        violations(DOCUMENTED, MESSAGE_OBJECT),
        [
            "id: must be an integer of 64 bits",
            "message_type: must be incoming, outgoing, activity or template, or 0 to 3",
            "created_at: must be a time: unix seconds, or ISO 8601",
            "private: must be a boolean",
            "content_attributes: must be an object",
            "sender.type: must be contact, user, agent_bot or captain_assistant",
        ]
    );
    let found = violations(DOCUMENTED, CONVERSATION_OBJECT);
    for field in [
        "can_reply",
        "id",
        "inbox_id",
        "contact_inbox.id",
        "contact_inbox.created_at",
        "contact_inbox.hmac_verified",
        "messages[0]",
        "unread_count",
        "agent_last_seen_at",
        "account_id",
    ] {
        assert!(found.iter().any(|line| line.starts_with(&format!("{field}: "))), "{field}: {found:?}");
    }
}

#[test]
fn what_the_documented_form_does_not_have_is_refused_with_its_path() {
    let refused = |kind, change: fn(&mut Value), expected: &[&str]| {
        let mut body = documented(kind);
        change(&mut body);
        assert_eq!(violations(DOCUMENTED, &body.to_string()), expected);
    };
    let message = EventType::MessageCreated;
    refused(message, |b| b["attachments"] = json!([{}]), &["attachments: is no key of the documented form"]);
    refused(
        message,
        |b| b["message_type"] = json!("incoming"),
        &["message_type: would be sent as another number"],
    );
    refused(
        message,
        |b| b["sender"]["phone_number"] = json!("+1"),
        &["sender.phone_number: is no key of the documented form"],
    );
    refused(
        EventType::ConversationStatusChanged,
        |b| b["changed_attributes"] = json!([{"status": {"current_value": 1, "previous_value": 2}}]),
        &["changed_attributes: is no key of the documented form"],
    );
    refused(EventType::InboxCreated, |b| b["id"] = json!(-1), &["id: must be positive"]);
    refused(
        EventType::ConversationCreated,
        |b| b["account_id"] = json!(8),
        &["account_id: must be 7, the account that the body is imported into"],
    );
    let mut sample: Value = serde_json::from_str(SAMPLE_PAYLOAD).unwrap();
    sample["contact"]["id"] = json!("0");
    sample["account"]["id"] = json!("8");
    assert_eq!(
        violations(SAMPLE, &sample.to_string()),
        ["account.id: must be 7, the account that the body is imported into"]
    );
    sample["account"]["id"] = json!("7");
    sample["sender"] = json!(null);
    assert_eq!(violations(SAMPLE, &sample.to_string()), ["contact.id: is required"]);
    sample["contact"]["id"] = json!("01");
    assert_eq!(violations(SAMPLE, &sample.to_string()), ["contact.id: would be sent as another string"]);
}

#[test]
fn missing_keys_are_unset_fields() {
    let body = r#"{"event":"message_created","id":1,"message_type":0,"conversation":{"id":3}}"#;
    let event = read_form(DOCUMENTED, body.as_bytes(), account()).unwrap();
    let Some(Payload::MessageCreated(created)) = &event.payload else { unreachable!() };
    let conversation = created.message.as_ref().unwrap().conversation.as_ref().unwrap();
    assert_eq!((conversation.account_id, conversation.no_messages), (7, false));
    // The documentation: such a message is a template.
    let cards = r#"{"event":"message_created","id":1,"content_type":"cards"}"#;
    let event = read_form(DOCUMENTED, cards.as_bytes(), account()).unwrap();
    let goes: Value = serde_json::from_slice(&render::render(&event, DOCUMENTED)).unwrap();
    assert_eq!(goes["message_type"], json!(3));
}

#[test]
fn each_sample_is_read_in_the_form_that_it_has() {
    for kind in kinds() {
        let mut event = samples::sample(kind, account());
        event::check(&mut event, account(), "event").unwrap();
        for form in PayloadFormat::all() {
            let body = render::render(&event, form);
            let (_, found) = read_any(&body, account()).unwrap_or_else(|why| panic!("{kind:?}: {why:?}"));
            let text = |body| String::from_utf8(body).unwrap();
            assert_eq!(text(render::render(&found, form)), text(body), "{kind:?}");
        }
    }
}

#[test]
fn the_problems_of_the_best_fitting_form_are_reported() {
    let mut body = documented(EventType::MessageCreated);
    body["private"] = json!("no");
    let found = read_any(body.to_string().as_bytes(), account()).unwrap_err();
    let found: Vec<_> = found.iter().map(|one| one.field.as_str()).collect();
    assert_eq!(found, ["private"]);
}
