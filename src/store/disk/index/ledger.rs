//! In-memory index of events and deliveries. Only the writer changes it, after the commit is durable; readers
//! may add cached details.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, atomic::AtomicU64},
};

use foldhash::{HashMap, HashMapExt, HashSet};

use super::{
    event_id_index::{self, IdIndex},
    owed::{OwedCounters, OwedInAll, event_bytes},
    volume::{SUBSCRIPTION_KEY_MAX, Stored, Volume},
    volume_detail::{DeliveryEntry, EntryState, EventMeta, VolumeDetail},
};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountId, EventId, Seq, SubscriptionKey},
        time::UnixMicros,
    },
    store::{
        Owed, QueueSummary,
        disk::{log::LogPosition, records::RecordError},
    },
};

/// The index of events and deliveries.
#[derive(Debug)]
pub struct Ledger {
    /// In order. Only the last one takes events, while it is open.
    pub volumes: VecDeque<Volume>,
    /// By the volume's first sequence number. Details that are dirty or not stored are always here.
    pub details: HashMap<Seq, VolumeDetail>,
    /// The sequence number of the next event.
    pub next_seq: Seq,
    /// The time of the newest event.
    pub last_time: UnixMicros,
    /// The steady time of the newest commit.
    pub last_steady: UnixMicros,
    /// Whether the last volume takes events.
    pub is_open: bool,
    /// Whether events may be missing whose outcomes were replayed.
    pub has_gap: bool,
    /// Finds events by the ids that publishers chose.
    pub ids: IdIndex,
    /// Memory of details that are on disk as well, in bytes at most.
    cache_bytes: usize,
    uses: AtomicU64,
    /// The subscriptions that exist, and their accounts.
    pub(super) subscriptions: HashMap<SubscriptionKey, i64>,
    /// Counters of subscriptions that ever had a delivery: most never do.
    queues: HashMap<SubscriptionKey, QueueCounters>,
    /// What is owed by account and in all.
    pub(super) owed: OwedCounters,
    /// Steady time of the last commit in each log file.
    pub file_times: BTreeMap<u32, UnixMicros>,
}

/// The deliveries of one subscription by state, and the volumes with its retries by time.
#[derive(Debug, Default)]
struct QueueCounters {
    counts: QueueSummary,
    due: BTreeSet<(UnixMicros, Seq)>,
}

/// How a delivery changed.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// The delivery.
    pub key: DeliveryKey,
    /// Its new state.
    pub state: DeliveryState,
    /// Attempts made so far.
    pub attempts: u32,
    /// When it changed.
    pub time: UnixMicros,
    /// Position of the attempt that changed it, if one did.
    pub attempt: Option<LogPosition>,
    /// A replay adds it: the event had no delivery to this subscription.
    pub added: bool,
    /// A replay queues it: retries start from zero.
    pub queued: bool,
}

impl Ledger {
    /// A ledger without events, for these subscriptions.
    pub fn new(
        subscriptions: impl IntoIterator<Item = (SubscriptionKey, AccountId)>,
        cache_bytes: usize,
    ) -> Self {
        Self {
            volumes: VecDeque::new(),
            details: HashMap::new(),
            next_seq: Seq(1),
            last_time: UnixMicros(0),
            last_steady: UnixMicros(0),
            is_open: false,
            has_gap: false,
            ids: IdIndex::default(),
            cache_bytes,
            uses: AtomicU64::new(0),
            subscriptions: subscriptions.into_iter().map(|(key, account)| (key, account.get())).collect(),
            queues: HashMap::new(),
            owed: OwedCounters::default(),
            file_times: BTreeMap::new(),
        }
    }

    /// Adds a subscription.
    pub fn add_subscription(&mut self, subscription: SubscriptionKey, account: AccountId) {
        self.subscriptions.insert(subscription, account.get());
    }

    /// Whether the subscription exists.
    pub fn has_subscription(&self, subscription: u32) -> bool {
        self.subscriptions.contains_key(&SubscriptionKey(subscription.into()))
    }

    /// Appends a volume.
    pub fn add_volume(&mut self, mut volume: Volume) {
        let count = volume.subscriptions.len();
        volume.subscriptions.retain(|counts| self.has_subscription(counts.subscription));
        volume.dues.retain(|subscription, _| self.has_subscription(*subscription));
        if !volume.owed_bytes_known || volume.subscriptions.len() < count {
            volume.owed_bytes_known = false;
            volume.owed_bytes = self.estimate_owed_bytes(&volume);
        }
        for (account, bytes) in &volume.owed_bytes {
            self.owed.add_bytes(*account, *bytes);
        }
        for (subscription, due) in &volume.dues {
            let queue = self.queues.entry(SubscriptionKey((*subscription).into())).or_default();
            queue.due.insert((*due, volume.first));
        }
        for counts in &volume.subscriptions {
            let queue = self.queues.entry(SubscriptionKey(counts.subscription.into())).or_default();
            queue.counts.pending += u64::from(counts.count(EntryState::Pending));
            queue.counts.retrying += u64::from(counts.count(EntryState::Retrying));
            queue.counts.succeeded += u64::from(counts.count(EntryState::Succeeded));
            queue.counts.failed += u64::from(counts.count(EntryState::Failed));
            queue.counts.cancelled += u64::from(counts.count(EntryState::Cancelled));
            if let Some(account) = self.account_of(counts.subscription) {
                self.owed.add_deliveries(account, counts.owed().into());
            }
        }
        self.volumes.push_back(volume);
    }

    /// Forgets a volume.
    pub fn remove_volume(&mut self, first: Seq) {
        let Some(index) = self.index_of(first) else { return };
        self.subtract(index);
        self.volumes.remove(index);
        self.details.remove(&first);
        self.ids.remove(first);
    }

    /// Replaces the detail of a volume.
    pub fn replace_detail(&mut self, first: Seq, detail: VolumeDetail) {
        let Some(index) = self.index_of(first) else { return };
        self.subtract(index);
        let mut volume = self.volumes[index].clone();
        volume.recount(&detail, |subscription| self.has_subscription(subscription));
        (volume.index, volume.state) = (None, None);
        self.details.insert(first, detail);
        let behind = self.volumes.split_off(index + 1);
        self.volumes.pop_back();
        self.add_volume(volume);
        self.volumes.extend(behind);
    }

    /// Subtracts a volume's deliveries from the counters.
    fn subtract(&mut self, index: usize) {
        let volume = &self.volumes[index];
        for (account, bytes) in &volume.owed_bytes {
            self.owed.remove_bytes(*account, *bytes);
        }
        for counts in &volume.subscriptions {
            let account = self.subscriptions.get(&SubscriptionKey(counts.subscription.into()));
            if let Some(account) = account {
                self.owed.remove_deliveries(*account, counts.owed().into());
            }
            let Some(queue) = self.queues.get_mut(&SubscriptionKey(counts.subscription.into())) else {
                continue;
            };
            queue.counts.pending -= u64::from(counts.count(EntryState::Pending));
            queue.counts.retrying -= u64::from(counts.count(EntryState::Retrying));
            queue.counts.succeeded -= u64::from(counts.count(EntryState::Succeeded));
            queue.counts.failed -= u64::from(counts.count(EntryState::Failed));
            queue.counts.cancelled -= u64::from(counts.count(EntryState::Cancelled));
            if let Some(due) = volume.dues.get(&counts.subscription) {
                queue.due.remove(&(*due, volume.first));
            }
        }
    }

    /// Removes a subscription; its deliveries are no longer counted.
    pub fn remove_subscription(&mut self, subscription: SubscriptionKey) {
        let account = self.subscriptions.remove(&subscription);
        if let Some((queue, account)) = self.queues.remove(&subscription).zip(account) {
            self.owed.remove_deliveries(account, queue.counts.owed());
        }
        let number = compact_key(subscription);
        for index in 0..self.volumes.len() {
            let has_owed = self.volumes[index].forget(number);
            if let Some(account) = account.filter(|_| has_owed) {
                self.forget_owed_bytes(index, account);
            }
        }
    }

    /// Begins a volume.
    pub fn begin_volume(&mut self, time: UnixMicros, file: u32) {
        let first = self.next_seq;
        self.volumes.push_back(Volume::new(first, time, file));
        self.details.insert(first, VolumeDetail::new());
        self.is_open = true;
    }

    /// Whether the last volume takes one more event.
    pub fn last_has_room(&self) -> bool {
        self.volumes.back().is_some_and(|volume| {
            self.details.get(&volume.first).is_some_and(|detail| !volume.is_full(detail))
        })
    }

    /// Gives back the memory that the last volume's detail keeps for more events.
    pub fn trim_last(&mut self) {
        let last = self.volumes.back().map(|volume| volume.first);
        if let Some(detail) = last.and_then(|first| self.details.get_mut(&first)) {
            detail.trim();
        }
    }

    /// Adds the next event to the last volume.
    pub fn push(&mut self, event: EventMeta, subscriptions: &[SubscriptionKey]) {
        if let Some(hash) = event.given_hash() {
            self.ids.insert(hash, self.volumes.back().expect("a volume was begun").first);
        }
        let volume = self.volumes.back_mut().expect("a volume was begun");
        volume.count_account(event.account);
        volume.events += 1;
        volume.bytes += u64::from(event.len);
        volume.last_time = event.time;
        let mut is_owed = false;
        for subscription in subscriptions {
            // Deliveries to removed subscriptions are not counted.
            if let Some(account) = self.subscriptions.get(subscription) {
                let queue = self.queues.entry(*subscription).or_default();
                queue.counts.pending += 1;
                self.owed.add_deliveries(*account, 1);
                volume.enter(compact_key(*subscription), EntryState::Pending);
                is_owed = true;
            }
        }
        if is_owed {
            volume.hold(event.account, event_bytes(&event));
            self.owed.add_bytes(event.account, event_bytes(&event));
        }
        self.last_time = event.time;
        let detail = self.details.get_mut(&volume.first).expect("it takes events");
        detail.push(event, subscriptions.iter().map(|subscription| compact_key(*subscription)));
        self.next_seq.0 += 1;
        volume.end = self.next_seq;
    }

    /// The volumes in which an event of this id may be.
    pub fn candidate_volumes(&self, account: AccountId, id: &EventId) -> Vec<Seq> {
        let made = id.made_for().and_then(|seq| self.volume_of(seq)).map(|volume| volume.first);
        let given = self.ids.volumes(event_id_index::hash(account, id));
        made.into_iter().chain(given).collect()
    }

    /// The volume with this sequence number.
    pub fn volume_of(&self, seq: Seq) -> Option<&Volume> {
        let after = self.volumes.partition_point(|volume| volume.first <= seq);
        self.volumes.get(after.checked_sub(1)?).filter(|volume| seq < volume.end)
    }

    /// The first sequence number of a delivery's volume, if its subscription exists.
    pub fn volume_of_delivery(&self, key: DeliveryKey) -> Option<Seq> {
        self.subscriptions
            .contains_key(&key.subscription)
            .then(|| self.volume_of(key.seq).map(|volume| volume.first))?
    }

    /// The volume that starts with this sequence number.
    pub fn volume(&self, first: Seq) -> Option<&Volume> {
        self.index_of(first).map(|index| &self.volumes[index])
    }

    /// The same, mutable.
    pub fn volume_mut(&mut self, first: Seq) -> Option<&mut Volume> {
        self.index_of(first).map(|index| &mut self.volumes[index])
    }

    /// A volume's detail, if it is in memory.
    pub fn detail(&self, first: Seq) -> Option<&VolumeDetail> {
        let detail = self.details.get(&first)?;
        detail.touch(&self.uses);
        Some(detail)
    }

    /// Caches a detail that was read from `stored`, unless the volume was moved or its detail loaded
    /// meanwhile.
    pub fn cache_detail(&mut self, first: Seq, stored: Stored, detail: VolumeDetail) {
        if self.volume(first).is_some_and(|volume| volume.stored() == Some(stored))
            && !self.details.contains_key(&first)
        {
            detail.touch(&self.uses);
            self.details.insert(first, detail);
            self.evict(first);
        }
    }

    /// Marks a detail as dirty, so that it stays in memory.
    pub fn mark_dirty(&mut self, first: Seq) {
        if let Some(detail) = self.details.get_mut(&first) {
            detail.dirty = true;
        }
    }

    /// Memory of the dirty details, in bytes.
    pub fn dirty_memory(&self) -> usize {
        self.details.values().filter(|detail| detail.dirty).map(VolumeDetail::memory).sum()
    }

    /// Evicts the least recently used clean details, except this one, until the rest fit beside the dirty ones.
    pub fn evict(&mut self, but: Seq) {
        let room = self.cache_bytes.saturating_sub(self.dirty_memory());
        let mut clean: Vec<(u64, Seq, usize)> = self
            .details
            .iter()
            .filter(|(first, detail)| !detail.dirty && **first != but)
            .map(|(first, detail)| (detail.used(), *first, detail.memory()))
            .collect();
        let mut memory: usize = clean.iter().map(|(_, _, memory)| memory).sum();
        if memory <= room {
            return;
        }
        clean.sort_unstable();
        for (_, first, bytes) in clean {
            if memory <= room {
                break;
            }
            self.details.remove(&first);
            memory -= bytes;
        }
    }

    /// A delivery, if its volume's detail is in memory and its subscription exists.
    pub fn delivery(&self, key: DeliveryKey) -> Option<&DeliveryEntry> {
        if !self.subscriptions.contains_key(&key.subscription) {
            return None;
        }
        let volume = self.volume_of(key.seq)?;
        let detail = self.detail(volume.first)?;
        detail.position(volume.first, key).map(|entry| &detail.deliveries[entry])
    }

    /// Changes a delivery and returns its state before; `None` if its subscription is gone or the delivery
    /// was added. The detail is in memory. Errors if the delivery does not exist.
    pub fn settle(&mut self, settled: Settled) -> Result<Option<EntryState>, RecordError> {
        let Settled { key, state, attempts, time, attempt, added, queued } = settled;
        let missing = || {
            RecordError(format!(
                "an outcome of event {} for subscription {}, which was not owed",
                key.seq.0, key.subscription.0
            ))
        };
        let first = self.volume_of(key.seq).ok_or_else(missing)?.first;
        let index = self.index_of(first).ok_or_else(missing)?;
        let detail = self.details.get_mut(&first).ok_or_else(missing)?;
        let event = detail.event_at(first, key.seq).ok_or_else(missing)?;
        let subscription = compact_key(key.subscription);
        let account = self.subscriptions.get(&key.subscription).copied();
        let volume = &mut self.volumes[index];
        let (position, before) = match detail.position(first, key) {
            Some(position) => (position, Some(detail.deliveries[position].state)),
            // The record that added it may be lost.
            None if added || self.has_gap => (detail.add(event, subscription, time), None),
            None => return Err(missing()),
        };
        let due_before = detail.next_due(subscription);
        let entry = detail.deliveries[position];
        let due = if let DeliveryState::Retrying { due } = state { due } else { UnixMicros(0) };
        let last = attempt.unwrap_or(entry.last);
        // The records of its attempts may be lost.
        let is_lost = self.has_gap && last == LogPosition::default();
        let attempts = if is_lost { 0 } else { attempts };
        let attempts_before = if queued { attempts } else { entry.attempts_before.min(attempts) };
        if (attempts == 0) != (last == LogPosition::default()) {
            return Err(missing_attempt(key));
        }
        let entry = DeliveryEntry {
            state: state.into(),
            attempts,
            attempts_before,
            due,
            changed: time,
            last,
            ..entry
        };
        detail.set(event, position, entry);
        volume.has_added |= before.is_none();
        let Some(account) = account else { return Ok(None) };
        let (was_owed, is_owed) = (before.is_some_and(EntryState::is_owed), entry.state.is_owed());
        let is_known = |other: u32| {
            other != subscription && self.subscriptions.contains_key(&SubscriptionKey(other.into()))
        };
        if was_owed != is_owed && !detail.is_owed(event, is_known) {
            let (of_event, bytes) = (detail.events[event].account, event_bytes(&detail.events[event]));
            if is_owed {
                volume.hold(of_event, bytes);
                self.owed.add_bytes(of_event, bytes);
            } else {
                self.owed.remove_bytes(of_event, volume.release(of_event, bytes));
            }
        }
        if let Some(before) = before {
            volume.leave(subscription, before);
        }
        volume.enter(subscription, state.into());
        let due_after = detail.next_due(subscription);
        let queue = self.queues.entry(key.subscription).or_default();
        if let Some(before) = before {
            *queue.count_mut(before) -= 1;
            self.owed.remove_deliveries(account, before.is_owed().into());
        }
        *queue.counts.count_mut(state) += 1;
        self.owed.add_deliveries(account, state.is_owed().into());
        if due_before != due_after {
            if let Some(due) = due_before {
                queue.due.remove(&(due, first));
                volume.dues.remove(&subscription);
            }
            if let Some(due) = due_after {
                queue.due.insert((due, first));
                volume.dues.insert(subscription, due);
            }
        }
        Ok(before)
    }

    /// The deliveries of a subscription by state.
    pub fn summary(&self, subscription: SubscriptionKey) -> QueueSummary {
        self.queues.get(&subscription).map_or_else(QueueSummary::default, |queue| QueueSummary {
            next_due: queue.due.first().map(|(due, _)| *due),
            ..queue.counts
        })
    }

    /// What is owed to all accounts together.
    pub fn owed_in_all(&self) -> Arc<OwedInAll> {
        self.owed.in_all()
    }

    /// What is owed to the subscriptions of one account.
    pub fn owed_by(&self, account: AccountId) -> Owed {
        self.owed.of(account.get())
    }

    /// The volumes with retries to a subscription, by when the next one is due.
    pub fn due_volumes(&self, subscription: SubscriptionKey) -> impl Iterator<Item = (UnixMicros, Seq)> {
        self.queues.get(&subscription).into_iter().flat_map(|queue| queue.due.iter().copied())
    }

    /// The first volume with owed deliveries to one of these subscriptions.
    pub fn oldest_owing(&self, subscriptions: &HashSet<SubscriptionKey>) -> Option<&Volume> {
        self.volumes.iter().find(|volume| {
            volume.subscriptions.iter().any(|counts| {
                counts.owed() > 0 && subscriptions.contains(&SubscriptionKey(counts.subscription.into()))
            })
        })
    }

    fn index_of(&self, first: Seq) -> Option<usize> {
        self.volumes.binary_search_by_key(&first, |volume| volume.first).ok()
    }
}

impl QueueCounters {
    fn count_mut(&mut self, state: EntryState) -> &mut u64 {
        match state {
            EntryState::Pending => &mut self.counts.pending,
            EntryState::Retrying => &mut self.counts.retrying,
            EntryState::Succeeded => &mut self.counts.succeeded,
            EntryState::Failed => &mut self.counts.failed,
            EntryState::Cancelled => &mut self.counts.cancelled,
        }
    }
}

fn missing_attempt(key: DeliveryKey) -> RecordError {
    let DeliveryKey { seq, subscription } = key;
    RecordError(format!(
        "an outcome of event {} for subscription {} whose attempts do not add up",
        seq.0, subscription.0
    ))
}

/// The key of a subscription as volumes store it.
pub fn compact_key(subscription: SubscriptionKey) -> u32 {
    debug_assert!(subscription.0 <= SUBSCRIPTION_KEY_MAX, "subscription keys end at SUBSCRIPTION_KEY_MAX");
    u32::try_from(subscription.0).expect("subscription keys end at SUBSCRIPTION_KEY_MAX")
}
