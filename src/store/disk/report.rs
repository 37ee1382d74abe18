//! Figures of the store for the metrics.

use std::{fs, path::PathBuf, sync::atomic::Ordering};

use super::{
    DiskStore,
    data_dir::{BLOBS_DIR, ENGINE_DIR, LEDGER_DIR},
    index::volume_detail::EntryState,
};
use crate::metrics::StoreReport;

/// Files examined at most to compute the disk usage.
const FILES_LOOKED_AT_MAX: usize = 100_000;

impl DiskStore {
    /// Calls `show` with consistent figures. Reads the disk before; takes some milliseconds at most, however
    /// much is stored.
    pub fn report(&self, show: &mut dyn FnMut(&StoreReport)) {
        let shared = &self.shared;
        let dirs = [
            self.data_dir.join(ENGINE_DIR),
            self.data_dir.join(ENGINE_DIR).join(BLOBS_DIR),
            self.data_dir.join(LEDGER_DIR),
        ];
        let disk_bytes = disk_bytes(&dirs);
        let subscriptions = shared.registry.count_by_state().map(|count| count as u64);
        let now = shared.clock.now();
        let age = |state| {
            let oldest = shared.oldest_in(state);
            oldest.map_or_else(Default::default, |oldest| now.since(oldest))
        };
        let (oldest_pending_age, oldest_retrying_age) = (age(EntryState::Pending), age(EntryState::Retrying));
        let ledger = shared.ledger();
        let (mut pending, mut retrying) = (0, 0);
        for owed in ledger.volumes.iter().map(super::index::volume::Volume::owed) {
            pending += owed.pending;
            retrying += owed.retrying;
        }
        show(&StoreReport {
            pending,
            retrying,
            oldest_pending_age,
            oldest_retrying_age,
            subscriptions,
            disk_bytes,
            volumes: ledger.volumes.len() as u64,
            subscription_bytes: shared.registry.bytes_in_all(),
            owed_bytes: shared.owed.get().bytes,
            waiting_writes: shared.waiting_writes.load(Ordering::Relaxed) as u64,
            waiting_bytes: shared.waiting_bytes.load(Ordering::Relaxed) as u64,
        });
    }
}

/// Disk usage of the engine's files without holes. Files that disappear meanwhile are skipped.
fn disk_bytes(dirs: &[PathBuf]) -> u64 {
    let files = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok());
    let metadata = files.flatten().take(FILES_LOOKED_AT_MAX).filter_map(|entry| entry.ok()?.metadata().ok());
    metadata.filter(fs::Metadata::is_file).map(|file| occupied(&file)).sum()
}

#[cfg(unix)]
fn occupied(file: &fs::Metadata) -> u64 {
    const BLOCK_BYTES: u64 = 512; // Whatever the file system's own are, says stat(2).
    std::os::unix::fs::MetadataExt::blocks(file) * BLOCK_BYTES
}

#[cfg(not(unix))]
fn occupied(file: &fs::Metadata) -> u64 {
    file.len()
}
