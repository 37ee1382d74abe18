//! Connections and timeouts that all callers on the publisher's host share.

use std::{
    fmt::Display,
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tidings::proto::v1::{
    self, delivery::State, delivery_service_client::DeliveryServiceClient,
    event_service_client::EventServiceClient,
};
use tokio::time::{sleep, timeout};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};
use turmoil::net::TcpStream;

use crate::{
    gateway::{GATEWAY, PORT},
    world::Trace,
};

/// The longest wait for a response.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection may give no sign of life.
const BROKEN_AFTER: Duration = Duration::from_secs(1);
/// Rows of a list that are asked for: more than there are.
const EVERYTHING: i32 = 1000;

/// The response, if it comes in time.
pub async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    let response = timeout(CALL_TIMEOUT, call).await;
    response.unwrap_or_else(|_| Err(Status::deadline_exceeded("no response"))).map(Response::into_inner)
}

/// A result in a word.
pub fn in_a_word<T>(response: &Result<T, Status>) -> String {
    response.as_ref().map_or_else(|status| format!("{:?}", status.code()), |_| "ok".to_owned())
}

/// A caller of the gateway.
#[derive(Clone)]
pub struct Caller {
    name: &'static str,
    trace: Trace,
    channel: Arc<OnceLock<Channel>>,
}

impl Caller {
    pub fn new(name: &'static str, trace: Trace) -> Self {
        Self { name, trace, channel: Arc::default() }
    }

    /// Another one, on the same connection.
    pub fn another(&self, name: &'static str) -> Self {
        Self { name, ..self.clone() }
    }

    /// The connection to the gateway: one for all callers, and another one once it is broken. A server that
    /// stops notifies its connections in no order: with several, the same seed would not be the same history.
    pub fn channel(&self) -> Channel {
        let connect = tower::service_fn(|_| async {
            Ok::<_, std::io::Error>(TokioIo::new(TcpStream::connect((GATEWAY, PORT)).await?))
        });
        let endpoint = Endpoint::from_static("http://gateway")
            .connect_timeout(CALL_TIMEOUT)
            .http2_keep_alive_interval(BROKEN_AFTER / 2)
            .keep_alive_timeout(BROKEN_AFTER / 2)
            .keep_alive_while_idle(true);
        self.channel.get_or_init(|| endpoint.connect_with_connector_lazy(connect)).clone()
    }

    /// Notes an action of this caller.
    pub fn note(&self, what: impl Display) {
        self.trace.note(self.name, what);
    }

    /// Calls once.
    pub async fn once<T, F>(&self, what: &str, call: impl FnOnce(Channel) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let response = within(call(self.channel())).await;
        self.note(format_args!("{what}: {}", in_a_word(&response)));
        response
    }

    /// Makes the same call until there is a response.
    pub async fn until_response<T, F>(&self, what: &str, call: impl Fn(Channel) -> F) -> T
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            if let Ok(response) = self.once(what, &call).await {
                return response;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn summarize(&self, parent: &str) -> v1::SummarizeDeliveriesResponse {
        let request = v1::SummarizeDeliveriesRequest { parent: parent.to_owned() };
        self.until_response("summarize", |channel| {
            let request = request.clone();
            async move { DeliveryServiceClient::new(channel).summarize_deliveries(request).await }
        })
        .await
    }

    /// All events of an account.
    pub async fn events(&self, account: i64) -> Vec<v1::Event> {
        let parent = format!("accounts/{account}");
        let request = v1::ListEventsRequest { parent, page_size: EVERYTHING, ..Default::default() };
        let list = |channel| {
            let request = request.clone();
            async move { EventServiceClient::new(channel).list_events(request).await }
        };
        let page = self.until_response("list events", list).await;
        assert_eq!(page.next_page_token, "", "one page holds them all");
        page.events
    }

    /// All deliveries in these states.
    pub async fn deliveries(&self, parent: &str, states: &[State]) -> Vec<v1::Delivery> {
        let request = v1::ListDeliveriesRequest {
            parent: parent.to_owned(),
            page_size: EVERYTHING,
            states: states.iter().map(|state| (*state).into()).collect(),
            ..Default::default()
        };
        let list = |channel| {
            let request = request.clone();
            async move { DeliveryServiceClient::new(channel).list_deliveries(request).await }
        };
        let page = self.until_response("list deliveries", list).await;
        assert_eq!(page.next_page_token, "", "one page holds them all");
        page.deliveries
    }
}
