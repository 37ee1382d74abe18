//! A real server on a port of its own, real clients, and the words that the tests are written in.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Bytes, http::HeaderMap, routing::any};
use rand::{SeedableRng, rngs::StdRng};
use tidings::{
    clock::{Clock, SystemClock},
    delivery::http::client::{PosterSettings, webhook_client},
    domain::{caller::Peer, egress::EgressPolicy, ids::AccountId, retry::RetryPolicy, time::UnixMicros},
    event::{samples, webhook::WebhookClient},
    gateway::{Gateway, GatewaySettings, TokenSettings},
    grpc::{
        AccessSettings, ConnectionSettings, DETAILS_BYTES_MAX, Drain, GrpcSettings, Health,
        MESSAGE_BYTES_MAX, serve, serve_accepted,
    },
    metrics::Metrics,
    proto::v1::{
        self, EventType, delivery_service_client::DeliveryServiceClient,
        event_service_client::EventServiceClient, subscription_service_client::SubscriptionServiceClient,
    },
    store::{Store, memory::MemoryStore},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, server::Connected},
};
use tonic_types::{ErrorDetails, StatusExt};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Everybody's account.
pub const PARENT: &str = "accounts/1";

pub fn account() -> AccountId {
    AccountId::new(1).expect("1 is positive")
}

/// A server and its store.
pub struct Server {
    pub address: SocketAddr,
    pub store: Arc<dyn Store>,
    pub health: Health,
    pub metrics: Arc<Metrics>,
    pub shutdown: CancellationToken,
    serving: JoinHandle<Drain>,
}

/// What a test wants otherwise than usual.
pub struct Setup {
    pub gateway: GatewaySettings,
    pub grpc: GrpcSettings,
    pub webhook_client: Option<WebhookClient>,
    pub store: Option<Arc<dyn Store>>,
}

impl Default for Setup {
    fn default() -> Self {
        let retry_defaults = RetryPolicy {
            max_attempts: 12,
            min_backoff: Duration::from_secs(5),
            max_backoff: Duration::from_secs(6 * 3600),
        };
        Self {
            gateway: GatewaySettings {
                event_bytes_max: 1024 * 1024,
                events_in_flight_max: 10_000,
                bytes_in_flight_max: 64 * 1024 * 1024,
                reads_in_flight_max: 16,
                tests_in_flight_max: 16,
                lane_window: 1024,
                watches_max: 2,
                backlog_per_subscription_max: 1_000_000,
                backlog_max: 1_000_000,
                retention_age: Duration::from_hours(24),
                retention_bytes_max: 16 * 1024 * 1024,
                retention_interval: Duration::from_secs(10),
                subscriptions_per_account_max: 100,
                retry_defaults,
                egress: EgressPolicy::new(vec!["127.0.0.0/8".parse().expect("a network")]),
                tokens: TokenSettings::default(),
            },
            grpc: GrpcSettings {
                header_bytes_max: 16 * 1024,
                message_bytes_max: 4 * 1024 * 1024,
                connections: ConnectionSettings { connections_max: 100, ..ConnectionSettings::default() },
                calls_in_flight_max: 1000,
                calls_per_connection_max: 512,
                stream_events_in_flight_max: 64,
                call_timeout: PATIENCE,
                drain_timeout: PATIENCE,
                access: AccessSettings::default(),
            },
            webhook_client: None,
            store: None,
        }
    }
}

/// What a server needs beside its gateway and its listener.
struct Prepared {
    grpc: GrpcSettings,
    store: Arc<dyn Store>,
    health: Health,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
    address: SocketAddr,
}

/// A connection that seems to come from a peer.
struct Faked {
    stream: TcpStream,
    peer: Peer,
}

impl Connected for Faked {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Faked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Faked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    pub async fn start_with(setup: Setup) -> Self {
        let (listener, gateway, server) = Self::prepare(setup).await;
        let Prepared { grpc, store, health, metrics, shutdown, address } = server;
        let serving = tokio::spawn(serve(listener, gateway, grpc, health.clone(), shutdown.clone()));
        Self { address, store, health, metrics, shutdown, serving }
    }

    /// A server whose clients all seem to be this one.
    pub async fn start_on(setup: Setup, peer: Peer) -> Self {
        let (listener, gateway, server) = Self::prepare(setup).await;
        let Prepared { grpc, store, health, metrics, shutdown, address } = server;
        let accepted = TcpListenerStream::new(listener)
            .map(move |stream| Faked { stream: stream.expect("it is accepted"), peer: peer.clone() });
        let serving = tokio::spawn(serve_accepted(accepted, gateway, grpc, health.clone(), shutdown.clone()));
        Self { address, store, health, metrics, shutdown, serving }
    }

    async fn prepare(setup: Setup) -> (TcpListener, Gateway, Prepared) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let memory = || Arc::new(MemoryStore::new(Arc::clone(&clock), 1)) as Arc<dyn Store>;
        let store = setup.store.unwrap_or_else(memory);
        let egress = setup.gateway.egress.clone();
        let settings = PosterSettings { egress, ..PosterSettings::default() };
        let real = || webhook_client(&settings, Arc::clone(&clock)).expect("TLS can be set up");
        let webhook_client = setup.webhook_client.unwrap_or_else(real);
        let random = StdRng::seed_from_u64(1);
        let metrics = Metrics::new(UnixMicros(0));
        let gateway = Gateway::new(
            Arc::clone(&store),
            webhook_client,
            clock,
            setup.gateway,
            Arc::clone(&metrics),
            random,
        );

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        (listener, gateway, Prepared { grpc: setup.grpc, store, health, metrics, shutdown, address })
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("a URL");
        in_time(endpoint.connect()).await.expect("the server listens")
    }

    pub async fn subscriptions(&self) -> SubscriptionServiceClient<Channel> {
        SubscriptionServiceClient::new(self.channel().await)
    }

    pub async fn events(&self) -> EventServiceClient<Channel> {
        EventServiceClient::new(self.channel().await)
    }

    pub async fn deliveries(&self) -> DeliveryServiceClient<Channel> {
        DeliveryServiceClient::new(self.channel().await)
    }

    /// Subscribes an endpoint of this id to every message created.
    pub async fn subscribe(&self, id: &str) -> v1::Subscription {
        self.subscribe_in(PARENT, id).await
    }

    /// Subscribes in another account.
    pub async fn subscribe_in(&self, parent: &str, id: &str) -> v1::Subscription {
        let request = create(id, &format!("https://{id}.example.com/"));
        let request = v1::CreateSubscriptionRequest { parent: parent.into(), ..request };
        let response = self.subscriptions().await.create_subscription(request).await;
        response.expect("it can be created").into_inner().subscription.expect("it is shown")
    }

    /// Publishes a message under this id.
    pub async fn publish(&self, id: &str) -> v1::PublishResult {
        let response = self.events().await.publish_event(publish(id)).await;
        response.expect("it can be published").into_inner().result.expect("it is shown")
    }

    /// Waits for the end of a server that was told to stop.
    pub async fn ended(self) -> Drain {
        in_time(self.serving).await.expect("the server does not panic")
    }

    /// Stops the server, which must have nothing under way.
    pub async fn stop(self) {
        self.shutdown.cancel();
        assert_eq!(self.ended().await, Drain::Complete);
    }
}

/// What `future` comes to, which must not take for ever.
pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes longer than anything may")
}

/// A subscription to every message created.
pub fn subscription(url: &str) -> v1::Subscription {
    v1::Subscription {
        url: url.into(),
        event_types: vec![EventType::MessageCreated.into()],
        ..Default::default()
    }
}

/// A request to create such a subscription under an id; empty for one that the server makes.
pub fn create(id: &str, url: &str) -> v1::CreateSubscriptionRequest {
    v1::CreateSubscriptionRequest {
        parent: PARENT.into(),
        subscription: Some(subscription(url)),
        subscription_id: id.into(),
        ..Default::default()
    }
}

/// A request to publish a message of the same content under an id; empty for one that the server makes.
pub fn publish(id: &str) -> v1::PublishEventRequest {
    v1::PublishEventRequest {
        parent: PARENT.into(),
        event: Some(message(7).into()),
        event_id: id.into(),
        ..Default::default()
    }
}

/// A message of this number.
pub fn message(number: i64) -> v1::Event {
    samples::typical_message(account(), 3, number)
}

/// What a status says, in short: its code, its reason and the fields at fault.
pub fn told(status: &Status) -> (Code, String, Vec<String>) {
    let details = details(status);
    let reason = details.error_info().map(|info| {
        assert_eq!(info.domain, "tidings");
        info.reason.clone()
    });
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let fields = violations.into_iter().map(|violation| violation.field).collect();
    (status.code(), reason.unwrap_or_default(), fields)
}

/// The details of a status, which must be small enough to travel.
pub fn details(status: &Status) -> ErrorDetails {
    assert!(status.details().len() <= DETAILS_BYTES_MAX, "{} bytes of details", status.details().len());
    assert!(status.message().len() <= MESSAGE_BYTES_MAX, "{} bytes of message", status.message().len());
    assert!(!status.message().is_empty(), "a status without a message");
    status.get_error_details()
}

/// What a receiver got.
pub struct Got {
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A receiver that answers everything with 201 and `thanks`, and what it gets.
pub async fn receiver() -> (String, mpsc::UnboundedReceiver<Got>) {
    let (sender, got) = mpsc::unbounded_channel();
    let answer = move |headers: HeaderMap, body: Bytes| {
        let heard = sender.send(Got { headers, body }).is_ok();
        async move {
            assert!(heard, "a POST came after the test");
            (axum::http::StatusCode::CREATED, "thanks")
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}/hook", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(any(answer))).await });
    (url, got)
}
