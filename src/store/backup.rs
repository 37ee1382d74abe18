//! Backups as all engines see them.

use std::fmt;

use super::StoreError;
use crate::domain::time::UnixMicros;

/// A consistent copy of everything that a store had at one moment.
pub struct Backup {
    /// The format of its files.
    pub format: u32,
    /// The moment.
    pub time: UnixMicros,
    /// Bytes of all files, without those of the audit records.
    pub bytes: u64,
    /// The files, one after another. Reading may block on the disk. Files that are still to be read take room on
    /// it until they are read or this is dropped, even if retention has removed them. Nothing follows an error.
    pub parts: Box<dyn Iterator<Item = Result<BackupPart, StoreError>> + Send>,
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backup").field("time", &self.time).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A part of a backup. A file is its beginning, its bytes and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackupPart {
    /// A file begins, with this path in the data directory.
    File(String),
    /// Its next bytes.
    Data(Vec<u8>),
    /// It ends.
    FileEnd(FileSum),
}

/// What a file has to add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSum {
    /// Its bytes.
    pub bytes: u64,
    /// XXH3-64 of them.
    pub checksum: u64,
}
