//! Connections that requests share. The pool is bounded per origin and in total.

use std::{
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use http::{HeaderValue, Uri, uri::Scheme};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;
use tower::ServiceExt;

use super::{
    connection::{Connect, ConnectError, Destination, Transport},
    http1::{Http1, Recycle},
    http1_origins::Http1Origins,
    idle_pool::{Idle, IdlePool, SharedConnection},
    lifetime::LifetimeMax,
    send_error::{Resend, SendError},
};
use crate::event::exchange;

/// Interval at which idle connections are checked: those that the peer has closed, that are too old, or that
/// are idle for too long, are dropped.
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

/// The pool, and what opens its connections.
pub(super) struct Pool<C: Connect> {
    connector: C,
    settings: PoolSettings,
    idle: Mutex<IdlePool<C::Response>>,
    http1_origins: Mutex<Http1Origins>,
}

/// A connection to send a request over.
pub(super) enum Checkout<T: Transport> {
    Own(Box<Http1<T>>),
    Shared(SharedConnection),
}

/// Returns an HTTP/1 connection to the pool.
pub(crate) struct PoolHandle<C: Connect>(pub(super) Arc<Pool<C>>);

impl<C: Connect> Pool<C> {
    /// An empty pool. Must be called within a tokio runtime.
    pub(super) fn new(connector: C, settings: PoolSettings) -> Arc<Self> {
        let idle = Mutex::new(IdlePool::new(settings.seed));
        let reap_interval = settings.idle_timeout.min(settings.lifetime_max.age).min(REAP_INTERVAL);
        let pool = Arc::new(Self { connector, settings, idle, http1_origins: Mutex::default() });
        tokio::spawn(reap_idle(Arc::downgrade(&pool), reap_interval));
        pool
    }

    fn idle(&self) -> MutexGuard<'_, IdlePool<C::Response>> {
        self.idle.lock().expect("no code panics while it holds this lock")
    }

    /// The origins that get HTTP/1.1 only.
    pub(super) fn http1_origins(&self) -> MutexGuard<'_, Http1Origins> {
        self.http1_origins.lock().expect("no code panics while it holds this lock")
    }

    /// A pooled connection that seems usable. Drops those that are not.
    pub(super) fn take(&self, origin: &str) -> Option<Checkout<C::Response>> {
        loop {
            let mut idle = {
                let mut kept = self.idle();
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
    pub(super) fn forget(&self, origin: &str) {
        let forgotten = {
            let mut kept = self.idle();
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
    pub(super) fn retire(&self, origin: &str, connection: &SharedConnection) {
        let retired = self.idle().take_shared(origin, |kept| kept.is(connection));
        // Close it without holding the lock.
        drop(retired);
    }

    /// Opens a connection. Without a free file descriptor, idle connections are closed for it.
    pub(super) async fn connect(
        &self,
        origin: &str,
        to: &Destination,
    ) -> Result<Checkout<C::Response>, SendError> {
        let to = Destination { needs_http1: self.http1_origins().contains(origin), ..to.clone() };
        let stream = loop {
            match self.connector.clone().oneshot(to.clone()).await {
                Ok(stream) => break stream,
                Err(ConnectError::NoDescriptor) if self.close_oldest_half() => {}
                Err(error) => return Err(SendError::Connect(error)),
            }
        };
        let remote = exchange::note(|exchange| exchange.remote_address).flatten();
        let lifetime = self.idle().draw_lifetime(self.settings.lifetime_max);
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
            let mut kept = self.idle();
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
        let evicted = self.idle().evict_oldest_half();
        !evicted.is_empty()
    }
}

impl<C: Connect> Recycle<C::Response> for PoolHandle<C> {
    fn recycle(self, connection: Box<Http1<C::Response>>) {
        let settings = &self.0.settings;
        let mut kept = self.0.idle();
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
async fn reap_idle<C: Connect>(pool: Weak<Pool<C>>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        let expired = pool.idle().expired(pool.settings.idle_timeout);
        drop(expired);
    }
}
