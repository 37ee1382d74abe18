//! The healthy load while something goes wrong, and its latency.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Mutex,
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{ACCOUNT, message};
use crate::support::{
    client::{Client, subscription},
    process::TidingsProcess,
    receiver::{Receiver, Request},
};

/// One event of the load in so much time.
const EVERY: Duration = Duration::from_millis(10);
/// The time that latencies are measured over.
const MEASURED: Duration = Duration::from_secs(2);

/// Publishes 100 events a second to an account that a healthy endpoint listens to, until the test ends it.
pub struct Healthy {
    receiver: Receiver,
    /// When each event began to be published.
    published: Arc<Mutex<BTreeMap<i64, Instant>>>,
    over: Arc<AtomicBool>,
    publishing: JoinHandle<()>,
}

impl Healthy {
    /// Subscribes to the account, and publishes to it and to `also`.
    pub async fn start(gateway: &TidingsProcess, also: &'static [i64]) -> Self {
        let receiver = Receiver::start().await;
        gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/healthy"))).await;
        let (published, over) = (Arc::<Mutex<BTreeMap<_, _>>>::default(), Arc::<AtomicBool>::default());
        let publishing = tokio::spawn(publish_steadily(
            gateway.client.clone(),
            also,
            Arc::clone(&published),
            Arc::clone(&over),
        ));
        Self { receiver, published, over, publishing }
    }

    /// The median from publish to arrival of the events of some time from now on. Waits until all have
    /// arrived.
    pub async fn median(&self) -> Duration {
        let from = Instant::now();
        sleep(MEASURED).await;
        let until = Instant::now();
        let published = self.published.lock().await.clone();
        let count = published.len();
        let measured: BTreeMap<_, _> =
            published.into_iter().filter(|(_, at)| (from..until).contains(at)).collect();
        assert!(measured.len() > 20, "only {} events were published", measured.len());
        let is_there = |seen: &[Request]| {
            let numbers = || seen.iter().map(Request::message_number).collect::<BTreeSet<_>>();
            seen.len() >= count && measured.keys().copied().collect::<BTreeSet<_>>().is_subset(&numbers())
        };
        let seen = self.receiver.wait_until("everything at the healthy endpoint", is_there).await;
        let arrived: BTreeMap<_, _> =
            seen.iter().rev().map(|request| (request.message_number(), request.at)).collect();
        let mut latencies: Vec<_> =
            measured.iter().map(|(number, at)| arrived[number].saturating_duration_since(*at)).collect();
        latencies.sort();
        latencies[latencies.len() / 2]
    }

    /// Ends the load. Everything that was published has arrived then, each once.
    pub async fn end(self) {
        self.over.store(true, Relaxed);
        self.publishing.await.unwrap();
        let published = self.published.lock().await.len();
        let seen = self.receiver.wait_for(published).await;
        assert_eq!(seen.len(), published, "something arrived twice");
    }
}

async fn publish_steadily(
    client: Client,
    also: &'static [i64],
    published: Arc<Mutex<BTreeMap<i64, Instant>>>,
    over: Arc<AtomicBool>,
) {
    let (mut ticks, mut calls) = (interval(EVERY), JoinSet::new());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1.. {
        ticks.tick().await;
        if over.load(Relaxed) {
            break;
        }
        for account in also.iter().copied().chain([ACCOUNT]) {
            let client = client.clone();
            let published = Arc::clone(&published);
            calls.spawn(async move {
                if account == ACCOUNT {
                    published.lock().await.insert(number, Instant::now());
                }
                client.publish(account, message(account, number)).await;
            });
        }
    }
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
}
