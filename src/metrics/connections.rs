//! What is counted of gRPC connections: those that the gateway closed, and the certificates that it shows.

use prometheus::{IntCounter, IntGauge, Registry};

use super::make::{counter, counters, gauge};

/// Why the gateway closed a connection of a gRPC client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Its address had as many as it may.
    Address,
    /// As many as may be were not open yet, in all or of its address.
    HalfOpen,
    /// TLS and the beginning of HTTP/2 took too long.
    HandshakeTimeout,
    /// There was no TLS, or not as it must be: no certificate, or one that is not trusted.
    HandshakeFailed,
    /// It did not begin as HTTP/2 does.
    NotHttp2,
    /// Nothing was called for long.
    Idle,
    /// Its client did not take its answers.
    Stalled,
}

/// In the order of [`CloseReason`].
const CLOSE_REASONS: [&str; 7] =
    ["address", "half_open", "handshake_timeout", "handshake_failed", "not_http2", "idle", "stalled"];

/// The counts.
pub struct ConnectionMetrics {
    closed: Vec<IntCounter>,
    /// When the certificate in use ends, in seconds since 1970; 0 without TLS.
    pub certificate_expiry: IntGauge,
    /// Certificates that came into use while the gateway ran.
    pub certificates_loaded: IntCounter,
    /// Certificates that could not be used then.
    pub certificates_refused: IntCounter,
}

impl ConnectionMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            closed: counters(
                r,
                "tidings_grpc_connections_closed_total",
                "Connections of gRPC clients that the gateway closed, by why; not those that their clients closed.",
                "reason",
                &CLOSE_REASONS,
            ),
            certificate_expiry: gauge(
                r,
                "tidings_grpc_certificate_expiry_seconds",
                "When the certificate ends that gRPC clients are shown, in seconds since 1970; 0 without TLS.",
            ),
            certificates_loaded: counter(
                r,
                "tidings_grpc_certificates_loaded_total",
                "Changes of the certificate files that came into use while the gateway ran.",
            ),
            certificates_refused: counter(
                r,
                "tidings_grpc_certificates_refused_total",
                "Changes of the certificate files that could not be used.",
            ),
        }
    }

    /// Counts a connection that was closed for this reason.
    pub fn closed(&self, reason: CloseReason) {
        self.closed[reason as usize].inc();
    }
}
