//! The rules for the document's objects.

use super::{
    checker::{Checker, has_null},
    path::Path,
    reserved_keys,
};
use crate::proto::v1::{self, MessageType, sender::Kind};

/// Deepest nesting of messages and conversations, which contain each other.
pub const NESTING_MAX: usize = 8;

/// Content types that make a message without a type a template.
const TEMPLATE_CONTENT_TYPES: [&str; 3] = ["input_select", "cards", "form"];

impl Checker {
    /// The conversation at `at`, which is nested in `depth - 1` others.
    pub(super) fn conversation(&mut self, conversation: &v1::Conversation, depth: usize, at: &Path<'_>) {
        if self.is_too_deep(depth, at) {
            return;
        }
        self.id(conversation.id, at);
        self.conversation_texts(conversation, at);
        self.same_account(conversation.account_id, &at.field("account_id"));
        if let Some(account) = &conversation.account {
            self.account(account, &at.field("account"));
        }
        if let Some(attributes) = &conversation.additional_attributes {
            let at = &at.field("additional_attributes");
            self.texts(at, [("referer", &*attributes.referer)]);
            self.browser_and_time(attributes.browser.as_ref(), attributes.initiated_at.as_ref(), at);
            self.object(
                attributes.extra.as_ref(),
                &reserved_keys::CONVERSATION_ATTRIBUTES,
                &at.field("extra"),
            );
        }
        self.object(conversation.custom_attributes.as_ref(), &[], &at.field("custom_attributes"));
        self.object(conversation.extra.as_ref(), &reserved_keys::CONVERSATION, &at.field("extra"));
        if let Some(link) = &conversation.contact_inbox {
            let at = &at.field("contact_inbox");
            self.texts(at, [("source_id", &*link.source_id), ("pubsub_token", &link.pubsub_token)]);
            self.object(link.extra.as_ref(), &reserved_keys::CONTACT_INBOX, &at.field("extra"));
            self.time(link.created_at.as_ref(), at, "created_at");
            self.time(link.updated_at.as_ref(), at, "updated_at");
        }
        if let Some(meta) = &conversation.meta {
            self.meta(meta, &at.field("meta"));
        }
        self.conversation_times(conversation, at);
        if conversation.no_messages && !conversation.messages.is_empty() {
            self.invalid(&at.field("no_messages"), "must not be set together with messages");
        }
        for (index, message) in conversation.messages.iter().enumerate() {
            self.message(message, depth + 1, &at.item("messages", index));
        }
    }

    fn conversation_texts(&mut self, conversation: &v1::Conversation, at: &Path<'_>) {
        let v1::Conversation { channel, status, .. } = conversation;
        self.texts(at, [("channel", &**channel), ("status", status), ("priority", conversation.priority())]);
        for (index, _) in conversation.labels.iter().enumerate().filter(|(_, label)| has_null(label)) {
            self.null_character(&at.item("labels", index));
        }
    }

    fn conversation_times(&mut self, conversation: &v1::Conversation, at: &Path<'_>) {
        self.time(conversation.agent_last_seen_at.as_ref(), at, "agent_last_seen_at");
        self.time(conversation.contact_last_seen_at.as_ref(), at, "contact_last_seen_at");
        self.time(conversation.timestamp.as_ref(), at, "timestamp");
        self.time(conversation.snoozed_until.as_ref(), at, "snoozed_until");
        self.time(conversation.first_reply_created_at.as_ref(), at, "first_reply_created_at");
        self.time(conversation.waiting_since.as_ref(), at, "waiting_since");
        self.time(conversation.last_activity_at.as_ref(), at, "last_activity_at");
        self.time(conversation.created_at.as_ref(), at, "created_at");
        self.time(conversation.updated_at.as_ref(), at, "updated_at");
    }

    fn meta(&mut self, meta: &v1::ConversationMeta, at: &Path<'_>) {
        if let Some(sender) = &meta.sender {
            self.contact(sender, &at.field("sender"));
        }
        if let Some(assignee) = &meta.assignee {
            self.user(assignee, &at.field("assignee"));
        }
        if let Some(bot) = &meta.assignee_agent_bot {
            let at = &at.field("assignee_agent_bot");
            self.bot(bot, at);
            if meta.assignee.is_some() {
                self.invalid(at, "must not be set together with assignee");
            }
        }
        if let Some(team) = &meta.team {
            let at = &at.field("team");
            self.id(team.id, at);
            self.texts(at, [("name", &*team.name)]);
            self.object(team.extra.as_ref(), &reserved_keys::NAMED, &at.field("extra"));
        }
        self.object(meta.extra.as_ref(), &reserved_keys::META, &at.field("extra"));
    }

    /// The message at `at`, which is nested in `depth - 1` others.
    pub(super) fn message(&mut self, message: &v1::Message, depth: usize, at: &Path<'_>) {
        if self.is_too_deep(depth, at) {
            return;
        }
        self.id(message.id, at);
        self.message_texts(message, at);
        self.message_type(message, &at.field("message_type"));
        self.time(message.created_at.as_ref(), at, "created_at");
        self.time(message.updated_at.as_ref(), at, "updated_at");
        self.object(message.content_attributes.as_ref(), &[], &at.field("content_attributes"));
        self.object(message.additional_attributes.as_ref(), &[], &at.field("additional_attributes"));
        self.object(message.external_source_ids.as_ref(), &[], &at.field("external_source_ids"));
        self.object(message.sentiment.as_ref(), &[], &at.field("sentiment"));
        self.object(message.extra.as_ref(), &reserved_keys::MESSAGE, &at.field("extra"));
        self.sender_of(message, at);
        if let Some(state) = &message.conversation_told {
            let at = &at.field("conversation_told");
            self.texts(at, [("source_id", &*state.source_id)]);
            self.time(state.last_activity_at.as_ref(), at, "last_activity_at");
            self.object(state.extra.as_ref(), &reserved_keys::MESSAGE_CONVERSATION, &at.field("extra"));
        }
        if let Some(account) = &message.account {
            self.account(account, &at.field("account"));
        }
        if let Some(inbox) = &message.inbox {
            self.inbox(inbox, &at.field("inbox"));
        }
        for (index, attachment) in message.attachments.iter().enumerate() {
            self.attachment(attachment, &at.item("attachments", index));
        }
        if let Some(conversation) = &message.conversation {
            self.conversation(conversation, depth + 1, &at.field("conversation"));
        }
    }

    fn message_texts(&mut self, message: &v1::Message, at: &Path<'_>) {
        let texts = [
            ("content", message.content()),
            ("source_id", message.source_id()),
            ("content_type", &message.content_type),
            ("status", &message.status),
            ("processed_message_content", message.processed_message_content()),
            ("sender_type", message.sender_type()),
        ];
        self.texts(at, texts);
    }

    fn message_type(&mut self, message: &v1::Message, at: &Path<'_>) {
        match MessageType::try_from(message.message_type) {
            Err(_) => self.invalid(at, "is not a known message type"),
            Ok(MessageType::Unspecified) => {
                if !TEMPLATE_CONTENT_TYPES.contains(&message.content_type.as_str()) {
                    self.required(at);
                }
            }
            Ok(_) => {}
        }
    }

    fn attachment(&mut self, attachment: &v1::Attachment, at: &Path<'_>) {
        if attachment.account_id != 0 {
            self.same_account(attachment.account_id, &at.field("account_id"));
        }
        let texts = [
            ("file_type", &*attachment.file_type),
            ("extension", attachment.extension()),
            ("data_url", &attachment.data_url),
            ("thumb_url", &attachment.thumb_url),
        ];
        self.texts(at, texts);
        self.object(attachment.meta.as_ref(), &[], &at.field("meta"));
        self.object(attachment.extra.as_ref(), &reserved_keys::ATTACHMENT, &at.field("extra"));
    }

    fn sender_of(&mut self, message: &v1::Message, at: &Path<'_>) {
        let Some(sender) = &message.sender else { return };
        self.sender(sender, &at.field("sender"));
        for (is_set, field) in
            [(message.sender_type.is_some(), "sender_type"), (message.sender_id.is_some(), "sender_id")]
        {
            if is_set {
                self.invalid(&at.field(field), "must not be set together with sender");
            }
        }
    }

    /// The sender at `at`.
    pub(super) fn sender(&mut self, sender: &v1::Sender, at: &Path<'_>) {
        match &sender.kind {
            Some(Kind::Contact(contact)) => self.contact(contact, &at.field("contact")),
            Some(Kind::User(user)) => self.user(user, &at.field("user")),
            Some(Kind::AgentBot(bot)) => self.bot(bot, &at.field("agent_bot")),
            Some(Kind::CaptainAssistant(assistant)) => {
                self.assistant(assistant, &at.field("captain_assistant"));
            }
            None => self.required(&at.field("kind")),
        }
    }

    fn user(&mut self, user: &v1::User, at: &Path<'_>) {
        self.id(user.id, at);
        let texts = [
            ("name", &*user.name),
            ("email", &user.email),
            ("available_name", &user.available_name),
            ("avatar_url", &user.avatar_url),
            ("availability_status", user.availability_status()),
            ("thumbnail", &user.thumbnail),
        ];
        self.texts(at, texts);
        self.object(user.extra.as_ref(), &reserved_keys::USER, &at.field("extra"));
    }

    fn bot(&mut self, bot: &v1::AgentBot, at: &Path<'_>) {
        self.id(bot.id, at);
        self.texts(at, [("name", &*bot.name), ("avatar_url", &bot.avatar_url)]);
        self.object(bot.extra.as_ref(), &reserved_keys::AGENT_BOT, &at.field("extra"));
    }

    fn assistant(&mut self, assistant: &v1::CaptainAssistant, at: &Path<'_>) {
        self.id(assistant.id, at);
        let v1::CaptainAssistant { name, avatar_url, description, .. } = assistant;
        self.texts(at, [("name", &**name), ("avatar_url", avatar_url), ("description", description)]);
        self.time(assistant.created_at.as_ref(), at, "created_at");
        self.object(assistant.extra.as_ref(), &reserved_keys::CAPTAIN_ASSISTANT, &at.field("extra"));
    }

    /// The inbox at `at`.
    pub(super) fn inbox(&mut self, inbox: &v1::Inbox, at: &Path<'_>) {
        self.id(inbox.id, at);
        self.texts(at, [("name", &*inbox.name)]);
        self.object(inbox.extra.as_ref(), &reserved_keys::NAMED, &at.field("extra"));
    }

    /// The browser and the start of the visit, in the record at `at`.
    pub(super) fn browser_and_time(
        &mut self,
        browser: Option<&v1::Browser>,
        initiated_at: Option<&v1::InitiatedAt>,
        at: &Path<'_>,
    ) {
        if let Some(browser) = browser {
            let texts = [
                ("device_name", &*browser.device_name),
                ("browser_name", &browser.browser_name),
                ("platform_name", &browser.platform_name),
                ("browser_version", &browser.browser_version),
                ("platform_version", &browser.platform_version),
            ];
            self.texts(&at.field("browser"), texts);
        }
        let timestamp = initiated_at.map_or("", |initiated_at| &initiated_at.timestamp);
        self.texts(&at.field("initiated_at"), [("timestamp", timestamp)]);
        let extra = browser.and_then(|browser| browser.extra.as_ref());
        self.object(extra, &reserved_keys::BROWSER, &at.field("browser").field("extra"));
        let extra = initiated_at.and_then(|initiated_at| initiated_at.extra.as_ref());
        self.object(extra, &reserved_keys::INITIATED_AT, &at.field("initiated_at").field("extra"));
    }

    /// The contact at `at`.
    pub(super) fn contact(&mut self, contact: &v1::Contact, at: &Path<'_>) {
        self.id(contact.id, at);
        let texts = [
            ("name", &*contact.name),
            ("avatar", &contact.avatar),
            ("email", contact.email()),
            ("phone_number", contact.phone_number()),
            ("identifier", contact.identifier()),
            ("thumbnail", &contact.thumbnail),
        ];
        self.texts(at, texts);
        if let Some(account) = &contact.account {
            self.account(account, &at.field("account"));
        }
        self.object(contact.additional_attributes.as_ref(), &[], &at.field("additional_attributes"));
        self.object(contact.custom_attributes.as_ref(), &[], &at.field("custom_attributes"));
        self.object(contact.extra.as_ref(), &reserved_keys::CONTACT, &at.field("extra"));
    }

    /// The account at `at`.
    pub(super) fn account(&mut self, account: &v1::Account, at: &Path<'_>) {
        self.id(account.id, at);
        self.texts(at, [("name", &*account.name)]);
        if account.id > 0 {
            self.same_account(account.id, &at.field("id"));
        }
        self.object(account.extra.as_ref(), &reserved_keys::NAMED, &at.field("extra"));
    }

    fn is_too_deep(&mut self, depth: usize, at: &Path<'_>) -> bool {
        let too_deep = depth > NESTING_MAX;
        if too_deep {
            self.invalid(
                at,
                format_args!("is nested in {NESTING_MAX} messages and conversations: no more are allowed"),
            );
        }
        too_deep
    }
}
