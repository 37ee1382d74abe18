//! A volume: about a thousand events with their deliveries, in a tree of its own, so that retention can drop it whole.
//!
//! In memory it knows which delivery is in which state, and no more: the rest is read from its tree.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use super::volume_tree::VolumeTree;
use crate::domain::{
    delivery::{DeliveryKey, DeliveryState},
    ids::{LaneId, Seq},
    time::UnixMicros,
};

/// A volume takes no further commit once it has this many events (measured; docs/benchmarks.md).
pub const VOLUME_EVENTS: usize = 1024;

/// A volume takes no further commit once its events and attempts have this many bytes, so that it does not keep too much
/// alive that is over.
pub const VOLUME_BYTES: u64 = 8 * 1024 * 1024;

/// What is known of a volume in memory.
#[derive(Debug)]
pub struct Volume {
    /// Where the rest is.
    pub tree: VolumeTree,
    /// Its first event.
    pub first: Seq,
    /// Bytes of its events and attempts, as they are encoded.
    pub bytes: u64,
    /// Its commits, in order.
    pub segments: Vec<Segment>,
    /// For each event the first of its slots, and one more for the end of the last.
    bases: Vec<u32>,
    /// For each delivery to whom it is owed (lane numbers fit: see [`LANES_MAX`]).
    lanes: Vec<u32>,
    /// For each delivery how far it is.
    states: Vec<SlotState>,
    /// What is owed, by lane; only lanes with something.
    owed: HashMap<u32, Owed>,
    /// The sum of these.
    owed_in_all: Owed,
}

/// How many deliveries are owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// Waiting for their first attempt.
    pub pending: u32,
    /// Waiting for another.
    pub retrying: u32,
}

impl Owed {
    /// Whether nothing is.
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

/// The last lane number that a store can give away.
pub const LANES_MAX: u64 = u32::MAX as u64;

/// One commit of events.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Its first event.
    pub first: Seq,
    /// When it was stored.
    pub create_time: UnixMicros,
}

/// How far a delivery is; when a retry is due, the ledger knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Waits for its first attempt.
    Pending,
    /// Waits for another.
    Retrying,
    /// Arrived.
    Succeeded,
    /// Given up.
    Failed,
    /// Ended by a caller.
    Cancelled,
}

impl From<DeliveryState> for SlotState {
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

impl SlotState {
    /// Whether an attempt is still to be made.
    pub fn is_owed(self) -> bool {
        matches!(self, Self::Pending | Self::Retrying)
    }
}

impl Owed {
    fn moves(&mut self, from: SlotState, to: SlotState) {
        if let Some(count) = self.count_mut(from) {
            *count -= 1;
        }
        if let Some(count) = self.count_mut(to) {
            *count += 1;
        }
    }

    /// The count of this state; `None` if nothing is owed in it.
    fn count_mut(&mut self, state: SlotState) -> Option<&mut u32> {
        match state {
            SlotState::Pending => Some(&mut self.pending),
            SlotState::Retrying => Some(&mut self.retrying),
            SlotState::Succeeded | SlotState::Failed | SlotState::Cancelled => None,
        }
    }
}

impl Volume {
    /// A volume without events.
    pub fn new(tree: VolumeTree, first: Seq) -> Self {
        Self {
            tree,
            first,
            bytes: 0,
            segments: Vec::new(),
            bases: vec![0],
            lanes: Vec::new(),
            states: Vec::new(),
            owed: HashMap::new(),
            owed_in_all: Owed::default(),
        }
    }

    /// How many events it has.
    pub fn len(&self) -> usize {
        self.bases.len() - 1
    }

    /// The place after its last event.
    pub fn end(&self) -> Seq {
        Seq(self.first.0 + self.len() as u64)
    }

    /// Begins a commit at the end.
    pub fn begin_segment(&mut self, create_time: UnixMicros) {
        self.segments.push(Segment { first: self.end(), create_time });
    }

    /// Adds the next event of the last commit, with its deliveries pending.
    pub fn push(&mut self, lanes: &[LaneId]) {
        for lane in lanes {
            let lane = slot_lane(*lane);
            self.lanes.push(lane);
            self.states.push(SlotState::Pending);
            self.owed.entry(lane).or_default().pending += 1;
            self.owed_in_all.pending += 1;
        }
        self.bases.push(u32::try_from(self.lanes.len()).expect("a volume has less than 2^32 deliveries"));
    }

    /// How far a delivery is; `None` if there never was such a one.
    pub fn state(&self, key: DeliveryKey) -> Option<SlotState> {
        self.slot(key).map(|slot| self.states[slot])
    }

    /// Sets how far a delivery is, and returns how far it was.
    pub fn set_state(&mut self, key: DeliveryKey, state: SlotState) -> Option<SlotState> {
        let slot = self.slot(key)?;
        let before = std::mem::replace(&mut self.states[slot], state);
        self.owed_in_all.moves(before, state);
        let mut owed = match self.owed.entry(slot_lane(key.lane)) {
            Entry::Occupied(owed) => owed,
            Entry::Vacant(place) => place.insert_entry(Owed::default()),
        };
        owed.get_mut().moves(before, state);
        if *owed.get() == Owed::default() {
            owed.remove();
        }
        Some(before)
    }

    /// When its newest event was stored.
    pub fn last_time(&self) -> Option<UnixMicros> {
        self.segments.last().map(|segment| segment.create_time)
    }

    /// How many deliveries it owes in all.
    pub fn owed(&self) -> Owed {
        self.owed_in_all
    }

    /// To whom it owes something.
    pub fn owed_lanes(&self) -> impl Iterator<Item = LaneId> {
        self.owed.keys().map(|lane| LaneId((*lane).into()))
    }

    /// Counts what it owes to this lane no longer: its subscription is gone.
    pub fn forget(&mut self, lane: LaneId) {
        if let Some(owed) = self.owed.remove(&slot_lane(lane)) {
            self.owed_in_all.pending -= owed.pending;
            self.owed_in_all.retrying -= owed.retrying;
        }
    }

    /// Its first delivery in this state to a lane that `counts`.
    pub fn first_in(&self, state: SlotState, counts: impl Fn(LaneId) -> bool) -> Option<Seq> {
        let mut deliveries = self.oldest_first(Seq(self.first.0 - 1));
        deliveries.find(|(key, found)| *found == state && counts(key.lane)).map(|(key, _)| key.seq)
    }

    /// Whether it owes this lane anything.
    pub fn owes(&self, lane: LaneId) -> bool {
        self.owed.contains_key(&slot_lane(lane))
    }

    /// Its first event that is still owed to one of these lanes.
    pub fn first_owed(&self, lanes: &HashSet<LaneId>) -> Option<Seq> {
        if !self.owed.keys().any(|lane| lanes.contains(&LaneId((*lane).into()))) {
            return None;
        }
        let mut deliveries = self.oldest_first(Seq(self.first.0 - 1));
        deliveries.find(|(key, state)| state.is_owed() && lanes.contains(&key.lane)).map(|(key, _)| key.seq)
    }

    /// Its deliveries, the newest event first, each event's by lane.
    pub fn newest_first(&self) -> impl Iterator<Item = (DeliveryKey, SlotState)> {
        (0..self.len()).rev().flat_map(move |event| self.slots_of(event))
    }

    /// Its deliveries in stored order, from the event after `after` on.
    pub fn oldest_first(&self, after: Seq) -> impl Iterator<Item = (DeliveryKey, SlotState)> {
        let from = (after.0 + 1).saturating_sub(self.first.0);
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(self.len());
        (from..self.len()).flat_map(move |event| self.slots_of(event))
    }

    /// The commit that an event belongs to.
    pub fn segment_of(&self, seq: Seq) -> Segment {
        let after = self.segments.partition_point(|segment| segment.first <= seq);
        self.segments[after - 1]
    }

    fn slots_of(&self, event: usize) -> impl Iterator<Item = (DeliveryKey, SlotState)> {
        let seq = Seq(self.first.0 + event as u64);
        (self.bases[event] as usize..self.bases[event + 1] as usize)
            .map(move |slot| (DeliveryKey { seq, lane: LaneId(self.lanes[slot].into()) }, self.states[slot]))
    }

    fn slot(&self, key: DeliveryKey) -> Option<usize> {
        if key.seq < self.first || key.seq >= self.end() || key.lane.0 > LANES_MAX {
            return None;
        }
        let (event, lane) = (self.event_index(key.seq), slot_lane(key.lane));
        let from = self.bases[event] as usize;
        let of_event = &self.lanes[from..self.bases[event + 1] as usize];
        of_event.iter().position(|&l| l == lane).map(|place| from + place)
    }

    fn event_index(&self, seq: Seq) -> usize {
        usize::try_from(seq.0 - self.first.0).expect("a volume has less than 2^32 events")
    }
}

fn slot_lane(lane: LaneId) -> u32 {
    u32::try_from(lane.0).expect("lane numbers end at LANES_MAX")
}
