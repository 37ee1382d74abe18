//! Whether this process may use every file of a data directory: an error of the file system alone does not say which one it
//! is of, nor whose that is.

use std::path::Path;

use super::open_error::OpenError;

/// Refuses a data directory in which this process may not use everything that a start needs. Says which file it is.
#[cfg(unix)]
pub(super) fn refuse_denied(data_dir: &Path) -> Result<(), OpenError> {
    use rustix::fs::Access;

    use super::data_dir::{CLEAN, ENGINE_DIR, LEDGER_DIR, LOCK, MARKER};
    let changed = Access::READ_OK | Access::WRITE_OK;
    let refuse = |path: &Path, wanted| refuse_denied_at(data_dir, path, wanted);
    refuse(data_dir, changed | Access::EXEC_OK)?;
    for (name, wanted) in [(MARKER, Access::READ_OK), (CLEAN, Access::READ_OK), (LOCK, changed)] {
        refuse(&data_dir.join(name), wanted)?;
    }
    let mut dirs = vec![data_dir.join(ENGINE_DIR), data_dir.join(LEDGER_DIR)];
    while let Some(dir) = dirs.pop() {
        refuse(&dir, changed | Access::EXEC_OK)?;
        // Whoever needs what is not there says so.
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.filter_map(Result::ok) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                _ => refuse(&entry.path(), changed)?,
            }
        }
    }
    Ok(())
}

#[cfg(unix)]
fn refuse_denied_at(data_dir: &Path, path: &Path, wanted: rustix::fs::Access) -> Result<(), OpenError> {
    use std::os::unix::fs::MetadataExt as _;

    use rustix::{
        fs::{AtFlags, CWD, accessat},
        io::Errno,
        process::geteuid,
    };
    if accessat(CWD, path, wanted, AtFlags::EACCESS) != Err(Errno::ACCESS) {
        return Ok(());
    }
    let owner = std::fs::metadata(path).map_or_else(
        |_| "in a directory that it may not enter".to_owned(),
        |data| format!("which belongs to the user {} (its mode is {:03o})", data.uid(), data.mode() & 0o777),
    );
    let user = geteuid().as_raw();
    Err(OpenError::Denied { dir: data_dir.to_owned(), path: path.to_owned(), owner, user })
}

/// Nothing: the file system says which file it refuses.
#[cfg(not(unix))]
pub(super) fn refuse_denied(_data_dir: &Path) -> Result<(), OpenError> {
    Ok(())
}
