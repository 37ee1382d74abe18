//! Audit records, in the plainest way.

use std::collections::{BTreeMap, HashMap};

use crate::{
    domain::{
        audit::{AuditKey, AuditRecord},
        time::UnixMicros,
    },
    store::{
        AuditQuery, AuditWrite, Page,
        audit::{AuditUsage, RepeatKey, counts_up, repeat_key},
    },
};

/// All of them.
pub(super) struct Audit {
    records: BTreeMap<AuditKey, AuditRecord>,
    /// Those that repeats are counted up in.
    repeated: HashMap<RepeatKey, AuditKey>,
    book: AuditUsage,
    bytes_max: u64,
}

impl Audit {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { records: BTreeMap::new(), repeated: HashMap::new(), book: AuditUsage::default(), bytes_max }
    }

    pub(super) fn note(&mut self, note: AuditWrite, now: UnixMicros) -> AuditKey {
        let (record, counts_up) = match note {
            AuditWrite::Begun(call) => (AuditRecord::begun(self.book.next(now), call), false),
            AuditWrite::Refused(call, end) => {
                let (key, counts_up) = (self.book.next(now), counts_up(&end));
                (AuditRecord::begun(key, call).ended(end, key.time), counts_up)
            }
            AuditWrite::Ended(key, end) => {
                let Some(record) = self.records.get(&key).filter(|record| record.end_time.is_none()) else {
                    return key;
                };
                self.book.remove(record);
                let counts_up = counts_up(&end);
                let record = self.records.remove(&key).expect("it was just there");
                (record.ended(end, now.max(key.time)), counts_up)
            }
        };
        if counts_up {
            let repeated = self.repeated.get(&repeat_key(&record)).and_then(|key| self.records.get_mut(key));
            if let Some(first) = repeated.filter(|first| first.is_repeated_by(&record)) {
                *first = first.clone().counting(&record);
                return first.key;
            }
            self.repeated.insert(repeat_key(&record), record.key);
        }
        let key = record.key;
        self.book.add(&record);
        self.records.insert(key, record);
        while let Some(excess) = self.book.excess(self.bytes_max) {
            let oldest = self.records.values().find(|record| excess.is_of(record)).map(|record| record.key);
            let Some(oldest) = oldest else { break };
            self.remove(oldest);
        }
        key
    }

    pub(super) fn records(&self, query: &AuditQuery) -> Page<AuditRecord, AuditKey> {
        let end = query.end();
        let wanted = self.records.values().rev().filter(|record| end.is_none_or(|end| record.key < end));
        let wanted = wanted.filter(|record| query.wants(record)).take(query.limit + 1);
        Page::cut(wanted.cloned().collect(), query.limit, |record| record.key)
    }

    pub(super) fn purge(&mut self, since: UnixMicros) -> u64 {
        let old: Vec<AuditKey> = self.records.keys().copied().take_while(|key| key.time < since).collect();
        old.iter().for_each(|key| self.remove(*key));
        old.len() as u64
    }

    fn remove(&mut self, key: AuditKey) {
        if let Some(record) = self.records.remove(&key) {
            self.book.remove(&record);
            let repeated = repeat_key(&record);
            if self.repeated.get(&repeated) == Some(&key) {
                self.repeated.remove(&repeated);
            }
        }
    }
}
