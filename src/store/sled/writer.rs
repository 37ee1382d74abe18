//! The one thread that writes: it gathers what waits, writes it as one commit, syncs, and then answers everybody.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    mem,
    sync::{Arc, atomic::Ordering, mpsc},
    time::Instant,
};

use rand::{RngExt, rngs::StdRng};
use tokio::sync::oneshot;

use super::{
    Shared,
    records::{AttemptRecord, EventEntry, OutcomeRecord, Outcomes, SegmentIndex},
    registry_tree::{self, RegistryTree},
    volume::{SlotState, VOLUME_BYTES, VOLUME_EVENTS, Volume},
    volume_tree::VolumeTree,
};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        event::{EventAddress, StoredEvent},
        ids::{AccountId, EventId, EventName, LaneId, Seq},
        subscription::Subscription,
        time::UnixMicros,
    },
    store::{
        Accepted, Change, Created, Decision, DeliveryChange, Fed, FedEvent, Keep, NewEvent, NewSubscription,
        Purged, Settlement, StoreError,
    },
};

mod alone;

/// A commit gathers no more once it has this many events and settlements.
pub const COMMIT_RECORDS_MAX: usize = 1024;
/// A commit gathers no more once its events have this many bytes.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;
/// Writes that may wait; past them [`StoreError::Busy`].
pub const WRITES_WAITING_MAX: usize = 64 * 1024;
/// Bytes of events that may wait to be written; past them [`StoreError::Busy`]. A caller that goes away leaves what it
/// gave here, so the callers' own bounds do not bound this.
pub const BYTES_WAITING_MAX: usize = 128 * 1024 * 1024;

type Answer<T> = oneshot::Sender<Result<T, StoreError>>;
type AcceptResult = Result<Vec<Accepted>, StoreError>;

/// Something to be written, and who waits for it.
pub enum Write {
    /// Events with their deliveries.
    Accept(Vec<NewEvent>, Answer<Vec<Accepted>>),
    /// How attempts ended.
    Settle(Vec<Settlement>, Answer<()>),
    /// What a caller decides about a delivery.
    Decide(DeliveryKey, Decision, Answer<DeliveryState>),
    /// What retention no longer keeps.
    Purge(Keep, Answer<Purged>),
    /// A subscription to be added.
    Create(Box<NewSubscription>, Answer<Created>),
    /// A subscription to be changed.
    Update(LaneId, u64, Change, Answer<Arc<Subscription>>),
    /// A subscription to be removed.
    Delete(LaneId, u64, bool, Answer<()>),
    /// Nothing more; the thread ends.
    Stop(Answer<()>),
}

/// What the writing thread owns.
pub struct Writer {
    /// What others read.
    pub shared: Arc<Shared>,
    /// Where volumes are made.
    pub db: ::sled::Db,
    /// The file that `flush` writes but does not sync.
    pub db_file: File,
    /// The subscriptions on disk.
    pub registry_tree: RegistryTree,
    /// What retention has removed.
    pub purged: super::purged::Purged,
    /// For ids.
    pub random: StdRng,
    /// Why nothing can be written any more, once that is so.
    pub failure: Option<StoreError>,
}

/// What one commit gathers.
#[derive(Default)]
struct Group {
    /// Refusals wait as well: what they are based on may be of this commit.
    accepts: Vec<(AcceptResult, Answer<Vec<Accepted>>)>,
    settles: Vec<Answer<()>>,
    entries: Vec<EventEntry>,
    stored: Vec<FedEvent>,
    bodies: Vec<u8>,
    /// By account and publisher's id, the events of this commit: where they are in `entries`.
    ids: HashMap<(AccountId, EventId), usize>,
    settlements: Vec<(OutcomeRecord, AttemptRecord)>,
    settled: HashSet<DeliveryKey>,
    time: UnixMicros,
    first: Seq,
}

impl Writer {
    /// Writes until it is told to stop, or nobody can write any more.
    pub fn run(mut self, writes: &mpsc::Receiver<Write>) {
        while let Ok(first) = writes.recv() {
            if !self.commit(first, writes) {
                return;
            }
        }
    }

    /// One commit. False if the thread shall end.
    fn commit(&mut self, first: Write, writes: &mpsc::Receiver<Write>) -> bool {
        let mut group = self.begin();
        let mut next = Some(first);
        while let Some(write) = next.take().or_else(|| writes.try_recv().ok()) {
            self.shared.waiting_writes.fetch_sub(1, Ordering::Relaxed);
            match write {
                Write::Accept(events, answer) => self.gather_events(&mut group, events, answer),
                Write::Settle(settlements, answer) => {
                    self.gather_settlements(&mut group, settlements, answer);
                }
                // Everything else is rare: it ends the commit and makes one of its own.
                other => {
                    self.finish(group);
                    return self.write_alone(other);
                }
            }
            if group.is_full() {
                break;
            }
        }
        self.finish(group);
        true
    }

    fn begin(&self) -> Group {
        let now = self.shared.clock.now();
        let ledger = self.shared.ledger();
        Group { time: now.max(ledger.last_time), first: ledger.next_seq, ..Group::default() }
    }

    fn gather_events(&mut self, group: &mut Group, events: Vec<NewEvent>, answer: Answer<Vec<Accepted>>) {
        self.shared.waiting_bytes.fetch_sub(bytes_of(&events), Ordering::Relaxed);
        if let Some(failure) = &self.failure {
            drop(answer.send(Err(failure.clone())));
            return;
        }
        let before = (group.entries.len(), group.bodies.len());
        let events = events.into_iter().enumerate();
        let accepted: Result<_, _> =
            events.map(|(index, new)| self.gather_event(group, index, new)).collect();
        if accepted.is_err() {
            group.take_back(before);
        }
        group.accepts.push((accepted, answer));
    }

    fn gather_event(
        &mut self,
        group: &mut Group,
        index: usize,
        new: NewEvent,
    ) -> Result<Accepted, StoreError> {
        let NewEvent { address, event, encoded, event_type, fingerprint, mut lanes, .. } = new;
        let EventAddress { account, id } = address;
        if let Some(id) = &id
            && let Some((first_fingerprint, accepted)) = self.find(group, account, id)?
        {
            return if first_fingerprint == fingerprint {
                Ok(accepted)
            } else {
                Err(StoreError::EventExists { index, id: id.clone() })
            };
        }
        // A subscription may have gone since the event was matched.
        self.shared.registry.retain_known(&mut lanes);
        let seq = Seq(group.first.0 + group.entries.len() as u64);
        let id_given = id.is_some();
        let id = id.unwrap_or_else(|| EventId::made(group.time, seq, self.random.random()));
        if id_given {
            group.ids.insert((account, id.clone()), group.entries.len());
        }
        group.bodies.extend(&encoded);
        group.entries.push(EventEntry {
            account: account.get(),
            id: id.as_str().to_owned(),
            event_type: event_type.into(),
            fingerprint_high: high_half(fingerprint),
            fingerprint_low: low_half(fingerprint),
            body_len: u32::try_from(encoded.len()).expect("an event is below 4 GiB"),
            lanes: lanes.iter().map(|lane| lane.0).collect(),
            id_given,
        });
        let answer = answer_of(group.entries.last().expect("it was pushed"), id.clone(), group.time, false);
        let event = Arc::new(StoredEvent::new(seq, EventName { account, id }, group.time, event));
        group.stored.push(FedEvent { event, lanes });
        Ok(answer)
    }

    /// The event of this id, on disk or in this commit: its fingerprint, and the answer to its repetition.
    fn find(
        &self,
        group: &Group,
        account: AccountId,
        id: &EventId,
    ) -> Result<Option<(u128, Accepted)>, StoreError> {
        if let Some(&place) = group.ids.get(&(account, id.clone())) {
            let entry = &group.entries[place];
            return Ok(Some((entry.fingerprint(), answer_of(entry, id.clone(), group.time, true))));
        }
        let found = self.shared.find(account, id)?;
        Ok(found.map(|(_, entry, time)| (entry.fingerprint(), answer_of(&entry, id.clone(), time, true))))
    }

    fn gather_settlements(&mut self, group: &mut Group, settlements: Vec<Settlement>, answer: Answer<()>) {
        if let Some(failure) = &self.failure {
            drop(answer.send(Err(failure.clone())));
            return;
        }
        for Settlement { key, attempt, state } in settlements {
            let before = self.shared.ledger().state(key);
            let state = match before {
                Some(owed) if owed.is_owed() => state,
                // It was cancelled while the attempt was under way.
                Some(DeliveryState::Cancelled) => DeliveryState::Cancelled,
                _ => continue,
            };
            if !group.settled.insert(key) {
                continue;
            }
            match self.attempts_made(key) {
                Ok(made) => {
                    let outcome = OutcomeRecord::new(key, state, made + 1);
                    group.settlements.push((outcome, AttemptRecord::from(&attempt)));
                }
                Err(error) => {
                    drop(answer.send(Err(error)));
                    return;
                }
            }
        }
        group.settles.push(answer);
    }

    /// Attempts made so far of a delivery.
    fn attempts_made(&self, key: DeliveryKey) -> Result<u32, StoreError> {
        let tree = {
            let ledger = self.shared.ledger();
            if ledger.state(key).is_some_and(DeliveryState::is_owed) {
                return Ok(ledger.attempts_of_owed(key));
            }
            ledger.volume_of(key.seq).expect("a delivery has an event").tree.clone()
        };
        // Of what is over only the journal knows. That is rare: somebody decided about it.
        let journal = tree.journal_of(&[key])?;
        Ok(journal[&key].last().map_or(0, |entry| entry.outcome.attempts))
    }

    /// Writes what was gathered, and answers.
    fn finish(&mut self, mut group: Group) {
        let written = self.write_group(&mut group);
        if let Err(failure) = &written {
            self.fail(failure.clone());
        }
        for (accepted, answer) in group.accepts {
            if let (Ok(()), Ok(accepted)) = (&written, &accepted) {
                let duplicates = accepted.iter().filter(|accepted| accepted.duplicate).count();
                self.shared.metrics.events_duplicate.inc_by(duplicates as u64);
            }
            drop(answer.send(written.clone().and(accepted)));
        }
        for answer in group.settles {
            drop(answer.send(written.clone()));
        }
    }

    fn write_group(&mut self, group: &mut Group) -> Result<(), StoreError> {
        if group.entries.is_empty() && group.settlements.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        if !group.entries.is_empty() {
            self.write_events(group)?;
        }
        self.write_settlements(group)?;
        self.sync()?;
        let metrics = &self.shared.metrics;
        metrics.committed(group.entries.len(), group.settlements.len(), start.elapsed());

        let mut ledger = self.shared.ledger_mut();
        if !group.entries.is_empty() {
            ledger.last_time = group.time;
            let volume = ledger.volumes.back_mut().expect("write_events began it");
            volume.begin_segment(group.time);
            volume.bytes += group.bodies.len() as u64;
            for (entry, fed) in group.entries.iter().zip(&group.stored) {
                ledger.push(fed.event.name.account, &fed.event.name.id, entry.id_given, &fed.lanes);
                metrics.event_accepted(entry.event_type, fed.lanes.len());
            }
        }
        for (outcome, _) in &group.settlements {
            let before =
                ledger.replay(outcome).expect("it was owed when it was gathered, and nobody else writes");
            let state = outcome.delivery_state().expect("it was made from a state");
            metrics.delivery_moved(before.is_some_and(SlotState::is_owed), state);
        }
        drop(ledger);
        self.tell_changes(group);
        if !group.stored.is_empty() {
            // Nobody listening is fine: what is owed is in the ledger.
            drop(self.shared.feed.send(Fed::Events(Arc::new(mem::take(&mut group.stored)))));
        }
        Ok(())
    }

    fn tell_changes(&self, group: &Group) {
        let made = group.stored.iter().flat_map(|fed| fed.lanes.iter().map(|lane| (fed.event.seq, *lane)));
        let made = made.map(|(seq, lane)| DeliveryChange {
            key: DeliveryKey { seq, lane },
            state: DeliveryState::Pending,
            attempts: 0,
        });
        let settled = group.settlements.iter().map(|(outcome, _)| DeliveryChange {
            key: outcome.key(),
            state: outcome.delivery_state().expect("it was made from a state"),
            attempts: outcome.attempts,
        });
        self.shared.changes.tell(group.time, made.chain(settled));
    }

    fn write_events(&mut self, group: &mut Group) -> Result<(), StoreError> {
        let first = group.first;
        let begun = self
            .shared
            .ledger()
            .volumes
            .back()
            .filter(|v| v.len() < VOLUME_EVENTS && v.bytes < VOLUME_BYTES)
            .map(|v| v.tree.clone());
        let tree = match begun {
            Some(tree) => tree,
            None => {
                let tree = VolumeTree::open(&self.db, first).map_err(failed)?;
                let volume = Volume::new(tree, first);
                let tree = volume.tree.clone();
                self.shared.ledger_mut().volumes.push_back(volume);
                tree
            }
        };
        let index = SegmentIndex { create_time: group.time.0, events: mem::take(&mut group.entries) };
        let written = tree.put_segment(first, &index, &group.bodies);
        group.entries = index.events;
        written.map_err(failed)
    }

    /// Settlements go to the volumes of their events, so that a volume knows all about its own.
    fn write_settlements(&mut self, group: &Group) -> Result<(), StoreError> {
        let mut by_volume: HashMap<Seq, (Vec<OutcomeRecord>, Vec<AttemptRecord>)> = HashMap::new();
        let mut ledger = self.shared.ledger_mut();
        for (outcome, attempt) in &group.settlements {
            let volume = ledger.volume_of(Seq(outcome.seq)).expect("an owed delivery has an event");
            let (outcomes, attempts) = by_volume.entry(volume.first).or_default();
            outcomes.push(*outcome);
            attempts.push(attempt.clone());
        }
        let numbers = ledger.next_journal..;
        ledger.next_journal += by_volume.len() as u64;
        let trees: Vec<_> = by_volume
            .into_iter()
            .map(|(first, records)| {
                (ledger.volume_of(first).expect("it was just found").tree.clone(), records)
            })
            .collect();
        drop(ledger);
        for (journal, (tree, (deliveries, attempts))) in numbers.zip(trees) {
            let first = Seq(deliveries[0].seq);
            let outcomes = Outcomes { time: group.time.0, deliveries, attempts_bytes: 0 };
            let bytes = tree.put_journal(journal, outcomes, attempts).map_err(failed)?;
            self.shared.ledger_mut().count_bytes(first, bytes);
        }
        Ok(())
    }

    /// sled's flush only starts the writing; the file must be synced as well.
    fn sync(&self) -> Result<(), StoreError> {
        let start = Instant::now();
        self.db.flush().map_err(failed)?;
        self.db_file.sync_data().map_err(|error| StoreError::Failed(error.to_string()))?;
        self.shared.metrics.sync_seconds.observe(start.elapsed().as_secs_f64());
        Ok(())
    }

    /// After a failed write nobody knows what is on disk: nothing more is written until a restart has read it.
    fn fail(&mut self, failure: StoreError) {
        if self.failure.is_none() {
            tracing::error!(error = %failure, "the store failed and takes no more writes until a restart");
            self.shared.failed.send_replace(true);
            self.failure = Some(failure);
        }
    }
}

impl Group {
    fn is_full(&self) -> bool {
        self.entries.len() + self.settlements.len() >= COMMIT_RECORDS_MAX
            || self.bodies.len() >= COMMIT_BYTES_MAX
    }

    /// Takes back the events of a call that failed: all or none.
    fn take_back(&mut self, (entries, bodies): (usize, usize)) {
        self.entries.truncate(entries);
        self.stored.truncate(entries);
        self.bodies.truncate(bodies);
        self.ids.retain(|_, place| *place < entries);
    }
}

/// How much of [`BYTES_WAITING_MAX`] a call takes.
pub fn bytes_of(events: &[NewEvent]) -> usize {
    events.iter().map(|event| event.encoded.len()).sum()
}

fn answer_of(entry: &EventEntry, id: EventId, create_time: UnixMicros, duplicate: bool) -> Accepted {
    let delivery_count = u32::try_from(entry.lanes.len()).expect("lane numbers end at LANES_MAX");
    Accepted { id, create_time, duplicate, delivery_count }
}

fn high_half(fingerprint: u128) -> u64 {
    u64::try_from(fingerprint >> 64).expect("64 bits are left")
}

fn low_half(fingerprint: u128) -> u64 {
    u64::try_from(fingerprint & u128::from(u64::MAX)).expect("64 bits are left")
}

#[expect(clippy::needless_pass_by_value, reason = "it is given to map_err")]
fn failed(error: ::sled::Error) -> StoreError {
    StoreError::Failed(error.to_string())
}

impl From<registry_tree::RegistryError> for StoreError {
    fn from(error: registry_tree::RegistryError) -> Self {
        Self::Failed(error.to_string())
    }
}
