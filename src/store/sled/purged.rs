//! Which events retention has removed, so that a gap that it left is told from a loss.

use std::collections::BTreeMap;

use ::sled::{Batch, Tree};

use super::records::{RecordError, RegistryKind};
use crate::domain::ids::Seq;

/// The removed places, as ranges that never touch, and how far the journal had come when they were removed.
#[derive(Debug, Default)]
pub struct Purged {
    /// By first place, the place after the last.
    ranges: BTreeMap<u64, u64>,
    /// The least number that the next journal entry may have.
    pub next_journal: u64,
}

impl Purged {
    /// Reads the ranges from the registry's tree.
    pub fn open(tree: &Tree) -> Result<Self, super::values::ReadError> {
        let mut purged = Self::default();
        for row in tree.scan_prefix([RegistryKind::Purged as u8]) {
            let (key, value) = row?;
            let (Some(first), Some(end), Some(next_journal)) =
                (number(&key, 1), number(&value, 0), number(&value, 8))
            else {
                return Err(RecordError("a range of removed events".to_owned()).into());
            };
            purged.ranges.insert(first, end);
            purged.next_journal = purged.next_journal.max(next_journal);
        }
        Ok(purged)
    }

    /// The first place from `seq` on that was not removed.
    pub fn skip(&self, seq: Seq) -> Seq {
        match self.ranges.range(..=seq.0).next_back() {
            Some((_, &end)) if end > seq.0 => Seq(end),
            _ => seq,
        }
    }

    /// Notes on disk and here that the events from `first` to before `end` are removed.
    pub fn add(&mut self, tree: &Tree, first: Seq, end: Seq, next_journal: u64) -> ::sled::Result<()> {
        let (mut first, mut end) = (first.0, end.0);
        let mut batch = Batch::default();
        if let Some((&before, &touching)) = self.ranges.range(..first).next_back()
            && touching == first
        {
            first = before;
        }
        if let Some(after) = self.ranges.remove(&end) {
            batch.remove(&key(end));
            end = after;
        }
        self.ranges.insert(first, end);
        self.next_journal = next_journal;
        let value = [end.to_be_bytes(), next_journal.to_be_bytes()].concat();
        batch.insert(&key(first), value);
        tree.apply_batch(batch)
    }
}

fn number(bytes: &[u8], from: usize) -> Option<u64> {
    bytes.get(from..from + 8)?.try_into().ok().map(u64::from_be_bytes)
}

fn key(first: u64) -> [u8; 9] {
    let mut key = [RegistryKind::Purged as u8; 9];
    key[1..].copy_from_slice(&first.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_touch_become_one_and_come_back() {
        let db = ::sled::Config::new().temporary(true).open().unwrap();
        let mut purged = Purged::default();
        for (first, end) in [(1, 5), (9, 12), (5, 9), (20, 21)] {
            purged.add(&db, Seq(first), Seq(end), first * 10).unwrap();
        }
        for purged in [&purged, &Purged::open(&db).unwrap()] {
            assert_eq!(purged.ranges.len(), 2);
            assert_eq!(
                (purged.skip(Seq(1)), purged.skip(Seq(11)), purged.skip(Seq(12))),
                (Seq(12), Seq(12), Seq(12))
            );
            assert_eq!(
                (purged.skip(Seq(19)), purged.skip(Seq(20)), purged.skip(Seq(21))),
                (Seq(19), Seq(21), Seq(21))
            );
            assert_eq!(purged.next_journal, 200);
        }
    }
}
