//! Sends webhooks as Chatwoot does, and requests as nobody should.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::{exchange, read_to_close};

/// Sends to one source.
#[derive(Clone)]
pub struct Sender {
    pub address: SocketAddr,
    pub target: String,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    /// 0 if there was none.
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }
}

impl Sender {
    pub fn to(address: SocketAddr, path: &str) -> Self {
        Self { address, target: format!("/chatwoot/{path}") }
    }

    /// The head of a request, but for the empty line.
    pub fn head(&self, method: &str, headers: &[(&str, String)]) -> String {
        let Self { address, target } = self;
        let mut head = format!(
            "{method} {target} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
             accept: application/json\r\ncontent-type: application/json\r\nuser-agent: rest-client/2.1.0\r\n"
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head
    }

    /// POSTs a webhook with this delivery id.
    pub async fn post(&self, body: &str, delivery: &str, more: &[(&str, String)]) -> Response {
        let mut headers = vec![("X-Chatwoot-Delivery", delivery.to_owned())];
        headers.extend_from_slice(more);
        self.post_with(body, &headers).await
    }

    /// POSTs a webhook with no headers but these.
    pub async fn post_with(&self, body: &str, headers: &[(&str, String)]) -> Response {
        let head = self.head("POST", headers);
        self.raw(format!("{head}content-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await
    }

    /// Sends these bytes, and returns everything received until the end of the connection.
    pub async fn raw(&self, bytes: &[u8]) -> Response {
        Response::of(&exchange(self.address, bytes).await.expect("the gateway listens"))
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the gateway listens")
    }
}

/// The response that comes on a connection until its end.
pub async fn response(stream: &mut TcpStream) -> Response {
    Response::of(&read_to_close(stream).await)
}
