//! The audit records in a backup: each as a length of four bytes, little endian, and a row.

use std::{
    io::{self, Read},
    sync::Arc,
};

use ::sled::{Batch, Db};
use prost::Message as _;

use crate::{
    domain::{
        audit::{AuditKey, AuditRecord},
        time::UnixMicros,
    },
    store::{
        StoreError,
        audit::AuditBytes,
        disk::{
            kv::{
                audit_index::{last_key, totals_row},
                audit_log::AUDIT_TREE,
                audit_record::{AuditKind, AuditRow, decode, key_in},
                engine::Engine,
                subscriptions::RegistryError,
            },
            records::{RecordError, RowRecord},
        },
    },
};

/// The longest row, in bytes: more than any record has.
const ROW_BYTES_MAX: u32 = 1024 * 1024;
/// Records that are written together.
const RECORDS_PER_BATCH: usize = 256;

/// The records up to one moment, as they were then.
pub(super) struct AuditCopy {
    engine: Arc<Engine>,
    last: AuditKey,
    time: UnixMicros,
    /// The last one that was read; `None` at the beginning.
    read: Option<AuditKey>,
}

impl AuditCopy {
    pub(super) fn until_now(engine: Arc<Engine>, time: UnixMicros) -> Result<Self, StoreError> {
        let last = engine.with(|sled| last_key(&sled.tree(AUDIT_TREE)?))?;
        Ok(Self { engine, last, time, read: None })
    }

    /// About as many bytes of records; none at the end.
    pub(super) fn read(&mut self, bytes_max: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let mut read = self.read;
        let first = match read {
            Some(read) => AuditKey { number: read.number + 1, ..read },
            None => {
                put(&mut bytes, &totals_row(AuditBytes::default(), self.last, false));
                AuditKey { time: UnixMicros(i64::MIN), number: 0 }
            }
        };
        if first > self.last {
            return Ok(bytes);
        }
        let range = key_in(AuditKind::Record, first).to_vec()..=key_in(AuditKind::Record, self.last).to_vec();
        self.engine.with(|sled| {
            for row in sled.tree(AUDIT_TREE)?.range(range) {
                let (key, value) = row?;
                let record = self.as_it_was(decode(&key, &value)?);
                read = Some(record.key);
                put(&mut bytes, &RowRecord::put(&*key, AuditRow::from(record).encode_to_vec()));
                if bytes.len() >= bytes_max {
                    return Ok(());
                }
            }
            read = Some(self.last);
            Ok(())
        })?;
        self.read = read;
        Ok(bytes)
    }

    /// A call that ended after the moment was still running: its change may not be in the copy. Repeats of calls that
    /// changed nothing are as many as there are by now.
    fn as_it_was(&self, record: AuditRecord) -> AuditRecord {
        match record.end_time {
            Some(end) if end > self.time => AuditRecord::begun(record.key, record.call),
            _ => record,
        }
    }
}

fn put(bytes: &mut Vec<u8>, row: &RowRecord) {
    let len = u32::try_from(row.encoded_len()).expect("a record is bounded");
    bytes.extend(len.to_le_bytes());
    row.encode(bytes).expect("a vector grows");
}

/// Writes the records of a backup into a new sled. The next start makes the index of them.
pub(super) fn restore(db: &Db, records: &mut impl Read) -> Result<(), RegistryError> {
    let tree = db.open_tree(AUDIT_TREE)?;
    let (mut batch, mut count) = (Batch::default(), 0);
    while let Some(RowRecord { key, value }) = next(records)? {
        let value = value.unwrap_or_default();
        if key == [AuditKind::Usage as u8] {
            tree.insert(key, value)?;
            continue;
        }
        decode(&key, &value)?;
        batch.insert(key, value);
        count += 1;
        if count % RECORDS_PER_BATCH == 0 {
            tree.apply_batch(std::mem::take(&mut batch))?;
            db.flush()?;
        }
    }
    Ok(tree.apply_batch(batch)?)
}

/// The next row; `None` at the end.
fn next(records: &mut impl Read) -> Result<Option<RowRecord>, RegistryError> {
    let mut len = [0; 4];
    match records.read_exact(&mut len) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let len = u32::from_le_bytes(len);
    if len > ROW_BYTES_MAX {
        return Err(RecordError(format!("an audit record of {len} bytes")).into());
    }
    let mut row = vec![0; len as usize];
    records.read_exact(&mut row)?;
    Ok(Some(RowRecord::decode(&*row).map_err(RecordError::from)?))
}
