//! The sample form: the document's first "A sample webhook payload", which message events have.
//!
//! Its ids are strings. `sender` is "the agent who sent this message": a user, or a bot (with an empty
//! address); null if the end user wrote the message: the user is in `contact`. `created_at` is null when
//! unset, as every date of the documented form is. Further attributes of a conversation are rendered next to
//! the documented ones.

use serde::{Serialize, Serializer};

use super::{
    documented::objects::Browser,
    shared::{content_type, message_type, some, write},
    time::SampleTime,
    value::Object,
};
use crate::proto::v1::{self, MessageType, sender::Kind};

/// The body of a message event.
pub(super) fn render(event: &str, message: &v1::Message) -> Vec<u8> {
    write(&MessageEvent::new(event, message))
}

#[derive(Serialize)]
struct MessageEvent<'a> {
    event: &'a str,
    id: TextId,
    content: &'a str,
    created_at: Option<SampleTime<'a>>,
    message_type: &'static str,
    content_type: &'a str,
    content_attributes: Object<'a>,
    source_id: &'a str,
    sender: Option<Agent<'a>>,
    contact: Option<Named<'a>>,
    conversation: Option<Conversation<'a>>,
    account: Option<Named<'a>>,
}

#[derive(Serialize)]
struct Agent<'a> {
    id: TextId,
    name: &'a str,
    email: &'a str,
}

/// A contact or an account.
#[derive(Serialize)]
struct Named<'a> {
    id: TextId,
    name: &'a str,
}

#[derive(Serialize)]
struct Conversation<'a> {
    display_id: TextId,
    additional_attributes: AdditionalAttributes<'a>,
}

/// The documented attributes, except that `initiated_at` is a string here.
#[derive(Serialize)]
struct AdditionalAttributes<'a> {
    browser: Option<Browser<'a>>,
    referer: &'a str,
    initiated_at: &'a str,
    #[serde(flatten)]
    extra: Object<'a>,
}

/// An integer between quotes.
struct TextId(i64);

impl Serialize for TextId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'a> MessageEvent<'a> {
    fn new(event: &'a str, message: &'a v1::Message) -> Self {
        let sender = message.sender.as_ref().and_then(|sender| sender.kind.as_ref());
        Self {
            event,
            id: TextId(message.id),
            content: message.content(),
            created_at: message.created_at.as_ref().map(SampleTime),
            message_type: match message_type(message) {
                MessageType::Incoming => "incoming",
                MessageType::Outgoing => "outgoing",
                MessageType::Activity => "activity",
                MessageType::Template | MessageType::Unspecified => "template",
            },
            content_type: content_type(message),
            content_attributes: Object(message.content_attributes.as_ref()),
            source_id: message.source_id(),
            sender: sender.and_then(agent),
            contact: contact(message.conversation.as_ref(), sender),
            conversation: some(message.conversation.as_ref()),
            account: message.account.as_ref().map(|a| Named { id: TextId(a.id), name: &a.name }),
        }
    }
}

/// The agent among the senders.
fn agent(sender: &Kind) -> Option<Agent<'_>> {
    match sender {
        Kind::User(user) => Some(Agent { id: TextId(user.id), name: &user.name, email: &user.email }),
        Kind::AgentBot(bot) => Some(Agent { id: TextId(bot.id), name: &bot.name, email: "" }),
        // Assistants come out in Chatwoot's form only.
        Kind::Contact(_) | Kind::CaptainAssistant(_) => None,
    }
}

/// The conversation's contact, else the sender if it is one.
fn contact<'a>(conversation: Option<&'a v1::Conversation>, sender: Option<&'a Kind>) -> Option<Named<'a>> {
    let of_conversation = conversation.and_then(|c| c.meta.as_ref()).and_then(|meta| meta.sender.as_ref());
    let of_sender = match sender {
        Some(Kind::Contact(contact)) => Some(contact),
        _ => None,
    };
    let contact = of_conversation.or(of_sender)?;
    Some(Named { id: TextId(contact.id), name: &contact.name })
}

impl<'a> From<&'a v1::Conversation> for Conversation<'a> {
    fn from(conversation: &'a v1::Conversation) -> Self {
        Self {
            display_id: TextId(conversation.id),
            additional_attributes: conversation.additional_attributes.as_ref().into(),
        }
    }
}

impl<'a> From<Option<&'a v1::ConversationAttributes>> for AdditionalAttributes<'a> {
    fn from(attributes: Option<&'a v1::ConversationAttributes>) -> Self {
        let initiated_at = attributes.and_then(|a| a.initiated_at.as_ref());
        Self {
            browser: some(attributes.and_then(|a| a.browser.as_ref())),
            referer: attributes.map_or("", |a| &a.referer),
            initiated_at: initiated_at.map_or("", |i| &i.timestamp),
            extra: Object(attributes.and_then(|a| a.extra.as_ref())),
        }
    }
}
