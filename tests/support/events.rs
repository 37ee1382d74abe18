//! Events to publish.

use tidings::{
    domain::ids::AccountId,
    event::samples,
    proto::v1::{self, EventType, event::Payload},
};

pub fn account(number: i64) -> AccountId {
    AccountId::new(number).expect("it is positive")
}

/// An event of this type, with made-up content.
pub fn sample(event_type: EventType, account_number: i64) -> v1::Event {
    samples::sample(event_type, account(account_number))
}

/// A contact that was created.
pub fn contact(account_number: i64) -> v1::Event {
    sample(EventType::ContactCreated, account_number)
}

/// A message of this number in this conversation.
pub fn message(account_number: i64, conversation: i64, number: i64) -> v1::Event {
    samples::typical_message(account(account_number), conversation, number)
}

/// The same with a text of this many bytes.
pub fn long_message(account_number: i64, conversation: i64, number: i64, bytes: usize) -> v1::Event {
    let mut event = message(account_number, conversation, number);
    message_of(&mut event).content = Some("x".repeat(bytes));
    event
}

/// The message of an event that is one.
pub fn message_of(event: &mut v1::Event) -> &mut v1::Message {
    let Some(Payload::MessageCreated(created)) = &mut event.payload else { panic!("it is a message") };
    created.message.as_mut().expect("it is set")
}

/// A request to publish an event; an empty id lets the gateway make one.
pub fn publish_request(account: i64, id: &str, event: v1::Event) -> v1::PublishEventRequest {
    v1::PublishEventRequest {
        parent: format!("accounts/{account}"),
        event_id: id.into(),
        event: Some(event.into()),
        ..Default::default()
    }
}
