//! A gateway, a receiver in Chatwoot's form, and inputs.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use crate::harness::{Ended, PATIENCE, Reads, Running, run, tidings};
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::{
    commands::receive::{self, Received, Responses},
    proto::v1::{
        CreateSubscriptionRequest, Event, EventType, ListEventsRequest, Subscription,
        event_service_client::EventServiceClient, subscription::PayloadFormat,
        subscription_service_client::SubscriptionServiceClient,
    },
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

/// A gateway on ports of its own.
pub struct Gateway {
    pub address: SocketAddr,
    running: Running,
}

impl Gateway {
    pub fn start(directory: &Path, flags: &[&str]) -> Self {
        Self::start_on("127.0.0.1:0", directory, flags)
    }

    pub fn start_on(listen: &str, directory: &Path, flags: &[&str]) -> Self {
        let data_dir = directory.to_str().expect("it is UTF-8");
        let mut command = tidings(&["serve", "--data-dir", data_dir, "--grpc-listen", listen]);
        command.args([
            "--http-listen",
            "127.0.0.1:0",
            "--egress-allow",
            "127.0.0.0/8",
            "--log-format",
            "json",
        ]);
        command.args(flags);
        let mut running = Running::start(command, &Reads::Stderr);
        let address = running.wait_for(|line| {
            let line: Value = serde_json::from_str(line).expect("every line is JSON");
            Some(line.get("grpc.listen")?.as_str()?.to_owned())
        });
        Self { address: address.parse().expect("it is an address"), running }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it as its operator does.
    pub fn stop(self) {
        self.running.signal("TERM");
        assert_eq!(self.running.wait().0, Some(0));
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.url()).expect("it is a URL").timeout(PATIENCE);
        endpoint.connect().await.expect("the gateway listens")
    }

    /// Subscribes a receiver to everything of an account, in Chatwoot's form and in order. Returns its name.
    pub async fn subscribe(&self, account: i64, receiver: &Receiver) -> String {
        let subscription = Subscription {
            url: receiver.url.clone(),
            event_types: EventType::all().map(Into::into).collect(),
            payload_format: PayloadFormat::Chatwoot.into(),
            ordered: true,
            ..Subscription::default()
        };
        let request = CreateSubscriptionRequest {
            parent: format!("accounts/{account}"),
            subscription: Some(subscription),
            ..CreateSubscriptionRequest::default()
        };
        let mut client = SubscriptionServiceClient::new(self.channel().await);
        let created = client.create_subscription(request).await.expect("it can be subscribed").into_inner();
        created.subscription.expect("it is shown").name
    }

    /// The stored events of an account, the latest first.
    pub async fn stored(&self, account: i64) -> Vec<Event> {
        let request = ListEventsRequest {
            parent: format!("accounts/{account}"),
            page_size: 1000,
            ..ListEventsRequest::default()
        };
        let listed = self.events().await.list_events(request).await;
        listed.expect("they can be listed").into_inner().events
    }

    pub async fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel().await)
    }

    /// Runs the command against this gateway.
    pub fn import(&self, arguments: &[&str]) -> Ended {
        run(&mut self.command(arguments))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let url = self.url();
        let mut command = tidings(&["import", "--address", &url]);
        command.args(arguments);
        command
    }
}

/// A receiver, and what arrives there.
pub struct Receiver {
    pub url: String,
    arrivals: mpsc::Receiver<Received>,
    _end: DropGuard,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/hook", listener.local_addr().expect("it is bound"));
        let (sink, arrivals) = mpsc::channel(10_000);
        let end = CancellationToken::new();
        tokio::spawn(receive::serve(listener, Responses::default(), sink, end.clone()));
        Self { url, arrivals, _end: end.drop_guard() }
    }

    /// The next body.
    pub async fn next(&mut self) -> Value {
        serde_json::from_slice(&self.next_bytes().await).expect("a body is JSON")
    }

    /// The next body as it came.
    pub async fn next_bytes(&mut self) -> Bytes {
        let arrival = timeout(PATIENCE, self.arrivals.recv()).await.expect("something arrives in time");
        arrival.expect("the receiver runs").body
    }

    /// The next so many bodies.
    pub async fn take(&mut self, count: usize) -> Vec<Value> {
        let mut bodies = Vec::new();
        while bodies.len() < count {
            bodies.push(self.next().await);
        }
        bodies
    }

    /// Fails if anything more comes. What was to come has come by then: others that were published later have.
    pub async fn nothing_more(&mut self) {
        let more = timeout(Duration::from_millis(200), self.arrivals.recv()).await;
        assert!(more.is_err(), "{more:?}");
    }
}

/// A body of Chatwoot's: a message of this number in this conversation.
pub fn message(account: i64, conversation: i64, number: i64) -> String {
    json!({
        "event": "message_created",
        "id": number,
        "content": "Good morning",
        "message_type": "incoming",
        "created_at": "2026-01-02T03:04:05.678Z",
        "account": {"id": account, "name": "Acme"},
        "inbox": {"id": 5, "name": "Website"},
        "sender": {"id": 11, "name": "Ada", "email": "ada@example.com"},
        "conversation": {"id": conversation, "inbox_id": 5, "status": "open", "labels": ["vip"]},
    })
    .to_string()
}

/// Messages of account 1 with these numbers, in one conversation, one on each line.
pub fn lines(numbers: impl IntoIterator<Item = i64>) -> String {
    numbers.into_iter().map(|number| message(1, 3, number) + "\n").collect()
}

/// A file with this text.
pub fn file(directory: &TempDir, name: &str, text: impl AsRef<[u8]>) -> String {
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("there is room");
    path.to_str().expect("it is UTF-8").to_owned()
}

/// The numbers of messages.
pub fn numbers(bodies: &[Value]) -> Vec<i64> {
    bodies.iter().map(|body| body["id"].as_i64().expect("a message has an id")).collect()
}
