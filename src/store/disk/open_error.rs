//! Why a data directory was not opened. Distinguishes a damaged directory from a full disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::kv::SEGMENT_BYTES;
use crate::{
    descriptors,
    domain::seal::KeyId,
    store::disk::{
        data_dir::{ENGINE_DIR, LEDGER_DIR},
        fs::{free_bytes, is_for_want_of_room},
        keys::key_file::KeyFileError,
        kv::subscriptions::RegistryError,
        log::FIRST_FILE_BYTES_MAX,
        records::{FORMAT, FORMAT_IN_THE_CLEAR, RecordError},
    },
};

/// Bytes that a start writes at most: sled begins a segment, and a new store begins its log.
const START_BYTES_MAX: u64 = SEGMENT_BYTES as u64 + FIRST_FILE_BYTES_MAX as u64;

/// Why a data directory was not opened. Shown to the operator as it is.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "data directory {0} is in use by another process ({1}): stop that one; a second gateway needs another --data-dir"
    )]
    Locked(PathBuf, String),
    /// It is of another version.
    #[error(
        "data directory {0} has format {1}, and this version of tidings reads formats {FORMAT_IN_THE_CLEAR} to {FORMAT} only. Nothing was changed. Start the version that \
         wrote it, or restore a backup of this one"
    )]
    Format(PathBuf, String),
    /// The data is unreadable or inconsistent.
    #[error(
        "data directory {0} cannot be read: {1}. Nothing was created in its place. Run `tidings check {0}`: it names every \
         damage, and says whether `tidings check --repair {0}` helps or a backup"
    )]
    Unreadable(PathBuf, String),
    /// There is no room for what a start writes.
    #[error(
        "data directory {dir}: there is no room on the disk for a start, which writes up to {} MiB{}: {why}. Nothing is damaged or \
         lost. Make room, or start with another --data-dir",
        START_BYTES_MAX >> 20,
        free_of(.dir)
    )]
    NoRoom {
        /// Which.
        dir: PathBuf,
        /// The file system's error.
        why: io::Error,
    },
    /// The file system refused.
    #[error(
        "data directory {0}: {1}. See to the file system, and that this user may read and write every file there; then start again"
    )]
    Io(PathBuf, io::Error),
    /// This process may not use a file in it.
    #[error(
        "data directory {dir}: Permission denied. This process runs as the user {user}, and may not read and change {path}, {owner}. \
         Nothing was changed. Run it as the user of the gateway, or make every file that user's: `chown -R USER {dir}`"
    )]
    Denied {
        /// The data directory.
        dir: PathBuf,
        /// The file or directory.
        path: PathBuf,
        /// Whose it is, for people.
        owner: String,
        /// The user of this process.
        user: u32,
    },
    /// It is no data directory, and is not empty.
    #[error(
        "data directory {0} has no store in it, and is not empty: {1} is there, and a start would take the directory from everybody \
         else. Nothing was changed. Choose another with --data-dir: one that is empty or not there yet, such as a directory within it"
    )]
    NotEmpty(PathBuf, String),
    /// Other users may change what is in it.
    #[error("data directory {0} is not this user's alone: {1}. Nothing was changed")]
    Exposed(PathBuf, String),
    /// A key file cannot be read or written.
    #[error("key file {0}: {1}")]
    KeyFile(PathBuf, KeyFileError),
    /// The key that secrets are sealed with is not among those that are given.
    #[error(
        "data directory {dir}: its secrets are sealed with the key {of_store}, and given is {given}. Nothing was changed. Give the key {of_store} (secrets_key_file or TIDINGS_SECRETS_KEY), alone or after the one that replaces it"
    )]
    WrongKey {
        /// The data directory of the secrets.
        dir: PathBuf,
        /// The id of the store's key.
        of_store: KeyId,
        /// The ids of the given keys.
        given: String,
    },
    /// The key file in the data directory is missing.
    #[error(
        "key file {0} is missing: the secrets in the store are sealed with the key {1}, which was in it or is configured otherwise. Nothing was changed. Put the file back, or give the key (secrets_key_file or TIDINGS_SECRETS_KEY)"
    )]
    KeyLost(PathBuf, KeyId),
    /// A key is to be rotated that is given, not in a file, and there is no other.
    #[error(
        "TIDINGS_SECRETS_KEY cannot be changed from here: put a new key in front of the one that is there, with a comma between them, and repeat this; afterwards leave out the old one"
    )]
    NoNewKey,
    /// It is a backup that was cut off.
    #[error(
        "data directory {0} is a backup that was not completed, and cannot be used. Nothing was changed. Use another backup, or make a new one with `tidings backup --to DIR`; remove this one"
    )]
    UnfinishedBackup(PathBuf),
    /// There is no store.
    #[error("data directory {0} has no store in it")]
    NoStore(PathBuf),
}

impl OpenError {
    pub(crate) fn of_file_system(dir: &Path, why: io::Error) -> Self {
        let dir = dir.to_owned();
        if is_for_want_of_room(&why) { Self::NoRoom { dir, why } } else { Self::Io(dir, why) }
    }

    pub(crate) fn of_key_file(dir: &Path, file: &Path, why: KeyFileError) -> Self {
        match why {
            KeyFileError::Io(why) if is_for_want_of_room(&why) => Self::of_file_system(dir, why),
            why => Self::KeyFile(file.to_owned(), why),
        }
    }

    pub(crate) fn of_engine(dir: &Path, error: ::sled::Error) -> Self {
        match error {
            ::sled::Error::Io(why) if is_for_want_of_room(&why) || descriptors::is_exhausted(&why) => {
                Self::of_file_system(dir, why)
            }
            ::sled::Error::Corruption { .. } => Self::Unreadable(
                dir.to_owned(),
                format!(
                    "{ENGINE_DIR}/ is damaged: one of its files (conf, db, snap.*, blobs/) is not as sled wrote it"
                ),
            ),
            other => Self::Unreadable(dir.to_owned(), format!("{ENGINE_DIR}/: {other}")),
        }
    }

    pub(crate) fn of_registry(dir: &Path, error: RegistryError) -> Self {
        match error {
            RegistryError::Engine(error) => Self::of_engine(dir, error),
            // It names its files.
            RegistryError::Record(RecordError(why))
                if [ENGINE_DIR, LEDGER_DIR].iter().any(|part| why.starts_with(&format!("{part}/"))) =>
            {
                Self::Unreadable(dir.to_owned(), why)
            }
            RegistryError::Record(error) => {
                Self::Unreadable(dir.to_owned(), format!("{ENGINE_DIR}/: {error}"))
            }
            RegistryError::Io(error) => Self::of_file_system(dir, error),
        }
    }
}

/// Why parts of a data directory do not go together.
pub(crate) fn of_different_stores(parts: &str) -> String {
    format!(
        "{parts} are of different stores. Put back the two that belong together, and do not repair before"
    )
}

/// The free room, for the end of a message.
fn free_of(dir: &Path) -> String {
    free_bytes(dir).map_or_else(String::new, |free| format!(", and {} are free", free >> 20))
}
