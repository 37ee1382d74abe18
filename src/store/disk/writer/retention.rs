//! The steps of retention on the writing thread: see [`super::super::retention`].

use std::sync::Arc;

use super::{CommitBatch, Writer};
use crate::{
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState},
        ids::Seq,
    },
    event::StoredEvent,
    store::{
        QueueEvent, StoreError,
        disk::{
            index::volume::Volume,
            log::{Kind, RemovedFile, WriteError},
            records::{AttemptRecord, OutcomeRecord},
            shared::Step,
        },
    },
};

impl Writer {
    /// Makes the steps of retention that wait.
    pub(super) fn make_steps(&mut self) {
        while let Some(step) = self.next_step() {
            step(self);
        }
    }

    fn next_step(&self) -> Option<Step> {
        self.shared.steps().pop_front()
    }

    /// Removes expired signing secrets, and expired request ids, whose stored results contain secrets.
    pub fn forget_secrets(&mut self) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        let subscriptions = self.registry_tree.with_old_secrets(now);
        if subscriptions.is_empty() && !self.registry_tree.has_old_requests(now) {
            return Ok(());
        }
        // Not urgent: they stay while the disk is full.
        if matches!(self.registry_room(), Err(StoreError::Full)) {
            return Ok(());
        }
        let subscriptions =
            subscriptions.into_iter().filter_map(|subscription| self.shared.registry.by_key(subscription));
        let changed: Vec<_> =
            subscriptions.filter_map(|subscription| subscription.without_old_secrets(now)).collect();
        self.registry_tree.forget(&changed, now)?;
        changed.into_iter().for_each(|subscription| self.shared.registry.put(Arc::new(subscription)));
        Ok(())
    }

    /// Copies the owed events of a volume to the end of the log and forgets the rest. `read` has the events
    /// that were owed a moment ago, in order. Returns the number of removed events; `None` if others are owed
    /// by now, which must be read.
    pub fn relocate(&mut self, first: Seq, read: &[Arc<StoredEvent>]) -> Result<Option<u64>, StoreError> {
        let nothing_owed = {
            let ledger = self.shared.ledger();
            let Some(volume) = ledger.volume(first) else { return Ok(Some(0)) };
            volume.owes_nothing().then_some(volume.events)
        };
        if let Some(events) = nothing_owed {
            self.shared.ledger_mut().remove_volume(first);
            return Ok(Some(events.into()));
        }
        self.load_dirty(first)?;
        self.fail_damaged(read)?;
        let (seqs, mut kept, before) = {
            let ledger = self.shared.ledger();
            let (Some(volume), Some(detail)) = (ledger.volume(first), ledger.detail(first)) else {
                return Ok(Some(0));
            };
            let is_known = |subscription| ledger.has_subscription(subscription);
            let owed: Vec<usize> =
                (0..detail.len()).filter(|event| detail.is_owed(*event, is_known)).collect();
            let seqs: Vec<Seq> = owed.iter().map(|event| detail.seq(volume.first, *event)).collect();
            (seqs, detail.filtered(first, &owed, is_known), detail.len() as u64)
        };
        if seqs.is_empty() {
            self.shared.ledger_mut().remove_volume(first);
            return Ok(Some(before));
        }
        let mut ends = Vec::with_capacity(seqs.len());
        let payload = self.log.begin();
        let start = payload.len();
        for seq in seqs {
            let Ok(event) = read.binary_search_by_key(&seq, |event| event.seq) else { return Ok(None) };
            ends.push(payload.len() - start);
            payload.extend_from_slice(&read[event].content.encoded);
        }
        let payload = self.append(Kind::Relocated)?;
        for (event, end) in kept.events.iter_mut().zip(ends) {
            event.pos = payload.plus(end);
        }
        let gone = before - kept.len() as u64;
        let mut ledger = self.shared.ledger_mut();
        // Its events are no longer the last of their file: it takes no more.
        ledger.is_open &= ledger.volumes.back().is_some_and(|last| last.first != first);
        ledger.replace_detail(first, kept);
        Ok(Some(gone))
    }

    /// Settles the owed deliveries of damaged events as failed. Their volume's detail is in memory.
    fn fail_damaged(&mut self, events: &[Arc<StoredEvent>]) -> Result<(), StoreError> {
        let now = self.shared.clock.now();
        let attempt = Attempt::of_damaged_event(now);
        let mut batch = CommitBatch { time: now, ..CommitBatch::default() };
        for event in events.iter().filter(|event| event.damage.is_some()) {
            let ledger = self.shared.ledger();
            let Some(volume) = ledger.volume_of(event.seq) else { continue };
            let Some(detail) = ledger.detail(volume.first) else { continue };
            let Some(position) = detail.event_at(volume.first, event.seq) else { continue };
            for (key, entry) in detail.deliveries_of(volume.first, position) {
                if entry.state.is_owed() && ledger.has_subscription(entry.subscription) {
                    let record = AttemptRecord { before: entry.last.raw(), ..AttemptRecord::from(&attempt) };
                    batch.settle(key, DeliveryState::Failed, entry.attempts + 1, Some(&record));
                    self.shared.metrics.attempt_ended(event, &attempt, entry.attempts == 0);
                }
            }
        }
        let keys: Vec<DeliveryKey> = batch.outcomes.iter().map(OutcomeRecord::key).collect();
        self.write_batch(&mut batch)?;
        // Lanes drop them.
        keys.into_iter().for_each(|key| drop(self.shared.feed.send(QueueEvent::Cancelled(key))));
        Ok(())
    }

    /// Has the index and the state of a volume written again by the next checkpoint, or before.
    pub fn move_index(&mut self, first: Seq) -> Result<(), StoreError> {
        self.load_dirty(first)?;
        if let Some(volume) = self.shared.ledger_mut().volume_mut(first) {
            (volume.index, volume.state) = (None, None);
        }
        Ok(())
    }

    /// Forgets a volume whose detail is damaged. Returns the number of its events.
    pub fn drop_volume(&mut self, first: Seq) -> u64 {
        let (events, owed) = {
            let ledger = self.shared.ledger();
            let Some(volume) = ledger.volume(first) else { return 0 };
            let owed = volume.owed();
            (volume.events, owed.pending + owed.retrying)
        };
        tracing::error!(
            events,
            deliveries.unfinished = owed,
            "retention removed events whose index is damaged, with their unfinished deliveries",
        );
        self.shared.metrics.deliveries_dropped.inc_by(owed);
        self.shared.ledger_mut().remove_volume(first);
        events.into()
    }

    /// Removes log files that nothing is in any more. Returns those that are still to be deleted.
    pub fn remove_files(&mut self, mut files: Vec<u32>) -> Result<Vec<RemovedFile>, StoreError> {
        {
            let mut ledger = self.shared.ledger_mut();
            files.retain(|file| {
                let needs = |volume: &Volume| volume.file == *file || volume.is_stored_in(&[*file]);
                !ledger.volumes.iter().any(needs)
            });
            ledger.file_times.retain(|file, _| !files.contains(file));
        }
        if files.is_empty() {
            return Ok(Vec::new());
        }
        self.log.forget(&files);
        self.checkpoint()?;
        Ok(self.log.remove(files).map_err(WriteError::from)?)
    }
}
