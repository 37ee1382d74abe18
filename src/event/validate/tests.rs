//! Every rule once, as a table: a change to a valid event, and the violations that it causes.

use prost_types::{Struct, Timestamp, Value, value::Kind};

use super::*;
use crate::{
    domain::field_violation::ViolationKind::{self, AccountMismatch, Invalid, Required},
    event::samples,
    proto::v1::{EventType, MessageType, event::Payload, sender},
};

mod values;

const ACCOUNT: i64 = 7;

fn account() -> AccountId {
    AccountId::new(ACCOUNT).unwrap()
}

fn sample(kind: EventType) -> v1::Event {
    samples::sample(kind, account())
}

/// Path and kind of every violation of `event`.
fn violations(mut event: v1::Event) -> Vec<(String, ViolationKind)> {
    match check(&mut event, account(), "event") {
        Ok(_) => Vec::new(),
        Err(found) => found.iter().map(|violation| (violation.field.clone(), violation.kind)).collect(),
    }
}

/// Asserts that a valid event of `kind`, changed by `change`, has exactly the violations `expected`.
#[track_caller]
fn expect(kind: EventType, change: impl FnOnce(&mut Payload), expected: &[(&str, ViolationKind)]) {
    let mut event = sample(kind);
    change(event.payload.as_mut().unwrap());
    let found = violations(event);
    assert_eq!(below("", &found), expected);
}

/// A message event whose message was changed.
fn message_event(change: impl FnOnce(&mut v1::Message)) -> v1::Event {
    let mut event = sample(EventType::MessageCreated);
    let Some(Payload::MessageCreated(created)) = &mut event.payload else { unreachable!() };
    change(created.message.as_mut().unwrap());
    event
}

/// As [`expect`], for the message of a `message_created`; paths are from the message.
#[track_caller]
fn expect_message(change: impl FnOnce(&mut v1::Message), expected: &[(&str, ViolationKind)]) {
    let found = violations(message_event(change));
    assert_eq!(below("event.message_created.message.", &found), expected);
}

/// As [`expect_message`], for the conversation of that message; paths are from the conversation.
#[track_caller]
fn expect_conversation(change: impl FnOnce(&mut v1::Conversation), expected: &[(&str, ViolationKind)]) {
    let found = violations(message_event(|message| change(message.conversation.as_mut().unwrap())));
    assert_eq!(below("event.message_created.message.conversation.", &found), expected);
}

/// The violations with their paths from `prefix` on.
fn below<'a>(prefix: &str, found: &'a [(String, ViolationKind)]) -> Vec<(&'a str, ViolationKind)> {
    found.iter().map(|(path, kind)| (path.strip_prefix(prefix).unwrap(), *kind)).collect()
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Option<Struct> {
    Some(Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() })
}

fn other_account() -> Option<v1::Account> {
    Some(v1::Account { id: ACCOUNT + 1, ..v1::Account::default() })
}

fn time(seconds: i64, nanos: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos })
}

/// Nested messages and conversations, `records` of them.
fn nested_message(records: usize) -> v1::Message {
    let mut message = v1::Message { id: 1, message_type: 1, ..v1::Message::default() };
    if records > 1 {
        let messages = if records > 2 { vec![nested_message(records - 2)] } else { Vec::new() };
        message.conversation = Some(v1::Conversation { id: 1, messages, ..v1::Conversation::default() });
    }
    message
}

#[test]
fn a_payload_and_its_records_are_required() {
    assert_eq!(violations(v1::Event::default()), [("event.payload".to_owned(), Required)]);

    let empty = |payload| violations(v1::Event { payload: Some(payload), ..v1::Event::default() });
    let table = [
        (
            Payload::ConversationCreated(v1::ConversationCreated::default()),
            vec!["conversation_created.conversation"],
        ),
        (
            Payload::ConversationUpdated(v1::ConversationUpdated::default()),
            vec!["conversation_updated.conversation"],
        ),
        (
            Payload::ConversationStatusChanged(v1::ConversationStatusChanged::default()),
            vec!["conversation_status_changed.conversation"],
        ),
        (Payload::MessageCreated(v1::MessageCreated::default()), vec!["message_created.message"]),
        (Payload::MessageUpdated(v1::MessageUpdated::default()), vec!["message_updated.message"]),
        (
            Payload::WebwidgetTriggered(v1::WebwidgetTriggered::default()),
            vec!["webwidget_triggered.contact", "webwidget_triggered.inbox", "webwidget_triggered.account"],
        ),
        (Payload::ContactCreated(v1::ContactCreated::default()), vec!["contact_created.contact"]),
        (Payload::ContactUpdated(v1::ContactUpdated::default()), vec!["contact_updated.contact"]),
        (
            Payload::ConversationTypingOn(v1::ConversationTypingOn::default()),
            vec!["conversation_typing_on.user", "conversation_typing_on.conversation"],
        ),
        (
            Payload::ConversationTypingOff(v1::ConversationTypingOff::default()),
            vec!["conversation_typing_off.user", "conversation_typing_off.conversation"],
        ),
    ];
    for (payload, paths) in table {
        let expected: Vec<_> = paths.iter().map(|path| (format!("event.{path}"), Required)).collect();
        assert_eq!(empty(payload), expected);
    }
}

#[test]
fn every_violation_is_found_and_its_path_begins_with_that_of_the_event() {
    let mut event = message_event(|message| {
        message.id = 0;
        message.conversation.as_mut().unwrap().meta.as_mut().unwrap().sender.as_mut().unwrap().id = -1;
    });
    let violations = check(&mut event, account(), "requests[3].event").unwrap_err();
    let found: Vec<_> =
        violations.iter().map(|f| (f.field.as_str(), f.kind, f.description.as_str())).collect();
    assert_eq!(
        found,
        [
            ("requests[3].event.message_created.message.id", Required, "is required"),
            (
                "requests[3].event.message_created.message.conversation.meta.sender.id",
                Invalid,
                "must be positive"
            ),
        ]
    );
}

#[test]
fn ids_of_records_are_required_and_positive() {
    expect_message(|m| m.id = -5, &[("id", Invalid)]);
    expect_message(|m| m.inbox = Some(v1::Inbox::default()), &[("inbox.id", Required)]);
    expect_message(|m| m.account = Some(v1::Account::default()), &[("account.id", Required)]);
    expect_message(
        |m| m.account = Some(v1::Account { id: -1, ..v1::Account::default() }),
        &[("account.id", Invalid)],
    );
    expect_conversation(|c| c.id = 0, &[("id", Required)]);
    let meta = v1::ConversationMeta {
        sender: Some(v1::Contact::default()),
        assignee: Some(v1::User::default()),
        team: Some(v1::Team::default()),
        ..v1::ConversationMeta::default()
    };
    expect_conversation(
        |c| c.meta = Some(meta),
        &[("meta.sender.id", Required), ("meta.assignee.id", Required), ("meta.team.id", Required)],
    );
}

#[test]
fn a_sender_has_a_kind() {
    let sent_by = |kind| move |m: &mut v1::Message| m.sender = Some(v1::Sender { kind });
    expect_message(sent_by(None), &[("sender.kind", Required)]);
    let contact = sender::Kind::Contact(v1::Contact::default());
    expect_message(sent_by(Some(contact)), &[("sender.contact.id", Required)]);
    let user = sender::Kind::User(v1::User::default());
    expect_message(sent_by(Some(user)), &[("sender.user.id", Required)]);
    let bot = sender::Kind::AgentBot(v1::AgentBot::default());
    expect_message(sent_by(Some(bot)), &[("sender.agent_bot.id", Required)]);
    expect_message(|m| m.sender = None, &[]);
    expect(
        EventType::ConversationTypingOff,
        |payload| {
            let Payload::ConversationTypingOff(e) = payload else { unreachable!() };
            e.user = Some(v1::Sender { kind: None });
        },
        &[("event.conversation_typing_off.user.kind", Required)],
    );
}

#[test]
fn a_message_type_may_be_unset_for_templates_only() {
    for content_type in ["input_select", "cards", "form"] {
        let template = |m: &mut v1::Message| {
            m.message_type = 0;
            m.content_type = content_type.into();
        };
        expect_message(template, &[]);
    }
    for content_type in ["", "text", "article"] {
        let other = |m: &mut v1::Message| {
            m.message_type = 0;
            m.content_type = content_type.into();
        };
        expect_message(other, &[("message_type", Required)]);
    }
    expect_message(|m| m.message_type = MessageType::Activity.into(), &[]);
    expect_message(|m| m.message_type = 5, &[("message_type", Invalid)]);
    expect_message(|m| m.message_type = -1, &[("message_type", Invalid)]);
}

#[test]
fn every_account_is_the_one_that_is_published_to() {
    expect_message(|m| m.account = other_account(), &[("account.id", AccountMismatch)]);
    expect_conversation(|c| c.account_id = 8, &[("account_id", AccountMismatch)]);
    expect_conversation(|c| c.account_id = -7, &[("account_id", AccountMismatch)]);
    expect_conversation(|c| c.account = other_account(), &[("account.id", AccountMismatch)]);
    expect_conversation(
        |c| c.meta.as_mut().unwrap().sender.as_mut().unwrap().account = other_account(),
        &[("meta.sender.account.id", AccountMismatch)],
    );
    let contact = v1::Contact { id: 1, account: other_account(), ..v1::Contact::default() };
    expect_message(
        |m| m.sender = Some(v1::Sender { kind: Some(sender::Kind::Contact(contact)) }),
        &[("sender.contact.account.id", AccountMismatch)],
    );
    let attachment = |account_id| v1::Attachment { account_id, ..v1::Attachment::default() };
    expect_message(
        |m| m.attachments = vec![attachment(0), attachment(ACCOUNT), attachment(8)],
        &[("attachments[2].account_id", AccountMismatch)],
    );
    expect_conversation(
        |c| c.messages = vec![v1::Message { account: other_account(), ..nested_message(1) }],
        &[("messages[0].account.id", AccountMismatch)],
    );
    expect(
        EventType::WebwidgetTriggered,
        |payload| {
            let Payload::WebwidgetTriggered(e) = payload else { unreachable!() };
            e.account = other_account();
            e.contact.as_mut().unwrap().account = other_account();
            e.current_conversation =
                Some(v1::Conversation { id: 1, account_id: 8, ..v1::Conversation::default() });
        },
        &[
            ("event.webwidget_triggered.contact.account.id", AccountMismatch),
            ("event.webwidget_triggered.account.id", AccountMismatch),
            ("event.webwidget_triggered.current_conversation.account_id", AccountMismatch),
        ],
    );
}

#[test]
fn times_have_a_text() {
    expect_message(|m| m.created_at = time(i64::MAX, 0), &[("created_at", Invalid)]);
    expect_message(|m| m.updated_at = time(0, 1_000_000_000), &[("updated_at", Invalid)]);
    expect_message(|m| m.created_at = time(-62_135_596_800, 999_999_999), &[]);
    let all = |c: &mut v1::Conversation| {
        let bad = time(0, -1);
        c.agent_last_seen_at = bad;
        c.contact_last_seen_at = bad;
        c.timestamp = bad;
        c.snoozed_until = bad;
        c.first_reply_created_at = bad;
        c.waiting_since = bad;
        c.last_activity_at = bad;
        c.created_at = bad;
        c.updated_at = bad;
        c.contact_inbox =
            Some(v1::ContactInbox { created_at: bad, updated_at: bad, ..v1::ContactInbox::default() });
    };
    expect_conversation(
        all,
        &[
            ("contact_inbox.created_at", Invalid),
            ("contact_inbox.updated_at", Invalid),
            ("agent_last_seen_at", Invalid),
            ("contact_last_seen_at", Invalid),
            ("timestamp", Invalid),
            ("snoozed_until", Invalid),
            ("first_reply_created_at", Invalid),
            ("waiting_since", Invalid),
            ("last_activity_at", Invalid),
            ("created_at", Invalid),
            ("updated_at", Invalid),
        ],
    );
    let occurred = v1::Event { occur_time: time(253_402_300_800, 0), ..sample(EventType::ContactCreated) };
    assert_eq!(violations(occurred), [("event.occur_time".to_owned(), Invalid)]);
}

#[test]
fn a_changed_attribute_has_a_name() {
    expect(
        EventType::ContactUpdated,
        |payload| {
            let Payload::ContactUpdated(e) = payload else { unreachable!() };
            e.changed_attributes.push(v1::AttributeChange::default());
        },
        &[("event.contact_updated.changed_attributes[1].name", Required)],
    );
}

#[test]
fn a_conversation_has_one_assignee_at_most() {
    expect_conversation(
        |c| {
            let bot = v1::AgentBot { id: 1, ..v1::AgentBot::default() };
            c.meta.as_mut().unwrap().assignee_agent_bot = Some(bot);
        },
        &[("meta.assignee_agent_bot", Invalid)],
    );
}

#[test]
fn records_nest_to_a_bound() {
    expect_message(|m| *m = nested_message(NESTING_MAX), &[]);
    expect_message(
        |m| *m = nested_message(NESTING_MAX + 1),
        &[(
            "conversation.messages[0].conversation.messages[0].conversation.messages[0].conversation.messages[0]",
            Invalid,
        )],
    );
}

#[test]
fn a_conversation_gets_the_account_at_every_level() {
    let mut event = message_event(|message| *message = nested_message(4));
    check(&mut event, account(), "event").unwrap();
    let Some(Payload::MessageCreated(created)) = &event.payload else { unreachable!() };
    let outer = created.message.as_ref().unwrap().conversation.as_ref().unwrap();
    let inner = outer.messages[0].conversation.as_ref().unwrap();
    assert_eq!((outer.account_id, inner.account_id), (ACCOUNT, ACCOUNT));
}

#[test]
fn output_only_fields_are_cleared() {
    let mut event = v1::Event {
        name: "accounts/9/events/x".into(),
        r#type: 99,
        create_time: time(i64::MAX, -1),
        occur_time: time(5, 0),
        ..sample(EventType::ContactCreated)
    };
    check(&mut event, account(), "event").unwrap();
    assert_eq!(event, v1::Event { occur_time: time(5, 0), ..sample(EventType::ContactCreated) });
}

#[test]
fn the_same_fact_is_not_set_in_two_fields() {
    let sender = Some(v1::Sender {
        kind: Some(sender::Kind::CaptainAssistant(v1::CaptainAssistant {
            created_at: time(0, -1),
            extra: object([("type", "x".into())]),
            ..v1::CaptainAssistant::default()
        })),
    });
    expect_message(
        |m| (m.sender, m.sender_type, m.sender_id) = (sender, Some("User".into()), Some(1)),
        &[
            ("sender.captain_assistant.id", Required),
            ("sender.captain_assistant.created_at", Invalid),
            ("sender.captain_assistant.extra.type", Invalid),
            ("sender_type", Invalid),
            ("sender_id", Invalid),
        ],
    );
    expect_conversation(
        |c| (c.no_messages, c.messages) = (true, vec![nested_message(1)]),
        &[("no_messages", Invalid)],
    );
    expect_message(
        |m| {
            m.conversation_told = Some(v1::MessageConversation {
                last_activity_at: time(0, -1),
                extra: object([("contact_inbox", 1.0.into())]),
                ..v1::MessageConversation::default()
            });
        },
        &[
            ("conversation_told.last_activity_at", Invalid),
            ("conversation_told.extra.contact_inbox", Invalid),
        ],
    );
    expect(
        EventType::MessageUpdated,
        |payload| {
            let Payload::MessageUpdated(e) = payload else { unreachable!() };
            e.changed_attributes.push(v1::AttributeChange::default());
        },
        &[("event.message_updated.changed_attributes[0].name", Required)],
    );
}
