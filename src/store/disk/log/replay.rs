//! Replays the log from a position to its end.

use super::{
    LogPosition, LogReader, ReadError,
    frame::{ALIGN, HEAD_BYTES, Head, Kind, MAGIC, padded, record_checksum},
};
use crate::store::disk::records::RecordError;

/// Bytes per read of the search for later records.
const LOOK_BYTES: usize = 1024 * 1024;

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

/// Calls `each` with every record from `pos` on, and the position of its payload. The first one has the
/// number `number`.
///
/// Errors if a damaged record is followed by an intact one: a crash tears the last one only.
pub fn replay(
    reader: &LogReader,
    pos: LogPosition,
    number: u64,
    mut each: impl FnMut(Kind, LogPosition, Vec<u8>) -> Result<(), ReadError>,
) -> Result<Replayed, ReadError> {
    let mut end = Replayed { pos, number, ends: Vec::new() };
    loop {
        if let Some((head, record)) = record_at(reader, end.pos)?
            && head.number == end.number
        {
            let len = padded(record.len());
            each(head.kind, end.pos.plus(HEAD_BYTES), record[HEAD_BYTES..].to_vec())?;
            (end.pos, end.number) = (end.pos.plus(len), end.number + 1);
            continue;
        }
        let Some(next) = end.pos.file().checked_add(1).map(|file| LogPosition::new(file, 0)) else { break };
        let follows = record_at(reader, next)?;
        match follows {
            Some((head, _)) if head.number == end.number => {
                end.ends.push(end.pos);
                end.pos = next;
            }
            Some((head, _)) if head.number > end.number => return Err(lost(end.pos, end.number)),
            _ => break,
        }
    }
    if find_gap(reader, end.pos, end.number)?.is_some() {
        return Err(lost(end.pos, end.number));
    }
    end.ends.push(end.pos);
    Ok(end)
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

/// Records in place of the damaged ones, for their position: as many, and the last one says the sequence number
/// of the next event. `None` if they do not fit.
pub fn fill(gap: &Gap, next_seq: u64, room: usize) -> Option<Vec<u8>> {
    let ends_file = gap.next.file() != gap.pos.file();
    let len = if ends_file { room } else { (gap.next.offset() - gap.pos.offset()) as usize };
    let mut bytes = Vec::with_capacity(len);
    for number in gap.number..gap.next_number {
        let start = bytes.len();
        let mut record = vec![0; HEAD_BYTES];
        record.extend(next_seq.to_le_bytes());
        if number + 1 == gap.next_number && !ends_file {
            record.resize(record.len().max(len.checked_sub(start)?), 0);
        }
        Head::fill(&mut record, Kind::Lost, gap.pos.plus(start), number);
        record.resize(padded(record.len()), 0);
        bytes.extend(record);
        if bytes.len() > len {
            return None;
        }
    }
    bytes.resize(len, 0);
    (gap.next_number > gap.number).then_some(bytes)
}

/// The number of the record at `pos`, if one is there.
pub(super) fn number_at(reader: &LogReader, pos: LogPosition) -> Result<Option<u64>, ReadError> {
    Ok(record_at(reader, pos)?.map(|(head, _)| head.number))
}

fn lost(pos: LogPosition, number: u64) -> ReadError {
    let what = ReadError::Damaged(pos);
    RecordError(format!("{what}; record {number} is missing, and later ones are there")).into()
}

/// The whole record at `pos`, if one is there.
fn record_at(reader: &LogReader, pos: LogPosition) -> Result<Option<(Head, Vec<u8>)>, ReadError> {
    let Some(file) = reader.file(pos.file()) else { return Ok(None) };
    let len = file.metadata()?.len();
    let left = len.saturating_sub(pos.offset().into());
    if left < HEAD_BYTES as u64 {
        return Ok(None);
    }
    let bytes = reader.read(pos, HEAD_BYTES)?;
    let bytes: [u8; HEAD_BYTES] = bytes.try_into().expect("the read has this length");
    let Some(head) = Head::read(&bytes, pos) else { return Ok(None) };
    let whole = HEAD_BYTES as u64 + u64::from(head.len);
    if whole > left {
        return Ok(None);
    }
    let record = reader.read(pos, HEAD_BYTES + head.len as usize)?;
    Ok((record_checksum(&record) == head.checksum).then_some((head, record)))
}

/// The first whole record with this number or a later one at `pos` or after it in its file, and its number.
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
                && let Some((head, _)) = record_at(reader, position.plus(at))?
                && head.number >= number
            {
                return Ok(Some((position.plus(at), head.number)));
            }
        }
        from += look.next_multiple_of(ALIGN) as u64;
    }
    Ok(None)
}
