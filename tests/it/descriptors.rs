//! File descriptors that run out: the bounds on connections follow the limit, and a lack of descriptors is told
//! from a full disk and from a failing endpoint.

use std::time::Duration;

use rlimit::Resource;
use tidings::proto::v1::{self, subscription::State};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    client::{Counts, retry_policy, subscription},
    events::{contact, long_message, publish_request},
    eventually,
    interposer::Interposer,
    process::{Launcher, TidingsProcess},
    receiver::Receiver,
    scrape::Scrape,
};

const ACCOUNT: i64 = 1;
const EVENT_BYTES: usize = 50_000;
/// Lines that would be untrue while only descriptors are missing.
const UNTRUE: [&str; 3] = ["the store failed", "there is no room", "disk is full"];

/// With a log of small files: publishing needs a new one soon.
fn launcher() -> Launcher {
    Launcher::new().with("retention-bytes-max", "16MiB")
}

fn large(number: i64) -> v1::PublishEventRequest {
    publish_request(ACCOUNT, &format!("e{number}"), long_message(ACCOUNT, 1, number + 1, EVENT_BYTES))
}

/// From now on the gateway opens nothing more, or as much as it may.
fn limit_open_files(gateway: &TidingsProcess, count: Option<u64>) {
    let pid = i32::try_from(gateway.pid()).unwrap();
    let (mut soft, mut hard) = (0, 0);
    rlimit::prlimit(pid, Resource::NOFILE, None, Some((&mut soft, &mut hard))).unwrap();
    rlimit::prlimit(pid, Resource::NOFILE, Some((count.unwrap_or(hard), hard)), None).unwrap();
}

fn assert_true(log: &[String]) {
    let untrue = log.iter().find(|line| UNTRUE.iter().any(|text| line.contains(text)));
    assert_eq!(untrue, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_under_a_low_limit_leaves_the_store_and_the_probes_their_descriptors() {
    const LIMIT: u64 = 400;
    const CONNECTIONS: usize = 600;
    const EVENTS: i64 = 60;
    let receiver = Receiver::start().await;
    let gateway = launcher().with_open_files_up_to(LIMIT).start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    let mut flood = Vec::new();
    for _ in 0..CONNECTIONS {
        flood.push(TcpStream::connect(gateway.grpc).await.unwrap());
    }
    // Log files are begun, events delivered, and probes answered.
    for number in 0..EVENTS {
        gateway.client.try_publish(large(number)).await.unwrap();
        assert_eq!(gateway.liveness().await, (200, "ok\n".to_owned()));
    }
    gateway.client.nothing_owed(ACCOUNT).await;
    let counts = gateway.client.counts(&subscribed.name).await;
    assert_eq!(counts, Counts { succeeded: usize::try_from(EVENTS).unwrap(), ..Counts::default() });
    let scrape = Scrape::of(&gateway).await;
    assert_eq!(scrape.sum("tidings_accepts_failed_total"), 0.0, "the bounds come first");
    assert_eq!(scrape.value("tidings_attempts_postponed_total"), 0.0);
    drop(flood);
    gateway.another_client().await.nothing_owed(ACCOUNT).await;
    let log = gateway.stop().await;
    assert!(
        log.iter().any(|line| line.contains("the limit of open files is too low for the bounds")),
        "{log:#?}"
    );
    assert_true(&log);
}

#[tokio::test]
async fn a_limit_that_is_too_low_for_a_gateway_refuses_the_start_and_says_so() {
    let refusal = launcher().with_open_files_up_to(100).refusal().await;
    let last = refusal.lines().last().unwrap();
    assert!(
        last.contains("the limit of open files is 100, and") && last.contains("LimitNOFILE"),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_that_run_out_refuse_no_event_as_a_full_disk_and_blame_no_endpoint() {
    let receiver = Receiver::start().await;
    let gateway = launcher().with("suspend-after", "1s").start().await;
    let retry_policy = retry_policy(1, Duration::from_millis(10), Duration::from_millis(10));
    let asked = v1::Subscription { retry_policy, ..subscription(receiver.url("/")) };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked).await;
    limit_open_files(&gateway, Some(3));

    // It waits to be accepted.
    let mut waiting = TcpStream::connect(gateway.http).await.unwrap();
    let (mut published, mut refused) = (0, None);
    while refused.is_none() {
        refused = gateway.client.try_publish(large(published)).await.err();
        published += i64::from(refused.is_none());
        assert!(published < 1000, "nothing was refused");
    }
    let refused = refused.unwrap();
    let details = refused.get_error_details();
    assert_eq!(
        (refused.code(), &*details.error_info().unwrap().reason),
        (Code::ResourceExhausted, "OVERLOADED")
    );
    assert!(refused.message().contains("no file descriptor is free"), "{refused:?}");
    assert!(details.retry_info().is_some());
    // Every attempt is postponed for as long as a failing endpoint would be suspended after.
    let mut byte = [0];
    assert!(timeout(Duration::from_millis(2500), waiting.read(&mut byte)).await.is_err(), "it is not served");
    let counts = gateway.client.counts(&subscribed.name).await;
    let stored = usize::try_from(published).unwrap();
    assert_eq!(counts, Counts { pending: stored, ..Counts::default() }, "nothing is recorded of them");
    receiver.assert_never_connected().await;

    limit_open_files(&gateway, None);
    let counts = gateway.client.counts_when(&subscribed.name, "all there", |c| c.owed() == 0).await;
    assert_eq!(counts, Counts { succeeded: stored, ..Counts::default() }, "the only attempt was not used up");
    assert_eq!(gateway.client.subscription(&subscribed.name).await.state(), State::Active);
    gateway.client.publish_when_there_is_room(publish_request(ACCOUNT, "late", contact(ACCOUNT))).await;
    let delivery =
        gateway.client.delivery_in(&subscribed.delivery("late"), v1::delivery::State::Succeeded).await;
    assert_eq!(delivery.attempt_count(), 1);
    assert_eq!(gateway.liveness().await, (200, "ok\n".to_owned()));
    let scrape = Scrape::of(&gateway).await;
    assert!(scrape.value("tidings_attempts_postponed_total") > 0.0);
    assert!(scrape.value(r#"tidings_accepts_failed_total{listener="http_listen"}"#) > 0.0);
    assert_eq!(scrape.value(r#"tidings_attempts_total{outcome="connect"}"#), 0.0);
    gateway.terminate();
    let ended = gateway.wait().await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let log = ended.log();
    let said = |text: &str| log.iter().filter(|line| line.contains(text)).count();
    assert!((1..=5).contains(&said("cannot accept connections")), "{log:#?}");
    assert!((1..=5).contains(&said("no file descriptor was free for a connection")), "{log:#?}");
    assert!(said("no file descriptor is free for the next log file") == 1, "{log:#?}");
    assert_true(&log);
}

#[tokio::test]
async fn a_change_of_a_subscription_without_a_descriptor_is_refused_and_possible_again_later() {
    let (interposer, launcher) = (Interposer::new(), Launcher::new());
    let gateway = interposer.watching(&launcher, launcher.dir()).start().await;
    let subscribed = gateway.client.subscribe(ACCOUNT, subscription("http://127.0.0.1:9/")).await;
    // sled opens files now and then, and gives up at the first error.
    interposer.refuse_writes(rustix::io::Errno::MFILE.raw_os_error(), "/store/");
    let pause = async || gateway.client.try_pause(&subscribed.name).await;
    let refused = eventually("refused", pause, Result::is_err).await.unwrap_err();
    let reason = refused.get_error_details().error_info().unwrap().reason.clone();
    assert_eq!((refused.code(), &*reason), (Code::ResourceExhausted, "OVERLOADED"));
    gateway.client.try_publish(large(1)).await.unwrap();
    assert_eq!(gateway.readiness().await, (200, "ready\n".to_owned()));
    interposer.take_writes();
    eventually("changed", pause, Result::is_ok).await.unwrap();
    gateway.terminate();
    let ended = gateway.wait().await;
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_true(&ended.log());
}
