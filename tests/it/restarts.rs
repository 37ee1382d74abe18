//! Deliveries owed when a gateway ended, however it ended, are made by the next one on the same directory.

use std::time::Duration;

use tidings::proto::v1::{self, delivery::State};

use crate::support::{
    client::{as_stored, attempts, duration, id_of, subscription},
    events::contact,
    process::{Launcher, TidingsProcess},
    receiver::{Receiver, Response},
};

/// How a gateway ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Term,
    Kill,
}

async fn end(gateway: TidingsProcess, how: End) {
    match how {
        End::Term => drop(gateway.stop().await),
        End::Kill => gateway.kill().await,
    }
}

/// The first attempt fails and the second one is to wait; the gateway ends in between, several times.
async fn retries_continue_after(how: End) {
    let receiver = Receiver::always(Response::with_header(503, "retry-after", 3)).await;
    let launcher = Launcher::new();
    let mut gateway = launcher.start().await;
    let asked = v1::Subscription { retry_policy: attempts(4), ..subscription(receiver.url("/")) };
    let subscribed = gateway.client.subscribe(1, asked).await;
    let published = gateway.client.publish(1, contact(1)).await;
    let name = subscribed.delivery(id_of(&published.event));
    for attempts in 1..4 {
        // On disk, and not yet due.
        let wanted = |delivery: &v1::Delivery| delivery.attempt_count() == attempts;
        let before = gateway.client.delivery_when(&name, "the next attempt", wanted).await;
        assert_eq!(before.state(), State::Retrying);
        end(gateway, how).await;
        gateway = launcher.start().await;
        let after = gateway.client.delivery(&name).await;
        assert!(after.attempt_count() == attempts || after.attempt_count() == attempts + 1, "{after:#?}");
        assert_eq!(as_stored(&after.attempts[..before.attempts.len()]), as_stored(&before.attempts));
    }
    let delivery = gateway.client.delivery_in(&name, State::Failed).await;
    let numbers: Vec<_> = delivery.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!((delivery.attempt_count(), &*numbers), (4, &[1, 2, 3, 4][..]));
    let seen = receiver.seen();
    assert_eq!(seen.len(), 4, "{how:?}");
    for (one, next) in seen.iter().zip(&seen[1..]) {
        assert_eq!((one.webhook_id(), &one.body), (next.webhook_id(), &next.body));
        assert!(next.at - one.at >= Duration::from_millis(2_950), "a restart does not shorten the wait");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn retries_continue_after_sigterm() {
    retries_continue_after(End::Term).await;
}

#[tokio::test]
async fn retries_continue_after_sigkill() {
    retries_continue_after(End::Kill).await;
}

#[tokio::test]
async fn an_attempt_that_is_cut_off_is_made_again_and_not_counted_twice() {
    for how in [End::Term, End::Kill] {
        let receiver = Receiver::always(Response::nothing()).await;
        let launcher = Launcher::new().with("drain-timeout", "100ms");
        let gateway = launcher.start().await;
        let asked = v1::Subscription {
            timeout: duration(Duration::from_secs(30)),
            ..subscription(receiver.url("/"))
        };
        let subscribed = gateway.client.subscribe(1, asked).await;
        let published = gateway.client.publish(1, contact(1)).await;
        receiver.wait_for(1).await;
        end(gateway, how).await;

        receiver.now(|_| Response::status(200));
        let gateway = launcher.start().await;
        let name = subscribed.delivery(id_of(&published.event));
        let delivery = gateway.client.delivery_in(&name, State::Succeeded).await;
        assert_eq!(delivery.attempt_count(), 1, "{how:?}: {delivery:#?}");
        let seen = receiver.seen();
        assert_eq!(seen.len(), 2, "{how:?}");
        assert_eq!((seen[0].webhook_id(), &seen[0].body), (seen[1].webhook_id(), &seen[1].body));
        gateway.stop().await;
    }
}

#[tokio::test]
async fn everything_stored_is_the_same_after_a_restart() {
    for how in [End::Term, End::Kill] {
        let receiver = Receiver::start().await;
        let launcher = Launcher::new();
        let gateway = launcher.start().await;
        let subscribed = gateway.client.subscribe(1, subscription(receiver.url("/"))).await;
        for _ in 0..20 {
            gateway.client.publish(1, contact(1)).await;
        }
        gateway.client.nothing_owed(1).await;
        let client = gateway.client.clone();
        let before = (
            // When the last delivery succeeded is known until a restart only.
            v1::Subscription { last_success_time: None, ..client.subscription(&subscribed.name).await },
            client.stored_events(1).await,
            client.deliveries_in(1, &[]).await,
        );
        end(gateway, how).await;

        let gateway = launcher.start().await;
        let client = gateway.client.clone();
        let after = (
            // When the last delivery succeeded is known until a restart only.
            v1::Subscription { last_success_time: None, ..client.subscription(&subscribed.name).await },
            client.stored_events(1).await,
            client.deliveries_in(1, &[]).await,
        );
        assert_eq!(before, after, "{how:?}");
        assert_eq!(receiver.seen().len(), 20);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn a_second_gateway_on_the_same_directory_is_refused() {
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let refusal = launcher.refusal().await;
    assert_eq!(refusal.lines().count(), 1, "{refusal}");
    assert!(refusal.contains("is in use by another process") && refusal.contains("--data-dir"), "{refusal}");
    // The first one has not noticed, and the directory is free once it ends.
    gateway.client.publish(1, contact(1)).await;
    gateway.stop().await;
    let gateway = launcher.start().await;
    assert_eq!(gateway.client.stored_events(1).await.len(), 1);
    gateway.stop().await;
}
