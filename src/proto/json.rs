//! Protobuf JSON of messages, by their descriptors: field names in camel case or as in `proto/`, enums by name,
//! 64-bit integers as strings, bytes as base64 ([the rules](https://protobuf.dev/programming-guides/json/)).

use std::sync::LazyLock;

use bytes::BytesMut;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use prost_types::FileDescriptorSet;
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::Value;

use super::{DESCRIPTORS, codec::Unreadable};

/// Most values of one JSON text: objects, arrays and what is in them. Each takes two bytes, and about a hundred once it
/// is read. A batch of 1,000 events may have two hundred in each.
pub const VALUES_MAX: usize = 200_000;

/// The messages of the contract, of health checks, and of the details of errors.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::new();
    for set in [DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_types::pb::FILE_DESCRIPTOR_SET] {
        let set = FileDescriptorSet::decode(set).expect("descriptors that were built in are valid");
        let new =
            Vec::from_iter(set.file.into_iter().filter(|file| pool.get_file_by_name(file.name()).is_none()));
        pool.add_file_descriptor_protos(new).expect("descriptors that were built in are complete");
    }
    pool
});

/// The descriptors of the contract, of health checks, and of the details of errors.
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
    let dynamic = reflect(message);
    let json = dynamic.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new());
    json.expect("a message whose type is in the pool has a form in JSON")
}

/// A message to be written as JSON, with its fields in the order of their numbers.
pub struct OrderedJson {
    message: DynamicMessage,
    options: SerializeOptions,
}

impl OrderedJson {
    /// With every field that has a default: zero counts and empty lists are there.
    pub fn full<M: Message + Name>(message: &M) -> Self {
        Self { message: reflect(message), options: SerializeOptions::new().skip_default_fields(false) }
    }

    /// Without fields that are not set, as [`to_json`].
    pub fn set<M: Message + Name>(message: &M) -> Self {
        Self { message: reflect(message), options: SerializeOptions::new() }
    }
}

impl Serialize for OrderedJson {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.message.serialize_with_options(serializer, &self.options)
    }
}

/// A message whose fields can be looked at by their descriptors.
pub fn reflect<M: Message + Name>(message: &M) -> DynamicMessage {
    let mut dynamic = DynamicMessage::new(descriptor::<M>());
    dynamic.transcode_from(message).expect("the message is of this type");
    dynamic
}

/// Reads one message of this type as JSON, and appends it to `encoded` as protobuf.
///
/// # Errors
///
/// As of [`from_json`], with the path of the field; or there are more than [`VALUES_MAX`] values.
pub fn encode(descriptor: &MessageDescriptor, json: &[u8], encoded: &mut BytesMut) -> Result<(), Unreadable> {
    if has_too_many_values(json) {
        return Err(Unreadable::TooManyValues);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let message = DynamicMessage::deserialize(descriptor.clone(), &mut deserializer)
        .and_then(|message| deserializer.end().map(|()| message))
        .map_err(|error| {
            let path = path_of_error(descriptor, json);
            Unreadable::malformed_json(descriptor.full_name(), &path, &error.to_string())
        })?;
    message.encode(encoded).expect("the buffer grows");
    Ok(())
}

/// A message of this type, which is encoded as protobuf, as JSON.
///
/// # Errors
///
/// It is no such message, or has a value without a form in JSON, such as a time in the year 10000.
pub fn decode(descriptor: &MessageDescriptor, encoded: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let message = DynamicMessage::decode(descriptor.clone(), encoded).map_err(serde_json::Error::custom)?;
    let mut json = Vec::with_capacity(2 * encoded.len());
    message.serialize_with_options(&mut serde_json::Serializer::new(&mut json), &SerializeOptions::new())?;
    Ok(json)
}

/// Counts what begins a value, outside of texts, without reading any.
fn has_too_many_values(json: &[u8]) -> bool {
    let (mut values, mut is_text, mut is_escaped) = (0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            b'{' | b'[' | b',' if !is_text => values += 1,
            _ => {}
        }
    }
    values > VALUES_MAX
}

/// Where the first error is: reads again, since keeping the path takes time.
fn path_of_error(descriptor: &MessageDescriptor, json: &[u8]) -> String {
    let mut track = serde_path_to_error::Track::new();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let tracked = serde_path_to_error::Deserializer::new(&mut deserializer, &mut track);
    match DynamicMessage::deserialize(descriptor.clone(), tracked) {
        Ok(_) => String::new(),
        Err(_) => Some(track.path().to_string()).filter(|path| path != ".").unwrap_or_default(),
    }
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
    fn an_error_has_the_path_of_its_field() {
        let descriptor = descriptor::<CreateSubscriptionRequest>();
        let error = |json: &str| encode(&descriptor, json.as_bytes(), &mut BytesMut::new()).unwrap_err();
        let violation = |json: &str| error(json).violation();
        let (field, rule) = violation(r#"{"subscription": {"url": "x", "maxInFlight": "many"}}"#).unwrap();
        assert_eq!(field, "subscription.maxInFlight", "{rule}");
        let (field, _) =
            violation(r#"{"subscription": {"eventTypes": ["EVENT_TYPE_OTHER", "NONE"]}}"#).unwrap();
        assert_eq!(field, "subscription.eventTypes[1]");
        let (_, rule) = violation(r#"{"subscription": {"uri": "x"}}"#).unwrap();
        assert!(rule.contains("uri"), "{rule}");
        for json in ["", "{", "[]", "1", "{}{}", "\u{0}", "{\"parent\": \"\\ud800\"}"] {
            assert_eq!(error(json).reason(), "MESSAGE_MALFORMED", "{json:?}");
        }
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert_eq!(
            error(&format!(r#"{{"subscription": {{"labels": {deep}}}}}"#)).reason(),
            "MESSAGE_MALFORMED"
        );
    }

    #[test]
    fn values_are_counted_before_any_is_read() {
        let of = |count: usize| format!("[{}]", vec!["{}"; count].join(",")).into_bytes();
        assert!(!has_too_many_values(&of(VALUES_MAX / 2)));
        assert!(has_too_many_values(&of(VALUES_MAX / 2 + 1)));
        let text = format!("[{:?}]", "\\\"{[,".repeat(VALUES_MAX));
        assert!(!has_too_many_values(text.as_bytes()), "a text is one value");
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
