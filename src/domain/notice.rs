//! Notices: what the gateway tells operators about endpoints, and how much of it has been told.

use super::time::UnixMicros;
use crate::proto::v1::notice_sink::Kind as Wire;

/// Most sinks of one account, and most sinks for all accounts.
pub const NOTICE_SINKS_MAX: usize = 10;

/// The kind of a notice (`NoticeSink.Kind` of the contract).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoticeKind {
    /// An endpoint has answered nothing but failures for a while.
    EndpointFailing,
    /// The gateway suspended a subscription.
    EndpointSuspended,
    /// An endpoint works again, after one of the two above.
    EndpointRecovered,
    /// Deliveries failed for good.
    DeliveryFailed,
    /// A subscription is owed many deliveries.
    BacklogGrowing,
}

/// A kind as others see it: receivers, the contract and the disk.
struct Row {
    kind: NoticeKind,
    name: &'static str,
    wire: Wire,
}

/// In the order of [`NoticeKind`]. On disk a kind is the bit of its index, which never changes.
const ROWS: [Row; NoticeKind::COUNT] = [
    Row { kind: NoticeKind::EndpointFailing, name: "endpoint.failing", wire: Wire::EndpointFailing },
    Row { kind: NoticeKind::EndpointSuspended, name: "endpoint.suspended", wire: Wire::EndpointSuspended },
    Row { kind: NoticeKind::EndpointRecovered, name: "endpoint.recovered", wire: Wire::EndpointRecovered },
    Row { kind: NoticeKind::DeliveryFailed, name: "delivery.failed", wire: Wire::DeliveryFailed },
    Row { kind: NoticeKind::BacklogGrowing, name: "backlog.growing", wire: Wire::BacklogGrowing },
];

impl NoticeKind {
    /// Number of kinds.
    pub const COUNT: usize = 5;

    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.kind)
    }

    /// Its name, as in the body's `type`: `endpoint.failing`.
    pub fn name(self) -> &'static str {
        ROWS[self.index()].name
    }

    /// Its value in the contract.
    pub fn to_wire(self) -> Wire {
        ROWS[self.index()].wire
    }

    /// The kind with this value in the contract; `None` if it is unspecified.
    pub fn from_wire(wire: Wire) -> Option<Self> {
        ROWS.iter().find(|row| row.wire == wire).map(|row| row.kind)
    }

    /// The kind with this index.
    pub fn from_index(index: usize) -> Option<Self> {
        ROWS.get(index).map(|row| row.kind)
    }

    /// Its index in arrays of [`NoticeKind::COUNT`] elements.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// The kinds that a sink receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoticeKinds(u32);

impl NoticeKinds {
    /// Every kind, those of later versions included.
    pub const ALL: Self = Self(u32::MAX);

    /// Whether a kind is among them.
    pub fn contains(self, kind: NoticeKind) -> bool {
        self.0 & (1 << kind.index()) != 0
    }

    /// The kinds of this version among them.
    pub fn iter(self) -> impl Iterator<Item = NoticeKind> {
        NoticeKind::all().filter(move |kind| self.contains(*kind))
    }

    /// The set on disk.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// A set from the disk; `None` if it is empty.
    pub fn from_bits(bits: u32) -> Option<Self> {
        (bits != 0).then_some(Self(bits))
    }
}

/// All kinds if there are none.
impl FromIterator<NoticeKind> for NoticeKinds {
    fn from_iter<T: IntoIterator<Item = NoticeKind>>(kinds: T) -> Self {
        let bits = kinds.into_iter().fold(0, |bits, kind| bits | (1 << kind.index()));
        Self::from_bits(bits).unwrap_or(Self::ALL)
    }
}

/// The trouble of an endpoint that sinks were told of last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// None, or that it is over.
    #[default]
    None,
    /// It is failing.
    Failing,
    /// It is suspended.
    Suspended,
}

/// What sinks were told of a subscription. It is on disk, so that a restart repeats nothing and forgets
/// nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noticed {
    /// The trouble of its endpoint.
    pub trouble: Trouble,
    /// The size of its backlog: see [`backlog_level`].
    pub backlog_level: u32,
    /// Notices of these two so far: part of the id of the next one, so that none is stored twice.
    pub count: u64,
}

/// The size of a backlog in doublings of `threshold`: 0 below it, 1 from it on, 2 from twice as much on.
pub fn backlog_level(owed: u64, threshold: u64) -> u32 {
    (owed / threshold.max(1)).checked_ilog2().map_or(0, |doublings| doublings + 1)
}

/// An endpoint that answers nothing but failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureStreak {
    /// When that began.
    pub since: UnixMicros,
    /// Failed attempts since then.
    pub attempts: u32,
    /// The error of the latest one.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_each_of_its_numbers() {
        for (index, kind) in NoticeKind::all().enumerate() {
            assert_eq!((kind.index(), NoticeKind::from_index(index)), (index, Some(kind)));
            assert_eq!(NoticeKind::from_wire(kind.to_wire()), Some(kind));
            let wire = kind.name().replace('.', "_").to_uppercase();
            assert_eq!(kind.to_wire().as_str_name(), format!("KIND_{wire}"));
        }
        let in_contract = (1..).map_while(|number| Wire::try_from(number).ok()).count();
        assert_eq!(in_contract, NoticeKind::COUNT, "a kind of the contract has no row");
        assert_eq!(NoticeKind::from_wire(Wire::Unspecified), None);
    }

    #[test]
    fn a_set_comes_back_as_it_was_and_none_are_all() {
        let some: NoticeKinds =
            [NoticeKind::DeliveryFailed, NoticeKind::EndpointFailing].into_iter().collect();
        assert_eq!(
            some.iter().collect::<Vec<_>>(),
            [NoticeKind::EndpointFailing, NoticeKind::DeliveryFailed]
        );
        assert_eq!(NoticeKinds::from_bits(some.bits()), Some(some));
        assert_eq!([].into_iter().collect::<NoticeKinds>(), NoticeKinds::ALL);
        assert_eq!(NoticeKinds::ALL.iter().count(), NoticeKind::COUNT);
        assert_eq!(NoticeKinds::from_bits(0), None);
    }

    #[test]
    fn a_backlog_has_another_level_with_each_doubling() {
        let levels = [0, 9, 10, 19, 20, 39, 40, u64::MAX].map(|owed| backlog_level(owed, 10));
        assert_eq!(levels, [0, 0, 1, 1, 2, 2, 3, 61]);
    }
}
