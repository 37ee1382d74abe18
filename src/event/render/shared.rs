//! Helpers that every form uses.

use serde::Serialize;

use crate::proto::v1::{self, MessageType};

/// Initial capacity of a body in bytes: most message events fit without growing.
const BODY_BYTES_TYPICAL: usize = 2048;

/// The JSON text of `body`.
pub(super) fn write(body: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BODY_BYTES_TYPICAL);
    serde_json::to_writer(&mut bytes, body).expect("a checked event has a JSON form, and a Vec never fails");
    bytes
}

/// A part that the check requires.
pub(super) fn required<T>(part: Option<&T>) -> &T {
    part.expect("a checked event has its required parts")
}

/// An optional object as its counterpart in a body.
pub(super) fn some<'a, T, U: From<&'a T>>(object: Option<&'a T>) -> Option<U> {
    object.map(U::from)
}

/// The direction of a message.
pub(super) fn message_type(message: &v1::Message) -> MessageType {
    match message.message_type() {
        // The check allows it to be unset only where the content type makes the message a template.
        MessageType::Unspecified => MessageType::Template,
        set => set,
    }
}

/// The content type of a message: `text` when unset.
pub(super) fn content_type(message: &v1::Message) -> &str {
    if message.content_type.is_empty() { "text" } else { &message.content_type }
}
