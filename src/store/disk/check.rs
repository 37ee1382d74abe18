//! Examines a data directory that is not open: reads everything, names each damage, and on request moves what
//! is damaged out of the way, so that the rest opens.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use super::{
    data_dir::{
        CREATING, LEDGER_DIR, MARKER, READY, SCRATCH, has_store, parse_marker, prepare, refuse_unfinished,
        take_lock, write_marker,
    },
    fs::sync_dir,
    index::manifest::{MANIFEST, Manifest},
    kv::sled::finish_rewrite,
    log::has_records,
    open_error::OpenError,
    records::{FORMAT, FORMAT_IN_THE_CLEAR, UNREADABLE},
};

mod ledger;
mod lost_file;
mod noted_changes;
mod registry;

/// The directory in the data directory where a repair puts what was damaged.
pub const QUARANTINE: &str = "quarantine";

/// A damage, and what can be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file, from the data directory on.
    pub file: String,
    /// The first byte that is damaged, if one is known.
    pub place: Option<u64>,
    /// What is wrong.
    pub fault: String,
    /// What it means: which events, subscriptions or tokens it concerns.
    pub meaning: String,
    /// The way out.
    pub remedy: Remedy,
}

/// The way out of a damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The gateway serves in spite of it, and shows it.
    Served,
    /// A repair does this.
    Repair(String),
    /// A repair did this.
    Repaired(String),
    /// Only a backup helps.
    Restore,
    /// Files have to be put back first; a repair changes nothing until then.
    PutBack(String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, place, fault, meaning, .. } = self;
        // Errors of the parts begin with what is in front of them here already.
        let in_file = format!("{file}: ");
        let mut fault = &**fault;
        while let Some(rest) = fault.strip_prefix(UNREADABLE).or_else(|| fault.strip_prefix(&*in_file)) {
            fault = rest;
        }
        match place {
            _ if fault.starts_with(&**file) => write!(f, "{fault}")?,
            Some(place) => write!(f, "{file}, byte {place}: {fault}")?,
            None => write!(f, "{file}: {fault}")?,
        }
        write!(f, ". {meaning}. ")?;
        match &self.remedy {
            Remedy::Served => write!(f, "The gateway serves everything else"),
            Remedy::Repair(how) => write!(f, "--repair {how}"),
            Remedy::Repaired(how) => write!(f, "Repaired: this {how}"),
            Remedy::Restore => write!(f, "Restore a backup"),
            Remedy::PutBack(how) => write!(f, "{how}"),
        }
    }
}

/// What was read, and every damage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// The damages, in the order in which they were met.
    pub damages: Vec<Damage>,
    /// Subscriptions, access tokens and audit records that were read.
    pub subscriptions: usize,
    /// See `subscriptions`.
    pub tokens: usize,
    /// See `subscriptions`.
    pub audit_records: usize,
    /// Events that were read, with their deliveries and attempts.
    pub events: usize,
    /// Events that cannot be found, since what says where they are is lost.
    pub lost_events: usize,
    /// Whether the rest was not read, because a damage that was named prevents it.
    pub is_cut_short: bool,
}

impl CheckReport {
    /// Whether a start is refused, or something cannot be read.
    pub fn is_damaged(&self) -> bool {
        self.damages.iter().any(|damage| !matches!(damage.remedy, Remedy::Repaired(_)))
    }
}

/// Reads everything in a data directory that is not open. Changes nothing but what a start completes after a
/// crash, unless it is to repair.
///
/// # Errors
///
/// There is no store, another process has it open, or the file system refused.
pub fn check(data_dir: &Path, repair: bool) -> Result<CheckReport, OpenError> {
    if !has_store(data_dir)? {
        return Err(OpenError::NoStore(data_dir.to_owned()));
    }
    let _lock = take_lock(data_dir)?;
    refuse_unfinished(data_dir)?;
    let mut check = Check { data_dir, repair, report: CheckReport::default() };
    check.run().map_err(|error| {
        error.downcast().unwrap_or_else(|error| OpenError::of_file_system(data_dir, error))
    })?;
    Ok(check.report)
}

struct Check<'a> {
    data_dir: &'a Path,
    repair: bool,
    report: CheckReport,
}

impl Check<'_> {
    fn run(&mut self) -> io::Result<()> {
        finish_rewrite(self.data_dir)?;
        let scratch = self.data_dir.join(SCRATCH);
        let done = self.run_with(&scratch);
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => done,
        }
    }

    fn run_with(&mut self, scratch: &Path) -> io::Result<()> {
        let ledger_dir = self.data_dir.join(LEDGER_DIR);
        let manifest = Manifest::read(&ledger_dir);
        let copies = self.copies(scratch)?;
        // Before anything is repaired: what is right for one store is damage in another.
        if self.is_of_several_stores(manifest.as_ref().ok(), &copies) {
            self.report.is_cut_short = true;
            return Ok(());
        }
        let Some(format) = self.marker()? else {
            self.report.is_cut_short = !self.report.damages.is_empty();
            return Ok(());
        };
        if !ledger_dir.try_exists()? {
            self.unreadable(LEDGER_DIR, "it is missing: it has every event and delivery".to_owned());
            return Ok(());
        }
        if let Err(fault) = &manifest {
            let file = format!("{LEDGER_DIR}/{MANIFEST}");
            self.unreadable(&file, format!("{fault}: it says where every event is"));
            // The rest is examined, and left as it is: a repair of it would open nothing.
            self.repair = false;
        }
        let mut known = Known::default();
        self.registry(format, manifest.as_ref().ok(), copies, &mut known)?;
        manifest.map_or(Ok(()), |manifest| self.ledger(manifest, &known))
    }

    /// The format of the store; `None` if nothing in it can be read, or if it was never completed.
    fn marker(&mut self) -> io::Result<Option<u32>> {
        let ledger_dir = self.data_dir.join(LEDGER_DIR);
        let marker = fs::read_to_string(self.data_dir.join(MARKER)).unwrap_or_default();
        let is_whole = match parse_marker(&marker) {
            Some((_, CREATING)) => !has_records(&ledger_dir)?,
            marker => marker.is_some(),
        };
        if !is_whole {
            let damage = Damage {
                file: MARKER.to_owned(),
                place: None,
                fault: "it is missing or does not say what it should".to_owned(),
                meaning: "It marks the directory as one of Tidings; nothing else is in it".to_owned(),
                remedy: Remedy::Repair("writes it again".to_owned()),
            };
            let found = self.found(damage, |check| {
                check.quarantine(MARKER)?;
                write_marker(check.data_dir, READY)
            })?;
            if !found {
                return Ok(None);
            }
        }
        match prepare(self.data_dir) {
            Ok(format) => Ok(format),
            Err(OpenError::Format(_, format)) => {
                self.report.damages.push(Damage {
                    file: MARKER.to_owned(),
                    place: None,
                    fault: format!("it has format {format}, and this version reads formats {FORMAT_IN_THE_CLEAR} to {FORMAT} only"),
                    meaning: "Another version wrote the directory; nothing in it is known to be damaged".to_owned(),
                    remedy: Remedy::PutBack("Start or check it with that version".to_owned()),
                });
                Ok(None)
            }
            // A file is missing: which one, is found out next.
            Err(_) => Ok(Some(FORMAT)),
        }
    }

    /// Notes a damage, and repairs it if asked to. Returns whether it is repaired.
    fn found(
        &mut self,
        mut damage: Damage,
        repair: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> io::Result<bool> {
        let repaired = match &damage.remedy {
            Remedy::Repair(how) if self.repair => Some(Remedy::Repaired(how.clone())),
            _ => None,
        };
        let is_repaired = repaired.is_some();
        if let Some(repaired) = repaired {
            repair(self)?;
            damage.remedy = repaired;
        }
        self.report.damages.push(damage);
        Ok(is_repaired)
    }

    /// Notes a damage that only a backup helps against.
    fn unreadable(&mut self, file: &str, fault: String) {
        self.report.damages.push(Damage {
            file: file.to_owned(),
            place: None,
            fault,
            meaning: "The store cannot be opened without it".to_owned(),
            remedy: Remedy::Restore,
        });
    }

    /// Moves a file or directory into the quarantine, if it is there.
    fn quarantine(&self, name: &str) -> io::Result<()> {
        let from = self.data_dir.join(name);
        if !from.try_exists()? {
            return Ok(());
        }
        fs::rename(&from, self.quarantined(name)?)?;
        sync_dir(from.parent().unwrap_or(self.data_dir))?;
        sync_dir(&self.data_dir.join(QUARANTINE))
    }

    /// Writes damaged bytes into a file of the quarantine.
    fn quarantine_bytes(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        fs::write(self.quarantined(name)?, bytes)?;
        sync_dir(&self.data_dir.join(QUARANTINE))
    }

    /// A path in the quarantine that is not taken.
    fn quarantined(&self, name: &str) -> io::Result<PathBuf> {
        let dir = self.data_dir.join(QUARANTINE);
        super::data_dir::create_private_dir(&dir)?;
        let name = name.replace('/', "-");
        let mut path = dir.join(&name);
        for nth in 2.. {
            if !path.try_exists()? {
                break;
            }
            path = dir.join(format!("{name}.{nth}"));
        }
        Ok(path)
    }
}

/// What the registry says about the ledger.
#[derive(Default)]
struct Known {
    /// The names of the subscriptions by key.
    subscriptions: BTreeMap<u32, String>,
    /// The number of the record that the log of events had next at the registry's last change; 0 if unknown.
    next_record: u64,
}

impl Known {
    /// The names of subscriptions, for people.
    fn names(&self, keys: impl IntoIterator<Item = u32>) -> String {
        let names = keys.into_iter().map(|key| {
            self.subscriptions.get(&key).cloned().unwrap_or_else(|| format!("deleted subscription {key}"))
        });
        let names = names.collect::<Vec<_>>().join(", ");
        if names.is_empty() { "no subscription".to_owned() } else { names }
    }
}
