//! Examines the manifest and the log: every volume, every body and attempt in it, and the records after the
//! manifest's position.

use std::{fs, io, os::unix::fs::FileExt as _};

use super::{Check, Damage, Known, Remedy};
use crate::{
    domain::ids::{AccountId, EventName},
    store::disk::{
        data_dir::{CLEAN, LEDGER_DIR},
        index::{
            apply,
            manifest::{MANIFEST, Manifest},
            volume::{SubscriptionCounts, Volume},
            volume_detail::{EventMeta, VolumeDetail},
        },
        log::{Gap, Kind, LogPosition, LogReader, ReadError, checksum, file_name, fill, find_gap, replay},
        open::clean_end,
        read::fetch::{read_attempt, read_detail},
    },
};

/// Bytes of a record in place of the last ones of a file.
const FILL_BYTES_MAX: usize = 64 * 1024;

/// The end of a part of the log without damage.
struct End {
    pos: LogPosition,
    number: u64,
    next_seq: u64,
}

impl Check<'_> {
    pub(super) fn ledger(&mut self, known: &Known) -> io::Result<()> {
        let dir = self.data_dir.join(LEDGER_DIR);
        let manifest_file = format!("{LEDGER_DIR}/{MANIFEST}");
        let mut manifest = match Manifest::read(&dir) {
            Ok(manifest) => manifest,
            Err(fault) => {
                self.unreadable(&manifest_file, format!("{fault}: it says where every event is"));
                return Ok(());
            }
        };
        if known.store.is_some_and(|store| store != manifest.store) {
            self.unreadable(&manifest_file, "ledger/ and store/ are of different stores".to_owned());
        }
        let reader = LogReader::read_only(&dir)?;
        let mut lost = Vec::new();
        for volume in &manifest.volumes {
            match read_volume(&reader, volume) {
                Ok(detail) => self.volume(&reader, volume, &detail, known),
                Err(fault) => lost.push((volume.first, self.lost_volume(volume, &fault, known)?)),
            }
        }
        let volumes = std::mem::take(&mut manifest.volumes);
        if lost.iter().any(|(_, repaired)| *repaired) {
            let left = volumes.iter().filter(|volume| lost.iter().all(|(first, _)| *first != volume.first));
            Manifest::write(&dir, &manifest, left)?;
        }
        let end = self.tail(&reader, &manifest, known)?;
        self.report.events += usize::try_from(end.next_seq - manifest.next_seq.0).unwrap_or(usize::MAX);
        self.clean_end(&end)
    }

    fn volume(&mut self, reader: &LogReader, volume: &Volume, detail: &VolumeDetail, known: &Known) {
        for (event, meta) in detail.events.iter().enumerate() {
            let deliveries = || detail.deliveries_of(volume.first, event).map(|(_, entry)| entry);
            self.report.events += 1;
            if let Err(fault) = read_body(reader, meta) {
                let subscriptions = known.names(deliveries().map(|entry| entry.subscription));
                self.served(
                    meta.pos,
                    fault,
                    format!("The body of {} is lost; it has deliveries to {subscriptions}", name_of(meta)),
                );
            }
            for entry in deliveries() {
                if let Err((pos, fault)) = read_attempts(reader, entry.last) {
                    let subscription = known.names([entry.subscription]);
                    self.served(
                        pos,
                        fault.to_string(),
                        format!("Attempts of {} for {subscription} are lost", name_of(meta)),
                    );
                }
            }
        }
    }

    fn served(&mut self, pos: LogPosition, fault: String, meaning: String) {
        self.report.damages.push(Damage {
            file: file_of(pos),
            place: Some(pos.offset().into()),
            fault,
            meaning,
            remedy: Remedy::Served,
        });
    }

    /// A volume whose index or states cannot be read. Returns whether it is to be left out.
    fn lost_volume(&mut self, volume: &Volume, fault: &ReadError, known: &Known) -> io::Result<bool> {
        let owed = |counts: &&SubscriptionCounts| counts.owed() > 0;
        let unfinished: u32 = volume.subscriptions.iter().map(SubscriptionCounts::owed).sum();
        let concerned = volume.subscriptions.iter().filter(owed).map(|counts| counts.subscription);
        let pos = volume.stored().map_or_else(LogPosition::default, |stored| stored.index.events.pos);
        let damage = Damage {
            file: file_of(pos),
            place: Some(pos.offset().into()),
            fault: fault.to_string(),
            meaning: format!(
                "It is the index of {} events that were published from {} to {} microseconds since 1970; {unfinished} of their \
                 deliveries are unfinished, to {}",
                volume.events,
                volume.first_time.0,
                volume.last_time.0,
                known.names(concerned),
            ),
            remedy: Remedy::Repair(
                "leaves these events out, and puts the manifest and the file into the quarantine: they are lost"
                    .to_owned(),
            ),
        };
        self.found(damage, |check| {
            for name in [format!("{LEDGER_DIR}/{MANIFEST}"), file_of(pos)] {
                if let Ok(bytes) = fs::read(check.data_dir.join(&name)) {
                    check.quarantine_bytes(&name, &bytes)?;
                }
            }
            Ok(())
        })
    }

    /// The records after the manifest's position.
    fn tail(&mut self, reader: &LogReader, manifest: &Manifest, known: &Known) -> io::Result<End> {
        let mut end = End { pos: manifest.pos, number: manifest.number, next_seq: manifest.next_seq.0 };
        loop {
            let gap = match replay_from(reader, &mut end) {
                Ok(()) => return Ok(end),
                Err(_) => find_gap(reader, end.pos, end.number).map_err(io::Error::other)?,
            };
            let Some(gap) = gap else {
                let fault = "a commit in it cannot be decoded".to_owned();
                self.unreadable(&file_of(end.pos), fault);
                return Ok(end);
            };
            let next_seq = next_seq_after(reader, &gap).unwrap_or(end.next_seq);
            if !self.gap(&gap, &end, next_seq, known)? {
                // What comes after it is examined all the same.
                end = End { pos: gap.next, number: gap.next_number, next_seq };
            }
        }
    }

    /// Damaged records that later ones follow. Returns whether they were replaced.
    fn gap(&mut self, gap: &Gap, end: &End, next_seq: u64, known: &Known) -> io::Result<bool> {
        let name = file_of(gap.pos);
        let path = self.data_dir.join(&name);
        let bytes = fs::read(&path).unwrap_or_default();
        let start = gap.pos.offset() as usize;
        let until = if gap.next.file() == gap.pos.file() { gap.next.offset() as usize } else { bytes.len() };
        let damaged = bytes.get(start..until).unwrap_or_default();
        let room = damaged.len().min(FILL_BYTES_MAX);
        let filled = fill(gap, next_seq, room);
        let remedy = match filled {
            Some(_) => Remedy::Repair(
                "puts an empty record in their place, and their bytes into the quarantine: what they said is lost"
                    .to_owned(),
            ),
            None => Remedy::Restore,
        };
        let damage = Damage {
            file: name.clone(),
            place: Some(gap.pos.offset().into()),
            fault: format!("{} records are not as they were written", gap.next_number - gap.number),
            meaning: format!(
                "They have {} events and an unknown number of outcomes of deliveries, which are tried again; subscriptions are {}",
                next_seq.saturating_sub(end.next_seq),
                known.names(known.subscriptions.keys().copied()),
            ),
            remedy,
        };
        let damaged = damaged.to_vec();
        self.found(damage, |check| {
            let Some(filled) = filled else { return Ok(()) };
            check.quarantine_bytes(&format!("{name}-{start}"), &damaged)?;
            let file = fs::OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&filled, start as u64)?;
            file.sync_all()
        })
    }

    /// The end that the last clean stop noted.
    fn clean_end(&mut self, end: &End) -> io::Result<()> {
        let Err(fault) = clean_end(self.data_dir, end.next_seq, end.number) else { return Ok(()) };
        let damage = Damage {
            file: CLEAN.to_owned(),
            place: None,
            fault,
            meaning:
                "The last events and outcomes before the last clean stop are missing, or this file is damaged"
                    .to_owned(),
            remedy: Remedy::Repair("moves the file into the quarantine: what is missing is lost".to_owned()),
        };
        self.found(damage, |check| check.quarantine(CLEAN))?;
        Ok(())
    }
}

/// Replays from an end to the next damage or to the end of the log.
fn replay_from(reader: &LogReader, end: &mut End) -> Result<(), ReadError> {
    let (pos, number) = (end.pos, end.number);
    let replayed = replay(reader, pos, number, |kind, payload, bytes| {
        if kind == Kind::Commit {
            let (record, _) = apply::decode(&bytes)?;
            if !record.events.is_empty() {
                end.next_seq = record.first + record.events.len() as u64;
            }
        }
        (end.pos, end.number) = (payload.end_of(bytes.len()), end.number + 1);
        Ok(())
    })?;
    (end.pos, end.number) = (replayed.pos, replayed.number);
    Ok(())
}

/// The sequence number of the next event that is there after a gap.
fn next_seq_after(reader: &LogReader, gap: &Gap) -> Option<u64> {
    let mut first = None;
    // It ends at the next damage, or where the log does.
    drop(replay(reader, gap.next, gap.next_number, |kind, _, bytes| {
        if kind == Kind::Commit && first.is_none() {
            let (record, _) = apply::decode(&bytes)?;
            first = (!record.events.is_empty()).then_some(record.first);
        }
        Ok(())
    }));
    first
}

fn read_volume(reader: &LogReader, volume: &Volume) -> Result<VolumeDetail, ReadError> {
    let stored = volume.stored().ok_or(ReadError::Gone)?;
    reader.read_slice(stored.index.ids)?;
    read_detail(reader, stored)
}

fn read_body(reader: &LogReader, meta: &EventMeta) -> Result<(), String> {
    let bytes = reader.read(meta.pos, meta.len as usize).map_err(|error| error.to_string())?;
    if checksum(&bytes) == meta.checksum {
        Ok(())
    } else {
        Err("it is not what was written there".to_owned())
    }
}

/// Reads the attempts of a delivery, the newest first. Returns where one is damaged.
fn read_attempts(reader: &LogReader, last: LogPosition) -> Result<(), (LogPosition, ReadError)> {
    let mut pos = last;
    while pos != LogPosition::default() {
        match read_attempt(reader, pos) {
            Ok((_, before)) => pos = before,
            // Retention removed it and those before it.
            Err(ReadError::Gone) => break,
            Err(fault) => return Err((pos, fault)),
        }
    }
    Ok(())
}

fn name_of(meta: &EventMeta) -> String {
    match (AccountId::new(meta.account), meta.id.parse()) {
        (Ok(account), Ok(id)) => EventName { account, id }.to_string(),
        _ => format!("event {} of account {}", meta.id, meta.account),
    }
}

fn file_of(pos: LogPosition) -> String {
    format!("{LEDGER_DIR}/{}", file_name(pos.file()))
}
