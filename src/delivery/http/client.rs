//! The webhook client: its settings, and how its parts are put together.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use clap::Args;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::{CertificateDer, pem, pem::PemObject};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    connect::{self, ConnectSettings, Connector},
    failure::RESPONSE_HEADERS_BYTES_MAX,
    lifetime::LifetimeMax,
    pool::PoolSettings,
    send::HttpClient,
    stack::{self, BodyBounds},
    tls::Tls,
};
use crate::{
    clock::Clock,
    config::{
        declared_defaults,
        quantities::{bytes, duration},
    },
    delivery::dispatcher::settings::DispatchSettings,
    domain::egress::{EgressPolicy, ProxyRules},
    event::webhook::WebhookClient,
    metrics::InFlightGauge,
};

pub use super::{
    dns::{DESCRIPTORS_PER_LOOKUP, lookups_max},
    race::further_dials_max,
    tls::WebhookClientError,
};

/// Most bytes read of a response's body.
pub const RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// Longest wait of an attempt for a response's body after its head.
pub const RESPONSE_BODY_WAIT: Duration = Duration::from_secs(1);
/// HTTP/2 flow-control window of a stream.
const H2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// HTTP/2 flow-control window of a connection.
const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// Silence after which an HTTP/2 connection with requests under way gets a PING. Unlike an HTTP/1 connection
/// it outlives requests that time out, so a dead one must be detected.
const H2_PING_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for the acknowledgement of a PING.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(4);

/// Settings of the webhook client, and its limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Delivery")]
pub struct WebhookClientSettings {
    /// Timeout of one POST whose subscription sets none.
    ///
    /// Half of it is the timeout of its connection: name resolution, TCP, proxy and TLS.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration("1s", "30s"))]
    pub delivery_timeout: Duration,
    /// Timeout of name resolution, TCP, proxy and TLS together.
    #[arg(skip)]
    pub connect_timeout: Duration,
    /// Most bytes read of a response's body. With a longer one the status still decides, but the connection
    /// is closed unless the rest has already arrived.
    #[arg(skip = RESPONSE_BYTES_MAX)]
    pub response_bytes_max: usize,
    /// Most bytes of a response's body that are stored with its attempt. At 0 none are.
    ///
    /// Raise it if receivers explain failures at greater length, lower it if attempts take too much of the
    /// disk.
    #[arg(long, value_name = "SIZE", default_value = "4KiB", value_parser = bytes::<usize>("0", "64KiB"))]
    pub response_body_kept: usize,
    /// How long an attempt waits for a response's body after its head, for the record: the status has
    /// decided. Then it is settled with as much of the body as there is. It keeps its place among the
    /// attempts in flight until the body or its time ends.
    #[arg(skip = RESPONSE_BODY_WAIT)]
    pub response_body_wait: Duration,
    /// Longest time that a connection to an endpoint gets new POSTs; each gets at least three quarters of it.
    ///
    /// Lower it if endpoints are behind a load balancer whose new nodes should get POSTs sooner, or that
    /// closes connections sooner.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration("1s", "1d"))]
    pub delivery_connection_age_max: Duration,
    /// Most POSTs over one connection; each gets at least three quarters of it.
    #[arg(skip = 10_000_u32)]
    pub connection_requests_max: u32,
    /// Seed of the jitter of both.
    #[arg(skip)]
    pub seed: u64,
    /// Time after which an idle connection is closed.
    #[arg(skip = Duration::from_secs(90))]
    pub idle_timeout: Duration,
    /// Most idle connections per scheme, host, port and TLS profile.
    #[arg(skip = 32_usize)]
    pub idle_connections_per_endpoint_max: usize,
    /// Most idle connections in total. With more, the half that is idle for longest is closed.
    #[arg(skip)]
    pub idle_connections_max: usize,
    /// Most concurrent name resolutions.
    #[arg(skip)]
    pub lookups_max: usize,
    /// Most concurrent dials besides the first one of each attempt: names may have addresses that are silent.
    #[arg(skip)]
    pub further_dials_max: usize,
    /// Most TLS configurations of subscriptions in memory. The least recently used one is dropped, and built
    /// again when it is needed.
    #[arg(skip = 1024_usize)]
    pub tls_profiles_max: usize,
    /// Addresses that may be POSTed to, and headers that subscriptions may not set.
    #[arg(skip)]
    pub egress: EgressPolicy,
    /// Endpoints that are reached by a proxy.
    #[arg(skip)]
    pub proxies: ProxyRules,
    /// Certificate authorities to trust in addition to the system's.
    #[arg(skip)]
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Counts the connections.
    #[arg(skip)]
    pub connections: InFlightGauge,
}

impl WebhookClientSettings {
    /// Sets the limits that follow from other settings.
    pub fn derive(&mut self, attempts_in_flight_max: usize) {
        self.connect_timeout = self.delivery_timeout / 2;
        self.idle_connections_max = 4 * attempts_in_flight_max;
        self.lookups_max = lookups_max(attempts_in_flight_max);
        self.further_dials_max = further_dials_max(attempts_in_flight_max);
    }
}

impl Default for WebhookClientSettings {
    /// Public addresses only, no proxy, the system's certificate authorities only.
    fn default() -> Self {
        let mut settings: Self = declared_defaults();
        settings.derive(DispatchSettings::default().attempts_in_flight_max);
        settings
    }
}

/// A webhook client. Clones share the connection pool. Must be called within a tokio runtime; reads the
/// system's certificate authorities from disk.
pub fn webhook_client(
    settings: &WebhookClientSettings,
    clock: Arc<dyn Clock>,
) -> Result<WebhookClient, WebhookClientError> {
    webhook_client_with_dialer(connect::dial, settings, clock)
}

/// A webhook client over connections that `dial` opens, for a simulated network. The system still resolves
/// names.
pub fn webhook_client_with_dialer<D, F, T>(
    dial: D,
    settings: &WebhookClientSettings,
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
        lookups_max: settings.lookups_max,
        further_dials_max: settings.further_dials_max,
        connections: settings.connections.clone(),
    };
    let connector = Connector::new(dial, connecting);
    let client = HttpClient::new(connector, pool_settings(settings));
    let bounds = BodyBounds {
        read: settings.response_bytes_max,
        kept: settings.response_body_kept,
        wait: settings.response_body_wait,
    };
    Ok(stack::webhook_client(client, settings.delivery_timeout, bounds, settings.egress.clone(), clock))
}

/// The certificates of a PEM file, for [`WebhookClientSettings::extra_roots`]. Other sections are ignored.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

fn pool_settings(settings: &WebhookClientSettings) -> PoolSettings {
    let mut http1 = http1::Builder::new();
    // As Chatwoot writes them: some receivers look names up as they are documented.
    http1.max_buf_size(RESPONSE_HEADERS_BYTES_MAX).title_case_headers(true);
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        // The receiver says how many it takes at once before the first response: more could be refused.
        .initial_max_send_streams(1)
        .max_header_list_size(u32::try_from(RESPONSE_HEADERS_BYTES_MAX).expect("it is 16 KiB"))
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(H2_PING_AFTER)
        .keep_alive_timeout(H2_PING_TIMEOUT);
    PoolSettings {
        http1,
        http2,
        lifetime_max: LifetimeMax {
            age: settings.delivery_connection_age_max,
            requests: settings.connection_requests_max,
        },
        seed: settings.seed,
        idle_timeout: settings.idle_timeout,
        idle_per_origin_max: settings.idle_connections_per_endpoint_max,
        idle_max: settings.idle_connections_max,
    }
}
