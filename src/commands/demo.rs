//! `tidings demo`: a gateway on a temporary store, a receiver for each payload format, the documentation's
//! sample events and their deliveries.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Command;
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{Instant, interval, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::{exit_code, log_warnings, run_until_signal};
use crate::{
    app::{App, Config},
    commands::receive::{self, Received, Responses, Signatures},
    console::ConsoleListen,
    domain::{ids::AccountId, secret::Secret},
    event::samples,
    proto::v1::{
        CreateSubscriptionRequest, Delivery, EventType, ListDeliveriesRequest, PublishEventRequest,
        Subscription, delivery::State, delivery_service_client::DeliveryServiceClient,
        event_service_client::EventServiceClient, subscription::PayloadFormat,
        subscription_service_client::SubscriptionServiceClient,
    },
    telemetry::LogFormat,
};

/// Limit on the whole demo. It usually takes a fraction of a second.
const DEMO_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between two lists of the deliveries, until all have succeeded.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Most webhooks that wait to be shown. Further ones wait for their response.
const ARRIVALS_MAX: usize = 64;
/// Any free port of this machine.
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The account of the events.
const ACCOUNT: i64 = 1;
/// The payload formats.
const FORMATS: [PayloadFormat; 3] =
    [PayloadFormat::Documented, PayloadFormat::Sample, PayloadFormat::Chatwoot];
/// The events of the documentation.
const EVENTS: [EventType; 6] = [
    EventType::ConversationCreated,
    EventType::ConversationUpdated,
    EventType::ConversationStatusChanged,
    EventType::MessageCreated,
    EventType::MessageUpdated,
    EventType::WebwidgetTriggered,
];

/// The command without arguments.
pub fn command(name: &'static str) -> Command {
    Command::new(name).about("Show one round on a temporary store: publish, deliver, list")
}

/// Runs the demo and prints its steps.
pub fn execute() -> ExitCode {
    let demo = || {
        log_warnings(LogFormat::Text)?;
        run_until_signal(0, async |shutdown| run(&mut io::stdout(), shutdown).await)
    };
    exit_code(demo())
}

/// Runs the demo and writes its steps to `output`. Leaves nothing behind.
///
/// # Errors
///
/// A webhook did not arrive in time or has a wrong signature, `shutdown` came first, the gateway failed, or
/// `output` is closed.
pub async fn run(output: &mut (impl Write + Send), shutdown: CancellationToken) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("cannot create a directory for the store")?;
    let app = App::build(config(directory.path())).await?;
    let address = app.grpc_address()?;
    let end = CancellationToken::new();
    let gateway = tokio::spawn(app.run(end.clone()));

    let shown = tokio::select! {
        shown = show(output, address, &end) => shown,
        () = shutdown.cancelled() => Err(anyhow::anyhow!("ended by a signal")),
    };
    end.cancel();
    let ended = gateway.await.context("the gateway panicked")?;
    shown.and(ended)
}

fn config(data_dir: &Path) -> Config {
    let mut config = Config { data_dir: data_dir.to_owned(), ..Config::default() };
    config.grpc.grpc_listen = LOCAL;
    config.ops.http_listen = LOCAL;
    config.console.console_listen = ConsoleListen::Off;
    // The receivers listen on loopback addresses.
    config.egress.egress_allow = vec!["127.0.0.0/8".parse().expect("the network is valid")];
    config
}

async fn show(
    output: &mut (impl Write + Send),
    gateway: SocketAddr,
    end: &CancellationToken,
) -> anyhow::Result<()> {
    writeln!(output, "A gateway serves gRPC on {gateway}. Its store is temporary.\n")?;
    let (mut demo, sink) = Demo::start(output, gateway).await?;
    for format in FORMATS {
        demo.subscribe(format, &sink, end).await?;
    }
    for event_type in EVENTS {
        demo.publish(event_type).await?;
    }
    demo.list().await
}

/// The demo: gRPC clients, received webhooks, and the output.
struct Demo<'a, W> {
    output: &'a mut W,
    subscriptions: SubscriptionServiceClient<Channel>,
    events: EventServiceClient<Channel>,
    deliveries: DeliveryServiceClient<Channel>,
    received: mpsc::Receiver<Received>,
    /// Signing secrets by the endpoint's path, which names the format.
    secrets: HashMap<String, Secret>,
    /// The `webhook-id` of each webhook that was shown: a delivery may arrive twice.
    seen: HashSet<Vec<u8>>,
    deadline: Instant,
}

impl<'a, W: Write> Demo<'a, W> {
    /// Connects to the gateway. Returns the channel that receivers send webhooks to.
    async fn start(output: &'a mut W, gateway: SocketAddr) -> anyhow::Result<(Self, mpsc::Sender<Received>)> {
        let endpoint = Endpoint::from_shared(format!("http://{gateway}"))?.timeout(DEMO_TIMEOUT);
        let channel = endpoint.connect().await.context("cannot connect to the gateway")?;
        let (sink, received) = mpsc::channel(ARRIVALS_MAX);
        let demo = Self {
            output,
            subscriptions: SubscriptionServiceClient::new(channel.clone()),
            events: EventServiceClient::new(channel.clone()),
            deliveries: DeliveryServiceClient::new(channel),
            received,
            secrets: HashMap::new(),
            seen: HashSet::new(),
            deadline: Instant::now() + DEMO_TIMEOUT,
        };
        Ok((demo, sink))
    }

    /// Starts a receiver, and subscribes it to all events in one format.
    async fn subscribe(
        &mut self,
        format: PayloadFormat,
        sink: &mpsc::Sender<Received>,
        end: &CancellationToken,
    ) -> anyhow::Result<()> {
        let name = name_of(format.as_str_name(), "PAYLOAD_FORMAT_");
        let listener = TcpListener::bind(LOCAL).await.context("cannot listen")?;
        let path = format!("/{name}");
        let url = format!("http://{}{path}", listener.local_addr()?);
        let subscription = Subscription {
            url: url.clone(),
            event_types: EVENTS.map(Into::into).to_vec(),
            payload_format: format.into(),
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
        tokio::spawn(receive::serve(listener, Responses::default(), sink.clone(), end.clone()));
        Ok(())
    }

    /// Publishes a sample, and shows the webhook in each format.
    async fn publish(&mut self, event_type: EventType) -> anyhow::Result<()> {
        let name = name_of(event_type.as_str_name(), "EVENT_TYPE_");
        let account = AccountId::new(ACCOUNT).expect("1 is positive");
        let request = PublishEventRequest {
            parent: format!("accounts/{ACCOUNT}"),
            event: Some(samples::sample(event_type, account).into()),
            ..PublishEventRequest::default()
        };
        let response = self.events.publish_event(request).await;
        let response = response.with_context(|| format!("cannot publish {name}"))?.into_inner();
        let result = response.result.context("the response has no result")?;
        anyhow::ensure!(
            usize::try_from(result.delivery_count) == Ok(self.secrets.len()),
            "{name} matched {} subscriptions instead of {}",
            result.delivery_count,
            self.secrets.len(),
        );
        writeln!(
            self.output,
            "\n{name} is stored as {}, with {} deliveries.",
            result.event, result.delivery_count
        )?;
        for _ in 0..result.delivery_count {
            let arrival = self.arrival().await.with_context(|| format!("waiting for {name}"))?;
            self.show(&arrival, &name)?;
        }
        Ok(())
    }

    /// The next webhook that was not received before.
    async fn arrival(&mut self) -> anyhow::Result<Received> {
        loop {
            let received = timeout_at(self.deadline, self.received.recv()).await;
            let received =
                received.context("no webhook arrived in time")?.context("the receivers stopped")?;
            let id = received.headers.get("webhook-id").context("a webhook has no webhook-id")?;
            if self.seen.insert(id.as_bytes().to_vec()) {
                return Ok(received);
            }
        }
    }

    /// Shows a webhook, and checks its event and signatures.
    fn show(&mut self, arrival: &Received, event: &str) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Body<'a> {
            event: &'a str,
        }
        let path = arrival.uri.path();
        let secret =
            self.secrets.get(path).with_context(|| format!("no subscription has the path {path}"))?;
        let Signatures { standard, chatwoot } = Signatures::check(arrival, secret);
        let verdict = |valid| if valid { "valid" } else { "INVALID" };
        writeln!(
            self.output,
            "\n{event} in the format {}: webhook-signature {}, x-chatwoot-signature {}\n{}",
            path.trim_start_matches('/'),
            verdict(standard),
            verdict(chatwoot),
            receive::describe_body(&arrival.body),
        )?;
        anyhow::ensure!(standard && chatwoot, "a signature of {event} at {path} is invalid");
        let body: Body<'_> = serde_json::from_slice(&arrival.body).context("a body is not a webhook")?;
        anyhow::ensure!(body.event == event, "{path} received {} instead of {event}", body.event);
        Ok(())
    }

    /// Shows the deliveries as ListDeliveries returns them, once all of them have succeeded.
    async fn list(&mut self) -> anyhow::Result<()> {
        let mut ticks = interval(POLL_INTERVAL);
        let deliveries = loop {
            let tick = timeout_at(self.deadline, ticks.tick()).await;
            tick.context("not every delivery succeeded in time")?;
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
        writeln!(self.output, "\nListDeliveries, latest first:\n")?;
        for delivery in &deliveries {
            writeln!(self.output, "{}", line(delivery))?;
        }
        let expected = EVENTS.len() * self.secrets.len();
        let listed = deliveries.len();
        anyhow::ensure!(listed == expected, "{listed} deliveries are listed instead of {expected}");
        writeln!(self.output, "\nAll {expected} deliveries arrived.")?;
        Ok(())
    }
}

/// `succeeded  message_created  documented  1 attempt, HTTP 200`
fn line(delivery: &Delivery) -> String {
    let state = name_of(delivery.state().as_str_name(), "STATE_");
    let event = name_of(delivery.event_type().as_str_name(), "EVENT_TYPE_");
    let format = delivery.name.split('/').nth(3).unwrap_or_default();
    let attempts = delivery.attempt_count;
    let status = delivery.attempts.last().map_or(0, |attempt| attempt.http_status);
    let noun = if attempts == 1 { "attempt" } else { "attempts" };
    format!("{state}  {event:<27}  {format:<10}  {attempts} {noun}, HTTP {status}")
}

/// The name of an enum value, as webhooks write it.
fn name_of(value: &str, prefix: &str) -> String {
    value.strip_prefix(prefix).unwrap_or(value).to_lowercase()
}
