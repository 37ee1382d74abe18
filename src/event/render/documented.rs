//! The documented form: the document's section "Webhook Events".
//!
//! Event types that the document does not name follow its rule: `event`, then the record's documented keys.
//! Two of them have no record in the document. An inbox event is `event`, the inbox's documented keys (which
//! identify the inbox), then the keys of its settings, sorted. A typing event is `event`, `user`,
//! `conversation`, `is_private`.
//!
//! Fields that the contract numbers from 30 do not come out in this form.

use serde::{Serialize, Serializer, ser::SerializeMap};

use self::objects::{Account, Browser, Contact, Conversation, Inbox, InitiatedAt, Message, Sender, sender};
use super::{
    shared::{required, some, write},
    value::{Object, Value},
};
use crate::{
    event::catalogue::{Parts, Record},
    proto::v1,
};

pub(super) mod objects;

/// The documented body of an event.
pub(super) fn render(parts: &Parts<'_>) -> Vec<u8> {
    let event = parts.descriptor.name;
    match &parts.record {
        Record::Conversation(record) => flat(parts, Conversation::from(required(*record))),
        Record::Message(record) => flat(parts, Message::from(required(*record))),
        Record::Contact(record) => flat(parts, Contact::from(required(*record))),
        Record::Inbox { inbox, settings } => {
            flat(parts, InboxWithSettings { inbox: (*inbox).into(), settings: Object(*settings) })
        }
        Record::Typing(typing) => write(&Typing {
            event,
            user: sender(typing.user),
            conversation: required(typing.conversation).into(),
            is_private: typing.is_private,
        }),
        Record::Widget(widget) => write(&WebwidgetTriggered::new(event, widget)),
        // It has one form only.
        Record::Other(other) => other.json.clone(),
    }
}

fn flat<R: Serialize>(parts: &Parts<'_>, record: R) -> Vec<u8> {
    let changes = parts.descriptor.documented_changes.value(parts.changes);
    let changed_attributes = changes.map(|changes| changes.map(Changes));
    write(&Flat { event: parts.descriptor.name, changed_attributes, record })
}

/// One flat object: the event's name, the changed attributes if the event type lists them, and the record's
/// keys.
#[derive(Serialize)]
struct Flat<'a, R: Serialize> {
    event: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[expect(clippy::option_option, reason = "an absent key and null are different JSON")]
    changed_attributes: Option<Option<Changes<'a>>>,
    #[serde(flatten)]
    record: R,
}

/// An array of one object per changed attribute.
struct Changes<'a>(&'a [v1::AttributeChange]);

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

/// `event` is not the first key of this event type.
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

impl<'a> WebwidgetTriggered<'a> {
    fn new(event: &'static str, e: &'a v1::WebwidgetTriggered) -> Self {
        Self {
            id: e.id,
            contact: required(e.contact.as_ref()).into(),
            inbox: required(e.inbox.as_ref()).into(),
            account: required(e.account.as_ref()).into(),
            current_conversation: some(e.current_conversation.as_ref()),
            source_id: &e.source_id,
            event,
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

/// The check refuses settings with keys of the event or the inbox.
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
