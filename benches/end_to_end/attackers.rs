//! Attackers: each takes all that it is given of one thing, from one account or without a token.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tidings::proto::v1::{
    self, access_token::Scope, event::Payload, event_service_client::EventServiceClient,
    subscription_service_client::SubscriptionServiceClient,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    task::JoinSet,
    time::sleep,
};
use tonic::{Status, body::Body, transport::Channel};
use tower::{Service, ServiceExt};

use crate::{
    authorized::{Authorized, connect},
    gateway::Gateway,
    load::{account, now_micros, stamped},
};

/// The account of an attacker: no endpoint of a load has it.
const ATTACKER: usize = 900;
/// Wait after a refusal, and between tries of something slow.
const WAIT: Duration = Duration::from_millis(10);
/// Connections of a flood without a token, and calls of each kind on each.
const CONNECTIONS: usize = 8;
const CALLS: usize = 128;
/// Lists at the same time on one connection.
const LISTS: usize = 500;
/// Names in a zone whose server is silent.
const NAMES: usize = 600;
/// Subscriptions whose receiver answers late, how late, and the events that are kept waiting for each.
const LATE_SUBSCRIPTIONS: usize = 5;
const LATE: Duration = Duration::from_secs(28);
const LATE_EVENTS: u64 = 900;

const CHECK: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const LIST_EVENTS: &str = "/tidings.v1.EventService/ListEvents";

/// What an attacker takes.
#[derive(Clone, Copy, Debug)]
pub enum Attack {
    /// Calls of health and reflection, without a token: some complete, some held open.
    Unauthenticated,
    /// Lists of large events, all at the same time on one connection, by a token that may read.
    Lists,
    /// Deliveries of so many paused subscriptions.
    Backlog {
        /// The number of subscriptions.
        subscriptions: usize,
    },
    /// Look-ups: one event to 600 names in a zone whose server does not respond.
    Names,
    /// POSTs in flight: a receiver that answers with 200 after 28 s.
    LateReceiver,
}

impl Attack {
    /// Its words in the name of the case.
    pub fn name(self) -> String {
        match self {
            Self::Unauthenticated => "health and reflection without a token".to_owned(),
            Self::Lists => format!("{LISTS} lists of events at once"),
            Self::Backlog { subscriptions } => format!("a backlog of {subscriptions} paused subscriptions"),
            Self::Names => format!("an event to {NAMES} silent names"),
            Self::LateReceiver => format!("answers after {} s", LATE.as_secs()),
        }
    }
}

/// An attacker of one gateway, on a thread of its own. It ends when this is dropped.
pub struct Attacker {
    attack: Attack,
    address: SocketAddr,
    token: String,
    /// What goes on all the time.
    _lasting: JoinSet<()>,
    runtime: Runtime,
}

impl Attacker {
    /// Prepares an attack on the gateway, which needs access tokens.
    pub fn prepare(attack: Attack, gateway: &Gateway) -> anyhow::Result<Self> {
        // An attacker has a machine of its own: here it takes the processor time that nobody else wants. What the
        // gateway does for it has the gateway's priority.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(|| {
                const LOWEST: i32 = 19;
                rustix::process::nice(LOWEST).expect("a thread may lower its priority");
            })
            .enable_all()
            .build()?;
        let address = gateway.address();
        let owner = gateway.create_token(&[Scope::Publish, Scope::Manage], Some(ATTACKER))?;
        let token = match attack {
            Attack::Lists => gateway.create_token(&[Scope::Read], Some(ATTACKER))?,
            _ => owner.clone(),
        };
        let mut lasting = JoinSet::new();
        runtime
            .block_on(async {
                let channel = connect(address, Some(&owner)).await?;
                match attack {
                    Attack::Unauthenticated => Ok(()),
                    Attack::Lists => fill(&channel).await,
                    Attack::Backlog { subscriptions } => {
                        let urls = (0..subscriptions).map(|number| format!("http://127.0.0.1:9/{number}"));
                        subscribe(&channel, urls, true).await
                    }
                    Attack::Names => {
                        subscribe(
                            &channel,
                            (0..NAMES).map(|number| format!("http://n{number}.silent.test/")),
                            false,
                        )
                        .await
                    }
                    Attack::LateReceiver => {
                        let listener = TcpListener::bind("127.0.0.1:0").await?;
                        let receiver = listener.local_addr()?;
                        lasting.spawn(answer_late(listener));
                        let urls =
                            (0..LATE_SUBSCRIPTIONS).map(|number| format!("http://{receiver}/{number}"));
                        subscribe(&channel, urls, false).await?;
                        // The first one is answered at once: so the lanes have succeeded, and may take more.
                        publish(&channel, 1).await?;
                        sleep(Duration::from_secs(1)).await;
                        publish(&channel, LATE_EVENTS).await
                    }
                }
            })
            .context("cannot prepare the attack")?;
        Ok(Self { attack, address, token, _lasting: lasting, runtime })
    }

    /// Attacks until the result is dropped.
    pub fn begin(&self) -> anyhow::Result<JoinSet<()>> {
        let (address, token, mut tasks) = (self.address, self.token.clone(), JoinSet::new());
        let _guard = self.runtime.enter();
        match self.attack {
            Attack::Unauthenticated => {
                for _ in 0..CONNECTIONS {
                    let channel = self.runtime.block_on(plain(address))?;
                    for path in [CHECK, REFLECTION] {
                        for _ in 0..CALLS {
                            tasks.spawn(hold_calls(channel.clone(), path));
                        }
                    }
                    for _ in 0..CALLS {
                        tasks.spawn(repeat(channel.clone(), CHECK, None, Bytes::new()));
                    }
                }
            }
            Attack::Lists => {
                let parent = format!("accounts/{}", account(ATTACKER));
                let list = v1::ListEventsRequest { parent, page_size: 1000, ..Default::default() };
                let list = Bytes::from(list.encode_to_vec());
                let channel = self.runtime.block_on(plain(address))?;
                for _ in 0..LISTS {
                    tasks.spawn(repeat(channel.clone(), LIST_EVENTS, Some(token.clone()), list.clone()));
                }
            }
            Attack::Backlog { .. } | Attack::LateReceiver => {
                // A batch a second is more than late responses let through; a backlog grows as fast as it can.
                let wait =
                    if matches!(self.attack, Attack::LateReceiver) { Duration::from_secs(1) } else { WAIT };
                let channel = self.runtime.block_on(connect(address, Some(&token)))?;
                tasks.spawn(async move {
                    loop {
                        drop(publish(&channel, 100).await);
                        sleep(wait).await;
                    }
                });
            }
            Attack::Names => {
                let channel = self.runtime.block_on(connect(address, Some(&token)))?;
                tasks.spawn(async move { drop(publish(&channel, 1).await) });
            }
        }
        Ok(tasks)
    }
}

async fn plain(address: SocketAddr) -> anyhow::Result<Channel> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    endpoint.connect().await.context("cannot connect to the gateway")
}

/// Calls a method again and again, and drops what is responded as it arrives.
async fn repeat(mut channel: Channel, path: &'static str, token: Option<String>, message: Bytes) {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("the message is short"));
    framed.extend(message);
    let framed = framed.freeze();
    loop {
        let body = Full::new(framed.clone()).map_err(|never| match never {});
        if let Ok(response) = call(&mut channel, path, token.as_deref(), Body::new(body)).await {
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        }
        sleep(WAIT).await;
    }
}

/// Opens a call without its message, and another one whenever that is refused.
async fn hold_calls(mut channel: Channel, path: &'static str) {
    loop {
        let never = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<http_body::Frame<Bytes>, Status>,
        >());
        if let Ok(response) = call(&mut channel, path, None, Body::new(never)).await {
            let mut body = response.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        }
        sleep(WAIT).await;
    }
}

async fn call(
    channel: &mut Channel,
    path: &str,
    token: Option<&str>,
    body: Body,
) -> anyhow::Result<http::Response<Body>> {
    let mut request =
        http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    Ok(channel.ready().await?.call(request.body(body)?).await?)
}

/// Subscribes the attacker to messages, and pauses the subscriptions if so asked.
async fn subscribe(
    channel: &Authorized,
    urls: impl Iterator<Item = String>,
    paused: bool,
) -> anyhow::Result<()> {
    const AT_ONCE: usize = 64;
    let mut calls = JoinSet::new();
    for url in urls {
        if calls.len() >= AT_ONCE
            && let Some(ended) = calls.join_next().await
        {
            ended??;
        }
        let mut client = SubscriptionServiceClient::new(channel.clone());
        calls.spawn(async move {
            let subscription = v1::Subscription {
                url,
                event_types: vec![v1::EventType::MessageCreated.into()],
                max_in_flight: 256,
                timeout: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
                ..Default::default()
            };
            let request = v1::CreateSubscriptionRequest {
                parent: format!("accounts/{}", account(ATTACKER)),
                subscription: Some(subscription),
                ..Default::default()
            };
            let created = client.create_subscription(request).await?.into_inner();
            let name = created.subscription.map(|subscription| subscription.name).unwrap_or_default();
            if paused {
                client.pause_subscription(v1::PauseSubscriptionRequest { name }).await?;
            }
            Ok::<_, Status>(())
        });
    }
    while let Some(ended) = calls.join_next().await {
        ended??;
    }
    Ok(())
}

/// Publishes a batch to the attacker's account.
async fn publish(channel: &Authorized, events: u64) -> anyhow::Result<()> {
    publish_each(channel, (1..=events).map(|number| stamped(account(ATTACKER), number, now_micros()))).await
}

async fn publish_each(channel: &Authorized, events: impl Iterator<Item = v1::Event>) -> anyhow::Result<()> {
    let requests =
        events.map(|event| v1::PublishEventRequest { event: Some(event.into()), ..Default::default() });
    let parent = format!("accounts/{}", account(ATTACKER));
    let request = v1::BatchPublishEventsRequest { parent, requests: requests.collect() };
    let results = EventServiceClient::new(channel.clone()).batch_publish_events(request).await?;
    ensure!(!results.into_inner().results.is_empty(), "nothing was stored");
    Ok(())
}

/// Stores events of which one page has nearly 4 MiB.
async fn fill(channel: &Authorized) -> anyhow::Result<()> {
    const LARGE_EVENTS: u64 = 60;
    const CONTENT_BYTES: usize = 50_000;
    publish(channel, 900).await?;
    publish_each(
        channel,
        (1..=LARGE_EVENTS).map(|number| {
            let mut event = stamped(account(ATTACKER), number, now_micros());
            if let Some(Payload::MessageCreated(v1::MessageCreated { message: Some(message) })) =
                &mut event.payload
            {
                message.content = Some("z".repeat(CONTENT_BYTES));
            }
            event
        }),
    )
    .await
}

/// The paths that were POSTed to.
type Seen = Arc<Mutex<HashSet<String>>>;

/// Answers the first POST to each path at once, and all others late.
async fn answer_late(listener: TcpListener) {
    let seen = Seen::default();
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer_connection(stream, Arc::clone(&seen)));
    }
}

async fn answer_connection(mut stream: TcpStream, seen: Seen) -> anyhow::Result<()> {
    let mut received = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(stream.read_buf(&mut received).await? > 0, "the gateway closed the connection");
        };
        let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("a POST without its length")?.trim().parse()?;
        while received.len() < end + length {
            ensure!(stream.read_buf(&mut received).await? > 0, "half a POST");
        }
        received.drain(..end + length);
        let is_first = seen.lock().expect("nothing panics under this lock").insert(path);
        if !is_first {
            sleep(LATE).await;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
}
