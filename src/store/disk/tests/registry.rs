//! sled and the registry's log agree at every start: what sled lacks is applied again, and what the log cannot
//! prove is refused.

use super::*;
use crate::{
    domain::{
        access::{AccessToken, Accounts, Rights, Scope, TokenHash, TokenId},
        secret::Secret,
        subscription::State,
    },
    store::{NewToken, RequestKey, TokenChange},
};

/// A token that is revoked in [`changed_store`].
fn token() -> AccessToken {
    AccessToken {
        id: TokenId::made_of(7),
        display_name: String::new(),
        hash: TokenHash::of("a token"),
        rights: Rights { scopes: vec![Scope::Manage], accounts: Accounts::All },
        create_time: UnixMicros(1),
        expire_time: None,
        revoke_time: None,
        last_use_time: None,
    }
}

fn new_token() -> NewToken {
    NewToken {
        token: token(),
        secret: Secret::new("a token"),
        request: None,
        tokens_max: 1,
        administrator: Accounts::All,
    }
}

/// What a start must know of a store: its subscriptions with their states, and whether the token is revoked.
pub(super) fn known(store: &DiskStore) -> (Vec<(String, State)>, Option<bool>) {
    let registry = store.registry();
    let of = |key| registry.by_key(key).unwrap();
    let subscriptions = registry.keys().into_iter().map(|key| (of(key).name.to_string(), of(key).state));
    let revoked = store.tokens().by_id(&token().id).map(|issued| issued.token.revoke_time.is_some());
    (subscriptions.collect(), revoked)
}

/// A closed store whose registry changed after sled's last snapshot: a token was revoked, a subscription deleted,
/// another one paused. And a copy from before.
pub(super) async fn changed_store() -> (tempfile::TempDir, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let paused = store.create_subscription(conformance::new_subscription(1, "paused")).await.unwrap();
    let deleted = store.create_subscription(conformance::new_subscription(1, "deleted")).await.unwrap();
    store.create_token(new_token()).await.unwrap();
    store.close().unwrap();
    drop(store);
    let older = tempfile::tempdir().unwrap();
    secrets::copy(dir.path(), older.path());
    // The start takes a snapshot.
    let store = open(dir.path()).unwrap();
    store.change_tokens(TokenChange::Revoke(token().id)).await.unwrap();
    store.delete_subscription(deleted.subscription.key, 1, true).await.unwrap();
    store
        .update_subscription(paused.subscription.key, 1, Change::State(State::Paused, String::new()))
        .await
        .unwrap();
    store.close().unwrap();
    assert_eq!(
        known(&store),
        (vec![("accounts/1/subscriptions/paused".to_owned(), State::Paused)], Some(true))
    );
    (dir, older)
}

fn used_bytes(file: &Path) -> usize {
    fs::read(file).unwrap().iter().rposition(|&byte| byte != 0).unwrap() + 1
}

pub(super) fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 4;
    fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn damage_behind_the_last_snapshot_never_brings_back_a_revoked_token_or_a_deleted_subscription() {
    let (dir, older) = changed_store().await;
    let from = used_bytes(&older.path().join("store/db"));
    let until = used_bytes(&dir.path().join("store/db"));
    let opened = tempfile::tempdir().unwrap();
    secrets::copy(dir.path(), opened.path());
    let expected = known(&open(opened.path()).unwrap());
    let (mut served, mut refused) = (0, 0);
    for at in (from..until).step_by(((until - from) / 60).max(1)) {
        let copy = tempfile::tempdir().unwrap();
        secrets::copy(dir.path(), copy.path());
        flip(&copy.path().join("store/db"), at);
        match open(copy.path()) {
            Ok(store) => {
                assert_eq!(known(&store), expected, "byte {at}");
                served += 1;
            }
            Err(OpenError::Unreadable(..)) => refused += 1,
            Err(other) => panic!("byte {at}: {other}"),
        }
    }
    assert!(served > 50, "{served} served, {refused} refused");
}

#[tokio::test]
async fn an_older_copy_of_sleds_directory_is_brought_up_to_date() {
    let (dir, older) = changed_store().await;
    let expected = known(&open(dir.path()).unwrap());
    fs::remove_dir_all(dir.path().join("store")).unwrap();
    secrets::copy(&older.path().join("store"), &dir.path().join("store"));
    assert_eq!(known(&open(dir.path()).unwrap()), expected);
}

#[tokio::test]
async fn an_older_or_damaged_log_beside_newer_subscriptions_is_refused() {
    let (dir, _older) = changed_store().await;
    let log = dir.path().join("ledger/registry");
    let whole = fs::read(&log).unwrap();
    for cut in [0, 1, whole.len() / 4, whole.len() / 2, whole.len() - 8] {
        fs::write(&log, &whole[..cut]).unwrap();
        let refused = open(dir.path()).err().unwrap_or_else(|| panic!("cut at {cut}: it was opened"));
        assert!(matches!(&refused, OpenError::Unreadable(..)), "{refused}");
        assert!(refused.to_string().contains("registry"), "{refused}");
        assert!(!refused.to_string().contains(".log"), "it names its file: {refused}");
    }
    fs::write(&log, &whole).unwrap();
    let (expected, mut refused) = (known(&open(dir.path()).unwrap()), 0);
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        fs::write(&log, &whole).unwrap();
        flip(&log, at);
        match open(dir.path()) {
            Err(OpenError::Unreadable(_, why)) => {
                assert!(!why.contains(".log") && why.matches("unreadable record").count() < 2, "{why}");
                refused += 1;
            }
            Err(other) => panic!("byte {at}: {other}"),
            // Bytes that fill up the last record mean nothing.
            Ok(store) => assert_eq!(known(&store), expected, "byte {at}"),
        }
    }
    assert!(refused >= 39, "{refused}");
    fs::remove_file(&log).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::Unreadable(..))));
    fs::write(&log, &whole).unwrap();
    open(dir.path()).unwrap();
}

/// Ends the log of events before the commit that notes this change of the registry, as a crash would have.
fn end_before_change(dir: &Path, change: u64) {
    let ledger = dir.join("ledger");
    let mut from = None;
    let reader = log::LogReader::read_only(&ledger).unwrap();
    let replayed = log::replay(&reader, log::LogPosition::new(log::FIRST_FILE, 0), 1, 0, |record| {
        let (commit, _) = index::apply::decode(&record.payload)?;
        let head = record.pos.offset() as usize - 40;
        from = from.or((commit.registry_change >= change).then_some(head));
        Ok(())
    });
    let from = from.unwrap_or(replayed.unwrap().pos.offset() as usize);
    let file = ledger.join(log::file_name(log::FIRST_FILE));
    let mut bytes = fs::read(&file).unwrap();
    bytes[from..].fill(0);
    fs::write(file, bytes).unwrap();
    fs::remove_file(dir.join("clean")).unwrap();
}

#[tokio::test]
async fn a_crash_between_the_log_and_sled_makes_the_change_and_a_torn_one_is_not_made() {
    let (dir, older) = changed_store().await;
    let expected = known(&open(dir.path()).unwrap());
    let log = dir.path().join("ledger/registry");
    let whole = fs::read(&log).unwrap();
    let records: Vec<_> = (0..whole.len()).filter(|at| whole[*at..].starts_with(b"Tdgs")).collect();
    for (written, record) in records.iter().enumerate().skip(1) {
        // Some of the last changes are in the log, and sled has none of them: the last one may be torn.
        for cut in [*record, record + 20, record + 41] {
            let copy = tempfile::tempdir().unwrap();
            secrets::copy(dir.path(), copy.path());
            fs::remove_dir_all(copy.path().join("store")).unwrap();
            secrets::copy(&older.path().join("store"), &copy.path().join("store"));
            fs::write(copy.path().join("ledger/registry"), &whole[..cut]).unwrap();
            // Nothing else was written before the change was durable.
            end_before_change(copy.path(), written as u64 + 1);
            match open(copy.path()) {
                Ok(store) => {
                    let revoked = known(&store).1;
                    assert_eq!(revoked, Some(written > 4), "cut in record {written}");
                    // Its place is used again.
                    store.create_subscription(conformance::new_subscription(2, "new")).await.unwrap();
                    store.close().unwrap();
                    drop(store);
                    open(copy.path()).unwrap();
                }
                Err(refused) => {
                    assert!(written < 4, "{refused}");
                    assert!(refused.to_string().contains("store/ has change"), "{refused}");
                }
            }
        }
    }
    assert_eq!(known(&open(dir.path()).unwrap()), expected);
}

#[tokio::test]
async fn a_store_of_the_format_before_gets_a_log_of_what_it_has() {
    let (dir, _older) = changed_store().await;
    let expected = known(&open(dir.path()).unwrap());
    fs::remove_file(dir.path().join("ledger/registry")).unwrap();
    fs::write(dir.path().join("TIDINGS"), "tidings format 3 ready\n").unwrap();
    assert_eq!(known(&open(dir.path()).unwrap()), expected);
    assert_eq!(fs::read_to_string(dir.path().join("TIDINGS")).unwrap(), "tidings format 5 ready\n");
    assert_eq!(known(&open(dir.path()).unwrap()), expected);
}

#[tokio::test]
async fn the_log_is_written_again_when_changes_take_more_room_than_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).unwrap();
    let log = dir.path().join("ledger/registry");
    store.create_token(new_token()).await.unwrap();
    let (mut longest, mut rewritten) = (0, false);
    for time in 1..60 {
        let uses = (0..1000).map(|_| (token().id, UnixMicros(time))).collect();
        store.change_tokens(TokenChange::Used(uses)).await.unwrap();
        let len = fs::metadata(&log).unwrap().len();
        rewritten |= len < longest;
        longest = longest.max(len);
    }
    assert!(rewritten && longest < 8 << 20, "{longest}");
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.tokens().by_id(&token().id).unwrap().last_use(), Some(UnixMicros(59)));
}

#[tokio::test]
async fn the_oldest_request_ids_of_an_account_are_forgotten_when_they_take_too_many_bytes() {
    const MIB: usize = 1 << 20;
    let most = u128::from(REQUEST_BYTES_PER_ACCOUNT_MAX / MIB as u64);
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path()).unwrap();
    let mut new = conformance::new_subscription(1, "large");
    new.settings.annotations = [("large".to_owned(), "x".repeat(MIB))].into();
    let key = store.create_subscription(new).await.unwrap().subscription.key;
    let rotate = async |store: &DiskStore, id: u128| {
        let request = RequestKey { id: uuid::Uuid::from_u128(id), fingerprint: [1; 32] };
        let new = Secret::new(format!("the {id}th signing secret")).into();
        let change = Change::Secret { new, overlap: Duration::ZERO, request: Some(request) };
        let version = store.registry().by_key(key).unwrap().version;
        store.update_subscription(key, version, change).await.unwrap();
        store.registry().by_key(key).unwrap().version - version
    };
    let other = conformance::new_subscription(2, "other");
    let request = Some(RequestKey { id: uuid::Uuid::from_u128(1), fingerprint: [1; 32] });
    let other = NewSubscription { request, ..other };
    store.create_subscription(other.clone()).await.unwrap();
    for id in 1..=most {
        assert_eq!(rotate(&store, id).await, 1);
    }
    // Each takes a little more than its mebibyte: the first one had to go.
    assert_eq!(rotate(&store, 2).await, 0, "a repetition changes nothing");
    store.close().unwrap();
    drop(store);
    store = open(dir.path()).unwrap();
    assert_eq!((rotate(&store, most).await, rotate(&store, 2).await), (0, 0));
    assert_eq!(rotate(&store, 1).await, 1, "it is forgotten");
    assert_eq!((rotate(&store, 3).await, rotate(&store, 2).await), (0, 1), "the oldest one went for it");
    assert!(store.create_subscription(other).await.unwrap().repeated, "another account has its own");
}
