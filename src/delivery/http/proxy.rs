//! How to get through an HTTP proxy: a tunnel to an https endpoint, and what is said with each request to an http one.

use std::io;

use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::domain::{egress::Proxy, webhook_headers};

/// Most bytes of a proxy's answer to `CONNECT`, up to and with the empty line.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// Why a proxy leads nowhere. Never names the proxy, which is the operator's matter: endpoints' owners read this.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Its name leads nowhere.
    #[error("the proxy's name did not resolve")]
    Lookup,
    /// It takes no connection.
    #[error("could not connect to the proxy: {}", .0.kind())]
    Unreachable(io::Error),
    /// It answered with another status than 2xx.
    #[error("the proxy refused: {0}")]
    Refused(StatusCode),
    /// It answered with something else than HTTP.
    #[error("the proxy's answer is not http")]
    NotHttp,
    /// Its answer does not come to an end.
    #[error("the proxy's answer is longer than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// It sent more than its answer, as if it were the endpoint.
    #[error("the proxy sent more than its answer")]
    TooMuch,
    /// It closed the connection.
    #[error("the proxy closed the connection before its answer was complete")]
    Closed,
    /// The connection to it broke.
    #[error("the connection to the proxy broke: {}", .0.kind())]
    Broken(io::Error),
}

/// How requests are put to a proxy that passes them on one by one.
#[derive(Clone, Debug)]
pub(crate) struct Forwarding {
    /// What the proxy wants to be told.
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

/// Makes `stream`, which leads to the proxy, one that leads to `host` (spelled as in a URL) and `port`.
pub(crate) async fn tunnel<T>(stream: &mut T, proxy: &Proxy, host: &str, port: u16) -> Result<(), ProxyError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut asked = format!(
        "CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\nuser-agent: {}\r\n",
        webhook_headers::AGENT_NAME
    );
    if let Some(authorization) = proxy.authorization() {
        asked.extend(["proxy-authorization: ", authorization.expose(), "\r\n"]);
    }
    asked.push_str("\r\n");
    stream.write_all(asked.as_bytes()).await.map_err(ProxyError::Broken)?;
    stream.flush().await.map_err(ProxyError::Broken)?;
    let head = read_head(stream).await?;
    match status(&head).ok_or(ProxyError::NotHttp)? {
        // Whatever a client is told after it comes from the endpoint.
        status if status.is_success() => Ok(()),
        status => Err(ProxyError::Refused(status)),
    }
}

/// Reads up to and with the empty line.
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
        // The end may be spread over two parts.
        let from = head.len().saturating_sub(END.len() - 1);
        head.extend_from_slice(&part[..read]);
        // Whatever talks in another way need not be waited for until it ends.
        if !b"HTTP/1.".starts_with(&head[..head.len().min(7)]) {
            return Err(ProxyError::NotHttp);
        }
        if let Some(at) = head[from..].windows(END.len()).position(|window| window == END) {
            let end = from + at + END.len();
            let refused = status(&head).is_some_and(|status| !status.is_success());
            // A refusal may have a body, which nobody reads. A tunnel is silent until the client speaks.
            return if end == head.len() || refused { Ok(head) } else { Err(ProxyError::TooMuch) };
        }
        if head.len() > ANSWER_BYTES_MAX {
            return Err(ProxyError::TooLong);
        }
    }
}

/// The status in the first line of an answer: `HTTP/1.1 200 OK`.
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

    /// What comes of it when the proxy answers so, in parts.
    async fn answered(parts: &[&str]) -> Result<(), ProxyError> {
        let (mut ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let parts: Vec<_> = parts.iter().map(|part| (*part).to_owned()).collect();
        let answering = async move {
            let mut asked = [0; 16];
            theirs.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"CONNECT a.exampl");
            for part in parts {
                // The other end may have given up.
                if theirs.write_all(part.as_bytes()).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        let proxy = Proxy::parse("http://user:secret@proxy.example").unwrap();
        tokio::join!(tunnel(&mut ours, &proxy, "a.example", 443), answering).0
    }

    #[tokio::test]
    async fn a_tunnel_is_open_after_an_answer_of_2xx() {
        for parts in [
            &["HTTP/1.1 200 Connection established\r\n\r\n"][..],
            &["HTTP/1.0 200 OK\r\nvia: a\r\n\r\n"],
            &["HTTP/1.1 204\r\n\r\n"],
            &["HTTP/1.1 2", "00 OK\r", "\n\r", "\n"],
        ] {
            assert!(answered(parts).await.is_ok(), "{parts:?}");
        }
    }

    #[tokio::test]
    async fn whatever_else_a_proxy_answers_is_told() {
        let (long, garbage) = (format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(9000)), "x".repeat(9000));
        for (parts, expected) in [
            (&["HTTP/1.1 407 No\r\n\r\nwho?"][..], "the proxy refused: 407 Proxy Authentication Required"),
            (&["HTTP/1.1 502 No\r\n\r\n"], "the proxy refused: 502 Bad Gateway"),
            (&["HTTP/1.1 101 No\r\n\r\n"], "the proxy refused: 101 Switching Protocols"),
            (&["HTTP/1.1 200 OK\r\n\r\nmore"], "the proxy sent more than its answer"),
            (&["HTTP/1.1 200 OK\r\n"], "the proxy closed the connection before its answer was complete"),
            (&[], "the proxy closed the connection before its answer was complete"),
            (&[&long], "the proxy's answer is longer than 8192 bytes"),
            (&[&garbage], "the proxy's answer is not http"),
            (&["HTTP/1.1 20"], "the proxy's answer is not http"),
            (&["HTTP/1.1 2000 OK\r\n\r\n"], "the proxy's answer is not http"),
            (&["HTTP/2 200\r\n\r\n"], "the proxy's answer is not http"),
            (&["SSH-2.0-OpenSSH"], "the proxy's answer is not http"),
        ] {
            let error = answered(parts).await.expect_err(expected).to_string();
            assert_eq!(error, expected, "{parts:?}");
        }
    }
}
