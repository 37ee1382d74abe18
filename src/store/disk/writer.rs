//! The writing thread: gathers waiting writes into one commit, writes and syncs it, and then sends the
//! replies.

use std::{
    mem,
    path::PathBuf,
    sync::{Arc, atomic::Ordering, mpsc},
    time::Instant,
};

use prost::Message;
use rand::{RngExt, rngs::StdRng};

use self::commit::CommitBatch;
use super::{
    index::{
        apply,
        volume_detail::{DeliveryEntry, EntryState},
    },
    kv::{access_tokens::TokensTree, engine::Engine, subscriptions::RegistryTree},
    log::{Kind, Log, checksum},
    records::{AttemptRecord, CommitRecord, EventEntry, OutcomeRecord},
    shared::{Reply, Shared, Step},
};
use crate::{
    domain::{
        access::TokenId,
        delivery::{DeliveryKey, DeliveryState},
        event_routing::EventAddress,
        ids::{AccountId, EventId, EventName, Seq, SubscriptionKey},
        secret::Secret,
        subscription::Subscription,
        time::UnixMicros,
    },
    event::StoredEvent,
    store::{
        Accepted, AcceptedEvent, Change, Created, DeliveryChange, NewEvent, NewSubscription, NewToken,
        OperatorAction, QueueEvent, ReplayQuery, Settlement, StoreError, TokenChange,
    },
};

mod access_tokens;
mod checkpoint;
mod commit;
mod exclusive;
mod retention;

/// Events and settlements after which a commit is closed.
pub const COMMIT_RECORDS_MAX: usize = 1024;
/// Bytes of events and attempts after which a commit is closed.
pub const COMMIT_BYTES_MAX: usize = 1024 * 1024;
/// Writes in the queue at most; [`StoreError::Busy`] beyond.
pub const WRITES_WAITING_MAX: usize = 64 * 1024;
/// Bytes of events in the queue at most; [`StoreError::Busy`] beyond. A caller that goes away leaves its
/// events here, so the bounds of callers do not bound this.
pub const BYTES_WAITING_MAX: usize = 128 * 1024 * 1024;

type AcceptResult = Result<Vec<Accepted>, StoreError>;

/// A write and the channel for its result.
pub enum Write {
    /// Events with their deliveries.
    Accept(Vec<NewEvent>, Reply<Vec<Accepted>>),
    /// Settlements: see [`Shared::settling`].
    Settle,
    /// An operator action on a delivery.
    Decide(DeliveryKey, OperatorAction, Reply<DeliveryState>),
    /// A replay.
    Replay(Box<ReplayQuery>, Vec<Seq>, Reply<u64>),
    /// Steps of retention: see [`Shared::steps`].
    Steps,
    /// The beginning of a backup, which sends its own reply.
    Step(Step),
    /// A new subscription.
    Create(Box<NewSubscription>, Reply<Created>),
    /// A change of a subscription.
    Update(SubscriptionKey, u64, Box<Change>, Reply<Arc<Subscription>>),
    /// The removal of a subscription.
    Delete(SubscriptionKey, u64, bool, Reply<u64>),
    /// A new access token.
    CreateToken(Box<NewToken>, Reply<(TokenId, Option<Secret>)>),
    /// A change of access tokens.
    Tokens(Box<TokenChange>, Reply<()>),
    /// The end of the thread. Replies with the number of the next record.
    Stop(Reply<u64>),
}

// The queue allocates all its slots at the start: a few bytes more per write are megabytes of an idle
// gateway.
const _: () = assert!(size_of::<Write>() <= 40);

/// State of the writing thread.
pub struct Writer {
    /// State that readers share.
    pub shared: Arc<Shared>,
    /// Events, attempts and states.
    pub log: Log,
    /// Directory of the log and the manifest.
    pub ledger_dir: PathBuf,
    /// The log file that was the last at the last checkpoint.
    pub checkpoint_file: u32,
    /// Bytes of the log that commits took, without those of retention.
    pub committed_bytes: u64,
    /// Memory of details that no checkpoint has written yet, in bytes at most.
    pub dirty_memory_max: usize,
    /// The subscriptions on disk.
    pub registry_tree: RegistryTree,
    /// The access tokens on disk.
    pub tokens_tree: TokensTree,
    /// Both trees, and their log.
    pub engine: Arc<Engine>,
    /// The number of the registry's last change that a commit has noted.
    pub noted_change: u64,
    /// For ids.
    pub random: StdRng,
}

impl Writer {
    /// Runs until [`Write::Stop`], or until no sender is left.
    pub fn run(mut self, writes: &mpsc::Receiver<Write>) {
        while let Ok(first) = writes.recv() {
            if !self.commit(first, writes) {
                return;
            }
        }
    }

    /// Makes one commit. False if the thread shall end.
    fn commit(&mut self, first: Write, writes: &mpsc::Receiver<Write>) -> bool {
        self.make_steps();
        let mut batch = self.begin();
        // Settlements first, so that a flood of events does not delay the deliveries that wait for them.
        self.gather_waiting_settlements(&mut batch);
        let mut next = Some(first);
        while let Some(write) = next.take().or_else(|| writes.try_recv().ok()) {
            self.shared.waiting_writes.fetch_sub(1, Ordering::Relaxed);
            match write {
                Write::Accept(events, reply) => self.gather_events(&mut batch, events, reply),
                Write::Settle => self.gather_waiting_settlements(&mut batch),
                // Everything else is rare: it closes this commit and makes one of its own.
                other => {
                    self.finish(batch);
                    let goes_on = self.write_exclusive(other);
                    self.maintain();
                    return goes_on;
                }
            }
            if batch.is_full() {
                break;
            }
        }
        self.finish(batch);
        self.maintain();
        true
    }

    fn begin(&self) -> CommitBatch {
        let now = self.shared.clock.now();
        let ledger = self.shared.ledger();
        CommitBatch { time: now.max(ledger.last_time), first: ledger.next_seq, ..CommitBatch::default() }
    }

    fn gather_events(&mut self, batch: &mut CommitBatch, events: Vec<NewEvent>, reply: Reply<Vec<Accepted>>) {
        self.shared.waiting_bytes.fetch_sub(bytes_of(&events), Ordering::Relaxed);
        if let Err(failure) = self.shared.working() {
            drop(reply.send(Err(failure)));
            return;
        }
        if let Err(lack) = self.log.check_room_for_events() {
            drop(reply.send(Err(lack.into())));
            return;
        }
        let before = (batch.entries.len(), batch.bodies_len);
        let events = events.into_iter().enumerate();
        let accepted: Result<_, _> =
            events.map(|(index, new)| self.gather_event(batch, index, new)).collect();
        if accepted.is_err() {
            batch.take_back(before);
        }
        batch.accepts.push((accepted, reply));
    }

    fn gather_event(
        &mut self,
        batch: &mut CommitBatch,
        index: usize,
        new: NewEvent,
    ) -> Result<Accepted, StoreError> {
        let NewEvent { address, content, inbox_id, fingerprint, recipients } = new;
        let EventAddress { account, id } = address;
        if let Some(id) = &id
            && let Some((first_fingerprint, accepted)) = self.find(batch, account, id)?
        {
            return if first_fingerprint == fingerprint {
                Ok(accepted)
            } else {
                Err(StoreError::EventExists { index, id: id.clone() })
            };
        }
        // Only this thread changes the registry: it stays the same until the commit is written.
        let registry = &self.shared.registry;
        let subscriptions = registry.recipients(recipients, account, content.event_type, inbox_id);
        let seq = Seq(batch.first.0 + batch.entries.len() as u64);
        let id_given = id.is_some();
        let id = id.unwrap_or_else(|| EventId::made(batch.time, seq, self.random.random()));
        if id_given {
            batch.ids.insert((account, id.clone()), batch.entries.len());
        }
        let encoded = &content.encoded;
        batch.bodies_len += encoded.len();
        batch.entries.push(EventEntry {
            account: account.get(),
            id: id.as_str().to_owned(),
            event_type: content.event_type.into(),
            fingerprint_high: high_half(fingerprint),
            fingerprint_low: low_half(fingerprint),
            body_len: u32::try_from(encoded.len()).expect("an event is below 4 GiB"),
            subscriptions: subscriptions.iter().map(|subscription| subscription.0).collect(),
            id_given,
            inbox: inbox_id.unwrap_or(0),
            tag: content.order_tag.0,
            checksum: checksum(encoded),
        });
        let reply = accepted_of(batch.entries.last().expect("it was pushed"), id.clone(), batch.time, false);
        let event = Arc::new(StoredEvent::new(seq, EventName { account, id }, batch.time, content));
        batch.stored.push(AcceptedEvent { event, subscriptions });
        Ok(reply)
    }

    /// The event with this id, on disk or in this commit: its fingerprint, and the result for a repetition.
    fn find(
        &self,
        batch: &CommitBatch,
        account: AccountId,
        id: &EventId,
    ) -> Result<Option<(u128, Accepted)>, StoreError> {
        if let Some(&position) = batch.ids.get(&(account, id.clone())) {
            let entry = &batch.entries[position];
            return Ok(Some((entry.fingerprint(), accepted_of(entry, id.clone(), batch.time, true))));
        }
        let found = self.shared.find(account, id)?;
        Ok(found.map(|found| {
            let meta = found.meta;
            let (id, create_time) = (id.clone(), meta.time);
            let reply = Accepted { id, create_time, duplicate: true, delivery_count: meta.delivery_count };
            (meta.fingerprint, reply)
        }))
    }

    fn gather_waiting_settlements(&mut self, batch: &mut CommitBatch) {
        let waiting = mem::take(&mut *self.shared.settling());
        for (settlements, reply) in waiting {
            // Long response bodies of many attempts make several commits.
            if batch.attempts.len() >= COMMIT_BYTES_MAX {
                self.finish(mem::take(batch));
                *batch = self.begin();
            }
            self.gather_settlements(batch, settlements, reply);
        }
    }

    fn gather_settlements(
        &mut self,
        batch: &mut CommitBatch,
        settlements: Vec<Settlement>,
        reply: Reply<()>,
    ) {
        if let Err(failure) = self.shared.working() {
            drop(reply.send(Err(failure)));
            return;
        }
        for Settlement { key, attempt, state } in settlements {
            let entry = match self.delivery(key) {
                Ok(entry) => entry,
                Err(error) => {
                    drop(reply.send(Err(error)));
                    return;
                }
            };
            let Some(entry) = entry else { continue };
            let state = match entry.state {
                owed if owed.is_owed() => state,
                // Cancelled during the attempt.
                EntryState::Cancelled => DeliveryState::Cancelled,
                _ => continue,
            };
            if batch.settled.insert(key) {
                let record = AttemptRecord { before: entry.last.raw(), ..AttemptRecord::from(&attempt) };
                batch.settle(key, state, entry.attempts + 1, Some(&record));
            }
        }
        batch.settles.push(reply);
    }

    /// A delivery, with its volume's detail in memory until the next checkpoint; `None` if it does not exist.
    fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryEntry>, StoreError> {
        let volume = self.shared.ledger().volume_of_delivery(key);
        let Some(first) = volume else { return Ok(None) };
        self.load_dirty(first)?;
        Ok(self.shared.ledger().delivery(key).copied())
    }

    /// Loads a volume's detail and keeps it in memory until the next checkpoint.
    fn load_dirty(&self, first: Seq) -> Result<(), StoreError> {
        loop {
            {
                let ledger = self.shared.ledger();
                if ledger.details.get(&first).is_some_and(|detail| detail.dirty) {
                    return Ok(());
                }
            }
            self.shared.with_detail(first, |_, _| ())?;
            // It may have been evicted again meanwhile.
            self.shared.ledger_mut().mark_dirty(first);
        }
    }

    /// Writes the batch and sends the replies.
    fn finish(&mut self, mut batch: CommitBatch) {
        let written = self.write_batch(&mut batch);
        if let Err(failure @ StoreError::Failed(_)) = &written {
            self.shared.fail(failure.clone());
        }
        for (accepted, reply) in batch.accepts {
            if let (Ok(()), Ok(accepted)) = (&written, &accepted) {
                let duplicates = accepted.iter().filter(|accepted| accepted.duplicate).count();
                self.shared.metrics.events_duplicate.inc_by(duplicates as u64);
            }
            drop(reply.send(written.clone().and(accepted)));
        }
        for reply in batch.settles {
            drop(reply.send(written.clone()));
        }
    }

    fn write_batch(&mut self, batch: &mut CommitBatch) -> Result<(), StoreError> {
        let registry_change = self.engine.last_change();
        if batch.entries.is_empty() && batch.outcomes.is_empty() && registry_change == self.noted_change {
            return Ok(());
        }
        let start = Instant::now();
        let record = CommitRecord {
            time: batch.time.0,
            steady_time: self.shared.clock.steady().0,
            first: batch.first.0,
            events: mem::take(&mut batch.entries),
            outcomes: mem::take(&mut batch.outcomes),
            attempts_len: u32::try_from(batch.attempts.len()).expect("a commit is below 4 GiB"),
            registry_change,
        };
        let len = record.encoded_len();
        let payload = self.log.begin();
        payload.extend(u32::try_from(len).expect("a commit is below 4 GiB").to_le_bytes());
        record.encode(payload).expect("a vector grows");
        payload.extend(&batch.attempts);
        batch.stored.iter().for_each(|fed| payload.extend_from_slice(&fed.event.content.encoded));
        let appended = self.log.appended();
        let payload = self.append(Kind::Commit)?;
        self.noted_change = registry_change;
        self.committed_bytes += self.log.appended() - appended;
        let metrics = &self.shared.metrics;
        metrics.committed(record.events.len(), record.outcomes.len(), start.elapsed());

        let mut ledger = self.shared.ledger_mut();
        for (entry, fed) in record.events.iter().zip(&batch.stored) {
            metrics.event_accepted(entry.event_type, fed.subscriptions.len());
        }
        let applied = apply::apply(&mut ledger, &record, payload, len, |before, state| {
            metrics.delivery_moved(before.is_some_and(EntryState::is_owed), state);
        });
        applied.expect("it was gathered for what is there, and nobody else writes");
        drop(ledger);
        self.publish_changes(batch, &record.outcomes);
        if !batch.stored.is_empty() {
            // Without a receiver nothing is lost: the ledger has the deliveries.
            drop(self.shared.feed.send(QueueEvent::Events(Arc::new(mem::take(&mut batch.stored)))));
        }
        Ok(())
    }

    fn publish_changes(&self, batch: &CommitBatch, outcomes: &[OutcomeRecord]) {
        let made = batch
            .stored
            .iter()
            .flat_map(|fed| fed.subscriptions.iter().map(|subscription| (fed.event.seq, *subscription)));
        let made = made.map(|(seq, subscription)| DeliveryChange {
            key: DeliveryKey { seq, subscription },
            state: DeliveryState::Pending,
            attempts: 0,
        });
        let settled = outcomes.iter().map(|outcome| DeliveryChange {
            key: outcome.key(),
            state: outcome.delivery_state().expect("it was made from a state"),
            attempts: outcome.attempts,
        });
        self.shared.changes.publish(batch.time, made.chain(settled));
    }
}

/// Bytes that a call takes of [`BYTES_WAITING_MAX`].
pub fn bytes_of(events: &[NewEvent]) -> usize {
    events.iter().map(|event| event.content.encoded.len()).sum()
}

fn accepted_of(entry: &EventEntry, id: EventId, create_time: UnixMicros, duplicate: bool) -> Accepted {
    let delivery_count =
        u32::try_from(entry.subscriptions.len()).expect("subscription keys end at SUBSCRIPTION_KEY_MAX");
    Accepted { id, create_time, duplicate, delivery_count }
}

fn high_half(fingerprint: u128) -> u64 {
    u64::try_from(fingerprint >> 64).expect("64 bits are left")
}

fn low_half(fingerprint: u128) -> u64 {
    u64::try_from(fingerprint & u128::from(u64::MAX)).expect("64 bits are left")
}
