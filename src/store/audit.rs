//! Audit records as all engines see them: the writes, the queries, and the bounds of what is kept.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use crate::{
    domain::{
        audit::{AuditEnd, AuditKey, AuditOutcome, AuditRecord, AuditedCall, FOREIGN_PRINCIPAL},
        ids::{AccountId, AccountScope},
        time::UnixMicros,
    },
    store::TimeRange,
};

/// The part of the bound that refused calls may take: a flood of them leaves the records of changes. Within it and
/// within the bound accounts share.
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
    /// The reader may not know callers of other accounts: they are [`FOREIGN_PRINCIPAL`].
    pub hides_foreign: bool,
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
    /// The caller of a record as the reader sees it.
    pub fn principal_of<'a>(&self, record: &'a AuditRecord) -> &'a str {
        let is_hidden = self.hides_foreign && record.is_of_foreign_caller();
        if is_hidden { FOREIGN_PRINCIPAL } else { &record.call.principal }
    }

    /// Whether a record is wanted, wherever the page before ended.
    pub fn wants(&self, record: &AuditRecord) -> bool {
        let is = |asked: &Option<String>, text: &str| asked.as_deref().is_none_or(|asked| asked == text);
        record.is_of(self.scope)
            && self.resource.as_deref().is_none_or(|resource| record.is_about(resource))
            && is(&self.principal, self.principal_of(record))
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

/// Bytes of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct AuditBytes {
    /// Of all.
    pub all: u64,
    /// Of those of refused calls.
    pub refused: u64,
}

impl AuditBytes {
    fn of(record: &AuditRecord) -> Self {
        let all = record.bytes();
        Self { all, refused: if record.outcome == AuditOutcome::Refused { all } else { 0 } }
    }

    fn add(&mut self, other: Self) {
        self.all += other.all;
        self.refused += other.refused;
    }

    fn remove(&mut self, other: Self) {
        self.all = self.all.saturating_sub(other.all);
        self.refused = self.refused.saturating_sub(other.refused);
    }
}

/// Totals over all records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AuditUsage {
    /// Bytes of all records.
    pub total: AuditBytes,
    /// By the account that they count for; `None` is the operator. Only those that have any.
    pub accounts: BTreeMap<Option<AccountId>, AuditBytes>,
    /// The last key that was given away.
    pub last: AuditKey,
}

/// Which record goes next: the oldest of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AuditEviction {
    /// Those that count for this account.
    pub account: Option<AccountId>,
    /// Only those of refused calls.
    pub refused: bool,
}

impl AuditEviction {
    /// Whether the record is one of these.
    pub fn is_of(self, record: &AuditRecord) -> bool {
        record.charged_account() == self.account && (!self.refused || record.outcome == AuditOutcome::Refused)
    }
}

/// What a record that changed nothing is found by when it is repeated.
pub(super) type RepeatKey = [u8; 16];

/// Two records with the same key are compared as a whole.
pub(super) fn repeat_key(record: &AuditRecord) -> RepeatKey {
    let mut digest = Sha256::new();
    for text in record.identity() {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    *digest.finalize().first_chunk().expect("16 bytes are half of 32")
}

/// Whether a call with this end changed nothing, so that repeats of it are counted up.
pub(super) fn counts_up(end: &AuditEnd) -> bool {
    end.outcome == AuditOutcome::Refused || (end.outcome == AuditOutcome::Ok && end.unchanged)
}

impl AuditUsage {
    /// The key of the next record.
    pub fn next(&mut self, now: UnixMicros) -> AuditKey {
        self.last = AuditKey { time: now.max(self.last.time), number: self.last.number + 1 };
        self.last
    }

    pub fn add(&mut self, record: &AuditRecord) {
        let bytes = AuditBytes::of(record);
        self.total.add(bytes);
        self.accounts.entry(record.charged_account()).or_default().add(bytes);
    }

    pub fn remove(&mut self, record: &AuditRecord) {
        let (bytes, account) = (AuditBytes::of(record), record.charged_account());
        self.total.remove(bytes);
        let of_account = self.accounts.entry(account).or_default();
        of_account.remove(bytes);
        if of_account.all == 0 {
            self.accounts.remove(&account);
        }
    }

    /// The records to evict if a bound is exceeded: of the account that has the most. So an account with less than
    /// an equal part of the bound loses nothing, whatever the others do.
    pub fn excess(&self, bytes_max: u64) -> Option<AuditEviction> {
        let refused = self.total.refused > bytes_max / AUDIT_REFUSED_PART;
        if !refused && self.total.all <= bytes_max {
            return None;
        }
        let size = |bytes: &AuditBytes| if refused { bytes.refused } else { bytes.all };
        let (account, _) = self.accounts.iter().max_by_key(|(_, bytes)| size(bytes))?;
        Some(AuditEviction { account: *account, refused })
    }
}
