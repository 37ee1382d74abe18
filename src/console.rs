//! The console: web pages for people, served by the gateway itself.
//!
//! It is a client of our own gRPC services in this process: scopes, accounts, limits, validation and audit
//! stay where they are, and every page shows only what its visitor may call.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use clap::Args;

use crate::config::{ClientSettings, declared_defaults, quantities::address};

mod api;
mod charts;
mod forms;
mod guard;
mod history;
mod pages;
mod server;
mod sessions;
mod view;

pub use api::Calls;
pub use guard::ExposedError;
pub use server::{Console, GrpcListener, Surroundings, TlsSource};

/// Settings of the console, and its limits: most of these are constants, or follow from the settings of all
/// clients.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Console")]
pub struct ConsoleSettings {
    /// Address of the console, the web pages for people, or off.
    ///
    /// Beyond loopback it needs console_tls_cert_file or console_url. docs/console.md describes the pages.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    pub console_listen: ConsoleListen,
    /// A PEM file with the certificate of the console, then those up to its authority. With it there is only
    /// TLS.
    #[arg(long, value_name = "FILE")]
    pub console_tls_cert_file: Option<PathBuf>,
    /// A PEM file with the private key of that certificate.
    #[arg(long, value_name = "FILE")]
    pub console_tls_key_file: Option<PathBuf>,
    /// The https address that browsers use for the console, for example that of a proxy in front of it.
    ///
    /// Requests for another host name are refused, except for those of this machine.
    #[arg(long, value_name = "URL")]
    pub console_url: Option<String>,
    /// Most connections; a further one takes the place of the idlest of the address that has the most.
    #[arg(skip = 256_usize)]
    pub connections_max: usize,
    /// Most connections of one address, in IPv6 of one /64; further ones are closed.
    #[arg(skip = 64_usize)]
    pub connections_per_address_max: usize,
    /// Most requests at once, live streams apart.
    #[arg(skip = 64_usize)]
    pub requests_in_flight_max: usize,
    /// Most live streams at once: fewer than the connections of an address, so that pages have room as well.
    #[arg(skip = 32_usize)]
    pub streams_max: usize,
    /// Most browsers that are signed in at once; one more signs out the one that was idle longest.
    #[arg(skip = 1000_usize)]
    pub sessions_max: usize,
    /// Longest time that a browser stays signed in.
    #[arg(skip = Duration::from_hours(12))]
    pub session_age_max: Duration,
    /// Longest time between two requests of a browser that stays signed in.
    #[arg(skip = Duration::from_hours(1))]
    pub session_idle_max: Duration,
    /// Longest time for the headers of a request to arrive, and then for its body.
    #[arg(skip)]
    pub read_timeout: Duration,
    /// Longest time for requests under way to end at the shutdown.
    #[arg(skip)]
    pub drain_timeout: Duration,
}

impl ConsoleSettings {
    /// Sets the values that follow from other settings.
    pub fn derive(&mut self, clients: &ClientSettings) {
        self.read_timeout = clients.client_timeout;
        self.drain_timeout = clients.drain_timeout;
    }
}

impl Default for ConsoleSettings {
    fn default() -> Self {
        let mut settings: Self = declared_defaults();
        settings.derive(&ClientSettings::default());
        settings
    }
}

/// Where the console listens, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleListen {
    /// There is no console.
    Off,
    /// At this address.
    At(SocketAddr),
}

impl ConsoleListen {
    /// The address, if there is a console.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl FromStr for ConsoleListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" { Ok(Self::Off) } else { address(text).map(Self::At) }
    }
}

impl fmt::Display for ConsoleListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}
