//! All settings together: those that each part declares, the secrets of the environment, and the checks
//! across parts.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Args;

use super::{CallerSettings, EgressSettings};
use crate::{
    config::{
        ClientSettings, ConfigFaults, Flags, ResolvedSettings, Secrets, declared_defaults, quantities::count,
    },
    console::ConsoleSettings,
    delivery::{dispatcher::settings::DispatchSettings, http::client::WebhookClientSettings},
    domain::egress::ProxyRules,
    gateway::GatewaySettings,
    grpc::GrpcSettings,
    ops::OpsSettings,
    store::disk::StoreSettings,
    telemetry::LogSettings,
    webhook_ingress::IngestSettings,
};

#[cfg(any(test, fuzzing))]
pub mod fuzz;

/// The settings in force. Each is declared once, with its documentation, default and bounds, by the part that
/// uses it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Process")]
pub struct Config {
    /// Directory of events, deliveries and subscriptions. One process at a time.
    #[arg(long, value_name = "DIRECTORY", default_value = "tidings-data")]
    pub data_dir: PathBuf,
    /// A file with the key that secrets are encrypted with in the store: the base64 of 32 bytes, readable by
    /// nobody else.
    ///
    /// The variable TIDINGS_SECRETS_KEY can hold the key itself instead. Without either, secrets.key in
    /// data_dir is made and used.
    #[arg(long, value_name = "FILE")]
    pub secrets_key_file: Option<PathBuf>,
    /// Threads that make deliveries, and half as many that serve calls; 0 for as many as there are cores.
    ///
    /// Deliveries keep their share of the machine while calls flood it. Lower it to leave cores to other
    /// programs.
    #[arg(long, value_name = "COUNT", default_value = "0", value_parser = count::<usize>(0, 1_024))]
    pub threads: usize,
    /// gRPC.
    #[command(flatten)]
    pub grpc: GrpcSettings,
    /// The administrator's token.
    #[command(flatten)]
    pub access: CallerSettings,
    /// Bounds on all clients.
    #[command(flatten)]
    pub clients: ClientSettings,
    /// Chatwoot's own webhooks.
    #[command(flatten)]
    pub ingest: IngestSettings,
    /// The console.
    #[command(flatten)]
    pub console: ConsoleSettings,
    /// Publishing, subscriptions, retention.
    #[command(flatten)]
    pub gateway: GatewaySettings,
    /// The store.
    #[command(flatten)]
    pub store: StoreSettings,
    /// Scheduling of deliveries.
    #[command(flatten)]
    pub dispatch: DispatchSettings,
    /// One POST.
    #[command(flatten)]
    pub webhook_client: WebhookClientSettings,
    /// Addresses that may be POSTed to.
    #[command(flatten)]
    pub egress: EgressSettings,
    /// Health and metrics.
    #[command(flatten)]
    pub ops: OpsSettings,
    /// The log.
    #[command(flatten)]
    pub log: LogSettings,
    /// Secrets that the environment gives.
    #[arg(skip)]
    pub secrets: Secrets,
    /// Endpoints that are reached by a proxy: from `egress`, and from variables that other programs read too.
    #[arg(skip)]
    pub proxies: ProxyRules,
}

impl Config {
    /// Reads the settings from all sources.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in every source: also values that a stronger source replaces.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, ResolvedSettings), ConfigFaults> {
        let environment: Vec<_> = environment.into_iter().collect();
        Self::resolve(ResolvedSettings::read::<Self>(flags, &environment), &environment)
    }

    fn resolve(
        mut resolved: ResolvedSettings,
        environment: &[(OsString, OsString)],
    ) -> Result<(Self, ResolvedSettings), ConfigFaults> {
        let mut config: Self = resolved.parse();
        config.secrets = Secrets::read(environment, &mut resolved);
        config.proxies = config.egress.proxies(environment, &mut resolved);
        config.derive();
        config.check(&mut resolved);
        resolved.finish(config)
    }

    /// Sets the limits that follow from settings of several parts.
    pub(super) fn derive(&mut self) {
        self.grpc.derive(&self.clients);
        self.ingest.derive(&self.clients, self.gateway.body_bytes_max);
        self.console.derive(&self.clients);
        self.gateway.derive(&self.clients);
        self.store.derive(self.gateway.retention_bytes_max);
        self.dispatch.derive();
        self.webhook_client.derive(self.dispatch.attempts_in_flight_max);
    }

    /// Checks what no setting can be checked for by itself.
    fn check(&self, resolved: &mut ResolvedSettings) {
        let (retry, gateway) = (&self.dispatch.retry, &self.gateway);
        resolved.check_at_most(
            ("retry_min_backoff", retry.retry_min_backoff),
            ("retry_max_backoff", retry.retry_max_backoff),
            "waits would shrink",
        );
        resolved.check_at_most(
            ("backlog_per_subscription_max", gateway.backlog_per_subscription_max),
            ("backlog_max", gateway.backlog_max),
            "the backlog of one subscription would not fit",
        );
        resolved.check_needs("grpc_tls_cert_file", "grpc_tls_key_file");
        resolved.check_needs("grpc_tls_key_file", "grpc_tls_cert_file");
        resolved.check_needs("grpc_client_ca_file", "grpc_tls_cert_file");
        resolved.check_needs("grpc_client_subjects", "grpc_client_ca_file");
        let subjects = &self.grpc.access.grpc_client_subjects;
        for (index, entry) in subjects.iter().enumerate() {
            if subjects[..index].iter().any(|other| other.subject == entry.subject) {
                let problem = format!("{:?} is there twice: give its rights in one entry", entry.subject);
                resolved.add_fault_of("grpc_client_subjects", problem);
            }
        }
        resolved.check_needs("ingest_listen", "ingest_sources_file");
        resolved.check_needs("console_tls_cert_file", "console_tls_key_file");
        resolved.check_needs("console_tls_key_file", "console_tls_cert_file");
        let listeners = [
            ("grpc_listen", Some(self.grpc.grpc_listen)),
            ("http_listen", Some(self.ops.http_listen)),
            ("console_listen", self.console.console_listen.address()),
            ("ingest_listen", self.ingest.ingest_listen),
        ];
        for (index, (key, address)) in listeners.iter().enumerate() {
            for (other_key, other) in &listeners[index + 1..] {
                if address.zip(*other).is_some_and(|(one, other)| collide(one, other)) {
                    resolved.fault_of_two(key, other_key, |one, other| {
                        format!("{one} and {other} cannot both be bound")
                    });
                }
            }
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let mut config: Self = declared_defaults();
        config.derive();
        config
    }
}

/// Whether two listeners cannot be bound side by side: one port, on one address or on every address.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let overlap = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() || b.is_unspecified();
    one.port() != 0 && one.port() == other.port() && overlap(one.ip(), other.ip())
}

#[cfg(test)]
mod tests;
