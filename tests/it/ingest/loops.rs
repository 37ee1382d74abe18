//! Events that a gateway POSTs to its own webhook ingress.

use tidings::proto::v1::{self, delivery::State, subscription::PayloadFormat};

use super::{ACCOUNT, put_sources};
use crate::support::{
    client::{attempts, subscription},
    events::message,
    eventually,
    process::{Launcher, TidingsProcess},
    scrape::Scrape,
};

/// The path of the source, which the owner of the subscriptions knows.
const KNOWN: &str = "known-0123456789abcdef0123";
/// The response to an event that has been around.
const LOOP_DETECTED: i32 = 508;

#[tokio::test]
async fn an_event_that_goes_round_and_doubles_gets_round_once() {
    const LOOPS: usize = 2;
    let launcher = Launcher::new().with("ingest-listen", "127.0.0.1:0");
    // Not one of the secrets that no response may have: callers who know it can do this.
    let file = put_sources(&launcher, &format!("[[source]]\naccount = {ACCOUNT}\npath='{KNOWN}'\n"));
    let launcher = launcher.with_file("ingest-sources-file", file);
    let gateway = launcher.start().await;
    let url = |gateway: &TidingsProcess, number| {
        format!("http://{}/chatwoot/{KNOWN}?{number}", gateway.ingest.expect("it takes webhooks"))
    };
    for number in 0..LOOPS {
        let asked = v1::Subscription {
            payload_format: PayloadFormat::Chatwoot.into(),
            retry_policy: attempts(1),
            ..subscription(url(&gateway, number))
        };
        gateway.client.subscribe(ACCOUNT, asked).await;
    }
    gateway.client.publish(ACCOUNT, message(ACCOUNT, 1, 1)).await;
    // One copy for each subscription, and those get no further.
    let client = &gateway.client;
    let finished = async || client.deliveries_in(ACCOUNT, &[State::Succeeded, State::Failed]).await;
    let finished = eventually("round", finished, |seen| seen.len() >= LOOPS + LOOPS * LOOPS).await;
    client.nothing_owed(ACCOUNT).await;
    assert_eq!(client.stored_events(ACCOUNT).await.len(), 1 + LOOPS);
    let failed: Vec<_> = finished.iter().filter(|delivery| delivery.state() == State::Failed).collect();
    assert_eq!((finished.len(), failed.len()), (LOOPS + LOOPS * LOOPS, LOOPS * LOOPS));
    for delivery in &failed {
        let delivery = client.delivery(&delivery.name).await;
        assert_eq!(delivery.attempts[0].http_status, LOOP_DETECTED, "{delivery:#?}");
        assert!(delivery.attempts[0].response_body.contains("LOOP_DETECTED"), "{delivery:#?}");
    }
    let looped = "tidings_ingest_requests_total{outcome=\"looped\"}";
    assert_eq!(Scrape::value_of(&gateway, looped).await, (LOOPS * LOOPS) as f64);

    // So it is for an event that is read from the disk.
    let name = failed[0].name.clone();
    gateway.stop().await;
    let gateway = launcher.start().await;
    let (subscription, _) = name.split_once("/deliveries/").unwrap();
    let change =
        v1::Subscription { name: subscription.into(), url: url(&gateway, LOOPS), ..Default::default() };
    gateway.client.try_update(change, &["url"]).await.unwrap();
    gateway.client.retry(&name).await;
    let retried =
        gateway.client.delivery_when(&name, "retried", |delivery| delivery.attempts.len() == 2).await;
    assert_eq!(retried.attempts[1].http_status, LOOP_DETECTED, "{retried:#?}");
    gateway.stop().await;
}
