//! The places for attempts under way are shared: endpoints that hang do not starve the others.

use std::time::Duration;

use crate::{
    client::{attempts, duration, publish_request, subscription},
    gateway::Home,
    metrics::Scrape,
    receiver::{Answer, Receiver},
};
use tidings::{domain::ids::AccountId, event::samples, proto::v1};

const HANGING: i64 = 1;
const HEALTHY: i64 = 2;
const PLACES: f64 = 16.0;

fn event(account: i64, number: i64) -> v1::Event {
    samples::typical_message(AccountId::new(account).unwrap(), number, number)
}

#[tokio::test]
async fn many_endpoints_that_hang_leave_half_of_the_places_to_others() {
    let (hanging, healthy) = (Receiver::always(Answer::Nothing).await, Receiver::start().await);
    let gateway = Home::new().with("attempts-in-flight-max", "16").start().await;
    let client = &gateway.client;
    client.subscribe(HEALTHY, subscription(healthy.url("/"))).await;
    client.publish(HEALTHY, event(HEALTHY, 1)).await;
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
        client.publish(HANGING, event(HANGING, number)).await;
    }
    let in_flight = "tidings_attempts_in_flight";
    let scrape =
        Scrape::when(&gateway, "half in use", |scrape| scrape.value(in_flight) >= PLACES / 2.0).await;
    assert_eq!(scrape.value(in_flight), PLACES / 2.0);
    assert!(scrape.value("tidings_lanes_waiting") >= 30.0);

    // The hanging ones give no place back for half a minute.
    let requests = (2..=300).map(|number| publish_request(HEALTHY, "", event(HEALTHY, number))).collect();
    let batch = v1::BatchPublishEventsRequest { requests, ..Default::default() };
    client.events.clone().batch_publish_events(batch).await.unwrap();
    healthy.wait_for(300).await;
    client.nothing_owed(HEALTHY).await;
    let after = Scrape::of(&gateway).await;
    assert_eq!(after.value(in_flight), PLACES / 2.0);
    assert_eq!(after.value("tidings_attempts_total{outcome=\"timeout\"}"), 0.0, "nobody gave up meanwhile");
    gateway.kill().await;
}
