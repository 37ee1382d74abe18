//! Protobuf JSON of messages, by their descriptors: field names in camel case or as in `proto/`, enums by name,
//! 64-bit integers as strings, bytes as base64 ([the rules](https://protobuf.dev/programming-guides/json/)).

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use prost_types::FileDescriptorSet;
use serde_json::Value;

use super::DESCRIPTORS;

/// The messages of the contract, and those of the details of errors.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::new();
    for set in [DESCRIPTORS, tonic_types::pb::FILE_DESCRIPTOR_SET] {
        let set = FileDescriptorSet::decode(set).expect("descriptors that were built in are valid");
        let new =
            Vec::from_iter(set.file.into_iter().filter(|file| pool.get_file_by_name(file.name()).is_none()));
        pool.add_file_descriptor_protos(new).expect("descriptors that were built in are complete");
    }
    pool
});

/// The descriptors of the contract's messages and of the details of errors.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// Reads one message.
///
/// # Errors
///
/// The text is no JSON, or has a field or value that the message cannot have. The error names it, with line and
/// column.
pub fn from_json<M: Message + Name + Default>(json: &str) -> Result<M, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let message = DynamicMessage::deserialize(descriptor::<M>(), &mut deserializer)?;
    deserializer.end()?;
    Ok(message.transcode_to().expect("the message is of this type"))
}

/// A message as JSON. Fields that are not set are left out, other than those whose zero is a value (`optional`).
pub fn to_json<M: Message + Name>(message: &M) -> Value {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic.transcode_from(message).expect("the message is of this type");
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new())
        .expect("a message whose type is in the pool has a form in JSON")
}

fn descriptor<M: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&M::full_name()).expect("the pool has every message of the contract")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::v1::{CreateSubscriptionRequest, EventType, Subscription};

    #[test]
    fn a_message_is_read_in_either_spelling_of_names_and_written_in_camel_case() {
        let text = r#"{"parent": "accounts/1", "subscription_id": "crm",
            "subscription": {"url": "https://example.com/", "eventTypes": ["EVENT_TYPE_MESSAGE_CREATED"]}}"#;
        let request: CreateSubscriptionRequest = from_json(text).expect("valid");
        let subscription = Subscription {
            url: "https://example.com/".to_owned(),
            event_types: vec![EventType::MessageCreated.into()],
            ..Subscription::default()
        };
        assert_eq!(request.subscription_id, "crm");
        assert_eq!(request.subscription, Some(subscription));
        let written = json!({
            "parent": "accounts/1", "subscriptionId": "crm",
            "subscription": {"url": "https://example.com/", "eventTypes": ["EVENT_TYPE_MESSAGE_CREATED"]},
        });
        assert_eq!(to_json(&request), written);
    }

    #[test]
    fn an_unknown_field_a_wrong_value_and_text_after_the_message_are_refused_by_name() {
        let error =
            |text: &str| from_json::<CreateSubscriptionRequest>(text).expect_err("refused").to_string();
        assert!(error(r#"{"parents": ""}"#).contains("parents"));
        assert!(error(r#"{"subscription": {"eventTypes": ["NONE"]}}"#).contains("NONE"));
        assert!(error("{} {}").contains("trailing characters"));
    }
}
