//! The HTTP listener for whoever runs the gateway: is it alive, is it ready, how does it fare.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
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
    listen::{Connection, Limits, incoming, serve_connections},
    metrics::{self, Metrics},
};

/// Connections at once. A probe needs one for a moment.
pub const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send the headers of its request.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection lives at most. Each serves one request.
pub const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of a request's headers.
pub const HEADER_BYTES_MAX: usize = 16 << 10;
/// How long connections may take to end after the shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// What is served, for whoever asks for something else.
const NOT_FOUND: &str = "there is /healthz, /readyz and /metrics here; gRPC is served on another port\n";

/// How far the gateway is in its life. It only goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The store is being opened.
    Starting,
    /// Calls are answered.
    Serving,
    /// What is under way comes to its end; nothing new is begun.
    Draining,
    /// Nothing can be stored any more.
    StoreFailed,
}

/// How far the gateway is, shared by those who say so and those who are asked.
#[derive(Clone, Debug)]
pub struct Readiness(watch::Sender<Phase>);

impl Readiness {
    /// The beginning: [`Phase::Starting`].
    pub fn starting() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }

    /// Goes forward to `phase`. Changes nothing if the gateway is there or further already, so that whoever speaks late
    /// takes nothing back.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|current| {
            let forward = *current < phase;
            *current = phase.max(*current);
            forward
        });
    }

    /// How far the gateway is now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Hears of every step.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }
}

/// Answers on `/healthz` whether the process lives, on `/readyz` whether calls are answered, and on `/metrics` with what
/// was counted, until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(async || shown(metrics).await))
        .fallback(async || (StatusCode::NOT_FOUND, NOT_FOUND))
        .with_state(readiness);
    let limits = Limits::new(CONNECTIONS_MAX, DRAIN_TIMEOUT);
    serve_connections(
        incoming(listener),
        limits,
        shutdown,
        |_| {},
        |connection, shutdown| serve_connection(connection, router.clone(), shutdown),
    )
    .await;
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

/// The store is asked, which may look at the disk: that must not hold up the probes.
async fn shown(metrics: Arc<Metrics>) -> Response {
    match tokio::task::spawn_blocking(move || metrics.text()).await {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        // It panicked, and has said so.
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Serves one request. Keeping connections would let idle ones take the room of those who ask.
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
        Ok(Err(error)) => tracing::debug!(%error, "a connection for health ended early"),
        Err(_) => tracing::debug!("a connection for health took too long"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        task::JoinHandle,
    };

    use super::*;

    /// A test that waits for longer than this has failed.
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

        /// Sends text and returns all that comes until the server closes.
        async fn ask(&self, request: &str) -> String {
            let mut stream = self.connect().await;
            stream.write_all(request.as_bytes()).await.expect("the server reads");
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer);
            timeout(PATIENCE, read).await.expect("the server closes").expect("the answer is text");
            answer
        }

        async fn status_and_body(&self, method: &str, path: &str) -> (String, String) {
            let answer = self.ask(&format!("{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
            assert!(head.contains("content-type: text/plain"), "{head}");
            (head[9..12].to_owned(), body.to_owned())
        }

        async fn stop(self) {
            self.shutdown.cancel();
            timeout(PATIENCE, self.task).await.expect("the server ends").expect("the server does not panic");
        }
    }

    #[tokio::test]
    async fn ready_says_how_far_the_gateway_is_and_healthy_only_that_it_lives() {
        let server = Server::start().await;
        let phases = [
            (Phase::Starting, "503", "starting\n"),
            (Phase::Serving, "200", "ready\n"),
            (Phase::Draining, "503", "draining\n"),
            (Phase::StoreFailed, "503", "store failed\n"),
        ];
        for (phase, status, body) in phases {
            server.readiness.advance(phase);
            assert_eq!(server.status_and_body("GET", "/readyz").await, (status.to_owned(), body.to_owned()));
            assert_eq!(server.status_and_body("HEAD", "/readyz").await, (status.to_owned(), String::new()));
            assert_eq!(
                server.status_and_body("GET", "/healthz").await,
                ("200".to_owned(), "ok\n".to_owned())
            );
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn metrics_are_shown_in_the_format_of_prometheus_even_before_there_is_a_store() {
        let server = Server::start().await;
        let answer = server.ask("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
        assert!(answer.contains("\ntidings_build_info{version="), "{answer}");
        server.stop().await;
    }

    #[tokio::test]
    async fn whoever_asks_for_something_else_hears_what_there_is() {
        let server = Server::start().await;
        let (status, body) = server.status_and_body("GET", "/").await;
        assert_eq!((&*status, &*body), ("404", NOT_FOUND));
        let answer = server.ask("POST /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
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
    async fn a_client_that_never_finishes_does_not_hold_up_the_end() {
        let server = Server::start().await;
        let mut stream = server.connect().await;
        stream.write_all(b"GET /healthz HT").await.expect("the server reads");
        server.stop().await;
    }
}
