//! The listener: connections, TLS, and what every request passes before a page sees it.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, StatusCode, header::RETRY_AFTER},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use http_body_util::{BodyExt, Limited};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rand::rngs::StdRng;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{
    ConsoleSettings,
    api::Calls,
    forms::{FORM_BYTES_MAX, ReadBody},
    guard::{self, ExposedError, Guard},
    history::History,
    pages,
    sessions::{SessionLimits, Sessions},
};
use crate::{
    domain::time::UnixMicros,
    limits::{ConnectionState, Permit, ShareKey, SharedPool, Shares},
    listen::{Connection, Limits, incoming, serve_connections},
    metrics::{Listener, Metrics},
};

/// Longest life of a connection; live streams end with it, and browsers open new ones.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(600);
/// Longest time for the handshake of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a request's headers.
const HEADER_BYTES_MAX: usize = 32 << 10;

/// What accepts TLS connections, called for each connection: certificates may change.
pub type TlsSource = Arc<dyn Fn() -> TlsAcceptor + Send + Sync>;

/// A console that is set up: its rules hold, but nothing is served yet.
#[derive(Clone)]
pub struct Console(Arc<Parts>);

/// Everything that pages are made with.
pub(super) struct Parts {
    pub(super) settings: ConsoleSettings,
    pub(super) calls: Calls,
    pub(super) metrics: Arc<Metrics>,
    pub(super) sessions: Sessions,
    pub(super) guard: Guard,
    /// Whether callers must have a token now.
    pub(super) tokens_required: Box<dyn Fn() -> bool + Send + Sync>,
    pub(super) now: Box<dyn Fn() -> UnixMicros + Send + Sync>,
    /// Where cookies belong: another console on this host has another port.
    pub(super) port: u16,
    pub(super) streams: SharedPool,
    pub(super) grpc: GrpcListener,
    pub(super) history: Arc<History>,
    pub(super) shutdown: CancellationToken,
    requests: SharedPool,
}

/// Both ends of a connection, and what the listener knows of it.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    local: SocketAddr,
    pub(super) state: ConnectionState,
}

/// Where the gateway serves gRPC, for the examples on the pages.
#[derive(Clone, Copy, Debug)]
pub struct GrpcListener {
    /// The address that it is bound to.
    pub address: SocketAddr,
    /// It serves TLS only.
    pub tls: bool,
}

/// Values that the console is made with and does not make itself.
pub struct Surroundings {
    /// The gRPC services, guards included.
    pub calls: Calls,
    /// Where they are served.
    pub grpc: GrpcListener,
    /// Counters and gauges of the status page.
    pub metrics: Arc<Metrics>,
    /// Whether callers must have a token now.
    pub tokens_required: Box<dyn Fn() -> bool + Send + Sync>,
    /// The time.
    pub now: Box<dyn Fn() -> UnixMicros + Send + Sync>,
    /// Randomness that the machine's entropy has seeded: ids of sessions are drawn from it.
    pub random: StdRng,
    /// The end of the gateway.
    pub shutdown: CancellationToken,
}

impl Console {
    /// Checks the rules of exposure, before anything is made.
    ///
    /// # Errors
    ///
    /// Other machines would reach the console in clear text.
    pub fn check(settings: &ConsoleSettings) -> Result<(), ExposedError> {
        let Some(listen) = settings.console_listen.address() else { return Ok(()) };
        let tls = settings.console_tls_cert_file.is_some();
        Guard::new(listen, tls, settings.console_url.as_deref()).map(drop)
    }

    /// A console on this address.
    ///
    /// # Errors
    ///
    /// As [`Console::check`].
    pub fn new(
        settings: ConsoleSettings,
        address: SocketAddr,
        tls: bool,
        surroundings: Surroundings,
    ) -> Result<Self, ExposedError> {
        let Surroundings { calls, grpc, metrics, tokens_required, now, random, shutdown } = surroundings;
        let limits = SessionLimits {
            sessions_max: settings.sessions_max,
            age_max: settings.session_age_max,
            idle_max: settings.session_idle_max,
        };
        Ok(Self(Arc::new(Parts {
            guard: Guard::new(address, tls, settings.console_url.as_deref())?,
            sessions: Sessions::new(limits, random),
            streams: SharedPool::of_places(settings.streams_max),
            grpc,
            history: Arc::default(),
            requests: SharedPool::of_places(settings.requests_in_flight_max),
            port: address.port(),
            settings,
            calls,
            metrics,
            tokens_required,
            now,
            shutdown,
        })))
    }

    /// Serves browsers until the shutdown, then ends requests under way within the drain's bound.
    pub async fn serve(self, listener: TcpListener, tls: Option<TlsSource>) {
        let settings = &self.0.settings;
        let shares = Shares::of(settings.connections_max, settings.connections_per_address_max);
        let limits = Limits::new(settings.connections_max, shares, settings.drain_timeout);
        let shutdown = self.0.shutdown.clone();
        let router = self.router();
        let sampling = Arc::clone(&self.0.history).keep(Arc::clone(&self.0.metrics), shutdown.clone());
        let _sampling = AbortOnDrop(tokio::spawn(sampling));
        let read_timeout = settings.read_timeout;
        let closed = |limit| tracing::debug!(?limit, "a browser's connection was closed");
        let metrics = Arc::clone(&self.0.metrics);
        let accepted = incoming(listener, move || metrics.accept_failed(Listener::Console));
        serve_connections(accepted, limits, shutdown, closed, |connection, shutdown| {
            let (router, tls) = (router.clone(), tls.clone());
            async move {
                let Connection { stream, address, permit } = connection;
                let (Some(peer), Ok(local)) = (address, stream.local_addr()) else { return };
                let ends = Ends { peer, local, state: permit.state().clone() };
                serve_connection(stream, tls, router, ends, read_timeout, shutdown).await;
            }
        })
        .await;
    }

    /// Every page, behind everything that guards it.
    pub fn router(&self) -> Router {
        pages::router(Arc::clone(&self.0))
            .layer(middleware::from_fn_with_state(Arc::clone(&self.0), bound))
            .layer(middleware::from_fn_with_state(Arc::clone(&self.0), allow))
            .layer(middleware::from_fn(finish))
    }
}

/// Ends a task with the listener.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve_connection(
    stream: TcpStream,
    tls: Option<TlsSource>,
    router: Router,
    ends: Ends,
    read_timeout: Duration,
    shutdown: CancellationToken,
) {
    match tls {
        None => serve_http(stream, router, ends, read_timeout, shutdown).await,
        Some(tls) => match timeout(HANDSHAKE_TIMEOUT, tls().accept(stream)).await {
            Ok(Ok(stream)) => serve_http(stream, router, ends, read_timeout, shutdown).await,
            Ok(Err(error)) => tracing::debug!(%error, "a browser did not finish TLS"),
            Err(_) => tracing::debug!("a browser took too long for TLS"),
        },
    }
}

async fn serve_http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    ends: Ends,
    read_timeout: Duration,
    shutdown: CancellationToken,
) {
    let state = ends.state.clone();
    let router = router.map_request(move |mut request: Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ends.clone());
        request.map(Body::new)
    });
    let service = tower::service_fn(move |request| {
        let (call, response) = (state.call(), router.clone().oneshot(request));
        async move {
            let _call = call;
            response.await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(read_timeout)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = shutdown.cancelled() => None,
        () = sleep(CONNECTION_AGE_MAX) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            timeout(2 * read_timeout, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a browser's connection ended early");
    }
}

/// Outermost: the headers of every response, refusals included, and one log line for each request. The line
/// has no query, no cookie and no form.
async fn finish(request: Request, next: Next) -> Result<Response, Infallible> {
    let (method, path, begun) = (request.method().clone(), request.uri().path().to_owned(), Instant::now());
    let mut response = next.run(request).await;
    guard::secure(response.headers_mut());
    let status = response.status().as_u16();
    tracing::debug!(%method, path, status, took = ?begun.elapsed(), "console");
    Ok(response)
}

/// Refuses requests of other sites and under other names.
async fn allow(State(parts): State<Arc<Parts>>, mut request: Request, next: Next) -> Response {
    let Some(ends) = request.extensions().get::<Ends>().cloned() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    // The host name is the header's alone.
    if request.uri().authority().is_some() {
        return StatusCode::BAD_REQUEST.into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD | Method::POST) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    match parts.guard.check(request.method(), request.headers(), ends.local) {
        Ok(allowed) => {
            request.extensions_mut().insert(allowed);
            next.run(request).await
        }
        Err(refusal) => refusal.response().into_response(),
    }
}

/// Bounds what is under way, and reads forms within their bounds. Responses that are streams count elsewhere.
async fn bound(State(parts): State<Arc<Parts>>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let reading = Limited::new(body, FORM_BYTES_MAX).collect();
    match timeout(parts.settings.read_timeout, reading).await {
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
        Ok(Err(_)) => return (StatusCode::PAYLOAD_TOO_LARGE, "The form is too large.\n").into_response(),
        Ok(Ok(body)) => head.extensions.insert(ReadBody(body.to_bytes())),
    };
    // After the form is read: one that never ends holds its connection, and no page of others.
    let address = head.extensions.get::<Ends>().map(|ends| ends.peer.ip());
    let Ok(_permit) = parts.requests.try_acquire(ShareKey::of_address(address), 1) else {
        let text = "Too many pages are being made. Try again in a moment.\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], text).into_response();
    };
    next.run(Request::from_parts(head, Body::empty())).await
}

/// A place among the console's streams for a browser at this address, if there is one.
pub(super) fn stream_permit(parts: &Parts, address: IpAddr) -> Option<Permit> {
    parts.streams.try_acquire(ShareKey::of_address(Some(address)), 1).ok()
}
