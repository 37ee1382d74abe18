//! The webhook client: its settings, and how its parts are put together.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::{CertificateDer, pem, pem::PemObject};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    connect::{self, ConnectSettings, Connector},
    pool::{HttpClient, PoolSettings},
    stack,
    tls::Tls,
};
use crate::{
    clock::Clock,
    domain::egress::{EgressPolicy, ProxyRules},
    event::webhook::WebhookClient,
    metrics::InFlightGauge,
};

pub use super::tls::WebhookClientError;

/// Default timeout of an attempt, from name resolution to the end of the response's body.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// Default timeout of connecting: name resolution, TCP, proxy and TLS together.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Default of the most bytes read of a response's body.
pub const RESPONSE_BYTES_MAX_DEFAULT: usize = 64 * 1024;
/// Default time after which an idle connection is closed.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(90);
/// Default of the most idle connections per scheme, host, port and TLS profile.
pub const IDLE_CONNECTIONS_PER_ENDPOINT_MAX_DEFAULT: usize = 32;
/// Default of the most idle connections in all.
pub const IDLE_CONNECTIONS_MAX_DEFAULT: usize = 4096;
/// Default of the most TLS configurations of subscriptions in memory.
pub const TLS_PROFILES_MAX_DEFAULT: usize = 1024;

/// Most bytes of a response's headers. hyper also rejects more than 100 headers.
const RESPONSE_HEADERS_BYTES_MAX: usize = 16 * 1024;
/// HTTP/2 flow-control window of a stream.
const H2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// HTTP/2 flow-control window of a connection.
const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Silence after which an HTTP/2 connection with requests under way gets a PING. Unlike an HTTP/1 connection
/// it outlives requests that time out, so a dead one must be detected.
const H2_PING_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for the acknowledgement of a PING.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(4);

/// Settings of the webhook client.
#[derive(Clone, Debug)]
pub struct PosterSettings {
    /// Addresses that may be connected to.
    pub egress: EgressPolicy,
    /// Endpoints that are reached by a proxy.
    pub proxies: ProxyRules,
    /// Timeout of an attempt whose subscription sets none.
    pub default_timeout: Duration,
    /// Timeout of name resolution, TCP, proxy and TLS together.
    pub connect_timeout: Duration,
    /// Gauge of open connections.
    pub connections: InFlightGauge,
    /// Most bytes read of a response's body. With a longer one the status still decides, but the connection
    /// is closed unless the rest has already arrived.
    pub response_bytes_max: usize,
    /// Time after which an idle connection is closed.
    pub idle_timeout: Duration,
    /// Most idle connections per scheme, host, port and TLS profile.
    pub idle_connections_per_endpoint_max: usize,
    /// Most idle connections in all. With more, the half that is idle for longest is closed.
    pub idle_connections_max: usize,
    /// Certificate authorities to trust in addition to those of the system.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Most TLS configurations of subscriptions in memory. The least recently used one is dropped, and built
    /// again when it is needed.
    pub tls_profiles_max: usize,
}

impl Default for PosterSettings {
    /// Public addresses only, no proxy, the system's certificate authorities only, and the `_DEFAULT`s of
    /// this module.
    fn default() -> Self {
        Self {
            egress: EgressPolicy::default(),
            proxies: ProxyRules::default(),
            default_timeout: TIMEOUT_DEFAULT,
            connect_timeout: CONNECT_TIMEOUT_DEFAULT,
            connections: InFlightGauge::default(),
            response_bytes_max: RESPONSE_BYTES_MAX_DEFAULT,
            idle_timeout: IDLE_TIMEOUT_DEFAULT,
            idle_connections_per_endpoint_max: IDLE_CONNECTIONS_PER_ENDPOINT_MAX_DEFAULT,
            idle_connections_max: IDLE_CONNECTIONS_MAX_DEFAULT,
            extra_roots: Vec::new(),
            tls_profiles_max: TLS_PROFILES_MAX_DEFAULT,
        }
    }
}

/// A webhook client. Clones share the connection pool. Must be called within a tokio runtime; reads the
/// system's certificate authorities from disk.
pub fn webhook_client(
    settings: &PosterSettings,
    clock: Arc<dyn Clock>,
) -> Result<WebhookClient, WebhookClientError> {
    webhook_client_with_dialer(connect::dial, settings, clock)
}

/// A webhook client over connections that `dial` opens, for a simulated network. The system still resolves
/// names.
pub fn webhook_client_with_dialer<D, F, T>(
    dial: D,
    settings: &PosterSettings,
    clock: Arc<dyn Clock>,
) -> Result<WebhookClient, WebhookClientError>
where
    D: Fn(SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let connecting = ConnectSettings {
        egress: settings.egress.clone(),
        proxies: settings.proxies.clone(),
        tls: Tls::new(&settings.extra_roots, settings.tls_profiles_max)?,
        timeout: settings.connect_timeout,
        connections: settings.connections.clone(),
    };
    let connector = Connector::new(dial, connecting);
    let client = HttpClient::new(connector, pool_settings(settings));
    Ok(stack::webhook_client(client, settings.default_timeout, settings.response_bytes_max, clock))
}

/// The certificates of a PEM file, for [`PosterSettings::extra_roots`]. Other sections are ignored.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

fn pool_settings(settings: &PosterSettings) -> PoolSettings {
    let mut http1 = http1::Builder::new();
    http1.max_buf_size(RESPONSE_HEADERS_BYTES_MAX);
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(RESPONSE_HEADERS_BYTES_MAX).expect("it is 16 KiB"))
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(H2_PING_AFTER)
        .keep_alive_timeout(H2_PING_TIMEOUT);
    PoolSettings {
        http1,
        http2,
        idle_timeout: settings.idle_timeout,
        idle_per_origin_max: settings.idle_connections_per_endpoint_max,
        idle_max: settings.idle_connections_max,
    }
}
