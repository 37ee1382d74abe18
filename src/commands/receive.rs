//! `tidings receive`: an HTTP receiver for trying out webhooks. Prints each request and responds with a
//! chosen status.

use std::{
    convert::Infallible,
    io::{self, Write},
    net::SocketAddr,
    pin::pin,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use clap::{ArgMatches, Args, Command, FromArgMatches};
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

use super::{exit_code, log_warnings, run_until_signal};
use crate::{
    config::parse_duration,
    domain::secret::Secret,
    listen::{Connection, Limits, incoming, serve_connections},
    telemetry::LogFormat,
};

mod print;

pub use print::{Signatures, describe, describe_body};

/// Largest body, in bytes.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Most connections at once.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Limit on the time to send a request's headers, and on the time that a connection is idle.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// Limit on requests under way after the shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Most requests that wait to be printed. Further ones wait for their response.
const PRINT_QUEUE_MAX: usize = 256;

/// Receive webhooks, print them, and respond with 200 or another status.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Address to listen on. Port 0 is any free port.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    pub listen: SocketAddr,
    /// Responses.
    #[command(flatten)]
    pub responses: Responses,
    /// Verify each request's signatures with this secret.
    #[arg(long, value_name = "SECRET")]
    pub secret: Option<String>,
}

/// The responses of the receiver.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Responses {
    /// Respond with this status, 200 to 599, instead of 200.
    #[arg(long, value_parser = parse_status)]
    pub status: Option<StatusCode>,
    /// Use --status for every Nth request only, and 200 for the others.
    #[arg(long, value_name = "N", requires = "status", value_parser = clap::value_parser!(u64).range(1..))]
    pub every: Option<u64>,
    /// Wait before each response.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    pub delay: Duration,
}

fn parse_status(text: &str) -> Result<StatusCode, String> {
    let status = text.parse().ok().filter(|status: &StatusCode| (200..600).contains(&status.as_u16()));
    status.ok_or_else(|| "must be a number from 200 to 599".to_owned())
}

impl Responses {
    /// The status for request number `number`, the first being 1.
    pub fn status(&self, number: u64) -> StatusCode {
        match (self.status, self.every) {
            (Some(status), None) => status,
            (Some(status), Some(every)) if number.is_multiple_of(every) => status,
            _ => StatusCode::OK,
        }
    }
}

/// A received request, and the status of its response.
#[derive(Clone, Debug)]
pub struct Received {
    /// Number of the request, from 1.
    pub number: u64,
    /// The method.
    pub method: Method,
    /// The request target.
    pub uri: Uri,
    /// The version of HTTP.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The status of the response.
    pub status: StatusCode,
}

/// The arguments of the command.
pub fn command(name: &'static str) -> Command {
    Arguments::augment_args(Command::new(name))
}

/// Receives webhooks until a signal.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    let receive = || {
        let arguments = Arguments::from_arg_matches(matches)?;
        log_warnings(LogFormat::Text)?;
        run_until_signal(0, |shutdown| run(arguments, shutdown))
    };
    exit_code(receive())
}

/// Listens and prints requests to standard output until `shutdown`, or until standard output is closed.
///
/// # Errors
///
/// The address cannot be bound.
pub async fn run(arguments: Arguments, shutdown: CancellationToken) -> anyhow::Result<()> {
    let Arguments { listen, responses, secret } = arguments;
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
        // A closed pipe, as behind `| head`, ends the command.
        no_reader.cancel();
    });
    serve(listener, responses, sink, shutdown).await;
    printer.await.context("printing failed")
}

/// Serves HTTP/1.1 and HTTP/2 (with prior knowledge) until `shutdown`. Sends each request to `sink` before
/// the response. A full sink delays responses; a closed one does not.
pub async fn serve(
    listener: TcpListener,
    responses: Responses,
    sink: mpsc::Sender<Received>,
    shutdown: CancellationToken,
) {
    let receiver = Arc::new(Receiver { responses, sink, count: AtomicU64::new(0) });
    let limits = Limits::without_shares(CONNECTIONS_MAX, DRAIN_TIMEOUT);
    serve_connections(
        incoming(listener, || {}),
        limits,
        shutdown,
        |_| {},
        |connection, shutdown| serve_connection(connection, Arc::clone(&receiver), shutdown),
    )
    .await;
}

struct Receiver {
    responses: Responses,
    sink: mpsc::Sender<Received>,
    count: AtomicU64,
}

impl Receiver {
    async fn respond(&self, request: Request<Incoming>) -> StatusCode {
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
        let status = self.responses.status(number);
        let received = Received {
            number,
            method: head.method,
            uri: head.uri,
            version: head.version,
            headers: head.headers,
            body,
            status,
        };
        // The sink may be closed; the request gets its response all the same.
        drop(self.sink.send(received).await);
        if !self.responses.delay.is_zero() {
            tokio::time::sleep(self.responses.delay).await;
        }
        status
    }
}

async fn serve_connection(
    connection: Connection<TcpStream>,
    receiver: Arc<Receiver>,
    shutdown: CancellationToken,
) {
    let Connection { stream, permit: _permit, .. } = connection;
    let service = service_fn(move |request| {
        let receiver = Arc::clone(&receiver);
        async move {
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = receiver.respond(request).await;
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
    fn every_nth_request_gets_the_status_or_every_request_without_a_number() {
        let statuses = |status, every| {
            let responses = Responses { status, every, delay: Duration::ZERO };
            (1..=6).map(|number| responses.status(number).as_u16()).collect::<Vec<_>>()
        };
        let error = Some(StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(statuses(None, None), [200; 6]);
        assert_eq!(statuses(error, None), [500; 6]);
        assert_eq!(statuses(error, Some(3)), [200, 200, 500, 200, 200, 500]);
        assert_eq!(statuses(error, Some(1)), [500; 6]);
    }

    #[test]
    fn only_final_statuses_are_accepted() {
        for (text, accepted) in [("200", true), ("599", true), ("199", false), ("600", false), ("ok", false)]
        {
            assert_eq!(parse_status(text).is_ok(), accepted, "{text}");
        }
    }
}
