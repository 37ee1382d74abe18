//! Replays the log from a position to its end.

use super::{
    LogPosition, LogReader, ReadError, damaged,
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
    // Search the rest of this file and the files after it.
    for position in [end.pos].into_iter().chain(reader.files_after(end.pos.file())) {
        if holds_later(reader, position, end.number)? {
            return Err(lost(end.pos, end.number));
        }
    }
    end.ends.push(end.pos);
    Ok(end)
}

/// The number of the record at `pos`, if one is there.
pub(super) fn number_at(reader: &LogReader, pos: LogPosition) -> Result<Option<u64>, ReadError> {
    Ok(record_at(reader, pos)?.map(|(head, _)| head.number))
}

fn lost(pos: LogPosition, number: u64) -> ReadError {
    let RecordError(what) = damaged(pos);
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

/// Whether a record with this number or a later one is at `pos` or after it in its file.
fn holds_later(reader: &LogReader, pos: LogPosition, number: u64) -> Result<bool, ReadError> {
    let Some(file) = reader.file(pos.file()) else { return Ok(false) };
    let len = file.metadata()?.len();
    let mut from = u64::from(pos.offset());
    while from + (HEAD_BYTES as u64) <= len {
        let position = LogPosition::new(pos.file(), u32::try_from(from).expect("a log file is below 4 GiB"));
        let look = usize::try_from(len - from).unwrap_or(usize::MAX).min(LOOK_BYTES);
        let bytes = reader.read(position, look)?;
        for at in (0..bytes.len().saturating_sub(MAGIC.len())).step_by(ALIGN) {
            if bytes[at..at + MAGIC.len()] == MAGIC
                && record_at(reader, position.plus(at))?.is_some_and(|(head, _)| head.number >= number)
            {
                return Ok(true);
            }
        }
        from += look.next_multiple_of(ALIGN) as u64;
    }
    Ok(false)
}
