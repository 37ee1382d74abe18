//! The receiver: responds with 200 to every POST and counts it. Each endpoint has an address of its own, as
//! if it were another machine.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use anyhow::Context;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{HeaderValue, Request, Response, header::CONNECTION};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::{
    children::say,
    load::{now_micros, read_stamp},
    publisher::histogram,
    wire::{Arrived, Expected, Latency, Listening, ReceiverOrder},
};

/// Number of endpoints.
pub const ENDPOINTS: usize = 1000;

/// Path of POSTs after which the connection is closed, so that the next one takes a new one.
pub const CLOSING_PATH: &str = "closing";

/// Receives until standard input is closed.
pub fn serve() -> anyhow::Result<()> {
    // An endpoint needs files for its listener and connections. If the limit cannot be raised, a bind fails.
    drop(rlimit::increase_nofile_limit(rlimit::INFINITY));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(receive())
}

async fn receive() -> anyhow::Result<()> {
    let counts = Mutex::new(Counts::new(Expected::default()));
    let tally = Arc::new(Tally { counts, complete: Notify::new() });
    let mut endpoints = Vec::with_capacity(ENDPOINTS);
    for endpoint in 0..ENDPOINTS {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        endpoints.push(listener.local_addr()?);
        tokio::spawn(accept(listener, endpoint, Arc::clone(&tally)));
    }
    say(&Listening { endpoints })?;
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await? {
        match serde_json::from_str(&order).context("cannot parse an order")? {
            ReceiverOrder::Expect(expected) => *tally.lock() = Counts::new(expected),
            ReceiverOrder::Wait { timeout_ms } => {
                // The answer shows what is missing.
                drop(tokio::time::timeout(Duration::from_millis(timeout_ms), tally.complete()).await);
            }
            ReceiverOrder::ExpectOnly { deliveries } => tally.lock().deliveries = deliveries,
            ReceiverOrder::Tell => {}
        }
        say(&tally.lock().summary())?;
    }
    Ok(())
}

async fn accept(listener: TcpListener, endpoint: usize, tally: Arc<Tally>) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve_connection(stream, endpoint, Arc::clone(&tally)));
    }
}

async fn serve_connection(stream: TcpStream, endpoint: usize, tally: Arc<Tally>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let service = service_fn(move |request: Request<Incoming>| {
        let tally = Arc::clone(&tally);
        let closes = request.uri().path().ends_with(CLOSING_PATH);
        async move {
            // An incomplete body is no arrival.
            if let Ok(body) = request.into_body().collect().await {
                let hangs = tally.lock().expected.hanging == Some(endpoint);
                if hangs {
                    // Hang until the sender closes the connection.
                    std::future::pending::<()>().await;
                }
                tally.arrived(endpoint, &body.to_bytes());
            }
            let mut response = Response::new(Empty::<Bytes>::new());
            if closes {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    Ok(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
}

/// Expected and received deliveries.
struct Tally {
    counts: Mutex<Counts>,
    complete: Notify,
}

struct Counts {
    expected: Expected,
    /// Number of expected deliveries.
    deliveries: u64,
    arrived: Arrived,
    /// Whether an event has arrived, by number; by endpoint and number if each endpoint gets every event.
    seen: Vec<bool>,
    latency: Histogram<u64>,
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().expect("no code panics while it holds this lock")
    }

    fn arrived(&self, endpoint: usize, body: &[u8]) {
        let at = now_micros();
        let mut counts = self.lock();
        counts.count(endpoint, read_stamp(body), at);
        if counts.is_complete() {
            self.complete.notify_one();
        }
    }

    async fn complete(&self) {
        while !self.lock().is_complete() {
            self.complete.notified().await;
        }
    }
}

impl Counts {
    fn new(expected: Expected) -> Self {
        let events = usize::try_from(expected.events).expect("events are few") + 1;
        let len = if expected.fan_out { expected.endpoints * events } else { events };
        Self {
            expected,
            deliveries: expected.deliveries(),
            arrived: Arrived::default(),
            seen: vec![false; len],
            latency: histogram(),
        }
    }

    fn summary(&self) -> Arrived {
        Arrived { latency: Latency::of(&self.latency), ..self.arrived }
    }

    fn is_complete(&self) -> bool {
        self.arrived.deliveries >= self.deliveries
    }

    fn count(&mut self, endpoint: usize, stamp: Option<(u64, i64)>, at: i64) {
        let Some((number, sent)) = stamp.filter(|(number, _)| self.is_expected(endpoint, *number)) else {
            self.arrived.unexpected += 1;
            return;
        };
        let events = usize::try_from(self.expected.events).expect("events are few");
        let row = if self.expected.fan_out { endpoint * (events + 1) } else { 0 };
        let index = row + usize::try_from(number).expect("the number is at most that of the events");
        if std::mem::replace(&mut self.seen[index], true) {
            self.arrived.again += 1;
            return;
        }
        self.arrived.deliveries += 1;
        self.arrived.last = at;
        self.latency.saturating_record(u64::try_from(at - sent).unwrap_or(0));
    }

    fn is_expected(&self, endpoint: usize, number: u64) -> bool {
        let Expected { events, endpoints, fan_out, .. } = self.expected;
        (1..=events).contains(&number)
            && endpoint < endpoints
            && (fan_out || number % endpoints as u64 == endpoint as u64)
    }
}
