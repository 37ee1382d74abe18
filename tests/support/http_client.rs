//! A client of the gRPC port that speaks HTTP as curl and browsers do: it knows JSON and bytes, and no gRPC.

use std::net::SocketAddr;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use super::in_time;

/// A client.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    headers: Vec<(&'static str, String)>,
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl HttpClient {
    /// Over HTTP/1.1.
    pub fn http1(address: SocketAddr) -> Self {
        Self::new(address, false)
    }

    /// Over HTTP/2.
    pub fn http2(address: SocketAddr) -> Self {
        Self::new(address, true)
    }

    fn new(address: SocketAddr, is_http2: bool) -> Self {
        let client = Client::builder(TokioExecutor::new()).http2_only(is_http2).build_http();
        Self { client, address, headers: Vec::new() }
    }

    /// With this header in every request.
    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name, value.to_owned()));
        client
    }

    /// A request of any kind, and the response as it comes.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: impl Into<Bytes>,
    ) -> http::Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        in_time(self.client.request(request)).await.expect("there is a response")
    }

    /// POSTs, and reads the whole response.
    pub async fn post(&self, path: &str, content_type: &str, body: impl Into<Bytes>) -> Reply {
        Reply::of(self.send(Method::POST, path, Some(content_type), body).await).await
    }

    /// Calls a method of `tidings.v1` (`EventService/PublishEvent`) with JSON.
    pub async fn call(&self, method: &str, message: &Value) -> Reply {
        self.post(&format!("/tidings.v1.{method}"), "application/json", message.to_string()).await
    }
}

impl Reply {
    pub async fn of(response: http::Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = in_time(body.collect()).await.expect("it is whole").to_bytes();
        Self { status: head.status, headers: head.headers, body }
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("it is text")
    }

    /// Demands an error of this status, code and reason. Returns the error.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str, reason: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        let error = self.json();
        assert_eq!((error["code"].as_str(), reason_of(&error)), (Some(code), reason), "{error:#}");
        error
    }
}

/// The reason of an error in JSON.
#[track_caller]
pub fn reason_of(error: &Value) -> &str {
    let info = &detail(error, "google.rpc.ErrorInfo")["debug"];
    assert_eq!(info["domain"], "tidings", "{error:#}");
    info["reason"].as_str().expect("a reason")
}

/// A detail of an error, by its type. Its bytes are base64.
#[track_caller]
pub fn detail<'a>(error: &'a Value, name: &str) -> &'a Value {
    let details = error["details"].as_array().unwrap_or_else(|| panic!("no details: {error:#}"));
    let detail = details.iter().find(|detail| detail["type"] == name);
    let detail = detail.unwrap_or_else(|| panic!("no {name}: {error:#}"));
    let value = detail["value"].as_str().expect("it has bytes");
    STANDARD_NO_PAD.decode(value).expect("they are base64 without padding");
    detail
}

/// A message in the envelope of Connect, or with the prefix of gRPC.
pub fn envelope(flags: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("it is short").to_be_bytes();
    [&[flags][..], &length, message].concat()
}

/// The messages of a body with their flags.
pub fn envelopes(mut body: &[u8]) -> Vec<(u8, &[u8])> {
    let mut found = Vec::new();
    while let Some((flags, rest)) = body.split_first() {
        let (length, rest) = rest.split_first_chunk().expect("a length");
        let (message, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        found.push((*flags, message));
        body = rest;
    }
    found
}
