//! The events that the golden files are the bodies of. Every field differs from its default in the full ones,
//! also those that the document does not have, which must not come out.

use prost_types::{ListValue, Struct, Timestamp, Value, value::Kind};
use tidings::proto::v1::{self, EventType, MessageType, event::Payload, sender};

/// Whose they are.
pub const ACCOUNT: i64 = 1;

/// All kinds of events.
pub fn kinds() -> impl Iterator<Item = EventType> {
    EventType::all()
}

/// An event of `kind` with everything set.
pub fn full(kind: EventType) -> v1::Event {
    let conversation = Some(conversation(vec![inner_message()]));
    let changed_attributes = changes();
    event(match kind {
        EventType::ConversationCreated => {
            Payload::ConversationCreated(v1::ConversationCreated { conversation })
        }
        EventType::ConversationUpdated => {
            Payload::ConversationUpdated(v1::ConversationUpdated { conversation, changed_attributes })
        }
        EventType::ConversationStatusChanged => {
            Payload::ConversationStatusChanged(v1::ConversationStatusChanged {
                conversation,
                changed_attributes,
            })
        }
        EventType::MessageCreated => {
            let message = message(sender::Kind::User(user()), MessageType::Outgoing, "input_select");
            Payload::MessageCreated(v1::MessageCreated { message: Some(message) })
        }
        EventType::MessageUpdated => {
            let message = message(sender::Kind::AgentBot(bot()), MessageType::Unspecified, "cards");
            Payload::MessageUpdated(v1::MessageUpdated { message: Some(message), changed_attributes })
        }
        EventType::WebwidgetTriggered => Payload::WebwidgetTriggered(webwidget_triggered()),
        EventType::ContactCreated => Payload::ContactCreated(v1::ContactCreated { contact: Some(contact()) }),
        EventType::ContactUpdated => {
            Payload::ContactUpdated(v1::ContactUpdated { contact: Some(contact()), changed_attributes })
        }
        EventType::InboxCreated => {
            Payload::InboxCreated(v1::InboxCreated { inbox: Some(inbox()), settings: Some(settings()) })
        }
        EventType::InboxUpdated => Payload::InboxUpdated(v1::InboxUpdated {
            inbox: Some(inbox()),
            settings: Some(settings()),
            changed_attributes,
        }),
        EventType::ConversationTypingOn => Payload::ConversationTypingOn(v1::ConversationTypingOn {
            user: sent_by(sender::Kind::User(user())),
            conversation,
            is_private: true,
            extra: Some(undocumented()),
        }),
        EventType::ConversationTypingOff => Payload::ConversationTypingOff(v1::ConversationTypingOff {
            user: sent_by(sender::Kind::Contact(contact())),
            conversation,
            is_private: true,
            extra: Some(undocumented()),
        }),
        EventType::Other => Payload::Other(v1::OtherEvent {
            name: "contact_deleted".into(),
            json: br#"{"id":5,"id":6,"n":18446744073709551617,"f":1.50,"s":"\u00e9\/","event":"contact_deleted"}"#.into(),
            reasons: Vec::new(),
        }),
        EventType::Unspecified => unreachable!("not among the kinds"),
    })
}

/// An event of `kind` with nothing set that is optional.
pub fn unset(kind: EventType) -> v1::Event {
    let conversation = Some(v1::Conversation { id: 7, ..Default::default() });
    let message = Some(v1::Message { id: 11, message_type: 1, ..Default::default() });
    let contact = v1::Contact { id: 5, ..Default::default() };
    let inbox = Some(v1::Inbox { id: 3, ..Default::default() });
    event(match kind {
        EventType::ConversationCreated => {
            Payload::ConversationCreated(v1::ConversationCreated { conversation })
        }
        EventType::ConversationUpdated => {
            Payload::ConversationUpdated(v1::ConversationUpdated { conversation, ..Default::default() })
        }
        EventType::ConversationStatusChanged => {
            Payload::ConversationStatusChanged(v1::ConversationStatusChanged {
                conversation,
                ..Default::default()
            })
        }
        EventType::MessageCreated => Payload::MessageCreated(v1::MessageCreated { message }),
        EventType::MessageUpdated => {
            Payload::MessageUpdated(v1::MessageUpdated { message, ..Default::default() })
        }
        EventType::WebwidgetTriggered => Payload::WebwidgetTriggered(v1::WebwidgetTriggered {
            contact: Some(contact),
            inbox,
            account: Some(v1::Account { id: ACCOUNT, ..Default::default() }),
            ..Default::default()
        }),
        EventType::ContactCreated => Payload::ContactCreated(v1::ContactCreated { contact: Some(contact) }),
        EventType::ContactUpdated => {
            Payload::ContactUpdated(v1::ContactUpdated { contact: Some(contact), ..Default::default() })
        }
        EventType::InboxCreated => Payload::InboxCreated(v1::InboxCreated { inbox, ..Default::default() }),
        EventType::InboxUpdated => Payload::InboxUpdated(v1::InboxUpdated { inbox, ..Default::default() }),
        EventType::ConversationTypingOn => Payload::ConversationTypingOn(v1::ConversationTypingOn {
            user: sent_by(sender::Kind::User(v1::User { id: 2, ..Default::default() })),
            conversation,
            ..Default::default()
        }),
        EventType::ConversationTypingOff => Payload::ConversationTypingOff(v1::ConversationTypingOff {
            user: sent_by(sender::Kind::Contact(contact)),
            conversation,
            ..Default::default()
        }),
        EventType::Other => Payload::Other(v1::OtherEvent { json: b"{}".into(), ..Default::default() }),
        EventType::Unspecified => unreachable!("not among the kinds"),
    })
}

/// An event whose parts are there with nothing set in them, for one kind with each part.
pub fn empty(kind: EventType) -> Option<v1::Event> {
    let mut event = unset(kind);
    match event.payload.as_mut()? {
        Payload::ConversationStatusChanged(e) => {
            let contact = v1::Contact { id: 5, ..Default::default() };
            let bot = v1::AgentBot { id: 4, ..Default::default() };
            let conversation = e.conversation.as_mut()?;
            conversation.additional_attributes = Some(v1::ConversationAttributes {
                browser: Some(v1::Browser::default()),
                initiated_at: Some(v1::InitiatedAt::default()),
                extra: Some(Struct::default()),
                ..Default::default()
            });
            conversation.contact_inbox = Some(v1::ContactInbox::default());
            // A bot as assignee is not in the document.
            conversation.meta = Some(v1::ConversationMeta {
                sender: Some(contact),
                assignee_agent_bot: Some(bot),
                ..Default::default()
            });
        }
        Payload::WebwidgetTriggered(e) => {
            e.current_conversation = Some(v1::Conversation { id: 7, ..Default::default() });
            e.event_info = Some(v1::WidgetEventInfo {
                initiated_at: Some(v1::InitiatedAt::default()),
                browser: Some(v1::Browser::default()),
                ..Default::default()
            });
        }
        _ => return None,
    }
    Some(event)
}

fn event(payload: Payload) -> v1::Event {
    v1::Event { occur_time: time(1, 1), payload: Some(payload), ..Default::default() }
}

fn account() -> v1::Account {
    v1::Account { id: ACCOUNT, name: "Chatwoot".into(), extra: Some(undocumented()) }
}

fn inbox() -> v1::Inbox {
    v1::Inbox { id: 3, name: "Website".into(), extra: Some(undocumented()) }
}

fn contact() -> v1::Contact {
    v1::Contact {
        id: 5,
        name: "contact-name".into(),
        avatar: "https://example.com/avatar.png".into(),
        account: Some(account()),
        email: Some("contact@example.com".into()),
        phone_number: Some("+4915170000000".into()),
        identifier: Some("customer-1".into()),
        thumbnail: "https://example.com/thumbnail.png".into(),
        blocked: true,
        additional_attributes: Some(undocumented()),
        custom_attributes: Some(undocumented()),
        extra: Some(undocumented()),
    }
}

fn user() -> v1::User {
    v1::User {
        id: 2,
        name: "Agent".into(),
        email: "agent@example.com".into(),
        available_name: "A. Gent".into(),
        avatar_url: "https://example.com/agent.png".into(),
        availability_status: Some("online".into()),
        thumbnail: "https://example.com/agent-thumbnail.png".into(),
        extra: Some(undocumented()),
    }
}

fn bot() -> v1::AgentBot {
    v1::AgentBot {
        id: 4,
        name: "Bot".into(),
        avatar_url: "https://example.com/bot.png".into(),
        extra: Some(undocumented()),
    }
}

fn sent_by(kind: sender::Kind) -> Option<v1::Sender> {
    Some(v1::Sender { kind: Some(kind) })
}

fn browser() -> v1::Browser {
    v1::Browser {
        device_name: "Macbook".into(),
        browser_name: "Chrome".into(),
        platform_name: "Macintosh".into(),
        browser_version: "80.0.3987.122".into(),
        platform_version: "10.15.2".into(),
        extra: Some(undocumented()),
    }
}

fn initiated_at() -> v1::InitiatedAt {
    v1::InitiatedAt {
        timestamp: "Tue Mar 03 2020 18:37:38 GMT-0700 (Mountain Standard Time)".into(),
        extra: Some(undocumented()),
    }
}

fn conversation(messages: Vec<v1::Message>) -> v1::Conversation {
    v1::Conversation {
        additional_attributes: Some(v1::ConversationAttributes {
            browser: Some(browser()),
            referer: "http://www.chatwoot.com".into(),
            initiated_at: Some(initiated_at()),
            extra: Some(object([("mail_subject", "Order 100".into()), ("browser_language", "en".into())])),
        }),
        can_reply: true,
        channel: "Channel::WebWidget".into(),
        id: 7,
        inbox_id: 3,
        contact_inbox: Some(v1::ContactInbox {
            id: 9,
            contact_id: 5,
            inbox_id: 3,
            source_id: "c7bfe6c9-9c1f-4b27-a8fd-3f6a4c5d2e10".into(),
            created_at: time(1_583_240_757, 0),
            updated_at: time(1_583_240_760, 250_999_999),
            hmac_verified: true,
            pubsub_token: "token".into(),
            extra: Some(undocumented()),
        }),
        messages,
        meta: Some(v1::ConversationMeta {
            sender: Some(contact()),
            assignee: Some(user()),
            assignee_agent_bot: None,
            team: Some(v1::Team { id: 6, name: "Team".into(), extra: Some(undocumented()) }),
            hmac_verified: Some(true),
            extra: Some(undocumented()),
        }),
        status: "open".into(),
        unread_count: 2,
        agent_last_seen_at: time(1_583_240_760, 0),
        contact_last_seen_at: time(1_583_240_765, 999_999_999),
        timestamp: time(1_583_240_757, 0),
        account_id: ACCOUNT,
        labels: vec!["label".into()],
        custom_attributes: Some(undocumented()),
        snoozed_until: time(3, 0),
        first_reply_created_at: time(3, 0),
        priority: Some("high".into()),
        waiting_since: time(3, 0),
        last_activity_at: time(3, 0),
        created_at: time(3, 0),
        updated_at: time(3, 0),
        account: Some(account()),
        extra: Some(undocumented()),
        no_messages: false,
    }
}

fn message(sender: sender::Kind, message_type: MessageType, content_type: &str) -> v1::Message {
    let item = |title: &str, value: f64| {
        let fields = object([("value", value.into()), ("title", title.into())]);
        Value { kind: Some(Kind::StructValue(fields)) }
    };
    v1::Message {
        // The first integer that is no f64.
        id: 9_007_199_254_740_993,
        content: Some("Hi \"there\", <b>José</b>\n\u{1} 👋".into()),
        message_type: message_type.into(),
        created_at: time(1_583_240_757, 500_000_000),
        private: true,
        source_id: Some("mid.1457764197618:41d102a3e1ae206a38".into()),
        content_type: content_type.into(),
        content_attributes: Some(object([
            ("submitted", true.into()),
            ("items", list(vec![item("Yes", 1.0), item("No", -0.25)])),
            ("in_reply_to", Value { kind: None }),
        ])),
        sender: sent_by(sender),
        account: Some(account()),
        conversation: Some(conversation(Vec::new())),
        inbox: Some(inbox()),
        attachments: vec![v1::Attachment { id: 8, ..Default::default() }],
        additional_attributes: Some(undocumented()),
        updated_at: time(3, 0),
        status: "read".into(),
        processed_message_content: Some("Hi".into()),
        external_source_ids: Some(undocumented()),
        sentiment: Some(undocumented()),
        extra: Some(undocumented()),
        conversation_told: Some(v1::MessageConversation {
            assignee_id: Some(4),
            unread_count: 1,
            last_activity_at: time(4, 0),
            source_id: "as the message tells it".into(),
            extra: Some(undocumented()),
        }),
        // Not together with a sender.
        sender_type: None,
        sender_id: None,
        status_at_top: true,
    }
}

/// A message inside a conversation: it does not repeat the conversation.
fn inner_message() -> v1::Message {
    v1::Message {
        id: 11,
        content: Some("Hi".into()),
        message_type: MessageType::Incoming.into(),
        created_at: time(1_583_240_757, 0),
        content_type: "text".into(),
        sender: sent_by(sender::Kind::Contact(v1::Contact { account: None, ..contact() })),
        ..Default::default()
    }
}

fn webwidget_triggered() -> v1::WebwidgetTriggered {
    v1::WebwidgetTriggered {
        id: 9,
        contact: Some(contact()),
        inbox: Some(inbox()),
        account: Some(account()),
        current_conversation: Some(conversation(Vec::new())),
        source_id: "c7bfe6c9-9c1f-4b27-a8fd-3f6a4c5d2e10".into(),
        event_info: Some(v1::WidgetEventInfo {
            initiated_at: Some(initiated_at()),
            referer: "http://www.chatwoot.com".into(),
            widget_language: "en".into(),
            browser_language: "de".into(),
            browser: Some(browser()),
            extra: Some(undocumented()),
        }),
        extra: Some(undocumented()),
    }
}

fn changes() -> Vec<v1::AttributeChange> {
    let attributes = object([
        ("since", list(vec![2019.0.into(), 6.5.into()])),
        ("seats", 25.0.into()),
        ("plan", "gold".into()),
    ]);
    vec![
        v1::AttributeChange {
            name: "status".into(),
            current_value: Some("open".into()),
            previous_value: Some("pending".into()),
        },
        v1::AttributeChange {
            name: "custom_attributes".into(),
            current_value: Some(Value { kind: Some(Kind::StructValue(attributes)) }),
            previous_value: None,
        },
    ]
}

fn settings() -> Struct {
    let assignment = object([("max_assignment_limit", 10.0.into())]);
    object([
        ("working_hours", list(Vec::new())),
        ("greeting_message", "Hi".into()),
        ("greeting_enabled", true.into()),
        ("auto_assignment_config", Value { kind: Some(Kind::StructValue(assignment)) }),
    ])
}

fn undocumented() -> Struct {
    object([("undocumented", true.into())])
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct { fields: fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect() }
}

fn list(values: Vec<Value>) -> Value {
    Value { kind: Some(Kind::ListValue(ListValue { values })) }
}

fn time(seconds: i64, nanos: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos })
}
