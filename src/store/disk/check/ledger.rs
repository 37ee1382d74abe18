//! Examines the manifest and the log: every volume, every body and attempt in it, and the records after the
//! manifest's position.

use std::{fs, io, os::unix::fs::FileExt as _};

use prost_types::Timestamp;

use super::{Check, Damage, Known, Remedy, lost_file::slices_of};
use crate::{
    domain::{
        ids::{AccountId, EventName},
        time::UnixMicros,
    },
    store::disk::{
        data_dir::{CLEAN, LEDGER_DIR},
        index::{
            apply,
            manifest::{MANIFEST, Manifest},
            volume::{SubscriptionCounts, Volume},
            volume_detail::{EventMeta, VolumeDetail},
        },
        log::{
            COMMIT_HEAD, Gap, Kind, LogPosition, LogReader, ReadError, checksum, file_name, fill, find_gap,
            replay,
        },
        open::{CleanEnd, check_ends},
        read::fetch::{read_attempt, read_detail},
        records::CommitRecord,
    },
};

/// The end of a part of the log without damage.
struct End {
    pos: LogPosition,
    number: u64,
    next_seq: u64,
}

impl Check<'_> {
    pub(super) fn ledger(&mut self, mut manifest: Manifest, known: &Known) -> io::Result<()> {
        let dir = self.data_dir.join(LEDGER_DIR);
        for lost in manifest.lost_files(&LogReader::read_only(&dir)?)? {
            self.lost_file(lost, &manifest)?;
        }
        let reader = LogReader::read_only(&dir)?;
        let mut lost = Vec::new();
        for volume in &manifest.volumes {
            match read_volume(&reader, volume) {
                Ok(detail) => self.volume(&reader, volume, &detail, known),
                Err((pos, fault)) => lost.push((volume.first, self.lost_volume(volume, pos, &fault, known)?)),
            }
        }
        let volumes = std::mem::take(&mut manifest.volumes);
        if lost.iter().any(|(_, repaired)| *repaired) {
            let left = volumes.iter().filter(|volume| lost.iter().all(|(first, _)| *first != volume.first));
            Manifest::write(&dir, &manifest, left)?;
        }
        let clean = CleanEnd::read(self.data_dir);
        let synced = clean.as_ref().map_or(0, |clean| clean.next_record).max(known.next_record);
        let end = self.tail(&reader, &manifest, synced, known)?;
        self.clean_end(clean, &end)?;
        self.known_end(&end, known)
    }

    fn volume(&mut self, reader: &LogReader, volume: &Volume, detail: &VolumeDetail, known: &Known) {
        for (event, meta) in detail.events.iter().enumerate() {
            let deliveries = || detail.deliveries_of(volume.first, event).map(|(_, entry)| entry);
            self.report.events += 1;
            if let Err(fault) = read_body(reader, meta) {
                let owed = deliveries().filter(|entry| entry.state.is_owed()).map(|entry| entry.subscription);
                self.served(meta.pos, fault, lost_body(meta, &known.names(owed)));
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
    fn lost_volume(
        &mut self,
        volume: &Volume,
        pos: LogPosition,
        fault: &ReadError,
        known: &Known,
    ) -> io::Result<bool> {
        self.report.lost_events += volume.events as usize;
        let owed = |counts: &&SubscriptionCounts| counts.owed() > 0;
        let unfinished: u32 = volume.subscriptions.iter().map(SubscriptionCounts::owed).sum();
        let concerned = volume.subscriptions.iter().filter(owed).map(|counts| counts.subscription);
        let fault = match fault {
            ReadError::Gone => "the file is missing".to_owned(),
            fault => fault.to_string(),
        };
        let damage = Damage {
            file: file_of(pos),
            place: Some(pos.offset().into()),
            fault,
            meaning: format!(
                "It is the index of {} events that were published from {} to {}; {unfinished} of their \
                 deliveries are unfinished, to {}",
                volume.events,
                Timestamp::from(volume.first_time),
                Timestamp::from(volume.last_time),
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
    fn tail(
        &mut self,
        reader: &LogReader,
        manifest: &Manifest,
        synced: u64,
        known: &Known,
    ) -> io::Result<End> {
        let mut end = End { pos: manifest.pos, number: manifest.number, next_seq: manifest.next_seq.0 };
        loop {
            let gap = match self.replay_from(reader, &mut end, synced, known) {
                Ok(()) => return Ok(end),
                Err(_) => find_gap(reader, end.pos, end.number).map_err(io::Error::other)?,
            };
            let Some(gap) = gap.filter(|gap| gap.next != end.pos) else {
                let fault = "a commit in it cannot be decoded".to_owned();
                self.unreadable(&file_of(end.pos), fault);
                return Ok(end);
            };
            let next_seq = next_seq_after(reader, &gap, synced).max(end.next_seq);
            if !self.gap(&gap, &end, next_seq, known)? {
                // What comes after it is examined all the same.
                end = End { pos: gap.next, number: gap.next_number, next_seq };
            }
        }
    }

    /// Replays from an end to the next damage or to the end of the log.
    fn replay_from(
        &mut self,
        reader: &LogReader,
        end: &mut End,
        synced: u64,
        known: &Known,
    ) -> Result<(), ReadError> {
        let replayed = replay(reader, end.pos, end.number, synced, |record| {
            match record.kind {
                Kind::Commit => {
                    let (commit, len) = apply::decode(&record.payload)?;
                    if !commit.events.is_empty() {
                        end.next_seq = commit.first + commit.events.len() as u64;
                        self.report.events += commit.events.len();
                    }
                    if record.is_damaged {
                        self.commit(reader, &commit, record.pos.plus(COMMIT_HEAD + len), known);
                    }
                }
                Kind::Lost => end.next_seq = end.next_seq.max(apply::next_seq_of_gap(&record.payload)?),
                _ => {}
            }
            (end.pos, end.number) = (record.end, record.next_number);
            Ok(())
        })?;
        (end.pos, end.number) = (replayed.pos, replayed.number);
        Ok(())
    }

    /// Names the damaged bodies and attempts of a commit, which begin at `attempts`.
    fn commit(&mut self, reader: &LogReader, commit: &CommitRecord, attempts: LogPosition, known: &Known) {
        let mut pos = attempts;
        for outcome in commit.outcomes.iter().filter(|outcome| outcome.attempt_len > 0) {
            if let Err(fault) = read_attempt(reader, pos, None) {
                let subscription = known.names(u32::try_from(outcome.subscription));
                let meaning =
                    format!("An attempt of event number {} for {subscription} is lost", outcome.seq);
                self.served(pos, fault.to_string(), meaning);
            }
            pos = pos.plus(outcome.attempt_len as usize);
        }
        let mut pos = attempts.plus(commit.attempts_len as usize);
        for entry in &commit.events {
            let meta = apply::meta_of(entry, UnixMicros(commit.time), pos);
            if let Err(fault) = read_body(reader, &meta) {
                // Since the last checkpoint: those that ended since then are among them.
                let subscriptions =
                    known.names(entry.subscriptions.iter().flat_map(|key| u32::try_from(*key)));
                self.served(pos, fault, lost_body(&meta, &subscriptions));
            }
            pos = pos.plus(entry.body_len as usize);
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
        let filled = fill(gap, next_seq);
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
            fault: match gap.next_number - gap.number {
                1 => "1 record is not as it was written".to_owned(),
                records => format!("{records} records are not as they were written"),
            },
            meaning: format!(
                "They have {} events and an unknown number of outcomes of deliveries, which are tried again; subscriptions are {}",
                next_seq.saturating_sub(end.next_seq),
                known.names(known.subscriptions.keys().copied()),
            ),
            remedy,
        };
        let damaged = damaged.to_vec();
        let lost_events = usize::try_from(next_seq.saturating_sub(end.next_seq)).unwrap_or(usize::MAX);
        self.report.lost_events = self.report.lost_events.saturating_add(lost_events);
        self.found(damage, |check| {
            let Some(filled) = filled else { return Ok(()) };
            check.quarantine_bytes(&format!("{name}-{start}"), &damaged)?;
            let file = fs::OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&filled, start as u64)?;
            file.sync_all()
        })
    }

    /// The end that the last clean stop noted.
    fn clean_end(&mut self, clean: Result<CleanEnd, String>, end: &End) -> io::Result<()> {
        let (fault, meaning, how) = match clean.map(|clean| clean.check(end.next_seq, end.number)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(fault)) => (
                fault,
                "The last events and outcomes before the last clean stop are missing. Put the newer log files back if you have \
                 them; only if there are none, repair",
                "takes the end that is there, and moves the file into the quarantine",
            ),
            Err(fault) => (
                fault,
                "It only notes how far everything had come at the last clean stop: nothing is lost with it, but whether something \
                 is missing since then cannot be seen",
                "moves the file into the quarantine, and changes nothing else",
            ),
        };
        let damage = Damage {
            file: CLEAN.to_owned(),
            place: None,
            fault,
            meaning: meaning.to_owned(),
            remedy: Remedy::Repair(how.to_owned()),
        };
        self.found(damage, |check| check.quarantine(CLEAN))?;
        Ok(())
    }

    /// The end that the registry's log noted at its last change.
    fn known_end(&mut self, end: &End, known: &Known) -> io::Result<()> {
        let Err(fault) = check_ends(end.number, known.next_record) else { return Ok(()) };
        let damage = Damage {
            file: file_of(end.pos),
            place: Some(end.pos.offset().into()),
            fault,
            meaning: format!(
                "The last events are missing, and outcomes of deliveries, which are tried again: at least {} records. Put the newer \
                 files back if you have them; only if there are none, repair",
                known.next_record - end.number
            ),
            remedy: Remedy::Repair("takes the end that is there".to_owned()),
        };
        let number = end.number;
        self.found(damage, |check| check.begin_log_again(0, number))?;
        Ok(())
    }
}

/// The sequence number of the next event after a gap, at least.
fn next_seq_after(reader: &LogReader, gap: &Gap, synced: u64) -> u64 {
    let (mut first, mut settled) = (None, 0);
    // It ends at the next damage, or where the log does.
    drop(replay(reader, gap.next, gap.next_number, synced, |record| {
        if record.kind == Kind::Commit && first.is_none() {
            let (commit, _) = apply::decode(&record.payload)?;
            first = (!commit.events.is_empty()).then_some(commit.first);
            settled = commit.outcomes.iter().map(|outcome| outcome.seq + 1).max().unwrap_or(0).max(settled);
        }
        Ok(())
    }));
    first.unwrap_or(settled)
}

fn lost_body(meta: &EventMeta, subscriptions: &str) -> String {
    format!("The body of {} is lost; it has unfinished deliveries to {subscriptions}", name_of(meta))
}

/// Reads the index and the states of a volume. Returns where it cannot be read.
fn read_volume(reader: &LogReader, volume: &Volume) -> Result<VolumeDetail, (LogPosition, ReadError)> {
    let stored = volume.stored().ok_or((LogPosition::default(), ReadError::Gone))?;
    for slice in slices_of(volume) {
        reader.read_slice(slice).map_err(|fault| (slice.pos, fault))?;
    }
    read_detail(reader, stored).map_err(|fault| (stored.index.events.pos, fault))
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
        match read_attempt(reader, pos, None) {
            Ok((_, before)) => pos = before,
            // Retention removed it and those before it.
            Err(ReadError::Gone) => break,
            Err(fault) => return Err((pos, fault)),
        }
    }
    Ok(())
}

fn name_of(meta: &EventMeta) -> String {
    match (AccountId::stored(meta.account), meta.id.parse()) {
        (Ok(account), Ok(id)) => EventName { account, id }.to_string(),
        _ => format!("event {} of account {}", meta.id, meta.account),
    }
}

fn file_of(pos: LogPosition) -> String {
    format!("{LEDGER_DIR}/{}", file_name(pos.file()))
}
