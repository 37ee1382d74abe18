//! The tests that every engine passes. Each engine's own tests run them all. A durable engine is closed and
//! opened again in between.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use url::Url;

use super::{
    Accepted, DeliveryQuery, DeliveryRecord, NewEvent, NewSubscription, Settlement, Store, StoreError,
    TimeRange, memory::MemoryStore,
};
use crate::{
    clock::Clock,
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState, Outcome},
        event_routing::EventAddress,
        give_up::GiveUpStatuses,
        ids::{AccountId, SubscriptionKey},
        payload_format::PayloadFormat,
        rate_limit::RateLimit,
        secret::Secret,
        subscription::{RetryOverrides, Settings, Subscription, TlsOptions, TlsProfile},
        time::UnixMicros,
    },
    proto::v1::{self, EventType},
};

mod access_tokens;
mod audit;
mod deliveries;
mod events;
mod notices;
mod random;
mod reads;
mod replays;
mod retention;
mod subscriptions;

pub use audit::AUDIT_BYTES_MAX;

/// A clock that a test sets.
#[derive(Debug)]
pub struct TestClock {
    steady: AtomicI64,
    ahead: AtomicI64,
}

impl TestClock {
    /// A clock at a time in 2023.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { steady: AtomicI64::new(1_700_000_000_000_000), ahead: AtomicI64::new(0) })
    }

    /// Lets time pass; negative: steps the clock back.
    pub fn step(&self, micros: i64) {
        self.steady.fetch_add(micros, Ordering::Relaxed);
    }

    /// Sets the wall clock ahead, or back.
    pub fn step_wall(&self, micros: i64) {
        self.ahead.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> UnixMicros {
        self.wall_of(self.steady())
    }

    fn steady(&self) -> UnixMicros {
        UnixMicros(self.steady.load(Ordering::Relaxed))
    }

    fn ahead(&self) -> i64 {
        self.ahead.load(Ordering::Relaxed)
    }
}

/// An engine under test: how it is opened, on the same data each time.
pub trait Engine {
    /// Opens it. What was opened before was dropped.
    fn open(&mut self, clock: Arc<TestClock>) -> Arc<dyn Store>;
    /// Whether what it stored is there after it was opened again.
    fn keeps(&self) -> bool;
    /// From now on no read of the open store succeeds. False if the engine does not read.
    fn break_reads(&mut self) -> bool;
}

/// Runs every test on engines made by `engine`.
pub async fn run<E: Engine>(engine: impl Fn() -> E) {
    subscriptions::run(&engine).await;
    events::run(&engine).await;
    deliveries::run(&engine).await;
    notices::run(&engine).await;
    replays::run(&engine).await;
    retention::run(&engine).await;
    access_tokens::run(&engine).await;
    audit::run(&engine).await;
    a_closed_store_takes_nothing(engine()).await;
    reads::run(&engine).await;
    random::run(&engine).await;
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

    /// A subscription to the inboxes 1 and 3.
    async fn subscribe(&self, account: i64, id: &str) -> Arc<Subscription> {
        self.store.create_subscription(new_subscription(account, id)).await.unwrap().subscription
    }

    /// A subscription to these inboxes; to everything if there are none.
    async fn subscribe_to(&self, account: i64, id: &str, inbox_ids: &[i64]) -> Arc<Subscription> {
        let new = subscription_to(account, id, inbox_ids);
        self.store.create_subscription(new).await.unwrap().subscription
    }

    /// Stores an event of inbox 1.
    async fn publish(&self, account: i64, id: Option<&str>, number: i64) -> Accepted {
        self.publish_in(Some(1), account, id, number).await
    }

    /// Stores an event of this inbox, or of none.
    async fn publish_in(
        &self,
        inbox_id: Option<i64>,
        account: i64,
        id: Option<&str>,
        number: i64,
    ) -> Accepted {
        let new = NewEvent { inbox_id, ..new_event(account, id, number) };
        self.store.accept(vec![new]).await.unwrap().remove(0)
    }

    async fn settle(&self, key: DeliveryKey, state: DeliveryState) {
        let settlement = Settlement { key, attempt: attempt(self.clock.now(), state), state };
        self.store.settle(vec![settlement]).await.unwrap();
    }

    fn query(&self, subscriptions: &[SubscriptionKey]) -> DeliveryQuery {
        DeliveryQuery {
            subscriptions: Some(subscriptions.to_vec()),
            states: Vec::new(),
            event: None,
            time: TimeRange::default(),
            after: None,
            limit: 1000,
        }
    }

    fn deliveries(&self, subscriptions: &[SubscriptionKey]) -> Vec<DeliveryRecord> {
        self.store.deliveries(&self.query(subscriptions)).unwrap().rows
    }
}

fn account(number: i64) -> AccountId {
    AccountId::new(number).unwrap()
}

fn settings(id: &str) -> Settings {
    let url = Url::parse(&format!("https://{id}.example.com/hook?key=1")).unwrap();
    let mut give_up = GiveUpStatuses::NONE;
    give_up.insert("404").expect("it is a status");
    Settings {
        display_name: "a receiver".to_owned(),
        inbox_ids: vec![3, 1],
        payload_format: PayloadFormat::Sample,
        headers: [("x-key".to_owned(), Secret::new("value"))].into(),
        retry: RetryOverrides {
            max_attempts: Some(3),
            min_backoff: Some(Duration::from_secs(1)),
            max_backoff: None,
            give_up,
        },
        timeout: Some(Duration::from_millis(1500)),
        max_in_flight: Some(7),
        rate_limit: Some(RateLimit { events: 9_999, interval: Duration::from_secs(1), burst: 9_998 }),
        ordered: true,
        annotations: [("team".to_owned(), "crm".to_owned())].into(),
        tls: TlsProfile::new(TlsOptions {
            server_name: "crm.example".to_owned(),
            ca_certificates: "authorities".to_owned(),
            client_certificate: "certificate".to_owned(),
            client_key: Some(Secret::new("key")),
        })
        .map(Arc::new),
        ..Settings::new(url, vec![EventType::MessageCreated, EventType::ContactCreated])
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

pub fn subscription_to(of: i64, id: &str, inbox_ids: &[i64]) -> NewSubscription {
    let mut new = new_subscription(of, id);
    new.settings.inbox_ids = inbox_ids.to_vec();
    new
}

/// An event of inbox 1, which every [`new_subscription`] of its account wants.
pub fn new_event(of: i64, id: Option<&str>, number: i64) -> NewEvent {
    let contact = v1::Contact { id: number, name: format!("contact {number}"), ..Default::default() };
    let payload = v1::event::Payload::ContactCreated(v1::ContactCreated { contact: Some(contact) });
    let event = v1::Event { payload: Some(payload), ..Default::default() };
    NewEvent {
        address: EventAddress { account: account(of), id: id.map(|id| id.parse().unwrap()) },
        content: event.into(),
        inbox_id: Some(1),
        fingerprint: u128::from(number.unsigned_abs()) << 70 | 5,
        recipients: None,
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
        resent: u32::from(!ok),
        url: "https://x.example.com/".to_owned(),
    }
}

async fn a_closed_store_takes_nothing<E: Engine>(engine: E) {
    let bench = Bench::new(engine);
    bench.publish(1, Some("e"), 1).await;
    bench.store.close().unwrap();
    bench.store.close().unwrap();
    let error = bench.store.accept(vec![new_event(1, Some("f"), 1)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Closed));
}
