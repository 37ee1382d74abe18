//! Settings of the gRPC server.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use http::HeaderValue;

use super::{connection::ConnectionSettings, tls::TlsSettings};
use crate::{
    config::{
        ClientSettings, declared_defaults,
        quantities::{address, origin},
    },
    gateway::CALL_TIMEOUT,
    grpc::layers::auth::AccessSettings,
};

/// Settings of the gRPC server, and its limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "gRPC")]
pub struct GrpcSettings {
    /// Address of the gRPC services. Port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:50051", value_parser = address)]
    pub grpc_listen: SocketAddr,
    /// Files of certificates.
    #[command(flatten)]
    pub tls: TlsSettings,
    /// Sites whose web pages may call over HTTP: their origins, such as `https://app.example.com`. Without it no page may.
    ///
    /// docs/http.md says what a page can do then. The flag may be repeated.
    #[arg(long, value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub cors_allow_origins: Vec<HeaderValue>,
    /// Connections.
    #[command(flatten)]
    pub connections: ConnectionSettings,
    /// Callers that are known to the server rather than to the gateway.
    #[command(flatten)]
    pub access: AccessSettings,
    /// Largest message of a request, in bytes before and after decompression: what gRPC clients take by default as
    /// well. A larger one is refused with MESSAGE_TOO_LARGE.
    #[arg(skip = 4 * 1024 * 1024_usize)]
    pub message_bytes_max: usize,
    /// Longest list of request headers, in bytes.
    #[arg(skip = 16 * 1024_u32)]
    pub header_bytes_max: u32,
    /// Most calls at once over all connections. One caller may have half of them, as of the following.
    #[arg(skip)]
    pub calls_in_flight_max: usize,
    /// Most calls at once that make a page of a list, or whose page its client has not taken; further ones wait for
    /// their turn. Each takes a few megabytes.
    #[arg(skip = 8_usize)]
    pub lists_in_flight_max: usize,
    /// Most health checks at once.
    #[arg(skip)]
    pub health_checks_max: usize,
    /// Most open streams of health: as many as connections, since clients that watch the health of a server do so
    /// once on each.
    #[arg(skip)]
    pub health_watches_max: usize,
    /// Most open streams of reflection.
    #[arg(skip = 64_usize)]
    pub reflections_max: usize,
    /// Most open streams of publishers and watches.
    #[arg(skip)]
    pub streams_max: usize,
    /// Most open streams of any kind on one connection.
    #[arg(skip = 128_usize)]
    pub streams_per_connection_max: usize,
    /// Most calls at once on one connection.
    #[arg(skip = 512_u32)]
    pub calls_per_connection_max: u32,
    /// Most events of one StreamPublishEvents call without a response yet, at least 1.
    #[arg(skip = 256_usize)]
    pub stream_events_in_flight_max: usize,
    /// Longest time for a call, but for streams and TestSubscription. A longer one is DEADLINE_EXCEEDED.
    #[arg(skip = CALL_TIMEOUT)]
    pub call_timeout: Duration,
    /// Longest time for calls under way to end at the shutdown.
    #[arg(skip)]
    pub drain_timeout: Duration,
}

impl GrpcSettings {
    /// Sets the limits that follow from other settings.
    pub fn derive(&mut self, clients: &ClientSettings) {
        let connections_max = clients.client_connections_max;
        self.calls_in_flight_max = 2 * connections_max;
        self.health_checks_max = (connections_max / 4).max(4);
        self.health_watches_max = connections_max;
        self.streams_max = connections_max;
        self.drain_timeout = clients.drain_timeout;
        self.connections.derive(clients);
    }
}

impl Default for GrpcSettings {
    fn default() -> Self {
        let mut settings: Self = declared_defaults();
        settings.derive(&ClientSettings::default());
        settings
    }
}
