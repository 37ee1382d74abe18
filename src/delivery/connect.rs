//! Connects: resolves a URL's host, asks for the verdict on every address, and connects to one that was judged.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Uri, uri::Scheme};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};
use tower::{BoxError, Service, ServiceExt};

use super::resolve::Resolver;
use crate::{
    domain::egress::{Blocked, EgressPolicy},
    metrics::{Open, Opened},
};

/// How long a kept connection is silent before the system asks whether the other end is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// How often it asks then.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// How often it asks in vain before the connection counts as dead.
const KEEPALIVE_TRIES: u32 = 3;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name leads nowhere.
    #[error("{host} did not resolve: {reason}")]
    Lookup {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: Arc<str>,
    },
    /// Every address that the host has is blocked; this is the first.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// An address did not take the connection; this was the last that was tried.
    #[error("could not connect to {address}: {}", .source.kind())]
    Refused {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It took longer than this.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
}

/// Connects to the hosts of URLs, as far as the policy lets it.
///
/// There is one look-up per connection, and the address that was judged is the address that is connected to: a name that
/// leads elsewhere a moment later changes nothing.
#[derive(Clone)]
pub(super) struct Connector<D> {
    /// Opens a connection to an address: [`dial`], but in a simulation.
    dial: D,
    resolver: Resolver,
    egress: Arc<EgressPolicy>,
    /// For the look-up and all addresses together.
    timeout: Duration,
    connections: Open,
}

/// Opens a TCP connection, as the gateway wants it.
pub(super) async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A POST is written in one go: waiting for more to send would only delay it.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

impl<D> Connector<D> {
    pub(super) fn new(dial: D, egress: EgressPolicy, timeout: Duration, connections: Open) -> Self {
        Self { dial, resolver: Resolver::new(), egress: Arc::new(egress), timeout, connections }
    }

    async fn connect<F, T>(self, url: Uri) -> Result<Stream<T>, ConnectError>
    where
        D: Fn(SocketAddr) -> F,
        F: Future<Output = io::Result<T>>,
    {
        let host = url.host().expect("the client asks for absolute URLs only");
        let default_port = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        let port = url.port_u16().unwrap_or(default_port);

        let deadline = Instant::now() + self.timeout;
        let found = timeout_at(deadline, self.resolver.resolve(host)).await;
        let addresses = found
            .map_err(|_| ConnectError::Timeout(self.timeout))?
            .map_err(|reason| ConnectError::Lookup { host: host.to_owned(), reason })?;
        let allowed = self.allowed(&addresses)?;

        // In the order in which the system gave them, which knows what can be reached from here. Each address gets its
        // share of what is left, so that one that is silent leaves time for the next.
        let mut last = ConnectError::Timeout(self.timeout);
        for (tried, address) in allowed.iter().enumerate() {
            let left = u32::try_from(allowed.len() - tried).expect("a name's addresses are few");
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            let address = SocketAddr::new(*address, port);
            match timeout(share, (self.dial)(address)).await {
                Ok(Ok(stream)) => {
                    return Ok(Stream { inner: TokioIo::new(stream), _opened: self.connections.one() });
                }
                Ok(Err(source)) => last = ConnectError::Refused { address, source },
                Err(_) => last = ConnectError::Timeout(self.timeout),
            }
        }
        Err(last)
    }

    /// Those of a host's addresses that may be connected to. If none may, why the first may not.
    fn allowed(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, ConnectError> {
        let (mut allowed, mut blocked) = (Vec::with_capacity(addresses.len()), None);
        for address in addresses {
            match self.egress.verdict(*address) {
                Ok(()) => allowed.push(*address),
                Err(reason) => {
                    blocked.get_or_insert(reason);
                }
            }
        }
        match blocked {
            Some(blocked) if allowed.is_empty() => Err(blocked.into()),
            _ => Ok(allowed),
        }
    }
}

type Connecting<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

impl<D, F, T> Service<Uri> for Connector<D>
where
    D: Fn(SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
    T: Send + 'static,
{
    type Response = Stream<T>;
    type Error = ConnectError;
    type Future = Connecting<Stream<T>, ConnectError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        Box::pin(self.clone().connect(url))
    }
}

/// Bounds the time until a connection can be used. Stands around TLS, whose handshake may hang as well as TCP's.
#[derive(Debug)]
pub(super) struct ConnectWithin<S> {
    /// Shared: it is cloned for every connection.
    pub(super) inner: Arc<S>,
    pub(super) timeout: Duration,
}

impl<S> Clone for ConnectWithin<S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), timeout: self.timeout }
    }
}

impl<S> Service<Uri> for ConnectWithin<S>
where
    S: Service<Uri, Error = BoxError, Response: Send, Future: Send> + Clone + Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Connecting<S::Response, BoxError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let (limit, connector) = (self.timeout, S::clone(&self.inner));
        Box::pin(async move {
            let connecting = timeout(limit, connector.oneshot(url)).await;
            connecting.unwrap_or_else(|_| Err(ConnectError::Timeout(limit).into()))
        })
    }
}

/// A connection that is counted.
pub(super) struct Stream<T> {
    inner: TokioIo<T>,
    _opened: Opened,
}

impl<T> Connection for Stream<T> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl<T: AsyncRead + Unpin> Read for Stream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> Write for Stream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allowed: &[&str]) -> EgressPolicy {
        EgressPolicy::new(allowed.iter().map(|net| net.parse().unwrap()).collect())
    }

    /// Connects as the gateway does. A macro, since the type of an `async fn` has no name.
    macro_rules! connector {
        ($allowed:expr) => {
            Connector::new(dial, policy($allowed), Duration::from_secs(5), Open::default())
        };
    }

    #[test]
    fn only_allowed_addresses_are_left_and_if_there_are_none_the_first_says_why() {
        let addresses: Vec<IpAddr> =
            ["10.0.0.1", "1.1.1.1", "::1"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(connector!(&[]).allowed(&addresses).unwrap(), [addresses[1]]);
        assert_eq!(connector!(&["::1/128"]).allowed(&addresses).unwrap(), [addresses[1], addresses[2]]);
        let blocked = connector!(&[]).allowed(&addresses[..1]).unwrap_err();
        assert_eq!(blocked.to_string(), "10.0.0.1 is not posted to: it is a private address");
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connector = connector!(&["127.0.0.0/8", "::1/128"]);
        // Nobody listens on ::1 and 127.0.0.2; localhost may stand for ::1 first.
        for (host, connects) in
            [("localhost", true), ("127.0.0.1", true), ("127.0.0.2", false), ("[::1]", false)]
        {
            let url = Uri::try_from(format!("http://{host}:{port}/")).unwrap();
            assert_eq!(connector.clone().connect(url).await.is_ok(), connects, "{host}");
        }
    }

    #[tokio::test]
    async fn what_was_refused_is_said_without_the_path() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let url = Uri::try_from(format!("http://{address}/secret?token=secret")).unwrap();
        let Err(error) = connector!(&["127.0.0.0/8"]).connect(url).await else { panic!("connected") };
        assert_eq!(error.to_string(), format!("could not connect to {address}: connection refused"));
    }
}
