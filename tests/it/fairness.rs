//! Attempts under way are shared fairly: neither endpoints that hang nor those that take their time starve the others.

use std::time::Duration;

use tidings::proto::v1;

use crate::support::{
    client::{attempts, duration, subscription},
    events::{message, publish_request},
    process::Launcher,
    receiver::{Receiver, Response},
    scrape::Scrape,
};

const HANGING: i64 = 1;
const HEALTHY: i64 = 2;
const PERMITS: f64 = 16.0;

#[tokio::test]
async fn many_endpoints_that_hang_leave_half_of_the_attempts_to_others() {
    let (hanging, healthy) = (Receiver::always(Response::nothing()).await, Receiver::start().await);
    let gateway = Launcher::new().with("attempts-in-flight-max", "16").start().await;
    let client = &gateway.client;
    client.subscribe(HEALTHY, subscription(healthy.url("/"))).await;
    client.publish(HEALTHY, message(HEALTHY, 1, 1)).await;
    client.nothing_owed(HEALTHY).await;
    for number in 0..40 {
        let asked = v1::Subscription {
            retry_policy: attempts(50),
            timeout: duration(Duration::from_secs(30)),
            ..subscription(hanging.url(&format!("/{number}")))
        };
        client.subscribe(HANGING, asked).await;
    }
    for number in 1..=10 {
        client.publish(HANGING, message(HANGING, number, number)).await;
    }
    let in_flight = "tidings_attempts_in_flight";
    let scrape =
        Scrape::when(&gateway, "half in use", |scrape| scrape.value(in_flight) >= PERMITS / 2.0).await;
    assert_eq!(scrape.value(in_flight), PERMITS / 2.0);
    assert!(scrape.value("tidings_lanes_waiting") >= 30.0);

    // The hanging ones give no permit back for half a minute.
    let events = (2..=300).map(|number| publish_request(HEALTHY, "", message(HEALTHY, number, number)));
    client.publish_all(events).await;
    healthy.wait_for(300).await;
    client.nothing_owed(HEALTHY).await;
    let after = Scrape::of(&gateway).await;
    assert_eq!(after.value(in_flight), PERMITS / 2.0);
    assert_eq!(after.value("tidings_attempts_total{outcome=\"timeout\"}"), 0.0, "nobody gave up meanwhile");
    gateway.kill().await;
}

/// Endpoints of three accounts respond at once, and then 28 seconds late: each subscription may have 256 attempts
/// under way, and the gateway 1,024.
#[tokio::test]
async fn slow_endpoints_of_one_account_or_three_leave_places_to_all_others() {
    const SLOW: [i64; 3] = [1, 2, 3];
    const SUBSCRIPTIONS: usize = 5;
    const EVENTS: i64 = 110;
    /// Half of all for the first; a quarter for the next; and then up to the sixteenth that is kept.
    const IN_FLIGHT: [f64; 3] = [512.0, 768.0, 960.0];
    const OTHERS: std::ops::Range<i64> = 100..130;
    const LATE: Duration = Duration::from_secs(28);
    let (slow, healthy) = (Receiver::start().await, Receiver::start().await);
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    for account in SLOW {
        for number in 0..SUBSCRIPTIONS {
            let asked = v1::Subscription {
                timeout: duration(Duration::from_secs(30)),
                max_in_flight: 256,
                ..subscription(slow.url(&format!("/{account}/{number}")))
            };
            client.subscribe(account, asked).await;
        }
        client.publish(account, message(account, 1, 1)).await;
        client.nothing_owed(account).await;
    }
    for other in OTHERS {
        client.subscribe(other, subscription(healthy.url("/"))).await;
    }
    slow.now(|_| Response::late(LATE, 200));
    let in_flight = "tidings_attempts_in_flight";
    for (account, most) in SLOW.into_iter().zip(IN_FLIGHT) {
        let events =
            (2..2 + EVENTS).map(|number| publish_request(account, "", message(account, number, number)));
        client.publish_all(events).await;
        let all_wait = |scrape: &Scrape| {
            let waiting = SUBSCRIPTIONS as f64 * account as f64;
            scrape.value(in_flight) >= most && scrape.value("tidings_lanes_waiting") == waiting
        };
        assert_eq!(Scrape::when(&gateway, "in use", all_wait).await.value(in_flight), most);
        // All others have a place at once, and again for their next events.
        let events = OTHERS.flat_map(|other| {
            (4 * account..)
                .take(4)
                .map(move |number| publish_request(other, "", message(other, number, number)))
        });
        client.publish_all(events).await;
        for other in OTHERS {
            client.nothing_owed(other).await;
        }
        let after = Scrape::of(&gateway).await;
        assert_eq!(after.value(in_flight), most, "the slow ones are as they were");
    }
    gateway.kill().await;
}
