//! Opens sled, and rewrites it without its history.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    thread,
    time::Duration,
};

use super::{SEGMENT_BYTES, engine::rows_of};
use crate::store::disk::{
    data_dir::{ENGINE_DIR, LEDGER_DIR},
    fs::{free_bytes, sync_all_in, sync_dir},
    log::registry_log::RegistryLog,
    open_error::OpenError,
};

/// Memory for sled's cache, in bytes: all subscriptions are in memory anyway.
const ENGINE_CACHE_BYTES: u64 = 1024 * 1024;
/// How often sled flushes on its own, in milliseconds. Its garbage collector runs only then.
const FLUSH_EVERY_MS: u64 = 500;
/// sled releases its own lock with the last of its threads, soon after a close: wait and try again.
const REOPEN_TRIES: u32 = 500;
const REOPEN_AFTER: Duration = Duration::from_millis(10);
/// Rows of the second writing that are flushed at a time.
const ROWS_PER_FLUSH: usize = 4096;

/// Directory of the rewrite.
const NEW_DIR: &str = "store.new";
/// The old directory between the two renames, and until it is removed.
const OLD_DIR: &str = "store.old";

/// Opens sled's directory, even right after this process closed it. No other process has it: the data
/// directory is locked before.
pub(crate) fn open_engine(data_dir: &Path, fresh: bool) -> Result<::sled::Db, OpenError> {
    remove_unfinished_snapshots(data_dir).map_err(|error| OpenError::of_file_system(data_dir, error))?;
    let mut tries = 0;
    let db = loop {
        match open_at(data_dir, ENGINE_DIR) {
            Err(OpenError::Unreadable(_, why)) if why.contains("acquire lock") && tries < REOPEN_TRIES => {
                tries += 1;
                thread::sleep(REOPEN_AFTER);
            }
            opened => break opened?,
        }
    };
    if !fresh && !db.was_recovered() {
        return Err(OpenError::Unreadable(
            data_dir.to_owned(),
            format!("{ENGINE_DIR}/db: sled found nothing in it"),
        ));
    }
    Ok(db)
}

/// Removes snapshots that a crash interrupted: sled takes one for its newest, and does not open. It renames
/// those that it finished, and its file has what an unfinished one would have.
fn remove_unfinished_snapshots(data_dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(data_dir.join(ENGINE_DIR)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn open_at(data_dir: &Path, dir: &str) -> Result<::sled::Db, OpenError> {
    let config = ::sled::Config::new()
        .path(data_dir.join(dir))
        .segment_size(SEGMENT_BYTES)
        .cache_capacity(ENGINE_CACHE_BYTES)
        .flush_every_ms(Some(FLUSH_EVERY_MS));
    // sled panics on some damages that it does not expect.
    let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
    let unreadable = |_| {
        OpenError::Unreadable(data_dir.to_owned(), format!("{ENGINE_DIR}/: sled cannot make sense of it"))
    };
    opened.map_err(unreadable)?.map_err(|error| OpenError::of_engine(data_dir, error))
}

/// Writes every tree into a new directory and swaps it with the old one once it is durable. sled's files keep
/// old values for long; this removes them. The registry's log is replaced with it.
///
/// `row` maps a tree, a key and a value to the new value, or drops the row. `last` runs before the swap.
pub(crate) fn rewrite(
    data_dir: &Path,
    old: ::sled::Db,
    log: &RegistryLog,
    mut row: impl FnMut(&[u8], &[u8], &[u8]) -> Result<Option<Vec<u8>>, OpenError>,
    last: impl FnOnce(&::sled::Db) -> Result<(), OpenError>,
) -> Result<::sled::Db, OpenError> {
    let io = |error| OpenError::of_file_system(data_dir, error);
    let of_engine = |error| OpenError::of_engine(data_dir, error);
    check_room(data_dir, &old)?;
    let new = open_at(data_dir, NEW_DIR)?;
    for name in old.tree_names() {
        let (from, to) = (old.open_tree(&name).map_err(of_engine)?, new.open_tree(&name).map_err(of_engine)?);
        for (count, found) in from.iter().enumerate() {
            let (key, value) = found.map_err(of_engine)?;
            if let Some(value) = row(&name, &key, &value)? {
                to.insert(&key, value).map_err(of_engine)?;
            }
            if count % ROWS_PER_FLUSH == ROWS_PER_FLUSH - 1 {
                new.flush().map_err(of_engine)?;
            }
        }
    }
    last(&new)?;
    new.flush().map_err(of_engine)?;
    log.begin_rewrite(rows_of(&new)).map_err(|error| OpenError::of_registry(data_dir, error))?;
    drop((old, new));
    sync_all_in(&data_dir.join(NEW_DIR)).map_err(io)?;
    swap_dirs(data_dir).map_err(io)?;
    RegistryLog::finish_rewrite(&data_dir.join(LEDGER_DIR)).map_err(io)?;
    open_engine(data_dir, false)
}

/// Completes or removes a [`rewrite`] that a crash interrupted.
pub(crate) fn finish_rewrite(data_dir: &Path) -> io::Result<()> {
    let exists = |dir: &str| data_dir.join(dir).try_exists();
    let (engine, new, old) = (exists(ENGINE_DIR)?, exists(NEW_DIR)?, exists(OLD_DIR)?);
    let ledger_dir = data_dir.join(LEDGER_DIR);
    match (engine, new, old) {
        // Between the two renames: the new one was on disk before the first.
        (false, true, true) => swap_dirs(data_dir)?,
        // It had not come to its end.
        (true, true, _) => {
            RegistryLog::discard_rewrite(&ledger_dir)?;
            remove(data_dir, NEW_DIR)?;
        }
        (true, false, true) => remove(data_dir, OLD_DIR)?,
        _ => {}
    }
    RegistryLog::finish_rewrite(&ledger_dir)
}

fn swap_dirs(data_dir: &Path) -> io::Result<()> {
    let path = |dir: &str| data_dir.join(dir);
    sync_dir(data_dir)?;
    if path(ENGINE_DIR).try_exists()? {
        fs::rename(path(ENGINE_DIR), path(OLD_DIR))?;
        sync_dir(data_dir)?;
    }
    fs::rename(path(NEW_DIR), path(ENGINE_DIR))?;
    sync_dir(data_dir)?;
    remove(data_dir, OLD_DIR)
}

fn remove(data_dir: &Path, dir: &str) -> io::Result<()> {
    fs::remove_dir_all(data_dir.join(dir))?;
    sync_dir(data_dir)
}

fn check_room(data_dir: &Path, old: &::sled::Db) -> Result<(), OpenError> {
    let wanted = old.size_on_disk().map_err(|error| OpenError::of_engine(data_dir, error))?;
    let wanted = wanted + 2 * SEGMENT_BYTES as u64;
    if free_bytes(data_dir).is_some_and(|free| free < wanted) {
        let why = format!("its subscriptions have to be rewritten, which takes {} MiB", wanted >> 20);
        return Err(OpenError::of_file_system(data_dir, io::Error::new(io::ErrorKind::StorageFull, why)));
    }
    Ok(())
}
