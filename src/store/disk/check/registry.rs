//! Examines sled's directory and the registry's log.

use std::{
    collections::BTreeMap,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use prost::Message;
use uuid::Uuid;

use super::{Check, Damage, Known, Remedy, noted_changes::NotedChanges};
use crate::{
    domain::access::AccessToken,
    store::disk::{
        data_dir::{CLEAN, ENGINE_DIR, LEDGER_DIR},
        fs::sync_all_in,
        index::manifest::{MANIFEST, Manifest},
        kv::{
            audit_log::AUDIT_TREE,
            audit_record::{self, AuditKind},
            engine::{agree, create_log, fill_from_log, last_change, rows_of},
            sled::open_engine,
            subscriptions::REGISTRY_TREE,
        },
        log::registry_log::{Begin, REGISTRY_LOG, RegistryLog, Rows},
        open_error::OpenError,
        records::{
            AccessTokenRecord, FORMAT_WITHOUT_REGISTRY_LOG, RegistryKind, RequestRecord, RowRecord, RowTree,
            SubscriptionRecord,
        },
    },
};

/// sled, or why it cannot be opened.
type Engine = Result<::sled::Db, String>;

/// Both copies of the registry, or why each cannot be read.
pub(super) struct Copies {
    /// Opened in a copy of its directory.
    sled: Engine,
    log: Result<(RegistryLog, BTreeMap<RowTree, Rows>), String>,
}

/// The row with the id of the store.
const STORE_ROW: [u8; 1] = [RegistryKind::Store as u8];

impl Check<'_> {
    /// Opens both copies of the registry.
    pub(super) fn copies(&self, scratch: &Path) -> io::Result<Copies> {
        let sled = self.copy_of_sled(scratch)?;
        let log = RegistryLog::open(&self.data_dir.join(LEDGER_DIR)).map_err(|fault| fault.to_string());
        Ok(Copies { sled, log })
    }

    pub(super) fn registry(
        &mut self,
        format: u32,
        manifest: Option<&Manifest>,
        Copies { sled, log }: Copies,
        known: &mut Known,
    ) -> io::Result<()> {
        let ledger_dir = self.data_dir.join(LEDGER_DIR);
        known.next_record = log.as_ref().map_or(0, |(log, _)| log.next_record());
        let noted = match manifest {
            Some(manifest) => NotedChanges::read(self.data_dir, manifest, known.next_record)?,
            None => NotedChanges::default(),
        };
        if format <= FORMAT_WITHOUT_REGISTRY_LOG && !ledger_dir.join(REGISTRY_LOG).try_exists()? {
            let Ok(db) = sled.map_err(|why| self.unreadable(ENGINE_DIR, why)) else { return Ok(()) };
            let had = last_change(&db).ok().flatten().unwrap_or(0);
            // Otherwise the next start makes the log.
            if had < noted.change {
                self.rebuild_log("it is missing".to_owned(), had, &noted)?;
            }
            self.audit(&db)?;
            return self.rows(rows_in(&db), known);
        }
        let sled = sled.and_then(|db| match last_change(&db) {
            Ok(Some(had)) => Ok((db, had)),
            _ => Err("sled found nothing in it".to_owned()),
        });
        let rows = match (log, sled) {
            (Err(fault), Err(why)) => {
                self.unreadable(&registry_log(), fault);
                self.unreadable(ENGINE_DIR, why);
                return Ok(());
            }
            (Err(fault), Ok((db, had))) => {
                self.rebuild_log(fault, had, &noted)?;
                self.audit(&db)?;
                rows_in(&db)
            }
            (Ok((log, _)), Ok((db, had))) if had > log.last() => {
                let fault = format!("it ends with change {}, and {ENGINE_DIR}/ has change {had}", log.last());
                self.rebuild_log(fault, had, &noted)?;
                self.audit(&db)?;
                rows_in(&db)
            }
            (Ok((log, rows)), sled) => {
                match sled {
                    Err(why) => self.rebuild_sled(why)?,
                    Ok((db, had)) => {
                        // A crash may leave it without the last one, which is no damage.
                        if had + 1 < log.last() {
                            self.behind(had, log.last())?;
                        }
                        self.audit(&db)?;
                    }
                }
                if log.last() < noted.change {
                    self.older_log(&log, &noted)?;
                }
                rows
            }
        };
        self.rows(rows, known)
    }

    /// Opens a copy of sled's directory.
    fn copy_of_sled(&self, scratch: &Path) -> io::Result<Engine> {
        super::super::data_dir::create_private_dir(scratch)?;
        let engine_dir = self.data_dir.join(ENGINE_DIR);
        // sled would make them.
        for file in ["db", "conf"] {
            if !engine_dir.join(file).try_exists()? {
                return Ok(Err(format!("the file {ENGINE_DIR}/{file} is missing")));
            }
        }
        copy_dir(&engine_dir, &scratch.join(ENGINE_DIR))?;
        Ok(open_engine(scratch, false).map_err(|why| fault_of(&why)))
    }

    /// Opens sled itself for a repair, and makes what is done durable.
    fn with_sled(
        &self,
        is_new: bool,
        work: impl FnOnce(&::sled::Db) -> Result<(), OpenError>,
    ) -> io::Result<()> {
        let db = open_engine(self.data_dir, is_new).map_err(io::Error::other)?;
        work(&db).map_err(io::Error::other)?;
        db.flush().map_err(io::Error::other)?;
        drop(db);
        sync_all_in(&self.data_dir.join(ENGINE_DIR))
    }

    /// Writes the registry's log again, with the same rows.
    pub(super) fn begin_log_again(&self, number: u64, next_record: u64) -> io::Result<()> {
        let dir = self.data_dir.join(LEDGER_DIR);
        let (log, rows) = RegistryLog::open(&dir).map_err(io::Error::other)?;
        let begin = Begin { number: number.max(log.last() + 1), next_record };
        let rows = rows.into_iter().flat_map(|(tree, rows)| {
            rows.into_iter().map(move |(key, value)| Ok::<_, io::Error>((tree, RowRecord::put(key, value))))
        });
        RegistryLog::replace(&dir, begin, rows)?;
        self.with_sled(false, |db| agree(self.data_dir, db).map(drop))
    }

    /// Notes that the parts belong to different stores. Nothing may be made from them then.
    pub(super) fn is_of_several_stores(&mut self, manifest: Option<&Manifest>, copies: &Copies) -> bool {
        let of_events = manifest.map(|manifest| manifest.store.as_bytes().to_vec());
        let of_sled = copies.sled.as_ref().ok().and_then(|db| {
            db.open_tree(REGISTRY_TREE).ok()?.get(STORE_ROW).ok()?.map(|store| store.to_vec())
        });
        let of_log = copies
            .log
            .as_ref()
            .ok()
            .and_then(|(_, rows)| rows.get(&RowTree::Registry)?.get(&STORE_ROW[..]).cloned());
        let differ =
            |one: &Option<Vec<u8>>, other: &Option<Vec<u8>>| one.is_some() && other.is_some() && one != other;
        let (engine, manifest_file, log_file) =
            (format!("{ENGINE_DIR}/"), format!("{LEDGER_DIR}/{MANIFEST}"), registry_log());
        let repaired_without = |part: &str, of: &str| {
            format!(
                " If {part} is the foreign one and the right one is gone, move {part} out of the directory and run --repair, \
                 which makes it from {of}"
            )
        };
        let (file, others, otherwise) =
            match [differ(&of_sled, &of_log), differ(&of_sled, &of_events), differ(&of_log, &of_events)] {
                [false, false, false] => return false,
                // The ledger may be the foreign one as well.
                [_, _, false] if of_log.is_some() => (
                    ENGINE_DIR.to_owned(),
                    format!("{LEDGER_DIR}/"),
                    repaired_without(&engine, &log_file) + ": the audit records are lost",
                ),
                [_, false, _] if of_sled.is_some() => {
                    let others = format!("{engine} and {manifest_file}");
                    (log_file.clone(), others, repaired_without(&log_file, &engine))
                }
                [false, _, _] => (
                    manifest_file,
                    format!("{engine} and {log_file}"),
                    " Otherwise restore a backup".to_owned(),
                ),
                _ => (
                    ENGINE_DIR.to_owned(),
                    format!("{LEDGER_DIR}/, whose files are of different stores too"),
                    " Otherwise restore a backup".to_owned(),
                ),
            };
        self.report.damages.push(Damage {
            fault: format!("it is of another store than {others}"),
            file,
            place: None,
            meaning: "Nothing else was examined, and nothing is repaired while it is so".to_owned(),
            remedy: Remedy::PutBack(format!("Put back those that belong together.{otherwise}")),
        });
        true
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
            check.with_sled(true, |db| fill_from_log(check.data_dir, db).map(drop))
        })?;
        Ok(())
    }

    /// sled lacks changes: a crash costs it the last one, damage any number.
    fn behind(&mut self, had: u64, last: u64) -> io::Result<()> {
        let damage = Damage {
            file: ENGINE_DIR.to_owned(),
            place: None,
            fault: format!("it has change {had} of subscriptions and access tokens, and ledger/registry has change {last}"),
            meaning: "It is damaged or an older copy, unless the disk was full: then the audit records of that time are \
                      missing as well"
                .to_owned(),
            remedy: Remedy::Repair("makes the missing changes again, as the next start does".to_owned()),
        };
        self.found(damage, |check| check.with_sled(false, |db| agree(check.data_dir, db).map(drop)))?;
        Ok(())
    }

    /// The registry's log is damaged or older than sled, which has the rows.
    fn rebuild_log(&mut self, fault: String, had: u64, noted: &NotedChanges) -> io::Result<()> {
        let damage = Damage {
            file: registry_log(),
            place: None,
            fault,
            meaning: format!(
                "It has every change of subscriptions and access tokens a second time; {ENGINE_DIR}/ can be read. {}",
                noted.lost_after(ENGINE_DIR, had)
            ),
            remedy: Remedy::Repair(format!(
                "makes it from {ENGINE_DIR}/, and moves the damaged one into the quarantine"
            )),
        };
        // Past every change that the log of events knows of.
        let begin = Begin { number: had.max(noted.change) + 1, next_record: 0 };
        self.found(damage, |check| {
            check.quarantine(&registry_log())?;
            check.with_sled(false, |db| create_log(check.data_dir, db, begin).map(drop))
        })?;
        Ok(())
    }

    /// Both copies of the registry are older than the log of events.
    fn older_log(&mut self, log: &RegistryLog, noted: &NotedChanges) -> io::Result<()> {
        let damage = Damage {
            file: registry_log(),
            place: None,
            fault: format!(
                "it ends with change {}, {ENGINE_DIR}/ has no later one, and the log of events or {CLEAN} knows of change {}",
                log.last(),
                noted.change
            ),
            meaning: format!(
                "Both are older copies, or the end of the first is damaged: put the newer ones back if you have them. {}",
                noted.lost_after(&registry_log(), log.last())
            ),
            remedy: Remedy::Repair("takes what is there".to_owned()),
        };
        self.found(damage, |check| check.begin_log_again(noted.change + 1, log.next_record()))?;
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
                    let next_record = log.next_record();
                    log.append(tree, vec![RowRecord::removed(key)], next_record).map_err(io::Error::other)?;
                    check.with_sled(false, |db| agree(check.data_dir, db).map(drop))
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
            Uuid::from_slice(value).map_err(|error| error.to_string())?;
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
