//! The gateway under test: the real binary on a data directory of its own.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tidings::proto::v1::{
    self, access_token::Scope, access_token_service_client::AccessTokenServiceClient, delivery::State,
    delivery_service_client::DeliveryServiceClient, event_service_client::EventServiceClient,
    subscription_service_client::SubscriptionServiceClient,
};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{
    authorized::{Authorized, connect},
    children::{Process, Usage},
    environment,
    load::{Load, account, now_micros, stamped},
    receiver::CLOSING_PATH,
    wire::PublishOrder,
};

/// Interval of checks whether everything is settled.
const SETTLED_POLL: Duration = Duration::from_millis(2);
/// Interval of checks whether the gateway serves.
const READY_POLL: Duration = Duration::from_millis(1);
/// Limit on the wait until it serves.
const READY_TIMEOUT: Duration = Duration::from_secs(600);
/// Most concurrent calls that create subscriptions.
const SUBSCRIBING_MAX: usize = 64;

/// The administrator's token of gateways whose calls need tokens.
const ADMIN_TOKEN: &str = "the-benchmark-has-nothing-to-protect";

/// Options for starting a gateway.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Command that runs the gateway, for example a profiler.
    pub under: Option<String>,
    /// Flags beyond those of every run.
    pub flags: Vec<String>,
    /// With the console.
    pub console: bool,
    /// Calls need access tokens.
    pub tokens: bool,
    /// The words before the command that runs the gateway.
    pub before: Vec<String>,
}

impl Start {
    /// The same options with one more setting.
    pub fn with(&self, setting: &str, value: &str) -> Self {
        let mut start = self.clone();
        start.flags.extend([format!("--{}", setting.replace('_', "-")), value.to_owned()]);
        start
    }
}

/// A page of a list.
pub struct Listed {
    /// Token of the next page; empty at the end.
    pub next_page_token: String,
}

/// A running gateway. Its data directory is deleted with it.
pub struct Gateway {
    start: Start,
    process: Process,
    address: SocketAddr,
    http: SocketAddr,
    console: Option<SocketAddr>,
    /// The token of the benchmark's own calls, for all accounts.
    token: Option<String>,
    channel: Authorized,
    runtime: Runtime,
    data_dir: TempDir,
}

impl Gateway {
    /// Starts a gateway with the default settings that may POST to this machine.
    pub fn start(start: &Start) -> anyhow::Result<Self> {
        // In the build directory, which is on a disk. The system's temporary directory may be in memory.
        let data_dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("no room for data")?;
        let process = spawn(start, data_dir.path(), "127.0.0.1:0")?;
        let Listening { address, http, console } = listening_at(&process)?;
        // With a thread of its own, which keeps the idle connection alive.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let admin = start.tokens.then_some(ADMIN_TOKEN);
        let channel = runtime.block_on(connect(address, admin))?;
        let start = start.clone();
        let mut gateway =
            Self { start, process, address, http, console, token: None, channel, runtime, data_dir };
        if gateway.start.tokens {
            let token = gateway.create_token(&[Scope::Publish, Scope::Admin], None)?;
            gateway.channel = gateway.runtime.block_on(connect(address, Some(&token)))?;
            gateway.token = Some(token);
        }
        Ok(gateway)
    }

    /// Creates an access token for one account, or for all.
    pub fn create_token(&self, scopes: &[Scope], index: Option<usize>) -> anyhow::Result<String> {
        let mut client = AccessTokenServiceClient::new(self.channel.clone());
        let accounts = index.map(|index| format!("accounts/{}", account(index)));
        let token = v1::AccessToken {
            scopes: scopes.iter().map(|scope| i32::from(*scope)).collect(),
            accounts: accounts.into_iter().collect(),
            ..Default::default()
        };
        let request = v1::CreateAccessTokenRequest { access_token: Some(token), ..Default::default() };
        let created = self.runtime.block_on(client.create_access_token(request));
        Ok(created.context("cannot create a token")?.into_inner().token)
    }

    /// The order to publish a load to it.
    pub fn order(&self, load: Load) -> PublishOrder {
        PublishOrder { address: self.address, token: self.token.clone(), load }
    }

    /// Kills the process, starts another one on the same data, and returns the time from its start until it
    /// is ready.
    pub fn crash_and_start(&mut self) -> anyhow::Result<Duration> {
        self.process.kill()?;
        // A port that was free a moment ago: it is needed before the gateway logs its addresses.
        let http = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let begin = Instant::now();
        let process = spawn(&self.start, self.data_dir.path(), &http.to_string())?;
        while !get(http, "/readyz").is_ok_and(|response| response.starts_with("HTTP/1.1 200")) {
            ensure!(begin.elapsed() < READY_TIMEOUT, "the gateway is not ready after {READY_TIMEOUT:?}");
            std::thread::sleep(READY_POLL);
        }
        let took = begin.elapsed();
        Listening { address: self.address, http: self.http, console: self.console } = listening_at(&process)?;
        self.process = process;
        self.channel = self.runtime.block_on(connect(self.address, self.token.as_deref()))?;
        Ok(took)
    }

    /// The sum of the series of this name in `/metrics`.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = get(self.http, "/metrics")?;
        let of_name = text
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        let values: Vec<f64> = of_name.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        ensure!(!values.is_empty(), "/metrics has no {name}");
        Ok(values.iter().sum())
    }

    /// The gRPC address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the console.
    pub fn console(&self) -> anyhow::Result<SocketAddr> {
        self.console.context("the gateway was started without a console")
    }

    /// Resources that its process has used so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.process.usage()
    }

    /// Subscribes an endpoint to the messages of an account, with the default settings.
    pub fn subscribe(&self, index: usize, endpoint: SocketAddr) -> anyhow::Result<String> {
        self.create(subscription(index, format!("http://{endpoint}/webhooks")))
    }

    /// Subscribes an endpoint by a name that is in the file of hosts. It closes each connection after its response, so
    /// that each POST takes a look-up.
    pub fn subscribe_by_name(&self, index: usize, endpoint: SocketAddr) -> anyhow::Result<String> {
        let port = endpoint.port();
        self.create(subscription(index, format!("http://localhost:{port}/{CLOSING_PATH}")))
    }

    /// Subscribes an endpoint to the messages of one inbox of the first account.
    pub fn subscribe_inbox(&self, inbox: i64, endpoint: SocketAddr) -> anyhow::Result<String> {
        let mut request = subscription(0, format!("http://{endpoint}/webhooks"));
        request.subscription.get_or_insert_default().inbox_ids = vec![inbox];
        self.create(request)
    }

    fn create(&self, request: v1::CreateSubscriptionRequest) -> anyhow::Result<String> {
        let mut client = SubscriptionServiceClient::new(self.channel.clone());
        let response =
            self.runtime.block_on(client.create_subscription(request)).context("cannot subscribe")?;
        Ok(response.into_inner().subscription.context("the response has no subscription")?.name)
    }

    /// Creates `count` subscriptions without events, `per_account` in each account.
    pub fn subscribe_idle(&self, count: usize, per_account: usize) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let mut calls = JoinSet::new();
            for number in 0..count {
                let mut client = SubscriptionServiceClient::new(self.channel.clone());
                let url = format!("http://127.0.0.1:9/{number}");
                let request = subscription(number / per_account, url);
                if calls.len() >= SUBSCRIBING_MAX
                    && let Some(ended) = calls.join_next().await
                {
                    ended??;
                }
                calls.spawn(async move { client.create_subscription(request).await });
            }
            while let Some(ended) = calls.join_next().await {
                ended??;
            }
            Ok(())
        })
    }

    /// Publishes a batch to an account, apart from any load.
    pub fn publish(&self, index: usize, events: u64) -> anyhow::Result<()> {
        let mut client = EventServiceClient::new(self.channel.clone());
        let parent = format!("accounts/{}", account(index));
        let event = |number| Some(stamped(account(index), number, now_micros()));
        let requests = (1..=events).map(|number| v1::PublishEventRequest {
            event: event(number).map(Box::new),
            ..Default::default()
        });
        let request = v1::BatchPublishEventsRequest { parent, requests: requests.collect() };
        self.runtime.block_on(client.batch_publish_events(request)).context("cannot publish")?;
        Ok(())
    }

    /// Pauses a subscription.
    pub fn pause(&self, name: &str) -> anyhow::Result<()> {
        let mut client = SubscriptionServiceClient::new(self.channel.clone());
        let request = v1::PauseSubscriptionRequest { name: name.to_owned() };
        self.runtime.block_on(client.pause_subscription(request)).context("cannot pause")?;
        Ok(())
    }

    /// Resumes a subscription.
    pub fn resume(&self, name: &str) -> anyhow::Result<()> {
        let mut client = SubscriptionServiceClient::new(self.channel.clone());
        let request = v1::ResumeSubscriptionRequest { name: name.to_owned() };
        self.runtime.block_on(client.resume_subscription(request)).context("cannot resume")?;
        Ok(())
    }

    /// Lists a page of deliveries.
    pub fn list_deliveries(&self, request: v1::ListDeliveriesRequest) -> anyhow::Result<Listed> {
        let mut client = DeliveryServiceClient::new(self.channel.clone());
        let response =
            self.runtime.block_on(client.list_deliveries(request)).context("cannot list deliveries")?;
        Ok(Listed { next_page_token: response.into_inner().next_page_token })
    }

    /// Lists a page of events.
    pub fn list_events(&self, request: v1::ListEventsRequest) -> anyhow::Result<Listed> {
        let mut client = EventServiceClient::new(self.channel.clone());
        let response = self.runtime.block_on(client.list_events(request)).context("cannot list events")?;
        Ok(Listed { next_page_token: response.into_inner().next_page_token })
    }

    /// Lists a page of subscriptions.
    pub fn list_subscriptions(&self, request: v1::ListSubscriptionsRequest) -> anyhow::Result<Listed> {
        let mut client =
            SubscriptionServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        let response =
            self.runtime.block_on(client.list_subscriptions(request)).context("cannot list subscriptions")?;
        Ok(Listed { next_page_token: response.into_inner().next_page_token })
    }

    /// Unfinished deliveries of an account.
    pub fn owed(&self, index: usize) -> anyhow::Result<u64> {
        self.runtime.block_on(async {
            let mut client = DeliveryServiceClient::new(self.channel.clone());
            let parent = format!("accounts/{}/subscriptions/-", account(index));
            let request = v1::SummarizeDeliveriesRequest { parent };
            let summary = client.summarize_deliveries(request).await.context("cannot count deliveries")?;
            let owed = [State::Pending, State::Retrying].map(i32::from);
            let counts = summary.into_inner().counts;
            let owed =
                counts.iter().filter(|count| owed.contains(&count.state)).map(v1::DeliveryCount::count);
            Ok(u64::try_from(owed.sum::<i64>())?)
        })
    }

    /// Waits until these accounts have no unfinished deliveries.
    pub fn wait_settled(
        &self,
        accounts: impl IntoIterator<Item = usize>,
        timeout: Duration,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        for index in accounts {
            while self.owed(index)? > 0 {
                if Instant::now() > deadline {
                    bail!("everything arrived, but some deliveries are not settled after {timeout:?}");
                }
                std::thread::sleep(SETTLED_POLL);
            }
        }
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.start.under.is_some() {
            // A profiler writes its results at the end.
            self.process.end();
        }
    }
}

fn spawn(start: &Start, data_dir: &Path, http: &str) -> anyhow::Result<Process> {
    let under = start.under.as_deref().unwrap_or_default().split_whitespace().map(str::to_owned);
    let mut command = environment::tidings(start.before.iter().cloned().chain(under));
    if start.tokens {
        command.env("TIDINGS_ADMIN_TOKEN", ADMIN_TOKEN);
    }
    let console = if start.console { "127.0.0.1:0" } else { "off" };
    command.args(["serve", "--grpc-listen", "127.0.0.1:0", "--http-listen", http]);
    command.args(["--console-listen", console]);
    command.args(["--egress-allow", "127.0.0.0/8", "--log-format", "json"]).args(&start.flags);
    command.arg("--data-dir").arg(data_dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    Process::start(command, |child| Box::new(child.stderr.take().expect("the pipe was requested")))
}

/// The response to a GET, with its head.
fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    Ok(response)
}

fn subscription(index: usize, url: String) -> v1::CreateSubscriptionRequest {
    v1::CreateSubscriptionRequest {
        parent: format!("accounts/{}", account(index)),
        subscription: Some(v1::Subscription {
            url,
            event_types: vec![v1::EventType::MessageCreated.into()],
            ..v1::Subscription::default()
        }),
        ..v1::CreateSubscriptionRequest::default()
    }
}

/// Where a gateway listens.
struct Listening {
    address: SocketAddr,
    http: SocketAddr,
    console: Option<SocketAddr>,
}

/// The addresses in the log line "listening".
fn listening_at(process: &Process) -> anyhow::Result<Listening> {
    loop {
        let line = process.line().context("the gateway did not start")?;
        let line: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("the gateway logged {line:?}"))?;
        if line["message"] == "listening" {
            let address = |key: &str| -> anyhow::Result<SocketAddr> {
                Ok(line[key].as_str().context("the log line has no address")?.parse()?)
            };
            let console = line["console"].as_str().and_then(|url| url.strip_prefix("http://"));
            let console = console.map(|url| url.trim_end_matches('/').parse()).transpose()?;
            return Ok(Listening {
                address: address("grpc.listen")?,
                http: address("http.listen")?,
                console,
            });
        }
    }
}
