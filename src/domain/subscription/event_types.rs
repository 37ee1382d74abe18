//! The event types that a subscription receives.

use crate::proto::v1::EventType;

/// The event types of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventTypes {
    /// Every type, including those of later versions and events of no known type.
    All,
    /// These: at least one, none twice, none unspecified, in the owner's order.
    Only(Vec<EventType>),
}

impl EventTypes {
    /// Whether events of this type are wanted.
    pub fn wants(&self, event_type: EventType) -> bool {
        match self {
            // Notices have none.
            Self::All => event_type != EventType::Unspecified,
            Self::Only(types) => types.contains(&event_type),
        }
    }

    /// The types that the owner named; none if all are wanted.
    pub fn listed(&self) -> &[EventType] {
        match self {
            Self::All => &[],
            Self::Only(types) => types,
        }
    }

    /// A type that is wanted: the first one that the owner named.
    pub fn first(&self) -> EventType {
        let any = || EventType::all().next().expect("the contract has event types");
        self.listed().first().copied().unwrap_or_else(any)
    }
}

impl From<Vec<EventType>> for EventTypes {
    fn from(types: Vec<EventType>) -> Self {
        Self::Only(types)
    }
}
