//! The only place that constructs: opens the store, binds the listeners, runs what serves them, and brings all of it to
//! an end in order.

use std::{fs, net::SocketAddr, panic, path::Path, sync::Arc, thread, time::Duration};

use anyhow::Context;
use rand::{RngExt, rngs::StdRng};
use rustls::pki_types::CertificateDer;
use tokio::{
    net::TcpListener,
    runtime::{self, Runtime},
    task::JoinHandle,
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    clock::{Clock, SystemClock},
    config::Config,
    delivery::{
        dispatcher::{Dispatcher, settings::DispatchSettings, suspension::SuspensionSettings},
        http::client::{self, PosterSettings},
    },
    domain::{
        access::TokenHash,
        egress::{EgressPolicy, Proxy, ProxyRules},
        retry::RetryPolicy,
        seal::SealingKey,
    },
    event::webhook::WebhookClient,
    gateway::{Gateway, GatewaySettings, TokenSettings},
    grpc::{self, ConnectionSettings, GrpcSettings, Health, Tls},
    metrics::Metrics,
    ops::{self, Phase, Readiness},
    store::{
        Store,
        disk::{self, DiskStore, KeySource, Rotation, StoreSettings},
    },
};

mod access;
mod ingest;
mod tls;

use ingest::Ingest;
use tls::GrpcTls;

/// A gateway that is set up: its store is open and its addresses are bound, but nothing is served yet.
pub struct App {
    config: Config,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    store: Arc<DiskStore>,
    webhook_client: WebhookClient,
    random: StdRng,
    admin: Option<TokenHash>,
    grpc: TcpListener,
    tls: Option<GrpcTls>,
    ingest: Option<Ingest>,
    ops: Ops,
    readiness: Readiness,
}

/// The server of `/healthz`, `/readyz` and `/metrics`. It ends when it is told to, or dropped.
struct Ops {
    address: SocketAddr,
    serving: JoinHandle<()>,
    end: DropGuard,
}

/// Threads that answer calls and do nothing else. Deliveries are made by those that the app runs on: the kernel divides the
/// cores between the threads, and so a flood of calls cannot take more than the share of these.
struct GrpcRuntime(Option<Runtime>);

/// What is said at the end of a gateway whose store failed while it ran.
const STORE_FAILED: &str = "the store failed while the gateway ran, and took no more writes; \
                            what was acknowledged is on disk, and the next start reads it";

/// Runs the gateway until `shutdown`.
///
/// # Errors
///
/// Something that it needs cannot be had (an address, the store), or the store failed in the end.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    App::set_up(config).await?.run(shutdown).await
}

/// Seals the secrets of a gateway that does not run with another key. Returns what to tell.
///
/// # Errors
///
/// The store is in use or cannot be opened, or the key cannot be changed.
pub fn rotate_secrets_key(config: &Config) -> anyhow::Result<String> {
    let mut random: StdRng = rand::make_rng();
    let source = key_source(config, &mut random);
    let (new, seed) = (SealingKey::draw(&mut random), random.random());
    let Rotation { key, before, file } = disk::rotate_secrets_key(&config.data_dir, &source, new, seed)?;
    let dir = config.data_dir.display();
    let before = before.map_or_else(|| "in the clear".to_owned(), |before| format!("with the key {before}"));
    let then = match file {
        Some(file) => format!("The key is in {}: keep a copy of it apart from the data.", file.display()),
        None => "Leave it alone in TIDINGS_SECRETS_KEY.".to_owned(),
    };
    Ok(format!("The secrets in {dir} are sealed with the key {key} now, and were {before}. {then}\n"))
}

/// Where the key of the secrets in the store comes from.
fn key_source(config: &Config, random: &mut StdRng) -> KeySource {
    match (&config.secrets_key, &config.secrets_key_file) {
        (Some(keys), _) => KeySource::Given(keys.clone()),
        (None, Some(file)) => KeySource::File(file.clone()),
        // With all the chance of the generator: a seed of 64 bits would be too little for a key.
        (None, None) => KeySource::Beside(SealingKey::draw(random)),
    }
}

impl App {
    /// Binds the addresses and opens the store.
    ///
    /// # Errors
    ///
    /// An address is taken, the store cannot be opened, certificates, sources of webhooks or the administrator's token cannot be
    /// read, or everybody in the network could call.
    pub async fn set_up(mut config: Config) -> anyhow::Result<Self> {
        let admin = access::admin(&mut config)?;
        let grpc = bind(config.grpc_listen, "grpc_listen").await?;
        let http = bind(config.http_listen, "http_listen").await?;
        let readiness = Readiness::starting();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = Metrics::new(clock.now());
        // Opening a large store takes a while: who asks is told so meanwhile.
        let ops = Ops::start(http, readiness.clone(), Arc::clone(&metrics))?;
        raise_open_files_limit();
        tell_proxies(&config.egress_proxies);
        let tls = GrpcTls::set_up(&config, &metrics)?;
        let ingest = Ingest::set_up(&config, &metrics).await?;
        let mut random: StdRng = rand::make_rng();
        let webhook_client =
            client::webhook_client(&poster_settings(&config, &metrics)?, Arc::clone(&clock))?;
        let store = {
            let settings = StoreSettings::keeping(config.retention_bytes_max, config.store_cache_bytes)
                .auditing(config.audit_bytes_max);
            let (dir, keys) = (config.data_dir.clone(), key_source(&config, &mut random));
            let (clock, seed, metrics) = (Arc::clone(&clock), random.random(), Arc::clone(&metrics));
            let open = move || DiskStore::open(&dir, settings, &keys, clock, seed, metrics);
            Arc::new(tokio::task::spawn_blocking(open).await??)
        };
        access::check_opening(&config, grpc.local_addr()?, admin.is_some(), store.tokens())?;
        let watched = Arc::downgrade(&store);
        metrics.watch_store(move |show| {
            if let Some(store) = watched.upgrade() {
                store.report(show);
            }
        });
        Ok(Self {
            config,
            clock,
            metrics,
            store,
            webhook_client,
            random,
            admin,
            grpc,
            tls,
            ingest,
            ops,
            readiness,
        })
    }

    /// Where gRPC is served.
    ///
    /// # Errors
    ///
    /// The system does not tell.
    pub fn grpc_address(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }

    /// Serves until `shutdown`, then ends what is under way within the drain's bound, and closes the store.
    ///
    /// # Errors
    ///
    /// The store failed while it ran or could not be closed properly, or a server failed.
    pub async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(
            grpc.listen = %self.grpc.local_addr()?, grpc.tls = tls::told(self.tls.as_ref()), http.listen = %self.ops.address,
            ingest.listen = ingest::told(self.ingest.as_ref()),
            data.dir = %self.config.data_dir.display(), subscriptions = self.store.registry().len(), "listening",
        );
        let health = Health::default();
        let watch = watch_store(&self.store, self.readiness.clone(), health.clone());
        let store: Arc<dyn Store> = Arc::clone(&self.store) as Arc<dyn Store>;
        let dispatcher = Dispatcher::new(
            Arc::clone(&store),
            self.webhook_client.clone(),
            Arc::clone(&self.clock),
            dispatch_settings(&self.config),
            Arc::clone(&self.metrics),
            self.random.random(),
        );
        let sending = tokio::spawn(dispatcher.run(shutdown.clone()));
        let settings = GatewaySettings {
            tokens: access::token_settings(&self.config, self.admin),
            ..gateway_settings(&self.config)
        };
        let gateway = Gateway::new(
            store,
            self.webhook_client,
            Arc::clone(&self.clock),
            settings,
            self.metrics,
            self.random,
        );
        tokio::spawn(enforce_retention(gateway.clone(), shutdown.clone()));
        tokio::spawn(access::end_tokens(gateway.clone(), shutdown.clone()));
        tokio::spawn(access::write_token_uses(gateway.clone(), shutdown.clone()));
        tokio::spawn(tell_readiness(self.readiness.clone(), shutdown.clone()));

        let settings = grpc_settings(&self.config, self.tls.as_ref().map(GrpcTls::tls));
        if let Some(tls) = self.tls {
            tls.keep_current(shutdown.clone());
        }
        let intake = GrpcRuntime::start(self.config.intake_threads).context("cannot start threads")?;
        let served =
            intake.spawn(grpc::serve(self.grpc, gateway.clone(), settings, health, shutdown.clone()));
        let serving = async {
            let served = served.await;
            // A server that failed ends the rest as well.
            shutdown.cancel();
            served
        };
        let taking = {
            let (clock, settings) = (Arc::clone(&self.clock), ingest::settings(&self.config));
            self.ingest
                .map(|ingest| intake.spawn(ingest.serve(gateway.clone(), clock, settings, shutdown.clone())))
        };
        let taking = async {
            match taking {
                Some(taking) => taking.await,
                None => Ok(()),
            }
        };
        // Side by side: calls and attempts share one bound.
        let (served, taken, ()) = tokio::join!(
            serving,
            taking,
            drain_attempts(sending, self.config.drain_timeout, shutdown.clone())
        );
        watch.abort();
        access::write_last_token_uses(&gateway).await;
        drop(gateway);
        let failure = self.store.failure();
        let closing = Arc::clone(&self.store);
        let closed = tokio::task::spawn_blocking(move || closing.close()).await?;
        self.ops.end().await;
        drop(intake);
        served.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()));
        taken.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()));
        if let Some(failure) = failure.borrow().clone() {
            return Err(failure).context(STORE_FAILED);
        }
        closed.context("the store was not closed properly")?;
        tracing::info!("stopped");
        Ok(())
    }
}

impl GrpcRuntime {
    fn start(threads: usize) -> std::io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, Into::into);
        let threads = if threads == 0 { cores.div_ceil(2) } else { threads };
        let mut builder = runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(threads).thread_name("intake").enable_all().build()?;
        Ok(Self(Some(runtime)))
    }

    fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.0.as_ref().expect("it is there until this is dropped").spawn(future)
    }
}

impl Drop for GrpcRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // Without waiting: what is still there has been cut off.
            runtime.shutdown_background();
        }
    }
}

impl Ops {
    fn start(listener: TcpListener, readiness: Readiness, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let end = CancellationToken::new();
        let serving = tokio::spawn(ops::serve(listener, readiness, metrics, end.clone()));
        Ok(Self { address, serving, end: end.drop_guard() })
    }

    async fn end(self) {
        drop(self.end);
        // It panicked, if anything, and has said so.
        drop(self.serving.await);
    }
}

/// Each connection takes a file, and the usual limit of 1,024 is soon reached with many endpoints.
fn raise_open_files_limit() {
    match rlimit::increase_nofile_limit(rlimit::INFINITY) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// An operator may not know of a proxy that the environment names.
fn tell_proxies(rules: &ProxyRules) {
    let shown = |proxy: &Option<Proxy>| proxy.as_ref().map_or("none".to_owned(), Proxy::to_string);
    if rules.http.is_some() || rules.https.is_some() {
        let direct: Vec<_> = rules.direct.iter().map(ToString::to_string).collect();
        let (http, https) = (shown(&rules.http), shown(&rules.https));
        tracing::info!(
            proxy.http = http,
            proxy.https = https,
            direct = direct.join(","),
            "POSTs go by a proxy"
        );
    }
}

async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {setting} {address}"))
}

/// Waits for the shutdown, and then for the attempts under way, up to the end of the drain.
async fn drain_attempts(mut sending: JoinHandle<()>, drain_timeout: Duration, shutdown: CancellationToken) {
    shutdown.cancelled().await;
    if timeout(drain_timeout, &mut sending).await.is_err() {
        tracing::warn!("attempts were under way at the end of the drain; they will be made again");
        sending.abort();
    }
}

/// Removes from time to time what is no longer kept.
async fn enforce_retention(gateway: Gateway, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(gateway.retention_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        match gateway.enforce_retention().await {
            Ok(purged) if purged.events > 0 => tracing::debug!(events = purged.events, "removed old events"),
            Ok(_) => {}
            // A store that failed has said so itself.
            Err(error) => tracing::debug!(%error, "old events were not removed"),
        }
    }
}

/// Says that the gateway serves, and that it no longer does.
async fn tell_readiness(readiness: Readiness, shutdown: CancellationToken) {
    readiness.advance(Phase::Serving);
    shutdown.cancelled().await;
    readiness.advance(Phase::Draining);
}

/// Takes the gateway out of service once its store takes no more.
fn watch_store(store: &DiskStore, readiness: Readiness, health: Health) -> JoinHandle<()> {
    let mut failure = store.failure();
    tokio::spawn(async move {
        if failure.wait_for(Option::is_some).await.is_ok() {
            readiness.advance(Phase::StoreFailed);
            health.set_not_serving();
        }
    })
}

fn retry_policy(config: &Config) -> RetryPolicy {
    RetryPolicy {
        max_attempts: config.retry_max_attempts,
        min_backoff: config.retry_min_backoff,
        max_backoff: config.retry_max_backoff,
    }
}

fn egress_policy(config: &Config) -> EgressPolicy {
    EgressPolicy::new(config.egress_allow.clone()).denying(config.egress_deny.clone())
}

fn dispatch_settings(config: &Config) -> DispatchSettings {
    DispatchSettings {
        max_in_flight: config.max_in_flight,
        lane_window: config.lane_window,
        lane_windows_bytes_max: config.lane_windows_bytes_max,
        lane_order_keys_max: config.lane_order_keys_max,
        lane_order_key_window: config.lane_order_key_window,
        reads_in_flight_max: config.lane_reads_in_flight_max,
        attempts_in_flight_max: config.attempts_in_flight_max,
        retry: retry_policy(config),
        retry_after_max: config.retry_after_max,
        pace_wait_max: config.pace_wait_max,
        suspension: SuspensionSettings {
            suspend_after: config.suspend_after,
            suspend_attempts_min: config.suspend_attempts_min,
            probe_interval_min: config.probe_interval_min,
            probe_interval_max: config.probe_interval_max,
        },
    }
}

fn gateway_settings(config: &Config) -> GatewaySettings {
    GatewaySettings {
        event_bytes_max: config.event_bytes_max,
        events_in_flight_max: config.publish_events_in_flight_max,
        bytes_in_flight_max: config.publish_bytes_in_flight_max,
        reads_in_flight_max: config.reads_in_flight_max,
        tests_in_flight_max: config.tests_in_flight_max,
        lane_window: config.lane_window,
        watches_max: config.watches_max,
        backlog_per_subscription_max: config.backlog_per_subscription_max,
        backlog_max: config.backlog_max,
        retention_age: config.retention_age,
        retention_bytes_max: config.retention_bytes_max,
        retention_interval: config.retention_interval,
        subscriptions_per_account_max: config.subscriptions_per_account_max,
        retry_defaults: retry_policy(config),
        egress: egress_policy(config),
        tokens: TokenSettings::default(),
    }
}

fn grpc_settings(config: &Config, tls: Option<Tls>) -> GrpcSettings {
    GrpcSettings {
        message_bytes_max: config.grpc_message_bytes_max,
        header_bytes_max: config.grpc_header_bytes_max,
        connections: ConnectionSettings {
            connections_max: config.grpc_connections_max,
            per_address_max: config.grpc_connections_per_address_max,
            half_open_max: config.grpc_half_open_max,
            handshake_timeout: config.grpc_handshake_timeout,
            idle_timeout: config.grpc_idle_timeout,
            answer_timeout: config.grpc_answer_timeout,
            unfinished_bytes_max: config.grpc_unfinished_bytes_max,
            unread_bytes_max: config.grpc_unread_bytes_max,
            tls,
        },
        calls_in_flight_max: config.grpc_calls_in_flight_max,
        calls_per_connection_max: config.grpc_streams_per_connection_max,
        stream_events_in_flight_max: config.stream_events_in_flight_max,
        call_timeout: config.call_timeout,
        drain_timeout: config.drain_timeout,
        access: access::settings(config),
    }
}

fn poster_settings(config: &Config, metrics: &Metrics) -> anyhow::Result<PosterSettings> {
    Ok(PosterSettings {
        egress: egress_policy(config),
        proxies: config.egress_proxies.clone(),
        default_timeout: config.delivery_timeout,
        connect_timeout: config.connect_timeout,
        connections: metrics.endpoint_connections.clone(),
        response_bytes_max: config.response_bytes_max,
        idle_timeout: config.idle_connection_timeout,
        idle_connections_per_endpoint_max: config.idle_connections_per_endpoint_max,
        idle_connections_max: config.idle_connections_max,
        extra_roots: config.egress_ca_file.as_deref().map(extra_roots).transpose()?.unwrap_or_default(),
        tls_profiles_max: config.egress_tls_profiles_max,
    })
}

fn extra_roots(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let context = || format!("cannot read egress_ca_file {}", file.display());
    let pem = fs::read(file).with_context(context)?;
    let certificates = client::certificates(&pem).with_context(context)?;
    anyhow::ensure!(!certificates.is_empty(), "egress_ca_file {} holds no certificate", file.display());
    Ok(certificates)
}
