//! Attacks on the gRPC port: bytes that are no HTTP/2, floods of frames, calls that are never finished,
//! responses that are never taken, bombs. During each a healthy client publishes all the while, and keeps
//! its latency; the memory of the gateway stays within a bound that is stated; and the gateway complains of
//! nothing.
//!
//! Machines are noisy: medians are compared, with a wide margin, as with hostile receivers.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::support::{
    client::Client,
    events::message,
    process::{Launcher, TidingsProcess},
    profile::in_full_or_short,
    raw_http2::RawHttp2,
    scrape::Scrape,
};

mod bombs;
mod calls;
mod floods;
mod held_connections;
mod http_port;
mod ingest_port;
mod lists;
mod malformed;
mod shares;
mod waiting;
mod web_page;

/// The account of the healthy client.
const ACCOUNT: i64 = 1;
/// How long latencies are measured.
fn measured() -> Duration {
    in_full_or_short(Duration::from_secs(2), Duration::from_millis(700))
}

/// How often the healthy client calls.
const EVERY: Duration = Duration::from_millis(5);
/// A healthy median has moved if it grew by this factor, and to this long: attackers and gateway share the
/// cores, and a build for tests spends many times as much on a frame as one that is served.
const MOVED_FACTOR: u32 = 10;
const MOVED: Duration = Duration::from_secs(1);
/// How much memory an attack may take that no setting gives it.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
const MIB: u64 = 1 << 20;

/// A gateway under attack, and a healthy client of it.
struct Attacked {
    gateway: TidingsProcess,
    healthy: Client,
    without: Duration,
}

/// The size of an attack.
#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    /// How often it was tried: connections, frames, or calls.
    tries: u64,
    /// How often the gateway ended it: closed the connection, reset the stream, or refused the call.
    refused: u64,
}

impl std::ops::AddAssign for Tried {
    fn add_assign(&mut self, other: Self) {
        self.tries += other.tries;
        self.refused += other.refused;
    }
}

impl Attacked {
    async fn start(launcher: &Launcher) -> Self {
        let gateway = launcher.start().await;
        let healthy = gateway.another_client().await;
        // The first calls set up things that later ones use.
        median(&healthy, measured() / 4).await;
        let without = median(&healthy, measured()).await;
        Self { gateway, healthy, without }
    }

    /// Runs an attack for as long as latencies are measured. It may take `allowed_bytes` more memory than
    /// every attack may.
    async fn under<F>(
        &self,
        name: &str,
        allowed_bytes: u64,
        attack: impl FnOnce(SocketAddr, Instant) -> F,
    ) -> Tried
    where
        F: Future<Output = Tried> + Send + 'static,
    {
        let before = self.gateway.reset_peak_resident_bytes();
        let attacking = tokio::spawn(attack(self.gateway.grpc, Instant::now() + measured()));
        let with = median(&self.healthy, measured()).await;
        let tried = attacking.await.unwrap();
        let grown = self.gateway.peak_resident_bytes().saturating_sub(before);
        println!(
            "{name}: {} tries, {} refused; the median went from {:?} to {with:?}, memory up by {} MiB",
            tried.tries,
            tried.refused,
            self.without,
            grown / MIB
        );
        assert!(tried.tries > 0, "{name} was not tried");
        assert!(
            with <= MOVED || with <= self.without * MOVED_FACTOR,
            "{name}: the median of healthy calls went from {:?} to {with:?}",
            self.without
        );
        assert!(grown <= allowed_bytes + GROWTH_BYTES_MAX, "{name} took {} MiB of memory", grown / MIB);
        tried
    }

    /// The gateway must be as before: calls get responses, no connection is left, nothing was logged as an
    /// error.
    async fn end(self) {
        median(&self.healthy, measured() / 4).await;
        Scrape::when(&self.gateway, "without the attackers' connections", |scrape| {
            scrape.value("tidings_grpc_connections") <= 2.0
                && scrape.value("tidings_grpc_calls_in_flight") == 0.0
        })
        .await;
        self.gateway.stop().await;
    }
}

/// The median of calls that publish, one after another.
async fn median(client: &Client, during: Duration) -> Duration {
    let (mut latencies, until) = (Vec::new(), Instant::now() + during);
    for number in 1.. {
        let since = Instant::now();
        if since >= until {
            break;
        }
        client.publish(ACCOUNT, message(ACCOUNT, 1, number)).await;
        latencies.push(since.elapsed());
        sleep(EVERY).await;
    }
    latencies.sort();
    latencies[latencies.len() / 2]
}

/// `count` attackers side by side.
async fn side_by_side<F>(count: usize, attacker: impl Fn(usize) -> F) -> Tried
where
    F: Future<Output = Tried> + Send + 'static,
{
    let (mut attackers, mut tried) = (JoinSet::new(), Tried::default());
    for number in 0..count {
        attackers.spawn(attacker(number));
    }
    while let Some(one) = attackers.join_next().await {
        tried += one.unwrap();
    }
    tried
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn thousands_of_idle_and_silent_connections_delay_nobody() {
    const CONNECTIONS: usize = 1500;
    let attacked = Attacked::start(&Launcher::new()).await;
    let tried = attacked
        .under("1500 connections, half of them silent and half of them idle", 0, async |address, until| {
            let mut kept = Vec::new();
            for number in 0..CONNECTIONS {
                let greets = number % 2 == 0;
                kept.push(if greets {
                    RawHttp2::greeted_if_taken(address).await
                } else {
                    RawHttp2::connect(address).await
                });
            }
            tokio::time::sleep_until(until).await;
            let mut closed = 0;
            for raw in &mut kept {
                closed += u64::from(raw.is_closed());
            }
            Tried { tries: CONNECTIONS as u64, refused: closed }
        })
        .await;
    let scrape = Scrape::of(&attacked.gateway).await;
    let closed =
        |reason: &str| scrape.value(&format!("tidings_grpc_connections_closed_total{{reason=\"{reason}\"}}"));
    assert!(closed("half_open") > 0.0 && closed("half_open") + closed("address") > 300.0, "{scrape:?}");
    assert!(tried.refused > 300, "{tried:?}");
    attacked.end().await;
}
