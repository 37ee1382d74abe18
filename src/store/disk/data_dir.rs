//! The data directory: its files, its lock and its marker.
//!
//! | entry | content |
//! |---|---|
//! | `TIDINGS` | marks a data directory: its format, and whether its creation was completed; or a backup that is not whole |
//! | `lock` | locked by the process that has the directory open |
//! | `clean` | the end of the store at the last clean shutdown; an earlier end found at a start means loss |
//! | `secrets.key` | the key that secrets are sealed with, unless another one is configured |
//! | `store/` | sled's directory |
//! | `ledger/` | the log and its manifest |

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    path::Path,
};

use super::{
    fs::{replace_file, sync_dir},
    index::manifest::MANIFEST,
    keys::key_file::KEY_FILE,
    log::{has_records, registry_log::REGISTRY_LOG},
    open_error::OpenError,
    permissions::refuse_denied,
    records::{FORMAT, FORMAT_IN_THE_CLEAR, FORMAT_WITH_CLEAR_URLS, FORMAT_WITHOUT_REGISTRY_LOG},
};
use crate::domain::ids::Seq;

pub(super) const MARKER: &str = "TIDINGS";
pub(super) const LOCK: &str = "lock";
pub(super) const CLEAN: &str = "clean";
/// sled's own directory.
pub(super) const ENGINE_DIR: &str = "store";
/// Where sled keeps values that are too large for its log.
pub(super) const BLOBS_DIR: &str = "blobs";
/// Where the log and its manifest are.
pub(super) const LEDGER_DIR: &str = "ledger";

/// A copy of sled's directory that a check reads: to open one writes to it.
pub(super) const SCRATCH: &str = "check.tmp";

/// Locks a data directory for this process, which must be this user's alone. Removes the copy that a killed check
/// left: secrets are in it.
pub(super) fn take_lock(data_dir: &Path) -> Result<File, OpenError> {
    let io = |error| OpenError::of_file_system(data_dir, error);
    #[cfg(unix)]
    make_private(data_dir)?;
    refuse_denied(data_dir)?;
    let path = data_dir.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    // A link would lead the writes below to any file of this user.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NOFOLLOW.bits().cast_signed(),
    );
    let mut file = options.open(&path).map_err(|error| match error.raw_os_error() {
        Some(code) if code == rustix::io::Errno::LOOP.raw_os_error() => OpenError::Exposed(
            data_dir.to_owned(),
            format!("its file {LOCK} is a symbolic link: somebody else may have put it there; remove it"),
        ),
        _ => io(error),
    })?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The holder is for people only.
            if file.read_to_string(&mut holder).is_err() || holder.trim().is_empty() {
                holder = "unknown".to_owned();
            }
            return Err(OpenError::Locked(data_dir.to_owned(), holder.trim().to_owned()));
        }
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    file.set_len(0).map_err(io)?;
    writeln!(file, "pid {}", std::process::id()).map_err(io)?;
    match fs::remove_dir_all(data_dir.join(SCRATCH)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io(error)),
        _ => Ok(file),
    }
}

pub(super) const CREATING: &str = "creating";
pub(super) const READY: &str = "ready";
/// The marker of a backup that is not whole.
const UNFINISHED_BACKUP: &str = "tidings backup unfinished\n";

/// Looks at what is there before sled does. The format of the store; `None` if it is to be made.
pub(super) fn prepare(data_dir: &Path) -> Result<Option<u32>, OpenError> {
    let io = |error| OpenError::of_file_system(data_dir, error);
    let unreadable = |why: &str| OpenError::Unreadable(data_dir.to_owned(), why.to_owned());
    let (engine_dir, ledger_dir) = (data_dir.join(ENGINE_DIR), data_dir.join(LEDGER_DIR));
    refuse_unfinished(data_dir)?;
    let engine_exists = engine_dir.try_exists().map_err(io)?;
    let ledger_exists = ledger_dir.try_exists().map_err(io)?;
    let marker = match fs::read(data_dir.join(MARKER)) {
        Ok(marker) => String::from_utf8_lossy(&marker).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if engine_exists || ledger_exists {
                return Err(unreadable(
                    "there is a store, but the file TIDINGS that belongs to it is missing",
                ));
            }
            write_marker(data_dir, CREATING).map_err(io)?;
            return Ok(None);
        }
        Err(error) => return Err(io(error)),
    };
    let format = match parse_marker(&marker) {
        Some((format, state)) => {
            let known = [FORMAT, FORMAT_WITH_CLEAR_URLS, FORMAT_WITHOUT_REGISTRY_LOG, FORMAT_IN_THE_CLEAR];
            let known = known.into_iter().find(|known| known.to_string() == format);
            let Some(found) = known else {
                return Err(OpenError::Format(data_dir.to_owned(), format.to_owned()));
            };
            if state == CREATING {
                if has_records(&ledger_dir).map_err(io)? {
                    return Err(unreadable(
                        "the file TIDINGS says that the store was never completed, and there are events: it is an older copy",
                    ));
                }
                // Nothing was ever acknowledged from a store that was not completed.
                for (dir, exists) in [(&engine_dir, engine_exists), (&ledger_dir, ledger_exists)] {
                    if exists {
                        fs::remove_dir_all(dir).map_err(io)?;
                    }
                }
                return Ok(None);
            }
            found
        }
        _ => return Err(unreadable("the file TIDINGS does not say what it should")),
    };
    let files =
        [[ENGINE_DIR, "db"], [ENGINE_DIR, "conf"], [LEDGER_DIR, MANIFEST], [LEDGER_DIR, REGISTRY_LOG]];
    let files = if format > FORMAT_WITHOUT_REGISTRY_LOG { &files[..] } else { &files[..3] };
    for [dir, name] in files {
        if !data_dir.join(dir).join(name).try_exists().map_err(io)? {
            return Err(unreadable(&format!("the file {dir}/{name} is missing")));
        }
    }
    Ok(Some(format))
}

/// The format and the state in a marker: [`CREATING`] or [`READY`].
pub(super) fn parse_marker(marker: &str) -> Option<(&str, &str)> {
    let (format, state) = marker.trim_end().strip_prefix("tidings format ")?.split_once(' ')?;
    [CREATING, READY].contains(&state).then_some((format, state))
}

pub(super) fn write_marker(data_dir: &Path, state: &str) -> io::Result<()> {
    replace_file(data_dir, MARKER, format!("tidings format {FORMAT} {state}\n").as_bytes())
}

/// Marks a backup that is not whole.
pub(super) fn write_unfinished(data_dir: &Path) -> io::Result<()> {
    replace_file(data_dir, MARKER, UNFINISHED_BACKUP.as_bytes())
}

/// Errors if the directory is a backup that is not whole.
pub(super) fn refuse_unfinished(data_dir: &Path) -> Result<(), OpenError> {
    match fs::read(data_dir.join(MARKER)) {
        Ok(marker) if marker == UNFINISHED_BACKUP.as_bytes() => {
            Err(OpenError::UnfinishedBackup(data_dir.to_owned()))
        }
        _ => Ok(()),
    }
}

/// What may be in a directory before its first store: of a start that was interrupted, or put there by people and by the
/// system.
const BEFORE_A_STORE: [&str; 5] = [LOCK, "TIDINGS.new", KEY_FILE, "secrets.key.new", "lost+found"];

/// Refuses a directory that is neither empty nor one of Tidings: nobody else could use what is in it after a start.
pub(super) fn refuse_foreign(data_dir: &Path) -> Result<(), OpenError> {
    let io = |error| OpenError::of_file_system(data_dir, error);
    for part in [MARKER, LEDGER_DIR, "store/db", "store/conf"] {
        if data_dir.join(part).try_exists().map_err(io)? {
            return Ok(());
        }
    }
    for entry in fs::read_dir(data_dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if BEFORE_A_STORE.iter().all(|known| name != *known) {
            return Err(OpenError::NotEmpty(data_dir.to_owned(), name.to_string_lossy().into_owned()));
        }
    }
    Ok(())
}

/// Whether there is a store, or a part of one.
pub(super) fn has_store(data_dir: &Path) -> Result<bool, OpenError> {
    refuse_denied(data_dir)?;
    for part in [MARKER, ENGINE_DIR, LEDGER_DIR] {
        let exists = data_dir.join(part).try_exists();
        if exists.map_err(|error| OpenError::of_file_system(data_dir, error))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Refuses a directory that another user may change: whoever can put files there decides what is delivered. Others
/// may not read it either from now on.
#[cfg(unix)]
fn make_private(data_dir: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    /// Of directories for everybody's files, such as /tmp.
    const STICKY: u32 = 0o1000;
    const OWNERS: u32 = 0o700;
    const ROOT: u32 = 0;
    let io = |error| OpenError::of_file_system(data_dir, error);
    let exposed = |why| OpenError::Exposed(data_dir.to_owned(), why);
    let data = fs::metadata(data_dir).map_err(io)?;
    let (owner, user) = (data.uid(), rustix::process::geteuid().as_raw());
    if owner != user && owner != ROOT {
        return Err(exposed(format!(
            "it belongs to the user {owner}, and this process runs as the user {user}: run it as that user, `chown` it, or \
             choose a directory within it with --data-dir"
        )));
    }
    let mode = data.mode() & 0o777;
    if mode & WRITABLE_BY_OTHERS != 0 && data.mode() & STICKY != 0 {
        return Err(exposed(format!(
            "it is for the files of all users (its mode is {:o}): choose a directory within it with --data-dir",
            mode | STICKY
        )));
    }
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(exposed(format!(
            "other users may change it (its mode is {mode:03o}): `chmod 700` it if nobody else has put files there, or \
             choose a directory within it with --data-dir"
        )));
    }
    if owner == user && mode != OWNERS {
        fs::set_permissions(data_dir, fs::Permissions::from_mode(OWNERS)).map_err(io)?;
        tracing::info!(data.dir = %data_dir.display(), mode = format!("{mode:03o}"), "other users may not read it any more");
    }
    Ok(())
}

/// Creates the directory and those above it, durably.
pub(super) fn create_private_dir(dir: &Path) -> io::Result<()> {
    let missing: Vec<_> = dir.ancestors().take_while(|dir| !is_there(dir)).collect();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)?;
    missing.into_iter().rev().try_for_each(sync_entry)
}

fn is_there(dir: &Path) -> bool {
    dir.as_os_str().is_empty() || dir.exists()
}

/// Makes a directory's entry in its parent durable. A parent that this user may not read is left to the system.
pub(super) fn sync_entry(dir: &Path) -> io::Result<()> {
    match sync_dir(&dir.join("..")) {
        Err(error) if error.kind() != io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// Notes how far the store had come when it was closed.
pub fn note_clean_end(
    data_dir: &Path,
    next_seq: Seq,
    next_record: u64,
    registry_change: u64,
) -> io::Result<()> {
    replace_file(data_dir, CLEAN, clean_text(next_seq, next_record, registry_change).as_bytes())
}

/// The content of [`CLEAN`].
pub(super) fn clean_text(next_seq: Seq, next_record: u64, registry_change: u64) -> String {
    format!("next_seq {}\nnext_record {next_record}\nregistry_change {registry_change}\n", next_seq.0)
}
