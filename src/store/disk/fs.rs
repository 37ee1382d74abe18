//! Files that are replaced whole.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

/// Writes a file so that after a crash it is the old one or the new one.
pub fn replace_file(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    // First, so that nothing has changed if no file descriptor is free.
    let of_dir = File::open(dir)?;
    let path = dir.join(format!("{name}.new"));
    let mut file = File::create(&path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // Remove the partial file: it may occupy the space that is missing.
        drop(fs::remove_file(path));
        return Err(error);
    }
    fs::rename(path, dir.join(name))?;
    of_dir.sync_all()
}

/// Whether it is for want of room that the file system refused.
pub fn is_for_want_of_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// Whether a read failed because the file has lost data: it is shorter than it was, or the device cannot read
/// it. Any other failure may be over at the next read.
pub fn is_for_damage(error: &io::Error) -> bool {
    #[cfg(unix)]
    let is_of_device = error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
    #[cfg(not(unix))]
    let is_of_device = false;
    error.kind() == io::ErrorKind::UnexpectedEof || is_of_device
}

/// Free bytes on the file system of a directory, for this process; `None` where the system does not report
/// them.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(dir).ok().map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    #[cfg(not(unix))]
    return None;
}

/// Size in bytes of the file system of a directory; `None` where the system does not report it.
pub fn total_bytes(dir: &Path) -> Option<u64> {
    #[cfg(unix)]
    return rustix::fs::statvfs(dir).ok().map(|stat| stat.f_blocks.saturating_mul(stat.f_frsize));
    #[cfg(not(unix))]
    return None;
}

/// Makes durable which files a directory has.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Syncs every file of a directory, and the directories.
pub fn sync_all_in(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_all_in(&path)?;
        } else {
            File::open(&path)?.sync_all()?;
        }
    }
    sync_dir(dir)
}
