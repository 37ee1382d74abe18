//! The protobuf codec of `tonic_prost`, with buffers sized for events and bounds on the elements and the nesting of a
//! message. A message that cannot be read is the fault of its sender, and says which field is wrong.

use std::{collections::HashMap, fmt, marker::PhantomData};

use bytes::Buf;
use prost::{DecodeError, Message, Name};
use tonic::{
    Code, Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstEncoder};
use tonic_types::{ErrorDetails, StatusExt};

use super::{
    ERROR_DOMAIN,
    elements::{DEPTH_MAX, ELEMENTS_MAX, Excess, check},
    json::VALUES_MAX,
};

/// Initial size of a call's buffers, one for each direction. The library's 8 KiB are several times an event
/// and its response; a buffer grows for a longer message.
const BUFFER_BYTES: usize = 1024;
/// Bytes of a stream that are encoded before they are sent, as in the library.
const YIELD_BYTES: usize = 32 * 1024;
/// A message of this size has at most [`ELEMENTS_MAX`] elements: each takes a key and a length.
const MANY_ELEMENTS_BYTES: usize = 2 * ELEMENTS_MAX;
/// Longest path of a field in an error.
const PATH_CHARS_MAX: usize = 80;
/// Longest rule that an error of JSON repeats.
const RULE_CHARS_MAX: usize = 200;

/// Protobuf, for generated clients and servers: `T` is sent, `U` is received.
#[derive(Clone, Debug)]
pub struct ProtobufCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for ProtobufCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for ProtobufCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::raw_encoder(buffers())
    }

    fn decoder(&mut self) -> BoundedDecoder<U> {
        BoundedDecoder(PhantomData)
    }
}

/// Decodes messages within the bounds.
#[derive(Debug)]
pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Name + Default> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, encoded: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // The buffer has the whole message in one chunk.
        let message = read(encoded.chunk())?;
        encoded.advance(encoded.remaining());
        Ok(Some(message))
    }

    fn buffer_settings(&self) -> BufferSettings {
        buffers()
    }
}

/// The buffers of every codec here.
pub fn buffers() -> BufferSettings {
    BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
}

/// Decodes a message.
///
/// # Errors
///
/// It is past a bound, or malformed.
pub fn read<U: Message + Name + Default>(encoded: &[u8]) -> Result<U, Unreadable> {
    if encoded.len() > MANY_ELEMENTS_BYTES {
        check_bounds(&U::full_name(), encoded)?;
    }
    U::decode(encoded).map_err(|error| {
        let name = U::full_name();
        // The decoder stops at the same depth, and does not say where that is.
        check_bounds(&name, encoded).err().unwrap_or_else(|| Unreadable::malformed(&name, &error))
    })
}

fn check_bounds(name: &str, encoded: &[u8]) -> Result<(), Unreadable> {
    check(name, encoded).map_err(|excess| match excess {
        Excess::Elements => Unreadable::TooManyElements,
        Excess::Depth(path) => Unreadable::TooDeep { field: shown(path.iter().rev().copied()) },
    })
}

/// Why a message was not decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It has more than [`ELEMENTS_MAX`] elements.
    TooManyElements,
    /// As JSON, it has more than [`VALUES_MAX`] values.
    TooManyValues,
    /// Messages within each other exceed [`DEPTH_MAX`].
    TooDeep {
        /// The beginning of the path.
        field: String,
    },
    /// It is no protobuf message of its type.
    Malformed {
        /// The type.
        name: String,
        /// The path of the field, if it is within one.
        field: String,
        /// The reason.
        rule: String,
    },
}

impl Unreadable {
    /// `error` is prost's: `failed to decode Protobuf message: Inner.field: Outer.field: invalid varint`.
    fn malformed(name: &str, error: &DecodeError) -> Self {
        let text = error.to_string();
        let text = text.split_once(": ").map_or(text.as_str(), |(_, rest)| rest);
        let mut parts: Vec<&str> = text.split(": ").collect();
        let steps = parts.iter().take_while(|part| part.contains('.') && !part.contains(' ')).count();
        let rule = parts.split_off(steps.min(parts.len() - 1)).join(": ");
        let fields = parts.iter().rev().filter_map(|part| part.split_once('.')).map(|(_, field)| field);
        Self::Malformed { name: name.to_owned(), field: shown(fields), rule }
    }

    /// `path` and `rule` are of JSON, and have texts of the sender.
    pub(super) fn malformed_json(name: &str, path: &str, rule: &str) -> Self {
        let cut = |text: &str, max| text[..text.floor_char_boundary(max)].to_owned();
        Self::Malformed {
            name: name.to_owned(),
            field: cut(path, PATH_CHARS_MAX),
            rule: cut(rule, RULE_CHARS_MAX),
        }
    }

    /// The stable reason of the error.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooManyElements | Self::TooManyValues => "MESSAGE_TOO_LARGE",
            Self::TooDeep { .. } => "FIELD_INVALID",
            Self::Malformed { .. } => "MESSAGE_MALFORMED",
        }
    }

    /// The metadata of the error: the limit and its value.
    pub fn metadata(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::TooManyElements => {
                vec![("limit", "grpc_message_elements_max".to_owned()), ("max", ELEMENTS_MAX.to_string())]
            }
            Self::TooManyValues => {
                vec![("limit", "json_values_max".to_owned()), ("max", VALUES_MAX.to_string())]
            }
            Self::TooDeep { .. } => {
                vec![("limit", "grpc_message_nesting_max".to_owned()), ("max", DEPTH_MAX.to_string())]
            }
            Self::Malformed { .. } => Vec::new(),
        }
    }

    /// The field and the rule that it violates.
    pub fn violation(&self) -> Option<(String, String)> {
        match self {
            Self::TooDeep { field } => Some((field.clone(), depth_rule())),
            Self::Malformed { field, rule, .. } if !field.is_empty() => Some((field.clone(), rule.clone())),
            Self::TooManyElements | Self::TooManyValues | Self::Malformed { .. } => None,
        }
    }
}

fn depth_rule() -> String {
    format!("is nested too deeply: messages may be within each other {DEPTH_MAX} levels deep")
}

/// The beginning of a path.
fn shown<'a>(fields: impl Iterator<Item = &'a str>) -> String {
    let mut path = String::new();
    for field in fields {
        if path.len() + field.len() > PATH_CHARS_MAX {
            path.push_str("...");
            break;
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(field);
    }
    path
}

/// At most 200 characters.
impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyElements => write!(
                f,
                "the message has more than {ELEMENTS_MAX} elements (nested messages, map entries, strings in lists): send less \
                 in one message"
            ),
            Self::TooManyValues => {
                write!(f, "the JSON has more than {VALUES_MAX} values: send less in one message")
            }
            Self::TooDeep { field } => write!(f, "{field} {}", depth_rule()),
            Self::Malformed { name, field, rule } => {
                let name = name.rsplit('.').next().unwrap_or(name);
                let at = if field.is_empty() { String::new() } else { format!(" at {field}") };
                let text = format!("the message is no valid {name}{at}: {rule}");
                f.write_str(&text[..text.floor_char_boundary(200)])
            }
        }
    }
}

impl From<Unreadable> for Status {
    fn from(unreadable: Unreadable) -> Self {
        let metadata = unreadable.metadata().into_iter().map(|(key, value)| (key.to_owned(), value));
        let mut details = ErrorDetails::with_error_info(
            unreadable.reason(),
            ERROR_DOMAIN,
            metadata.collect::<HashMap<_, _>>(),
        );
        if let Some((field, rule)) = unreadable.violation() {
            details.add_bad_request_violation(field, rule);
        }
        Self::with_error_details(Code::InvalidArgument, unreadable.to_string(), details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1;

    const NAME: &str = "tidings.v1.PublishEventRequest";

    fn refused(encoded: &[u8]) -> Unreadable {
        read::<v1::PublishEventRequest>(encoded).unwrap_err()
    }

    #[test]
    fn a_malformed_message_names_the_field_and_the_rule() {
        // An event that is a varint; an event whose payload ends in the middle.
        let unreadable = refused(&[0x10, 1]);
        assert_eq!(unreadable.violation().unwrap().0, "event", "{unreadable}");
        let unreadable = refused(&[0x12, 2, 0x0a, 9]);
        assert_eq!(unreadable.reason(), "MESSAGE_MALFORMED");
        assert!(unreadable.to_string().starts_with("the message is no valid PublishEventRequest at event"));
        let unreadable = refused(&[0xff; 20]);
        assert_eq!((unreadable.violation(), unreadable.metadata()), (None, vec![]), "{unreadable}");
    }

    #[test]
    fn no_text_is_longer_than_200_characters() {
        let names = vec!["a_rather_long_name"; 100];
        let field = shown(names.into_iter());
        assert!(field.ends_with("...") && field.len() <= PATH_CHARS_MAX + 3);
        let malformed =
            Unreadable::Malformed { name: NAME.into(), field: field.clone(), rule: "x".repeat(300) };
        for unreadable in [Unreadable::TooManyElements, Unreadable::TooDeep { field }, malformed] {
            assert!(unreadable.to_string().len() <= 200, "{unreadable}");
        }
    }
}
