//! The engine of the gateway: a log of its own for events and deliveries, sled for the rest.
//!
//! sled (`kv`) has the subscriptions, the access tokens and the audit records: few, small, rarely changed.
//! Events come by the thousand and leave after a week. sled would read everything written since its last
//! start before it serves again, half a minute for ten million events (docs/benchmarks.md), so events have a
//! log (`log`): one record per commit, written and synced at once. `index` keeps the state of deliveries in
//! memory, by volumes of some thousand events. `writer/checkpoint` writes volumes to the log from time to
//! time, the manifest lists them, and `read` loads them again when needed.

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

/// Default of [`StoreSettings::cache_bytes`].
pub const CACHE_BYTES_DEFAULT: u64 = 64 * 1024 * 1024;
/// Files of a log that is as large as retention allows.
const FILES: u64 = 16;

/// Settings of the store.
#[derive(Clone, Copy, Debug)]
pub struct StoreSettings {
    /// Memory for cached details of volumes, in bytes. Details that are not on disk yet may take the same
    /// amount again.
    pub cache_bytes: u64,
    /// Bytes of a log file. Retention removes whole files.
    pub file_bytes: u32,
    /// Bytes of audit records that are kept.
    pub audit_bytes_max: u64,
}

impl StoreSettings {
    /// Settings for a store with this bound of retention.
    pub fn keeping(retention_bytes_max: u64, cache_bytes: u64) -> Self {
        let share = u32::try_from(retention_bytes_max / FILES).unwrap_or(u32::MAX);
        let file_bytes = share.clamp(FILE_BYTES_MIN, FILE_BYTES_MAX);
        Self { cache_bytes, file_bytes, audit_bytes_max: AUDIT_BYTES_DEFAULT }
    }

    /// Sets the bound of the audit records.
    pub fn auditing(self, audit_bytes_max: u64) -> Self {
        Self { audit_bytes_max, ..self }
    }
}

#[cfg(test)]
mod tests;
