//! The keys that a record has of its own in a body, in any form. Its `extra` must not contain them.

/// Keys of the additional attributes of a conversation.
pub(super) const CONVERSATION_ATTRIBUTES: [&str; 3] = ["browser", "initiated_at", "referer"];

/// Keys of an attachment.
pub(super) const ATTACHMENT: [&str; 11] = [
    "id",
    "message_id",
    "file_type",
    "account_id",
    "extension",
    "data_url",
    "thumb_url",
    "file_size",
    "width",
    "height",
    "meta",
];

/// Keys of a conversation.
pub(super) const CONVERSATION: [&str; 26] = [
    "account",
    "account_id",
    "additional_attributes",
    "agent_last_seen_at",
    "can_reply",
    "changed_attributes",
    "channel",
    "contact_inbox",
    "contact_last_seen_at",
    "created_at",
    "custom_attributes",
    "event",
    "first_reply_created_at",
    "id",
    "inbox_id",
    "labels",
    "last_activity_at",
    "messages",
    "meta",
    "priority",
    "snoozed_until",
    "status",
    "timestamp",
    "unread_count",
    "updated_at",
    "waiting_since",
];

/// Keys of a message, at the top level and in its conversation.
pub(super) const MESSAGE: [&str; 26] = [
    "account",
    "account_id",
    "additional_attributes",
    "attachments",
    "changed_attributes",
    "content",
    "content_attributes",
    "content_type",
    "conversation",
    "conversation_id",
    "created_at",
    "event",
    "external_source_ids",
    "id",
    "inbox",
    "inbox_id",
    "message_type",
    "private",
    "processed_message_content",
    "sender",
    "sender_id",
    "sender_type",
    "sentiment",
    "source_id",
    "status",
    "updated_at",
];

/// Keys of a contact.
pub(super) const CONTACT: [&str; 14] = [
    "account",
    "additional_attributes",
    "avatar",
    "blocked",
    "changed_attributes",
    "custom_attributes",
    "email",
    "event",
    "id",
    "identifier",
    "name",
    "phone_number",
    "thumbnail",
    "type",
];

/// Keys of a user.
pub(super) const USER: [&str; 8] =
    ["availability_status", "available_name", "avatar_url", "email", "id", "name", "thumbnail", "type"];

/// Keys of a bot.
pub(super) const AGENT_BOT: [&str; 4] = ["avatar_url", "id", "name", "type"];

/// Keys of the link between a contact and an inbox.
pub(super) const CONTACT_INBOX: [&str; 8] = [
    "contact_id",
    "created_at",
    "hmac_verified",
    "id",
    "inbox_id",
    "pubsub_token",
    "source_id",
    "updated_at",
];

/// Keys of the people of a conversation.
pub(super) const META: [&str; 5] = ["assignee", "assignee_type", "hmac_verified", "sender", "team"];

/// Keys of the event information of the widget.
pub(super) const EVENT_INFO: [&str; 5] =
    ["browser", "browser_language", "initiated_at", "referer", "widget_language"];

/// Keys of an assistant.
pub(super) const CAPTAIN_ASSISTANT: [&str; 6] =
    ["avatar_url", "created_at", "description", "id", "name", "type"];

/// Keys of an account, an inbox or a team.
pub(super) const NAMED: [&str; 2] = ["id", "name"];

/// Keys of a browser.
pub(super) const BROWSER: [&str; 5] =
    ["browser_name", "browser_version", "device_name", "platform_name", "platform_version"];

/// Keys of the start of a visit.
pub(super) const INITIATED_AT: [&str; 1] = ["timestamp"];

/// Keys of the state of its conversation that a message carries.
pub(super) const MESSAGE_CONVERSATION: [&str; 4] =
    ["assignee_id", "contact_inbox", "last_activity_at", "unread_count"];

/// Keys of `webwidget_triggered`.
pub(super) const WEBWIDGET_TRIGGERED: [&str; 8] =
    ["account", "contact", "current_conversation", "event", "event_info", "id", "inbox", "source_id"];

/// Keys of the typing events.
pub(super) const TYPING: [&str; 4] = ["conversation", "event", "is_private", "user"];

/// Keys of an inbox event: its settings come out next to these.
pub(super) const SETTINGS: [&str; 4] = ["event", "changed_attributes", "id", "name"];
