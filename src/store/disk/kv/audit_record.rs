//! Audit records on disk. Numbers are never used again with another meaning, since old data directories have
//! them.

use std::collections::BTreeMap;

use prost::Message;

use crate::{
    domain::{
        audit::{AuditKey, AuditOutcome, AuditRecord, AuditSubject, AuditedCall},
        time::UnixMicros,
    },
    store::disk::records::RecordError,
};

/// The first byte of a key in the tree of audit records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum AuditKind {
    /// By time and number: [`AuditRow`].
    Record = 1,
    /// By time and number, of the refusals among them; without a value.
    Refused = 2,
    /// Alone: what all take up and what refusals do, and the last time and number; 8 bytes each, big endian.
    Usage = 3,
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
}

impl From<AuditRecord> for AuditRow {
    fn from(record: AuditRecord) -> Self {
        let AuditRecord { key: _, call, outcome, code, reason, end_time } = record;
        let AuditedCall { principal, address, method, subject } = call;
        let AuditSubject { resource, fields, parameters } = subject;
        let outcome = match outcome {
            AuditOutcome::Unknown => 0,
            AuditOutcome::Ok => 1,
            AuditOutcome::Refused => 2,
        };
        let end_time = end_time.map(|time| time.0);
        Self { principal, address, method, resource, fields, parameters, outcome, code, reason, end_time }
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
    let call = AuditedCall { principal: row.principal, address: row.address, method: row.method, subject };
    let end_time = row.end_time.map(UnixMicros);
    Ok(AuditRecord { key, call, outcome, code: row.code, reason: row.reason, end_time })
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
    let (time, number) = (u64_at(bytes, 1)?, u64_at(bytes, 9)?);
    Some(AuditKey { time: UnixMicros((time ^ SIGN).cast_signed()), number })
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
        };
        let ended = AuditRecord {
            outcome: AuditOutcome::Refused,
            code: 5,
            reason: "R".into(),
            end_time: Some(UnixMicros(9)),
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
        assert!(decode(&[1; 16], &[]).is_err() && decode(&[1; KEY_BYTES], &[0xff]).is_err());
    }
}
