//! Serves connections over HTTP/1.1. Each has an end, no address has more than its share, and all end with
//! the gateway.

use std::{convert::Infallible, net::IpAddr, pin::pin, sync::Arc, time::Duration};

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
    limits::{ConnectionState, Shares},
    listen::{Connection, Limits, incoming, serve_connections},
    metrics::Listener,
};

/// The longest life of a connection. Nothing else ends one whose client sends requests and reads no
/// responses.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);

/// Longest time for the headers of the first request. Chatwoot sends each webhook once, so that whoever holds a place
/// without one must not hold it long.
const UNPROVEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts webhooks from `sources` on `listener` until `shutdown`, then ends requests in flight within the
/// drain timeout.
pub async fn serve(
    listener: TcpListener,
    gateway: Gateway,
    clock: Arc<dyn Clock>,
    sources: SourcesFile,
    settings: IngestSettings,
    shutdown: CancellationToken,
) {
    let shares = Shares {
        unproven_timeout: UNPROVEN_TIMEOUT,
        ..Shares::of(settings.connections_max, settings.connections_per_address_max)
    };
    let limits = Limits::new(settings.connections_max, shares, settings.drain_timeout);
    let metrics = Arc::clone(gateway.metrics());
    let server = Arc::new((Ingest::new(gateway, clock, sources, settings.clone()), settings));
    let closed = |_| metrics.ingest.connections_refused.inc();
    let accepted = {
        let metrics = Arc::clone(&metrics);
        incoming(listener, move || metrics.accept_failed(Listener::Ingest))
    };
    serve_connections(accepted, limits, shutdown, closed, |connection, shutdown| {
        let (server, gauge) = (Arc::clone(&server), metrics.ingest.connections.track());
        async move {
            let Connection { stream, address, permit } = connection;
            let _open = gauge;
            let (ingest, settings) = &*server;
            let address = address.expect("TCP has addresses").ip();
            serve_connection(stream, ingest, settings, address, permit.state(), shutdown).await;
        }
    })
    .await;
}

async fn serve_connection(
    stream: TcpStream,
    ingest: &Ingest,
    settings: &IngestSettings,
    address: IpAddr,
    state: &ConnectionState,
    shutdown: CancellationToken,
) {
    let responses = service_fn(async |request| {
        let _call = state.call();
        let response = ingest.respond(address, request).await;
        if response.status().is_success() {
            state.prove();
        }
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.read_timeout)
        .max_buf_size(settings.header_bytes_max)
        .serve_connection(TokioIo::new(stream), responses);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = shutdown.cancelled() => None,
        () = sleep(CONNECTION_AGE_MAX) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            // The request in flight is completed first. At the shutdown the drain timeout is shorter.
            connection.as_mut().graceful_shutdown();
            let rest = 2 * settings.read_timeout + settings.call_timeout;
            timeout(rest, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a webhook connection ended early");
    }
}
