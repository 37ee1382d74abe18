//! The listener for Chatwoot's webhooks.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Config, bind::bind};
use crate::{
    clock::Clock,
    domain::access::ListenContext,
    file_watch::FileWatch,
    gateway::Gateway,
    metrics::Metrics,
    webhook_ingress::{self, IngestSettings, SourcesFile},
};

/// A bound listener, and the sources of webhooks.
pub(super) struct Ingest {
    listener: TcpListener,
    sources: SourcesFile,
    /// Installed before the gateway logs that it listens, so that no SIGHUP is missed.
    watch: FileWatch,
}

impl Ingest {
    /// Binds the address and reads the sources, if they are configured.
    ///
    /// # Errors
    ///
    /// The address is in use, the sources file is unusable, or the signal handler cannot be installed.
    pub(super) async fn set_up(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Self>> {
        let Some(address) = config.ingest.ingest_listen else { return Ok(None) };
        let listener = bind(address, "ingest_listen").await?;
        let file = config.ingest.ingest_sources_file.as_deref();
        let file = file.context("ingest_listen needs ingest_sources_file, which is not set")?;
        let is_exposed = !ListenContext::is_loopback(listener.local_addr()?.ip());
        let sources = SourcesFile::load(file, is_exposed, Arc::clone(metrics))?;
        let watch = FileWatch::new(config.clients.reload_interval).context("cannot listen for signals")?;
        Ok(Some(Self { listener, sources, watch }))
    }

    /// Serves webhooks until `shutdown`, and reloads the sources when their file changes.
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

    fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }
}

/// The address for the log, or `off`.
pub(super) fn describe(ingest: Option<&Ingest>) -> String {
    ingest.and_then(Ingest::address).map_or_else(|| "off".to_owned(), |address| address.to_string())
}
