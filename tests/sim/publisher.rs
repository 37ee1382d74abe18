//! The publisher's host: creates the subscriptions, and publishes until each event is acknowledged or given
//! up, in every way that there is. The administrator works at the same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::{
    administrator::Administrator,
    calls::{CALL_TIMEOUT, Caller, in_a_word, within},
    coverage::{Coverage, Kind},
    plan::{Plan, SUBSCRIPTIONS},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tidings::{
    domain::ids::AccountId,
    event::samples,
    proto::v1::{
        self, event_service_client::EventServiceClient, stream_publish_events_response::Outcome,
        subscription_service_client::SubscriptionServiceClient,
    },
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Status, transport::Channel};
use uuid::Uuid;

/// The host's name.
pub const PUBLISHER: &str = "publisher";
/// Callers that publish at the same time, and how many calls each makes.
const CALLERS: u64 = 5;
const CALLS: i64 = 9;
/// How many events a batch has, and a stream.
const TOGETHER: i64 = 4;
/// One call in this many is not repeated when its response is lost.
const GIVEN_UP_ONE_IN: u32 = 6;
/// The longest pause between two calls.
const PAUSE_MAX: Duration = Duration::from_millis(1_600);
/// Conversations of an account.
const CONVERSATIONS: i64 = 5;

/// How events are published.
#[derive(Clone, Copy, Debug)]
enum Way {
    Alone,
    InABatch,
    OnAStream,
}

/// A subscription as it was created.
#[derive(Clone, Debug)]
pub struct Subscribed {
    pub account: i64,
    pub subscription: v1::Subscription,
    /// Where it may be POSTed to: first here, and wherever the administrator moves it.
    pub urls: [String; 2],
}

/// The publisher's results at the end.
#[derive(Debug, Default)]
pub struct Known {
    pub subscriptions: Vec<Subscribed>,
    /// Names of the events that were acknowledged, and to how many they were said to be owed.
    pub acknowledged: BTreeMap<String, i32>,
    /// Names of failed deliveries.
    pub given_up: BTreeSet<String>,
}

/// A publisher, whose knowledge is to be looked at from outside.
pub struct Publisher {
    pub known: Mutex<Known>,
    seed: u64,
    plan: Arc<Plan>,
    coverage: Coverage,
    caller: Caller,
}

impl Publisher {
    pub fn new(seed: u64, plan: Arc<Plan>, coverage: Coverage, caller: Caller) -> Arc<Self> {
        Arc::new(Self { known: Mutex::default(), seed, plan, coverage, caller })
    }

    /// Publishes, and lets the administrator bring it to its end. `urls` are those of each subscription.
    pub async fn run(
        self: Arc<Self>,
        administrator: Arc<Administrator>,
        urls: Vec<[String; 2]>,
    ) -> turmoil::Result {
        for (number, urls) in urls.into_iter().enumerate() {
            let subscribed = self.subscribe(number, urls).await;
            self.known.lock().unwrap().subscriptions.push(subscribed);
        }
        let subscriptions = self.known.lock().unwrap().subscriptions.clone();
        let mut working = JoinSet::new();
        for number in 0..CALLERS {
            working.spawn(Arc::clone(&self).publish(number));
        }
        working.spawn(Arc::clone(&administrator).work(subscriptions.clone()));
        while let Some(ended) = working.join_next().await {
            ended?;
        }
        administrator.finish(&subscriptions).await;
        Ok(())
    }

    async fn subscribe(&self, number: usize, urls: [String; 2]) -> Subscribed {
        let account = SUBSCRIPTIONS[number];
        let request = v1::CreateSubscriptionRequest {
            parent: format!("accounts/{account}"),
            subscription: Some(v1::Subscription {
                url: urls[0].clone(),
                event_types: v1::EventType::all().map(Into::into).collect(),
                ordered: self.plan.ordered[number],
                ..Default::default()
            }),
            request_id: Uuid::from_u128(number as u128 + 1).to_string(),
            ..Default::default()
        };
        let create = |channel| {
            let request = request.clone();
            async move { SubscriptionServiceClient::new(channel).create_subscription(request).await }
        };
        let created = self.caller.until_response("create", create).await;
        Subscribed { account, subscription: created.subscription.unwrap(), urls }
    }

    async fn publish(self: Arc<Self>, number: u64) {
        let mut random = StdRng::seed_from_u64(self.seed ^ (number << 40));
        for call in 0..CALLS {
            sleep(PAUSE_MAX.mul_f64(random.random())).await;
            let account = SUBSCRIPTIONS[random.random_range(0..SUBSCRIPTIONS.len())];
            let first = (i64::try_from(number).unwrap() * CALLS + call) * TOGETHER + 1;
            let (way, count) = match random.random_range(0..4) {
                0 => (Way::InABatch, TOGETHER),
                1 => (Way::OnAStream, TOGETHER),
                _ => (Way::Alone, 1),
            };
            let gives_up = random.random_ratio(1, GIVEN_UP_ONE_IN);
            while !self.publish_once(way, account, first..first + count).await {
                if gives_up {
                    let names = (first..first + count).map(|number| name(account, number));
                    let known = &mut *self.known.lock().unwrap();
                    known.given_up.extend(names.filter(|name| !known.acknowledged.contains_key(name)));
                    break;
                }
                sleep(Duration::from_millis(random.random_range(1..200))).await;
            }
        }
    }

    /// Publishes, and notes the acknowledged events. Returns whether all of them were.
    async fn publish_once(&self, way: Way, account: i64, numbers: Range<i64>) -> bool {
        let names: Vec<_> = numbers.clone().map(|number| name(account, number)).collect();
        let requests = numbers.clone().map(|number| request(account, number)).collect();
        let mut results = Vec::new();
        let ended = publish(self.caller.channel(), way, requests, &mut results).await;
        self.caller.note(format_args!(
            "{account} {numbers:?} {way:?}: {}, {}",
            results.len(),
            in_a_word(&ended)
        ));
        if ended.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted) {
            self.coverage.add(Kind::RefusedAsFull);
        }
        let kind = match way {
            Way::Alone => Kind::PublishedAlone,
            Way::InABatch => Kind::PublishedInABatch,
            Way::OnAStream => Kind::PublishedOnAStream,
        };
        let known = &mut *self.known.lock().unwrap();
        for (index, result) in &results {
            assert_eq!(result.event, names[*index]);
            self.coverage.add(if result.duplicate { Kind::PublishedAgain } else { kind });
            known.acknowledged.insert(result.event.clone(), result.delivery_count());
        }
        results.len() == names.len()
    }
}

/// Gathers the acknowledged events, each by its index in the requests. An error is the reason why not all
/// were.
async fn publish(
    channel: Channel,
    way: Way,
    mut requests: Vec<v1::PublishEventRequest>,
    results: &mut Vec<(usize, v1::PublishResult)>,
) -> Result<(), Status> {
    let mut events = EventServiceClient::new(channel);
    match way {
        Way::Alone => {
            let response = within(events.publish_event(requests.remove(0))).await?;
            results.push((0, response.result.unwrap()));
        }
        Way::InABatch => {
            let batch = v1::BatchPublishEventsRequest { requests, ..Default::default() };
            let response = within(events.batch_publish_events(batch)).await?;
            results.extend(response.results.into_iter().enumerate());
        }
        Way::OnAStream => {
            let requests = requests.into_iter().zip(0..).map(|(request, sequence)| {
                v1::StreamPublishEventsRequest { sequence, request: Some(request) }
            });
            let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
            let mut responses = within(events.stream_publish_events(requests)).await?;
            let late = |_| Status::deadline_exceeded("no response");
            while let Some(response) = timeout(CALL_TIMEOUT, responses.message()).await.map_err(late)?? {
                match response.outcome.unwrap() {
                    Outcome::Result(result) => {
                        results.push((usize::try_from(response.sequence).unwrap(), result));
                    }
                    Outcome::Error(error) => return Err(Status::new(Code::from(error.code), error.message)),
                }
            }
        }
    }
    Ok(())
}

fn request(account: i64, number: i64) -> v1::PublishEventRequest {
    let account_id = AccountId::new(account).unwrap();
    let event = samples::typical_message(account_id, conversation(number), number);
    v1::PublishEventRequest {
        parent: format!("accounts/{account}"),
        event_id: format!("e{number}"),
        event: Some(event.into()),
        ..Default::default()
    }
}

fn name(account: i64, number: i64) -> String {
    format!("accounts/{account}/events/e{number}")
}

fn conversation(number: i64) -> i64 {
    number % CONVERSATIONS + 1
}

/// The conversation of the event with this name.
pub fn conversation_of(name: &str) -> i64 {
    let (_, number) = name.rsplit_once('e').unwrap();
    conversation(number.parse().unwrap())
}
