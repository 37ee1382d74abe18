//! An endpoint that fails for long gets only a probe now and then; no delivery owed to it is lost.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use tidings::proto::v1::{
    self, delivery,
    subscription::State::{Active, Paused, Suspended},
};
use tokio::time::sleep;

use crate::support::{
    client::{Client, Subscribed, id_of, retry_policy, subscription},
    events::contact,
    process::Launcher,
    receiver::{Receiver, Response},
};

const ACCOUNT: i64 = 1;

fn launcher() -> Launcher {
    Launcher::new().with("suspend-after", "1s").with("probe-interval-max", "200ms")
}

async fn subscribe(client: &Client, receiver: &Receiver, max_attempts: i32) -> Subscribed {
    let retry_policy = retry_policy(max_attempts, Duration::from_millis(50), Duration::from_millis(200));
    let asked = v1::Subscription { retry_policy, ..subscription(receiver.url("/")) };
    client.subscribe(ACCOUNT, asked).await
}

async fn publish(client: &Client) -> String {
    id_of(&client.publish(ACCOUNT, contact(ACCOUNT)).await.event).to_owned()
}

/// When a delivery was attempted first, as reasons are written.
async fn first_attempt(client: &Client, name: &str) -> String {
    let delivery = client.delivery_when(name, "attempted", |delivery| delivery.attempt_count() > 0).await;
    let time = delivery.attempts[0].start_time.unwrap();
    prost_types::Timestamp { nanos: 0, ..time }.to_string()
}

#[tokio::test]
async fn it_collects_is_probed_with_the_oldest_and_drains_once_the_endpoint_works() {
    let receiver = Receiver::always(Response::with_body(500, "no")).await;
    let gateway = launcher().start().await;
    let client = &gateway.client;
    let subscribed = subscribe(client, &receiver, 50).await;
    let oldest = subscribed.delivery(&publish(client).await);
    let since = first_attempt(client, &oldest).await;
    let suspended = client.subscription_in(&subscribed.name, Suspended).await;
    let reason = &suspended.state_reason;
    assert!(reason.starts_with(&format!("Every attempt has failed since {since}")), "{reason}");
    assert!(reason.contains("answered 500"), "{reason}");

    let attempts = client.delivery(&oldest).await.attempt_count();
    for _ in 0..30 {
        publish(client).await;
    }
    // More attempts than its policy allows: it stays owed.
    let probed = |delivery: &v1::Delivery| delivery.attempt_count() >= attempts + 5;
    let delivery = client.delivery_when(&oldest, "probed", probed).await;
    assert_eq!(delivery.state(), delivery::State::Retrying);
    let sent: BTreeSet<_> = receiver.seen().iter().map(|request| request.webhook_id().to_owned()).collect();
    assert_eq!(sent.len(), 1, "nothing but the oldest is sent");
    receiver.now(|_| Response::status(200));
    let active = client.subscription_in(&subscribed.name, Active).await;
    assert_eq!(active.state_reason, "");
    client.nothing_owed(ACCOUNT).await;
    assert_eq!(client.deliveries_in(ACCOUNT, &[delivery::State::Succeeded]).await.len(), 31);
    gateway.stop().await;
}

#[tokio::test]
async fn gone_suspends_at_once_and_nothing_is_dropped() {
    let receiver = Receiver::always(Response::status(410)).await;
    let gateway = launcher().start().await;
    let client = &gateway.client;
    let subscribed = subscribe(client, &receiver, 1).await;
    let name = subscribed.delivery(&publish(client).await);
    let suspended = client.subscription_in(&subscribed.name, Suspended).await;
    assert!(suspended.state_reason.starts_with("The endpoint answered 410 Gone at 2"), "{suspended:?}");
    receiver.wait_for(4).await;
    assert_eq!(client.delivery(&name).await.state(), delivery::State::Retrying);
    receiver.now(|_| Response::status(200));
    client.delivery_in(&name, delivery::State::Succeeded).await;
    client.subscription_in(&subscribed.name, Active).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_crash_forgets_neither_since_when_it_fails_nor_that_it_is_suspended() {
    let receiver = Receiver::always(Response::status(500)).await;
    let launcher = launcher().with("suspend-after", "4s");
    let gateway = launcher.start().await;
    let subscribed = subscribe(&gateway.client, &receiver, 50).await;
    let name = subscribed.delivery(&publish(&gateway.client).await);
    let since = first_attempt(&gateway.client, &name).await;
    // Well after it was noted for the first time, and well before it is suspended.
    let long = |delivery: &v1::Delivery| {
        let (first, last) = (&delivery.attempts[0], delivery.attempts.last().unwrap());
        let start =
            |attempt: &v1::DeliveryAttempt| SystemTime::try_from(attempt.start_time.unwrap()).unwrap();
        start(last) >= start(first) + Duration::from_secs(1)
    };
    gateway.client.delivery_when(&name, "tried for a second", long).await;
    assert_eq!(gateway.client.subscription(&subscribed.name).await.state(), Active);
    gateway.kill().await;

    let gateway = launcher.start().await;
    let suspended = gateway.client.subscription_in(&subscribed.name, Suspended).await;
    let reason = suspended.state_reason;
    assert!(reason.starts_with(&format!("Every attempt has failed since {since}")), "{reason}");
    gateway.kill().await;

    let gateway = launcher.start().await;
    let still = gateway.client.subscription(&subscribed.name).await;
    assert_eq!((still.state(), still.state_reason), (Suspended, reason));
    let seen = receiver.seen().len();
    receiver.wait_for(seen + 2).await;
    receiver.now(|_| Response::status(200));
    gateway.client.subscription_in(&subscribed.name, Active).await;
    gateway.client.nothing_owed(ACCOUNT).await;
    gateway.stop().await;
}

#[tokio::test]
async fn resuming_by_hand_makes_it_active_at_once_and_probes_used_no_attempts_up() {
    const ATTEMPTS: i32 = 6;
    const PROBES: i32 = 3;
    let receiver = Receiver::always(Response::status(410)).await;
    let gateway = launcher().with("probe-interval-max", "12s").start().await;
    let client = &gateway.client;
    let subscribed = subscribe(client, &receiver, ATTEMPTS).await;
    let name = subscribed.delivery(&publish(client).await);
    client.subscription_in(&subscribed.name, Suspended).await;
    let probed = |delivery: &v1::Delivery| delivery.attempt_count() == 1 + PROBES;
    client.delivery_when(&name, "probed", probed).await;
    receiver.now(|_| Response::status(500));
    client.resume(&subscribed.name).await;
    assert_eq!(client.subscription(&subscribed.name).await.state(), Active);
    let delivery = client.delivery_in(&name, delivery::State::Failed).await;
    // The last probe may not yet have been noted as one.
    let counted = delivery.attempt_count() - PROBES;
    assert!((ATTEMPTS - 1..=ATTEMPTS).contains(&counted), "{delivery:#?}");
    gateway.stop().await;
}

#[tokio::test]
async fn the_owner_may_pause_a_suspended_subscription() {
    const A_WHILE: Duration = Duration::from_millis(700);
    let receiver = Receiver::always(Response::status(410)).await;
    let gateway = launcher().start().await;
    let client = &gateway.client;
    let subscribed = subscribe(client, &receiver, 3).await;
    publish(client).await;
    client.subscription_in(&subscribed.name, Suspended).await;
    client.pause(&subscribed.name).await;
    let paused = client.subscription(&subscribed.name).await;
    assert_eq!((paused.state(), &*paused.state_reason), (Paused, ""));
    receiver.now(|_| Response::status(200));
    // A probe may be in flight; no other follows.
    sleep(A_WHILE).await;
    let seen = receiver.seen().len();
    sleep(A_WHILE).await;
    assert_eq!(receiver.seen().len(), seen);
    assert_eq!(client.subscription(&subscribed.name).await.state(), Paused);
    publish(client).await;
    client.resume(&subscribed.name).await;
    client.nothing_owed(ACCOUNT).await;
    assert_eq!(client.subscription(&subscribed.name).await.state(), Active);
    gateway.stop().await;
}

#[tokio::test]
async fn another_url_is_tried_soon() {
    let (gone, healthy) = (Receiver::always(Response::status(410)).await, Receiver::start().await);
    let gateway = launcher().with("probe-interval-max", "60h").start().await;
    let client = &gateway.client;
    let subscribed = subscribe(client, &gone, 3).await;
    publish(client).await;
    client.subscription_in(&subscribed.name, Suspended).await;
    let change =
        v1::Subscription { name: subscribed.name.clone(), url: healthy.url("/"), ..Default::default() };
    client.update(change).await;
    client.subscription_in(&subscribed.name, Active).await;
    client.nothing_owed(ACCOUNT).await;
    assert_eq!((gone.seen().len(), healthy.seen().len()), (1, 1));
    gateway.stop().await;
}

#[tokio::test]
async fn retrying_a_delivery_of_a_suspended_subscription_makes_one_attempt_now_and_success_ends_the_suspension()
 {
    let receiver = Receiver::always(Response::status(410)).await;
    let gateway = launcher().with("probe-interval-max", "60h").start().await;
    let client = &gateway.client;
    let subscribed = subscribe(client, &receiver, 50).await;
    let first = subscribed.delivery(&publish(client).await);
    client.subscription_in(&subscribed.name, Suspended).await;
    let later = subscribed.delivery(&publish(client).await);
    client.retry(&later).await;
    client.delivery_when(&later, "attempted in vain", |delivery| delivery.attempt_count() == 1).await;
    assert_eq!(client.subscription(&subscribed.name).await.state(), Suspended);
    assert_eq!(client.delivery(&first).await.attempt_count(), 1);

    receiver.now(|_| Response::status(200));
    client.retry(&later).await;
    client.delivery_in(&later, delivery::State::Succeeded).await;
    client.subscription_in(&subscribed.name, Active).await;
    client.nothing_owed(ACCOUNT).await;
    gateway.stop().await;
}
