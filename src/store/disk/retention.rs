//! The thread of retention: removes whole log files, the oldest first. Owed events of a removed file are
//! copied to the end of the log.
//!
//! This thread reads and deletes; the writing thread only writes, in short steps. Between two steps the store
//! does everything else: publishing does not wait for retention, however many files it removes.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Condvar, Mutex, MutexGuard, atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    index::volume::Volume,
    log::{ReadError, RemovedFile},
    read::fetch::EventRef,
    shared::{Reply, Shared},
    writer::{Write, Writer},
};
use crate::{
    domain::ids::{Seq, SubscriptionKey},
    event::StoredEvent,
    store::{Purged, RetentionLimit, StoreError},
};

/// Per cent of a file's bytes that may be owed for the file to be removed: copying more would gain little.
const OWED_HUNDREDTHS_MAX: u64 = 75;
/// The same while the store has more bytes than it may. So the log is larger than what is owed by a ninth at most.
const OWED_HUNDREDTHS_MAX_URGENT: u64 = 90;
/// While others write, a step is followed by a pause of this many times the duration of the step and of the
/// reads before it: fewer than one in two hundred writes meets this thread, on the writing thread or on a core.
const PAUSE_FACTOR: u32 = 256;
/// The same while the store has more bytes than it may: it must not fill up faster than files are removed.
const PAUSE_FACTOR_URGENT: u32 = 8;
/// Beyond this part more than the store may have there are no pauses.
const NO_PAUSE_PART: u64 = 8;
/// Time in which one purge counts owed bytes again: the next one waits for it.
const RECOUNT_TIME_MAX: Duration = Duration::from_secs(1);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Volumes whose new indexes and states are written together.
const VOLUMES_SAVED_TOGETHER: usize = 8;
/// Tries to copy a volume whose deliveries change meanwhile.
const TRIES_MAX: usize = 10;

/// A request for a purge.
type Request = (RetentionLimit, Reply<Purged>);

/// The thread, as the store sees it.
pub struct RetentionThread {
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    stop: Arc<Stop>,
}

#[derive(Default)]
struct Stop {
    is_set: Mutex<bool>,
    changed: Condvar,
}

impl RetentionThread {
    /// Starts the thread. Its steps go to the writing thread through `writes`.
    pub fn start(shared: Arc<Shared>, writes: mpsc::SyncSender<Write>) -> std::io::Result<Self> {
        let (requests, waiting) = mpsc::channel::<Request>();
        let stop = Arc::new(Stop::default());
        let job = Job {
            shared,
            writes,
            stop: Arc::clone(&stop),
            committed_seen: 0,
            work_began: Instant::now(),
            pause_factor: PAUSE_FACTOR,
        };
        let run = move || {
            let mut job = job;
            while let Ok((keep, reply)) = waiting.recv() {
                drop(reply.send(job.purge(keep)));
            }
        };
        let thread = thread::Builder::new().name("store-retention".to_owned()).spawn(run)?;
        Ok(Self { requests: Mutex::new(Some(requests)), thread: Mutex::new(Some(thread)), stop })
    }

    /// Requests a purge. Purges are made one after another.
    pub fn request(&self, keep: RetentionLimit, reply: Reply<Purged>) {
        let requests = self.requests.lock().expect(NO_PANIC);
        match requests.as_ref() {
            // If the thread is gone, the reply is dropped with the request: closed.
            Some(requests) => drop(requests.send((keep, reply))),
            None => drop(reply.send(Err(StoreError::Closed))),
        }
    }

    /// Ends a purge after its current step, and the thread. The writing thread must still run.
    pub fn close(&self) {
        self.requests.lock().expect(NO_PANIC).take();
        *self.stop.lock() = true;
        self.stop.changed.notify_all();
        if let Some(thread) = self.thread.lock().expect(NO_PANIC).take() {
            // A panic has been logged, and closed its requests.
            drop(thread.join());
        }
    }
}

const NO_PANIC: &str = "no code panics while it holds this lock";

impl Stop {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_set.lock().expect(NO_PANIC)
    }
}

/// The state of the thread.
struct Job {
    shared: Arc<Shared>,
    writes: mpsc::SyncSender<Write>,
    stop: Arc<Stop>,
    /// Bytes that others had committed when the last step ended.
    committed_seen: u64,
    /// When the work since the last pause began.
    work_began: Instant,
    pause_factor: u32,
}

/// The files of the log.
struct LogFiles {
    /// Bytes in use of each but the last.
    full: Vec<(u32, u64)>,
    /// Bytes in use of all.
    bytes: u64,
    /// Bytes that retention and checkpoints have appended since the store was opened.
    own_bytes: u64,
}

impl Job {
    fn purge(&mut self, keep: RetentionLimit) -> Result<Purged, StoreError> {
        self.work_began = Instant::now();
        self.step(Writer::forget_secrets)?;
        let purged = self.remove_old_files(keep)?;
        // Last, since removing files cannot wait for it.
        self.recount_owed_bytes()?;
        Ok(purged)
    }

    fn remove_old_files(&mut self, keep: RetentionLimit) -> Result<Purged, StoreError> {
        let mut events = 0;
        let mut files = self.log_files()?;
        loop {
            self.pause_factor = match files.bytes.saturating_sub(keep.bytes_max) {
                0 => PAUSE_FACTOR,
                over if over <= keep.bytes_max / NO_PAUSE_PART => PAUSE_FACTOR_URGENT,
                _ => 0,
            };
            let old = self.files_to_remove(&files, keep);
            if old.is_empty() {
                return Ok(Purged { events, bytes_left: files.bytes });
            }
            events += self.remove_files(old)?;
            let left = self.log_files()?;
            let freed: u64 = {
                let is_left = |file| left.full.iter().any(|(other, _)| *other == file);
                files.full.iter().filter(|(file, _)| !is_left(*file)).map(|(_, bytes)| bytes).sum()
            };
            let copied = left.own_bytes - files.own_bytes;
            files = left;
            // Others write meanwhile, and copies take room: look again, unless the copies took all that was
            // freed. The same owed events would be copied for ever.
            if copied >= freed {
                return Ok(Purged { events, bytes_left: files.bytes });
            }
        }
    }

    fn log_files(&mut self) -> Result<LogFiles, StoreError> {
        self.step(|writer| {
            let own_bytes = writer.log.appended() - writer.committed_bytes;
            Ok(LogFiles { full: writer.log.full_files(), bytes: writer.log.bytes(), own_bytes })
        })
    }

    fn files_to_remove(&self, files: &LogFiles, keep: RetentionLimit) -> Vec<u32> {
        let ledger = self.shared.ledger();
        let mut owed: BTreeMap<u32, u64> = BTreeMap::new();
        for volume in &ledger.volumes {
            *owed.entry(volume.file).or_default() += volume.owed_bytes();
        }
        let mut left = files.bytes;
        let mut removed = Vec::new();
        for &(file, bytes) in &files.full {
            let is_old = ledger.file_times.get(&file).is_none_or(|time| *time < keep.since);
            let is_urgent = left > keep.bytes_max;
            if !is_old && !is_urgent {
                continue;
            }
            let owed = owed.get(&file).copied().unwrap_or_default();
            let most = if is_urgent { OWED_HUNDREDTHS_MAX_URGENT } else { OWED_HUNDREDTHS_MAX };
            if owed.saturating_mul(100) <= bytes * most {
                removed.push(file);
                left -= bytes;
            }
        }
        removed
    }

    /// Counts the owed bytes of volumes whose count is not exact, as many as there is time for.
    fn recount_owed_bytes(&mut self) -> Result<(), StoreError> {
        let inexact: Vec<Seq> = {
            let ledger = self.shared.ledger();
            let inexact = ledger.volumes.iter().filter(|volume| !volume.owed_bytes_known);
            inexact.map(|volume| volume.first).collect()
        };
        self.pause_factor = self.pause_factor.min(PAUSE_FACTOR_URGENT);
        let began = Instant::now();
        for first in inexact {
            if began.elapsed() > RECOUNT_TIME_MAX {
                break;
            }
            // Read here, so that the writing thread finds it in memory.
            match self.shared.with_detail(first, |_, _| ()) {
                Ok(_) | Err(ReadError::Gone) => self.step(move |writer| {
                    writer.shared.ledger_mut().recount_owed_bytes(first);
                    Ok(())
                })?,
                // It stays as it is until its file is removed.
                Err(ReadError::Damaged(_)) => self.step(move |writer| {
                    let mut ledger = writer.shared.ledger_mut();
                    ledger.volume_mut(first).into_iter().for_each(|volume| volume.owed_bytes_known = true);
                    Ok(())
                })?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Removes log files with everything in them that is not owed. Returns the number of removed events.
    fn remove_files(&mut self, files: Vec<u32>) -> Result<u64, StoreError> {
        let mut events = 0;
        let volumes: Vec<(Seq, bool)> = {
            let ledger = self.shared.ledger();
            let of_files = ledger.volumes.iter().map(|volume| {
                let is_within = files.contains(&volume.file);
                (volume.first, is_within, is_within || volume.is_stored_in(&files))
            });
            of_files
                .filter(|(_, _, is_wanted)| *is_wanted)
                .map(|(first, is_within, _)| (first, is_within))
                .collect()
        };
        for volumes in volumes.chunks(VOLUMES_SAVED_TOGETHER) {
            for &(first, is_within) in volumes {
                events += if is_within { self.relocate(first)? } else { self.move_index(first)? };
            }
            self.save(volumes.iter().map(|(first, _)| *first).collect())?;
        }
        let removed = self.step(move |writer| writer.remove_files(files))?;
        for RemovedFile { path, file } in removed {
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(
                    %error, file = %path.display(), "a log file that is not needed stays until the next start",
                );
            }
            // The file system frees the bytes only now.
            drop(file);
        }
        Ok(events)
    }

    /// Copies the owed events of a volume and forgets the rest. Returns the number of removed events.
    fn relocate(&mut self, first: Seq) -> Result<u64, StoreError> {
        for _ in 0..TRIES_MAX {
            let owed = match self.read_owed(first) {
                Err(ReadError::Gone) => continue,
                owed => owed.map_err(StoreError::from),
            };
            let relocated = match owed {
                Ok(owed) => self.step(move |writer| writer.relocate(first, &owed)),
                Err(error) => Err(error),
            };
            match relocated {
                // More is owed by now: it is read again.
                Ok(None) => {}
                Ok(Some(removed)) => return Ok(removed),
                Err(StoreError::Damaged(_)) => return self.drop_volume(first),
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    }

    fn drop_volume(&mut self, first: Seq) -> Result<u64, StoreError> {
        self.step(move |writer| Ok(writer.drop_volume(first)))
    }

    /// The owed events of a volume, in order. Nothing is read of one that owes nothing.
    fn read_owed(&self, first: Seq) -> Result<Vec<Arc<StoredEvent>>, ReadError> {
        if self.shared.ledger().volume(first).is_none_or(Volume::owes_nothing) {
            return Ok(Vec::new());
        }
        let owed = self.shared.with_detail(first, |volume, detail| {
            let is_known =
                |subscription: u32| volume.of_subscription(SubscriptionKey(subscription.into())).is_some();
            let owed = (0..detail.len()).filter(|event| detail.is_owed(*event, is_known));
            owed.map(|event| EventRef::new(volume, detail, event)).collect::<Vec<_>>()
        })?;
        self.shared.load(&owed.unwrap_or_default())
    }

    /// Has the index and the state of a volume written again, since they are in a removed file. Returns the
    /// number of removed events.
    fn move_index(&mut self, first: Seq) -> Result<u64, StoreError> {
        // Read here, so that the writing thread finds it in memory.
        let moved = match self.shared.with_detail(first, |_, _| ()) {
            Ok(_) | Err(ReadError::Gone) => self.step(move |writer| writer.move_index(first).map(|()| 0)),
            Err(error) => Err(error.into()),
        };
        match moved {
            Err(StoreError::Damaged(_)) => self.drop_volume(first),
            moved => moved,
        }
    }

    /// Writes the indexes and states of these volumes, one record a step.
    fn save(&mut self, volumes: Vec<Seq>) -> Result<(), StoreError> {
        let volumes: Arc<[Seq]> = volumes.into();
        for part in [Writer::write_some_indexes, Writer::write_some_states] {
            // Each volume once: a state that changes meanwhile is written by the next checkpoint.
            for _ in 0..volumes.len() {
                let only = Arc::clone(&volumes);
                if !self.step(move |writer| part(writer, Some(&only)))? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Makes a step on the writing thread, and pauses after it if others write.
    fn step<T: Send + 'static>(
        &mut self,
        step: impl FnOnce(&mut Writer) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if *self.stop.lock() {
            return Err(StoreError::Closed);
        }
        let reading = self.work_began.elapsed();
        let (reply, result) = oneshot::channel();
        let on_writer = move |writer: &mut Writer| {
            let (began, committed) = (Instant::now(), writer.committed_bytes);
            let result = writer.shared.working().and_then(|()| step(writer));
            // Commits of the step itself are not those of others.
            writer.committed_bytes = committed;
            writer.reply(reply, result.map(|result| (result, committed, began.elapsed())));
        };
        self.shared.steps().push_back(Box::new(on_writer));
        self.shared.waiting_writes.fetch_add(1, Ordering::Relaxed);
        if self.writes.send(Write::Steps).is_err() {
            self.shared.waiting_writes.fetch_sub(1, Ordering::Relaxed);
            self.shared.steps().clear();
            return Err(StoreError::Closed);
        }
        let (result, committed, writing) = result.blocking_recv().unwrap_or(Err(StoreError::Closed))?;
        if std::mem::replace(&mut self.committed_seen, committed) != committed {
            let pause = ((reading + writing) * self.pause_factor).min(PAUSE_MAX);
            let is_set = self.stop.lock();
            drop(self.stop.changed.wait_timeout_while(is_set, pause, |is_set| !*is_set).expect(NO_PANIC));
        }
        self.work_began = Instant::now();
        Ok(result)
    }
}
