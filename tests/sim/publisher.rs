//! The publisher's host: publishes until each event is acknowledged or given up, then waits until nothing is owed, and asks
//! the gateway what there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tidings::{
    domain::{ids::AccountId, samples},
    proto::v1::{
        self, delivery::State, delivery_service_client::DeliveryServiceClient,
        event_service_client::EventServiceClient, subscription_service_client::SubscriptionServiceClient,
    },
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};
use turmoil::net::TcpStream;
use uuid::Uuid;

use crate::{
    gateway::{GATEWAY, PORT},
    world::{ACCOUNTS, Trace},
};

/// The host's name.
pub const PUBLISHER: &str = "publisher";
/// Callers that publish at the same time, and how many calls each makes.
const CALLERS: u64 = 6;
const CALLS: i64 = 12;
/// Of so many calls one is a batch of so many events.
const BATCH_ONE_IN: u32 = 4;
const BATCH_EVENTS: i64 = 5;
/// Of so many calls one is not repeated when its answer is lost.
const GIVEN_UP_ONE_IN: u32 = 6;
/// How long an answer is waited for.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest pause between two calls.
const PAUSE_MAX: Duration = Duration::from_millis(1_200);

/// What the publisher knows in the end.
#[derive(Debug, Default)]
pub struct Known {
    /// Subscriptions by account, each with its URL and uid.
    pub subscriptions: Vec<(i64, v1::Subscription)>,
    /// Names of the events that were acknowledged.
    pub acknowledged: BTreeSet<String>,
    /// Names of those that were given up.
    pub given_up: BTreeSet<String>,
    /// Names of the stored events by account.
    pub stored: BTreeMap<i64, Vec<String>>,
    /// Deliveries by account and state.
    pub counts: BTreeMap<i64, BTreeMap<i32, i64>>,
    /// All deliveries by account.
    pub deliveries: BTreeMap<i64, Vec<v1::Delivery>>,
}

/// A publisher, whose knowledge is to be looked at from outside.
pub struct Publisher {
    pub known: Mutex<Known>,
    seed: u64,
    trace: Trace,
}

impl Publisher {
    pub fn new(seed: u64, trace: Trace) -> Arc<Self> {
        Arc::new(Self { known: Mutex::default(), seed, trace })
    }

    /// Publishes, waits for the end, and looks. `endpoints` are accounts with the URLs to be subscribed.
    pub async fn run(self: Arc<Self>, endpoints: Vec<(i64, String)>) -> turmoil::Result {
        for (number, (account, url)) in endpoints.into_iter().enumerate() {
            let request = v1::CreateSubscriptionRequest {
                parent: format!("accounts/{account}"),
                subscription: Some(v1::Subscription {
                    url,
                    event_types: (1..=12).collect(),
                    ..Default::default()
                }),
                request_id: Uuid::from_u128(number as u128 + 1).to_string(),
                ..Default::default()
            };
            let create = |channel| {
                let request = request.clone();
                async move { SubscriptionServiceClient::new(channel).create_subscription(request).await }
            };
            let created = self.until_answered("create", create).await.subscription.unwrap();
            self.known.lock().unwrap().subscriptions.push((account, created));
        }
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            callers.spawn(Arc::clone(&self).publish(caller));
        }
        while let Some(ended) = callers.join_next().await {
            ended?;
        }
        for account in ACCOUNTS {
            self.look(account).await;
        }
        Ok(())
    }

    async fn publish(self: Arc<Self>, caller: u64) {
        let mut random = StdRng::seed_from_u64(self.seed ^ (caller << 40));
        let mut channel = channel();
        for call in 0..CALLS {
            sleep(PAUSE_MAX.mul_f64(random.random())).await;
            let account = ACCOUNTS[random.random_range(0..ACCOUNTS.len())];
            let first = (i64::try_from(caller).unwrap() * CALLS + call) * BATCH_EVENTS + 1;
            let count = if random.random_ratio(1, BATCH_ONE_IN) { BATCH_EVENTS } else { 1 };
            let gives_up = random.random_ratio(1, GIVEN_UP_ONE_IN);
            let numbers = first..first + count;
            let names = numbers.clone().map(|number| format!("accounts/{account}/events/e{number}"));
            let requests: Vec<_> = numbers.map(|number| request(account, number)).collect();
            let acknowledged = loop {
                let published = publish_once(channel.clone(), requests.clone()).await;
                self.trace.note(PUBLISHER, format_args!("{account} e{first} x{count}: {}", told(&published)));
                match published {
                    Ok(results) => {
                        assert!(results.iter().map(|result| result.event.clone()).eq(names.clone()));
                        break true;
                    }
                    Err(_) if gives_up => break false,
                    Err(_) => channel = self::channel(),
                }
                sleep(Duration::from_millis(random.random_range(1..200))).await;
            };
            let mut known = self.known.lock().unwrap();
            let set = if acknowledged { &mut known.acknowledged } else { &mut known.given_up };
            set.extend(names);
        }
    }

    /// Waits until nothing is owed in the account, and notes what is there.
    async fn look(&self, account: i64) {
        let parent = format!("accounts/{account}/subscriptions/-");
        let counts = loop {
            let request = v1::SummarizeDeliveriesRequest { parent: parent.clone() };
            let summarize = |channel| {
                let request = request.clone();
                async move { DeliveryServiceClient::new(channel).summarize_deliveries(request).await }
            };
            let summary = self.until_answered("summarize", summarize).await;
            let counts: BTreeMap<_, _> = summary.counts.iter().map(|row| (row.state, row.count)).collect();
            let count = |state: State| counts.get(&state.into()).copied().unwrap_or_default();
            if count(State::Pending) + count(State::Retrying) == 0 {
                break counts;
            }
            sleep(Duration::from_millis(200)).await;
        };
        let request = v1::ListEventsRequest {
            parent: format!("accounts/{account}"),
            page_size: 1000,
            ..Default::default()
        };
        let list = |channel| {
            let request = request.clone();
            async move { EventServiceClient::new(channel).list_events(request).await }
        };
        let events = self.until_answered("list events", list).await;
        assert_eq!(events.next_page_token, "", "one page holds them all");
        let request = v1::ListDeliveriesRequest { parent, page_size: 1000, ..Default::default() };
        let list = |channel| {
            let request = request.clone();
            async move { DeliveryServiceClient::new(channel).list_deliveries(request).await }
        };
        let deliveries = self.until_answered("list deliveries", list).await;
        assert_eq!(deliveries.next_page_token, "", "one page holds them all");
        let mut known = self.known.lock().unwrap();
        known.counts.insert(account, counts);
        known.stored.insert(account, events.events.into_iter().map(|event| event.name).collect());
        known.deliveries.insert(account, deliveries.deliveries);
    }

    /// Makes the same call until there is an answer.
    async fn until_answered<T, F>(&self, what: &str, call: impl Fn(Channel) -> F) -> T
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            let answer = within(call(channel())).await;
            self.trace.note(PUBLISHER, format_args!("{what}: {}", told(&answer)));
            if let Ok(answer) = answer {
                return answer;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// A new connection to the gateway, once it is used.
fn channel() -> Channel {
    let connect = tower::service_fn(|_| async {
        Ok::<_, std::io::Error>(TokioIo::new(TcpStream::connect((GATEWAY, PORT)).await?))
    });
    Endpoint::from_static("http://gateway").connect_with_connector_lazy(connect)
}

async fn publish_once(
    channel: Channel,
    mut requests: Vec<v1::PublishEventRequest>,
) -> Result<Vec<v1::PublishResult>, Status> {
    let mut events = EventServiceClient::new(channel);
    if requests.len() == 1 {
        let answer = within(events.publish_event(requests.remove(0))).await?;
        return Ok(vec![answer.result.unwrap()]);
    }
    let batch = v1::BatchPublishEventsRequest { requests, ..Default::default() };
    Ok(within(events.batch_publish_events(batch)).await?.results)
}

async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
    let answer = timeout(CALL_TIMEOUT, call).await;
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))).map(Response::into_inner)
}

/// An answer in a word. What a caller may do about a refusal is to repeat; these do.
fn told<T>(answer: &Result<T, Status>) -> String {
    answer.as_ref().map_or_else(|status| format!("{:?}", status.code()), |_| "ok".to_owned())
}

fn request(account: i64, number: i64) -> v1::PublishEventRequest {
    let event = samples::typical_message(AccountId::new(account).unwrap(), number % 10 + 1, number);
    v1::PublishEventRequest {
        parent: format!("accounts/{account}"),
        event_id: format!("e{number}"),
        event: Some(event.into()),
        ..Default::default()
    }
}
