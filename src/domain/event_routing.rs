//! The routing of an event: its type, inbox, order key and address.

use super::ids::{AccountId, EventId};
use crate::proto::v1::EventType;

/// Decides which subscriptions an event is for, and after which other events it must arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRouting {
    /// Its type; never unspecified.
    pub event_type: EventType,
    /// The inbox that it belongs to, if any.
    pub inbox_id: Option<i64>,
    /// Events with equal keys keep their order where a subscription asks for order.
    pub order_key: OrderKey,
}

/// The scope in which events keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OrderKey {
    /// The events of one conversation, by its id.
    Conversation(i64),
    /// The events of one contact, by its id.
    Contact(i64),
    /// The events of one inbox, by its id.
    Inbox(i64),
}

/// A 32-bit hash of an [`OrderKey`]. Subscriptions and the store order events by tag, to save memory.
///
/// Two keys may share a tag. Their events then share one order and wait for each other, which is rare and
/// breaks no promise. A key has the same tag in every version, since tags are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrderTag(pub u32);

impl From<OrderKey> for OrderTag {
    fn from(key: OrderKey) -> Self {
        let (kind, id) = match key {
            OrderKey::Conversation(id) => (1, id),
            OrderKey::Contact(id) => (2, id),
            OrderKey::Inbox(id) => (3, id),
        };
        // The finalizer of splitmix64 spreads neighbouring ids, and is a bijection per kind before it is
        // truncated.
        let mut mixed = id.cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(kind));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let [a, b, c, d, ..] = mixed.to_be_bytes();
        Self(u32::from_be_bytes([a, b, c, d]))
    }
}

/// The account and the id of an event that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventAddress {
    /// The account.
    pub account: AccountId,
    /// The publisher's id; without one the store generates it.
    pub id: Option<EventId>,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_key_has_the_same_tag_in_every_version() {
        let tags = [OrderKey::Conversation(1), OrderKey::Contact(1), OrderKey::Inbox(1), OrderKey::Inbox(-1)];
        assert_eq!(
            tags.map(|key| OrderTag::from(key).0),
            [2_433_363_436, 3_203_108_257, 4_170_425_070, 942_667_852]
        );
    }

    #[test]
    fn tags_are_rarely_shared() {
        let tags: HashSet<_> = (0..10_000).map(|id| OrderTag::from(OrderKey::Conversation(id))).collect();
        assert!(tags.len() >= 9_990, "{} tags of 10,000 keys", tags.len());
    }
}
