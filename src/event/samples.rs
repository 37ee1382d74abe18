//! Made-up events: the documentation's own samples, and a message of the size that most are.
//!
//! TestSubscription sends them, `tidings demo` shows them, and the benchmarks count with them. All of them pass the check.

use prost_types::{Struct, Timestamp, Value};

use crate::{
    domain::ids::AccountId,
    proto::v1::{self, EventType, MessageType, event::Payload, sender::Kind},
};

/// 2020-03-03 13:05:57 UTC, the time in the documentation's sample.
const SAMPLE_SECONDS: i64 = 1_583_240_757;

/// A realistic event of a kind, with the values of the documentation's samples. An unspecified kind is taken as
/// `message_created`, the first sample of the documentation.
pub fn sample(event_type: EventType, account: AccountId) -> v1::Event {
    let conversation = Some(conversation(account));
    let payload = match event_type {
        EventType::ConversationCreated => {
            Payload::ConversationCreated(v1::ConversationCreated { conversation })
        }
        EventType::ConversationUpdated => Payload::ConversationUpdated(v1::ConversationUpdated {
            conversation,
            changed_attributes: vec![change("assignee_id", 1.0, Value { kind: None })],
        }),
        EventType::ConversationStatusChanged => {
            Payload::ConversationStatusChanged(v1::ConversationStatusChanged {
                conversation,
                changed_attributes: vec![change("status", "open", "pending")],
            })
        }
        EventType::MessageCreated | EventType::Unspecified => {
            Payload::MessageCreated(v1::MessageCreated { message: Some(message(account)) })
        }
        EventType::MessageUpdated => Payload::MessageUpdated(v1::MessageUpdated {
            message: Some(message(account)),
            changed_attributes: Vec::new(),
        }),
        EventType::WebwidgetTriggered => Payload::WebwidgetTriggered(webwidget_triggered(account)),
        EventType::ContactCreated => {
            Payload::ContactCreated(v1::ContactCreated { contact: Some(contact(account)) })
        }
        EventType::ContactUpdated => Payload::ContactUpdated(v1::ContactUpdated {
            contact: Some(contact(account)),
            changed_attributes: vec![change("name", "contact-name", "polished-moon-404")],
        }),
        EventType::InboxCreated => Payload::InboxCreated(v1::InboxCreated {
            inbox: Some(inbox()),
            settings: Some(settings(account)),
        }),
        EventType::InboxUpdated => Payload::InboxUpdated(v1::InboxUpdated {
            inbox: Some(inbox()),
            settings: Some(settings(account)),
            changed_attributes: vec![change("greeting_enabled", true, false)],
        }),
        EventType::ConversationTypingOn => Payload::ConversationTypingOn(v1::ConversationTypingOn {
            user: Some(agent()),
            conversation,
            is_private: false,
            extra: None,
        }),
        EventType::ConversationTypingOff => Payload::ConversationTypingOff(v1::ConversationTypingOff {
            user: Some(agent()),
            conversation,
            is_private: false,
            extra: None,
        }),
    };
    v1::Event { payload: Some(payload), ..v1::Event::default() }
}

/// A message of the size that most are: about 0.9 KB as protobuf and 1.6 KB as documented JSON. `number` tells the messages
/// of a conversation apart; both must be positive.
pub fn typical_message(account: AccountId, conversation: i64, number: i64) -> v1::Event {
    let contact = v1::Contact {
        id: 52_014,
        name: "Margarete Schneider-Lindqvist".into(),
        avatar: "https://chat.example.com/avatars/52014.png".into(),
        account: Some(account_of(account)),
        phone_number: Some("+4915170000000".into()),
        identifier: Some("customer-100-2289".into()),
        ..v1::Contact::default()
    };
    let conversation = v1::Conversation {
        id: conversation,
        labels: vec!["shipping".into()],
        last_activity_at: Some(sample_time()),
        created_at: Some(sample_time()),
        updated_at: Some(sample_time()),
        meta: Some(v1::ConversationMeta {
            sender: Some(contact.clone()),
            assignee: Some(user()),
            ..v1::ConversationMeta::default()
        }),
        ..self::conversation(account)
    };
    let content = "Good morning, my order 100-2289 was to arrive on Friday, and the tracking page still says \
                   \"label created\". Could you have a look at where it is?";
    let message = v1::Message {
        id: number,
        content: Some(content.into()),
        message_type: MessageType::Incoming.into(),
        source_id: Some("wamid.HBgNNDkxNTE3MDAwMDAwMBUCABIYFjNFQjBDMEY5".into()),
        content_attributes: Some(object([("in_reply_to", Value::from(881_201.0))])),
        sender: Some(v1::Sender { kind: Some(Kind::Contact(contact)) }),
        conversation: Some(conversation),
        ..message(account)
    };
    let payload = Payload::MessageCreated(v1::MessageCreated { message: Some(message) });
    v1::Event { payload: Some(payload), ..v1::Event::default() }
}

fn message(account: AccountId) -> v1::Message {
    v1::Message {
        id: 1,
        content: Some("Hi".into()),
        message_type: MessageType::Outgoing.into(),
        created_at: Some(sample_time()),
        content_type: "text".into(),
        sender: Some(agent()),
        account: Some(account_of(account)),
        conversation: Some(conversation(account)),
        inbox: Some(inbox()),
        ..v1::Message::default()
    }
}

fn conversation(account: AccountId) -> v1::Conversation {
    v1::Conversation {
        additional_attributes: Some(v1::ConversationAttributes {
            browser: Some(browser()),
            referer: "http://www.chatwoot.com".into(),
            initiated_at: Some(initiated_at()),
            extra: None,
        }),
        can_reply: true,
        channel: "Channel::WebWidget".into(),
        id: 1,
        inbox_id: 1,
        contact_inbox: Some(v1::ContactInbox {
            id: 1,
            contact_id: 1,
            inbox_id: 1,
            source_id: "c7bfe6c9-9c1f-4b27-a8fd-3f6a4c5d2e10".into(),
            created_at: Some(sample_time()),
            updated_at: Some(sample_time()),
            ..v1::ContactInbox::default()
        }),
        meta: Some(v1::ConversationMeta {
            sender: Some(contact(account)),
            assignee: Some(user()),
            ..v1::ConversationMeta::default()
        }),
        status: "open".into(),
        unread_count: 1,
        agent_last_seen_at: Some(sample_time()),
        contact_last_seen_at: Some(sample_time()),
        timestamp: Some(sample_time()),
        account_id: account.get(),
        ..v1::Conversation::default()
    }
}

fn webwidget_triggered(account: AccountId) -> v1::WebwidgetTriggered {
    v1::WebwidgetTriggered {
        id: 1,
        contact: Some(contact(account)),
        inbox: Some(inbox()),
        account: Some(account_of(account)),
        current_conversation: None,
        source_id: "c7bfe6c9-9c1f-4b27-a8fd-3f6a4c5d2e10".into(),
        event_info: Some(v1::WidgetEventInfo {
            initiated_at: Some(initiated_at()),
            referer: "http://www.chatwoot.com".into(),
            widget_language: "en".into(),
            browser_language: "en".into(),
            browser: Some(browser()),
            extra: None,
        }),
        extra: None,
    }
}

fn account_of(account: AccountId) -> v1::Account {
    v1::Account { id: account.get(), name: "Chatwoot".into(), extra: None }
}

fn inbox() -> v1::Inbox {
    v1::Inbox { id: 1, name: "Website".into(), extra: None }
}

fn contact(account: AccountId) -> v1::Contact {
    v1::Contact {
        id: 1,
        name: "contact-name".into(),
        account: Some(account_of(account)),
        ..v1::Contact::default()
    }
}

fn user() -> v1::User {
    v1::User { id: 1, name: "Agent".into(), email: "agent@example.com".into(), ..v1::User::default() }
}

fn agent() -> v1::Sender {
    v1::Sender { kind: Some(Kind::User(user())) }
}

fn browser() -> v1::Browser {
    v1::Browser {
        device_name: "Macbook".into(),
        browser_name: "Chrome".into(),
        platform_name: "Macintosh".into(),
        browser_version: "80.0.3987.122".into(),
        platform_version: "10.15.2".into(),
        extra: None,
    }
}

fn initiated_at() -> v1::InitiatedAt {
    v1::InitiatedAt {
        timestamp: "Tue Mar 03 2020 18:37:38 GMT-0700 (Mountain Standard Time)".into(),
        extra: None,
    }
}

/// One of the days whose hours an inbox has. Nothing else in its settings tells which inbox they are of.
fn monday(account: AccountId) -> Value {
    #[expect(
        clippy::cast_precision_loss,
        reason = "accounts of samples have small numbers, and no one else reads it"
    )]
    let account = account.get() as f64;
    let day = object([
        ("id", Value::from(1.0)),
        ("inbox_id", Value::from(1.0)),
        ("account_id", Value::from(account)),
        ("day_of_week", Value::from(1.0)),
        ("closed_all_day", Value::from(false)),
        ("open_hour", Value::from(9.0)),
        ("open_minutes", Value::from(0.0)),
        ("close_hour", Value::from(17.0)),
        ("close_minutes", Value::from(0.0)),
        ("created_at", Value::from("2020-03-03T13:05:57.000Z")),
        ("updated_at", Value::from("2020-03-03T13:05:57.000Z")),
        ("open_all_day", Value::from(false)),
    ]);
    Value { kind: Some(prost_types::value::Kind::StructValue(day)) }
}

fn settings(account: AccountId) -> Struct {
    object([
        ("enable_auto_assignment", Value::from(true)),
        ("greeting_enabled", Value::from(true)),
        ("greeting_message", Value::from("Hi")),
        ("timezone", Value::from("America/Denver")),
        ("working_hours", Value::from(vec![monday(account)])),
        ("working_hours_enabled", Value::from(false)),
    ])
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}

fn change(name: &str, current: impl Into<Value>, previous: impl Into<Value>) -> v1::AttributeChange {
    v1::AttributeChange {
        name: name.into(),
        current_value: Some(current.into()),
        previous_value: Some(previous.into()),
    }
}

fn sample_time() -> Timestamp {
    Timestamp { seconds: SAMPLE_SECONDS, nanos: 0 }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{
        domain::payload_format::PayloadFormat,
        event::{self, render},
    };

    #[test]
    fn every_sample_passes_the_check_and_is_of_its_kind() {
        let account = AccountId::new(7).unwrap();
        for number in 1..=12 {
            let kind = EventType::try_from(number).unwrap();
            let mut event = sample(kind, account);
            let facts = event::check(&mut event, account, "event").unwrap();
            assert_eq!(facts.event_type, kind);
            assert_eq!(event, sample(kind, account), "the check had to complete the sample of {kind:?}");
        }
    }

    #[test]
    fn the_typical_message_has_the_size_that_it_claims() {
        let account = AccountId::new(7).unwrap();
        let mut event = typical_message(account, 3, 5);
        event::check(&mut event, account, "event").unwrap();
        let protobuf = event.encoded_len();
        let body = render::render(&event, PayloadFormat::Documented).len();
        assert!((850..=950).contains(&protobuf), "{protobuf} bytes of protobuf, {body} of JSON");
        assert!((1550..=1650).contains(&body), "{protobuf} bytes of protobuf, {body} of JSON");
    }
}
