//! Publishing as programs without gRPC do: JSON over the Connect protocol. Texts are made of a template, so that the
//! publisher takes no more of the machine than one of gRPC.

use std::{net::SocketAddr, sync::Arc};

use anyhow::ensure;
use bytes::Bytes;
use http::{Request, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tidings::proto::json::to_json;

use crate::load::{CHANNELS, Load, stamp};

const METHOD: &str = "/tidings.v1.EventService/PublishEvent";
/// The number and the time in the templates: no other part of an event has these digits.
const TEMPLATE_NUMBER: u64 = 987_654_321;
const TEMPLATE_MICROS: i64 = 123_456_789_012_345;

/// Publishes in JSON.
pub struct JsonPublisher {
    clients: Vec<Client<HttpConnector, Full<Bytes>>>,
    url: String,
    authorization: Option<String>,
    /// By account, in turn.
    templates: Vec<String>,
}

impl JsonPublisher {
    /// Over as many connections of HTTP/2 as gRPC has, or over HTTP/1.1, with one for each call under way.
    pub fn new(address: SocketAddr, token: Option<&str>, load: &Load, is_http1: bool) -> Arc<Self> {
        let connections = if is_http1 { 1 } else { CHANNELS };
        let client = || Client::builder(TokioExecutor::new()).http2_only(!is_http1).build_http();
        let accounts = load.accounts as u64;
        // The first number of each account from that of the template on.
        let first = TEMPLATE_NUMBER - TEMPLATE_NUMBER % accounts;
        let template = |account: u64| {
            let request = load.request(first + account, TEMPLATE_MICROS);
            to_json(&request)
                .to_string()
                .replace(&(first + account).to_string(), &TEMPLATE_NUMBER.to_string())
        };
        Arc::new(Self {
            clients: (0..connections).map(|_| client()).collect(),
            url: format!("http://{address}{METHOD}"),
            authorization: token.map(|token| format!("Bearer {token}")),
            templates: (0..accounts).map(template).collect(),
        })
    }

    /// Publishes event `number` on the connection of this index.
    pub async fn publish(&self, index: usize, number: u64, at_micros: i64) -> anyhow::Result<()> {
        let accounts = self.templates.len() as u64;
        let template = &self.templates[usize::try_from(number % accounts)?];
        let text = template
            .replace(&TEMPLATE_NUMBER.to_string(), &number.to_string())
            .replace(&stamp(TEMPLATE_MICROS), &stamp(at_micros));
        let mut request = Request::post(&self.url).header("content-type", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let client = &self.clients[index % self.clients.len()];
        let response = client.request(request.body(Full::new(text.into()))?).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success() && body.starts_with(b"{\"result\""), "{status}: {body:?}");
        Ok(())
    }
}
