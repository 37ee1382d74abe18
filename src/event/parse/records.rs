//! The records, as documented and in either of Chatwoot's own two ways to write them. The same keys have different
//! types there; each value shows its own.

use prost_types::Struct;

use super::fields::Fields;
use crate::{
    domain::payload_format::PayloadFormat,
    proto::v1::{self, MessageType, sender::Kind},
};

impl Fields<'_> {
    fn into_account(mut self) -> v1::Account {
        v1::Account { id: self.account_number("id"), name: self.text("name"), extra: self.rest() }
    }

    fn into_inbox(mut self) -> v1::Inbox {
        v1::Inbox { id: self.integer("id"), name: self.text("name"), extra: self.rest() }
    }

    fn into_team(mut self) -> v1::Team {
        v1::Team { id: self.integer("id"), name: self.text("name"), extra: self.rest() }
    }

    /// The inbox of settings, and the settings.
    pub(in crate::event) fn into_inbox_and_settings(mut self) -> (Option<v1::Inbox>, Option<Struct>) {
        self.check_account_of_settings();
        if !self.is_chatwoot() {
            let inbox = v1::Inbox { id: self.integer("id"), name: self.text("name"), extra: None };
            return (Some(inbox).filter(|inbox| *inbox != v1::Inbox::default()), self.rest());
        }
        (self.inbox_of_hours(), self.rest())
    }

    pub(in crate::event) fn into_webwidget_triggered(mut self) -> v1::WebwidgetTriggered {
        v1::WebwidgetTriggered {
            id: self.integer("id"),
            contact: self.record("contact").map(Fields::into_contact),
            inbox: self.record("inbox").map(Fields::into_inbox),
            account: self.record("account").map(Fields::into_account),
            current_conversation: self.record("current_conversation").map(Fields::into_conversation),
            source_id: self.text("source_id"),
            event_info: self.record("event_info").map(Fields::into_event_info),
            extra: self.rest(),
        }
    }

    pub(in crate::event) fn into_contact(mut self) -> v1::Contact {
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

    fn into_assistant(mut self) -> v1::CaptainAssistant {
        self.optional_text("type");
        v1::CaptainAssistant {
            id: self.integer("id"),
            name: self.text("name"),
            avatar_url: self.text("avatar_url"),
            description: self.text("description"),
            created_at: self.time("created_at"),
            extra: self.rest(),
        }
    }

    /// A sender or a person who types, by `type`. A contact at the top level has no type.
    pub(in crate::event) fn into_sender(mut self) -> Option<v1::Sender> {
        let kind = match self.optional_text("type").as_deref() {
            None | Some("contact") => Kind::Contact(self.into_contact()),
            Some("user") => Kind::User(self.into_user()),
            Some("agent_bot") => Kind::AgentBot(self.into_bot()),
            Some("captain_assistant") => Kind::CaptainAssistant(self.into_assistant()),
            Some(_) => {
                self.invalid("type", "must be contact, user, agent_bot or captain_assistant");
                return None;
            }
        };
        Some(v1::Sender { kind: Some(kind) })
    }

    pub(super) fn into_browser(mut self) -> v1::Browser {
        v1::Browser {
            device_name: self.text("device_name"),
            browser_name: self.text("browser_name"),
            platform_name: self.text("platform_name"),
            browser_version: self.text("browser_version"),
            platform_version: self.text("platform_version"),
            extra: self.rest(),
        }
    }

    fn into_initiated_at(mut self) -> v1::InitiatedAt {
        v1::InitiatedAt { timestamp: self.text("timestamp"), extra: self.rest() }
    }

    fn into_attributes(mut self) -> v1::ConversationAttributes {
        v1::ConversationAttributes {
            browser: self.record("browser").map(Fields::into_browser),
            referer: self.text("referer"),
            initiated_at: self.record("initiated_at").map(Fields::into_initiated_at),
            extra: self.rest(),
        }
    }

    fn into_event_info(mut self) -> v1::WidgetEventInfo {
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
            Some(Kind::Contact(_) | Kind::CaptainAssistant(_)) => {
                self.invalid("assignee", "must be of the type user or agent_bot");
            }
            None => {}
        }
        // Redundant: the assignee has its own type.
        self.optional_text("assignee_type");
        v1::ConversationMeta {
            sender: self.record("sender").map(Fields::into_contact),
            assignee,
            assignee_agent_bot,
            team: self.record("team").map(Fields::into_team),
            hmac_verified: self.optional_boolean("hmac_verified"),
            extra: self.rest(),
        }
    }

    pub(in crate::event) fn into_conversation(mut self) -> v1::Conversation {
        let mut conversation = v1::Conversation {
            account: self.record("account").map(Fields::into_account),
            additional_attributes: self.record("additional_attributes").map(Fields::into_attributes),
            can_reply: self.boolean("can_reply"),
            channel: self.text("channel"),
            id: self.integer("id"),
            inbox_id: self.integer("inbox_id"),
            contact_inbox: self.record("contact_inbox").map(Fields::into_contact_inbox),
            meta: self.record("meta").map(Fields::into_meta),
            status: self.text("status"),
            unread_count: self.optional_small("unread_count").unwrap_or_default(),
            agent_last_seen_at: self.time_or_never("agent_last_seen_at"),
            contact_last_seen_at: self.time_or_never("contact_last_seen_at"),
            timestamp: self.time_or_never("timestamp"),
            labels: self.texts("labels"),
            custom_attributes: self.object("custom_attributes"),
            snoozed_until: self.time("snoozed_until"),
            first_reply_created_at: self.time("first_reply_created_at"),
            priority: self.optional_text("priority"),
            waiting_since: self.time_or_never("waiting_since"),
            last_activity_at: self.time_or_never("last_activity_at"),
            created_at: self.time_or_never("created_at"),
            updated_at: self.time_or_never("updated_at"),
            ..v1::Conversation::default()
        };
        if !self.is_chatwoot() {
            conversation.account_id = self.account_number("account_id");
            conversation.messages = self.records("messages", documented_message);
            conversation.extra = self.rest();
            return conversation;
        }
        let has_messages = self.has("messages");
        conversation.messages =
            self.records("messages", |message| message.into_nested_message(&conversation));
        conversation.no_messages = has_messages && conversation.messages.is_empty();
        conversation.extra = self.rest();
        conversation
    }

    fn is_chatwoot(&self) -> bool {
        self.form() == PayloadFormat::Chatwoot
    }

    /// A message at the top level. As documented, each message is written so.
    pub(in crate::event) fn into_message(mut self) -> v1::Message {
        if self.form() == PayloadFormat::Sample {
            return self.into_sample_message();
        }
        v1::Message {
            account: self.record("account").map(Fields::into_account),
            inbox: self.record("inbox").map(Fields::into_inbox),
            conversation: self.record("conversation").map(Fields::into_conversation),
            status_at_top: self.has("status") || self.has("updated_at"),
            ..self.into_either_message()
        }
    }

    /// A message in its conversation. It repeats its account, inbox, conversation and sender.
    fn into_nested_message(mut self, conversation: &v1::Conversation) -> v1::Message {
        self.account_number("account_id");
        self.optional_integer("inbox_id");
        self.optional_integer("conversation_id");
        let (sender_type, sender_id) =
            (self.optional_text("sender_type"), self.optional_integer("sender_id"));
        let default = default_state(conversation);
        let state = self.record("conversation").map(|state| state.into_conversation_state(&default));
        let mut message = v1::Message {
            conversation_told: state.filter(|state| *state != default),
            ..self.into_either_message()
        };
        if message.sender.is_none() {
            (message.sender_type, message.sender_id) = (sender_type, sender_id);
        }
        message
    }

    /// The state of its conversation that a message carries; missing keys are taken from `default`.
    fn into_conversation_state(mut self, default: &v1::MessageConversation) -> v1::MessageConversation {
        let mut state = default.clone();
        if self.has("assignee_id") {
            state.assignee_id = self.optional_integer("assignee_id");
        }
        if self.has("unread_count") {
            state.unread_count = self.optional_small("unread_count").unwrap_or_default();
        }
        if self.has("last_activity_at") {
            state.last_activity_at = self.time_or_never("last_activity_at");
        }
        if let Some(mut link) = self.record("contact_inbox") {
            state.source_id = link.text("source_id");
        }
        state.extra = self.rest();
        state
    }

    fn into_either_message(mut self) -> v1::Message {
        let is_chatwoot = self.is_chatwoot();
        v1::Message {
            id: self.integer("id"),
            // As documented, the empty text is the unset one.
            content: self.optional_text("content").filter(|text| is_chatwoot || !text.is_empty()),
            message_type: self.message_type().into(),
            created_at: self.time_or_never("created_at"),
            private: self.boolean("private"),
            source_id: self.optional_text("source_id"),
            content_type: self.text("content_type"),
            content_attributes: self.object("content_attributes"),
            sender: self.record("sender").and_then(Fields::into_sender),
            attachments: self.records("attachments", attachment),
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

    /// A word in Chatwoot's form at the top level and in the sample; a number elsewhere.
    pub(super) fn message_type(&mut self) -> MessageType {
        if !self.is_chatwoot() && !self.has("message_type") {
            // The check knows the content types that need none.
            return MessageType::Unspecified;
        }
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
            self.invalid("message_type", "must be incoming, outgoing, activity or template, or 0 to 3");
            MessageType::Unspecified
        })
    }
}

/// A message in a conversation, as documented: written as at the top level.
fn documented_message(fields: Fields<'_>) -> v1::Message {
    fields.into_message()
}

fn attachment(mut fields: Fields<'_>) -> v1::Attachment {
    v1::Attachment {
        id: fields.integer("id"),
        message_id: fields.integer("message_id"),
        file_type: fields.text("file_type"),
        account_id: fields.account_number("account_id"),
        extension: fields.optional_text("extension"),
        data_url: fields.text("data_url"),
        thumb_url: fields.text("thumb_url"),
        file_size: fields.integer("file_size"),
        width: fields.optional_small("width"),
        height: fields.optional_small("height"),
        meta: fields.object("meta"),
        extra: fields.rest(),
    }
}

/// The state of a conversation that its messages carry by default.
fn default_state(conversation: &v1::Conversation) -> v1::MessageConversation {
    let assignee = conversation.meta.as_ref().and_then(|meta| meta.assignee.as_ref());
    let source_id = conversation.contact_inbox.as_ref().map(|link| link.source_id.clone());
    v1::MessageConversation {
        assignee_id: assignee.map(|user| user.id),
        unread_count: conversation.unread_count,
        last_activity_at: conversation.last_activity_at.or(conversation.timestamp),
        source_id: source_id.unwrap_or_default(),
        extra: None,
    }
}
