//! Chatwoot's webhooks that the gateway receives: outcomes, connections, sources.

use prometheus::{IntCounter, IntGauge, Registry};

use super::{
    InFlightGauge,
    register::{counter, counters, gauge},
};

/// Outcome of a webhook request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestOutcome {
    /// Its event is stored.
    Accepted,
    /// Its event was stored before.
    Duplicate,
    /// No source has its path.
    NotFound,
    /// Its signature is missing or wrong.
    Unsigned,
    /// Its address sent too many requests that were one of these two.
    RateLimited,
    /// Its method is not POST, or a header is invalid.
    Malformed,
    /// Its event has come through too many gateways.
    Looped,
    /// Its body is too large.
    TooLarge,
    /// Its body did not arrive completely, or not in time.
    Unread,
    /// Its body is not a valid event.
    Invalid,
    /// Its delivery id was used for another event.
    Conflict,
    /// A limit of the gateway was reached.
    Overloaded,
    /// The disk is full or failed, or the gateway shuts down.
    Unavailable,
    /// A bug in the gateway.
    Internal,
}

impl IngestOutcome {
    /// All outcomes, in the order of the counters.
    pub const ALL: [Self; 14] = [
        Self::Accepted,
        Self::Duplicate,
        Self::NotFound,
        Self::Unsigned,
        Self::RateLimited,
        Self::Malformed,
        Self::Looped,
        Self::TooLarge,
        Self::Unread,
        Self::Invalid,
        Self::Conflict,
        Self::Overloaded,
        Self::Unavailable,
        Self::Internal,
    ];

    /// The value of the label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::NotFound => "not_found",
            Self::Unsigned => "unsigned",
            Self::RateLimited => "rate_limited",
            Self::Malformed => "malformed",
            Self::Looped => "looped",
            Self::TooLarge => "too_large",
            Self::Unread => "unread",
            Self::Invalid => "invalid",
            Self::Conflict => "conflict",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Internal => "internal",
        }
    }
}

/// Why a webhook is kept as it came, as an event without a type of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeptReason {
    /// Its event has no type.
    UnknownEvent,
    /// Something in it would not come out again exactly.
    Inexact,
    /// A text in it has the character U+0000.
    NullCharacter,
}

impl KeptReason {
    /// All reasons, in the order of the counters.
    pub const ALL: [Self; 3] = [Self::UnknownEvent, Self::Inexact, Self::NullCharacter];

    /// The value of the label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownEvent => "unknown_event",
            Self::Inexact => "inexact",
            Self::NullCharacter => "null_character",
        }
    }
}

/// Metrics of received webhooks.
pub struct IngestMetrics {
    requests: Vec<IntCounter>,
    kept: Vec<IntCounter>,
    /// Requests from known sources under way.
    pub requests_in_flight: InFlightGauge,
    /// Bytes of their bodies in memory.
    pub bytes_in_flight: IntGauge,
    /// Connections of senders.
    pub connections: InFlightGauge,
    /// Connections closed because their address had reached its limit.
    pub connections_refused: IntCounter,
    /// Sources in use.
    pub sources: IntGauge,
    /// Reloads of the sources file that succeeded.
    pub sources_loaded: IntCounter,
    /// Reloads of the sources file that failed.
    pub sources_refused: IntCounter,
}

impl IngestMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            requests: counters(
                r,
                "tidings_ingest_requests_total",
                "Webhooks received from Chatwoot, by outcome.",
                "outcome",
                &IngestOutcome::ALL.map(IngestOutcome::label),
            ),
            kept: counters(
                r,
                "tidings_ingest_kept_total",
                "Webhooks kept as they came, as events of the type other, by reason.",
                "reason",
                &KeptReason::ALL.map(KeptReason::label),
            ),
            requests_in_flight: InFlightGauge::new(gauge(
                r,
                "tidings_ingest_requests_in_flight",
                "Webhook requests from known sources under way.",
            )),
            bytes_in_flight: gauge(r, "tidings_ingest_bytes_in_flight", "Bytes of webhook bodies in memory."),
            connections: InFlightGauge::new(gauge(
                r,
                "tidings_ingest_connections",
                "Open connections of webhook senders.",
            )),
            connections_refused: counter(
                r,
                "tidings_ingest_connections_refused_total",
                "Connections of webhook senders closed because their address had reached a limit, because no webhook came in time, or \
                 to make room for others.",
            ),
            sources: gauge(r, "tidings_ingest_sources", "Webhook sources in use."),
            sources_loaded: counter(
                r,
                "tidings_ingest_sources_loaded_total",
                "Reloads of a changed sources file that succeeded.",
            ),
            sources_refused: counter(
                r,
                "tidings_ingest_sources_refused_total",
                "Reloads of a changed sources file that failed. The gateway keeps the sources that it had.",
            ),
        }
    }

    /// Counts a webhook that is kept as it came.
    pub fn kept(&self, reason: KeptReason) {
        self.kept[reason as usize].inc();
    }

    /// Counts a request.
    pub fn responded(&self, outcome: IngestOutcome) {
        self.requests[outcome as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_a_counter_of_its_own() {
        for (index, outcome) in IngestOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index, "{}", outcome.label());
        }
        for (index, reason) in KeptReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{}", reason.label());
        }
    }
}
