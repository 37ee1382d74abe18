//! Fits the bounds on connections to the limit of open files, so that the store always gets the ones it needs.

use std::path::Path;

use anyhow::bail;

use super::Config;
use crate::{
    delivery::http::client::{DESCRIPTORS_PER_LOOKUP, further_dials_max, lookups_max},
    ops,
    store::disk,
};

/// Files that are open whatever the settings: standard streams, listeners, the threads' own, sled, the lock,
/// and those that are read now and then.
const BASE: usize = 64;
/// Steps in which the bounds are lowered.
const STEPS: usize = 64;
/// Least connections of clients, and attempts in flight: what the settings allow at least.
const CLIENTS_MIN: usize = 16;
const ATTEMPTS_MIN: usize = 16;

/// Lowers the bounds on connections until all of them, and the store's files, fit into `limit` open files.
/// `None` if they do anyway.
///
/// # Errors
///
/// The limit is too low for the least bounds.
pub(super) fn fit(config: &Config, limit: u64) -> anyhow::Result<Option<Config>> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let of_store = of_store(config, disk_bytes(&config.data_dir));
    let needed = |config: &Config| of_store + of_connections(config);
    if needed(config) <= limit {
        return Ok(None);
    }
    let mut smaller = (1..STEPS).rev().map(|part| scaled(config, part));
    if let Some(fitting) = smaller.clone().find(|config| needed(config) <= limit) {
        tracing::warn!(
            limit,
            needed = needed(config),
            client_connections_max = fitting.clients.client_connections_max,
            attempts_in_flight_max = fitting.dispatch.attempts_in_flight_max,
            "the limit of open files is too low for the bounds on connections, which are lowered; raise it (ulimit -Hn, \
             LimitNOFILE= of systemd, --ulimit nofile= of a container)",
        );
        return Ok(Some(fitting));
    }
    let least = smaller.next_back().map_or_else(|| needed(config), |config| needed(&config));
    bail!(
        "the limit of open files is {limit}, and with these settings the gateway needs at least {least}, {of_store} of them for the \
         store: raise it (ulimit -Hn, LimitNOFILE= of systemd, --ulimit nofile= of a container), or lower \
         retention_bytes_max"
    )
}

/// The size of the file system that the data directory is, or will be, on; `None` where the system does not
/// report it.
fn disk_bytes(data_dir: &Path) -> Option<u64> {
    let data_dir = std::path::absolute(data_dir).ok()?;
    data_dir.ancestors().find(|dir| dir.exists()).and_then(disk::total_bytes)
}

/// Open files of a gateway that is at all its bounds, but for the store's.
fn of_connections(config: &Config) -> usize {
    let ingest = config.ingest.ingest_listen.map_or(0, |_| config.ingest.connections_max);
    let console = config.console.console_listen.address().map_or(0, |_| config.console.connections_max);
    let clients = config.grpc.connections.connections_max + ingest + console + ops::CONNECTIONS_MAX;
    let attempts = config.dispatch.attempts_in_flight_max;
    let lookups = lookups_max(attempts) * DESCRIPTORS_PER_LOOKUP + further_dials_max(attempts);
    let endpoints =
        attempts + config.gateway.tests_in_flight_max + config.webhook_client.idle_connections_max;
    BASE + clients + endpoints + lookups
}

/// Files of the log: as many as retention allows and a quarter more for unfinished deliveries, but no more than
/// the disk has room for; and the spare.
fn of_store(config: &Config, disk_bytes: Option<u64>) -> usize {
    let allowed = config.gateway.retention_bytes_max;
    let bytes = (allowed + allowed / 4).min(disk_bytes.unwrap_or(u64::MAX));
    usize::try_from(bytes.div_ceil(config.store.file_bytes.into()) + 2).unwrap_or(usize::MAX)
}

/// The settings with this part of the connections, in [`STEPS`].
fn scaled(config: &Config, part: usize) -> Config {
    let of = |bound: usize, least: usize| (bound * part / STEPS).max(least.min(bound));
    let mut config = config.clone();
    config.clients.client_connections_max = of(config.clients.client_connections_max, CLIENTS_MIN);
    config.dispatch.attempts_in_flight_max = of(config.dispatch.attempts_in_flight_max, ATTEMPTS_MIN);
    config.derive();
    let console = &mut config.console;
    console.connections_max = of(console.connections_max, 4 * CLIENTS_MIN);
    console.connections_per_address_max = of(console.connections_per_address_max, CLIENTS_MIN);
    console.streams_max = of(console.streams_max, CLIENTS_MIN / 2);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed(config: &Config) -> u64 {
        (of_store(config, disk_bytes(&config.data_dir)) + of_connections(config)) as u64
    }

    #[test]
    fn the_disk_bounds_the_files_that_retention_may_keep() {
        let mut config = Config::default();
        let by_default = of_store(&config, Some(1 << 40));
        assert_eq!(by_default, of_store(&config, None), "10 GiB and a quarter fit");
        config.gateway.retention_bytes_max = 16 << 40;
        config.derive();
        let file_bytes = u64::from(config.store.file_bytes);
        assert_eq!(of_store(&config, Some(100 * file_bytes)), 102);
        assert!(of_store(&config, None) > 300_000);
        assert!(disk_bytes(Path::new("/not/yet/made")).is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn bounds_that_fit_stay() {
        let config = Config::default();
        let needed = needed(&config);
        assert!(fit(&config, needed).unwrap().is_none());
        assert!(fit(&config, needed - 1).unwrap().is_some());
    }

    #[test]
    fn a_lower_limit_lowers_the_connections_and_never_what_the_store_needs() {
        let config = Config::default();
        let mut last = usize::MAX;
        for limit in [8192, 4096, 2048, 1024, 640] {
            let fitting = fit(&config, limit).unwrap().expect("it is too low");
            assert!(needed(&fitting) <= limit, "{limit}");
            assert_eq!(of_store(&fitting, None), of_store(&config, None));
            let connections = fitting.grpc.connections.connections_max;
            assert!(connections >= CLIENTS_MIN && connections <= last, "{limit}: {connections}");
            assert!(fitting.dispatch.attempts_in_flight_max >= ATTEMPTS_MIN);
            assert!(fitting.console.streams_max < fitting.console.connections_per_address_max);
            last = connections;
        }
    }

    #[test]
    fn a_limit_that_is_too_low_for_anything_names_itself_and_the_way_out() {
        let error = fit(&Config::default(), 128).unwrap_err().to_string();
        assert!(error.contains("the limit of open files is 128") && error.contains("LimitNOFILE"), "{error}");
        assert!(error.contains("retention_bytes_max"), "{error}");
    }
}
