//! Prepares the next log file in a thread of its own: fills it with zeros, or recycles one that retention
//! freed. Reports a full disk or too many open files, and tries again until there is a file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use crate::descriptors;

/// Name of the spare file.
pub(super) const SPARE: &str = "spare";
/// Wait after a failed preparation.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes per write. One page: the kernel keeps the bytes of one write together, and marks all of them dirty
/// when a commit changes some.
const CHUNK_BYTES: u32 = 4 * 1024;

pub(super) struct SegmentAllocator {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
    spare: PathBuf,
    file_bytes: u32,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    wanted: bool,
    ready: Option<File>,
    /// Why the last preparation failed.
    lack: Option<Lack>,
    stop: bool,
}

/// Why there is no next file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    /// The disk is full, or refused for another reason.
    Room,
    /// As many files are open as may be.
    Descriptors,
}

impl SegmentAllocator {
    pub(super) fn start(dir: &Path, file_bytes: u32) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let spare = dir.join(SPARE);
        let (path, work) = (spare.clone(), Arc::clone(&shared));
        let thread = thread::Builder::new().name("log-allocator".to_owned());
        let thread = Some(thread.spawn(move || work.run(&path, file_bytes))?);
        Ok(Self { shared, thread, spare, file_bytes })
    }

    /// Requests a file, unless one is ready or being prepared.
    pub(super) fn request(&self) {
        let mut state = self.shared.state();
        if !state.wanted && state.ready.is_none() {
            state.wanted = true;
            self.shared.changed.notify_all();
        }
    }

    /// Moves the ready file to `path`; `None` if there is none yet.
    pub(super) fn take(&self, path: &Path) -> io::Result<Option<File>> {
        let mut state = self.shared.state();
        let Some(file) = state.ready.take() else { return Ok(None) };
        fs::rename(&self.spare, path)?;
        state.wanted = false;
        Ok(Some(file))
    }

    /// Why the last preparation failed, until one succeeds.
    pub(super) fn lack(&self) -> Option<Lack> {
        self.shared.state().lack
    }

    /// Whether a freed file could become the next one.
    pub(super) fn can_recycle(&self, file: &File) -> bool {
        let state = self.shared.state();
        let whole = file.metadata().is_ok_and(|data| data.len() == u64::from(self.file_bytes));
        whole && state.ready.is_none() && (!state.wanted || state.lack.is_some())
    }

    /// Makes this file, which is at `path`, the next one, after [`SegmentAllocator::can_recycle`]. Its old
    /// records have other numbers and positions.
    pub(super) fn recycle(&self, path: &Path, file: File) -> io::Result<()> {
        let mut state = self.shared.state();
        fs::rename(path, &self.spare)?;
        (state.ready, state.wanted, state.lack) = (Some(file), true, None);
        Ok(())
    }
}

impl Drop for SegmentAllocator {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // It logged its errors itself.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(super::NO_PANIC)
    }

    fn run(&self, path: &Path, file_bytes: u32) {
        let mut state = self.state();
        while !state.stop {
            if !state.wanted || state.ready.is_some() {
                state = self.changed.wait(state).expect(super::NO_PANIC);
                continue;
            }
            drop(state);
            let made = make(path, file_bytes);
            state = self.state();
            if state.ready.is_some() {
                continue; // A file was recycled meanwhile.
            }
            match made {
                Ok(file) => {
                    if let Some(lack) = state.lack {
                        tracing::info!("{}", lack.over());
                    }
                    (state.ready, state.lack) = (Some(file), None);
                }
                Err(error) => {
                    // The partial file takes room that others could use.
                    drop(fs::remove_file(path));
                    let lack = if descriptors::is_exhausted(&error) { Lack::Descriptors } else { Lack::Room };
                    if state.lack != Some(lack) {
                        tracing::error!(%error, bytes = file_bytes, "{}", lack.begun());
                    }
                    state.lack = Some(lack);
                    state = self.changed.wait_timeout(state, RETRY_INTERVAL).expect(super::NO_PANIC).0;
                }
            }
        }
    }
}

impl Lack {
    fn begun(self) -> &'static str {
        match self {
            Self::Room => "there is no room for the next log file; trying again",
            Self::Descriptors => "no file descriptor is free for the next log file; trying again",
        }
    }

    fn over(self) -> &'static str {
        match self {
            Self::Room => "there is room on the disk again",
            Self::Descriptors => "the next log file could be opened again",
        }
    }
}

fn make(path: &Path, file_bytes: u32) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    fill(&file, file_bytes)?;
    Ok(file)
}

/// Fills a file with zeros and syncs it.
pub(super) fn fill(mut file: &File, bytes: u32) -> io::Result<()> {
    let zeros = vec![0; CHUNK_BYTES as usize];
    let mut left = bytes;
    while left > 0 {
        let chunk = left.min(CHUNK_BYTES);
        file.write_all(&zeros[..chunk as usize])?;
        left -= chunk;
    }
    file.sync_all()
}
