//! Reads details of volumes, encodings of events and attempts from the log. The ledger is never locked during
//! a read from disk.

use std::{ops::ControlFlow, sync::Arc};

use bytes::Bytes;
use prost::Message;
use url::Url;

use crate::{
    domain::{
        delivery::Attempt,
        ids::{AccountId, EventName, Seq, SubscriptionKey},
    },
    event::{EventContent, StoredEvent},
    store::disk::{
        index::{
            volume::{Stored, Volume},
            volume_codec,
            volume_detail::{EventMeta, VolumeDetail},
        },
        log::{LogPosition, LogReader, LogSlice, ReadError, checksum},
        records::{AttemptRecord, RecordError},
        shared::Shared,
    },
};

/// Neighbouring encodings are read together, up to this many bytes.
const READ_BYTES: usize = 256 * 1024;
/// Tries to read data that is moved again and again.
const TRIES_MAX: usize = 10;
/// Head of an attempt: its length and checksum.
pub const ATTEMPT_HEAD: usize = 8;
/// Bytes of an attempt at most: response body, error and URL are far shorter.
const ATTEMPT_BYTES_MAX: u32 = 1024 * 1024;

/// A reference to a stored event.
#[derive(Clone, Debug)]
pub struct EventRef {
    /// Its sequence number.
    pub seq: Seq,
    /// Its entry in the index.
    pub meta: EventMeta,
}

impl EventRef {
    /// An event of a volume.
    pub fn new(volume: &Volume, detail: &VolumeDetail, event: usize) -> Self {
        Self { seq: detail.seq(volume.first, event), meta: detail.events[event].clone() }
    }
}

/// The order of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanOrder {
    /// The oldest volume first.
    OldestFirst,
    /// The newest volume first.
    NewestFirst,
}

impl Shared {
    /// Calls `visit` with each matching volume and its detail until it breaks off. Details that are not in
    /// memory are read. A volume whose detail is damaged is left out; the log and a metric say so.
    pub fn scan_volumes(
        &self,
        way: ScanOrder,
        wanted: impl Fn(&Volume) -> bool,
        mut visit: impl FnMut(&Volume, &VolumeDetail) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        let mut passed: Option<Seq> = None;
        let mut tries = 0;
        loop {
            let missing = {
                let ledger = self.ledger();
                let (mut up, mut down);
                let volumes: &mut dyn Iterator<Item = &Volume> = match way {
                    ScanOrder::OldestFirst => {
                        let from =
                            passed.map_or(0, |passed| ledger.volumes.partition_point(|v| v.first <= passed));
                        up = ledger.volumes.range(from..);
                        &mut up
                    }
                    ScanOrder::NewestFirst => {
                        let until = passed.map_or(ledger.volumes.len(), |passed| {
                            ledger.volumes.partition_point(|v| v.first < passed)
                        });
                        down = ledger.volumes.range(..until).rev();
                        &mut down
                    }
                };
                let mut missing = None;
                for volume in volumes {
                    if wanted(volume) {
                        let Some(detail) = ledger.detail(volume.first) else {
                            missing = Some((volume.first, volume.stored()));
                            break;
                        };
                        if visit(volume, detail).is_break() {
                            return Ok(());
                        }
                    }
                    passed = Some(volume.first);
                    tries = 0;
                }
                missing
            };
            let Some((first, stored)) = missing else { return Ok(()) };
            match self.try_fetch(first, stored, &mut tries) {
                Err(ReadError::Damaged(_)) => passed = Some(first),
                fetched => fetched?,
            }
        }
    }

    /// Calls `look` with a volume and its detail, which is read if necessary; `None` if the volume does not
    /// exist.
    pub fn with_detail<T>(
        &self,
        first: Seq,
        mut look: impl FnMut(&Volume, &VolumeDetail) -> T,
    ) -> Result<Option<T>, ReadError> {
        let mut tries = 0;
        loop {
            let stored = {
                let ledger = self.ledger();
                let Some(volume) = ledger.volume(first) else { return Ok(None) };
                if let Some(detail) = ledger.detail(first) {
                    return Ok(Some(look(volume, detail)));
                }
                volume.stored()
            };
            self.try_fetch(first, stored, &mut tries)?;
        }
    }

    /// Reads a detail into memory.
    fn try_fetch(&self, first: Seq, stored: Option<Stored>, tries: &mut usize) -> Result<(), ReadError> {
        let stored = stored.expect("a volume that is not stored is in memory");
        *tries += 1;
        self.metrics.volumes_read.inc();
        match read_detail(&self.log, stored) {
            Ok(detail) => self.ledger_mut().cache_detail(first, stored, detail),
            // It was moved meanwhile: the ledger has its new position.
            Err(ReadError::Gone) if *tries < TRIES_MAX => {}
            Err(ReadError::Damaged(pos)) => {
                self.note_damaged_volume(pos, first);
                return Err(ReadError::Damaged(pos));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Loads events, in their order. Cached ones are not read. An event whose content the disk has lost is
    /// marked as damaged.
    pub fn load(&self, found: &[EventRef]) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let mut events: Vec<Option<Arc<StoredEvent>>> = {
            let cache = self.event_cache();
            found.iter().map(|found| cache.get(found.seq)).collect()
        };
        let missing = found.iter().zip(&events).filter(|(_, event)| event.is_none());
        let missing: Vec<&EventRef> = missing.map(|(found, _)| found).collect();
        let read = self.read_events(&missing)?;
        let mut cache = self.event_cache();
        let places = events.iter_mut().filter(|event| event.is_none());
        places.zip(read).for_each(|(position, event)| *position = Some(cache.intern(event)));
        Ok(events.into_iter().flatten().collect())
    }

    fn read_events(&self, found: &[&EventRef]) -> Result<Vec<StoredEvent>, ReadError> {
        let mut events = Vec::with_capacity(found.len());
        let mut rest = found;
        while let Some(first) = rest.first() {
            let coalesce = coalesce(rest);
            let last = &rest[coalesce - 1].meta;
            let len =
                usize::try_from(last.pos.raw() - first.meta.pos.raw()).expect("it is READ_BYTES at most");
            let bytes = match self.log.read(first.meta.pos, len + last.len as usize) {
                // Some of them may be whole: each is read by itself.
                Err(ReadError::Damaged(_)) => None,
                read => Some(read?),
            };
            for found in &rest[..coalesce] {
                let meta = &found.meta;
                let from =
                    usize::try_from(meta.pos.raw() - first.meta.pos.raw()).expect("they follow one another");
                let event = match &bytes {
                    Some(bytes) => event_of(found, &bytes[from..from + meta.len as usize]),
                    None => {
                        self.log.read(meta.pos, meta.len as usize).and_then(|bytes| event_of(found, &bytes))
                    }
                };
                events.push(match event {
                    Err(ReadError::Damaged(_)) => self.damaged_event(found)?,
                    event => event?,
                });
            }
            rest = &rest[coalesce..];
        }
        Ok(events)
    }

    fn damaged_event(&self, found: &EventRef) -> Result<StoredEvent, ReadError> {
        let EventRef { seq, meta } = found;
        let (name, damage) = (name_of(meta)?, self.note_damaged_event(found));
        Ok(StoredEvent::damaged(*seq, meta.time, meta.event_type(), meta.tag, name, damage))
    }

    /// The latest attempts of a delivery, at most `limit`, the newest last. Older ones may be gone. In place
    /// of one whose record is damaged, and of all before it, is one with [`Outcome::Damaged`].
    pub fn read_attempts(
        &self,
        found: &EventRef,
        subscription: SubscriptionKey,
        last: LogPosition,
        limit: usize,
    ) -> Result<Vec<Attempt>, ReadError> {
        let (mut attempts, mut pos) = (Vec::new(), last);
        let current = self.registry.by_key(subscription);
        let url = current.as_ref().map(|subscription| &subscription.settings.url);
        while pos != LogPosition::default() && attempts.len() < limit {
            match read_attempt(&self.log, pos, url) {
                Ok((attempt, before)) => {
                    attempts.push(attempt);
                    pos = before;
                }
                Err(ReadError::Gone) => break,
                Err(ReadError::Damaged(_)) => {
                    self.note_damaged_attempt(pos, found, subscription);
                    attempts.push(Attempt::of_damaged_record());
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        attempts.reverse();
        Ok(attempts)
    }
}

/// The number of events at the start that are close together in one file.
fn coalesce(found: &[&EventRef]) -> usize {
    let start = found[0].meta.pos;
    let follows = |pair: &[&EventRef]| {
        let (one, next) = (&pair[0].meta, &pair[1].meta);
        let end = one.pos.plus(one.len as usize);
        let is_close = next.pos >= end && next.pos.raw() - end.raw() <= u64::from(one.len);
        next.pos.file() == start.file()
            && is_close
            && next.pos.raw() + u64::from(next.len) - start.raw() <= READ_BYTES as u64
    };
    1 + found.windows(2).take_while(|pair| follows(pair)).count()
}

/// The event whose encoding was read.
fn event_of(found: &EventRef, encoded: &[u8]) -> Result<StoredEvent, ReadError> {
    let EventRef { seq, meta } = found;
    if checksum(encoded) != meta.checksum {
        return Err(ReadError::Damaged(meta.pos));
    }
    // Copied, so that it does not keep the whole read buffer alive.
    let content = EventContent::new(meta.event_type(), meta.tag, Bytes::copy_from_slice(encoded));
    Ok(StoredEvent::new(*seq, name_of(meta)?, meta.time, content))
}

fn name_of(meta: &EventMeta) -> Result<EventName, RecordError> {
    let id = meta.id.parse().map_err(|error| RecordError(format!("event id: {error}")))?;
    let account =
        AccountId::stored(meta.account).map_err(|error| RecordError(format!("account: {error}")))?;
    Ok(EventName { account, id })
}

/// A volume's detail, from the disk.
pub fn read_detail(log: &LogReader, stored: Stored) -> Result<VolumeDetail, ReadError> {
    let (index, state) = (log.read_slice(stored.index.events)?, log.read_slice(stored.state)?);
    Ok(volume_codec::decode(&index, &state)?)
}

/// The attempt at a position, and the position of the one before. `url` is the one of the subscription now: of
/// another one the log has the origin.
pub fn read_attempt(
    log: &LogReader,
    pos: LogPosition,
    url: Option<&Url>,
) -> Result<(Attempt, LogPosition), ReadError> {
    let head = log.read(pos, ATTEMPT_HEAD)?;
    let number = |from: usize| u32::from_le_bytes(head[from..from + 4].try_into().expect("four bytes"));
    let slice = LogSlice { pos: pos.plus(ATTEMPT_HEAD), len: number(0), checksum: number(4) };
    if slice.len > ATTEMPT_BYTES_MAX {
        return Err(ReadError::Damaged(pos));
    }
    let record = AttemptRecord::decode(&*log.read_slice(slice)?).map_err(RecordError::from)?;
    let before = LogPosition::from_raw(record.before);
    Ok((record.with_url_of(url).try_into()?, before))
}
