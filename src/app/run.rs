//! Runs a gateway: starts the dispatcher, the servers and the background tasks.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use rand::{RngExt, rngs::StdRng};
use tokio::{task::JoinHandle, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{App, access, console, drain::Running, grpc_runtime::GrpcRuntime, ingest, tls};
use crate::{
    clock::Clock,
    console::GrpcListener,
    delivery::dispatcher::Dispatcher,
    gateway::{Gateway, GatewayError, GatewaySettings},
    grpc::{self, ConnectionSettings, GrpcSettings, Health},
    metrics::Metrics,
    ops::{Phase, Readiness},
    store::{Store, disk::DiskStore},
};

/// Interval of looking at the wall clock.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

impl App {
    /// Serves until `shutdown`, finishes calls and attempts within the drain timeout, and closes the store.
    ///
    /// # Errors
    ///
    /// The store failed while the gateway ran, or cannot be closed, or threads cannot be started.
    ///
    /// # Panics
    ///
    /// A server panicked.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        self.log_listening()?;
        let health = Health::default();
        let store_watch = watch_store(&self.store, self.readiness.clone(), health.clone());
        let mut random: StdRng = rand::make_rng();
        let dispatcher = tokio::spawn(self.dispatcher(random.random()).run(shutdown.clone()));
        let gateway = self.gateway(random);
        spawn_background_tasks(&gateway, self.readiness, &shutdown);
        tokio::spawn(watch_clock(Arc::clone(&self.clock), Arc::clone(&self.metrics), shutdown.clone()));

        let tls = self.tls.as_ref().map(tls::GrpcTls::tls);
        let grpc_listener = GrpcListener { address: self.grpc.local_addr()?, tls: tls.is_some() };
        let connections = ConnectionSettings { tls, ..self.config.grpc.connections };
        let settings = GrpcSettings { connections, ..self.config.grpc };
        if let Some(tls) = self.tls {
            tls.watch_files(shutdown.clone());
        }
        let runtime = GrpcRuntime::start(self.config.threads).context("cannot start threads")?;
        let calls = grpc::Calls::new(gateway.clone(), &settings, &health, &shutdown);
        let console = self.console.map(|console| {
            let surroundings = console::surroundings(
                &calls,
                grpc_listener,
                gateway.clone(),
                Arc::clone(&self.clock),
                Arc::clone(&self.metrics),
                shutdown.clone(),
            );
            runtime.spawn(console.serve(surroundings))
        });
        let grpc = {
            let serving =
                grpc::serve_calls(self.grpc, calls, gateway.clone(), settings, health, shutdown.clone());
            runtime.spawn(async { _ = serving.await })
        };
        let ingest = {
            let (clock, settings) = (self.clock, self.config.ingest);
            self.ingest
                .map(|ingest| runtime.spawn(ingest.serve(gateway.clone(), clock, settings, shutdown.clone())))
        };
        let drain_timeout = self.config.clients.drain_timeout;
        let (store, ops) = (self.store, self.ops);
        let running = Running {
            store,
            gateway,
            ops,
            runtime,
            grpc,
            ingest,
            console,
            dispatcher,
            store_watch,
            drain_timeout,
        };
        running.wait(shutdown).await
    }

    fn log_listening(&self) -> anyhow::Result<()> {
        tracing::info!(
            grpc.listen = %self.grpc.local_addr()?, grpc.tls = tls::describe(self.tls.as_ref()),
            http.listen = %self.ops.address, ingest.listen = ingest::describe(self.ingest.as_ref()),
            console = console::describe(self.console.as_ref()),
            data.dir = %self.config.data_dir.display(), subscriptions = self.store.registry().len(), "listening",
        );
        Ok(())
    }

    fn dispatcher(&self, seed: u64) -> Dispatcher {
        Dispatcher::new(
            Arc::clone(&self.store) as Arc<dyn Store>,
            self.webhook_client.clone(),
            Arc::clone(&self.clock),
            self.config.dispatch,
            Arc::clone(&self.metrics),
            seed,
        )
    }

    fn gateway(&self, random: StdRng) -> Gateway {
        let settings = GatewaySettings {
            retry_defaults: self.config.dispatch.retry.policy(),
            egress: self.config.egress.policy(),
            tokens: access::token_settings(&self.config, self.admin),
            ..self.config.gateway.clone()
        };
        Gateway::new(
            Arc::clone(&self.store) as Arc<dyn Store>,
            self.webhook_client.clone(),
            Arc::clone(&self.clock),
            settings,
            Arc::clone(&self.metrics),
            random,
        )
    }
}

fn spawn_background_tasks(gateway: &Gateway, readiness: Readiness, shutdown: &CancellationToken) {
    tokio::spawn(enforce_retention(gateway.clone(), shutdown.clone()));
    tokio::spawn(access::end_expired_tokens(gateway.clone(), shutdown.clone()));
    tokio::spawn(access::write_token_uses(gateway.clone(), shutdown.clone()));
    tokio::spawn(report_readiness(readiness, shutdown.clone()));
}

/// Deletes events and audit records beyond the retention, at intervals.
async fn enforce_retention(gateway: Gateway, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(gateway.retention_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        match gateway.enforce_retention().await {
            Ok(purged) if purged.events > 0 => tracing::debug!(events = purged.events, "deleted old events"),
            Ok(_) => {}
            Err(error @ GatewayError::ReadFailed(_)) => {
                tracing::warn!(%error, "cannot delete old events; trying again");
            }
            // A failure of the store has been logged already.
            Err(error) => tracing::debug!(%error, "cannot delete old events"),
        }
    }
}

/// Reports steps of the wall clock. Nothing but the times that people see depends on this.
async fn watch_clock(clock: Arc<dyn Clock>, metrics: Arc<Metrics>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(CLOCK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        let Some(micros) = clock.notice_step() else { continue };
        metrics.clock_stepped(micros);
        let by = Duration::from_micros(micros.unsigned_abs());
        let direction = if micros < 0 { "back" } else { "ahead" };
        tracing::warn!(
            ?by,
            "the wall clock was set {direction}; waits and ages count the time that really passes"
        );
    }
}

/// Reports the gateway ready, and draining after `shutdown`.
async fn report_readiness(readiness: Readiness, shutdown: CancellationToken) {
    readiness.advance(Phase::Serving);
    shutdown.cancelled().await;
    readiness.advance(Phase::Draining);
}

/// Reports the gateway out of service when its store fails.
fn watch_store(store: &DiskStore, readiness: Readiness, health: Health) -> JoinHandle<()> {
    let mut failure = store.failure();
    tokio::spawn(async move {
        if failure.wait_for(Option::is_some).await.is_ok() {
            readiness.advance(Phase::StoreFailed);
            health.set_not_serving();
        }
    })
}
