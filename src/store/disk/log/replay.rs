//! Replays the log from a position to its end.

use super::{
    LogPosition, LogReader, ReadError,
    frame::{ALIGN, HEAD_BYTES, Head, Kind, MAGIC, padded, record_checksum},
};
use crate::store::disk::records::RecordError;

/// Bytes per read of the search for later records.
const LOOK_BYTES: usize = 1024 * 1024;

/// A record that a replay met.
#[derive(Debug)]
pub struct Record {
    /// Its kind.
    pub kind: Kind,
    /// Position of its payload.
    pub pos: LogPosition,
    /// Its payload. If it is damaged, only what a start needs of it is as it was written.
    pub payload: Vec<u8>,
    /// Whether something in it is damaged that has a checksum of its own.
    pub is_damaged: bool,
    /// Position of the next record, unless that begins a file.
    pub end: LogPosition,
    /// The number of the next record.
    pub next_number: u64,
}

/// The end of the log.
#[derive(Debug)]
pub struct Replayed {
    /// Position of the next record.
    pub pos: LogPosition,
    /// Its number.
    pub number: u64,
    /// The end of each file that was read.
    pub ends: Vec<LogPosition>,
}

/// Calls `each` with every record from `pos` on. The first one has the number `number`. Records below the number `synced` are
/// known to have been durable.
///
/// Damage in bodies, attempts and indexes is passed over. Errors if any other damaged record is followed by an intact one: a
/// crash tears the last one only.
pub fn replay(
    reader: &LogReader,
    pos: LogPosition,
    number: u64,
    synced: u64,
    mut each: impl FnMut(Record) -> Result<(), ReadError>,
) -> Result<Replayed, ReadError> {
    let mut end = Replayed { pos, number, ends: Vec::new() };
    loop {
        if let Some(found) = record_at(reader, end.pos)?.filter(|found| found.head.number == end.number) {
            if !found.is_whole && end.number >= synced && !is_followed(reader, &found, end.pos)? {
                // A crash may have torn it.
                end.ends.push(end.pos);
                return Ok(end);
            }
            let record = found.into_record(end.pos);
            (end.pos, end.number) = (record.end, record.next_number);
            each(record)?;
            continue;
        }
        match next_file(reader, end.pos.file())? {
            Some((follows, next)) if follows == end.number => {
                end.ends.push(end.pos);
                end.pos = next;
            }
            Some((follows, _)) if follows > end.number => return Err(lost(end.pos, end.number)),
            _ => break,
        }
    }
    if find_gap(reader, end.pos, end.number)?.is_some() {
        return Err(lost(end.pos, end.number));
    }
    end.ends.push(end.pos);
    Ok(end)
}

/// The number of the first record of the next file that begins with one, and its position. If records are missing in between,
/// the numbers show it.
fn next_file(reader: &LogReader, file: u32) -> Result<Option<(u64, LogPosition)>, ReadError> {
    for next in reader.files_after(file) {
        if let Some(number) = number_at(reader, next)? {
            return Ok(Some((number, next)));
        }
    }
    Ok(None)
}

/// Whether a later record is there. A record is written only after the one before is durable: then a crash did not tear this one.
fn is_followed(reader: &LogReader, found: &Found, pos: LogPosition) -> Result<bool, ReadError> {
    Ok(find_gap(reader, found.end(pos), found.head.number + 1)?.is_some())
}

/// Damaged records, between a whole one and a later one.
#[derive(Clone, Copy, Debug)]
pub struct Gap {
    /// Position of the first of them.
    pub pos: LogPosition,
    /// Its number.
    pub number: u64,
    /// Position of the whole record after them; in a later file if they end this one.
    pub next: LogPosition,
    /// Its number.
    pub next_number: u64,
}

/// The damaged records at a position where a replay ended, if a whole one comes after them.
pub fn find_gap(reader: &LogReader, end: LogPosition, number: u64) -> Result<Option<Gap>, ReadError> {
    // The rest of this file and the files after it.
    for position in [end].into_iter().chain(reader.files_after(end.file())) {
        if let Some((next, next_number)) = later(reader, position, number)? {
            return Ok(Some(Gap { pos: end, number, next, next_number }));
        }
    }
    Ok(None)
}

/// A record in place of the damaged ones, for their position. It says the sequence number of the next event. `None` if it does
/// not fit, which it does in place of any two.
pub fn fill(gap: &Gap, next_seq: u64) -> Option<Vec<u8>> {
    let mut record = vec![0; HEAD_BYTES];
    record.extend(next_seq.to_le_bytes());
    let lost = gap.next_number.checked_sub(gap.number).filter(|lost| *lost > 0)?;
    if lost > 1 {
        record.extend(gap.next_number.to_le_bytes());
    }
    // At the end of a file the rest of it is not used.
    if gap.next.file() == gap.pos.file() {
        let len = (gap.next.offset() - gap.pos.offset()) as usize;
        if record.len() > len {
            return None;
        }
        record.resize(len, 0);
    }
    Head::fill(&mut record, Kind::Lost, gap.pos, gap.number);
    record.resize(padded(record.len()), 0);
    Some(record)
}

/// The number of the record at `pos`, if one is there.
pub(super) fn number_at(reader: &LogReader, pos: LogPosition) -> Result<Option<u64>, ReadError> {
    Ok(record_at(reader, pos)?.map(|found| found.head.number))
}

fn lost(pos: LogPosition, number: u64) -> ReadError {
    let what = ReadError::Damaged(pos);
    RecordError(format!("{what}; record {number} is missing, and later ones are there")).into()
}

/// A record, or what damage left of it.
struct Found {
    head: Head,
    record: Vec<u8>,
    is_whole: bool,
}

impl Found {
    fn end(&self, pos: LogPosition) -> LogPosition {
        pos.plus(padded(self.record.len()))
    }

    fn into_record(self, pos: LogPosition) -> Record {
        let end = self.end(pos);
        let payload = self.record[HEAD_BYTES..].to_vec();
        let next_number = match (self.head.kind, payload.get(8..16)) {
            (Kind::Lost, Some(next)) => u64::from_le_bytes(next.try_into().expect("eight bytes")),
            _ => 0,
        };
        Record {
            kind: self.head.kind,
            pos: pos.plus(HEAD_BYTES),
            payload,
            is_damaged: !self.is_whole,
            end,
            next_number: next_number.max(self.head.number + 1),
        }
    }
}

/// The record at `pos`, if one is there of which at least the core is as it was written.
fn record_at(reader: &LogReader, pos: LogPosition) -> Result<Option<Found>, ReadError> {
    let Some(file) = reader.file(pos.file()) else { return Ok(None) };
    let len = file.metadata()?.len();
    let left = len.saturating_sub(pos.offset().into());
    if left < HEAD_BYTES as u64 {
        return Ok(None);
    }
    let bytes = reader.read(pos, HEAD_BYTES)?;
    let bytes: [u8; HEAD_BYTES] = bytes.try_into().expect("the read has this length");
    let Some(head) = Head::read(&bytes, pos) else { return Ok(None) };
    let len = HEAD_BYTES + head.len as usize;
    if u64::from(pos.offset()) + len as u64 > u64::from(u32::MAX) {
        return Ok(None);
    }
    let there = usize::try_from(left).unwrap_or(usize::MAX).min(len);
    let mut record = reader.read(pos, there)?;
    if there == len && record_checksum(&record) == head.checksum {
        return Ok(Some(Found { head, record, is_whole: true }));
    }
    if !head.is_core_whole(&record) {
        return Ok(None);
    }
    record.resize(len, 0);
    Ok(Some(Found { head, record, is_whole: false }))
}

/// The first record with this number or a later one at `pos` or after it in its file, and its number.
fn later(reader: &LogReader, pos: LogPosition, number: u64) -> Result<Option<(LogPosition, u64)>, ReadError> {
    let Some(file) = reader.file(pos.file()) else { return Ok(None) };
    let len = file.metadata()?.len();
    let mut from = u64::from(pos.offset());
    while from + (HEAD_BYTES as u64) <= len {
        let position = LogPosition::new(pos.file(), u32::try_from(from).expect("a log file is below 4 GiB"));
        let look = usize::try_from(len - from).unwrap_or(usize::MAX).min(LOOK_BYTES);
        let bytes = reader.read(position, look)?;
        for at in (0..bytes.len().saturating_sub(MAGIC.len())).step_by(ALIGN) {
            if bytes[at..at + MAGIC.len()] == MAGIC
                && let Some(found) = record_at(reader, position.plus(at))?
                && found.head.number >= number
            {
                return Ok(Some((position.plus(at), found.head.number)));
            }
        }
        from += look.next_multiple_of(ALIGN) as u64;
    }
    Ok(None)
}
