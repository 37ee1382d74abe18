//! Opens a data directory. A start never creates a store where one existed, and refuses inconsistent data.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, RwLock, atomic::AtomicUsize, mpsc},
    thread,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{broadcast, watch};
use uuid::Uuid;

use super::{
    DiskStore, StoreSettings,
    data_dir::{
        CLEAN, ENGINE_DIR, LEDGER_DIR, READY, create_private_dir, has_store, prepare, refuse_foreign,
        sync_entry, take_lock, write_marker,
    },
    fs::sync_all_in,
    index::{
        apply,
        ledger::Ledger,
        manifest::{MANIFEST, Manifest},
        volume_codec,
    },
    keys::{key_file::KeySource, rotation::refuse_unreadable_key},
    kv::{
        access_tokens::{TOKENS_TREE, TokensTree},
        audit_log::{AuditLog, AuditSettings},
        engine::{Engine, create_log},
        subscriptions::{REGISTRY_TREE, RegistryTree},
    },
    log::{
        FIRST_FILE, Files, Kind, Log, LogPosition, ReadError, Record, Replayed, damage_at,
        registry_log::{Begin, REGISTRY_LOG},
        replay,
    },
    open_error::{OpenError, of_different_stores},
    permissions::refuse_denied,
    read::{damaged::DamagedRecords, fetch::read_detail},
    records::{FORMAT, RecordError, UNREADABLE},
    retention::RetentionThread,
    shared::Shared,
    writer::{WRITES_WAITING_MAX, Writer},
};
use crate::{
    clock::{Clock, STEP_MIN},
    domain::{
        damage::Damage,
        ids::{AccountId, Seq, SubscriptionKey},
    },
    metrics::Metrics,
    store::{FEED_GROUPS_MAX, Registry, StoreError, Tokens, changes::ChangeFeed},
};

impl DiskStore {
    /// Whether there is a store in `data_dir`, or a part of one.
    ///
    /// # Errors
    ///
    /// The file system refused, or this process may not use what is there.
    pub fn exists(data_dir: &Path) -> Result<bool, OpenError> {
        has_store(data_dir)
    }

    /// Opens the store in `data_dir`, or creates one in an empty directory.
    ///
    /// From then on the secrets are sealed with the first of the keys.
    ///
    /// # Errors
    ///
    /// Another process has the directory open, or its content cannot be read. Nothing is changed then.
    pub fn open(
        data_dir: &Path,
        settings: StoreSettings,
        keys: &KeySource,
        clock: Arc<dyn Clock>,
        seed: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Self, OpenError> {
        let io = |error| OpenError::of_file_system(data_dir, error);
        let unreadable = |why: String| OpenError::Unreadable(data_dir.to_owned(), why);
        let of_engine = |error| OpenError::of_engine(data_dir, error);
        let of_registry = |error| OpenError::of_registry(data_dir, error);
        refuse_unreadable_key(data_dir, keys)?;
        create_private_dir(data_dir).map_err(io)?;
        refuse_denied(data_dir)?;
        refuse_foreign(data_dir)?;
        let lock = take_lock(data_dir)?;
        super::kv::sled::finish_rewrite(data_dir).map_err(io)?;
        let format = prepare(data_dir)?;
        let engine_dir = data_dir.join(ENGINE_DIR);
        let mut random = StdRng::seed_from_u64(seed);
        let (db, keys, log) = super::keys::rotation::open_sealed(data_dir, keys, format, &mut random)?;

        let registry = Registry::default();
        let tree = db.open_tree(REGISTRY_TREE).map_err(of_engine)?;
        let store = uuid::Builder::from_random_bytes(random.random()).into_uuid();
        let ledger_dir = data_dir.join(LEDGER_DIR);
        let registry_log = match log {
            Some(log) => log,
            None => {
                RegistryTree::create_store(&tree, store, &keys, &mut random).map_err(of_registry)?;
                create_ledger(&ledger_dir, store, settings.file_bytes).map_err(io)?;
                create_log(data_dir, &db, Begin::FIRST)?
            }
        };
        let tokens_of = db.open_tree(TOKENS_TREE).map_err(of_engine)?;
        if format.is_none() {
            db.flush().map_err(of_engine)?;
        }
        let (last_change, known_record) = (registry_log.last(), registry_log.next_record());
        let engine = Engine::new(data_dir, db, registry_log, Arc::clone(&metrics)).map_err(io)?;
        let engine = Arc::new(engine);
        // One at a time: all of them at once, in addition to the registry, would be the peak of a start's
        // memory.
        let take = |subscription| registry.put(Arc::new(subscription));
        let nonces = StdRng::seed_from_u64(random.random());
        let registry_tree =
            RegistryTree::open(Arc::clone(&engine), &tree, keys, nonces, take).map_err(of_registry)?;
        let tokens = Tokens::default();
        let tokens_tree = TokensTree::open(Arc::clone(&engine), &tokens_of, &tokens).map_err(of_registry)?;
        drop((tree, tokens_of));
        let cache_bytes = usize::try_from(settings.store_memory_max).unwrap_or(usize::MAX);
        let clean = CleanEnd::read(data_dir).map_err(unreadable)?;
        let synced = clean.next_record.max(known_record);
        let Opened { ledger, files, end, checkpoint_file, noted_change } =
            read_ledger(&ledger_dir, registry_tree.store(), registry.accounts(), cache_bytes, synced)
                .map_err(|error| unreadable(error.to_string().trim_start_matches(UNREADABLE).to_owned()))?;
        // Due times and ages go on from where they were, wherever the wall clock is now.
        let behind = clock.continue_from(ledger.last_steady);
        if behind >= STEP_MIN {
            tracing::warn!(
                ?behind,
                "the wall clock is behind the last write of the store; waits and ages go on from there"
            );
        }
        clean.check(ledger.next_seq.0, end.number).map_err(unreadable)?;
        check_ends(end.number, known_record).map_err(unreadable)?;
        check_changes(last_change, noted_change.max(clean.registry_change)).map_err(unreadable)?;
        engine.note_next_record(end.number);
        let log = Log::open(&ledger_dir, settings.file_bytes, files, &end).map_err(io)?;
        if format.is_none() {
            sync_all_in(&engine_dir).map_err(io)?;
            sync_entry(data_dir).map_err(io)?;
        }
        if format != Some(FORMAT) {
            write_marker(data_dir, READY).map_err(io)?;
        }

        let shared = Arc::new(Shared {
            clock,
            registry,
            tokens,
            owed: ledger.owed_in_all(),
            ledger: RwLock::new(ledger),
            log: Arc::clone(log.reader()),
            event_cache: Mutex::default(),
            damaged: DamagedRecords::default(),
            settling: Mutex::default(),
            steps: Mutex::default(),
            feed: broadcast::Sender::new(FEED_GROUPS_MAX),
            changes: ChangeFeed::default(),
            failure: watch::Sender::new(None),
            waiting_bytes: AtomicUsize::new(0),
            waiting_writes: AtomicUsize::new(0),
            metrics,
        });
        let audit = AuditSettings {
            engine: Arc::clone(&engine),
            dir: ledger_dir.clone(),
            bytes_max: settings.audit_bytes_max,
        };
        let audit =
            AuditLog::open(audit, Arc::clone(&shared)).map_err(|error| unreadable(error.to_string()))?;
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            log,
            ledger_dir,
            checkpoint_file,
            committed_bytes: 0,
            dirty_memory_max: cache_bytes / 2,
            registry_tree,
            tokens_tree,
            engine: Arc::clone(&engine),
            noted_change,
            random,
        };
        if let Err(error) = writer.forget_secrets() {
            // The disk is full, or the next write reports the failure. Secrets that stay longer are sealed.
            tracing::warn!(%error, "old secrets were not removed");
        }
        let (writes, waiting) = mpsc::sync_channel(WRITES_WAITING_MAX);
        let ended = Arc::clone(&shared);
        let write = move || {
            if catch_unwind(AssertUnwindSafe(|| writer.run(&waiting))).is_err() {
                tracing::error!("the store's writer panicked and takes no more writes until a restart");
                ended
                    .failure
                    .send_replace(Some(StoreError::Failed("the writing thread panicked".to_owned())));
            }
            // Close the queue first: later settlements find it closed, and earlier ones get their reply here.
            drop(waiting);
            ended.steps().clear();
            for (_, reply) in std::mem::take(&mut *ended.settling()) {
                drop(reply.send(Err(StoreError::Closed)));
            }
        };
        let writer = thread::Builder::new().name("store-writer".to_owned()).spawn(write);
        let writer = Mutex::new(Some(writer.map_err(io)?));
        let retention = RetentionThread::start(Arc::clone(&shared), writes.clone()).map_err(io)?;
        Ok(DiskStore {
            shared,
            writes,
            writer,
            retention,
            audit,
            engine,
            _lock: lock,
            data_dir: data_dir.to_owned(),
        })
    }
}

/// The end of the store at the last clean stop; zeros if there was none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CleanEnd {
    next_seq: u64,
    /// The number of the next record: those before it were durable.
    pub(super) next_record: u64,
    /// The number of the registry's last change; 0 if unknown.
    pub(super) registry_change: u64,
}

impl CleanEnd {
    pub(super) fn read(data_dir: &Path) -> Result<Self, String> {
        let noted = match fs::read_to_string(data_dir.join(CLEAN)) {
            Ok(noted) => noted,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(format!("the file {CLEAN}: {error}")),
        };
        let damaged = || format!("the file {CLEAN} is not as it was written");
        let (mut next_seq, mut next_record, mut registry_change) = (None, None, None);
        for line in noted.lines() {
            let (name, number) = line.split_once(' ').ok_or_else(damaged)?;
            let number = number.parse().map_err(|_| damaged())?;
            let known = match name {
                "next_seq" => &mut next_seq,
                "next_record" => &mut next_record,
                "registry_change" => &mut registry_change,
                _ => return Err(damaged()),
            };
            *known = Some(number);
        }
        Ok(Self {
            next_seq: next_seq.ok_or_else(damaged)?,
            next_record: next_record.ok_or_else(damaged)?,
            // Notes of before do not have it.
            registry_change: registry_change.unwrap_or(0),
        })
    }

    /// Errors if the store ended later then.
    pub(super) fn check(self, next_seq: u64, next_record: u64) -> Result<(), String> {
        let ends = [("event number", self.next_seq, next_seq), ("record", self.next_record, next_record)];
        let earlier = ends.into_iter().find(|(_, noted, found)| found < noted);
        earlier.map_or(Ok(()), |(name, noted, found)| {
            Err(format!(
                "the log of events ends before {name} {found}, and the file {CLEAN} knows of {name} {}: {LEDGER_DIR}/*.log are \
                 older copies, or their end is damaged. Put the newer ones back if you have them",
                noted - 1
            ))
        })
    }
}

/// Errors if the registry's log knows of a later end of the log of events.
pub(super) fn check_ends(next_record: u64, known_record: u64) -> Result<(), String> {
    if next_record >= known_record {
        return Ok(());
    }
    Err(format!(
        "the log of events ends before record {next_record}, and {LEDGER_DIR}/{REGISTRY_LOG} knows of record {}: {LEDGER_DIR}/*.log \
         are older copies, or their end is damaged. Put the newer ones back if you have them",
        known_record - 1
    ))
}

/// Errors if the log of events knows of a later change of the registry.
pub(super) fn check_changes(last_change: u64, noted_change: u64) -> Result<(), String> {
    if last_change >= noted_change {
        return Ok(());
    }
    Err(format!(
        "{LEDGER_DIR}/{REGISTRY_LOG} ends with change {last_change}, and the log of events or the file {CLEAN} knows of change {noted_change}: \
         {LEDGER_DIR}/{REGISTRY_LOG} and {ENGINE_DIR}/ are older copies, or the first is damaged; with them a revoked token would \
         work again. Put the newer ones back"
    ))
}

fn create_ledger(dir: &Path, store: Uuid, file_bytes: u32) -> io::Result<()> {
    fs::create_dir(dir)?;
    Log::create(dir, file_bytes)?;
    Manifest::write(dir, &Manifest::empty(store, LogPosition::new(FIRST_FILE, 0)), std::iter::empty())
}

/// The content of the log's directory.
struct Opened {
    ledger: Ledger,
    files: Files,
    end: Replayed,
    /// The log file that was the last at the checkpoint.
    checkpoint_file: u32,
    /// The number of the newest change of the registry that the log knows of.
    noted_change: u64,
}

/// Reads the manifest, and replays the log from its position. Records below `synced` are known to have been durable.
fn read_ledger(
    dir: &Path,
    store: Uuid,
    subscriptions: Vec<(SubscriptionKey, AccountId)>,
    cache_bytes: usize,
    synced: u64,
) -> Result<Opened, ReadError> {
    let manifest = Manifest::read(dir)?;
    if manifest.store != store {
        return Err(
            RecordError(of_different_stores(&format!("{LEDGER_DIR}/{MANIFEST} and {ENGINE_DIR}/"))).into()
        );
    }
    let mut files = Files::open(dir, manifest.used.clone())?;
    let reader = Arc::clone(files.reader());
    let mut ledger = Ledger::new(subscriptions, cache_bytes);
    if let Some(lost) = manifest.lost_files(&reader)?.first() {
        return Err(RecordError(lost.to_string()).into());
    }
    let mut next = Seq(1);
    for volume in manifest.volumes {
        let stored = volume.stored().expect("the manifest says where");
        if volume.first < next || volume.end < volume.first {
            return Err(RecordError(format!("volume {} is out of order", volume.first.0)).into());
        }
        // Retention or a repair left events out.
        ledger.has_gap |= volume.first > next;
        next = volume.end;
        for hash in volume_codec::decode_hashes(&reader.read_slice(stored.index.ids)?) {
            ledger.ids.insert(hash, volume.first);
        }
        ledger.add_volume(volume);
    }
    if next > manifest.next_seq {
        return Err(RecordError(format!("event {} is past the last one", next.0 - 1)).into());
    }
    ledger.has_gap |= next < manifest.next_seq;
    (ledger.next_seq, ledger.last_time) = (manifest.next_seq, manifest.last_time);
    (ledger.last_steady, ledger.file_times) = (manifest.last_steady, manifest.file_times);
    let mut noted_change = manifest.registry_change;
    let end = replay(&reader, manifest.pos, manifest.number, synced, |record| {
        let Record { kind, pos, payload, is_damaged, .. } = record;
        if is_damaged && kind == Kind::Commit {
            let Damage { file, offset, .. } = damage_at(pos);
            tracing::error!(
                file,
                offset,
                "an event or attempt of this commit is damaged: everything else in it is read"
            );
        }
        match kind {
            Kind::Commit => {}
            Kind::Lost => return Ok(apply::lost(&mut ledger, &payload)?),
            // Index records are read through the manifest.
            _ => return Ok(()),
        }
        let (record, len) = apply::decode(&payload)?;
        noted_change = noted_change.max(record.registry_change);
        for outcome in &record.outcomes {
            fetch(&mut ledger, &reader, Seq(outcome.seq))?;
        }
        Ok(apply::apply(&mut ledger, &record, pos, len, |_, _| {})?)
    })?;
    files.note_used(&end.ends);
    Ok(Opened { ledger, files, end, checkpoint_file: manifest.pos.file(), noted_change })
}

/// Loads the detail of an event's volume and marks it dirty.
fn fetch(ledger: &mut Ledger, reader: &super::log::LogReader, seq: Seq) -> Result<(), ReadError> {
    let Some(volume) = ledger.volume_of(seq) else { return Ok(()) };
    let (first, stored) = (volume.first, volume.stored());
    if let (None, Some(stored)) = (ledger.details.get(&first), stored) {
        let detail = read_detail(reader, stored)?;
        ledger.cache_detail(first, stored, detail);
    }
    ledger.mark_dirty(first);
    Ok(())
}
