//! A disk that takes no more. The writes that fail are real ones: the files of the gateway's process may not grow any
//! more, which its system refuses as it refuses to write to a disk that is full.

use std::{collections::BTreeMap, fs, path::Path, process::Stdio, time::Duration};

use crate::{
    client::{Client, Counts, subscription},
    gateway::{Gateway, Home, PATIENCE, Stopped},
    metrics::Scrape,
    receiver::{Receiver, Request},
};
use rlimit::Resource;
use tidings::{domain::ids::AccountId, event::samples, proto::v1};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{ChildStderr, Command},
    time::{Instant, timeout},
};
use tonic::Code;
use tonic_types::StatusExt;

const ACCOUNT: i64 = 1;
/// Callers that publish at the same time, and how long each message is: the room is soon used up.
const CALLERS: i64 = 8;
const MESSAGE_BYTES: usize = 20_000;
/// How much the files may still grow when the room gets scarce.
const ROOM_BYTES: u64 = 1 << 20;

/// From now on no file of the process gets larger than this.
fn limit_files(gateway: &Gateway, bytes: u64) {
    let pid = i32::try_from(gateway.pid()).unwrap();
    rlimit::prlimit(pid, Resource::FSIZE, Some((bytes, rlimit::INFINITY)), None).unwrap();
}

/// The size of the largest file below a directory.
fn largest_file(dir: &Path) -> u64 {
    let sizes = fs::read_dir(dir).unwrap().map(|entry| {
        let entry = entry.unwrap();
        // Files come and go.
        entry.metadata().map_or(0, |of| if of.is_dir() { largest_file(&entry.path()) } else { of.len() })
    });
    sizes.max().unwrap_or(0)
}

fn message(number: i64) -> v1::Event {
    let mut event = samples::typical_message(AccountId::new(ACCOUNT).unwrap(), 1, number);
    let Some(v1::event::Payload::MessageCreated(created)) = &mut event.payload else { panic!("a message") };
    created.message.as_mut().unwrap().content = Some("x".repeat(MESSAGE_BYTES));
    event
}

fn event_id(number: i64) -> String {
    format!("e{number}")
}

/// Publishes, several at a time, until every caller is refused. Tells by number what came of each.
async fn publish_until_refused(client: &Client) -> BTreeMap<i64, Result<(), tonic::Status>> {
    const EACH_MAX: i64 = 1_000;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let client = client.clone();
        callers.spawn(async move {
            let mut published = Vec::new();
            for number in (1..=EACH_MAX).map(|nth| nth * CALLERS + caller) {
                let result = client.try_publish(ACCOUNT, &event_id(number), message(number)).await;
                let refused = result.is_err();
                published.push((number, result.map(drop)));
                if refused {
                    return published;
                }
            }
            panic!("{EACH_MAX} events of {MESSAGE_BYTES} bytes were taken where there is no room for them");
        });
    }
    callers.join_all().await.into_iter().flatten().collect()
}

/// How the time ends in which the disk takes no more: there is room again, or the gateway ends before.
#[derive(Clone, Copy, Debug)]
enum End {
    Room,
    Term,
    Kill,
}

async fn a_full_disk_loses_nothing(how: End) {
    let receiver = Receiver::start().await;
    let home = Home::new();
    let gateway = home.start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    let paused = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/paused"))).await;
    gateway.client.pause(&paused.name).await;
    gateway.client.publish_as(ACCOUNT, "before", message(1)).await;
    limit_files(&gateway, largest_file(home.dir()) + ROOM_BYTES);

    let published = publish_until_refused(&gateway.client).await;
    let acknowledged: Vec<i64> = published.iter().filter_map(|(n, r)| r.is_ok().then_some(*n)).collect();
    assert!(acknowledged.len() > 5, "there was room for some");
    for status in published.values().filter_map(|result| result.as_ref().err()) {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "DISK_FULL");
        assert!(details.retry_info().is_some() && !status.message().is_empty(), "{status:?}");
    }
    // It lives, delivers what it has taken, and tells of it; subscriptions are read.
    let (status, told) = gateway.readiness().await;
    assert_eq!((status, &*told), (200, "ready\n"));
    let refused = gateway.client.try_publish(ACCOUNT, "late", message(2)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    let taken = acknowledged.len() + 1;
    let counts = gateway.client.counts_when(&subscribed.name, "all there", |c| c.owed() == 0).await;
    assert_eq!(counts, Counts { succeeded: taken, ..Counts::default() });
    assert_eq!(gateway.client.subscription(&paused.name).await.state(), v1::subscription::State::Paused);
    let counts = gateway.client.counts(&paused.name).await;
    assert_eq!(counts, Counts { pending: taken, ..Counts::default() });
    assert_eq!(gateway.client.stored_events(ACCOUNT).await.len(), taken);
    let gateway = match how {
        End::Room => {
            limit_files(&gateway, rlimit::INFINITY);
            gateway
        }
        End::Kill | End::Term => {
            end(gateway, how).await;
            // It may be able to or not; either way it does no harm.
            drop(start_with_files_up_to(&home, largest_file(home.dir())).await);
            home.start().await
        }
    };

    // There is room again.
    gateway.client.publish_when_there_is_room(ACCOUNT, message(3)).await;
    gateway.client.resume(&paused.name).await;
    let names: Vec<String> =
        gateway.client.stored_events(ACCOUNT).await.into_iter().map(|event| event.name).collect();
    for id in acknowledged.iter().map(|number| event_id(*number)).chain(["before".to_owned()]) {
        let name = format!("accounts/{ACCOUNT}/events/{id}");
        assert_eq!(names.iter().filter(|other| **other == name).count(), 1, "{how:?}: {name}");
    }
    let count = taken + 1;
    assert_eq!(names.len(), count, "what was refused is not there");
    for subscribed in [&subscribed, &paused] {
        let counts = gateway.client.counts_when(&subscribed.name, "all there", |c| c.owed() == 0).await;
        assert_eq!(counts, Counts { succeeded: count, ..Counts::default() });
    }
    for path in ["/", "/paused"] {
        let seen = receiver.seen();
        let mut bodies = BTreeMap::new();
        for Request { body, .. } in seen.iter().filter(|request| request.path == path) {
            *bodies.entry(body).or_insert(0) += 1;
        }
        assert_eq!(bodies.len(), count, "{path}");
    }
    end(gateway, End::Term).await;
}

async fn end(gateway: Gateway, how: End) {
    if matches!(how, End::Kill) {
        return gateway.kill().await;
    }
    gateway.terminate();
    let stopped = gateway.wait().await;
    assert_eq!(stopped.code, Some(0), "it ends as it is told: {:#?}", stopped.log);
}

/// Starts a gateway no file of which may get larger than this, and ends it as soon as it listens. If it cannot start: its log, which
/// says why.
async fn start_with_files_up_to(home: &Home, bytes: u64) -> Result<(), Vec<String>> {
    /// What `ulimit -f` counts in, in a shell that does as POSIX says.
    const BLOCK_BYTES: u64 = 512;
    let command = home.command();
    let mut limited = Command::new("sh");
    limited.args(["-c", r#"ulimit -f "$0"; exec "$@""#, &(bytes / BLOCK_BYTES).to_string()]);
    limited.arg(command.as_std().get_program()).args(command.as_std().get_args());
    for (name, _) in command.as_std().get_envs() {
        limited.env_remove(name);
    }
    limited.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut starting = limited.spawn().unwrap();
    let mut lines = BufReader::new(starting.stderr.take().unwrap()).lines();
    let first = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().expect("it says something");
    if first.contains("listening") {
        starting.kill().await.unwrap();
        return Ok(());
    }
    let ended = timeout(PATIENCE, starting.wait()).await.expect("it ends").unwrap();
    let log = std::iter::once(first).chain(rest(lines).await).collect::<Vec<_>>();
    assert_eq!(ended.code(), Some(1), "{log:#?}");
    let said = format!("data directory {}: there is no room on the disk for a start", home.dir().display());
    let last = log.last().unwrap();
    assert!(
        last.contains(&said) && last.contains("Nothing is damaged") && !last.contains("backup"),
        "{log:#?}"
    );
    Err(log)
}

async fn rest(mut lines: Lines<BufReader<ChildStderr>>) -> Vec<String> {
    let mut rest = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        rest.push(line);
    }
    rest
}

#[tokio::test]
async fn a_full_disk_is_survived_and_events_are_taken_again_once_there_is_room() {
    a_full_disk_loses_nothing(End::Room).await;
}

#[tokio::test]
async fn a_disk_that_takes_no_more_loses_nothing_over_sigterm() {
    a_full_disk_loses_nothing(End::Term).await;
}

#[tokio::test]
async fn a_disk_that_takes_no_more_loses_nothing_over_sigkill() {
    a_full_disk_loses_nothing(End::Kill).await;
}

#[tokio::test]
async fn a_start_without_room_says_so_and_harms_nothing() {
    let home = Home::new();
    // To make a store takes more than to open one.
    for bytes in [0, 1024, 1 << 20] {
        start_with_files_up_to(&home, bytes).await.unwrap_err();
    }
    let gateway = home.start().await;
    gateway.client.publish(ACCOUNT, message(1)).await;
    gateway.stop().await;
    for bytes in [0, 1024] {
        start_with_files_up_to(&home, bytes).await.unwrap_err();
    }
    let gateway = home.start().await;
    assert_eq!(gateway.client.stored_events(ACCOUNT).await.len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_store_that_failed_is_told_once_and_in_the_exit_code_and_a_restart_reads_what_is_there() {
    /// Least time between two lines that tell how many calls failed.
    const TELL_INTERVAL: Duration = Duration::from_secs(10);
    const CALLS: u32 = 50;
    let home = Home::new();
    let gateway = home.start().await;
    let receiver = Receiver::start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    gateway.client.pause(&subscribed.name).await;
    gateway.client.publish_as(ACCOUNT, "before", message(1)).await;
    // There is room, as far as can be told, and the write fails all the same.
    limit_files(&gateway, 0);
    let failed = Instant::now();
    let refused = gateway.client.try_subscribe(ACCOUNT, subscription(receiver.url("/late"))).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);

    for number in 1..=CALLS {
        let refused = gateway.client.try_publish(ACCOUNT, "late", message(number.into())).await.unwrap_err();
        let reason = refused.get_error_details().error_info().unwrap().reason.clone();
        assert_eq!((refused.code(), &*reason), (Code::Unavailable, "STORAGE_FAILED"));
    }
    let counted = Scrape::of(&gateway).await;
    let series = r#"tidings_publishes_refused_total{reason="STORAGE_FAILED"}"#;
    assert_eq!(counted.value(series), f64::from(CALLS), "every one is counted");
    assert_eq!(gateway.readiness().await, (503, "store failed\n".to_owned()));
    gateway.terminate();
    let Stopped { code, log } = gateway.wait().await;
    let told = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert_eq!((code, told("the store failed and takes no more writes")), (Some(1), 1), "{log:#?}");
    assert_eq!(told("stopped: the store failed while the gateway ran"), 1, "{log:#?}");
    let lines = 1 + failed.elapsed().as_secs() / TELL_INTERVAL.as_secs();
    assert!((1..=lines).contains(&(told("calls fail since storage failed") as u64)), "{log:#?}");

    let gateway = home.start().await;
    let counts = gateway.client.counts(&subscribed.name).await;
    assert_eq!(counts, Counts { pending: 1, ..Counts::default() }, "what was acknowledged is there");
    gateway.stop().await;
}
