//! The use cases, one method each: subscribe, publish, inspect. What a caller may do is decided here; how it is written
//! on a wire, and how it is kept, is not.
//!
//! Everything that comes in has been checked before ([`Gateway::check_event`], [`Gateway::check_subscription`]); what
//! goes out are the domain's own types.

use std::{
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use rand::rngs::StdRng;
use tokio::sync::Semaphore;

use crate::{
    clock::Clock,
    domain::{egress::EgressPolicy, retry::RetryPolicy},
    event::webhook::WebhookClient,
    metrics::Metrics,
    store::{self, Store, StoreError},
};

mod access;
mod admission;
mod audit;
mod backlog;
mod deliveries;
mod error;
mod events;
mod replay;
mod retention;
mod subscriptions;
mod watch;

pub use access::{CreateAccessToken, NewAccessToken, TOKEN_TICK, TokenFault, TokenSettings};
pub use deliveries::{ListDeliveries, Summary};
pub use error::{GatewayError, Limit, Resource};
pub use events::{CheckedEvent, Published, Publishing, RenderSource, Rendered};
pub use replay::{ReplayDeliveries, ReplayPlace, Replayed};
pub use subscriptions::{
    CreateSubscription, Creation, DeleteSubscription, ListSubscriptions, Rotated, Tested, UpdateSubscription,
};
// The words that callers ask and are answered in.
pub use watch::{WATCH_CHANGES_WAITING_MAX, WatchDeliveries, Watched};

pub use crate::store::{AuditQuery, DeliveryRecord, EventQuery, Issued, Page, RequestKey, TimeRange};

use access::Access;
use admission::Admission;
use backlog::Told;

/// What bounds the gateway, and what a subscription's own settings stand over.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Largest event, in bytes as it is encoded by protobuf. At most 3 MiB, so that a page with it can be answered.
    pub event_bytes_max: usize,
    /// Most events of all publishers that wait to be stored.
    pub events_in_flight_max: usize,
    /// Most bytes of all events that wait to be stored.
    pub bytes_in_flight_max: usize,
    /// Most reads of the store under way; further ones wait for their turn.
    pub reads_in_flight_max: usize,
    /// Most TestSubscription calls under way.
    pub tests_in_flight_max: usize,
    /// Deliveries of one subscription that are kept in memory: more than that are read back before they are made.
    pub lane_window: usize,
    /// Most WatchDeliveries calls under way.
    pub watches_max: usize,
    /// Most deliveries that one subscription may be owed.
    pub backlog_per_subscription_max: u64,
    /// Most deliveries that may be owed in all.
    pub backlog_max: u64,
    /// How long events are kept.
    pub retention_age: Duration,
    /// Most bytes of events, attempts and what describes them that are kept.
    pub retention_bytes_max: u64,
    /// How often what is no longer kept is removed.
    pub retention_interval: Duration,
    /// Most subscriptions of one account.
    pub subscriptions_per_account_max: usize,
    /// When deliveries are tried again where a subscription does not say.
    pub retry_defaults: RetryPolicy,
    /// Which addresses a subscription's URL may name: those that may be POSTed to.
    pub egress: EgressPolicy,
    /// Who may call.
    pub tokens: TokenSettings,
}

/// The use cases. Cheap to clone; every clone is the same gateway.
#[derive(Clone)]
pub struct Gateway(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    webhook_client: WebhookClient,
    clock: Arc<dyn Clock>,
    settings: GatewaySettings,
    metrics: Arc<Metrics>,
    random: Mutex<StdRng>,
    admission: Admission,
    access: Access,
    reads: Arc<Semaphore>,
    tests: Semaphore,
    watches: Arc<Semaphore>,
    /// The store holds as much as it may, and all of it is owed.
    full: AtomicBool,
    backlog_told: Told,
    /// Held while a subscription is added, so that an account's bound holds for calls at the same time, too.
    adding: tokio::sync::Mutex<()>,
}

impl Gateway {
    /// A gateway in front of `store`. Tests are POSTed through `webhook_client`. Secrets and ids are drawn from `random`, which
    /// must therefore be seeded by the machine's entropy wherever secrets matter.
    pub fn new(
        store: Arc<dyn Store>,
        webhook_client: WebhookClient,
        clock: Arc<dyn Clock>,
        settings: GatewaySettings,
        metrics: Arc<Metrics>,
        random: StdRng,
    ) -> Self {
        Self(Arc::new(Inner {
            admission: Admission::new(settings.events_in_flight_max, settings.bytes_in_flight_max),
            access: Access::new(&settings.tokens),
            reads: Arc::new(Semaphore::new(settings.reads_in_flight_max)),
            tests: Semaphore::new(settings.tests_in_flight_max),
            full: AtomicBool::new(false),
            backlog_told: Told::default(),
            watches: Arc::new(Semaphore::new(settings.watches_max)),
            adding: tokio::sync::Mutex::default(),
            random: Mutex::new(random),
            store,
            webhook_client,
            clock,
            settings,
            metrics,
        }))
    }

    /// Where what the gateway does is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Draws a value from the gateway's randomness.
    fn draw<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.0.random.lock().expect("no code panics while it holds this lock"))
    }

    fn draw_uuid(&self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes(self.draw(rand::RngExt::random)).into_uuid()
    }

    /// Reads from the store where the disk may be waited for.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, GatewayError> {
        let turn = Arc::clone(&self.0.reads).acquire_owned().await.expect("this semaphore is never closed");
        let reading = store::read(&self.0.store, move |store| {
            let _turn = turn; // Kept until the read is over, even if nobody waits for it any more.
            read(store)
        });
        match reading.await {
            Ok(result) => Ok(result?),
            Err(_ending) => Err(GatewayError::ShuttingDown),
        }
    }
}
