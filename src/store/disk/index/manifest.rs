//! The manifest: the position of every volume as of a checkpoint. Every checkpoint writes it again and
//! replaces it atomically.
//!
//! A start reads the manifest and replays the log from its position. Of the log before that, only the slices
//! that the manifest points to are needed.

use std::{collections::BTreeMap, fmt, fs, path::Path};

use prost::Message;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::volume::{IndexSlices, SubscriptionCounts, Volume};
use crate::{
    domain::{ids::Seq, time::UnixMicros},
    store::disk::{
        fs::replace_file,
        log::{LogPosition, LogReader, LogSlice, file_name},
        records::RecordError,
    },
};

/// The name of its file.
pub const MANIFEST: &str = "manifest";

/// The content of the manifest.
#[derive(Debug)]
pub struct Manifest {
    /// The id of the store that it belongs to.
    pub store: Uuid,
    /// Position from which a start replays the log.
    pub pos: LogPosition,
    /// The number of the record there.
    pub number: u64,
    /// The sequence number of the next event.
    pub next_seq: Seq,
    /// The time of the newest event.
    pub last_time: UnixMicros,
    /// The steady time of the newest commit.
    pub last_steady: UnixMicros,
    /// The bytes in use of the log files.
    pub used: BTreeMap<u32, u32>,
    /// Steady time of the last commit in each.
    pub file_times: BTreeMap<u32, UnixMicros>,
    /// The number of the registry's last change, which is durable. 0 if unknown.
    pub registry_change: u64,
    /// The volumes, in order. Each is stored.
    pub volumes: Vec<Volume>,
}

/// A log file that is missing or ends too early.
#[derive(Clone, Copy, Debug)]
pub struct LostFile {
    /// Its number.
    pub file: u32,
    /// Its bytes; `None` if it is missing.
    pub there: Option<u64>,
    /// The bytes that the manifest knows of.
    pub wanted: u32,
}

impl fmt::Display for LostFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = file_name(self.file);
        match self.there {
            None => write!(f, "ledger/{name} is missing"),
            Some(there) => {
                write!(
                    f,
                    "ledger/{name} ends at byte {there}, and ledger/{MANIFEST} goes on at byte {}",
                    self.wanted
                )
            }
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct ManifestRecord {
    #[prost(fixed64, tag = "1")]
    pos: u64,
    #[prost(uint64, tag = "2")]
    number: u64,
    #[prost(uint64, tag = "3")]
    next_seq: u64,
    #[prost(int64, tag = "4")]
    last_time: i64,
    #[prost(btree_map = "uint32, uint32", tag = "5")]
    used: BTreeMap<u32, u32>,
    #[prost(message, repeated, tag = "6")]
    volumes: Vec<VolumeRecord>,
    #[prost(btree_map = "uint32, int64", tag = "7")]
    file_times: BTreeMap<u32, i64>,
    #[prost(bytes = "vec", tag = "8")]
    store: Vec<u8>,
    /// 0 in manifests of versions without steady times.
    #[prost(int64, tag = "9")]
    last_steady: i64,
    #[prost(uint64, tag = "10")]
    registry_change: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct VolumeRecord {
    #[prost(uint64, tag = "1")]
    first: u64,
    #[prost(uint64, tag = "2")]
    end: u64,
    #[prost(uint32, tag = "3")]
    events: u32,
    #[prost(uint64, tag = "4")]
    bytes: u64,
    #[prost(int64, tag = "5")]
    first_time: i64,
    #[prost(int64, tag = "6")]
    last_time: i64,
    #[prost(uint32, tag = "7")]
    file: u32,
    #[prost(int64, repeated, tag = "9")]
    accounts: Vec<i64>,
    #[prost(uint32, repeated, tag = "10")]
    subscriptions: Vec<u32>,
    /// Five for each subscription.
    #[prost(uint32, repeated, tag = "11")]
    counts: Vec<u32>,
    #[prost(bool, tag = "12")]
    has_added: bool,
    #[prost(message, optional, tag = "13")]
    index: Option<LogSliceRecord>,
    #[prost(message, optional, tag = "14")]
    ids: Option<LogSliceRecord>,
    #[prost(message, optional, tag = "15")]
    state: Option<LogSliceRecord>,
    #[prost(btree_map = "uint32, int64", tag = "16")]
    dues: BTreeMap<u32, i64>,
    /// The accounts with owed events, and the bytes of these.
    #[prost(int64, repeated, tag = "17")]
    owing_accounts: Vec<i64>,
    #[prost(uint64, repeated, tag = "18")]
    owed_bytes: Vec<u64>,
    /// False in manifests of versions without these bytes.
    #[prost(bool, tag = "19")]
    owed_bytes_known: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct LogSliceRecord {
    #[prost(fixed64, tag = "1")]
    pos: u64,
    #[prost(uint32, tag = "2")]
    len: u32,
    #[prost(fixed32, tag = "3")]
    checksum: u32,
}

/// In front of the record: what it is, and its checksum.
const MAGIC: [u8; 8] = *b"tidings1";

/// Sequence and record numbers stay below this: ids made by the server have room for as many bits.
const COUNT_MAX: u64 = 1 << 50;

impl Manifest {
    /// Of a log without records.
    pub fn empty(store: Uuid, pos: LogPosition) -> Self {
        Self {
            store,
            pos,
            number: 1,
            next_seq: Seq(1),
            last_time: UnixMicros(0),
            last_steady: UnixMicros(0),
            used: BTreeMap::new(),
            file_times: BTreeMap::new(),
            registry_change: 0,
            volumes: Vec::new(),
        }
    }

    /// Reads the one in `dir`.
    pub fn read(dir: &Path) -> Result<Self, RecordError> {
        let unreadable = |why: &str| RecordError(format!("ledger/{MANIFEST}: {why}"));
        Self::decode(&fs::read(dir.join(MANIFEST)).map_err(|error| unreadable(&error.to_string()))?)
    }

    /// Reads the bytes of one.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let unreadable = |why: &str| RecordError(format!("ledger/{MANIFEST}: {why}"));
        let (head, record) = bytes.split_at_checked(16).ok_or_else(|| unreadable("it is cut off"))?;
        if head[..8] != MAGIC || head[8..] != xxh3_64(record).to_le_bytes() {
            return Err(unreadable("it is not what was written"));
        }
        let record = ManifestRecord::decode(record)?;
        if !(1..=COUNT_MAX).contains(&record.next_seq) || !(1..=COUNT_MAX).contains(&record.number) {
            return Err(unreadable("its numbers are out of range"));
        }
        Ok(Self {
            store: Uuid::from_slice(&record.store).map_err(|error| unreadable(&error.to_string()))?,
            pos: LogPosition::from_raw(record.pos),
            number: record.number,
            next_seq: Seq(record.next_seq),
            last_time: UnixMicros(record.last_time),
            last_steady: UnixMicros(if record.last_steady == 0 {
                record.last_time
            } else {
                record.last_steady
            }),
            used: record.used,
            registry_change: record.registry_change,
            file_times: record.file_times.into_iter().map(|(file, time)| (file, UnixMicros(time))).collect(),
            volumes: record.volumes.into_iter().map(VolumeRecord::into_volume).collect::<Result<_, _>>()?,
        })
    }

    /// The log files without which a start is refused: those that are missing, and the one where a replay begins if it ends before.
    pub fn lost_files(&self, log: &LogReader) -> std::io::Result<Vec<LostFile>> {
        let mut wanted = self.used.clone();
        let of_volumes = self.volumes.iter().filter_map(|volume| Some((volume.file, volume.stored()?)));
        let slices = of_volumes
            .flat_map(|(bodies, stored)| [bodies, stored.index.events.pos.file(), stored.state.pos.file()]);
        for file in slices {
            wanted.entry(file).or_default();
        }
        wanted.insert(self.pos.file(), self.pos.offset());
        let mut lost = Vec::new();
        for (file, wanted) in wanted {
            let there = log.bytes_of(file)?;
            let enough = if file == self.pos.file() { wanted.into() } else { 0 };
            if there.is_none_or(|there| there < enough) {
                lost.push(LostFile { file, there, wanted });
            }
        }
        Ok(lost)
    }

    /// Puts it into `dir`, durably. After a crash it is there, or the one before.
    pub fn write<'a>(
        dir: &Path,
        checkpoint: &Self,
        volumes: impl Iterator<Item = &'a Volume>,
    ) -> std::io::Result<()> {
        replace_file(dir, MANIFEST, &Self::encode(checkpoint, volumes))
    }

    /// The bytes of one.
    pub fn encode<'a>(checkpoint: &Self, volumes: impl Iterator<Item = &'a Volume>) -> Vec<u8> {
        let record = ManifestRecord {
            store: checkpoint.store.as_bytes().to_vec(),
            pos: checkpoint.pos.raw(),
            number: checkpoint.number,
            next_seq: checkpoint.next_seq.0,
            last_time: checkpoint.last_time.0,
            last_steady: checkpoint.last_steady.0,
            used: checkpoint.used.clone(),
            registry_change: checkpoint.registry_change,
            file_times: checkpoint.file_times.iter().map(|(file, time)| (*file, time.0)).collect(),
            volumes: volumes.map(VolumeRecord::from).collect(),
        };
        Self::framed(&record.encode_to_vec())
    }

    /// A record behind what it is and its checksum.
    pub(crate) fn framed(record: &[u8]) -> Vec<u8> {
        [&MAGIC[..], &xxh3_64(record).to_le_bytes(), record].concat()
    }
}

impl From<&Volume> for VolumeRecord {
    fn from(volume: &Volume) -> Self {
        let stored = volume.stored().expect("a checkpoint stores every volume");
        Self {
            first: volume.first.0,
            end: volume.end.0,
            events: volume.events,
            bytes: volume.bytes,
            first_time: volume.first_time.0,
            last_time: volume.last_time.0,
            file: volume.file,
            accounts: volume.accounts.clone(),
            subscriptions: volume.subscriptions.iter().map(|counts| counts.subscription).collect(),
            counts: volume.subscriptions.iter().flat_map(|counts| counts.raw().map(u32::from)).collect(),
            has_added: volume.has_added,
            index: Some(stored.index.events.into()),
            ids: Some(stored.index.ids.into()),
            state: Some(stored.state.into()),
            dues: volume.dues.iter().map(|(subscription, due)| (*subscription, due.0)).collect(),
            owing_accounts: volume.owed_bytes.iter().map(|(account, _)| *account).collect(),
            owed_bytes: volume.owed_bytes.iter().map(|(_, bytes)| *bytes).collect(),
            owed_bytes_known: volume.owed_bytes_known,
        }
    }
}

impl VolumeRecord {
    fn into_volume(self) -> Result<Volume, RecordError> {
        let unreadable = || RecordError(format!("ledger/{MANIFEST}: volume {}", self.first));
        if self.counts.len() != self.subscriptions.len() * 5 {
            return Err(unreadable());
        }
        let mut subscriptions = Vec::with_capacity(self.subscriptions.len());
        for (subscription, counts) in self.subscriptions.iter().zip(self.counts.chunks_exact(5)) {
            let mut raw = [0; 5];
            for (raw, count) in raw.iter_mut().zip(counts) {
                *raw = u16::try_from(*count).map_err(|_| unreadable())?;
            }
            subscriptions.push(SubscriptionCounts::from_raw(*subscription, raw));
        }
        let is_in_order = self.owing_accounts.is_sorted_by(|one, next| one < next);
        if !is_in_order || self.owing_accounts.len() != self.owed_bytes.len() {
            return Err(unreadable());
        }
        let slice = |record: Option<LogSliceRecord>| record.map(LogSlice::from).ok_or_else(unreadable);
        Ok(Volume {
            first: Seq(self.first),
            end: Seq(self.end),
            events: self.events,
            bytes: self.bytes,
            first_time: UnixMicros(self.first_time),
            last_time: UnixMicros(self.last_time),
            file: self.file,
            subscriptions,
            owed_bytes: self.owing_accounts.iter().copied().zip(self.owed_bytes).collect(),
            owed_bytes_known: self.owed_bytes_known,
            dues: self.dues.into_iter().map(|(subscription, due)| (subscription, UnixMicros(due))).collect(),
            has_added: self.has_added,
            index: Some(IndexSlices { events: slice(self.index)?, ids: slice(self.ids)? }),
            state: Some(slice(self.state)?),
            accounts: self.accounts,
        })
    }
}

impl From<LogSlice> for LogSliceRecord {
    fn from(slice: LogSlice) -> Self {
        Self { pos: slice.pos.raw(), len: slice.len, checksum: slice.checksum }
    }
}

impl From<LogSliceRecord> for LogSlice {
    fn from(record: LogSliceRecord) -> Self {
        Self { pos: LogPosition::from_raw(record.pos), len: record.len, checksum: record.checksum }
    }
}
