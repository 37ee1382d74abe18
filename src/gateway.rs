//! The use cases, one method each: subscribe, publish, inspect. The gateway enforces limits and permissions.
//! It knows neither the wire format nor the storage format.
//!
//! Arguments are validated before ([`Gateway::check_event`], [`Gateway::check_subscription`]); results are
//! domain types.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use clap::Args;
use rand::rngs::StdRng;
use tokio::sync::Semaphore;

use crate::{
    clock::Clock,
    config::{
        ClientSettings, declared_defaults,
        quantities::{bytes, count, duration},
    },
    domain::{delivery::LANE_WINDOW, egress::EgressPolicy, retry::RetryPolicy},
    event::webhook::WebhookClient,
    limits::SharedPool,
    log_throttle::LogThrottle,
    metrics::Metrics,
    store::{self, Store, StoreError},
};

mod access;
mod admission;
mod audit;
mod backlog;
mod backup;
mod deliveries;
mod error;
mod events;
mod health;
mod notice_sinks;
mod paused;
pub mod reasons;
mod replay;
mod retention;
mod subscriptions;
mod watch;

pub use access::{CreateAccessToken, NewAccessToken, TOKEN_TICK, TokenFault, TokenSettings};
pub use audit::Applied;
pub use backup::{BACKUP_TIME_MAX, BACKUPS_MAX, BackupRun};
pub use deliveries::{AttemptResult, ListDeliveries, Summary};
pub use error::{Debtor, ErrorKind, ErrorReport, GatewayError, Limit, Resource, UNAVAILABLE_RETRY_AFTER};
pub use events::{CheckedEvent, Published, Publishing, RenderSource, Rendered};
pub use health::SubscriptionHealth;
pub use notice_sinks::CreateNoticeSink;
pub use replay::{ReplayCursor, ReplayDeliveries, Replayed};
pub use subscriptions::{
    CreateSubscription, Creation, DeleteSubscription, ListSubscriptions, Rotated, Tested, UpdateSubscription,
};
pub use watch::{WATCH_CHANGES_WAITING_MAX, WatchDeliveries, Watched};

// Types of the store that are parameters and results of use cases.
pub use crate::store::{
    AuditQuery, BackupPart, Created, DeliveryRecord, EventQuery, FileSum, Issued, Page, RequestKey, TimeRange,
};

use access::Access;
use admission::Admission;

/// Settings of the gateway, and its limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Publishing and retention")]
pub struct GatewaySettings {
    /// Largest event that is published over gRPC, encoded as protobuf.
    ///
    /// Not more than 3 MiB, so that clients can take a response with the event. Lower it to refuse large
    /// events early.
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = bytes::<usize>("1KiB", "3MiB"))]
    pub event_bytes_max: usize,
    /// Largest body of a POST, in any form, and largest webhook that is received.
    ///
    /// A body can be many times as large as its event, since a message within a conversation is written with all its
    /// keys. An event with a larger one gets INVALID_ARGUMENT. Set it to what your receivers take.
    #[arg(long, value_name = "SIZE", default_value = "4MiB", value_parser = bytes::<usize>("64KiB", "64MiB"))]
    pub body_bytes_max: usize,
    /// Subscriptions of one account.
    ///
    /// Past it CreateSubscription gets RESOURCE_EXHAUSTED.
    #[arg(long, value_name = "COUNT", default_value = "10000", value_parser = count::<usize>(1, 1_000_000))]
    pub subscriptions_per_account_max: usize,
    /// Bytes of the texts and numbers of all subscriptions, and 1 KiB for each, all in memory.
    ///
    /// One account may have an eighth, and in the last quarter an eighth of what is left. A change that would
    /// take more gets RESOURCE_EXHAUSTED.
    #[arg(long, value_name = "SIZE", default_value = "512MiB", value_parser = bytes::<u64>("1MiB", "64GiB"))]
    pub subscription_bytes_max: u64,
    /// Pending deliveries of one subscription.
    ///
    /// An event that would add to more is refused with RESOURCE_EXHAUSTED. Lower it to notice an endpoint
    /// that fails sooner, raise it to bridge a longer outage. Events that are being stored at that moment are
    /// not counted.
    #[arg(
        long, value_name = "COUNT", default_value = "20000000",
        value_parser = count::<u64>(BATCH_EVENTS_MAX, 1_000_000_000)
    )]
    pub backlog_per_subscription_max: u64,
    /// Pending deliveries of all subscriptions of one account, with the same effect.
    ///
    /// Raise it to backlog_max if one account is all that the gateway has; lower it if there are many.
    #[arg(
        long, value_name = "COUNT", default_value = "25000000",
        value_parser = count::<u64>(BATCH_EVENTS_MAX, 1_000_000_000)
    )]
    pub backlog_per_account_max: u64,
    /// Pending deliveries of all accounts. At least backlog_per_subscription_max.
    ///
    /// The last quarter is for accounts that have little: each may have an eighth of what is left. Only accounts
    /// that would have more are refused.
    #[arg(
        long, value_name = "COUNT", default_value = "50000000",
        value_parser = count::<u64>(BATCH_EVENTS_MAX, 1_000_000_000)
    )]
    pub backlog_max: u64,
    /// Age at which events are removed with their deliveries. Events with pending deliveries are kept longer.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = duration("1m", "3650d"))]
    pub retention_age: Duration,
    /// Most bytes of the log of events and attempts. Past it the oldest events without pending deliveries are
    /// removed.
    ///
    /// Of events with pending deliveries one account may have half of it, and in the last quarter an eighth of
    /// what is left; an account that would have more gets RESOURCE_EXHAUSTED. The disk needs room for a ninth
    /// and two files more.
    #[arg(
        long, value_name = "SIZE", default_value = "10GiB",
        value_parser = bytes::<u64>("16MiB", "16384GiB")
    )]
    pub retention_bytes_max: u64,
    /// Age at which events that wait for a paused subscription are given up: their deliveries fail with
    /// OUTCOME_EXPIRED. By default they wait for ever.
    #[arg(long, value_name = "DURATION", value_parser = duration("1m", "3650d"))]
    pub paused_backlog_age: Option<Duration>,
    /// Interval between removals of old events: the time in which the log would fill at 1 GiB/s.
    #[arg(skip)]
    pub retention_interval: Duration,
    /// Most events of all publishers that wait to be stored, half of them of one account.
    #[arg(skip = 16_000_usize)]
    pub events_in_flight_max: usize,
    /// Most bytes of all events that wait to be stored, half of them of one account.
    #[arg(skip)]
    pub bytes_in_flight_max: usize,
    /// Most reads of the store under way; further ones wait for their turn.
    #[arg(skip = 8_usize)]
    pub reads_in_flight_max: usize,
    /// Most TestSubscription calls under way, a quarter of one account.
    #[arg(skip = 64_usize)]
    pub tests_in_flight_max: usize,
    /// Most WatchDeliveries calls under way, a quarter of one account.
    #[arg(skip = 64_usize)]
    pub watches_max: usize,
    /// Deliveries of one subscription that are kept in memory. Events past it are read back before they are
    /// sent.
    #[arg(skip = LANE_WINDOW)]
    pub lane_window: usize,
    /// Retries of deliveries where the subscription does not set them.
    #[arg(skip)]
    pub retry_defaults: RetryPolicy,
    /// Addresses that the URL of a subscription may name.
    #[arg(skip)]
    pub egress: EgressPolicy,
    /// Access tokens.
    #[arg(skip)]
    pub tokens: TokenSettings,
}

/// Longest time for one use case, but for streams and TestSubscription.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// One account may have one in this many of the places for tests and watches, and as many are for first places.
const ACCOUNT_PARTS: usize = 4;

/// Events in one `BatchPublishEvents` call at most, from the contract: a smaller backlog would refuse every
/// such call.
const BATCH_EVENTS_MAX: u64 = 1_000;

impl GatewaySettings {
    /// Sets the limits that follow from other settings.
    pub fn derive(&mut self, clients: &ClientSettings) {
        const BYTES_PER_MILLISECOND: u64 = (1 << 30) / 1000;
        let filled_after = Duration::from_millis(self.retention_bytes_max / BYTES_PER_MILLISECOND);
        self.retention_interval = filled_after.clamp(Duration::from_millis(100), Duration::from_secs(10));
        self.bytes_in_flight_max = clients.publish_memory_max / 10;
    }
}

impl Default for GatewaySettings {
    fn default() -> Self {
        let mut settings: Self = declared_defaults();
        settings.derive(&ClientSettings::default());
        settings
    }
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
    tests: SharedPool,
    watches: SharedPool,
    backups: Arc<Semaphore>,
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
            tests: SharedPool::of_places_in_parts(settings.tests_in_flight_max, ACCOUNT_PARTS, ACCOUNT_PARTS),
            backlog_log: LogThrottle::new(),
            watches: SharedPool::of_places_in_parts(settings.watches_max, ACCOUNT_PARTS, ACCOUNT_PARTS),
            backups: Arc::new(Semaphore::new(BACKUPS_MAX)),
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
