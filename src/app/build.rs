//! Builds a gateway: binds its addresses, reads its files, opens its store.

use std::sync::Arc;

use rand::{RngExt, rngs::StdRng};

use super::{
    App, Config, access, bind::bind, console::BoundConsole, ingest::Ingest, open_files,
    ops_server::OpsServer, tls::GrpcTls,
};
use crate::{
    clock::{Clock, SystemClock},
    console::Console,
    delivery::http::client::{self, WebhookClientSettings},
    descriptors,
    domain::{
        egress::{Proxy, ProxyRules},
        seal::SealingKey,
    },
    metrics::Metrics,
    ops::Readiness,
    store::{
        Store,
        disk::{DiskStore, KeySource},
    },
};

impl App {
    /// Binds the addresses and opens the store. Health and metrics are served from the beginning, since
    /// opening a large store takes a while. Whatever can be refused is refused before a new store is made.
    ///
    /// # Errors
    ///
    /// The limit of open files is too low, an address is in use, the store cannot be opened, a file (certificates, webhook sources, the
    /// administrator's token) is unusable, or gRPC would be open to the network without authentication.
    pub async fn build(mut config: Config) -> anyhow::Result<Self> {
        let admin = access::admin(&mut config)?;
        if let Some(limit) = descriptors::raise_limit() {
            config = open_files::fit(&config, limit)?.unwrap_or(config);
        }
        Console::check(&config.console)?;
        let grpc = bind(config.grpc.grpc_listen, "grpc_listen").await?;
        let http = bind(config.ops.http_listen, "http_listen").await?;
        let readiness = Readiness::starting();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let metrics = Metrics::new(clock.now());
        let ops = OpsServer::start(http, readiness.clone(), Arc::clone(&metrics))?;
        log_proxies(&config.proxies);
        let tls = GrpcTls::set_up(&config, &metrics)?;
        let ingest = Ingest::set_up(&config, &metrics).await?;
        let console = BoundConsole::set_up(&config, &metrics).await?;
        let webhook_client = {
            let mut random: StdRng = rand::make_rng();
            let settings = WebhookClientSettings {
                egress: config.egress.policy(),
                proxies: config.proxies.clone(),
                extra_roots: config.egress.extra_roots()?,
                connections: metrics.endpoint_connections.clone(),
                seed: random.random(),
                ..config.webhook_client.clone()
            };
            client::webhook_client(&settings, Arc::clone(&clock))?
        };
        let address = grpc.local_addr()?;
        if !DiskStore::exists(&config.data_dir)? {
            access::check_listener(&config, address, admin.is_some())?;
        }
        let store = open_store(&config, &clock, &metrics).await?;
        let has_tokens = admin.is_some() || store.tokens().are_asked_for();
        access::log_policy(access::check_listener(&config, address, has_tokens)?, address);
        Ok(Self {
            config,
            clock,
            metrics,
            store,
            webhook_client,
            admin,
            grpc,
            tls,
            ingest,
            console,
            ops,
            readiness,
        })
    }
}

async fn open_store(
    config: &Config,
    clock: &Arc<dyn Clock>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Arc<DiskStore>> {
    let mut random: StdRng = rand::make_rng();
    let (dir, settings) = (config.data_dir.clone(), config.store);
    let (keys, seed) = (key_source(config, &mut random), random.random());
    let (clock, store_metrics) = (Arc::clone(clock), Arc::clone(metrics));
    let open = move || DiskStore::open(&dir, settings, &keys, clock, seed, store_metrics);
    let store = Arc::new(tokio::task::spawn_blocking(open).await??);
    // A weak reference: the metrics must not keep the store open.
    let reported = Arc::downgrade(&store);
    metrics.watch_store(move |show| {
        if let Some(store) = reported.upgrade() {
            store.report(show);
        }
    });
    Ok(store)
}

/// The source of the key that encrypts secrets in the store. A generated key has the full entropy of
/// `random`.
pub fn key_source(config: &Config, random: &mut StdRng) -> KeySource {
    match (&config.secrets.secrets_key, &config.secrets_key_file) {
        (Some(keys), _) => KeySource::Given(keys.clone()),
        (None, Some(file)) => KeySource::File(file.clone()),
        (None, None) => KeySource::Beside(SealingKey::draw(random)),
    }
}

/// Logs the proxies: they may come from the environment without the operator's knowledge.
fn log_proxies(rules: &ProxyRules) {
    let describe = |proxy: &Option<Proxy>| proxy.as_ref().map_or("none".to_owned(), Proxy::to_string);
    if rules.http.is_some() || rules.https.is_some() {
        let direct: Vec<_> = rules.direct.iter().map(ToString::to_string).collect();
        tracing::info!(
            proxy.http = describe(&rules.http),
            proxy.https = describe(&rules.https),
            direct = direct.join(","),
            "deliveries use an HTTP proxy"
        );
    }
}
