//! What the writing thread does one at a time: changes of the registry, decisions of callers, retention.

use std::sync::Arc;

use rand::RngExt;

use super::{Answer, Group, Write, Writer, failed};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{LaneId, Seq},
        subscription::Subscription,
    },
    store::{
        Change, Created, Decision, Fed, Keep, NewSubscription, Purged, StoreError, registry,
        sled::{
            records::{self, AttemptRecord, OutcomeRecord},
            values::ReadError,
        },
    },
};

impl Writer {
    /// What is rare, in a commit of its own. False if the thread shall end.
    pub(super) fn write_alone(&mut self, write: Write) -> bool {
        match write {
            Write::Decide(key, decision, answer) => {
                let result = self.decide(key, decision);
                self.answer(answer, result);
            }
            Write::Purge(keep, answer) => {
                let result = self.purge(keep);
                self.answer(answer, result);
            }
            Write::Create(new, answer) => {
                let result = self.create(*new);
                self.answer(answer, result);
            }
            Write::Update(lane, version, change, answer) => {
                let result = self.update(lane, version, change);
                self.answer(answer, result);
            }
            Write::Delete(lane, version, force, answer) => {
                let result = self.delete(lane, version, force);
                self.answer(answer, result);
            }
            Write::Stop(answer) => {
                let result = if self.failure.is_none() { self.sync() } else { Ok(()) };
                self.answer(answer, result);
                return false;
            }
            Write::Accept(..) | Write::Settle(..) => unreachable!("these are gathered"),
        }
        true
    }

    fn answer<T>(&mut self, answer: Answer<T>, result: Result<T, StoreError>) {
        if let Err(failure @ StoreError::Failed(_)) = &result {
            self.fail(failure.clone());
        }
        drop(answer.send(result));
    }

    fn decide(&mut self, key: DeliveryKey, decision: Decision) -> Result<DeliveryState, StoreError> {
        self.working()?;
        let before = self.shared.ledger().state(key).ok_or(StoreError::DeliveryNotFound)?;
        let now = self.shared.clock.now();
        let Some(state) = decision.apply(before, now)? else { return Ok(before) };
        let made = self.attempts_made(key)?;
        let outcome = OutcomeRecord { decided: true, ..OutcomeRecord::new(key, state, made) };
        let settlements = vec![(outcome, AttemptRecord::default())];
        self.write_group(&mut Group { settlements, time: now, ..Group::default() })?;
        if let Some(fed) = Fed::decided(key, state) {
            drop(self.shared.feed.send(fed));
        }
        Ok(state)
    }

    /// Drops whole volumes that owe nothing. The last one takes events and stays.
    fn purge(&mut self, keep: Keep) -> Result<Purged, StoreError> {
        self.working()?;
        let (candidates, mut bytes_left) = {
            let ledger = self.shared.ledger();
            let volumes = ledger.volumes.iter().take(ledger.volumes.len().saturating_sub(1));
            let over = volumes.filter(|volume| volume.owed().is_none());
            let candidates: Vec<_> =
                over.map(|volume| (volume.first, volume.end(), volume.bytes, volume.last_time())).collect();
            (candidates, ledger.bytes())
        };
        let mut events = 0;
        for (first, end, bytes, last_time) in candidates {
            let is_old = last_time.is_none_or(|time| time < keep.since);
            if is_old || bytes_left > keep.bytes_max {
                self.drop_volume(first, end)?;
                events += end.0 - first.0;
                bytes_left -= bytes;
            }
        }
        if events > 0 {
            self.sync()?;
        }
        Ok(Purged { events, bytes_left })
    }

    /// Notes that a volume is removed, then removes it: an opening in between finishes the work.
    fn drop_volume(&mut self, first: Seq, end: Seq) -> Result<(), StoreError> {
        let (tree, segments, next_journal) = {
            let ledger = self.shared.ledger();
            let volume = ledger.volume_of(first).expect("nobody else removes volumes");
            (volume.tree.clone(), volume.segments.clone(), ledger.next_journal)
        };
        let mut given = Vec::new();
        for segment in segments {
            let entries = tree.index(segment.first)?.events;
            for (entry, seq) in entries.into_iter().zip(segment.first.0..).filter(|(entry, _)| entry.id_given)
            {
                let id = entry.id.parse().map_err(|e| StoreError::Failed(format!("event id: {e}")))?;
                let account = records::account(&entry).map_err(ReadError::from)?;
                given.push((account, id, Seq(seq)));
            }
        }
        self.registry_tree.note_purged(&mut self.purged, first, end, next_journal)?;
        self.shared.ledger_mut().remove_volume(first, given);
        tree.drop_from(&self.db).map_err(failed)
    }

    fn create(&mut self, new: NewSubscription) -> Result<Created, StoreError> {
        self.working()?;
        let account = new.name.account;
        let now = self.shared.clock.now();
        if let Some(request) = &new.request
            && let Some((fingerprint, subscription)) = self.registry_tree.request(account, request.id, now)?
        {
            let subscription = Arc::new(subscription);
            return if fingerprint == request.fingerprint {
                Ok(Created { subscription, repeated: true })
            } else {
                Err(StoreError::RequestIdReused)
            };
        }
        registry::check_free(&self.shared.registry, &new.name, &new.settings.url, None)?;
        let lane = self.registry_tree.next_lane()?;
        let uid = uuid::Builder::from_random_bytes(self.random.random()).into_uuid();
        let request = new.request.clone();
        let subscription = Arc::new(new.into_subscription(lane, uid, now));
        self.registry_tree.create(&subscription, request.as_ref(), now)?;
        self.sync()?;
        self.shared.ledger_mut().add_lane(lane);
        self.shared.registry.put(Arc::clone(&subscription));
        Ok(Created { subscription, repeated: false })
    }

    fn update(
        &mut self,
        lane: LaneId,
        version: u64,
        change: Change,
    ) -> Result<Arc<Subscription>, StoreError> {
        self.working()?;
        let current = registry::check_version(&self.shared.registry, lane, version)?;
        let changed = Arc::new(change.apply(&current, self.shared.clock.now()));
        registry::check_free(&self.shared.registry, &changed.name, &changed.settings.url, Some(lane))?;
        self.registry_tree.put(&changed)?;
        self.sync()?;
        self.shared.registry.put(Arc::clone(&changed));
        Ok(changed)
    }

    fn delete(&mut self, lane: LaneId, version: u64, force: bool) -> Result<(), StoreError> {
        self.working()?;
        registry::check_version(&self.shared.registry, lane, version)?;
        let owed = self.shared.ledger().summary(lane).owed();
        if owed > 0 && !force {
            return Err(StoreError::Owed(owed));
        }
        self.registry_tree.remove(lane)?;
        self.sync()?;
        {
            // Whoever looks sees both or neither.
            let mut ledger = self.shared.ledger_mut();
            ledger.remove_lane(lane);
            self.shared.metrics.deliveries_dropped.inc_by(owed);
        }
        self.shared.registry.remove(lane);
        Ok(())
    }

    fn working(&self) -> Result<(), StoreError> {
        self.failure.clone().map_or(Ok(()), Err)
    }
}
