//! Counts the elements of an encoded message: nested messages, map entries and strings in lists. Each takes
//! two bytes on the wire and about a hundred once decoded, so they are counted before decoding. Looks at the depth of
//! the nesting as well, so that the error can say where it is.

use std::{collections::HashMap, sync::LazyLock};

use prost::{
    Message,
    encoding::{WireType, decode_key, decode_varint},
};
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

/// Most elements of a message, at all depths together: a batch of 1,000 events may have a hundred in each.
pub const ELEMENTS_MAX: usize = 100_000;

/// Deepest nesting of messages: prost decodes no deeper.
pub const DEPTH_MAX: usize = 100;

/// A bound that a message exceeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Excess {
    /// [`ELEMENTS_MAX`].
    Elements,
    /// [`DEPTH_MAX`]. The names of the fields on the way to the first message that is too deep, the innermost first.
    Depth(Vec<&'static str>),
}

/// The type of a field: a message of this shape, or a string in a list.
#[derive(Clone, Copy, Debug)]
enum Element {
    Message(usize),
    Text,
}

/// The fields of a message that are elements, by number.
type Shape = foldhash::HashMap<u32, (Element, String)>;

/// Every message of the contract and of its imports.
struct Shapes {
    by_name: HashMap<String, usize>,
    all: Vec<Shape>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(super::DESCRIPTORS).expect("the built-in descriptors are valid");
    let mut messages = Vec::new();
    for file in &set.file {
        for message in &file.message_type {
            gather(file.package(), message, &mut messages);
        }
    }
    let by_name: HashMap<_, _> =
        messages.iter().enumerate().map(|(index, (name, _))| (name.clone(), index)).collect();
    let shape = |message: &DescriptorProto| {
        let parts = message.field.iter().filter_map(|field| {
            let number = u32::try_from(field.number()).ok()?;
            let element = match field.r#type() {
                Type::Message => Element::Message(*by_name.get(field.type_name().trim_start_matches('.'))?),
                Type::String | Type::Bytes if field.label() == Label::Repeated => Element::Text,
                _ => return None,
            };
            Some((number, (element, field.name().to_owned())))
        });
        parts.collect()
    };
    let all = messages.iter().map(|(_, message)| shape(message)).collect();
    Shapes { by_name, all }
});

fn gather<'a>(within: &str, message: &'a DescriptorProto, messages: &mut Vec<(String, &'a DescriptorProto)>) {
    let name = format!("{within}.{}", message.name());
    for nested in &message.nested_type {
        gather(&name, nested, messages);
    }
    messages.push((name, message));
}

/// Checks an encoded message of this name (`tidings.v1.Event`). Malformed and unknown messages are left to the decoder.
///
/// # Errors
///
/// It has too many elements, or they are nested too deeply.
pub fn check(name: &str, encoded: &[u8]) -> Result<(), Excess> {
    let Some(shape) = SHAPES.by_name.get(name) else { return Ok(()) };
    let mut left = ELEMENTS_MAX;
    count(&SHAPES.all, *shape, encoded, DEPTH_MAX, &mut left)
}

/// Subtracts the elements from `left`. Stops at malformed bytes, where decoding fails too.
fn count(
    shapes: &'static [Shape],
    shape: usize,
    mut rest: &[u8],
    depth: usize,
    left: &mut usize,
) -> Result<(), Excess> {
    while let Ok((number, wire)) = decode_key(&mut rest) {
        let skipped = match wire {
            WireType::Varint => {
                if decode_varint(&mut rest).is_err() {
                    break;
                }
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            // The fields of a group are counted as fields of the message, which may count too many.
            WireType::StartGroup | WireType::EndGroup => 0,
            WireType::LengthDelimited => {
                let Some(len) = decode_varint(&mut rest).ok().and_then(|len| usize::try_from(len).ok())
                else {
                    break;
                };
                let Some(part) = rest.get(..len) else { break };
                if let Some((known, name)) = shapes[shape].get(&number) {
                    *left = left.checked_sub(1).ok_or(Excess::Elements)?;
                    if let Element::Message(shape) = known {
                        let nested = match depth.checked_sub(1) {
                            Some(depth) => count(shapes, *shape, part, depth, left),
                            None => Err(Excess::Depth(Vec::new())),
                        };
                        nested.map_err(|excess| excess.within(name))?;
                    }
                }
                len
            }
        };
        let Some(more) = rest.get(skipped..) else { break };
        rest = more;
    }
    Ok(())
}

impl Excess {
    /// The same, seen from the message with this field.
    fn within(mut self, name: &'static str) -> Self {
        if let Self::Depth(path) = &mut self {
            path.push(name);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use prost::Name;

    use super::*;
    use crate::proto::v1;

    fn too_many<M: Message + Name>(message: &M) -> bool {
        check(&M::full_name(), &message.encode_to_vec()).is_err()
    }

    fn batch(requests: Vec<v1::PublishEventRequest>) -> v1::BatchPublishEventsRequest {
        v1::BatchPublishEventsRequest { requests, ..Default::default() }
    }

    #[test]
    fn the_largest_batch_of_usual_events_is_far_from_the_bound() {
        let meta = v1::ConversationMeta { sender: Some(v1::Contact::default()), ..Default::default() };
        let message = v1::Message {
            account: Some(v1::Account::default()),
            inbox: Some(v1::Inbox::default()),
            sender: Some(v1::Sender { kind: Some(v1::sender::Kind::User(v1::User::default())) }),
            conversation: Some(v1::Conversation {
                meta: Some(meta),
                contact_inbox: Some(v1::ContactInbox::default()),
                labels: vec!["a".to_owned(); 10],
                ..Default::default()
            }),
            attachments: vec![v1::Attachment::default(); 10],
            ..Default::default()
        };
        let payload = v1::event::Payload::MessageCreated(v1::MessageCreated { message: Some(message) });
        let event = v1::Event { payload: Some(payload), ..Default::default() };
        let request = v1::PublishEventRequest { event: Some(event.into()), ..Default::default() };
        assert!(!too_many(&batch(vec![request.clone(); 1_000])));
        assert!(!too_many(&batch(vec![request; 2_000])));
    }

    #[test]
    fn elements_are_counted_exactly_at_every_depth() {
        let empty = v1::PublishEventRequest::default();
        assert!(!too_many(&batch(vec![empty.clone(); ELEMENTS_MAX])));
        assert!(too_many(&batch(vec![empty; ELEMENTS_MAX + 1])));

        // The event, its payload, the conversation, and so on, each count one.
        let within = |conversation: v1::Conversation| v1::PublishEventRequest {
            event: Some(Box::new(v1::Event {
                payload: Some(v1::event::Payload::ConversationCreated(v1::ConversationCreated {
                    conversation: Some(conversation),
                })),
                ..Default::default()
            })),
            ..Default::default()
        };
        let above = 3;
        let messages =
            |count| v1::Conversation { messages: vec![v1::Message::default(); count], ..Default::default() };
        assert!(!too_many(&within(messages(ELEMENTS_MAX - above))));
        assert!(too_many(&within(messages(ELEMENTS_MAX - above + 1))));
        let labels = |count| v1::Conversation { labels: vec![String::new(); count], ..Default::default() };
        assert!(!too_many(&within(labels(ELEMENTS_MAX - above))));
        assert!(too_many(&within(labels(ELEMENTS_MAX - above + 1))));
        // A list of a free object: an entry, its value and the list count as well.
        let nothing = prost_types::Value { kind: None };
        let list = |count| {
            let list = prost_types::ListValue { values: vec![nothing.clone(); count] };
            let value = prost_types::Value { kind: Some(prost_types::value::Kind::ListValue(list)) };
            let object = prost_types::Struct { fields: [("a".to_owned(), value)].into() };
            v1::Conversation { custom_attributes: Some(object), ..Default::default() }
        };
        assert!(!too_many(&within(list(ELEMENTS_MAX - above - 4))));
        assert!(too_many(&within(list(ELEMENTS_MAX - above - 3))));
    }

    #[test]
    fn malformed_messages_are_left_to_the_decoder() {
        let name = v1::BatchPublishEventsRequest::full_name();
        for bytes in [&[0xff; 20][..], &[0x12, 0x7f], &[0x12], &[0x09, 1], &[0x08]] {
            assert_eq!(check(&name, bytes), Ok(()));
        }
        assert_eq!(check("tidings.v1.None", &[0x12, 0].repeat(ELEMENTS_MAX + 1)), Ok(()));
        // A group does not hide what follows.
        let hidden = [&[0x7b][..], &[0x12, 0].repeat(ELEMENTS_MAX + 1), &[0x7c]].concat();
        assert_eq!(check(&name, &hidden), Err(Excess::Elements));
    }

    #[test]
    fn a_message_is_too_deep_exactly_where_the_decoder_gives_up() {
        // A value within lists: two messages for each.
        let within = |lists: usize| {
            let mut value = prost_types::Value { kind: None };
            for _ in 0..lists {
                let list = prost_types::ListValue { values: vec![value] };
                value = prost_types::Value { kind: Some(prost_types::value::Kind::ListValue(list)) };
            }
            let object = prost_types::Struct { fields: [("a".to_owned(), value)].into() };
            let contact = v1::Contact { custom_attributes: Some(object), ..Default::default() };
            v1::ContactCreated { contact: Some(contact) }
        };
        let name = v1::ContactCreated::full_name();
        for lists in 45..55 {
            let encoded = within(lists).encode_to_vec();
            let is_decoded = v1::ContactCreated::decode(&*encoded).is_ok();
            match check(&name, &encoded) {
                Ok(()) => assert!(is_decoded, "{lists} lists"),
                Err(Excess::Depth(path)) => {
                    assert!(!is_decoded, "{lists} lists");
                    let start: Vec<_> = path.iter().rev().take(4).copied().collect();
                    assert_eq!(start, ["contact", "custom_attributes", "fields", "value"]);
                    assert_eq!(path.len(), DEPTH_MAX + 1);
                }
                Err(Excess::Elements) => unreachable!("there are few"),
            }
        }
    }
}
