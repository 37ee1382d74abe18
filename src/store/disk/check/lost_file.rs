//! Names what a log file had that is missing or cut.

use std::{fs, io};

use super::{Check, Damage, Remedy};
use crate::store::disk::{
    data_dir::LEDGER_DIR,
    fs::sync_dir,
    index::{
        manifest::{LostFile, Manifest},
        volume::Volume,
    },
    log::{LogSlice, file_name},
};

impl Check<'_> {
    /// A file of the log that is missing, or ends before the last checkpoint.
    pub(super) fn lost_file(&mut self, lost: LostFile, manifest: &Manifest) -> io::Result<()> {
        let LostFile { file, there, wanted } = lost;
        let has_lost = |slice: &LogSlice| {
            let end = u64::from(slice.pos.offset()) + u64::from(slice.len);
            slice.pos.file() == file && end > there.unwrap_or(0)
        };
        let events = |is_wanted: &dyn Fn(&Volume) -> bool| -> u32 {
            manifest.volumes.iter().filter(|volume| is_wanted(volume)).map(|volume| volume.events).sum()
        };
        let has_bodies = |volume: &Volume| volume.file == file;
        let has_index = |volume: &Volume| slices_of(volume).iter().any(has_lost);
        let name = format!("{LEDGER_DIR}/{}", file_name(file));
        let mut meaning = format!(
            "It has the bodies of {} events, and the index of {} events, of which {} have their bodies in another file and cannot be \
             found without it: {} events are lost in all, and attempts",
            events(&has_bodies),
            events(&has_index),
            events(&|volume| has_index(volume) && !has_bodies(volume)),
            events(&|volume| has_index(volume) || has_bodies(volume)),
        );
        if file == manifest.pos.file() {
            meaning.push_str(
                "; events and outcomes after the last checkpoint are lost with it. If store/ and ledger/registry are older copies \
                 too, tokens revoked since then work again: look whether each that you revoked is",
            );
        }
        let damage = Damage {
            file: name.clone(),
            place: there,
            fault: lost.to_string(),
            meaning,
            remedy: Remedy::Repair(
                "puts zeros in place of what is missing: what this costs is named next".to_owned(),
            ),
        };
        self.found(damage, |check| {
            let path = check.data_dir.join(&name);
            let file = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            file.set_len(wanted.into())?;
            file.sync_all()?;
            sync_dir(&check.data_dir.join(LEDGER_DIR))
        })?;
        Ok(())
    }
}

/// What a volume needs to be read: its ids, its index and its states.
pub(super) fn slices_of(volume: &Volume) -> Vec<LogSlice> {
    volume
        .stored()
        .map(|stored| vec![stored.index.ids, stored.index.events, stored.state])
        .unwrap_or_default()
}
