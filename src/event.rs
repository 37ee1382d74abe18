//! An event as Tidings knows it: what was published, and the few facts that decide where it goes.

use bytes::Bytes;

use crate::{
    domain::{
        event_routing::OrderTag,
        ids::{EventName, Seq},
        payload_format::PayloadFormat,
        time::UnixMicros,
    },
    proto::v1::{self, EventType},
};

mod content;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod parse;
pub mod render;
pub mod samples;
mod validate;
pub mod webhook;

pub use content::EventContent;
pub use validate::{FIELD_VIOLATIONS_MAX, NESTING_MAX, VALUE_NESTING_MAX, check};

/// An event that is on disk.
#[derive(Debug)]
pub struct StoredEvent {
    /// Its place in the order of storage.
    pub seq: Seq,
    /// Its name.
    pub name: EventName,
    /// When it was stored.
    pub create_time: UnixMicros,
    /// What was published.
    pub content: EventContent,
}

impl StoredEvent {
    /// An event at its place in the store.
    pub fn new(seq: Seq, name: EventName, create_time: UnixMicros, content: impl Into<EventContent>) -> Self {
        Self { seq, name, create_time, content: content.into() }
    }

    /// The body that is POSTed in `format`. Rendered once, however many subscriptions share it.
    pub fn body(&self, format: PayloadFormat) -> Bytes {
        self.content.body(format)
    }

    /// Its kind.
    pub fn event_type(&self) -> EventType {
        self.content.event_type
    }

    /// What it keeps its order within.
    pub fn order_tag(&self) -> OrderTag {
        self.content.order_tag
    }

    /// How many bytes of memory it takes up, about.
    pub fn memory_bytes(&self) -> usize {
        self.content.memory_bytes()
    }

    /// As the API shows it: with its name, kind and time.
    pub fn to_proto(&self) -> v1::Event {
        v1::Event {
            name: self.name.to_string(),
            r#type: self.event_type().into(),
            create_time: Some(self.create_time.into()),
            ..self.content.decode()
        }
    }
}
