//! The changes of subscriptions and access tokens that the log of events knows of: they tell a copy of the registry that is
//! whole from one that is older.

use std::{io, path::Path};

use prost_types::Timestamp;

use crate::{
    domain::time::UnixMicros,
    store::disk::{
        data_dir::LEDGER_DIR,
        index::{apply, manifest::Manifest},
        log::{Kind, LogReader, Record, find_gap, replay},
        open::CleanEnd,
    },
};

/// What the log of events knows of the registry.
#[derive(Debug, Default)]
pub(super) struct NotedChanges {
    /// The number of the last change; 0 if it knows of none.
    pub(super) change: u64,
    /// The time of each commit since the last checkpoint that knew of a later change than the one before it.
    times: Vec<(u64, UnixMicros)>,
}

impl NotedChanges {
    /// Reads the manifest and the records after its position, as far as they can be read.
    pub(super) fn read(data_dir: &Path, manifest: &Manifest, known_record: u64) -> io::Result<Self> {
        let reader = LogReader::read_only(&data_dir.join(LEDGER_DIR))?;
        let clean = CleanEnd::read(data_dir).unwrap_or_default();
        let synced = clean.next_record.max(known_record);
        let mut noted = Self {
            change: manifest.registry_change.max(clean.registry_change),
            times: vec![(manifest.registry_change, manifest.last_time)],
        };
        let (mut pos, mut number) = (manifest.pos, manifest.number);
        loop {
            let replayed = replay(&reader, pos, number, synced, |record| {
                let Record { kind, payload, end, next_number, .. } = record;
                (pos, number) = (end, next_number);
                if kind == Kind::Commit
                    && let Ok((commit, _)) = apply::decode(&payload)
                    && noted.times.last().is_none_or(|(known, _)| commit.registry_change > *known)
                {
                    noted.change = noted.change.max(commit.registry_change);
                    noted.times.push((commit.registry_change, UnixMicros(commit.time)));
                }
                Ok(())
            });
            if replayed.is_ok() {
                return Ok(noted);
            }
            let gap = find_gap(&reader, pos, number).map_err(io::Error::other)?;
            let Some(gap) = gap.filter(|gap| gap.next != pos) else {
                return Ok(noted);
            };
            (pos, number) = (gap.next, gap.next_number);
        }
    }

    /// What is lost if a copy that ends with this change is used.
    pub(super) fn lost_after(&self, copy: &str, last: u64) -> String {
        if self.change == 0 {
            return "Look whether every token that was revoked lately is: a change that the copy lacks is lost".to_owned();
        }
        if last >= self.change {
            return format!(
                "{copy} has every change that the log of events knows of, the last of which is {}: none of them is lost, \
                 unless the log of events is an older copy too",
                self.change
            );
        }
        let since =
            self.times.iter().rev().find(|(change, time)| *change <= last && *change > 0 && time.0 > 0);
        let since =
            since.map_or_else(String::new, |(_, time)| format!(" (after {})", Timestamp::from(*time)));
        format!(
            "Changes {} to {}{since} are lost: tokens revoked then may work again, so revoke them again; subscriptions and tokens \
             created then are missing, and deleted or changed subscriptions may be as they were before",
            last + 1,
            self.change
        )
    }
}
