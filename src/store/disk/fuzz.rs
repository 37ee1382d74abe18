//! Fuzz targets for the decoders of the disk.

use prost::Message;
use rand::{SeedableRng, rngs::StdRng};

use super::{
    index::{
        apply,
        ledger::Ledger,
        manifest::Manifest,
        volume::Volume,
        volume_codec,
        volume_detail::{EntryState, VolumeDetail},
    },
    kv::{audit_record, requests, subscriptions},
    log::LogPosition,
    records::{AccessTokenRecord, AttemptRecord, CommitRecord, SubscriptionRecord},
};
use crate::domain::{
    access::AccessToken,
    delivery::Attempt,
    ids::{AccountId, Seq, SubscriptionKey},
    seal::{SealingKey, SealingKeys},
    subscription::Subscription,
    time::UnixMicros,
};

pub use super::log::{fuzz::log, registry_log::fuzz as registry_log};

/// A row of the registry: the value of a subscription or of a request; and a key.
pub fn registry(data: &[u8]) {
    let keys = &SealingKeys::one(SealingKey::draw(&mut StdRng::seed_from_u64(1)));
    let subscription =
        SubscriptionRecord::decode(data).ok().and_then(|record| Subscription::try_from(record).ok());
    if let Some(subscription) = subscription {
        let encoded = SubscriptionRecord::from(&subscription).encode_to_vec();
        let again = SubscriptionRecord::decode(&*encoded).map(Subscription::try_from);
        assert!(matches!(again, Ok(Ok(again)) if again == subscription), "it is read as it was written");
        let key = subscriptions::tree_key(subscription.key);
        assert_eq!(subscriptions::subscription_of(&key, &encoded, keys).ok().as_ref(), Some(&subscription));
        assert!(subscriptions::subscription_of(&key[1..], &encoded, keys).is_err());
        assert!(!format!("{subscription:?}").contains("whsec_"), "a secret is printed");
    }
    let (key, value) = data.split_at(data.len().min(requests::REQUEST_KEY_BYTES));
    if let Ok(((_, same), _)) = subscriptions::request_of(key, value) {
        assert_eq!(same, key);
    }
    drop(subscriptions::response_of(value, keys));
    drop(subscriptions::response_of(data, keys));
}

/// An access token.
pub fn tokens(data: &[u8]) {
    let Ok(record) = AccessTokenRecord::decode(data) else { return };
    let Ok(token) = AccessToken::try_from(record) else { return };
    let again = AccessToken::try_from(AccessTokenRecord::from(&token));
    assert_eq!(again.as_ref(), Ok(&token), "it is read as it was written");
}

/// The key of an audit record, and its row.
pub fn audit(data: &[u8]) {
    let (key, value) = data.split_at(data.len().min(audit_record::KEY_BYTES));
    let Ok(record) = audit_record::decode(key, value) else { return };
    let written = audit_record::AuditRow::from(record.clone()).encode_to_vec();
    let again =
        audit_record::decode(&audit_record::key_in(audit_record::AuditKind::Record, record.key), &written);
    assert_eq!(again.as_ref(), Ok(&record), "it is read as it was written");
}

/// An attempt.
pub fn attempt(data: &[u8]) {
    let Ok(record) = AttemptRecord::decode(data) else { return };
    let Ok(attempt) = Attempt::try_from(record.clone()) else { return };
    let AttemptRecord { before, url_hash, ref url, .. } = record;
    let written = AttemptRecord { before, url_hash, url: url.clone(), ..AttemptRecord::from(&attempt) };
    assert_eq!(written, record, "nothing of it was lost");
}

/// Payloads of commits, each after its length in two bytes. Applied to an empty ledger the counts match, and
/// the volumes survive encoding and decoding.
pub fn commit(data: &[u8]) {
    let subscriptions = || (1..=3).map(SubscriptionKey);
    let mut ledger = Ledger::new(of_one_account(), usize::MAX);
    let (mut rest, mut pos) = (data, LogPosition::new(1, 40));
    while let Some((len, more)) = rest.split_first_chunk::<2>() {
        let (record, more) = more.split_at(usize::from(u16::from_le_bytes(*len)).min(more.len()));
        rest = more;
        drop(apply::decode(record));
        let len = u32::try_from(record.len()).expect("it is short");
        let payload = [&len.to_le_bytes()[..], record].concat();
        let Ok((commit, len)) = apply::decode(&payload) else { return };
        let again = CommitRecord::decode(&*commit.encode_to_vec());
        assert_eq!(again.as_ref(), Ok(&commit));
        if apply::apply(&mut ledger, &commit, pos, len, |_, _| {}).is_err() {
            break; // The start is refused.
        }
        pos = pos.plus(payload.len() + 40);
        adds_up(&ledger, subscriptions());
    }
}

fn of_one_account() -> impl Iterator<Item = (SubscriptionKey, AccountId)> {
    let account = AccountId::new(1).expect("accounts begin with 1");
    (1..=3).map(move |key| (SubscriptionKey(key), account))
}

fn adds_up(ledger: &Ledger, subscriptions: impl Iterator<Item = SubscriptionKey>) {
    let mut owed = 0;
    for volume in &ledger.volumes {
        let detail = ledger.detail(volume.first).expect("everything is in memory");
        comes_back(detail);
        let mut recounted = volume.clone();
        recounted.recount(detail, |subscription| ledger.has_subscription(subscription));
        let counts =
            |volume: &Volume| (volume.events, volume.bytes, volume.accounts.clone(), volume.dues.clone());
        assert_eq!(counts(&recounted), counts(volume));
        assert_eq!(recounted.owed_bytes, volume.owed_bytes);
        let kept = volume.subscriptions.iter().filter(|counts| counts.raw() != [0; 5]);
        assert!(
            kept.eq(&recounted.subscriptions),
            "{:?} {:?}",
            volume.subscriptions,
            recounted.subscriptions
        );
        owed += volume.owed().pending + volume.owed().retrying;
    }
    let in_all = ledger.owed_in_all().get();
    assert_eq!(owed, in_all.deliveries);
    let bytes = ledger.volumes.iter().map(Volume::owed_bytes).sum::<u64>();
    assert_eq!(in_all.bytes, bytes + owed * crate::store::OWED_DELIVERY_BYTES);
    assert_eq!(owed, subscriptions.map(|subscription| ledger.summary(subscription).owed()).sum::<u64>());
}

/// The index of a volume, after its length in two bytes, and its state.
pub fn volume(data: &[u8]) {
    let Some((len, rest)) = data.split_first_chunk::<2>() else { return };
    let (index, state) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    let Ok(detail) = volume_codec::decode(index, state) else { return };
    comes_back(&detail);
}

/// Checks that a detail survives encoding and decoding, and that every event and delivery is found.
fn comes_back(detail: &VolumeDetail) {
    let (index, hashes) = volume_codec::encode_index(detail);
    let state = volume_codec::encode_state(detail);
    let again = match volume_codec::decode(&index.encode_to_vec(), &state.encode_to_vec()) {
        Ok(again) => again,
        Err(error) => panic!("{error}: {detail:?}"),
    };
    assert_eq!(
        (&again.events, &again.deliveries, &again.event_offsets),
        (&detail.events, &detail.deliveries, &detail.event_offsets)
    );
    assert_eq!((&again.seq_offsets, &again.retries), (&detail.seq_offsets, &detail.retries));
    let given = detail.events.iter().filter(|event| event.id_given).count();
    assert_eq!(volume_codec::decode_hashes(&hashes).count(), given);

    let first = Seq(7);
    for event in 0..detail.len() {
        let seq = detail.seq(first, event);
        assert_eq!(detail.event_at(first, seq), Some(event));
        assert_eq!(detail.event_from(first, seq), event);
        for (key, entry) in detail.deliveries_of(first, event) {
            let found = detail.position(first, key).map(|position| detail.deliveries[position]);
            assert_eq!(found.as_ref(), Some(entry));
            assert!(entry.attempts_now() <= entry.attempts);
            assert_eq!(EntryState::from(entry.delivery_state()), entry.state);
        }
    }
    for (subscription, due) in detail.retried_subscriptions() {
        assert_eq!(detail.next_due(subscription), Some(due));
        assert!(detail.retries_of(subscription).all(|(at, event)| at >= due && event < detail.len()));
    }
    let mut volume = Volume::new(first, UnixMicros(0), 1);
    volume.recount(detail, |_| true);
    assert_eq!(
        volume
            .subscriptions
            .iter()
            .map(|counts| counts.raw().map(u64::from).iter().sum::<u64>())
            .sum::<u64>(),
        detail.deliveries.len() as u64
    );
}

/// The record of a manifest, without its checksum.
pub fn manifest(data: &[u8]) {
    drop(Manifest::decode(data));
    let Ok(manifest) = Manifest::decode(&Manifest::framed(data)) else { return };
    let written = Manifest::encode(&manifest, manifest.volumes.iter());
    let again = Manifest::decode(&written).expect("it is read as it was written");
    assert_eq!(Manifest::encode(&again, again.volumes.iter()), written);
    let mut ledger = Ledger::new(of_one_account(), usize::MAX);
    for volume in manifest.volumes {
        ledger.add_volume(volume);
    }
}

#[cfg(test)]
pub(crate) use seeds::seeds;

/// Seeds from a real store.
#[cfg(test)]
mod seeds {
    use std::{collections::BTreeMap, path::Path, time::Duration};

    use super::*;
    use crate::{
        clock::Clock,
        domain::{
            audit::{AuditKey, AuditOutcome, AuditRecord, AuditSubject, AuditedCall},
            delivery::{DeliveryKey, DeliveryState},
            secret::Secret,
        },
        metrics::Metrics,
        store::{
            NewEvent, Settlement, Store,
            conformance::{TestClock, attempt, new_event, subscription_to},
            disk::{
                DiskStore, KeySource, StoreSettings,
                log::{FIRST_FILE, Files, Kind, Record, registry_log::RegistryLog, replay},
                read::fetch::ATTEMPT_HEAD,
                records::{RegistryChange, RequestRecord, RowRecord},
            },
        },
    };

    /// Bytes that targets begin with, by target.
    pub(crate) async fn seeds() -> Vec<(&'static str, Vec<u8>)> {
        let dir = tempfile::tempdir().unwrap();
        let settings =
            StoreSettings { store_memory_max: 1 << 20, file_bytes: 128 * 1024, audit_bytes_max: 1 << 20 };
        let clock = TestClock::new();
        let keys = KeySource::Beside(SealingKey::draw(&mut StdRng::seed_from_u64(1)));
        let open = || {
            DiskStore::open(dir.path(), settings, &keys, clock.clone(), 1, Metrics::new(UnixMicros(0)))
                .unwrap()
        };
        let store = open();
        let mut subscriptions = Vec::new();
        let mut seeds = vec![("audit", audit_seed()), ("tokens", token_seed())];
        for (id, inboxes) in [("a", &[1][..]), ("b", &[1, 2]), ("c", &[1, 2, 3])] {
            let created = store.create_subscription(subscription_to(1, id, inboxes)).await.unwrap();
            seeds.extend(rows(&created.subscription));
            subscriptions.push(created.subscription.key);
        }
        for round in 0..12 {
            let ids = ["x", "y", "z"].map(|id| format!("{id}{round}"));
            let events = (1..).zip(&ids).map(|(inbox, id)| {
                let id = (inbox > 1).then_some(id.as_str());
                NewEvent { inbox_id: Some(inbox), ..new_event(1, id, round * 3 + 1) }
            });
            store.accept(events.collect()).await.unwrap();
            let seq = store.newest();
            let due = clock.now().plus(Duration::from_secs(9));
            let states = [DeliveryState::Retrying { due }, DeliveryState::Succeeded, DeliveryState::Failed];
            let state = states[usize::try_from(round).unwrap() % 3];
            let settled = Settlement {
                key: DeliveryKey { seq, subscription: subscriptions[2] },
                attempt: attempt(clock.now(), state),
                state,
            };
            store.settle(vec![settled]).await.unwrap();
            clock.step(1_234);
        }
        // Past the first file, a checkpoint is made.
        let filling = (0..400).map(|number| NewEvent { inbox_id: None, ..new_event(1, None, number) });
        store.accept(filling.collect()).await.unwrap();
        store.close().unwrap();
        drop(store);
        seeds.extend(of_the_log(dir.path()));
        seeds.extend(of_the_registry_log(dir.path()));
        seeds
    }

    fn of_the_registry_log(dir: &Path) -> Vec<(&'static str, Vec<u8>)> {
        let file = std::fs::read(dir.join("ledger/registry")).unwrap();
        let (_, rows) = RegistryLog::open(&dir.join("ledger")).unwrap();
        let mut changes = Vec::new();
        for (tree, rows) in rows {
            let rows: Vec<_> = rows.into_iter().map(|(key, value)| RowRecord::put(key, value)).collect();
            let removed = rows.iter().map(|row| RowRecord::removed(row.key.clone())).take(1).collect();
            for rows in [rows, removed] {
                let change =
                    RegistryChange { tree: tree as u32, rows, more: false, next_record: 9 }.encode_to_vec();
                changes.extend(u16::try_from(change.len()).unwrap().to_le_bytes());
                changes.extend(change);
            }
        }
        vec![("registry_log", changes), ("registry_log", [&[u8::MAX][..], &file].concat())]
    }

    fn token_seed() -> Vec<u8> {
        let record = AccessTokenRecord {
            name: "accessTokens/ci".to_owned(),
            display_name: "CI".to_owned(),
            hash: vec![7; 32],
            scopes: vec![1, 3],
            accounts: vec![1, 7],
            create_time: 1,
            expire_time: Some(9),
            revoke_time: None,
            last_use_time: Some(2),
        };
        record.encode_to_vec()
    }

    fn audit_seed() -> Vec<u8> {
        let call = AuditedCall {
            principal: "accessTokens/ci".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            method: "tidings.v1.SubscriptionService/PauseSubscription".to_owned(),
            subject: AuditSubject {
                resource: "accounts/1/subscriptions/a".to_owned(),
                fields: vec!["url".to_owned()],
                parameters: [("force".to_owned(), "true".to_owned())].into(),
            },
            account: None,
        };
        let key = AuditKey { time: UnixMicros(5), number: 3 };
        let (outcome, reason) = (AuditOutcome::Refused, "ETAG_MISMATCH".to_owned());
        let (end_time, last_time) = (Some(UnixMicros(6)), Some(UnixMicros(8)));
        let record = AuditRecord { key, call, outcome, code: 10, reason, end_time, repeats: 2, last_time };
        let key = audit_record::key_in(audit_record::AuditKind::Record, key);
        [&key[..], &audit_record::AuditRow::from(record).encode_to_vec()].concat()
    }

    fn rows(subscription: &Subscription) -> Vec<(&'static str, Vec<u8>)> {
        let mut rotated = subscription.clone();
        rotated.signing_secrets.rotate(
            Secret::new("another secret...").into(),
            Duration::from_secs(60),
            UnixMicros(0),
        );
        let record = SubscriptionRecord::from(&rotated);
        let key = subscriptions::request_key(Some(subscription.name.account), subscription.uid);
        let fingerprint = vec![7; 32];
        let request = RequestRecord {
            time: 1,
            fingerprint,
            subscription: Some(record.clone()),
            ..RequestRecord::default()
        };
        vec![
            ("registry", SubscriptionRecord::from(subscription).encode_to_vec()),
            ("registry", record.encode_to_vec()),
            ("registry", [&key[..], &request.encode_to_vec()].concat()),
        ]
    }

    fn of_the_log(dir: &Path) -> Vec<(&'static str, Vec<u8>)> {
        let (mut seeds, mut commits, mut log) = (Vec::new(), Vec::new(), vec![0]);
        let dir = dir.join("ledger");
        let files = Files::open(&dir, BTreeMap::new()).unwrap();
        let reader = files.reader();
        let replayed =
            replay(reader, LogPosition::new(FIRST_FILE, 0), 1, 0, |Record { kind, payload, .. }| {
                if kind == Kind::Commit {
                    let (commit, len) = apply::decode(&payload)?;
                    let (record, behind) = payload[4..].split_at(len);
                    if record.len() < 2_000 {
                        commits.extend(u16::try_from(record.len()).unwrap().to_le_bytes());
                        commits.extend(record);
                        seeds.push(("commit", commits.clone()));
                    }
                    if commit.attempts_len > 0 {
                        seeds.push(("attempt", behind[ATTEMPT_HEAD..commit.attempts_len as usize].to_vec()));
                    }
                }
                if log.len() < 1_000 {
                    let part = &payload[..payload.len().min(200)];
                    log.extend([kind as u8 - 1, u8::try_from(part.len()).unwrap()]);
                    log.extend(part);
                    seeds.push(("log", log.clone()));
                    // Two damages, and then the same.
                    seeds.push(("log", [&[2, 45, 0, 3, 90, 0, 0xff][..], &log[1..]].concat()));
                }
                Ok(())
            });
        assert!(replayed.unwrap().number > 24, "the store wrote a commit for each call");

        let manifest = Manifest::read(&dir).unwrap();
        seeds.push(("manifest", Manifest::encode(&manifest, manifest.volumes.iter())[16..].to_vec()));
        let first = manifest.volumes.first().expect("a checkpoint was made").clone();
        let stored = first.stored().unwrap();
        let slice = |slice| reader.read_slice(slice).unwrap();
        let (index, state) = (slice(stored.index.events), slice(stored.state));
        let detail = volume_codec::decode(&index, &state).unwrap();
        for kept in [3, 20, detail.len()] {
            let kept: Vec<usize> = (0..detail.len()).rev().take(kept).rev().collect();
            let detail = detail.filtered(first.first, &kept, |subscription| subscription != 2);
            let index = volume_codec::encode_index(&detail).0.encode_to_vec();
            let state = volume_codec::encode_state(&detail).encode_to_vec();
            let len = u16::try_from(index.len()).unwrap().to_le_bytes();
            seeds.push(("volume", [&len[..], &index, &state].concat()));
        }
        seeds
    }
}
