//! Settings of everything that clients connect to: gRPC and the webhook ingress share these bounds.

use std::time::Duration;

use clap::Args;

use super::{
    quantities::{bytes, count, duration},
    setting::declared_defaults,
};

/// Bounds on clients and their memory. The listeners derive their own limits from them.
#[derive(Args, Clone, Debug, PartialEq)]
#[command(next_help_heading = "Clients")]
pub struct ClientSettings {
    /// Memory for requests and responses of clients.
    ///
    /// A tenth is for events being published, a tenth for webhooks being received, four tenths each for gRPC
    /// messages that have not arrived completely and for responses that their clients have not read. Past its
    /// share a call gets RESOURCE_EXHAUSTED, a webhook 429. Raise it if that happens while there is memory
    /// left.
    #[arg(
        long, value_name = "SIZE", default_value = "640MiB",
        value_parser = bytes::<usize>("40MiB", "128GiB")
    )]
    pub publish_memory_max: usize,
    /// gRPC connections at once; a further one takes the place of the idlest of the address that has the most. The
    /// webhook ingress accepts half as many.
    ///
    /// Other limits follow from it: calls at once (twice as many), connections that are still being opened
    /// (an eighth), those of one address on which no call has had access (a sixteenth), webhooks at once (a quarter).
    #[arg(long, value_name = "COUNT", default_value = "4096", value_parser = count::<usize>(4, 1_000_000))]
    pub client_connections_max: usize,
    /// gRPC connections of one address at once, in IPv6 of one /64; further ones are closed. Of webhooks half
    /// as many.
    ///
    /// Raise it where many clients share an address, as behind a proxy or a NAT gateway.
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = count::<usize>(2, 1_000_000))]
    pub client_connections_per_address_max: usize,
    /// Longest time for a webhook to arrive: its headers, and then its body.
    ///
    /// A gRPC client has a third of it to open its connection and for each message, and twice as long to take more of
    /// a response.
    /// Raise it for clients on slow networks.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration("100ms", "10m"))]
    pub client_timeout: Duration,
    /// Interval between checks of certificate files and of ingest_sources_file for changes. SIGHUP checks at
    /// once.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration("100ms", "1d"))]
    pub reload_interval: Duration,
    /// Longest time for calls and deliveries under way to end after SIGTERM or SIGINT.
    ///
    /// Deliveries that are cut off are made after the next start. Keep it below the grace period of whatever
    /// stops the process.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration("0s", "10m"))]
    pub drain_timeout: Duration,
}

impl Default for ClientSettings {
    fn default() -> Self {
        declared_defaults()
    }
}
