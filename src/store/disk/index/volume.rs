//! A volume: some thousand consecutive events with their deliveries.
//!
//! A summary of every volume is always in memory ([`Volume`]). Its [`VolumeDetail`] has each event and
//! delivery: in memory while it changes or was used recently, otherwise on disk.

use std::collections::BTreeMap;

use super::{
    owed::bytes_by_account,
    volume_detail::{EntryState, VolumeDetail},
};
use crate::{
    domain::{
        ids::{Seq, SubscriptionKey},
        time::UnixMicros,
    },
    store::disk::log::LogSlice,
};

/// A volume takes no further event once it has this many.
pub const VOLUME_EVENTS: usize = 4096;
/// A volume takes no further event once it has this many deliveries: about 8 MiB of detail, which is read, written and
/// evicted as one.
pub const VOLUME_DELIVERIES: usize = 128 * 1024;
/// A volume takes no further event once the bodies of its events have this many bytes.
pub const VOLUME_BYTES: u64 = 8 * 1024 * 1024;

/// The highest key of a subscription.
pub const SUBSCRIPTION_KEY_MAX: u64 = u32::MAX as u64;

/// Subscriptions that are looked up one by one; for more, the volume's own are scanned.
const LOOKUPS_MAX: usize = 32;

/// The summary of a volume.
#[derive(Clone, Debug)]
pub struct Volume {
    /// Its first sequence number, which identifies it.
    pub first: Seq,
    /// The sequence number after its last one. Retention may have removed events in between.
    pub end: Seq,
    /// How many events it has.
    pub events: u32,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// When its first event was stored.
    pub first_time: UnixMicros,
    /// When its last event was stored.
    pub last_time: UnixMicros,
    /// The log file that holds its bodies.
    pub file: u32,
    /// The accounts of its events, in ascending order.
    pub accounts: Vec<i64>,
    /// Its deliveries by subscription, in ascending order.
    pub subscriptions: Vec<SubscriptionCounts>,
    /// Bytes of its events that are owed, by account, in ascending order.
    pub owed_bytes: Vec<(i64, u64)>,
    /// They are what the detail says. Otherwise they are an estimate until retention counts them.
    pub owed_bytes_known: bool,
    /// When the next retry is due, of the subscriptions that have one.
    pub dues: BTreeMap<u32, UnixMicros>,
    /// A replay added a delivery, which is younger than its event.
    pub has_added: bool,
    /// Position of its index on disk.
    pub index: Option<IndexSlices>,
    /// Position of its state at the last checkpoint.
    pub state: Option<LogSlice>,
}

/// Position of a volume's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexSlices {
    /// The events.
    pub events: LogSlice,
    /// The hashes of ids that publishers chose.
    pub ids: LogSlice,
}

/// Position of a volume's detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The index: never changes.
    pub index: IndexSlices,
    /// The state of its deliveries.
    pub state: LogSlice,
}

/// The deliveries of a volume to one subscription, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionCounts {
    /// The subscription's number.
    pub subscription: u32,
    counts: [u16; 5],
}

impl SubscriptionCounts {
    /// How many deliveries are in a state.
    pub fn count(&self, state: EntryState) -> u16 {
        self.counts[state as usize]
    }

    /// How many are still to be made.
    pub fn owed(&self) -> u32 {
        u32::from(self.count(EntryState::Pending)) + u32::from(self.count(EntryState::Retrying))
    }

    /// The counts as stored, in the order of [`EntryState`].
    pub fn raw(&self) -> [u16; 5] {
        self.counts
    }

    /// From what was stored.
    pub fn from_raw(subscription: u32, counts: [u16; 5]) -> Self {
        Self { subscription, counts }
    }
}

/// How many deliveries are owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwedCounts {
    /// Waiting for their first attempt.
    pub pending: u64,
    /// Waiting for another.
    pub retrying: u64,
}

impl Volume {
    /// A volume without events.
    pub fn new(first: Seq, time: UnixMicros, file: u32) -> Self {
        Self {
            first,
            end: first,
            events: 0,
            bytes: 0,
            first_time: time,
            last_time: time,
            file,
            accounts: Vec::new(),
            subscriptions: Vec::new(),
            owed_bytes: Vec::new(),
            owed_bytes_known: true,
            dues: BTreeMap::new(),
            has_added: false,
            index: None,
            state: None,
        }
    }

    /// Whether it takes no further event. `detail` is its own.
    pub fn is_full(&self, detail: &VolumeDetail) -> bool {
        self.events as usize >= VOLUME_EVENTS
            || self.bytes >= VOLUME_BYTES
            || detail.deliveries.len() >= VOLUME_DELIVERIES
    }

    /// Counts an event of this account.
    pub fn count_account(&mut self, account: i64) {
        if let Err(position) = self.accounts.binary_search(&account) {
            self.accounts.insert(position, account);
        }
    }

    /// Counts a delivery more.
    pub fn enter(&mut self, subscription: u32, state: EntryState) {
        let position = match self.position_of(subscription) {
            Ok(position) => position,
            Err(position) => {
                self.subscriptions
                    .insert(position, SubscriptionCounts { subscription, ..SubscriptionCounts::default() });
                position
            }
        };
        self.subscriptions[position].counts[state as usize] += 1;
    }

    /// Counts a delivery less.
    pub fn leave(&mut self, subscription: u32, state: EntryState) {
        if let Ok(position) = self.position_of(subscription) {
            self.subscriptions[position].counts[state as usize] -= 1;
        }
    }

    /// Its deliveries to a subscription.
    pub fn of_subscription(&self, subscription: SubscriptionKey) -> Option<&SubscriptionCounts> {
        let subscription = u32::try_from(subscription.0).ok()?;
        self.position_of(subscription).ok().map(|position| &self.subscriptions[position])
    }

    /// Whether it has deliveries to one of these subscriptions, which rise, or to any, in one of these states.
    pub fn has_any(&self, subscriptions: Option<&[SubscriptionKey]>, states: &[EntryState]) -> bool {
        let has = |counts: &SubscriptionCounts| states.iter().any(|state| counts.count(*state) > 0);
        let Some(subscriptions) = subscriptions else { return self.subscriptions.iter().any(has) };
        if subscriptions.len() <= LOOKUPS_MAX {
            return subscriptions
                .iter()
                .any(|subscription| self.of_subscription(*subscription).is_some_and(has));
        }
        let is_one = |counts: &SubscriptionCounts| {
            subscriptions.binary_search(&SubscriptionKey(counts.subscription.into())).is_ok()
        };
        self.subscriptions.iter().any(|counts| has(counts) && is_one(counts))
    }

    /// Removes the counts of a deleted subscription. Returns whether some of its deliveries were owed.
    pub fn forget(&mut self, subscription: u32) -> bool {
        self.dues.remove(&subscription);
        let position = self.position_of(subscription);
        position.is_ok_and(|position| self.subscriptions.remove(position).owed() > 0)
    }

    /// How many deliveries it owes in all.
    pub fn owed(&self) -> OwedCounts {
        let sum = |state| self.subscriptions.iter().map(|counts| u64::from(counts.count(state))).sum();
        OwedCounts { pending: sum(EntryState::Pending), retrying: sum(EntryState::Retrying) }
    }

    /// Whether all of its deliveries are over.
    pub fn owes_nothing(&self) -> bool {
        self.subscriptions.iter().all(|counts| counts.owed() == 0)
    }

    /// Position of its detail, if a checkpoint has written it.
    pub fn stored(&self) -> Option<Stored> {
        Some(Stored { index: self.index?, state: self.state? })
    }

    /// Whether its index or its state is in one of these log files.
    pub fn is_stored_in(&self, files: &[u32]) -> bool {
        let index = self.index.map(|index| index.events.pos);
        index.into_iter().chain(self.state.map(|state| state.pos)).any(|pos| files.contains(&pos.file()))
    }

    /// Recomputes the summary from `detail`, for known subscriptions.
    pub fn recount(&mut self, detail: &VolumeDetail, is_known: impl Fn(u32) -> bool) {
        let mut subscriptions: BTreeMap<u32, SubscriptionCounts> = BTreeMap::new();
        for entry in detail.deliveries.iter().filter(|entry| is_known(entry.subscription)) {
            let counts = subscriptions.entry(entry.subscription).or_insert(SubscriptionCounts {
                subscription: entry.subscription,
                ..SubscriptionCounts::default()
            });
            counts.counts[entry.state as usize] += 1;
        }
        self.subscriptions = subscriptions.into_values().collect();
        self.owed_bytes = bytes_by_account(detail, &is_known);
        self.owed_bytes_known = true;
        self.dues =
            detail.retried_subscriptions().filter(|(subscription, _)| is_known(*subscription)).collect();
        self.events = u32::try_from(detail.len()).expect("a volume has less than 2^32 events");
        self.bytes = detail.events.iter().map(|event| u64::from(event.len)).sum();
        self.file = detail.events.first().map_or(self.file, |event| event.pos.file());
        self.accounts = detail.events.iter().map(|event| event.account).collect();
        self.accounts.sort_unstable();
        self.accounts.dedup();
        if let (Some(first), Some(last)) = (detail.events.first(), detail.events.last()) {
            (self.first_time, self.last_time) = (first.time, last.time);
        }
    }

    fn position_of(&self, subscription: u32) -> Result<usize, usize> {
        self.subscriptions.binary_search_by_key(&subscription, |counts| counts.subscription)
    }
}
