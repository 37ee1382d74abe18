//! Events that EventService refuses to publish.

use super::call::*;
use crate::support::in_process::*;
use prost_types::{Struct, Timestamp, Value, value::Kind};
use tidings::{
    event::samples,
    proto::v1::{self, EventType, event::Payload},
};
use tonic::Code::AlreadyExists;

pub fn events() -> Vec<Line> {
    let other_account = |r: &mut v1::PublishEventRequest| r.parent = "accounts/2".into();
    let large = |m: &mut v1::Message| m.content = Some("x".repeat(1024 * 1024));
    let widget = |spoil: fn(&mut v1::WebwidgetTriggered)| {
        let mut event = samples::sample(EventType::WebwidgetTriggered, account());
        let Some(Payload::WebwidgetTriggered(payload)) = &mut event.payload else { panic!("it is one") };
        spoil(payload);
        of_event(event)
    };
    vec![
        required_of("an event without a parent", |r| r.parent.clear(), "parent"),
        invalid_of("an event of all accounts", |r| r.parent = "accounts/-".into(), "parent"),
        required_of("no event", |r| r.event = None, "event"),
        required(
            "no event and no parent",
            Call::Publish(v1::PublishEventRequest::default()),
            &["parent", "event"],
        ),
        required("an event without a payload", of_event(v1::Event::default()), &["event.payload"]),
        invalid_of("an event id with a slash", |r| r.event_id = "a/b".into(), "event_id"),
        invalid_of("an event id of 129 characters", |r| r.event_id = "x".repeat(129), "event_id"),
        line(
            "an event id of another event",
            published(|r| (r.event_id, r.event) = ("taken".into(), Some(message(8).into()))),
            AlreadyExists,
            "EVENT_EXISTS",
            &["event_id"],
        ),
        mismatch(
            "an event of another account",
            published(other_account),
            &[
                "event.message_created.message.sender.contact.account.id",
                "event.message_created.message.account.id",
                "event.message_created.message.conversation.account_id",
                "event.message_created.message.conversation.meta.sender.account.id",
            ],
        ),
        required(
            "a payload without its record",
            of_event(v1::Event {
                payload: Some(Payload::MessageCreated(v1::MessageCreated { message: None })),
                ..Default::default()
            }),
            &["event.message_created.message"],
        ),
        required_in("a message without an id", |m| m.id = 0, "id"),
        invalid_in("a message with a negative id", |m| m.id = -1, "id"),
        required_in("a message of no type", |m| m.message_type = 0, "message_type"),
        invalid_in("a message of an unknown type", |m| m.message_type = 9, "message_type"),
        required_in("a sender of no kind", |m| m.sender = Some(v1::Sender { kind: None }), "sender.kind"),
        invalid_in(
            "an infinite number",
            |m| m.content_attributes = object(f64::INFINITY),
            "content_attributes.k",
        ),
        invalid_in("U+0000 in a text", |m| m.content = Some("a\0".into()), "content"),
        required("JSON as it is without JSON", other(""), &["event.other.json"]),
        invalid("JSON as it is that is none", other("{"), &["event.other.json"]),
        invalid("JSON as it is that is no object", other("[]"), &["event.other.json"]),
        invalid("U+0000 in JSON as it is", other(r#"{"a":"\u0000"}"#), &["event.other.json"]),
        invalid(
            "JSON as it is with another name",
            of_other(v1::OtherEvent { name: "a".into(), json: br#"{"event":"b"}"#.into(), reasons: vec![] }),
            &["event.other.name"],
        ),
        mismatch(
            "JSON as it is of another account",
            other(r#"{"account":{"id":2}}"#),
            &["event.other.json.account.id"],
        ),
        invalid_in("no number", |m| m.sentiment = object(f64::NAN), "sentiment.k"),
        invalid_in(
            "a time past the year 9999",
            |m| m.created_at = Some(Timestamp { seconds: 253_402_300_800, nanos: 0 }),
            "created_at",
        ),
        invalid_in(
            "a time with too many nanos",
            |m| m.created_at = Some(Timestamp { seconds: 0, nanos: 1_000_000_000 }),
            "created_at",
        ),
        invalid(
            "a nesting that is too deep",
            spoilt_message(|m| m.conversation = Some(nested(5))),
            &[
                "event.message_created.message.conversation.messages[0].conversation.messages[0].conversation.messages[0].conversation.messages[0]",
            ],
        ),
        invalid_in(
            "a documented key among the extra ones",
            |m| {
                let conversation = m.conversation.get_or_insert_default();
                let attributes = conversation.additional_attributes.get_or_insert_default();
                attributes.extra = Some(Struct { fields: [("referer".to_owned(), Value::from("x"))].into() });
            },
            "conversation.additional_attributes.extra.referer",
        ),
        invalid("an event of more than the bound", spoilt_message(large), &["event"]),
        required(
            "a widget without its inbox",
            widget(|w| w.inbox = None),
            &["event.webwidget_triggered.inbox"],
        ),
        required(
            "a widget without its contact",
            widget(|w| w.contact = None),
            &["event.webwidget_triggered.contact"],
        ),
        mismatch(
            "a widget of another account",
            widget(|w| w.account = Some(v1::Account { id: 2, ..Default::default() })),
            &["event.webwidget_triggered.account.id"],
        ),
        required("a batch of none", batch("", Vec::clear), &["requests"]),
        invalid("a batch of 1001", batch("", |r| *r = vec![publish(""); 1001]), &["requests"]),
        invalid("a batch of a bad parent", batch("accounts/x", |_| ()), &["parent"]),
        mismatch(
            "a request of another parent than its batch",
            batch("accounts/2", |r| r.truncate(1)),
            &["requests[0].parent"],
        ),
        required("a request without any parent", batch("", |r| r[1].parent.clear()), &["requests[1].parent"]),
        required("a bad event in a batch", batch("", |r| r[2].event = None), &["requests[2].event"]),
        invalid(
            "two bad events in a batch",
            batch("", |r| (r[0].event, r[2].event_id) = (None, "?".into())),
            &["requests[0].event", "requests[2].event_id"],
        ),
        invalid(
            "an id for two events of a batch",
            batch("", |r| (r[2].event_id, r[2].event) = ("b0".into(), Some(message(8).into()))),
            &["requests[2].event_id"],
        ),
        line(
            "a stored id for another event in a batch",
            batch("", |r| (r[1].event_id, r[1].event) = ("taken".into(), Some(message(8).into()))),
            AlreadyExists,
            "EVENT_EXISTS",
            &["requests[1].event_id"],
        ),
        invalid(
            "a batch that is to be checked in part",
            batch("", |r| r[1].validate_only = true),
            &["requests[1].validate_only"],
        ),
        required("no event to get", Call::GetEvent(""), &["name"]),
        invalid("an event name of another form", Call::GetEvent("events/e"), &["name"]),
        missing("an event that is not there", Call::GetEvent("accounts/1/events/none"), "EVENT_NOT_FOUND"),
        missing(
            "an event of another account to get",
            Call::GetEvent("accounts/2/events/taken"),
            "EVENT_NOT_FOUND",
        ),
    ]
}

fn published(change: impl FnOnce(&mut v1::PublishEventRequest)) -> Call {
    let mut request = publish("new");
    change(&mut request);
    Call::Publish(request)
}

/// The publication of a valid message after a change by `spoil`.
fn spoilt_message(spoil: impl FnOnce(&mut v1::Message)) -> Call {
    published(|request| {
        let payload = request.event.as_mut().and_then(|event| event.payload.as_mut());
        let Some(Payload::MessageCreated(payload)) = payload else { panic!("it is a message") };
        spoil(payload.message.as_mut().expect("it is set"));
    })
}

fn required_in(what: &'static str, spoil: impl FnOnce(&mut v1::Message), field: &str) -> Line {
    required(what, spoilt_message(spoil), &[&format!("event.message_created.message.{field}")])
}

fn invalid_in(what: &'static str, spoil: impl FnOnce(&mut v1::Message), field: &str) -> Line {
    invalid(what, spoilt_message(spoil), &[&format!("event.message_created.message.{field}")])
}

fn required_of(what: &'static str, change: impl FnOnce(&mut v1::PublishEventRequest), field: &str) -> Line {
    required(what, published(change), &[field])
}

fn invalid_of(what: &'static str, change: impl FnOnce(&mut v1::PublishEventRequest), field: &str) -> Line {
    invalid(what, published(change), &[field])
}

fn of_event(event: v1::Event) -> Call {
    published(|request| request.event = Some(event.into()))
}

fn batch(parent: &str, change: impl FnOnce(&mut Vec<v1::PublishEventRequest>)) -> Call {
    let mut requests = vec![publish("b0"), publish("b1"), publish("b2")];
    change(&mut requests);
    Call::Batch(v1::BatchPublishEventsRequest { parent: parent.into(), requests })
}

fn nested(depth: i64) -> v1::Conversation {
    let mut conversation = v1::Conversation { id: 1, ..Default::default() };
    for id in 2..=depth {
        let message_type = v1::MessageType::Incoming.into();
        let within =
            v1::Message { id: 1, message_type, conversation: Some(conversation), ..Default::default() };
        conversation = v1::Conversation { id, messages: vec![within], ..Default::default() };
    }
    conversation
}

fn object(number: f64) -> Option<Struct> {
    let value = Value { kind: Some(Kind::NumberValue(number)) };
    Some(Struct { fields: [("k".to_owned(), value)].into() })
}

fn other(json: &str) -> Call {
    of_other(v1::OtherEvent { json: json.into(), ..Default::default() })
}

fn of_other(other: v1::OtherEvent) -> Call {
    of_event(v1::Event { payload: Some(Payload::Other(other)), ..Default::default() })
}
