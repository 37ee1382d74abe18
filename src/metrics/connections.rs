//! gRPC connections: those that the gateway closed, the calls that it refused before they reached a service, and the
//! server's certificate.

use prometheus::{IntCounter, IntGauge, Registry};

use super::register::{counter, counters, gauge};

/// Why the gateway closed a connection of a gRPC client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Its address had reached its limit of connections.
    Address,
    /// Too many connections were in the handshake, in total or from its address.
    HalfOpen,
    /// TLS and the first bytes of HTTP took too long.
    HandshakeTimeout,
    /// TLS failed: no TLS at all, no client certificate, or one that is not trusted.
    HandshakeFailed,
    /// It did not begin as HTTP/2 or HTTP/1.1 does.
    NotHttp,
    /// No call was made for grpc_idle_timeout, or over HTTP/1.1 for a minute.
    Idle,
    /// The client did not read its responses.
    Stalled,
    /// Its address had reached its share of connections on which no call had had access.
    Unproven,
    /// No call on it had had access, and none was under way for 30 seconds.
    UnprovenTimeout,
    /// There were too many connections, its address had the most, and it was the idlest of them.
    Evicted,
}

/// In the order of [`CloseReason`].
const CLOSE_REASONS: [&str; 10] = [
    "address",
    "half_open",
    "handshake_timeout",
    "handshake_failed",
    "not_http",
    "idle",
    "stalled",
    "unproven",
    "unproven_timeout",
    "evicted",
];

/// A listener of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Of gRPC clients.
    Grpc,
    /// Of Chatwoot's webhooks.
    Ingest,
    /// Of browsers.
    Console,
    /// Of probes and of Prometheus.
    Ops,
}

/// In the order of [`Listener`], named like their settings.
pub(super) const LISTENERS: [&str; 4] = ["grpc_listen", "ingest_listen", "console_listen", "http_listen"];

/// Why a call was refused whoever made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallRefused {
    /// It was no POST, or had a content type of none of the protocols.
    NotACall,
    /// A page of a site made it that cors_allow_origins does not name.
    Origin,
    /// It named a host that is not this machine, while calls need no token.
    Host,
    /// It had too many headers.
    Headers,
    /// Its message, or the next one of reflection, took too long to arrive.
    MessageTimeout,
    /// Too many bytes of messages had not arrived whole, in all or of its caller. The same holds for the others.
    UnfinishedBytes,
    /// Too many bytes of responses were not read.
    UnreadBytes,
    /// Too many calls were under way.
    Calls,
    /// Its address made too many calls of health and reflection in a minute.
    OpenCalls,
    /// Too many health checks were under way.
    HealthChecks,
    /// Too many streams of health were open.
    HealthWatches,
    /// Too many streams of reflection were open.
    Reflections,
    /// Too many streams of publishers and watches were open.
    Streams,
    /// Its connection had too many streams of any kind.
    ConnectionStreams,
}

/// In the order of [`CallRefused`].
const CALL_REFUSED_REASONS: [&str; 14] = [
    "not_a_call",
    "origin",
    "host",
    "headers",
    "message_timeout",
    "unfinished_bytes",
    "unread_bytes",
    "calls",
    "open_calls",
    "health_checks",
    "health_watches",
    "reflections",
    "streams",
    "connection_streams",
];

/// Metrics of gRPC connections.
pub struct ConnectionMetrics {
    closed: Vec<IntCounter>,
    calls_refused: Vec<IntCounter>,
    /// Expiry of the certificate in use, in seconds since 1970; 0 without TLS.
    pub certificate_expiry: IntGauge,
    /// Reloads of the certificate files that succeeded.
    pub certificates_loaded: IntCounter,
    /// Reloads of the certificate files that failed.
    pub certificates_refused: IntCounter,
}

impl ConnectionMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            closed: counters(
                r,
                "tidings_grpc_connections_closed_total",
                "Connections of gRPC clients that the gateway closed, by reason.",
                "reason",
                &CLOSE_REASONS,
            ),
            calls_refused: counters(
                r,
                "tidings_grpc_calls_refused_total",
                "gRPC calls that were refused or ended by a limit or for their form, by reason.",
                "reason",
                &CALL_REFUSED_REASONS,
            ),
            certificate_expiry: gauge(
                r,
                "tidings_grpc_certificate_expiry_seconds",
                "Expiry of the gRPC server's certificate, in seconds since 1970; 0 without TLS.",
            ),
            certificates_loaded: counter(
                r,
                "tidings_grpc_certificates_loaded_total",
                "Reloads of changed certificate files that succeeded.",
            ),
            certificates_refused: counter(
                r,
                "tidings_grpc_certificates_refused_total",
                "Reloads of changed certificate files that failed. The gateway keeps the certificate that it had.",
            ),
        }
    }

    /// Counts a closed connection.
    pub fn closed(&self, reason: CloseReason) {
        self.closed[reason as usize].inc();
    }

    /// Counts a refused call.
    pub fn call_refused(&self, reason: CallRefused) {
        self.calls_refused[reason as usize].inc();
    }
}
