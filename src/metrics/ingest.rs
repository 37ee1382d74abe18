//! What is counted of Chatwoot's webhooks: what became of each, and from how many sources they are taken.

use prometheus::{IntCounter, IntGauge, Registry};

use super::{
    Open,
    make::{counter, counters, gauge},
};

/// What became of a request to the listener of webhooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestOutcome {
    /// Its event is stored.
    Accepted,
    /// Its event had been stored before.
    Duplicate,
    /// No source has its path.
    NotFound,
    /// Its signature is missing or wrong.
    Unsigned,
    /// Its address had too many of both.
    RateLimited,
    /// Its method is not POST, or a header is not as it must be.
    Malformed,
    /// Its body is too large.
    TooLarge,
    /// Its body did not arrive in time, or not whole.
    Unread,
    /// Its body cannot be published.
    Invalid,
    /// Its delivery's id was used for another event.
    Conflict,
    /// Too much is under way or owed.
    Overloaded,
    /// The disk is full or failed, or the gateway stops.
    Unavailable,
    /// A bug of ours.
    Internal,
}

impl IngestOutcome {
    /// All of them, in the order in which they are counted.
    pub const ALL: [Self; 13] = [
        Self::Accepted,
        Self::Duplicate,
        Self::NotFound,
        Self::Unsigned,
        Self::RateLimited,
        Self::Malformed,
        Self::TooLarge,
        Self::Unread,
        Self::Invalid,
        Self::Conflict,
        Self::Overloaded,
        Self::Unavailable,
        Self::Internal,
    ];

    /// As the label says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::NotFound => "not_found",
            Self::Unsigned => "unsigned",
            Self::RateLimited => "rate_limited",
            Self::Malformed => "malformed",
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

/// The counts.
pub struct IngestMetrics {
    requests: Vec<IntCounter>,
    /// Requests from a known source that are being answered.
    pub requests_in_flight: Open,
    /// Bytes of their bodies.
    pub bytes_in_flight: IntGauge,
    /// Connections of senders.
    pub connections: Open,
    /// Connections that were closed since their address has as many as it may.
    pub connections_refused: IntCounter,
    /// Sources in use.
    pub sources: IntGauge,
    /// Changes of the sources file that came into use.
    pub sources_loaded: IntCounter,
    /// Changes of the sources file that could not be used.
    pub sources_refused: IntCounter,
}

impl IngestMetrics {
    pub(super) fn new(r: &Registry) -> Self {
        Self {
            requests: counters(
                r,
                "tidings_ingest_requests_total",
                "Webhooks of Chatwoot that came in over HTTP, by what became of them.",
                "outcome",
                &IngestOutcome::ALL.map(IngestOutcome::word),
            ),
            requests_in_flight: Open(gauge(
                r,
                "tidings_ingest_requests_in_flight",
                "Webhooks from known sources that are being answered.",
            )),
            bytes_in_flight: gauge(
                r,
                "tidings_ingest_bytes_in_flight",
                "Bytes of bodies of webhooks that have arrived and are not answered.",
            ),
            connections: Open(gauge(r, "tidings_ingest_connections", "Connections of senders of webhooks.")),
            connections_refused: counter(
                r,
                "tidings_ingest_connections_refused_total",
                "Connections of senders of webhooks that were closed, since their address has as many as it may.",
            ),
            sources: gauge(r, "tidings_ingest_sources", "Sources of webhooks in use."),
            sources_loaded: counter(
                r,
                "tidings_ingest_sources_loaded_total",
                "Changes of the sources file that came into use while the gateway ran.",
            ),
            sources_refused: counter(
                r,
                "tidings_ingest_sources_refused_total",
                "Changes of the sources file that could not be used.",
            ),
        }
    }

    /// Counts a request.
    pub fn answered(&self, outcome: IngestOutcome) {
        self.requests[outcome as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_counted_in_its_own_place() {
        for (place, outcome) in IngestOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place, "{}", outcome.word());
        }
    }
}
