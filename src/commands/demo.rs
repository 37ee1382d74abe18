//! The whole round for whoever wants to see it: a gateway on a store of its own, a receiver for each form of the body, the
//! documentation's events, and what comes of them.

use std::{
    collections::{HashMap, HashSet},
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{Instant, interval, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::{
    app::App,
    commands::receive::{self, Answers, Received, Signatures},
    config::Config,
    domain::{ids::AccountId, secret::Secret},
    event::samples,
    proto::v1::{
        CreateSubscriptionRequest, Delivery, EventType, ListDeliveriesRequest, PublishEventRequest,
        Subscription, delivery::State, delivery_service_client::DeliveryServiceClient,
        event_service_client::EventServiceClient, subscription::PayloadFormat,
        subscription_service_client::SubscriptionServiceClient,
    },
};

/// How long the whole round may take. It takes a fraction of a second.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);
/// How often deliveries are looked at until all are over.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// What has arrived and is not shown yet; past it, answers wait.
const ARRIVALS_MAX: usize = 64;
/// Any free port of this machine.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Whose events they are.
const ACCOUNT: i64 = 1;
/// The forms of the body.
const FORMS: [PayloadFormat; 3] = [PayloadFormat::Documented, PayloadFormat::Sample, PayloadFormat::Chatwoot];
/// The events that the documentation shows.
const EVENTS: [EventType; 6] = [
    EventType::ConversationCreated,
    EventType::ConversationUpdated,
    EventType::ConversationStatusChanged,
    EventType::MessageCreated,
    EventType::MessageUpdated,
    EventType::WebwidgetTriggered,
];

/// Runs the round, tells `output` what happens, and leaves nothing behind.
///
/// # Errors
///
/// Something did not arrive in time or with a wrong signature, `shutdown` came first, the gateway failed, or `output` takes
/// no more.
pub async fn run(output: &mut (impl Write + Send), shutdown: CancellationToken) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("cannot make a directory for the store")?;
    let app = App::set_up(config(directory.path())).await?;
    let address = app.grpc_address()?;
    let end = CancellationToken::new();
    let gateway = tokio::spawn(app.run(end.clone()));

    let shown = tokio::select! {
        shown = show(output, address, &end) => shown,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("ended before everything was shown")),
    };
    end.cancel();
    let ended = gateway.await.context("the gateway panicked")?;
    shown.and(ended)
}

fn config(data_dir: &Path) -> Config {
    Config {
        data_dir: data_dir.to_owned(),
        grpc_listen: LOCAL,
        http_listen: LOCAL,
        // The receivers are on this machine.
        egress_allow: vec!["127.0.0.0/8".parse().expect("it is a network")],
        ..Config::default()
    }
}

async fn show(
    output: &mut (impl Write + Send),
    gateway: SocketAddr,
    end: &CancellationToken,
) -> anyhow::Result<()> {
    writeln!(output, "A gateway serves gRPC on {gateway}, on a store that goes away at the end.\n")?;
    let (mut round, sink) = Round::start(output, gateway).await?;
    for form in FORMS {
        round.subscribe(form, &sink, end).await?;
    }
    for event_type in EVENTS {
        round.publish(event_type).await?;
    }
    round.list().await
}

/// One round: its clients, what arrives, and where it is told.
struct Round<'a, W> {
    output: &'a mut W,
    subscriptions: SubscriptionServiceClient<Channel>,
    events: EventServiceClient<Channel>,
    deliveries: DeliveryServiceClient<Channel>,
    received: mpsc::Receiver<Received>,
    /// By the path of the endpoint, which names the form.
    secrets: HashMap<String, Secret>,
    /// The `webhook-id` of everything that was shown: the same delivery may come twice.
    seen: HashSet<Vec<u8>>,
    deadline: Instant,
}

impl<'a, W: Write> Round<'a, W> {
    /// Connects to the gateway. What receivers are given through the sink is what arrives.
    async fn start(output: &'a mut W, gateway: SocketAddr) -> anyhow::Result<(Self, mpsc::Sender<Received>)> {
        let endpoint = Endpoint::from_shared(format!("http://{gateway}"))?.timeout(ROUND_TIMEOUT);
        let channel = endpoint.connect().await.context("cannot connect to the gateway")?;
        let (sink, received) = mpsc::channel(ARRIVALS_MAX);
        let round = Self {
            output,
            subscriptions: SubscriptionServiceClient::new(channel.clone()),
            events: EventServiceClient::new(channel.clone()),
            deliveries: DeliveryServiceClient::new(channel),
            received,
            secrets: HashMap::new(),
            seen: HashSet::new(),
            deadline: Instant::now() + ROUND_TIMEOUT,
        };
        Ok((round, sink))
    }

    /// Starts a receiver, and subscribes it to all of the events in one form.
    async fn subscribe(
        &mut self,
        form: PayloadFormat,
        sink: &mpsc::Sender<Received>,
        end: &CancellationToken,
    ) -> anyhow::Result<()> {
        let name = name_of(form.as_str_name(), "PAYLOAD_FORMAT_");
        let listener = TcpListener::bind(LOCAL).await.context("cannot listen")?;
        let path = format!("/{name}");
        let url = format!("http://{}{path}", listener.local_addr()?);
        let subscription = Subscription {
            url: url.clone(),
            event_types: EVENTS.map(Into::into).to_vec(),
            payload_format: form.into(),
            ..Subscription::default()
        };
        let request = CreateSubscriptionRequest {
            parent: format!("accounts/{ACCOUNT}"),
            subscription: Some(subscription),
            subscription_id: name.clone(),
            ..CreateSubscriptionRequest::default()
        };
        let created = self.subscriptions.create_subscription(request).await;
        let created = created.with_context(|| format!("cannot subscribe {name}"))?.into_inner();
        writeln!(self.output, "{name:<10}  goes to {url}")?;
        self.secrets.insert(path, Secret::new(created.signing_secret));
        tokio::spawn(receive::serve(listener, Answers::default(), sink.clone(), end.clone()));
        Ok(())
    }

    /// Publishes a sample, and shows it in each form as it arrives.
    async fn publish(&mut self, event_type: EventType) -> anyhow::Result<()> {
        let name = name_of(event_type.as_str_name(), "EVENT_TYPE_");
        let account = AccountId::new(ACCOUNT).expect("it is positive");
        let request = PublishEventRequest {
            parent: format!("accounts/{ACCOUNT}"),
            event: Some(samples::sample(event_type, account).into()),
            ..PublishEventRequest::default()
        };
        let response = self.events.publish_event(request).await;
        let response = response.with_context(|| format!("cannot publish {name}"))?.into_inner();
        let result = response.result.context("the answer is empty")?;
        anyhow::ensure!(
            usize::try_from(result.delivery_count) == Ok(self.secrets.len()),
            "{name} is owed to {} subscriptions instead of {}",
            result.delivery_count,
            self.secrets.len(),
        );
        writeln!(self.output, "\n{name} is stored as {}, owed to {}.", result.event, result.delivery_count)?;
        for _ in 0..result.delivery_count {
            let arrival = self.arrival().await.with_context(|| format!("waiting for {name}"))?;
            self.tell(&arrival, &name)?;
        }
        Ok(())
    }

    /// The next delivery that arrives for the first time.
    async fn arrival(&mut self) -> anyhow::Result<Received> {
        loop {
            let received = timeout_at(self.deadline, self.received.recv()).await;
            let received =
                received.context("nothing more arrived in time")?.context("the receivers ended")?;
            let id = received.headers.get("webhook-id").context("there is no webhook-id")?;
            if self.seen.insert(id.as_bytes().to_vec()) {
                return Ok(received);
            }
        }
    }

    /// Shows what arrived, which must be the event of this name, properly signed.
    fn tell(&mut self, arrival: &Received, event: &str) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Body<'a> {
            event: &'a str,
        }
        let path = arrival.uri.path();
        let secret = self.secrets.get(path).with_context(|| format!("nobody subscribed {path}"))?;
        let Signatures { standard, chatwoot } = Signatures::check(arrival, secret);
        let says = |holds| if holds { "holds" } else { "DOES NOT HOLD" };
        writeln!(
            self.output,
            "\n{event} in the form {}: webhook-signature {}, x-chatwoot-signature {}\n{}",
            path.trim_start_matches('/'),
            says(standard),
            says(chatwoot),
            receive::describe_body(&arrival.body),
        )?;
        anyhow::ensure!(standard && chatwoot, "a signature of {event} at {path} does not hold");
        let body: Body<'_> =
            serde_json::from_slice(&arrival.body).context("a body is not what it should be")?;
        anyhow::ensure!(body.event == event, "{path} got {} instead of {event}", body.event);
        Ok(())
    }

    /// Shows what the gateway says of the deliveries once all of them have succeeded.
    async fn list(&mut self) -> anyhow::Result<()> {
        let mut looks = interval(LOOK_INTERVAL);
        let deliveries = loop {
            let look = timeout_at(self.deadline, looks.tick()).await;
            look.context("not every delivery had succeeded in time")?;
            let request = ListDeliveriesRequest {
                parent: format!("accounts/{ACCOUNT}/subscriptions/-"),
                ..ListDeliveriesRequest::default()
            };
            let response = self.deliveries.list_deliveries(request).await;
            let deliveries = response.context("cannot list the deliveries")?.into_inner().deliveries;
            if deliveries.iter().all(|delivery| delivery.state() == State::Succeeded) {
                break deliveries;
            }
        };
        writeln!(self.output, "\nWhat ListDeliveries says, the latest first:\n")?;
        for delivery in &deliveries {
            writeln!(self.output, "{}", line(delivery))?;
        }
        let owed = EVENTS.len() * self.secrets.len();
        anyhow::ensure!(deliveries.len() == owed, "{owed} deliveries were owed, {} listed", deliveries.len());
        writeln!(self.output, "\n{owed} deliveries were owed, and all of them arrived.")?;
        Ok(())
    }
}

/// `succeeded  message_created  documented  1 attempt, HTTP 200`
fn line(delivery: &Delivery) -> String {
    let state = name_of(delivery.state().as_str_name(), "STATE_");
    let event = name_of(delivery.event_type().as_str_name(), "EVENT_TYPE_");
    let form = delivery.name.split('/').nth(3).unwrap_or_default();
    let attempts = delivery.attempt_count;
    let status = delivery.attempts.last().map_or(0, |attempt| attempt.http_status);
    let noun = if attempts == 1 { "attempt" } else { "attempts" };
    format!("{state}  {event:<27}  {form:<10}  {attempts} {noun}, HTTP {status}")
}

/// The name of a value of an enumeration, as the webhooks write it.
fn name_of(value: &str, prefix: &str) -> String {
    value.strip_prefix(prefix).unwrap_or(value).to_lowercase()
}
