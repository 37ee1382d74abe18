//! A lane slows down when its endpoint asks for it or gives no response, and speeds up again.

use std::time::Duration;

use tidings::proto::v1;
use tokio::time::sleep;

use crate::support::{
    client::{Client, attempts, subscription},
    events::{message, publish_request},
    process::Launcher,
    receiver::{Receiver, Response},
    scrape::Scrape,
};

const ACCOUNT: i64 = 1;
const SLOWED: &str = "tidings_lanes_slowed";

async fn publish(client: &Client, count: i64) {
    client.publish_all((1..=count).map(|n| publish_request(ACCOUNT, "", message(ACCOUNT, n, n)))).await;
}

fn asked(url: String, max_in_flight: i32) -> v1::Subscription {
    v1::Subscription { retry_policy: attempts(50), max_in_flight, ..subscription(url) }
}

#[tokio::test]
async fn retry_after_delays_the_whole_lane() {
    for status in [429, 503] {
        let receiver = Receiver::first([Response::with_header(status, "retry-after", 2)]).await;
        let gateway = Launcher::new().start().await;
        gateway.client.subscribe(ACCOUNT, asked(receiver.url("/"), 1)).await;
        publish(&gateway.client, 40).await;
        Scrape::when(&gateway, "slowed", |scrape| scrape.value(SLOWED) > 0.0).await;
        gateway.client.nothing_owed(ACCOUNT).await;
        let seen = receiver.seen();
        assert_eq!(seen.len(), 41);
        let waited = seen[1].at - seen[0].at;
        assert!(waited >= Duration::from_millis(1_950), "{status}: the next came after {waited:?} already");
        Scrape::reaches(&gateway, &[(SLOWED, 0.0)]).await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn without_a_time_the_lane_goes_slower_and_comes_back() {
    const REFUSED: usize = 4;
    let receiver = Receiver::first(vec![Response::status(429); REFUSED]).await;
    let gateway = Launcher::new().start().await;
    gateway.client.subscribe(ACCOUNT, asked(receiver.url("/"), 4)).await;
    publish(&gateway.client, 1).await;
    let seen = receiver.wait_for(REFUSED + 1).await;
    let waits: Vec<_> = seen.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect();
    for (wait, least) in waits.iter().zip([95, 195, 395, 795]) {
        assert!(*wait >= least, "{waits:?}");
    }
    assert_eq!(Scrape::value_of(&gateway, SLOWED).await, 1.0);
    publish(&gateway.client, 100).await;
    gateway.client.nothing_owed(ACCOUNT).await;
    Scrape::reaches(&gateway, &[(SLOWED, 0.0)]).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_dead_endpoint_with_much_waiting_costs_few_attempts_and_recovers() {
    const WATCHED: Duration = Duration::from_secs(4);
    const TRIED: &str = "tidings_attempts_total{outcome=\"io\"}";
    let receiver = Receiver::always(Response::close()).await;
    let gateway = Launcher::new().start().await;
    gateway.client.subscribe(ACCOUNT, asked(receiver.url("/"), 32)).await;
    publish(&gateway.client, 1000).await;
    Scrape::reaches(&gateway, &[(SLOWED, 1.0)]).await;
    let before = Scrape::value_of(&gateway, TRIED).await;
    sleep(WATCHED).await;
    let tried = Scrape::value_of(&gateway, TRIED).await - before;
    assert!(tried <= 100.0, "{tried} attempts within {WATCHED:?}");
    receiver.now(|_| Response::status(200));
    gateway.client.nothing_owed(ACCOUNT).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_slowed_lane_waits_no_longer_than_the_operator_allows() {
    const REFUSED: usize = 12;
    let longest = Duration::from_millis(100);
    let receiver = Receiver::first(vec![Response::status(429); REFUSED]).await;
    let gateway = Launcher::new().with("throttle-wait-max", "100ms").start().await;
    gateway.client.subscribe(ACCOUNT, asked(receiver.url("/"), 4)).await;
    publish(&gateway.client, 1).await;
    let seen = receiver.wait_for(REFUSED + 1).await;
    // Doubling up to 5 s, as it is otherwise, they would take half a minute.
    let took = seen[REFUSED].at - seen[0].at;
    assert!(took >= longest * 11 && took < longest * 100, "{took:?}");
    gateway.client.nothing_owed(ACCOUNT).await;
    gateway.stop().await;
}
