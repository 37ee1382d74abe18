//! Who may call: the administrator's token, whether the address may be listened on, and what keeps the tokens current.

use std::{
    fs::File,
    io::{self, Read as _},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use anyhow::Context;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Exposed},
    domain::{
        access::{ListenContext, ListenPolicy, TOKEN_CHARS_MAX, TokenHash, check_configured, listen_policy},
        secret::Secret,
    },
    gateway::{Gateway, TOKEN_TICK, TokenSettings},
    grpc::{AccessSettings, Exposure},
    store::Tokens,
};

/// How often it is looked for tokens whose last use is to be written down.
const USES_EVERY: Duration = Duration::from_secs(15);
/// Least time between two writes of when a token was last used.
const USE_WRITTEN_EVERY: Duration = Duration::from_secs(60);
/// Most bytes of a file with a token. It may have white space around it.
const TOKEN_FILE_BYTES_MAX: u64 = 4 * TOKEN_CHARS_MAX as u64;

/// The hash of the administrator's token, if the configuration has one. The token itself is not kept.
///
/// # Errors
///
/// Its file cannot be read, or has no token.
pub(super) fn admin(config: &mut Config) -> anyhow::Result<Option<TokenHash>> {
    let token = match (config.admin_token.take(), &config.admin_token_file) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => Some(read_token(file)?),
        (None, None) => None,
    };
    Ok(token.map(|token| TokenHash::of(token.expose())))
}

fn read_token(path: &Path) -> anyhow::Result<Secret> {
    let read = || -> io::Result<String> {
        let file = File::open(path)?;
        warn_if_readable_by_others(path, &file);
        let mut text = String::new();
        file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().with_context(|| format!("cannot read admin_token_file {}", path.display()))?;
    check_configured(&text)
        .with_context(|| format!("admin_token_file {} does not hold an access token", path.display()))
}

/// Not refused: how containers are given secrets, their files are often readable by everybody within.
#[cfg(unix)]
fn warn_if_readable_by_others(path: &Path, file: &File) {
    use std::os::unix::fs::PermissionsExt;
    const READ_BY_OTHERS: u32 = 0o004;
    if file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & READ_BY_OTHERS != 0) {
        tracing::warn!(file = %path.display(), "everybody on this machine can read the administrator's access token");
    }
}

#[cfg(not(unix))]
fn warn_if_readable_by_others(_path: &Path, _file: &File) {}

/// Says who may call, unless that would be everybody in the network by mistake.
///
/// # Errors
///
/// It would.
pub(super) fn check_opening(
    config: &Config,
    address: SocketAddr,
    has_admin: bool,
    tokens: &Tokens,
) -> anyhow::Result<()> {
    let asked = ListenContext {
        loopback: ListenContext::is_loopback(address.ip()),
        tokens: has_admin || tokens.are_asked_for(),
        certificates: certificates_required(config),
        insecure: config.insecure,
    };
    let policy = listen_policy(asked)
        .with_context(|| format!("gRPC is not served on grpc_listen {address} without access tokens"))?;
    match policy {
        ListenPolicy::Insecure => tracing::warn!(%address, "{policy}"),
        ListenPolicy::Authenticated | ListenPolicy::Loopback => tracing::info!(%address, "{policy}"),
    }
    Ok(())
}

/// Whether clients must prove with a certificate who they are.
const fn certificates_required(config: &Config) -> bool {
    config.grpc_client_ca_file.is_some()
}

pub(super) fn token_settings(config: &Config, admin: Option<TokenHash>) -> TokenSettings {
    TokenSettings {
        admin,
        proof_required: certificates_required(config),
        tokens_max: config.access_tokens_max,
    }
}

pub(super) fn settings(config: &Config) -> AccessSettings {
    let exposure = |exposed| match exposed {
        Exposed::Open => Exposure::Open,
        Exposed::Token => Exposure::Token,
        Exposed::Off => Exposure::Off,
    };
    AccessSettings {
        reflection: exposure(config.grpc_reflection),
        health: exposure(config.grpc_health),
        failures_per_minute_max: config.access_failures_per_minute_max,
        failure_addresses_max: config.access_failure_addresses_max,
    }
}

/// Ends tokens when their time is over.
pub(super) async fn end_tokens(gateway: Gateway, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(TOKEN_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        gateway.end_expired_tokens();
    }
}

/// Writes down from time to time when tokens were last used. Apart from what ends them, which waits for no disk.
pub(super) async fn write_token_uses(gateway: Gateway, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(USES_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        write_uses_older_than(USE_WRITTEN_EVERY, &gateway).await;
    }
}

/// Writes down when tokens were last used, at the end of the program.
pub(super) async fn write_last_token_uses(gateway: &Gateway) {
    write_uses_older_than(Duration::ZERO, gateway).await;
}

async fn write_uses_older_than(age: Duration, gateway: &Gateway) {
    // A store that failed has said so itself.
    if let Err(error) = gateway.write_token_uses(age).await {
        tracing::debug!(%error, "the last use of access tokens was not written down");
    }
}
