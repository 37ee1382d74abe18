//! The configuration: flags, environment, file and defaults become one checked [`Config`], or every fault in them.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod ingest;
mod origins;
mod proxies;
mod secrets_key;
mod show;
mod source;
mod suggest;
pub mod table;
mod units;
pub mod value;

pub use ingest::IngestConfig;
pub use origins::Origins;
pub use proxies::ProxySetting;
pub use secrets_key::SECRETS_KEY_ENVIRONMENT;
pub use show::settings_table;
pub use source::{CONFIG_FILE_BYTES_MAX, ConfigFault, Flags, Origin, TOKEN_ENVIRONMENT};
pub use units::parse_duration;

use self::{origins::Row, table::SETTINGS};
use crate::domain::{egress::ProxyRules, seal::SealingKeys, secret::Secret};

/// The settings in force. [`table::SETTINGS`] says what each does and its bounds, which hold here.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where events, deliveries and subscriptions are kept.
    pub data_dir: PathBuf,
    /// Where gRPC is served.
    pub grpc_listen: SocketAddr,
    /// A file that holds the administrator's access token.
    pub admin_token_file: Option<PathBuf>,
    /// The administrator's access token, from the environment.
    pub admin_token: Option<Secret>,
    /// gRPC may be served to everybody in the network.
    pub insecure: bool,
    /// Who may use reflection.
    pub grpc_reflection: Exposed,
    /// Who may ask for health over gRPC.
    pub grpc_health: Exposed,
    /// Access tokens, those included that count no more.
    pub access_tokens_max: usize,
    /// Calls without a token that counts from an address in a minute.
    pub access_failures_per_minute_max: u32,
    /// Addresses for which these are counted apart.
    pub access_failure_addresses_max: usize,
    /// Where health is served.
    pub http_listen: SocketAddr,
    /// How Chatwoot's webhooks are taken.
    pub ingest: IngestConfig,
    /// Networks that endpoints may be in though they are not public.
    pub egress_allow: Vec<IpNet>,
    /// Networks that endpoints may not be in, even if they are public or allowed.
    pub egress_deny: Vec<IpNet>,
    /// More certificate authorities for https endpoints.
    pub egress_ca_file: Option<PathBuf>,
    /// Which endpoints are reached by a proxy: of `egress_proxy`, `egress_no_proxy`, and the environment.
    pub egress_proxies: ProxyRules,
    /// TLS options of subscriptions that are kept ready.
    pub egress_tls_profiles_max: usize,
    /// Where the key is that secrets in the store are sealed with.
    pub secrets_key_file: Option<PathBuf>,
    /// That key, from the environment. Not beside `secrets_key_file`.
    pub secrets_key: Option<SealingKeys>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// Which log lines are written: a filter that `tracing_subscriber::EnvFilter` takes.
    pub log_level: String,
    /// How long what is under way may take to end.
    pub drain_timeout: Duration,
    /// Threads that answer gRPC calls; 0 for half as many as there are cores.
    pub intake_threads: usize,
    /// Threads that make deliveries; 0 for as many as there are cores.
    pub delivery_threads: usize,
    /// The largest event.
    pub event_bytes_max: usize,
    /// Events being published at once.
    pub publish_events_in_flight_max: usize,
    /// Bytes of events being published at once.
    pub publish_bytes_in_flight_max: usize,
    /// Events of one stream that wait for their answer.
    pub stream_events_in_flight_max: usize,
    /// The largest gRPC message.
    pub grpc_message_bytes_max: usize,
    /// The most bytes of headers of a gRPC call.
    pub grpc_header_bytes_max: u32,
    /// Calls that are answered at once.
    pub grpc_calls_in_flight_max: usize,
    /// Calls under way at once on one connection.
    pub grpc_streams_per_connection_max: u32,
    /// gRPC connections at once.
    pub grpc_connections_max: usize,
    /// gRPC connections of one address.
    pub grpc_connections_per_address_max: usize,
    /// gRPC connections that are not open yet.
    pub grpc_half_open_max: usize,
    /// How long a gRPC connection may take to open.
    pub grpc_handshake_timeout: Duration,
    /// How long a gRPC connection may be without a call.
    pub grpc_idle_timeout: Duration,
    /// How long an answer may wait for its client.
    pub grpc_answer_timeout: Duration,
    /// Bytes of messages that have not arrived whole.
    pub grpc_unfinished_bytes_max: usize,
    /// Bytes of answers that their clients have not taken.
    pub grpc_unread_bytes_max: usize,
    /// The certificate that gRPC is served with; with it, its key is set too.
    pub grpc_tls_cert_file: Option<PathBuf>,
    /// Its private key.
    pub grpc_tls_key_file: Option<PathBuf>,
    /// Authorities of the certificates that gRPC clients must show.
    pub grpc_client_ca_file: Option<PathBuf>,
    /// How often these files are looked at.
    pub grpc_tls_reload_interval: Duration,
    /// How long a call may take.
    pub call_timeout: Duration,
    /// Reads of the store by calls at once.
    pub reads_in_flight_max: usize,
    /// TestSubscription calls at once.
    pub tests_in_flight_max: usize,
    /// WatchDeliveries calls at once.
    pub watches_max: usize,
    /// Deliveries owed to one subscription.
    pub backlog_per_subscription_max: u64,
    /// Deliveries owed in all.
    pub backlog_max: u64,
    /// How long events are kept.
    pub retention_age: Duration,
    /// How much is kept.
    pub retention_bytes_max: u64,
    /// How often old events are removed.
    pub retention_interval: Duration,
    /// How much is kept of audit records.
    pub audit_bytes_max: u64,
    /// Subscriptions of one account.
    pub subscriptions_per_account_max: usize,
    /// How long one POST may take.
    pub delivery_timeout: Duration,
    /// How long a POST may wait for its connection.
    pub connect_timeout: Duration,
    /// How much of an answer is read.
    pub response_bytes_max: usize,
    /// POSTs of one subscription under way at once.
    pub max_in_flight: u16,
    /// Deliveries of one subscription kept in memory.
    pub lane_window: usize,
    /// Memory for all deliveries kept in memory.
    pub lane_windows_bytes_max: usize,
    /// POSTs under way at once.
    pub attempts_in_flight_max: usize,
    /// Conversations and the like that an ordered subscription keeps apart.
    pub lane_order_keys_max: usize,
    /// Deliveries of each of these kept in memory.
    pub lane_order_key_window: usize,
    /// Reads of the store for subscriptions at once.
    pub lane_reads_in_flight_max: usize,
    /// How long an unused connection to an endpoint is kept.
    pub idle_connection_timeout: Duration,
    /// How many unused connections to an endpoint are kept.
    pub idle_connections_per_endpoint_max: usize,
    /// How many unused connections are kept in all.
    pub idle_connections_max: usize,
    /// Attempts in all.
    pub retry_max_attempts: u32,
    /// The bound of the first wait.
    pub retry_min_backoff: Duration,
    /// The bound of the longest wait; at least `retry_min_backoff`.
    pub retry_max_backoff: Duration,
    /// The longest wait that an endpoint may ask for.
    pub retry_after_max: Duration,
    /// The longest wait of a lane that slows down by itself.
    pub pace_wait_max: Duration,
    /// How long every attempt must have failed before a subscription is suspended.
    pub suspend_after: Duration,
    /// How many attempts must have failed.
    pub suspend_attempts_min: u32,
    /// The bound of the first wait for a probe.
    pub probe_interval_min: Duration,
    /// The bound of the longest; at least `probe_interval_min`.
    pub probe_interval_max: Duration,
    /// Memory that the store may use for its cache.
    pub store_cache_bytes: u64,
}

/// Who may use a service that is of no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposed {
    /// Everybody.
    Open,
    /// Whoever may call anything.
    Token,
    /// Nobody.
    Off,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What counts beside the settings.
#[derive(Default)]
struct Beside {
    /// All of it but the keys, for the variables that other programs read too.
    environment: Vec<(OsString, OsString)>,
    secrets_key: Option<SealingKeys>,
    admin_token: Option<Secret>,
}

impl Config {
    /// Makes the configuration of what the sources say. Flags go before the environment, that before the file that
    /// either of them names, and that before the defaults.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in every source: also values that a stronger source would have replaced.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, Origins), Vec<ConfigFault>> {
        let mut faults = Vec::new();
        let (secrets_key, environment) = secrets_key::take(environment, &mut faults);
        let admin_token = source::read_admin_token(&environment, &mut faults);
        let entries = source::read_all(flags, environment.iter().cloned(), &mut faults);
        Self::of(entries, Beside { environment, secrets_key, admin_token }, faults)
    }

    /// The same from what the sources said, the weakest first, and from what was wrong with them.
    fn of(
        entries: Vec<source::Entry>,
        beside: Beside,
        mut faults: Vec<ConfigFault>,
    ) -> Result<(Self, Origins), Vec<ConfigFault>> {
        let mut rows: Vec<_> = SETTINGS.iter().map(Row::default_of).collect();
        let mut unknown: Vec<&str> = Vec::new();
        for entry in entries {
            let row =
                rows.iter_mut().find(|row| row.setting == entry.setting).expect("there is a row for each");
            match entry.setting.kind.read(&entry.raw) {
                Ok(value) => (row.value, row.origin) = (value, entry.origin),
                Err(problem) => {
                    faults.push(ConfigFault { origin: entry.origin, problem });
                    unknown.push(entry.setting.key);
                }
            }
        }

        let origins = Origins(rows);
        // A value that could not be read cannot be compared either.
        origins.check_together(|key| !unknown.contains(&key), &mut faults);
        let Beside { environment, secrets_key, admin_token } = beside;
        let proxies = origins.proxies(&environment, &mut faults);
        let key_file = origins.row("secrets_key_file");
        if secrets_key.is_some() && key_file.value.file().is_some() {
            let problem =
                format!("cannot be given beside {}: keys come from one place", key_file.described());
            faults.push(secrets_key::fault(problem));
        }
        if admin_token.is_some() && origins.of("admin_token_file") != Some(&Origin::Default) {
            let problem =
                "there is an access token in the environment as well, TIDINGS_ADMIN_TOKEN: leave one"
                    .to_owned();
            faults.push(ConfigFault { origin: origins.row("admin_token_file").origin.clone(), problem });
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok((Self { egress_proxies: proxies, secrets_key, admin_token, ..origins.to_config() }, origins))
    }
}

impl Default for Config {
    /// What is in force when nobody sets anything.
    fn default() -> Self {
        Origins(SETTINGS.iter().map(Row::default_of).collect()).to_config()
    }
}

#[cfg(test)]
mod tests;
