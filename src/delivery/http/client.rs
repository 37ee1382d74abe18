//! The HTTP client: settings, TLS, kept connections; and the whole that makes POSTs.

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

/// How long one POST may take, where the subscription does not say: until the answer's body is read.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// How long it may take until a connection can be used: look-up, TCP, proxy and TLS together.
pub const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Most bytes read of an answer's body.
pub const RESPONSE_BYTES_MAX_DEFAULT: usize = 64 * 1024;
/// How long an unused connection is kept.
pub const IDLE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(90);
/// Most unused connections kept per scheme, host, port and TLS profile.
pub const IDLE_CONNECTIONS_PER_ENDPOINT_MAX_DEFAULT: usize = 32;
/// Most unused connections kept in all.
pub const IDLE_CONNECTIONS_MAX_DEFAULT: usize = 4096;
/// Most TLS profiles of subscriptions that are kept ready.
pub const TLS_PROFILES_MAX_DEFAULT: usize = 1024;

/// Most bytes of an answer's headers. More than 100 headers are refused as well, by hyper's own bound.
const ANSWER_HEADERS_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of an answer's body that an HTTP/2 receiver may have under way on one stream.
const H2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// The same for a whole HTTP/2 connection.
const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How long an HTTP/2 connection with POSTs under way is silent before it is asked whether it still lives. Other than an
/// HTTP/1 connection it outlives the POSTs that run out of time on it, so a dead one must be found out.
const H2_PING_AFTER: Duration = Duration::from_secs(5);
/// How long the answer to that may take.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(4);

/// How POSTs are made.
#[derive(Clone, Debug)]
pub struct PosterSettings {
    /// Which addresses may be POSTed to.
    pub egress: EgressPolicy,
    /// Which endpoints are reached by a proxy.
    pub proxies: ProxyRules,
    /// How long one POST may take, where the subscription does not say.
    pub default_timeout: Duration,
    /// How long look-up, TCP, proxy and TLS may take together.
    pub connect_timeout: Duration,
    /// Counts the connections.
    pub connections: InFlightGauge,
    /// Most bytes read of an answer's body. Of a longer one the status counts and the connection is not kept, unless the
    /// little that is left is there already.
    pub response_bytes_max: usize,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// Most unused connections kept per scheme, host, port and TLS profile.
    pub idle_connections_per_endpoint_max: usize,
    /// Most unused connections kept in all. Once there are more, the half that was not used for longest is closed.
    pub idle_connections_max: usize,
    /// Certificate authorities that are trusted besides those of the system.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Most TLS profiles of subscriptions that are kept ready. The one that was not used for longest goes, and is made anew
    /// when it is wanted again.
    pub tls_profiles_max: usize,
}

impl Default for PosterSettings {
    /// Public addresses only, no proxy, the system's certificate authorities only, and the `_DEFAULT`s of this module.
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

/// Why no POSTs can be made with these settings.
#[derive(Debug, thiserror::Error)]
pub enum WebhookClientError {
    /// A certificate authority's certificate cannot be used.
    #[error("certificate {number} of the extra certificate authorities cannot be used: {source}")]
    ExtraRoot {
        /// Which of them, from 1.
        number: usize,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// TLS cannot be set up at all.
    #[error("tls cannot be set up: {0}")]
    Tls(rustls::Error),
}

/// What makes POSTs with these settings. Clones share the kept connections. To be called within a runtime's reach; reads
/// the system's certificate authorities from disk.
pub fn webhook_client(
    settings: &PosterSettings,
    clock: Arc<dyn Clock>,
) -> Result<WebhookClient, WebhookClientError> {
    webhook_client_with_dialer(connect::dial, settings, clock)
}

/// The same over connections that `dial` opens: for a simulated network. Names are still looked up by the system.
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

/// The certificates of a PEM file, for [`PosterSettings::extra_roots`]. Other sections are passed over.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

fn pool_settings(settings: &PosterSettings) -> PoolSettings {
    let mut http1 = http1::Builder::new();
    http1.max_buf_size(ANSWER_HEADERS_BYTES_MAX);
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(ANSWER_HEADERS_BYTES_MAX).expect("it is 16 KiB"))
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
