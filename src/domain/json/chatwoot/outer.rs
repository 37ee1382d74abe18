//! Records as Chatwoot's webhooks write them (`webhook_data`): at the top level, and directly below it.

use serde::Serialize;

use super::{
    super::{
        content_type,
        documented::objects::{Account, AgentBot, Browser, Inbox, InitiatedAt, User, some},
        message_type,
        time::{Iso, unix_fraction, unix_seconds},
        value::Object,
    },
    inner::{self, Attachment},
    told,
};
use crate::proto::v1::{self, MessageType, sender::Kind};

/// A contact. Other than the one inside it has no type.
#[derive(Serialize)]
pub(super) struct Contact<'a> {
    account: Option<Account<'a>>,
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

/// Comes out as the object itself.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Sender<'a> {
    Contact(Contact<'a>),
    User(WithExtra<'a, User<'a>>),
    AgentBot(WithExtra<'a, AgentBot<'a>>),
}

/// A documented object with its further keys.
#[derive(Serialize)]
pub(super) struct WithExtra<'a, T: Serialize> {
    #[serde(flatten)]
    record: T,
    #[serde(flatten)]
    extra: Object<'a>,
}

/// `{}` where nothing is known. The check refuses further keys that are equal to these.
#[derive(Serialize)]
struct AdditionalAttributes<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    browser: Option<Browser<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    referer: Option<&'a str>,
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
    sender: Option<inner::Contact<'a>>,
    assignee: Option<inner::Assignee<'a>>,
    assignee_type: Option<&'static str>,
    team: Option<Team<'a>>,
    hmac_verified: Option<bool>,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
struct Team<'a> {
    id: i64,
    name: &'a str,
}

#[derive(Serialize)]
pub(super) struct Conversation<'a> {
    additional_attributes: AdditionalAttributes<'a>,
    can_reply: bool,
    channel: Option<&'a str>,
    contact_inbox: Option<ContactInbox<'a>>,
    id: i64,
    inbox_id: i64,
    messages: Vec<inner::Message<'a>>,
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
    account: AccountOf<'a>,
    #[serde(flatten)]
    extra: Object<'a>,
}

#[derive(Serialize)]
pub(super) struct Message<'a> {
    account: AccountOf<'a>,
    additional_attributes: Object<'a>,
    content_attributes: Object<'a>,
    content_type: &'a str,
    content: Option<&'a str>,
    conversation: Option<Conversation<'a>>,
    created_at: Option<Iso<'a>>,
    id: i64,
    inbox: Option<Inbox<'a>>,
    message_type: &'static str,
    private: bool,
    sender: Option<Sender<'a>>,
    source_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attachments: Vec<Attachment<'a>>,
    /// Here and below only where the publisher told the messages of the conversation as well: then what is set at the top is meant
    /// for the top. Chatwoot has no such keys there yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<Iso<'a>>,
    #[serde(flatten)]
    extra: Object<'a>,
}

/// The account that a record belongs to, as far as it is known.
#[derive(Serialize)]
#[serde(untagged)]
enum AccountOf<'a> {
    Told(Account<'a>),
    /// Its number is known from the conversation.
    Numbered { id: i64, name: &'static str },
    Unknown,
}

impl<'a> AccountOf<'a> {
    fn new(told: Option<&'a v1::Account>, conversation: Option<&v1::Conversation>) -> Self {
        match (told, conversation) {
            (Some(account), _) => Self::Told(account.into()),
            (None, Some(conversation)) => Self::Numbered { id: conversation.account_id, name: "" },
            (None, None) => Self::Unknown,
        }
    }
}

/// Who sent a message or types, of this account.
pub(super) fn sender<'a>(
    sender: Option<&'a v1::Sender>,
    account: Option<&'a v1::Account>,
) -> Option<Sender<'a>> {
    Some(match sender?.kind.as_ref()? {
        Kind::Contact(contact) => Sender::Contact(Contact::new(contact, account)),
        Kind::User(user) => {
            Sender::User(WithExtra { record: user.into(), extra: Object(user.extra.as_ref()) })
        }
        Kind::AgentBot(bot) => {
            Sender::AgentBot(WithExtra { record: bot.into(), extra: Object(bot.extra.as_ref()) })
        }
    })
}

impl<'a> Contact<'a> {
    /// A contact, of `account` where it does not say.
    pub(super) fn new(contact: &'a v1::Contact, account: Option<&'a v1::Account>) -> Self {
        Self {
            account: some(contact.account.as_ref().or(account)),
            additional_attributes: Object(contact.additional_attributes.as_ref()),
            avatar: &contact.avatar,
            custom_attributes: Object(contact.custom_attributes.as_ref()),
            email: contact.email.as_deref(),
            id: contact.id,
            identifier: contact.identifier.as_deref(),
            name: &contact.name,
            phone_number: contact.phone_number.as_deref(),
            thumbnail: &contact.thumbnail,
            blocked: contact.blocked,
            extra: Object(contact.extra.as_ref()),
        }
    }
}

impl<'a> From<Option<&'a v1::ConversationAttributes>> for AdditionalAttributes<'a> {
    fn from(attributes: Option<&'a v1::ConversationAttributes>) -> Self {
        Self {
            browser: some(attributes.and_then(|a| a.browser.as_ref())),
            referer: attributes.and_then(|a| told(&a.referer)),
            initiated_at: some(attributes.and_then(|a| a.initiated_at.as_ref())),
            extra: Object(attributes.and_then(|a| a.extra.as_ref())),
        }
    }
}

impl<'a> From<&'a v1::ContactInbox> for ContactInbox<'a> {
    fn from(link: &'a v1::ContactInbox) -> Self {
        Self {
            id: link.id,
            contact_id: link.contact_id,
            inbox_id: link.inbox_id,
            source_id: &link.source_id,
            created_at: link.created_at.as_ref().map(Iso),
            updated_at: link.updated_at.as_ref().map(Iso),
            hmac_verified: link.hmac_verified,
            pubsub_token: &link.pubsub_token,
            extra: Object(link.extra.as_ref()),
        }
    }
}

impl<'a> From<Option<&'a v1::ConversationMeta>> for Meta<'a> {
    fn from(meta: Option<&'a v1::ConversationMeta>) -> Self {
        let assignee = meta.and_then(inner::Assignee::of);
        Self {
            sender: some(meta.and_then(|m| m.sender.as_ref())),
            assignee_type: assignee.as_ref().map(inner::Assignee::kind),
            assignee,
            team: meta.and_then(|m| m.team.as_ref()).map(|team| Team { id: team.id, name: &team.name }),
            hmac_verified: meta.and_then(|m| m.hmac_verified),
            extra: Object(meta.and_then(|m| m.extra.as_ref())),
        }
    }
}

impl<'a> Conversation<'a> {
    /// A conversation with its last message, of `account` where it does not say.
    pub(super) fn new(conversation: &'a v1::Conversation, account: Option<&'a v1::Account>) -> Self {
        Self::with(conversation, account, conversation.messages.last())
    }

    /// A conversation of which `message` is the last one unless it has one of its own.
    fn with(
        conversation: &'a v1::Conversation,
        account: Option<&'a v1::Account>,
        message: Option<&'a v1::Message>,
    ) -> Self {
        let last_activity = conversation.last_activity_at.as_ref().or(conversation.timestamp.as_ref());
        let timestamp = conversation.timestamp.as_ref().or(conversation.last_activity_at.as_ref());
        Self {
            additional_attributes: conversation.additional_attributes.as_ref().into(),
            can_reply: conversation.can_reply,
            channel: told(&conversation.channel),
            contact_inbox: some(conversation.contact_inbox.as_ref()),
            id: conversation.id,
            inbox_id: conversation.inbox_id,
            messages: message.map(|message| inner::Message::new(message, conversation)).into_iter().collect(),
            labels: &conversation.labels,
            meta: conversation.meta.as_ref().into(),
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
            account: AccountOf::new(conversation.account.as_ref().or(account), Some(conversation)),
            extra: Object(conversation.extra.as_ref()),
        }
    }
}

impl<'a> From<&'a v1::Message> for Message<'a> {
    fn from(message: &'a v1::Message) -> Self {
        let within = message.conversation.as_ref();
        let account = message.account.as_ref().or(within.and_then(|within| within.account.as_ref()));
        let tells_messages = within.is_some_and(|within| !within.messages.is_empty());
        Self {
            account: AccountOf::new(account, within),
            additional_attributes: Object(message.additional_attributes.as_ref()),
            content_attributes: Object(message.content_attributes.as_ref()),
            content_type: content_type(message),
            content: message.content.as_deref(),
            conversation: within.map(|within| {
                Conversation::with(within, account, within.messages.last().or(Some(message)))
            }),
            created_at: message.created_at.as_ref().map(Iso),
            id: message.id,
            inbox: some(message.inbox.as_ref()),
            message_type: match message_type(message) {
                MessageType::Outgoing => "outgoing",
                MessageType::Activity => "activity",
                MessageType::Template => "template",
                MessageType::Incoming | MessageType::Unspecified => "incoming",
            },
            private: message.private,
            sender: sender(message.sender.as_ref(), account),
            source_id: message.source_id.as_deref(),
            attachments: message.attachments.iter().map(Attachment::from).collect(),
            status: told(&message.status).filter(|_| tells_messages),
            updated_at: message.updated_at.as_ref().filter(|_| tells_messages).map(Iso),
            extra: Object(message.extra.as_ref()),
        }
    }
}
