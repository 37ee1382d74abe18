//! The store alone, on the sled engine: `cargo bench --bench store`; `-- --quick` for less of everything.
//!
//! What is measured: events stored by 1, 64 and 256 callers at once and in batches; the whole cycle of an event that is
//! owed to one subscription, stored and settled; what is written to the disk for a byte of events, and what is left on it;
//! how long it takes to open the store again; how long a publish takes while retention removes many files, and while it
//! does not (`-- --only retention` measures just this). Beside it, the disk alone in the same run. docs/benchmarks.md has figures.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::{Parser, ValueEnum};
use futures_util::future::try_join_all;
use rand::{SeedableRng, rngs::StdRng};
use tidings::{
    clock::{Clock, SystemClock},
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState, Outcome},
        event_routing::EventAddress,
        ids::{AccountId, Seq, SubscriptionKey, SubscriptionName},
        seal::SealingKey,
        secret::Secret,
        subscription::Settings,
        time::UnixMicros,
    },
    event::samples,
    metrics::Metrics,
    proto::v1::EventType,
    store::{
        NewEvent, NewSubscription, QueueEvent, RetentionLimit, Settlement, Store,
        disk::{DiskStore, KeySource, StoreSettings},
    },
};
use tokio::{
    runtime::Runtime,
    sync::broadcast::{self, error::RecvError},
};

const ACCOUNT: i64 = 1;
const URL: &str = "https://receiver.example.com/webhooks";
/// What `/proc` counts a process's time in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Measures the store.
#[derive(Parser)]
struct Arguments {
    /// Less of everything, for checks that nothing is broken.
    #[arg(long)]
    quick: bool,
    /// Only this part.
    #[arg(long)]
    only: Option<Part>,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// A part that can be measured alone.
#[derive(Clone, Copy, ValueEnum)]
enum Part {
    /// Publishing while retention removes files.
    Retention,
}

fn main() -> anyhow::Result<()> {
    let Arguments { quick, only, .. } = Arguments::parse();
    let divisor = if quick { 10 } else { 1 };
    let runtime = Runtime::new()?;
    if let Some(Part::Retention) = only {
        return runtime.block_on(retention(FILES / divisor));
    }
    println!("| what | events/s | CPU µs per event | written per byte |\n|---|--:|--:|--:|");
    for (batch, writes) in [(1, 2_000), (32, 2_000), (256, 500)] {
        let per_second = append(batch, writes / divisor)?;
        println!("| append and fdatasync, {batch} a write | {per_second:.0} | | |");
    }
    for (name, callers, batch, events) in [
        ("1 caller of one event", 1, 1, 5_000),
        ("64 callers of one event", 64, 1, 100_000),
        ("256 callers of one event", 256, 1, 200_000),
        ("8 callers of batches of 100", 8, 100, 300_000),
    ] {
        let load = Load { callers, batch, events: events / divisor };
        runtime.block_on(measure(&format!("stored: {name}"), load, false))?;
        runtime.block_on(measure(&format!("stored and settled: {name}"), load, true))?;
    }
    runtime.block_on(size_and_reopening(300_000 / divisor))?;
    runtime.block_on(retention(FILES / divisor))
}

/// Events a second that can be made durable by a plain file, `batch` at a time.
fn append(batch: usize, writes: u64) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut file = File::create(dir.path().join("appended"))?;
    let write = new_event(1).content.encoded.repeat(batch);
    let start = Instant::now();
    for _ in 0..writes {
        file.write_all(&write)?;
        file.sync_data()?;
    }
    Ok(writes as f64 * batch as f64 / start.elapsed().as_secs_f64())
}

#[derive(Clone, Copy)]
struct Load {
    callers: u64,
    batch: u64,
    events: u64,
}

async fn measure(name: &str, load: Load, settle: bool) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let store = open(dir.path())?;
    let subscription = subscribe(&store).await?;
    let before = Used::now()?;
    let start = Instant::now();
    let bytes = run(&store, subscription, load, settle).await?;
    let seconds = start.elapsed().as_secs_f64();
    let after = Used::now()?;
    let summary = store.queue_summary(subscription);
    let counted = if settle { summary.succeeded } else { summary.pending };
    ensure!(counted == load.events, "{} events were stored, {summary:?} are counted", load.events);
    println!(
        "| {name} | {:.0} | {:.1} | {:.2} |",
        load.events as f64 / seconds,
        (after.cpu_seconds - before.cpu_seconds) * 1e6 / load.events as f64,
        (after.written_bytes - before.written_bytes) as f64 / bytes as f64,
    );
    store.close()?;
    Ok(())
}

/// Stores what the load says, and settles each event once it is fed. Returns the bytes of the events.
async fn run(
    store: &Arc<DiskStore>,
    subscription: SubscriptionKey,
    load: Load,
    settle: bool,
) -> anyhow::Result<u64> {
    // Listens before anything is stored.
    let settling = settle.then(|| {
        tokio::spawn(settle_all(store.subscribe_accepted(), Arc::clone(store), subscription, load.events))
    });
    let next = Arc::new(AtomicU64::new(1));
    let callers = (0..load.callers).map(|_| {
        let (store, next) = (Arc::clone(store), Arc::clone(&next));
        tokio::spawn(async move {
            let mut bytes = 0;
            loop {
                let first = next.fetch_add(load.batch, Ordering::Relaxed);
                let numbers = first..(first + load.batch).min(load.events + 1);
                if numbers.is_empty() {
                    return anyhow::Ok(bytes);
                }
                let events: Vec<_> = numbers.map(new_event).collect();
                bytes += events.iter().map(|new| new.content.encoded.len() as u64).sum::<u64>();
                store.accept(events).await?;
            }
        })
    });
    let mut bytes = 0;
    for caller in try_join_all(callers.collect::<Vec<_>>()).await? {
        bytes += caller?;
    }
    if let Some(settling) = settling {
        settling.await??;
    }
    Ok(bytes)
}

/// Settles every event as it is fed, one by one, as the deliveries of a gateway end.
async fn settle_all(
    mut feed: broadcast::Receiver<QueueEvent>,
    store: Arc<DiskStore>,
    subscription: SubscriptionKey,
    events: u64,
) -> anyhow::Result<()> {
    let (mut settled, mut commits) = (0, Vec::new());
    while settled < events {
        let group = match feed.recv().await {
            Ok(QueueEvent::Due(..) | QueueEvent::Cancelled(_) | QueueEvent::Requeued(..)) => {
                anyhow::bail!("nobody decides anything here")
            }
            Ok(QueueEvent::Events(group)) => group.iter().map(|fed| fed.event.seq).collect::<Vec<_>>(),
            Err(RecvError::Lagged(_)) => {
                // What was missed is still owed, and the store knows it.
                let page = store.pending(subscription, Seq(0), usize::try_from(events)?)?;
                page.owed.iter().map(|owed| owed.event.seq).collect()
            }
            Err(RecvError::Closed) => anyhow::bail!("the store closed"),
        };
        for seq in group {
            let settlement = Settlement {
                key: DeliveryKey { seq, subscription },
                attempt: attempt(),
                state: DeliveryState::Succeeded,
            };
            commits.push(store.settle(vec![settlement]));
        }
        for commit in commits.drain(..) {
            commit.await?;
        }
        settled = store.queue_summary(subscription).succeeded;
    }
    Ok(())
}

async fn size_and_reopening(events: u64) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let store = open(dir.path())?;
    let subscription = subscribe(&store).await?;
    let bytes = run(&store, subscription, Load { callers: 64, batch: 1, events }, true).await?;
    store.close()?;
    drop(store);
    let size = size_of(dir.path())?;
    let start = Instant::now();
    let store = open(dir.path())?;
    let took = start.elapsed();
    ensure!(
        store.queue_summary(subscription).succeeded == events,
        "not all events are there after reopening"
    );
    store.close()?;
    println!(
        "\n{events} events of one caller each, settled: {:.0} MB of events are {:.0} MB on disk ({:.2} times); opened \
         again in {:.0} ms.",
        bytes as f64 / 1e6,
        size as f64 / 1e6,
        size as f64 / bytes as f64,
        took.as_secs_f64() * 1e3,
    );
    Ok(())
}

/// Log files that age at once, bytes of each, one event in how many is still owed, and callers that publish meanwhile.
const FILES: u64 = 60;
const FILE_BYTES: u32 = 4 << 20;
const OWED_ONE_IN: u64 = 10;
const PUBLISHERS: usize = 8;
/// How long publishing is measured before retention, and again after it.
const WITHOUT: Duration = Duration::from_secs(10);

/// Publishes before, while and after retention removes `files` files, in one run.
async fn retention(files: u64) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let store = open_with(dir.path(), StoreSettings { file_bytes: FILE_BYTES, ..StoreSettings::default() })?;
    let subscription = subscribe(&store).await?;
    let (mut bytes, mut number) = (0, 0);
    while bytes < files * u64::from(FILE_BYTES) {
        let batch: Vec<_> = (0..100).map(|nth| new_event(number + nth)).collect();
        bytes += batch.iter().map(|new| new.content.encoded.len() as u64).sum::<u64>();
        store.accept(batch).await?;
        number += 100;
    }
    let keys = (1..=number).filter(|seq| seq % OWED_ONE_IN != 0);
    let settlements: Vec<_> = keys
        .map(|seq| Settlement {
            key: DeliveryKey { seq: Seq(seq), subscription },
            attempt: attempt(),
            state: DeliveryState::Succeeded,
        })
        .collect();
    for some in settlements.chunks(1000) {
        store.settle(some.to_vec()).await?;
    }
    let by_age = RetentionLimit { since: SystemClock::default().now(), bytes_max: u64::MAX };
    let before = publish_until(&store, tokio::time::sleep(WITHOUT)).await?;
    let start = Instant::now();
    let mut purged = None;
    let during = publish_until(&store, async { purged = Some(store.purge(by_age).await) }).await?;
    let (took, purged) = (start.elapsed(), purged.context("it ended")??);
    let after = publish_until(&store, tokio::time::sleep(WITHOUT)).await?;
    let without: Vec<Duration> = before.iter().chain(&after).copied().collect();
    println!(
        "\nRetention removed {} events of {number} in {:.1} s.\n\n| publish, {PUBLISHERS} callers | publishes | p50 ms | p99 ms | \
         longest ms |\n|---|--:|--:|--:|--:|",
        purged.events,
        took.as_secs_f64(),
    );
    for (name, times) in [("before", &before), ("during", &during), ("after", &after), ("without", &without)]
    {
        let ms = |part| percentile(times, part).as_secs_f64() * 1e3;
        println!("| {name} | {} | {:.2} | {:.2} | {:.1} |", times.len(), ms(0.5), ms(0.99), ms(1.0));
    }
    let ratio = percentile(&during, 0.99).as_secs_f64() / percentile(&without, 0.99).as_secs_f64();
    println!("\np99 during retention: {ratio:.2} times that without.");
    ensure!(purged.events > 0, "retention removed nothing");
    Ok(store.close()?)
}

/// How long each publish takes while `until` runs.
async fn publish_until(store: &Arc<DiskStore>, until: impl Future) -> anyhow::Result<Vec<Duration>> {
    let over = Arc::new(AtomicBool::new(false));
    let callers = (0..PUBLISHERS).map(|_| {
        let (store, over) = (Arc::clone(store), Arc::clone(&over));
        tokio::spawn(async move {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let new = vec![new_event(1)];
                let start = Instant::now();
                store.accept(new).await?;
                times.push(start.elapsed());
            }
            anyhow::Ok(times)
        })
    });
    let callers: Vec<_> = callers.collect();
    until.await;
    over.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for caller in try_join_all(callers).await? {
        times.extend(caller?);
    }
    Ok(times)
}

fn percentile(times: &[Duration], part: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is an index of the list")]
    let index = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}

fn open(dir: &Path) -> anyhow::Result<Arc<DiskStore>> {
    open_with(dir, StoreSettings::default())
}

fn open_with(dir: &Path, settings: StoreSettings) -> anyhow::Result<Arc<DiskStore>> {
    let metrics = Metrics::new(SystemClock::default().now());
    let keys = KeySource::Beside(SealingKey::draw(&mut StdRng::seed_from_u64(1)));
    Ok(Arc::new(DiskStore::open(dir, settings, &keys, Arc::new(SystemClock::default()), 1, metrics)?))
}

async fn subscribe(store: &DiskStore) -> anyhow::Result<SubscriptionKey> {
    let settings = Settings::new(URL.parse()?, vec![EventType::MessageCreated]);
    let name: SubscriptionName = format!("accounts/{ACCOUNT}/subscriptions/receiver").parse()?;
    let signer = Secret::new("whsec_c2VjcmV0".to_owned()).into();
    let created = store.create_subscription(NewSubscription { name, settings, signer, request: None });
    Ok(created.await?.subscription.key)
}

fn new_event(number: u64) -> NewEvent {
    let account = AccountId::new(ACCOUNT).expect("it is positive");
    let number = i64::try_from(number).expect("events are few");
    let event = samples::typical_message(account, 1 + number % 1000, number);
    NewEvent {
        address: EventAddress { account, id: None },
        content: event.into(),
        inbox_id: None,
        fingerprint: number.unsigned_abs().into(),
        recipients: None,
    }
}

fn attempt() -> Attempt {
    Attempt {
        start_time: UnixMicros(1_700_000_000_000_000),
        duration: Duration::from_micros(800),
        outcome: Outcome::Ok,
        http_status: 200,
        error: String::new(),
        response_body: String::new(),
        retry_after: None,
        resent: 0,
        url: URL.to_owned(),
    }
}

/// What this process has used.
struct Used {
    cpu_seconds: f64,
    written_bytes: u64,
}

impl Used {
    fn now() -> anyhow::Result<Self> {
        let (stat, io) = (fs::read_to_string("/proc/self/stat")?, fs::read_to_string("/proc/self/io")?);
        let (_, after_name) = stat.rsplit_once(')').context("a stat file without a name")?;
        let ticks: Vec<f64> =
            after_name.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
        let written =
            io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("no write_bytes")?;
        Ok(Self {
            cpu_seconds: ticks.iter().sum::<f64>() / TICKS_PER_SECOND,
            written_bytes: written.parse()?,
        })
    }
}

/// What a directory takes up on the disk, in bytes.
fn size_of(dir: &Path) -> anyhow::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        size += if metadata.is_dir() {
            size_of(&entry.path())?
        } else {
            // Blocks of 512 bytes: a file may have holes.
            std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
        };
    }
    Ok(size)
}
