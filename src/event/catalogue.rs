//! The catalogue of event types: one descriptor for each, with everything that differs between them.
//!
//! The rest of the crate works on the `Parts` of a payload: its descriptor, the record that the event is
//! about, and the attributes that changed. One match on event types by name remains outside of this
//! file: `account_in_payload` in `grpc/services/events.rs`. A new event type is a descriptor, its entry in
//! `DESCRIPTORS`, and an arm in `parts`, in `record_mut` and in that match; the compiler finds the
//! arms, a test finds the rest.

use prost_types::{Struct, Value};

use super::{parse::fields::Fields, samples::records};
use crate::{
    domain::ids::AccountId,
    proto::v1::{self, EventType, event::Payload},
};

/// An event type.
pub struct Descriptor {
    /// Its number in the contract.
    pub event_type: EventType,
    /// Its name in the webhook JSON, in metrics, and as the field of `Event.payload`.
    pub name: &'static str,
    /// The record that its events are about.
    pub(super) record: RecordKind,
    /// The key `changed_attributes` in the documented form.
    pub(super) documented_changes: ChangesKey,
    /// The key `changed_attributes` in Chatwoot's form.
    pub(super) chatwoot_changes: ChangesKey,
    /// A realistic payload of this account.
    pub(super) sample: fn(AccountId) -> Payload,
    /// Reads the payload from the body of Chatwoot's webhook, whose changed attributes were read before.
    pub(super) parse: fn(Fields<'_>, Vec<v1::AttributeChange>) -> Payload,
}

/// The kind of a [`Record`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordKind {
    Conversation,
    Message,
    Contact,
    Inbox,
    Typing,
    Widget,
    Other,
}

/// The record that an event is about. A required part that is missing is `None`.
pub(super) enum Record<'a> {
    Conversation(Option<&'a v1::Conversation>),
    Message(Option<&'a v1::Message>),
    Contact(Option<&'a v1::Contact>),
    Inbox { inbox: Option<&'a v1::Inbox>, settings: Option<&'a Struct> },
    Typing(Typing<'a>),
    Widget(&'a v1::WebwidgetTriggered),
    Other(&'a v1::OtherEvent),
}

/// Someone started or stopped typing.
pub(super) struct Typing<'a> {
    pub(super) user: Option<&'a v1::Sender>,
    pub(super) conversation: Option<&'a v1::Conversation>,
    pub(super) is_private: bool,
    pub(super) extra: Option<&'a Struct>,
}

/// The part of a payload that the check completes.
pub(super) enum RecordMut<'a> {
    Conversation(&'a mut Option<v1::Conversation>),
    Message(&'a mut Option<v1::Message>),
    Other(&'a mut v1::OtherEvent),
    /// Nothing to complete.
    Complete,
}

/// When a body has the key `changed_attributes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChangesKey {
    /// Never.
    Absent,
    /// Only if attributes changed.
    AbsentIfEmpty,
    /// Always; null if no attribute changed.
    NullIfEmpty,
    /// Always; an empty array if no attribute changed.
    Always,
}

/// A payload taken apart.
pub(super) struct Parts<'a> {
    pub(super) descriptor: &'static Descriptor,
    pub(super) record: Record<'a>,
    /// The attributes that changed; empty for types that do not list them.
    pub(super) changes: &'a [v1::AttributeChange],
}

static CONVERSATION_CREATED: Descriptor = Descriptor {
    event_type: EventType::ConversationCreated,
    name: "conversation_created",
    record: RecordKind::Conversation,
    documented_changes: ChangesKey::Absent,
    chatwoot_changes: ChangesKey::Absent,
    sample: |account| {
        let conversation = Some(records::conversation(account));
        Payload::ConversationCreated(v1::ConversationCreated { conversation })
    },
    parse: |fields, _| {
        let conversation = Some(fields.into_conversation());
        Payload::ConversationCreated(v1::ConversationCreated { conversation })
    },
};

static CONVERSATION_UPDATED: Descriptor = Descriptor {
    event_type: EventType::ConversationUpdated,
    name: "conversation_updated",
    record: RecordKind::Conversation,
    documented_changes: ChangesKey::Always,
    chatwoot_changes: ChangesKey::Always,
    sample: |account| {
        Payload::ConversationUpdated(v1::ConversationUpdated {
            conversation: Some(records::conversation(account)),
            changed_attributes: vec![records::change("assignee_id", 1.0, Value { kind: None })],
        })
    },
    parse: |fields, changed_attributes| {
        let conversation = Some(fields.into_conversation());
        Payload::ConversationUpdated(v1::ConversationUpdated { conversation, changed_attributes })
    },
};

static CONVERSATION_STATUS_CHANGED: Descriptor = Descriptor {
    event_type: EventType::ConversationStatusChanged,
    name: "conversation_status_changed",
    record: RecordKind::Conversation,
    documented_changes: ChangesKey::Absent,
    chatwoot_changes: ChangesKey::NullIfEmpty,
    sample: |account| {
        Payload::ConversationStatusChanged(v1::ConversationStatusChanged {
            conversation: Some(records::conversation(account)),
            changed_attributes: vec![records::change("status", "open", "pending")],
        })
    },
    parse: |fields, changed_attributes| {
        let conversation = Some(fields.into_conversation());
        Payload::ConversationStatusChanged(v1::ConversationStatusChanged { conversation, changed_attributes })
    },
};

static MESSAGE_CREATED: Descriptor = Descriptor {
    event_type: EventType::MessageCreated,
    name: "message_created",
    record: RecordKind::Message,
    documented_changes: ChangesKey::Absent,
    chatwoot_changes: ChangesKey::Absent,
    sample: |account| {
        Payload::MessageCreated(v1::MessageCreated { message: Some(records::message(account)) })
    },
    parse: |fields, _| Payload::MessageCreated(v1::MessageCreated { message: Some(fields.into_message()) }),
};

static MESSAGE_UPDATED: Descriptor = Descriptor {
    event_type: EventType::MessageUpdated,
    name: "message_updated",
    record: RecordKind::Message,
    documented_changes: ChangesKey::Absent,
    // Chatwoot itself has no such key; forks of it do.
    chatwoot_changes: ChangesKey::AbsentIfEmpty,
    sample: |account| {
        let message = Some(records::message(account));
        Payload::MessageUpdated(v1::MessageUpdated { message, changed_attributes: Vec::new() })
    },
    parse: |fields, changed_attributes| {
        let message = Some(fields.into_message());
        Payload::MessageUpdated(v1::MessageUpdated { message, changed_attributes })
    },
};

static WEBWIDGET_TRIGGERED: Descriptor = Descriptor {
    event_type: EventType::WebwidgetTriggered,
    name: "webwidget_triggered",
    record: RecordKind::Widget,
    documented_changes: ChangesKey::Absent,
    chatwoot_changes: ChangesKey::Absent,
    sample: |account| Payload::WebwidgetTriggered(records::webwidget_triggered(account)),
    parse: |fields, _| Payload::WebwidgetTriggered(fields.into_webwidget_triggered()),
};

static CONTACT_CREATED: Descriptor = Descriptor {
    event_type: EventType::ContactCreated,
    name: "contact_created",
    record: RecordKind::Contact,
    documented_changes: ChangesKey::Absent,
    chatwoot_changes: ChangesKey::Absent,
    sample: |account| {
        Payload::ContactCreated(v1::ContactCreated { contact: Some(records::contact(account)) })
    },
    parse: |fields, _| Payload::ContactCreated(v1::ContactCreated { contact: Some(fields.into_contact()) }),
};

static CONTACT_UPDATED: Descriptor = Descriptor {
    event_type: EventType::ContactUpdated,
    name: "contact_updated",
    record: RecordKind::Contact,
    documented_changes: ChangesKey::Always,
    chatwoot_changes: ChangesKey::Always,
    sample: |account| {
        Payload::ContactUpdated(v1::ContactUpdated {
            contact: Some(records::contact(account)),
            changed_attributes: vec![records::change("name", "contact-name", "polished-moon-404")],
        })
    },
    parse: |fields, changed_attributes| {
        let contact = Some(fields.into_contact());
        Payload::ContactUpdated(v1::ContactUpdated { contact, changed_attributes })
    },
};

static INBOX_CREATED: Descriptor = Descriptor {
    event_type: EventType::InboxCreated,
    name: "inbox_created",
    record: RecordKind::Inbox,
    documented_changes: ChangesKey::Absent,
    chatwoot_changes: ChangesKey::Absent,
    sample: |account| {
        let (inbox, settings) = (Some(records::inbox()), Some(records::settings(account)));
        Payload::InboxCreated(v1::InboxCreated { inbox, settings })
    },
    parse: |fields, _| {
        let (inbox, settings) = fields.into_inbox_and_settings();
        Payload::InboxCreated(v1::InboxCreated { inbox, settings })
    },
};

static INBOX_UPDATED: Descriptor = Descriptor {
    event_type: EventType::InboxUpdated,
    name: "inbox_updated",
    record: RecordKind::Inbox,
    documented_changes: ChangesKey::Always,
    chatwoot_changes: ChangesKey::Always,
    sample: |account| {
        Payload::InboxUpdated(v1::InboxUpdated {
            inbox: Some(records::inbox()),
            settings: Some(records::settings(account)),
            changed_attributes: vec![records::change("greeting_enabled", true, false)],
        })
    },
    parse: |fields, changed_attributes| {
        let (inbox, settings) = fields.into_inbox_and_settings();
        Payload::InboxUpdated(v1::InboxUpdated { inbox, settings, changed_attributes })
    },
};

static CONVERSATION_TYPING_ON: Descriptor = Descriptor {
    event_type: EventType::ConversationTypingOn,
    name: "conversation_typing_on",
    record: RecordKind::Typing,
    documented_changes: ChangesKey::Absent,
    chatwoot_changes: ChangesKey::Absent,
    sample: |account| {
        Payload::ConversationTypingOn(v1::ConversationTypingOn {
            user: Some(records::agent()),
            conversation: Some(records::conversation(account)),
            is_private: false,
            extra: None,
        })
    },
    parse: |mut fields, _| {
        Payload::ConversationTypingOn(v1::ConversationTypingOn {
            user: fields.record("user").and_then(Fields::into_sender),
            conversation: fields.record("conversation").map(Fields::into_conversation),
            is_private: fields.boolean("is_private"),
            extra: fields.rest(),
        })
    },
};

static CONVERSATION_TYPING_OFF: Descriptor = Descriptor {
    event_type: EventType::ConversationTypingOff,
    name: "conversation_typing_off",
    record: RecordKind::Typing,
    documented_changes: ChangesKey::Absent,
    chatwoot_changes: ChangesKey::Absent,
    sample: |account| {
        Payload::ConversationTypingOff(v1::ConversationTypingOff {
            user: Some(records::agent()),
            conversation: Some(records::conversation(account)),
            is_private: false,
            extra: None,
        })
    },
    parse: |mut fields, _| {
        Payload::ConversationTypingOff(v1::ConversationTypingOff {
            user: fields.record("user").and_then(Fields::into_sender),
            conversation: fields.record("conversation").map(Fields::into_conversation),
            is_private: fields.boolean("is_private"),
            extra: fields.rest(),
        })
    },
};

static OTHER: Descriptor = Descriptor {
    event_type: EventType::Other,
    name: "other",
    record: RecordKind::Other,
    documented_changes: ChangesKey::Absent,
    chatwoot_changes: ChangesKey::Absent,
    sample: |account| Payload::Other(records::other(account)),
    // Kept, not parsed: no body has this name.
    parse: |_, _| Payload::Other(v1::OtherEvent::default()),
};

/// Every descriptor, in the order of their numbers.
static DESCRIPTORS: [&Descriptor; 13] = [
    &CONVERSATION_CREATED,
    &CONVERSATION_UPDATED,
    &CONVERSATION_STATUS_CHANGED,
    &MESSAGE_CREATED,
    &MESSAGE_UPDATED,
    &WEBWIDGET_TRIGGERED,
    &CONTACT_CREATED,
    &CONTACT_UPDATED,
    &INBOX_CREATED,
    &INBOX_UPDATED,
    &CONVERSATION_TYPING_ON,
    &CONVERSATION_TYPING_OFF,
    &OTHER,
];

/// Takes a payload apart.
pub(super) fn parts(payload: &Payload) -> Parts<'_> {
    let (descriptor, record, changes): (_, _, &[_]) = match payload {
        Payload::ConversationCreated(e) => {
            (&CONVERSATION_CREATED, Record::Conversation(e.conversation.as_ref()), &[])
        }
        Payload::ConversationUpdated(e) => {
            (&CONVERSATION_UPDATED, Record::Conversation(e.conversation.as_ref()), &e.changed_attributes)
        }
        Payload::ConversationStatusChanged(e) => {
            let record = Record::Conversation(e.conversation.as_ref());
            (&CONVERSATION_STATUS_CHANGED, record, &e.changed_attributes)
        }
        Payload::MessageCreated(e) => (&MESSAGE_CREATED, Record::Message(e.message.as_ref()), &[]),
        Payload::MessageUpdated(e) => {
            (&MESSAGE_UPDATED, Record::Message(e.message.as_ref()), &e.changed_attributes)
        }
        Payload::WebwidgetTriggered(e) => (&WEBWIDGET_TRIGGERED, Record::Widget(e), &[]),
        Payload::ContactCreated(e) => (&CONTACT_CREATED, Record::Contact(e.contact.as_ref()), &[]),
        Payload::ContactUpdated(e) => {
            (&CONTACT_UPDATED, Record::Contact(e.contact.as_ref()), &e.changed_attributes)
        }
        Payload::InboxCreated(e) => {
            let record = Record::Inbox { inbox: e.inbox.as_ref(), settings: e.settings.as_ref() };
            (&INBOX_CREATED, record, &[])
        }
        Payload::InboxUpdated(e) => {
            let record = Record::Inbox { inbox: e.inbox.as_ref(), settings: e.settings.as_ref() };
            (&INBOX_UPDATED, record, &e.changed_attributes)
        }
        Payload::ConversationTypingOn(e) => {
            let typing = Typing {
                user: e.user.as_ref(),
                conversation: e.conversation.as_ref(),
                is_private: e.is_private,
                extra: e.extra.as_ref(),
            };
            (&CONVERSATION_TYPING_ON, Record::Typing(typing), &[])
        }
        Payload::ConversationTypingOff(e) => {
            let typing = Typing {
                user: e.user.as_ref(),
                conversation: e.conversation.as_ref(),
                is_private: e.is_private,
                extra: e.extra.as_ref(),
            };
            (&CONVERSATION_TYPING_OFF, Record::Typing(typing), &[])
        }
        Payload::Other(e) => (&OTHER, Record::Other(e), &[]),
    };
    Parts { descriptor, record, changes }
}

/// The part of a payload that the check completes.
pub(super) fn record_mut(payload: &mut Payload) -> RecordMut<'_> {
    match payload {
        Payload::ConversationCreated(e) => RecordMut::Conversation(&mut e.conversation),
        Payload::ConversationUpdated(e) => RecordMut::Conversation(&mut e.conversation),
        Payload::ConversationStatusChanged(e) => RecordMut::Conversation(&mut e.conversation),
        Payload::ConversationTypingOn(e) => RecordMut::Conversation(&mut e.conversation),
        Payload::ConversationTypingOff(e) => RecordMut::Conversation(&mut e.conversation),
        Payload::WebwidgetTriggered(e) => RecordMut::Conversation(&mut e.current_conversation),
        Payload::MessageCreated(e) => RecordMut::Message(&mut e.message),
        Payload::MessageUpdated(e) => RecordMut::Message(&mut e.message),
        Payload::Other(e) => RecordMut::Other(e),
        Payload::ContactCreated(_)
        | Payload::ContactUpdated(_)
        | Payload::InboxCreated(_)
        | Payload::InboxUpdated(_) => RecordMut::Complete,
    }
}

/// The descriptor of an event type; `None` if it is unspecified.
pub fn get(event_type: EventType) -> Option<&'static Descriptor> {
    DESCRIPTORS.into_iter().find(|descriptor| descriptor.event_type == event_type)
}

/// The descriptor of the event type whose bodies have this name.
pub(super) fn by_name(name: &str) -> Option<&'static Descriptor> {
    let mut with_name = DESCRIPTORS.into_iter().filter(|descriptor| descriptor.record != RecordKind::Other);
    with_name.find(|descriptor| descriptor.name == name)
}

/// The event type of a payload.
pub fn event_type(payload: &Payload) -> EventType {
    parts(payload).descriptor.event_type
}

impl RecordKind {
    /// The record's field in the payload, if the body has the record's keys as its own.
    pub(super) fn flattened_field(self) -> Option<&'static str> {
        match self {
            Self::Conversation => Some("conversation"),
            Self::Message => Some("message"),
            Self::Contact => Some("contact"),
            Self::Inbox => Some("settings"),
            Self::Typing | Self::Widget | Self::Other => None,
        }
    }
}

impl ChangesKey {
    /// The value of the key: `None` without the key, `Some(None)` for null.
    #[expect(clippy::option_option, reason = "an absent key and null are different JSON")]
    pub(super) fn value(self, changes: &[v1::AttributeChange]) -> Option<Option<&[v1::AttributeChange]>> {
        match self {
            Self::Absent => None,
            Self::AbsentIfEmpty if changes.is_empty() => None,
            Self::NullIfEmpty if changes.is_empty() => Some(None),
            Self::AbsentIfEmpty | Self::NullIfEmpty | Self::Always => Some(Some(changes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(record: &Record<'_>) -> RecordKind {
        match record {
            Record::Conversation(_) => RecordKind::Conversation,
            Record::Message(_) => RecordKind::Message,
            Record::Contact(_) => RecordKind::Contact,
            Record::Inbox { .. } => RecordKind::Inbox,
            Record::Typing(_) => RecordKind::Typing,
            Record::Widget(_) => RecordKind::Widget,
            Record::Other(_) => RecordKind::Other,
        }
    }

    #[test]
    fn every_event_type_of_the_contract_has_its_descriptor() {
        let types: Vec<_> = DESCRIPTORS.iter().map(|descriptor| descriptor.event_type).collect();
        assert_eq!(types, EventType::all().collect::<Vec<_>>());
        for descriptor in DESCRIPTORS {
            let in_contract = descriptor.event_type.as_str_name().strip_prefix("EVENT_TYPE_").unwrap();
            assert_eq!(descriptor.name, in_contract.to_lowercase());
            let payload = (descriptor.sample)(AccountId::new(7).unwrap());
            let parts = parts(&payload);
            assert_eq!(parts.descriptor.name, descriptor.name);
            assert_eq!(kind(&parts.record), descriptor.record);
            let named = by_name(descriptor.name).map(|named| named.event_type);
            let of_a_name = Some(descriptor.event_type).filter(|kind| *kind != EventType::Other);
            assert_eq!(named, of_a_name);
        }
        assert!(get(EventType::Unspecified).is_none());
    }
}
