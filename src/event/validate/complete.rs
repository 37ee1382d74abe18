//! Completes a payload before it is checked.

use crate::{
    domain::ids::AccountId,
    event::catalogue::{self, RecordMut},
    proto::v1::{self, event::Payload},
};

/// Gives every conversation without an account id the id of `account`.
pub(super) fn payload(payload: &mut Payload, account: AccountId) {
    match catalogue::record_mut(payload) {
        RecordMut::Conversation(Some(record)) => conversation(record, account),
        RecordMut::Message(Some(record)) => message(record, account),
        RecordMut::Conversation(None) | RecordMut::Message(None) | RecordMut::Other => {}
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
