//! The content of an event in memory: encoded, and rendered in the forms that it is sent in. A decoded
//! message is hundreds of small allocations, so it is not kept: decode one where it is needed, and drop it on
//! the same thread.

use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message;

use super::{catalogue, notice, render, validate};
use crate::{
    domain::{event_routing::OrderTag, payload_format::PayloadFormat},
    proto::v1::{self, EventType},
};

/// Approximate memory of an event in bytes without its encoding and its bodies: the struct, its id, and
/// reference counts.
const OVERHEAD_BYTES: usize = 320;

/// The part of a stored event that is not the publisher's. It follows the encoding of the event, whose decoding
/// ignores it: the contract reserves the number of its field.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct Trail {
    #[prost(uint32, tag = "100")]
    hops: u32,
}

/// The published event.
#[derive(Clone, Debug)]
pub struct EventContent {
    /// Its type.
    pub event_type: EventType,
    /// Events with the same tag keep their order.
    pub order_tag: OrderTag,
    /// The encoding, as on disk: the checked event, with `name`, `type` and `create_time` unset, and its hops if
    /// it has some.
    pub encoded: Bytes,
    /// By [`PayloadFormat::index`].
    bodies: [OnceLock<Bytes>; PayloadFormat::COUNT],
    memory_bytes: OnceLock<usize>,
}

impl EventContent {
    /// An encoded event of which nothing is rendered yet.
    pub fn new(event_type: EventType, order_tag: OrderTag, encoded: Bytes) -> Self {
        Self { event_type, order_tag, encoded, bodies: Default::default(), memory_bytes: OnceLock::new() }
    }

    /// The same of an event that so many gateways have POSTed before.
    #[must_use]
    pub fn with_hops(self, hops: u32) -> Self {
        // None take no space.
        let encoded = [&*self.encoded, &Trail { hops }.encode_to_vec()].concat();
        Self { encoded: encoded.into(), ..self }
    }

    /// Gateways that have POSTed the event before it was published here.
    pub fn hops(&self) -> u32 {
        let trail = Trail::decode(&*self.encoded);
        trail.expect("it was encoded here, and records of the disk have a checksum").hops
    }

    /// Renders the body in `format`, unless that is done already. `event` is the decoded content.
    pub fn render(&self, event: &v1::Event, format: PayloadFormat) {
        self.slot(format).get_or_init(|| rendered(event, format));
    }

    /// The body that is POSTed in `format`. Rendered once for all subscriptions.
    pub fn body(&self, format: PayloadFormat) -> Bytes {
        let render = || match self.event_type {
            notice::NOTICE_TYPE => notice::body_of(&self.encoded),
            _ => rendered(&self.decode(), format),
        };
        self.slot(format).get_or_init(render).clone()
    }

    /// Whether the body in `format` is rendered.
    #[cfg(test)]
    pub(crate) fn is_rendered(&self, format: PayloadFormat) -> bool {
        self.slot(format).get().is_some()
    }

    fn slot(&self, format: PayloadFormat) -> &OnceLock<Bytes> {
        &self.bodies[render::effective_format(self.event_type, format).index()]
    }

    /// Decodes the event.
    pub fn decode(&self) -> v1::Event {
        v1::Event::decode(&*self.encoded)
            .expect("it was encoded here, and records of the disk have a checksum")
    }

    /// Approximate memory in bytes. The first call fixes the value, even if more bodies are rendered later:
    /// another subscription renders them, and counts the whole event as well.
    pub fn memory_bytes(&self) -> usize {
        *self.memory_bytes.get_or_init(|| {
            let rendered: usize = self.bodies.iter().filter_map(OnceLock::get).map(Bytes::len).sum();
            // It will be rendered before it is sent; a body is somewhat longer than the encoding.
            let bodies = if rendered == 0 { 2 * self.encoded.len() } else { rendered };
            OVERHEAD_BYTES + self.encoded.len() + bodies
        })
    }
}

fn rendered(event: &v1::Event, format: PayloadFormat) -> Bytes {
    // Copied to the exact size: the buffer has spare capacity, and the body is kept for a while.
    Bytes::copy_from_slice(&render::render(event, format))
}

/// Encodes a checked event.
///
/// # Panics
///
/// If it has no payload.
impl From<&v1::Event> for EventContent {
    fn from(event: &v1::Event) -> Self {
        let payload = event.payload.as_ref().expect("a checked event has a payload");
        let parts = catalogue::parts(payload);
        let order_tag = validate::order_key(&parts.record).into();
        Self::new(parts.descriptor.event_type, order_tag, event.encode_to_vec().into())
    }
}

impl From<v1::Event> for EventContent {
    fn from(event: v1::Event) -> Self {
        Self::from(&event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::ids::AccountId, event::samples};

    /// One event of each type.
    fn events() -> impl Iterator<Item = v1::Event> {
        EventType::all().map(|kind| samples::sample(kind, AccountId::new(7).unwrap()))
    }

    #[test]
    fn a_body_is_the_same_from_the_event_and_from_its_decoding() {
        for event in events() {
            let (given, decoded) = (EventContent::from(&event), EventContent::from(&event));
            assert_eq!(decoded.decode(), event);
            for format in PayloadFormat::all() {
                given.render(&event, format);
                assert!(given.is_rendered(format));
                assert_eq!(given.body(format), render::render(&event, format));
                assert_eq!(given.body(format), decoded.body(format));
            }
        }
    }

    #[test]
    fn hops_are_kept_beside_the_event() {
        for event in events() {
            let content = EventContent::from(&event);
            assert_eq!(content.hops(), 0);
            let encoded = content.encoded.clone();
            assert_eq!(content.clone().with_hops(0).encoded, encoded, "as in earlier versions");
            let content = content.with_hops(7);
            let stored = EventContent::new(content.event_type, content.order_tag, content.encoded);
            assert_eq!((stored.hops(), stored.decode()), (7, event));
        }
    }

    #[test]
    fn memory_bytes_counts_the_first_body_and_stays_the_same() {
        for event in events() {
            let content = EventContent::from(&event);
            let body = content.body(PayloadFormat::Documented);
            let memory_bytes = content.memory_bytes();
            assert_eq!(memory_bytes, OVERHEAD_BYTES + content.encoded.len() + body.len());
            content.body(PayloadFormat::Sample);
            assert_eq!(content.memory_bytes(), memory_bytes, "a subscription subtracts what it added");

            let not_rendered = EventContent::from(&event);
            assert!(
                not_rendered.memory_bytes() > OVERHEAD_BYTES + content.encoded.len(),
                "a body is expected"
            );
        }
    }
}
