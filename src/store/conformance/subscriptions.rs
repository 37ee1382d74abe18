//! Conformance: subscriptions.

use std::time::Duration;

use uuid::Uuid;

use super::{Bench, Engine, account, new_subscription, settings};
use crate::{
    domain::{
        delivery::{DeliveryKey, DeliveryState},
        ids::{AccountScope, Seq, SubscriptionKey},
        secret::Secret,
        subscription::{
            Health, OLDER_SECRETS_MAX, OlderSecret, Settings, SigningSecrets, State, Subscription,
        },
        time::UnixMicros,
    },
    store::{Change, DeliveryQuery, NewSubscription, RequestKey, Store, StoreError},
};

pub(super) async fn run<E: Engine>(engine: &impl Fn() -> E) {
    subscriptions_live_and_die(engine()).await;
    names_and_urls_are_taken_once(engine()).await;
    a_repeated_request_gets_the_first_answer(engine()).await;
    a_change_needs_the_current_version(engine()).await;
    what_is_noted_of_an_endpoint_is_no_change_of_the_owner(engine()).await;
    a_secret_is_rotated(engine()).await;
    a_repeated_rotation_gets_the_first_secret(engine()).await;
    older_secrets_have_a_bound(engine()).await;
    deleting_asks_before_it_drops_debts(engine()).await;
}

fn names(store: &dyn Store, scope: AccountScope) -> Vec<String> {
    let mut names = Vec::new();
    store.registry().walk(scope, None, |subscription| {
        names.push(subscription.name.to_string());
        true
    });
    names
}

async fn subscriptions_live_and_die<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let b = bench.subscribe(2, "b").await;
    let a = bench.subscribe(2, "a").await;
    bench.subscribe(1, "z").await;
    bench.subscribe(10, "a").await;
    assert_ne!(a.uid, b.uid);
    assert_ne!(a.etag(), b.etag());
    bench.clock.step(10);
    let change = Change::State(State::Paused, "by hand".to_owned());
    let changed = bench.store.update_subscription(b.key, b.version, change).await.unwrap();
    assert_eq!((changed.state, changed.state_reason.as_str()), (State::Paused, "by hand"));
    assert!(changed.update_time > changed.create_time && changed.etag() != b.etag());
    bench.store.delete_subscription(a.key, a.version, false).await.unwrap();

    bench.reopen();
    let registry = bench.store.registry();
    assert_eq!(registry.by_name(&b.name).as_deref(), Some(&*changed), "everything comes back as it was");
    assert_eq!(registry.by_key(a.key), None);
    let all = ["accounts/1/subscriptions/z", "accounts/2/subscriptions/b", "accounts/10/subscriptions/a"];
    assert_eq!(names(&*bench.store, AccountScope::All), all);
    assert_eq!(names(&*bench.store, AccountScope::One(account(2))), all[1..2]);
    let again = bench.subscribe(2, "a").await;
    assert!(
        again.key > b.key && again.key != a.key && again.uid != a.uid,
        "a subscription is not used again"
    );
}

async fn names_and_urls_are_taken_once<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let taken = bench.store.create_subscription(new_subscription(1, "a")).await.unwrap_err();
    assert!(matches!(taken, StoreError::NameTaken(name) if name == a.name));
    let mut same_url = new_subscription(1, "b");
    same_url.settings.url = a.settings.url.clone();
    let taken = bench.store.create_subscription(same_url.clone()).await.unwrap_err();
    assert!(matches!(taken, StoreError::UrlTaken(name) if name == a.name));
    let b = bench.subscribe(1, "b").await;
    let change = Change::Settings(Box::new(same_url.settings.clone()));
    let taken = bench.store.update_subscription(b.key, b.version, change).await.unwrap_err();
    assert!(matches!(taken, StoreError::UrlTaken(name) if name == a.name));
    same_url.name = "accounts/2/subscriptions/b".parse().unwrap();
    bench.store.create_subscription(same_url).await.expect("another account may have the URL");
    let change = Change::Settings(Box::new(settings("c")));
    bench.store.update_subscription(a.key, a.version, change).await.unwrap();
    let mut freed = new_subscription(1, "c");
    freed.settings.url = a.settings.url.clone();
    bench.store.create_subscription(freed).await.expect("a URL that was given up is free");
}

async fn a_repeated_request_gets_the_first_answer<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let request = RequestKey { id: Uuid::from_u128(7), fingerprint: [1; 32] };
    let new = NewSubscription { request: Some(request.clone()), ..new_subscription(1, "a") };
    let first = bench.store.create_subscription(new.clone()).await.unwrap();
    assert!(!first.repeated);
    let change = Change::State(State::Paused, String::new());
    bench.store.update_subscription(first.subscription.key, 1, change).await.unwrap();
    bench.reopen();
    let second = bench.store.create_subscription(new.clone()).await.unwrap();
    assert!(second.repeated);
    assert_eq!(second.subscription, first.subscription, "the answer is the first one's");
    let other = NewSubscription { request: Some(RequestKey { fingerprint: [2; 32], ..request }), ..new };
    let error = bench.store.create_subscription(other.clone()).await.unwrap_err();
    assert!(matches!(error, StoreError::RequestIdReused));
    let elsewhere = NewSubscription { name: "accounts/2/subscriptions/a".parse().unwrap(), ..other };
    assert!(!bench.store.create_subscription(elsewhere).await.unwrap().repeated, "ids are the account's own");
}

async fn a_change_needs_the_current_version<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let change = || Change::State(State::Paused, String::new());
    bench.store.update_subscription(a.key, 1, change()).await.unwrap();
    let stale = bench.store.update_subscription(a.key, 1, change()).await.unwrap_err();
    assert!(matches!(stale, StoreError::VersionMismatch));
    let stale = bench.store.delete_subscription(a.key, 1, false).await.unwrap_err();
    assert!(matches!(stale, StoreError::VersionMismatch));
    let gone = bench.store.update_subscription(SubscriptionKey(99), 1, change()).await.unwrap_err();
    assert!(matches!(gone, StoreError::SubscriptionNotFound));
}

async fn what_is_noted_of_an_endpoint_is_no_change_of_the_owner<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let probed = Health { probed: Some(Seq(7)), probes: 2, ..Health::default() };
    let failing = Health { failing_since: Some(UnixMicros(5)), failures: 3, ..probed };
    let note = || Change::Health(failing);
    bench.clock.step(10);
    let noted = bench.store.update_subscription(a.key, a.version, note()).await.unwrap();
    assert_eq!(*noted, Subscription { health: failing, ..(*a).clone() });
    let stale = bench.store.update_subscription(a.key, 9, note()).await.unwrap_err();
    assert!(matches!(stale, StoreError::VersionMismatch));
    bench.reopen();
    assert_eq!(bench.store.registry().by_key(a.key).unwrap().health, failing);
    // The first two change nothing about the endpoint; another URL and being made active wipe the slate.
    let same = Settings { max_in_flight: Some(3), ..settings("a") };
    let changes = [
        (Change::Settings(Box::new(same)), failing),
        (Change::State(State::Suspended, "gone".to_owned()), failing),
        (Change::Settings(Box::new(settings("b"))), probed),
        (note(), failing),
        (Change::State(State::Active, String::new()), probed),
    ];
    for (change, health) in changes {
        let version = bench.store.registry().by_key(a.key).unwrap().version;
        let changed = bench.store.update_subscription(a.key, version, change).await.unwrap();
        assert_eq!(changed.health, health);
    }
}

async fn a_secret_is_rotated<E: Engine>(engine: E) {
    const SECOND: i64 = 1_000_000;
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let rotate = |new: &str, seconds| Change::Secret {
        new: Secret::new(new).into(),
        overlap: Duration::from_secs(seconds),
        request: None,
    };
    bench.clock.step(10);
    let second = bench.store.update_subscription(a.key, a.version, rotate("second", 20)).await.unwrap();
    let older = OlderSecret {
        signer: a.signing_secrets.newest.clone(),
        until: second.update_time.plus(Duration::from_secs(20)),
    };
    assert!(second.update_time > a.update_time);
    let expected = Subscription {
        version: a.version + 1,
        update_time: second.update_time,
        signing_secrets: SigningSecrets { newest: Secret::new("second").into(), older: vec![older] },
        ..(*a).clone()
    };
    assert_eq!(*second, expected, "nothing else changes");
    let third = bench.store.update_subscription(a.key, second.version, rotate("third", 30)).await.unwrap();
    assert_eq!(third.signing_secrets.older.len(), 2);
    bench.reopen();
    assert_eq!(bench.store.registry().by_key(a.key), Some(third.clone()), "it comes back as it was");
    // Any change forgets what does not sign any more.
    bench.clock.step(25 * SECOND);
    let pause = Change::State(State::Paused, String::new());
    let paused = bench.store.update_subscription(a.key, third.version, pause).await.unwrap();
    assert_eq!(paused.signing_secrets.older, third.signing_secrets.older[..1]);
    bench.reopen();
    assert_eq!(bench.store.registry().by_key(a.key), Some(paused));
}

fn rotation(new: &str, request: Option<RequestKey>) -> Change {
    Change::Secret { new: Secret::new(new).into(), overlap: Duration::from_secs(60), request }
}

async fn a_repeated_rotation_gets_the_first_secret<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let request = RequestKey { id: Uuid::from_u128(7), fingerprint: [1; 32] };
    let again = || rotation("third", Some(request.clone()));
    let rotated = rotation("second", Some(request.clone()));
    let first = bench.store.update_subscription(a.key, a.version, rotated).await.unwrap();
    for _ in 0..2 {
        // Whatever version the caller saw.
        for version in [a.version, first.version] {
            let repeated = bench.store.update_subscription(a.key, version, again()).await.unwrap();
            assert_eq!(repeated, first);
        }
        assert_eq!(bench.store.registry().by_key(a.key), Some(first.clone()), "nothing was changed");
        bench.reopen();
    }
    let other = RequestKey { fingerprint: [2; 32], ..request };
    let refused = bench.store.update_subscription(a.key, first.version, rotation("x", Some(other))).await;
    assert!(matches!(refused, Err(StoreError::RequestIdReused)));
}

async fn older_secrets_have_a_bound<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    let mut current = bench.subscribe(1, "a").await;
    let request = RequestKey { id: Uuid::from_u128(7), fingerprint: [1; 32] };
    for number in 1..=OLDER_SECRETS_MAX {
        let request = (number == OLDER_SECRETS_MAX).then(|| request.clone());
        let rotate = rotation(&format!("secret {number}"), request);
        current = bench.store.update_subscription(current.key, current.version, rotate).await.unwrap();
    }
    let one_more = rotation("one more", None);
    let refused = bench.store.update_subscription(current.key, current.version, one_more).await;
    assert!(matches!(refused, Err(StoreError::TooManySecrets)));
    let again = rotation("one more", Some(request));
    let repeated = bench.store.update_subscription(current.key, current.version, again).await.unwrap();
    assert_eq!(repeated, current, "a repetition adds none");
}

async fn deleting_asks_before_it_drops_debts<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let b = bench.subscribe(1, "b").await;
    bench.publish(1, Some("e"), 1).await;
    let owed = bench.store.delete_subscription(a.key, 1, false).await.unwrap_err();
    assert!(matches!(owed, StoreError::Owed(1)));
    assert_eq!(bench.store.delete_subscription(a.key, 1, true).await.unwrap(), 1);
    for _ in 0..2 {
        assert_eq!(bench.store.queue_summary(a.key).owed(), 0);
        assert!(bench.store.delivery(DeliveryKey { seq: Seq(1), subscription: a.key }).unwrap().is_none());
        assert_eq!(bench.deliveries(&[b.key]).len(), 1, "the other one keeps its own");
        let all = DeliveryQuery { subscriptions: None, ..bench.query(&[]) };
        let rows = bench.store.deliveries(&all).unwrap().rows;
        assert_eq!(rows.iter().map(|row| row.key.subscription).collect::<Vec<_>>(), [b.key]);
        bench.settle(DeliveryKey { seq: Seq(1), subscription: a.key }, DeliveryState::Succeeded).await;
        bench.reopen();
    }
    let late = bench.publish(1, Some("late"), 2).await;
    assert_eq!(late.delivery_count, 1, "nothing is owed to one that is gone");
    bench.settle(DeliveryKey { seq: Seq(1), subscription: b.key }, DeliveryState::Succeeded).await;
    bench.settle(DeliveryKey { seq: Seq(2), subscription: b.key }, DeliveryState::Succeeded).await;
    assert_eq!(bench.store.delete_subscription(b.key, 1, false).await.unwrap(), 0);
}
