//! The registry's log: every change of the subscriptions, request ids and access tokens, durable before sled
//! has it. It begins with all rows of one moment, so that sled's rows can be made of it, however old they are.
//!
//! A file of its own: retention removes nothing of it, and another key for the secrets replaces it whole. Its
//! records are framed as those of the log; their numbers are the numbers of the changes.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;

use super::{
    Kind, LogPosition, LogReader, ReadError, Record, WriteError,
    frame::{HEAD_BYTES, Head, padded},
    replay::{number_at, replay},
    write_all_at,
};
use crate::store::disk::{
    fs::sync_dir,
    records::{RecordError, RegistryChange, RowRecord, RowTree},
};

/// The name of its file, in the directory of the log.
pub const REGISTRY_LOG: &str = "registry";
/// The file of a log that replaces this one as soon as it is whole.
const NEW: &str = "registry.new";
/// The file of a log for a directory of sled that is to replace the one in use.
const OF_REWRITE: &str = "registry.of-rewrite";
/// In positions of its records. No file of the log of events has this number.
pub(super) const FILE: u32 = 0;
/// Bytes of rows after which a part of all rows is closed.
const PART_BYTES: usize = 1024 * 1024;
/// Least bytes of changes for which the log is written again.
const CHANGES_BYTES_MIN: u32 = 4 * 1024 * 1024;

/// The rows of a tree by key.
pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

impl Begin {
    /// Of the first log of a store.
    pub const FIRST: Self = Self { number: 1, next_record: 0 };
}

/// The registry's log.
pub struct RegistryLog {
    dir: PathBuf,
    file: Arc<File>,
    end: u32,
    next: u64,
    /// Bytes of all rows at its beginning.
    base_bytes: u32,
    /// The number that the next record of the log of events had at the last change; 0 if unknown.
    next_record: u64,
}

/// Where a log begins that is written again.
#[derive(Clone, Copy, Debug)]
pub struct Begin {
    /// The number of its first change.
    pub number: u64,
    /// The number of the next record of the log of events; 0 if unknown.
    pub next_record: u64,
}

impl RegistryLog {
    /// Replaces the one in `dir`, if there is one, by one of these rows.
    pub fn replace<E: From<io::Error>>(
        dir: &Path,
        begin: Begin,
        rows: impl Iterator<Item = Result<(RowTree, RowRecord), E>>,
    ) -> Result<(), E> {
        write(&dir.join(NEW), begin, rows)?;
        fs::rename(dir.join(NEW), dir.join(REGISTRY_LOG))?;
        Ok(sync_dir(dir)?)
    }

    /// Writes one of these rows, which replaces this one with [`RegistryLog::finish_rewrite`].
    pub fn begin_rewrite<E: From<io::Error>>(
        &self,
        rows: impl Iterator<Item = Result<(RowTree, RowRecord), E>>,
    ) -> Result<(), E> {
        write(&self.dir.join(OF_REWRITE), self.continued(), rows)?;
        Ok(sync_dir(&self.dir)?)
    }

    /// Completes a rewrite.
    pub fn finish_rewrite(dir: &Path) -> io::Result<()> {
        match fs::rename(dir.join(OF_REWRITE), dir.join(REGISTRY_LOG)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| sync_dir(dir)),
        }
    }

    /// Removes a rewrite that is not to be completed.
    pub fn discard_rewrite(dir: &Path) -> io::Result<()> {
        match fs::remove_file(dir.join(OF_REWRITE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| sync_dir(dir)),
        }
    }

    /// Reads the one in `dir`: the rows of each tree after its last change. A change that a crash tore off is
    /// not there: no call returned for it. It stays in the file until the next change.
    pub fn open(dir: &Path) -> Result<(Self, BTreeMap<RowTree, Rows>), ReadError> {
        let file = OpenOptions::new().read(true).write(true).open(dir.join(REGISTRY_LOG))?;
        let file = Arc::new(file);
        let Content { rows, end, next, base_bytes, next_record } =
            read(&file).map_err(|error| match error {
                // It names the file.
                ReadError::Record(RecordError(why)) if why.contains(REGISTRY_LOG) => RecordError(why),
                ReadError::Record(RecordError(why)) => RecordError(format!("ledger/{REGISTRY_LOG}: {why}")),
                error => RecordError(format!("ledger/{REGISTRY_LOG}: {error}")),
            })?;
        Ok((Self { dir: dir.to_owned(), file, end, next, base_bytes, next_record }, rows))
    }

    /// The number of the last change.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// The number that the next record of the log of events had at the last change; 0 if unknown. The records before it are durable.
    pub fn next_record(&self) -> u64 {
        self.next_record
    }

    /// The beginning of one that goes on after this one.
    pub fn continued(&self) -> Begin {
        Begin { number: self.next, next_record: self.next_record }
    }

    /// A reader of its file, at the default position, and the bytes that it has now. These never change, even
    /// if it is replaced.
    pub fn now(&self) -> (LogReader, u32) {
        (LogReader::of_file(FILE, Arc::clone(&self.file)), self.end)
    }

    /// Appends a change, durably. `next_record` is the number of the next record of the log of events. Returns the number of the
    /// change.
    pub fn append(
        &mut self,
        tree: RowTree,
        rows: Vec<RowRecord>,
        next_record: u64,
    ) -> Result<u64, WriteError> {
        let mut record = Vec::new();
        let change = RegistryChange { tree: tree as u32, rows, more: false, next_record };
        let end = frame(&mut record, &change, self.end, self.next).ok_or(WriteError::Full)?;
        if self.file.metadata().map_err(WriteError::Failed)?.len() > u64::from(self.end) {
            self.file.set_len(self.end.into())?;
        }
        if let Err(error) = write_all_at(&self.file, &record, self.end.into()) {
            // A part that was written takes room. It is cut by the next change if it cannot be cut now.
            drop(self.file.set_len(self.end.into()));
            return Err(error.into());
        }
        // After a failed sync the record may or may not be on disk, or disappear later.
        self.file.sync_data().map_err(WriteError::Failed)?;
        (self.end, self.next, self.next_record) = (end, self.next + 1, next_record.max(self.next_record));
        Ok(self.last())
    }

    /// Whether changes take more room than all rows took.
    pub fn is_long(&self) -> bool {
        self.end - self.base_bytes > self.base_bytes.max(CHANGES_BYTES_MIN)
    }
}

/// What is in a file.
struct Content {
    rows: BTreeMap<RowTree, Rows>,
    /// The end of the last record.
    end: u32,
    /// The number of the next one.
    next: u64,
    /// The end of the rows at the beginning.
    base_bytes: u32,
    next_record: u64,
}

fn read(file: &Arc<File>) -> Result<Content, ReadError> {
    let reader = LogReader::of_file(FILE, Arc::clone(file));
    let begin = LogPosition::new(FILE, 0);
    let cut_off = || RecordError("it does not begin with all rows".to_owned());
    let first = number_at(&reader, begin)?.ok_or_else(cut_off)?;
    let (mut rows, mut base_bytes, mut next_record) = (BTreeMap::<RowTree, Rows>::new(), None, 0);
    let end = replay(&reader, begin, first, 0, |Record { kind, pos, payload, .. }| {
        if kind != Kind::Registry {
            return Err(RecordError("it has a record of another file".to_owned()).into());
        }
        let change = RegistryChange::decode(&*payload).map_err(RecordError::from)?;
        let of_tree = rows.entry(change.row_tree()?).or_default();
        for RowRecord { key, value } in change.rows {
            match value {
                Some(value) => drop(of_tree.insert(key, value)),
                None => drop(of_tree.remove(&key)),
            }
        }
        if base_bytes.is_none() && !change.more {
            base_bytes = Some(pos.offset());
        }
        next_record = next_record.max(change.next_record);
        Ok(())
    })?;
    let base_bytes = base_bytes.ok_or_else(cut_off)?;
    Ok(Content { rows, end: end.pos.offset(), next: end.number, base_bytes, next_record })
}

/// Writes and syncs a file of rows.
fn write<E: From<io::Error>>(
    path: &Path,
    Begin { mut number, next_record }: Begin,
    rows: impl Iterator<Item = Result<(RowTree, RowRecord), E>>,
) -> Result<(), E> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    let (mut end, mut record) = (0, Vec::new());
    let mut put = |tree: RowTree, rows: &mut Vec<RowRecord>, more: bool| -> io::Result<()> {
        let part = RegistryChange { tree: tree as u32, rows: std::mem::take(rows), more, next_record };
        let after = frame(&mut record, &part, end, number).ok_or(io::ErrorKind::FileTooLarge)?;
        write_all_at(&file, &record, end.into())?;
        (end, number) = (after, number + 1);
        Ok(())
    };
    let (mut part, mut bytes, mut tree) = (Vec::new(), 0, RowTree::Registry);
    for row in rows {
        let (of, row) = row?;
        if of != tree || bytes >= PART_BYTES {
            put(tree, &mut part, true)?;
            bytes = 0;
        }
        bytes += row.encoded_len();
        part.push(row);
        tree = of;
    }
    put(tree, &mut part, false)?;
    Ok(file.sync_all()?)
}

/// Makes the record of a change at a byte of the file. Returns the byte after it; `None` past 4 GiB.
fn frame(record: &mut Vec<u8>, change: &RegistryChange, at: u32, number: u64) -> Option<u32> {
    record.clear();
    record.resize(HEAD_BYTES, 0);
    change.encode(record).expect("a vector grows");
    let len = padded(record.len());
    let end = at.checked_add(u32::try_from(len).ok()?)?;
    Head::fill(record, Kind::Registry, LogPosition::new(FILE, at), number);
    record.resize(len, 0);
    Some(end)
}

/// Fuzz target: payloads of changes, each after its length in two bytes; with a first byte of 255, a file of arbitrary bytes.
/// After one more change everything is read as before, and that change.
#[cfg(any(test, fuzzing))]
pub fn fuzz(data: &[u8]) {
    let file = Arc::new(tempfile::tempfile().expect("there is room for a file"));
    let write = |bytes: &[u8], at| write_all_at(&file, bytes, at).expect("there is room for a file");
    match data.split_first() {
        Some((&u8::MAX, bytes)) => write(bytes, 0),
        _ => {
            let (mut rest, mut end, mut number) = (data, 0, 1);
            while let Some((len, more)) = rest.split_first_chunk::<2>() {
                let (payload, more) = more.split_at(usize::from(u16::from_le_bytes(*len)).min(more.len()));
                let mut record = vec![0; HEAD_BYTES];
                record.extend(payload);
                Head::fill(&mut record, Kind::Registry, LogPosition::new(FILE, end), number);
                write(&record, end.into());
                end += u32::try_from(padded(record.len())).expect("it is short");
                (rest, number) = (more, number + 1);
            }
        }
    }
    let Ok(mut known) = read(&file) else { return };
    let row = RowRecord::put(*b"key", *b"value");
    let change =
        RegistryChange { tree: RowTree::Tokens as u32, rows: vec![row], more: false, next_record: 7 };
    let mut record = Vec::new();
    let end = frame(&mut record, &change, known.end, known.next).expect("it is short");
    file.set_len(known.end.into()).expect("it is shorter");
    write(&record, known.end.into());
    let again = read(&file).expect("it is read as it was written");
    known.rows.entry(RowTree::Tokens).or_default().insert(b"key".to_vec(), b"value".to_vec());
    assert_eq!(again.rows, known.rows);
    assert_eq!((again.end, again.next), (end, known.next + 1));
    assert_eq!(again.next_record, known.next_record.max(7));
}
