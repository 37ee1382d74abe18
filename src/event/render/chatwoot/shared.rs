//! Records that Chatwoot writes in one way everywhere, and helpers of the others.

use serde::{Serialize, Serializer};

use crate::{
    event::render::{
        time::Iso,
        value::{Object, Value},
    },
    proto::v1,
};

/// The text, unless it is empty: the contract has no other way to leave it unset.
pub(super) fn non_empty(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// The text, or the other one if it is empty.
pub(super) fn or_else<'a>(text: &'a str, other: &'a str) -> &'a str {
    if text.is_empty() { other } else { text }
}

/// An account, an inbox or a team.
#[derive(Clone, Copy, Serialize)]
pub(super) struct Named<'a> {
    id: i64,
    name: &'a str,
    #[serde(flatten)]
    extra: Object<'a>,
}

impl<'a> From<&'a v1::Account> for Named<'a> {
    fn from(account: &'a v1::Account) -> Self {
        Self { id: account.id, name: &account.name, extra: Object(account.extra.as_ref()) }
    }
}

impl<'a> From<&'a v1::Inbox> for Named<'a> {
    fn from(inbox: &'a v1::Inbox) -> Self {
        Self { id: inbox.id, name: &inbox.name, extra: Object(inbox.extra.as_ref()) }
    }
}

impl<'a> From<&'a v1::Team> for Named<'a> {
    fn from(team: &'a v1::Team) -> Self {
        Self { id: team.id, name: &team.name, extra: Object(team.extra.as_ref()) }
    }
}

impl Named<'_> {
    /// One of which only the id is known; `None` if that is 0.
    pub(super) fn from_id(id: i64) -> Option<Self> {
        (id != 0).then_some(Self { id, name: "", extra: Object(None) })
    }
}

/// The same in `webhook_data` and `push_event_data`.
#[derive(Serialize)]
pub(super) struct CaptainAssistant<'a> {
    id: i64,
    name: &'a str,
    avatar_url: &'a str,
    description: &'a str,
    created_at: Option<Iso<'a>>,
    r#type: &'static str,
    #[serde(flatten)]
    extra: Object<'a>,
}

impl<'a> From<&'a v1::CaptainAssistant> for CaptainAssistant<'a> {
    fn from(assistant: &'a v1::CaptainAssistant) -> Self {
        Self {
            id: assistant.id,
            name: &assistant.name,
            avatar_url: &assistant.avatar_url,
            description: &assistant.description,
            created_at: assistant.created_at.as_ref().map(Iso),
            r#type: "captain_assistant",
            extra: Object(assistant.extra.as_ref()),
        }
    }
}

#[derive(Serialize)]
pub(super) struct Browser<'a> {
    device_name: &'a str,
    browser_name: &'a str,
    platform_name: &'a str,
    browser_version: &'a str,
    platform_version: &'a str,
    #[serde(flatten)]
    extra: Object<'a>,
}

impl<'a> From<&'a v1::Browser> for Browser<'a> {
    fn from(browser: &'a v1::Browser) -> Self {
        Self {
            device_name: &browser.device_name,
            browser_name: &browser.browser_name,
            platform_name: &browser.platform_name,
            browser_version: &browser.browser_version,
            platform_version: &browser.platform_version,
            extra: Object(browser.extra.as_ref()),
        }
    }
}

/// A [`Browser`] in the key order of `webwidget_triggered`.
#[derive(Serialize)]
pub(super) struct WidgetBrowser<'a> {
    browser_name: &'a str,
    browser_version: &'a str,
    device_name: &'a str,
    platform_name: &'a str,
    platform_version: &'a str,
    #[serde(flatten)]
    extra: Object<'a>,
}

impl<'a> From<&'a v1::Browser> for WidgetBrowser<'a> {
    fn from(browser: &'a v1::Browser) -> Self {
        let Browser { device_name, browser_name, platform_name, browser_version, platform_version, extra } =
            browser.into();
        Self { browser_name, browser_version, device_name, platform_name, platform_version, extra }
    }
}

#[derive(Serialize)]
pub(super) struct InitiatedAt<'a> {
    timestamp: &'a str,
    #[serde(flatten)]
    extra: Object<'a>,
}

impl<'a> From<&'a v1::InitiatedAt> for InitiatedAt<'a> {
    fn from(initiated_at: &'a v1::InitiatedAt) -> Self {
        Self { timestamp: &initiated_at.timestamp, extra: Object(initiated_at.extra.as_ref()) }
    }
}

/// A file, a location, a link or a card; the same in `webhook_data` and `push_event_data`. The keys depend on
/// the type: a file has its properties, a location and a link have a URL, a card has neither.
#[derive(Serialize)]
pub(super) struct Attachment<'a> {
    id: i64,
    message_id: i64,
    file_type: &'a str,
    account_id: i64,
    meta: Object<'a>,
    #[serde(flatten)]
    file: Option<File<'a>>,
    #[serde(flatten)]
    extra: Object<'a>,
    #[serde(flatten)]
    location: Option<Location<'a>>,
}

#[derive(Serialize)]
struct File<'a> {
    extension: Option<&'a str>,
    data_url: &'a str,
    thumb_url: &'a str,
    file_size: i64,
    width: Option<i32>,
    height: Option<i32>,
}

#[derive(Serialize)]
struct Location<'a> {
    data_url: Option<&'a str>,
}

impl<'a> From<&'a v1::Attachment> for Attachment<'a> {
    fn from(attachment: &'a v1::Attachment) -> Self {
        let (is_location, is_card) = match attachment.file_type.as_str() {
            "location" | "fallback" => (true, false),
            "contact" => (false, true),
            _ => (false, false),
        };
        Self {
            id: attachment.id,
            message_id: attachment.message_id,
            file_type: &attachment.file_type,
            account_id: attachment.account_id,
            meta: Object(attachment.meta.as_ref()),
            file: (!is_location && !is_card).then(|| File {
                extension: attachment.extension.as_deref(),
                data_url: &attachment.data_url,
                thumb_url: &attachment.thumb_url,
                file_size: attachment.file_size,
                width: attachment.width,
                height: attachment.height,
            }),
            extra: Object(attachment.extra.as_ref()),
            location: is_location.then(|| Location { data_url: non_empty(&attachment.data_url) }),
        }
    }
}

/// The settings of an inbox: first those of Chatwoot 4 in its order, then the others.
pub(super) struct Settings<'a>(pub(super) Option<&'a prost_types::Struct>);

const SETTINGS: [&str; 18] = [
    "allow_messages_after_resolved",
    "lock_to_single_conversation",
    "auto_assignment_config",
    "enable_auto_assignment",
    "enable_email_collect",
    "greeting_enabled",
    "greeting_message",
    "csat_survey_enabled",
    "business_name",
    "sender_name_type",
    "timezone",
    "out_of_office_message",
    "working_hours_enabled",
    "working_hours",
    "created_at",
    "updated_at",
    "channel",
    "account",
];

impl Serialize for Settings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.into_iter().flat_map(|settings| &settings.fields);
        let mut settings: Vec<_> = fields.map(|(key, value)| (key, Value(Some(value)))).collect();
        let position = |key: &str| SETTINGS.iter().position(|known| *known == key).unwrap_or(SETTINGS.len());
        settings.sort_by_key(|(key, _)| position(key));
        serializer.collect_map(settings)
    }
}
