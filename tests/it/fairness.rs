//! Attempts under way are shared fairly: endpoints that hang do not starve the others.

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
