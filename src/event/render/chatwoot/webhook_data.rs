//! Records as Chatwoot's webhooks write them (`webhook_data`): at the top level, and directly below it.

use serde::Serialize;

use super::{
    push_event_data,
    shared::{Attachment, Browser, CaptainAssistant, InitiatedAt, Named, non_empty, or_else},
};
use crate::{
    event::render::{
        shared::{content_type, message_type, some},
        time::{Iso, unix_fraction, unix_seconds},
        value::Object,
    },
    proto::v1::{self, MessageType, sender::Kind},
};

/// A contact. Unlike the one of `push_event_data` it has no type.
#[derive(Serialize)]
pub(super) struct Contact<'a> {
    account: Option<Named<'a>>,
    additional_attributes: Object<'a>,
    avatar: &'a str,
    custom_attributes: Object<'a>,
    email: Option<&'a str>,
    id: i64,
    identifier: Option<&'a str>,
    name: &'a str,
    phone_number: Option<&'a str>,
    thumbnail: &'a str,
    blocked: bool,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
pub(super) struct User<'a> {
    id: i64,
    name: &'a str,
    email: &'a str,
    r#type: &'static str,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
pub(super) struct AgentBot<'a> {
    id: i64,
    name: &'a str,
    r#type: &'static str,
    #[serde(flatten)]
    extra: Object<'a>,
}

/// Comes out as the object itself.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Sender<'a> {
    Contact(Contact<'a>),
    User(User<'a>),
    AgentBot(AgentBot<'a>),
    CaptainAssistant(CaptainAssistant<'a>),
}

/// `{}` if nothing is set. Conversations of a website have `referer`, which may be null; those of other
/// channels do not.
#[derive(Serialize)]
struct AdditionalAttributes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    browser: Option<Browser<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initiated_at: Option<InitiatedAt<'a>>,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
struct ContactInbox<'a> {
    id: i64,
    contact_id: i64,
    inbox_id: i64,
    source_id: &'a str,
    created_at: Option<Iso<'a>>,
    updated_at: Option<Iso<'a>>,
    hmac_verified: bool,
    pubsub_token: &'a str,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
struct Meta<'a> {
    sender: Option<push_event_data::Contact<'a>>,
    assignee: Option<push_event_data::Assignee<'a>>,
    assignee_type: Option<&'static str>,
    team: Option<Named<'a>>,
    hmac_verified: Option<bool>,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
pub(super) struct Conversation<'a> {
    additional_attributes: AdditionalAttributes<'a>,
    can_reply: bool,
    channel: Option<&'a str>,
    contact_inbox: ContactInbox<'a>,
    id: i64,
    inbox_id: i64,
    /// One, or none.
    messages: Vec<push_event_data::Message<'a>>,
    labels: &'a [String],
    meta: Meta<'a>,
    status: &'a str,
    custom_attributes: Object<'a>,
    snoozed_until: Option<Iso<'a>>,
    unread_count: i32,
    first_reply_created_at: Option<Iso<'a>>,
    priority: Option<&'a str>,
    waiting_since: i64,
    agent_last_seen_at: i64,
    contact_last_seen_at: i64,
    last_activity_at: i64,
    timestamp: i64,
    created_at: i64,
    updated_at: f64,
    account: Option<Named<'a>>,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
pub(super) struct Message<'a> {
    account: Option<Named<'a>>,
    additional_attributes: Object<'a>,
    content_attributes: Object<'a>,
    content_type: &'a str,
    content: Option<&'a str>,
    conversation: Option<Conversation<'a>>,
    created_at: Option<Iso<'a>>,
    id: i64,
    inbox: Option<Named<'a>>,
    message_type: &'static str,
    private: bool,
    sender: Option<Sender<'a>>,
    source_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Attachment<'a>>,
    /// Rendered only if the publisher sets it, like the next key: Chatwoot has neither here.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<Iso<'a>>,
    #[serde(flatten)]
    extra: Object<'a>,
}

/// The sender of a message, or the person who types, of this account.
pub(super) fn sender<'a>(sender: Option<&'a v1::Sender>, account: Option<Named<'a>>) -> Option<Sender<'a>> {
    Some(match sender?.kind.as_ref()? {
        Kind::Contact(contact) => Sender::Contact(Contact::new(contact, account)),
        Kind::User(user) => Sender::User(user.into()),
        Kind::AgentBot(bot) => Sender::AgentBot(bot.into()),
        Kind::CaptainAssistant(assistant) => Sender::CaptainAssistant(assistant.into()),
    })
}

impl<'a> Contact<'a> {
    /// A contact, of `account` unless it names another.
    pub(super) fn new(contact: &'a v1::Contact, account: Option<Named<'a>>) -> Self {
        Self {
            account: some(contact.account.as_ref()).or(account),
            additional_attributes: Object(contact.additional_attributes.as_ref()),
            avatar: or_else(&contact.avatar, &contact.thumbnail),
            custom_attributes: Object(contact.custom_attributes.as_ref()),
            email: contact.email.as_deref(),
            id: contact.id,
            identifier: contact.identifier.as_deref(),
            name: &contact.name,
            phone_number: contact.phone_number.as_deref(),
            thumbnail: or_else(&contact.thumbnail, &contact.avatar),
            blocked: contact.blocked,
            extra: Object(contact.extra.as_ref()),
        }
    }
}

impl<'a> From<&'a v1::User> for User<'a> {
    fn from(user: &'a v1::User) -> Self {
        let extra = Object(user.extra.as_ref());
        Self { id: user.id, name: &user.name, email: &user.email, r#type: "user", extra }
    }
}

impl<'a> From<&'a v1::AgentBot> for AgentBot<'a> {
    fn from(bot: &'a v1::AgentBot) -> Self {
        Self { id: bot.id, name: &bot.name, r#type: "agent_bot", extra: Object(bot.extra.as_ref()) }
    }
}

impl<'a> From<Option<&'a v1::ConversationAttributes>> for AdditionalAttributes<'a> {
    fn from(attributes: Option<&'a v1::ConversationAttributes>) -> Self {
        Self {
            browser: some(attributes.and_then(|a| a.browser.as_ref())),
            referer: attributes
                .filter(|a| a.browser.is_some() || !a.referer.is_empty())
                .map(|a| non_empty(&a.referer)),
            initiated_at: some(attributes.and_then(|a| a.initiated_at.as_ref())),
            extra: Object(attributes.and_then(|a| a.extra.as_ref())),
        }
    }
}

impl<'a> ContactInbox<'a> {
    /// The link between the contact of a conversation and its inbox. Derived if the publisher leaves it out:
    /// every conversation of Chatwoot has one.
    fn of(conversation: &'a v1::Conversation, contact: Option<&'a v1::Contact>, inbox_id: i64) -> Self {
        let link = conversation.contact_inbox.as_ref();
        Self {
            id: link.map_or(0, |link| link.id),
            contact_id: link.map_or_else(|| contact.map_or(0, |contact| contact.id), |link| link.contact_id),
            inbox_id: link.map_or(inbox_id, |link| link.inbox_id),
            source_id: link.map_or("", |link| &link.source_id),
            created_at: link.and_then(|link| link.created_at.as_ref()).map(Iso),
            updated_at: link.and_then(|link| link.updated_at.as_ref()).map(Iso),
            hmac_verified: link.is_some_and(|link| link.hmac_verified),
            pubsub_token: link.map_or("", |link| &link.pubsub_token),
            extra: Object(link.and_then(|link| link.extra.as_ref())),
        }
    }
}

impl<'a> Meta<'a> {
    fn new(meta: Option<&'a v1::ConversationMeta>, contact: Option<&'a v1::Contact>) -> Self {
        let assignee = meta.and_then(push_event_data::Assignee::of);
        Self {
            sender: some(contact),
            assignee_type: assignee.as_ref().map(push_event_data::Assignee::kind),
            assignee,
            team: some(meta.and_then(|m| m.team.as_ref())),
            hmac_verified: meta.and_then(|m| m.hmac_verified),
            extra: Object(meta.and_then(|m| m.extra.as_ref())),
        }
    }
}

impl<'a> Conversation<'a> {
    /// A conversation with its last message, of `account` unless it names another.
    pub(super) fn new(conversation: &'a v1::Conversation, account: Option<Named<'a>>) -> Self {
        Self::with(conversation, account, None)
    }

    /// A conversation whose last message is `event`, unless it names another one, has none, or `event` is not shown.
    fn with(
        conversation: &'a v1::Conversation,
        account: Option<Named<'a>>,
        event: Option<&'a v1::Message>,
    ) -> Self {
        let last_activity = conversation.last_activity_at.as_ref().or(conversation.timestamp.as_ref());
        let timestamp = conversation.timestamp.as_ref().or(conversation.last_activity_at.as_ref());
        let shown = conversation.messages.iter().rev().find(is_shown);
        let message = shown.or(event.filter(|event| !conversation.no_messages && is_shown(event)));
        let contact = contact_of(conversation, event);
        let inbox_id = inbox_of(conversation, event.or(message));
        Self {
            additional_attributes: conversation.additional_attributes.as_ref().into(),
            can_reply: conversation.can_reply,
            channel: non_empty(&conversation.channel),
            contact_inbox: ContactInbox::of(conversation, contact, inbox_id),
            id: conversation.id,
            inbox_id,
            messages: message
                .map(|message| push_event_data::Message::new(message, conversation, inbox_id))
                .into_iter()
                .collect(),
            labels: &conversation.labels,
            meta: Meta::new(conversation.meta.as_ref(), contact),
            status: &conversation.status,
            custom_attributes: Object(conversation.custom_attributes.as_ref()),
            snoozed_until: conversation.snoozed_until.as_ref().map(Iso),
            unread_count: conversation.unread_count,
            first_reply_created_at: conversation.first_reply_created_at.as_ref().map(Iso),
            priority: conversation.priority.as_deref(),
            waiting_since: unix_seconds(conversation.waiting_since.as_ref()),
            agent_last_seen_at: unix_seconds(conversation.agent_last_seen_at.as_ref()),
            contact_last_seen_at: unix_seconds(conversation.contact_last_seen_at.as_ref()),
            last_activity_at: unix_seconds(last_activity),
            timestamp: unix_seconds(timestamp),
            created_at: unix_seconds(conversation.created_at.as_ref()),
            updated_at: unix_fraction(conversation.updated_at.as_ref()),
            account: account_of(conversation, account),
            extra: Object(conversation.extra.as_ref()),
        }
    }
}

/// Whether a conversation may have this as its last message. A private note must not be passed on by receivers that
/// read a conversation's messages.
fn is_shown(message: &&v1::Message) -> bool {
    !message.private && message_type(message) != MessageType::Activity
}

/// The end user of a conversation: its own field, or else the sender of the event's message, if that is a
/// contact.
fn contact_of<'a>(
    conversation: &'a v1::Conversation,
    event: Option<&'a v1::Message>,
) -> Option<&'a v1::Contact> {
    let own = conversation.meta.as_ref().and_then(|meta| meta.sender.as_ref());
    own.or_else(|| match event?.sender.as_ref()?.kind.as_ref()? {
        Kind::Contact(contact) => Some(contact),
        _ => None,
    })
}

/// The inbox of a conversation: its own field, or else that of its message.
fn inbox_of(conversation: &v1::Conversation, message: Option<&v1::Message>) -> i64 {
    let of_message = message.and_then(|message| message.inbox.as_ref()).map_or(0, |inbox| inbox.id);
    if conversation.inbox_id == 0 { of_message } else { conversation.inbox_id }
}

/// The account of a conversation: its own field, or `account`, or else the one with its account id.
pub(super) fn account_of<'a>(
    conversation: &'a v1::Conversation,
    account: Option<Named<'a>>,
) -> Option<Named<'a>> {
    some(conversation.account.as_ref()).or(account).or_else(|| Named::from_id(conversation.account_id))
}

impl<'a> From<&'a v1::Message> for Message<'a> {
    fn from(message: &'a v1::Message) -> Self {
        let within = message.conversation.as_ref();
        let account = some(message.account.as_ref());
        let account = account.or_else(|| account_of(within?, None));
        Self {
            account,
            additional_attributes: Object(message.additional_attributes.as_ref()),
            content_attributes: Object(message.content_attributes.as_ref()),
            content_type: content_type(message),
            content: message.content.as_deref(),
            conversation: within.map(|within| Conversation::with(within, account, Some(message))),
            created_at: message.created_at.as_ref().map(Iso),
            id: message.id,
            inbox: some(message.inbox.as_ref()).or_else(|| Named::from_id(within?.inbox_id)),
            message_type: match message_type(message) {
                MessageType::Outgoing => "outgoing",
                MessageType::Activity => "activity",
                MessageType::Template => "template",
                MessageType::Incoming | MessageType::Unspecified => "incoming",
            },
            private: message.private,
            sender: sender(message.sender.as_ref(), account),
            source_id: message.source_id.as_deref().and_then(non_empty),
            attachments: message.attachments.iter().map(Attachment::from).collect(),
            status: non_empty(&message.status).filter(|_| message.status_at_top),
            updated_at: message.updated_at.as_ref().filter(|_| message.status_at_top).map(Iso),
            extra: Object(message.extra.as_ref()),
        }
    }
}
