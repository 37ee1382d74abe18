//! What the engine knows in memory of events and deliveries. Changed by the writer alone, after the disk has it.

use std::{
    collections::{
        BTreeMap, BTreeSet, HashMap, HashSet, VecDeque,
        hash_map::{Entry, RandomState},
    },
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    records::{OutcomeRecord, RecordError},
    volume::{SlotState, Volume},
};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountId, EventId, LaneId, Seq},
        time::UnixMicros,
    },
    store::LaneSummary,
};

/// Events and deliveries, as far as they are kept in memory.
#[derive(Debug)]
pub struct Ledger {
    /// In order; only the last takes events.
    pub volumes: VecDeque<Volume>,
    /// The place of the next event.
    pub next_seq: Seq,
    /// The number of the next journal entry.
    pub next_journal: u64,
    /// The time of the newest event.
    pub last_time: UnixMicros,
    /// How many deliveries are owed in all, for those who ask without a lock.
    pub owed: Arc<AtomicU64>,
    ids: IdIndex,
    lanes: HashMap<LaneId, LaneBook>,
}

/// What is owed to all subscriptions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// What waits for its first attempt.
    pub pending: BacklogPart,
    /// What waits for another.
    pub retrying: BacklogPart,
}

/// What is owed in one state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BacklogPart {
    /// How many deliveries.
    pub count: u64,
    /// When the oldest of their events was stored.
    pub oldest: Option<UnixMicros>,
}

/// The deliveries of one lane by state, and its retries by time.
#[derive(Debug, Default)]
struct LaneBook {
    counts: LaneSummary,
    due: BTreeSet<(UnixMicros, Seq)>,
    retries: BTreeMap<Seq, Retry>,
}

/// A delivery that is tried again.
#[derive(Clone, Copy, Debug)]
struct Retry {
    due: UnixMicros,
    attempts: u32,
}

/// Finds the places of events by publishers' ids. Several places may share a hash: compare the event found.
#[derive(Debug, Default)]
struct IdIndex {
    state: RandomState,
    places: HashMap<u64, Seq>,
    /// The later ones that share a hash, which is rare.
    others: HashMap<u64, Vec<Seq>>,
}

impl Ledger {
    /// A ledger without events, for these lanes.
    pub fn new(lanes: impl IntoIterator<Item = LaneId>) -> Self {
        Self {
            volumes: VecDeque::new(),
            next_seq: Seq(1),
            next_journal: 1,
            last_time: UnixMicros(0),
            owed: Arc::default(),
            ids: IdIndex::default(),
            lanes: lanes.into_iter().map(|lane| (lane, LaneBook::default())).collect(),
        }
    }

    /// Opens the book of a new lane.
    pub fn add_lane(&mut self, lane: LaneId) {
        self.lanes.insert(lane, LaneBook::default());
    }

    /// Bytes of all events and attempts, as they are encoded.
    pub fn bytes(&self) -> u64 {
        self.volumes.iter().map(|volume| volume.bytes).sum()
    }

    /// Adds to the bytes of the volume that has this event.
    pub fn count_bytes(&mut self, seq: Seq, bytes: u64) {
        if let Some(index) = self.volume_index(seq) {
            self.volumes[index].bytes += bytes;
        }
    }

    /// Adds to the bytes of the last volume.
    pub fn count_new_bytes(&mut self, bytes: u64) {
        self.volumes.back_mut().expect("a volume was begun").bytes += bytes;
    }

    /// Forgets a volume; `given` are its events with ids of their publishers.
    pub fn remove_volume(&mut self, first: Seq, given: impl IntoIterator<Item = (AccountId, EventId, Seq)>) {
        let Some(index) = self.volume_index(first) else { return };
        let volume = self.volumes.remove(index).expect("it was just found");
        for (key, state) in volume.newest_first() {
            if let Some(book) = self.lanes.get_mut(&key.lane) {
                book.leave(key.seq, state);
            }
        }
        for (account, id, seq) in given {
            self.ids.remove(account, &id, seq);
        }
    }

    /// Closes the book of a lane; its deliveries are no longer anybody's.
    pub fn remove_lane(&mut self, lane: LaneId) {
        if let Some(book) = self.lanes.remove(&lane) {
            self.owed.fetch_sub(book.counts.owed(), Ordering::Relaxed);
        }
        for volume in &mut self.volumes {
            volume.forget(lane);
        }
    }

    /// Notes that everything was read: what is owed to lanes that have no book is nobody's.
    pub fn forget_unknown_lanes(&mut self) {
        for volume in &mut self.volumes {
            let unknown: Vec<_> = volume.owed_lanes().filter(|lane| !self.lanes.contains_key(lane)).collect();
            for lane in unknown {
                volume.forget(lane);
            }
        }
    }

    /// Adds the next event of the last volume's last segment.
    pub fn push(&mut self, account: AccountId, id: &EventId, id_given: bool, lanes: &[LaneId]) {
        let seq = self.next_seq;
        if id_given {
            self.ids.insert(account, id, seq);
        }
        for lane in lanes {
            if let Some(book) = self.lanes.get_mut(lane) {
                book.counts.pending += 1;
                self.owed.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.volumes.back_mut().expect("a volume was begun").push(lanes);
        self.next_seq.0 += 1;
    }

    /// The places where an event of this id may be.
    pub fn candidates(&self, account: AccountId, id: &EventId) -> impl Iterator<Item = Seq> {
        let made = id.made_for().filter(|seq| self.volume_of(*seq).is_some());
        made.into_iter().chain(self.ids.places(account, id))
    }

    /// The volume that has the event of this place.
    pub fn volume_of(&self, seq: Seq) -> Option<&Volume> {
        self.volume_index(seq).map(|index| &self.volumes[index])
    }

    /// The volumes that have events after `after`, in order.
    pub fn volumes_after(&self, after: Seq) -> impl Iterator<Item = &Volume> {
        let from = self.volumes.partition_point(|volume| volume.end().0 <= after.0 + 1);
        self.volumes.range(from..)
    }

    /// How far a delivery is; `None` if there is none, or its subscription is gone.
    pub fn state(&self, key: DeliveryKey) -> Option<DeliveryState> {
        let book = self.lanes.get(&key.lane)?;
        Some(match self.volume_of(key.seq)?.state(key)? {
            SlotState::Pending => DeliveryState::Pending,
            SlotState::Retrying => DeliveryState::Retrying { due: book.retries.get(&key.seq)?.due },
            SlotState::Succeeded => DeliveryState::Succeeded,
            SlotState::Failed => DeliveryState::Failed,
            SlotState::Cancelled => DeliveryState::Cancelled,
        })
    }

    /// Attempts made so far of a delivery that is still owed.
    pub fn attempts_of_owed(&self, key: DeliveryKey) -> u32 {
        self.lanes
            .get(&key.lane)
            .and_then(|book| book.retries.get(&key.seq))
            .map_or(0, |retry| retry.attempts)
    }

    /// Sets how far a delivery is, after `attempts` attempts, and returns how far it was.
    pub fn settle(&mut self, key: DeliveryKey, state: DeliveryState, attempts: u32) -> Option<SlotState> {
        let index = self.volume_index(key.seq)?;
        let before = self.volumes[index].set_state(key, state.into())?;
        let book = self.lanes.get_mut(&key.lane)?;
        let owed_before = book.counts.owed();
        book.leave(key.seq, before);
        book.enter(key.seq, state, attempts);
        // By one at most; wrapping around makes an addition of a negative number.
        self.owed.fetch_add(book.counts.owed().wrapping_sub(owed_before), Ordering::Relaxed);
        Some(before)
    }

    /// Sets how far a delivery is, as it was written down, and returns how far it was; `None` if its subscription is gone.
    /// Errors where the record names no delivery.
    pub fn replay(&mut self, outcome: &OutcomeRecord) -> Result<Option<SlotState>, RecordError> {
        let state = outcome.delivery_state()?;
        let key = outcome.key();
        if self.volume_of(key.seq).and_then(|volume| volume.state(key)).is_none() {
            let message =
                format!("an outcome of event {} for lane {}, which was not owed", key.seq.0, key.lane.0);
            return Err(RecordError(message));
        }
        Ok(self.settle(key, state, outcome.attempts))
    }

    /// What a lane owes and has settled.
    pub fn summary(&self, lane: LaneId) -> LaneSummary {
        self.lanes.get(&lane).map_or_else(LaneSummary::default, |book| LaneSummary {
            next_due: book.due.first().map(|(due, _)| *due),
            ..book.counts
        })
    }

    /// When the oldest event was stored that is still owed to one of these lanes.
    pub fn oldest_owed(&self, lanes: &[LaneId]) -> Option<UnixMicros> {
        let lanes: HashSet<LaneId> =
            lanes.iter().copied().filter(|lane| self.lanes.contains_key(lane)).collect();
        let owed = self.volumes.iter().find_map(|volume| volume.first_owed(&lanes).map(|seq| (volume, seq)));
        owed.map(|(volume, seq)| volume.segment_of(seq).create_time)
    }

    /// What is owed in all. Takes a moment for each volume, whatever the number of lanes.
    pub fn backlog(&self) -> Backlog {
        let mut backlog = Backlog::default();
        for volume in &self.volumes {
            let owed = volume.owed();
            for (part, count, state) in [
                (&mut backlog.pending, owed.pending, SlotState::Pending),
                (&mut backlog.retrying, owed.retrying, SlotState::Retrying),
            ] {
                part.count += u64::from(count);
                if count > 0 && part.oldest.is_none() {
                    let first = volume.first_in(state, |lane| self.lanes.contains_key(&lane));
                    part.oldest = first.map(|seq| volume.segment_of(seq).create_time);
                }
            }
        }
        backlog
    }

    /// The events whose retry to this lane is due, the longest due first, with the attempts made; and when the next one
    /// after these is due.
    pub fn due(&self, lane: LaneId, now: UnixMicros, limit: usize) -> (Vec<(Seq, u32)>, Option<UnixMicros>) {
        let Some(book) = self.lanes.get(&lane) else { return (Vec::new(), None) };
        let due: Vec<_> = book.due.iter().take_while(|(due, _)| *due <= now).take(limit).collect();
        let next = book.due.iter().nth(due.len()).map(|(due, _)| *due);
        (due.into_iter().map(|(_, seq)| (*seq, book.retries[seq].attempts)).collect(), next)
    }

    fn volume_index(&self, seq: Seq) -> Option<usize> {
        let after = self.volumes.partition_point(|volume| volume.first <= seq);
        let index = after.checked_sub(1)?;
        (seq < self.volumes[index].end()).then_some(index)
    }
}

impl LaneBook {
    fn leave(&mut self, seq: Seq, state: SlotState) {
        let count = match state {
            SlotState::Pending => &mut self.counts.pending,
            SlotState::Retrying => {
                let retry = self.retries.remove(&seq).expect("a retrying delivery has a time");
                self.due.remove(&(retry.due, seq));
                &mut self.counts.retrying
            }
            SlotState::Succeeded => &mut self.counts.succeeded,
            SlotState::Failed => &mut self.counts.failed,
            SlotState::Cancelled => &mut self.counts.cancelled,
        };
        *count -= 1;
    }

    fn enter(&mut self, seq: Seq, state: DeliveryState, attempts: u32) {
        *self.counts.count_mut(state) += 1;
        if let DeliveryState::Retrying { due } = state {
            self.due.insert((due, seq));
            self.retries.insert(seq, Retry { due, attempts });
        }
    }
}

impl IdIndex {
    fn insert(&mut self, account: AccountId, id: &EventId, seq: Seq) {
        match self.places.entry(self.state.hash_one((account, id))) {
            Entry::Vacant(place) => drop(place.insert(seq)),
            Entry::Occupied(place) => self.others.entry(*place.key()).or_default().push(seq),
        }
    }

    fn remove(&mut self, account: AccountId, id: &EventId, seq: Seq) {
        let hash = self.state.hash_one((account, id));
        let Entry::Occupied(mut place) = self.places.entry(hash) else { return };
        let others = self.others.get_mut(&hash);
        if *place.get() != seq {
            others.into_iter().for_each(|others| others.retain(|other| *other != seq));
        } else if let Some(other) = others.and_then(Vec::pop) {
            place.insert(other);
        } else {
            place.remove();
        }
    }

    fn places(&self, account: AccountId, id: &EventId) -> impl Iterator<Item = Seq> {
        let hash = self.state.hash_one((account, id));
        self.places.get(&hash).into_iter().chain(self.others.get(&hash).into_iter().flatten()).copied()
    }
}
