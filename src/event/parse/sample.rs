//! The documentation's first sample, which message events have: ids are strings, the author is in `sender` or
//! `contact`, and a conversation is little more than its number.

use super::fields::Fields;
use crate::proto::v1::{self, MessageType, sender::Kind};

impl Fields<'_> {
    /// A message at the top level.
    pub(super) fn into_sample_message(mut self) -> v1::Message {
        let message_type = self.message_type();
        let contact = self.record("contact").map(Fields::into_sample_contact);
        let agent = self.record("sender").map(Fields::into_sample_agent);
        let mut conversation = self.record("conversation").map(Fields::into_sample_conversation);
        // The contact wrote what no agent wrote. Notes of the system have no author.
        let of_contact =
            contact.clone().filter(|_| conversation.is_none() || message_type == MessageType::Incoming);
        if let Some(conversation) = &mut conversation {
            let meta =
                |contact| v1::ConversationMeta { sender: Some(contact), ..v1::ConversationMeta::default() };
            conversation.meta = contact.map(meta);
        }
        let author = agent.map(Kind::User).or(of_contact.map(Kind::Contact));
        v1::Message {
            id: self.text_integer("id"),
            content: self.optional_text("content").filter(|text| !text.is_empty()),
            message_type: message_type.into(),
            created_at: self.sample_time("created_at"),
            source_id: self.optional_text("source_id").filter(|text| !text.is_empty()),
            content_type: self.text("content_type"),
            content_attributes: self.object("content_attributes"),
            sender: author.map(|kind| v1::Sender { kind: Some(kind) }),
            account: self.record("account").map(Fields::into_sample_account),
            conversation,
            extra: self.rest(),
            ..v1::Message::default()
        }
    }

    fn into_sample_agent(mut self) -> v1::User {
        v1::User {
            id: self.text_integer("id"),
            name: self.text("name"),
            email: self.text("email"),
            extra: self.rest(),
            ..v1::User::default()
        }
    }

    fn into_sample_contact(mut self) -> v1::Contact {
        v1::Contact {
            id: self.text_integer("id"),
            name: self.text("name"),
            extra: self.rest(),
            ..v1::Contact::default()
        }
    }

    fn into_sample_account(mut self) -> v1::Account {
        v1::Account { id: self.account_text("id"), name: self.text("name"), extra: self.rest() }
    }

    fn into_sample_conversation(mut self) -> v1::Conversation {
        v1::Conversation {
            id: self.text_integer("display_id"),
            additional_attributes: self.record("additional_attributes").map(Fields::into_sample_attributes),
            extra: self.rest(),
            ..v1::Conversation::default()
        }
    }

    /// The documented attributes, except that `initiated_at` is a string.
    fn into_sample_attributes(mut self) -> v1::ConversationAttributes {
        let timestamp = self.text("initiated_at");
        let initiated_at = v1::InitiatedAt { timestamp, extra: None };
        v1::ConversationAttributes {
            browser: self.record("browser").map(Fields::into_browser),
            referer: self.text("referer"),
            initiated_at: Some(initiated_at).filter(|at| !at.timestamp.is_empty()),
            extra: self.rest(),
        }
    }
}
