//! What every engine must do, as tests. Each engine's own tests run them all; an engine that keeps what it stores is
//! closed and opened again in the middle.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use url::Url;
use uuid::Uuid;

use super::{
    Accepted, Change, Decision, DeliveryQuery, DeliveryRecord, EventQuery, Fed, Keep, NewEvent,
    NewSubscription, OrderFilter, OwedQuery, ReplayQuery, RequestKey, Settlement, Store, StoreError,
    TimeRange, Wanted, memory::MemoryStore,
};
use crate::{
    clock::Clock,
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState, Outcome},
        event::{EventAddress, OrderKey, OrderTag},
        ids::{AccountId, AccountScope, LaneId, Seq},
        secret::Secret,
        subscription::{
            Health, OlderSecret, PayloadFormat, RetryOverrides, Settings, SignatureScheme, SigningSecrets,
            State, Subscription, TlsOptions, TlsProfile,
        },
        time::UnixMicros,
    },
    proto::v1::{self, EventType},
};

mod audit;
mod tokens;

pub use audit::AUDIT_BYTES_MAX;

/// A clock that a test sets.
#[derive(Debug)]
pub struct TestClock(AtomicI64);

impl TestClock {
    /// A clock at a time in 2023.
    pub fn new() -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(1_700_000_000_000_000)))
    }

    /// Lets time pass; negative: steps the clock back.
    pub fn step(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixMicros {
        UnixMicros(self.0.load(Ordering::Relaxed))
    }
}

/// An engine under test: how it is opened, on the same data each time.
pub trait Engine {
    /// Opens it. What was opened before was dropped.
    fn open(&mut self, clock: Arc<TestClock>) -> Arc<dyn Store>;
    /// Whether what it stored is there after it was opened again.
    fn keeps(&self) -> bool;
}

/// Runs every test on engines made by `engine`.
pub async fn run<E: Engine>(engine: impl Fn() -> E) {
    subscriptions_live_and_die(engine()).await;
    names_and_urls_are_taken_once(engine()).await;
    a_repeated_request_gets_the_first_answer(engine()).await;
    a_change_needs_the_current_version(engine()).await;
    what_is_noted_of_an_endpoint_is_no_change_of_the_owner(engine()).await;
    a_secret_is_rotated(engine()).await;
    events_are_found_again(engine()).await;
    a_repeated_event_is_stored_once(engine()).await;
    a_batch_is_all_or_none(engine()).await;
    deliveries_settle_once(engine()).await;
    retries_come_when_they_are_due(engine()).await;
    a_lane_reads_on_in_stored_order(engine()).await;
    what_is_owed_is_read_in_stored_order_by_what_it_belongs_to(engine()).await;
    the_feed_tells_of_every_event(engine()).await;
    callers_decide_about_deliveries(engine()).await;
    replays_queue_again(engine()).await;
    deleting_asks_before_it_drops_debts(engine()).await;
    what_is_owed_in_all_follows_every_change(engine()).await;
    retention_removes_what_is_over_and_keeps_what_is_owed(engine()).await;
    times_never_step_back(engine()).await;
    tokens::tokens_are_given_out_and_end(engine()).await;
    tokens::tokens_expire_and_are_forgotten(engine()).await;
    tokens::the_last_use_of_a_token_is_written_down(engine()).await;
    audit::run(&engine).await;
    a_closed_store_takes_nothing(engine()).await;
    for seed in 0..6 {
        random_work_ends_as_in_the_reference(engine(), seed).await;
    }
}

/// A store that is opened again at every chance.
struct Bench<E> {
    engine: E,
    clock: Arc<TestClock>,
    store: Arc<dyn Store>,
}

impl<E: Engine> Bench<E> {
    fn new(mut engine: E) -> Self {
        let clock = TestClock::new();
        let store = engine.open(Arc::clone(&clock));
        Self { engine, clock, store }
    }

    /// Closes the store and opens it again, where that makes a difference.
    fn reopen(&mut self) {
        if self.engine.keeps() {
            self.store.close().unwrap();
            let closed =
                std::mem::replace(&mut self.store, Arc::new(MemoryStore::new(self.clock.clone(), 0)));
            drop(closed);
            self.store = self.engine.open(Arc::clone(&self.clock));
        }
    }

    async fn subscribe(&self, account: i64, id: &str) -> Arc<Subscription> {
        self.store.create_subscription(new_subscription(account, id)).await.unwrap().subscription
    }

    async fn publish(&self, account: i64, id: Option<&str>, number: i64, lanes: &[LaneId]) -> Accepted {
        self.store.accept(vec![new_event(account, id, number, lanes)]).await.unwrap().remove(0)
    }

    async fn settle(&self, key: DeliveryKey, state: DeliveryState) {
        let settlement = Settlement { key, attempt: attempt(self.clock.now(), state), state };
        self.store.settle(vec![settlement]).await.unwrap();
    }

    fn query(&self, lanes: &[LaneId]) -> DeliveryQuery {
        DeliveryQuery {
            lanes: lanes.to_vec(),
            states: Vec::new(),
            event: None,
            time: TimeRange::default(),
            after: None,
            limit: 1000,
        }
    }

    fn deliveries(&self, lanes: &[LaneId]) -> Vec<DeliveryRecord> {
        self.store.deliveries(&self.query(lanes)).unwrap().rows
    }
}

fn account(number: i64) -> AccountId {
    AccountId::new(number).unwrap()
}

fn settings(id: &str) -> Settings {
    Settings {
        display_name: "a receiver".to_owned(),
        url: Url::parse(&format!("https://{id}.example.com/hook?key=1")).unwrap(),
        event_types: vec![EventType::MessageCreated, EventType::ContactCreated],
        inbox_ids: vec![3, 1],
        payload_format: PayloadFormat::Sample,
        headers: [("x-key".to_owned(), Secret::new("value"))].into(),
        retry: RetryOverrides {
            max_attempts: Some(3),
            min_backoff: Some(Duration::from_secs(1)),
            max_backoff: None,
        },
        timeout: Some(Duration::from_millis(1500)),
        max_in_flight: Some(7),
        ordered: true,
        annotations: [("team".to_owned(), "crm".to_owned())].into(),
        tls: TlsProfile::new(TlsOptions {
            server_name: "crm.example".to_owned(),
            ca_certificates: "authorities".to_owned(),
            client_certificate: "certificate".to_owned(),
            client_key: Some(Secret::new("key")),
        })
        .map(Arc::new),
        signature_scheme: SignatureScheme::default(),
    }
}

pub fn new_subscription(of: i64, id: &str) -> NewSubscription {
    NewSubscription {
        name: format!("accounts/{of}/subscriptions/{id}").parse().unwrap(),
        settings: settings(id),
        signer: Secret::new("whsec_c2VjcmV0").into(),
        request: None,
    }
}

pub fn new_event(of: i64, id: Option<&str>, number: i64, lanes: &[LaneId]) -> NewEvent {
    let contact = v1::Contact { id: number, name: format!("contact {number}"), ..Default::default() };
    let payload = v1::event::Payload::ContactCreated(v1::ContactCreated { contact: Some(contact) });
    let event = v1::Event { payload: Some(payload), ..Default::default() };
    NewEvent {
        address: EventAddress { account: account(of), id: id.map(|id| id.parse().unwrap()) },
        content: event.into(),
        inbox_id: None,
        fingerprint: u128::from(number.unsigned_abs()) << 70 | 5,
        lanes: lanes.to_vec(),
    }
}

pub fn attempt(at: UnixMicros, state: DeliveryState) -> Attempt {
    let ok = state == DeliveryState::Succeeded;
    Attempt {
        start_time: at,
        duration: Duration::from_micros(1234),
        outcome: if ok { Outcome::Ok } else { Outcome::HttpStatus },
        http_status: if ok { 204 } else { 503 },
        error: if ok { String::new() } else { "status 503".to_owned() },
        response_body: "körper".to_owned(),
        retry_after: (!ok).then_some(Duration::from_secs(2)),
        url: "https://x.example.com/".to_owned(),
    }
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
    let changed = bench.store.update_subscription(b.lane, b.version, change).await.unwrap();
    assert_eq!((changed.state, changed.state_reason.as_str()), (State::Paused, "by hand"));
    assert!(changed.update_time > changed.create_time && changed.etag() != b.etag());
    bench.store.delete_subscription(a.lane, a.version, false).await.unwrap();

    bench.reopen();
    let registry = bench.store.registry();
    assert_eq!(registry.by_name(&b.name).as_deref(), Some(&*changed), "everything comes back as it was");
    assert_eq!(registry.by_lane(a.lane), None);
    let all = ["accounts/1/subscriptions/z", "accounts/2/subscriptions/b", "accounts/10/subscriptions/a"];
    assert_eq!(names(&*bench.store, AccountScope::All), all);
    assert_eq!(names(&*bench.store, AccountScope::One(account(2))), all[1..2]);
    let again = bench.subscribe(2, "a").await;
    assert!(again.lane > b.lane && again.lane != a.lane && again.uid != a.uid, "a lane is not used again");
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
    let taken = bench.store.update_subscription(b.lane, b.version, change).await.unwrap_err();
    assert!(matches!(taken, StoreError::UrlTaken(name) if name == a.name));
    same_url.name = "accounts/2/subscriptions/b".parse().unwrap();
    bench.store.create_subscription(same_url).await.expect("another account may have the URL");
    let change = Change::Settings(Box::new(settings("c")));
    bench.store.update_subscription(a.lane, a.version, change).await.unwrap();
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
    bench.store.update_subscription(first.subscription.lane, 1, change).await.unwrap();
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
    bench.store.update_subscription(a.lane, 1, change()).await.unwrap();
    let stale = bench.store.update_subscription(a.lane, 1, change()).await.unwrap_err();
    assert!(matches!(stale, StoreError::VersionMismatch));
    let stale = bench.store.delete_subscription(a.lane, 1, false).await.unwrap_err();
    assert!(matches!(stale, StoreError::VersionMismatch));
    let gone = bench.store.update_subscription(LaneId(99), 1, change()).await.unwrap_err();
    assert!(matches!(gone, StoreError::SubscriptionNotFound));
}

async fn what_is_noted_of_an_endpoint_is_no_change_of_the_owner<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let probed = Health { probed: Some(Seq(7)), probes: 2, ..Health::default() };
    let failing = Health { failing_since: Some(UnixMicros(5)), failures: 3, ..probed };
    let note = || Change::Health(failing);
    bench.clock.step(10);
    let noted = bench.store.update_subscription(a.lane, a.version, note()).await.unwrap();
    assert_eq!(*noted, Subscription { health: failing, ..(*a).clone() });
    let stale = bench.store.update_subscription(a.lane, 9, note()).await.unwrap_err();
    assert!(matches!(stale, StoreError::VersionMismatch));
    bench.reopen();
    assert_eq!(bench.store.registry().by_lane(a.lane).unwrap().health, failing);
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
        let version = bench.store.registry().by_lane(a.lane).unwrap().version;
        let changed = bench.store.update_subscription(a.lane, version, change).await.unwrap();
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
    };
    bench.clock.step(10);
    let second = bench.store.update_subscription(a.lane, a.version, rotate("second", 20)).await.unwrap();
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
    let third = bench.store.update_subscription(a.lane, second.version, rotate("third", 30)).await.unwrap();
    assert_eq!(third.signing_secrets.older.len(), 2);
    bench.reopen();
    assert_eq!(bench.store.registry().by_lane(a.lane), Some(third.clone()), "it comes back as it was");
    // Any change forgets what does not sign any more.
    bench.clock.step(25 * SECOND);
    let pause = Change::State(State::Paused, String::new());
    let paused = bench.store.update_subscription(a.lane, third.version, pause).await.unwrap();
    assert_eq!(paused.signing_secrets.older, third.signing_secrets.older[..1]);
    bench.reopen();
    assert_eq!(bench.store.registry().by_lane(a.lane), Some(paused));
}

async fn events_are_found_again<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let lane = bench.subscribe(1, "a").await.lane;
    let given = bench.publish(1, Some("given.1"), 1, &[lane]).await;
    bench.clock.step(1_000_000);
    let made = bench.publish(1, None, 2, &[]).await;
    bench.publish(2, Some("given.1"), 3, &[]).await;
    assert_eq!((given.id.as_str(), given.delivery_count, given.duplicate), ("given.1", 1, false));
    assert_eq!((made.delivery_count, made.duplicate), (0, false));
    bench.reopen();
    for (accepted, number) in [(&given, 1), (&made, 2)] {
        let event = bench.store.event(account(1), &accepted.id).unwrap().expect("it was stored");
        assert_eq!((&event.name.id, event.create_time), (&accepted.id, accepted.create_time));
        let published = new_event(1, None, number, &[]).content;
        assert_eq!(event.content.encoded, published.encoded, "it comes back as it was published");
        assert_eq!((event.event_type(), event.order_tag()), (published.event_type, published.order_tag));
    }
    assert!(bench.store.event(account(3), &given.id).unwrap().is_none());
    assert!(
        bench.store.event(account(2), &made.id).unwrap().is_none(),
        "a made id is found in its account only"
    );

    let query = |time| EventQuery { account: account(1), types: Vec::new(), time, before: None, limit: 1 };
    let newest = bench.store.events(&query(TimeRange::default())).unwrap();
    assert_eq!(newest.rows[0].name.id, made.id);
    let next = EventQuery { before: newest.next, ..query(TimeRange::default()) };
    let oldest = bench.store.events(&next).unwrap();
    assert_eq!((&oldest.rows[0].name.id, oldest.next), (&given.id, None));
    let until = TimeRange { start: None, end: Some(made.create_time) };
    assert_eq!(bench.store.events(&query(until)).unwrap().rows[0].name.id, given.id);
    let from = TimeRange { start: Some(made.create_time), end: None };
    assert_eq!(bench.store.events(&query(from)).unwrap().next, None);
    let messages = EventQuery { types: vec![EventType::MessageCreated], ..query(TimeRange::default()) };
    assert!(bench.store.events(&messages).unwrap().rows.is_empty());
}

async fn a_repeated_event_is_stored_once<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let lane = bench.subscribe(1, "a").await.lane;
    let first = bench.publish(1, Some("e"), 1, &[lane]).await;
    for _ in 0..2 {
        bench.clock.step(5);
        let again = bench.publish(1, Some("e"), 1, &[]).await;
        assert_eq!(again, Accepted { duplicate: true, ..first.clone() });
        let other = bench.store.accept(vec![new_event(1, Some("e"), 2, &[lane])]).await.unwrap_err();
        assert!(matches!(other, StoreError::EventExists { index: 0, id } if id == first.id));
        bench.reopen();
    }
    let twice = vec![new_event(1, Some("f"), 3, &[lane]), new_event(1, Some("f"), 3, &[lane])];
    let answers = bench.store.accept(twice).await.unwrap();
    assert_eq!((answers[0].duplicate, answers[1].duplicate), (false, true), "also within one call");
    let made = bench.publish(1, None, 4, &[]).await;
    assert!(bench.publish(1, Some(made.id.as_str()), 4, &[]).await.duplicate, "a made id counts as well");
    assert_eq!(bench.store.lane_summary(lane).pending, 2);
}

async fn a_batch_is_all_or_none<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let lane = bench.subscribe(1, "a").await.lane;
    bench.publish(1, Some("old"), 1, &[]).await;
    let batch = vec![new_event(1, Some("new"), 2, &[lane]), new_event(1, Some("old"), 3, &[lane])];
    let error = bench.store.accept(batch).await.unwrap_err();
    assert!(matches!(error, StoreError::EventExists { index: 1, .. }));
    let within = vec![new_event(1, Some("new"), 2, &[lane]), new_event(1, Some("new"), 3, &[lane])];
    assert!(bench.store.accept(within).await.is_err());
    bench.reopen();
    assert!(bench.store.event(account(1), &"new".parse().unwrap()).unwrap().is_none());
    assert_eq!(bench.store.lane_summary(lane).pending, 0);
    let answers =
        bench.store.accept((0..300).map(|n| new_event(1, None, n, &[lane])).collect()).await.unwrap();
    assert!(answers.iter().all(|answer| !answer.duplicate));
    bench.reopen();
    assert_eq!(bench.store.lane_summary(lane).pending, 300);
}

async fn deliveries_settle_once<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let (a, b) = (bench.subscribe(1, "a").await.lane, bench.subscribe(1, "b").await.lane);
    let event = bench.publish(1, Some("e"), 1, &[a, b]).await;
    let key = |lane| DeliveryKey { seq: Seq(1), lane };
    let due = UnixMicros(bench.clock.now().0 + 50);
    bench.clock.step(10);
    bench.settle(key(a), DeliveryState::Retrying { due }).await;
    bench.clock.step(10);
    bench.settle(key(a), DeliveryState::Succeeded).await;
    bench.settle(key(a), DeliveryState::Failed).await;
    bench.settle(key(LaneId(77)), DeliveryState::Failed).await;
    bench.reopen();
    let delivery = bench.store.delivery(key(a)).unwrap().unwrap();
    assert_eq!(
        (delivery.state, delivery.attempt_count),
        (DeliveryState::Succeeded, 2),
        "what is over stays over"
    );
    let attempts: Vec<_> = delivery.attempts.iter().map(|attempt| attempt.http_status).collect();
    assert_eq!(attempts, [503, 204]);
    assert_eq!(delivery.attempts[0], attempt(delivery.attempts[0].start_time, DeliveryState::Failed));
    assert_eq!(delivery.update_time.0, event.create_time.0 + 20);
    assert_eq!(delivery.event.name.id, event.id);
    let other = bench.store.delivery(key(b)).unwrap().unwrap();
    assert_eq!((other.state, other.attempt_count, other.attempts.len()), (DeliveryState::Pending, 0, 0));
    assert_eq!(other.update_time, event.create_time);
    assert!(bench.store.delivery(DeliveryKey { seq: Seq(2), lane: a }).unwrap().is_none());

    let rows = bench.deliveries(&[a, b]);
    assert_eq!(rows.iter().map(|row| row.key.lane).collect::<Vec<_>>(), [a, b]);
    assert_eq!(rows[0].attempts.len(), 1, "a list shows the last attempt only");
    let succeeded = DeliveryQuery { states: vec![DeliveryState::Succeeded], ..bench.query(&[a, b]) };
    assert_eq!(bench.store.deliveries(&succeeded).unwrap().rows.len(), 1);
    let of_event = DeliveryQuery { event: Some((account(1), event.id)), ..bench.query(&[b]) };
    assert_eq!(bench.store.deliveries(&of_event).unwrap().rows.len(), 1);
    let of_other = DeliveryQuery { event: Some((account(1), "x".parse().unwrap())), ..bench.query(&[b]) };
    assert!(bench.store.deliveries(&of_other).unwrap().rows.is_empty());
}

async fn retries_come_when_they_are_due<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let lane = bench.subscribe(1, "a").await.lane;
    for number in 1..=4 {
        bench.publish(1, None, number, &[lane]).await;
    }
    let start = bench.clock.now();
    for (seq, wait) in [(1, 30), (2, 10), (3, 20)] {
        let due = UnixMicros(start.0 + wait);
        bench.settle(DeliveryKey { seq: Seq(seq), lane }, DeliveryState::Retrying { due }).await;
    }
    bench.reopen();
    let due = |after: i64, limit| {
        let page = bench.store.due(lane, UnixMicros(start.0 + after), limit).unwrap();
        let seqs: Vec<u64> = page.owed.iter().map(|owed| owed.event.seq.0).collect();
        assert!(page.owed.iter().all(|owed| owed.attempts == 1));
        (seqs, page.next_due.map(|due| due.0 - start.0))
    };
    assert_eq!(due(9, 10), (vec![], Some(10)));
    assert_eq!(due(20, 10), (vec![2, 3], Some(30)));
    assert_eq!(due(99, 1), (vec![2], Some(20)));
    assert_eq!(due(99, 10), (vec![2, 3, 1], None));
    let summary = bench.store.lane_summary(lane);
    assert_eq!((summary.pending, summary.retrying, summary.next_due), (1, 3, Some(UnixMicros(start.0 + 10))));
    bench.settle(DeliveryKey { seq: Seq(2), lane }, DeliveryState::Failed).await;
    let summary = bench.store.lane_summary(lane);
    assert_eq!((summary.retrying, summary.failed, summary.next_due), (2, 1, Some(UnixMicros(start.0 + 20))));
}

async fn a_lane_reads_on_in_stored_order<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let (a, b) = (bench.subscribe(1, "a").await.lane, bench.subscribe(1, "b").await.lane);
    for number in 1..=9 {
        let lanes: &[LaneId] = if number % 3 == 0 { &[a, b] } else { &[a] };
        bench.publish(1, None, number, lanes).await;
    }
    bench.settle(DeliveryKey { seq: Seq(2), lane: a }, DeliveryState::Succeeded).await;
    bench.settle(DeliveryKey { seq: Seq(3), lane: a }, DeliveryState::Retrying { due: UnixMicros(0) }).await;
    bench.reopen();
    let read = |lane, after, limit| {
        let page = bench.store.pending(lane, Seq(after), limit).unwrap();
        (page.owed.iter().map(|owed| owed.event.seq.0).collect::<Vec<_>>(), page.until.0, page.more)
    };
    assert_eq!(read(a, 0, 3), (vec![1, 4, 5], 5, true));
    assert_eq!(read(a, 5, 4), (vec![6, 7, 8, 9], 9, false));
    assert_eq!(read(b, 0, 10), (vec![3, 6, 9], 9, false));
    assert_eq!(read(b, 9, 10), (vec![], 9, false));
    assert_eq!(read(LaneId(99), 0, 10), (vec![], 9, false));
}

/// The seqs of what is owed, with the time of each retry; then `until` and `more`.
type OwedShown = (Vec<(u64, u32, Option<i64>)>, u64, bool);

fn owed(store: &dyn Store, lane: LaneId, after: u64, limit: usize, order: OrderFilter) -> OwedShown {
    let page = store.owed(&OwedQuery { lane, after: Seq(after), limit, order }).unwrap();
    let debts =
        page.debts.iter().map(|debt| (debt.owed.event.seq.0, debt.owed.attempts, debt.due.map(|due| due.0)));
    (debts.collect(), page.until.0, page.more)
}

fn contact_tag(id: i64) -> OrderTag {
    OrderKey::Contact(id).into()
}

async fn what_is_owed_is_read_in_stored_order_by_what_it_belongs_to<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let (a, b) = (bench.subscribe(1, "a").await.lane, bench.subscribe(1, "b").await.lane);
    // Contacts 1, 2 and 3 in turn: 1 has the events 1, 4, 7; 2 has 2, 5, 8; 3 has 3, 6, 9.
    for number in 0..9 {
        let lanes: &[LaneId] = if number == 4 { &[a, b] } else { &[a] };
        bench.publish(1, None, 1 + number % 3, lanes).await;
    }
    bench.settle(DeliveryKey { seq: Seq(1), lane: a }, DeliveryState::Succeeded).await;
    bench.settle(DeliveryKey { seq: Seq(4), lane: a }, DeliveryState::Retrying { due: UnixMicros(7) }).await;
    bench.settle(DeliveryKey { seq: Seq(6), lane: a }, DeliveryState::Failed).await;
    bench.reopen();
    let (one, two) = (OrderFilter::Only(contact_tag(1)), OrderFilter::Only(contact_tag(2)));
    let read =
        |lane, after, limit, order: &OrderFilter| owed(&*bench.store, lane, after, limit, order.clone());
    let pending = |seqs: &[u64]| seqs.iter().map(|seq| (*seq, 0, None)).collect::<Vec<_>>();
    assert_eq!(
        read(a, 0, 10, &OrderFilter::Any),
        (
            vec![
                (2, 0, None),
                (3, 0, None),
                (4, 1, Some(7)),
                (5, 0, None),
                (7, 0, None),
                (8, 0, None),
                (9, 0, None)
            ],
            9,
            false
        )
    );
    assert_eq!(read(a, 2, 2, &OrderFilter::Any), (vec![(3, 0, None), (4, 1, Some(7))], 4, true));
    assert_eq!(read(a, 0, 2, &one), (vec![(4, 1, Some(7)), (7, 0, None)], 9, false), "no more is not more");
    assert_eq!(read(a, 0, 1, &one), (vec![(4, 1, Some(7))], 4, true));
    assert_eq!(read(a, 4, 10, &one), (pending(&[7]), 9, false));
    assert_eq!(read(b, 0, 10, &two), (pending(&[5]), 9, false));
    assert_eq!(read(b, 0, 10, &one), (vec![], 9, false));
    let except = |ids: &[i64]| OrderFilter::Except(Arc::new(ids.iter().map(|id| contact_tag(*id)).collect()));
    assert_eq!(read(a, 0, 2, &except(&[1, 2])), (pending(&[3, 9]), 9, false));
    assert_eq!(read(a, 0, 1, &except(&[1, 2])), (pending(&[3]), 3, true));
    assert_eq!(read(a, 0, 9, &except(&[1, 2, 3])), (vec![], 9, false));
    assert_eq!(read(a, 20, 9, &except(&[])), (vec![], 20, false), "it never leads back");
    bench.store.decide(DeliveryKey { seq: Seq(6), lane: a }, Decision::Retry).await.unwrap();
    bench.store.decide(DeliveryKey { seq: Seq(4), lane: a }, Decision::Cancel).await.unwrap();
    bench.reopen();
    let now = bench.clock.now().0;
    assert_eq!(
        owed(&*bench.store, a, 3, 3, OrderFilter::Any),
        (vec![(5, 0, None), (6, 1, Some(now)), (7, 0, None)], 7, true)
    );
}

async fn the_feed_tells_of_every_event<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    let lane = bench.subscribe(1, "a").await.lane;
    let mut feed = bench.store.feed();
    bench.store.accept((0..3).map(|n| new_event(1, None, n, &[lane])).collect()).await.unwrap();
    bench.publish(1, Some("e"), 7, &[]).await;
    bench.publish(1, Some("e"), 7, &[]).await;
    bench.publish(1, Some("f"), 8, &[lane]).await;
    let mut seqs = Vec::new();
    while seqs.len() < 5 {
        let Fed::Events(group) = feed.recv().await.unwrap() else { panic!("nobody decided anything") };
        seqs.extend(group.iter().map(|fed| (fed.event.seq.0, fed.lanes.len())));
    }
    assert_eq!(seqs, [(1, 1), (2, 1), (3, 1), (4, 0), (5, 1)], "in order, and nothing twice");
}

async fn callers_decide_about_deliveries<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let (a, b) = (bench.subscribe(1, "a").await.lane, bench.subscribe(1, "b").await.lane);
    let event = bench.publish(1, Some("e"), 1, &[a, b]).await;
    bench.clock.step(1000);
    bench.publish(1, Some("f"), 2, &[a]).await;
    let key = |lane| DeliveryKey { seq: Seq(1), lane };
    let mut feed = bench.store.feed();

    bench.settle(key(a), DeliveryState::Failed).await;
    let over = bench.store.decide(key(a), Decision::Cancel).await.unwrap_err();
    assert!(matches!(over, StoreError::DeliveryOver(DeliveryState::Failed)));
    bench.clock.step(10);
    let now = bench.clock.now();
    let retried = bench.store.decide(key(a), Decision::Retry).await.unwrap();
    assert_eq!(retried, DeliveryState::Retrying { due: now });
    assert!(matches!(feed.recv().await.unwrap(), Fed::Due(told, due) if told == key(a) && due == now));
    bench.reopen();
    let due = bench.store.due(a, now, 10).unwrap().owed;
    assert_eq!((due.len(), due[0].attempts), (1, 1), "attempts go on counting");
    let delivery = bench.store.delivery(key(a)).unwrap().unwrap();
    assert_eq!((delivery.attempt_count, delivery.attempts.len(), delivery.update_time), (1, 1, now));
    bench.settle(key(a), DeliveryState::Succeeded).await;
    for decision in [Decision::Retry, Decision::Cancel] {
        let over = bench.store.decide(key(a), decision).await.unwrap_err();
        assert!(matches!(over, StoreError::DeliveryOver(DeliveryState::Succeeded)));
    }
    assert_eq!(bench.store.delivery(key(a)).unwrap().unwrap().attempts.len(), 2);

    assert_eq!(bench.store.oldest_owed(&[a, b]), Some(event.create_time));
    let mut feed = bench.store.feed();
    bench.store.decide(key(b), Decision::Cancel).await.unwrap();
    assert!(matches!(feed.recv().await.unwrap(), Fed::Cancelled(told) if told == key(b)));
    for _ in 0..2 {
        assert_eq!(bench.store.decide(key(b), Decision::Cancel).await.unwrap(), DeliveryState::Cancelled);
        bench.reopen();
    }
    assert!(bench.store.oldest_owed(&[a, b]) > Some(event.create_time));
    assert_eq!(bench.store.oldest_owed(&[b]), None);
    assert_eq!(bench.store.lane_summary(b).cancelled, 1);
    // The attempt that was under way is written down, and changes nothing else.
    bench.settle(key(b), DeliveryState::Succeeded).await;
    bench.reopen();
    let delivery = bench.store.delivery(key(b)).unwrap().unwrap();
    assert_eq!((delivery.state, delivery.attempt_count), (DeliveryState::Cancelled, 1));
    let retried = bench.store.decide(key(b), Decision::Retry).await.unwrap();
    assert!(matches!(retried, DeliveryState::Retrying { .. }), "also what was cancelled can be tried");
    assert_eq!(bench.store.state(key(b)), Some(retried));
    let none = bench.store.decide(DeliveryKey { seq: Seq(9), lane: a }, Decision::Retry).await.unwrap_err();
    assert!(matches!(none, StoreError::DeliveryNotFound));
}

fn replay_query(of: i64, lane: LaneId, until: Seq, now: UnixMicros) -> ReplayQuery {
    let types = vec![EventType::ContactCreated];
    ReplayQuery {
        lane,
        account: account(of),
        types: Vec::new(),
        time: TimeRange::default(),
        states: vec![DeliveryState::Failed, DeliveryState::Cancelled],
        changed_until: now,
        never_queued: Some(Wanted { types, inbox_ids: Vec::new() }),
        after: Seq(0),
        until,
        limit: 3,
    }
}

async fn replays_queue_again<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await.lane;
    let mut times = Vec::new();
    for number in 1..=8 {
        bench.clock.step(10);
        times.push(bench.publish(1, None, number, &[a]).await.create_time);
    }
    bench.publish(2, None, 9, &[]).await;
    bench.clock.step(10);
    let failed = DeliveryState::Failed;
    let ends = [failed, DeliveryState::Succeeded, failed, DeliveryState::Retrying { due: UnixMicros(7) }];
    for (seq, state) in (1..).zip(ends) {
        bench.settle(DeliveryKey { seq: Seq(seq), lane: a }, state).await;
    }
    bench.store.decide(DeliveryKey { seq: Seq(5), lane: a }, Decision::Cancel).await.unwrap();
    let until = bench.store.newest();
    assert_eq!(until, Seq(9));
    let mut feed = bench.store.feed();
    bench.clock.step(10);
    let now = bench.clock.now();

    // What failed or was cancelled, and nothing of another account.
    let query = replay_query(1, a, until, now);
    let page = bench.store.replayable(&query).unwrap();
    assert_eq!((page.rows.iter().map(|seq| seq.0).collect::<Vec<_>>(), page.next), (vec![1, 3, 5], None));
    let before = bench.store.lane_summary(a);
    assert_eq!(bench.store.replay(query.clone(), vec![Seq(1), Seq(2), Seq(3), Seq(9)]).await.unwrap(), 2);
    assert!(matches!(feed.recv().await.unwrap(), Fed::Requeued(lane, Seq(1)) if lane == a));
    for _ in 0..2 {
        let summary = bench.store.lane_summary(a);
        assert_eq!((summary.failed, summary.pending), (before.failed - 2, before.pending + 2));
        assert_eq!(bench.store.replay(query.clone(), vec![Seq(1), Seq(3)]).await.unwrap(), 0, "not twice");
        bench.reopen();
    }
    let pending = bench.store.pending(a, Seq(0), 2).unwrap().owed;
    assert_eq!((pending[0].event.seq, pending[0].attempts), (Seq(1), 0), "attempts count anew");
    bench.settle(DeliveryKey { seq: Seq(1), lane: a }, DeliveryState::Retrying { due: UnixMicros(1) }).await;
    bench.reopen();
    assert_eq!(bench.store.due(a, now, 1).unwrap().owed[0].attempts, 1);
    bench.clock.step(10);
    bench.settle(DeliveryKey { seq: Seq(1), lane: a }, failed).await;
    let delivery = bench.store.delivery(DeliveryKey { seq: Seq(1), lane: a }).unwrap().unwrap();
    assert_eq!((delivery.attempt_count, delivery.attempts.len()), (3, 3), "and are shown all");
    // What the replay queued itself is not taken again by its later pages, whatever became of it.
    assert_eq!(bench.store.replayable(&query).unwrap().rows, [Seq(5)]);

    // Somebody who was not there before.
    let b = bench.subscribe(1, "b").await.lane;
    let time = TimeRange { start: Some(times[1]), end: Some(times[6]) };
    let mut query = ReplayQuery { time, ..replay_query(1, b, until, bench.clock.now()) };
    let mut queued = Vec::new();
    loop {
        let page = bench.store.replayable(&query).unwrap();
        queued.extend(page.rows.iter().map(|seq| seq.0));
        bench.store.replay(query.clone(), page.rows).await.unwrap();
        match page.next {
            Some(next) => query.after = next,
            None => break,
        }
        bench.reopen();
    }
    assert_eq!(queued, [2, 3, 4, 5, 6]);
    let made = bench.clock.now();
    for _ in 0..2 {
        let pending = bench.store.pending(b, Seq(0), 10).unwrap().owed;
        assert!(pending.iter().map(|owed| owed.event.seq.0).eq(2..=6));
        let rows = bench.deliveries(&[a, b]);
        let of_b: Vec<_> = rows.iter().filter(|row| row.key.lane == b).collect();
        assert!(of_b.iter().all(|row| row.create_time == made && row.update_time == made), "they are new");
        let since =
            DeliveryQuery { time: TimeRange { start: Some(made), end: None }, ..bench.query(&[a, b]) };
        assert_eq!(bench.store.deliveries(&since).unwrap().rows.len(), 5);
        bench.reopen();
    }
    let wanted = Wanted { types: vec![EventType::ContactCreated], inbox_ids: vec![4] };
    let query = ReplayQuery { never_queued: Some(wanted), ..replay_query(1, b, until, made) };
    assert!(bench.store.replayable(&query).unwrap().rows.is_empty(), "a contact is in no inbox");
    let query = ReplayQuery { types: vec![EventType::MessageCreated], ..replay_query(1, b, until, made) };
    assert!(bench.store.replayable(&query).unwrap().rows.is_empty());
    bench.settle(DeliveryKey { seq: Seq(2), lane: b }, DeliveryState::Succeeded).await;
    let succeeded = ReplayQuery {
        states: vec![DeliveryState::Succeeded],
        never_queued: None,
        ..replay_query(1, b, until, bench.clock.now())
    };
    assert_eq!(bench.store.replayable(&succeeded).unwrap().rows, [Seq(2)]);
    let gone = bench.store.replay(ReplayQuery { lane: LaneId(99), ..succeeded }, vec![Seq(2)]).await;
    assert!(matches!(gone, Err(StoreError::SubscriptionNotFound)));
}

async fn deleting_asks_before_it_drops_debts<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let b = bench.subscribe(1, "b").await;
    bench.publish(1, Some("e"), 1, &[a.lane, b.lane]).await;
    let owed = bench.store.delete_subscription(a.lane, 1, false).await.unwrap_err();
    assert!(matches!(owed, StoreError::Owed(1)));
    bench.store.delete_subscription(a.lane, 1, true).await.unwrap();
    for _ in 0..2 {
        assert_eq!(bench.store.lane_summary(a.lane).owed(), 0);
        assert!(bench.store.delivery(DeliveryKey { seq: Seq(1), lane: a.lane }).unwrap().is_none());
        assert_eq!(bench.deliveries(&[b.lane]).len(), 1, "the other one keeps its own");
        bench.settle(DeliveryKey { seq: Seq(1), lane: a.lane }, DeliveryState::Succeeded).await;
        bench.reopen();
    }
    let late = bench.publish(1, Some("late"), 2, &[a.lane, b.lane]).await;
    assert_eq!(late.delivery_count, 1, "nothing is owed to one that is gone");
    bench.settle(DeliveryKey { seq: Seq(1), lane: b.lane }, DeliveryState::Succeeded).await;
    bench.settle(DeliveryKey { seq: Seq(2), lane: b.lane }, DeliveryState::Succeeded).await;
    bench.store.delete_subscription(b.lane, 1, false).await.unwrap();
}

async fn what_is_owed_in_all_follows_every_change<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let a = bench.subscribe(1, "a").await;
    let b = bench.subscribe(1, "b").await.lane;
    let key = |seq, lane| DeliveryKey { seq: Seq(seq), lane };
    assert_eq!(bench.store.owed_in_all(), 0);
    for id in ["e", "f", "g"] {
        bench.publish(1, Some(id), 1, &[a.lane, b]).await;
    }
    bench.publish(1, Some("e"), 1, &[a.lane, b]).await;
    assert_eq!(bench.store.owed_in_all(), 6, "a repetition owes nothing");
    bench.settle(key(1, b), DeliveryState::Retrying { due: bench.clock.now() }).await;
    bench.reopen();
    assert_eq!(bench.store.owed_in_all(), 6, "what is retried is owed");
    bench.settle(key(1, b), DeliveryState::Succeeded).await;
    bench.settle(key(2, b), DeliveryState::Failed).await;
    bench.store.decide(key(3, b), Decision::Cancel).await.unwrap();
    bench.settle(key(3, b), DeliveryState::Succeeded).await;
    bench.reopen();
    assert_eq!(bench.store.owed_in_all(), 3);
    bench.store.decide(key(2, b), Decision::Retry).await.unwrap();
    assert_eq!(bench.store.owed_in_all(), 4, "what a caller has tried again is owed again");
    bench.store.delete_subscription(a.lane, 1, true).await.unwrap();
    assert_eq!(bench.store.owed_in_all(), 1);
    bench.reopen();
    assert_eq!(bench.store.owed_in_all(), 1);
}

async fn retention_removes_what_is_over_and_keeps_what_is_owed<E: Engine>(engine: E) {
    const COUNT: u64 = 2500;
    let mut bench = Bench::new(engine);
    let lane = bench.subscribe(1, "a").await.lane;
    for hundred in 0..COUNT / 100 {
        let ids = (0..100).map(|number| format!("e{}", hundred * 100 + number));
        let events = ids.map(|id| new_event(1, Some(&id), 7, &[lane])).collect();
        bench.store.accept(events).await.unwrap();
        bench.clock.step(1_000_000);
    }
    let owed = [Seq(5), Seq(2499)];
    for seq in (1..=COUNT).map(Seq).filter(|seq| !owed.contains(seq)) {
        let state = if seq.0.is_multiple_of(7) { DeliveryState::Failed } else { DeliveryState::Succeeded };
        let settlement =
            Settlement { key: DeliveryKey { seq, lane }, attempt: attempt(bench.clock.now(), state), state };
        drop(bench.store.settle(vec![settlement]));
    }
    bench.settle(DeliveryKey { seq: Seq(5), lane }, DeliveryState::Retrying { due: UnixMicros(1) }).await;
    let everything = Keep { since: UnixMicros(0), bytes_max: u64::MAX };
    let kept = bench.store.purge(everything).await.unwrap();
    assert_eq!(kept.events, 0);
    bench.reopen();
    assert_eq!(bench.store.purge(everything).await.unwrap(), kept, "the bytes are counted the same again");

    // By size: some of the older ones go.
    let by_size = Keep { since: UnixMicros(0), bytes_max: kept.bytes_left / 2 };
    let less = bench.store.purge(by_size).await.unwrap();
    assert!(less.bytes_left < kept.bytes_left, "{less:?}");
    for _ in 0..2 {
        bench.reopen();
        check_retained(&bench, lane, &owed);
    }
    // By age: everything that is over may go.
    bench.clock.step(1_000_000_000);
    let by_age = Keep { since: bench.clock.now(), bytes_max: u64::MAX };
    bench.store.purge(by_age).await.unwrap();
    bench.reopen();
    check_retained(&bench, lane, &owed);

    // What was removed may be published again; what is still there is a duplicate.
    let there = bench.store.event(account(1), &"e4".parse().unwrap()).unwrap();
    assert!(there.is_some_and(|event| event.seq == Seq(5)), "it is owed");
    assert!(bench.publish(1, Some("e4"), 7, &[]).await.duplicate);
    for number in (0..COUNT).step_by(50) {
        let id = format!("e{number}");
        let there = bench.store.event(account(1), &id.parse().unwrap()).unwrap().is_some();
        assert_eq!(bench.publish(1, Some(&id), 7, &[]).await.duplicate, there, "{id}");
    }
}

/// What is owed is there, and the counts are those of what is listed.
fn check_retained<E: Engine>(bench: &Bench<E>, lane: LaneId, owed: &[Seq]) {
    let pending = bench.store.pending(lane, Seq(0), 10).unwrap().owed;
    let due = bench.store.due(lane, UnixMicros(i64::MAX), 10).unwrap().owed;
    let mut left: Vec<Seq> = pending.iter().chain(&due).map(|owed| owed.event.seq).collect();
    left.sort_unstable();
    assert_eq!(left, owed);
    let rows = bench.store.deliveries(&DeliveryQuery { limit: 10_000, ..bench.query(&[lane]) }).unwrap().rows;
    let mut counts = super::LaneSummary::default();
    rows.iter().for_each(|row| counts.add(row.state));
    assert_eq!(bench.store.lane_summary(lane), counts);
    let query = EventQuery {
        account: account(1),
        types: Vec::new(),
        time: TimeRange::default(),
        before: None,
        limit: 10_000,
    };
    assert_eq!(bench.store.events(&query).unwrap().rows.len(), rows.len());
}

async fn times_never_step_back<E: Engine>(engine: E) {
    let mut bench = Bench::new(engine);
    let first = bench.publish(1, None, 1, &[]).await;
    bench.clock.step(-5_000_000);
    let second = bench.publish(1, None, 2, &[]).await;
    bench.reopen();
    let third = bench.publish(1, None, 3, &[]).await;
    assert!(first.create_time <= second.create_time && second.create_time <= third.create_time);
}

async fn a_closed_store_takes_nothing<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    bench.publish(1, Some("e"), 1, &[]).await;
    bench.store.close().unwrap();
    bench.store.close().unwrap();
    let error = bench.store.accept(vec![new_event(1, Some("f"), 1, &[])]).await.unwrap_err();
    assert!(matches!(error, StoreError::Closed));
}

/// Does the same random work on the engine and on the reference, and compares everything that can be asked.
async fn random_work_ends_as_in_the_reference<E: Engine>(engine: E, seed: u64) {
    let mut bench = Bench::new(engine);
    let reference = MemoryStore::new(bench.clock.clone(), seed);
    let mut random = StdRng::seed_from_u64(seed);
    let mut lanes: Vec<LaneId> = Vec::new();
    for step in 0..250 {
        bench.clock.step(random.random_range(0..1000));
        match random.random_range(0..20) {
            0 if lanes.len() < 8 => {
                let new = new_subscription(random.random_range(1..3), &format!("s{step}"));
                let lane = bench.store.create_subscription(new.clone()).await.unwrap().subscription.lane;
                assert_eq!(lane, reference.create_subscription(new).await.unwrap().subscription.lane);
                lanes.push(lane);
            }
            1 if !lanes.is_empty() => {
                let lane = lanes[random.random_range(0..lanes.len())];
                let force = random.random();
                let deleted = bench.store.delete_subscription(lane, 1, force).await;
                assert_eq!(deleted.is_ok(), reference.delete_subscription(lane, 1, force).await.is_ok());
                lanes.retain(|other| *other != lane || deleted.is_err());
            }
            2 => bench.reopen(),
            3 if !lanes.is_empty() => {
                let lane = lanes[random.random_range(0..lanes.len())];
                let key = DeliveryKey { seq: Seq(random.random_range(1..200)), lane };
                let decision = if random.random() { Decision::Retry } else { Decision::Cancel };
                let (ours, theirs) =
                    (bench.store.decide(key, decision).await, reference.decide(key, decision).await);
                assert_eq!(ours.is_ok(), theirs.is_ok(), "seed {seed}, step {step}");
                assert_eq!(bench.store.oldest_owed(&lanes), reference.oldest_owed(&lanes));
            }
            4 if !lanes.is_empty() => {
                let lane = lanes[random.random_range(0..lanes.len())];
                let limit = random.random_range(1..100);
                let of = random.random_range(1..3);
                let query =
                    ReplayQuery { limit, ..replay_query(of, lane, reference.newest(), bench.clock.now()) };
                let (ours, theirs) =
                    (bench.store.replayable(&query).unwrap(), reference.replayable(&query).unwrap());
                assert_eq!((&ours.rows, ours.next), (&theirs.rows, theirs.next), "seed {seed}, step {step}");
                let count = bench.store.replay(query.clone(), ours.rows).await.unwrap();
                assert_eq!(count, reference.replay(query, theirs.rows).await.unwrap());
            }
            4..10 => {
                let count = random.random_range(1..40);
                let events: Vec<NewEvent> = (0..count).map(|_| random_event(&mut random, &lanes)).collect();
                let ours = bench.store.accept(events.clone()).await;
                let theirs = reference.accept(events).await;
                let shown = |answer: &Accepted| (answer.create_time, answer.duplicate, answer.delivery_count);
                match (ours, theirs) {
                    (Ok(ours), Ok(theirs)) => {
                        let (ours, theirs): (Vec<_>, Vec<_>) =
                            (ours.iter().map(shown).collect(), theirs.iter().map(shown).collect());
                        assert_eq!(ours, theirs, "seed {seed}, step {step}");
                    }
                    (Err(ours), Err(theirs)) => assert_eq!(ours.to_string(), theirs.to_string()),
                    (ours, theirs) => panic!("seed {seed}, step {step}: {ours:?} but {theirs:?}"),
                }
            }
            _ => {
                let settlements = random_settlements(&mut random, &reference, &lanes, bench.clock.now());
                bench.store.settle(settlements.clone()).await.unwrap();
                reference.settle(settlements).await.unwrap();
            }
        }
    }
    bench.reopen();
    compare(&bench, &reference, &lanes, seed);
}

fn random_event(random: &mut StdRng, lanes: &[LaneId]) -> NewEvent {
    let number = random.random_range(0..200);
    let id = random.random_bool(0.7).then(|| format!("e{}", number / 2 * 2));
    let lanes: Vec<LaneId> = lanes.iter().copied().filter(|_| random.random()).collect();
    new_event(
        random.random_range(1..3),
        id.as_deref(),
        number - number % 2 * i64::from(random.random_bool(0.9)),
        &lanes,
    )
}

fn random_settlements(
    random: &mut StdRng,
    reference: &MemoryStore,
    lanes: &[LaneId],
    now: UnixMicros,
) -> Vec<Settlement> {
    let query = DeliveryQuery {
        lanes: lanes.to_vec(),
        states: Vec::new(),
        event: None,
        time: TimeRange::default(),
        after: None,
        limit: usize::MAX - 1,
    };
    let rows = reference.deliveries(&query).unwrap().rows;
    let mut settlements = Vec::new();
    for row in rows {
        if random.random_bool(0.1) {
            let state = match random.random_range(0..4) {
                0 => DeliveryState::Failed,
                1 => DeliveryState::Retrying { due: UnixMicros(now.0 + random.random_range(0..100_000)) },
                _ => DeliveryState::Succeeded,
            };
            settlements.push(Settlement { key: row.key, attempt: attempt(now, state), state });
        }
    }
    settlements
}

fn compare<E: Engine>(bench: &Bench<E>, reference: &MemoryStore, lanes: &[LaneId], seed: u64) {
    let shown = |row: &DeliveryRecord| {
        (
            row.key,
            row.state,
            row.attempt_count,
            row.attempts.clone(),
            row.create_time,
            row.update_time,
            row.event.content.encoded.clone(),
        )
    };
    let ours = bench.deliveries(lanes);
    let theirs = reference.deliveries(&bench.query(lanes)).unwrap().rows;
    assert!(ours.iter().map(shown).eq(theirs.iter().map(shown)), "seed {seed}");
    for row in ours.iter().take(40) {
        let ours = bench.store.delivery(row.key).unwrap().unwrap();
        assert_eq!(shown(&ours), shown(&reference.delivery(row.key).unwrap().unwrap()), "seed {seed}");
    }
    assert_eq!(bench.store.owed_in_all(), reference.owed_in_all(), "seed {seed}");
    for &lane in lanes {
        assert_eq!(bench.store.lane_summary(lane), reference.lane_summary(lane), "seed {seed}");
        for limit in [3, 1000] {
            let (ours, theirs) = (
                bench.store.pending(lane, Seq(10), limit).unwrap(),
                reference.pending(lane, Seq(10), limit).unwrap(),
            );
            let seqs =
                |owed: &[super::Owed]| owed.iter().map(|o| (o.event.seq, o.attempts)).collect::<Vec<_>>();
            assert_eq!(
                (seqs(&ours.owed), ours.until, ours.more),
                (seqs(&theirs.owed), theirs.until, theirs.more)
            );
            let some = (0..200).step_by(3).map(contact_tag).collect();
            let filters = (0..20).map(|id| OrderFilter::Only(contact_tag(id)));
            for order in filters.chain([OrderFilter::Any, OrderFilter::Except(Arc::new(some))]) {
                let ours = owed(&*bench.store, lane, 10, limit, order.clone());
                assert_eq!(ours, owed(reference, lane, 10, limit, order), "seed {seed}");
            }
            let now = UnixMicros(bench.clock.now().0 + 50_000);
            let (ours, theirs) =
                (bench.store.due(lane, now, limit).unwrap(), reference.due(lane, now, limit).unwrap());
            assert_eq!(
                (seqs(&ours.owed), ours.next_due),
                (seqs(&theirs.owed), theirs.next_due),
                "seed {seed}"
            );
        }
    }
    for of in 1..3 {
        let mut query = EventQuery {
            account: account(of),
            types: Vec::new(),
            time: TimeRange::default(),
            before: None,
            limit: 7,
        };
        loop {
            let (ours, theirs) = (bench.store.events(&query).unwrap(), reference.events(&query).unwrap());
            let seqs = |rows: &[Arc<crate::domain::event::StoredEvent>]| {
                rows.iter().map(|e| e.seq).collect::<Vec<_>>()
            };
            assert_eq!((seqs(&ours.rows), ours.next), (seqs(&theirs.rows), theirs.next), "seed {seed}");
            query.before = ours.next;
            if ours.next.is_none() {
                break;
            }
        }
    }
}
