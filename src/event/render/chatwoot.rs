//! Chatwoot's form: the bodies that Chatwoot 4 really sends. They differ from its document;
//! `docs/chatwoot.md` compares both.
//!
//! Chatwoot writes each record in two ways and mixes them in one body: `webhook_data` in its webhooks, and
//! `push_event_data` in its live connection, which webhooks carry in `conversation.messages` and
//! `conversation.meta`. The record's keys come first, in the order of Chatwoot's source, then `event`, then
//! `changed_attributes`.
//!
//! Fields that Chatwoot always has and the publisher left out are derived: the account and the inbox of a
//! message from its conversation and the other way round, the contact of a conversation from the message that
//! it sent, the one element of `conversation.messages` from the message itself.

use serde::Serialize;

use self::{
    shared::{InitiatedAt, Named, Settings, WidgetBrowser, non_empty},
    webhook_data::{Contact, Conversation, Message, Sender},
};
use super::{
    shared::{required, some, write},
    value::{Object, Value},
};
use crate::{
    event::catalogue::{Parts, Record},
    proto::v1,
};

/// The body that Chatwoot would send for an event.
pub(super) fn render(parts: &Parts<'_>) -> Vec<u8> {
    let event = parts.descriptor.name;
    match &parts.record {
        Record::Conversation(record) => flat(parts, Conversation::new(required(*record), None)),
        Record::Message(record) => flat(parts, Message::from(required(*record))),
        Record::Contact(record) => flat(parts, Contact::new(required(*record), None)),
        // Chatwoot sends the settings only: neither the id nor the name of the inbox.
        Record::Inbox { settings, .. } => flat(parts, Settings(*settings)),
        Record::Typing(typing) => {
            let conversation = required(typing.conversation);
            let account = webhook_data::account_of(conversation, None);
            write(&Typing {
                event,
                user: webhook_data::sender(typing.user, account),
                conversation: Conversation::new(conversation, None),
                is_private: typing.is_private,
                extra: Object(typing.extra),
            })
        }
        Record::Widget(widget) => write(&WebwidgetTriggered::new(event, widget)),
        Record::Other(other) => other.json.clone(),
    }
}

fn flat<R: Serialize>(parts: &Parts<'_>, record: R) -> Vec<u8> {
    let changes = parts.descriptor.chatwoot_changes.value(parts.changes);
    let changed_attributes = changes.map(|changes| changes.map(Changes));
    write(&Flat { record, event: parts.descriptor.name, changed_attributes })
}

/// One flat object: the record's keys, the event's name, and the changed attributes if the event type lists
/// them.
#[derive(Serialize)]
struct Flat<'a, R: Serialize> {
    #[serde(flatten)]
    record: R,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[expect(clippy::option_option, reason = "an absent key and null are different JSON")]
    changed_attributes: Option<Option<Changes<'a>>>,
}

/// An array of one object per changed attribute.
struct Changes<'a>(&'a [v1::AttributeChange]);

impl Serialize for Changes<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Change))
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

impl<'a> WebwidgetTriggered<'a> {
    fn new(event: &'static str, e: &'a v1::WebwidgetTriggered) -> Self {
        let account = Named::from(required(e.account.as_ref()));
        let conversation = e.current_conversation.as_ref();
        Self {
            id: e.id,
            contact: Contact::new(required(e.contact.as_ref()), Some(account)),
            inbox: required(e.inbox.as_ref()).into(),
            account,
            current_conversation: conversation.map(|current| Conversation::new(current, Some(account))),
            source_id: &e.source_id,
            event,
            event_info: e.event_info.as_ref().into(),
            extra: Object(e.extra.as_ref()),
        }
    }
}

/// Keys that the page reports are absent if it reports nothing; keys that the server finds out are null
/// instead.
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
            referer: info.and_then(|info| non_empty(&info.referer)),
            widget_language: info.and_then(|info| non_empty(&info.widget_language)),
            browser_language: info.and_then(|info| non_empty(&info.browser_language)),
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

mod push_event_data;
mod shared;
#[cfg(test)]
mod tests;
mod webhook_data;
