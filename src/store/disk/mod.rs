//! The engine of the gateway: subscriptions on sled, events and deliveries in a log of their own.
//!
//! sled keeps the subscriptions and the access tokens: few, small, and changed rarely. Events come by the thousand and are gone a week later; for them sled
//! reads all that was written since the last start before it serves again, which is half a minute for ten million
//! (docs/benchmarks.md). So they are in a log (`log`): a commit is one record, written and synced at once. Which delivery is how far is
//! kept in memory by volumes of some thousand events (`volume`, `detail`), described in the log from time to time (`describe`,
//! `writer/checkpoint`), found by the `manifest`, and read back from there when it is needed.

use super::AUDIT_BYTES_DEFAULT;

mod data_dir;
mod disk_store;
mod fs;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod index;
mod keys;
pub mod kv;
mod log;
mod open;
pub(crate) mod open_error;
mod read;
pub mod records;
mod report;
mod shared;
mod writer;

pub use disk_store::DiskStore;
pub use index::volume::{VOLUME_BYTES, VOLUME_EVENTS};
pub use keys::key_file::{KEY_FILE, KEY_FILE_BYTES_MAX, KeyFileError, KeySource};
pub use keys::rotation::{Rotation, rotate_secrets_key};
pub use kv::subscriptions::REQUEST_MEMORY;
pub use log::{FILE_BYTES_MAX, FILE_BYTES_MIN};
pub use open_error::OpenError;
pub use writer::{BYTES_WAITING_MAX, COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX, WRITES_WAITING_MAX};

/// Memory for what is known of events and deliveries that are on disk as well, unless configured, in bytes.
pub const CACHE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// A log has about so many files, if retention keeps as much as it may.
const FILES: u64 = 16;

/// How the store works.
#[derive(Clone, Copy, Debug)]
pub struct StoreSettings {
    /// Memory for what is known of events and deliveries that are on disk as well, in bytes. As much again may be taken by what is not
    /// described on disk yet.
    pub cache_bytes: u64,
    /// Bytes of a log file. What retention removes is whole files.
    pub file_bytes: u32,
    /// Bytes of audit records that are kept.
    pub audit_bytes_max: u64,
}

impl StoreSettings {
    /// Settings for a store of which retention keeps so many bytes.
    pub fn keeping(retention_bytes_max: u64, cache_bytes: u64) -> Self {
        let share = u32::try_from(retention_bytes_max / FILES).unwrap_or(u32::MAX);
        let file_bytes = share.clamp(FILE_BYTES_MIN, FILE_BYTES_MAX);
        Self { cache_bytes, file_bytes, audit_bytes_max: AUDIT_BYTES_DEFAULT }
    }

    /// The same, with so many bytes of audit records.
    pub fn auditing(self, audit_bytes_max: u64) -> Self {
        Self { audit_bytes_max, ..self }
    }
}

#[cfg(test)]
mod tests;
