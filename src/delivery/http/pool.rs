//! Sends requests over pooled connections. The pool is bounded per origin and in total.

use std::{
    sync::{Arc, Mutex, MutexGuard, Weak, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{HOST, PROXY_AUTHORIZATION},
    uri::{PathAndQuery, Scheme},
};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::{
    connection::{Connect, ConnectError, Destination, Transport},
    http1::{Http1, PooledBody, Recycle, Unanswered},
    http1_origins::Http1Origins,
    idle_pool::{Idle, IdlePool, SharedConnection},
    lifetime::LifetimeMax,
    proxy::{Forwarding, ProxyError},
    resend::{Resend, is_unprocessed, requires_http1},
    tls::TlsError,
};
use crate::{
    domain::{ids::AccountId, subscription::TlsProfile},
    event::exchange,
};

/// Interval at which idle connections are checked: those that the peer has closed, that are too old, or that are
/// idle for too long, are dropped.
const REAP_INTERVAL: Duration = Duration::from_secs(5);

/// HTTP settings of connections, and the bounds of the pool.
#[derive(Clone, Debug)]
pub(crate) struct PoolSettings {
    pub(crate) http1: http1::Builder,
    pub(crate) http2: http2::Builder<TokioExecutor>,
    /// How long a connection is used.
    pub(crate) lifetime_max: LifetimeMax,
    /// Seed of the jitter of these lifetimes.
    pub(crate) seed: u64,
    /// How long an idle connection is kept.
    pub(crate) idle_timeout: Duration,
    /// Most idle connections per origin.
    pub(crate) idle_per_origin_max: usize,
    /// Most idle connections of all origins, those of HTTP/2 included.
    pub(crate) idle_max: usize,
}

/// The connections that may carry a request.
pub(crate) struct Target<'a> {
    /// The origin of the request's absolute URL. Requests with the same spelling of the origin and the same TLS
    /// profile share connections; others never do.
    pub(crate) origin: &'a str,
    pub(crate) tls: Option<&'a Arc<TlsProfile>>,
    /// The one that the request is made for.
    pub(crate) account: AccountId,
    /// Whether none that was kept may.
    pub(crate) needs_new: bool,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Connect(ConnectError),
    /// The connection broke before the response.
    #[error("{error}")]
    Broken {
        /// The error.
        error: hyper::Error,
        /// It has carried a response before.
        kept: bool,
        /// Whether the request may be sent again.
        resend: Resend,
    },
}

/// What became of a request without a response.
enum NoResponse {
    /// Nothing of it was sent: another connection can have it.
    Unsent(Request<Full<Bytes>>),
    Failed(SendError),
}

impl From<SendError> for NoResponse {
    fn from(error: SendError) -> Self {
        Self::Failed(error)
    }
}

/// The body of a response.
pub(crate) type ResponseBody<C> = PooledBody<<C as Service<Destination>>::Response, PoolHandle<C>>;

/// Sends requests. Clones share the pool.
pub(crate) struct HttpClient<C: Connect>(Arc<Shared<C>>);

struct Shared<C: Connect> {
    connector: C,
    settings: PoolSettings,
    pool: Mutex<IdlePool<C::Response>>,
    http1_origins: Mutex<Http1Origins>,
}

/// A connection to send a request over.
enum Checkout<T: Transport> {
    Own(Box<Http1<T>>),
    Shared(SharedConnection),
}

/// An HTTP/2 connection with a request under way.
///
/// If nobody waits for the response any more, as after a timeout, further requests go over another connection: one
/// that acknowledges PINGs and does nothing else would be used for ever.
struct InUse<'a, C: Connect> {
    pool: &'a Shared<C>,
    origin: &'a str,
    connection: SharedConnection,
    /// Whether it may carry further requests.
    is_kept: bool,
}

/// Returns an HTTP/1 connection to the pool.
pub(crate) struct PoolHandle<C: Connect>(Arc<Shared<C>>);

impl<C: Connect> Clone for HttpClient<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Connect> HttpClient<C> {
    /// A client with an empty pool. Must be called within a tokio runtime.
    pub(crate) fn new(connector: C, settings: PoolSettings) -> Self {
        let pool = Mutex::new(IdlePool::new(settings.seed));
        let reap_interval = settings.idle_timeout.min(settings.lifetime_max.age).min(REAP_INTERVAL);
        let shared = Arc::new(Shared { connector, settings, pool, http1_origins: Mutex::default() });
        tokio::spawn(reap_idle(Arc::downgrade(&shared), reap_interval));
        Self(shared)
    }

    /// Sends a request and waits for the head of the response.
    ///
    /// An idle connection may turn out to be closed before anything was sent over it; then another one is
    /// used.
    pub(crate) async fn send(
        &self,
        target: Target<'_>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody<C>>, SendError> {
        let Target { origin, tls, account, needs_new } = target;
        let to = Destination { url: request.uri().clone(), tls: tls.cloned(), needs_http1: false, account };
        let url = &to.url;
        // An origin contains no space.
        let of_profile = tls.map(|tls| format!("{origin} {}", tls.id()));
        let origin = of_profile.as_deref().unwrap_or(origin);
        loop {
            let kept = if needs_new { None } else { self.0.take(origin) };
            let (checkout, kept) = match kept {
                Some(checkout) => (checkout, true),
                // Boxed: this future is large and rare, and would make that of every request as large.
                None => (Box::pin(self.0.connect(origin, &to)).await?, false),
            };
            let sent = match checkout {
                Checkout::Own(connection) => self.send_over_http1(connection, kept, url, request).await,
                Checkout::Shared(shared) => self.send_over_http2(shared, origin, request).await,
            };
            request = match sent {
                Ok(response) => return Ok(response),
                Err(NoResponse::Failed(error)) => return Err(error),
                Err(NoResponse::Unsent(unsent)) => unsent,
            };
            *request.uri_mut() = url.clone();
            request.headers_mut().remove(HOST);
            request.headers_mut().remove(PROXY_AUTHORIZATION);
        }
    }

    async fn send_over_http1(
        &self,
        connection: Box<Http1<C::Response>>,
        kept: bool,
        url: &Uri,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody<C>>, NoResponse> {
        exchange::note(|exchange| {
            exchange.remote_address = connection.remote;
            // There is one already if an idle connection broke before.
            exchange.request_headers.retain(|(name, _)| name != HOST);
            exchange.request_headers.push((HOST, connection.host.clone()));
        });
        to_origin_form(&mut request, url, &connection);
        let origin = Arc::clone(&connection.origin);
        let Unanswered { mut error, is_unread } = match connection.send(request).await {
            Ok((response, connection)) => {
                refused_by_proxy(response.status(), connection.forwarding.as_ref())?;
                let home = PoolHandle(Arc::clone(&self.0));
                return Ok(response.map(|incoming| PooledBody::new(incoming, connection, home)));
            }
            Err(unanswered) => unanswered,
        };
        if kept {
            // One connection is dead, so the others probably are.
            self.0.forget(&origin);
            if let Some(unsent) = error.take_message() {
                return Err(NoResponse::Unsent(unsent));
            }
        }
        let resend = if kept && is_unread { Resend::Once } else { Resend::Never };
        Err(SendError::Broken { error: error.into_error(), kept, resend }.into())
    }

    async fn send_over_http2(
        &self,
        connection: SharedConnection,
        origin: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<ResponseBody<C>>, NoResponse> {
        exchange::note(|exchange| exchange.remote_address = connection.remote);
        let mut used = InUse { pool: &self.0, origin, connection, is_kept: false };
        let sent = used.connection.sender.try_send_request(request).await;
        let kept = used.connection.has_responded.fetch_or(sent.is_ok(), Ordering::Relaxed);
        let mut error = match sent {
            Ok(response) => {
                used.is_kept = true;
                return Ok(response.map(PooledBody::multiplexed));
            }
            Err(error) => error,
        };
        if let (false, Some(tls)) = (kept, used.connection.reads.tls_failure()) {
            return Err(SendError::Connect(TlsError::Ended(tls.clone()).into()).into());
        }
        let unsent = error.take_message();
        let is_unprocessed = unsent.is_some() || is_unprocessed(error.error());
        if requires_http1(error.error()) {
            self.0.http1_origins().note(origin);
        }
        // The end of one stream says nothing about the others.
        used.is_kept = !is_unprocessed;
        if let (true, Some(unsent)) = (kept, unsent) {
            return Err(NoResponse::Unsent(unsent));
        }
        let resend = if is_unprocessed { Resend::Unprocessed } else { Resend::Never };
        Err(SendError::Broken { error: error.into_error(), kept, resend }.into())
    }
}

impl<C: Connect> Drop for InUse<'_, C> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.pool.retire(self.origin, &self.connection);
        }
    }
}

impl<C: Connect> Shared<C> {
    fn pool(&self) -> MutexGuard<'_, IdlePool<C::Response>> {
        self.pool.lock().expect("no code panics while it holds this lock")
    }

    fn http1_origins(&self) -> MutexGuard<'_, Http1Origins> {
        self.http1_origins.lock().expect("no code panics while it holds this lock")
    }

    /// A pooled connection that seems usable. Drops those that are not.
    fn take(&self, origin: &str) -> Option<Checkout<C::Response>> {
        loop {
            let mut idle = {
                let mut kept = self.pool();
                let kept = &mut *kept;
                let origin_pool = kept.origins.get_mut(origin)?;
                kept.shared -= usize::from(origin_pool.drop_ended());
                if let Some(shared) = origin_pool.open_shared() {
                    return Some(Checkout::Shared(shared));
                }
                let idle = origin_pool.idle.pop()?;
                kept.idle -= 1;
                idle
            };
            let is_fresh = idle.since.elapsed() < self.settings.idle_timeout;
            if is_fresh && idle.connection.is_usable() {
                idle.connection.lifetime.count();
                return Some(Checkout::Own(idle.connection));
            }
        }
    }

    /// Drops the pooled connections of an origin. One in use ends with its requests.
    fn forget(&self, origin: &str) {
        let forgotten = {
            let mut kept = self.pool();
            let forgotten = kept.origins.remove(origin);
            if let Some(origin_pool) = &forgotten {
                kept.idle -= origin_pool.idle.len();
                kept.shared -= usize::from(origin_pool.shared.is_some());
            }
            forgotten
        };
        // Close connections without holding the lock.
        drop(forgotten);
    }

    /// Drops an HTTP/2 connection from the pool. It ends with the requests on it.
    fn retire(&self, origin: &str, connection: &SharedConnection) {
        let retired = self.pool().take_shared(origin, |kept| kept.is(connection));
        // Close it without holding the lock.
        drop(retired);
    }

    /// Opens a connection. Without a free file descriptor, idle connections are closed for it.
    async fn connect(&self, origin: &str, to: &Destination) -> Result<Checkout<C::Response>, SendError> {
        let to = Destination { needs_http1: self.http1_origins().contains(origin), ..to.clone() };
        let stream = loop {
            match self.connector.clone().oneshot(to.clone()).await {
                Ok(stream) => break stream,
                Err(ConnectError::NoDescriptor) if self.close_oldest_half() => {}
                Err(error) => return Err(SendError::Connect(error)),
            }
        };
        let remote = exchange::note(|exchange| exchange.remote_address).flatten();
        let lifetime = self.pool().draw_lifetime(self.settings.lifetime_max);
        let broken = |error| SendError::Broken { error, kept: false, resend: Resend::Never };
        if !stream.is_http2() {
            let host = host_header(&to.url);
            let connecting = Http1::new(&self.settings.http1, stream, origin.into(), host, remote, lifetime);
            let connection = connecting.await.map_err(broken)?;
            return Ok(Checkout::Own(Box::new(connection)));
        }
        let reads = Arc::clone(stream.reads());
        let (sender, connection) = self.settings.http2.handshake(stream).await.map_err(broken)?;
        // The requests on it see why it ended.
        tokio::spawn(async move { drop(connection.await) });
        let shared = SharedConnection {
            sender,
            used: Instant::now(),
            reads,
            has_responded: Arc::default(),
            remote,
            lifetime,
        };
        // Concurrent requests may have opened several: the first is kept, the others end with their request.
        let evicted = {
            let mut kept = self.pool();
            let of_origin = &mut kept.of(&origin.into()).shared;
            if of_origin.is_none() {
                *of_origin = Some(shared.clone());
                kept.shared += 1;
            }
            kept.evict_past(self.settings.idle_max)
        };
        // Close connections without holding the lock.
        drop(evicted);
        Ok(Checkout::Shared(shared))
    }

    /// Closes the half of the idle connections that is idle for longest; false if there is none.
    fn close_oldest_half(&self) -> bool {
        let evicted = self.pool().evict_oldest_half();
        !evicted.is_empty()
    }
}

impl<C: Connect> Recycle<C::Response> for PoolHandle<C> {
    fn recycle(self, connection: Box<Http1<C::Response>>) {
        let settings = &self.0.settings;
        let mut kept = self.0.pool();
        let idle = &mut kept.of(&connection.origin).idle;
        if idle.len() >= settings.idle_per_origin_max {
            return;
        }
        idle.push(Idle { connection, since: Instant::now() });
        kept.idle += 1;
        let evicted = kept.evict_past(settings.idle_max);
        // Close connections without holding the lock.
        drop(kept);
        drop(evicted);
    }
}

/// Turns a request to an absolute URL into HTTP/1's origin form: the path, and the host as a header. A
/// forwarding proxy gets the absolute form.
fn to_origin_form<T: Transport>(request: &mut Request<Full<Bytes>>, url: &Uri, connection: &Http1<T>) {
    request.headers_mut().insert(HOST, connection.host.clone());
    if let Some(Forwarding { authorization }) = &connection.forwarding {
        if let Some(authorization) = authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        return;
    }
    let path = url.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
}

/// Fails if the response is the proxy's own: it requires credentials. Any other may come from the endpoint.
fn refused_by_proxy(status: StatusCode, forwarding: Option<&Forwarding>) -> Result<(), SendError> {
    if forwarding.is_some() && status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return Err(SendError::Connect(ProxyError::Refused(status).into()));
    }
    Ok(())
}

/// The `Host` header of a URL: with the port unless it is the scheme's default.
fn host_header(url: &Uri) -> HeaderValue {
    let host = url.host().expect("requests have absolute URLs");
    let default_port = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let value = match url.port_u16().filter(|port| *port != default_port) {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")),
        None => HeaderValue::from_str(host),
    };
    value.expect("a host has visible characters only")
}

/// Drops idle connections at intervals, as long as the pool exists.
async fn reap_idle<C: Connect>(pool: Weak<Shared<C>>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(shared) = pool.upgrade() else { return };
        let expired = shared.pool().expired(shared.settings.idle_timeout);
        drop(expired);
    }
}
