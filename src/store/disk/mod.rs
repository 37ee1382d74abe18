//! The engine of the gateway: a log of its own for events and deliveries, sled for the rest.
//!
//! sled (`kv`) has the subscriptions, the access tokens and the audit records: few, small, rarely changed.
//! Events come by the thousand and leave after a week. sled would read everything written since its last
//! start before it serves again, half a minute for ten million events (docs/benchmarks.md), so events have a
//! log (`log`): one record per commit, written and synced at once. `index` keeps the state of deliveries in
//! memory, by volumes of some thousand events. `writer/checkpoint` writes volumes to the log from time to
//! time, the manifest lists them, and `read` loads them again when needed.

use clap::Args;

use crate::config::{declared_defaults, quantities::bytes};

mod backup;
pub mod check;
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
mod permissions;
mod read;
pub mod records;
mod report;
mod retention;
mod shared;
mod writer;

pub use backup::receive::{BackupReceiver, ReceiveError, Received};
pub use disk_store::DiskStore;
pub use fs::total_bytes;
pub use index::volume::{VOLUME_BYTES, VOLUME_EVENTS};
pub use keys::key_file::{KEY_FILE, KEY_FILE_BYTES_MAX, KeyFileError, KeySource};
pub use keys::rotation::{Rotation, rotate_secrets_key};
pub use kv::requests::{REQUEST_BYTES_PER_ACCOUNT_MAX, REQUEST_MEMORY, REQUESTS_PER_ACCOUNT_MAX};
pub use log::{FILE_BYTES_MAX, FILE_BYTES_MIN};
pub use open_error::OpenError;
pub use writer::{BYTES_WAITING_MAX, COMMIT_BYTES_MAX, COMMIT_RECORDS_MAX, WRITES_WAITING_MAX};

/// Files of a log that is as large as retention allows.
const FILES: u64 = 16;

/// Settings of the store.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Store")]
pub struct StoreSettings {
    /// Memory for details of events and deliveries: up to half of it for those that are not on disk yet, the rest for
    /// those that were used last.
    ///
    /// Raise it if lists of deliveries are slow while many are pending.
    #[arg(long, value_name = "SIZE", default_value = "48MiB", value_parser = bytes::<u64>("1MiB", "64GiB"))]
    pub store_memory_max: u64,
    /// Most bytes of audit records, kept for at most retention_age; the disk may hold some times as much.
    ///
    /// Past it the oldest are removed of the account that has the most: those of refused calls once they take up a
    /// quarter, then any. Calls that belong to no account share as one.
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = bytes::<u64>("1MiB", "1GiB"))]
    pub audit_bytes_max: u64,
    /// Bytes of a log file. Retention removes whole files.
    #[arg(skip = FILE_BYTES_MAX)]
    pub file_bytes: u32,
}

impl StoreSettings {
    /// Sets the limits that follow from other settings.
    pub fn derive(&mut self, retention_bytes_max: u64) {
        let share = u32::try_from(retention_bytes_max / FILES).unwrap_or(u32::MAX);
        self.file_bytes = share.clamp(FILE_BYTES_MIN, FILE_BYTES_MAX);
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        declared_defaults()
    }
}

#[cfg(test)]
mod tests;
