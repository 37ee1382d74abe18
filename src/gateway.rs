//! The use cases, one method each: subscribe, publish, inspect. The gateway enforces limits and permissions.
//! It knows neither the wire format nor the storage format.
//!
//! Arguments are validated before ([`Gateway::check_event`], [`Gateway::check_subscription`]); results are
//! domain types.

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
    log_throttle::LogThrottle,
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
pub use error::{ErrorKind, ErrorReport, GatewayError, Limit, Resource, UNAVAILABLE_RETRY_AFTER};
pub use events::{CheckedEvent, Published, Publishing, RenderSource, Rendered};
pub use replay::{ReplayCursor, ReplayDeliveries, Replayed};
pub use subscriptions::{
    CreateSubscription, Creation, DeleteSubscription, ListSubscriptions, Rotated, Tested, UpdateSubscription,
};
pub use watch::{WATCH_CHANGES_WAITING_MAX, WatchDeliveries, Watched};

// Types of the store that are parameters and results of use cases.
pub use crate::store::{AuditQuery, DeliveryRecord, EventQuery, Issued, Page, RequestKey, TimeRange};

use access::Access;
use admission::Admission;

/// What bounds the gateway, and what a subscription's own settings stand over.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Largest event, in bytes as it is encoded by protobuf. At most 3 MiB, so that a page with it can be
    /// answered.
    pub event_bytes_max: usize,
    /// Most events of all publishers that wait to be stored.
    pub events_in_flight_max: usize,
    /// Most bytes of all events that wait to be stored.
    pub bytes_in_flight_max: usize,
    /// Most reads of the store under way; further ones wait for their turn.
    pub reads_in_flight_max: usize,
    /// Most TestSubscription calls under way.
    pub tests_in_flight_max: usize,
    /// Deliveries of one subscription that are kept in memory: more than that are read back before they are
    /// made.
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

/// The use cases. A handle: cloning is cheap, and all clones share one gateway.
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
    /// The store is at its size limit, and everything in it is still to be delivered.
    full: AtomicBool,
    backlog_log: LogThrottle,
    /// Locked while a subscription or a token is added, so that concurrent calls cannot exceed a limit
    /// together.
    adding: tokio::sync::Mutex<()>,
}

impl Gateway {
    /// Creates a gateway in front of `store`. TestSubscription POSTs through `webhook_client`.
    ///
    /// Secrets and ids come from `random`: seed it from the machine's entropy, except in tests.
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
            backlog_log: LogThrottle::new(),
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

    /// The metrics of this gateway.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Calls `generate` with the gateway's random number generator.
    fn with_rng<T>(&self, generate: impl FnOnce(&mut StdRng) -> T) -> T {
        generate(&mut self.0.random.lock().expect("no code panics while it holds this lock"))
    }

    fn random_uuid(&self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes(self.with_rng(rand::RngExt::random)).into_uuid()
    }

    /// Reads from the store, on a thread that may block on the disk.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, GatewayError> {
        let permit = Arc::clone(&self.0.reads).acquire_owned().await.expect("this semaphore is never closed");
        let reading = store::read_blocking(&self.0.store, move |store| {
            let _permit = permit; // Until the read is over, even if its caller has gone.
            read(store)
        });
        match reading.await {
            Ok(result) => Ok(result?),
            Err(_ending) => Err(GatewayError::ShuttingDown),
        }
    }
}
