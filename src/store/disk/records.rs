//! Records on disk. Every key and value of the store is listed here. Numbers are never used again with
//! another meaning, since old data directories have them.

use std::time::Duration;

use url::Url;

use super::log::checksum;
use crate::{
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState, Outcome},
        ids::{Seq, SubscriptionKey},
        subscription::origin_of,
        time::UnixMicros,
    },
    proto::v1::EventType,
};

pub use subscription_record::{RequestRecord, SealedRecord, SubscriptionRecord};
pub use token_record::{AccessTokenRecord, TokensKind};

mod subscription_record;
mod token_record;

/// The format that this version reads and writes.
pub const FORMAT: u32 = 5;
/// The format before, with URLs in the clear. A start converts it.
pub const FORMAT_WITH_CLEAR_URLS: u32 = 4;
/// The format before that, without a log of the registry. A start converts it.
pub const FORMAT_WITHOUT_REGISTRY_LOG: u32 = 3;
/// The first format that is still read, with secrets in the clear. A start converts it.
pub const FORMAT_IN_THE_CLEAR: u32 = 2;

/// The first byte of a key in the registry's tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RegistryKind {
    /// By subscription: [`SubscriptionRecord`].
    Subscription = 1,
    /// By account and request id: [`RequestRecord`].
    Request = 2,
    /// A single row: the last subscription key in use, 8 bytes, big endian.
    LastKey = 3,
    /// A single row: the id of the store, 16 bytes, as in the manifest.
    Store = 5,
    /// A single row: an empty secret, sealed with the key of all secrets in the tree. Missing while secrets
    /// are in the clear.
    SecretsKey = 6,
    /// A single row: the number of the last change of the registry's log that sled has, 8 bytes, big endian.
    LastChange = 7,
}

/// The trees of sled whose rows are in the registry's log too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum RowTree {
    /// Subscriptions and request ids.
    Registry = 1,
    /// Access tokens.
    Tokens = 2,
}

/// A change of rows, as it is in the registry's log.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RegistryChange {
    /// The tree: [`RowTree`].
    #[prost(uint32, tag = "1")]
    pub tree: u32,
    /// The changed rows.
    #[prost(message, repeated, tag = "2")]
    pub rows: Vec<RowRecord>,
    /// It is a part of all rows, and more parts follow.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// The number of the next record of the log of events: those before it are durable. 0 if unknown.
    #[prost(uint64, tag = "4")]
    pub next_record: u64,
}

impl RegistryChange {
    /// The tree whose rows change.
    pub fn row_tree(&self) -> Result<RowTree, RecordError> {
        let known = [RowTree::Registry, RowTree::Tokens].into_iter().find(|tree| *tree as u32 == self.tree);
        known.ok_or_else(|| RecordError(format!("a change of tree {}", self.tree)))
    }
}

/// A row after a change.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RowRecord {
    /// Its key.
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    /// Its value; none if it was removed.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub value: Option<Vec<u8>>,
}

impl RowRecord {
    /// A row with a value.
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }

    /// A row that is removed.
    pub fn removed(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: None }
    }
}

/// What the text of each [`RecordError`] begins with.
pub const UNREADABLE: &str = "unreadable record: ";

/// A value that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{UNREADABLE}{0}")]
pub struct RecordError(pub String);

impl From<prost::DecodeError> for RecordError {
    fn from(error: prost::DecodeError) -> Self {
        Self(error.to_string())
    }
}

/// A commit, without the attempts and the events' encodings, which follow it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CommitRecord {
    /// When, in microseconds since the epoch; one time for the whole commit.
    #[prost(int64, tag = "1")]
    pub time: i64,
    /// The sequence number of the first event.
    #[prost(uint64, tag = "2")]
    pub first: u64,
    /// Its events, in order.
    #[prost(message, repeated, tag = "3")]
    pub events: Vec<EventEntry>,
    /// New states of deliveries.
    #[prost(message, repeated, tag = "4")]
    pub outcomes: Vec<OutcomeRecord>,
    /// Bytes of the attempts, which come before the events.
    #[prost(uint32, tag = "5")]
    pub attempts_len: u32,
    /// When, as a steady time: see [`crate::clock::Clock::steady`]. 0 in commits of versions without one.
    #[prost(int64, tag = "6")]
    pub steady_time: i64,
    /// The number of the registry's last change, which is durable. 0 if unknown.
    #[prost(uint64, tag = "7")]
    pub registry_change: u64,
}

impl CommitRecord {
    /// When it was made, as a steady time; by the wall clock if it has none.
    pub fn steady(&self) -> UnixMicros {
        UnixMicros(if self.steady_time == 0 { self.time } else { self.steady_time })
    }
}

/// One event of a commit.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EventEntry {
    /// Its account.
    #[prost(int64, tag = "1")]
    pub account: i64,
    /// Its id.
    #[prost(string, tag = "2")]
    pub id: String,
    /// Its type.
    #[prost(enumeration = "EventType", tag = "3")]
    pub event_type: i32,
    /// Upper half of the fingerprint.
    #[prost(fixed64, tag = "4")]
    pub fingerprint_high: u64,
    /// Lower half.
    #[prost(fixed64, tag = "5")]
    pub fingerprint_low: u64,
    /// Length of its encoding among the bodies, in bytes.
    #[prost(uint32, tag = "6")]
    pub body_len: u32,
    /// The subscriptions with deliveries of it.
    #[prost(uint64, repeated, tag = "7")]
    pub subscriptions: Vec<u64>,
    /// Whether its publisher chose the id.
    #[prost(bool, tag = "8")]
    pub id_given: bool,
    /// Its inbox; 0 if it belongs to none.
    #[prost(int64, tag = "9")]
    pub inbox: i64,
    /// Tag of its order key.
    #[prost(fixed32, tag = "10")]
    pub tag: u32,
    /// Checksum of its encoding.
    #[prost(fixed32, tag = "11")]
    pub checksum: u32,
}

impl EventEntry {
    /// The fingerprint of its content.
    pub fn fingerprint(&self) -> u128 {
        (u128::from(self.fingerprint_high) << 64) | u128::from(self.fingerprint_low)
    }
}

/// The new state of one delivery.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct OutcomeRecord {
    /// The event.
    #[prost(uint64, tag = "1")]
    pub seq: u64,
    /// The subscription.
    #[prost(uint64, tag = "2")]
    pub subscription: u64,
    /// 1 pending, 2 retrying, 3 succeeded, 4 failed, 5 cancelled.
    #[prost(uint32, tag = "3")]
    pub state: u32,
    /// When the next attempt is due; for state 2 only.
    #[prost(int64, tag = "4")]
    pub due: i64,
    /// Attempts made so far.
    #[prost(uint32, tag = "5")]
    pub attempts: u32,
    /// Bytes of the attempt that led to this; 0 where a caller decided it.
    #[prost(uint32, tag = "6")]
    pub attempt_len: u32,
    /// A replay added the delivery: its event had none to this subscription.
    #[prost(bool, tag = "7")]
    pub added: bool,
    /// A replay queued the delivery: retries start from zero.
    #[prost(bool, tag = "8")]
    pub queued: bool,
}

impl OutcomeRecord {
    /// A delivery in a state, after `attempts` attempts.
    pub fn new(key: DeliveryKey, state: DeliveryState, attempts: u32) -> Self {
        let (state, due) = match state {
            DeliveryState::Pending => (1, 0),
            DeliveryState::Retrying { due } => (2, due.0),
            DeliveryState::Succeeded => (3, 0),
            DeliveryState::Failed => (4, 0),
            DeliveryState::Cancelled => (5, 0),
        };
        Self {
            seq: key.seq.0,
            subscription: key.subscription.0,
            state,
            due,
            attempts,
            attempt_len: 0,
            added: false,
            queued: false,
        }
    }

    /// Its key.
    pub fn key(&self) -> DeliveryKey {
        DeliveryKey { seq: Seq(self.seq), subscription: SubscriptionKey(self.subscription) }
    }

    /// Its state.
    pub fn delivery_state(&self) -> Result<DeliveryState, RecordError> {
        Ok(match self.state {
            1 => DeliveryState::Pending,
            2 => DeliveryState::Retrying { due: UnixMicros(self.due) },
            3 => DeliveryState::Succeeded,
            4 => DeliveryState::Failed,
            5 => DeliveryState::Cancelled,
            other => return Err(RecordError(format!("delivery state {other}"))),
        })
    }
}

/// One attempt.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AttemptRecord {
    /// When it began, in microseconds since the epoch.
    #[prost(int64, tag = "1")]
    pub start_time: i64,
    /// How long it took, in microseconds.
    #[prost(uint64, tag = "2")]
    pub duration: u64,
    /// 1 ok, 2 HTTP status, 3 timeout, 4 connect, 5 broken connection, 6 blocked,
    /// 7 damaged.
    #[prost(uint32, tag = "3")]
    pub outcome: u32,
    /// The response status; 0 without a response.
    #[prost(uint32, tag = "4")]
    pub http_status: u32,
    /// The error.
    #[prost(string, tag = "5")]
    pub error: String,
    /// The start of the response body.
    #[prost(string, tag = "6")]
    pub response_body: String,
    /// The response's retry-after, in microseconds.
    #[prost(uint64, optional, tag = "7")]
    pub retry_after: Option<u64>,
    /// Where it went: scheme, host and port only, if `url_hash` is set.
    #[prost(string, tag = "8")]
    pub url: String,
    /// Where in the log the attempt before is; 0 if this is the first.
    #[prost(fixed64, tag = "9")]
    pub before: u64,
    /// A hash of the whole URL, to know it again. Its path and query may be a secret.
    #[prost(fixed32, optional, tag = "10")]
    pub url_hash: Option<u32>,
    /// How often it was sent again.
    #[prost(uint32, tag = "11")]
    pub resent: u32,
}

impl AttemptRecord {
    /// Completes the URL, if it is this one.
    pub fn with_url_of(mut self, url: Option<&Url>) -> Self {
        if let Some(url) = url.filter(|url| self.url_hash == Some(hash_of_url(url.as_str()))) {
            (self.url, self.url_hash) = (url.to_string(), None);
        }
        self
    }
}

/// So short that it says little about the URL.
fn hash_of_url(url: &str) -> u32 {
    checksum(url.as_bytes())
}

/// The path of a URL that is not known any more.
const FORGOTTEN_PATH: &str = "/***";

impl From<&Attempt> for AttemptRecord {
    fn from(attempt: &Attempt) -> Self {
        let url = &attempt.url;
        let origin = origin_of(url);
        let has_path = !matches!(&url[origin.len()..], "" | "/" | FORGOTTEN_PATH);
        Self {
            start_time: attempt.start_time.0,
            duration: micros(attempt.duration),
            outcome: match attempt.outcome {
                Outcome::Ok => 1,
                Outcome::HttpStatus => 2,
                Outcome::Timeout => 3,
                Outcome::Connect => 4,
                Outcome::Io => 5,
                Outcome::Blocked => 6,
                Outcome::Damaged => 7,
                Outcome::Expired => 8,
            },
            http_status: attempt.http_status.into(),
            error: attempt.error.clone(),
            response_body: attempt.response_body.clone(),
            retry_after: attempt.retry_after.map(micros),
            resent: attempt.resent,
            url: if has_path { origin } else { url }.to_owned(),
            before: 0,
            url_hash: has_path.then(|| hash_of_url(url)),
        }
    }
}

impl TryFrom<AttemptRecord> for Attempt {
    type Error = RecordError;

    fn try_from(record: AttemptRecord) -> Result<Self, RecordError> {
        let outcome = match record.outcome {
            1 => Outcome::Ok,
            2 => Outcome::HttpStatus,
            3 => Outcome::Timeout,
            4 => Outcome::Connect,
            5 => Outcome::Io,
            6 => Outcome::Blocked,
            7 => Outcome::Damaged,
            8 => Outcome::Expired,
            other => return Err(RecordError(format!("outcome {other}"))),
        };
        Ok(Self {
            start_time: UnixMicros(record.start_time),
            duration: Duration::from_micros(record.duration),
            outcome,
            http_status: u16::try_from(record.http_status).map_err(|e| RecordError(e.to_string()))?,
            error: record.error,
            response_body: record.response_body,
            retry_after: record.retry_after.map(Duration::from_micros),
            resent: record.resent,
            url: if record.url_hash.is_some() { record.url + FORGOTTEN_PATH } else { record.url },
        })
    }
}

fn unreadable(what: &str, why: impl std::fmt::Display) -> RecordError {
    RecordError(format!("{what}: {why}"))
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
