//! What the audit log knows beside its records: their totals, the records by account, and those that repeats are
//! counted up in. All of it is in the same tree, and written together with the records.

use ::sled::{Batch, Tree};
use prost::Message;

use super::{
    audit_record::{
        AuditKind, AuditRow, account_key, account_of, account_prefix, decode, key_in, key_of, key_of_account,
        repeat_row_key, u64_at,
    },
    subscriptions::RegistryError,
};
use crate::{
    domain::{
        audit::{AuditKey, AuditOutcome, AuditRecord},
        ids::AccountId,
        time::UnixMicros,
    },
    store::{
        audit::{AuditBytes, AuditEviction, AuditUsage, repeat_key},
        disk::records::{RecordError, RowRecord},
    },
};

/// Rows that are written together when the index is made.
const ROWS_PER_BATCH: usize = 256;

/// The totals, and a batch of changes that keeps them and the index true.
pub(super) struct AuditIndex {
    pub(super) usage: AuditUsage,
}

impl AuditIndex {
    /// Reads the totals. Makes the index of a log that an earlier version wrote to, or a backup restored.
    pub(super) fn open(tree: &Tree) -> Result<Self, RegistryError> {
        let (totals, is_indexed) = read_totals(tree)?;
        let mut index = Self { usage: AuditUsage { last: totals.last, ..AuditUsage::default() } };
        if !is_indexed {
            index.rebuild(tree)?;
            return Ok(index);
        }
        index.usage.total = totals.total;
        for row in tree.scan_prefix([AuditKind::AccountUsage as u8]) {
            let (key, value) = row?;
            let read = || Some((account_of(&key)?, u64_at(&value, 0)?, u64_at(&value, 8)?));
            let (account, all, refused) = read().ok_or_else(|| of_row("the usage of an account"))?;
            index.usage.accounts.insert(account, AuditBytes { all, refused });
        }
        Ok(index)
    }

    fn rebuild(&mut self, tree: &Tree) -> Result<(), RegistryError> {
        use AuditKind::{AccountUsage, OfAccount, Refused, RefusedOfAccount, Repeat};
        for kind in [Refused, OfAccount, RefusedOfAccount, Repeat, AccountUsage] {
            in_batches(tree, tree.scan_prefix([kind as u8]).keys(), |batch, key| {
                batch.remove(key);
                Ok(())
            })?;
        }
        in_batches(tree, tree.scan_prefix([AuditKind::Record as u8]), |batch, (key, value)| {
            let record = decode(&key, &value)?;
            self.usage.last = self.usage.last.max(record.key);
            self.add(batch, &record);
            Ok(())
        })?;
        let accounts: Vec<_> = self.usage.accounts.keys().copied().collect();
        self.apply(tree, Batch::default(), &accounts)
    }

    /// Adds a record to the batch.
    pub(super) fn put(&mut self, batch: &mut Batch, record: AuditRecord) {
        self.add(batch, &record);
        batch.insert(&key_in(AuditKind::Record, record.key), AuditRow::from(record).encode_to_vec());
    }

    fn add(&mut self, batch: &mut Batch, record: &AuditRecord) {
        self.usage.add(record);
        let account = record.charged_account();
        batch.insert(account_key(AuditKind::OfAccount, account, record.key), Vec::new());
        if record.outcome == AuditOutcome::Refused {
            batch.insert(account_key(AuditKind::RefusedOfAccount, account, record.key), Vec::new());
        }
    }

    /// Removes a record in the batch.
    pub(super) fn take(&mut self, batch: &mut Batch, record: &AuditRecord) {
        self.usage.remove(record);
        batch.remove(&key_in(AuditKind::Record, record.key));
        for kind in [AuditKind::OfAccount, AuditKind::RefusedOfAccount] {
            batch.remove(account_key(kind, record.charged_account(), record.key));
        }
    }

    /// Has repeats of this record counted up in it.
    pub(super) fn expect_repeats(batch: &mut Batch, record: &AuditRecord) {
        batch.insert(&repeat_row_key(repeat_key(record)), &key_in(AuditKind::Record, record.key));
    }

    /// The key of the record that repeats of this one are counted up in.
    pub(super) fn repeated(tree: &Tree, record: &AuditRecord) -> Result<Option<AuditKey>, RegistryError> {
        Ok(tree.get(repeat_row_key(repeat_key(record)))?.and_then(|key| key_of(&key)))
    }

    /// Removes a record for good in the batch: repeats of it are no longer counted up.
    pub(super) fn remove(
        &mut self,
        tree: &Tree,
        batch: &mut Batch,
        record: &AuditRecord,
    ) -> Result<(), RegistryError> {
        self.take(batch, record);
        if Self::repeated(tree, record)? == Some(record.key) {
            batch.remove(&repeat_row_key(repeat_key(record)));
        }
        Ok(())
    }

    /// The oldest record of those.
    pub(super) fn oldest(tree: &Tree, of: AuditEviction) -> Result<Option<AuditKey>, RegistryError> {
        let kind = if of.refused { AuditKind::RefusedOfAccount } else { AuditKind::OfAccount };
        let Some(key) = tree.scan_prefix(account_prefix(kind, of.account)).keys().next().transpose()? else {
            return Ok(None);
        };
        Ok(Some(key_of_account(&key).ok_or_else(|| of_row("the key of an audit record"))?))
    }

    /// Writes the batch with the totals, so that they match the records. `accounts` are those whose records it
    /// changes.
    pub(super) fn apply(
        &self,
        tree: &Tree,
        mut batch: Batch,
        accounts: &[Option<AccountId>],
    ) -> Result<(), RegistryError> {
        for account in accounts {
            let key = &account_prefix(AuditKind::AccountUsage, *account)[..];
            match self.usage.accounts.get(account) {
                Some(AuditBytes { all, refused }) => {
                    batch.insert(key, [*all, *refused].map(u64::to_be_bytes).concat());
                }
                None => batch.remove(key),
            }
        }
        let RowRecord { key, value } = totals_row(self.usage.total, self.usage.last, true);
        batch.insert(key, value.unwrap_or_default());
        Ok(tree.apply_batch(batch)?)
    }
}

/// Applies a change to each row, some at a time.
fn in_batches<T>(
    tree: &Tree,
    rows: impl Iterator<Item = ::sled::Result<T>>,
    mut change: impl FnMut(&mut Batch, T) -> Result<(), RegistryError>,
) -> Result<(), RegistryError> {
    let mut batch = Batch::default();
    for (count, row) in rows.enumerate() {
        change(&mut batch, row?)?;
        if (count + 1) % ROWS_PER_BATCH == 0 {
            tree.apply_batch(std::mem::take(&mut batch))?;
        }
    }
    Ok(tree.apply_batch(batch)?)
}

/// The row that has the totals.
pub(in crate::store::disk) fn totals_row(bytes: AuditBytes, last: AuditKey, is_indexed: bool) -> RowRecord {
    let numbers = [bytes.all, bytes.refused, last.time.0.cast_unsigned(), last.number, u64::from(is_indexed)];
    RowRecord::put([AuditKind::Usage as u8], numbers.map(u64::to_be_bytes).concat())
}

/// The totals of a tree, and whether its index is up to date.
fn read_totals(tree: &Tree) -> Result<(AuditUsage, bool), RegistryError> {
    let Some(value) = tree.get([AuditKind::Usage as u8])? else {
        return Ok((AuditUsage::default(), tree.scan_prefix([AuditKind::Record as u8]).next().is_none()));
    };
    let number = |nth: usize| u64_at(&value, nth * 8).ok_or_else(|| of_row("the usage of the audit records"));
    let last = AuditKey { time: UnixMicros(number(2)?.cast_signed()), number: number(3)? };
    let total = AuditBytes { all: number(0)?, refused: number(1)? };
    Ok((AuditUsage { total, last, ..AuditUsage::default() }, number(4).is_ok_and(|indexed| indexed == 1)))
}

/// The key of the last record of a tree, there or not.
pub(in crate::store::disk) fn last_key(tree: &Tree) -> Result<AuditKey, RegistryError> {
    Ok(read_totals(tree)?.0.last)
}

fn of_row(what: &str) -> RegistryError {
    RecordError(what.to_owned()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::audit::{AuditEnd, AuditSubject, AuditedCall};

    /// A record of a call about an account, refused or not.
    fn record(number: u64, account: i64, outcome: AuditOutcome) -> AuditRecord {
        let key = AuditKey { time: UnixMicros(i64::try_from(number).unwrap()), number };
        let resource = format!("accounts/{account}/subscriptions/a");
        let subject = AuditSubject { resource, ..AuditSubject::default() };
        let call = AuditedCall { principal: "anonymous".into(), subject, ..AuditedCall::default() };
        AuditRecord::begun(key, call).ended(AuditEnd { outcome, ..AuditEnd::default() }, key.time)
    }

    #[test]
    fn a_log_of_an_earlier_version_is_indexed_once() {
        let db = ::sled::Config::new().temporary(true).open().unwrap();
        let tree = db.open_tree("audit").unwrap();
        let records: Vec<_> = (1..=600)
            .map(|number| {
                let refused = number % 3 == 0;
                let outcome = if refused { AuditOutcome::Refused } else { AuditOutcome::Ok };
                record(number, 1 + i64::try_from(number % 2).unwrap(), outcome)
            })
            .collect();
        let mut expected = AuditUsage::default();
        for record in &records {
            expected.add(record);
            if record.outcome == AuditOutcome::Refused {
                tree.insert(key_in(AuditKind::Refused, record.key), Vec::new()).unwrap();
            }
            tree.insert(
                key_in(AuditKind::Record, record.key),
                AuditRow::from(record.clone()).encode_to_vec(),
            )
            .unwrap();
        }
        // The number of a record that is gone is not given away again.
        expected.last = AuditKey { time: UnixMicros(700), number: 700 };
        let four = [expected.total.all, expected.total.refused, 700, 700].map(u64::to_be_bytes).concat();
        tree.insert([AuditKind::Usage as u8], four).unwrap();

        for _ in 0..2 {
            assert_eq!(AuditIndex::open(&tree).unwrap().usage, expected);
        }
        assert!(tree.scan_prefix([AuditKind::Refused as u8]).next().is_none());
        let account = AccountId::new(2).ok();
        let oldest = |refused| AuditIndex::oldest(&tree, AuditEviction { account, refused }).unwrap();
        assert_eq!([oldest(false), oldest(true)], [Some(records[0].key), Some(records[2].key)]);
    }
}
