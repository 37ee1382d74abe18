//! Fuzz target for reading the log.

use std::{
    collections::BTreeMap,
    fs::File,
    sync::{Arc, RwLock},
};

use super::{
    COMMIT_HEAD, FIRST_FILE, Kind, LogPosition, LogReader, Record,
    frame::{HEAD_BYTES, Head, padded},
    replay, write_all_at,
};

/// Zeros behind the last record of a file.
const ROOM_BYTES: usize = 64;
/// Most damages done to a log, so that no two of them make up a record of their own.
const DAMAGES_MAX: u8 = 4;

/// A record that was written: what it holds, and where its bytes are in its file.
struct Written {
    kind: Kind,
    payload: Vec<u8>,
    file: usize,
    range: std::ops::Range<usize>,
}

/// A log of some records with damage: flipped bits, or zeros from some byte on. The records that are read are
/// a prefix of the written ones, and as they were written unless they are marked as damaged; without an error no intact
/// record is left out. With a first byte of 255:
/// files of arbitrary bytes.
pub fn log(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    if first == u8::MAX {
        let (one, other) = rest.split_at(rest.len() / 2);
        drop(read(&[one, other]));
        return;
    }
    let Some((damages, mut rest)) = rest.split_at_checked(3 * usize::from(first % DAMAGES_MAX)) else {
        return;
    };
    let (mut files, mut written) = (vec![Vec::new()], Vec::new());
    while let Some((&head, more)) = rest.split_first() {
        let Some((&len, more)) = more.split_first() else { break };
        let (payload, more) = more.split_at(usize::from(len).min(more.len()));
        rest = more;
        if head & 0x80 != 0 {
            files.push(Vec::new());
        }
        let kind = [Kind::Commit, Kind::Index, Kind::State, Kind::Relocated][usize::from(head % 4)];
        let file = files.len() - 1;
        let range = append(&mut files, kind, payload, written.len() as u64 + 1);
        written.push(Written { kind, payload: payload.to_vec(), file, range });
    }
    files.iter_mut().for_each(|file| file.resize(file.len() + ROOM_BYTES, 0));
    let whole = files.clone();
    for damage in damages.chunks_exact(3) {
        let position = usize::from(u16::from_le_bytes([damage[0], damage[1]]));
        let len = files.len();
        let file = &mut files[position % len];
        let at = position % file.len();
        match damage[2] {
            0xff => file[at..].fill(0),
            bit => file[at] ^= 1 << (bit % 8),
        }
    }

    let slices: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
    let (shown, is_end) = read(&slices);
    assert!(shown.len() <= written.len(), "more was read than was written");
    for (shown, record) in shown.iter().zip(&written) {
        let is_same = (shown.kind, &shown.payload) == (record.kind, &record.payload);
        assert!(is_same || shown.is_damaged, "a record is not what was written");
        assert_eq!(
            (shown.kind, shown.payload.len()),
            (record.kind, record.payload.len()),
            "a head was damaged"
        );
        assert_eq!(core_of(shown.kind, &shown.payload), core_of(record.kind, &record.payload));
    }
    let is_whole = |record: &Written| {
        files[record.file][record.range.clone()] == whole[record.file][record.range.clone()]
    };
    if is_end {
        assert!(!written[shown.len()..].iter().any(is_whole), "a record was left out without an error");
    } else {
        assert!(!written.iter().all(is_whole), "nothing is wrong with it");
    }
}

/// Puts a record behind the others of the last file. Returns where it is there.
fn append(files: &mut [Vec<u8>], kind: Kind, payload: &[u8], number: u64) -> std::ops::Range<usize> {
    let file_number = FIRST_FILE + u32::try_from(files.len() - 1).expect("they are few");
    let file = files.last_mut().expect("there is one from the start");
    let from = file.len();
    let mut record = vec![0; HEAD_BYTES];
    record.extend(payload);
    Head::fill(
        &mut record,
        kind,
        LogPosition::new(file_number, u32::try_from(from).expect("it is short")),
        number,
    );
    let end = from + record.len();
    record.resize(padded(record.len()), 0);
    file.extend(record);
    from..end
}

/// The length and the record of a commit: without them a start cannot use it.
fn core_of(kind: Kind, payload: &[u8]) -> &[u8] {
    let len = payload.first_chunk().filter(|_| kind == Kind::Commit);
    len.map_or(&[], |len| &payload[..payload.len().min(COMMIT_HEAD + u32::from_le_bytes(*len) as usize)])
}

/// The records read from these files, and whether they were read to the end.
fn read(contents: &[&[u8]]) -> (Vec<Record>, bool) {
    let mut files = BTreeMap::new();
    for (number, bytes) in (FIRST_FILE..).zip(contents) {
        let file: File = tempfile::tempfile().expect("there is room for a file");
        write_all_at(&file, bytes, 0).expect("there is room for a file");
        files.insert(number, Arc::new(file));
    }
    let reader = LogReader { files: RwLock::new(files) };
    let mut shown = Vec::new();
    let end = replay(&reader, LogPosition::new(FIRST_FILE, 0), 1, 0, |record| {
        shown.push(record);
        Ok(())
    });
    if let (Ok(end), Some(last)) = (&end, shown.last()) {
        assert_eq!(end.number, last.next_number);
    }
    (shown, end.is_ok())
}
