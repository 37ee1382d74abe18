//! The table of settings. Everything that the program says or asks about its settings is made of it.

use std::time::Duration;

use super::{
    units::{GIB, KIB, MIB},
    value::{Kind, Raw, Value},
};

/// What every environment variable of ours starts with.
pub(super) const ENVIRONMENT_PREFIX: &str = "TIDINGS_";

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, as in TOML: `grpc_listen`.
    pub key: &'static str,
    /// What it does, in a sentence or two.
    pub doc: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Its value when nobody sets it, written as a person would.
    pub default: &'static str,
}

/// Events in one `BatchPublishEvents` call at most, from the contract: less than that in flight would make a lawful call
/// impossible.
const BATCH_EVENTS_MAX: u64 = 1_000;

/// POSTs under way at once that a subscription may ask for at most, from the contract (`Subscription.max_in_flight`).
const MAX_IN_FLIGHT_MAX: u64 = 256;

/// Every setting, in the order in which they are shown.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "data_dir",
        doc: "Where events, deliveries and subscriptions are kept. One process at a time.",
        kind: Kind::Directory,
        default: "tidings-data",
    },
    Setting {
        key: "grpc_listen",
        doc: "Where gRPC is served. Port 0 takes any free one.",
        kind: Kind::Address,
        default: "127.0.0.1:50051",
    },
    Setting {
        key: "admin_token_file",
        doc: "A file with an access token of scope admin, of your own choice: 32 characters or more. Read at the start. The \
              environment variable TIDINGS_ADMIN_TOKEN may hold the token itself instead. With either, every call needs a token.",
        kind: Kind::OptionalFile,
        default: "",
    },
    Setting {
        key: "insecure",
        doc: "Lets gRPC be served without any access token on an address that is not a loopback one: whoever reaches it may \
              call everything.",
        kind: Kind::Switch,
        default: "false",
    },
    Setting {
        key: "grpc_reflection",
        doc: "Who may use gRPC reflection: everybody (open), callers with an access token of any scope (token), nobody (off).",
        kind: EXPOSURE,
        default: "open",
    },
    Setting {
        key: "grpc_health",
        doc: "Who may use grpc.health.v1, likewise.",
        kind: EXPOSURE,
        default: "open",
    },
    Setting {
        key: "access_tokens_max",
        doc: "Access tokens that may be there, those included that were revoked or expired in the last 30 days. Past it \
              CreateAccessToken is answered with RESOURCE_EXHAUSTED.",
        kind: Kind::Count { min: 1, max: 100_000 },
        default: "10000",
    },
    Setting {
        key: "access_failures_per_minute_max",
        doc: "Calls without a valid access token that an address (in IPv6 the first 64 bits) may make in a minute. Further ones \
              are answered with RESOURCE_EXHAUSTED; those with a valid one always pass.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "60",
    },
    Setting {
        key: "access_failure_addresses_max",
        doc: "Addresses for which such calls are counted apart. All further ones share one count.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "10000",
    },
    Setting {
        key: "http_listen",
        doc: "Where /healthz, /readyz and /metrics are served. Port 0 takes any free one.",
        kind: Kind::Address,
        default: "127.0.0.1:8080",
    },
    Setting {
        key: "ingest_listen",
        doc: "Where Chatwoot's own webhooks are taken, over plain HTTP; nowhere if it is empty. docs/ingest.md says how.",
        kind: Kind::OptionalAddress,
        default: "",
    },
    Setting {
        key: "ingest_sources_file",
        doc: "A TOML file that says from whom: for each account a secret path, readable by nobody else. Changes of the file are \
              noticed.",
        kind: Kind::OptionalFile,
        default: "",
    },
    Setting {
        key: "ingest_sources_reload_interval",
        doc: "How often this file is looked at for changes. SIGHUP has it looked at as well.",
        kind: duration(100, 86_400_000),
        default: "5s",
    },
    Setting {
        key: "ingest_signature_tolerance",
        doc: "How far the time in the signature of a webhook may be from the gateway's, before or after.",
        kind: duration(1_000, 86_400_000),
        default: "5m",
    },
    Setting {
        key: "ingest_body_bytes_max",
        doc: "The largest body of a webhook. A larger one is answered with 413.",
        kind: Kind::Bytes { min: KIB, max: 16 * MIB },
        default: "1MiB",
    },
    Setting {
        key: "ingest_header_bytes_max",
        doc: "The most bytes of headers that a webhook may have. With more it is answered with 431.",
        kind: Kind::Bytes { min: 8 * KIB, max: MIB },
        default: "16KiB",
    },
    Setting {
        key: "ingest_bytes_in_flight_max",
        doc: "Bytes of bodies of webhooks that have arrived and are not answered. Past it they are answered with 429. At least \
              ingest_body_bytes_max.",
        kind: Kind::Bytes { min: 64 * KIB, max: 2 * GIB },
        default: "64MiB",
    },
    Setting {
        key: "ingest_requests_in_flight_max",
        doc: "Webhooks that are answered at once. Past it they are answered with 429 before their body is read.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "1024",
    },
    Setting {
        key: "ingest_connections_max",
        doc: "Connections of webhooks at once. Further ones wait to be accepted.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "1024",
    },
    Setting {
        key: "ingest_connections_per_address_max",
        doc: "Connections of webhooks of one address at once, in IPv6 of one /64. Further ones are closed.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "512",
    },
    Setting {
        key: "ingest_read_timeout",
        doc: "How long the headers of a webhook may take to arrive, and then its body. A connection without a request is closed \
              after the same time.",
        kind: duration(100, 600_000),
        default: "30s",
    },
    Setting {
        key: "egress_allow",
        doc: "Networks that endpoints may be in though they are not public: loopback, private and the like. \
              A bare address stands for itself alone. The flag may be repeated.",
        kind: Kind::Networks,
        default: "",
    },
    Setting {
        key: "egress_deny",
        doc: "Networks that endpoints may not be in, even if they are public or within egress_allow. \
              Written as egress_allow is.",
        kind: Kind::Networks,
        default: "",
    },
    Setting {
        key: "egress_ca_file",
        doc: "A PEM file with certificates of authorities to trust for https endpoints, beside the system's.",
        kind: Kind::OptionalFile,
        default: "",
    },
    Setting {
        key: "egress_proxy",
        doc: "An HTTP proxy for endpoints of both schemes. Empty: HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment \
              count, in lower case too. `none`: there is none. The proxy looks names up. Others on this machine can read \
              a flag: a password is better in the file.",
        kind: Kind::Proxy,
        default: "",
    },
    Setting {
        key: "egress_no_proxy",
        doc: "Endpoints that are reached without the proxy: names with all below them, addresses, networks. \
              The flag may be repeated.",
        kind: Kind::Hosts,
        default: "",
    },
    Setting {
        key: "egress_tls_profiles_max",
        doc: "TLS options of subscriptions that are kept ready for the next connection. Past it those that were not used for \
              longest are made anew when they are wanted.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "1024",
    },
    Setting {
        key: "secrets_key_file",
        doc: "A file with the key that secrets are encrypted with in the store: the base64 of 32 bytes, readable by nobody else. The \
              variable TIDINGS_SECRETS_KEY can hold the key itself instead. Without either, secrets.key in data_dir is made and used.",
        kind: Kind::OptionalFile,
        default: "",
    },
    Setting {
        key: "log_format",
        doc: "How log lines are written to standard error.",
        kind: Kind::Choice(&["text", "json"]),
        default: "text",
    },
    Setting { key: "log_level", doc: "Which log lines are written.", kind: Kind::LogFilter, default: "info" },
    Setting {
        key: "drain_timeout",
        doc: "How long calls and POSTs under way may take to end after SIGTERM or SIGINT. What is cut off then is \
              delivered after the next start.",
        kind: duration(0, 600_000),
        default: "10s",
    },
    Setting {
        key: "intake_threads",
        doc: "Threads that answer gRPC calls; 0 for half as many as there are cores. Deliveries have threads of their own, so \
              that a flood of calls leaves them their share of the machine.",
        kind: Kind::Count { min: 0, max: 1_024 },
        default: "0",
    },
    Setting {
        key: "delivery_threads",
        doc: "Threads that make deliveries, and do everything else; 0 for as many as there are cores.",
        kind: Kind::Count { min: 0, max: 1_024 },
        default: "0",
    },
    Setting {
        key: "event_bytes_max",
        doc: "The largest event that is accepted, encoded as protobuf. At most grpc_message_bytes_max; no more than \
              3 MiB, so that clients can take an answer that holds it.",
        kind: Kind::Bytes { min: KIB, max: 3 * MIB },
        default: "1MiB",
    },
    Setting {
        key: "publish_events_in_flight_max",
        doc: "Events being published at once, over all calls. Past it calls are answered with RESOURCE_EXHAUSTED.",
        kind: Kind::Count { min: BATCH_EVENTS_MAX, max: 1_000_000 },
        default: "10000",
    },
    Setting {
        key: "publish_bytes_in_flight_max",
        doc: "Bytes of events being published at once, over all calls. Past it calls are answered with \
              RESOURCE_EXHAUSTED. At least grpc_message_bytes_max.",
        kind: Kind::Bytes { min: 64 * KIB, max: 2 * GIB },
        default: "64MiB",
    },
    Setting {
        key: "stream_events_in_flight_max",
        doc: "Events of one StreamPublishEvents call that wait for their answer; the stream is not read on meanwhile.",
        kind: Kind::Count { min: 1, max: 10_000 },
        default: "256",
    },
    Setting {
        key: "grpc_message_bytes_max",
        doc: "The largest gRPC message that is read, uncompressed.",
        kind: Kind::Bytes { min: 64 * KIB, max: 64 * MIB },
        default: "4MiB",
    },
    Setting {
        key: "grpc_header_bytes_max",
        doc: "The most bytes of headers that a gRPC call may have.",
        kind: Kind::Bytes { min: 4 * KIB, max: MIB },
        default: "16KiB",
    },
    Setting {
        key: "grpc_calls_in_flight_max",
        doc: "Calls that are answered at once, over all connections, open streams not counted. Past it calls are answered with \
              RESOURCE_EXHAUSTED before their message is read.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "8192",
    },
    Setting {
        key: "grpc_streams_per_connection_max",
        doc: "Calls under way at once on one gRPC connection.",
        kind: Kind::Count { min: 1, max: 100_000 },
        default: "512",
    },
    Setting {
        key: "grpc_connections_max",
        doc: "gRPC connections at once. Further ones wait to be accepted.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "4096",
    },
    Setting {
        key: "grpc_connections_per_address_max",
        doc: "gRPC connections of one address at once, in IPv6 of one /64. Further ones are closed.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "1024",
    },
    Setting {
        key: "grpc_half_open_max",
        doc: "gRPC connections on which TLS and HTTP/2 have not begun, a quarter of them of one address. Further ones are \
              closed.",
        kind: Kind::Count { min: 4, max: 1_000_000 },
        default: "512",
    },
    Setting {
        key: "grpc_handshake_timeout",
        doc: "How long TLS and the beginning of HTTP/2 may take on a gRPC connection.",
        kind: duration(100, 60_000),
        default: "10s",
    },
    Setting {
        key: "grpc_idle_timeout",
        doc: "How long a gRPC connection may be without a call, up to a quarter longer, before its client is told to go.",
        kind: duration(100, 365 * 86_400_000),
        default: "1h",
    },
    Setting {
        key: "grpc_answer_timeout",
        doc: "How long an answer may wait for its client to take more of it, up to a quarter longer, before the connection is \
              cut.",
        kind: duration(100, 3_600_000),
        default: "1m",
    },
    Setting {
        key: "grpc_unfinished_bytes_max",
        doc: "Bytes of gRPC messages that have not arrived whole, a quarter of them on one connection. Past it calls are \
              answered with RESOURCE_EXHAUSTED. At least four times grpc_message_bytes_max is of use.",
        kind: Kind::Bytes { min: MIB, max: 64 * GIB },
        default: "256MiB",
    },
    Setting {
        key: "grpc_unread_bytes_max",
        doc: "Bytes of answers of more than 16 KiB that their clients have not taken, a quarter of them on one connection. \
              Past it calls are answered with RESOURCE_EXHAUSTED.",
        kind: Kind::Bytes { min: 16 * MIB, max: 64 * GIB },
        default: "256MiB",
    },
    Setting {
        key: "grpc_tls_cert_file",
        doc: "A PEM file with the certificate that gRPC clients are shown, then those up to its authority. With it gRPC is \
              served over TLS alone. Changes of the file are noticed.",
        kind: Kind::OptionalFile,
        default: "",
    },
    Setting {
        key: "grpc_tls_key_file",
        doc: "A PEM file with the private key of that certificate.",
        kind: Kind::OptionalFile,
        default: "",
    },
    Setting {
        key: "grpc_client_ca_file",
        doc: "A PEM file with certificates of authorities: every gRPC client must show a certificate of one of them.",
        kind: Kind::OptionalFile,
        default: "",
    },
    Setting {
        key: "grpc_tls_reload_interval",
        doc: "How often these files are looked at for changes. SIGHUP has them looked at as well.",
        kind: duration(100, 86_400_000),
        default: "5s",
    },
    Setting {
        key: "call_timeout",
        doc: "How long a call may take on the server, but for streams and TestSubscription. A longer one is answered with \
              DEADLINE_EXCEEDED; what it wrote may be stored all the same.",
        kind: duration(100, 600_000),
        default: "30s",
    },
    Setting {
        key: "reads_in_flight_max",
        doc: "Reads of the store by calls at once. Further ones wait for their turn.",
        kind: Kind::Count { min: 1, max: 256 },
        default: "8",
    },
    Setting {
        key: "tests_in_flight_max",
        doc: "TestSubscription calls at once. Past it they are answered with RESOURCE_EXHAUSTED.",
        kind: Kind::Count { min: 1, max: 10_000 },
        default: "64",
    },
    Setting {
        key: "watches_max",
        doc: "WatchDeliveries calls at once. Past it they are answered with RESOURCE_EXHAUSTED.",
        kind: Kind::Count { min: 1, max: 10_000 },
        default: "64",
    },
    Setting {
        key: "subscriptions_per_account_max",
        doc: "Subscriptions that an account may have.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "10000",
    },
    Setting {
        key: "delivery_timeout",
        doc: "How long one POST may take in all, where the subscription does not say.",
        kind: duration(1_000, 30_000),
        default: "10s",
    },
    Setting {
        key: "connect_timeout",
        doc: "How long a POST may wait for its connection, TLS included.",
        kind: duration(100, 30_000),
        default: "5s",
    },
    Setting {
        key: "response_bytes_max",
        doc: "How much of the body of an endpoint's answer is read; the connection is closed if there is more.",
        kind: Kind::Bytes { min: KIB, max: 16 * MIB },
        default: "64KiB",
    },
    Setting {
        key: "max_in_flight",
        doc: "POSTs of one subscription under way at once, where it does not say.",
        kind: Kind::Count { min: 1, max: MAX_IN_FLIGHT_MAX },
        default: "32",
    },
    Setting {
        key: "lane_window",
        doc: "Deliveries of one subscription that are kept in memory; the rest wait in the store.",
        kind: Kind::Count { min: MAX_IN_FLIGHT_MAX, max: 65_536 },
        default: "1024",
    },
    Setting {
        key: "lane_windows_bytes_max",
        doc: "Memory for the deliveries of all subscriptions that are kept in memory. Past it each keeps fewer, one at \
              least, and reads on from the store.",
        kind: Kind::Bytes { min: MIB, max: 64 * GIB },
        default: "128MiB",
    },
    Setting {
        key: "attempts_in_flight_max",
        doc: "POSTs under way at once over all subscriptions, shared in turns. Half of them is for subscriptions whose \
              last POST succeeded.",
        kind: Kind::Count { min: 16, max: 65_536 },
        default: "1024",
    },
    Setting {
        key: "lane_order_keys_max",
        doc: "Conversations, contacts and inboxes that an ordered subscription keeps apart, of which something is owed or \
              waits to be tried again. Past it the subscription reads no further until one is through.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "10000",
    },
    Setting {
        key: "lane_order_key_window",
        doc: "Deliveries of one conversation, contact or inbox of an ordered subscription kept in memory before they are \
              sent. Past it they stay on disk and are read again.",
        kind: Kind::Count { min: 1, max: 1_024 },
        default: "8",
    },
    Setting {
        key: "lane_reads_in_flight_max",
        doc: "Reads of the store for subscriptions that have more to send than is in memory, at once. Further ones wait for \
              their turn.",
        kind: Kind::Count { min: 1, max: 256 },
        default: "16",
    },
    Setting {
        key: "idle_connection_timeout",
        doc: "How long a connection to an endpoint is kept open unused.",
        kind: duration(1_000, 3_600_000),
        default: "90s",
    },
    Setting {
        key: "idle_connections_per_endpoint_max",
        doc: "Connections to one host and port that are kept open unused.",
        kind: Kind::Count { min: 0, max: 1_024 },
        default: "32",
    },
    Setting {
        key: "idle_connections_max",
        doc: "Connections to all endpoints together that are kept open unused. Once there are more, the half that was not \
              used for longest is closed.",
        kind: Kind::Count { min: 0, max: 1_000_000 },
        default: "4096",
    },
    Setting {
        key: "retry_max_attempts",
        doc: "Attempts made for a delivery in all, where the subscription does not say.",
        kind: Kind::Count { min: 1, max: 50 },
        default: "12",
    },
    Setting {
        key: "retry_min_backoff",
        doc: "The bound of the wait before the second attempt, where the subscription does not say. It doubles with \
              every further attempt.",
        kind: duration(10, 24 * 3_600_000),
        default: "5s",
    },
    Setting {
        key: "retry_max_backoff",
        doc: "The bound of the longest wait, where the subscription does not say. At least retry_min_backoff.",
        kind: duration(10, 7 * 24 * 3_600_000),
        default: "6h",
    },
    Setting {
        key: "retry_after_max",
        doc: "The longest wait that an endpoint may ask for with Retry-After.",
        kind: duration(0, 7 * 24 * 3_600_000),
        default: "1d",
    },
    Setting {
        key: "pace_wait_max",
        doc: "Longest wait of a subscription between its POSTs, while its endpoint gives no answer, or answers 429 or 503 \
              without Retry-After.",
        kind: duration(100, 300_000),
        default: "5s",
    },
    Setting {
        key: "backlog_per_subscription_max",
        doc: "Deliveries that one subscription may be owed. An event that would make it more is refused as a whole, with \
              RESOURCE_EXHAUSTED. What is being stored at that moment is not counted.",
        kind: Kind::Count { min: BATCH_EVENTS_MAX, max: 1_000_000_000 },
        default: "20000000",
    },
    Setting {
        key: "backlog_max",
        doc: "Deliveries that may be owed in all, likewise. At least backlog_per_subscription_max.",
        kind: Kind::Count { min: BATCH_EVENTS_MAX, max: 1_000_000_000 },
        default: "50000000",
    },
    Setting {
        key: "suspend_after",
        doc: "After every attempt of a subscription has failed for so long, it is suspended: it collects, and is probed.",
        kind: duration(1_000, 365 * 86_400_000),
        default: "5d",
    },
    Setting {
        key: "suspend_attempts_min",
        doc: "So many attempts must have failed in that time.",
        kind: Kind::Count { min: 1, max: 1_000_000 },
        default: "20",
    },
    Setting {
        key: "probe_interval_min",
        doc: "The bound of the wait before a suspended subscription is probed first. It doubles with every further probe.",
        kind: duration(10, 24 * 3_600_000),
        default: "1m",
    },
    Setting {
        key: "probe_interval_max",
        doc: "The bound of the longest wait between two probes. At least probe_interval_min.",
        kind: duration(10, 7 * 24 * 3_600_000),
        default: "1h",
    },
    Setting {
        key: "retention_age",
        doc: "How long events are kept with their deliveries. What is still owed is kept for as long as it is.",
        kind: duration(60_000, 3_650 * 86_400_000),
        default: "7d",
    },
    Setting {
        key: "retention_bytes_max",
        doc: "The most bytes of the log that are kept: events, attempts and what describes them; two files more are on the \
              disk. Past it the oldest events that are over are removed; when nothing more can be removed, publishing is \
              answered with RESOURCE_EXHAUSTED.",
        kind: Kind::Bytes { min: 16 * MIB, max: 16_384 * GIB },
        default: "10GiB",
    },
    Setting {
        key: "retention_interval",
        doc: "How often what is no longer kept is removed.",
        kind: duration(100, 3_600_000),
        default: "10s",
    },
    Setting {
        key: "audit_bytes_max",
        doc: "The most bytes of audit records that are kept, for at most retention_age; the disk may hold some times as much. Past \
              it the oldest are removed: those of refused calls once they take up a quarter, then any.",
        kind: Kind::Bytes { min: MIB, max: GIB },
        default: "32MiB",
    },
    Setting {
        key: "store_cache_bytes",
        doc: "Memory that the store may use to keep what it has read or written.",
        kind: Kind::Bytes { min: MIB, max: 64 * GIB },
        default: "64MiB",
    },
];

/// Pairs of settings of which the first may not be more than the second, and why.
pub(super) const NOT_MORE_THAN: &[(&str, &str, &str)] = &[
    ("retry_min_backoff", "retry_max_backoff", "waits would shrink"),
    ("probe_interval_min", "probe_interval_max", "waits would shrink"),
    ("event_bytes_max", "grpc_message_bytes_max", "the largest event would not fit into a message"),
    ("grpc_message_bytes_max", "publish_bytes_in_flight_max", "the largest batch would always be refused"),
    (
        "stream_events_in_flight_max",
        "publish_events_in_flight_max",
        "one stream could fill the whole gateway",
    ),
    ("ingest_body_bytes_max", "ingest_bytes_in_flight_max", "the largest body would always be refused"),
    ("backlog_per_subscription_max", "backlog_max", "what one subscription may be owed would not fit"),
];

/// Who may use a service that is of no account.
const EXPOSURE: Kind = Kind::Choice(&["open", "token", "off"]);
/// Pairs of addresses that are listened on.
pub(super) const LISTENERS: &[(&str, &str)] =
    &[("grpc_listen", "http_listen"), ("grpc_listen", "ingest_listen"), ("http_listen", "ingest_listen")];
/// Pairs of settings of which the first is of no use without the second.
pub(super) const NOT_WITHOUT: &[(&str, &str)] = &[
    ("grpc_tls_cert_file", "grpc_tls_key_file"),
    ("grpc_tls_key_file", "grpc_tls_cert_file"),
    ("grpc_client_ca_file", "grpc_tls_cert_file"),
    ("ingest_listen", "ingest_sources_file"),
];

const fn duration(min_ms: u64, max_ms: u64) -> Kind {
    Kind::Duration { min: Duration::from_millis(min_ms), max: Duration::from_millis(max_ms) }
}

impl Setting {
    /// The setting of this key.
    pub fn by_key(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Its flag: `grpc-listen`, to be used after `--`.
    pub fn flag(&self) -> String {
        self.key.replace('_', "-")
    }

    /// Its environment variable: `TIDINGS_GRPC_LISTEN`.
    pub fn environment(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.key.to_ascii_uppercase())
    }

    /// What its help says of its default.
    pub fn default_shown(&self) -> &'static str {
        match self.kind {
            Kind::Proxy => "the environment's",
            _ if self.default.is_empty() => "none",
            _ => self.default,
        }
    }

    /// Its value when nobody sets it.
    pub fn default_value(&self) -> Value {
        self.kind
            .read(&Raw::Text(self.default.to_owned()))
            .expect("a test reads the default of every setting")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_setting_has_a_name_of_its_own_and_a_default_as_people_write_it() {
        let mut keys = HashSet::new();
        for setting in SETTINGS {
            assert!(keys.insert(setting.key), "{} is there twice", setting.key);
            assert_eq!(setting.default_value().to_string(), setting.default, "{}", setting.key);
            assert!(setting.doc.ends_with('.'), "{}", setting.key);
            assert!(!setting.doc.contains("  "), "{}", setting.key);
        }
    }

    #[test]
    fn pairs_are_of_one_kind_and_hold_by_default() {
        for (less, more, _) in NOT_MORE_THAN {
            let value = |key| Setting::by_key(key).expect(key).default_value();
            assert_eq!(std::mem::discriminant(&value(less)), std::mem::discriminant(&value(more)));
            assert!(value(less) <= value(more), "{less} and {more}");
        }
    }

    #[test]
    fn a_setting_has_one_name_in_three_spellings() {
        let setting = Setting::by_key("grpc_listen").expect("it is in the table");
        assert_eq!((&*setting.flag(), &*setting.environment()), ("grpc-listen", "TIDINGS_GRPC_LISTEN"));
    }
}
