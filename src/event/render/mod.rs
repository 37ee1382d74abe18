//! The JSON bodies that receivers get, rendered from the protobuf events.
//!
//! `docs/json.md` describes them; `documented`, `sample` and `chatwoot` are one form each. Their structs
//! borrow from the event and declare fields in the document's order, so that a declaration can be compared
//! with the document line by line. Rendering is pure: the same event and form give the same bytes on every
//! attempt.

use super::catalogue::{self, Record, RecordKind};
use crate::{
    domain::payload_format::PayloadFormat,
    proto::v1::{self, EventType},
};

mod chatwoot;
mod documented;
mod sample;
mod shared;
mod time;
mod value;

pub(crate) use self::time::{FIRST_SECOND, LAST_SECOND};
pub(super) use self::value::number_text;

/// The body of `event` in `format`: compact UTF-8, keys in the document's order.
///
/// # Panics
///
/// If the event did not pass [`check`](crate::event::check).
pub fn render(event: &v1::Event, format: PayloadFormat) -> Vec<u8> {
    let payload = event.payload.as_ref().expect("a checked event has a payload");
    let parts = catalogue::parts(payload);
    match (format, &parts.record) {
        (PayloadFormat::Sample, Record::Message(message)) => {
            sample::render(parts.descriptor.name, shared::required(*message))
        }
        (PayloadFormat::Documented | PayloadFormat::Sample, _) => documented::render(&parts),
        (PayloadFormat::Chatwoot, _) => chatwoot::render(&parts),
    }
}

/// The form whose body events of this type have in `format`. Where it is another form, both share one
/// rendering.
pub fn effective_format(event_type: EventType, format: PayloadFormat) -> PayloadFormat {
    match format {
        _ if event_type == EventType::Other => PayloadFormat::Chatwoot,
        PayloadFormat::Sample if !has_sample_form(event_type) => PayloadFormat::Documented,
        own => own,
    }
}

/// Whether [`PayloadFormat::Sample`] differs from the documented form for events of this type: message events
/// only.
pub fn has_sample_form(event_type: EventType) -> bool {
    catalogue::get(event_type).is_some_and(|descriptor| descriptor.record == RecordKind::Message)
}

#[cfg(test)]
mod tests;
