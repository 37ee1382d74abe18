//! Copies a store while it is open.
//!
//! The writing thread only notes the moment: how far the log and the registry's log have come, which manifest is
//! valid, and the last audit record. Everything before that stays as it is, since logs only grow. Log files that
//! retention removes meanwhile are kept by the open files. Another thread reads.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _},
    sync::Arc,
};

use xxhash_rust::xxh3::Xxh3;

use self::audit::AuditCopy;
use super::{
    data_dir::{CLEAN, LEDGER_DIR, clean_text},
    index::manifest::MANIFEST,
    kv::engine::Engine,
    log::{LogPosition, LogReader, file_name, registry_log::REGISTRY_LOG},
    records::FORMAT,
    writer::Writer,
};
use crate::store::{
    StoreError,
    backup::{Backup, BackupPart, FileSum},
};

mod audit;
pub mod receive;

/// Bytes of a part, about.
const PART_BYTES: u32 = 256 * 1024;
/// The list of audit records: rows of sled, whose own files cannot be copied while it is open.
const AUDIT: &str = "audit";

/// Notes what belongs to a copy of this moment. On the writing thread, between two writes.
pub(super) fn begin(writer: &Writer, engine: &Arc<Engine>) -> Result<Backup, StoreError> {
    writer.shared.working()?;
    let unreadable = |error: io::Error| StoreError::ReadFailed(error.to_string());
    let time = writer.shared.clock.now();
    let manifest = File::open(writer.ledger_dir.join(MANIFEST)).map_err(unreadable)?;
    let manifest_bytes = manifest.metadata().map_err(unreadable)?.len();
    let (registry, registry_bytes) = engine.log_now();
    let audit = AuditCopy::until_now(Arc::clone(engine), time)?;
    let next_seq = writer.shared.ledger().next_seq;
    let clean = clean_text(next_seq, writer.log.next_number(), engine.last_change());

    let in_ledger = |name: &str| format!("{LEDGER_DIR}/{name}");
    let mut files = VecDeque::from([
        (CLEAN.to_owned(), Content::Text(clean.into_bytes())),
        (in_ledger(MANIFEST), Content::Open(manifest)),
        (
            in_ledger(REGISTRY_LOG),
            Content::Log { reader: registry, next: LogPosition::default(), left: registry_bytes },
        ),
        (AUDIT.to_owned(), Content::Audit(audit)),
    ]);
    // The oldest first: retention wants their room first.
    let log = writer.log.files_now();
    let log_bytes: u64 = log.iter().map(|(_, _, used)| u64::from(*used)).sum();
    files.extend(log.into_iter().map(|(number, reader, left)| {
        (in_ledger(&file_name(number)), Content::Log { reader, next: LogPosition::new(number, 0), left })
    }));
    let bytes = manifest_bytes + u64::from(registry_bytes) + log_bytes;
    Ok(Backup { format: FORMAT, time, bytes, parts: Box::new(Parts { files, current: None }) })
}

/// The content of a file, as far as it is still to be read.
enum Content {
    Text(Vec<u8>),
    Open(File),
    Log { reader: LogReader, next: LogPosition, left: u32 },
    Audit(AuditCopy),
}

impl Content {
    /// The next bytes; none at the end.
    fn read(&mut self) -> Result<Vec<u8>, StoreError> {
        match self {
            Self::Text(text) => Ok(std::mem::take(text)),
            Self::Open(file) => {
                let mut bytes = Vec::new();
                let read = file.take(PART_BYTES.into()).read_to_end(&mut bytes);
                read.map_err(|error| StoreError::ReadFailed(error.to_string()))?;
                Ok(bytes)
            }
            Self::Log { reader, next, left } => {
                let len = (*left).min(PART_BYTES);
                let bytes = reader.read(*next, len as usize)?;
                (*next, *left) = (next.plus(bytes.len()), *left - len);
                Ok(bytes)
            }
            Self::Audit(records) => records.read(PART_BYTES as usize),
        }
    }
}

struct Parts {
    files: VecDeque<(String, Content)>,
    current: Option<Current>,
}

/// The file that is being read.
struct Current {
    content: Content,
    bytes: u64,
    hash: Xxh3,
}

impl Iterator for Parts {
    type Item = Result<BackupPart, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(mut current) = self.current.take() else {
            let (path, content) = self.files.pop_front()?;
            self.current = Some(Current { content, bytes: 0, hash: Xxh3::new() });
            return Some(Ok(BackupPart::File(path)));
        };
        let bytes = match current.content.read() {
            Ok(bytes) => bytes,
            Err(error) => {
                self.files.clear();
                return Some(Err(error));
            }
        };
        if bytes.is_empty() {
            let sum = FileSum { bytes: current.bytes, checksum: current.hash.digest() };
            return Some(Ok(BackupPart::FileEnd(sum)));
        }
        current.bytes += bytes.len() as u64;
        current.hash.update(&bytes);
        self.current = Some(current);
        Some(Ok(BackupPart::Data(bytes)))
    }
}
