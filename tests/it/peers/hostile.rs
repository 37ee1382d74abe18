//! Hostile endpoints, many kinds of them at once: each gets attempts that end in time, and delays no other.

use std::{collections::BTreeMap, time::Duration};

use tidings::proto::v1::{
    self,
    delivery::State,
    delivery_attempt::Outcome::{self, Io, Ok, Timeout},
};

use super::{OTHER_ACCOUNT, launcher, publish_batch};
use crate::{
    it::peers::healthy::Healthy,
    support::{
        client::{attempts, duration, subscription},
        receiver::{Receiver, Response},
    },
};

/// Deliveries to each endpoint, and how many of them at once.
const COUNT: usize = 12;
const AT_ONCE: i32 = 4;
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// The same where it is not to run out, on a machine that has much else to do.
const LONG_TIMEOUT: Duration = Duration::from_secs(30);

/// Endpoints that succeed, and hold their places until the timeout.
const HANGING: [&str; 2] = ["a body that trickles", "a body that stops"];

fn timeout_for(what: &str, outcome: Outcome) -> Duration {
    if outcome == Timeout || HANGING.contains(&what) { ATTEMPT_TIMEOUT } else { LONG_TIMEOUT }
}
/// How much more memory the gateway may ever have had than before.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

fn chunked(rest: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{rest}")
}

/// The behaviour of an endpoint, and how each of its deliveries ends.
fn endpoints() -> Vec<(&'static str, Response, Outcome)> {
    let head = "HTTP/1.1 200 OK\r\n";
    let long = "y".repeat(4000);
    vec![
        ("a body without an end", Response::endless_body(), Ok),
        ("a body that trickles", Response::trickled_body(Duration::from_millis(50)), Ok),
        ("a body that stops", Response::stalled_body(), Ok),
        (
            "a body that was announced with 9 GB",
            Response::flood(&format!("{head}content-length: 9000000000\r\n\r\n"), "x"),
            Ok,
        ),
        ("small chunks", Response::flood(&chunked(""), &format!("40\r\n{}\r\n", "x".repeat(64))), Ok),
        ("an invalid size", Response::bytes(chunked("zz\r\n")), Ok),
        ("a size without an end", Response::flood(&chunked(""), "f"), Ok),
        ("extensions without an end", Response::flood(&chunked("1;"), "x"), Ok),
        ("trailers without an end", Response::flood(&chunked("0\r\n"), "x: y\r\n"), Ok),
        ("a header without an end", Response::flood(&format!("{head}x: "), "y"), Io),
        ("headers without an end", Response::flood(head, "x: y\r\n"), Io),
        ("long headers without an end", Response::flood(head, &format!("x: {long}\r\n")), Io),
        ("100 Continue for ever", Response::flood("", "HTTP/1.1 100 Continue\r\n\r\n"), Timeout),
        (
            "103 with long headers for ever",
            Response::flood("", &format!("HTTP/1.1 103 x\r\nl: {long}\r\n\r\n")),
            Timeout,
        ),
        ("garbage without an end", Response::flood("", "\u{1}\u{2}"), Io),
        ("zeros", Response::Bytes(vec![0; 1 << 20]), Io),
        ("no response", Response::nothing(), Timeout),
        ("half a head", Response::half_head(), Io),
        ("half a body", Response::half_body(), Ok),
        ("the end of the connection", Response::close(), Io),
    ]
}

#[tokio::test]
async fn endpoints_that_mean_harm_get_their_attempts_and_nothing_else() {
    // A lane whose endpoint gives no response is slowed down: not so much that the test takes long.
    let gateway = launcher().with("throttle-wait-max", "100ms").start().await;
    let healthy = Healthy::start(&gateway, &[]).await;
    let without = healthy.median().await;
    let mut hostile = Vec::new();
    for (what, response, outcome) in endpoints() {
        let receiver = Receiver::always(response).await;
        let asked = v1::Subscription {
            timeout: duration(timeout_for(what, outcome)),
            max_in_flight: AT_ONCE,
            retry_policy: attempts(1),
            ..subscription(receiver.url("/hostile"))
        };
        let name = gateway.client.subscribe(OTHER_ACCOUNT, asked).await.name;
        hostile.push((what, name, outcome, receiver));
    }
    let before = gateway.peak_resident_bytes();
    publish_batch(&gateway.client, OTHER_ACCOUNT, 1..=i64::try_from(COUNT).unwrap()).await;
    let with = healthy.median().await;
    for (_, name, ..) in &hostile {
        gateway.client.counts_when(name, "over", |counts| counts.owed() == 0 && counts.all() == COUNT).await;
    }
    let grown = gateway.peak_resident_bytes() - before;

    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    let deliveries = gateway.client.deliveries_in(OTHER_ACCOUNT, &[]).await;
    for (what, name, outcome, _receiver) in &hostile {
        let of_one: Vec<_> = deliveries.iter().filter(|delivery| delivery.name.starts_with(name)).collect();
        assert_eq!(of_one.len(), COUNT, "{what}");
        for delivery in of_one {
            let [attempt] = &*delivery.attempts else { panic!("{what}: {delivery:#?}") };
            assert_eq!(attempt.outcome(), *outcome, "{what}: {attempt:?}");
            let expected = if *outcome == Ok { State::Succeeded } else { State::Failed };
            assert_eq!(delivery.state(), expected, "{what}");
            let took: Duration = attempt.duration.unwrap().try_into().unwrap();
            assert!(took < timeout_for(what, *outcome) * 8, "{what}: {took:?}");
            assert!(attempt.response_body.len() <= 4096, "{what}: {}", attempt.response_body.len());
            *outcomes.entry(outcome.as_str_name()).or_default() += 1;
        }
    }
    println!("{} attempts: {outcomes:?}; {} KiB more memory", hostile.len() * COUNT, grown / 1024);
    println!("the median of healthy deliveries went from {without:?} to {with:?}");
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes");
    // Whoever waited for them would wait for attempts to run out of time.
    assert!(with < ATTEMPT_TIMEOUT, "the median of healthy deliveries went from {without:?} to {with:?}");
    healthy.end().await;
    gateway.stop().await;
}
