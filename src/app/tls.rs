//! TLS of the gRPC port, with reloads of its certificates.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use super::{Config, access::warn_if_readable_by_others};
use crate::{
    file_watch::FileWatch,
    grpc::{Tls, TlsListener},
    metrics::Metrics,
};

/// The TLS configuration, and the watch that reloads it.
pub(super) struct GrpcTls {
    tls: Tls,
    /// Installed before the gateway logs that it listens, so that no SIGHUP is missed.
    watch: FileWatch,
}

impl GrpcTls {
    /// Reads the certificate files, if they are configured.
    ///
    /// # Errors
    ///
    /// A file is unusable, or the signal handler cannot be installed.
    pub(super) fn set_up(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Self>> {
        let Some(files) = config.grpc.tls.files() else { return Ok(None) };
        warn_if_readable_by_others(&files.key, "the key of the gRPC port's certificate");
        let tls = Tls::load(TlsListener::Grpc, files, Arc::clone(metrics))?;
        let watch = FileWatch::new(config.clients.reload_interval).context("cannot listen for signals")?;
        Ok(Some(Self { tls, watch }))
    }

    /// The TLS configuration for the server.
    pub(super) fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// Reloads the files when they change, in a task. Call it within a runtime.
    pub(super) fn watch_files(self, shutdown: CancellationToken) {
        tokio::spawn(self.tls.keep_current(self.watch, shutdown));
    }
}

/// The kind of TLS for the log: `off`, `on`, or `mutual` with client certificates.
pub(super) fn describe(tls: Option<&GrpcTls>) -> &'static str {
    match tls {
        None => "off",
        Some(tls) if tls.tls.is_mutual() => "mutual",
        Some(_) => "on",
    }
}
