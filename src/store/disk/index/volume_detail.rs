//! The detail of a volume: each of its events and deliveries.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        event_routing::OrderTag,
        ids::{Seq, SubscriptionKey},
        time::UnixMicros,
    },
    proto::v1::EventType,
    store::disk::log::LogPosition,
};

/// The state of a delivery; its entry has the due time of a retry. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryState {
    /// Waits for its first attempt.
    Pending = 0,
    /// Waits for another.
    Retrying = 1,
    /// Arrived.
    Succeeded = 2,
    /// Given up.
    Failed = 3,
    /// Ended by a caller.
    Cancelled = 4,
}

impl From<DeliveryState> for EntryState {
    fn from(state: DeliveryState) -> Self {
        match state {
            DeliveryState::Pending => Self::Pending,
            DeliveryState::Retrying { .. } => Self::Retrying,
            DeliveryState::Succeeded => Self::Succeeded,
            DeliveryState::Failed => Self::Failed,
            DeliveryState::Cancelled => Self::Cancelled,
        }
    }
}

impl EntryState {
    /// Each of them.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Retrying, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The state with this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == byte)
    }

    /// Whether an attempt is still to be made.
    pub fn is_owed(self) -> bool {
        matches!(self, Self::Pending | Self::Retrying)
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventMeta {
    /// Its account.
    pub account: i64,
    /// Its inbox; 0 if it belongs to none.
    pub inbox: i64,
    /// When it was stored.
    pub time: UnixMicros,
    /// The fingerprint of its content.
    pub fingerprint: u128,
    /// Position of its encoding in the log.
    pub pos: LogPosition,
    /// The encoding's length.
    pub len: u32,
    /// Checksum of the encoding.
    pub checksum: u32,
    /// Tag of its order key.
    pub tag: OrderTag,
    /// Number of its type.
    pub event_type: i32,
    /// Its id.
    pub id: Box<str>,
    /// Whether its publisher chose the id.
    pub id_given: bool,
    /// Deliveries made when it was stored.
    pub delivery_count: u32,
}

impl EventMeta {
    /// Its type; [`EventType::Unspecified`] for a number that this version does not know.
    pub fn event_type(&self) -> EventType {
        EventType::try_from(self.event_type).unwrap_or(EventType::Unspecified)
    }
}

/// One delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveryEntry {
    /// The subscription's key.
    pub subscription: u32,
    /// Its state.
    pub state: EntryState,
    /// Attempts made so far.
    pub attempts: u32,
    /// How many of these were made before it was last queued.
    pub attempts_before: u32,
    /// Due time of the next attempt; only in the state retrying.
    pub due: UnixMicros,
    /// When it last changed; 0 if it never did.
    pub changed: UnixMicros,
    /// When it was added; 0 if its event was stored with it.
    pub added: UnixMicros,
    /// Position of the latest attempt in the log; the default if there was none.
    pub last: LogPosition,
}

impl DeliveryEntry {
    /// A delivery that waits for its first attempt.
    pub fn new(subscription: u32) -> Self {
        let never = UnixMicros(0);
        Self {
            subscription,
            state: EntryState::Pending,
            attempts: 0,
            attempts_before: 0,
            due: never,
            changed: never,
            added: never,
            last: LogPosition::default(),
        }
    }

    /// Attempts made since it was last queued.
    pub fn attempts_now(&self) -> u32 {
        self.attempts - self.attempts_before
    }

    /// Its state with the due time.
    pub fn delivery_state(&self) -> DeliveryState {
        match self.state {
            EntryState::Pending => DeliveryState::Pending,
            EntryState::Retrying => DeliveryState::Retrying { due: self.due },
            EntryState::Succeeded => DeliveryState::Succeeded,
            EntryState::Failed => DeliveryState::Failed,
            EntryState::Cancelled => DeliveryState::Cancelled,
        }
    }
}

/// The events and deliveries of a volume.
#[derive(Debug, Default)]
pub struct VolumeDetail {
    /// Distance of each event from the volume's first sequence number; empty while no event is missing.
    pub seq_offsets: Vec<u32>,
    /// The events, in order.
    pub events: Vec<EventMeta>,
    /// For each event the index of its first delivery, and one more for the end of the last.
    pub event_offsets: Vec<u32>,
    /// The deliveries, those of an event by subscription.
    pub deliveries: Vec<DeliveryEntry>,
    /// Deliveries that are retried: subscription, due time, index of the event.
    pub retries: BTreeSet<(u32, UnixMicros, u32)>,
    /// Changed since it was last written.
    pub dirty: bool,
    /// The time of the last use, as a counter.
    used: AtomicU64,
}

/// Estimated memory of an event and a delivery, in bytes.
const EVENT_MEMORY: usize = 150;
const DELIVERY_MEMORY: usize = 64;

impl VolumeDetail {
    /// The detail of an empty volume.
    pub fn new() -> Self {
        Self { event_offsets: vec![0], dirty: true, ..Self::default() }
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Estimated memory, in bytes.
    pub fn memory(&self) -> usize {
        self.events.len() * EVENT_MEMORY + self.deliveries.len() * DELIVERY_MEMORY
    }

    /// Gives back the memory for more events.
    pub fn trim(&mut self) {
        self.events.shrink_to_fit();
        self.event_offsets.shrink_to_fit();
        self.deliveries.shrink_to_fit();
    }

    /// Marks it as used.
    pub fn touch(&self, now: &AtomicU64) {
        self.used.store(now.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// When it was last used.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Adds the next event with its pending deliveries.
    pub fn push(&mut self, event: EventMeta, subscriptions: impl Iterator<Item = u32>) {
        self.events.push(event);
        self.deliveries.extend(subscriptions.map(DeliveryEntry::new));
        self.event_offsets.push(index(self.deliveries.len()));
    }

    /// Adds a delivery to an event that has none to this subscription. Returns its index.
    pub fn add(&mut self, event: usize, subscription: u32, at: UnixMicros) -> usize {
        let range = self.range(event);
        let position =
            range.start + self.deliveries[range].partition_point(|entry| entry.subscription < subscription);
        self.deliveries
            .insert(position, DeliveryEntry { added: at, changed: at, ..DeliveryEntry::new(subscription) });
        self.event_offsets[event + 1..].iter_mut().for_each(|offset| *offset += 1);
        position
    }

    /// The index of the event with this sequence number.
    pub fn event_at(&self, first: Seq, seq: Seq) -> Option<usize> {
        let offset = seq.0.checked_sub(first.0)?;
        if self.seq_offsets.is_empty() {
            return usize::try_from(offset).ok().filter(|event| *event < self.len());
        }
        self.seq_offsets.binary_search(&u32::try_from(offset).ok()?).ok()
    }

    /// The sequence number of an event.
    pub fn seq(&self, first: Seq, event: usize) -> Seq {
        let offset = self.seq_offsets.get(event).map_or(event as u64, |offset| u64::from(*offset));
        Seq(first.0 + offset)
    }

    /// The index of the first event with this sequence number or a higher one.
    pub fn event_from(&self, first: Seq, seq: Seq) -> usize {
        let offset = seq.0.saturating_sub(first.0);
        let event = match self.seq_offsets.is_empty() {
            true => usize::try_from(offset).unwrap_or(usize::MAX),
            false => self.seq_offsets.partition_point(|other| u64::from(*other) < offset),
        };
        event.min(self.len())
    }

    /// The index range of an event's deliveries.
    pub fn range(&self, event: usize) -> std::ops::Range<usize> {
        self.event_offsets[event] as usize..self.event_offsets[event + 1] as usize
    }

    /// The index of a delivery.
    pub fn position(&self, first: Seq, key: DeliveryKey) -> Option<usize> {
        let subscription = u32::try_from(key.subscription.0).ok()?;
        let range = self.range(self.event_at(first, key.seq)?);
        let start = range.start;
        self.deliveries[range]
            .binary_search_by_key(&subscription, |entry| entry.subscription)
            .ok()
            .map(|position| start + position)
    }

    /// Replaces a delivery, and updates the retries.
    pub fn set(&mut self, event: usize, position: usize, entry: DeliveryEntry) {
        let before = self.deliveries[position];
        if before.state == EntryState::Retrying {
            self.retries.remove(&(before.subscription, before.due, index(event)));
        }
        if entry.state == EntryState::Retrying {
            self.retries.insert((entry.subscription, entry.due, index(event)));
        }
        self.deliveries[position] = entry;
        self.dirty = true;
    }

    /// The due time of the next retry to a subscription.
    pub fn next_due(&self, subscription: u32) -> Option<UnixMicros> {
        self.retries_of(subscription).next().map(|(due, _)| due)
    }

    /// The retries to a subscription with their events, the earliest due time first.
    pub fn retries_of(&self, subscription: u32) -> impl Iterator<Item = (UnixMicros, usize)> {
        let range = (subscription, UnixMicros(i64::MIN), 0)..=(subscription, UnixMicros(i64::MAX), u32::MAX);
        self.retries.range(range).map(|(_, due, event)| (*due, *event as usize))
    }

    /// The subscriptions with retries, each with its next due time.
    pub fn retried_subscriptions(&self) -> impl Iterator<Item = (u32, UnixMicros)> {
        let mut last = None;
        self.retries.iter().filter_map(move |(subscription, due, _)| {
            (last.replace(*subscription) != Some(*subscription)).then_some((*subscription, *due))
        })
    }

    /// The deliveries of an event, by subscription.
    pub fn deliveries_of(
        &self,
        first: Seq,
        event: usize,
    ) -> impl Iterator<Item = (DeliveryKey, &DeliveryEntry)> {
        let seq = self.seq(first, event);
        self.deliveries[self.range(event)].iter().map(move |entry| {
            (DeliveryKey { seq, subscription: SubscriptionKey(entry.subscription.into()) }, entry)
        })
    }

    /// Whether an event is owed to a known subscription.
    pub fn is_owed(&self, event: usize, is_known: impl Fn(u32) -> bool) -> bool {
        // Most are settled in their order: the last ones are owed longest.
        self.deliveries[self.range(event)]
            .iter()
            .rev()
            .any(|entry| entry.state.is_owed() && is_known(entry.subscription))
    }

    /// A copy with only these events, and with the deliveries to known subscriptions.
    pub fn filtered(&self, first: Seq, events: &[usize], is_known: impl Fn(u32) -> bool) -> Self {
        let mut kept = Self::new();
        for &event in events {
            let offset = self.seq(first, event).0 - first.0;
            kept.seq_offsets
                .push(u32::try_from(offset).expect("a volume has less than 2^32 sequence numbers"));
            kept.events.push(self.events[event].clone());
            kept.deliveries.extend(
                self.deliveries[self.range(event)].iter().filter(|entry| is_known(entry.subscription)),
            );
            kept.event_offsets.push(index(kept.deliveries.len()));
        }
        kept.note_retries();
        kept
    }

    /// Rebuilds the set of retries.
    pub fn note_retries(&mut self) {
        for event in 0..self.len() {
            for entry in &self.deliveries[self.range(event)] {
                if entry.state == EntryState::Retrying {
                    self.retries.insert((entry.subscription, entry.due, index(event)));
                }
            }
        }
    }
}

fn index(number: usize) -> u32 {
    u32::try_from(number).expect("a volume has less than 2^32 events and deliveries")
}
