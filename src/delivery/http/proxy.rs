//! HTTP proxies: a `CONNECT` tunnel to an https endpoint, credentials in each request to an http endpoint.
//!
//! hyper-util's `Tunnel` is not used, because it hides more and checks less: it takes no status but 200,
//! although any 2xx opens a tunnel (RFC 9110, 9.3.6); it reports no other status than 407, which the owner of
//! an endpoint needs to see; and it silently drops bytes that a proxy sends after its response, instead of
//! failing.

use std::io;

use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::domain::{egress::Proxy, webhook_headers};

/// Most bytes of the head of a proxy's response to `CONNECT`.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Why a proxy failed. Endpoints' owners read these texts: they never name the proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Its name did not resolve.
    #[error("the proxy's name did not resolve")]
    Lookup,
    /// It does not accept connections.
    #[error("could not connect to the proxy: {}", .0.kind())]
    Unreachable(io::Error),
    /// It responded with another status than 2xx.
    #[error("the proxy refused: {0}")]
    Refused(StatusCode),
    /// Its response is not HTTP.
    #[error("the proxy's response is not http")]
    NotHttp,
    /// The head of its response is too long.
    #[error("the proxy's response is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// It sent more than its response, as if it were the endpoint.
    #[error("the proxy sent more than its response")]
    TooMuch,
    /// It closed the connection.
    #[error("the proxy closed the connection before its response was complete")]
    Closed,
    /// The connection to it broke.
    #[error("the connection to the proxy broke: {}", .0.kind())]
    Broken(io::Error),
}

/// How to send requests to a proxy that forwards them one by one.
#[derive(Clone, Debug)]
pub(crate) struct Forwarding {
    /// The `Proxy-Authorization` header.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Forwarding {
    pub(crate) fn by(proxy: &Proxy) -> Self {
        let authorization = proxy.authorization().map(|value| {
            let mut value = HeaderValue::from_str(value.expose()).expect("base64 is a header value");
            value.set_sensitive(true);
            value
        });
        Self { authorization }
    }
}

/// Opens a tunnel through `stream`, a connection to the proxy, to `host` (spelled as in a URL) and `port`.
pub(crate) async fn tunnel<T>(stream: &mut T, proxy: &Proxy, host: &str, port: u16) -> Result<(), ProxyError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = format!(
        "CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\nuser-agent: {}\r\n",
        webhook_headers::AGENT_NAME
    );
    if let Some(authorization) = proxy.authorization() {
        request.extend(["proxy-authorization: ", authorization.expose(), "\r\n"]);
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.map_err(ProxyError::Broken)?;
    stream.flush().await.map_err(ProxyError::Broken)?;
    let head = read_head(stream).await?;
    match status(&head).ok_or(ProxyError::NotHttp)? {
        status if status.is_success() => Ok(()),
        status => Err(ProxyError::Refused(status)),
    }
}

/// Reads the head of the response, including the empty line.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, ProxyError> {
    const END: &[u8] = b"\r\n\r\n";
    let mut head = Vec::new();
    let mut part = [0; 1024];
    loop {
        let read = stream.read(&mut part).await.map_err(ProxyError::Broken)?;
        if read == 0 {
            return Err(if head.is_empty() || status(&head).is_some() {
                ProxyError::Closed
            } else {
                ProxyError::NotHttp
            });
        }
        // The end may be split over two reads.
        let from = head.len().saturating_sub(END.len() - 1);
        head.extend_from_slice(&part[..read]);
        // Another protocol is rejected at once.
        if !b"HTTP/1.".starts_with(&head[..head.len().min(7)]) {
            return Err(ProxyError::NotHttp);
        }
        if let Some(at) = head[from..].windows(END.len()).position(|window| window == END) {
            let end = from + at + END.len();
            let refused = status(&head).is_some_and(|status| !status.is_success());
            // A refusal may have a body, which is ignored. A tunnel is silent until the client sends.
            return if end == head.len() || refused { Ok(head) } else { Err(ProxyError::TooMuch) };
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err(ProxyError::TooLong);
        }
    }
}

/// The status of a status line such as `HTTP/1.1 200 OK`.
fn status(head: &[u8]) -> Option<StatusCode> {
    let rest = head.strip_prefix(b"HTTP/1.1 ").or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, rest) = rest.split_at_checked(3)?;
    if !matches!(rest.first(), Some(b' ' | b'\r')) {
        return None;
    }
    StatusCode::from_bytes(digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens a tunnel through a proxy that responds with these parts.
    async fn responded(parts: &[&str]) -> Result<(), ProxyError> {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let parts: Vec<_> = parts.iter().map(|part| (*part).to_owned()).collect();
        let responding = async move {
            let mut request = [0; 16];
            theirs.read_exact(&mut request).await.unwrap();
            assert_eq!(&request, b"CONNECT a.exampl");
            for part in parts {
                // The client may have closed the connection.
                if theirs.write_all(part.as_bytes()).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let proxy = Proxy::parse("http://user:secret@proxy.example").unwrap();
        tokio::join!(tunnel(&mut ours, &proxy, "a.example", 443), responding).0
    }

    #[tokio::test]
    async fn a_2xx_response_opens_the_tunnel() {
        for parts in [
            &["HTTP/1.1 200 Connection established\r\n\r\n"][..],
            &["HTTP/1.0 200 OK\r\nvia: a\r\n\r\n"],
            &["HTTP/1.1 204\r\n\r\n"],
            &["HTTP/1.1 2", "00 OK\r", "\n\r", "\n"],
        ] {
            assert!(responded(parts).await.is_ok(), "{parts:?}");
        }
    }

    #[tokio::test]
    async fn any_other_response_is_reported() {
        let (long, garbage) = (format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(9000)), "x".repeat(9000));
        for (parts, expected) in [
            (&["HTTP/1.1 407 No\r\n\r\nwho?"][..], "the proxy refused: 407 Proxy Authentication Required"),
            (&["HTTP/1.1 502 No\r\n\r\n"], "the proxy refused: 502 Bad Gateway"),
            (&["HTTP/1.1 101 No\r\n\r\n"], "the proxy refused: 101 Switching Protocols"),
            (&["HTTP/1.1 200 OK\r\n\r\nmore"], "the proxy sent more than its response"),
            (&["HTTP/1.1 200 OK\r\n"], "the proxy closed the connection before its response was complete"),
            (&[], "the proxy closed the connection before its response was complete"),
            (&[&long], "the proxy's response is longer than 8192 bytes"),
            (&[&garbage], "the proxy's response is not http"),
            (&["HTTP/1.1 20"], "the proxy's response is not http"),
            (&["HTTP/1.1 2000 OK\r\n\r\n"], "the proxy's response is not http"),
            (&["HTTP/2 200\r\n\r\n"], "the proxy's response is not http"),
            (&["SSH-2.0-OpenSSH"], "the proxy's response is not http"),
        ] {
            let error = responded(parts).await.expect_err(expected).to_string();
            assert_eq!(error, expected, "{parts:?}");
        }
    }
}
