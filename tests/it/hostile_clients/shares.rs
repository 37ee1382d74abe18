//! Callers that take all that they are given: the others keep theirs, and memory stays within stated bounds. With
//! default settings.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use super::{ACCOUNT, Attacked, Tried, calls, calls::Calls, side_by_side};
use crate::support::{
    events::long_message,
    process::Launcher,
    raw_http2::{self, DATA, END_HEADERS, END_STREAM, HEADERS, RawHttp2, frame},
    scrape::Scrape,
};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const DEADLINE_EXCEEDED: u32 = 4;
/// As many as a connection may have.
const STREAMS: u32 = 512;
const CONNECTIONS: usize = 8;
/// Calls that are not refused by then are kept.
const LONGER: Duration = Duration::from_secs(5);

/// Opens calls of a method on many connections, each with these headers more, and keeps them for a while.
async fn open_calls(address: SocketAddr, until: Instant, path: &'static str, more: Vec<u8>) -> Tried {
    side_by_side(CONNECTIONS, move |_| {
        let more = more.clone();
        async move {
            let mut raw = RawHttp2::greeted(address, &[]).await;
            let call = [raw_http2::call_headers(path, None), more].concat();
            let calls = (0..STREAMS).flat_map(|number| frame(HEADERS, END_HEADERS, 2 * number + 1, &call));
            drop(raw.send(&calls.collect::<Vec<_>>()).await);
            // Refusals end their streams, after a second. A stream of reflection only begins.
            let mut refused = 0;
            while let Ok(Some(frame)) = tokio::time::timeout_at(until + LONGER, raw.next()).await {
                refused += u64::from([HEADERS, DATA].contains(&frame.kind) && frame.flags & END_STREAM != 0);
            }
            Tried { tries: STREAMS.into(), refused }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn open_calls_without_a_token_take_bounded_memory() {
    for (path, reason, most) in [
        (CHECK, "health_checks", 512),
        (REFLECTION, "reflections", 32),
        (WATCH, "connection_streams", 128 * CONNECTIONS as u64),
    ] {
        let attacked = Attacked::start(&Launcher::new()).await;
        let attack = move |address, until| open_calls(address, until, path, vec![]);
        let tried = attacked.under(&format!("4,096 calls of {path}"), 0, attack).await;
        assert!(tried.tries - tried.refused <= most, "{path}: {tried:?}");
        let refused = Scrape::of(&attacked.gateway).await.counted("tidings_grpc_calls_refused_total");
        assert!(refused[reason] > 0.0, "{refused:?}");
        attacked.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_repeats_open_calls_without_end_is_refused_late_and_nobody_else_is() {
    const AT_ONCE: usize = 250;
    const RESOURCE_EXHAUSTED: u32 = 8;
    let gateway = Launcher::new().start().await;
    let calls = Calls::connect(gateway.grpc).await;
    let check = raw_http2::message(false, 0, &[]);
    let mut answered = 0;
    let refused_after = loop {
        let begin = Instant::now();
        let wave = (0..AT_ONCE).map(|_| calls.call(CHECK, "identity", check.clone()));
        let statuses = futures_util::future::join_all(wave).await;
        if statuses.contains(&Some(RESOURCE_EXHAUSTED)) {
            break begin.elapsed();
        }
        assert!(statuses.iter().all(|status| *status == Some(0)), "{statuses:?}");
        answered += AT_ONCE;
        assert!(answered < 100_000, "nothing is refused");
    };
    assert!(answered >= 6_000, "refused after {answered}");
    assert!(refused_after >= Duration::from_secs(1), "refused within {refused_after:?}");
    let other = Calls::connect_from(Ipv4Addr::new(127, 0, 0, 2), gateway.grpc).await;
    assert_eq!(other.call(CHECK, "identity", check).await, Some(0), "another address");
    let refused = Scrape::of(&gateway).await.counted("tidings_grpc_calls_refused_total");
    assert!(refused["open_calls"] > 0.0, "{refused:?}");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn headers_that_are_short_on_the_wire_take_bounded_memory() {
    let attacked = Attacked::start(&Launcher::new()).await;
    // `a: ` is remembered, and then repeated with a byte each.
    let more = [&[0x40, 1, b'a', 0][..], &[0xbe; 430]].concat();
    let attack = move |address, until| open_calls(address, until, CHECK, more);
    let tried = attacked.under("calls with 431 headers more", 0, attack).await;
    assert_eq!(tried.refused, tried.tries);
    attacked.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_whose_message_does_not_come_ends_after_the_time_for_a_message() {
    const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
    let gateway = Launcher::new().start().await;
    let calls = Calls::connect(gateway.grpc).await;
    let began = Instant::now();
    let mut waiting = Vec::new();
    for path in [CHECK, WATCH, "/tidings.v1.EventService/PublishEvent", "/tidings.v1.EventService/ListEvents"]
    {
        let (parts, response) = calls.open(path);
        waiting.push((path, parts, tokio::spawn(response)));
    }
    for (path, parts, response) in waiting {
        let response = tokio::time::timeout(MESSAGE_TIMEOUT * 3, response).await.expect("it ends");
        let status = calls::status(response.unwrap().unwrap()).await;
        assert_eq!(status, Some(DEADLINE_EXCEEDED), "{path}");
        assert!(began.elapsed() >= MESSAGE_TIMEOUT, "{path} after {:?}", began.elapsed());
        drop(parts);
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn unfinished_messages_of_callers_without_a_token_leave_the_others_theirs() {
    let attacked = Attacked::start(&Launcher::new()).await;
    let tried = attacked
        .under("messages of 4 MiB of health checks, but for the last byte", 0, |address, until| {
            side_by_side(5, move |_| async move {
                let calls = Calls::connect(address).await;
                let mut tried = Tried::default();
                let mut open = Vec::new();
                for _ in 0..16 {
                    let (parts, response) = calls.open(CHECK);
                    let most = raw_http2::message(false, 4 << 20, &vec![10; (4 << 20) - 1]);
                    drop(parts.send(Ok(hyper::body::Frame::data(most.into()))));
                    open.push((parts, response));
                }
                for (parts, response) in open {
                    let ended = tokio::time::timeout_at(until + Duration::from_secs(20), response).await;
                    tried += Tried { tries: 1, refused: u64::from(ended.is_ok()) };
                    drop(parts);
                }
                tried
            })
        })
        .await;
    assert_eq!(tried.refused, tried.tries);
    attacked.healthy.publish(ACCOUNT, long_message(ACCOUNT, 1, 1, 100_000)).await;
    attacked.end().await;
}
