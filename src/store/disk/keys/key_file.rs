//! The keys that seal secrets: given by configuration, or read from a file, which is created if missing.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    domain::seal::{SealingKey, SealingKeys},
    store::disk::fs::sync_dir,
};

/// The file in the data directory that is made where no key is configured.
pub const KEY_FILE: &str = "secrets.key";
/// The longest key file that is read, in bytes.
pub const KEY_FILE_BYTES_MAX: u64 = 16 * 1024;

/// Where the keys come from.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// They were given.
    Given(SealingKeys),
    /// From this file, which must be there.
    File(PathBuf),
    /// From the file [`KEY_FILE`] in the data directory. A new store's is made, with this key.
    Beside(SealingKey),
}

/// Why a key file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file is missing.
    #[error("it is not there: make it with `openssl rand -base64 32`, readable by its owner alone")]
    Missing,
    /// Others than its owner and its group may read it, or others than its owner write it.
    #[error(
        "it may be read or changed by others (its mode is {0:03o}): make it `chmod 600`, or 640 for a group of its own"
    )]
    Exposed(u32),
    /// The content is not a key.
    #[error("{0}")]
    Malformed(String),
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Reads a key file.
pub fn read(path: &Path) -> Result<SealingKeys, KeyFileError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing,
        _ => error.into(),
    })?;
    #[cfg(unix)]
    {
        // Of the open file: it cannot be another one by the time it is read.
        let mode = std::os::unix::fs::MetadataExt::mode(&file.metadata()?) & 0o777;
        if mode & 0o027 != 0 {
            return Err(KeyFileError::Exposed(mode));
        }
    }
    let mut text = String::new();
    let read = file.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text);
    if read.map_err(|_| KeyFileError::Malformed("it is no text".to_owned()))? as u64 > KEY_FILE_BYTES_MAX {
        return Err(KeyFileError::Malformed(format!("it is longer than {KEY_FILE_BYTES_MAX} bytes")));
    }
    SealingKeys::parse(&text).map_err(KeyFileError::Malformed)
}

/// Writes a key file, readable by its owner alone, so that after a crash it is the old one or the new one.
/// Where there is one already, who may read it stays.
pub fn write(path: &Path, keys: &SealingKeys) -> Result<(), KeyFileError> {
    // Through links: whoever keeps the file elsewhere wants it there.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = path.clone().into_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&new)?;
    let written = write_to(&mut file, &path, keys).and_then(|()| fs::rename(&new, &path));
    if let Err(error) = written {
        drop(fs::remove_file(&new));
        return Err(error.into());
    }
    Ok(sync_dir(dir)?)
}

fn write_to(file: &mut File, path: &Path, keys: &SealingKeys) -> io::Result<()> {
    #[cfg(unix)]
    if let Ok(before) = fs::metadata(path) {
        use std::os::unix::fs::{MetadataExt as _, fchown};
        file.set_permissions(before.permissions())?;
        let of = file.metadata()?;
        if (of.uid(), of.gid()) != (before.uid(), before.gid()) {
            fchown(&*file, Some(before.uid()), Some(before.gid()))?;
        }
    }
    let mut text = "# The key that Tidings seals the secrets in its store with. Keep a copy of it, apart from those of the data directory:\n\
                    # without it the store cannot be opened, and whoever has both can read the secrets.\n"
        .to_owned();
    for key in keys.all() {
        text.push_str(key.to_text().expose());
        text.push('\n');
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn keys(seed: u64) -> SealingKeys {
        SealingKeys::one(SealingKey::draw(&mut StdRng::seed_from_u64(seed)))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_read_back_and_is_the_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        fs::write(dir.path().join("secrets.key.new"), "of a crash").unwrap();
        write(&path, &keys(1)).unwrap();
        assert_eq!((read(&path).unwrap(), mode(&path)), (keys(1), 0o600));
        let both = keys(1).after(keys(2).first().clone());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        write(&path, &both).unwrap();
        assert_eq!((read(&path).unwrap(), mode(&path)), (both, 0o440));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        write(&real, &keys(1)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        write(&link, &keys(2)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(read(&real).unwrap(), keys(2));
    }

    #[test]
    fn a_file_that_others_can_get_at_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        write(&path, &keys(1)).unwrap();
        for taken in [0o600, 0o400, 0o640, 0o440] {
            fs::set_permissions(&path, fs::Permissions::from_mode(taken)).unwrap();
            assert!(read(&path).is_ok(), "{taken:o}");
        }
        for refused in [0o644, 0o604, 0o602, 0o660, 0o666, 0o777, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(refused)).unwrap();
            let why = read(&path).unwrap_err().to_string();
            assert!(why.contains(&format!("{refused:o}")), "{why}");
        }
    }

    #[test]
    fn what_is_no_key_file_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        write(&path, &keys(1)).unwrap();
        let long = "#\n".repeat(16 * 1024);
        for text in ["", "visible", "# only this", "visible\nvisible", &long] {
            fs::write(&path, text).unwrap();
            let why = read(&path).unwrap_err();
            assert!(
                matches!(why, KeyFileError::Malformed(_)) && !why.to_string().contains("visible"),
                "{why}"
            );
        }
        fs::write(&path, b"\xff\xfe").unwrap();
        assert!(matches!(read(&path), Err(KeyFileError::Malformed(_))));
        assert!(matches!(read(&dir.path().join("nothing")), Err(KeyFileError::Missing)));
    }
}
