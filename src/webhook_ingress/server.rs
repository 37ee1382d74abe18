//! Serves connections over HTTP/1.1: each with an end, no address with more than its share, all of them ended with the gateway.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{IngestSettings, file::SourcesFile, request::Ingest};
use crate::{
    clock::Clock,
    gateway::Gateway,
    limits::ConnectionLimiter,
    listen::{Limits, serve_connections},
};

/// How long a connection is kept at most. Nothing else ends one whose client sends requests and takes no answers.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// Takes webhooks from `sources` on `listener` until `shutdown`, then ends what is under way within the drain's bound.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    clock: Arc<dyn Clock>,
    sources: SourcesFile,
    settings: IngestSettings,
    shutdown: CancellationToken,
) {
    // How far connections have come does not matter here: none takes more than its place.
    let places = ConnectionLimiter::new(settings.connections_per_address_max, usize::MAX);
    let limits = Limits { connections_max: settings.connections_max, drain_timeout: settings.drain_timeout };
    let metrics = Arc::clone(gateway.metrics());
    let server = Arc::new((Ingest::new(gateway, clock, sources, settings.clone()), settings));
    serve_connections(listener, limits, shutdown, |stream, shutdown| {
        let (server, places, metrics) = (Arc::clone(&server), places.clone(), Arc::clone(&metrics));
        async move {
            let Ok(address) = stream.peer_addr() else { return };
            let Ok(_place) = places.take(Some(address.ip())) else {
                metrics.ingest.connections_refused.inc();
                return;
            };
            let _opened = metrics.ingest.connections.track();
            let (ingest, settings) = &*server;
            serve_one(stream, ingest, settings, address.ip(), shutdown).await;
        }
    })
    .await;
}

async fn serve_one(
    stream: TcpStream,
    ingest: &Ingest,
    settings: &IngestSettings,
    address: std::net::IpAddr,
    shutdown: CancellationToken,
) {
    // It broke before it was served, if that fails.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let answers = service_fn(async |request| Ok::<_, Infallible>(ingest.answer(address, request).await));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.read_timeout)
        .max_buf_size(settings.header_bytes_max)
        .serve_connection(TokioIo::new(stream), answers);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = shutdown.cancelled() => None,
        () = sleep(CONNECTION_AGE_MAX) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // What is under way is answered first. At the shutdown the drain's bound is shorter.
            connection.as_mut().graceful_shutdown();
            let rest = 2 * settings.read_timeout + settings.call_timeout;
            timeout(rest, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection of webhooks ended early");
    }
}
