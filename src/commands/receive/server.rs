//! The HTTP server of the receiver.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
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

use super::forward::Forwarder;
use crate::{
    config::parse_duration,
    listen::{Connection, Limits, incoming, serve_connections},
};

/// Largest body, in bytes.
pub const BODY_BYTES_MAX: usize = 8 << 20;
/// Most connections at once.
pub const CONNECTIONS_MAX: usize = 4_096;
/// Limit on the time to send a request's headers, and on the time that a connection is idle.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// Limit on requests under way after the shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// Why it was not passed on, if it should have been.
    pub forward_error: Option<String>,
}

/// Serves HTTP/1.1 and HTTP/2 (with prior knowledge) until `shutdown`. Sends each request to `sink` before
/// the response. A full sink delays responses; a closed one does not. With a `forwarder` each request gets its response.
pub async fn serve(
    listener: TcpListener,
    responses: Responses,
    forwarder: Option<Forwarder>,
    sink: mpsc::Sender<Received>,
    shutdown: CancellationToken,
) {
    let receiver = Arc::new(Receiver { responses, forwarder, sink, count: AtomicU64::new(0) });
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
    forwarder: Option<Forwarder>,
    sink: mpsc::Sender<Received>,
    count: AtomicU64,
}

impl Receiver {
    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return empty(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return empty(StatusCode::PAYLOAD_TOO_LARGE),
            Err(_) => return empty(StatusCode::BAD_REQUEST),
        };
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let (response, forward_error) = match &self.forwarder {
            Some(forwarder) => forwarder.forward(&head.method, &head.headers, body.clone()).await,
            None => (empty(self.responses.status(number)), None),
        };
        let received = Received {
            number,
            method: head.method,
            uri: head.uri,
            version: head.version,
            headers: head.headers,
            body,
            status: response.status(),
            forward_error,
        };
        // The sink may be closed; the request gets its response all the same.
        drop(self.sink.send(received).await);
        if !self.responses.delay.is_zero() {
            tokio::time::sleep(self.responses.delay).await;
        }
        response
    }
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

async fn serve_connection(
    connection: Connection<TcpStream>,
    receiver: Arc<Receiver>,
    shutdown: CancellationToken,
) {
    let Connection { stream, permit: _permit, .. } = connection;
    let service = service_fn(move |request| {
        let receiver = Arc::clone(&receiver);
        async move { Ok::<_, Infallible>(receiver.respond(request).await) }
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
