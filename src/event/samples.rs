//! Made-up events: the documentation's own samples, and a message of typical size. All of them pass the
//! check.
//!
//! TestSubscription sends them, `tidings demo` shows them, and the benchmarks publish them.

use prost_types::Value;

use super::catalogue;
use crate::{
    domain::ids::AccountId,
    proto::v1::{self, EventType, MessageType, event::Payload, sender::Kind},
};

pub(super) mod records;

/// A realistic event of a type, with the values of the documentation's samples. An unspecified type means
/// `message_created`, the first sample of the documentation.
pub fn sample(event_type: EventType, account: AccountId) -> v1::Event {
    let descriptor = catalogue::get(event_type).or_else(|| catalogue::get(EventType::MessageCreated));
    let descriptor = descriptor.expect("every event type of the contract is in the catalogue");
    v1::Event { payload: Some((descriptor.sample)(account)), ..v1::Event::default() }
}

/// A message of typical size: about 0.9 KB as protobuf and 1.6 KB as documented JSON. `conversation` and
/// `number`, the id of the message, must be positive.
pub fn typical_message(account: AccountId, conversation: i64, number: i64) -> v1::Event {
    let contact = v1::Contact {
        id: 52_014,
        name: "Margarete Schneider-Lindqvist".into(),
        avatar: "https://chat.example.com/avatars/52014.png".into(),
        account: Some(records::account_of(account)),
        phone_number: Some("+4915170000000".into()),
        identifier: Some("customer-100-2289".into()),
        ..v1::Contact::default()
    };
    let conversation = v1::Conversation {
        id: conversation,
        labels: vec!["shipping".into()],
        last_activity_at: Some(records::sample_time()),
        created_at: Some(records::sample_time()),
        updated_at: Some(records::sample_time()),
        meta: Some(v1::ConversationMeta {
            sender: Some(contact.clone()),
            assignee: Some(records::user()),
            ..v1::ConversationMeta::default()
        }),
        ..records::conversation(account)
    };
    let content = "Good morning, my order 100-2289 was to arrive on Friday, and the tracking page still says \
                   \"label created\". Could you have a look at where it is?";
    let message = v1::Message {
        id: number,
        content: Some(content.into()),
        message_type: MessageType::Incoming.into(),
        source_id: Some("wamid.HBgNNDkxNTE3MDAwMDAwMBUCABIYFjNFQjBDMEY5".into()),
        content_attributes: Some(records::object([("in_reply_to", Value::from(881_201.0))])),
        sender: Some(v1::Sender { kind: Some(Kind::Contact(contact)) }),
        conversation: Some(conversation),
        ..records::message(account)
    };
    let payload = Payload::MessageCreated(v1::MessageCreated { message: Some(message) });
    v1::Event { payload: Some(payload), ..v1::Event::default() }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::{
        domain::payload_format::PayloadFormat,
        event::{self, render},
    };

    #[test]
    fn every_sample_passes_the_check_and_is_of_its_kind() {
        let account = AccountId::new(7).unwrap();
        for kind in EventType::all() {
            let mut event = sample(kind, account);
            let facts = event::check(&mut event, account, "event").unwrap();
            assert_eq!(facts.event_type, kind);
            assert_eq!(event, sample(kind, account), "the check had to complete the sample of {kind:?}");
        }
    }

    #[test]
    fn the_typical_message_has_the_size_that_it_claims() {
        let account = AccountId::new(7).unwrap();
        let mut event = typical_message(account, 3, 5);
        event::check(&mut event, account, "event").unwrap();
        let protobuf = event.encoded_len();
        let body = render::render(&event, PayloadFormat::Documented).len();
        assert!((850..=950).contains(&protobuf), "{protobuf} bytes of protobuf, {body} of JSON");
        assert!((1550..=1650).contains(&body), "{protobuf} bytes of protobuf, {body} of JSON");
    }
}
