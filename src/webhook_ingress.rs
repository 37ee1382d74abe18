//! The listener of Chatwoot's own webhooks: checks their requests over HTTP, and publishes their events.

use std::time::Duration;

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

/// What bounds the listener.
#[derive(Clone, Debug)]
pub struct IngestSettings {
    /// The largest body, in bytes.
    pub body_bytes_max: usize,
    /// Most bytes of a request's headers, at least 8 KiB.
    pub header_bytes_max: usize,
    /// Most bytes of bodies that have arrived and are not answered.
    pub bytes_in_flight_max: usize,
    /// Most requests that are answered at once.
    pub requests_in_flight_max: usize,
    /// Most connections; further ones wait to be accepted.
    pub connections_max: usize,
    /// Most connections of one address, in IPv6 of one /64; further ones are closed.
    pub connections_per_address_max: usize,
    /// How long the headers of a request may take, and then its body.
    pub read_timeout: Duration,
    /// How far the time in a signature may be from the gateway's.
    pub signature_tolerance: Duration,
    /// How long an event may take to its place on disk before its request is answered.
    pub call_timeout: Duration,
    /// How long what is under way may take to end once the listener is told to stop.
    pub drain_timeout: Duration,
    /// Requests with an unknown path or a wrong signature that an address may make in a minute.
    pub failures_per_minute_max: u32,
    /// Addresses for which these are counted apart.
    pub failure_addresses_max: usize,
}
