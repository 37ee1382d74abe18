//! The differences of bodies from captured ones, and why. Everything else is equal: keys, types, values, and
//! the order of keys.

use super::json::Sort::{self, Added, Changed, Missing, Reordered};

/// The same differences in each of these payloads.
pub struct Exception {
    pub why: &'static str,
    pub sort: Sort,
    /// Names between spaces.
    payloads: &'static str,
    /// Paths between spaces, without indexes of arrays. `~` is the conversation, which is the body itself in
    /// its own events. None: the body.
    paths: &'static str,
}

const fn of(why: &'static str, sort: Sort, payloads: &'static str, paths: &'static str) -> Exception {
    Exception { why, sort, payloads, paths }
}

impl Exception {
    pub fn payloads(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.payloads.split_whitespace()
    }

    pub fn paths(&self) -> impl Iterator<Item = &'static str> + Clone {
        let body = self.paths.is_empty().then_some("");
        body.into_iter().chain(self.paths.split_whitespace())
    }
}

/// Agent bots and automation rules get these. Their records are those of the twelve events, and are read as
/// such.
pub const NONE_OF_THE_TWELVE: [(&str, &str); 3] = [
    ("conversation_created-2", "conversation_created"),
    ("conversation_opened-1", "conversation_status_changed"),
    ("conversation_resolved-1", "conversation_status_changed"),
];

pub const EXCEPTIONS: &[Exception] = &[
    of(
        "not one of the twelve events: the record is that of the event which the table above names",
        Changed,
        "conversation_created-2 conversation_opened-1 conversation_resolved-1",
        "~event",
    ),
    of(
        "a conversation has its account only since #12445",
        Added,
        "conversation_created-1 conversation_created-2 conversation_opened-1 conversation_resolved-1 \
         conversation_status_changed-1 conversation_status_changed-2 conversation_updated-1 \
         conversation_updated-2 message_created-1 message_created-2 message_created-3 \
         message_created-4 message_created-5 message_created-6 message_created-7 message_updated-1 \
         message_updated-2",
        "~account",
    ),
    of(
        "captured before late 2025, when this came",
        Added,
        "conversation_created-2 conversation_opened-1 conversation_resolved-1 \
         conversation_status_changed-1 conversation_status_changed-2 message_created-3 \
         message_created-4 message_created-5 message_created-6 message_created-7 message_updated-1",
        "~meta.assignee_type",
    ),
    of(
        "captured before these came, or (message_updated-2) shortened",
        Added,
        "conversation_opened-1 conversation_resolved-1 conversation_status_changed-1 \
         conversation_status_changed-2 message_created-3 message_created-4 message_created-5 \
         message_created-6 message_created-7 message_updated-1 message_updated-2",
        "~last_activity_at ~updated_at",
    ),
    of(
        "captured before 4.1, when contacts could be blocked",
        Added,
        "conversation_opened-1 conversation_resolved-1 conversation_status_changed-1 \
         conversation_status_changed-2 message_created-3 message_created-4 message_created-5 \
         message_created-6 message_created-7 message_updated-1",
        "~meta.sender.blocked",
    ),
    of(
        "captured before 4.1, when contacts could be blocked",
        Added,
        "message_created-2 message_created-4 message_created-5 message_created-6 message_updated-1",
        "sender.blocked",
    ),
    of(
        "captured before 4.1, when contacts could be blocked",
        Added,
        "message_created-4 message_created-5",
        "~messages.sender.blocked",
    ),
    of("captured before 4.1, when contacts could be blocked", Added, "contact_created-1", "blocked"),
    of(
        "captured before it came, or taken out by who captured it, since it is a secret",
        Added,
        "conversation_created-1 conversation_opened-1 conversation_resolved-1 \
         conversation_status_changed-2 conversation_updated-2 message_created-6 message_updated-1 \
         message_updated-2",
        "~contact_inbox.pubsub_token",
    ),
    of(
        "captured before it came, or (conversation_created-2) shortened",
        Added,
        "conversation_created-2 conversation_opened-1 conversation_resolved-1 \
         conversation_status_changed-2 message_created-3 message_created-6 message_created-7 \
         message_updated-1",
        "~messages.sentiment",
    ),
    of(
        "captured before it came, or (conversation_created-2, message_created-1 and -2) shortened",
        Added,
        "conversation_created-2 conversation_opened-1 conversation_resolved-1 \
         conversation_status_changed-2 message_created-1 message_created-2 message_created-6 \
         message_updated-1",
        "~messages.conversation",
    ),
    of(
        "captured in 2021 and 2022, before these came, or (message_updated-2) shortened",
        Added,
        "conversation_opened-1 conversation_resolved-1 conversation_status_changed-2 \
         message_created-3 message_created-6 message_created-7 message_updated-1 message_updated-2",
        "~labels ~first_reply_created_at ~priority ~waiting_since ~created_at",
    ),
    of(
        "captured in 2021 and 2022, before it came, or (conversation_created-2) shortened",
        Added,
        "conversation_created-2 conversation_opened-1 conversation_resolved-1 \
         conversation_status_changed-2 message_created-3 message_created-6 message_updated-1",
        "~messages.additional_attributes",
    ),
    of(
        "captured in 2021 and 2022, before these came",
        Added,
        "conversation_opened-1 conversation_resolved-1 conversation_status_changed-2 \
         message_created-3 message_created-6 message_created-7 message_updated-1",
        "~messages.processed_message_content ~meta.team",
    ),
    of(
        "captured in 2021, before these came, or (message_updated-2) shortened",
        Added,
        "conversation_opened-1 conversation_resolved-1 conversation_status_changed-2 \
         message_created-6 message_updated-1 message_updated-2",
        "~custom_attributes ~snoozed_until",
    ),
    of(
        "captured in 2021, before these came",
        Added,
        "conversation_opened-1 conversation_resolved-1 conversation_status_changed-2 \
         message_created-6 message_updated-1",
        "~meta.hmac_verified ~meta.assignee.thumbnail",
    ),
    of(
        "captured in 2021, before changes were sent",
        Added,
        "conversation_opened-1 conversation_resolved-1 conversation_status_changed-2",
        "~changed_attributes",
    ),
    of(
        "captured in 2021 and 2022, before it came",
        Added,
        "message_created-3 message_created-6 message_updated-1",
        "additional_attributes",
    ),
    of(
        "captured in 2022, before these came",
        Added,
        "message_created-3 message_created-7",
        "~messages.conversation.unread_count ~messages.conversation.last_activity_at \
         ~messages.conversation.contact_inbox",
    ),
    of("captured before it came", Added, "message_created-4", "attachments.meta ~messages.attachments.meta"),
    of(
        "captured in 2021, when contacts at the top were short and had their type, or (message_created-2) edited in the same way",
        Added,
        "message_created-2 message_created-6 message_updated-1",
        "sender.account sender.additional_attributes sender.custom_attributes sender.identifier \
         sender.phone_number sender.thumbnail",
    ),
    of(
        "captured in 2021, when contacts at the top were short and had their type",
        Added,
        "message_created-6 message_updated-1",
        "sender.email",
    ),
    of(
        "edited: a contact at the top has a picture, if only \"\"",
        Added,
        "message_created-2",
        "sender.avatar",
    ),
    of(
        "captured in 2021, when contacts at the top had their type, or (message_created-2) edited in the same way",
        Missing,
        "message_created-2 message_created-6 message_updated-1",
        "sender.type",
    ),
    of(
        "captured in 2021, when contacts at the top had their type, or (webwidget_triggered-2) edited in the same way",
        Missing,
        "webwidget_triggered-1 webwidget_triggered-2",
        "contact.type",
    ),
    of(
        "captured in 2021, when contacts at the top were short",
        Added,
        "webwidget_triggered-1",
        "contact.account contact.additional_attributes contact.custom_attributes contact.email \
         contact.identifier contact.phone_number contact.thumbnail contact.blocked",
    ),
    of(
        "edited: no picture is \"\" in Chatwoot, not null",
        Changed,
        "contact_created-2 contact_updated-2",
        "avatar",
    ),
    of(
        "edited: no picture is \"\" in Chatwoot, not null",
        Changed,
        "webwidget_triggered-2",
        "contact.avatar",
    ),
    of(
        "edited: a contact within has no such key in Chatwoot",
        Missing,
        "conversation_created-1 conversation_updated-2",
        "~meta.sender.avatar",
    ),
    of(
        "shortened",
        Added,
        "conversation_created-2",
        "~messages.source_id ~messages.content_attributes ~messages.sender_type ~messages.sender_id \
         ~messages.external_source_ids",
    ),
    of(
        "shortened",
        Added,
        "message_updated-2",
        "~additional_attributes ~messages ~meta ~status ~unread_count ~agent_last_seen_at \
         ~contact_last_seen_at ~timestamp",
    ),
    of(
        "of 2021, when the order was another one, or edited: Chatwoot 4 begins with additional_attributes",
        Reordered,
        "conversation_created-1 conversation_created-2 conversation_opened-1 conversation_resolved-1 \
         conversation_status_changed-2 conversation_updated-2 message_created-6 message_updated-1 \
         message_updated-2",
        "~",
    ),
    of(
        "of 2021 and 2022, when pubsub_token, which is no key of today, was among the others, or edited",
        Reordered,
        "conversation_created-1 conversation_opened-1 conversation_resolved-1 \
         conversation_status_changed-2 conversation_updated-2 message_created-3 message_created-6 \
         message_updated-1",
        "~meta.sender",
    ),
    of(
        "of 2021 and 2022, when the order was another one, or edited",
        Reordered,
        "contact_created-2 contact_updated-2 message_created-3 message_created-6 message_updated-1 \
         message_updated-2 webwidget_triggered-2",
        "",
    ),
    of(
        "of 2021, when the order was another one, or (message_created-2) edited",
        Reordered,
        "message_created-2 message_created-6 message_updated-1",
        "sender",
    ),
    of(
        "of 2021, when the order was another one, or (webwidget_triggered-2) edited",
        Reordered,
        "webwidget_triggered-1 webwidget_triggered-2",
        "contact",
    ),
    of(
        "a free object: its keys are sorted",
        Reordered,
        "conversation_updated-1 message_created-1 message_created-2",
        "~meta.sender.custom_attributes",
    ),
    of(
        "a free object: its keys are sorted",
        Reordered,
        "contact_updated-1",
        "additional_attributes additional_attributes.social_profiles",
    ),
    of("a free object: its keys are sorted", Reordered, "message_created-3", "~messages.external_source_ids"),
    of("a free object: its keys are sorted", Reordered, "message_created-7", "~custom_attributes"),
];
