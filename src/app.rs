//! The composition root: builds all parts of the gateway, runs them, and shuts them down in order.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock, domain::access::TokenHash, event::webhook::WebhookClient, metrics::Metrics, ops::Readiness,
    store::disk::DiskStore,
};

mod access;
mod bind;
mod build;
pub mod config;
mod console;
mod drain;
mod egress;
mod grpc_runtime;
mod ingest;
mod open_files;
mod ops_server;
mod run;
mod tls;

pub use access::CallerSettings;
pub use build::key_source;
pub use config::Config;
pub use egress::EgressSettings;

use console::BoundConsole;
use ingest::Ingest;
use ops_server::OpsServer;
use tls::GrpcTls;

/// A gateway that is built: its store is open and its addresses are bound, but it does not serve yet.
pub struct App {
    config: Config,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    store: Arc<DiskStore>,
    webhook_client: WebhookClient,
    admin: Option<TokenHash>,
    grpc: TcpListener,
    tls: Option<GrpcTls>,
    ingest: Option<Ingest>,
    console: Option<BoundConsole>,
    ops: OpsServer,
    readiness: Readiness,
}

/// The addresses that a gateway listens on.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// gRPC.
    pub grpc: SocketAddr,
    /// `/healthz`, `/readyz` and `/metrics`.
    pub http: SocketAddr,
    /// The console, as a browser takes it, or `off`.
    pub console: String,
}

impl App {
    /// The addresses that it listens on.
    ///
    /// # Errors
    ///
    /// The system cannot determine the address of a socket.
    pub fn addresses(&self) -> std::io::Result<Addresses> {
        Ok(Addresses {
            grpc: self.grpc_address()?,
            http: self.ops.address,
            console: console::describe(self.console.as_ref()),
        })
    }

    /// The gRPC address.
    ///
    /// # Errors
    ///
    /// The system cannot determine the address of the socket.
    pub fn grpc_address(&self) -> std::io::Result<SocketAddr> {
        self.grpc.local_addr()
    }
}

/// Builds a gateway and runs it until `shutdown`.
///
/// # Errors
///
/// See [`App::build`] and [`App::run`].
pub async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    App::build(config).await?.run(shutdown).await
}
