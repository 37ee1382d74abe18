//! The gateway under test: the real binary on a data directory of its own.

use std::{
    env,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tidings::proto::v1::{
    self, delivery::State, delivery_service_client::DeliveryServiceClient,
    subscription_service_client::SubscriptionServiceClient,
};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::{
    children::{Process, Usage},
    load::account,
};

/// How often it is asked whether everything is settled.
const SETTLED_POLL: Duration = Duration::from_millis(2);

/// A running gateway. Its data directory goes with it.
pub struct Gateway {
    process: Process,
    /// Whether it may end in its own time, and write what it found out.
    asked_to_end: bool,
    address: SocketAddr,
    channel: Channel,
    runtime: Runtime,
    _data_dir: TempDir,
}

impl Gateway {
    /// Starts one with the default settings, allowed to POST to this machine; by the command `under`, if there is one.
    pub fn start(under: Option<&str>) -> anyhow::Result<Self> {
        // Where the build is, there is a disk; a system's temporary directory may be memory.
        let data_dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("no room for data")?;
        let mut words = under.unwrap_or_default().split_whitespace().chain([env!("CARGO_BIN_EXE_tidings")]);
        let mut command = Command::new(words.next().expect("there is the gateway's own"));
        command.args(words);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDINGS_")) {
            command.env_remove(name);
        }
        command.args(["serve", "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]);
        command.args(["--egress-allow", "127.0.0.0/8", "--log-format", "json", "--data-dir"]);
        command.arg(data_dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let process = Process::start(command, |child| Box::new(child.stderr.take().expect("it is piped")))?;
        let address = listening_at(&process)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        let channel = runtime.block_on(endpoint.connect()).context("the gateway does not answer")?;
        Ok(Self { process, asked_to_end: under.is_some(), address, channel, runtime, _data_dir: data_dir })
    }

    /// Where gRPC is served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its process has used so far.
    pub fn usage(&self) -> anyhow::Result<Usage> {
        self.process.usage()
    }

    /// Subscribes an endpoint to the messages of the account of `place`, with the default settings.
    pub fn subscribe(&self, place: usize, endpoint: SocketAddr) -> anyhow::Result<()> {
        let mut client = SubscriptionServiceClient::new(self.channel.clone());
        let request = v1::CreateSubscriptionRequest {
            parent: format!("accounts/{}", account(place)),
            subscription: Some(v1::Subscription {
                url: format!("http://{endpoint}/webhooks"),
                event_types: vec![v1::EventType::MessageCreated.into()],
                ..v1::Subscription::default()
            }),
            ..v1::CreateSubscriptionRequest::default()
        };
        self.runtime.block_on(client.create_subscription(request)).context("cannot subscribe")?;
        Ok(())
    }

    /// Waits until nothing is owed to the subscriptions of the first `accounts` accounts.
    pub fn wait_settled(&self, accounts: usize, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        for place in 0..accounts {
            while self.runtime.block_on(self.owes(place))? {
                if Instant::now() > deadline {
                    bail!("everything arrived, but some of it is still owed after {timeout:?}");
                }
                std::thread::sleep(SETTLED_POLL);
            }
        }
        Ok(())
    }

    async fn owes(&self, place: usize) -> anyhow::Result<bool> {
        let mut client = DeliveryServiceClient::new(self.channel.clone());
        let request = v1::ListDeliveriesRequest {
            parent: format!("accounts/{}/subscriptions/-", account(place)),
            page_size: 1,
            states: [State::Pending, State::Retrying].map(Into::into).to_vec(),
            ..v1::ListDeliveriesRequest::default()
        };
        let page = client.list_deliveries(request).await.context("cannot list deliveries")?;
        Ok(!page.into_inner().deliveries.is_empty())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.asked_to_end {
            self.process.end();
        }
    }
}

/// The address in the line that says that it listens.
fn listening_at(process: &Process) -> anyhow::Result<SocketAddr> {
    loop {
        let line = process.line().context("the gateway did not start")?;
        let line: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("the gateway said {line:?}"))?;
        if line["message"] == "listening" {
            let address =
                line["grpc.listen"].as_str().context("the gateway does not say where it listens")?;
            return Ok(address.parse()?);
        }
    }
}
