//! The account that an event's payload names.

use super::other::Outline;
use crate::{
    domain::ids::AccountId,
    proto::v1::{self, event::Payload},
};

/// The first account that a payload names.
pub fn account_in_payload(event: &v1::Event) -> Option<AccountId> {
    let account = |account: &Option<v1::Account>| account.as_ref().map(|account| account.id);
    let conversation = |conversation: Option<&v1::Conversation>| {
        let conversation = conversation?;
        Some(conversation.account_id).filter(|id| *id != 0).or_else(|| account(&conversation.account))
    };
    let message = |message: &Option<v1::Message>| {
        let message = message.as_ref()?;
        account(&message.account).or_else(|| conversation(message.conversation.as_ref()))
    };
    let contact = |contact: &Option<v1::Contact>| account(&contact.as_ref()?.account);
    let number = match event.payload.as_ref()? {
        Payload::ConversationCreated(payload) => conversation(payload.conversation.as_ref()),
        Payload::ConversationUpdated(payload) => conversation(payload.conversation.as_ref()),
        Payload::ConversationStatusChanged(payload) => conversation(payload.conversation.as_ref()),
        Payload::ConversationTypingOn(payload) => conversation(payload.conversation.as_ref()),
        Payload::ConversationTypingOff(payload) => conversation(payload.conversation.as_ref()),
        Payload::MessageCreated(payload) => message(&payload.message),
        Payload::MessageUpdated(payload) => message(&payload.message),
        Payload::WebwidgetTriggered(payload) => account(&payload.account),
        Payload::ContactCreated(payload) => contact(&payload.contact),
        Payload::ContactUpdated(payload) => contact(&payload.contact),
        Payload::Other(payload) => Outline::read(&payload.json).ok().and_then(|outline| outline.account()),
        Payload::InboxCreated(_) | Payload::InboxUpdated(_) => None,
    };
    AccountId::new(number?).ok()
}
