//! Completes a payload before it is checked.

use crate::{
    domain::ids::AccountId,
    event::{
        catalogue::{self, RecordMut},
        other::Outline,
    },
    proto::v1::{self, event::Payload},
};

/// Gives every conversation without an account id the id of `account`, and an event that is kept as it came its
/// name.
pub(super) fn payload(payload: &mut Payload, account: AccountId) {
    match catalogue::record_mut(payload) {
        RecordMut::Conversation(Some(record)) => conversation(record, account),
        RecordMut::Message(Some(record)) => message(record, account),
        RecordMut::Other(other) if other.name.is_empty() => {
            other.name = Outline::read(&other.json).map(|outline| outline.name).unwrap_or_default();
        }
        RecordMut::Conversation(None)
        | RecordMut::Message(None)
        | RecordMut::Other(_)
        | RecordMut::Complete => {}
    }
}

fn conversation(record: &mut v1::Conversation, account: AccountId) {
    if record.account_id == 0 {
        record.account_id = account.get();
    }
    record.messages.iter_mut().for_each(|inner| message(inner, account));
}

fn message(record: &mut v1::Message, account: AccountId) {
    if let Some(inner) = &mut record.conversation {
        conversation(inner, account);
    }
}
