//! Records as Chatwoot's live connection writes them (`push_event_data`): in `conversation.messages` and `conversation.meta`.

use serde::Serialize;

use super::super::{
    content_type, message_type,
    time::{Iso, unix_seconds},
    value::Object,
};
use crate::proto::v1::{self, sender::Kind};

/// A contact, with a type and without its account.
#[derive(Serialize)]
pub(super) struct Contact<'a> {
    additional_attributes: Object<'a>,
    custom_attributes: Object<'a>,
    email: Option<&'a str>,
    id: i64,
    identifier: Option<&'a str>,
    name: &'a str,
    phone_number: Option<&'a str>,
    thumbnail: &'a str,
    blocked: bool,
    r#type: &'static str,
    #[serde(flatten)]
    extra: Object<'a>,
}

/// A user, without the address.
#[derive(Serialize)]
pub(super) struct User<'a> {
    id: i64,
    name: &'a str,
    available_name: &'a str,
    avatar_url: &'a str,
    r#type: &'static str,
    availability_status: Option<&'a str>,
    thumbnail: &'a str,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
pub(super) struct AgentBot<'a> {
    id: i64,
    name: &'a str,
    avatar_url: &'a str,
    r#type: &'static str,
    #[serde(flatten)]
    extra: Object<'a>,
}

/// Who answers in a conversation.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Assignee<'a> {
    User(User<'a>),
    AgentBot(AgentBot<'a>),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Sender<'a> {
    Contact(Contact<'a>),
    User(User<'a>),
    AgentBot(AgentBot<'a>),
}

#[derive(Serialize)]
struct WithinConversation<'a> {
    assignee_id: Option<i64>,
    unread_count: i32,
    last_activity_at: i64,
    contact_inbox: Source<'a>,
}

#[derive(Serialize)]
struct Source<'a> {
    source_id: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct Message<'a> {
    id: i64,
    content: Option<&'a str>,
    account_id: i64,
    inbox_id: i64,
    conversation_id: i64,
    message_type: i32,
    created_at: i64,
    updated_at: Option<Iso<'a>>,
    private: bool,
    status: &'a str,
    source_id: Option<&'a str>,
    content_type: &'a str,
    content_attributes: Object<'a>,
    sender_type: Option<&'static str>,
    sender_id: Option<i64>,
    external_source_ids: Object<'a>,
    additional_attributes: Object<'a>,
    processed_message_content: Option<&'a str>,
    sentiment: Object<'a>,
    conversation: WithinConversation<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Attachment<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<Sender<'a>>,
    #[serde(flatten)]
    extra: Object<'a>,
}

/// A file, a place or a card. Both ways of writing a message have the same. Which keys there are hangs on the kind.
#[derive(Serialize)]
pub(super) struct Attachment<'a> {
    id: i64,
    message_id: i64,
    file_type: &'a str,
    account_id: i64,
    meta: Object<'a>,
    #[serde(flatten)]
    file: Option<File<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_url: Option<&'a str>,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
struct File<'a> {
    extension: Option<&'a str>,
    thumb_url: &'a str,
    file_size: i64,
    width: Option<i32>,
    height: Option<i32>,
}

impl<'a> From<&'a v1::Contact> for Contact<'a> {
    fn from(contact: &'a v1::Contact) -> Self {
        Self {
            additional_attributes: Object(contact.additional_attributes.as_ref()),
            custom_attributes: Object(contact.custom_attributes.as_ref()),
            email: contact.email.as_deref(),
            id: contact.id,
            identifier: contact.identifier.as_deref(),
            name: &contact.name,
            phone_number: contact.phone_number.as_deref(),
            thumbnail: &contact.thumbnail,
            blocked: contact.blocked,
            r#type: "contact",
            extra: Object(contact.extra.as_ref()),
        }
    }
}

impl<'a> From<&'a v1::User> for User<'a> {
    fn from(user: &'a v1::User) -> Self {
        Self {
            id: user.id,
            name: &user.name,
            available_name: if user.available_name.is_empty() { &user.name } else { &user.available_name },
            avatar_url: &user.avatar_url,
            r#type: "user",
            availability_status: user.availability_status.as_deref(),
            thumbnail: &user.thumbnail,
            extra: Object(user.extra.as_ref()),
        }
    }
}

impl<'a> From<&'a v1::AgentBot> for AgentBot<'a> {
    fn from(bot: &'a v1::AgentBot) -> Self {
        Self {
            id: bot.id,
            name: &bot.name,
            avatar_url: &bot.avatar_url,
            r#type: "agent_bot",
            extra: Object(bot.extra.as_ref()),
        }
    }
}

impl<'a> Assignee<'a> {
    /// The user, or else the bot.
    pub(super) fn of(meta: &'a v1::ConversationMeta) -> Option<Self> {
        let user = meta.assignee.as_ref().map(|user| Self::User(user.into()));
        user.or_else(|| meta.assignee_agent_bot.as_ref().map(|bot| Self::AgentBot(bot.into())))
    }

    /// The name of Chatwoot's class.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "User",
            Self::AgentBot(_) => "AgentBot",
        }
    }
}

impl<'a> Message<'a> {
    /// A message of `conversation`.
    pub(super) fn new(message: &'a v1::Message, conversation: &'a v1::Conversation) -> Self {
        let sender = message.sender.as_ref().and_then(|sender| sender.kind.as_ref());
        Self {
            id: message.id,
            content: message.content.as_deref(),
            account_id: message.account.as_ref().map_or(conversation.account_id, |account| account.id),
            inbox_id: message.inbox.as_ref().map_or(conversation.inbox_id, |inbox| inbox.id),
            conversation_id: conversation.id,
            // The contract numbers the types from 1, Chatwoot from 0.
            message_type: i32::from(message_type(message)) - 1,
            created_at: unix_seconds(message.created_at.as_ref()),
            updated_at: message.updated_at.as_ref().or(message.created_at.as_ref()).map(Iso),
            private: message.private,
            status: if message.status.is_empty() { "sent" } else { &message.status },
            source_id: message.source_id.as_deref(),
            content_type: content_type(message),
            content_attributes: Object(message.content_attributes.as_ref()),
            sender_type: sender.map(|kind| match kind {
                Kind::Contact(_) => "Contact",
                Kind::User(_) => "User",
                Kind::AgentBot(_) => "AgentBot",
            }),
            sender_id: sender.map(|kind| match kind {
                Kind::Contact(contact) => contact.id,
                Kind::User(user) => user.id,
                Kind::AgentBot(bot) => bot.id,
            }),
            external_source_ids: Object(message.external_source_ids.as_ref()),
            additional_attributes: Object(message.additional_attributes.as_ref()),
            processed_message_content: message.processed_message_content.as_deref().or(message.content.as_deref()),
            sentiment: Object(message.sentiment.as_ref()),
            conversation: conversation.into(),
            attachments: message.attachments.iter().map(Attachment::from).collect(),
            sender: sender.map(|kind| match kind {
                Kind::Contact(contact) => Sender::Contact(contact.into()),
                Kind::User(user) => Sender::User(user.into()),
                Kind::AgentBot(bot) => Sender::AgentBot(bot.into()),
            }),
            extra: Object(message.extra.as_ref()),
        }
    }
}

impl<'a> From<&'a v1::Conversation> for WithinConversation<'a> {
    fn from(conversation: &'a v1::Conversation) -> Self {
        let meta = conversation.meta.as_ref();
        let last_activity = conversation.last_activity_at.as_ref().or(conversation.timestamp.as_ref());
        Self {
            assignee_id: meta.and_then(|meta| meta.assignee.as_ref()).map(|user| user.id),
            unread_count: conversation.unread_count,
            last_activity_at: unix_seconds(last_activity),
            contact_inbox: Source {
                source_id: conversation.contact_inbox.as_ref().map(|link| link.source_id.as_str()),
            },
        }
    }
}

impl<'a> From<&'a v1::Attachment> for Attachment<'a> {
    fn from(attachment: &'a v1::Attachment) -> Self {
        let kind = attachment.file_type.as_str();
        Self {
            id: attachment.id,
            message_id: attachment.message_id,
            file_type: kind,
            account_id: attachment.account_id,
            meta: Object(attachment.meta.as_ref()),
            file: (!matches!(kind, "location" | "fallback" | "contact")).then(|| File {
                extension: attachment.extension.as_deref(),
                thumb_url: &attachment.thumb_url,
                file_size: attachment.file_size,
                width: attachment.width,
                height: attachment.height,
            }),
            data_url: (kind != "contact").then_some(&attachment.data_url),
            extra: Object(attachment.extra.as_ref()),
        }
    }
}
