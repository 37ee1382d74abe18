//! The tree that a volume is kept in: what is written there, and what can be read without the ledger's lock.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock, RwLockReadGuard},
};

use ::sled::Tree;
use prost::Message;

use super::{
    records::{
        self, AttemptRecord, Attempts, OutcomeRecord, Outcomes, RecordError, SegmentIndex, VolumeKind,
    },
    values::{self, ReadError},
    volume::Segment,
};
use crate::{
    domain::{
        delivery::{Attempt, DeliveryKey},
        event::StoredEvent,
        ids::{EventName, Seq},
        time::UnixMicros,
    },
    proto::v1,
};

const NO_PANIC: &str = "no code panics while it holds this lock";

/// The tree that a volume is kept in, and what can be read of it without the ledger's lock.
#[derive(Clone, Debug)]
pub struct VolumeTree {
    /// The events' bytes alone: sled rewrites a leaf as a whole, and the small values beside them change all the time.
    bodies: Tree,
    tree: Tree,
    /// Whether it is dropped. Held while it is read, so that it is not dropped under a reader.
    dropped: Arc<RwLock<bool>>,
}

/// An attempt that is written down, and when.
pub struct JournalEntry {
    /// The outcome.
    pub outcome: OutcomeRecord,
    /// When it was written.
    pub time: UnixMicros,
    number: u64,
    place: usize,
}

/// What the trees of volumes are called: a prefix, then the first seq in twenty digits, so that names sort.
pub const VOLUME_PREFIX: &str = "volume/";
/// What the trees are called that hold the bodies of volumes, likewise.
pub const BODIES_PREFIX: &str = "bodies/";

/// The name of a tree of the volume that begins at `first`.
pub fn tree_name(prefix: &str, first: Seq) -> String {
    format!("{prefix}{:020}", first.0)
}

impl VolumeTree {
    /// The volume that begins at `first`, made if there is none.
    pub fn open(db: &::sled::Db, first: Seq) -> ::sled::Result<Self> {
        // In this order: where the second tree is, the first is.
        let bodies = db.open_tree(tree_name(BODIES_PREFIX, first))?;
        let tree = db.open_tree(tree_name(VOLUME_PREFIX, first))?;
        Ok(Self { bodies, tree, dropped: Arc::default() })
    }

    /// Removes the tree, once nobody reads it.
    pub fn drop_from(&self, db: &::sled::Db) -> ::sled::Result<()> {
        let mut dropped = self.dropped.write().expect(NO_PANIC);
        *dropped = true;
        db.drop_tree(self.tree.name())?;
        db.drop_tree(self.bodies.name())?;
        Ok(())
    }

    /// The numbers under which values of a kind are stored, rising.
    pub fn numbers(&self, kind: VolumeKind) -> Result<Vec<u64>, ReadError> {
        let _reading = self.reading()?;
        values::numbers(&self.tree, kind).collect()
    }

    fn reading(&self) -> Result<RwLockReadGuard<'_, bool>, ReadError> {
        let dropped = self.dropped.read().expect(NO_PANIC);
        if *dropped { Err(ReadError::Gone) } else { Ok(dropped) }
    }

    /// Stores a commit of events: the bodies, then the index that makes it count.
    pub fn put_segment(&self, first: Seq, index: &SegmentIndex, bodies: &[u8]) -> ::sled::Result<()> {
        values::put(&self.bodies, VolumeKind::Bodies, first.0, bodies)?;
        values::put(&self.tree, VolumeKind::Index, first.0, &index.encode_to_vec())
    }

    /// Stores settlements: the attempts, then the outcomes that make them count. Returns the length of the attempts.
    pub fn put_journal(
        &self,
        number: u64,
        mut outcomes: Outcomes,
        attempts: Vec<AttemptRecord>,
    ) -> ::sled::Result<u64> {
        assert_eq!(outcomes.deliveries.len(), attempts.len(), "each outcome has its attempt");
        let attempts = Attempts { attempts }.encode_to_vec();
        outcomes.attempts_bytes = attempts.len() as u64;
        values::put(&self.tree, VolumeKind::Attempts, number, &attempts)?;
        values::put(&self.tree, VolumeKind::Outcomes, number, &outcomes.encode_to_vec())?;
        Ok(outcomes.attempts_bytes)
    }

    /// The index of the commit that begins at `first`.
    pub fn index(&self, first: Seq) -> Result<SegmentIndex, ReadError> {
        let value = self.must(VolumeKind::Index, first.0)?;
        Ok(SegmentIndex::decode(&*value).map_err(RecordError::from)?)
    }

    /// The outcomes of one journal entry.
    pub fn outcomes(&self, number: u64) -> Result<Outcomes, ReadError> {
        let value = self.must(VolumeKind::Outcomes, number)?;
        Ok(Outcomes::decode(&*value).map_err(RecordError::from)?)
    }

    /// Reads events of one commit; `wanted` says which, and they come in its order.
    pub fn events(&self, segment: Segment, wanted: &[Seq]) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        let index = self.index(segment.first)?;
        let bodies = self.must(VolumeKind::Bodies, segment.first.0)?;
        let mut ranges = Vec::with_capacity(index.events.len());
        let mut end = 0;
        for entry in &index.events {
            let start = end;
            end += entry.body_len as usize;
            ranges.push(start..end);
        }
        let read = |&seq: &Seq| {
            let place = usize::try_from(seq.0 - segment.first.0).expect("an event is in its segment");
            let (Some(entry), Some(range)) = (index.events.get(place), ranges.get(place)) else {
                return Err(RecordError(format!("event {} is not in its segment", seq.0)).into());
            };
            let body =
                bodies.get(range.clone()).ok_or_else(|| RecordError("a body is cut off".to_owned()))?;
            let event = v1::Event::decode(body).map_err(RecordError::from)?;
            let id = entry.id.parse().map_err(|e| RecordError(format!("event id: {e}")))?;
            let name = EventName { account: records::account(entry)?, id };
            Ok(Arc::new(StoredEvent::new(seq, name, UnixMicros(index.create_time), event)))
        };
        wanted.iter().map(read).collect()
    }

    /// What was written down of these deliveries, in the order of writing.
    pub fn journal_of(
        &self,
        keys: &[DeliveryKey],
    ) -> Result<HashMap<DeliveryKey, Vec<JournalEntry>>, ReadError> {
        let mut found: HashMap<_, Vec<_>> = keys.iter().map(|&key| (key, Vec::new())).collect();
        for number in self.numbers(VolumeKind::Outcomes)? {
            let outcomes = self.outcomes(number)?;
            for (place, outcome) in outcomes.deliveries.into_iter().enumerate() {
                if let Some(entries) = found.get_mut(&outcome.key()) {
                    entries.push(JournalEntry { outcome, time: UnixMicros(outcomes.time), number, place });
                }
            }
        }
        Ok(found)
    }

    /// The attempts of journal entries, in their order.
    pub fn attempts(&self, entries: &[&JournalEntry]) -> Result<Vec<Attempt>, ReadError> {
        let read = |entry: &&JournalEntry| {
            let value = self.must(VolumeKind::Attempts, entry.number)?;
            let mut attempts = Attempts::decode(&*value).map_err(RecordError::from)?.attempts;
            if entry.place >= attempts.len() {
                return Err(
                    RecordError(format!("attempt {} of journal {}", entry.place, entry.number)).into()
                );
            }
            Ok(attempts.swap_remove(entry.place).try_into()?)
        };
        entries.iter().map(read).collect()
    }

    fn must(&self, kind: VolumeKind, number: u64) -> Result<Vec<u8>, ReadError> {
        let _reading = self.reading()?;
        let tree = if kind == VolumeKind::Bodies { &self.bodies } else { &self.tree };
        let value = values::get(tree, kind, number)?;
        Ok(value.ok_or_else(|| RecordError(format!("{kind:?} {number} is missing")))?)
    }
}
