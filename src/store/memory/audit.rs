//! Audit records, in the plainest way.

use std::collections::BTreeMap;

use crate::{
    domain::{
        audit::{AuditKey, AuditOutcome, AuditRecord},
        time::UnixMicros,
    },
    store::{
        AuditQuery, AuditWrite, Page,
        audit::{AuditEviction, AuditUsage},
    },
};

/// All of them.
pub(super) struct Audit {
    records: BTreeMap<AuditKey, AuditRecord>,
    book: AuditUsage,
    bytes_max: u64,
}

impl Audit {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { records: BTreeMap::new(), book: AuditUsage::default(), bytes_max }
    }

    pub(super) fn note(&mut self, note: AuditWrite, now: UnixMicros) -> AuditKey {
        let record = match note {
            AuditWrite::Begun(call) => AuditRecord::begun(self.book.next(now), call),
            AuditWrite::Refused(call, end) => {
                let key = self.book.next(now);
                AuditRecord::begun(key, call).ended(end, key.time)
            }
            AuditWrite::Ended(key, end) => {
                let Some(record) = self.records.get(&key).filter(|record| record.end_time.is_none()) else {
                    return key;
                };
                self.book.remove(record);
                record.clone().ended(end, now.max(key.time))
            }
        };
        let key = record.key;
        self.book.add(&record);
        self.records.insert(key, record);
        while let Some(excess) = self.book.excess(self.bytes_max) {
            let goes = |record: &&AuditRecord| {
                excess == AuditEviction::Any || record.outcome == AuditOutcome::Refused
            };
            let Some(oldest) = self.records.values().find(goes).map(|record| record.key) else { break };
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
        }
    }
}
