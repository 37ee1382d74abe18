//! The gateway's host: the real gateway, made as the program makes it, on the network, the clock and the disk of the
//! simulation.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tidings::{
    clock::Clock,
    delivery::{
        client::{self, PosterSettings},
        dispatcher::{DispatchSettings, Dispatcher},
    },
    domain::{delivery::DeliveryState, egress::EgressPolicy, retry::RetryPolicy, time::UnixMicros},
    gateway::{Gateway, GatewaySettings},
    grpc::{self, GrpcSettings, Health},
    metrics::Metrics,
    store::{DeliveryQuery, DeliveryRecord, Store, TimeRange, memory::MemoryStore},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use turmoil::net::{TcpListener, TcpStream};

use crate::disk::Disk;

/// The host's name, and where it serves gRPC.
pub const GATEWAY: &str = "gateway";
pub const PORT: u16 = 50_051;
/// How long one POST may take.
pub const POST_TIMEOUT: Duration = Duration::from_secs(2);
/// POSTs of one subscription under way at once, few enough that a window fills up.
pub const MAX_IN_FLIGHT: u16 = 4;

/// Enough attempts for all that a simulation has in store.
const RETRY: RetryPolicy = RetryPolicy {
    max_attempts: 50,
    min_backoff: Duration::from_millis(100),
    max_backoff: Duration::from_secs(2),
};
/// When every simulation begins.
const EPOCH_MICROS: i64 = 1_700_000_000_000_000;

/// The wall clock of the gateway's host, which steps when it is told to.
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
        let elapsed = turmoil::sim_elapsed().expect("the time is asked for on a host");
        UnixMicros(
            EPOCH_MICROS + i64::try_from(elapsed.as_micros()).unwrap() + self.stepped_micros.load(Relaxed),
        )
    }
}

/// What outlives the gateway's crashes.
pub struct Machine {
    pub clock: Arc<SimClock>,
    pub engine: Arc<MemoryStore>,
    seed: u64,
    starts: AtomicU64,
}

impl Machine {
    pub fn new(seed: u64) -> Arc<Self> {
        let clock = Arc::new(SimClock::default());
        let engine = Arc::new(MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>, seed));
        Arc::new(Self { clock, engine, seed, starts: AtomicU64::new(0) })
    }

    /// The deliveries that are not over.
    pub fn owed(&self) -> Vec<DeliveryRecord> {
        let query = DeliveryQuery {
            lanes: self.engine.registry().lanes(),
            states: vec![DeliveryState::Pending, DeliveryState::Retrying { due: UnixMicros(0) }],
            event: None,
            time: TimeRange::default(),
            after: None,
            limit: usize::MAX - 1,
        };
        self.engine.deliveries(&query).expect("the reference answers").rows
    }
}

/// One incarnation of the gateway, from its start until its host crashes.
pub async fn run(machine: Arc<Machine>) -> turmoil::Result {
    let start = machine.starts.fetch_add(1, Relaxed);
    let mut random = StdRng::seed_from_u64(machine.seed ^ (start << 32));
    let clock: Arc<dyn Clock> = Arc::clone(&machine.clock) as Arc<dyn Clock>;
    let metrics = Metrics::new(clock.now());
    let store: Arc<dyn Store> = Disk::start(Arc::clone(&machine.engine), random.random());
    let settings = PosterSettings {
        egress: egress_policy(),
        default_timeout: POST_TIMEOUT,
        connections: metrics.endpoint_connections.clone(),
        // Longer than a simulation: the client closes idle connections in no order.
        idle_timeout: Duration::from_hours(1),
        ..PosterSettings::default()
    };
    let poster = client::poster_over(TcpStream::connect::<SocketAddr>, &settings, Arc::clone(&clock))?;
    let shutdown = CancellationToken::new();
    let dispatcher = Dispatcher::new(
        Arc::clone(&store),
        poster.clone(),
        Arc::clone(&clock),
        DispatchSettings {
            max_in_flight: MAX_IN_FLIGHT,
            // Small, so that lanes read on from the store.
            lane_window: 8,
            lane_windows_bytes_max: 1 << 20,
            lane_order_keys_max: 100,
            lane_order_key_window: 8,
            reads_in_flight_max: 16,
            attempts_in_flight_max: 64,
            retry: RETRY,
            retry_after_max: Duration::from_secs(5),
            pace_wait_max: Duration::from_secs(5),
            // Nothing is suspended: who is dead for long must be served as soon as it is well.
            suspension: tidings::delivery::suspension::SuspensionSettings {
                suspend_after: Duration::from_hours(24),
                suspend_attempts_min: 1_000_000,
                probe_interval_min: Duration::from_secs(1),
                probe_interval_max: Duration::from_secs(5),
            },
        },
        Arc::clone(&metrics),
        random.random(),
    );
    let sending = tokio::spawn(dispatcher.run(shutdown.clone()));
    let gateway = Gateway::new(store, poster, clock, gateway_settings(), metrics, random);
    let keeping = tokio::spawn(enforce_retention(gateway.clone()));
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
    let accepted = stream::unfold(listener, async |listener| {
        let (stream, _) = listener.accept().await.expect("the network takes connections");
        Some((Accepted(stream), listener))
    });
    let serving = grpc::serve_accepted(accepted, gateway, grpc_settings(), Health::default(), shutdown);
    // Nothing of it ends before the host does.
    tokio::select! {
        biased;
        ended = sending => panic!("the dispatcher ended: {ended:?}"),
        ended = keeping => panic!("the retention ended: {ended:?}"),
        ended = serving => panic!("the server ended: {ended:?}"),
    }
}

async fn enforce_retention(gateway: Gateway) {
    loop {
        tokio::time::sleep(gateway.retention_interval()).await;
        gateway.enforce_retention().await.expect("the store works");
    }
}

fn gateway_settings() -> GatewaySettings {
    GatewaySettings {
        event_bytes_max: 1 << 20,
        events_in_flight_max: 10_000,
        events_storing_max: 512,
        bytes_in_flight_max: 64 << 20,
        reads_in_flight_max: 8,
        tests_in_flight_max: 8,
        watches_max: 8,
        backlog_per_subscription_max: 1_000_000,
        backlog_max: 1_000_000,
        retention_age: Duration::from_hours(24),
        retention_bytes_max: 16 << 20,
        retention_interval: Duration::from_secs(1),
        subscriptions_per_account_max: 100,
        retry_defaults: RETRY,
        egress: egress_policy(),
    }
}

/// The simulated network is a private one.
fn egress_policy() -> EgressPolicy {
    EgressPolicy::new(vec!["192.168.0.0/16".parse().unwrap()])
}

fn grpc_settings() -> GrpcSettings {
    GrpcSettings {
        message_bytes_max: 4 << 20,
        header_bytes_max: 16 << 10,
        connections_max: 100,
        calls_in_flight_max: 1000,
        calls_per_connection_max: 512,
        stream_events_in_flight_max: 64,
        call_timeout: Duration::from_secs(30),
        drain_timeout: Duration::from_secs(10),
    }
}

/// A connection of the simulated network, as the server wants it.
struct Accepted(TcpStream);

impl Connected for Accepted {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
