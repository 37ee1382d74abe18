//! Deliveries while subscriptions come, change, pause and go.

use std::time::Duration;

use tidings::proto::v1::{self, EventType, delivery::State, subscription};
use tonic::Code;

use crate::{
    golden::events::full,
    support::{
        client::{attempts, id_of, subscription},
        events::contact,
        eventually,
        process::Launcher,
        receiver::{Receiver, Response},
    },
};

#[tokio::test]
async fn a_created_changed_or_removed_subscription_applies_to_the_very_next_event() {
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    let count = async || client.publish(1, contact(1)).await.delivery_count();
    let mut expected = 0;
    for _ in 0..10 {
        assert_eq!(count().await, 0);
        let subscribed = client.subscribe(1, subscription(receiver.url("/"))).await;
        assert_eq!(count().await, 1);
        let change = |event_type: EventType| v1::Subscription {
            name: subscribed.name.clone(),
            event_types: vec![event_type.into()],
            ..Default::default()
        };
        client.update(change(EventType::InboxCreated)).await;
        assert_eq!(count().await, 0);
        client.update(change(EventType::ContactCreated)).await;
        assert_eq!(count().await, 1);
        expected += 2;
        receiver.wait_for(expected).await;
        client.nothing_owed(1).await;
        client.delete(&subscribed.name, false).await.unwrap();
    }
    assert_eq!(receiver.seen().len(), expected);
    gateway.stop().await;
}

#[tokio::test]
async fn a_paused_subscription_collects_and_delivers_everything_when_it_is_resumed() {
    const COUNT: usize = 30;
    let receiver = Receiver::start().await;
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let subscribed = gateway.client.subscribe(1, subscription(receiver.url("/paused"))).await;
    gateway.client.subscribe(1, subscription(receiver.url("/active"))).await;
    gateway.client.pause(&subscribed.name).await;
    for _ in 0..COUNT {
        assert_eq!(gateway.client.publish(1, contact(1)).await.delivery_count(), 2);
    }
    receiver.wait_for(COUNT).await;
    gateway.stop().await;

    // It is still paused after a restart.
    let gateway = launcher.start().await;
    gateway.client.publish(1, contact(1)).await;
    let seen = receiver.wait_for(COUNT + 1).await;
    assert!(seen.iter().all(|request| request.path == "/active"), "{seen:#?}");
    let pending = gateway.client.deliveries_in(1, &[State::Pending]).await;
    assert_eq!(pending.iter().filter(|d| d.name.starts_with(&subscribed.name)).count(), COUNT + 1);
    assert_eq!(gateway.client.subscription(&subscribed.name).await.state(), v1::subscription::State::Paused);

    gateway.client.resume(&subscribed.name).await;
    gateway.client.nothing_owed(1).await;
    let seen = receiver.seen();
    assert_eq!(seen.len(), 2 * (COUNT + 1));
    assert_eq!(seen.iter().filter(|request| request.path == "/paused").count(), COUNT + 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_pause_in_the_middle_of_retries_keeps_the_count_of_attempts() {
    let receiver = Receiver::always(Response::status(500)).await;
    let gateway = Launcher::new().start().await;
    let asked = v1::Subscription { retry_policy: attempts(50), ..subscription(receiver.url("/")) };
    let subscribed = gateway.client.subscribe(1, asked).await;
    let published = gateway.client.publish(1, contact(1)).await;
    receiver.wait_for(3).await;
    gateway.client.pause(&subscribed.name).await;
    receiver.now(|_| Response::status(200));
    gateway.client.resume(&subscribed.name).await;
    let name = subscribed.delivery(id_of(&published.event));
    let delivery = gateway.client.delivery_in(&name, State::Succeeded).await;
    assert_eq!(usize::try_from(delivery.attempt_count()), Ok(receiver.seen().len()));
    gateway.stop().await;
}

#[tokio::test]
async fn pauses_in_the_middle_of_deliveries_lose_none_and_repeat_none() {
    const COUNT: usize = 400;
    let receiver = Receiver::always(Response::late(Duration::from_millis(2), 200)).await;
    let gateway = Launcher::new().start().await;
    let subscribed = gateway.client.subscribe(1, subscription(receiver.url("/"))).await;
    for published in 0..COUNT {
        gateway.client.publish(1, contact(1)).await;
        match published % 4 {
            0 => drop(gateway.client.pause(&subscribed.name).await),
            1 => drop(gateway.client.resume(&subscribed.name).await),
            _ => {}
        }
    }
    gateway.client.resume(&subscribed.name).await;
    gateway.client.nothing_owed(1).await;
    let seen = receiver.seen();
    let ids: std::collections::BTreeSet<_> = seen.iter().map(|request| request.webhook_id()).collect();
    assert_eq!((ids.len(), seen.len()), (COUNT, COUNT));
    gateway.stop().await;
}

#[tokio::test]
async fn the_next_attempt_goes_where_the_subscription_points_then() {
    let receiver = Receiver::with(|request| match &*request.path {
        "/right" => Response::status(200),
        _ => Response::status(404),
    });
    let (receiver, gateway) = (receiver.await, Launcher::new().start().await);
    let asked = v1::Subscription { retry_policy: attempts(50), ..subscription(receiver.url("/wrong")) };
    let subscribed = gateway.client.subscribe(1, asked).await;
    let published = gateway.client.publish(1, contact(1)).await;
    receiver.wait_for(2).await;
    let change =
        v1::Subscription { name: subscribed.name.clone(), url: receiver.url("/right"), ..Default::default() };
    gateway.client.update(change).await;
    let name = subscribed.delivery(id_of(&published.event));
    let delivery = gateway.client.delivery_in(&name, State::Succeeded).await;
    let urls: Vec<_> = delivery.attempts.iter().map(|attempt| attempt.url.clone()).collect();
    let (last, earlier) = urls.split_last().unwrap();
    assert_eq!(*last, receiver.url("/right"));
    assert!(earlier.len() >= 2 && earlier.iter().all(|url| *url == receiver.url("/***")), "{urls:?}");
    let seen = receiver.seen();
    assert!(seen.iter().all(|request| request.webhook_id() == seen[0].webhook_id()), "{seen:#?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_subscription_that_owes_something_is_removed_only_by_force() {
    let receiver = Receiver::always(Response::with_header(503, "retry-after", 3600)).await;
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    let subscribed = client.subscribe(1, subscription(receiver.url("/"))).await;
    let published = client.publish(1, contact(1)).await;
    let name = subscribed.delivery(id_of(&published.event));
    client.delivery_in(&name, State::Retrying).await;
    let refused = client.delete(&subscribed.name, false).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert_eq!(client.delivery(&name).await.state(), State::Retrying);

    client.delete(&subscribed.name, true).await.unwrap();
    let request = v1::GetDeliveryRequest { name };
    let gone = client.deliveries.clone().get_delivery(request).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    assert_eq!(client.deliveries_in(1, &[]).await, []);
    assert_eq!(client.stored_events(1).await.len(), 1, "the event stays");
    assert_eq!(client.publish(1, contact(1)).await.delivery_count(), 0);
    assert_eq!(receiver.seen().len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_new_subscription_of_an_old_name_has_deliveries_of_its_own() {
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    let create = || v1::CreateSubscriptionRequest {
        parent: "accounts/1".into(),
        subscription: Some(subscription(receiver.url("/"))),
        subscription_id: "phoenix".into(),
        ..Default::default()
    };
    let mut uids = Vec::new();
    for round in 1..=2 {
        let created = gateway.client.subscriptions.clone().create_subscription(create()).await.unwrap();
        uids.push(created.into_inner().subscription.unwrap().uid);
        gateway.client.publish_as(1, &format!("e{round}"), contact(1)).await;
        gateway.client.nothing_owed(1).await;
        let deliveries = gateway.client.deliveries_in(1, &[]).await;
        let names: Vec<_> = deliveries.iter().map(|delivery| delivery.name.clone()).collect();
        assert_eq!(names, [format!("accounts/1/subscriptions/phoenix/deliveries/e{round}")]);
        gateway.client.delete("accounts/1/subscriptions/phoenix", false).await.unwrap();
    }
    assert_ne!(uids[0], uids[1]);
    gateway.stop().await;
}

#[tokio::test]
async fn a_receiver_that_hangs_does_not_hold_up_another_one() {
    const COUNT: usize = 300;
    /// How long the hanging one is waited for.
    const TIMEOUT: Duration = Duration::from_secs(30);
    let hanging = Receiver::always(Response::nothing()).await;
    let healthy = Receiver::start().await;
    let gateway = Launcher::new().with("drain-timeout", "0s").start().await;
    let timeout = crate::support::client::duration(TIMEOUT);
    let slow = v1::Subscription { timeout, ..subscription(hanging.url("/")) };
    gateway.client.subscribe(1, slow).await;
    gateway.client.subscribe(1, subscription(healthy.url("/"))).await;
    let start = tokio::time::Instant::now();
    for _ in 0..COUNT {
        assert_eq!(gateway.client.publish(1, contact(1)).await.delivery_count(), 2);
    }
    healthy.wait_for(COUNT).await;
    assert!(start.elapsed() < TIMEOUT, "it took {:?}", start.elapsed());
    assert_eq!(hanging.seen().len(), 32, "no more are under way than allowed");
    gateway.kill().await;
}

#[tokio::test]
async fn failed_deliveries_are_retried_on_request_and_cancelled_ones_are_not() {
    let receiver = Receiver::always(Response::status(500)).await;
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let asked = v1::Subscription { retry_policy: attempts(1), ..subscription(receiver.url("/hook")) };
    let subscribed = gateway.client.subscribe(1, asked).await;
    let first = gateway.client.publish(1, contact(1)).await;
    let delivery = subscribed.delivery(id_of(&first.event));
    gateway.client.delivery_in(&delivery, State::Failed).await;

    gateway.client.retry(&delivery).await;
    let tried =
        gateway.client.delivery_when(&delivery, "tried", |delivery| delivery.attempt_count() == 2).await;
    assert_eq!(tried.state(), State::Failed, "one attempt for each time it is asked for");
    receiver.now(|_| Response::status(200));
    gateway.client.retry(&delivery).await;
    let arrived = gateway.client.delivery_in(&delivery, State::Succeeded).await;
    assert_eq!(
        arrived.attempts.iter().map(|attempt| attempt.http_status).collect::<Vec<_>>(),
        [500, 500, 200]
    );

    gateway.client.pause(&subscribed.name).await;
    let second = gateway.client.publish(1, contact(1)).await;
    let third = gateway.client.publish(1, contact(1)).await;
    gateway.client.cancel(&subscribed.delivery(id_of(&second.event))).await;
    gateway.client.resume(&subscribed.name).await;
    gateway.client.delivery_in(&subscribed.delivery(id_of(&third.event)), State::Succeeded).await;
    gateway.stop().await;
    let gateway = launcher.start().await;
    let cancelled = gateway.client.delivery(&subscribed.delivery(id_of(&second.event))).await;
    assert_eq!((cancelled.state(), cancelled.attempt_count()), (State::Cancelled, 0));
    assert_eq!(receiver.seen().len(), 4, "the cancelled one was never sent");
    gateway.stop().await;
}

#[tokio::test]
async fn retrying_a_delivery_of_a_paused_subscription_makes_one_attempt_now_and_it_stays_paused() {
    let receiver = Receiver::always(Response::status(500)).await;
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    let asked = v1::Subscription { retry_policy: attempts(1), ..subscription(receiver.url("/")) };
    let subscribed = client.subscribe(1, asked).await;
    let publish = async || subscribed.delivery(id_of(&client.publish(1, contact(1)).await.event));
    let failed = publish().await;
    client.delivery_in(&failed, State::Failed).await;
    client.pause(&subscribed.name).await;
    let (pending, waiting, cancelled) = (publish().await, publish().await, publish().await);
    client.cancel(&cancelled).await;

    for (name, attempts) in [(&failed, 2), (&pending, 1), (&cancelled, 1)] {
        client.retry(name).await;
        let is_over = |delivery: &v1::Delivery| {
            delivery.state() == State::Failed && delivery.attempt_count() == attempts
        };
        client.delivery_when(name, "attempted once, in vain", is_over).await;
    }
    receiver.now(|_| Response::status(200));
    client.retry(&failed).await;
    assert_eq!(client.delivery_in(&failed, State::Succeeded).await.attempt_count(), 3);
    assert_eq!(receiver.seen().len(), 5, "one attempt for each request");
    let others = client.delivery(&waiting).await;
    assert_eq!((others.state(), others.attempt_count()), (State::Pending, 0));
    assert_eq!(client.subscription(&subscribed.name).await.state(), subscription::State::Paused);
    client.resume(&subscribed.name).await;
    client.delivery_in(&waiting, State::Succeeded).await;
    gateway.stop().await;
}

#[tokio::test]
async fn retried_deliveries_of_a_paused_subscription_are_attempted_one_after_another() {
    const COUNT: usize = 50;
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    let asked = v1::Subscription { ordered: true, ..subscription(receiver.url("/")) };
    let subscribed = client.subscribe(1, asked).await;
    client.pause(&subscribed.name).await;
    for _ in 0..COUNT {
        client.publish(1, contact(1)).await;
    }
    for delivery in client.deliveries_in(1, &[State::Pending]).await.iter().take(COUNT / 2) {
        client.retry(&delivery.name).await;
    }
    eventually(
        "attempted",
        async || client.counts(&subscribed.name).await.succeeded,
        |done| *done == COUNT / 2,
    )
    .await;
    client.resume(&subscribed.name).await;
    client.nothing_owed(1).await;
    assert_eq!(receiver.seen().len(), COUNT, "each arrives once");
    gateway.stop().await;
}

#[tokio::test]
async fn a_subscription_to_all_event_types_gets_every_type_across_changes_and_restarts() {
    let receiver = Receiver::start().await;
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    // The only form that events of no type have.
    let all = v1::Subscription {
        event_types: vec![],
        all_event_types: true,
        payload_format: subscription::PayloadFormat::Chatwoot.into(),
        ..subscription(receiver.url("/"))
    };
    let made = gateway.client.subscribe(1, all).await;
    gateway.stop().await;

    let gateway = launcher.start().await;
    let client = &gateway.client;
    let shown = client.subscription(&made.name).await;
    assert!(shown.all_event_types && shown.event_types.is_empty(), "{shown:?}");
    let mut count = 0;
    for event_type in EventType::all() {
        assert_eq!(client.publish(1, full(event_type)).await.delivery_count(), 1, "{event_type:?}");
        count += 1;
    }
    receiver.wait_for(count).await;
    assert_eq!(client.test(&made.name, EventType::Unspecified).await.http_status, 200);

    // Types that are named replace it.
    let event_types = vec![EventType::ContactCreated.into()];
    let named = v1::Subscription { name: made.name.clone(), event_types, ..Default::default() };
    assert!(!client.update(named).await.all_event_types);
    assert_eq!(client.publish(1, full(EventType::InboxCreated)).await.delivery_count(), 0);
    client.nothing_owed(1).await;
    gateway.stop().await;
}
