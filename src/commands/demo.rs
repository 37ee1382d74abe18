//! `tidings demo`: a gateway on a temporary store, a receiver for each payload format, the documentation's
//! sample events and their deliveries.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
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
    commands::receive::{self, Keys, Received, Responses, Signatures},
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
/// Longest line of a body that is cut.
const BRIEF_COLUMNS: usize = 110;
/// The account of the events.
const ACCOUNT: i64 = 1;
/// The payload formats, and what they are for.
const FORMATS: [(PayloadFormat, &str); 3] = [
    (PayloadFormat::Documented, "new receivers: every key of Chatwoot's documentation is always there"),
    (PayloadFormat::Sample, "receivers written from the documentation's first sample: ids are strings"),
    (PayloadFormat::Chatwoot, "bots, flows and bridges that exist: what Chatwoot 4 really sends"),
];
/// The event whose bodies are shown if not all are.
const SHOWN: EventType = EventType::MessageCreated;
/// The events of the documentation.
const EVENTS: [EventType; 6] = [
    EventType::ConversationCreated,
    EventType::ConversationUpdated,
    EventType::ConversationStatusChanged,
    EventType::MessageCreated,
    EventType::MessageUpdated,
    EventType::WebwidgetTriggered,
];

/// The arguments of the command.
pub fn command(name: &'static str) -> Command {
    let all = Arg::new("all").long("all").action(ArgAction::SetTrue);
    Command::new(name)
        .about("Show one round on a temporary store: publish, deliver, list")
        .arg(all.help("Show the whole body of every event in every form (more than a thousand lines)"))
}

/// Runs the demo and prints its steps.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    let all = matches.get_flag("all");
    let demo = || {
        log_warnings(LogFormat::Text)?;
        run_until_signal(0, async |shutdown| run(&mut io::stdout(), all, shutdown).await)
    };
    exit_code(demo())
}

/// Runs the demo and writes its steps to `output`, with every body if `all` is set. Leaves nothing behind.
///
/// # Errors
///
/// A webhook did not arrive in time or has a wrong signature, `shutdown` came first, the gateway failed, or
/// `output` is closed.
pub async fn run(
    output: &mut (impl Write + Send),
    all: bool,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("cannot create a directory for the store")?;
    let app = App::build(config(directory.path())).await?;
    let address = app.grpc_address()?;
    let end = CancellationToken::new();
    let gateway = tokio::spawn(app.run(end.clone()));

    let shown = tokio::select! {
        shown = show(output, all, address, &end) => shown,
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
    all: bool,
    gateway: SocketAddr,
    end: &CancellationToken,
) -> anyhow::Result<()> {
    writeln!(output, "A gateway serves gRPC on {gateway}. Its store is temporary.\n")?;
    let (mut demo, sink) = Demo::start(output, all, gateway).await?;
    writeln!(demo.output, "A subscription selects one of three forms of the body:\n")?;
    for (format, purpose) in FORMATS {
        demo.subscribe(format, purpose, &sink, end).await?;
    }
    for event_type in EVENTS {
        demo.publish(event_type).await?;
    }
    demo.list().await
}

/// The demo: gRPC clients, received webhooks, and the output.
struct Demo<'a, W> {
    output: &'a mut W,
    /// Whether every body is shown.
    all: bool,
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
    async fn start(
        output: &'a mut W,
        all: bool,
        gateway: SocketAddr,
    ) -> anyhow::Result<(Self, mpsc::Sender<Received>)> {
        let endpoint = Endpoint::from_shared(format!("http://{gateway}"))?.timeout(DEMO_TIMEOUT);
        let channel = endpoint.connect().await.context("cannot connect to the gateway")?;
        let (sink, received) = mpsc::channel(ARRIVALS_MAX);
        let demo = Self {
            output,
            all,
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
        purpose: &str,
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
        writeln!(self.output, "{name:<10}  for {purpose}\n            goes to {url}")?;
        self.secrets.insert(path, Secret::new(created.signing_secret));
        tokio::spawn(receive::serve(listener, Responses::default(), None, sink.clone(), end.clone()));
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
            usize::try_from(result.delivery_count()) == Ok(self.secrets.len()),
            "{name} matched {} subscriptions instead of {}",
            result.delivery_count(),
            self.secrets.len(),
        );
        writeln!(
            self.output,
            "\n{name} is stored as {}, with {} deliveries.",
            result.event,
            result.delivery_count()
        )?;
        let mut arrivals = Vec::new();
        for _ in 0..result.delivery_count() {
            arrivals.push(self.arrival().await.with_context(|| format!("waiting for {name}"))?);
        }
        arrivals.sort_by_key(|arrival| FORMATS.iter().position(|(format, _)| is_path_of(arrival, *format)));
        for arrival in &arrivals {
            self.show(arrival, &name, self.all || event_type == SHOWN)?;
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

    /// Checks the event and the signatures of a webhook, and shows it if `shown` is set.
    fn show(&mut self, arrival: &Received, event: &str, shown: bool) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Body<'a> {
            event: &'a str,
        }
        let path = arrival.uri.path();
        let secret =
            self.secrets.get(path).with_context(|| format!("no subscription has the path {path}"))?;
        let Signatures { standard, chatwoot } = Keys::secret(secret.clone()).check(arrival);
        if shown {
            let body = if self.all { receive::describe_body(&arrival.body) } else { brief(&arrival.body)? };
            writeln!(
                self.output,
                "\n{event} in the format {}: webhook-signature {}, x-chatwoot-signature {}\n{body}",
                path.trim_start_matches('/'),
                standard.text(),
                chatwoot.text(),
            )?;
        }
        let valid = standard.is_valid() && chatwoot.is_valid();
        anyhow::ensure!(valid, "a signature of {event} at {path} is invalid");
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
        if self.all {
            writeln!(self.output, "\nListDeliveries, latest first:\n")?;
            for delivery in &deliveries {
                writeln!(self.output, "{}", line(delivery))?;
            }
        }
        let expected = EVENTS.len() * self.secrets.len();
        let listed = deliveries.len();
        anyhow::ensure!(listed == expected, "{listed} deliveries are listed instead of {expected}");
        writeln!(self.output, "\nAll {expected} deliveries arrived.")?;
        if !self.all {
            writeln!(
                self.output,
                "\n`demo --all` shows every body as a whole. `dev` starts a gateway to try out, with a receiver."
            )?;
        }
        Ok(())
    }
}

/// `succeeded  message_created  documented  1 attempt, HTTP 200`
fn line(delivery: &Delivery) -> String {
    let state = name_of(delivery.state().as_str_name(), "STATE_");
    let event = name_of(delivery.event_type().as_str_name(), "EVENT_TYPE_");
    let format = delivery.name.split('/').nth(3).unwrap_or_default();
    let attempts = delivery.attempt_count();
    let status = delivery.attempts.last().map_or(0, |attempt| attempt.http_status);
    let noun = if attempts == 1 { "attempt" } else { "attempts" };
    format!("{state}  {event:<27}  {format:<10}  {attempts} {noun}, HTTP {status}")
}

/// Whether a webhook came to the receiver of this form.
fn is_path_of(arrival: &Received, format: PayloadFormat) -> bool {
    arrival.uri.path().trim_start_matches('/') == name_of(format.as_str_name(), "PAYLOAD_FORMAT_")
}

/// A body with its keys at the top only: inner objects and arrays are cut.
fn brief(body: &[u8]) -> anyhow::Result<String> {
    let Members(members) = serde_json::from_slice(body).context("a body is not a JSON object")?;
    let (mut text, mut column) = ("{".to_owned(), 1);
    for (index, (key, value)) in members.iter().enumerate() {
        let value = match (value.get(), value.get().as_bytes()[0]) {
            (whole @ ("{}" | "[]"), _) => whole,
            (_, b'{') => "{…}",
            (_, b'[') => "[…]",
            (whole, _) => whole,
        };
        let end = if index + 1 == members.len() { "}" } else { "," };
        let member = format!("{}: {value}{end}", serde_json::to_string(key)?);
        if column + member.chars().count() > BRIEF_COLUMNS {
            text.push_str("\n ");
            column = 1;
        }
        if column > 1 {
            text.push(' ');
        }
        column += member.chars().count() + 1;
        text.push_str(&member);
    }
    Ok(text)
}

/// The members of an object, in their order.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

/// The name of an enum value, as webhooks write it.
fn name_of(value: &str, prefix: &str) -> String {
    value.strip_prefix(prefix).unwrap_or(value).to_lowercase()
}
