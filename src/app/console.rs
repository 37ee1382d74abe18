//! The listener of the console.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{Config, access::warn_if_readable_by_others, bind::bind};
use crate::{
    clock::Clock,
    console::{Console, ConsoleSettings, GrpcListener, Surroundings, TlsSource},
    file_watch::FileWatch,
    gateway::Gateway,
    grpc::{Calls, Tls, TlsFiles, TlsListener},
    metrics::Metrics,
};

/// A bound listener, and its certificate.
pub(super) struct BoundConsole {
    listener: TcpListener,
    settings: ConsoleSettings,
    /// With the watch of its files, installed before the gateway logs that it listens.
    tls: Option<(Tls, FileWatch)>,
}

impl BoundConsole {
    /// Binds the address and reads the certificate, if there is a console.
    ///
    /// # Errors
    ///
    /// The address is in use, a file is unusable, or the signal handler cannot be installed.
    pub(super) async fn set_up(config: &Config, metrics: &Arc<Metrics>) -> anyhow::Result<Option<Self>> {
        let settings = config.console.clone();
        let Some(address) = settings.console_listen.address() else { return Ok(None) };
        let listener = bind(address, "console_listen").await?;
        let files = settings.console_tls_cert_file.clone().zip(settings.console_tls_key_file.clone());
        let tls = match files {
            None => None,
            Some((certificate, key)) => {
                let files = TlsFiles { certificate, key, client_ca: None };
                warn_if_readable_by_others(&files.key, "the key of the console's certificate");
                let tls = Tls::load(TlsListener::Console, files, Arc::clone(metrics))?;
                let watch =
                    FileWatch::new(config.clients.reload_interval).context("cannot listen for signals")?;
                Some((tls, watch))
            }
        };
        Ok(Some(Self { listener, settings, tls }))
    }

    /// Serves browsers until the shutdown, and reloads the certificate when its files change.
    pub(super) async fn serve(self, surroundings: Surroundings) {
        let Self { listener, settings, tls } = self;
        let tls = tls.map(|(tls, watch)| {
            tokio::spawn(tls.clone().keep_current(watch, surroundings.shutdown.clone()));
            Arc::new(move || tls.acceptor()) as TlsSource
        });
        let address = settings.console_listen.address().expect("it is bound");
        let address = listener.local_addr().unwrap_or(address);
        let console = Console::new(settings, address, tls.is_some(), surroundings);
        // Checked before anything was bound.
        console.expect("the address and the URL were checked").serve(listener, tls).await;
    }

    fn address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }
}

/// The parts of the gateway that the console is made with.
pub(super) fn surroundings(
    calls: &Calls,
    grpc: GrpcListener,
    gateway: Gateway,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> Surroundings {
    Surroundings {
        calls: calls.in_process(),
        grpc,
        metrics,
        tokens_required: Box::new(move || gateway.asks_for_proof()),
        now: Box::new(move || clock.now()),
        random: rand::make_rng(),
        shutdown,
    }
}

/// The address for the log, as a browser takes it, or `off`.
pub(super) fn describe(console: Option<&BoundConsole>) -> String {
    let scheme = |console: &BoundConsole| if console.tls.is_some() { "https" } else { "http" };
    let url = console.and_then(|console| Some(format!("{}://{}/", scheme(console), console.address()?)));
    url.unwrap_or_else(|| "off".to_owned())
}
