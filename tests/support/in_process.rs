//! The gateway within this process: the real server on a port of its own, with a store that the test chooses.

use std::{net::SocketAddr, sync::Arc};

use super::{
    PATIENCE, blocking_store::BlockingStore, client::Client, events, secret_scan, with_peer::WithPeer,
};
use rand::{SeedableRng, rngs::StdRng};
use tidings::{
    clock::{Clock, SystemClock},
    delivery::http::client::{WebhookClientSettings, webhook_client},
    domain::{caller::Peer, egress::EgressPolicy, ids::AccountId, time::UnixMicros},
    event::webhook::WebhookClient,
    gateway::{Gateway, GatewaySettings},
    grpc::{DETAILS_BYTES_MAX, Drain, GrpcSettings, Health, MESSAGE_BYTES_MAX, serve, serve_accepted},
    metrics::Metrics,
    proto::v1::{self, EventType},
    store::{Store, memory::MemoryStore},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::{ErrorDetails, StatusExt};

pub use super::in_time;

/// Everybody's account.
pub const PARENT: &str = "accounts/1";
/// The subscription that most tests are about.
pub const CRM: &str = "accounts/1/subscriptions/crm";

/// A gateway that serves gRPC, and delivers nothing but tests.
pub struct TidingsInProcess {
    pub address: SocketAddr,
    pub store: Arc<dyn Store>,
    pub health: Health,
    pub metrics: Arc<Metrics>,
    pub shutdown: CancellationToken,
    /// A client of it, on a connection that is made at the first call.
    pub client: Client,
    serving: JoinHandle<Drain>,
}

/// The settings and the parts that a test can choose.
pub struct Setup {
    pub gateway: GatewaySettings,
    pub grpc: GrpcSettings,
    pub webhook_client: Option<WebhookClient>,
    pub store: Option<Arc<dyn Store>>,
    /// All clients seem to be this one.
    pub peer: Option<Peer>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            gateway: GatewaySettings {
                watches_max: 8,
                retention_bytes_max: 16 * 1024 * 1024,
                subscriptions_per_account_max: 100,
                egress: EgressPolicy::new(vec!["127.0.0.0/8".parse().expect("a network")]),
                ..GatewaySettings::default()
            },
            grpc: GrpcSettings {
                stream_events_in_flight_max: 64,
                call_timeout: PATIENCE,
                drain_timeout: PATIENCE,
                ..GrpcSettings::default()
            },
            webhook_client: None,
            store: None,
            peer: None,
        }
    }
}

impl Setup {
    /// With this store.
    pub fn on(store: &Arc<BlockingStore>) -> Self {
        Self { store: Some(Arc::clone(store) as Arc<dyn Store>), ..Self::default() }
    }
}

impl TidingsInProcess {
    pub async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    pub async fn start_with(setup: Setup) -> Self {
        let Setup { gateway: settings, grpc, webhook_client: chosen, store, peer } = setup;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let store = store.unwrap_or_else(|| Arc::new(MemoryStore::new(Arc::clone(&clock), 1)));
        let posting =
            WebhookClientSettings { egress: settings.egress.clone(), ..WebhookClientSettings::default() };
        let real = || webhook_client(&posting, Arc::clone(&clock)).expect("TLS can be set up");
        let webhook_client = chosen.unwrap_or_else(real);
        let (metrics, random) = (Metrics::new(UnixMicros(0)), StdRng::seed_from_u64(1));
        let gateway =
            Gateway::new(Arc::clone(&store), webhook_client, clock, settings, Arc::clone(&metrics), random);

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        let (serving_health, stop) = (health.clone(), shutdown.clone());
        let serving = match peer {
            None => tokio::spawn(serve(listener, gateway, grpc, serving_health, stop)),
            Some(peer) => {
                let accepted = TcpListenerStream::new(listener).map(move |stream| WithPeer {
                    stream: stream.expect("it is accepted"),
                    peer: peer.clone(),
                });
                tokio::spawn(serve_accepted(accepted, gateway, grpc, serving_health, stop))
            }
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URL");
        let client = client_on(endpoint.connect_lazy());
        Self { address, store, health, metrics, shutdown, client, serving }
    }

    /// Another connection to it.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("a URL");
        in_time(endpoint.connect()).await.expect("the server listens")
    }

    /// A client on another connection.
    pub async fn another_client(&self) -> Client {
        client_on(self.channel().await)
    }

    /// A client on another connection, with this access token.
    pub async fn client_with_token(&self, token: &str) -> Client {
        self.another_client().await.with_token(token)
    }

    /// Subscribes an endpoint of this id to every message created.
    pub async fn subscribe(&self, id: &str) -> v1::Subscription {
        self.subscribe_in(PARENT, id).await
    }

    /// Subscribes in another account.
    pub async fn subscribe_in(&self, parent: &str, id: &str) -> v1::Subscription {
        let request = create(id, &format!("https://{id}.example.com/"));
        let request = v1::CreateSubscriptionRequest { parent: parent.into(), ..request };
        let response = self.client.subscriptions.clone().create_subscription(request).await;
        response.expect("it can be created").into_inner().subscription.expect("it is shown")
    }

    /// Publishes a message under this id.
    pub async fn publish(&self, id: &str) -> v1::PublishResult {
        self.client.try_publish(publish(id)).await.expect("it can be published")
    }

    /// Publishes a message in a task of its own, which ends once it is acknowledged.
    pub fn publishing(&self, id: &str) -> JoinHandle<Result<v1::PublishResult, Status>> {
        let (client, request) = (self.client.clone(), publish(id));
        tokio::spawn(async move { in_time(client.try_publish(request)).await })
    }

    /// Whether an event of this id is stored.
    pub fn is_stored(&self, id: &str) -> bool {
        self.store.event(account(), &id.parse().expect("an event id")).expect("it can be read").is_some()
    }

    /// Waits for the end of a server that was asked to stop.
    pub async fn ended(self) -> Drain {
        in_time(self.serving).await.expect("the server does not panic")
    }

    /// Stops the server, which must have nothing under way.
    pub async fn stop(self) {
        self.shutdown.cancel();
        assert_eq!(self.ended().await, Drain::Complete);
    }
}

fn client_on(channel: Channel) -> Client {
    Client::new(secret_scan::Channel::new(channel, secret_scan::Secrets::default()))
}

pub fn account() -> AccountId {
    events::account(1)
}

/// A message of this number.
pub fn message(number: i64) -> v1::Event {
    events::message(1, 3, number)
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
    publish_message(id, 7)
}

/// A request to publish a message of this number under an id.
pub fn publish_message(id: &str, number: i64) -> v1::PublishEventRequest {
    events::publish_request(1, id, message(number))
}

/// A request to publish a contact with so many lists within each other, each of which takes two messages.
pub fn nested_request(lists: usize) -> v1::PublishEventRequest {
    let mut value = prost_types::Value { kind: None };
    for _ in 0..lists {
        let list = prost_types::ListValue { values: vec![value] };
        value = prost_types::Value { kind: Some(prost_types::value::Kind::ListValue(list)) };
    }
    let object = prost_types::Struct { fields: [("a".to_owned(), value)].into() };
    let contact = v1::Contact { custom_attributes: Some(object), ..Default::default() };
    let payload = v1::event::Payload::ContactCreated(v1::ContactCreated { contact: Some(contact) });
    events::publish_request(1, "", v1::Event { payload: Some(payload), ..Default::default() })
}

/// A status in short: its code, its reason and the fields at fault.
pub fn in_short(status: &Status) -> (Code, String, Vec<String>) {
    let details = details(status);
    let reason = details.error_info().map(|info| {
        assert_eq!(info.domain, "tidings");
        info.reason.clone()
    });
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let fields = violations.into_iter().map(|violation| violation.field).collect();
    (status.code(), reason.unwrap_or_default(), fields)
}

/// Demands a refusal of this code, reason and fields at fault.
#[track_caller]
pub fn assert_refused(status: &Status, code: Code, reason: &str, fields: &[&str]) {
    let fields: Vec<_> = fields.iter().map(ToString::to_string).collect();
    assert_eq!(in_short(status), (code, reason.to_owned(), fields), "{status:?}");
}

/// The details of a status, which must be small enough to travel.
pub fn details(status: &Status) -> ErrorDetails {
    assert!(status.details().len() <= DETAILS_BYTES_MAX, "{} bytes of details", status.details().len());
    assert!(status.message().len() <= MESSAGE_BYTES_MAX, "{} bytes of message", status.message().len());
    assert!(!status.message().is_empty(), "a status without a message");
    status.get_error_details()
}
