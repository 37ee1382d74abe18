//! Replays: failed deliveries, and events from before the subscription.

use tidings::proto::v1::{self, EventType, delivery::State};

use crate::support::{
    client::{Client, attempts, subscription},
    events::{contact, sample},
    process::Launcher,
    receiver::{Receiver, Request, Response},
};

/// Replays to the end, making every call twice, and returns how many events were queued.
async fn replay_all(client: &Client, request: v1::ReplayDeliveriesRequest) -> i32 {
    let (mut count, mut page_token) = (0, String::new());
    loop {
        let asked = v1::ReplayDeliveriesRequest { page_token, ..request.clone() };
        let response = client.replay(asked.clone()).await;
        assert!(response.replayed_count() <= request.page_size);
        // Owed deliveries are not queued again: a repetition may find others, which are then not found later.
        count += response.replayed_count() + client.replay(asked).await.replayed_count();
        page_token = response.next_page_token;
        if page_token.is_empty() {
            return count;
        }
    }
}

#[tokio::test]
async fn failed_deliveries_are_replayed_page_by_page_with_the_same_ids_and_bodies() {
    let receiver = Receiver::always(Response::status(500)).await;
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    let client = &gateway.client;
    let asked = v1::Subscription { retry_policy: attempts(1), ..subscription(receiver.url("/hook")) };
    let subscribed = client.subscribe(1, asked).await;
    let ids = ["one", "two", "three", "four", "five"];
    for id in ids {
        client.publish_as(1, id, contact(1)).await;
        client.delivery_in(&subscribed.delivery(id), State::Failed).await;
    }
    let before = receiver.seen();
    assert_eq!(before.len(), 5);

    // The receiver is well again. First count, then replay, with a restart in the middle.
    let all =
        v1::ReplayDeliveriesRequest { parent: subscribed.name.clone(), page_size: 2, ..Default::default() };
    let counted = client.replay(v1::ReplayDeliveriesRequest { validate_only: true, ..all.clone() }).await;
    assert_eq!((counted.replayed_count(), counted.next_page_token.as_str()), (5, ""));
    assert!(client.deliveries_in(1, &[State::Pending, State::Retrying]).await.is_empty(), "it was a count");
    client.pause(&subscribed.name).await;
    receiver.now(|_| Response::status(204));
    assert_eq!(replay_all(client, all.clone()).await, 5);
    let pending = client.deliveries_in(1, &[State::Pending]).await;
    assert_eq!(pending.len(), 5);
    gateway.kill().await;
    let gateway = launcher.start().await;
    let client = &gateway.client;
    assert_eq!(client.deliveries_in(1, &[State::Pending]).await, pending, "a replay is on disk");
    client.resume(&subscribed.name).await;
    for id in ids {
        let delivery = client.delivery_in(&subscribed.delivery(id), State::Succeeded).await;
        let numbers: Vec<i32> = delivery.attempts.iter().map(|attempt| attempt.number).collect();
        assert_eq!((delivery.attempt_count(), numbers), (2, vec![1, 2]));
    }
    let seen = receiver.wait_for(10).await;
    let posted = |requests: &[Request]| {
        let mut posted: Vec<_> =
            requests.iter().map(|request| (request.webhook_id().to_owned(), request.body.clone())).collect();
        posted.sort();
        posted
    };
    assert_eq!(posted(&seen[..5]), posted(&seen[5..]));
    assert_eq!(replay_all(client, all.clone()).await, 0, "nothing failed any more");
    let states = vec![State::Succeeded.into()];
    let again = v1::ReplayDeliveriesRequest { states, ..all };
    let counted = client.replay(v1::ReplayDeliveriesRequest { validate_only: true, ..again }).await;
    assert_eq!(counted.replayed_count(), 5);
    gateway.stop().await;
}

#[tokio::test]
async fn a_new_subscription_gets_earlier_events() {
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    for (id, kind) in
        [("a", EventType::ContactCreated), ("b", EventType::InboxCreated), ("c", EventType::ContactCreated)]
    {
        client.publish_as(1, id, sample(kind, 1)).await;
    }
    client.publish_as(2, "a", contact(2)).await;
    let event_types = vec![EventType::ContactCreated.into()];
    let asked = v1::Subscription { event_types, ..subscription(receiver.url("/hook")) };
    let subscribed = client.subscribe(1, asked).await;
    let all = v1::ReplayDeliveriesRequest { parent: subscribed.name.clone(), ..Default::default() };
    assert_eq!(client.replay(all.clone()).await.replayed_count(), 2, "those that it wants, of its account");
    for id in ["a", "c"] {
        client.delivery_in(&subscribed.delivery(id), State::Succeeded).await;
    }
    client.publish_as(1, "d", contact(1)).await;
    client.delivery_in(&subscribed.delivery("d"), State::Succeeded).await;
    assert_eq!(client.replay(all).await.replayed_count(), 0);
    assert_eq!(receiver.wait_for(3).await.len(), 3);
    gateway.stop().await;
}
