//! The settings of the listener that takes Chatwoot's webhooks.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::Origins;

/// The settings in force. [`super::table::SETTINGS`] says what each does.
#[derive(Clone, Debug, PartialEq)]
pub struct IngestConfig {
    /// Where Chatwoot's webhooks are taken; nowhere without it.
    pub listen: Option<SocketAddr>,
    /// The file that says from whom. With `listen` it is set.
    pub sources_file: Option<PathBuf>,
    /// How often this file is looked at.
    pub sources_reload_interval: Duration,
    /// How far the time in a signature may be from the gateway's.
    pub signature_tolerance: Duration,
    /// The largest body.
    pub body_bytes_max: usize,
    /// The most bytes of a request's headers.
    pub header_bytes_max: usize,
    /// Bytes of bodies that are there and not yet answered.
    pub bytes_in_flight_max: usize,
    /// Requests that are answered at once.
    pub requests_in_flight_max: usize,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections of one address.
    pub connections_per_address_max: usize,
    /// How long headers may take to arrive, and then the body.
    pub read_timeout: Duration,
}

impl Origins {
    pub(super) fn ingest(&self) -> IngestConfig {
        let value = |key| &self.row(key).value;
        IngestConfig {
            listen: value("ingest_listen").optional_address(),
            sources_file: value("ingest_sources_file").file(),
            sources_reload_interval: value("ingest_sources_reload_interval").duration(),
            signature_tolerance: value("ingest_signature_tolerance").duration(),
            body_bytes_max: value("ingest_body_bytes_max").number(),
            header_bytes_max: value("ingest_header_bytes_max").number(),
            bytes_in_flight_max: value("ingest_bytes_in_flight_max").number(),
            requests_in_flight_max: value("ingest_requests_in_flight_max").number(),
            connections_max: value("ingest_connections_max").number(),
            connections_per_address_max: value("ingest_connections_per_address_max").number(),
            read_timeout: value("ingest_read_timeout").duration(),
        }
    }
}
