//! How a record of the log is framed: the head in front of its payload.
//!
//! The head has two checksums: one of the whole record, and one of what a start needs of it. So damage in bodies, attempts
//! and indexes, which have checksums of their own, costs only them.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::LogPosition;

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Events and settlements: the only kind that replay applies.
    Commit = 1,
    /// Indexes of volumes; the manifest points to them.
    Index = 2,
    /// States of volumes' deliveries; the manifest points to them.
    State = 3,
    /// Owed events copied from a removed file; the manifest points to them.
    Relocated = 4,
    /// A change of the registry; in its own log only.
    Registry = 5,
    /// In place of records that were damaged: the sequence number of the next event, and the number of the next record (0 or
    /// missing: the next one), 8 bytes each, little endian.
    Lost = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        let kinds = [Self::Commit, Self::Index, Self::State, Self::Relocated, Self::Registry, Self::Lost];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Bytes in front of a record's payload: magic, kind, length, file, offset, number, checksum of the core, checksum.
pub(super) const HEAD_BYTES: usize = 40;
pub(super) const MAGIC: [u8; 4] = *b"Tdgs";
/// In front of a commit's record: its length.
pub const COMMIT_HEAD: usize = 4;
/// Records begin at multiples of this.
pub(super) const ALIGN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) len: u32,
    pub(super) number: u64,
    /// See [`core_checksum`].
    pub(super) core_checksum: u32,
    pub(super) checksum: u64,
}

impl Head {
    /// Fills the head of `record`, whose payload is complete.
    pub(super) fn fill(record: &mut [u8], kind: Kind, pos: LogPosition, number: u64) {
        let len = u32::try_from(record.len() - HEAD_BYTES).expect("a record is below 4 GiB");
        record[..4].copy_from_slice(&MAGIC);
        record[4..8].copy_from_slice(&[kind as u8, 0, 0, 0]);
        record[8..12].copy_from_slice(&len.to_le_bytes());
        record[12..20].copy_from_slice(&pos.raw().to_le_bytes());
        record[20..28].copy_from_slice(&number.to_le_bytes());
        record[28..HEAD_BYTES].fill(0);
        let core = core_checksum(kind, record);
        record[28..32].copy_from_slice(&core.to_le_bytes());
        let checksum = record_checksum(record);
        record[32..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The head at `pos`, if there is one. The checksums are still to be checked.
    pub(super) fn read(bytes: &[u8; HEAD_BYTES], pos: LogPosition) -> Option<Self> {
        if bytes[..4] != MAGIC || bytes[5..8] != [0; 3] {
            return None;
        }
        let number = |from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().expect("eight bytes"));
        if number(12) != pos.raw() {
            return None;
        }
        let half = |from: usize| u32::from_le_bytes(bytes[from..from + 4].try_into().expect("four bytes"));
        Some(Self {
            kind: Kind::from_byte(bytes[4])?,
            len: half(8),
            number: number(20),
            core_checksum: half(28),
            checksum: number(32),
        })
    }

    /// Whether what a start needs of this record is as it was written.
    pub(super) fn is_core_whole(&self, record: &[u8]) -> bool {
        self.core_checksum != NO_CORE && self.core_checksum == core_checksum(self.kind, record)
    }
}

/// In place of the checksum of a core, where there is none: the record is of use only as a whole, or was written before there
/// was this checksum.
const NO_CORE: u32 = 0;

/// The checksum of the head and of what follows in the payload and has no checksum of its own: of a commit its length and its
/// record, of indexes, states and moved bodies nothing.
fn core_checksum(kind: Kind, record: &[u8]) -> u32 {
    let payload = &record[HEAD_BYTES..];
    let core = match kind {
        Kind::Commit => {
            let Some((len, rest)) = payload.split_first_chunk::<COMMIT_HEAD>() else { return NO_CORE };
            let Some(of_record) = rest.get(..u32::from_le_bytes(*len) as usize) else { return NO_CORE };
            &payload[..COMMIT_HEAD + of_record.len()]
        }
        Kind::Index | Kind::State | Kind::Relocated => &[],
        Kind::Registry | Kind::Lost => return NO_CORE,
    };
    let mut hasher = Xxh3::new();
    hasher.update(&record[..28]);
    hasher.update(core);
    u32::try_from(hasher.digest() & u64::from(u32::MAX)).expect("32 bits are left").max(1)
}

/// The checksum of a record, without the field itself.
pub(super) fn record_checksum(record: &[u8]) -> u64 {
    let payload = xxh3_64(&record[HEAD_BYTES..]);
    let mut head = [0; HEAD_BYTES];
    head[..32].copy_from_slice(&record[..32]);
    head[32..].copy_from_slice(&payload.to_le_bytes());
    xxh3_64(&head)
}

pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(ALIGN)
}
