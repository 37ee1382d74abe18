//! The HTTP listener for operators: liveness, readiness and metrics.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use clap::Args;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::quantities::address,
    limits::Shares,
    listen::{Connection, Limits, incoming, serve_connections},
    metrics::{self, Listener, Metrics},
};

/// Settings of this listener.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Operations")]
pub struct OpsSettings {
    /// Address of /healthz, /readyz and /metrics. Port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    pub http_listen: SocketAddr,
}

/// Most connections. A probe needs one for a moment.
pub const CONNECTIONS_MAX: usize = 64;
/// Longest time that a client may take to send the headers of its request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest life of a connection. Each serves one request.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of a request's headers.
pub const HEADER_BYTES_MAX: usize = 16 << 10;
/// Longest time that connections may take to end after the shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The body of the response to any other path.
const NOT_FOUND: &str = "not found: this port serves /healthz, /readyz and /metrics; gRPC has another port\n";

/// The phase of the gateway's life. Phases only advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The store is being opened.
    Starting,
    /// Calls are served.
    Serving,
    /// Calls and attempts in flight are completed; new ones are rejected.
    Draining,
    /// The store has failed, and accepts no more writes.
    StoreFailed,
}

/// The current phase. Clones share it.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Sender<Phase>);

impl Readiness {
    /// Begins with [`Phase::Starting`].
    pub fn starting() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }

    /// Advances to `phase`. Changes nothing if that phase, or a later one, is reached already.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let forward = *current < phase;
            *current = phase.max(*current);
            forward
        });
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// A receiver of every change.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }
}

/// Serves liveness on `/healthz`, readiness on `/readyz`, and metrics on `/metrics`, until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let failures = Arc::clone(&metrics);
    let router = Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(async || render(metrics).await))
        .fallback(async || (StatusCode::NOT_FOUND, NOT_FOUND))
        .with_state(readiness);
    // No client of this port proves anything, and probes of one machine have one address: past all connections the
    // idlest goes.
    let shares = Shares { unproven_timeout: CONNECTION_TIMEOUT, ..Shares::UNLIMITED };
    let limits = Limits::new(CONNECTIONS_MAX, shares, DRAIN_TIMEOUT);
    serve_connections(
        incoming(listener, move || failures.accept_failed(Listener::Ops)),
        limits,
        shutdown,
        |_| {},
        |connection, shutdown| serve_connection(connection, router.clone(), shutdown),
    )
    .await;
}

/// A failed store accepts nothing until the process is started again, so a supervisor shall start it again.
async fn alive(State(readiness): State<Readiness>) -> Response {
    match readiness.phase() {
        Phase::StoreFailed => (StatusCode::SERVICE_UNAVAILABLE, "store failed: restart\n").into_response(),
        Phase::Starting | Phase::Serving | Phase::Draining => "ok\n".into_response(),
    }
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let reason = match readiness.phase() {
        Phase::Serving => return "ready\n".into_response(),
        Phase::Starting => "starting\n",
        Phase::Draining => "draining\n",
        Phase::StoreFailed => "store failed\n",
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

/// Renders the metrics. On a thread for blocking work, since the store may read the disk, and probes must not
/// wait for that.
async fn render(metrics: Arc<Metrics>) -> Response {
    match tokio::task::spawn_blocking(move || metrics.text()).await {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        // It panicked, and the panic hook has logged it.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Serves one request. Without keep-alive, so that idle connections cannot use up the limit.
async fn serve_connection(connection: Connection<TcpStream>, router: Router, shutdown: CancellationToken) {
    let Connection { stream, permit: _permit, .. } = connection;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let served = timeout(CONNECTION_TIMEOUT, async {
        tokio::select! {
            served = &mut connection => served,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    });
    match served.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection of the ops listener ended early"),
        Err(_) => tracing::debug!("a connection of the ops listener took too long"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
    };

    use super::*;

    /// A longer wait fails the test.
    const PATIENCE: Duration = Duration::from_secs(20);

    struct Server {
        address: std::net::SocketAddr,
        readiness: Readiness,
        shutdown: CancellationToken,
        task: JoinHandle<()>,
    }

    impl Server {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
            let address = listener.local_addr().expect("it is bound");
            let (readiness, shutdown) = (Readiness::starting(), CancellationToken::new());
            let task = tokio::spawn(serve(
                listener,
                readiness.clone(),
                Metrics::new(Default::default()),
                shutdown.clone(),
            ));
            Self { address, readiness, shutdown, task }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.expect("the server listens")
        }

        /// Sends text and returns everything until the server closes.
        async fn ask(&self, request: &str) -> String {
            let mut stream = self.connect().await;
            stream.write_all(request.as_bytes()).await.expect("the server reads");
            let mut response = String::new();
            let read = stream.read_to_string(&mut response);
            timeout(PATIENCE, read).await.expect("the server closes").expect("the response is text");
            response
        }

        async fn status_and_body(&self, method: &str, path: &str) -> (String, String) {
            let response = self.ask(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            let (head, body) = response.split_once("\r\n\r\n").expect("a response has a head");
            assert!(head.contains("content-type: text/plain"), "{head}");
            (head[9..12].to_owned(), body.to_owned())
        }

        async fn stop(self) {
            self.shutdown.cancel();
            timeout(PATIENCE, self.task).await.expect("the server ends").expect("the server does not panic");
        }
    }

    #[tokio::test]
    async fn readiness_follows_the_phase_and_liveness_fails_where_only_a_restart_helps() {
        let server = Server::start().await;
        let phases = [
            (Phase::Starting, "503", "starting\n", "200", "ok\n"),
            (Phase::Serving, "200", "ready\n", "200", "ok\n"),
            (Phase::Draining, "503", "draining\n", "200", "ok\n"),
            (Phase::StoreFailed, "503", "store failed\n", "503", "store failed: restart\n"),
        ];
        for (phase, ready, reason, alive, word) in phases {
            server.readiness.advance(phase);
            for (path, status, body) in [("/readyz", ready, reason), ("/healthz", alive, word)] {
                let full = (status.to_owned(), body.to_owned());
                assert_eq!(server.status_and_body("GET", path).await, full, "{path}, {phase:?}");
                let head = (status.to_owned(), String::new());
                assert_eq!(server.status_and_body("HEAD", path).await, head, "{path}, {phase:?}");
            }
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn metrics_are_served_in_prometheus_format_even_before_the_store_is_open() {
        let server = Server::start().await;
        let response = server.ask("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(
            response.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{response}"
        );
        assert!(response.contains("\ntidings_build_info{version="), "{response}");
        server.stop().await;
    }

    #[tokio::test]
    async fn other_paths_get_a_list_of_the_paths() {
        let server = Server::start().await;
        let (status, body) = server.status_and_body("GET", "/").await;
        assert_eq!((&*status, &*body), ("404", NOT_FOUND));
        let response = server.ask("POST /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.1 405"), "{response}");
        server.stop().await;
    }

    #[test]
    fn the_phase_never_goes_back() {
        let readiness = Readiness::starting();
        let mut watch = readiness.watch();
        readiness.advance(Phase::Draining);
        assert!(watch.has_changed().is_ok_and(|changed| changed));
        watch.mark_unchanged();
        readiness.advance(Phase::Serving);
        assert_eq!(readiness.phase(), Phase::Draining);
        assert!(watch.has_changed().is_ok_and(|changed| !changed));
    }

    #[tokio::test]
    async fn silent_clients_do_not_keep_probes_out_for_long() {
        let server = Server::start().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(server.connect().await);
        }
        assert_eq!(server.status_and_body("GET", "/healthz").await.0, "200");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_client_that_never_finishes_does_not_delay_the_shutdown() {
        let server = Server::start().await;
        let mut stream = server.connect().await;
        stream.write_all(b"GET /healthz HT").await.expect("the server reads");
        server.stop().await;
    }
}
