//! An event as Tidings knows it: what was published, and the few facts that decide where it goes.

use std::sync::OnceLock;

use bytes::Bytes;

use super::{
    ids::{AccountId, EventId, EventName, Seq},
    json,
    subscription::PayloadFormat,
    time::UnixMicros,
};
use crate::proto::v1::{self, EventType};

mod check;

pub use check::{FAULTS_MAX, NESTING_MAX, VALUE_NESTING_MAX, check};

/// What decides which subscriptions an event is for, and after which other events it must arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFacts {
    /// Its kind; never unspecified.
    pub event_type: EventType,
    /// The inbox that it belongs to, if it belongs to one.
    pub inbox_id: Option<i64>,
    /// Events with equal keys keep their order where a subscription asks for order.
    pub order_key: OrderKey,
}

/// What the order of events is kept within.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderKey {
    /// The events of one conversation, by its id.
    Conversation(i64),
    /// The events of one contact, by its id.
    Contact(i64),
    /// The events of one inbox, by its id.
    Inbox(i64),
}

/// An event that is on disk.
#[derive(Debug)]
pub struct StoredEvent {
    /// Its place in the order of storage.
    pub seq: Seq,
    /// Its name.
    pub name: EventName,
    /// When it was stored.
    pub create_time: UnixMicros,
    /// What was published, checked, with `name`, `type` and `create_time` unset.
    pub event: Box<v1::Event>,
    bodies: [OnceLock<Bytes>; 2],
}

impl StoredEvent {
    /// An event at its place in the store.
    pub fn new(seq: Seq, name: EventName, create_time: UnixMicros, event: impl Into<Box<v1::Event>>) -> Self {
        Self { seq, name, create_time, event: event.into(), bodies: Default::default() }
    }

    /// The body that is POSTed in `format`. Rendered once, however many subscriptions share it.
    pub fn body(&self, format: PayloadFormat) -> Bytes {
        // Where the sample has no form of its own, both share one rendering.
        let format = if json::has_sample_form(&self.event) { format } else { PayloadFormat::Documented };
        let slot = match format {
            PayloadFormat::Documented => &self.bodies[0],
            PayloadFormat::Sample => &self.bodies[1],
        };
        slot.get_or_init(|| json::render(&self.event, format).into()).clone()
    }

    /// Its kind.
    pub fn event_type(&self) -> EventType {
        event_type(&self.event).expect("a stored event has a payload: it was checked before")
    }

    /// As the API shows it: with its name, kind and time.
    pub fn to_proto(&self) -> v1::Event {
        v1::Event {
            name: self.name.to_string(),
            r#type: self.event_type().into(),
            create_time: Some(self.create_time.into()),
            ..v1::Event::clone(&self.event)
        }
    }
}

/// The account that an event is published to, and the id that its publisher chose, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventAddress {
    /// The account.
    pub account: AccountId,
    /// The publisher's id; the store makes one where there is none.
    pub id: Option<EventId>,
}

/// The kind of an event by its payload; `None` without one.
pub fn event_type(event: &v1::Event) -> Option<EventType> {
    use v1::event::Payload;
    Some(match event.payload.as_ref()? {
        Payload::ConversationCreated(_) => EventType::ConversationCreated,
        Payload::ConversationUpdated(_) => EventType::ConversationUpdated,
        Payload::ConversationStatusChanged(_) => EventType::ConversationStatusChanged,
        Payload::MessageCreated(_) => EventType::MessageCreated,
        Payload::MessageUpdated(_) => EventType::MessageUpdated,
        Payload::WebwidgetTriggered(_) => EventType::WebwidgetTriggered,
        Payload::ContactCreated(_) => EventType::ContactCreated,
        Payload::ContactUpdated(_) => EventType::ContactUpdated,
        Payload::InboxCreated(_) => EventType::InboxCreated,
        Payload::InboxUpdated(_) => EventType::InboxUpdated,
        Payload::ConversationTypingOn(_) => EventType::ConversationTypingOn,
        Payload::ConversationTypingOff(_) => EventType::ConversationTypingOff,
    })
}
