//! File descriptors: the process's limit, and how to tell that none is free.

use std::{fs::File, io};

use rlimit::Resource;
use rustix::io::Errno;

/// Whether a file or socket was not opened because the process, or the system, has as many open as it may.
/// Another try may succeed.
pub fn is_exhausted(error: &io::Error) -> bool {
    let codes = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    match (error.raw_os_error(), error.get_ref()) {
        (Some(code), _) => codes.contains(&code),
        // sled copies errors, and their text is all that it copies of this kind.
        (None, Some(copied)) => {
            let text = copied.to_string();
            codes.iter().any(|code| text.contains(&format!("Os {{ code: {code},")))
        }
        (None, None) => false,
    }
}

/// Whether no descriptor is free at the moment: for errors of libraries that do not say so.
pub fn none_is_free() -> bool {
    File::open("/dev/null").is_err_and(|error| is_exhausted(&error))
}

/// Raises the soft limit of open files to the hard one, and returns it; `None` if the system does not tell.
pub fn raise_limit() -> Option<u64> {
    match rlimit::increase_nofile_limit(rlimit::INFINITY) {
        Ok(limit) => {
            tracing::debug!(limit, "raised the limit of open files");
            Some(limit)
        }
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            rlimit::getrlimit(Resource::NOFILE).ok().map(|(soft, _)| soft)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_are_told_from_a_full_disk() {
        let error = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        let copied = |errno| sled::Error::Io(error(errno)).clone();
        for (errno, expected) in [(Errno::MFILE, true), (Errno::NFILE, true), (Errno::NOSPC, false)] {
            assert_eq!(is_exhausted(&error(errno)), expected, "{errno}");
            let sled::Error::Io(copy) = copied(errno) else { panic!("it is another error") };
            assert_eq!(is_exhausted(&copy), expected, "a copy of {errno}");
        }
        assert!(!is_exhausted(&io::Error::other("too many open files")));
        assert!(!none_is_free());
    }
}
