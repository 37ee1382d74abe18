//! The connections that are kept for later requests, by origin: those that are idle, and those of HTTP/2.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use rand::{SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use super::{
    connection::{Reads, Transport},
    http1::Http1,
    lifetime::{Lifetime, LifetimeMax},
};

/// All idle connections, and the HTTP/2 connections.
pub(super) struct IdlePool<T: Transport> {
    pub(super) origins: BTreeMap<Arc<str>, OriginPool<T>>,
    /// Idle HTTP/1 connections of all origins.
    pub(super) idle: usize,
    /// HTTP/2 connections of all origins.
    pub(super) shared: usize,
    /// Of the lifetimes of connections.
    random: StdRng,
}

pub(super) struct OriginPool<T: Transport> {
    /// Idle HTTP/1 connections, the most recently used last.
    pub(super) idle: Vec<Idle<T>>,
    /// The HTTP/2 connection, shared by concurrent requests.
    pub(super) shared: Option<SharedConnection>,
}

pub(super) struct Idle<T: Transport> {
    pub(super) connection: Box<Http1<T>>,
    pub(super) since: Instant,
}

#[derive(Clone)]
pub(super) struct SharedConnection {
    pub(super) sender: http2::SendRequest<Full<Bytes>>,
    pub(super) used: Instant,
    pub(super) reads: Arc<Reads>,
    /// It has carried a response.
    pub(super) has_responded: Arc<AtomicBool>,
    pub(super) remote: Option<SocketAddr>,
    /// How long it is used; the pool's own says so.
    pub(super) lifetime: Lifetime,
}

impl SharedConnection {
    /// Whether both are the same connection.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.reads, &other.reads)
    }

    /// Whether it gets no further request.
    fn is_over(&self) -> bool {
        self.sender.is_closed() || self.lifetime.is_over()
    }
}

/// Connections that were taken out of the pool, to be closed.
pub(super) struct Evicted<T: Transport> {
    pub(super) idle: Vec<Idle<T>>,
    pub(super) shared: Vec<SharedConnection>,
}

impl<T: Transport> Default for Evicted<T> {
    fn default() -> Self {
        Self { idle: Vec::new(), shared: Vec::new() }
    }
}

impl<T: Transport> Evicted<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.shared.is_empty()
    }
}

impl<T: Transport> IdlePool<T> {
    /// An empty pool. `seed` determines how long connections are used.
    pub(super) fn new(seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { origins: BTreeMap::new(), idle: 0, shared: 0, random }
    }

    /// How long a new connection is used.
    pub(super) fn draw_lifetime(&mut self, max: LifetimeMax) -> Lifetime {
        Lifetime::draw(max, &mut self.random)
    }

    pub(super) fn of(&mut self, origin: &Arc<str>) -> &mut OriginPool<T> {
        self.origins
            .entry(Arc::clone(origin))
            .or_insert_with(|| OriginPool { idle: Vec::new(), shared: None })
    }

    /// Removes the HTTP/2 connection of an origin, if it is so.
    pub(super) fn take_shared(
        &mut self,
        origin: &str,
        is_so: impl FnOnce(&SharedConnection) -> bool,
    ) -> Option<SharedConnection> {
        let taken = self.origins.get_mut(origin)?.shared.take_if(|shared| is_so(shared))?;
        self.shared -= 1;
        Some(taken)
    }

    /// Removes connections that are closed, too old, or idle for too long.
    pub(super) fn expired(&mut self, timeout: Duration) -> Vec<Idle<T>> {
        let mut expired = Vec::new();
        for origin_pool in self.origins.values_mut() {
            expired.extend(
                origin_pool
                    .idle
                    .extract_if(.., |idle| idle.since.elapsed() >= timeout || !idle.connection.is_usable()),
            );
            let is_over =
                |shared: &mut SharedConnection| shared.used.elapsed() >= timeout || shared.is_over();
            self.shared -= usize::from(origin_pool.shared.take_if(is_over).is_some());
        }
        self.origins.retain(|_, origin_pool| !origin_pool.idle.is_empty() || origin_pool.shared.is_some());
        self.idle -= expired.len();
        expired
    }

    /// If there are more connections than `idle_max`, removes the half that is idle for longest.
    pub(super) fn evict_past(&mut self, idle_max: usize) -> Evicted<T> {
        if self.idle + self.shared > idle_max { self.evict_oldest_half() } else { Evicted::default() }
    }

    /// Removes the half of the connections that is idle for longest. An HTTP/2 connection ends with the
    /// requests on it.
    pub(super) fn evict_oldest_half(&mut self) -> Evicted<T> {
        let idle = self.origins.values().flat_map(|of| &of.idle).map(|idle| idle.since);
        let shared = self.origins.values().filter_map(|of| of.shared.as_ref()).map(|shared| shared.used);
        let mut times: Vec<_> = idle.chain(shared).collect();
        let mut older = Evicted::default();
        if times.is_empty() {
            return older;
        }
        let middle = (times.len() - 1) / 2;
        let (_, &mut middle, _) = times.select_nth_unstable(middle);
        for origin_pool in self.origins.values_mut() {
            older.idle.extend(origin_pool.idle.extract_if(.., |idle| idle.since <= middle));
            older.shared.extend(origin_pool.shared.take_if(|shared| shared.used <= middle));
        }
        self.origins.retain(|_, origin_pool| !origin_pool.idle.is_empty() || origin_pool.shared.is_some());
        self.idle -= older.idle.len();
        self.shared -= older.shared.len();
        older
    }
}

impl<T: Transport> OriginPool<T> {
    /// Drops the HTTP/2 connection if it is closed or too old. Returns whether it was.
    pub(super) fn drop_ended(&mut self) -> bool {
        self.shared.take_if(|shared| shared.is_over()).is_some()
    }

    /// The HTTP/2 connection, if there is one.
    pub(super) fn open_shared(&mut self) -> Option<SharedConnection> {
        let shared = self.shared.as_mut()?;
        shared.used = Instant::now();
        shared.lifetime.count();
        Some(shared.clone())
    }
}
