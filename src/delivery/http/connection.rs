//! Interfaces between the pool and the connector: destination, connecting service, stream and errors.

use std::{
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, Write};
use tower::Service;

use super::{
    dns::LookupDelay,
    proxy::{Forwarding, ProxyError},
    tls::TlsError,
};
use crate::domain::{egress::Blocked, ids::AccountId, subscription::TlsProfile};

/// The destination of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// An absolute URL. Its path does not matter.
    pub(crate) url: Uri,
    /// The TLS options of the subscription.
    pub(crate) tls: Option<Arc<TlsProfile>>,
    /// Whether HTTP/2 is not offered.
    pub(crate) needs_http1: bool,
    /// The account of the subscription: look-ups are shared between accounts.
    pub(crate) account: AccountId,
}

/// Why no connection was established. Endpoints' owners read these texts: they never name the proxy, nor an
/// address that is not in the URL.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The host name did not resolve.
    #[error("{host} did not resolve: {reason}")]
    Lookup {
        /// The name.
        host: String,
        /// The resolver's reason.
        reason: Arc<str>,
    },
    /// The host name did not resolve in time.
    #[error("{host} did not resolve within {limit:?}{delay}")]
    LookupTimeout {
        /// The name.
        host: String,
        /// The time.
        limit: Duration,
        /// Why.
        delay: LookupDelay,
    },
    /// The gateway has no file descriptor free for a connection. It says nothing about the endpoint.
    #[error("the gateway had no file descriptor free for a connection")]
    NoDescriptor,
    /// The egress policy blocks the address in the URL.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// The egress policy blocks every address of the name.
    #[error("{host} is blocked: it is at no address that is public or in egress_allow")]
    BlockedName {
        /// The name.
        host: String,
    },
    /// The last address that was tried did not accept the connection.
    #[error("could not connect to {endpoint}: {}", .source.kind())]
    Refused {
        /// The host and the port in the URL.
        endpoint: String,
        /// The system's error.
        source: io::Error,
    },
    /// The proxy failed.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// The proxy took longer than this.
    #[error("no connection by the proxy within {0:?}")]
    ProxyTimeout(Duration),
    /// TLS failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It took longer than this.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

/// Opens connections to the origins of URLs.
pub(crate) trait Connect:
    Service<Destination, Response: Transport, Error = ConnectError, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<S> Connect for S where
    S: Service<Destination, Response: Transport, Error = ConnectError, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// The stream that requests are sent over.
pub(crate) trait Transport: Read + Write + Unpin + Send + 'static {
    /// Whether ALPN selected HTTP/2.
    fn is_http2(&self) -> bool;

    /// How to send requests if the other end is a proxy that forwards them.
    fn forwarding(&self) -> Option<&Forwarding>;

    /// What its reads have found so far.
    fn reads(&self) -> &Arc<Reads>;
}

/// What was read from a connection, for those who do not read it themselves.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    bytes: AtomicU64,
    tls_failure: OnceLock<rustls::Error>,
}

impl Reads {
    /// Notes a read of this many bytes.
    pub(crate) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How many bytes were read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Notes that TLS failed. Keeps the first error.
    pub(crate) fn failed(&self, error: &rustls::Error) {
        self.tls_failure.get_or_init(|| error.clone());
    }

    /// Why TLS failed: HTTP/2 does not always report it.
    pub(crate) fn tls_failure(&self) -> Option<&rustls::Error> {
        self.tls_failure.get()
    }
}
