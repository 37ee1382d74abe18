//! Chatwoot's form of fields that a publisher left out, and of fields that the samples lack. The golden files
//! have the rest.

use serde_json::{Value, json};

use crate::{
    domain::{
        ids::AccountId,
        payload_format::PayloadFormat::{Chatwoot, Documented, Sample},
    },
    event::{self, render, samples},
    proto::v1::{self, EventType, MessageType, event::Payload, sender::Kind},
};

/// The body of a sample message event in which `change` was made.
fn message(change: impl FnOnce(&mut v1::Message)) -> Value {
    body(EventType::MessageCreated, |payload| {
        let Payload::MessageCreated(created) = payload else { unreachable!() };
        change(created.message.as_mut().unwrap());
    })
}

/// The body of a sample conversation event in which `change` was made.
fn conversation(change: impl FnOnce(&mut v1::Conversation)) -> Value {
    body(EventType::ConversationCreated, |payload| {
        let Payload::ConversationCreated(created) = payload else { unreachable!() };
        change(created.conversation.as_mut().unwrap());
    })
}

fn body(kind: EventType, change: impl FnOnce(&mut Payload)) -> Value {
    let event = event(kind, change);
    serde_json::from_slice(&render::render(&event, Chatwoot)).unwrap()
}

fn event(kind: EventType, change: impl FnOnce(&mut Payload)) -> v1::Event {
    let account = AccountId::new(7).unwrap();
    let mut event = samples::sample(kind, account);
    change(event.payload.as_mut().unwrap());
    event::check(&mut event, account, "event").unwrap();
    event
}

fn sent_by(kind: Kind) -> Option<v1::Sender> {
    Some(v1::Sender { kind: Some(kind) })
}

fn other(id: i64, private: bool, message_type: MessageType) -> v1::Message {
    v1::Message { id, private, message_type: message_type.into(), ..v1::Message::default() }
}

#[test]
fn a_message_is_the_last_one_of_its_conversation() {
    let body = message(|m| (m.id, m.status) = (5, "read".into()));
    let [inner] = body["conversation"]["messages"].as_array().unwrap().as_slice() else { panic!("{body}") };
    assert_eq!(
        (&inner["id"], &inner["message_type"], &inner["private"]),
        (&json!(5), &json!(1), &json!(false))
    );
    assert_eq!((&inner["status"], &inner["created_at"]), (&json!("read"), &json!(1_583_240_757)));
    assert_eq!((&inner["account_id"], &inner["conversation_id"]), (&json!(7), &body["conversation"]["id"]));
    assert_eq!(inner["processed_message_content"], body["content"]);
    assert_eq!(
        (&body["message_type"], &body["created_at"]),
        (&json!("outgoing"), &json!("2020-03-03T13:05:57.000Z"))
    );
    let body = message(|m| m.source_id = Some(String::new()));
    assert_eq!(body["source_id"], Value::Null, "some receivers skip a message that has one");
    assert!(body.get("status").is_none() && body.get("attachments").is_none(), "{body}");
}

#[test]
fn the_message_of_a_conversation_is_neither_private_nor_an_activity() {
    let shown_in = |messages: Vec<v1::Message>| {
        let body = conversation(|c| c.messages = messages);
        body["messages"].as_array().unwrap().iter().map(|m| m["id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    let (shown, earlier) = (other(2, false, MessageType::Outgoing), other(1, false, MessageType::Incoming));
    let (private, note) = (other(3, true, MessageType::Outgoing), other(4, false, MessageType::Activity));
    assert!(shown_in(vec![]).is_empty());
    assert_eq!(shown_in(vec![earlier, shown, private.clone(), note.clone()]), [2]);
    assert!(shown_in(vec![private.clone(), note.clone()]).is_empty());

    let of_event = |change: fn(&mut v1::Message), messages: Vec<v1::Message>| {
        let body = message(|m| {
            (m.id, m.conversation.as_mut().unwrap().messages) = (9, messages);
            change(m);
        });
        body["conversation"]["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["id"].as_i64().unwrap())
            .collect()
    };
    let public: fn(&mut v1::Message) = |_| {};
    let hidden: [fn(&mut v1::Message); 2] =
        [|m| m.private = true, |m| m.message_type = MessageType::Activity.into()];
    let shown: Vec<i64> = of_event(public, vec![private.clone(), note.clone()]);
    assert_eq!(shown, [9], "a message event has one, if only its own");
    for change in hidden {
        assert!(of_event(change, vec![]).is_empty(), "a receiver would pass it on");
        let own = {
            let mut own = other(9, false, MessageType::Outgoing);
            change(&mut own);
            own
        };
        assert!(of_event(change, vec![private.clone(), own.clone()]).is_empty());
        let listed = vec![other(2, false, MessageType::Incoming), own, note.clone()];
        assert_eq!(of_event(change, listed), [2], "the last that is neither");
    }
    let body = message(|m| m.conversation.as_mut().unwrap().no_messages = true);
    assert_eq!(body["conversation"]["messages"], json!([]));
}

#[test]
fn missing_fields_are_derived() {
    let contact = v1::Contact { id: 3, avatar: "https://a.example/b.png".into(), ..v1::Contact::default() };
    let body = message(|m| {
        m.account = None;
        m.inbox = None;
        m.sender = sent_by(Kind::Contact(contact));
        let conversation = m.conversation.as_mut().unwrap();
        conversation.contact_inbox = None;
        conversation.meta = None;
    });
    let account = json!({"id": 7, "name": ""});
    assert_eq!((&body["account"], &body["inbox"]), (&account, &json!({"id": 1, "name": ""})));
    assert_eq!((&body["sender"]["account"], &body["conversation"]["account"]), (&account, &account));
    assert_eq!(body["conversation"]["meta"]["sender"]["id"], json!(3));
    assert_eq!(body["conversation"]["meta"]["sender"]["thumbnail"], json!("https://a.example/b.png"));
    assert_eq!(body["conversation"]["contact_inbox"]["contact_id"], json!(3));
    assert_eq!(body["conversation"]["contact_inbox"]["source_id"], json!(""));
}

#[test]
fn each_sender_is_written_in_two_ways() {
    let written = |kind: Kind| {
        let body = message(|m| m.sender = sent_by(kind));
        let inner = &body["conversation"]["messages"][0];
        (body["sender"].clone(), inner["sender_type"].clone(), inner["sender"].clone())
    };
    let user = v1::User {
        id: 2,
        name: "A".into(),
        email: "a@b".into(),
        thumbnail: "t".into(),
        ..v1::User::default()
    };
    let inner = json!({"id": 2, "name": "A", "available_name": "A", "avatar_url": "t", "type": "user",
        "availability_status": null, "thumbnail": "t"});
    let outer = json!({"id": 2, "name": "A", "email": "a@b", "type": "user"});
    assert_eq!(written(Kind::User(user)), (outer, json!("User"), inner));

    let bot = v1::AgentBot { id: 3, name: "B".into(), avatar_url: "u".into(), ..v1::AgentBot::default() };
    let outer = json!({"id": 3, "name": "B", "type": "agent_bot"});
    let inner = json!({"id": 3, "name": "B", "avatar_url": "u", "type": "agent_bot"});
    assert_eq!(written(Kind::AgentBot(bot)), (outer, json!("AgentBot"), inner));

    let assistant = v1::CaptainAssistant {
        id: 4,
        name: "C".into(),
        avatar_url: "u".into(),
        description: "d".into(),
        created_at: Some(prost_types::Timestamp { seconds: 1, nanos: 5_000_000 }),
        extra: None,
    };
    let both = json!({"id": 4, "name": "C", "avatar_url": "u", "description": "d",
        "created_at": "1970-01-01T00:00:01.005Z", "type": "captain_assistant"});
    assert_eq!(written(Kind::CaptainAssistant(assistant)), (both.clone(), json!("Captain::Assistant"), both));

    let nobody = message(|m| (m.sender, m.sender_type, m.sender_id) = (None, Some("User".into()), Some(8)));
    let inner = &nobody["conversation"]["messages"][0];
    assert_eq!(
        (&nobody["sender"], &inner["sender_type"], &inner["sender_id"]),
        (&Value::Null, &json!("User"), &json!(8))
    );
    assert!(inner.get("sender").is_none(), "{inner}");
}

#[test]
fn other_forms_have_no_assistants() {
    let event = event(EventType::MessageCreated, |payload| {
        let Payload::MessageCreated(created) = payload else { unreachable!() };
        let assistant = v1::CaptainAssistant { id: 4, ..v1::CaptainAssistant::default() };
        created.message.as_mut().unwrap().sender = sent_by(Kind::CaptainAssistant(assistant));
    });
    for format in [Documented, Sample] {
        let body: Value = serde_json::from_slice(&render::render(&event, format)).unwrap();
        assert_eq!(body["sender"], Value::Null);
    }
}

#[test]
fn an_attachment_has_the_keys_of_its_kind() {
    let text = |file_type: &str, extra: &[&str]| {
        let extra = extra.iter().map(|key| ((*key).to_owned(), prost_types::Value::from(0.5))).collect();
        let attachment = v1::Attachment {
            id: 8,
            file_type: file_type.into(),
            data_url: "https://a.example/b".into(),
            extra: Some(prost_types::Struct { fields: extra }),
            ..v1::Attachment::default()
        };
        let event = event(EventType::MessageUpdated, |payload| {
            let Payload::MessageUpdated(updated) = payload else { unreachable!() };
            updated.message.as_mut().unwrap().attachments = vec![attachment];
        });
        let body = String::from_utf8(render::render(&event, Chatwoot)).unwrap();
        let (_, at_the_top) = body.rsplit_once(r#""attachments":[{"#).unwrap();
        at_the_top.split_once("}]").unwrap().0.to_owned()
    };
    let base =
        |kind: &str| format!(r#""id":8,"message_id":0,"file_type":"{kind}","account_id":0,"meta":{{}}"#);
    let file = r#""extension":null,"data_url":"https://a.example/b","thumb_url":"","file_size":0,"width":null,"height":null"#;
    assert_eq!(text("image", &[]), format!("{},{file}", base("image")));
    assert_eq!(
        text("audio", &["transcribed_text"]),
        format!(r#"{},{file},"transcribed_text":0.5"#, base("audio"))
    );
    assert_eq!(
        text("location", &["coordinates_lat", "coordinates_long", "fallback_title"]),
        format!(
            r#"{},"coordinates_lat":0.5,"coordinates_long":0.5,"fallback_title":0.5,"data_url":"https://a.example/b""#,
            base("location")
        )
    );
    assert_eq!(
        text("fallback", &["fallback_title"]),
        format!(r#"{},"fallback_title":0.5,"data_url":"https://a.example/b""#, base("fallback"))
    );
    assert_eq!(text("contact", &["fallback_title"]), format!(r#"{},"fallback_title":0.5"#, base("contact")));
}

#[test]
fn a_website_has_a_referer_or_null() {
    let attributes = |change: fn(&mut v1::ConversationAttributes)| {
        let body = conversation(|c| change(c.additional_attributes.as_mut().unwrap()));
        body["additional_attributes"].as_object().unwrap().get("referer").cloned()
    };
    assert_eq!(attributes(|_| ()), Some(json!("http://www.chatwoot.com")));
    assert_eq!(attributes(|a| a.referer.clear()), Some(Value::Null));
    assert_eq!(attributes(|a| (a.referer, a.browser) = (String::new(), None)), None);
}

#[test]
fn settings_of_an_inbox_come_in_the_order_of_chatwoot() {
    let event = event(EventType::InboxCreated, |_| ());
    let body = String::from_utf8(render::render(&event, Chatwoot)).unwrap();
    let keys = [
        "enable_auto_assignment",
        "greeting_enabled",
        "timezone",
        "working_hours_enabled",
        "working_hours\"",
        "event",
    ];
    let positions = keys.map(|key| body.find(&format!("\"{key}")).unwrap());
    assert!(positions.is_sorted(), "{positions:?} {body}");
}
