//! How a record of the log is framed: the head in front of its payload.

use xxhash_rust::xxh3::xxh3_64;

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
    /// In place of records that were damaged: the sequence number of the next event, 8 bytes, little endian.
    Lost = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        let kinds = [Self::Commit, Self::Index, Self::State, Self::Relocated, Self::Registry, Self::Lost];
        kinds.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Bytes in front of a record's payload: magic, kind, length, file, offset, number, checksum.
pub(super) const HEAD_BYTES: usize = 40;
pub(super) const MAGIC: [u8; 4] = *b"Tdgs";
/// Records begin at multiples of this.
pub(super) const ALIGN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) len: u32,
    pub(super) number: u64,
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
        let checksum = record_checksum(record);
        record[32..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The head at `pos`, if there is one. The checksum is still to be checked.
    pub(super) fn read(bytes: &[u8; HEAD_BYTES], pos: LogPosition) -> Option<Self> {
        if bytes[..4] != MAGIC || bytes[5..8] != [0; 3] || bytes[28..32] != [0; 4] {
            return None;
        }
        let number = |from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().expect("eight bytes"));
        if number(12) != pos.raw() {
            return None;
        }
        let len = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
        Some(Self { kind: Kind::from_byte(bytes[4])?, len, number: number(20), checksum: number(32) })
    }
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
