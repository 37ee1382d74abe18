//! Connects to an endpoint: resolves the host, applies the egress policy to every address and connects to one
//! that it allows; or connects to a proxy, which does the rest.

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::uri::Scheme;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tower::Service;

use super::{
    connection::{ConnectError, Destination},
    dns::{LookupError, Resolver, literal},
    proxy::{self, Forwarding, ProxyError},
    race::{Race, RaceError, Target},
    stream::{Socket, Stream},
    tls::Tls,
};
use crate::{
    domain::{
        egress::{Blocked, EgressPolicy, Proxy, ProxyRules},
        ids::AccountId,
    },
    event::exchange,
    log_throttle::LogThrottle,
    metrics::InFlightGauge,
};

/// Idle time before the system sends the first TCP keepalive probe.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
/// Interval of further probes.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
/// Probes without a response before the system closes the connection.
const KEEPALIVE_TRIES: u32 = 3;

/// Settings of a [`Connector`].
pub(crate) struct ConnectSettings {
    pub(crate) egress: EgressPolicy,
    pub(crate) proxies: ProxyRules,
    pub(crate) tls: Tls,
    /// For name resolution, all addresses, proxy and TLS together.
    pub(crate) timeout: Duration,
    /// Most concurrent name resolutions.
    pub(crate) lookups_max: usize,
    /// Most concurrent dials besides the first one of each attempt.
    pub(crate) further_dials_max: usize,
    pub(crate) connections: InFlightGauge,
}

/// Connects to the hosts of URLs if the egress policy allows it.
///
/// One name resolution per connection, and the address that was checked is the one that is connected to: a
/// name that resolves to another address a moment later (DNS rebinding) changes nothing.
pub(crate) struct Connector<D> {
    /// Opens a TCP connection: [`dial`], except in a simulation.
    dial: D,
    resolver: Resolver,
    race: Arc<Race>,
    /// Shared, because the connector is cloned for every connection.
    settings: Arc<ConnectSettings>,
}

impl<D: Clone> Clone for Connector<D> {
    fn clone(&self) -> Self {
        let (resolver, race) = (self.resolver.clone(), Arc::clone(&self.race));
        Self { dial: self.dial.clone(), resolver, race, settings: Arc::clone(&self.settings) }
    }
}

/// Opens a TCP connection without Nagle's algorithm and with keepalive.
pub(crate) async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A request is written at once: waiting for more data would only delay it.
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

impl<D, F, T> Connector<D>
where
    D: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<T>>,
    T: AsyncRead + AsyncWrite + Unpin,
{
    pub(crate) fn new(dial: D, settings: ConnectSettings) -> Self {
        let resolver = Resolver::new(settings.lookups_max, settings.timeout);
        let race = Arc::new(Race::new(settings.further_dials_max));
        Self { dial, resolver, race, settings: Arc::new(settings) }
    }

    async fn connect(self, to: Destination) -> Result<Stream<T>, ConnectError> {
        let settings = &self.settings;
        let deadline = Instant::now() + settings.timeout;
        let host = to.url.host().expect("requests have absolute URLs");
        let is_https = to.url.scheme() == Some(&Scheme::HTTPS);
        let port = to.url.port_u16().unwrap_or(if is_https { 443 } else { 80 });

        let proxy = settings.proxies.route(is_https, host, port);
        let stream = match proxy {
            None => self.connect_directly(to.account, host, port, deadline).await?,
            Some(proxy) => self.connect_by_proxy(proxy, to.account, is_https, host, port, deadline).await?,
        };
        let opened = settings.connections.track();
        if !is_https {
            return Ok(Socket::plain(stream, proxy.map(Forwarding::by), opened));
        }
        let securing = settings.tls.connect(stream, host, to.tls.as_deref(), to.needs_http1);
        let begun = Instant::now();
        let secured = timeout_at(deadline, securing).await;
        exchange::note(|exchange| exchange.tls = Some(begun.elapsed()));
        match secured {
            Ok(secured) => Ok(Socket::secured(secured?, opened)),
            Err(_) => Err(ConnectError::Timeout(settings.timeout)),
        }
    }

    /// Connects to the endpoint at an address that the egress policy allows.
    async fn connect_directly(
        &self,
        account: AccountId,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<T, ConnectError> {
        let begun = Instant::now();
        let found = self.resolver.resolve(account, host, deadline).await;
        exchange::note(|exchange| exchange.dns = Some(begun.elapsed()));
        let addresses = found.map_err(|error| match error {
            LookupError::Failed(reason) => ConnectError::Lookup { host: host.to_owned(), reason },
            LookupError::Late(delay) => {
                ConnectError::LookupTimeout { host: host.to_owned(), limit: self.settings.timeout, delay }
            }
            LookupError::NoDescriptor => ConnectError::NoDescriptor,
        })?;
        let allowed = allowed(&self.settings.egress, &addresses);
        let target = |addresses| Target { account, host, addresses, port, deadline };
        if literal(host).is_some() {
            return self.connect_to_one(target(&allowed?)).await;
        }
        let allowed = allowed.map_err(|blocked| {
            log_blocked(host, blocked);
            ConnectError::BlockedName { host: host.to_owned() }
        })?;
        self.connect_to_one(target(&allowed)).await.map_err(|error| match error {
            ConnectError::Refused { endpoint, source } => {
                tracing::debug!(url.host = host, remote.address = endpoint, %source, "could not connect");
                ConnectError::Refused { endpoint: format!("{host}:{port}"), source }
            }
            other => other,
        })
    }

    /// Connects to the proxy, and opens a tunnel to an https endpoint. An http endpoint is named in each
    /// request.
    async fn connect_by_proxy(
        &self,
        proxy: &Proxy,
        account: AccountId,
        is_https: bool,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<T, ConnectError> {
        let limit = self.settings.timeout;
        // The proxy resolves names. An address in the URL itself is checked here.
        if let Some(address) = literal(host) {
            self.settings.egress.verdict(address)?;
        }
        let found = self.resolver.resolve(account, proxy.host(), deadline).await;
        let addresses = found.map_err(|error| match error {
            LookupError::Failed(_) => ProxyError::Lookup.into(),
            LookupError::Late(_) => ConnectError::ProxyTimeout(limit),
            LookupError::NoDescriptor => ConnectError::NoDescriptor,
        })?;
        // The operator chose the proxy: the egress policy does not apply to its address.
        let target =
            Target { account, host: proxy.host(), addresses: &addresses, port: proxy.port(), deadline };
        let reached = self.connect_to_one(target).await;
        let mut stream = reached.map_err(|error| match error {
            ConnectError::Refused { source, .. } => ProxyError::Unreachable(source).into(),
            ConnectError::Timeout(limit) => ConnectError::ProxyTimeout(limit),
            other => other,
        })?;
        if is_https {
            let tunneling = timeout_at(deadline, proxy::tunnel(&mut stream, proxy, host, port)).await;
            tunneling.map_err(|_| ConnectError::ProxyTimeout(limit))??;
        }
        Ok(stream)
    }

    /// Connects to one of the addresses.
    async fn connect_to_one(&self, to: Target<'_>) -> Result<T, ConnectError> {
        let begun = Instant::now();
        match self.race.connect(to, &self.dial).await {
            Ok((stream, address)) => {
                exchange::note(|exchange| {
                    exchange.connect = Some(begun.elapsed());
                    exchange.remote_address = Some(address);
                });
                Ok(stream)
            }
            Err(RaceError::Refused(address, source)) => {
                Err(ConnectError::Refused { endpoint: address.to_string(), source })
            }
            Err(RaceError::Timeout) => Err(ConnectError::Timeout(self.settings.timeout)),
            Err(RaceError::NoDescriptor) => Err(ConnectError::NoDescriptor),
        }
    }
}

/// Logs the address of a name: its owner, who may be trying to find out what there is, does not learn it.
fn log_blocked(host: &str, Blocked { address, reason }: Blocked) {
    static LOG: LogThrottle = LogThrottle::new();
    if let Some(attempts) = LOG.record() {
        tracing::warn!(
            url.host = host, remote.address = %address, attempts,
            "the name of an endpoint has only addresses that are not posted to: the first is {reason}{}", reason.way_out()
        );
    }
}

/// The addresses that the egress policy allows; if it allows none, why it blocks the first.
fn allowed(egress: &EgressPolicy, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Blocked> {
    let (mut allowed, mut blocked) = (Vec::with_capacity(addresses.len()), None);
    for address in addresses {
        match egress.verdict(*address) {
            Ok(()) => allowed.push(*address),
            Err(reason) => {
                blocked.get_or_insert(reason);
            }
        }
    }
    match blocked {
        Some(blocked) if allowed.is_empty() => Err(blocked),
        _ => Ok(allowed),
    }
}

impl<D, F, T> Service<Destination> for Connector<D>
where
    D: Fn(SocketAddr) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Response = Stream<T>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream<T>, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Destination) -> Self::Future {
        Box::pin(self.clone().connect(to))
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    fn policy(allowed: &[&str]) -> EgressPolicy {
        EgressPolicy::new(allowed.iter().map(|net| net.parse().unwrap()).collect())
    }

    fn settings(allowed: &[&str]) -> ConnectSettings {
        ConnectSettings {
            lookups_max: 1,
            further_dials_max: 1,
            egress: policy(allowed),
            proxies: ProxyRules::default(),
            tls: Tls::new(&[], 1).unwrap(),
            timeout: Duration::from_secs(5),
            connections: InFlightGauge::default(),
        }
    }

    fn to(url: String) -> Destination {
        Destination {
            url: Uri::try_from(url).unwrap(),
            tls: None,
            needs_http1: false,
            account: AccountId::new(1).unwrap(),
        }
    }

    #[test]
    fn only_allowed_addresses_are_left_and_if_there_are_none_the_first_says_why() {
        let addresses: Vec<IpAddr> =
            ["10.0.0.1", "1.1.1.1", "::1"].iter().map(|a| a.parse().unwrap()).collect();
        assert_eq!(allowed(&policy(&[]), &addresses).unwrap(), [addresses[1]]);
        assert_eq!(allowed(&policy(&["::1/128"]), &addresses).unwrap(), [addresses[1], addresses[2]]);
        let blocked = allowed(&policy(&[]), &addresses[..1]).unwrap_err();
        assert_eq!(
            blocked.to_string(),
            "10.0.0.1 is blocked: it is a private address, and not in egress_allow"
        );
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_one_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connector = Connector::new(dial, settings(&["127.0.0.0/8", "::1/128"]));
        // Nobody listens on ::1 and 127.0.0.2; localhost may stand for ::1 first.
        for (host, connects) in
            [("localhost", true), ("127.0.0.1", true), ("127.0.0.2", false), ("[::1]", false)]
        {
            let to = to(format!("http://{host}:{port}/"));
            assert_eq!(connector.clone().connect(to).await.is_ok(), connects, "{host}");
        }
    }

    #[tokio::test]
    async fn what_was_refused_is_said_without_the_path() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let to = to(format!("http://{address}/secret?token=secret"));
        let Err(error) = Connector::new(dial, settings(&["127.0.0.0/8"])).connect(to).await else {
            panic!("connected")
        };
        assert_eq!(error.to_string(), format!("could not connect to {address}: connection refused"));
    }
}
