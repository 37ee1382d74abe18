//! The sources file: read at the start, and read again when it changes.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{sync::Notify, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::sources::{FILE_BYTES_MAX, Sources};
use crate::{domain::access::TokenHash, metrics::Metrics};

/// FieldViolations that are told of one file.
const FAULTS_TOLD_MAX: usize = 20;

/// Why there are no sources in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ingest_sources_file {}: {reason}", .file.display())]
pub struct SourcesError {
    /// The file.
    pub file: PathBuf,
    /// Everything that is wrong with it.
    pub reason: String,
}

/// The sources in use. Clones share them.
#[derive(Clone)]
pub struct SourcesFile {
    current: Arc<RwLock<Arc<Sources>>>,
    file: PathBuf,
    /// What the file held at the start.
    first: TokenHash,
    /// Whether others than this machine reach the listener.
    is_exposed: bool,
    metrics: Arc<Metrics>,
}

impl SourcesFile {
    /// Reads the file. `is_exposed` says whether others than this machine reach the listener.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with it.
    pub fn load(file: &Path, is_exposed: bool, metrics: Arc<Metrics>) -> Result<Self, SourcesError> {
        let text = read(file)?;
        let sources = parse(file, &text)?;
        let this = Self {
            current: Arc::new(RwLock::new(Arc::new(sources))),
            file: file.to_owned(),
            first: TokenHash::of(&text),
            is_exposed,
            metrics,
        };
        this.tell();
        Ok(this)
    }

    /// The sources now.
    pub fn current(&self) -> Arc<Sources> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at the file every `interval`, and whenever it is `asked` to, until `shutdown`. Changed sources hold from the next
    /// request on. A file that cannot be used changes nothing; what is wrong is logged once.
    pub async fn keep_current(self, interval: Duration, asked: Arc<Notify>, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Ok(self.first);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = asked.notified() => {}
                _ = ticks.tick() => {}
            }
            let file = self.file.clone();
            let Ok(text) = tokio::task::spawn_blocking(move || read(&file)).await else { return };
            // Their secrets are not kept to be compared.
            let now = text.as_ref().map(|text| TokenHash::of(text)).map_err(Clone::clone);
            if seen != now {
                self.take(text);
                seen = now;
            }
        }
    }

    fn take(&self, text: Result<String, SourcesError>) {
        match text.and_then(|text| parse(&self.file, &text)) {
            Ok(sources) => {
                let count = sources.iter().len();
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(sources);
                self.metrics.ingest.sources_loaded.inc();
                tracing::info!(sources = count, "new sources of webhooks are in use");
                self.tell();
            }
            Err(error) => {
                self.metrics.ingest.sources_refused.inc();
                tracing::warn!(%error, "the new sources of webhooks cannot be used; the old ones stay");
            }
        }
    }

    /// Says what an operator should know of the sources in use.
    fn tell(&self) {
        let sources = self.current();
        self.metrics.ingest.sources.set(i64::try_from(sources.iter().len()).unwrap_or(i64::MAX));
        if !self.is_exposed {
            return;
        }
        for source in sources.iter().filter(|source| source.signing_secret.is_none()) {
            tracing::warn!(
                source.name = source.name,
                "the webhooks of this source need no signature: whoever learns its path can send events; set its signing_secret"
            );
        }
    }
}

impl fmt::Debug for SourcesFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourcesFile").field("file", &self.file).finish_non_exhaustive()
    }
}

fn fault(file: &Path, reason: impl Into<String>) -> SourcesError {
    SourcesError { file: file.to_owned(), reason: reason.into() }
}

fn parse(file: &Path, text: &str) -> Result<Sources, SourcesError> {
    Sources::parse(text).map_err(|faults| {
        let more = faults.len().saturating_sub(FAULTS_TOLD_MAX);
        let told = faults[..faults.len() - more].join("; ");
        fault(file, if more == 0 { told } else { format!("{told}; and {more} more") })
    })
}

fn read(file: &Path) -> Result<String, SourcesError> {
    let unreadable = |error: io::Error| fault(file, format!("cannot be read: {error}"));
    let opened = File::open(file).map_err(unreadable)?;
    #[cfg(unix)]
    {
        // Of the open file: it cannot be another one by the time it is read.
        let mode = std::os::unix::fs::MetadataExt::mode(&opened.metadata().map_err(unreadable)?) & 0o777;
        if mode & 0o027 != 0 {
            let reason = format!(
                "may be read or changed by others (its mode is {mode:03o}): make it `chmod 600`, or 640 for a group of its own"
            );
            return Err(fault(file, reason));
        }
    }
    let mut text = String::new();
    let bytes = opened.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if bytes as u64 > FILE_BYTES_MAX {
        return Err(fault(file, format!("has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

#[cfg(all(test, unix))]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_file_that_others_can_get_at_or_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sources.toml");
        fs::write(&path, "[[source]]\naccount = 1\npath = '0123456789abcdef01234567'\n").unwrap();
        let load = || SourcesFile::load(&path, false, Metrics::new(Default::default()));
        for (mode, taken) in
            [(0o600, true), (0o400, true), (0o640, true), (0o644, false), (0o660, false), (0o602, false)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match load() {
                Ok(_) => assert!(taken, "{mode:o}"),
                Err(error) => assert!(!taken && error.reason.contains(&format!("{mode:o}")), "{error}"),
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
        let told = load().unwrap_err().to_string();
        assert!(
            told.starts_with(&format!("ingest_sources_file {}: cannot be read", path.display())),
            "{told}"
        );
    }
}
