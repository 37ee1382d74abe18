//! The gateway's host: the real gateway, made as the program makes it, on the network, the clock and the disk
//! of the simulation.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    coverage::{Coverage, Kind},
    disk::Disk,
    ledger::{Entry, Ledger},
    plan::{Keeping, Plan},
    support::with_peer::WithPeer,
    world::Trace,
};
use futures_util::stream;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tidings::{
    clock::Clock,
    delivery::{
        dispatcher::{
            Dispatcher,
            settings::{DispatchSettings, RetrySettings},
            suspension::SuspensionSettings,
        },
        http::client::{self, WebhookClientSettings},
    },
    domain::{
        caller::Peer,
        delivery::{DeliveryKey, DeliveryState},
        egress::EgressPolicy,
        time::UnixMicros,
    },
    event::webhook::{WebhookClient, WebhookRequest},
    gateway::{Gateway, GatewaySettings},
    grpc::{self, Drain, GrpcSettings, Health},
    metrics::Metrics,
    store::{DeliveryQuery, Store, TimeRange, memory::MemoryStore},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, util::BoxCloneSyncService};
use turmoil::net::{TcpListener, TcpStream};

/// The host's name, and where it serves gRPC.
pub const GATEWAY: &str = "gateway";
pub const PORT: u16 = 50_051;
/// How long one POST may take.
pub const POST_TIMEOUT: Duration = Duration::from_secs(2);
/// POSTs of one subscription under way at once, few enough that a window fills up.
pub const MAX_IN_FLIGHT: u16 = 4;

/// The time between two runs of retention.
pub const RETENTION_INTERVAL: Duration = Duration::from_millis(500);
/// How long the gateway takes at most to stop: longer than most POSTs.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How long after the beginning of a tick it stops. Nothing else may happen then: a server that is asked to
/// stop while a connection has something to do does the one or the other first, as chance will have it.
pub const STOPS_AFTER: Duration = Duration::from_millis(1);
/// When every simulation begins.
const EPOCH_MICROS: i64 = 1_700_000_000_000_000;

/// The wall clock of the gateway's host, which steps on request.
#[derive(Default)]
pub struct SimClock {
    stepped_micros: AtomicI64,
}

impl SimClock {
    /// Goes wrong by so much from now on; 0 is right again.
    pub fn step(&self, micros: i64) {
        self.stepped_micros.store(micros, Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> UnixMicros {
        self.wall_of(self.steady())
    }

    fn steady(&self) -> UnixMicros {
        let elapsed = turmoil::sim_elapsed().expect("the time is asked for on a host");
        UnixMicros(EPOCH_MICROS).plus(elapsed)
    }

    fn ahead(&self) -> i64 {
        self.stepped_micros.load(Relaxed)
    }
}

/// State that survives the gateway's crashes.
pub struct Machine {
    pub clock: Arc<SimClock>,
    pub engine: Arc<MemoryStore>,
    pub ledger: Arc<Ledger>,
    plan: Arc<Plan>,
    coverage: Coverage,
    seed: u64,
    starts: AtomicU64,
    /// Stops the incarnation that runs.
    stop: Mutex<CancellationToken>,
    /// Its HTTP client, kept until it starts again: its idle connections are closed in no order.
    webhook_client: Mutex<Option<WebhookClient>>,
}

impl Machine {
    pub fn new(seed: u64, plan: Arc<Plan>, coverage: Coverage, trace: Trace) -> Arc<Self> {
        let clock = Arc::new(SimClock::default());
        let engine = Arc::new(MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>, seed));
        let ledger = Ledger::of(&engine, trace);
        let (starts, stop, webhook_client) = (AtomicU64::new(0), Mutex::default(), Mutex::default());
        Arc::new(Self { clock, engine, ledger, plan, coverage, seed, starts, stop, webhook_client })
    }

    /// Asks the gateway to stop, as the system does.
    pub fn stop(&self) {
        self.stop.lock().unwrap().cancel();
    }

    /// Whether an event is stored that is older than one that was removed.
    fn kept_older_events(&self) -> bool {
        let is_there = |key: &DeliveryKey| self.engine.delivery(*key).expect("memory is read").is_some();
        let keys = self.ledger.firsts();
        let first_kept = keys.iter().position(is_there);
        let last_removed = keys.iter().rposition(|key| !is_there(key));
        first_kept < last_removed && first_kept.is_some()
    }

    /// The deliveries that are not over.
    pub fn owed(&self) -> Vec<(DeliveryKey, DeliveryState)> {
        let query = DeliveryQuery {
            subscriptions: Some(self.engine.registry().keys()),
            states: vec![DeliveryState::Pending, DeliveryState::Retrying { due: UnixMicros(0) }],
            event: None,
            time: TimeRange::default(),
            after: None,
            limit: usize::MAX - 1,
        };
        let rows = self.engine.deliveries(&query).expect("the reference engine never fails").rows;
        rows.into_iter().map(|row| (row.key, row.state)).collect()
    }
}

/// One incarnation of the gateway, from its start until it is asked to stop or its host crashes.
pub async fn run(machine: Arc<Machine>) -> turmoil::Result {
    let start = machine.starts.fetch_add(1, Relaxed);
    let mut random = StdRng::seed_from_u64(machine.seed ^ (start << 32));
    let clock: Arc<dyn Clock> = Arc::clone(&machine.clock) as Arc<dyn Clock>;
    let metrics = Metrics::new(clock.now());
    let (disk, mut writing) =
        Disk::start(Arc::clone(&machine.engine), Arc::clone(&machine.ledger), random.random());
    let store: Arc<dyn Store> = disk;
    let settings = WebhookClientSettings {
        egress: egress_policy(),
        delivery_timeout: POST_TIMEOUT,
        connections: metrics.endpoint_connections.clone(),
        // Longer than a simulation: the client closes idle connections in no order.
        idle_timeout: Duration::from_hours(1),
        delivery_connection_age_max: Duration::from_hours(1),
        seed: random.random(),
        ..WebhookClientSettings::default()
    };
    let webhook_client =
        client::webhook_client_with_dialer(TcpStream::connect::<SocketAddr>, &settings, Arc::clone(&clock))?;
    *machine.webhook_client.lock().unwrap() = Some(webhook_client.clone());
    let (stop, shutdown) = (CancellationToken::new(), CancellationToken::new());
    *machine.stop.lock().unwrap() = stop.clone();
    let ledger = Arc::clone(&machine.ledger);
    let noting = webhook_client.clone().map_request(move |request: WebhookRequest| {
        let key = DeliveryKey { seq: request.event.seq, subscription: request.subscription.key };
        ledger.note(Entry::Began { key });
        request
    });
    let dispatcher = Dispatcher::new(
        Arc::clone(&store),
        BoxCloneSyncService::new(noting),
        Arc::clone(&clock),
        dispatch_settings(&machine.plan),
        Arc::clone(&metrics),
        random.random(),
    );
    let mut sending = tokio::spawn(dispatcher.run(shutdown.clone()));
    let settings = gateway_settings(&machine.plan);
    let gateway = Gateway::new(Arc::clone(&store), webhook_client, clock, settings, metrics, random);
    let mut keeping =
        tokio::spawn(enforce_retention(gateway.clone(), Arc::clone(&machine), shutdown.clone()));
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let accepted = stream::unfold(listener, async |listener| {
        let (stream, _) = listener.accept().await.expect("the network takes connections");
        Some((WithPeer { stream, peer: Peer::default() }, listener))
    });
    let serving =
        grpc::serve_accepted(accepted, gateway, grpc_settings(), Health::default(), shutdown.clone());
    // As the program does it: calls and attempts share one bound.
    let draining = async {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            ended = &mut sending => panic!("the dispatcher ended: {ended:?}"),
            ended = &mut keeping => panic!("the retention ended: {ended:?}"),
            ended = &mut writing => panic!("the disk ended: {ended:?}"),
        }
        tokio::time::sleep(STOPS_AFTER).await;
        shutdown.cancel();
        let drained = timeout(DRAIN_TIMEOUT, &mut sending).await.is_ok();
        sending.abort();
        drained
    };
    let (served, drained) = tokio::join!(serving, draining);
    keeping.await?;
    store.close()?;
    writing.await?;
    let complete = drained && served == Drain::Complete;
    machine.coverage.add(if complete { Kind::GatewayStopped } else { Kind::GatewayCutShort });
    Ok(())
}

async fn enforce_retention(gateway: Gateway, machine: Arc<Machine>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(gateway.retention_interval());
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let purged = gateway.enforce_retention().await.expect("the store works");
        machine.coverage.add_many(Kind::Removed, purged.events);
        if purged.events > 0 && machine.kept_older_events() {
            machine.coverage.add(Kind::KeptAsOwed);
        }
    }
}

fn retry_settings(plan: &Plan) -> RetrySettings {
    RetrySettings {
        retry_max_attempts: plan.attempts_max,
        retry_min_backoff: Duration::from_millis(100),
        retry_max_backoff: Duration::from_secs(2),
    }
}

fn dispatch_settings(plan: &Plan) -> DispatchSettings {
    let (suspend_after, suspend_attempts_min) =
        if plan.suspends { (Duration::from_millis(800), 3) } else { (Duration::from_hours(24), 1_000_000) };
    DispatchSettings {
        max_in_flight: MAX_IN_FLIGHT,
        // Small, so that lanes read on from the store.
        lane_window: 8,
        delivery_memory_max: 1 << 20,
        lane_order_keys_max: 3,
        attempts_in_flight_max: 64,
        retry: retry_settings(plan),
        retry_after_max: Duration::from_secs(5),
        suspension: SuspensionSettings {
            suspend_after,
            suspend_attempts_min,
            probe_interval_min: Duration::from_millis(300),
            probe_interval_max: Duration::from_secs(2),
        },
        ..DispatchSettings::default()
    }
}

fn gateway_settings(plan: &Plan) -> GatewaySettings {
    let (mut retention_age, mut retention_bytes_max) = (Duration::from_hours(24), 16 << 20);
    match plan.keeping {
        Keeping::Everything => {}
        Keeping::Bytes(bytes) => retention_bytes_max = bytes,
        Keeping::For(age) => retention_age = age,
    }
    GatewaySettings {
        lane_window: 8,
        retention_age,
        retention_bytes_max,
        retention_interval: RETENTION_INTERVAL,
        retry_defaults: retry_settings(plan).policy(),
        egress: egress_policy(),
        ..GatewaySettings::default()
    }
}

/// The simulated network is a private one.
fn egress_policy() -> EgressPolicy {
    EgressPolicy::new(vec!["192.168.0.0/16".parse().unwrap()])
}

fn grpc_settings() -> GrpcSettings {
    GrpcSettings { stream_events_in_flight_max: 64, drain_timeout: DRAIN_TIMEOUT, ..GrpcSettings::default() }
}
