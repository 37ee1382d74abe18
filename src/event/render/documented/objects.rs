//! The document's section "Objects": one struct for each, its fields in the document's order.

use serde::{Serialize, Serializer};

use crate::{
    event::render::{
        shared::{content_type, message_type, some},
        time::{Iso, unix_seconds},
        value::Object,
    },
    proto::v1::{self, sender::Kind},
};

#[derive(Serialize)]
pub(crate) struct Account<'a> {
    id: i64,
    name: &'a str,
}

#[derive(Serialize)]
pub(crate) struct Inbox<'a> {
    id: i64,
    name: &'a str,
}

#[derive(Serialize)]
pub(crate) struct Contact<'a> {
    id: i64,
    name: &'a str,
    avatar: &'a str,
    r#type: &'static str,
    account: Option<Account<'a>>,
}

#[derive(Serialize)]
pub(crate) struct User<'a> {
    id: i64,
    name: &'a str,
    email: &'a str,
    r#type: &'static str,
}

/// Not in the document: a user without an address.
#[derive(Serialize)]
pub(crate) struct AgentBot<'a> {
    id: i64,
    name: &'a str,
    r#type: &'static str,
}

/// Comes out as the object itself, which says its type.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Sender<'a> {
    Contact(Contact<'a>),
    User(User<'a>),
    AgentBot(AgentBot<'a>),
}

#[derive(Serialize)]
pub(crate) struct Browser<'a> {
    pub(crate) device_name: &'a str,
    pub(crate) browser_name: &'a str,
    pub(crate) platform_name: &'a str,
    pub(crate) browser_version: &'a str,
    pub(crate) platform_version: &'a str,
}

#[derive(Serialize)]
pub(crate) struct InitiatedAt<'a> {
    timestamp: &'a str,
}

/// Never null, even with nothing set. The check refuses further keys that equal these.
#[derive(Serialize)]
struct AdditionalAttributes<'a> {
    browser: Option<Browser<'a>>,
    referer: &'a str,
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
}

/// Never null, even with nothing set. The document has no bots as assignees: such a conversation has no
/// assignee in this form.
#[derive(Serialize)]
struct Meta<'a> {
    sender: Option<Contact<'a>>,
    assignee: Option<User<'a>>,
}

#[derive(Serialize)]
pub(crate) struct Conversation<'a> {
    additional_attributes: AdditionalAttributes<'a>,
    can_reply: bool,
    channel: &'a str,
    id: i64,
    inbox_id: i64,
    contact_inbox: Option<ContactInbox<'a>>,
    messages: Messages<'a>,
    meta: Meta<'a>,
    status: &'a str,
    unread_count: i32,
    agent_last_seen_at: i64,
    contact_last_seen_at: i64,
    timestamp: i64,
    account_id: i64,
}

#[derive(Serialize)]
pub(crate) struct Message<'a> {
    id: i64,
    content: &'a str,
    message_type: i32,
    created_at: i64,
    private: bool,
    source_id: Option<&'a str>,
    content_type: &'a str,
    content_attributes: Object<'a>,
    sender: Option<Sender<'a>>,
    account: Option<Account<'a>>,
    conversation: Option<Conversation<'a>>,
    inbox: Option<Inbox<'a>>,
}

/// Turned into [`Message`]s one by one: the two objects contain each other.
struct Messages<'a>(&'a [v1::Message]);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Message::from))
    }
}

/// The sender of a message, or the person who types. The document has no assistants: such a message has no
/// sender in this form.
pub(crate) fn sender(sender: Option<&v1::Sender>) -> Option<Sender<'_>> {
    match sender?.kind.as_ref()? {
        Kind::Contact(contact) => Some(Sender::Contact(contact.into())),
        Kind::User(user) => Some(Sender::User(user.into())),
        Kind::AgentBot(bot) => Some(Sender::AgentBot(bot.into())),
        Kind::CaptainAssistant(_) => None,
    }
}

impl<'a> From<&'a v1::Account> for Account<'a> {
    fn from(account: &'a v1::Account) -> Self {
        Self { id: account.id, name: &account.name }
    }
}

impl<'a> From<&'a v1::Inbox> for Inbox<'a> {
    fn from(inbox: &'a v1::Inbox) -> Self {
        Self { id: inbox.id, name: &inbox.name }
    }
}

/// With its keys also where no inbox is known.
impl<'a> From<Option<&'a v1::Inbox>> for Inbox<'a> {
    fn from(inbox: Option<&'a v1::Inbox>) -> Self {
        inbox.map_or(Self { id: 0, name: "" }, Self::from)
    }
}

impl<'a> From<&'a v1::Contact> for Contact<'a> {
    fn from(contact: &'a v1::Contact) -> Self {
        Self {
            id: contact.id,
            name: &contact.name,
            avatar: &contact.avatar,
            r#type: "contact",
            account: some(contact.account.as_ref()),
        }
    }
}

impl<'a> From<&'a v1::User> for User<'a> {
    fn from(user: &'a v1::User) -> Self {
        Self { id: user.id, name: &user.name, email: &user.email, r#type: "user" }
    }
}

impl<'a> From<&'a v1::AgentBot> for AgentBot<'a> {
    fn from(bot: &'a v1::AgentBot) -> Self {
        Self { id: bot.id, name: &bot.name, r#type: "agent_bot" }
    }
}

impl<'a> From<&'a v1::Browser> for Browser<'a> {
    fn from(browser: &'a v1::Browser) -> Self {
        Self {
            device_name: &browser.device_name,
            browser_name: &browser.browser_name,
            platform_name: &browser.platform_name,
            browser_version: &browser.browser_version,
            platform_version: &browser.platform_version,
        }
    }
}

impl<'a> From<&'a v1::InitiatedAt> for InitiatedAt<'a> {
    fn from(initiated_at: &'a v1::InitiatedAt) -> Self {
        Self { timestamp: &initiated_at.timestamp }
    }
}

impl<'a> From<Option<&'a v1::ConversationAttributes>> for AdditionalAttributes<'a> {
    fn from(attributes: Option<&'a v1::ConversationAttributes>) -> Self {
        Self {
            browser: some(attributes.and_then(|a| a.browser.as_ref())),
            referer: attributes.map_or("", |a| &a.referer),
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
        }
    }
}

impl<'a> From<Option<&'a v1::ConversationMeta>> for Meta<'a> {
    fn from(meta: Option<&'a v1::ConversationMeta>) -> Self {
        Self {
            sender: some(meta.and_then(|m| m.sender.as_ref())),
            assignee: some(meta.and_then(|m| m.assignee.as_ref())),
        }
    }
}

impl<'a> From<&'a v1::Conversation> for Conversation<'a> {
    fn from(conversation: &'a v1::Conversation) -> Self {
        Self {
            additional_attributes: conversation.additional_attributes.as_ref().into(),
            can_reply: conversation.can_reply,
            channel: &conversation.channel,
            id: conversation.id,
            inbox_id: conversation.inbox_id,
            contact_inbox: some(conversation.contact_inbox.as_ref()),
            messages: Messages(&conversation.messages),
            meta: conversation.meta.as_ref().into(),
            status: &conversation.status,
            unread_count: conversation.unread_count,
            agent_last_seen_at: unix_seconds(conversation.agent_last_seen_at.as_ref()),
            contact_last_seen_at: unix_seconds(conversation.contact_last_seen_at.as_ref()),
            timestamp: unix_seconds(conversation.timestamp.as_ref()),
            account_id: conversation.account_id,
        }
    }
}

impl<'a> From<&'a v1::Message> for Message<'a> {
    fn from(message: &'a v1::Message) -> Self {
        Self {
            id: message.id,
            content: message.content(),
            // The contract numbers the types from 1, the document from 0.
            message_type: i32::from(message_type(message)) - 1,
            created_at: unix_seconds(message.created_at.as_ref()),
            private: message.private,
            source_id: message.source_id.as_deref(),
            content_type: content_type(message),
            content_attributes: Object(message.content_attributes.as_ref()),
            sender: sender(message.sender.as_ref()),
            account: some(message.account.as_ref()),
            conversation: some(message.conversation.as_ref()),
            inbox: some(message.inbox.as_ref()),
        }
    }
}
