//! Chatwoot's records. Both of its ways to write one are read alike: they have other types for the same keys, and each value tells
//! its own.

use super::fields::Fields;
use crate::proto::v1::{self, MessageType, sender::Kind};

impl Fields<'_> {
    pub(super) fn into_account(mut self) -> v1::Account {
        v1::Account { id: self.integer("id"), name: self.text("name") }
    }

    pub(super) fn into_inbox(mut self) -> v1::Inbox {
        v1::Inbox { id: self.integer("id"), name: self.text("name") }
    }

    pub(super) fn into_contact(mut self) -> v1::Contact {
        self.optional_text("type");
        v1::Contact {
            id: self.integer("id"),
            name: self.text("name"),
            avatar: self.text("avatar"),
            account: self.record("account").map(Fields::into_account),
            email: self.optional_text("email"),
            phone_number: self.optional_text("phone_number"),
            identifier: self.optional_text("identifier"),
            thumbnail: self.text("thumbnail"),
            blocked: self.boolean("blocked"),
            additional_attributes: self.object("additional_attributes"),
            custom_attributes: self.object("custom_attributes"),
            extra: self.rest(),
        }
    }

    fn into_user(mut self) -> v1::User {
        self.optional_text("type");
        v1::User {
            id: self.integer("id"),
            name: self.text("name"),
            email: self.text("email"),
            available_name: self.text("available_name"),
            avatar_url: self.text("avatar_url"),
            availability_status: self.optional_text("availability_status"),
            thumbnail: self.text("thumbnail"),
            extra: self.rest(),
        }
    }

    fn into_bot(mut self) -> v1::AgentBot {
        self.optional_text("type");
        v1::AgentBot {
            id: self.integer("id"),
            name: self.text("name"),
            avatar_url: self.text("avatar_url"),
            extra: self.rest(),
        }
    }

    /// Whoever wrote or types: told by the type, which a contact at the top has not.
    pub(super) fn into_sender(mut self) -> Option<v1::Sender> {
        let kind = match self.optional_text("type").as_deref() {
            None | Some("contact") => Kind::Contact(self.into_contact()),
            Some("user") => Kind::User(self.into_user()),
            Some("agent_bot") => Kind::AgentBot(self.into_bot()),
            Some(_) => {
                self.fault("type", "must be contact, user or agent_bot");
                return None;
            }
        };
        Some(v1::Sender { kind: Some(kind) })
    }

    fn into_browser(mut self) -> v1::Browser {
        v1::Browser {
            device_name: self.text("device_name"),
            browser_name: self.text("browser_name"),
            platform_name: self.text("platform_name"),
            browser_version: self.text("browser_version"),
            platform_version: self.text("platform_version"),
        }
    }

    fn into_initiated_at(mut self) -> v1::InitiatedAt {
        v1::InitiatedAt { timestamp: self.text("timestamp") }
    }

    fn into_attributes(mut self) -> v1::ConversationAttributes {
        v1::ConversationAttributes {
            browser: self.record("browser").map(Fields::into_browser),
            referer: self.text("referer"),
            initiated_at: self.record("initiated_at").map(Fields::into_initiated_at),
            extra: self.rest(),
        }
    }

    pub(super) fn into_event_info(mut self) -> v1::WidgetEventInfo {
        v1::WidgetEventInfo {
            initiated_at: self.record("initiated_at").map(Fields::into_initiated_at),
            referer: self.text("referer"),
            widget_language: self.text("widget_language"),
            browser_language: self.text("browser_language"),
            browser: self.record("browser").map(Fields::into_browser),
            extra: self.rest(),
        }
    }

    fn into_contact_inbox(mut self) -> v1::ContactInbox {
        v1::ContactInbox {
            id: self.integer("id"),
            contact_id: self.integer("contact_id"),
            inbox_id: self.integer("inbox_id"),
            source_id: self.text("source_id"),
            created_at: self.time("created_at"),
            updated_at: self.time("updated_at"),
            hmac_verified: self.boolean("hmac_verified"),
            pubsub_token: self.text("pubsub_token"),
            extra: self.rest(),
        }
    }

    fn into_meta(mut self) -> v1::ConversationMeta {
        let (mut assignee, mut assignee_agent_bot) = (None, None);
        match self.record("assignee").and_then(Fields::into_sender).and_then(|sender| sender.kind) {
            Some(Kind::User(user)) => assignee = Some(user),
            Some(Kind::AgentBot(bot)) => assignee_agent_bot = Some(bot),
            Some(Kind::Contact(_)) => self.fault("assignee.type", "must be user or agent_bot"),
            None => {}
        }
        // Told by the assignee itself.
        self.optional_text("assignee_type");
        v1::ConversationMeta {
            sender: self.record("sender").map(Fields::into_contact),
            assignee,
            assignee_agent_bot,
            team: self
                .record("team")
                .map(|mut team| v1::Team { id: team.integer("id"), name: team.text("name") }),
            hmac_verified: self.optional_boolean("hmac_verified"),
            extra: self.rest(),
        }
    }

    pub(super) fn into_conversation(mut self) -> v1::Conversation {
        let account = self.record("account").map(Fields::into_account);
        let mut messages = self.records("messages", |message| message.into_inner_message());
        let numbered = messages.last().map_or(0, |message| message.account_id);
        let account_id = account.as_ref().map_or(numbered, |account| account.id);
        v1::Conversation {
            additional_attributes: self.record("additional_attributes").map(Fields::into_attributes),
            can_reply: self.boolean("can_reply"),
            channel: self.text("channel"),
            id: self.integer("id"),
            inbox_id: self.integer("inbox_id"),
            contact_inbox: self.record("contact_inbox").map(Fields::into_contact_inbox),
            messages: messages.drain(..).map(|inner| inner.message).collect(),
            meta: self.record("meta").map(Fields::into_meta),
            status: self.text("status"),
            unread_count: self.optional_small("unread_count").unwrap_or_default(),
            agent_last_seen_at: self.time_or_never("agent_last_seen_at"),
            contact_last_seen_at: self.time_or_never("contact_last_seen_at"),
            timestamp: self.time_or_never("timestamp"),
            account_id,
            labels: self.texts("labels"),
            custom_attributes: self.object("custom_attributes"),
            snoozed_until: self.time("snoozed_until"),
            first_reply_created_at: self.time("first_reply_created_at"),
            priority: self.optional_text("priority"),
            waiting_since: self.time_or_never("waiting_since"),
            last_activity_at: self.time_or_never("last_activity_at"),
            created_at: self.time_or_never("created_at"),
            updated_at: self.time_or_never("updated_at"),
            account,
            extra: self.rest(),
        }
    }

    /// A message at the top.
    pub(super) fn into_message(mut self) -> v1::Message {
        let account = self.record("account").map(Fields::into_account);
        let inbox = self.record("inbox").map(Fields::into_inbox);
        let mut conversation = self.record("conversation").map(Fields::into_conversation);
        if let (Some(conversation), Some(account)) = (&mut conversation, &account)
            && conversation.account_id == 0
        {
            conversation.account_id = account.id;
        }
        v1::Message { account, inbox, conversation, ..self.into_either_message() }
    }

    /// A message within its conversation: which account, inbox and conversation it is of is told again, and who wrote it.
    fn into_inner_message(mut self) -> InnerMessage {
        let account_id = self.integer("account_id");
        for told_again in ["inbox_id", "conversation_id", "sender_id"] {
            self.optional_integer(told_again);
        }
        self.optional_text("sender_type");
        // It has the assignee, and what else is in the conversation around it.
        drop(self.record("conversation"));
        InnerMessage { message: self.into_either_message(), account_id }
    }

    fn into_either_message(mut self) -> v1::Message {
        v1::Message {
            id: self.integer("id"),
            content: self.optional_text("content"),
            message_type: self.message_type().into(),
            created_at: self.time("created_at"),
            private: self.boolean("private"),
            source_id: self.optional_text("source_id"),
            content_type: self.text("content_type"),
            content_attributes: self.object("content_attributes"),
            sender: self.record("sender").and_then(Fields::into_sender),
            attachments: self.records("attachments", |attachment| attachment.into_attachment()),
            additional_attributes: self.object("additional_attributes"),
            updated_at: self.time("updated_at"),
            status: self.text("status"),
            processed_message_content: self.optional_text("processed_message_content"),
            external_source_ids: self.object("external_source_ids"),
            sentiment: self.object("sentiment"),
            extra: self.rest(),
            ..v1::Message::default()
        }
    }

    /// A word at the top, a number within.
    fn message_type(&mut self) -> MessageType {
        let number = match self.word_or_number("message_type") {
            None => None,
            Some(Err(number)) => i32::try_from(number).ok().and_then(|number| number.checked_add(1)),
            Some(Ok(word)) => {
                let words = ["incoming", "outgoing", "activity", "template"];
                words.iter().position(|known| *known == word).and_then(|at| i32::try_from(at + 1).ok())
            }
        };
        let known = number.and_then(|number| MessageType::try_from(number).ok());
        known.filter(|known| *known != MessageType::Unspecified).unwrap_or_else(|| {
            self.fault("message_type", "must be incoming, outgoing, activity or template, or 0 to 3");
            MessageType::Unspecified
        })
    }

    fn into_attachment(mut self) -> v1::Attachment {
        v1::Attachment {
            id: self.integer("id"),
            message_id: self.integer("message_id"),
            file_type: self.text("file_type"),
            account_id: self.integer("account_id"),
            extension: self.optional_text("extension"),
            data_url: self.text("data_url"),
            thumb_url: self.text("thumb_url"),
            file_size: self.integer("file_size"),
            width: self.optional_small("width"),
            height: self.optional_small("height"),
            meta: self.object("meta"),
            extra: self.rest(),
        }
    }
}

/// A message of `conversation.messages`, with the account that it tells.
struct InnerMessage {
    message: v1::Message,
    account_id: i64,
}
