//! Copies of an open store.

use super::*;
use crate::{
    domain::{
        audit::{AuditEnd, AuditKey, AuditOutcome, AuditRecord, AuditedCall},
        ids::AccountScope,
    },
    store::{AuditQuery, AuditWrite, Backup, TimeRange},
};

fn begin(store: &DiskStore) -> Backup {
    let begun = store.begin_backup();
    let wait = || tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(begun);
    // Not on the thread of the test, which has a runtime already.
    std::thread::scope(|scope| scope.spawn(wait).join()).unwrap().unwrap()
}

/// Writes a backup of the store in `from` into `to`, with the key.
fn receive(backup: Backup, from: &Path, to: &Path) -> Received {
    let mut receiver = BackupReceiver::begin(to, backup.format).unwrap();
    let mut files = 0;
    for part in backup.parts {
        let part = part.unwrap();
        files += u64::from(matches!(part, crate::store::BackupPart::FileEnd(_)));
        receiver.write(part).unwrap();
    }
    let received = receiver.finish(files).unwrap();
    fs::copy(from.join(KEY_FILE), to.join(KEY_FILE)).unwrap();
    received
}

/// A disk that is replaced by a backup of itself whenever it is opened again.
struct Restored(Vec<tempfile::TempDir>);

impl Engine for Restored {
    fn open(&mut self, clock: Arc<TestClock>) -> Arc<dyn Store> {
        let dir = tempfile::tempdir().unwrap();
        let open = |dir: &Path| {
            let metrics = Metrics::new(UnixMicros(0));
            DiskStore::open(dir, SETTINGS, &keys(1), Arc::clone(&clock) as Arc<dyn Clock>, 1, metrics)
                .unwrap()
        };
        if let Some(last) = self.0.last() {
            let store = open(last.path());
            receive(begin(&store), last.path(), dir.path());
            // What changes from here on is not in the copy.
            store.close().unwrap();
        }
        let store = Arc::new(open(dir.path()));
        self.0.push(dir);
        store
    }

    fn keeps(&self) -> bool {
        true
    }

    fn break_reads(&mut self) -> bool {
        false
    }
}

#[tokio::test]
async fn a_store_that_is_restored_from_a_backup_at_every_start_conforms() {
    conformance::run(|| Restored(Vec::new())).await;
}

fn records(store: &DiskStore) -> Vec<AuditRecord> {
    let (resource, principal, method, before) = (None, None, None, None);
    let (scope, time) = (AccountScope::All, TimeRange::default());
    let (hides_foreign, limit) = (false, 10_000);
    let query = AuditQuery { scope, resource, principal, hides_foreign, method, time, before, limit };
    let mut rows = store.audit_records(&query).unwrap().rows;
    rows.reverse();
    rows
}

#[tokio::test]
async fn audit_records_are_copied_as_they_were_when_the_backup_began() {
    const COUNT: u64 = 3_000;
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let settings = StoreSettings { audit_bytes_max: 32 << 20, ..SETTINGS };
    let clock = TestClock::new();
    let open = |dir: &Path| {
        let metrics = Metrics::new(UnixMicros(0));
        DiskStore::open(dir, settings, &keys(1), Arc::clone(&clock) as Arc<dyn Clock>, 1, metrics).unwrap()
    };
    let store = open(dir.path());
    let end = |outcome| AuditEnd { outcome, ..AuditEnd::default() };
    let call = |number: u64| AuditedCall {
        method: format!("m{number}{}", "x".repeat(200)),
        ..AuditedCall::default()
    };
    let begun: Vec<_> = (0..COUNT).map(|number| store.audit(AuditWrite::Begun(call(number)))).collect();
    let mut keys_of: Vec<AuditKey> = Vec::new();
    for note in begun {
        keys_of.push(note.await.unwrap());
    }
    let outcome =
        |index: usize| if index.is_multiple_of(2) { AuditOutcome::Ok } else { AuditOutcome::Refused };
    let (running, ended) = keys_of.split_last().unwrap();
    let ends: Vec<_> = ended
        .iter()
        .enumerate()
        .map(|(index, key)| store.audit(AuditWrite::Ended(*key, end(outcome(index)))))
        .collect();
    for note in ends {
        note.await.unwrap();
    }
    let before = records(&store);
    let backup = begin(&store);
    clock.step(1_000_000);
    store.audit(AuditWrite::Ended(*running, end(AuditOutcome::Ok))).await.unwrap();
    store.audit(AuditWrite::Begun(call(COUNT))).await.unwrap();
    receive(backup, dir.path(), copy.path());
    let copied = open(copy.path());
    assert_eq!(before.len() as u64, COUNT);
    assert!(records(&copied) == before, "they differ");
    // Refusals are found for eviction, and numbers go on.
    let next = copied.audit(AuditWrite::Begun(call(COUNT))).await.unwrap();
    assert_eq!(next.number, COUNT + 1);
    drop(copied);
    let settings = StoreSettings { audit_bytes_max: 64 << 10, ..settings };
    let metrics = Metrics::new(UnixMicros(0));
    let copied = DiskStore::open(copy.path(), settings, &keys(1), clock, 1, metrics).unwrap();
    copied.audit(AuditWrite::Begun(call(COUNT))).await.unwrap();
    let left = records(&copied);
    assert!(left.iter().map(AuditRecord::bytes).sum::<u64>() <= 64 << 10, "{} are left", left.len());
}
