//! The records of the samples, with the values of the documentation.

use prost_types::{Struct, Timestamp, Value};

use crate::{
    domain::ids::AccountId,
    proto::v1::{self, MessageType, sender::Kind},
};

/// 2020-03-03 13:05:57 UTC, the time in the documentation's sample.
const SAMPLE_SECONDS: i64 = 1_583_240_757;

pub(in crate::event) fn message(account: AccountId) -> v1::Message {
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

pub(in crate::event) fn conversation(account: AccountId) -> v1::Conversation {
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

pub(in crate::event) fn webwidget_triggered(account: AccountId) -> v1::WebwidgetTriggered {
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

pub(in crate::event) fn account_of(account: AccountId) -> v1::Account {
    v1::Account { id: account.get(), name: "Chatwoot".into(), extra: None }
}

pub(in crate::event) fn inbox() -> v1::Inbox {
    v1::Inbox { id: 1, name: "Website".into(), extra: None }
}

pub(in crate::event) fn contact(account: AccountId) -> v1::Contact {
    v1::Contact {
        id: 1,
        name: "contact-name".into(),
        account: Some(account_of(account)),
        ..v1::Contact::default()
    }
}

pub(in crate::event) fn user() -> v1::User {
    v1::User { id: 1, name: "Agent".into(), email: "agent@example.com".into(), ..v1::User::default() }
}

pub(in crate::event) fn agent() -> v1::Sender {
    v1::Sender { kind: Some(Kind::User(user())) }
}

pub(in crate::event) fn browser() -> v1::Browser {
    v1::Browser {
        device_name: "Macbook".into(),
        browser_name: "Chrome".into(),
        platform_name: "Macintosh".into(),
        browser_version: "80.0.3987.122".into(),
        platform_version: "10.15.2".into(),
        extra: None,
    }
}

pub(in crate::event) fn initiated_at() -> v1::InitiatedAt {
    v1::InitiatedAt {
        timestamp: "Tue Mar 03 2020 18:37:38 GMT-0700 (Mountain Standard Time)".into(),
        extra: None,
    }
}

/// The working hours of one day. Only they name the inbox of the settings.
pub(in crate::event) fn monday(account: AccountId) -> Value {
    #[expect(clippy::cast_precision_loss, reason = "samples have small account numbers")]
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

pub(in crate::event) fn settings(account: AccountId) -> Struct {
    object([
        ("enable_auto_assignment", Value::from(true)),
        ("greeting_enabled", Value::from(true)),
        ("greeting_message", Value::from("Hi")),
        ("timezone", Value::from("America/Denver")),
        ("working_hours", Value::from(vec![monday(account)])),
        ("working_hours_enabled", Value::from(false)),
    ])
}

pub(in crate::event) fn object<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}

pub(in crate::event) fn change(
    name: &str,
    current: impl Into<Value>,
    previous: impl Into<Value>,
) -> v1::AttributeChange {
    v1::AttributeChange {
        name: name.into(),
        current_value: Some(current.into()),
        previous_value: Some(previous.into()),
    }
}

pub(in crate::event) fn sample_time() -> Timestamp {
    Timestamp { seconds: SAMPLE_SECONDS, nanos: 0 }
}

/// An event that has no type of its own.
pub(in crate::event) fn other(account: AccountId) -> v1::OtherEvent {
    let json = format!(
        r#"{{"account":{{"id":{account},"name":"Chatwoot"}},"id":1,"name":"contact-name","event":"contact_deleted"}}"#
    );
    v1::OtherEvent { name: "contact_deleted".into(), json: json.into(), reasons: Vec::new() }
}
