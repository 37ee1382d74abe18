//! Audit records on disk. Numbers are never used again with another meaning, since old data directories have
//! them.

use std::collections::BTreeMap;

use prost::Message;

use crate::{
    domain::{
        audit::{AuditKey, AuditOutcome, AuditRecord, AuditSubject, AuditedCall},
        ids::AccountId,
        time::UnixMicros,
    },
    store::{audit::RepeatKey, disk::records::RecordError},
};

/// The first byte of a key in the tree of audit records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AuditKind {
    /// By time and number: [`AuditRow`].
    Record = 1,
    /// By time and number, of the refusals among them; without a value. Earlier versions wrote them.
    Refused = 2,
    /// Alone: what all take up and what refusals do, the last time and number, and 1 if the following kinds are up to
    /// date, which earlier versions leave out; 8 bytes each, big endian.
    Usage = 3,
    /// By the account that they count for (0 for none), time and number, of all records; without a value.
    OfAccount = 4,
    /// The same of refusals.
    RefusedOfAccount = 5,
    /// By what repeats of a record have in common: its time and number, as in its key.
    Repeat = 6,
    /// By account: what its records take up and what its refusals do; 8 bytes each.
    AccountUsage = 7,
}

/// An audit record.
#[derive(Clone, PartialEq, Message)]
pub struct AuditRow {
    #[prost(string, tag = "1")]
    principal: String,
    #[prost(string, tag = "2")]
    address: String,
    #[prost(string, tag = "3")]
    method: String,
    #[prost(string, tag = "4")]
    resource: String,
    #[prost(string, repeated, tag = "5")]
    fields: Vec<String>,
    #[prost(btree_map = "string, string", tag = "6")]
    parameters: BTreeMap<String, String>,
    /// 0 nobody knows, 1 done, 2 refused.
    #[prost(uint32, tag = "7")]
    outcome: u32,
    #[prost(int32, tag = "8")]
    code: i32,
    #[prost(string, tag = "9")]
    reason: String,
    #[prost(int64, optional, tag = "10")]
    end_time: Option<i64>,
    /// 0 if that of the resource counts.
    #[prost(int64, tag = "11")]
    account: i64,
    #[prost(uint64, tag = "12")]
    repeats: u64,
    #[prost(int64, optional, tag = "13")]
    last_time: Option<i64>,
}

impl From<AuditRecord> for AuditRow {
    fn from(record: AuditRecord) -> Self {
        let AuditRecord { key: _, call, outcome, code, reason, end_time, repeats, last_time } = record;
        let AuditedCall { principal, address, method, subject, account } = call;
        let AuditSubject { resource, fields, parameters } = subject;
        let outcome = match outcome {
            AuditOutcome::Unknown => 0,
            AuditOutcome::Ok => 1,
            AuditOutcome::Refused => 2,
        };
        let [end_time, last_time] = [end_time, last_time].map(|time| time.map(|time| time.0));
        let account = account.map_or(0, AccountId::get);
        Self {
            principal,
            address,
            method,
            resource,
            fields,
            parameters,
            outcome,
            code,
            reason,
            end_time,
            account,
            repeats,
            last_time,
        }
    }
}

/// Reads a row that is stored under this key.
pub fn decode(key: &[u8], value: &[u8]) -> Result<AuditRecord, RecordError> {
    let key = key_of(key).ok_or_else(|| RecordError("the key of an audit record".to_owned()))?;
    let row = AuditRow::decode(value)?;
    let outcome = match row.outcome {
        0 => AuditOutcome::Unknown,
        1 => AuditOutcome::Ok,
        2 => AuditOutcome::Refused,
        other => return Err(RecordError(format!("audit outcome {other}"))),
    };
    let subject = AuditSubject { resource: row.resource, fields: row.fields, parameters: row.parameters };
    let account = match row.account {
        0 => None,
        number => Some(AccountId::new(number).map_err(|_| RecordError(format!("audit account {number}")))?),
    };
    let (principal, address, method) = (row.principal, row.address, row.method);
    let call = AuditedCall { principal, address, method, subject, account };
    let [end_time, last_time] = [row.end_time, row.last_time].map(|time| time.map(UnixMicros));
    let (code, reason, repeats) = (row.code, row.reason, row.repeats);
    Ok(AuditRecord { key, call, outcome, code, reason, end_time, repeats, last_time })
}

/// Bytes of a key.
pub const KEY_BYTES: usize = 17;

/// Turned so that times before the epoch sort before those after it.
const SIGN: u64 = 1 << 63;

/// The key of a record in one of the tree's parts.
pub fn key_in(kind: AuditKind, key: AuditKey) -> [u8; KEY_BYTES] {
    let mut bytes = [kind as u8; KEY_BYTES];
    bytes[1..9].copy_from_slice(&(key.time.0.cast_unsigned() ^ SIGN).to_be_bytes());
    bytes[9..].copy_from_slice(&key.number.to_be_bytes());
    bytes
}

/// The same back, of any part.
pub fn key_of(bytes: &[u8]) -> Option<AuditKey> {
    let bytes: &[u8; KEY_BYTES] = bytes.try_into().ok()?;
    position_of(&bytes[1..])
}

/// The last bytes of a key, which give the position in the log, and nothing else.
fn position_of(bytes: &[u8]) -> Option<AuditKey> {
    let (time, number) = (u64_at(bytes, 0)?, u64_at(bytes, 8)?);
    Some(AuditKey { time: UnixMicros((time ^ SIGN).cast_signed()), number })
}

/// The beginning of the keys of an account in one of the parts that are by account.
pub fn account_prefix(kind: AuditKind, account: Option<AccountId>) -> [u8; 9] {
    let mut bytes = [kind as u8; 9];
    bytes[1..].copy_from_slice(&account.map_or(0, AccountId::get).to_be_bytes());
    bytes
}

/// The key of a record in one of these parts.
pub fn account_key(kind: AuditKind, account: Option<AccountId>, key: AuditKey) -> Vec<u8> {
    [&account_prefix(kind, account)[..], &key_in(kind, key)[1..]].concat()
}

/// The record with such a key.
pub fn key_of_account(bytes: &[u8]) -> Option<AuditKey> {
    position_of(bytes.get(9..)?)
}

/// The account in a key that is by account.
pub fn account_of(bytes: &[u8]) -> Option<Option<AccountId>> {
    match u64_at(bytes, 1)?.cast_signed() {
        0 => Some(None),
        number => AccountId::new(number).ok().map(Some),
    }
}

/// The key of the row that repeats are found by.
pub fn repeat_row_key(repeat: RepeatKey) -> [u8; 17] {
    let mut bytes = [AuditKind::Repeat as u8; 17];
    bytes[1..].copy_from_slice(&repeat);
    bytes
}

/// The number at this offset.
pub fn u64_at(bytes: &[u8], position: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(position..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_as_it_was_written_and_keys_sort_by_time() {
        let key = AuditKey { time: UnixMicros(5), number: 3 };
        let subject = AuditSubject {
            resource: "accounts/1/subscriptions/a".into(),
            fields: vec!["url".into()],
            parameters: [("force".to_owned(), "true".to_owned())].into(),
        };
        let call = AuditedCall {
            principal: "accessTokens/ci".into(),
            address: "127.0.0.1:5".into(),
            method: "m".into(),
            subject,
            account: AccountId::new(7).ok(),
        };
        let ended = AuditRecord {
            outcome: AuditOutcome::Refused,
            code: 5,
            reason: "R".into(),
            end_time: Some(UnixMicros(9)),
            repeats: 4,
            last_time: Some(UnixMicros(11)),
            ..AuditRecord::begun(key, call.clone())
        };
        for record in [AuditRecord::begun(key, call), ended] {
            let value = AuditRow::from(record.clone()).encode_to_vec();
            assert_eq!(decode(&key_in(AuditKind::Record, key), &value), Ok(record));
        }
        let keys = [(i64::MIN, 0), (-1, 7), (0, 1), (0, 2), (5, 0), (i64::MAX, 0)];
        let keys = keys.map(|(time, number)| AuditKey { time: UnixMicros(time), number });
        assert!(keys.map(|key| key_in(AuditKind::Record, key)).is_sorted());
        assert!(keys.iter().all(|key| key_of(&key_in(AuditKind::Refused, *key)) == Some(*key)));
        for account in [None, AccountId::new(7).ok(), AccountId::new(i64::MAX).ok()] {
            let of_account = keys.map(|key| account_key(AuditKind::OfAccount, account, key));
            assert!(of_account.is_sorted());
            assert!(of_account.iter().zip(keys).all(|(bytes, key)| key_of_account(bytes) == Some(key)));
            assert!(of_account.iter().all(|bytes| account_of(bytes) == Some(account)));
        }
        assert!(decode(&[1; 16], &[]).is_err() && decode(&[1; KEY_BYTES], &[0xff]).is_err());
    }
}
