//! Each setting in force with where it comes from, and what is checked of several together.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    Config, ConfigFault, Exposed, LogFormat, Origin, ProxySetting,
    table::{LISTENERS, NOT_MORE_THAN, NOT_WITHOUT, Setting},
    value::Value,
};
use crate::domain::egress::{HostPattern, ProxyRules};

/// Where each setting in force comes from, in the order of the table.
#[derive(Clone, Debug)]
pub struct Origins(pub(super) Vec<Row>);

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub setting: &'static Setting,
    pub value: Value,
    pub origin: Origin,
}

impl Row {
    pub(super) fn default_of(setting: &'static Setting) -> Self {
        Self { setting, value: setting.default_value(), origin: Origin::Default }
    }

    /// `10s (environment TIDINGS_X)`
    pub(super) fn described(&self) -> String {
        format!("{} = {} ({})", self.setting.key, self.value, self.origin)
    }
}

impl Origins {
    /// Where the setting of this key comes from; `None` if there is no such setting.
    pub fn of(&self, key: &str) -> Option<&Origin> {
        self.0.iter().find(|row| row.setting.key == key).map(|row| &row.origin)
    }

    pub(super) fn row(&self, key: &str) -> &Row {
        self.0.iter().find(|row| row.setting.key == key).expect("only keys of the table are asked for")
    }

    /// Checks what no value can be checked for alone.
    pub(super) fn check_together(&self, known: impl Fn(&str) -> bool, faults: &mut Vec<ConfigFault>) {
        let mut fault = |one: &Row, other: &Row, problem: String| {
            // Whoever set something can put it right; nobody set a default.
            let guilty = if one.origin == Origin::Default { other } else { one };
            faults.push(ConfigFault { origin: guilty.origin.clone(), problem });
        };
        for (less, more, why) in NOT_MORE_THAN.iter().filter(|(less, more, _)| known(less) && known(more)) {
            let (less, more) = (self.row(less), self.row(more));
            if less.value > more.value {
                let problem = format!("{} is more than {}: {why}", less.described(), more.described());
                fault(less, more, problem);
            }
        }
        for (one, other) in NOT_WITHOUT.iter().filter(|(one, other)| known(one) && known(other)) {
            let (row, needed) = (self.row(one), self.row(other));
            if row.value.is_set() && !needed.value.is_set() {
                fault(row, needed, format!("{} needs {other}, which is not set", row.described()));
            }
        }
        for (one, other) in LISTENERS.iter().filter(|(one, other)| known(one) && known(other)) {
            let (one, other) = (self.row(one), self.row(other));
            let both = one.value.optional_address().zip(other.value.optional_address());
            if both.is_some_and(|(one, other)| collide(one, other)) {
                let problem = format!("{} and {} cannot both be bound", one.described(), other.described());
                fault(one, other, problem);
            }
        }
    }

    pub(super) fn proxies(
        &self,
        environment: &[(OsString, OsString)],
        faults: &mut Vec<ConfigFault>,
    ) -> ProxyRules {
        let direct = self.row("egress_no_proxy").value.hosts();
        self.row("egress_proxy").value.proxy().rules(direct, environment, faults)
    }

    /// All but the proxies, for which the environment counts as well.
    pub(super) fn to_config(&self) -> Config {
        let value = |key| &self.row(key).value;
        Config {
            data_dir: value("data_dir").path(),
            grpc_listen: value("grpc_listen").address(),
            admin_token_file: Some(value("admin_token_file").path())
                .filter(|path| !path.as_os_str().is_empty()),
            admin_token: None,
            insecure: value("insecure").switch(),
            grpc_reflection: value("grpc_reflection").exposed(),
            grpc_health: value("grpc_health").exposed(),
            access_tokens_max: value("access_tokens_max").number(),
            access_failures_per_minute_max: value("access_failures_per_minute_max").number(),
            access_failure_addresses_max: value("access_failure_addresses_max").number(),
            http_listen: value("http_listen").address(),
            ingest: self.ingest(),
            egress_allow: value("egress_allow").networks(),
            egress_deny: value("egress_deny").networks(),
            egress_ca_file: value("egress_ca_file").file(),
            egress_proxies: ProxyRules::default(),
            egress_tls_profiles_max: value("egress_tls_profiles_max").number(),
            secrets_key_file: value("secrets_key_file").file(),
            secrets_key: None,
            log_format: if value("log_format").text() == "json" { LogFormat::Json } else { LogFormat::Text },
            log_level: value("log_level").text(),
            drain_timeout: value("drain_timeout").duration(),
            intake_threads: value("intake_threads").number(),
            delivery_threads: value("delivery_threads").number(),
            event_bytes_max: value("event_bytes_max").number(),
            publish_events_in_flight_max: value("publish_events_in_flight_max").number(),
            publish_bytes_in_flight_max: value("publish_bytes_in_flight_max").number(),
            stream_events_in_flight_max: value("stream_events_in_flight_max").number(),
            grpc_message_bytes_max: value("grpc_message_bytes_max").number(),
            grpc_header_bytes_max: value("grpc_header_bytes_max").number(),
            grpc_calls_in_flight_max: value("grpc_calls_in_flight_max").number(),
            grpc_streams_per_connection_max: value("grpc_streams_per_connection_max").number(),
            grpc_connections_max: value("grpc_connections_max").number(),
            grpc_connections_per_address_max: value("grpc_connections_per_address_max").number(),
            grpc_half_open_max: value("grpc_half_open_max").number(),
            grpc_handshake_timeout: value("grpc_handshake_timeout").duration(),
            grpc_idle_timeout: value("grpc_idle_timeout").duration(),
            grpc_answer_timeout: value("grpc_answer_timeout").duration(),
            grpc_unfinished_bytes_max: value("grpc_unfinished_bytes_max").number(),
            grpc_unread_bytes_max: value("grpc_unread_bytes_max").number(),
            grpc_tls_cert_file: value("grpc_tls_cert_file").file(),
            grpc_tls_key_file: value("grpc_tls_key_file").file(),
            grpc_client_ca_file: value("grpc_client_ca_file").file(),
            grpc_tls_reload_interval: value("grpc_tls_reload_interval").duration(),
            call_timeout: value("call_timeout").duration(),
            reads_in_flight_max: value("reads_in_flight_max").number(),
            tests_in_flight_max: value("tests_in_flight_max").number(),
            watches_max: value("watches_max").number(),
            backlog_per_subscription_max: value("backlog_per_subscription_max").number(),
            backlog_max: value("backlog_max").number(),
            retention_age: value("retention_age").duration(),
            retention_bytes_max: value("retention_bytes_max").number(),
            retention_interval: value("retention_interval").duration(),
            audit_bytes_max: value("audit_bytes_max").number(),
            subscriptions_per_account_max: value("subscriptions_per_account_max").number(),
            delivery_timeout: value("delivery_timeout").duration(),
            connect_timeout: value("connect_timeout").duration(),
            response_bytes_max: value("response_bytes_max").number(),
            max_in_flight: value("max_in_flight").number(),
            lane_window: value("lane_window").number(),
            lane_windows_bytes_max: value("lane_windows_bytes_max").number(),
            attempts_in_flight_max: value("attempts_in_flight_max").number(),
            lane_order_keys_max: value("lane_order_keys_max").number(),
            lane_order_key_window: value("lane_order_key_window").number(),
            lane_reads_in_flight_max: value("lane_reads_in_flight_max").number(),
            idle_connection_timeout: value("idle_connection_timeout").duration(),
            idle_connections_per_endpoint_max: value("idle_connections_per_endpoint_max").number(),
            idle_connections_max: value("idle_connections_max").number(),
            retry_max_attempts: value("retry_max_attempts").number(),
            retry_min_backoff: value("retry_min_backoff").duration(),
            retry_max_backoff: value("retry_max_backoff").duration(),
            retry_after_max: value("retry_after_max").duration(),
            pace_wait_max: value("pace_wait_max").duration(),
            suspend_after: value("suspend_after").duration(),
            suspend_attempts_min: value("suspend_attempts_min").number(),
            probe_interval_min: value("probe_interval_min").duration(),
            probe_interval_max: value("probe_interval_max").duration(),
            store_cache_bytes: value("store_cache_bytes").number(),
        }
    }
}

/// Whether two listeners cannot be bound side by side: one port, on one address or on every address.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let overlap = |a: IpAddr, b: IpAddr| a == b || a.is_unspecified() || b.is_unspecified();
    one.port() != 0 && one.port() == other.port() && overlap(one.ip(), other.ip())
}

/// Takes the value of a known kind. Which kind a setting has stands in the table, and every start reads all of them.
impl Value {
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            other => panic!("{other:?} is no path"),
        }
    }

    /// A file that need not be named.
    pub(super) fn file(&self) -> Option<PathBuf> {
        Some(self.path()).filter(|path| !path.as_os_str().is_empty())
    }

    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Address(address) => *address,
            other => panic!("{other:?} is no address"),
        }
    }

    /// An address that need not be named.
    pub(super) fn optional_address(&self) -> Option<SocketAddr> {
        match self {
            Self::NoAddress => None,
            other => Some(other.address()),
        }
    }

    /// Whether something is named where nothing need be.
    pub(super) fn is_set(&self) -> bool {
        match self {
            Self::Path(path) => !path.as_os_str().is_empty(),
            Self::NoAddress => false,
            _ => true,
        }
    }

    pub(super) fn networks(&self) -> Vec<IpNet> {
        match self {
            Self::Networks(networks) => networks.clone(),
            other => panic!("{other:?} is no list of networks"),
        }
    }

    pub(super) fn proxy(&self) -> &ProxySetting {
        match self {
            Self::Proxy(proxy) => proxy,
            other => panic!("{other:?} is no proxy"),
        }
    }

    pub(super) fn hosts(&self) -> Vec<HostPattern> {
        match self {
            Self::Hosts(hosts) => hosts.clone(),
            other => panic!("{other:?} is no list of hosts"),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            other => panic!("{other:?} is no text"),
        }
    }

    pub(super) fn switch(&self) -> bool {
        match self {
            Self::Switch(on) => *on,
            other => panic!("{other:?} is no switch"),
        }
    }

    pub(super) fn exposed(&self) -> Exposed {
        match self.text().as_str() {
            "open" => Exposed::Open,
            "token" => Exposed::Token,
            _ => Exposed::Off,
        }
    }

    pub(super) fn duration(&self) -> Duration {
        match self {
            Self::Duration(duration) => *duration,
            other => panic!("{other:?} is no duration"),
        }
    }

    pub(super) fn number<T: TryFrom<u64>>(&self) -> T {
        match self {
            Self::Bytes(number) | Self::Count(number) => {
                T::try_from(*number).ok().expect("the bounds in the table are within the type in Config")
            }
            other => panic!("{other:?} is no number"),
        }
    }
}
