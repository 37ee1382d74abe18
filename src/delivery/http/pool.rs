//! Sends requests over kept connections, and keeps them: for every origin a few, and so many in all.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{HOST, PROXY_AUTHORIZATION},
    uri::{PathAndQuery, Scheme},
};
use http_body_util::Full;
use hyper::{
    client::conn::{http1, http2},
    rt::{Read, Write},
};
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use super::{
    connect::{ConnectError, Destination},
    http1::{DrivenBody, Http1, TakesBack},
    proxy::{Forwarding, ProxyError},
    stream::TlsFailure,
    tls::TlsError,
};
use crate::domain::subscription::TlsProfile;

/// How often unused connections are looked at: those that the other end has closed, or that were not used for long, are
/// dropped.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Opens connections to the origins of URLs.
pub(crate) trait Connects:
    Service<Destination, Response: Stream, Error = ConnectError, Future: Send> + Clone + Send + Sync + 'static
{
}

impl<S> Connects for S where
    S: Service<Destination, Response: Stream, Error = ConnectError, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// What requests are sent over.
pub(crate) trait Stream: Read + Write + Unpin + Send + 'static {
    /// Whether HTTP/2 was agreed upon.
    fn is_http2(&self) -> bool;

    /// How requests are put, where the other end is a proxy that passes them on.
    fn forwarding(&self) -> Option<&Forwarding>;

    /// Why TLS ended, to be looked at later. HTTP/2 does not always tell.
    fn tls_failure(&self) -> &TlsFailure;
}

/// How connections are used and kept.
#[derive(Clone, Debug)]
pub(crate) struct PoolSettings {
    pub(crate) http1: http1::Builder,
    pub(crate) http2: http2::Builder<TokioExecutor>,
    /// How long an unused one is kept.
    pub(crate) idle_timeout: Duration,
    /// Most unused ones of an origin.
    pub(crate) idle_per_origin_max: usize,
    /// Most unused ones of all origins.
    pub(crate) idle_max: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    /// There is no connection.
    #[error(transparent)]
    Connect(ConnectError),
    /// The connection broke before the answer.
    #[error("{error}")]
    Broken {
        /// How.
        error: hyper::Error,
        /// It had been kept unused before, and nobody watched it meanwhile. Never so of HTTP/2.
        kept: bool,
    },
}

/// The body of an answer.
pub(crate) type AnswerBody<C> = DrivenBody<<C as Service<Destination>>::Response, Home<C>>;

/// Sends requests. Clones share the kept connections.
pub(crate) struct HttpClient<C: Connects>(Arc<Shared<C>>);

struct Shared<C: Connects> {
    connector: C,
    settings: PoolSettings,
    kept: Mutex<Kept<C::Response>>,
}

/// All connections that are kept.
struct Kept<T: Stream> {
    origins: BTreeMap<Arc<str>, OfOrigin<T>>,
    /// Unused HTTP/1 connections of all origins.
    idle: usize,
}

struct OfOrigin<T: Stream> {
    /// Unused HTTP/1 connections, the one that was used last at the end.
    idle: Vec<Idle<T>>,
    /// An HTTP/2 connection, which is used by many at once.
    shared: Option<SharedConnection>,
}

struct Idle<T: Stream> {
    connection: Box<Http1<T>>,
    since: Instant,
}

#[derive(Clone)]
struct SharedConnection {
    sender: http2::SendRequest<Full<Bytes>>,
    used: Instant,
    tls_failure: TlsFailure,
    /// It has carried an answer.
    answered: Arc<AtomicBool>,
}

/// A connection to send a request over.
enum Taken<T: Stream> {
    Own(Box<Http1<T>>),
    Shared(SharedConnection),
}

/// Where an HTTP/1 connection is kept when it is not used.
pub(crate) struct Home<C: Connects>(Arc<Shared<C>>);

impl<C: Connects> Clone for HttpClient<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Connects> HttpClient<C> {
    /// A client that keeps no connection yet. To be called within a runtime's reach.
    pub(crate) fn new(connector: C, settings: PoolSettings) -> Self {
        let kept = Mutex::new(Kept { origins: BTreeMap::new(), idle: 0 });
        let look_every = settings.idle_timeout.min(LOOK_EVERY);
        let shared = Arc::new(Shared { connector, settings, kept });
        tokio::spawn(look_after(Arc::downgrade(&shared), look_every));
        Self(shared)
    }

    /// Sends a request to `origin`, which is that of its absolute URL, and waits for the head of the answer. Requests with
    /// the same origin, spelled in the same way, and the same TLS profile share connections; others never do.
    ///
    /// A kept connection may turn out to be closed before anything was sent over it; another one is taken then.
    pub(crate) async fn send(
        &self,
        origin: &str,
        tls: Option<&Arc<TlsProfile>>,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<AnswerBody<C>>, SendError> {
        let to = Destination { url: request.uri().clone(), tls: tls.cloned() };
        let url = &to.url;
        // No origin has a space in it.
        let of_profile = tls.map(|tls| format!("{origin} {}", tls.id()));
        let origin = of_profile.as_deref().unwrap_or(origin);
        loop {
            let (taken, kept) = match self.0.take(origin) {
                Some(taken) => (taken, true),
                // In a box: it is large and rare, and would make every request's future as large.
                None => (Box::pin(self.0.connect(origin, &to)).await?, false),
            };
            let (sent, kept, is_shared) = match taken {
                Taken::Own(connection) => {
                    put_plainly(&mut request, url, &connection);
                    let sent = connection.send(request).await;
                    if let Ok((response, connection)) = &sent {
                        refused_by_proxy(response.status(), connection.forwarding.as_ref())?;
                    }
                    let sent = sent.map(|(response, connection)| {
                        let home = Home(Arc::clone(&self.0));
                        response.map(|incoming| DrivenBody::new(incoming, connection, home))
                    });
                    (sent, kept, false)
                }
                Taken::Shared(mut shared) => {
                    let sent = shared.sender.try_send_request(request).await;
                    let kept = shared.answered.fetch_or(sent.is_ok(), Ordering::Relaxed);
                    if let (Err(_), false, Some(tls)) = (&sent, kept, shared.tls_failure.get()) {
                        return Err(SendError::Connect(TlsError::Ended(tls.clone()).into()));
                    }
                    (sent.map(|response| response.map(DrivenBody::of_shared)), kept, true)
                }
            };
            let mut error = match sent {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let unsent = error.take_message().filter(|_| kept);
            if kept && (unsent.is_some() || !is_shared) {
                // One was found to be dead: the others will be, too.
                self.0.forget(origin);
            }
            let Some(unsent) = unsent else {
                return Err(SendError::Broken { error: error.into_error(), kept: kept && !is_shared });
            };
            request = unsent;
            *request.uri_mut() = url.clone();
            request.headers_mut().remove(HOST);
            request.headers_mut().remove(PROXY_AUTHORIZATION);
        }
    }
}

impl<C: Connects> Shared<C> {
    fn kept(&self) -> MutexGuard<'_, Kept<C::Response>> {
        self.kept.lock().expect("no code panics while it holds this lock")
    }

    /// A kept connection that can be used, as far as is known. Drops those that cannot.
    fn take(&self, origin: &str) -> Option<Taken<C::Response>> {
        loop {
            let mut idle = {
                let mut kept = self.kept();
                let of_origin = kept.origins.get_mut(origin)?;
                if let Some(shared) = of_origin.open_shared() {
                    return Some(Taken::Shared(shared));
                }
                let idle = of_origin.idle.pop()?;
                kept.idle -= 1;
                idle
            };
            let is_fresh = idle.since.elapsed() < self.settings.idle_timeout;
            if is_fresh && idle.connection.is_usable() {
                return Some(Taken::Own(idle.connection));
            }
        }
    }

    /// Drops the kept connections of an origin. One that is used by others ends with their requests.
    fn forget(&self, origin: &str) {
        let forgotten = {
            let mut kept = self.kept();
            let forgotten = kept.origins.remove(origin);
            kept.idle -= forgotten.as_ref().map_or(0, |of_origin| of_origin.idle.len());
            forgotten
        };
        // Connections are closed without the lock.
        drop(forgotten);
    }

    /// Opens a connection.
    async fn connect(&self, origin: &str, to: &Destination) -> Result<Taken<C::Response>, SendError> {
        let stream = self.connector.clone().oneshot(to.clone()).await.map_err(SendError::Connect)?;
        let broken = |error| SendError::Broken { error, kept: false };
        if !stream.is_http2() {
            let forwarding = stream.forwarding().cloned();
            let connecting = Http1::new(&self.settings.http1, stream, origin.into(), host_header(&to.url));
            let mut connection = connecting.await.map_err(broken)?;
            connection.forwarding = forwarding;
            return Ok(Taken::Own(Box::new(connection)));
        }
        let tls_failure = Arc::clone(stream.tls_failure());
        let (sender, connection) = self.settings.http2.handshake(stream).await.map_err(broken)?;
        // Whoever waits for an answer learns of its end.
        tokio::spawn(async move { drop(connection.await) });
        let shared = SharedConnection { sender, used: Instant::now(), tls_failure, answered: Arc::default() };
        // Several may have been opened at the same time: the first is kept, the others end with this request.
        self.kept().of(&origin.into()).shared.get_or_insert_with(|| shared.clone());
        Ok(Taken::Shared(shared))
    }
}

impl<T: Stream> Kept<T> {
    fn of(&mut self, origin: &Arc<str>) -> &mut OfOrigin<T> {
        self.origins.entry(Arc::clone(origin)).or_insert_with(|| OfOrigin { idle: Vec::new(), shared: None })
    }

    /// Takes out what is not to be kept any longer.
    fn outdated(&mut self, timeout: Duration) -> Vec<Idle<T>> {
        let mut outdated = Vec::new();
        for of_origin in self.origins.values_mut() {
            outdated.extend(
                of_origin
                    .idle
                    .extract_if(.., |idle| idle.since.elapsed() >= timeout || !idle.connection.is_usable()),
            );
            of_origin.shared.take_if(|shared| shared.used.elapsed() >= timeout || shared.sender.is_closed());
        }
        self.origins.retain(|_, of_origin| !of_origin.idle.is_empty() || of_origin.shared.is_some());
        self.idle -= outdated.len();
        outdated
    }

    /// Takes out that half of the unused connections that was not used for longest.
    fn older_half(&mut self) -> Vec<Idle<T>> {
        let mut times: Vec<_> =
            self.origins.values().flat_map(|of| &of.idle).map(|idle| idle.since).collect();
        let middle = (times.len() - 1) / 2;
        let (_, &mut middle, _) = times.select_nth_unstable(middle);
        let mut older = Vec::new();
        for of_origin in self.origins.values_mut() {
            older.extend(of_origin.idle.extract_if(.., |idle| idle.since <= middle));
        }
        self.idle -= older.len();
        older
    }
}

impl<T: Stream> OfOrigin<T> {
    /// The connection that is used by many, if it is open.
    fn open_shared(&mut self) -> Option<SharedConnection> {
        self.shared.take_if(|shared| shared.sender.is_closed());
        let shared = self.shared.as_mut()?;
        shared.used = Instant::now();
        Some(shared.clone())
    }
}

impl<C: Connects> TakesBack<C::Response> for Home<C> {
    fn take_back(self, connection: Box<Http1<C::Response>>) {
        let settings = &self.0.settings;
        let mut kept = self.0.kept();
        let idle = &mut kept.of(&connection.origin).idle;
        if idle.len() >= settings.idle_per_origin_max {
            return;
        }
        idle.push(Idle { connection, since: Instant::now() });
        kept.idle += 1;
        let too_many = if kept.idle > settings.idle_max { kept.older_half() } else { Vec::new() };
        // Connections are closed without the lock.
        drop(kept);
        drop(too_many);
    }
}

/// Makes of a request to an absolute URL what HTTP/1 puts on the wire: the path alone, and the host as a header. A proxy
/// that passes it on gets the whole URL.
fn put_plainly<T: Stream>(request: &mut Request<Full<Bytes>>, url: &Uri, connection: &Http1<T>) {
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

/// Whether the answer is the proxy's own: it wants to be told who asks. Any other may come from the endpoint.
fn refused_by_proxy(status: StatusCode, forwarding: Option<&Forwarding>) -> Result<(), SendError> {
    if forwarding.is_some() && status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        return Err(SendError::Connect(ProxyError::Refused(status).into()));
    }
    Ok(())
}

/// The host of a URL as HTTP/1's header: the port only if it is not the scheme's own.
fn host_header(url: &Uri) -> HeaderValue {
    let host = url.host().expect("the client is asked for absolute URLs only");
    let default_port = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    let value = match url.port_u16().filter(|port| *port != default_port) {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")),
        None => HeaderValue::from_str(host),
    };
    value.expect("a host is made of visible characters")
}

/// Looks at the unused connections from time to time, as long as there is somebody who could use them.
async fn look_after<C: Connects>(pool: Weak<Shared<C>>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        let outdated = pool.kept().outdated(pool.settings.idle_timeout);
        drop(outdated);
    }
}
