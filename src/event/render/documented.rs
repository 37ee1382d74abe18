//! The documented form: the document's section "Webhook Events".
//!
//! What the document does not name follows its rule: `event`, then the record's documented keys. Two such events have no
//! record in the document, so this is decided here. An inbox event is `event`, the inbox's documented keys (without which
//! a receiver could not tell the inbox), then its settings' keys, sorted. A typing event is `event`, `user`,
//! `conversation`, `is_private`.
//!
//! Fields that the contract numbers from 30 do not come out in this form.

use serde::{Serialize, Serializer, ser::SerializeMap};

use self::objects::{
    Account, Browser, Contact, Conversation, Inbox, InitiatedAt, Message, Sender, sender, some,
};
use super::{
    required,
    value::{Object, Value},
    write,
};
use crate::proto::v1::{self, event::Payload};

pub(super) mod objects;

/// The documented body of an event.
pub(super) fn render(payload: &Payload) -> Vec<u8> {
    match payload {
        Payload::ConversationCreated(e) => {
            conversation("conversation_created", e.conversation.as_ref(), None)
        }
        Payload::ConversationUpdated(e) => {
            conversation("conversation_updated", e.conversation.as_ref(), Some(&e.changed_attributes))
        }
        Payload::ConversationStatusChanged(e) => {
            conversation("conversation_status_changed", e.conversation.as_ref(), None)
        }
        Payload::MessageCreated(e) => message("message_created", e.message.as_ref()),
        Payload::MessageUpdated(e) => message("message_updated", e.message.as_ref()),
        Payload::WebwidgetTriggered(e) => write(&WebwidgetTriggered::from(e)),
        Payload::ContactCreated(e) => contact("contact_created", e.contact.as_ref(), None),
        Payload::ContactUpdated(e) => {
            contact("contact_updated", e.contact.as_ref(), Some(&e.changed_attributes))
        }
        Payload::InboxCreated(e) => inbox("inbox_created", e.inbox.as_ref(), e.settings.as_ref(), None),
        Payload::InboxUpdated(e) => {
            inbox("inbox_updated", e.inbox.as_ref(), e.settings.as_ref(), Some(&e.changed_attributes))
        }
        Payload::ConversationTypingOn(e) => write(&Typing {
            event: "conversation_typing_on",
            user: sender(e.user.as_ref()),
            conversation: required(e.conversation.as_ref()).into(),
            is_private: e.is_private,
        }),
        Payload::ConversationTypingOff(e) => write(&Typing {
            event: "conversation_typing_off",
            user: sender(e.user.as_ref()),
            conversation: required(e.conversation.as_ref()).into(),
            is_private: e.is_private,
        }),
    }
}

type ChangeList = [v1::AttributeChange];

fn conversation(event: &str, record: Option<&v1::Conversation>, changes: Option<&ChangeList>) -> Vec<u8> {
    write(&Flat {
        event,
        changed_attributes: changes.map(Changes),
        record: Conversation::from(required(record)),
    })
}

fn message(event: &str, record: Option<&v1::Message>) -> Vec<u8> {
    write(&Flat { event, changed_attributes: None, record: Message::from(required(record)) })
}

fn contact(event: &str, record: Option<&v1::Contact>, changes: Option<&ChangeList>) -> Vec<u8> {
    write(&Flat { event, changed_attributes: changes.map(Changes), record: Contact::from(required(record)) })
}

fn inbox(
    event: &str,
    record: Option<&v1::Inbox>,
    settings: Option<&prost_types::Struct>,
    changes: Option<&ChangeList>,
) -> Vec<u8> {
    let record = InboxWithSettings { inbox: required(record).into(), settings: Object(settings) };
    write(&Flat { event, changed_attributes: changes.map(Changes), record })
}

/// One flat object: the event's name, what changed where the event tells it, and the record's keys.
#[derive(Serialize)]
struct Flat<'a, R: Serialize> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    changed_attributes: Option<Changes<'a>>,
    #[serde(flatten)]
    record: R,
}

/// An array of one object per changed attribute.
struct Changes<'a>(&'a ChangeList);

impl Serialize for Changes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Change))
    }
}

/// `{"<name>": {"current_value": ..., "previous_value": ...}}`
struct Change<'a>(&'a v1::AttributeChange);

#[derive(Serialize)]
struct Values<'a> {
    current_value: Value<'a>,
    previous_value: Value<'a>,
}

impl Serialize for Change<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = Values {
            current_value: Value(self.0.current_value.as_ref()),
            previous_value: Value(self.0.previous_value.as_ref()),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.0.name, &values)?;
        map.end()
    }
}

/// The one event whose name does not come first.
#[derive(Serialize)]
struct WebwidgetTriggered<'a> {
    id: i64,
    contact: Contact<'a>,
    inbox: Inbox<'a>,
    account: Account<'a>,
    current_conversation: Option<Conversation<'a>>,
    source_id: &'a str,
    event: &'static str,
    event_info: Option<EventInfo<'a>>,
}

impl<'a> From<&'a v1::WebwidgetTriggered> for WebwidgetTriggered<'a> {
    fn from(e: &'a v1::WebwidgetTriggered) -> Self {
        Self {
            id: e.id,
            contact: required(e.contact.as_ref()).into(),
            inbox: required(e.inbox.as_ref()).into(),
            account: required(e.account.as_ref()).into(),
            current_conversation: some(e.current_conversation.as_ref()),
            source_id: &e.source_id,
            event: "webwidget_triggered",
            event_info: some(e.event_info.as_ref()),
        }
    }
}

#[derive(Serialize)]
struct EventInfo<'a> {
    initiated_at: Option<InitiatedAt<'a>>,
    referer: &'a str,
    widget_language: &'a str,
    browser_language: &'a str,
    browser: Option<WidgetBrowser<'a>>,
}

impl<'a> From<&'a v1::WidgetEventInfo> for EventInfo<'a> {
    fn from(info: &'a v1::WidgetEventInfo) -> Self {
        Self {
            initiated_at: some(info.initiated_at.as_ref()),
            referer: &info.referer,
            widget_language: &info.widget_language,
            browser_language: &info.browser_language,
            browser: some(info.browser.as_ref()),
        }
    }
}

/// A [`Browser`] in the order in which the document lists its keys for this event.
#[derive(Serialize)]
struct WidgetBrowser<'a> {
    browser_name: &'a str,
    browser_version: &'a str,
    device_name: &'a str,
    platform_name: &'a str,
    platform_version: &'a str,
}

impl<'a> From<&'a v1::Browser> for WidgetBrowser<'a> {
    fn from(browser: &'a v1::Browser) -> Self {
        let Browser { device_name, browser_name, platform_name, browser_version, platform_version } =
            browser.into();
        Self { browser_name, browser_version, device_name, platform_name, platform_version }
    }
}

/// The check refuses settings whose keys are those before them.
#[derive(Serialize)]
struct InboxWithSettings<'a> {
    #[serde(flatten)]
    inbox: Inbox<'a>,
    #[serde(flatten)]
    settings: Object<'a>,
}

#[derive(Serialize)]
struct Typing<'a> {
    event: &'static str,
    user: Option<Sender<'a>>,
    conversation: Conversation<'a>,
    is_private: bool,
}
