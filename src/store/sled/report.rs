//! How the store stands, for whoever watches it.

use std::{fs, path::Path, sync::atomic::Ordering};

use super::{
    SledStore,
    ledger::BacklogPart,
    open::{BLOBS_DIR, ENGINE_DIR},
};
use crate::metrics::StoreReport;

/// Most files that are looked at to tell how much disk the store takes up. sled keeps one large file and a few small ones.
const FILES_LOOKED_AT_MAX: usize = 1000;

impl SledStore {
    /// Shows how the store stands, while nothing of that changes. Looks at the disk before; takes some milliseconds at most,
    /// however much is stored.
    pub fn report(&self, show: &mut dyn FnMut(&StoreReport)) {
        let shared = &self.shared;
        let disk_bytes = disk_bytes(&self.data_dir.join(ENGINE_DIR));
        let subscriptions = shared.registry.count_by_state().map(|count| count as u64);
        let ledger = shared.ledger();
        let backlog = ledger.backlog();
        let now = shared.clock.now();
        let age = |part: BacklogPart| part.oldest.map_or_else(Default::default, |oldest| now.since(oldest));
        show(&StoreReport {
            pending: backlog.pending.count,
            retrying: backlog.retrying.count,
            oldest_pending_age: age(backlog.pending),
            oldest_retrying_age: age(backlog.retrying),
            subscriptions,
            disk_bytes,
            volumes: ledger.volumes.len() as u64,
            waiting_writes: shared.waiting_writes.load(Ordering::Relaxed) as u64,
            waiting_bytes: shared.waiting_bytes.load(Ordering::Relaxed) as u64,
        });
    }
}

/// What the files of the engine take up, holes not counted. A file that goes away meanwhile counts nothing.
fn disk_bytes(engine_dir: &Path) -> u64 {
    let files = [engine_dir.to_owned(), engine_dir.join(BLOBS_DIR)]
        .into_iter()
        .filter_map(|dir| fs::read_dir(dir).ok());
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
