//! TLS of the gRPC port: its certificates, from before anybody is told that the gateway listens.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    file_watch::FileWatch,
    grpc::{Tls, TlsFiles},
    metrics::Metrics,
};

/// What is spoken, and what has its files looked at.
pub(super) struct GrpcTls {
    tls: Tls,
    watch: FileWatch,
}

impl GrpcTls {
    /// Reads the files, where they are configured.
    ///
    /// # Errors
    ///
    /// They cannot be used, or the signal cannot be listened for.
    pub(super) fn set_up(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Self>> {
        let Some(files) = files(config) else { return Ok(None) };
        let tls = Tls::load(files, Arc::clone(metrics))?;
        let watch = FileWatch::new(config.grpc_tls_reload_interval).context("cannot listen for signals")?;
        Ok(Some(Self { tls, watch }))
    }

    /// What connections are opened with.
    pub(super) fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// Has the files looked at for changes from now on. To be called within a runtime.
    pub(super) fn keep_current(self, shutdown: CancellationToken) {
        tokio::spawn(self.tls.keep_current(self.watch, shutdown));
    }
}

/// What is said of it at the start.
pub(super) fn told(tls: Option<&GrpcTls>) -> &'static str {
    match tls {
        None => "off",
        Some(tls) if tls.tls.is_mutual() => "mutual",
        Some(_) => "on",
    }
}

fn files(config: &Config) -> Option<TlsFiles> {
    let (certificate, key) = (config.grpc_tls_cert_file.clone()?, config.grpc_tls_key_file.clone()?);
    Some(TlsFiles { certificate, key, client_ca: config.grpc_client_ca_file.clone() })
}
