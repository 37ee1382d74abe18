//! The rules for free values, as a table.

use prost::Message as _;
use prost_types::ListValue;

use super::*;
use crate::event::validate::path::KEY_CHARS_SHOWN;

/// `inner` within `levels` objects.
fn nested(levels: usize, inner: Value) -> Value {
    (0..levels)
        .fold(inner, |inner, _| Value { kind: Some(Kind::StructValue(object([("k", inner)]).unwrap())) })
}

fn list(values: Vec<Value>) -> Value {
    Value { kind: Some(Kind::ListValue(ListValue { values })) }
}

#[test]
fn numbers_of_free_values_are_finite() {
    let nan = || Value::from(f64::NAN);
    expect_message(|m| m.content_attributes = object([("a", nan())]), &[("content_attributes.a", Invalid)]);
    expect_message(
        |m| m.content_attributes = object([("a", list(vec![1.0.into(), nested(1, f64::INFINITY.into())]))]),
        &[("content_attributes.a[1].k", Invalid)],
    );
    let all = |m: &mut v1::Message| {
        m.additional_attributes = object([("x", nan())]);
        m.external_source_ids = object([("x", nan())]);
        m.sentiment = object([("x", nan())]);
        m.attachments = vec![v1::Attachment { meta: object([("x", nan())]), ..v1::Attachment::default() }];
        let conversation = m.conversation.as_mut().unwrap();
        conversation.custom_attributes = object([("x", nan())]);
        let contact = conversation.meta.as_mut().unwrap().sender.as_mut().unwrap();
        contact.additional_attributes = object([("x", nan())]);
        contact.custom_attributes = object([("x", nan())]);
    };
    expect_message(
        all,
        &[
            ("additional_attributes.x", Invalid),
            ("external_source_ids.x", Invalid),
            ("sentiment.x", Invalid),
            ("attachments[0].meta.x", Invalid),
            ("conversation.custom_attributes.x", Invalid),
            ("conversation.meta.sender.additional_attributes.x", Invalid),
            ("conversation.meta.sender.custom_attributes.x", Invalid),
        ],
    );
    expect(
        EventType::ConversationStatusChanged,
        |payload| {
            let Payload::ConversationStatusChanged(e) = payload else { unreachable!() };
            e.changed_attributes[0].current_value = Some(f64::NEG_INFINITY.into());
            e.changed_attributes[0].previous_value = Some(list(vec![f64::NAN.into()]));
        },
        &[
            ("event.conversation_status_changed.changed_attributes[0].current_value", Invalid),
            ("event.conversation_status_changed.changed_attributes[0].previous_value[0]", Invalid),
        ],
    );
}

#[test]
fn free_keys_must_not_be_names_of_fields() {
    let extra = |c: &mut v1::Conversation| {
        let attributes = c.additional_attributes.as_mut().unwrap();
        attributes.extra =
            object([("browser", "x".into()), ("mail_subject", "x".into()), ("referer", "x".into())]);
    };
    expect_conversation(
        extra,
        &[("additional_attributes.extra.browser", Invalid), ("additional_attributes.extra.referer", Invalid)],
    );
    let extra = object([("data_url", "x".into()), ("fallback_title", "x".into())]);
    expect_message(
        |m| m.attachments = vec![v1::Attachment { extra, ..v1::Attachment::default() }],
        &[("attachments[0].extra.data_url", Invalid)],
    );
    expect(
        EventType::InboxCreated,
        |payload| {
            let Payload::InboxCreated(e) = payload else { unreachable!() };
            e.settings = object(
                ["changed_attributes", "event", "id", "name", "timezone"].map(|key| (key, "x".into())),
            );
        },
        &[
            ("event.inbox_created.settings.changed_attributes", Invalid),
            ("event.inbox_created.settings.event", Invalid),
            ("event.inbox_created.settings.id", Invalid),
            ("event.inbox_created.settings.name", Invalid),
        ],
    );
}

#[test]
fn free_values_nest_to_a_bound() {
    let within =
        |levels| move |m: &mut v1::Message| m.sentiment = object([("k", nested(levels - 1, 1.0.into()))]);
    expect_message(within(VALUE_NESTING_MAX), &[]);
    let path = format!("sentiment{}", ".k".repeat(VALUE_NESTING_MAX));
    expect_message(within(VALUE_NESTING_MAX + 1), &[(&path, Invalid)]);
}

#[test]
fn the_deepest_event_that_is_allowed_passes_the_codec_in_a_batch() {
    let mut deepest = nested_message(NESTING_MAX);
    let mut record = &mut deepest;
    while !record.conversation.as_ref().unwrap().messages.is_empty() {
        record = &mut record.conversation.as_mut().unwrap().messages[0];
    }
    let values = object([("k", nested(VALUE_NESTING_MAX - 1, 1.0.into()))]);
    record.conversation.as_mut().unwrap().custom_attributes = values;
    let event = message_event(|message| *message = deepest);
    assert_eq!(violations(event.clone()), []);

    let request = v1::PublishEventRequest { event: Some(event.into()), ..v1::PublishEventRequest::default() };
    let batch =
        v1::BatchPublishEventsRequest { requests: vec![request], ..v1::BatchPublishEventsRequest::default() };
    let bytes = batch.encode_to_vec();
    assert_eq!(v1::BatchPublishEventsRequest::decode(bytes.as_slice()).unwrap(), batch);
}

#[test]
fn a_hostile_event_makes_a_bounded_list_of_bounded_paths() {
    let key = "ü".repeat(10_000);
    let list = list(vec![f64::NAN.into(); 5 * FIELD_VIOLATIONS_MAX]);
    let found = violations(message_event(|m| m.sentiment = object([(&key, list)])));
    assert_eq!(found.len(), FIELD_VIOLATIONS_MAX);
    let shown = "ü".repeat(KEY_CHARS_SHOWN);
    assert_eq!(found[99].0, format!("event.message_created.message.sentiment.{shown}...[99]"));
}

#[test]
fn extra_keys_of_small_records_must_not_be_names_of_fields() {
    let name = || object([("name", "x".into()), ("else", "x".into())]);
    let small = |m: &mut v1::Message| {
        m.account.as_mut().unwrap().extra = name();
        m.inbox.as_mut().unwrap().extra = name();
        let conversation = m.conversation.as_mut().unwrap();
        conversation.meta.as_mut().unwrap().team =
            Some(v1::Team { id: 1, extra: name(), ..v1::Team::default() });
        let attributes = conversation.additional_attributes.as_mut().unwrap();
        attributes.browser.as_mut().unwrap().extra = object([("browser_name", "x".into())]);
        attributes.initiated_at.as_mut().unwrap().extra = object([("timestamp", "x".into())]);
    };
    expect_message(
        small,
        &[
            ("account.extra.name", Invalid),
            ("inbox.extra.name", Invalid),
            ("conversation.additional_attributes.browser.extra.browser_name", Invalid),
            ("conversation.additional_attributes.initiated_at.extra.timestamp", Invalid),
            ("conversation.meta.team.extra.name", Invalid),
        ],
    );
    expect(
        EventType::WebwidgetTriggered,
        |payload| {
            let Payload::WebwidgetTriggered(e) = payload else { unreachable!() };
            e.extra = object([("event_info", "x".into())]);
            e.event_info.as_mut().unwrap().browser.as_mut().unwrap().extra =
                object([("device_name", "x".into())]);
        },
        &[
            ("event.webwidget_triggered.event_info.browser.extra.device_name", Invalid),
            ("event.webwidget_triggered.extra.event_info", Invalid),
        ],
    );
    expect(
        EventType::ConversationTypingOn,
        |payload| {
            let Payload::ConversationTypingOn(e) = payload else { unreachable!() };
            e.extra = object([("is_private", "x".into())]);
        },
        &[("event.conversation_typing_on.extra.is_private", Invalid)],
    );
}
