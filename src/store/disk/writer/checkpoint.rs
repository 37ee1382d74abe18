//! Checkpoints: writes the index to the log and its positions to the manifest, so that a start need not
//! replay the log before them.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use prost::Message;

use super::Writer;
use crate::{
    domain::ids::Seq,
    store::{
        StoreError,
        disk::{
            index::{
                manifest::Manifest,
                volume::IndexSlices,
                volume_codec::{encode_index, encode_state},
            },
            log::{Kind, LogPosition, LogSlice, WriteError, checksum},
        },
    },
};

/// Bytes after which an index record is closed.
const RECORD_BYTES: usize = 1024 * 1024;

/// A slice of the record under construction.
#[derive(Clone, Copy)]
struct Part {
    from: usize,
    len: usize,
    checksum: u32,
}

impl Part {
    fn at(self, payload: LogPosition) -> LogSlice {
        LogSlice {
            pos: payload.plus(self.from),
            len: u32::try_from(self.len).expect("a record is below 4 GiB"),
            checksum: self.checksum,
        }
    }
}

impl Writer {
    /// Work between commits: writes full volumes, and makes a checkpoint when the log has
    /// begun a file or when too many details are in memory only. On a full disk, or without a free file
    /// descriptor, both wait; only the next start takes longer.
    pub(super) fn maintain(&mut self) {
        if self.working().is_err() {
            return;
        }
        let (full, memory) = {
            let ledger = self.shared.ledger();
            let ended = ledger.volumes.iter().rev().skip(usize::from(ledger.is_open));
            let full = ended.take_while(|volume| volume.index.is_none()).map(|volume| volume.first);
            (full.collect::<Arc<[Seq]>>(), ledger.dirty_memory())
        };
        let is_due = self.log.end().file() != self.checkpoint_file || memory > self.dirty_memory_max;
        let done = if is_due { self.checkpoint() } else { self.write_full(&full) };
        match done {
            Ok(()) => {}
            Err(error) if error.is_lack() => {
                if is_due {
                    self.checkpoint_file = self.log.end().file();
                }
            }
            Err(error) => self.shared.fail(error),
        }
    }

    /// Makes a checkpoint: the next start replays the log from here.
    pub(super) fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.shared.ledger_mut().is_open = false;
        self.write_indexes()?;
        self.write_states()?;
        let ledger = self.shared.ledger();
        let manifest = Manifest {
            store: self.registry_tree.store(),
            pos: self.log.end(),
            number: self.log.next_number(),
            next_seq: ledger.next_seq,
            last_time: ledger.last_time,
            last_steady: ledger.last_steady,
            used: self.log.used().clone(),
            file_times: ledger.file_times.clone(),
            registry_change: self.engine.last_change(),
            volumes: Vec::new(),
        };
        Manifest::write(&self.ledger_dir, &manifest, ledger.volumes.iter()).map_err(WriteError::from)?;
        drop(ledger);
        self.checkpoint_file = self.log.end().file();
        Ok(())
    }

    /// Writes the indexes of volumes that are full, and their states: most are final by now, or wait for long, and the
    /// next checkpoint, which commits wait for, has the less to write.
    fn write_full(&mut self, full: &Arc<[Seq]>) -> Result<(), StoreError> {
        while !full.is_empty() && self.write_some_indexes(Some(full))? {}
        while !full.is_empty() && self.write_some_states(Some(full))? {}
        Ok(())
    }

    /// Writes the indexes of volumes that take no more events.
    fn write_indexes(&mut self) -> Result<(), StoreError> {
        while self.write_some_indexes(None)? {}
        Ok(())
    }

    /// Writes the states that changed since the last checkpoint.
    fn write_states(&mut self) -> Result<(), StoreError> {
        while self.write_some_states(None)? {}
        Ok(())
    }

    /// Writes a record of indexes that are not written yet. Returns whether there were any; with `only`, of
    /// these volumes.
    pub fn write_some_indexes(&mut self, only: Option<&Arc<[Seq]>>) -> Result<bool, StoreError> {
        let mut parts: BTreeMap<Seq, (Part, Part)> = BTreeMap::new();
        let payload = self.log.begin();
        let start = payload.len();
        {
            let ledger = self.shared.ledger();
            let open = ledger.volumes.back().filter(|_| ledger.is_open).map(|volume| volume.first);
            let all = ledger.volumes.iter().filter(|volume| {
                let is_wanted = only.is_none_or(|only| only.contains(&volume.first));
                is_wanted && volume.index.is_none() && Some(volume.first) != open
            });
            for volume in all {
                let detail = &ledger.details[&volume.first];
                let (index, hashes) = encode_index(detail);
                let events = put(payload, start, &index.encode_to_vec());
                parts.insert(volume.first, (events, put(payload, start, &hashes)));
                if payload.len() >= RECORD_BYTES {
                    break;
                }
            }
        }
        if parts.is_empty() {
            return Ok(false);
        }
        let payload = self.append(Kind::Index)?;
        let mut ledger = self.shared.ledger_mut();
        for (first, (events, ids)) in parts {
            if let Some(volume) = ledger.volume_mut(first) {
                volume.index = Some(IndexSlices { events: events.at(payload), ids: ids.at(payload) });
            }
        }
        Ok(true)
    }

    /// Writes a record of states that changed since they were last written, of volumes whose index is
    /// written. Returns whether there were any; with `only`, of these volumes.
    pub fn write_some_states(&mut self, only: Option<&Arc<[Seq]>>) -> Result<bool, StoreError> {
        let mut parts: BTreeMap<Seq, Part> = BTreeMap::new();
        let payload = self.log.begin();
        let start = payload.len();
        {
            let ledger = self.shared.ledger();
            let changed = ledger.details.iter().filter(|(first, detail)| {
                // The detail of a volume without an index must stay in memory.
                let has_index = || ledger.volume(**first).is_some_and(|volume| volume.index.is_some());
                detail.dirty && only.is_none_or(|only| only.contains(first)) && has_index()
            });
            for (first, detail) in changed {
                parts.insert(*first, put(payload, start, &encode_state(detail).encode_to_vec()));
                if payload.len() >= RECORD_BYTES {
                    break;
                }
            }
        }
        if parts.is_empty() {
            return Ok(false);
        }
        let payload = self.append(Kind::State)?;
        let mut ledger = self.shared.ledger_mut();
        for (first, state) in parts {
            if let Some(volume) = ledger.volume_mut(first) {
                volume.state = Some(state.at(payload));
            }
            if let Some(detail) = ledger.details.get_mut(&first) {
                detail.dirty = false;
            }
            ledger.evict(first);
        }
        Ok(true)
    }

    /// Appends the record under construction and makes it durable.
    pub(super) fn append(&mut self, kind: Kind) -> Result<LogPosition, StoreError> {
        let pos = self.log.append(kind)?;
        let start = Instant::now();
        self.log.sync()?;
        self.engine.note_next_record(self.log.next_number());
        self.shared.metrics.sync_seconds.observe(start.elapsed().as_secs_f64());
        Ok(pos)
    }
}

fn put(payload: &mut Vec<u8>, start: usize, bytes: &[u8]) -> Part {
    let part = Part { from: payload.len() - start, len: bytes.len(), checksum: checksum(bytes) };
    payload.extend(bytes);
    part
}
