//! The sources file: read at startup, and again when it changes.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use tokio_util::sync::CancellationToken;

use super::sources::{FILE_BYTES_MAX, Sources};
use crate::{domain::access::TokenHash, file_watch::FileWatch, metrics::Metrics};

/// Most problems that the error of one file lists.
const PROBLEMS_MAX: usize = 20;

/// The error of a sources file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ingest_sources_file {}: {reason}", .file.display())]
pub struct SourcesError {
    /// The file.
    pub file: PathBuf,
    /// All problems of the file.
    pub reason: String,
}

/// The sources in use. Clones share them.
#[derive(Clone)]
pub struct SourcesFile {
    current: Arc<RwLock<Arc<Sources>>>,
    file: PathBuf,
    /// Digest of the file as [`SourcesFile::load`] has read it. Its secrets are not kept.
    loaded: TokenHash,
    /// Whether other machines can reach the listener.
    is_exposed: bool,
    metrics: Arc<Metrics>,
}

impl SourcesFile {
    /// Reads the file. `is_exposed` is true if other machines can reach the listener.
    ///
    /// # Errors
    ///
    /// All problems of the file.
    pub fn load(file: &Path, is_exposed: bool, metrics: Arc<Metrics>) -> Result<Self, SourcesError> {
        let text = read(file)?;
        let sources = parse(file, &text)?;
        let this = Self {
            current: Arc::new(RwLock::new(Arc::new(sources))),
            file: file.to_owned(),
            loaded: TokenHash::of(&text),
            is_exposed,
            metrics,
        };
        this.report();
        Ok(this)
    }

    /// The sources in use.
    pub fn current(&self) -> Arc<Sources> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the file again when it changes, until `shutdown`. New sources are in use from the next request
    /// on. An unusable file changes nothing, and is logged once.
    pub async fn keep_current(self, watch: FileWatch, shutdown: CancellationToken) {
        let file = self.file.clone();
        let digest = |text: &String| TokenHash::of(text);
        watch.run(self.loaded, shutdown, move || read(&file), digest, |text| self.reload(text)).await;
    }

    fn reload(&self, text: Result<String, SourcesError>) {
        match text.and_then(|text| parse(&self.file, &text)) {
            Ok(sources) => {
                let count = sources.iter().len();
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(sources);
                self.metrics.ingest.sources_loaded.inc();
                tracing::info!(sources = count, "new webhook sources are in use");
                self.report();
            }
            Err(error) => {
                self.metrics.ingest.sources_refused.inc();
                tracing::warn!(%error, "the new webhook sources cannot be used; the current ones stay in use");
            }
        }
    }

    /// Sets the gauge, and warns of sources whose webhooks need no signature.
    fn report(&self) {
        let sources = self.current();
        self.metrics.ingest.sources.set(i64::try_from(sources.iter().len()).unwrap_or(i64::MAX));
        if !self.is_exposed {
            return;
        }
        for source in sources.iter().filter(|source| source.signing_secret.is_none()) {
            tracing::warn!(
                source.name = source.name,
                "webhooks of this source need no signature: anyone who learns its path can send events; set its signing_secret"
            );
        }
    }
}

impl fmt::Debug for SourcesFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourcesFile").field("file", &self.file).finish_non_exhaustive()
    }
}

fn error(file: &Path, reason: impl Into<String>) -> SourcesError {
    SourcesError { file: file.to_owned(), reason: reason.into() }
}

fn parse(file: &Path, text: &str) -> Result<Sources, SourcesError> {
    Sources::parse(text).map_err(|problems| {
        let more = problems.len().saturating_sub(PROBLEMS_MAX);
        let listed = problems[..problems.len() - more].join("; ");
        error(file, if more == 0 { listed } else { format!("{listed}; and {more} more") })
    })
}

fn read(file: &Path) -> Result<String, SourcesError> {
    let unreadable = |cause: io::Error| error(file, format!("cannot be read: {cause}"));
    let opened = File::open(file).map_err(unreadable)?;
    #[cfg(unix)]
    {
        // The mode of the open file: nobody can replace it before it is read.
        let mode = std::os::unix::fs::MetadataExt::mode(&opened.metadata().map_err(unreadable)?) & 0o777;
        if mode & 0o027 != 0 {
            let reason = format!(
                "may be read or changed by others (its mode is {mode:03o}): make it `chmod 600`, or 640 for a group of its own"
            );
            return Err(error(file, reason));
        }
    }
    let mut text = String::new();
    let bytes = opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if bytes as u64 > FILE_BYTES_MAX {
        return Err(error(file, format!("has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_file_that_others_can_read_or_that_is_invalid_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sources.toml");
        fs::write(&path, "[[source]]\naccount = 1\npath = '0123456789abcdef01234567'\n").unwrap();
        let load = || SourcesFile::load(&path, false, Metrics::new(Default::default()));
        for (mode, accepted) in
            [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o602, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match load() {
                Ok(_) => assert!(accepted, "{mode:o}"),
                Err(error) => assert!(!accepted && error.reason.contains(&format!("{mode:o}")), "{error}"),
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "#".repeat(usize::try_from(FILE_BYTES_MAX).unwrap() + 1)).unwrap();
        assert!(load().unwrap_err().to_string().contains("has more than 4194304 bytes"));
        fs::write(&path, b"\xff").unwrap();
        assert!(load().unwrap_err().to_string().contains("cannot be read"));
        fs::write(&path, "[[source]]\n".repeat(40)).unwrap();
        assert!(load().unwrap_err().reason.ends_with("; and 60 more"));
        fs::remove_file(&path).unwrap();
        let error = load().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("ingest_sources_file {}: cannot be read", path.display())),
            "{error}"
        );
    }
}
