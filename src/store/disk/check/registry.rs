//! Examines sled's directory and the registry's log.

use std::{
    collections::BTreeMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use prost::Message;
use uuid::Uuid;

use super::{Check, Damage, Known, Remedy};
use crate::{
    domain::access::AccessToken,
    store::disk::{
        data_dir::{ENGINE_DIR, LEDGER_DIR, SCRATCH},
        fs::sync_all_in,
        index::manifest::{MANIFEST, Manifest},
        kv::{
            audit_log::AUDIT_TREE,
            audit_record::{self, AuditKind},
            engine::{agree, create_log, fill_from_log, last_change, rows_of},
            sled::open_engine,
            subscriptions::REGISTRY_TREE,
        },
        log::registry_log::{REGISTRY_LOG, RegistryLog, Rows},
        open_error::OpenError,
        records::{
            AccessTokenRecord, FORMAT_WITHOUT_REGISTRY_LOG, RegistryKind, RequestRecord, RowRecord, RowTree,
            SubscriptionRecord,
        },
    },
};

impl Check<'_> {
    pub(super) fn registry(&mut self, format: u32, known: &mut Known) -> io::Result<()> {
        let scratch = self.data_dir.join(SCRATCH);
        let done = self.registry_with(&scratch, format, known);
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => done,
        }
    }

    fn registry_with(&mut self, scratch: &Path, format: u32, known: &mut Known) -> io::Result<()> {
        super::super::data_dir::create_private_dir(scratch)?;
        let engine_dir = self.data_dir.join(ENGINE_DIR);
        if engine_dir.exists() {
            copy_dir(&engine_dir, &scratch.join(ENGINE_DIR))?;
        }
        let sled = open_engine(scratch, false);
        let ledger_dir = self.data_dir.join(LEDGER_DIR);
        let log = (format > FORMAT_WITHOUT_REGISTRY_LOG).then(|| RegistryLog::open(&ledger_dir));
        if self.is_of_another_store(sled.as_ref().ok(), log.as_ref().and_then(|log| log.as_ref().ok())) {
            return Ok(());
        }
        let rows = match (log, sled) {
            (Some(Err(fault)), Err(why)) => {
                self.unreadable(&registry_log(), fault.to_string());
                self.unreadable(ENGINE_DIR, fault_of(&why));
                return Ok(());
            }
            (None, Err(why)) => {
                self.unreadable(ENGINE_DIR, fault_of(&why));
                return Ok(());
            }
            (Some(Ok((_, rows))), Err(why)) => {
                self.rebuild_sled(fault_of(&why))?;
                rows
            }
            (Some(Err(fault)), Ok(db)) => {
                self.rebuild_log(fault.to_string())?;
                self.audit(&db)?;
                rows_in(&db)
            }
            (None, Ok(db)) => {
                self.audit(&db)?;
                rows_in(&db)
            }
            (Some(Ok((log, rows))), Ok(db)) => {
                let had = last_change(&db).ok().flatten();
                if had.is_none() {
                    self.rebuild_sled("sled found nothing in it".to_owned())?;
                    rows
                } else if had.is_some_and(|had| had > log.last()) {
                    let last = log.last();
                    let had = had.unwrap_or_default();
                    drop(log);
                    self.rebuild_log(format!("it ends with change {last}, and store/ has change {had}"))?;
                    self.audit(&db)?;
                    rows_in(&db)
                } else {
                    if had != Some(log.last()) {
                        self.behind(had.unwrap_or_default(), log.last())?;
                    }
                    self.audit(&db)?;
                    rows
                }
            }
        };
        self.rows(rows, known)
    }

    /// Notes a part that belongs to another store. Nothing may be made from it.
    fn is_of_another_store(
        &mut self,
        sled: Option<&::sled::Db>,
        log: Option<&(RegistryLog, BTreeMap<RowTree, Rows>)>,
    ) -> bool {
        // A damaged manifest is noted later.
        let Ok(manifest) = Manifest::read(&self.data_dir.join(LEDGER_DIR)) else { return false };
        let key = [RegistryKind::Store as u8];
        let of_sled = sled.and_then(|db| db.open_tree(REGISTRY_TREE).ok()?.get(key).ok()?);
        let of_log = log.and_then(|(_, rows)| rows.get(&RowTree::Registry)?.get(&key[..]));
        let parts =
            [(ENGINE_DIR.to_owned(), of_sled.as_deref()), (registry_log(), of_log.map(Vec::as_slice))];
        let mut is_any = false;
        for (file, store) in parts {
            if store.is_some_and(|store| store != manifest.store.as_bytes()) {
                let fault = format!("it is of another store than {LEDGER_DIR}/{MANIFEST}");
                self.unreadable(&file, fault);
                is_any = true;
            }
        }
        is_any
    }

    /// sled cannot be opened: the registry's log has everything but the audit records.
    fn rebuild_sled(&mut self, fault: String) -> io::Result<()> {
        let damage = Damage {
            file: ENGINE_DIR.to_owned(),
            place: None,
            fault,
            meaning: "Subscriptions and access tokens are whole in ledger/registry; audit records are in store/ only"
                .to_owned(),
            remedy: Remedy::Repair(
                "makes store/ from ledger/registry, and moves the damaged one into the quarantine: the audit records are lost"
                    .to_owned(),
            ),
        };
        self.found(damage, |check| {
            check.quarantine(ENGINE_DIR)?;
            let db = open_engine(check.data_dir, true).map_err(io::Error::other)?;
            fill_from_log(check.data_dir, &db).map_err(io::Error::other)?;
            db.flush().map_err(io::Error::other)?;
            drop(db);
            sync_all_in(&check.data_dir.join(ENGINE_DIR))
        })?;
        Ok(())
    }

    /// sled lacks changes: a crash costs it the last one, damage any number.
    fn behind(&mut self, had: u64, last: u64) -> io::Result<()> {
        let damage = Damage {
            file: ENGINE_DIR.to_owned(),
            place: None,
            fault: format!("it has change {had} of subscriptions and access tokens, and ledger/registry has change {last}"),
            meaning: "After a crash it lacks the last change; more are missing if it is damaged or an older copy, and \
                      then so are the audit records of that time"
                .to_owned(),
            remedy: Remedy::Repair("makes the missing changes again, as the next start does".to_owned()),
        };
        self.found(damage, |check| {
            let db = open_engine(check.data_dir, false).map_err(io::Error::other)?;
            agree(check.data_dir, &db).map_err(io::Error::other)?;
            db.flush().map(drop).map_err(io::Error::other)
        })?;
        Ok(())
    }

    /// The registry's log is damaged or older than sled, which has the rows.
    fn rebuild_log(&mut self, fault: String) -> io::Result<()> {
        let damage = Damage {
            file: registry_log(),
            place: None,
            fault,
            meaning: "It has every change of subscriptions and access tokens a second time; store/ can be read".to_owned(),
            remedy: Remedy::Repair(
                "makes it from store/, and moves the damaged one into the quarantine: a change that store/ lacks is lost, so look \
                 whether every token that was revoked lately is"
                    .to_owned(),
            ),
        };
        self.found(damage, |check| {
            check.quarantine(&registry_log())?;
            let db = open_engine(check.data_dir, false).map_err(io::Error::other)?;
            create_log(check.data_dir, &db).map_err(io::Error::other)?;
            db.flush().map(drop).map_err(io::Error::other)
        })?;
        Ok(())
    }

    /// Reads every subscription, request id and access token.
    fn rows(&mut self, rows: BTreeMap<RowTree, Rows>, known: &mut Known) -> io::Result<()> {
        for (tree, rows) in rows {
            for (key, value) in rows {
                let Err(fault) = self.row(tree, &key, &value, known) else { continue };
                let damage = Damage {
                    file: registry_log(),
                    place: None,
                    fault: format!("the row {} of {tree:?} cannot be read: {fault}", hex(&key)),
                    meaning: "A subscription, a request id or an access token is in it".to_owned(),
                    remedy: Remedy::Repair("removes it, and puts its bytes into the quarantine".to_owned()),
                };
                self.found(damage, |check| {
                    check.quarantine_bytes(&format!("row-{}", hex(&key)), &value)?;
                    let dir = check.data_dir.join(LEDGER_DIR);
                    let (mut log, _) = RegistryLog::open(&dir).map_err(io::Error::other)?;
                    log.append(tree, vec![RowRecord::removed(key)]).map_err(io::Error::other)?;
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    fn row(&mut self, tree: RowTree, key: &[u8], value: &[u8], known: &mut Known) -> Result<(), String> {
        let is = |kind: RegistryKind| tree == RowTree::Registry && key.first() == Some(&(kind as u8));
        if tree == RowTree::Tokens {
            let record = AccessTokenRecord::decode(value).map_err(|error| error.to_string())?;
            AccessToken::try_from(record).map_err(|error| error.to_string())?;
            self.report.tokens += 1;
        } else if is(RegistryKind::Subscription) {
            let record = SubscriptionRecord::decode(value).map_err(|error| error.to_string())?;
            let key = u64::from_be_bytes(key[1..].try_into().map_err(|_| "its key".to_owned())?);
            let key = u32::try_from(key).map_err(|error| error.to_string())?;
            known.subscriptions.insert(key, record.name().to_owned());
            self.report.subscriptions += 1;
        } else if is(RegistryKind::Request) {
            RequestRecord::decode(value).map_err(|error| error.to_string())?;
        } else if is(RegistryKind::Store) {
            known.store = Some(Uuid::from_slice(value).map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    /// Reads every audit record.
    fn audit(&mut self, db: &::sled::Db) -> io::Result<()> {
        // sled panics on some damages that it does not expect.
        let read = catch_unwind(AssertUnwindSafe(|| {
            let mut count = 0;
            for row in db.open_tree(AUDIT_TREE)?.scan_prefix([AuditKind::Record as u8]) {
                let (key, value) = row?;
                match audit_record::decode(&key, &value) {
                    Ok(_) => count += 1,
                    Err(fault) => return Ok((count, Some((key, value, fault.to_string())))),
                }
            }
            Ok::<_, ::sled::Error>((count, None))
        }));
        match read {
            Ok(Ok((count, None))) => self.report.audit_records = count,
            Ok(Ok((_, Some((key, _, fault))))) => {
                self.rebuild_sled(format!("the audit record {} cannot be read: {fault}", hex(&key)))?;
            }
            Ok(Err(error)) => self.rebuild_sled(error.to_string())?,
            Err(_) => self.rebuild_sled("sled cannot make sense of it".to_owned())?,
        }
        Ok(())
    }
}

/// The rows that sled has; those that it cannot read are left out.
fn rows_in(db: &::sled::Db) -> BTreeMap<RowTree, Rows> {
    let mut rows = BTreeMap::<RowTree, Rows>::new();
    for (tree, row) in rows_of(db).filter_map(Result::ok) {
        rows.entry(tree).or_default().insert(row.key, row.value.unwrap_or_default());
    }
    rows
}

fn registry_log() -> String {
    format!("{LEDGER_DIR}/{REGISTRY_LOG}")
}

fn fault_of(why: &OpenError) -> String {
    match why {
        OpenError::Unreadable(_, why) => why.clone(),
        other => other.to_string(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}
