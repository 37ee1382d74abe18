//! What an event is made of, as it is kept in memory: encoded, and rendered in the forms that it is sent in. The decoded
//! message is hundreds of small pieces of memory; whoever needs one makes it, and drops it where it was made.

use std::sync::OnceLock;

use bytes::Bytes;
use prost::Message;

use super::validate;
use crate::{
    domain::{event_routing::OrderTag, payload_format::PayloadFormat},
    event::render,
    proto::v1::{self, EventType},
};

/// Memory that an event takes up beside its encoding and its bodies, about: itself, its id, and what counts who shares
/// its parts.
const WEIGHT_BESIDE: usize = 320;

/// What was published.
#[derive(Clone, Debug)]
pub struct EventContent {
    /// Its kind.
    pub event_type: EventType,
    /// What it keeps its order within.
    pub order_tag: OrderTag,
    /// What is on disk: the event, checked, with `name`, `type` and `create_time` unset.
    pub encoded: Bytes,
    /// By [`PayloadFormat::index`].
    bodies: [OnceLock<Bytes>; PayloadFormat::COUNT],
    memory_bytes: OnceLock<usize>,
}

impl EventContent {
    /// An event that is encoded, of which nothing is rendered yet.
    pub fn new(event_type: EventType, order_tag: OrderTag, encoded: Bytes) -> Self {
        Self { event_type, order_tag, encoded, bodies: Default::default(), memory_bytes: OnceLock::new() }
    }

    /// Renders the body in `format`, if that was not done yet, of `event`, which is the decoded content.
    pub fn render(&self, event: &v1::Event, format: PayloadFormat) {
        self.slot(format).get_or_init(|| rendered(event, format));
    }

    /// The body that is POSTed in `format`. Rendered once, however many subscriptions share it.
    pub fn body(&self, format: PayloadFormat) -> Bytes {
        self.slot(format).get_or_init(|| rendered(&self.decode(), format)).clone()
    }

    /// Whether that is done.
    #[cfg(test)]
    pub(crate) fn is_rendered(&self, format: PayloadFormat) -> bool {
        self.slot(format).get().is_some()
    }

    fn slot(&self, format: PayloadFormat) -> &OnceLock<Bytes> {
        &self.bodies[render::effective_format(self.event_type, format).index()]
    }

    /// The event itself, made anew.
    pub fn decode(&self) -> v1::Event {
        v1::Event::decode(&*self.encoded)
            .expect("it was encoded here, and what is on disk is compared with its sum")
    }

    /// How many bytes of memory it takes up, about. It stays what it was when it was asked for first, whatever is rendered
    /// later: that is for another subscription, which counts the whole event as well.
    pub fn memory_bytes(&self) -> usize {
        *self.memory_bytes.get_or_init(|| {
            let rendered: usize = self.bodies.iter().filter_map(OnceLock::get).map(Bytes::len).sum();
            // Before it is sent it is rendered; a body is somewhat longer than the encoding.
            let bodies = if rendered == 0 { 2 * self.encoded.len() } else { rendered };
            WEIGHT_BESIDE + self.encoded.len() + bodies
        })
    }
}

fn rendered(event: &v1::Event, format: PayloadFormat) -> Bytes {
    // Copied: what it was written to has room for more, and the body stays for a while.
    Bytes::copy_from_slice(&render::render(event, format))
}

/// Encodes a checked event.
///
/// # Panics
///
/// If it has no payload.
impl From<&v1::Event> for EventContent {
    fn from(event: &v1::Event) -> Self {
        let event_type =
            crate::domain::event_routing::event_type(event).expect("a checked event has a payload");
        let payload = event.payload.as_ref().expect("a checked event has a payload");
        Self::new(event_type, validate::order_key(payload).into(), event.encode_to_vec().into())
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

    /// One event of each kind.
    fn events() -> impl Iterator<Item = v1::Event> {
        let kinds = (1..=12).map(|number| EventType::try_from(number).unwrap());
        kinds.map(|kind| samples::sample(kind, AccountId::new(7).unwrap()))
    }

    #[test]
    fn a_body_is_the_same_whether_the_event_was_at_hand_or_decoded_again() {
        for event in events() {
            let (at_hand, decoded) = (EventContent::from(&event), EventContent::from(&event));
            assert_eq!(decoded.decode(), event);
            for format in PayloadFormat::all() {
                at_hand.render(&event, format);
                assert!(at_hand.is_rendered(format));
                assert_eq!(at_hand.body(format), render::render(&event, format));
                assert_eq!(at_hand.body(format), decoded.body(format));
            }
        }
    }

    #[test]
    fn the_weight_is_what_is_held_and_stays_what_it_was() {
        for event in events() {
            let content = EventContent::from(&event);
            let body = content.body(PayloadFormat::Documented);
            let memory_bytes = content.memory_bytes();
            assert_eq!(memory_bytes, WEIGHT_BESIDE + content.encoded.len() + body.len());
            content.body(PayloadFormat::Sample);
            assert_eq!(content.memory_bytes(), memory_bytes, "a subscription takes off what it has put on");

            let not_rendered = EventContent::from(&event);
            assert!(
                not_rendered.memory_bytes() > WEIGHT_BESIDE + content.encoded.len(),
                "a body is expected"
            );
        }
    }
}
