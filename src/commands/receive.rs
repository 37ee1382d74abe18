//! A receiver of webhooks for trying things out: answers as it is told, and hands on what arrives.

use std::{
    convert::Infallible,
    io::{self, Write},
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::parse_duration,
    domain::secret::Secret,
    listen::{Limits, serve_connections},
};

mod print;

pub use print::{Signatures, describe, describe_body};

/// The largest body that is taken.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Connections at once.
pub const CONNECTIONS_MAX: usize = 4_096;
/// How long a client may take to send the headers of a request, and leave a connection unused.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// How long requests under way may take to end after the shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// What has arrived and is not printed yet; past it, answers wait.
const PRINT_QUEUE_MAX: usize = 256;

/// Print the webhooks that arrive, and answer as told.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Where to listen. Port 0 takes any free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// How to answer.
    #[command(flatten)]
    pub answers: Answers,
    /// Say of each request whether its signatures are made with this secret.
    #[arg(long, value_name = "SECRET")]
    pub secret: Option<String>,
}

/// How the receiver answers.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Answers {
    /// Answer with this status, 200 to 599, instead of 200.
    #[arg(long, value_parser = parse_status)]
    pub status: Option<StatusCode>,
    /// Only to every Nth request; the others are answered with 200.
    #[arg(long, value_name = "N", requires = "status", value_parser = clap::value_parser!(u64).range(1..))]
    pub every: Option<u64>,
    /// Wait for so long before each answer.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    pub delay: Duration,
}

fn parse_status(text: &str) -> Result<StatusCode, String> {
    let status = text.parse().ok().filter(|status: &StatusCode| (200..600).contains(&status.as_u16()));
    status.ok_or_else(|| "a status is a number from 200 to 599".to_owned())
}

impl Answers {
    /// The status for request number `number`, the first being 1.
    pub fn status(&self, number: u64) -> StatusCode {
        match (self.status, self.every) {
            (Some(status), None) => status,
            (Some(status), Some(every)) if number.is_multiple_of(every) => status,
            _ => StatusCode::OK,
        }
    }
}

/// A request that arrived, and how it is answered.
#[derive(Clone, Debug)]
pub struct Received {
    /// Counts the requests from 1.
    pub number: u64,
    /// Its method.
    pub method: Method,
    /// Its target.
    pub uri: Uri,
    /// The version of HTTP that it came by.
    pub version: Version,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
    /// What it is answered with.
    pub answer: StatusCode,
}

/// Listens and prints what arrives to standard output until `shutdown`, or until nobody reads the output any more.
///
/// # Errors
///
/// The address cannot be bound.
pub async fn run(arguments: Arguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Arguments { listen, answers, secret } = arguments;
    let secret = secret.map(Secret::new);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let heading = format!("listening on http://{}\n", listener.local_addr()?);

    let (sink, mut received) = mpsc::channel(PRINT_QUEUE_MAX);
    let no_reader = shutdown.clone();
    let printer = tokio::task::spawn_blocking(move || {
        let print = |text: &str| {
            let mut output = io::stdout().lock();
            output.write_all(text.as_bytes()).and_then(|()| output.flush())
        };
        let mut printed = print(&heading);
        while let Some(request) = printed.is_ok().then(|| received.blocking_recv()).flatten() {
            printed = print(&describe(&request, secret.as_ref()));
        }
        // A closed pipe, as behind `| head`, is a wish to end.
        no_reader.cancel();
    });
    serve(listener, answers, sink, shutdown).await;
    printer.await.context("printing failed")
}

/// Answers requests over HTTP/1.1 and HTTP/2 (by prior knowledge) until `shutdown`, and gives each to `sink` before it is
/// answered. A full sink holds answers up; a closed one does not.
pub async fn serve(
    listener: TcpListener,
    answers: Answers,
    sink: mpsc::Sender<Received>,
    shutdown: CancellationToken,
) {
    let receiver = Arc::new(Receiver { answers, sink, count: AtomicU64::new(0) });
    let limits = Limits { connections_max: CONNECTIONS_MAX, drain_timeout: DRAIN_TIMEOUT };
    serve_connections(listener, limits, shutdown, |stream, shutdown| {
        serve_connection(stream, Arc::clone(&receiver), shutdown)
    })
    .await;
}

struct Receiver {
    answers: Answers,
    sink: mpsc::Sender<Received>,
    count: AtomicU64,
}

impl Receiver {
    async fn answer(&self, request: Request<Incoming>) -> StatusCode {
        let (head, body) = request.into_parts();
        if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return StatusCode::PAYLOAD_TOO_LARGE;
        }
        let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return StatusCode::PAYLOAD_TOO_LARGE,
            Err(_) => return StatusCode::BAD_REQUEST,
        };
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = self.answers.status(number);
        let received = Received {
            number,
            method: head.method,
            uri: head.uri,
            version: head.version,
            headers: head.headers,
            body,
            answer,
        };
        // Nobody may be interested any more, and the sender of the request still wants its answer.
        drop(self.sink.send(received).await);
        if !self.answers.delay.is_zero() {
            tokio::time::sleep(self.answers.delay).await;
        }
        answer
    }
}

async fn serve_connection(stream: TcpStream, receiver: Arc<Receiver>, shutdown: CancellationToken) {
    // Answers are small and should not wait for others.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let receiver = Arc::clone(&receiver);
        async move {
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = receiver.answer(request).await;
            Ok::<_, Infallible>(response)
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server.http2().timer(TokioTimer::new());
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(error = &*error, "a connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nth_request_gets_the_status_and_all_of_them_without_a_number() {
        let statuses = |status, every| {
            let answers = Answers { status, every, delay: Duration::ZERO };
            (1..=6).map(|number| answers.status(number).as_u16()).collect::<Vec<_>>()
        };
        let error = Some(StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(statuses(None, None), [200; 6]);
        assert_eq!(statuses(error, None), [500; 6]);
        assert_eq!(statuses(error, Some(3)), [200, 200, 500, 200, 200, 500]);
        assert_eq!(statuses(error, Some(1)), [500; 6]);
    }

    #[test]
    fn only_statuses_that_end_a_request_are_taken() {
        for (text, taken) in [("200", true), ("599", true), ("199", false), ("600", false), ("ok", false)] {
            assert_eq!(parse_status(text).is_ok(), taken, "{text}");
        }
    }
}
