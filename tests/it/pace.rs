//! A lane slows down when its endpoint asks for it or gives no answer, and speeds up again.

use std::time::Duration;

use crate::{
    client::{Client, attempts, publish_request, subscription},
    gateway::Home,
    metrics::Scrape,
    receiver::{Answer, Receiver},
};
use tidings::{domain::ids::AccountId, event::samples, proto::v1};
use tokio::time::sleep;

const ACCOUNT: i64 = 1;
const SLOWED: &str = "tidings_lanes_slowed";

async fn publish(client: &Client, count: i64) {
    let account = AccountId::new(ACCOUNT).unwrap();
    let request = |number| publish_request(ACCOUNT, "", samples::typical_message(account, number, number));
    let batch =
        v1::BatchPublishEventsRequest { requests: (1..=count).map(request).collect(), ..Default::default() };
    client.events.clone().batch_publish_events(batch).await.unwrap();
}

fn asked(url: String, max_in_flight: i32) -> v1::Subscription {
    v1::Subscription { retry_policy: attempts(50), max_in_flight, ..subscription(url) }
}

#[tokio::test]
async fn retry_after_holds_up_the_whole_lane() {
    for status in [429, 503] {
        let receiver = Receiver::first([Answer::with_header(status, "retry-after", 2)]).await;
        let gateway = Home::new().start().await;
        gateway.client.subscribe(ACCOUNT, asked(receiver.url("/"), 1)).await;
        publish(&gateway.client, 40).await;
        Scrape::when(&gateway, "slowed", |scrape| scrape.value(SLOWED) > 0.0).await;
        gateway.client.nothing_owed(ACCOUNT).await;
        let seen = receiver.seen();
        assert_eq!(seen.len(), 41);
        let waited = seen[1].at - seen[0].at;
        assert!(waited >= Duration::from_millis(1_950), "{status}: the next came after {waited:?} already");
        Scrape::when(&gateway, "at full speed again", |scrape| scrape.value(SLOWED) == 0.0).await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn without_a_time_the_lane_goes_slower_and_comes_back() {
    const REFUSED: usize = 4;
    let receiver = Receiver::first(vec![Answer::status(429); REFUSED]).await;
    let gateway = Home::new().start().await;
    gateway.client.subscribe(ACCOUNT, asked(receiver.url("/"), 4)).await;
    publish(&gateway.client, 1).await;
    let seen = receiver.wait_for(REFUSED + 1).await;
    let waits: Vec<_> = seen.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect();
    for (wait, least) in waits.iter().zip([95, 195, 395, 795]) {
        assert!(*wait >= least, "{waits:?}");
    }
    assert_eq!(Scrape::of(&gateway).await.value(SLOWED), 1.0);
    publish(&gateway.client, 100).await;
    gateway.client.nothing_owed(ACCOUNT).await;
    Scrape::when(&gateway, "at full speed again", |scrape| scrape.value(SLOWED) == 0.0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_dead_endpoint_with_much_waiting_costs_few_attempts_and_recovers() {
    const WATCHED: Duration = Duration::from_secs(4);
    const TRIED: &str = "tidings_attempts_total{outcome=\"io\"}";
    let receiver = Receiver::always(Answer::Close).await;
    let gateway = Home::new().start().await;
    gateway.client.subscribe(ACCOUNT, asked(receiver.url("/"), 32)).await;
    publish(&gateway.client, 1000).await;
    Scrape::when(&gateway, "slowed", |scrape| scrape.value(SLOWED) == 1.0).await;
    let before = Scrape::of(&gateway).await.value(TRIED);
    sleep(WATCHED).await;
    let tried = Scrape::of(&gateway).await.value(TRIED) - before;
    assert!(tried <= 100.0, "{tried} attempts within {WATCHED:?}");
    receiver.now(|_| Answer::status(200));
    gateway.client.nothing_owed(ACCOUNT).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_slowed_lane_waits_no_longer_than_the_operator_allows() {
    const REFUSED: usize = 12;
    let longest = Duration::from_millis(100);
    let receiver = Receiver::first(vec![Answer::status(429); REFUSED]).await;
    let gateway = Home::new().with("pace-wait-max", "100ms").start().await;
    gateway.client.subscribe(ACCOUNT, asked(receiver.url("/"), 4)).await;
    publish(&gateway.client, 1).await;
    let seen = receiver.wait_for(REFUSED + 1).await;
    // Doubling up to 5 s, as it is otherwise, they would take half a minute.
    let took = seen[REFUSED].at - seen[0].at;
    assert!(took >= longest * 11 && took < longest * 100, "{took:?}");
    gateway.client.nothing_owed(ACCOUNT).await;
    gateway.stop().await;
}
