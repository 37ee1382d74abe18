//! The key of a store's secrets, and rotation to another one.
//!
//! A store has one key at a time; a row of its registry says which. So a start or a rotation sees at once
//! what is left to do, and a start with another key changes nothing. Of several given keys the first becomes
//! the store's.

use std::path::{Path, PathBuf};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    domain::seal::{KeyId, SealingKey, SealingKeys},
    store::disk::{
        data_dir::{READY, has_store, prepare, take_lock, write_marker},
        keys::key_file::{self, KEY_FILE, KeyFileError, KeySource},
        kv::{
            engine::{agree, convert},
            sled::{finish_rewrite, open_engine, rewrite},
            subscriptions::{REGISTRY_TREE, RegistryTree, SealedWith, reseal},
        },
        log::registry_log::RegistryLog,
        open_error::OpenError,
        records::FORMAT_WITHOUT_REGISTRY_LOG,
    },
};

/// The result of a rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The new key.
    pub key: KeyId,
    /// The key before; `None` if the secrets were in the clear.
    pub before: Option<KeyId>,
    /// The file with the new key.
    pub file: Option<PathBuf>,
}

/// Seals the secrets of the store in `data_dir`, which is not open, with another key: the first of the
/// source, if it has several, otherwise `new`, which replaces the only one in its file.
///
/// At every moment the keys in the file are enough to open the store. An interrupted rotation continues when
/// it is called again or the store is opened. Nothing that was sealed with the key before is left in the data
/// directory.
///
/// # Errors
///
/// The store does not exist, another process has it open, or the source does not have its key: nothing is
/// changed then. Or the file system failed.
pub fn rotate_secrets_key(
    data_dir: &Path,
    source: &KeySource,
    new: SealingKey,
    seed: u64,
) -> Result<Rotation, OpenError> {
    if !has_store(data_dir)? {
        return Err(OpenError::NoStore(data_dir.to_owned()));
    }
    let _lock = take_lock(data_dir)?;
    finish_rewrite(data_dir).map_err(|error| OpenError::of_file_system(data_dir, error))?;
    let format = prepare(data_dir)?.ok_or_else(|| OpenError::NoStore(data_dir.to_owned()))?;
    let file = file_of(data_dir, source);
    let mut random = StdRng::seed_from_u64(seed);
    let db = open_engine(data_dir, false)?;
    let mut log = open_log(data_dir, &db, format)?;
    let before = key_of_store(data_dir, &db)?;
    let given = available_keys(data_dir, source, before)?;
    let is_current = check(data_dir, &db, before, &given)?;
    let keys = match &file {
        // The first of several is the new one already. Where nothing was sealed before, so is the only one.
        _ if given.all().len() > 1 || !is_current => given,
        None => return Err(OpenError::NoNewKey),
        Some(file) => {
            // The file has both keys until everything is sealed with the new one.
            let both = given.after(new);
            write_keys(data_dir, file, &both)?;
            both
        }
    };
    seal_store(data_dir, (db, &mut log), before, &keys, &mut random)?;
    if let Some(file) = &file {
        keep_first(file, &keys);
    }
    Ok(Rotation { key: keys.first().id(), before, file })
}

/// Refuses a source whose keys cannot be read, before anything is made. Where there is a store, opening it says more.
pub(crate) fn refuse_unreadable_key(data_dir: &Path, source: &KeySource) -> Result<(), OpenError> {
    if has_store(data_dir)? {
        return Ok(());
    }
    match source {
        KeySource::Given(_) => Ok(()),
        KeySource::File(path) => read_keys(data_dir, path).map(drop),
        KeySource::Beside(_) => match read_keys(data_dir, &data_dir.join(KEY_FILE)) {
            // It is made.
            Err(OpenError::KeyFile(_, KeyFileError::Missing)) => Ok(()),
            read => read.map(drop),
        },
    }
}

/// Opens sled and the registry's log, which agree then, with every secret in them sealed with the first of the
/// keys. `format` is `None` for a store that is being made, which has no log yet.
pub(crate) fn open_sealed(
    data_dir: &Path,
    source: &KeySource,
    format: Option<u32>,
    random: &mut StdRng,
) -> Result<(::sled::Db, SealingKeys, Option<RegistryLog>), OpenError> {
    // Before sled touches anything: a key file that cannot be read is the likeliest fault.
    if let KeySource::File(path) = source {
        match read_keys(data_dir, path) {
            // The store says which key it needs: a new one is of no use to it.
            Err(OpenError::KeyFile(_, KeyFileError::Missing)) if format.is_some() => {}
            read => drop(read?),
        }
    }
    let mut db = open_engine(data_dir, format.is_none())?;
    let mut log = format.map(|format| open_log(data_dir, &db, format)).transpose()?;
    let before = key_of_store(data_dir, &db)?;
    let keys = available_keys(data_dir, source, before)?;
    if let Some(log) = &mut log {
        check(data_dir, &db, before, &keys)?;
        db = seal_store(data_dir, (db, log), before, &keys, random)?;
    }
    if matches!(source, KeySource::Beside(_)) && keys.all().len() > 1 {
        // A rotation was interrupted; now it is over.
        keep_first(&data_dir.join(KEY_FILE), &keys);
    }
    Ok((db, SealingKeys::one(keys.first().clone()), log))
}

/// Opens the registry's log, and makes sled agree with it. Begins it for a store of a format that had none.
fn open_log(data_dir: &Path, db: &::sled::Db, format: u32) -> Result<RegistryLog, OpenError> {
    if format > FORMAT_WITHOUT_REGISTRY_LOG {
        return agree(data_dir, db);
    }
    let log = convert(data_dir, db)?;
    if format == FORMAT_WITHOUT_REGISTRY_LOG {
        // URLs in the clear are sealed next. If a crash prevents that, the registry says so.
        write_marker(data_dir, READY).map_err(|error| OpenError::of_file_system(data_dir, error))?;
    }
    Ok(log)
}

/// The keys of the source. Creates one in the data directory if nothing is sealed yet.
fn available_keys(
    data_dir: &Path,
    source: &KeySource,
    of_store: Option<KeyId>,
) -> Result<SealingKeys, OpenError> {
    let read = |path: &Path| {
        let keys = read_keys(data_dir, path)?;
        tracing::info!(key.file = %path.display(), key.id = %keys.first().id(), "the key of the secrets in the store");
        Ok(keys)
    };
    match source {
        KeySource::Given(keys) => {
            tracing::info!(key.id = %keys.first().id(), "the key of the secrets in the store is from the environment");
            Ok(keys.clone())
        }
        KeySource::File(path) => match (read(path), of_store) {
            (Err(OpenError::KeyFile(path, KeyFileError::Missing)), Some(id)) => {
                Err(OpenError::KeyLost(path, id))
            }
            (read, _) => read,
        },
        KeySource::Beside(new) => {
            let path = data_dir.join(KEY_FILE);
            let exists =
                path.try_exists().map_err(|why| OpenError::of_key_file(data_dir, &path, why.into()))?;
            match of_store {
                _ if exists => read(&path),
                Some(id) => Err(OpenError::KeyLost(path, id)),
                None => {
                    let keys = SealingKeys::one(new.clone());
                    write_keys(data_dir, &path, &keys)?;
                    tracing::info!(
                        key.file = %path.display(), key.id = %new.id(),
                        "made a key for the secrets in the store, since none is configured (secrets_key_file): keep a copy of \
                         it apart from the data, which is of no use without it",
                    );
                    Ok(keys)
                }
            }
        }
    }
}

fn file_of(data_dir: &Path, source: &KeySource) -> Option<PathBuf> {
    match source {
        KeySource::Given(_) => None,
        KeySource::File(path) => Some(path.clone()),
        KeySource::Beside(_) => Some(data_dir.join(KEY_FILE)),
    }
}

/// Removes all keys but the first from the file. If that fails, the operator has to do it.
fn keep_first(file: &Path, keys: &SealingKeys) {
    if let Err(why) = key_file::write(file, &SealingKeys::one(keys.first().clone())) {
        tracing::warn!(key.file = %file.display(), error = %why, "older keys are left in the key file: take them out of it");
    }
}

fn read_keys(data_dir: &Path, file: &Path) -> Result<SealingKeys, OpenError> {
    key_file::read(file).map_err(|why| OpenError::of_key_file(data_dir, file, why))
}

fn write_keys(data_dir: &Path, file: &Path, keys: &SealingKeys) -> Result<(), OpenError> {
    key_file::write(file, keys).map_err(|why| OpenError::of_key_file(data_dir, file, why))
}

fn key_of_store(data_dir: &Path, db: &::sled::Db) -> Result<Option<KeyId>, OpenError> {
    let tree = db.open_tree(REGISTRY_TREE).map_err(|error| OpenError::of_engine(data_dir, error))?;
    RegistryTree::key_of(&tree).map_err(|error| OpenError::of_registry(data_dir, error))
}

/// Whether the store's secrets are sealed with the first of the keys. Errors if with none of them.
fn check(
    data_dir: &Path,
    db: &::sled::Db,
    of_store: Option<KeyId>,
    keys: &SealingKeys,
) -> Result<bool, OpenError> {
    let Some(of_store) = of_store else { return Ok(false) };
    if sealed_with(data_dir, db, keys)? == SealedWith::Others {
        let given = keys.all().iter().map(|key| key.id().to_string()).collect::<Vec<_>>().join(", ");
        return Err(OpenError::WrongKey { dir: data_dir.to_owned(), of_store, given });
    }
    Ok(keys.first().id() == of_store)
}

fn sealed_with(data_dir: &Path, db: &::sled::Db, keys: &SealingKeys) -> Result<SealedWith, OpenError> {
    let tree = db.open_tree(REGISTRY_TREE).map_err(|error| OpenError::of_engine(data_dir, error))?;
    RegistryTree::sealed_with(&tree, keys).map_err(|error| OpenError::of_registry(data_dir, error))
}

/// Rewrites the store, sealed with the first of the keys, unless it is.
fn seal_store(
    data_dir: &Path,
    (db, log): (::sled::Db, &mut RegistryLog),
    before: Option<KeyId>,
    keys: &SealingKeys,
    random: &mut StdRng,
) -> Result<::sled::Db, OpenError> {
    let has_key = before == Some(keys.first().id());
    if has_key && sealed_with(data_dir, &db, keys)? == SealedWith::These {
        return Ok(db);
    }
    let of_registry = |error| OpenError::of_registry(data_dir, error);
    let mut nonces = StdRng::seed_from_u64(random.random());
    let mut nonces_of_rows = StdRng::seed_from_u64(random.random());
    let row = |tree: &[u8], key: &[u8], value: &[u8]| {
        if tree == REGISTRY_TREE.as_bytes() {
            reseal(key, value, keys, &mut nonces_of_rows).map_err(|error| of_registry(error.into()))
        } else {
            Ok(Some(value.to_vec()))
        }
    };
    let last = |new: &::sled::Db| {
        let tree = new.open_tree(REGISTRY_TREE).map_err(|error| OpenError::of_engine(data_dir, error))?;
        RegistryTree::note_key(&tree, keys, &mut nonces).map_err(of_registry)?;
        // Before a version that knows nothing of sealed secrets could take them for none.
        write_marker(data_dir, READY).map_err(|error| OpenError::of_file_system(data_dir, error))
    };
    let db = rewrite(data_dir, db, log, row, last)?;
    *log = agree(data_dir, &db)?;
    let (key, before) = (keys.first().id(), before.map_or_else(|| "none".to_owned(), |id| id.to_string()));
    if has_key {
        tracing::info!(key.id = %key, "sealed the URLs in the store, which were in the clear");
    } else {
        tracing::info!(key.id = %key, key.before = before, "sealed the secrets in the store with another key");
    }
    Ok(db)
}
