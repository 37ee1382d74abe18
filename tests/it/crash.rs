//! Kills the gateway with SIGKILL while it takes in and delivers, again and again, and counts afterwards: everything that
//! was acknowledged is stored once and has arrived.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::Future,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tidings::{
    domain::{ids::AccountId, samples},
    proto::v1::{
        self, delivery::State, stream_publish_events_response::Outcome, subscription::PayloadFormat,
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};
use uuid::Uuid;

use crate::{
    client::{Client, duration, id_of, publish_request, subscription},
    gateway::{Home, PATIENCE},
    receiver::{Answer, Receiver, Request},
};

const ACCOUNT: i64 = 1;
/// Acknowledged events of each round, after which the gateway is killed.
const KILLED_AFTER: [usize; 10] = [1, 150, 40, 300, 5, 200, 90, 250, 20, 120];
/// Callers that publish one event at a time.
const SINGLE_CALLERS: usize = 6;
/// Callers that publish batches, and how many events a batch has.
const BATCH_CALLERS: usize = 2;
const BATCH_EVENTS: i64 = 20;
/// Events on their way in the stream at once.
const STREAM_WINDOW: usize = 16;
/// Of so many requests the receiver fails one, and in every third round it fails them all.
const FAILS_ONE_IN: usize = 5;
/// POSTs of one subscription under way at once: what a kill may make the receiver see twice.
const MAX_IN_FLIGHT: usize = 16;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_under_load_lose_nothing_that_was_acknowledged() {
    let (receiver, healthy) = unsteady_receiver().await;
    let home = Home::new();
    let mut gateway = home.start().await;
    let mut subscriptions = Vec::new();
    for (format, path) in [(PayloadFormat::Documented, "/documented"), (PayloadFormat::Sample, "/sample")] {
        let asked = asked(receiver.url(path), format);
        let name = gateway.client.subscribe(ACCOUNT, asked).await.name;
        subscriptions.push((path, gateway.client.subscription(&name).await));
    }

    let clients = watch::Sender::new(gateway.client.clone());
    let load = Arc::new(Load::new(clients.subscribe()));
    let mut callers = load.start();
    for (round, events) in KILLED_AFTER.into_iter().enumerate() {
        healthy.store(round % 3 != 2, Relaxed);
        load.acknowledged_more(events).await;
        gateway.kill().await;
        gateway = home.start().await;
        clients.send_replace(gateway.client.clone());
    }
    healthy.store(true, Relaxed);
    load.over.store(true, Relaxed);
    while let Some(ended) = timeout(PATIENCE, callers.join_next()).await.expect("the callers end") {
        ended.unwrap();
    }
    gateway.client.nothing_owed(ACCOUNT).await;

    let acknowledged = load.acknowledged.borrow().clone();
    assert!(acknowledged.len() >= KILLED_AFTER.iter().sum());
    assert_stored_once(&gateway.client, &acknowledged).await;
    let seen = receiver.seen();
    for (path, subscription) in subscriptions {
        let sent = by_webhook_id(&seen, path);
        assert_arrived(&gateway.client, &subscription, &sent, &acknowledged).await;
    }
    gateway.stop().await;
}

/// The first start makes the data directory. Wherever it is cut off, the next one goes on from there.
#[tokio::test]
async fn a_gateway_that_was_killed_while_it_started_starts_again() {
    const KILLS: u32 = 12;
    let once = Instant::now();
    Home::new().start().await.kill().await;
    let takes = once.elapsed();
    let home = Home::new();
    for kill in 0..KILLS {
        // Moments all over the time that a start takes; each on a directory as the ones before left it.
        let mut starting = home.command().spawn().unwrap();
        sleep(takes * kill / KILLS).await;
        starting.kill().await.unwrap();
        let fresh = Home::new();
        let mut starting = fresh.command().spawn().unwrap();
        sleep(takes * kill / KILLS).await;
        starting.kill().await.unwrap();
        fresh.start().await.stop().await;
    }
    let gateway = home.start().await;
    gateway.client.publish(ACCOUNT, *request(1).event.unwrap()).await;
    assert_eq!(gateway.client.stored_events(ACCOUNT).await.len(), 1);
    gateway.stop().await;
}

/// A receiver that fails some of the requests, and all of them while it is not healthy.
async fn unsteady_receiver() -> (Receiver, Arc<AtomicBool>) {
    let healthy = Arc::new(AtomicBool::new(true));
    let (is_healthy, mut count) = (Arc::clone(&healthy), 0_usize);
    let receiver = Receiver::with(move |_| {
        count += 1;
        let fails = !is_healthy.load(Relaxed) || count.is_multiple_of(FAILS_ONE_IN);
        Answer::status(if fails { 500 } else { 200 })
    });
    (receiver.await, healthy)
}

fn asked(url: String, format: PayloadFormat) -> v1::Subscription {
    v1::Subscription {
        payload_format: format.into(),
        max_in_flight: i32::try_from(MAX_IN_FLIGHT).unwrap(),
        // Enough attempts for all rounds in which the receiver fails.
        retry_policy: Some(v1::RetryPolicy {
            max_attempts: 50,
            min_backoff: duration(Duration::from_millis(50)),
            max_backoff: duration(Duration::from_secs(1)),
        }),
        ..subscription(url)
    }
}

/// Callers that publish, each until its events are acknowledged, whatever becomes of the gateway meanwhile.
struct Load {
    /// The gateway that runs now.
    client: watch::Receiver<Client>,
    /// The number of the next event.
    next: Mutex<i64>,
    /// The numbers of the events that were acknowledged.
    acknowledged: watch::Sender<BTreeSet<i64>>,
    /// No new events are to be published.
    over: AtomicBool,
}

impl Load {
    fn new(client: watch::Receiver<Client>) -> Self {
        let acknowledged = watch::Sender::new(BTreeSet::new());
        Self { client, next: Mutex::new(1), acknowledged, over: AtomicBool::new(false) }
    }

    fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut callers = JoinSet::new();
        for _ in 0..SINGLE_CALLERS {
            callers.spawn(Arc::clone(self).publish_singly());
        }
        for _ in 0..BATCH_CALLERS {
            callers.spawn(Arc::clone(self).publish_batches());
        }
        callers.spawn(Arc::clone(self).publish_streaming());
        callers
    }

    /// The numbers of the next events; none at the end of the load.
    fn take(&self, count: i64) -> Option<Range<i64>> {
        let mut next = self.next.lock().unwrap();
        let numbers = *next..*next + count;
        let more = !self.over.load(Relaxed);
        more.then(|| {
            *next = numbers.end;
            numbers
        })
    }

    fn acknowledge(&self, number: i64, result: &v1::PublishResult) {
        assert_eq!((id_of(&result.event), result.delivery_count), (&*event_id(number), 2));
        self.acknowledged.send_modify(|acknowledged| assert!(acknowledged.insert(number)));
    }

    /// Waits until so many more events are acknowledged.
    async fn acknowledged_more(&self, count: usize) {
        let mut acknowledged = self.acknowledged.subscribe();
        let before = acknowledged.borrow().len();
        let waited = timeout(PATIENCE, acknowledged.wait_for(|all| all.len() >= before + count)).await;
        waited.expect("events are acknowledged").expect("the load is there");
    }

    async fn publish_singly(self: Arc<Self>) {
        while let Some(numbers) = self.take(1) {
            let call = |client: Client| {
                let request = request(numbers.start);
                async move { client.events.clone().publish_event(request).await }
            };
            let result = self.until_answered(call).await.result.unwrap();
            self.acknowledge(numbers.start, &result);
        }
    }

    async fn publish_batches(self: Arc<Self>) {
        while let Some(numbers) = self.take(BATCH_EVENTS) {
            let call = |client: Client| {
                let requests = numbers.clone().map(request).collect();
                let batch = v1::BatchPublishEventsRequest { requests, ..Default::default() };
                async move { client.events.clone().batch_publish_events(batch).await }
            };
            let results = self.until_answered(call).await.results;
            let duplicates = results.iter().filter(|result| result.duplicate).count();
            assert!(duplicates == 0 || duplicates == results.len(), "a batch is stored as a whole");
            for (number, result) in numbers.zip(&results) {
                self.acknowledge(number, result);
            }
        }
    }

    async fn publish_streaming(self: Arc<Self>) {
        let mut client = self.client.clone();
        let mut unanswered = VecDeque::new();
        loop {
            let now = client.borrow_and_update().clone();
            match self.stream(&now, &mut unanswered).await {
                Ok(()) => return,
                Err(status) => next_gateway(&mut client, &status).await,
            }
        }
    }

    /// One stream: sends again what another one left unanswered, and goes on until the load or the stream ends.
    async fn stream(&self, client: &Client, unanswered: &mut VecDeque<i64>) -> Result<(), Status> {
        let (sender, messages) = mpsc::channel(STREAM_WINDOW);
        let message =
            |sequence| v1::StreamPublishEventsRequest { sequence, request: Some(request(sequence)) };
        for number in &*unanswered {
            sender.try_send(message(*number)).expect("there is room for a window");
        }
        let answers = client.events.clone().stream_publish_events(ReceiverStream::new(messages)).await?;
        let mut answers = answers.into_inner();
        loop {
            while unanswered.len() < STREAM_WINDOW
                && let Some(numbers) = self.take(1)
            {
                unanswered.push_back(numbers.start);
                sender
                    .try_send(message(numbers.start))
                    .map_err(|_| Status::unavailable("the stream is closed"))?;
            }
            let Some(first) = unanswered.front() else { return Ok(()) };
            let answer = answers.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
            let Some(Outcome::Result(result)) = &answer.outcome else { panic!("{answer:?}") };
            assert_eq!(answer.sequence, *first, "answers come in the order of the messages");
            self.acknowledge(*first, result);
            unanswered.pop_front();
        }
    }

    /// Makes the same call on one gateway after another until there is an answer.
    async fn until_answered<T, F>(&self, call: impl Fn(Client) -> F) -> T
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut client = self.client.clone();
        loop {
            let now = client.borrow_and_update().clone();
            match call(now).await {
                Ok(response) => return response.into_inner(),
                Err(status) => next_gateway(&mut client, &status).await,
            }
        }
    }
}

/// Waits for the gateway that comes after the one whose answer was lost so.
async fn next_gateway(client: &mut watch::Receiver<Client>, lost: &Status) {
    let by_a_kill = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
    assert!(by_a_kill.contains(&lost.code()), "the gateway refused: {lost:?}");
    let next = timeout(PATIENCE, client.changed()).await;
    next.unwrap_or_else(|_| panic!("the gateway runs, and says {lost:?}")).expect("the test runs");
}

fn event_id(number: i64) -> String {
    format!("e{number}")
}

fn request(number: i64) -> v1::PublishEventRequest {
    let event = samples::typical_message(AccountId::new(ACCOUNT).unwrap(), number % 10 + 1, number);
    publish_request(ACCOUNT, &event_id(number), event)
}

/// What the receiver saw on this path, by the id that tells deliveries apart. Checks that all that it saw of a delivery is
/// the same.
fn by_webhook_id<'a>(seen: &'a [Request], path: &str) -> BTreeMap<&'a str, Vec<&'a Request>> {
    let mut sent: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for request in seen.iter().filter(|request| request.path == path) {
        let same = sent.entry(request.webhook_id()).or_default();
        same.push(request);
        assert_eq!(same[0].body, request.body, "one delivery, one body");
    }
    sent
}

/// The events that are stored are those that were acknowledged: no fewer, and no more, since every caller went on until
/// it had its answer.
async fn assert_stored_once(client: &Client, acknowledged: &BTreeSet<i64>) {
    let stored = client.stored_events(ACCOUNT).await;
    let names: BTreeSet<_> = stored.iter().map(|event| event.name.clone()).collect();
    assert_eq!(names.len(), stored.len(), "an event is stored twice");
    let expected =
        acknowledged.iter().map(|number| format!("accounts/{ACCOUNT}/events/{}", event_id(*number)));
    assert_eq!(names, expected.collect());
}

/// Every acknowledged event arrived, was taken, and is shown as such; and little was sent in vain.
async fn assert_arrived(
    client: &Client,
    subscription: &v1::Subscription,
    sent: &BTreeMap<&str, Vec<&Request>>,
    acknowledged: &BTreeSet<i64>,
) {
    let own = |delivery: &v1::Delivery| delivery.name.starts_with(&subscription.name);
    let deliveries = client.deliveries_in(ACCOUNT, &[]).await;
    let deliveries: BTreeMap<_, _> =
        deliveries.iter().filter(|d| own(d)).map(|delivery| (id_of(&delivery.name), delivery)).collect();
    assert_eq!(deliveries.len(), acknowledged.len(), "one delivery for each event");
    assert_eq!(sent.len(), acknowledged.len(), "one webhook-id for each event");

    let uid = Uuid::parse_str(&subscription.uid).unwrap();
    let mut taken_again = 0;
    for number in acknowledged {
        let name = format!("accounts/{ACCOUNT}/events/{}", event_id(*number));
        let webhook_id = Uuid::new_v5(&uid, name.as_bytes()).to_string();
        let requests = sent.get(&*webhook_id).unwrap_or_else(|| panic!("{name} did not arrive"));
        assert_eq!(number_in(&requests[0].body), *number);
        let taken = requests.iter().filter(|request| request.taken).count();
        assert!(taken > 0, "{name} was never taken: {requests:?}");
        taken_again += taken - 1;

        let delivery = deliveries[&*event_id(*number)];
        assert_eq!(delivery.state(), State::Succeeded);
        let attempts = usize::try_from(delivery.attempt_count).unwrap();
        assert!((1..=requests.len()).contains(&attempts), "{attempts} attempts, {} requests", requests.len());
    }
    let in_flight_at_kills = MAX_IN_FLIGHT * KILLED_AFTER.len();
    assert!(taken_again <= in_flight_at_kills, "{taken_again} were sent again though they had arrived");
}

/// The id of the message in a body of either form.
fn number_in(body: &str) -> i64 {
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    body["id"].as_i64().unwrap_or_else(|| body["id"].as_str().unwrap().parse().unwrap())
}
