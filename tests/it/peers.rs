//! What stops other gateways must not move this one: endpoints that hang, never end, flood or ask for
//! patience, gateways that are killed, and clients that break off. With each of them, healthy receivers get 100
//! events a second all the while.
//!
//! Machines are noisy. So these tests look at the order of events, and at medians with a wide margin; how far
//! a healthy endpoint's latency may move at most is measured by the benchmark.

use std::{collections::BTreeSet, time::Duration};

use tidings::proto::v1::{self, delivery::State, delivery_attempt::Outcome};
use tokio::time::{Instant, sleep};

use crate::support::{
    client::{Client, attempts, duration, subscription},
    events,
    events::publish_request,
    process::{Launcher, TidingsProcess},
    receiver::{Receiver, Request, Response},
    tcp_relay::TcpRelay,
};

mod healthy;
mod hostile;

use healthy::Healthy;

/// The account of the healthy endpoint, and another one.
const ACCOUNT: i64 = 1;
const OTHER_ACCOUNT: i64 = 2;
/// The longest timeout that a subscription may have: hanging attempts last until the end of the test.
const HANGS: Duration = Duration::from_secs(30);
/// A healthy median has moved if it grew by this factor, and to this long.
const MOVED_FACTOR: u32 = 10;
const MOVED: Duration = Duration::from_millis(250);

/// A message. Eleven conversations, in turn.
fn message(account: i64, number: i64) -> v1::Event {
    events::message(account, number % 11 + 1, number)
}

#[track_caller]
fn assert_not_moved(without: Duration, with: Duration) {
    assert!(
        with <= MOVED || with <= without * MOVED_FACTOR,
        "the median of healthy deliveries went from {without:?} to {with:?}"
    );
}

/// Attempts cut off at the end of these tests need no wait.
fn launcher() -> Launcher {
    Launcher::new().with("drain-timeout", "100ms")
}

/// An endpoint of `account` hangs for the whole timeout; the healthy endpoint's deliveries continue.
async fn a_hanging_endpoint_moves_nobody(account: i64) {
    const MAX_IN_FLIGHT: usize = 64;
    let (hanging, gateway) = (Receiver::always(Response::nothing()).await, launcher().start().await);
    let healthy = Healthy::start(&gateway, &[OTHER_ACCOUNT]).await;
    let without = healthy.median().await;
    let asked = v1::Subscription {
        timeout: duration(HANGS),
        max_in_flight: i32::try_from(MAX_IN_FLIGHT).unwrap(),
        ..subscription(hanging.url("/hangs"))
    };
    let subscribed = gateway.client.subscribe(account, asked).await;
    let since = Instant::now();
    hanging.wait_for(MAX_IN_FLIGHT).await;
    let with = healthy.median().await;
    // All of it arrived while the other one hung, with as much as may be in flight in vain.
    let counts = gateway.client.counts(&subscribed.name).await;
    assert!(since.elapsed() < HANGS, "too slow a machine for this test");
    assert!(counts.pending > MAX_IN_FLIGHT && counts.all() == counts.pending, "{counts:?}");
    assert_eq!(hanging.seen().len(), MAX_IN_FLIGHT);
    assert_not_moved(without, with);
    healthy.end().await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_endpoint_of_the_account_that_hangs_moves_nobody_else() {
    a_hanging_endpoint_moves_nobody(ACCOUNT).await;
}

#[tokio::test]
async fn an_endpoint_of_another_account_that_hangs_moves_nobody_else() {
    a_hanging_endpoint_moves_nobody(OTHER_ACCOUNT).await;
}

/// Answers 200 and never ends the body: hundreds of attempts of one lane wait for it, and have succeeded.
async fn bodies_without_an_end_delay_nobody(response: Response) {
    const COUNT: i64 = 600;
    const IN_FLIGHT: u16 = 100;
    let (endless, gateway) = (Receiver::always(response).await, launcher().start().await);
    let healthy = Healthy::start(&gateway, &[]).await;
    let without = healthy.median().await;
    let asked = v1::Subscription {
        timeout: duration(Duration::from_secs(1)),
        max_in_flight: IN_FLIGHT.into(),
        retry_policy: attempts(1),
        ..subscription(endless.url("/endless"))
    };
    let subscribed = gateway.client.subscribe(OTHER_ACCOUNT, asked).await;
    publish_batch(&gateway.client, OTHER_ACCOUNT, 1..=COUNT).await;
    let with = healthy.median().await;
    assert!(!endless.seen().is_empty());
    // All that may be in flight at once, and more.
    let counts =
        gateway.client.counts_when(&subscribed.name, "taken", |c| c.succeeded > IN_FLIGHT.into()).await;
    assert_eq!(i64::try_from(counts.succeeded + counts.owed()), Ok(COUNT), "{counts:?}");
    let taken = gateway.client.deliveries_in(OTHER_ACCOUNT, &[State::Succeeded]).await;
    assert!(taken.len() >= counts.succeeded);
    for delivery in &taken {
        let [attempt] = &*delivery.attempts else { panic!("{delivery:#?}") };
        assert_eq!((attempt.outcome(), attempt.http_status), (Outcome::Ok, 200), "{delivery:#?}");
    }
    assert_not_moved(without, with);
    healthy.end().await;
    gateway.stop().await;
}

#[tokio::test]
async fn responses_that_stop_in_their_body_succeed_and_delay_nobody_else() {
    bodies_without_an_end_delay_nobody(Response::stalled_body()).await;
}

#[tokio::test]
async fn responses_that_trickle_without_an_end_succeed_and_delay_nobody_else() {
    bodies_without_an_end_delay_nobody(Response::trickled_body(Duration::from_millis(100))).await;
}

#[tokio::test]
async fn huge_responses_take_no_memory() {
    const RESPONSE_BYTES: usize = 100 << 20;
    const COUNT: i64 = 20;
    const GROWTH_BYTES_MAX: u64 = 10_000_000;
    let huge = format!("HTTP/1.1 200 OK\r\ncontent-length: {RESPONSE_BYTES}\r\n\r\n");
    let huge = Response::repeat(&huge, "x");
    let (huge, gateway) = (Receiver::always(huge).await, launcher().start().await);
    let healthy = Healthy::start(&gateway, &[]).await;
    let without = healthy.median().await;
    let asked = v1::Subscription { max_in_flight: 20, ..subscription(huge.url("/huge")) };
    gateway.client.subscribe(OTHER_ACCOUNT, asked).await;
    let before = gateway.peak_resident_bytes();
    publish_batch(&gateway.client, OTHER_ACCOUNT, 1..=COUNT).await;
    huge.wait_for(usize::try_from(COUNT).unwrap()).await;
    let with = healthy.median().await;
    gateway.client.nothing_owed(OTHER_ACCOUNT).await;
    // The status decides, even if the body is incomplete.
    let taken = gateway.client.deliveries_in(OTHER_ACCOUNT, &[State::Succeeded]).await;
    assert_eq!(i64::try_from(taken.len()), Ok(COUNT));
    let grown = gateway.peak_resident_bytes() - before;
    assert!(
        grown <= GROWTH_BYTES_MAX,
        "{COUNT} responses of {RESPONSE_BYTES} bytes took {grown} bytes of memory"
    );
    assert_not_moved(without, with);
    healthy.end().await;
    gateway.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_asks_for_a_delay_gets_it() {
    const ASKED: Duration = Duration::from_secs(3);
    let cases = [
        (OTHER_ACCOUNT, Some(Response::with_header(429, "retry-after", ASKED.as_secs()))),
        // No word of how long: the subscription's own policy says it, at most 50 ms here.
        (OTHER_ACCOUNT + 1, None),
    ];
    let gateway = launcher().start().await;
    let healthy = Healthy::start(&gateway, &[]).await;
    let without = healthy.median().await;
    let mut receivers = Vec::new();
    for (account, first) in cases {
        let asks = first.is_some();
        let receiver = Receiver::first([first.unwrap_or(Response::status(429))]).await;
        gateway.client.subscribe(account, subscription(receiver.url("/busy"))).await;
        gateway.client.publish(account, message(account, 1)).await;
        receivers.push((account, asks, receiver));
    }
    let with = healthy.median().await;
    for (account, asks, receiver) in receivers {
        let seen = receiver.wait_for(2).await;
        let waited = seen[1].at - seen[0].at;
        assert_eq!(waited >= ASKED, asks, "came back after {waited:?}");
        assert_eq!((seen[0].webhook_id(), &seen[0].body), (seen[1].webhook_id(), &seen[1].body));
        gateway.client.nothing_owed(account).await;
        assert_eq!(receiver.seen().len(), 2);
    }
    assert_not_moved(without, with);
    healthy.end().await;
    gateway.stop().await;
}

#[tokio::test]
async fn deliveries_in_flight_at_a_kill_are_attempted_again_at_once() {
    const BACKLOG: i64 = 3_000;
    const MAX_IN_FLIGHT: usize = 32;
    const WITHIN: Duration = Duration::from_secs(3);
    let (receiver, launcher) = (Receiver::always(Response::nothing()).await, launcher());
    let gateway = launcher.start().await;
    let asked = v1::Subscription {
        timeout: duration(HANGS),
        max_in_flight: i32::try_from(MAX_IN_FLIGHT).unwrap(),
        ..subscription(receiver.url("/"))
    };
    gateway.client.subscribe(ACCOUNT, asked).await;
    publish_batch(&gateway.client, ACCOUNT, 1..=BACKLOG).await;
    let before = receiver.wait_for(MAX_IN_FLIGHT).await;
    gateway.kill().await;
    receiver.now(|_| Response::status(200));

    let started = Instant::now();
    let gateway = launcher.start().await;
    let in_flight: BTreeSet<_> = before.iter().map(Request::message_number).collect();
    let are_back = |seen: &[Request]| {
        let again = || seen[MAX_IN_FLIGHT..].iter().map(Request::message_number).collect();
        seen.len() >= 2 * MAX_IN_FLIGHT && in_flight.is_subset(&again())
    };
    let seen = receiver.wait_until("those in flight again", are_back).await;
    let again = seen[MAX_IN_FLIGHT..].iter().filter(|request| in_flight.contains(&request.message_number()));
    let took = again.map(|request| request.at - started).max().unwrap();
    assert!(took <= WITHIN, "those in flight came back after {took:?}");
    gateway.client.nothing_owed(ACCOUNT).await;
    assert_eq!(receiver.seen().len(), MAX_IN_FLIGHT + usize::try_from(BACKLOG).unwrap());
    gateway.stop().await;
}

#[tokio::test]
async fn a_kill_with_a_hanging_endpoint_repeats_only_attempts_in_flight() {
    const COUNT: i64 = 1_000;
    const MAX_IN_FLIGHT: usize = 32;
    let (healthy, hanging) = (Receiver::start().await, Receiver::always(Response::nothing()).await);
    let launcher = launcher();
    let gateway = launcher.start().await;
    let asked = |url| v1::Subscription {
        timeout: duration(HANGS),
        max_in_flight: i32::try_from(MAX_IN_FLIGHT).unwrap(),
        ..subscription(url)
    };
    let subscribed = gateway.client.subscribe(ACCOUNT, asked(healthy.url("/"))).await;
    gateway.client.subscribe(ACCOUNT, asked(hanging.url("/"))).await;
    publish_batch(&gateway.client, ACCOUNT, 1..=COUNT).await;
    hanging.wait_for(MAX_IN_FLIGHT).await;
    healthy.wait_for(usize::try_from(COUNT / 2).unwrap()).await;
    gateway.kill().await;

    let gateway = launcher.start().await;
    gateway.client.counts_when(&subscribed.name, "all delivered", |counts| counts.owed() == 0).await;
    hanging.wait_for(2 * MAX_IN_FLIGHT).await;
    let seen = healthy.seen();
    let taken = seen.iter().filter(|request| request.taken).map(Request::message_number);
    assert_eq!(taken.collect::<BTreeSet<_>>(), (1..=COUNT).collect());
    let again = seen.len() - usize::try_from(COUNT).unwrap();
    assert!(again <= MAX_IN_FLIGHT, "{again} were sent twice to an endpoint that took all of them");
    gateway.stop().await;
}

/// How a client loses its response.
#[derive(Clone, Copy, Debug)]
enum Loses {
    /// It gives the call up, so long after it began.
    Call(Duration),
    /// Its connection breaks, so long after the call began.
    Connection(Duration),
    /// Its connection breaks once the event is stored, before the response.
    Response,
}

#[tokio::test]
async fn a_client_that_breaks_off_and_repeats_gets_the_first_response() {
    let gateway = launcher().start().await;
    let healthy = Healthy::start(&gateway, &[]).await;
    let receiver = Receiver::start().await;
    gateway.client.subscribe(OTHER_ACCOUNT, subscription(receiver.url("/"))).await;
    let without = healthy.median().await;
    let mut stored_first = 0;
    for number in 1..=40_i64 {
        let moment = Duration::from_micros(50) * u32::try_from(number).unwrap();
        let loses = match number % 3 {
            0 => Loses::Response,
            1 => Loses::Call(moment),
            _ => Loses::Connection(moment),
        };
        break_off(&gateway, &receiver, number, loses).await;
        let id = format!("e{number}");
        let repeated = gateway.client.publish_as(OTHER_ACCOUNT, &id, message(OTHER_ACCOUNT, number)).await;
        assert!(repeated.duplicate || !matches!(loses, Loses::Response), "{repeated:?}");
        stored_first += usize::from(repeated.duplicate);
        let again = gateway.client.publish_as(OTHER_ACCOUNT, &id, message(OTHER_ACCOUNT, number)).await;
        assert_eq!(again, v1::PublishResult { duplicate: true, ..repeated }, "{loses:?}");
        assert_eq!(again.delivery_count(), 1);
    }
    assert!(stored_first >= 13, "only {stored_first} had been stored when their client broke off");
    let with = healthy.median().await;
    gateway.client.nothing_owed(OTHER_ACCOUNT).await;
    assert_eq!(gateway.client.stored_events(OTHER_ACCOUNT).await.len(), 40);
    assert_eq!(receiver.seen().len(), 40);
    assert_not_moved(without, with);
    healthy.end().await;
    gateway.stop().await;
}

/// Publishes an event by a client that never gets its response.
async fn break_off(gateway: &TidingsProcess, receiver: &Receiver, number: i64, loses: Loses) {
    let relay = TcpRelay::to(gateway.grpc, !matches!(loses, Loses::Response)).await;
    let client = gateway.client_at(relay.address).await;
    let call = tokio::spawn(async move {
        let event = message(OTHER_ACCOUNT, number);
        drop(client.try_publish(publish_request(OTHER_ACCOUNT, &format!("e{number}"), event)).await);
    });
    match loses {
        Loses::Call(moment) => {
            sleep(moment).await;
            call.abort();
        }
        Loses::Connection(moment) => {
            sleep(moment).await;
            relay.cut().await;
        }
        Loses::Response => {
            let arrived = |seen: &[Request]| seen.iter().any(|request| request.message_number() == number);
            receiver.wait_until("the event", arrived).await;
            relay.cut().await;
        }
    }
}

async fn publish_batch(client: &Client, account: i64, numbers: impl Iterator<Item = i64>) {
    client.publish_all(numbers.map(|number| publish_request(account, "", message(account, number)))).await;
}
