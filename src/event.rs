//! Events: the catalogue of their types, their check, their bodies, and their parsing from Chatwoot's
//! webhooks.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{
    domain::{
        damage::Damage,
        event_routing::OrderTag,
        ids::{EventName, Seq},
        notice::NoticeKind,
        payload_format::PayloadFormat,
        time::UnixMicros,
    },
    proto::v1::{self, EventType},
};

mod account;
pub mod catalogue;
mod content;
pub mod dropped;
pub mod exchange;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod notice;
pub mod other;
pub mod parse;
pub mod render;
pub mod samples;
mod validate;
pub mod webhook;

pub use account::account_in_payload;
pub use content::EventContent;
pub use validate::{FIELD_VIOLATIONS_MAX, NESTING_MAX, VALUE_NESTING_MAX, check};

/// An event that is on disk.
#[derive(Debug)]
pub struct StoredEvent {
    /// Its sequence number in the store.
    pub seq: Seq,
    /// Its name.
    pub name: EventName,
    /// When it was stored.
    pub create_time: UnixMicros,
    /// The published event; without a payload if it is damaged.
    pub content: EventContent,
    /// Set if the disk has lost the content. Such an event is never sent.
    pub damage: Option<Box<Damage>>,
}

impl StoredEvent {
    /// A stored event.
    pub fn new(seq: Seq, name: EventName, create_time: UnixMicros, content: impl Into<EventContent>) -> Self {
        Self { seq, name, create_time, content: content.into(), damage: None }
    }

    /// A stored event whose content is lost. Its type and its order are known from the index.
    pub fn damaged(
        seq: Seq,
        create_time: UnixMicros,
        event_type: EventType,
        order_tag: OrderTag,
        name: EventName,
        damage: Damage,
    ) -> Self {
        let content = EventContent::new(event_type, order_tag, Bytes::new());
        Self { seq, name, create_time, content, damage: Some(Box::new(damage)) }
    }

    /// The body that is POSTed in `format`. Rendered once for all subscriptions.
    pub fn body(&self, format: PayloadFormat) -> Bytes {
        self.content.body(format)
    }

    /// Its type.
    pub fn event_type(&self) -> EventType {
        self.content.event_type
    }

    /// The name of its type, as in the body's `event`, or that of a notice's kind.
    pub fn event_type_name(&self) -> Cow<'static, str> {
        match catalogue::get(self.event_type()) {
            None => notice::kind_of(&self.content.encoded).map_or("unknown", NoticeKind::name).into(),
            Some(descriptor) if descriptor.event_type == EventType::Other => {
                let name = other::name_of(&self.content);
                if name.is_empty() { descriptor.name.into() } else { name.into() }
            }
            Some(descriptor) => descriptor.name.into(),
        }
    }

    /// Whether it is a notice, which no call shows as an event.
    pub fn is_notice(&self) -> bool {
        self.event_type() == notice::NOTICE_TYPE
    }

    /// Events with the same tag keep their order.
    pub fn order_tag(&self) -> OrderTag {
        self.content.order_tag
    }

    /// Approximate memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.content.memory_bytes()
    }

    /// The event of the API, with its name, type and time.
    pub fn to_proto(&self) -> v1::Event {
        v1::Event {
            name: self.name.to_string(),
            r#type: self.event_type().into(),
            create_time: Some(self.create_time.into()),
            ..self.content.decode()
        }
    }
}
