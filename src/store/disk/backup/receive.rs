//! Makes a data directory of the parts of a backup, somewhere else.
//!
//! The marker says from the first to the last moment that it is not whole, and a start refuses it so long.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Write as _},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

use super::{AUDIT, audit};
use crate::{
    domain::seal::KeyId,
    store::{
        backup::{BackupPart, FileSum},
        disk::{
            data_dir::{
                CLEAN, ENGINE_DIR, LEDGER_DIR, LOCK, MARKER, READY, create_private_dir, sync_entry,
                take_lock, write_marker, write_unfinished,
            },
            fs::{sync_all_in, sync_dir},
            index::manifest::MANIFEST,
            kv::{
                engine::fill_from_log,
                sled::open_engine,
                subscriptions::{REGISTRY_TREE, RegistryTree},
            },
            log::{file_number, registry_log::REGISTRY_LOG},
            open_error::OpenError,
            records::FORMAT,
        },
    },
};

/// Why a backup was not written.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// There is something in the directory.
    #[error("{0} is not empty: give a new directory, or an empty one")]
    NotEmpty(PathBuf),
    /// The gateway is of another version.
    #[error(
        "the gateway's data directory has format {0}, and this version of tidings writes format {FORMAT}: use the version that the gateway has"
    )]
    Format(u32),
    /// A part is not what may come there.
    #[error("the gateway sent something unexpected: {0}")]
    Unexpected(String),
    /// A file did not arrive as it was sent.
    #[error("{0} did not arrive as it was sent: its length or its checksum is another one")]
    Damaged(String),
    /// The directory cannot be made or used.
    #[error(transparent)]
    Directory(#[from] OpenError),
}

/// A backup that is being written.
pub struct BackupReceiver {
    dir: PathBuf,
    _lock: File,
    current: Option<Current>,
    files: u64,
    bytes: u64,
}

/// A file that is being written.
struct Current {
    path: String,
    file: File,
    bytes: u64,
    hash: Xxh3,
}

/// A backup that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The key that the secrets in it are sealed with.
    pub key: Option<KeyId>,
}

impl BackupReceiver {
    /// Checks that a backup could be written to `dir`: it is empty or not there.
    ///
    /// # Errors
    ///
    /// It is not empty, or cannot be read.
    pub fn check_empty(dir: &Path) -> Result<(), ReceiveError> {
        match fs::read_dir(dir) {
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => Err(ReceiveError::NotEmpty(dir.to_owned())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(OpenError::of_file_system(dir, error).into()),
        }
    }

    /// Begins a backup of this format in `dir`, which is empty or not there.
    ///
    /// # Errors
    ///
    /// It is not empty, it cannot be written to, or the format is another one.
    pub fn begin(dir: &Path, format: u32) -> Result<Self, ReceiveError> {
        if format != FORMAT {
            return Err(ReceiveError::Format(format));
        }
        Self::check_empty(dir)?;
        let io = |error| OpenError::of_file_system(dir, error);
        create_private_dir(dir).map_err(io)?;
        // Events are in it. An empty directory may have been open to others.
        #[cfg(unix)]
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(io)?;
        let lock = take_lock(dir)?;
        write_unfinished(dir).map_err(io)?;
        for part in [LEDGER_DIR, ENGINE_DIR] {
            create_private_dir(&dir.join(part)).map_err(io)?;
        }
        Ok(Self { dir: dir.to_owned(), _lock: lock, current: None, files: 0, bytes: 0 })
    }

    /// Writes the next part. Returns the bytes of all files so far.
    ///
    /// # Errors
    ///
    /// The part is not one that may come here, or the file system refused it.
    pub fn write(&mut self, part: BackupPart) -> Result<u64, ReceiveError> {
        let io = |error| OpenError::of_file_system(&self.dir, error);
        match (part, self.current.take()) {
            (BackupPart::File(path), None) => {
                if !is_of_a_backup(&path) {
                    return Err(ReceiveError::Unexpected(format!("a file {path:?}")));
                }
                let mut options = OpenOptions::new();
                options.write(true).create_new(true);
                #[cfg(unix)]
                std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
                let file = options.open(self.dir.join(&path)).map_err(io)?;
                self.current = Some(Current { path, file, bytes: 0, hash: Xxh3::new() });
            }
            (BackupPart::Data(data), Some(mut current)) => {
                current.file.write_all(&data).map_err(io)?;
                current.hash.update(&data);
                current.bytes += data.len() as u64;
                self.bytes += data.len() as u64;
                self.current = Some(current);
            }
            (BackupPart::FileEnd(sum), Some(Current { path, file, bytes, hash })) => {
                if sum != (FileSum { bytes, checksum: hash.digest() }) {
                    return Err(ReceiveError::Damaged(path));
                }
                file.sync_all().map_err(io)?;
                self.files += 1;
            }
            (part, _) => {
                let part = match part {
                    BackupPart::File(_) => "a file within a file",
                    BackupPart::Data(_) => "data of no file",
                    BackupPart::FileEnd(_) => "the end of no file",
                };
                return Err(ReceiveError::Unexpected(part.to_owned()));
            }
        }
        Ok(self.bytes)
    }

    /// Completes the backup, which has this many files: the directory can be opened from then on.
    ///
    /// # Errors
    ///
    /// A file is missing or cannot be read, or the file system refused.
    pub fn finish(&mut self, files: u64) -> Result<Received, ReceiveError> {
        let dir = &*self.dir;
        let io = |error| OpenError::of_file_system(dir, error);
        if self.current.is_some() || files != self.files {
            let why = format!("the end, after {} files of {files}", self.files);
            return Err(ReceiveError::Unexpected(why));
        }
        let audit = dir.join(AUDIT);
        let mut records = BufReader::new(File::open(&audit).map_err(io)?);
        let db = open_engine(dir, true)?;
        fill_from_log(dir, &db)?;
        audit::restore(&db, &mut records).map_err(|error| OpenError::of_registry(dir, error))?;
        let of_engine = |error| OpenError::of_engine(dir, error);
        db.flush().map_err(of_engine)?;
        let tree = db.open_tree(REGISTRY_TREE).map_err(of_engine)?;
        let key = RegistryTree::key_of(&tree).map_err(|error| OpenError::of_registry(dir, error))?;
        drop((tree, db));
        let durable = || {
            fs::remove_file(audit)?;
            sync_all_in(&dir.join(ENGINE_DIR))?;
            sync_dir(&dir.join(LEDGER_DIR))?;
            sync_entry(dir)?;
            // Last, and durable with it that the others are there.
            sync_dir(dir)?;
            write_marker(dir, READY)
        };
        durable().map_err(io)?;
        Ok(Received { files: self.files, bytes: self.bytes, key })
    }

    /// Removes what was written, the marker last.
    ///
    /// # Errors
    ///
    /// The file system refused.
    pub fn discard(self) -> io::Result<()> {
        let removed = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        for part in [LEDGER_DIR, ENGINE_DIR] {
            removed(fs::remove_dir_all(self.dir.join(part)))?;
        }
        for file in [AUDIT, CLEAN, MARKER, LOCK] {
            removed(fs::remove_file(self.dir.join(file)))?;
        }
        sync_dir(&self.dir)
    }
}

/// Whether a backup has a file of this path. Nothing else is written: the gateway may be somebody else's.
fn is_of_a_backup(path: &str) -> bool {
    match path.split_once('/') {
        None => [CLEAN, AUDIT].contains(&path),
        Some((LEDGER_DIR, name)) => [MANIFEST, REGISTRY_LOG].contains(&name) || file_number(name).is_some(),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin() -> (tempfile::TempDir, PathBuf, BackupReceiver) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("a/copy");
        let receiver = BackupReceiver::begin(&dir, FORMAT).unwrap();
        (temporary, dir, receiver)
    }

    fn file(path: &str) -> BackupPart {
        BackupPart::File(path.to_owned())
    }

    #[test]
    fn no_other_file_is_written_than_those_of_a_backup() {
        let paths = [
            "/etc/x",
            "../x",
            "ledger/../x",
            "ledger/x",
            "ledger//manifest",
            "TIDINGS",
            "store/db",
            "lock",
            "",
        ];
        for path in paths {
            let (_temporary, dir, mut receiver) = begin();
            let refused = receiver.write(file(path)).unwrap_err();
            assert!(matches!(refused, ReceiveError::Unexpected(_)), "{path}: {refused}");
            receiver.discard().unwrap();
            assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "{path}");
        }
    }

    #[test]
    fn a_file_that_arrived_changed_or_twice_or_not_at_all_is_noticed() {
        let sum =
            |bytes: &[u8]| FileSum { bytes: bytes.len() as u64, checksum: xxhash_rust::xxh3::xxh3_64(bytes) };
        let clean = || [file(CLEAN), BackupPart::Data(b"ab".to_vec())];
        for (end, is_whole) in [(sum(b"ab"), true), (sum(b"ac"), false), (sum(b"abc"), false)] {
            let (_temporary, _dir, mut receiver) = begin();
            for part in clean() {
                receiver.write(part).unwrap();
            }
            let ended = receiver.write(BackupPart::FileEnd(end));
            assert_eq!(ended.is_ok(), is_whole, "{ended:?}");
            if is_whole {
                assert!(receiver.write(file(CLEAN)).is_err(), "a second one");
            }
            let finished = receiver.finish(2).unwrap_err();
            assert!(matches!(finished, ReceiveError::Unexpected(_)), "{finished}");
        }
        let (_temporary, _dir, mut receiver) = begin();
        assert!(receiver.write(BackupPart::Data(vec![1])).is_err(), "of no file");
        let [begun, _] = clean();
        receiver.write(begun.clone()).unwrap();
        assert!(receiver.write(begun).is_err(), "within a file");
    }

    #[test]
    fn another_format_and_a_directory_with_something_in_it_are_refused() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path();
        let refused = |format| BackupReceiver::begin(dir, format).err();
        assert!(matches!(refused(FORMAT + 1), Some(ReceiveError::Format(_))));
        assert_eq!(fs::read_dir(dir).unwrap().count(), 0, "nothing is written before");
        fs::write(dir.join("file"), "").unwrap();
        assert!(matches!(refused(FORMAT), Some(ReceiveError::NotEmpty(_))));
    }
}
