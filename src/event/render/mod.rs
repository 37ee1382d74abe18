//! The JSON bodies that receivers get, made of the protobuf events.
//!
//! `docs/json.md` says what they look like; `documented`, `sample` and `chatwoot` hold one form each. The structs there borrow
//! from the event and their fields stand in the document's order, so that a declaration can be compared with the
//! document line by line. Rendering is pure: the same event and form give the same bytes, on every attempt.

use serde::Serialize;

use crate::{
    domain::payload_format::PayloadFormat,
    proto::v1::{self, EventType, MessageType},
};

mod chatwoot;
mod documented;
mod sample;
mod time;
mod value;

pub(crate) use self::time::{FIRST_SECOND, LAST_SECOND};

/// Room that a body gets before it is written, in bytes: most message events fit without growing.
const BODY_BYTES_TYPICAL: usize = 2048;

/// The body of `event` in `format`: compact UTF-8, keys in the document's order.
///
/// # Panics
///
/// If the event did not pass [`check`](super::validate).
pub fn render(event: &v1::Event, format: PayloadFormat) -> Vec<u8> {
    let payload = event.payload.as_ref().expect("a checked event has a payload");
    match format {
        PayloadFormat::Sample => sample::render(payload).unwrap_or_else(|| documented::render(payload)),
        PayloadFormat::Documented => documented::render(payload),
        PayloadFormat::Chatwoot => chatwoot::render(payload),
    }
}

/// The form that events of this type have in `format`: they may share another one, and then its rendering too.
pub fn effective_format(event_type: EventType, format: PayloadFormat) -> PayloadFormat {
    match format {
        PayloadFormat::Sample if !has_sample_form(event_type) => PayloadFormat::Documented,
        own => own,
    }
}

/// Whether [`PayloadFormat::Sample`] has a form of its own for events of this kind; where it has none, it is the documented one.
pub fn has_sample_form(event_type: EventType) -> bool {
    matches!(event_type, EventType::MessageCreated | EventType::MessageUpdated)
}

/// The JSON text of `body`.
fn write(body: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BODY_BYTES_TYPICAL);
    serde_json::to_writer(&mut bytes, body)
        .expect("a checked event has a JSON form, and a Vec takes all of it");
    bytes
}

/// A part that the check requires.
fn required<T>(part: Option<&T>) -> &T {
    part.expect("a checked event has its required parts")
}

/// The direction of a message.
fn message_type(message: &v1::Message) -> MessageType {
    match message.message_type() {
        // The check lets it be unset only where the content type makes the message a template.
        MessageType::Unspecified => MessageType::Template,
        set => set,
    }
}

/// The content type of a message: `text` when unset.
fn content_type(message: &v1::Message) -> &str {
    if message.content_type.is_empty() { "text" } else { &message.content_type }
}

#[cfg(test)]
mod tests;
