//! The form that Chatwoot 4 really sends, which its document does not describe: `docs/chatwoot.md` has both side by side.
//!
//! Chatwoot writes each record in two ways and mixes them in one body: `outer` is the one of its webhooks, `inner` the one of its
//! live connection, which webhooks carry in `conversation.messages` and `conversation.meta`. The record's keys come first, in the order
//! of Chatwoot's source, then `event`, then `changed_attributes`.
//!
//! Where the publisher left out what Chatwoot always has, it is taken from what is there: the account and the inbox of a message from
//! its conversation and the other way round, the contact of a conversation from the message that it sent, the one element of
//! `conversation.messages` from the message itself.

use serde::Serialize;

use self::{
    shared::{InitiatedAt, Named, Settings, WidgetBrowser},
    webhook_data::{Contact, Conversation, Message, Sender},
};
use super::{
    documented::objects::some,
    required,
    value::{Object, Value},
    write,
};
use crate::proto::v1::{self, event::Payload};

/// The body that Chatwoot would send for an event.
pub(super) fn render(payload: &Payload) -> Vec<u8> {
    match payload {
        Payload::ConversationCreated(e) => {
            conversation("conversation_created", e.conversation.as_ref(), None)
        }
        Payload::ConversationUpdated(e) => {
            let changes = Some(Changes::Listed(&e.changed_attributes));
            conversation("conversation_updated", e.conversation.as_ref(), changes)
        }
        Payload::ConversationStatusChanged(e) => {
            let changes = Some(Changes::ListedOrNull(&e.changed_attributes));
            conversation("conversation_status_changed", e.conversation.as_ref(), changes)
        }
        Payload::MessageCreated(e) => message("message_created", e.message.as_ref(), &[]),
        Payload::MessageUpdated(e) => message("message_updated", e.message.as_ref(), &e.changed_attributes),
        Payload::WebwidgetTriggered(e) => write(&WebwidgetTriggered::from(e)),
        Payload::ContactCreated(e) => contact("contact_created", e.contact.as_ref(), None),
        Payload::ContactUpdated(e) => {
            contact("contact_updated", e.contact.as_ref(), Some(Changes::Listed(&e.changed_attributes)))
        }
        Payload::InboxCreated(e) => inbox("inbox_created", e.settings.as_ref(), None),
        Payload::InboxUpdated(e) => {
            inbox("inbox_updated", e.settings.as_ref(), Some(Changes::Listed(&e.changed_attributes)))
        }
        Payload::ConversationTypingOn(e) => {
            let extra = Object(e.extra.as_ref());
            typing("conversation_typing_on", e.user.as_ref(), e.conversation.as_ref(), e.is_private, extra)
        }
        Payload::ConversationTypingOff(e) => {
            let extra = Object(e.extra.as_ref());
            typing("conversation_typing_off", e.user.as_ref(), e.conversation.as_ref(), e.is_private, extra)
        }
    }
}

fn conversation(
    event: &'static str,
    record: Option<&v1::Conversation>,
    changed_attributes: Option<Changes<'_>>,
) -> Vec<u8> {
    write(&Flat { record: Conversation::new(required(record), None), event, changed_attributes })
}

/// What changed of a message is told only where there is something: Chatwoot does not tell it.
fn message(event: &'static str, record: Option<&v1::Message>, changes: &[v1::AttributeChange]) -> Vec<u8> {
    let changed_attributes = (!changes.is_empty()).then_some(Changes::Listed(changes));
    write(&Flat { record: Message::from(required(record)), event, changed_attributes })
}

fn contact(
    event: &'static str,
    record: Option<&v1::Contact>,
    changed_attributes: Option<Changes<'_>>,
) -> Vec<u8> {
    write(&Flat { record: Contact::new(required(record), None), event, changed_attributes })
}

/// An inbox event has the settings alone: neither the id nor the name of the inbox.
fn inbox(
    event: &'static str,
    settings: Option<&prost_types::Struct>,
    changed_attributes: Option<Changes<'_>>,
) -> Vec<u8> {
    write(&Flat { record: Settings(settings), event, changed_attributes })
}

fn typing(
    event: &'static str,
    user: Option<&v1::Sender>,
    conversation: Option<&v1::Conversation>,
    is_private: bool,
    extra: Object<'_>,
) -> Vec<u8> {
    let conversation = required(conversation);
    let user = webhook_data::sender(user, webhook_data::account_of(conversation, None));
    write(&Typing { event, user, conversation: Conversation::new(conversation, None), is_private, extra })
}

/// One flat object: the record's keys, the event's name, and what changed where the event tells it.
#[derive(Serialize)]
struct Flat<'a, R: Serialize> {
    #[serde(flatten)]
    record: R,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_attributes: Option<Changes<'a>>,
}

/// An array of one object per changed attribute; of a changed status, null where nobody told them.
enum Changes<'a> {
    Listed(&'a [v1::AttributeChange]),
    ListedOrNull(&'a [v1::AttributeChange]),
}

impl Serialize for Changes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::ListedOrNull([]) => serializer.serialize_none(),
            Self::Listed(changes) | Self::ListedOrNull(changes) => {
                serializer.collect_seq(changes.iter().map(Change))
            }
        }
    }
}

/// `{"<name>": {"previous_value": ..., "current_value": ...}}`
struct Change<'a>(&'a v1::AttributeChange);

#[derive(Serialize)]
struct Values<'a> {
    previous_value: Value<'a>,
    current_value: Value<'a>,
}

impl Serialize for Change<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = Values {
            previous_value: Value(self.0.previous_value.as_ref()),
            current_value: Value(self.0.current_value.as_ref()),
        };
        serializer.collect_map([(&self.0.name, values)])
    }
}

#[derive(Serialize)]
struct WebwidgetTriggered<'a> {
    id: i64,
    contact: Contact<'a>,
    inbox: Named<'a>,
    account: Named<'a>,
    current_conversation: Option<Conversation<'a>>,
    source_id: &'a str,
    event: &'static str,
    event_info: EventInfo<'a>,
    #[serde(flatten)]
    extra: Object<'a>,
}

impl<'a> From<&'a v1::WebwidgetTriggered> for WebwidgetTriggered<'a> {
    fn from(e: &'a v1::WebwidgetTriggered) -> Self {
        let account = Named::from(required(e.account.as_ref()));
        let conversation = e.current_conversation.as_ref();
        Self {
            id: e.id,
            contact: Contact::new(required(e.contact.as_ref()), Some(account)),
            inbox: required(e.inbox.as_ref()).into(),
            account,
            current_conversation: conversation.map(|told| Conversation::new(told, Some(account))),
            source_id: &e.source_id,
            event: "webwidget_triggered",
            event_info: e.event_info.as_ref().into(),
            extra: Object(e.extra.as_ref()),
        }
    }
}

/// What the page told is absent if it told nothing; what the server saw is there, or null.
#[derive(Serialize)]
struct EventInfo<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    initiated_at: Option<InitiatedAt<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<&'a str>,
    widget_language: Option<&'a str>,
    browser_language: Option<&'a str>,
    browser: Option<WidgetBrowser<'a>>,
    #[serde(flatten)]
    extra: Object<'a>,
}

impl<'a> From<Option<&'a v1::WidgetEventInfo>> for EventInfo<'a> {
    fn from(info: Option<&'a v1::WidgetEventInfo>) -> Self {
        Self {
            initiated_at: some(info.and_then(|info| info.initiated_at.as_ref())),
            referer: info.and_then(|info| told(&info.referer)),
            widget_language: info.and_then(|info| told(&info.widget_language)),
            browser_language: info.and_then(|info| told(&info.browser_language)),
            browser: some(info.and_then(|info| info.browser.as_ref())),
            extra: Object(info.and_then(|info| info.extra.as_ref())),
        }
    }
}

#[derive(Serialize)]
struct Typing<'a> {
    event: &'static str,
    user: Option<Sender<'a>>,
    conversation: Conversation<'a>,
    is_private: bool,
    #[serde(flatten)]
    extra: Object<'a>,
}

/// A text, unless it is empty: that is how the contract says that there is none.
fn told(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// A text, or another one if it is empty.
fn or_else<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

mod push_event_data;
mod shared;
#[cfg(test)]
mod tests;
mod webhook_data;
