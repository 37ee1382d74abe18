//! The connection to a running gateway, for the commands that call one.

use std::{error::Error, io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::anyhow;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::{
    Request,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};
use tower::service_fn;

mod address;
pub(super) mod contexts;
mod identity;
mod target;

pub use address::Address;
pub(super) use target::{Environment, parse_account};

/// Limit on connecting, with TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Which gateway, and the credentials of both ends. Values that are not given here come from the environment, and
/// then from a context: [`ConnectionArguments::resolve`].
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArguments {
    /// The gateway's gRPC address: http:// or https://, a host and a port. [default: http://127.0.0.1:50051]
    ///
    /// [env: TIDINGS_ADDRESS]
    #[arg(long, value_name = "URL", global = true)]
    pub address: Option<Address>,
    /// File with the access token.
    ///
    /// [env: TIDINGS_TOKEN_FILE, or the token itself in TIDINGS_TOKEN]
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// PEM file with the certificate authorities to trust for https, instead of the system's.
    ///
    /// [env: TIDINGS_CA]
    #[arg(long, value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
    /// PEM file with the client certificate, followed by its chain. Needs --key.
    ///
    /// [env: TIDINGS_CERT]
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    pub cert: Option<PathBuf>,
    /// PEM file with the private key of the client certificate. Needs --cert.
    ///
    /// [env: TIDINGS_KEY]
    #[arg(long, value_name = "FILE", global = true, hide_short_help = true)]
    pub key: Option<PathBuf>,
    /// Context to take these values from, instead of the current one. `tidings context` manages them.
    ///
    /// [env: TIDINGS_CONTEXT]
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
}

/// The address of a gateway, and the credentials of both ends.
pub(super) struct Connection {
    pub(super) address: Address,
    pub(super) tls: Option<Arc<ClientConfig>>,
    token: Option<MetadataValue<Ascii>>,
}

impl Connection {
    /// A server at this address, to which nothing proves who calls. An https one is known by the system's authorities.
    ///
    /// # Errors
    ///
    /// The system has no certificate authorities.
    pub(super) fn anonymous(address: Address) -> anyhow::Result<Self> {
        target::Target::anonymous(address).open()
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// The gateway cannot be reached, or TLS fails.
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let address = self.address.clone();
        let endpoint =
            Endpoint::from(address.uri().clone()).connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let connected = match self.tls.clone() {
            None => endpoint.connect().await,
            Some(tls) => {
                let connector = service_fn(move |_| {
                    let (address, tls) = (address.clone(), Arc::clone(&tls));
                    async move { connect_tls(&address, tls).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(connector).await
            }
        };
        connected.map_err(|error| {
            let cause = chain(error.to_string(), error.source());
            anyhow!("cannot reach a gateway at {}: {cause}", self.address)
        })
    }

    /// A request with the token, if there is one.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }
}

/// The message of an error with those of its sources. Some messages include their source already.
pub(super) fn chain(mut text: String, mut source: Option<&(dyn Error + 'static)>) -> String {
    while let Some(error) = source {
        let further = error.to_string();
        if !text.ends_with(&further) {
            text = format!("{text}: {further}");
        }
        source = error.source();
    }
    text
}

/// A TLS connection to this address.
pub(super) async fn connect_tls(
    address: &Address,
    tls: Arc<ClientConfig>,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connecting = async {
        let stream = TcpStream::connect((address.host(), address.port())).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(address.host().to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(tls).connect(name, stream).await
    };
    timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
