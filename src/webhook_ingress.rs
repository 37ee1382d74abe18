//! The listener of Chatwoot's own webhooks: checks their requests over HTTP, and publishes their events.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    config::{ClientSettings, quantities::address},
    gateway::CALL_TIMEOUT,
    limits::{FAILURES_PER_MINUTE_MAX, RATED_ADDRESSES_MAX},
};

mod body;
mod file;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod request;
mod response;
mod server;
mod signature;
mod sources;

pub use file::{SourcesError, SourcesFile};
pub use request::EVENT_ID_PREFIX;
pub use server::{CONNECTION_AGE_MAX, serve};
pub use sources::{FILE_BYTES_MAX, PATH_CHARS_MAX, PATH_CHARS_MIN, SOURCES_MAX, Source, Sources};

/// Largest body of a webhook, in bytes, whatever the settings say: an event is read and sent as a whole.
pub const BODY_BYTES_MAX: usize = 16 << 20;

/// Settings of the listener, and its limits: most of these follow from the settings of all clients.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Webhook ingress")]
pub struct IngestSettings {
    /// Address that receives Chatwoot's own webhooks, over plain HTTP; without it there is no webhook
    /// ingress.
    ///
    /// docs/ingest.md describes how to set it up.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub ingest_listen: Option<SocketAddr>,
    /// A TOML file with the sources of webhooks: for each account a secret path, readable by nobody else.
    #[arg(long, value_name = "FILE")]
    pub ingest_sources_file: Option<PathBuf>,
    /// Largest body, in bytes: what may be POSTed may come in, up to [`BODY_BYTES_MAX`] and to what one account may
    /// have in progress.
    #[arg(skip)]
    pub body_bytes_max: usize,
    /// Most bytes of a request's headers, at least 8 KiB.
    #[arg(skip = 16 * 1024_usize)]
    pub header_bytes_max: usize,
    /// Most bytes of bodies that have arrived and have no response yet.
    #[arg(skip)]
    pub bytes_in_flight_max: usize,
    /// Most requests at once.
    #[arg(skip)]
    pub requests_in_flight_max: usize,
    /// Most connections; a further one takes the place of the idlest of the address that has the most.
    #[arg(skip)]
    pub connections_max: usize,
    /// Most connections of one address, in IPv6 of one /64; further ones are closed.
    #[arg(skip)]
    pub connections_per_address_max: usize,
    /// Longest time for the headers of a request to arrive, and then for its body.
    #[arg(skip)]
    pub read_timeout: Duration,
    /// Largest difference between the time in a signature and the gateway's.
    #[arg(skip = Duration::from_mins(5))]
    pub signature_tolerance: Duration,
    /// Longest time for an event to become durable.
    #[arg(skip = CALL_TIMEOUT)]
    pub call_timeout: Duration,
    /// Longest time for requests under way to end at the shutdown.
    #[arg(skip)]
    pub drain_timeout: Duration,
    /// Requests with an unknown path or a wrong signature that one address may make in a minute.
    #[arg(skip = FAILURES_PER_MINUTE_MAX)]
    pub failures_per_minute_max: u32,
    /// Addresses for which these are counted separately; all others share one count.
    #[arg(skip = RATED_ADDRESSES_MAX)]
    pub failure_addresses_max: usize,
}

impl IngestSettings {
    /// Sets the limits that follow from other settings.
    pub fn derive(&mut self, clients: &ClientSettings, body_bytes_max: usize) {
        self.bytes_in_flight_max = clients.publish_memory_max / 10;
        self.body_bytes_max = body_bytes_max.min(BODY_BYTES_MAX).min(self.bytes_in_flight_max / 2);
        self.connections_max = clients.client_connections_max / 2;
        self.connections_per_address_max = clients.client_connections_per_address_max / 2;
        self.requests_in_flight_max = clients.client_connections_max / 4;
        self.read_timeout = clients.client_timeout;
        self.drain_timeout = clients.drain_timeout;
    }
}
