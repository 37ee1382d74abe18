//! Access control at the start and in the background: the administrator's token, the check of the listener,
//! and the maintenance of tokens.

use std::{
    fs::File,
    io::{self, Read as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::{ArgAction, Args};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Config;
use crate::{
    domain::{
        access::{ListenContext, ListenPolicy, TOKEN_CHARS_MAX, TokenHash, check_configured, listen_policy},
        secret::Secret,
    },
    gateway::{Gateway, TOKEN_TICK, TokenSettings},
};

/// Settings of the administrator's token.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Access")]
pub struct CallerSettings {
    /// A file with an access token of scope admin, of your own choice: 32 characters or more. It is read at
    /// the start.
    ///
    /// The environment variable TIDINGS_ADMIN_TOKEN may hold the token itself instead. With either, every
    /// call needs a token.
    #[arg(long, value_name = "FILE")]
    pub admin_token_file: Option<PathBuf>,
    /// Allow unauthenticated gRPC on a non-loopback address. Anyone who can connect has full access.
    #[arg(
        long, value_name = "true|false", action = ArgAction::Set, default_value = "false",
        num_args = 0..=1, default_missing_value = "true"
    )]
    pub insecure: bool,
}

/// Interval of storing when tokens were last used.
const USES_INTERVAL: Duration = Duration::from_secs(15);
/// Least time between two writes of one token's last use.
const USE_AGE_MIN: Duration = Duration::from_secs(60);
/// Largest token file, in bytes. The token may have white space around it.
const TOKEN_FILE_BYTES_MAX: u64 = 4 * TOKEN_CHARS_MAX as u64;

/// The hash of the administrator's token, if one is configured. The token itself is dropped.
///
/// # Errors
///
/// The token file cannot be read, or contains no valid token.
pub(super) fn admin(config: &mut Config) -> anyhow::Result<Option<TokenHash>> {
    let token = match (config.secrets.admin_token.take(), &config.access.admin_token_file) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => Some(read_token(file)?),
        (None, None) => None,
    };
    Ok(token.map(|token| TokenHash::of(token.expose())))
}

fn read_token(path: &Path) -> anyhow::Result<Secret> {
    let read = || -> io::Result<String> {
        let file = File::open(path)?;
        warn_if_readable_by_others(path, "the administrator's access token");
        let mut text = String::new();
        file.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().with_context(|| format!("cannot read admin_token_file {}", path.display()))?;
    check_configured(&text)
        .with_context(|| format!("admin_token_file {} does not contain an access token", path.display()))
}

/// Only a warning: secret files in containers are often readable for all users of the container.
pub(super) fn warn_if_readable_by_others(path: &Path, what: &str) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        const READ_BY_OTHERS: u32 = 0o004;
        if std::fs::metadata(path).is_ok_and(|data| data.permissions().mode() & READ_BY_OTHERS != 0) {
            tracing::warn!(file = %path.display(), "every user of this machine can read {what}");
        }
    }
    #[cfg(not(unix))]
    let _ = (path, what);
}

/// Who may call. `has_tokens` is whether calls need a token: the configuration has the administrator's, or the store
/// has some.
///
/// # Errors
///
/// gRPC would be open to the network without authentication, and `insecure` does not allow that.
pub(super) fn check_listener(
    config: &Config,
    address: SocketAddr,
    has_tokens: bool,
) -> anyhow::Result<ListenPolicy> {
    let context = ListenContext {
        loopback: ListenContext::is_loopback(address.ip()),
        tokens: has_tokens,
        certificates: certificates_required(config),
        subjects: certificates_listed(config),
        insecure: config.access.insecure,
    };
    listen_policy(context)
        .with_context(|| format!("gRPC is not served on grpc_listen {address} without access tokens"))
}

/// Logs who may call.
pub(super) fn log_policy(policy: ListenPolicy, address: SocketAddr) {
    match policy {
        ListenPolicy::Certificates | ListenPolicy::Insecure => tracing::warn!(%address, "{policy}"),
        ListenPolicy::Authenticated | ListenPolicy::Loopback => tracing::info!(%address, "{policy}"),
    }
}

/// Whether clients need a certificate.
const fn certificates_required(config: &Config) -> bool {
    config.grpc.tls.grpc_client_ca_file.is_some()
}

/// Whether the configuration says what certificates grant.
const fn certificates_listed(config: &Config) -> bool {
    !config.grpc.access.grpc_client_subjects.is_empty()
}

pub(super) fn token_settings(config: &Config, admin: Option<TokenHash>) -> TokenSettings {
    TokenSettings {
        admin,
        proof_required: certificates_required(config),
        certificates_listed: certificates_listed(config),
        ..config.gateway.tokens.clone()
    }
}

/// Ends tokens when they expire.
pub(super) async fn end_expired_tokens(gateway: Gateway, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(TOKEN_TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        gateway.end_expired_tokens();
    }
}

/// Stores at intervals when tokens were last used. A task of its own, since it waits for the disk.
pub(super) async fn write_token_uses(gateway: Gateway, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(USES_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        write_uses_older_than(USE_AGE_MIN, &gateway).await;
    }
}

/// Stores when tokens were last used, at the shutdown.
pub(super) async fn write_last_token_uses(gateway: &Gateway) {
    write_uses_older_than(Duration::ZERO, gateway).await;
}

async fn write_uses_older_than(age: Duration, gateway: &Gateway) {
    // A failure of the store has been logged already.
    if let Err(error) = gateway.write_token_uses(age).await {
        tracing::debug!(%error, "cannot store the last use of access tokens");
    }
}
