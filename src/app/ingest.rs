//! The listener of Chatwoot's webhooks: where it listens, from whom it takes them, and what bounds it.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::bind;
use crate::{
    clock::Clock,
    config::Config,
    domain::access::ListenContext,
    file_watch::FileWatch,
    gateway::Gateway,
    metrics::Metrics,
    webhook_ingress::{self, IngestSettings, SourcesFile},
};

/// A listener that is bound, and the sources that it takes webhooks from.
pub(super) struct Ingest {
    listener: TcpListener,
    sources: SourcesFile,
    /// Catches SIGHUP before the log says that the gateway listens.
    watch: FileWatch,
}

impl Ingest {
    /// Binds the address and reads the sources, where they are configured.
    ///
    /// # Errors
    ///
    /// The address is taken, the sources file cannot be used, or the signal cannot be listened for.
    pub(super) async fn set_up(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Self>> {
        let Some(address) = config.ingest.listen else { return Ok(None) };
        let listener = bind(address, "ingest_listen").await?;
        let file = config.ingest.sources_file.as_deref();
        let file = file.context("ingest_listen needs ingest_sources_file, which is not set")?;
        let is_exposed = !ListenContext::is_loopback(listener.local_addr()?.ip());
        let sources = SourcesFile::load(file, is_exposed, Arc::clone(metrics))?;
        let watch =
            FileWatch::new(config.ingest.sources_reload_interval).context("cannot listen for signals")?;
        Ok(Some(Self { listener, sources, watch }))
    }

    /// Where it listens, if the system tells.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Accepts webhooks until `shutdown`, and reads the sources again when they change.
    pub(super) async fn serve(
        self,
        gateway: Gateway,
        clock: Arc<dyn Clock>,
        settings: IngestSettings,
        shutdown: CancellationToken,
    ) {
        tokio::spawn(self.sources.clone().keep_current(self.watch, shutdown.clone()));
        webhook_ingress::serve(self.listener, gateway, clock, self.sources, settings, shutdown).await;
    }
}

/// What is said of it at the start.
pub(super) fn told(ingest: Option<&Ingest>) -> String {
    ingest.and_then(Ingest::address).map_or_else(|| "off".to_owned(), |address| address.to_string())
}

pub(super) fn settings(config: &Config) -> IngestSettings {
    let ingest = &config.ingest;
    IngestSettings {
        body_bytes_max: ingest.body_bytes_max,
        header_bytes_max: ingest.header_bytes_max,
        bytes_in_flight_max: ingest.bytes_in_flight_max,
        requests_in_flight_max: ingest.requests_in_flight_max,
        connections_max: ingest.connections_max,
        connections_per_address_max: ingest.connections_per_address_max,
        read_timeout: ingest.read_timeout,
        signature_tolerance: ingest.signature_tolerance,
        call_timeout: config.call_timeout,
        drain_timeout: config.drain_timeout,
        failures_per_minute_max: config.access_failures_per_minute_max,
        failure_addresses_max: config.access_failure_addresses_max,
    }
}
