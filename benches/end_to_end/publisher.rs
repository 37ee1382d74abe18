//! The publisher: tonic's own client on several connections, or one of HTTP.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures_util::stream;
use hdrhistogram::Histogram;
use tidings::proto::v1::{self, event_service_client::EventServiceClient};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::{Code, Status};

use crate::{
    authorized::{self, Authorized},
    children,
    json::JsonPublisher,
    load::{CHANNELS, FLOOD_CHANNELS, Load, Way, now_micros},
    wire::{Latency, PublishOrder, Published},
};

/// Most calls of a flood that wait for their response.
const FLOOD_CALLS_MAX: usize = 10_000;
/// Interval at which a flood sends the events that are due.
const FLOOD_BEAT: Duration = Duration::from_millis(1);

type Client = EventServiceClient<Authorized>;

/// Executes orders from standard input.
pub fn serve() -> anyhow::Result<()> {
    // One thread: it must not take cores from the gateway.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    children::obey(|order: PublishOrder| runtime.block_on(publish(order)))
}

async fn publish(PublishOrder { address, token, load }: PublishOrder) -> anyhow::Result<Published> {
    let channels = if matches!(load.way, Way::Flood { .. }) { FLOOD_CHANNELS } else { CHANNELS };
    let clients = Arc::new(connect(address, token.as_deref(), channels).await?);
    let log = Arc::new(Log::new(load));
    let first = now_micros();
    match load.way {
        Way::Unary { in_flight } => {
            side_by_side(in_flight, |index| unary(client(&clients, index), Arc::clone(&log))).await?;
        }
        Way::Json { in_flight, is_http1 } => {
            let publisher = JsonPublisher::new(address, token.as_deref(), &load, is_http1);
            side_by_side(in_flight, |index| json(Arc::clone(&publisher), index, Arc::clone(&log))).await?;
        }
        Way::Batches { size, in_flight } => {
            side_by_side(in_flight, |index| batches(client(&clients, index), size, Arc::clone(&log))).await?;
        }
        Way::Streams { count } => {
            side_by_side(count, |index| stream_events(client(&clients, index), Arc::clone(&log))).await?;
        }
        Way::Flood { rate, size } => flood(&clients, rate, size, &log).await?,
        Way::Steady { rate } => steady(&clients, rate, &log).await?,
    }
    let last = now_micros();
    log.check_complete()?;
    Ok(log.published(first, last))
}

/// Connections, opened before the first event.
async fn connect(address: SocketAddr, token: Option<&str>, count: usize) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(EventServiceClient::new(authorized::connect(address, token).await?));
    }
    Ok(clients)
}

fn client(clients: &[Client], index: usize) -> Client {
    clients[index % clients.len()].clone()
}

async fn side_by_side<F>(count: usize, task: impl Fn(usize) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut tasks: JoinSet<_> = (0..count).map(task).collect();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a publisher's task panicked")??;
    }
    Ok(())
}

async fn unary(mut client: Client, log: Arc<Log>) -> anyhow::Result<()> {
    while let Some(number) = log.take() {
        one(&mut client, number, now_micros(), &log).await?;
    }
    Ok(())
}

async fn json(publisher: Arc<JsonPublisher>, index: usize, log: Arc<Log>) -> anyhow::Result<()> {
    while let Some(number) = log.take() {
        let at_micros = now_micros();
        publisher.publish(index, number, at_micros).await?;
        log.answered(at_micros);
    }
    Ok(())
}

async fn one(client: &mut Client, number: u64, at_micros: i64, log: &Log) -> anyhow::Result<()> {
    let response = client.publish_event(log.load.request(number, at_micros)).await?.into_inner();
    ensure!(response.result.is_some(), "a response has no result");
    log.answered(at_micros);
    Ok(())
}

async fn batches(mut client: Client, size: u64, log: Arc<Log>) -> anyhow::Result<()> {
    loop {
        let at_micros = now_micros();
        let numbers = std::iter::from_fn(|| log.take()).take(usize::try_from(size)?);
        let requests: Vec<_> = numbers.map(|number| log.load.request(number, at_micros)).collect();
        if requests.is_empty() {
            return Ok(());
        }
        let count = requests.len();
        let request = v1::BatchPublishEventsRequest { requests, ..Default::default() };
        let results = client.batch_publish_events(request).await?.into_inner().results;
        ensure!(results.len() == count, "{count} events have {} results", results.len());
        for _ in results {
            log.answered(at_micros);
        }
    }
}

/// The sequence number of a message and its response is the time at which the message was created.
async fn stream_events(mut client: Client, log: Arc<Log>) -> anyhow::Result<()> {
    let source = Arc::clone(&log);
    let requests = std::iter::from_fn(move || {
        let at_micros = now_micros();
        let request = Some(source.load.request(source.take()?, at_micros));
        Some(v1::StreamPublishEventsRequest { sequence: at_micros, request })
    });
    let mut answers = client.stream_publish_events(stream::iter(requests)).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let stored = matches!(answer.outcome, Some(v1::stream_publish_events_response::Outcome::Result(_)));
        ensure!(stored, "an event of a stream was refused: {:?}", answer.outcome);
        log.answered(answer.sequence);
    }
    Ok(())
}

/// Sends events when they are due, without regard to earlier calls.
async fn flood(clients: &[Client], rate: u64, size: u64, log: &Arc<Log>) -> anyhow::Result<()> {
    let (beat, mut beats) = mpsc::unbounded_channel();
    let events = log.load.events;
    let metronome = thread::spawn(move || {
        let (start, mut sent) = (Instant::now(), 0);
        while sent < events {
            thread::sleep(FLOOD_BEAT);
            let elapsed = u64::try_from(start.elapsed().as_micros()).expect("a run is short");
            let due = (elapsed * rate / 1_000_000).min(events);
            if beat.send(due - sent).is_err() {
                return;
            }
            sent = due;
        }
    });
    let (mut calls, mut due, mut index) = (JoinSet::new(), 0, 0);
    while let Some(more) = beats.recv().await {
        due += more;
        while due >= size.min(log.left()).max(1) {
            let numbers = std::iter::from_fn(|| log.take()).take(usize::try_from(size)?);
            let numbers: Vec<_> = numbers.collect();
            if numbers.is_empty() {
                break;
            }
            due -= numbers.len() as u64;
            index += 1;
            if calls.len() >= FLOOD_CALLS_MAX {
                log.held_back.fetch_add(numbers.len() as u64, Ordering::Relaxed);
            } else {
                calls.spawn(flood_call(client(clients, index), numbers, Arc::clone(log)));
            }
        }
        while let Some(ended) = calls.try_join_next() {
            ended.context("a publisher's task panicked")??;
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended.context("a publisher's task panicked")??;
    }
    metronome.join().map_err(|_| anyhow::anyhow!("the metronome panicked"))
}

async fn flood_call(mut client: Client, numbers: Vec<u64>, log: Arc<Log>) -> anyhow::Result<()> {
    let (at_micros, count) = (now_micros(), numbers.len());
    let mut requests: Vec<_> =
        numbers.into_iter().map(|number| log.load.request(number, at_micros)).collect();
    let answer = if count == 1 {
        client.publish_event(requests.remove(0)).await.map(drop)
    } else {
        let request = v1::BatchPublishEventsRequest { requests, ..Default::default() };
        client.batch_publish_events(request).await.map(drop)
    };
    for _ in 0..count {
        match &answer {
            Ok(()) => log.answered(at_micros),
            Err(status) if is_refusal(status) => log.refused(at_micros),
            Err(status) => bail!("a call of a flood failed: {status:?}"),
        }
    }
    Ok(())
}

fn is_refusal(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted
}

/// Each event has a due time, without regard to earlier ones. The latency of a late call starts at its due
/// time.
async fn steady(clients: &[Client], rate: u32, log: &Arc<Log>) -> anyhow::Result<()> {
    let (beat, mut beats) = mpsc::unbounded_channel();
    let (interval, events) = (Duration::from_secs(1) / rate, log.load.events);
    // A thread of its own, since the runtime's timer has a resolution of milliseconds.
    let metronome = thread::spawn(move || {
        let (start, start_micros) = (Instant::now(), now_micros());
        for number in 1..=events {
            let due = interval * u32::try_from(number).expect("events are few");
            thread::sleep(due.saturating_sub(start.elapsed()));
            let due_micros = start_micros + i64::try_from(due.as_micros()).expect("a run is short");
            if beat.send((number, due_micros)).is_err() {
                return;
            }
        }
    });
    let mut calls = JoinSet::new();
    while let Some((number, due_micros)) = beats.recv().await {
        let (mut client, log) = (client(clients, usize::try_from(number)?), Arc::clone(log));
        calls.spawn(async move {
            match client.publish_event(log.load.request(number, due_micros)).await {
                Ok(_) => log.answered(due_micros),
                Err(status) if is_refusal(&status) => log.refused(due_micros),
                Err(status) => bail!("a call at a steady rate failed: {status:?}"),
            }
            Ok(())
        });
        while let Some(ended) = calls.try_join_next() {
            ended.context("a publisher's task panicked")??;
        }
    }
    while let Some(ended) = calls.join_next().await {
        ended.context("a publisher's task panicked")??;
    }
    metronome.join().map_err(|_| anyhow::anyhow!("the metronome panicked"))
}

/// The events still to be published, and the latencies so far.
struct Log {
    load: Load,
    next: AtomicU64,
    answers: Mutex<Histogram<u64>>,
    refusals: Mutex<Histogram<u64>>,
    held_back: AtomicU64,
}

impl Log {
    fn new(load: Load) -> Self {
        Self {
            load,
            next: AtomicU64::new(1),
            answers: Mutex::new(histogram()),
            refusals: Mutex::new(histogram()),
            held_back: AtomicU64::new(0),
        }
    }

    fn take(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number <= self.load.events).then_some(number)
    }

    fn answered(&self, at_micros: i64) {
        record(&self.answers, at_micros);
    }

    fn refused(&self, at_micros: i64) {
        record(&self.refusals, at_micros);
    }

    fn left(&self) -> u64 {
        (self.load.events + 1).saturating_sub(self.next.load(Ordering::Relaxed))
    }

    fn check_complete(&self) -> anyhow::Result<()> {
        let held_back = self.held_back.load(Ordering::Relaxed);
        let answered = look(&self.answers).len() + look(&self.refusals).len() + held_back;
        ensure!(answered == self.load.events, "{answered} of {} events have a response", self.load.events);
        Ok(())
    }

    fn published(&self, first: i64, last: i64) -> Published {
        let (answers, refusals) = (look(&self.answers), look(&self.refusals));
        Published {
            first,
            last,
            answer: Latency::of(&answers),
            acknowledged: answers.len(),
            refused: refusals.len(),
            held_back: self.held_back.load(Ordering::Relaxed),
            refusal: Latency::of(&refusals),
        }
    }
}

fn look(histogram: &Mutex<Histogram<u64>>) -> MutexGuard<'_, Histogram<u64>> {
    histogram.lock().expect("no code panics while it holds this lock")
}

fn record(histogram: &Mutex<Histogram<u64>>, since_micros: i64) {
    look(histogram).saturating_record(u64::try_from(now_micros() - since_micros).unwrap_or(0));
}

/// From a microsecond to ten minutes.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("these bounds are allowed")
}

impl Latency {
    /// The percentiles of a histogram in microseconds.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self {
            p50: histogram.value_at_quantile(0.5),
            p95: histogram.value_at_quantile(0.95),
            p99: histogram.value_at_quantile(0.99),
            max: histogram.max(),
        }
    }
}
