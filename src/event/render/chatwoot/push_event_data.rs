//! Records as Chatwoot's live connection writes them (`push_event_data`): in `conversation.messages` and
//! `conversation.meta`.

use serde::Serialize;

use super::shared::{Attachment, CaptainAssistant, non_empty, or_else};
use crate::{
    event::render::{
        shared::{content_type, message_type},
        time::{Iso, unix_seconds},
        value::Object,
    },
    proto::v1::{self, sender::Kind},
};

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

/// The agent or bot that a conversation is assigned to.
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
    CaptainAssistant(CaptainAssistant<'a>),
}

/// The state of its conversation that a message carries.
#[derive(Serialize)]
struct ConversationState<'a> {
    assignee_id: Option<i64>,
    unread_count: i32,
    last_activity_at: i64,
    contact_inbox: Source<'a>,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
struct Source<'a> {
    source_id: &'a str,
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
    sender_type: Option<&'a str>,
    sender_id: Option<i64>,
    external_source_ids: Object<'a>,
    additional_attributes: Object<'a>,
    processed_message_content: Option<&'a str>,
    sentiment: Object<'a>,
    conversation: ConversationState<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Attachment<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<Sender<'a>>,
    #[serde(flatten)]
    extra: Object<'a>,
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
            thumbnail: or_else(&contact.thumbnail, &contact.avatar),
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
            available_name: or_else(&user.available_name, &user.name),
            avatar_url: or_else(&user.avatar_url, &user.thumbnail),
            r#type: "user",
            availability_status: user.availability_status.as_deref(),
            thumbnail: or_else(&user.thumbnail, &user.avatar_url),
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

impl<'a> From<&'a Kind> for Sender<'a> {
    fn from(kind: &'a Kind) -> Self {
        match kind {
            Kind::Contact(contact) => Self::Contact(contact.into()),
            Kind::User(user) => Self::User(user.into()),
            Kind::AgentBot(bot) => Self::AgentBot(bot.into()),
            Kind::CaptainAssistant(assistant) => Self::CaptainAssistant(assistant.into()),
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
    /// A message of `conversation`, which is in this inbox.
    pub(super) fn new(message: &'a v1::Message, conversation: &'a v1::Conversation, inbox_id: i64) -> Self {
        let sender = message.sender.as_ref().and_then(|sender| sender.kind.as_ref());
        let (sender_type, sender_id) = match sender.map(class_and_id) {
            Some((class, id)) => (Some(class), Some(id)),
            None => (message.sender_type.as_deref(), message.sender_id),
        };
        Self {
            id: message.id,
            content: message.content.as_deref(),
            account_id: conversation.account_id,
            inbox_id,
            conversation_id: conversation.id,
            // The contract numbers the types from 1, Chatwoot from 0.
            message_type: i32::from(message_type(message)) - 1,
            created_at: unix_seconds(message.created_at.as_ref()),
            updated_at: message.updated_at.as_ref().or(message.created_at.as_ref()).map(Iso),
            private: message.private,
            status: or_else(&message.status, "sent"),
            source_id: message.source_id.as_deref().and_then(non_empty),
            content_type: content_type(message),
            content_attributes: Object(message.content_attributes.as_ref()),
            sender_type,
            sender_id,
            external_source_ids: Object(message.external_source_ids.as_ref()),
            additional_attributes: Object(message.additional_attributes.as_ref()),
            processed_message_content: message
                .processed_message_content
                .as_deref()
                .or(message.content.as_deref()),
            sentiment: Object(message.sentiment.as_ref()),
            conversation: match &message.conversation_told {
                Some(state) => state.into(),
                None => conversation.into(),
            },
            attachments: message.attachments.iter().map(Attachment::from).collect(),
            sender: sender.map(Sender::from),
            extra: Object(message.extra.as_ref()),
        }
    }
}

/// The name of Chatwoot's class, and the id in it.
fn class_and_id(sender: &Kind) -> (&'static str, i64) {
    match sender {
        Kind::Contact(contact) => ("Contact", contact.id),
        Kind::User(user) => ("User", user.id),
        Kind::AgentBot(bot) => ("AgentBot", bot.id),
        Kind::CaptainAssistant(assistant) => ("Captain::Assistant", assistant.id),
    }
}

impl<'a> From<&'a v1::MessageConversation> for ConversationState<'a> {
    fn from(state: &'a v1::MessageConversation) -> Self {
        Self {
            assignee_id: state.assignee_id,
            unread_count: state.unread_count,
            last_activity_at: unix_seconds(state.last_activity_at.as_ref()),
            contact_inbox: Source { source_id: &state.source_id },
            extra: Object(state.extra.as_ref()),
        }
    }
}

impl<'a> From<&'a v1::Conversation> for ConversationState<'a> {
    fn from(conversation: &'a v1::Conversation) -> Self {
        let meta = conversation.meta.as_ref();
        let last_activity = conversation.last_activity_at.as_ref().or(conversation.timestamp.as_ref());
        Self {
            assignee_id: meta.and_then(|meta| meta.assignee.as_ref()).map(|user| user.id),
            unread_count: conversation.unread_count,
            last_activity_at: unix_seconds(last_activity),
            contact_inbox: Source {
                source_id: conversation.contact_inbox.as_ref().map_or("", |link| &link.source_id),
            },
            extra: Object(None),
        }
    }
}
