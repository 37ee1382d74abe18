//! Passes webhooks on to another HTTP server.

use std::{io, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::BODY_BYTES_MAX;
use crate::commands::connection::{Connection, chain, connect_tls};

/// Limit on the whole exchange: the longest that a subscription waits.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);
/// Headers of one connection, which are not passed on.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The server that webhooks are passed on to.
pub struct Forwarder {
    connection: Connection,
    url: Uri,
}

impl Forwarder {
    /// A server at this URL.
    ///
    /// # Errors
    ///
    /// It is no http or https URL, or the system has no certificate authorities.
    pub fn new(url: &Uri) -> anyhow::Result<Self> {
        let server = format!(
            "{}://{}",
            url.scheme_str().unwrap_or_default(),
            url.authority().map_or("", |authority| authority.as_str())
        );
        let address = server.parse().map_err(|_| {
            anyhow::anyhow!("--forward-to must be a URL such as http://127.0.0.1:3000/webhooks, not {url}")
        })?;
        Ok(Self { connection: Connection::anonymous(address)?, url: url.clone() })
    }

    /// Passes a request on, and returns the response; the status 502 or 504 and the reason without one.
    pub async fn forward(
        &self,
        method: &Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> (Response<Full<Bytes>>, Option<String>) {
        let failed = |status, reason: String| {
            let mut response = Response::new(Full::from(format!("not forwarded: {reason}\n")));
            *response.status_mut() = status;
            (response, Some(reason))
        };
        match timeout(FORWARD_TIMEOUT, self.exchange(method, headers, body)).await {
            Ok(Ok(response)) => (response, None),
            Ok(Err(error)) => failed(StatusCode::BAD_GATEWAY, format!("{error:#}")),
            Err(_) => {
                let reason = format!("{} did not respond within {FORWARD_TIMEOUT:?}", self.url);
                failed(StatusCode::GATEWAY_TIMEOUT, reason)
            }
        }
    }

    async fn exchange(
        &self,
        method: &Method,
        headers: &HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Response<Full<Bytes>>> {
        let address = &self.connection.address;
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method.clone();
        *request.uri_mut() = path.parse().context("the path cannot be sent")?;
        *request.headers_mut() = end_to_end(headers);
        let host = self.url.authority().map_or("", |authority| authority.as_str());
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(host)?);

        let context = || format!("cannot connect to {address}");
        let response = match self.connection.tls.clone() {
            Some(tls) => send(connect_tls(address, tls).await.with_context(context)?, request).await,
            None => {
                let stream = TcpStream::connect((address.host(), address.port())).await;
                send(stream.with_context(context)?, request).await
            }
        };
        response.with_context(|| format!("{address} did not respond"))
    }
}

/// Sends one request over this stream.
async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let served = tokio::spawn(connection);
    let received = async {
        let (mut head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| io::Error::other(chain(error.to_string(), error.source())))?;
        head.headers = end_to_end(&head.headers);
        let mut response = Response::new(Full::new(body.to_bytes()));
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers;
        anyhow::Ok(response)
    };
    let received = received.await;
    served.abort();
    received
}

/// The headers that are passed on.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut passed = headers.clone();
    for name in HOP_BY_HOP {
        passed.remove(name);
    }
    passed
}
