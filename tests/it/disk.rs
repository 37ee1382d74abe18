//! A disk that takes no more. The writes that fail are real ones: the files of the gateway's process may not
//! grow any more, which its system refuses as it refuses to write to a disk that is full.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use rlimit::Resource;
use tidings::proto::v1;
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    client::{Client, Counts, subscription},
    events::{long_message, publish_request},
    eventually,
    interposer::Interposer,
    process::{Launcher, TidingsProcess},
    receiver::{Receiver, Request},
    scrape::Scrape,
};

const ACCOUNT: i64 = 1;
/// Callers that publish at the same time, and how long each message is: the room is soon used up.
const CALLERS: i64 = 8;
const MESSAGE_BYTES: usize = 20_000;
/// How much the files may still grow when the room gets scarce.
const ROOM_BYTES: u64 = 1 << 20;

/// From now on no file of the process gets larger than this.
fn limit_files(gateway: &TidingsProcess, bytes: u64) {
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

fn request(id: &str, number: i64) -> v1::PublishEventRequest {
    publish_request(ACCOUNT, id, long_message(ACCOUNT, 1, number, MESSAGE_BYTES))
}

fn event_id(number: i64) -> String {
    format!("e{number}")
}

/// Publishes, several at a time, until every caller is refused. Returns the result of each by number.
async fn publish_until_refused(client: &Client) -> BTreeMap<i64, Result<(), tonic::Status>> {
    const EACH_MAX: i64 = 1_000;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let client = client.clone();
        callers.spawn(async move {
            let mut published = Vec::new();
            for number in (1..=EACH_MAX).map(|nth| nth * CALLERS + caller) {
                let result = client.try_publish(request(&event_id(number), number)).await;
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
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    let paused = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/paused"))).await;
    gateway.client.pause(&paused.name).await;
    gateway.client.try_publish(request("before", 1)).await.unwrap();
    limit_files(&gateway, largest_file(launcher.dir()) + ROOM_BYTES);

    let published = publish_until_refused(&gateway.client).await;
    let acknowledged: Vec<i64> = published.iter().filter_map(|(n, r)| r.is_ok().then_some(*n)).collect();
    assert!(acknowledged.len() > 5, "there was room for some");
    for status in published.values().filter_map(|result| result.as_ref().err()) {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "DISK_FULL");
        assert!(details.retry_info().is_some() && !status.message().is_empty(), "{status:?}");
    }
    // It lives, delivers accepted events, and shows that; subscriptions are read.
    assert_eq!(gateway.readiness().await, (200, "ready\n".to_owned()));
    let refused = gateway.client.try_publish(request("late", 2)).await.unwrap_err();
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
            starts_with_files_up_to(&launcher, largest_file(launcher.dir())).await;
            launcher.start().await
        }
    };

    // There is room again.
    gateway.client.publish_when_there_is_room(request("", 3)).await;
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

async fn end(gateway: TidingsProcess, how: End) {
    if matches!(how, End::Kill) {
        return gateway.kill().await;
    }
    gateway.terminate();
    let stopped = gateway.wait().await;
    assert_eq!(stopped.code, Some(0), "{stopped:#?}");
}

/// Starts a gateway no file of which may get larger than this, and ends it as soon as it logs something.
/// False if it cannot start, and says why.
async fn starts_with_files_up_to(launcher: &Launcher, bytes: u64) -> bool {
    let starting = launcher.clone().with_files_up_to(bytes).spawn();
    if starting.stderr.wait_for(|line| Some(line.contains("listening"))).await {
        starting.kill().await;
        return true;
    }
    let ended = starting.wait().await;
    let dir = launcher.data_dir();
    let said = format!("data directory {}: there is no room on the disk for a start", dir.display());
    let last = ended.stderr.lines().last().unwrap();
    assert!(ended.code == Some(1) && last.contains(&said), "{ended:#?}");
    assert!(last.contains("Nothing is damaged") && !last.contains("backup"), "{last}");
    false
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
    let launcher = Launcher::new();
    // To make a store takes more than to open one.
    for bytes in [0, 1024, 1 << 20] {
        assert!(!starts_with_files_up_to(&launcher, bytes).await);
    }
    let gateway = launcher.start().await;
    gateway.client.try_publish(request("", 1)).await.unwrap();
    gateway.stop().await;
    for bytes in [0, 1024] {
        assert!(!starts_with_files_up_to(&launcher, bytes).await);
    }
    let gateway = launcher.start().await;
    assert_eq!(gateway.client.stored_events(ACCOUNT).await.len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_failed_store_is_logged_once_sets_the_exit_code_and_is_read_again_at_a_restart() {
    /// Least time between two lines that say how many calls failed.
    const LOG_INTERVAL: Duration = Duration::from_secs(10);
    const CALLS: u32 = 50;
    let (interposer, launcher) = (Interposer::new(), Launcher::new());
    let gateway = interposer.watching(&launcher, launcher.dir()).start().await;
    let receiver = Receiver::start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    gateway.client.pause(&subscribed.name).await;
    gateway.client.try_publish(request("before", 1)).await.unwrap();
    assert_eq!(gateway.liveness().await, (200, "ok\n".to_owned()));
    interposer.refuse_writes(rustix::io::Errno::IO.raw_os_error(), "/data/");
    let failed = Instant::now();
    let refused = gateway.client.try_subscribe(ACCOUNT, subscription(receiver.url("/late"))).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);

    for number in 1..=CALLS {
        let refused = gateway.client.try_publish(request("late", number.into())).await.unwrap_err();
        let reason = refused.get_error_details().error_info().unwrap().reason.clone();
        assert_eq!((refused.code(), &*reason), (Code::Unavailable, "STORAGE_FAILED"));
    }
    let counted = Scrape::of(&gateway).await;
    let series = r#"tidings_publishes_refused_total{reason="STORAGE_FAILED"}"#;
    assert_eq!(counted.value(series), f64::from(CALLS), "every one is counted");
    assert_eq!(gateway.readiness().await, (503, "store failed\n".to_owned()));
    assert_eq!(gateway.liveness().await, (503, "store failed: restart\n".to_owned()));
    gateway.terminate();
    let ended = gateway.wait().await;
    let count = |text: &str| ended.stderr.lines().filter(|line| line.contains(text)).count();
    assert_eq!((ended.code, count("the store failed and takes no more writes")), (Some(1), 1), "{ended:#?}");
    assert_eq!(count("stopped: the store failed while the gateway ran"), 1, "{ended:#?}");
    let lines = 1 + failed.elapsed().as_secs() / LOG_INTERVAL.as_secs();
    assert!((1..=lines).contains(&(count("calls fail since storage failed") as u64)), "{ended:#?}");

    let gateway = launcher.start().await;
    let counts = gateway.client.counts(&subscribed.name).await;
    assert_eq!(counts, Counts { pending: 1, ..Counts::default() }, "what was acknowledged is there");
    gateway.stop().await;
}

/// How a disk that reports room refuses writes.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// Those of subscriptions, access tokens and audit records.
    Quota,
    /// Those that make a file longer.
    FileSize,
}

async fn a_disk_that_reports_room_loses_nothing(refusal: Refusal) {
    let (interposer, launcher) = (Interposer::new(), Launcher::new());
    let gateway = match refusal {
        Refusal::Quota => interposer.watching(&launcher, launcher.dir()).start().await,
        Refusal::FileSize => launcher.start().await,
    };
    let receiver = Receiver::start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    match refusal {
        Refusal::Quota => {
            interposer.refuse_writes(rustix::io::Errno::DQUOT.raw_os_error(), "/store/");
        }
        Refusal::FileSize => {
            limit_files(&gateway, fs::metadata(launcher.data_dir().join("store/db")).unwrap().len() + 1000);
        }
    }
    let mut made = Vec::new();
    let refused = loop {
        let url = receiver.url(&format!("/{}", made.len()));
        match gateway.client.try_subscribe(ACCOUNT, subscription(url)).await {
            Ok(subscribed) => made.push(subscribed.name),
            Err(refused) => break refused,
        }
        assert!(made.len() < 10_000, "there is room for all");
    };
    for _ in 0..3 {
        let refused = gateway.client.try_pause(&subscribed.name).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert_eq!(refused.get_error_details().error_info().unwrap().reason, "DISK_FULL", "{refused:?}");
    }
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(gateway.readiness().await, (200, "ready\n".to_owned()));
    if matches!(refusal, Refusal::Quota) {
        gateway.client.try_publish(request("meanwhile", 1)).await.unwrap();
        gateway.client.counts_when(&subscribed.name, "it is delivered", |c| c.succeeded == 1).await;
    }

    match refusal {
        Refusal::Quota => interposer.take_writes(),
        Refusal::FileSize => limit_files(&gateway, rlimit::INFINITY),
    }
    let pause = async || gateway.client.try_pause(&subscribed.name).await.is_ok();
    eventually("changed", pause, |paused| *paused).await;
    let all = gateway.client.all_subscriptions("accounts/1").await;
    assert!(made.iter().all(|name| all.iter().any(|other| other.name == *name)), "{made:?}");
    let records = gateway.client.audit_records().await;
    assert!(records.len() > made.len(), "{records:?}");
    end(gateway, End::Kill).await;
    let gateway = launcher.start().await;
    let known = |all: &[v1::Subscription]| -> Vec<_> {
        all.iter().map(|one| (one.name.clone(), one.state, one.etag.clone())).collect()
    };
    assert_eq!(known(&gateway.client.all_subscriptions("accounts/1").await), known(&all));
    gateway.stop().await;
}

#[tokio::test]
async fn a_quota_refuses_changes_until_there_is_room_without_a_restart() {
    a_disk_that_reports_room_loses_nothing(Refusal::Quota).await;
}

#[tokio::test]
async fn a_limit_on_file_sizes_refuses_changes_until_there_is_room_without_a_restart() {
    a_disk_that_reports_room_loses_nothing(Refusal::FileSize).await;
}
