//! Audit records as all engines see them: the writes, the queries, and the bounds of what is kept.

use crate::{
    domain::{
        audit::{AuditEnd, AuditKey, AuditOutcome, AuditRecord, AuditedCall},
        ids::AccountScope,
        time::UnixMicros,
    },
    store::TimeRange,
};

/// The part of the bound that refused calls may take: a flood of them leaves the records of changes.
pub const AUDIT_REFUSED_PART: u64 = 4;

/// The audit write for a call.
#[derive(Clone, Debug)]
pub enum AuditWrite {
    /// It begins: nothing is changed before this is on disk.
    Begun(AuditedCall),
    /// The call with this key has ended. No effect if its record is gone or has ended already.
    Ended(AuditKey, AuditEnd),
    /// It was refused before anything began.
    Refused(AuditedCall, AuditEnd),
}

/// Which audit records.
#[derive(Clone, Debug)]
pub struct AuditQuery {
    /// About these accounts.
    pub scope: AccountScope,
    /// Only records about this resource or its children.
    pub resource: Option<String>,
    /// Of calls by this principal.
    pub principal: Option<String>,
    /// Of calls of this method.
    pub method: Option<String>,
    /// Written down within this time.
    pub time: TimeRange,
    /// Only those before this one.
    pub before: Option<AuditKey>,
    /// Rows in a page at most.
    pub limit: usize,
}

impl AuditQuery {
    /// Whether a record is wanted, wherever the page before ended.
    pub fn wants(&self, record: &AuditRecord) -> bool {
        let is = |asked: &Option<String>, text: &str| asked.as_deref().is_none_or(|asked| asked == text);
        record.is_of(self.scope)
            && self.resource.as_deref().is_none_or(|resource| record.is_about(resource))
            && is(&self.principal, &record.call.principal)
            && is(&self.method, &record.call.method)
            && self.time.contains(record.key.time)
    }

    /// The first key that is past the wanted ones; `None` if there is no such bound.
    pub fn end(&self) -> Option<AuditKey> {
        let by_time = self.time.end.map(|time| AuditKey { time, number: 0 });
        by_time.into_iter().chain(self.before).min()
    }

    /// The lowest key that may be wanted.
    pub fn start(&self) -> AuditKey {
        AuditKey { time: self.time.start.unwrap_or(UnixMicros(i64::MIN)), number: 0 }
    }
}

/// Totals over all records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AuditUsage {
    /// Bytes of all records.
    pub bytes: u64,
    /// Bytes of refused calls.
    pub refused_bytes: u64,
    /// The last key that was given away.
    pub last: AuditKey,
}

/// Which record goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuditEviction {
    /// The oldest of a refusal.
    Refused,
    /// The oldest.
    Any,
}

impl AuditUsage {
    /// The key of the next record.
    pub fn next(&mut self, now: UnixMicros) -> AuditKey {
        self.last = AuditKey { time: now.max(self.last.time), number: self.last.number + 1 };
        self.last
    }

    pub fn add(&mut self, record: &AuditRecord) {
        self.bytes += record.bytes();
        if record.outcome == AuditOutcome::Refused {
            self.refused_bytes += record.bytes();
        }
    }

    pub fn remove(&mut self, record: &AuditRecord) {
        self.bytes = self.bytes.saturating_sub(record.bytes());
        if record.outcome == AuditOutcome::Refused {
            self.refused_bytes = self.refused_bytes.saturating_sub(record.bytes());
        }
    }

    /// The records to evict if a bound is exceeded.
    pub fn excess(&self, bytes_max: u64) -> Option<AuditEviction> {
        if self.refused_bytes > bytes_max / AUDIT_REFUSED_PART {
            Some(AuditEviction::Refused)
        } else if self.bytes > bytes_max {
            Some(AuditEviction::Any)
        } else {
            None
        }
    }
}
