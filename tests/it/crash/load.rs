//! The load that the kills fall into: callers that publish one by one, in batches and in a stream, each until
//! it has its answers.

use std::{
    collections::{BTreeSet, VecDeque},
    future::Future,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tidings::proto::v1::{self, stream_publish_events_response::Outcome};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};

use super::{ACCOUNT, CONVERSATIONS};
use crate::support::{
    PATIENCE,
    client::{Client, id_of},
    events::{long_message, publish_request},
    profile::in_full_or_short,
};

/// Callers that publish one event at a time.
const SINGLE_CALLERS: usize = 6;
/// Callers that publish batches, and how many events a batch has.
const BATCH_CALLERS: usize = 2;
const BATCH_EVENTS: i64 = 20;
/// Events on their way in the stream at once.
const STREAM_WINDOW: usize = 16;
/// How long a caller waits when the store is full of owed events.
const FULL_WAIT: Duration = Duration::from_millis(50);

/// Callers that publish, each until its events are acknowledged, across kills of the gateway.
pub struct Load {
    /// The gateway that runs now.
    client: watch::Receiver<Client>,
    /// The number of the next event.
    next: Mutex<i64>,
    /// To how many subscriptions each event is owed.
    subscriptions: usize,
    /// The numbers of the events that were acknowledged.
    pub acknowledged: watch::Sender<BTreeSet<i64>>,
    /// No new events are to be published.
    pub over: AtomicBool,
}

impl Load {
    pub fn new(client: watch::Receiver<Client>, subscriptions: usize) -> Self {
        let acknowledged = watch::Sender::new(BTreeSet::new());
        Self { client, next: Mutex::new(1), subscriptions, acknowledged, over: AtomicBool::new(false) }
    }

    pub fn start(self: &Arc<Self>) -> JoinSet<()> {
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
        let deliveries = usize::try_from(result.delivery_count()).unwrap();
        assert_eq!((id_of(&result.event), deliveries), (&*event_id(number), self.subscriptions));
        self.acknowledged.send_modify(|acknowledged| assert!(acknowledged.insert(number)));
    }

    /// Waits until `count` more events are acknowledged.
    pub async fn acknowledged_more(&self, count: usize) {
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
            let result = self.until_response(call).await.result.unwrap();
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
            let results = self.until_response(call).await.results;
            let duplicates = results.iter().filter(|result| result.duplicate).count();
            assert!(duplicates == 0 || duplicates == results.len(), "a batch is stored as a whole");
            for (number, result) in numbers.zip(&results) {
                self.acknowledge(number, result);
            }
        }
    }

    async fn publish_streaming(self: Arc<Self>) {
        let mut client = self.client.clone();
        let mut unacknowledged = VecDeque::new();
        loop {
            let now = client.borrow_and_update().clone();
            match self.stream(&now, &mut unacknowledged).await {
                Ok(()) => return,
                Err(status) if is_full(&status) => sleep(FULL_WAIT).await,
                Err(status) => next_gateway(&mut client, &status).await,
            }
        }
    }

    /// One stream: sends again the events that another one left unacknowledged, and continues until the load
    /// or the stream ends.
    async fn stream(&self, client: &Client, unacknowledged: &mut VecDeque<i64>) -> Result<(), Status> {
        let (sender, messages) = mpsc::channel(STREAM_WINDOW);
        let message =
            |sequence| v1::StreamPublishEventsRequest { sequence, request: Some(request(sequence)) };
        for number in &*unacknowledged {
            sender.try_send(message(*number)).expect("there is room for a window");
        }
        let responses = client.events.clone().stream_publish_events(ReceiverStream::new(messages)).await?;
        let mut responses = responses.into_inner();
        loop {
            while unacknowledged.len() < STREAM_WINDOW
                && let Some(numbers) = self.take(1)
            {
                unacknowledged.push_back(numbers.start);
                sender
                    .try_send(message(numbers.start))
                    .map_err(|_| Status::unavailable("the stream is closed"))?;
            }
            let Some(first) = unacknowledged.front() else { return Ok(()) };
            let response =
                responses.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
            let result = match &response.outcome {
                Some(Outcome::Result(result)) => result,
                Some(Outcome::Error(error)) if error.code == Code::ResourceExhausted as i32 => {
                    return Err(Status::resource_exhausted(error.message.clone()));
                }
                _ => panic!("{response:?}"),
            };
            assert_eq!(response.sequence, *first, "responses come in the order of the messages");
            self.acknowledge(*first, result);
            unacknowledged.pop_front();
        }
    }

    /// Makes the same call on one gateway after another until there is a response.
    async fn until_response<T, F>(&self, call: impl Fn(Client) -> F) -> T
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut client = self.client.clone();
        loop {
            let now = client.borrow_and_update().clone();
            match call(now).await {
                Ok(response) => return response.into_inner(),
                Err(status) if is_full(&status) => sleep(FULL_WAIT).await,
                Err(status) => next_gateway(&mut client, &status).await,
            }
        }
    }
}

/// Whether the store is full of owed events, for a while.
fn is_full(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted
}

/// Waits for the gateway that comes after the one whose response was lost so.
async fn next_gateway(client: &mut watch::Receiver<Client>, lost: &Status) {
    let by_a_kill = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
    assert!(by_a_kill.contains(&lost.code()), "the gateway refused: {lost:?}");
    let next = timeout(PATIENCE, client.changed()).await;
    next.unwrap_or_else(|_| panic!("the gateway runs, and says {lost:?}")).expect("the test runs");
}

pub fn event_id(number: i64) -> String {
    format!("e{number}")
}

/// The conversation of an event of the load.
pub fn conversation_of(number: i64) -> i64 {
    number % CONVERSATIONS + 1
}

/// The request to publish an event of the load: so long a message that retention has something to do.
pub fn request(number: i64) -> v1::PublishEventRequest {
    let message_bytes = in_full_or_short(3_000, 16_000);
    let event = long_message(ACCOUNT, conversation_of(number), number, message_bytes);
    publish_request(ACCOUNT, &event_id(number), event)
}
