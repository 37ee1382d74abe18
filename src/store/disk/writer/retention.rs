//! Retention: removes whole log files, the oldest first. Owed events of a removed file are copied to the end
//! of the log.

use std::sync::Arc;

use super::Writer;
use crate::{
    domain::ids::Seq,
    store::{
        Purged, RetentionLimit, StoreError,
        disk::{
            index::volume_detail::EventMeta,
            log::{Kind, ReadError, WriteError, checksum, damaged},
            read::fetch::EventRef,
        },
    },
};

/// Per cent of a file's events that may be owed for the file to be removed: copying more would gain little.
const OWED_HUNDREDTHS_MAX: u64 = 75;

impl Writer {
    pub(super) fn purge(&mut self, keep: RetentionLimit) -> Result<Purged, StoreError> {
        self.working()?;
        self.forget_secrets()?;
        let mut events = 0;
        loop {
            let (files, before) = (self.files_to_remove(keep), self.log.bytes());
            if !files.is_empty() {
                events += self.remove_files(files)?;
            }
            // Copies take room themselves: look again, unless they took all that was freed. The same owed
            // events would be copied for ever.
            let bytes_left = self.log.bytes();
            if bytes_left >= before {
                return Ok(Purged { events, bytes_left });
            }
        }
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

    /// Removes log files with everything in them that is not owed. Returns the number of removed events.
    fn remove_files(&mut self, files: Vec<u32>) -> Result<u64, StoreError> {
        let mut events = 0;
        // Copies form volumes of their own: no volume takes events any more.
        self.shared.ledger_mut().is_open = false;
        let (within, described): (Vec<Seq>, Vec<Seq>) = {
            let ledger = self.shared.ledger();
            let within = ledger.volumes.iter().filter(|volume| files.contains(&volume.file));
            let described = ledger
                .volumes
                .iter()
                .filter(|volume| !files.contains(&volume.file) && volume.is_stored_in(&files));
            (within.map(|volume| volume.first).collect(), described.map(|volume| volume.first).collect())
        };
        for first in within {
            events += self.relocate_owed(first)?;
        }
        for first in described {
            self.load_dirty(first)?;
            if let Some(volume) = self.shared.ledger_mut().volume_mut(first) {
                (volume.index, volume.state) = (None, None);
            }
        }
        self.shared.ledger_mut().file_times.retain(|file, _| !files.contains(file));
        self.log.forget(&files);
        self.checkpoint()?;
        self.log.remove(files).map_err(WriteError::from)?;
        Ok(events)
    }

    fn files_to_remove(&self, keep: RetentionLimit) -> Vec<u32> {
        let ledger = self.shared.ledger();
        let mut left = self.log.bytes();
        let mut files = Vec::new();
        for (file, bytes) in self.log.full_files() {
            let is_old = ledger.file_times.get(&file).is_none_or(|time| *time < keep.since);
            if !is_old && left <= keep.bytes_max {
                continue;
            }
            let volumes = ledger.volumes.iter().filter(|volume| volume.file == file);
            let (mut events, mut owed) = (0, 0);
            for volume in volumes {
                let of_volume = volume.owed();
                events += u64::from(volume.events);
                // An event that is owed to several subscriptions is copied once.
                owed += (of_volume.pending + of_volume.retrying).min(u64::from(volume.events));
            }
            if owed * 100 <= events * OWED_HUNDREDTHS_MAX {
                files.push(file);
                left -= bytes;
            }
        }
        files
    }

    /// Copies the owed events of a volume and forgets the rest. Returns the number of removed events.
    fn relocate_owed(&mut self, first: Seq) -> Result<u64, StoreError> {
        self.load_dirty(first)?;
        let (found, mut kept, before) = {
            let ledger = self.shared.ledger();
            let (Some(volume), Some(detail)) = (ledger.volume(first), ledger.detail(first)) else {
                return Ok(0);
            };
            let owed: Vec<usize> = (0..detail.len())
                .filter(|event| detail.is_owed(*event, |subscription| ledger.has_subscription(subscription)))
                .collect();
            let found: Vec<EventRef> =
                owed.iter().map(|event| EventRef::new(volume, detail, *event)).collect();
            (
                found,
                detail.filtered(first, &owed, |subscription| ledger.has_subscription(subscription)),
                detail.len() as u64,
            )
        };
        if found.is_empty() {
            self.shared.ledger_mut().remove_volume(first);
            return Ok(before);
        }
        let mut ends = Vec::with_capacity(found.len());
        let reader = self.log.reader().clone();
        let payload = self.log.begin();
        let start = payload.len();
        for EventMeta { pos, len, checksum: expected, .. } in found.iter().map(|found| &found.meta) {
            ends.push(payload.len() - start);
            let bytes = reader.read(*pos, *len as usize)?;
            if checksum(&bytes) != *expected {
                return Err(ReadError::from(damaged(*pos)).into());
            }
            payload.extend(bytes);
        }
        let payload = self.append(Kind::Relocated)?;
        for (event, end) in kept.events.iter_mut().zip(ends) {
            event.pos = payload.plus(end);
        }
        let gone = before - kept.len() as u64;
        self.shared.ledger_mut().replace_detail(first, kept);
        Ok(gone)
    }
}
