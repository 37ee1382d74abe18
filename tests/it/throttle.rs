//! A lane slows down when its endpoint asks for it or gives no response, and speeds up again.

use std::time::Duration;

use tidings::proto::v1;
use tokio::time::sleep;

use crate::support::{
    client::{Client, attempts, duration, subscription},
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

#[tokio::test]
async fn a_rate_limit_makes_the_lane_wait_and_refuses_nothing() {
    const LIMITED: &str = "tidings_lanes_rate_limited";
    const COUNT: usize = 25;
    const BURST: usize = 5;
    for ordered in [false, true] {
        let receiver = Receiver::start().await;
        let gateway = Launcher::new().start().await;
        let rate_limit = Some(v1::RateLimit { events: 10, interval: None, burst: 5 });
        let limited = v1::Subscription { rate_limit, ordered, ..asked(receiver.url("/"), 32) };
        let limited = gateway.client.subscribe(ACCOUNT, limited).await;
        // Another subscription does not wait.
        let other = Receiver::start().await;
        gateway.client.subscribe(ACCOUNT, asked(other.url("/"), 32)).await;
        publish(&gateway.client, i64::try_from(COUNT).unwrap()).await;
        other.wait_for(COUNT).await;
        Scrape::reaches(&gateway, &[(LIMITED, 1.0)]).await;
        let shown = gateway.client.subscription(&limited.name).await;
        let interval = duration(Duration::from_secs(1));
        assert_eq!(shown.rate_limit, Some(v1::RateLimit { events: 10, interval, burst: 5 }));
        gateway.client.nothing_owed(ACCOUNT).await;
        let seen = receiver.seen();
        assert_eq!(seen.len(), COUNT);
        // In any span of time at most the burst and ten for each second of it. They may come late, so that two
        // are nearer to each other than when they left.
        const LATE: Duration = Duration::from_millis(400);
        let took = seen[COUNT - 1].at - seen[0].at + LATE;
        assert!(took >= Duration::from_millis(100) * u32::try_from(COUNT - BURST).unwrap(), "{took:?}");
        Scrape::reaches(&gateway, &[(LIMITED, 0.0)]).await;
        assert!(!gateway.client.subscription(&limited.name).await.rate_limited);

        // Without the limit, nothing waits any more.
        let change = v1::Subscription { name: limited.name.clone(), ..Default::default() };
        gateway.client.try_update(change, &["rate_limit"]).await.unwrap();
        publish(&gateway.client, i64::try_from(COUNT).unwrap()).await;
        let seen = receiver.wait_for(2 * COUNT).await;
        let took = seen[2 * COUNT - 1].at - seen[COUNT].at;
        assert!(took < Duration::from_secs(2), "{took:?}");
        gateway.stop().await;
    }
}
