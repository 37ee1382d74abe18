//! Finds the volume of an event by the id that its publisher chose.
//!
//! A 32-bit hash leads to the volumes that may have the id; their details have the ids themselves. New hashes
//! go into a table. A large table becomes a sorted list of five bytes an id, which lookups search after the
//! table.

use std::collections::{HashMap, hash_map::Entry};

use xxhash_rust::xxh3::Xxh3Default;

use crate::domain::ids::{AccountId, EventId, Seq};

/// Ids in a table before it becomes a list; also about how many a list has.
const LIST_IDS: usize = 256 * 1024;
/// Most volumes in a list: they are known by a byte there.
const LIST_VOLUMES: usize = 256;

/// Finds volumes by ids.
#[derive(Debug, Default)]
pub struct IdIndex {
    table: HashMap<u32, Seq>,
    /// The later ones of the table that share a hash, which is rare.
    others: HashMap<u32, Vec<Seq>>,
    /// The volumes in the table, in order.
    tabled: Vec<Seq>,
    lists: Vec<List>,
}

#[derive(Debug)]
struct List {
    /// In ascending order.
    hashes: Vec<u32>,
    /// For each hash its volume, by its number in `volumes`.
    volume_numbers: Vec<u8>,
    volumes: Vec<Seq>,
    /// How many of these are still there.
    alive: usize,
}

/// The hash of an id. It is on disk: never to be changed.
pub fn hash(account: AccountId, id: &EventId) -> u32 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&account.get().to_le_bytes());
    hasher.update(id.as_str().as_bytes());
    u32::try_from(hasher.digest() & u64::from(u32::MAX)).expect("32 bits are left")
}

impl IdIndex {
    /// Adds an id of a volume, which is the last one or the one after it.
    pub fn insert(&mut self, hash: u32, volume: Seq) {
        if self.tabled.last() != Some(&volume) {
            if self.table.len() >= LIST_IDS || self.tabled.len() == LIST_VOLUMES {
                self.make_list();
            }
            self.tabled.push(volume);
        }
        match self.table.entry(hash) {
            Entry::Vacant(position) => drop(position.insert(volume)),
            Entry::Occupied(position) if *position.get() == volume => {}
            Entry::Occupied(_) => self.others.entry(hash).or_default().push(volume),
        }
    }

    /// The volumes that may have an id of this hash, the latest first.
    pub fn volumes(&self, hash: u32) -> Vec<Seq> {
        let tabled = self.others.get(&hash).into_iter().flatten().chain(self.table.get(&hash));
        let mut found: Vec<Seq> = tabled.copied().collect();
        for list in self.lists.iter().rev() {
            let from = list.hashes.partition_point(|other| *other < hash);
            let same = list.hashes[from..].iter().take_while(|other| **other == hash).count();
            found.extend(
                list.volume_numbers[from..from + same]
                    .iter()
                    .map(|position| list.volumes[usize::from(*position)]),
            );
        }
        found
    }

    /// Forgets a volume, as far as that makes room: it may be found on and is not there then.
    pub fn remove(&mut self, volume: Seq) {
        if let Some(list) = self.lists.iter_mut().find(|list| list.volumes.contains(&volume)) {
            list.alive -= 1;
            self.lists.retain(|list| list.alive > 0);
        } else if self.tabled.contains(&volume) {
            self.tabled.retain(|other| *other != volume);
            self.table.retain(|_, other| *other != volume);
            for (hash, mut volumes) in std::mem::take(&mut self.others) {
                volumes.retain(|other| *other != volume);
                if !self.table.contains_key(&hash)
                    && let Some(next) = volumes.pop()
                {
                    self.table.insert(hash, next);
                }
                if !volumes.is_empty() {
                    self.others.insert(hash, volumes);
                }
            }
        }
    }

    fn make_list(&mut self) {
        let volumes = std::mem::take(&mut self.tabled);
        let position = |volume: Seq| {
            let position = volumes.iter().position(|other| *other == volume).expect("it is in the table");
            u8::try_from(position).expect("there are LIST_VOLUMES at most")
        };
        let others =
            self.others.drain().flat_map(|(hash, all)| all.into_iter().map(move |volume| (hash, volume)));
        let mut all: Vec<(u32, Seq)> = self.table.drain().chain(others).collect();
        all.sort_unstable();
        let (hashes, volume_numbers) = all.into_iter().map(|(hash, volume)| (hash, position(volume))).unzip();
        self.table = HashMap::new();
        let alive = volumes.len();
        self.lists.push(List { hashes, volume_numbers, volumes, alive });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_is_found_until_its_volume_is_gone() {
        let mut index = IdIndex::default();
        let hash_of =
            |number: u64| hash(AccountId::new(1).unwrap(), &format!("id-{number}").parse().unwrap());
        let volume_of = |number: u64| Seq(1 + number / 1000 * 1000);
        for number in 0..600_000 {
            index.insert(hash_of(number), volume_of(number));
        }
        assert!(index.lists.len() > 1 && !index.table.is_empty());
        for number in (0..600_000).step_by(97) {
            assert!(index.volumes(hash_of(number)).contains(&volume_of(number)), "{number}");
        }
        let strangers =
            (600_000..700_000).filter(|number| !index.volumes(hash_of(*number)).is_empty()).count();
        assert!(strangers < 100, "{strangers} ids that are not there seem to be");
        for volume in (0..600).map(|volume| Seq(1 + volume * 1000)) {
            index.remove(volume);
        }
        assert!(index.lists.is_empty() && index.table.is_empty() && index.others.is_empty());
    }

    #[test]
    fn ids_that_share_a_hash_are_all_found() {
        let mut index = IdIndex::default();
        for volume in [1, 5, 9] {
            index.insert(7, Seq(volume));
        }
        assert_eq!(index.volumes(7).len(), 3);
        index.remove(Seq(1));
        assert_eq!(index.volumes(7).len(), 2);
        index.make_list();
        assert_eq!(index.volumes(7).len(), 2);
    }
}
