//! The log: append-only files, one record per write.
//!
//! A record is written at once and synced before the next one begins. So a crash tears at most the last
//! record: [`replay`] stops there, and treats intact records after a torn one as damage. Files get their full
//! length, filled with zeros, before use (`segment_allocator`): a sync then writes data only, not the length
//! or extents of the file.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Arc, RwLock},
};

use xxhash_rust::xxh3::xxh3_64;

use super::{
    data_dir::LEDGER_DIR,
    fs::{is_for_damage, is_for_want_of_room},
    records::RecordError,
};
use crate::{descriptors, domain::damage::Damage};
use frame::{HEAD_BYTES, Head, padded};
use registry_log::REGISTRY_LOG;
use segment_allocator::{Lack, SegmentAllocator};

mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod registry_log;
mod replay;
mod segment_allocator;

pub use frame::{COMMIT_HEAD, Kind};
pub use replay::{Gap, Record, Replayed, fill, find_gap, replay};

/// Bytes of a log file, unless retention keeps so little that smaller ones are needed.
pub const FILE_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Least bytes of a log file.
pub const FILE_BYTES_MIN: u32 = 1024 * 1024;
/// The first file is shorter by this factor: a store with little data stays small.
const FIRST_FILE_SHARE: u32 = 8;
/// Most bytes of the first file.
pub const FIRST_FILE_BYTES_MAX: u32 = FILE_BYTES_MAX / FIRST_FILE_SHARE;
/// The next file is prepared when less than one part in this many of the last is left.
const PREPARE_AT_SHARE: u32 = 2;
/// While the disk is full, one part in this many of a file is reserved for settlements.
const RESERVE_SHARE: u32 = 8;

/// A position in the log. No payload is at the default: every record has a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPosition(u64);

impl LogPosition {
    /// A byte of a file.
    pub fn new(file: u32, offset: u32) -> Self {
        Self(u64::from(file) << 32 | u64::from(offset))
    }

    /// The number on disk.
    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The number on disk.
    pub fn raw(self) -> u64 {
        self.0
    }

    /// The number of its file.
    pub fn file(self) -> u32 {
        u32::try_from(self.0 >> 32).expect("32 bits are left")
    }

    /// Its byte in the file.
    pub fn offset(self) -> u32 {
        u32::try_from(self.0 & u64::from(u32::MAX)).expect("32 bits are left")
    }

    /// The position after a record whose payload is here and has `bytes`.
    pub fn end_of(self, bytes: usize) -> Self {
        self.plus(padded(HEAD_BYTES + bytes) - HEAD_BYTES)
    }

    /// The position `bytes` later in its file.
    pub fn plus(self, bytes: usize) -> Self {
        Self(self.0 + bytes as u64)
    }
}

/// Bytes of the log with their checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSlice {
    /// The first.
    pub pos: LogPosition,
    /// How many.
    pub len: u32,
    /// See [`checksum`].
    pub checksum: u32,
}

/// 32-bit checksum: the low half of XXH3-64.
pub fn checksum(bytes: &[u8]) -> u32 {
    u32::try_from(xxh3_64(bytes) & u64::from(u32::MAX)).expect("32 bits are left")
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system failed.
    #[error("reading the log: {0}")]
    Io(#[from] io::Error),
    /// Its file is not there: retention has removed it.
    #[error("it was removed")]
    Gone,
    /// The bytes here are not those that were written, or the disk cannot read them.
    #[error("{}: not what was written there", damage_at(*.0))]
    Damaged(LogPosition),
    /// The record is invalid.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The disk is full. Nothing was changed; the write can be tried again.
    #[error("the disk is full")]
    Full,
    /// No file descriptor is free. Nothing was changed; the write can be tried again.
    #[error("no file descriptor is free")]
    NoDescriptor,
    /// The file system failed. The content of the disk is unknown.
    #[error("writing the log: {0}")]
    Failed(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        if is_for_want_of_room(&error) {
            Self::Full
        } else if descriptors::is_exhausted(&error) {
            Self::NoDescriptor
        } else {
            Self::Failed(error)
        }
    }
}

impl From<Lack> for WriteError {
    fn from(lack: Lack) -> Self {
        match lack {
            Lack::Room => Self::Full,
            Lack::Descriptors => Self::NoDescriptor,
        }
    }
}

/// Reads the log.
#[derive(Debug, Default)]
pub struct LogReader {
    files: RwLock<BTreeMap<u32, Arc<File>>>,
}

impl LogReader {
    /// Reads the files in `dir`, and changes nothing.
    pub fn read_only(dir: &Path) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| file_number(name.to_str()?));
            if let Some(number) = number {
                files.insert(number, Arc::new(File::open(path)?));
            }
        }
        Ok(Self { files: RwLock::new(files) })
    }

    /// Reads one file only.
    fn of_file(number: u32, file: Arc<File>) -> Self {
        Self { files: RwLock::new(BTreeMap::from([(number, file)])) }
    }

    /// `len` bytes from `pos` on. [`ReadError::Gone`] if the file was removed, [`ReadError::Damaged`] if it is
    /// shorter or the device has lost them.
    pub fn read(&self, pos: LogPosition, len: usize) -> Result<Vec<u8>, ReadError> {
        let file = self.file(pos.file()).ok_or(ReadError::Gone)?;
        let mut bytes = vec![0; len];
        match read_exact_at(&file, &mut bytes, pos.offset().into()) {
            Err(error) if is_for_damage(&error) => Err(ReadError::Damaged(pos)),
            read => Ok(read.map(|()| bytes)?),
        }
    }

    /// The bytes of a slice, after checking them.
    pub fn read_slice(&self, slice: LogSlice) -> Result<Vec<u8>, ReadError> {
        let bytes = self.read(slice.pos, slice.len as usize)?;
        if checksum(&bytes) != slice.checksum {
            return Err(ReadError::Damaged(slice.pos));
        }
        Ok(bytes)
    }

    /// From now on the system refuses every read.
    #[cfg(test)]
    pub fn make_unreadable(&self) {
        for file in self.files.write().expect(NO_PANIC).values_mut() {
            *file = Arc::new(OpenOptions::new().write(true).open("/dev/null").expect("it can be written"));
        }
    }

    /// The bytes of a file; `None` if it is not there.
    pub fn bytes_of(&self, number: u32) -> io::Result<Option<u64>> {
        self.file(number).map(|file| Ok(file.metadata()?.len())).transpose()
    }

    /// Where the files begin that follow this one.
    fn files_after(&self, number: u32) -> Vec<LogPosition> {
        let files = self.files.read().expect(NO_PANIC);
        files.keys().filter(|other| **other > number).map(|other| LogPosition::new(*other, 0)).collect()
    }

    fn file(&self, number: u32) -> Option<Arc<File>> {
        self.files.read().expect(NO_PANIC).get(&number).cloned()
    }
}

const NO_PANIC: &str = "no code panics while it holds this lock";

/// A damaged place in the log, for people.
pub fn damage_at(pos: LogPosition) -> Damage {
    let name = match pos.file() {
        registry_log::FILE => REGISTRY_LOG.to_owned(),
        number => file_name(number),
    };
    Damage { file: format!("{LEDGER_DIR}/{name}"), offset: pos.offset().into(), event: None }
}

/// A file that is no longer part of the log, and is to be deleted.
pub struct RemovedFile {
    /// Its path.
    pub path: PathBuf,
    /// Keeps its bytes on the disk until it is dropped.
    pub file: Option<Arc<File>>,
}

/// The log as the writing thread sees it.
pub struct Log {
    dir: PathBuf,
    /// The directory, open: the names of its files are synced with it.
    open_dir: File,
    file_bytes: u32,
    reader: Arc<LogReader>,
    /// How many bytes of each file are in use.
    used: BTreeMap<u32, u32>,
    active: Arc<File>,
    active_no: u32,
    /// Bytes allocated for the last file.
    capacity: u32,
    number: u64,
    /// Bytes that were appended since the log was opened.
    appended: u64,
    allocator: SegmentAllocator,
    record: Vec<u8>,
}

impl Log {
    /// Makes an empty log in `dir`, which exists.
    pub fn create(dir: &Path, file_bytes: u32) -> io::Result<()> {
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(file_path(dir, FIRST_FILE))?;
        segment_allocator::fill(&file, file_bytes / FIRST_FILE_SHARE)?;
        File::open(dir)?.sync_all()
    }

    /// Continues where [`replay`] ended. New files get `file_bytes`.
    pub fn open(dir: &Path, file_bytes: u32, files: Files, end: &Replayed) -> io::Result<Self> {
        let Files { reader, mut used } = files;
        used.retain(|number, _| *number <= end.pos.file());
        used.insert(end.pos.file(), end.pos.offset());
        let active = reader.file(end.pos.file()).ok_or(io::ErrorKind::NotFound)?;
        let capacity = u32::try_from(active.metadata()?.len()).unwrap_or(u32::MAX);
        Ok(Self {
            dir: dir.to_owned(),
            open_dir: File::open(dir)?,
            file_bytes,
            reader,
            used,
            active,
            active_no: end.pos.file(),
            capacity,
            number: end.number,
            appended: 0,
            allocator: SegmentAllocator::start(dir, file_bytes)?,
            record: Vec::new(),
        })
    }

    /// Where the log is read.
    pub fn reader(&self) -> &Arc<LogReader> {
        &self.reader
    }

    /// The number of the next record.
    pub fn next_number(&self) -> u64 {
        self.number
    }

    /// Position of the next record, unless it starts a new file.
    pub fn end(&self) -> LogPosition {
        LogPosition::new(self.active_no, self.used[&self.active_no])
    }

    /// Bytes in use.
    pub fn bytes(&self) -> u64 {
        self.used.values().map(|used| u64::from(*used)).sum()
    }

    /// Bytes that were appended since the log was opened.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// The files but the last, the oldest first, with the bytes in use of each.
    pub fn full_files(&self) -> Vec<(u32, u64)> {
        self.used.range(..self.active_no).map(|(number, used)| (*number, u64::from(*used))).collect()
    }

    /// The files, the oldest first, each with a reader of its own and its bytes in use. A file that is removed
    /// stays on the disk, as it is, until its reader is dropped.
    pub fn files_now(&self) -> Vec<(u32, LogReader, u32)> {
        let files = self.reader.files.read().expect(NO_PANIC);
        let of = |(number, used): (&u32, &u32)| {
            let file = Arc::clone(files.get(number)?);
            Some((*number, LogReader::of_file(*number, file), *used))
        };
        self.used.iter().filter_map(of).collect()
    }

    /// Whether events may be written. An error while the next file cannot be made and the rest of this one is
    /// reserved for settlements.
    pub fn check_room_for_events(&self) -> Result<(), WriteError> {
        let left = self.capacity.saturating_sub(self.used[&self.active_no]);
        match self.allocator.lack() {
            Some(lack) if left <= self.capacity / RESERVE_SHARE => Err(lack.into()),
            _ => Ok(()),
        }
    }

    /// Begins a record; the caller appends the payload to the returned buffer.
    pub fn begin(&mut self) -> &mut Vec<u8> {
        self.record.clear();
        self.record.resize(HEAD_BYTES, 0);
        &mut self.record
    }

    /// Writes the record and returns the position of its payload. It is durable after [`Log::sync`]; nothing
    /// else may be written before that.
    pub fn append(&mut self, kind: Kind) -> Result<LogPosition, WriteError> {
        let len = padded(self.record.len());
        let bytes = u32::try_from(len).expect("a record is below 4 GiB");
        if self.used[&self.active_no].saturating_add(bytes) > self.capacity && self.used[&self.active_no] > 0
        {
            self.begin_file()?;
        }
        let pos = self.end();
        Head::fill(&mut self.record, kind, pos, self.number);
        self.record.resize(len, 0);
        write_all_at(&self.active, &self.record, pos.offset().into())?;
        *self.used.get_mut(&self.active_no).expect("it is there") += bytes;
        self.number += 1;
        self.appended += u64::from(bytes);
        if self.capacity.saturating_sub(self.used[&self.active_no]) < self.capacity / PREPARE_AT_SHARE {
            self.allocator.request();
        }
        Ok(pos.plus(HEAD_BYTES))
    }

    /// Makes the last record durable.
    pub fn sync(&self) -> Result<(), WriteError> {
        // After a failed sync the record may or may not be on disk, or disappear later.
        self.active.sync_data().map_err(WriteError::Failed)
    }

    /// The bytes in use of each file.
    pub fn used(&self) -> &BTreeMap<u32, u32> {
        &self.used
    }

    /// Removes files from the sums, before they are deleted.
    pub fn forget(&mut self, files: &[u32]) {
        self.used.retain(|number, _| !files.contains(number));
    }

    /// Takes files out of the log. Returns those that the caller has to delete: that takes a while. Readers
    /// that have one open finish.
    pub fn remove(&mut self, files: impl IntoIterator<Item = u32>) -> io::Result<Vec<RemovedFile>> {
        let mut removed = Vec::new();
        for number in files {
            let file = self.reader.files.write().expect(NO_PANIC).remove(&number);
            self.used.remove(&number);
            let path = file_path(&self.dir, number);
            match file.map(Arc::try_unwrap) {
                // Not in use: it can be recycled.
                Some(Ok(file)) if self.allocator.can_recycle(&file) => self.allocator.recycle(&path, file)?,
                Some(Ok(file)) => removed.push(RemovedFile { path, file: Some(Arc::new(file)) }),
                Some(Err(shared)) => removed.push(RemovedFile { path, file: Some(shared) }),
                None => removed.push(RemovedFile { path, file: None }),
            }
        }
        Ok(removed)
    }

    fn begin_file(&mut self) -> Result<(), WriteError> {
        let number = self.active_no + 1;
        let path = file_path(&self.dir, number);
        let file = match self.allocator.take(&path)? {
            Some(file) => file,
            None => match self.allocator.lack() {
                Some(lack) => return Err(lack.into()),
                // The allocator was too slow. A file without its full length is slower but no less safe.
                None => OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?,
            },
        };
        self.open_dir.sync_all()?;
        self.capacity = u32::try_from(file.metadata()?.len()).unwrap_or(u32::MAX).max(self.file_bytes);
        self.active = Arc::new(file);
        self.reader.files.write().expect(NO_PANIC).insert(number, Arc::clone(&self.active));
        self.used.insert(number, 0);
        self.active_no = number;
        Ok(())
    }
}

/// The files of a log that are there.
pub struct Files {
    reader: Arc<LogReader>,
    used: BTreeMap<u32, u32>,
}

impl Files {
    /// Opens the files in `dir`. `used` has the known files with their bytes in use. An earlier file that is
    /// not in it is a leftover of a removal and is deleted, as is a spare one.
    pub fn open(dir: &Path, used: BTreeMap<u32, u32>) -> io::Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name == segment_allocator::SPARE {
                fs::remove_file(&path)?;
            } else if let Some(number) = file_number(name) {
                let is_left = used.keys().next_back().is_some_and(|last| number < *last);
                if is_left && !used.contains_key(&number) {
                    fs::remove_file(&path)?;
                } else {
                    files.insert(number, Arc::new(OpenOptions::new().read(true).write(true).open(&path)?));
                }
            }
        }
        Ok(Self { reader: Arc::new(LogReader { files: RwLock::new(files) }), used })
    }

    /// Where they are read.
    pub fn reader(&self) -> &Arc<LogReader> {
        &self.reader
    }

    /// Notes the bytes in use of files that [`replay`] went through.
    pub fn note_used(&mut self, ends: &[LogPosition]) {
        self.used.extend(ends.iter().map(|end| (end.file(), end.offset())));
    }
}

/// The first file of a log.
pub const FIRST_FILE: u32 = 1;

/// Whether a log in `dir` has a record: then the creation of its store was completed.
pub fn has_records(dir: &Path) -> io::Result<bool> {
    if !dir.try_exists()? {
        return Ok(false);
    }
    let reader = LogReader::read_only(dir)?;
    let files = reader.files_after(0);
    // What is in a later file follows what was in the first.
    Ok(files.first().is_some_and(|first| first.file() != FIRST_FILE)
        || files
            .into_iter()
            .any(|pos| reader.read(pos, frame::MAGIC.len()).is_ok_and(|found| found == frame::MAGIC)))
}

/// The name of a file of the log.
pub fn file_name(number: u32) -> String {
    format!("{number:010}.log")
}

fn file_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(file_name(number))
}

/// The number of the log's file with this name, if it is one.
pub fn file_number(name: &str) -> Option<u32> {
    name.strip_suffix(".log").filter(|digits| digits.len() == 10)?.parse().ok()
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => (bytes, offset) = (&mut bytes[read..], offset + read as u64),
        }
    }
    Ok(())
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        (bytes, offset) = (&bytes[written..], offset + written as u64);
    }
    Ok(())
}
