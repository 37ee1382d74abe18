//! Secrets at rest: no file contains one, only the right key opens a store, and a crash during rotation loses
//! nothing.

use prost::Message;

use super::*;
use crate::{
    domain::{
        access::{AccessToken, Accounts, Rights, Scope, TokenHash, TokenId},
        key_pair::KeyPair,
        seal::{SealContext, SealError, SealingKeys},
        secret::Secret,
        signature::Signer,
        subscription::{SignatureScheme, Subscription},
    },
    store::{
        NewToken, RequestKey,
        disk::{log::registry_log::RegistryLog, records::*},
    },
};

const GIVEN: &str = "a-signing-secret-to-be-looked-for";
const ROTATED: &str = "whsec_cm90YXRlZC1hbmQtdG8tYmUtbG9va2VkLWZvcg==";
const HEADER: &str = "Bearer header-value-to-be-looked-for";
const ANOTHER: &str = "tdg_another";
/// Of every URL of [`conformance::new_subscription`].
const PATH: &str = "/hook?key=1";
const TOKEN: &str = "tdg_token-to-be-looked-for";

/// Everything that must not be in a file.
fn looked_for(private: &Secret) -> Vec<Vec<u8>> {
    let private = private.expose().strip_prefix("whsk_").unwrap();
    vec![
        GIVEN.into(),
        ROTATED["whsec_".len()..].into(),
        HEADER.into(),
        private.into(),
        PATH.into(),
        TOKEN.into(),
    ]
}

/// How many of these are in some file of a directory.
fn found_in(dir: &Path, wanted: &[Vec<u8>]) -> usize {
    let files: Vec<_> = files_in(dir).into_iter().map(|file| fs::read(file).unwrap()).collect();
    wanted.iter().filter(|text| files.iter().any(|file| contains(file, text))).count()
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    match std::str::from_utf8(text) {
        Ok(text) => String::from_utf8_lossy(bytes).contains(text),
        Err(_) => bytes.windows(text.len()).any(|part| part == text),
    }
}

fn one(seed: u64) -> SealingKey {
    SealingKey::draw(&mut StdRng::seed_from_u64(seed))
}

fn given(seeds: &[u64]) -> KeySource {
    let texts: Vec<_> = seeds.iter().map(|seed| one(*seed).to_text().expose().to_owned()).collect();
    KeySource::Given(SealingKeys::parse(&texts.join(",")).unwrap())
}

fn open_with(dir: &Path, keys: &KeySource) -> Result<DiskStore, OpenError> {
    DiskStore::open(dir, SETTINGS, keys, TestClock::new(), 1, Metrics::new(UnixMicros(0)))
}

fn private_key() -> KeyPair {
    KeyPair::draw(&mut StdRng::seed_from_u64(5))
}

/// Makes a store with every kind of secret in it, and closes it. Returns the subscriptions.
async fn store_with_secrets(dir: &Path, keys: &KeySource) -> Vec<Arc<Subscription>> {
    let store = open_with(dir, keys).unwrap();
    let mut new = conformance::new_subscription(1, "a");
    new.signer = Secret::new(GIVEN).into();
    new.settings.headers = [("authorization".to_owned(), Secret::new(HEADER))].into();
    new.request = Some(RequestKey { id: uuid::Uuid::from_u128(3), fingerprint: [1; 32] });
    let created = store.create_subscription(new).await.unwrap().subscription;
    let rotate =
        Change::Secret { new: Secret::new(ROTATED).into(), overlap: Duration::from_secs(60), request: None };
    store.update_subscription(created.key, created.version, rotate).await.unwrap();
    let mut new = conformance::new_subscription(1, "b");
    new.settings.signature_scheme = SignatureScheme::Ed25519;
    new.settings.headers.clear();
    new.signer = Signer { secret: Secret::new(GIVEN), key_pair: Some(private_key()) };
    store.create_subscription(new).await.unwrap();
    store.create_token(new_token()).await.unwrap();
    let subscriptions = all(&store);
    store.close().unwrap();
    subscriptions
}

/// A token that is created by a request that may be repeated.
fn new_token() -> NewToken {
    let token = AccessToken {
        id: TokenId::made_of(1),
        display_name: String::new(),
        hash: TokenHash::of(TOKEN),
        rights: Rights { scopes: vec![Scope::Admin], accounts: Accounts::All },
        create_time: UnixMicros(1),
        expire_time: None,
        revoke_time: None,
        last_use_time: None,
    };
    let request = Some(RequestKey { id: uuid::Uuid::from_u128(4), fingerprint: [1; 32] });
    NewToken { token, secret: Secret::new(TOKEN), request, tokens_max: 1, administrator: Accounts::All }
}

/// The text of the token as a repeated request gets it.
async fn token_text(store: &DiskStore) -> Option<String> {
    let NewToken { token, .. } = new_token();
    let token = AccessToken { hash: TokenHash::of(ANOTHER), ..token };
    let again = NewToken { token, secret: Secret::new(ANOTHER), ..new_token() };
    store.create_token(again).await.unwrap().1.map(|text| text.expose().to_owned())
}

fn all(store: &DiskStore) -> Vec<Arc<Subscription>> {
    let registry = store.registry();
    registry.keys().into_iter().map(|key| registry.by_key(key).unwrap()).collect()
}

fn raw(dir: &Path) -> ::sled::Db {
    ::sled::Config::new().path(dir.join("store")).segment_size(16 * 1024 * 1024).open().unwrap()
}

/// Changes every subscription of the registry, also those that are results of requests.
fn rewrite(tree: &::sled::Tree, mut change: impl FnMut(&mut SubscriptionRecord)) {
    for row in tree {
        let (key, value) = row.unwrap();
        let value = if key[0] == RegistryKind::Subscription as u8 {
            let mut record = SubscriptionRecord::decode(&*value).unwrap();
            change(&mut record);
            record.encode_to_vec()
        } else if key[0] == RegistryKind::Request as u8 {
            let mut record = RequestRecord::decode(&*value).unwrap();
            record.subscription.as_mut().map(&mut change);
            record.encode_to_vec()
        } else {
            continue;
        };
        tree.insert(key, value).unwrap();
    }
}

/// Makes of a closed store what versions wrote before secrets were sealed.
fn put_in_the_clear(dir: &Path, keys: &SealingKeys) {
    let db = raw(dir);
    let tree = db.open_tree(REGISTRY_TREE).unwrap();
    rewrite(&tree, |record| record.open(keys).unwrap());
    // There were no requests about tokens.
    for row in tree.scan_prefix([RegistryKind::Request as u8]) {
        let (key, value) = row.unwrap();
        if RequestRecord::decode(&*value).unwrap().subscription.is_none() {
            tree.remove(key).unwrap();
        }
    }
    tree.remove([RegistryKind::SecretsKey as u8]).unwrap();
    db.flush().unwrap();
    drop((tree, db));
    fs::remove_file(dir.join("ledger/registry")).unwrap();
    fs::write(dir.join("TIDINGS"), "tidings format 2 ready\n").unwrap();
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, &to).unwrap();
        }
    }
}

#[tokio::test]
async fn a_store_in_the_clear_is_sealed_and_nothing_of_it_stays_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = store_with_secrets(dir.path(), &given(&[1])).await;
    put_in_the_clear(dir.path(), &SealingKeys::one(one(1)));
    let wanted = looked_for(private_key().private());
    assert_eq!(found_in(dir.path(), &wanted), wanted.len() - 1, "all but the token are in the clear");

    let store = open(dir.path()).unwrap();
    assert_eq!(all(&store), subscriptions);
    let request = RequestKey { id: uuid::Uuid::from_u128(3), fingerprint: [1; 32] };
    let again = NewSubscription { request: Some(request), ..conformance::new_subscription(1, "a") };
    let repeated = store.create_subscription(again).await.unwrap();
    assert!(repeated.repeated);
    assert_eq!(repeated.subscription.signing_secrets.newest.secret, Secret::new(GIVEN));
    assert_eq!(found_in(dir.path(), &wanted), 0, "while it is open");
    store.close().unwrap();
    drop(store);
    assert_eq!(found_in(dir.path(), &wanted), 0);
    assert!(fs::read_to_string(dir.path().join("TIDINGS")).unwrap().starts_with("tidings format 5 "));
    assert_eq!(all(&open(dir.path()).unwrap()), subscriptions, "with the key that was made");
}

/// Makes of a closed store what versions wrote before URLs were sealed.
fn put_urls_in_the_clear(dir: &Path, keys: &SealingKeys) {
    let mut random = StdRng::seed_from_u64(3);
    let db = raw(dir);
    let tree = db.open_tree(REGISTRY_TREE).unwrap();
    rewrite(&tree, |record| {
        record.open(keys).unwrap();
        record.seal_but_url(keys, &mut random);
    });
    let store = tree.get([RegistryKind::Store as u8]).unwrap().unwrap();
    let context = SealContext { owner: uuid::Uuid::from_slice(&store).unwrap(), field: "registry" };
    let noted = keys.seal(&Secret::new(""), context, &mut random);
    tree.insert([RegistryKind::SecretsKey as u8], noted).unwrap();
    db.flush().unwrap();
    fs::remove_file(dir.join("ledger/registry")).unwrap();
    drop((tree, kv::engine::convert(dir, &db).unwrap(), db));
    fs::write(dir.join("TIDINGS"), "tidings format 4 ready\n").unwrap();
}

#[tokio::test]
async fn urls_in_the_clear_are_sealed_by_a_start_and_by_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = store_with_secrets(dir.path(), &given(&[1])).await;
    put_urls_in_the_clear(dir.path(), &SealingKeys::one(one(1)));
    let wanted = looked_for(private_key().private());
    assert_eq!(found_in(dir.path(), &wanted), 1, "the path is in the clear");
    let rotated = tempfile::tempdir().unwrap();
    copy(dir.path(), rotated.path());

    let store = open_with(dir.path(), &given(&[1])).unwrap();
    assert_eq!(all(&store), subscriptions);
    drop(store);
    assert_eq!(found_in(dir.path(), &wanted), 0);
    assert!(fs::read_to_string(dir.path().join("TIDINGS")).unwrap().starts_with("tidings format 5 "));

    rotate_secrets_key(rotated.path(), &given(&[2, 1]), one(9), 1).unwrap();
    assert_eq!(found_in(rotated.path(), &wanted), 0);
    assert_eq!(all(&open_with(rotated.path(), &given(&[2])).unwrap()), subscriptions);
}

/// Puts the log of a sealed store where the rewrite leaves it.
fn copy_log(sealed: &Path, dir: &Path) {
    fs::copy(sealed.join("ledger/registry"), dir.join("ledger/registry.of-rewrite")).unwrap();
}

#[tokio::test]
async fn a_crash_while_a_store_is_sealed_leaves_one_that_opens() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = store_with_secrets(dir.path(), &given(&[1])).await;
    put_in_the_clear(dir.path(), &SealingKeys::one(one(1)));
    let sealed = tempfile::tempdir().unwrap();
    copy(dir.path(), sealed.path());
    drop(open_with(sealed.path(), &given(&[1])).unwrap());

    type Crash = fn(&Path, &Path);
    let crashes: [(&str, Crash); 5] = [
        ("the new one is not whole", |dir, _| {
            fs::create_dir(dir.join("store.new")).unwrap();
            fs::write(dir.join("store.new/db"), "half").unwrap();
        }),
        ("the new one is whole, and the format is noted", |dir, sealed| {
            copy(&sealed.join("store"), &dir.join("store.new"));
            copy_log(sealed, dir);
            fs::copy(sealed.join("TIDINGS"), dir.join("TIDINGS")).unwrap();
        }),
        ("between the renames", |dir, sealed| {
            copy(&sealed.join("store"), &dir.join("store.new"));
            copy_log(sealed, dir);
            fs::rename(dir.join("store"), dir.join("store.old")).unwrap();
            fs::copy(sealed.join("TIDINGS"), dir.join("TIDINGS")).unwrap();
        }),
        ("before the old one is removed", |dir, sealed| {
            fs::rename(dir.join("store"), dir.join("store.old")).unwrap();
            copy(&sealed.join("store"), &dir.join("store"));
            copy_log(sealed, dir);
            fs::copy(sealed.join("TIDINGS"), dir.join("TIDINGS")).unwrap();
        }),
        ("while the old one is removed", |dir, sealed| {
            fs::rename(dir.join("store"), dir.join("store.old")).unwrap();
            fs::remove_file(dir.join("store.old/conf")).unwrap();
            copy(&sealed.join("store"), &dir.join("store"));
            copy_log(sealed, dir);
            fs::copy(sealed.join("TIDINGS"), dir.join("TIDINGS")).unwrap();
        }),
    ];
    let wanted = looked_for(private_key().private());
    for (what, crash) in crashes {
        let after = tempfile::tempdir().unwrap();
        copy(dir.path(), after.path());
        // A start begins the registry's log before it seals anything.
        drop(kv::engine::convert(after.path(), &raw(after.path())).unwrap());
        crash(after.path(), sealed.path());
        let store = open_with(after.path(), &given(&[1])).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(all(&store), subscriptions, "{what}");
        drop(store);
        assert_eq!(found_in(after.path(), &wanted), 0, "{what}");
        for left in ["store.new", "store.old", "ledger/registry.of-rewrite"] {
            assert!(!after.path().join(left).exists(), "{what}: {left}");
        }
    }
}

#[tokio::test]
async fn another_key_opens_nothing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = store_with_secrets(dir.path(), &given(&[1])).await;
    for wrong in [&[2][..], &[2, 3]] {
        let refused = open_with(dir.path(), &given(wrong)).err().unwrap();
        assert!(matches!(refused, OpenError::WrongKey { .. }), "{refused}");
        let message = refused.to_string();
        assert!(wrong.iter().all(|seed| message.contains(&one(*seed).id().to_string())), "{message}");
        assert!(message.contains(&format!("sealed with the key {}", one(1).id())), "{message}");
    }
    let lost = open(dir.path()).err().unwrap();
    assert!(matches!(&lost, OpenError::KeyLost(_, id) if *id == one(1).id()), "{lost}");
    assert!(!dir.path().join(KEY_FILE).exists(), "no other is created");
    let missing = KeySource::File(dir.path().join("elsewhere"));
    let lost = open_with(dir.path(), &missing).err().unwrap();
    assert!(matches!(&lost, OpenError::KeyLost(_, id) if *id == one(1).id()), "no other is of use: {lost}");
    let nothing = tempfile::tempdir().unwrap();
    assert!(
        matches!(open_with(nothing.path(), &missing), Err(OpenError::KeyFile(..))),
        "there one can be made"
    );
    assert_eq!(all(&open_with(dir.path(), &given(&[1])).unwrap()), subscriptions);
}

#[tokio::test]
async fn the_first_of_several_keys_takes_the_place_of_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let subscriptions = store_with_secrets(dir.path(), &given(&[1])).await;
    assert_eq!(all(&open_with(dir.path(), &given(&[2, 1])).unwrap()), subscriptions);
    assert!(matches!(open_with(dir.path(), &given(&[1])), Err(OpenError::WrongKey { .. })));
    assert_eq!(all(&open_with(dir.path(), &given(&[2])).unwrap()), subscriptions);
    assert_eq!(all(&open_with(dir.path(), &given(&[2, 1])).unwrap()), subscriptions);
}

#[tokio::test]
async fn a_creation_of_a_token_that_was_interrupted_is_completed_by_a_repetition() {
    let dir = tempfile::tempdir().unwrap();
    store_with_secrets(dir.path(), &given(&[1])).await;
    let (mut log, rows) = RegistryLog::open(&dir.path().join("ledger")).unwrap();
    let tokens = rows[&RowTree::Tokens].keys().map(|key| RowRecord::removed(key.clone())).collect();
    log.append(RowTree::Tokens, tokens, 0).unwrap();
    drop(log);
    let store = open_with(dir.path(), &given(&[1])).unwrap();
    assert!(store.tokens().by_id(&TokenId::made_of(1)).is_none());
    // With a text of its own: the first one is nowhere.
    assert_eq!(token_text(&store).await.as_deref(), Some(ANOTHER));
    assert!(store.tokens().by_hash(&TokenHash::of(ANOTHER)).is_some());
    assert!(store.tokens().by_hash(&TokenHash::of(TOKEN)).is_none());
    assert_eq!(token_text(&store).await, None);
}

#[tokio::test]
async fn a_rotation_puts_a_new_key_in_the_file_and_leaves_nothing_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let in_data_dir = KeySource::Beside(one(1));
    let subscriptions = store_with_secrets(dir.path(), &in_data_dir).await;
    let file = dir.path().join(KEY_FILE);
    // As a killed check leaves it.
    copy(&dir.path().join("store"), &dir.path().join("check.tmp/store"));
    let rotated = rotate_secrets_key(dir.path(), &KeySource::Beside(one(9)), one(2), 1).unwrap();
    assert!(!dir.path().join("check.tmp").exists());
    let expected = Rotation { key: one(2).id(), before: Some(one(1).id()), file: Some(file.clone()) };
    assert_eq!(rotated, expected);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().filter(|line| !line.starts_with('#')).count(), 1);
    let store = open(dir.path()).unwrap();
    assert_eq!(all(&store), subscriptions);
    assert_eq!(token_text(&store).await, None);
    drop(store);
    let old = [1].into_iter().chain(rows_head(one(1).id())).collect::<Vec<u8>>();
    assert_eq!(found_in(&dir.path().join("store"), &[old]), 0, "something is sealed with the old key");
    assert!(matches!(open_with(dir.path(), &given(&[1])), Err(OpenError::WrongKey { .. })));

    // Wherever it was interrupted: the file has both keys, and the store one of them.
    for of_store in [2, 3] {
        let both = SealingKeys::one(one(2)).after(one(3));
        keys::key_file::write(&file, &both).unwrap();
        if of_store == 3 {
            drop(open_with(dir.path(), &given(&[3, 2])).unwrap());
        }
        let rotated = rotate_secrets_key(dir.path(), &in_data_dir, one(8), 1).unwrap();
        assert_eq!((rotated.key, rotated.before), (one(3).id(), Some(one(of_store).id())));
        assert_eq!(keys::key_file::read(&file).unwrap(), SealingKeys::one(one(3)));
        assert_eq!(all(&open(dir.path()).unwrap()), subscriptions);
        drop(rotate_secrets_key(dir.path(), &given(&[2, 3]), one(8), 1).unwrap());
        keys::key_file::write(&file, &SealingKeys::one(one(2))).unwrap();
    }
    // Or a start ends it.
    keys::key_file::write(&file, &SealingKeys::one(one(2)).after(one(4))).unwrap();
    assert_eq!(all(&open(dir.path()).unwrap()), subscriptions);
    assert_eq!(keys::key_file::read(&file).unwrap(), SealingKeys::one(one(4)));
}

/// The start of a sealed secret, after its first byte.
fn rows_head(id: crate::domain::seal::KeyId) -> Vec<u8> {
    let digits = id.to_string();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn a_rotation_is_refused_where_it_cannot_be_done_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let rotate = |keys: &KeySource| rotate_secrets_key(dir.path(), keys, one(2), 1);
    assert!(matches!(rotate(&given(&[1])), Err(OpenError::NoStore(_))));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let subscriptions = store_with_secrets(dir.path(), &given(&[1])).await;
    assert!(matches!(rotate(&given(&[1])), Err(OpenError::NoNewKey)));
    assert!(matches!(rotate(&given(&[3])), Err(OpenError::WrongKey { .. })));
    assert!(matches!(rotate(&KeySource::Beside(one(1))), Err(OpenError::KeyLost(..))));
    let file = dir.path().join("another");
    keys::key_file::write(&file, &SealingKeys::one(one(3))).unwrap();
    assert!(matches!(rotate(&KeySource::File(file.clone())), Err(OpenError::WrongKey { .. })));
    assert_eq!(keys::key_file::read(&file).unwrap(), SealingKeys::one(one(3)));
    let store = open_with(dir.path(), &given(&[1])).unwrap();
    assert!(matches!(rotate(&given(&[2, 1])), Err(OpenError::Locked(..))));
    assert_eq!(all(&store), subscriptions);
}

#[tokio::test]
async fn a_secret_that_was_moved_to_another_subscription_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    store_with_secrets(dir.path(), &given(&[1])).await;
    let db = raw(dir.path());
    let tree = db.open_tree(REGISTRY_TREE).unwrap();
    let rows: Vec<_> = tree.scan_prefix([RegistryKind::Subscription as u8]).map(Result::unwrap).collect();
    let decode = |row: usize| SubscriptionRecord::decode(&*rows[row].1).unwrap();
    let mut moved = decode(1);
    moved.take_sealed_of(decode(0));
    let (mut log, _) = RegistryLog::open(&dir.path().join("ledger")).unwrap();
    log.append(RowTree::Registry, vec![RowRecord::put(&*rows[1].0, moved.encode_to_vec())], 0).unwrap();
    drop((tree, db, log));
    let refused = open_with(dir.path(), &given(&[1])).err().unwrap();
    assert!(matches!(refused, OpenError::Unreadable(..)), "{refused}");
    assert!(refused.to_string().contains(&format!("signing_secret: {}", SealError::NotGenuine)), "{refused}");
}

#[tokio::test]
async fn secrets_that_sign_no_more_are_removed_by_retention_and_at_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let clock = TestClock::new();
    let open = || {
        let clock: Arc<TestClock> = Arc::clone(&clock);
        DiskStore::open(dir.path(), SETTINGS, &given(&[1]), clock, 1, Metrics::new(UnixMicros(0))).unwrap()
    };
    let keep = RetentionLimit { since: UnixMicros(0), bytes_max: u64::MAX };
    let second = |count: u64| Duration::from_secs(count);
    let mut store = open();
    let mut new = conformance::new_subscription(1, "a");
    new.request = Some(RequestKey { id: uuid::Uuid::from_u128(3), fingerprint: [1; 32] });
    let created = store.create_subscription(new).await.unwrap().subscription;
    let mut current = Arc::clone(&created);
    for (rounds, restarts) in [(1, false), (2, true)] {
        let new = Secret::new(format!("another-secret-{rounds}")).into();
        let rotate = Change::Secret { new, overlap: second(60), request: None };
        current = store.update_subscription(current.key, current.version, rotate).await.unwrap();
        assert_eq!(current.signing_secrets.older.len(), 1);
        store.purge(keep).await.unwrap();
        assert_eq!(*store.registry().by_key(current.key).unwrap(), *current, "it still signs");
        clock.step(60_000_000);
        if restarts {
            drop(store);
            store = open();
        } else {
            store.purge(keep).await.unwrap();
        }
        let after = store.registry().by_key(current.key).unwrap();
        assert_eq!(after.signing_secrets.older, []);
        assert_eq!((after.version, after.update_time), (current.version, current.update_time));
        drop(store);
        assert_eq!(rows_of(dir.path(), RegistryKind::Subscription, SubscriptionRecord::older_count), [0]);
        assert_eq!(rows_of(dir.path(), RegistryKind::Request, |_| 1), [1]);
        store = open();
    }
    clock.step(24 * 3_600_000_000 + 1);
    store.purge(keep).await.unwrap();
    drop(store);
    assert_eq!(
        rows_of(dir.path(), RegistryKind::Request, |_| 1),
        [0; 0],
        "the answer had the first secret in it"
    );
}

/// The rows of a kind, each mapped by `tell`.
fn rows_of(dir: &Path, kind: RegistryKind, tell: impl Fn(&SubscriptionRecord) -> usize) -> Vec<usize> {
    let db = raw(dir);
    let tree = db.open_tree(REGISTRY_TREE).unwrap();
    let rows = tree.scan_prefix([kind as u8]).map(|row| row.unwrap().1);
    rows.map(|value| match kind {
        RegistryKind::Subscription => tell(&SubscriptionRecord::decode(&*value).unwrap()),
        _ => tell(RequestRecord::decode(&*value).unwrap().subscription.as_mut().unwrap()),
    })
    .collect()
}
