//! What a form of the body leaves out of an event: fields that the event has and receivers in that form do not get.

use std::{
    collections::HashMap,
    ops::ControlFlow::{self, Break, Continue},
    sync::LazyLock,
};

use prost::{
    Message, Name,
    encoding::{WireType, decode_key, decode_varint},
};
use prost_types::{FileDescriptorSet, field_descriptor_proto::Type};

use super::render::effective_format;
use crate::{
    domain::payload_format::PayloadFormat,
    proto::{
        DESCRIPTORS,
        v1::{self, EventType},
    },
};

/// Most fields that are listed for one event and form.
pub const DROPPED_FIELDS_MAX: usize = 20;
/// Fields that are listed for one event and form where its publisher does not ask: enough to notice. The response to a
/// steady publisher stays short, below the 256 bytes up to which h2 copies frames together.
pub const DROPPED_FIELDS_DEFAULT: usize = 1;

/// The contract numbers fields that the documented form does not have from this one.
const UNDOCUMENTED_FROM: u32 = 30;
/// Fields that say how something is written and have no value of their own, by message.
const FLAGS: [(&str, u32); 2] = [("Conversation", 41), ("Message", 41)];
/// The fields that the sample form has, by message. The account of a conversation is that of the event.
const SAMPLE: [(&str, &[u32]); 12] = [
    ("MessageCreated", &[1]),
    ("MessageUpdated", &[1]),
    ("Message", &[1, 2, 3, 4, 6, 7, 8, 9, 10, 11]),
    ("Sender", &[1, 2, 3]),
    ("Contact", &[1, 2]),
    ("User", &[1, 2, 3]),
    ("AgentBot", &[1, 2]),
    ("Account", &[1, 2]),
    ("Conversation", &[1, 4, 8, 14]),
    ("ConversationAttributes", &[1, 2, 3, 4]),
    ("Browser", &[1, 2, 3, 4, 5]),
    ("ConversationMeta", &[1]),
];

/// The fields of an event that a form leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedFields {
    /// The form.
    pub format: PayloadFormat,
    /// Their paths, without indexes: `event.message_created.message.attachments`. At least one, at most as many as
    /// were asked for.
    pub paths: Vec<String>,
    /// Whether there are more.
    pub has_more: bool,
}

/// A message of the contract.
struct Shape {
    name: String,
    /// By number.
    fields: Vec<Option<Field>>,
}

impl Shape {
    fn field(&self, number: u32) -> Option<&Field> {
        self.fields.get(usize::try_from(number).ok()?)?.as_ref()
    }
}

struct Field {
    name: String,
    /// Its message, if that is one of the contract's.
    message: Option<usize>,
    in_documented: bool,
    in_sample: bool,
}

struct Shapes {
    event: usize,
    all: Vec<Shape>,
}

static SHAPES: LazyLock<Shapes> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the built-in descriptors are valid");
    let files = set.file.iter().filter(|file| file.package() == v1::Event::PACKAGE);
    let messages: Vec<_> = files.flat_map(|file| &file.message_type).collect();
    let names = messages.iter().enumerate();
    let by_name: HashMap<String, usize> =
        names.map(|(at, message)| (format!(".{}.{}", v1::Event::PACKAGE, message.name()), at)).collect();
    let all = messages.iter().map(|message| {
        let name = message.name();
        let sample = SAMPLE.iter().find(|(known, _)| *known == name).map(|(_, numbers)| *numbers);
        let mut fields = Vec::new();
        for field in &message.field {
            let number = u32::try_from(field.number()).expect("numbers of fields are positive");
            let is_flag = FLAGS.contains(&(name, number));
            let is_message = field.r#type() == Type::Message;
            let field = Field {
                name: field.name().to_owned(),
                message: by_name.get(field.type_name()).copied().filter(|_| is_message),
                in_documented: is_flag || number < UNDOCUMENTED_FROM,
                in_sample: is_flag || sample.is_none_or(|numbers| numbers.contains(&number)),
            };
            let at = number as usize;
            fields.resize_with(fields.len().max(at + 1), || None);
            fields[at] = Some(field);
        }
        Shape { name: name.to_owned(), fields }
    });
    let all: Vec<_> = all.collect();
    let event = all.iter().position(|shape| shape.name == v1::Event::NAME).expect("the contract has it");
    Shapes { event, all }
});

/// The fields of an encoded event that this form leaves out, if there are any; the first `max`. Fields of the event
/// itself are in no form.
pub fn dropped_fields(
    encoded: &[u8],
    event_type: EventType,
    format: PayloadFormat,
    max: usize,
) -> Option<DroppedFields> {
    let form = effective_format(event_type, format);
    if form == PayloadFormat::Chatwoot {
        return None;
    }
    let mut walk = Walk { form, max, paths: Vec::new(), has_more: false };
    // Broken off or not, what was found counts.
    let _ended: ControlFlow<()> = for_each_field(encoded, |number, value| {
        if let Some(Field { name, message: Some(payload), .. }) = SHAPES.all[SHAPES.event].field(number) {
            return walk.message(
                *payload,
                value,
                &Path { above: Some(&Path { above: None, name: "event" }), name },
            );
        }
        Continue(())
    });
    let Walk { paths, has_more, .. } = walk;
    (!paths.is_empty()).then_some(DroppedFields { format, paths, has_more })
}

struct Walk {
    form: PayloadFormat,
    max: usize,
    paths: Vec<String>,
    /// Whether there is one past `max`: then nothing more is looked for.
    has_more: bool,
}

/// A path as a list up to the event.
struct Path<'a> {
    above: Option<&'a Path<'a>>,
    name: &'a str,
}

impl Walk {
    fn message(&mut self, shape: usize, encoded: &[u8], path: &Path<'_>) -> ControlFlow<()> {
        let shape = &SHAPES.all[shape];
        for_each_field(encoded, |number, value| {
            let Some(field) = shape.field(number) else { return Continue(()) };
            let is_in = match self.form {
                PayloadFormat::Documented => field.in_documented,
                PayloadFormat::Sample => field.in_sample,
                PayloadFormat::Chatwoot => true,
            };
            match field.message {
                _ if !is_in => self.found(&Path { above: Some(path), name: &field.name }),
                Some(message) => self.message(message, value, &Path { above: Some(path), name: &field.name }),
                None => Continue(()),
            }
        })
    }

    fn found(&mut self, path: &Path<'_>) -> ControlFlow<()> {
        let text = path.text();
        if !self.paths.contains(&text) {
            match self.paths.len() < self.max {
                true => self.paths.push(text),
                false => {
                    self.has_more = true;
                    return Break(());
                }
            }
        }
        Continue(())
    }
}

impl Path<'_> {
    fn text(&self) -> String {
        let mut text = String::with_capacity(self.length());
        self.write(&mut text);
        text
    }

    fn length(&self) -> usize {
        self.above.map_or(0, |above| above.length() + 1) + self.name.len()
    }

    fn write(&self, text: &mut String) {
        if let Some(above) = self.above {
            above.write(text);
            text.push('.');
        }
        text.push_str(self.name);
    }
}

/// Calls `take` with the number of each field that has a value, and its bytes if it is a message or a text, until it
/// breaks.
fn for_each_field(mut rest: &[u8], mut take: impl FnMut(u32, &[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
    while let Ok((number, wire)) = decode_key(&mut rest) {
        let length = match wire {
            WireType::Varint => match decode_varint(&mut rest) {
                Ok(0) => continue,
                Ok(_) => 0,
                Err(_) => break,
            },
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => match decode_varint(&mut rest).map(usize::try_from) {
                Ok(Ok(0)) => continue,
                Ok(Ok(length)) => length,
                _ => break,
            },
            WireType::StartGroup | WireType::EndGroup => break,
        };
        let Some((value, more)) = rest.split_at_checked(length) else { break };
        take(number, value)?;
        rest = more;
    }
    Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::ids::AccountId,
        event::{check, samples},
        proto::v1::event::Payload,
    };

    fn message_event(change: impl FnOnce(&mut v1::Message)) -> Vec<u8> {
        let account = AccountId::new(7).unwrap();
        let mut event = samples::sample(EventType::MessageCreated, account);
        let Some(Payload::MessageCreated(created)) = &mut event.payload else { unreachable!() };
        change(created.message.as_mut().unwrap());
        check(&mut event, account, "event").unwrap();
        event.encode_to_vec()
    }

    fn dropped(encoded: &[u8], format: PayloadFormat) -> Vec<String> {
        let fields = dropped_fields(encoded, EventType::MessageCreated, format, DROPPED_FIELDS_MAX);
        let paths = fields.into_iter().flat_map(|fields| fields.paths);
        paths.map(|path| path.replace("event.message_created.message.", "")).collect()
    }

    #[test]
    fn the_documented_form_leaves_out_what_the_documentation_does_not_have() {
        let plain = message_event(|_| {});
        assert_eq!(dropped(&plain, PayloadFormat::Documented), [""; 0]);
        let event = message_event(|message| {
            message.attachments = vec![v1::Attachment { id: 1, ..Default::default() }; 3];
            message.status_at_top = true;
            let conversation = message.conversation.as_mut().unwrap();
            conversation.labels = vec!["a".into(), "b".into()];
            conversation.custom_attributes = Some(prost_types::Struct::default());
            let nested = v1::Message { id: 1, message_type: 1, status: "read".into(), ..Default::default() };
            conversation.messages = vec![nested.clone(), nested];
        });
        let mut fields = dropped(&event, PayloadFormat::Documented);
        fields.sort();
        assert_eq!(fields, ["attachments", "conversation.labels", "conversation.messages.status"]);
        assert_eq!(dropped(&event, PayloadFormat::Chatwoot), [""; 0]);
    }

    #[test]
    fn the_sample_form_leaves_out_more_of_message_events_only() {
        let event = message_event(|message| message.private = true);
        let fields = dropped(&event, PayloadFormat::Sample);
        assert!(fields.contains(&"private".to_owned()) && fields.contains(&"inbox".to_owned()), "{fields:?}");
        for kind in EventType::all().filter(|kind| !super::super::render::has_sample_form(*kind)) {
            let mut event = samples::sample(kind, AccountId::new(7).unwrap());
            check(&mut event, AccountId::new(7).unwrap(), "event").unwrap();
            let encoded = event.encode_to_vec();
            let [documented, sample] = [PayloadFormat::Documented, PayloadFormat::Sample].map(|format| {
                dropped_fields(&encoded, kind, format, DROPPED_FIELDS_MAX).map(|fields| fields.paths)
            });
            assert_eq!(documented, sample, "{kind:?}");
        }
    }

    #[test]
    fn the_sample_form_has_every_message_that_it_lists() {
        for (name, numbers) in SAMPLE {
            let shape =
                SHAPES.all.iter().find(|shape| shape.name == name).unwrap_or_else(|| panic!("{name}"));
            assert!(numbers.iter().all(|number| shape.field(*number).is_some()), "{name}");
        }
    }

    #[test]
    fn few_fields_are_listed() {
        let event = message_event(|message| {
            let contact = v1::Contact {
                id: 1,
                email: Some("x".into()),
                phone_number: Some("x".into()),
                identifier: Some("x".into()),
                thumbnail: "x".into(),
                blocked: true,
                ..Default::default()
            };
            let meta = v1::ConversationMeta { sender: Some(contact.clone()), ..Default::default() };
            let conversation = v1::Conversation {
                id: 1,
                meta: Some(meta),
                labels: vec!["x".into()],
                priority: Some("x".into()),
                created_at: Some(samples::records::sample_time()),
                updated_at: Some(samples::records::sample_time()),
                last_activity_at: Some(samples::records::sample_time()),
                ..Default::default()
            };
            let sender = v1::Sender { kind: Some(v1::sender::Kind::Contact(contact)) };
            let nested = v1::Message {
                id: 1,
                message_type: 1,
                status: "sent".into(),
                updated_at: Some(samples::records::sample_time()),
                sender: Some(sender),
                conversation: Some(conversation.clone()),
                ..Default::default()
            };
            message.conversation = Some(v1::Conversation { messages: vec![nested], ..conversation });
        });
        for max in [DROPPED_FIELDS_DEFAULT, DROPPED_FIELDS_MAX] {
            let fields =
                dropped_fields(&event, EventType::MessageCreated, PayloadFormat::Documented, max).unwrap();
            assert_eq!((fields.paths.len(), fields.has_more), (max, true));
        }
    }
}
