//! The only place that constructs: binds the listeners, runs what serves them, and brings it to an end.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    ops::{self, Readiness},
};

/// Runs the gateway until `shutdown`.
///
/// # Errors
///
/// Something that it needs cannot be had: an address, for one.
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let grpc = bind(config.grpc_listen, "grpc_listen").await?;
    let http = bind(config.http_listen, "http_listen").await?;
    tracing::info!(grpc.listen = %grpc.local_addr()?, http.listen = %http.local_addr()?, "listening");
    ops::serve(http, Readiness::starting(), shutdown).await;
    tracing::info!("stopped");
    Ok(())
}

async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {setting} {address}"))
}
