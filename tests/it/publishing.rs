//! The subscriptions that get an event, and how often: matching, duplicates, and the three ways to publish.

use tidings::proto::v1::{self, EventType, delivery::State, subscription::PayloadFormat};
use tonic::Code;

use crate::support::{
    client::{id_of, subscription, update_request},
    events,
    events::{contact, message_of, publish_request},
    process::Launcher,
    receiver::{Receiver, Request},
};

/// A message in a conversation of this inbox.
fn message(account: i64, inbox: i64, number: i64) -> v1::Event {
    let mut event = events::message(account, 1, number);
    let message = message_of(&mut event);
    message.conversation.as_mut().unwrap().inbox_id = inbox;
    if let Some(of) = &mut message.inbox {
        of.id = inbox;
    }
    event
}

#[tokio::test]
async fn an_event_goes_to_the_subscriptions_of_its_account_that_match_kind_and_inbox() {
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    let messages = vec![EventType::MessageCreated.into()];
    let subscriptions = [
        (
            1,
            v1::Subscription {
                payload_format: PayloadFormat::Sample.into(),
                ..subscription(receiver.url("/all"))
            },
        ),
        (1, v1::Subscription { event_types: messages.clone(), ..subscription(receiver.url("/messages")) }),
        (1, v1::Subscription { inbox_ids: vec![7, 8], ..subscription(receiver.url("/inboxes")) }),
        (
            1,
            v1::Subscription {
                event_types: messages,
                inbox_ids: vec![9],
                ..subscription(receiver.url("/both"))
            },
        ),
        (2, subscription(receiver.url("/other"))),
    ];
    for (account, subscription) in subscriptions {
        gateway.client.subscribe(account, subscription).await;
    }
    let cases: [(i64, v1::Event, &[&str]); 6] = [
        (1, message(1, 7, 1), &["/all", "/inboxes", "/messages"]),
        (1, message(1, 9, 2), &["/all", "/both", "/messages"]),
        (1, message(1, 10, 3), &["/all", "/messages"]),
        (1, contact(1), &["/all"]),
        (2, message(2, 7, 4), &["/other"]),
        (3, message(3, 7, 5), &[]),
    ];
    let mut arrived = 0;
    for (account, event, paths) in cases {
        let published = gateway.client.publish(account, event).await;
        assert_eq!(usize::try_from(published.delivery_count()), Ok(paths.len()), "{paths:?}");
        let seen = receiver.wait_for(arrived + paths.len()).await;
        let mut new: Vec<_> = seen[arrived..].iter().map(|request| &*request.path).collect();
        new.sort_unstable();
        assert_eq!(new, paths);
        arrived += paths.len();
        gateway.client.nothing_owed(account).await;
    }
    assert_eq!(receiver.seen().len(), arrived);
    gateway.stop().await;
}

#[tokio::test]
async fn an_event_for_nobody_is_stored_and_says_so() {
    let gateway = Launcher::new().start().await;
    let published = gateway.client.publish_as(1, "for-nobody", contact(1)).await;
    assert_eq!((published.delivery_count(), &*published.event), (0, "accounts/1/events/for-nobody"));
    let stored = gateway.client.stored_events(1).await;
    assert_eq!(stored.len(), 1);
    assert_eq!(
        (&*stored[0].name, stored[0].create_time),
        ("accounts/1/events/for-nobody", published.create_time)
    );
    assert_eq!(gateway.client.deliveries_in(1, &[]).await, []);

    // A later subscription does not get earlier events.
    let receiver = Receiver::start().await;
    gateway.client.subscribe(1, subscription(receiver.url("/"))).await;
    let repeated = gateway.client.publish_as(1, "for-nobody", contact(1)).await;
    assert!(repeated.duplicate && repeated.delivery_count() == 0, "{repeated:?}");
    gateway.client.publish(1, message(1, 7, 1)).await;
    gateway.client.nothing_owed(1).await;
    assert_eq!(receiver.seen().len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_duplicate_is_delivered_once_whichever_way_and_whenever_it_comes() {
    let receiver = Receiver::start().await;
    let launcher = Launcher::new();
    let gateway = launcher.start().await;
    gateway.client.subscribe(1, subscription(receiver.url("/"))).await;
    let first = gateway.client.publish_as(1, "once", contact(1)).await;
    assert!(!first.duplicate);

    let again = v1::PublishResult { duplicate: true, ..first.clone() };
    assert_eq!(gateway.client.publish_as(1, "once", contact(1)).await, again);
    let request = || publish_request(1, "once", contact(1));
    let results = gateway.client.publish_all([request(), request()]).await;
    assert_eq!(results, [again.clone(), again.clone()]);
    let other = gateway.client.try_publish(publish_request(1, "once", message(1, 7, 1))).await.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
    // The id is the account's own.
    assert!(!gateway.client.publish_as(2, "once", contact(2)).await.duplicate);
    gateway.client.nothing_owed(1).await;
    gateway.stop().await;

    let gateway = launcher.start().await;
    assert_eq!(gateway.client.publish_as(1, "once", contact(1)).await, again);
    gateway.client.publish_as(1, "twice", contact(1)).await;
    gateway.client.nothing_owed(1).await;
    assert_eq!(receiver.seen().len(), 2);
    gateway.stop().await;
}

#[tokio::test]
async fn of_many_clients_that_publish_the_same_event_at_once_one_is_the_first() {
    const CALLERS: usize = 16;
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    gateway.client.subscribe(1, subscription(receiver.url("/"))).await;
    for round in 1..=10 {
        let id = format!("e{round}");
        let calls = (0..CALLERS).map(|_| gateway.client.publish_as(1, &id, contact(1)));
        let results = futures_util::future::join_all(calls).await;
        assert_eq!(results.iter().filter(|result| !result.duplicate).count(), 1);
        assert!(results.iter().all(|result| result.create_time == results[0].create_time), "{results:#?}");
    }
    gateway.client.nothing_owed(1).await;
    assert_eq!(receiver.seen().len(), 10);
    gateway.stop().await;
}

#[tokio::test]
async fn a_batch_and_a_stream_deliver_every_event_once() {
    const COUNT: i64 = 40;
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    gateway.client.subscribe(1, subscription(receiver.url("/"))).await;
    let request = |number: i64| publish_request(1, &format!("e{number}"), message(1, 7, number));

    let results = gateway.client.publish_all((1..=COUNT).map(request)).await;
    let names: Vec<_> = results.iter().map(|result| id_of(&result.event).to_owned()).collect();
    assert_eq!(names, (1..=COUNT).map(|number| format!("e{number}")).collect::<Vec<_>>());

    let message = |sequence| v1::StreamPublishEventsRequest { sequence, request: Some(request(sequence)) };
    let messages: Vec<_> = (COUNT + 1..=2 * COUNT).map(message).collect();
    let mut events = gateway.client.events.clone();
    let stream = events.stream_publish_events(tokio_stream::iter(messages)).await;
    let mut responses = stream.unwrap().into_inner();
    let mut sequences = Vec::new();
    while let Some(response) = responses.message().await.unwrap() {
        let Some(v1::stream_publish_events_response::Outcome::Result(result)) = response.outcome else {
            panic!("{response:?}")
        };
        assert_eq!((result.delivery_count(), result.duplicate), (1, false));
        sequences.push(response.sequence);
    }
    assert_eq!(
        sequences,
        (COUNT + 1..=2 * COUNT).collect::<Vec<_>>(),
        "responses come in the order of the messages"
    );

    gateway.client.nothing_owed(1).await;
    let mut numbers: Vec<i64> = receiver.seen().iter().map(Request::message_number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=2 * COUNT).collect::<Vec<_>>());
    let all = gateway.client.deliveries_in(1, &[State::Succeeded]).await;
    assert_eq!(all.len(), numbers.len());
    gateway.stop().await;
}

#[tokio::test]
async fn an_event_that_is_only_validated_is_neither_stored_nor_sent() {
    let receiver = Receiver::start().await;
    let gateway = Launcher::new().start().await;
    let (client, other) = (&gateway.client, receiver.url("/other"));
    let subscribed = client.subscribe(1, subscription(receiver.url("/"))).await;
    let before = client.subscription(&subscribed.name).await;

    let only_check =
        |id: &str| v1::PublishEventRequest { validate_only: true, ..publish_request(1, id, contact(1)) };
    assert_eq!(client.try_publish(only_check("e")).await.unwrap().delivery_count(), 1);
    client.publish_all([only_check("e"), only_check("f")]).await;
    let create = v1::CreateSubscriptionRequest {
        parent: "accounts/1".into(),
        subscription: Some(subscription(other.clone())),
        subscription_id: "checked".into(),
        validate_only: true,
        ..Default::default()
    };
    client.create(create).await.unwrap();
    let change = v1::Subscription { name: subscribed.name.clone(), url: other.clone(), ..Default::default() };
    let update = v1::UpdateSubscriptionRequest { validate_only: true, ..update_request(change, &[]) };
    let updated = client.subscriptions.clone().update_subscription(update).await.unwrap().into_inner();
    assert_eq!(updated.subscription.unwrap().url, other);

    assert_eq!(client.subscription(&subscribed.name).await, before);
    assert_eq!(client.stored_events(1).await, []);
    // The first POST is of the first event that is stored.
    assert!(!client.publish_as(1, "e", contact(1)).await.duplicate);
    client.nothing_owed(1).await;
    let seen = receiver.seen();
    assert_eq!((seen.len(), &*seen[0].path), (1, "/"));
    gateway.stop().await;
}

/// What has no type of its own can be published as the JSON that it is.
#[tokio::test]
async fn an_event_of_no_type_is_published_and_delivered_byte_for_byte() {
    let (receiver, gateway) = (Receiver::start().await, Launcher::new().start().await);
    let chatwoot = v1::Subscription {
        payload_format: PayloadFormat::Chatwoot.into(),
        event_types: vec![EventType::Other.into()],
        url: receiver.url("/"),
        ..Default::default()
    };
    gateway.client.subscribe(1, chatwoot).await;
    let json =
        br#"{ "event":"contact_deleted", "id": 7.0, "n":18446744073709551617, "event":"contact_deleted" }"#;
    let other = v1::OtherEvent {
        json: json.into(),
        reasons: vec!["only the server sets these".into()],
        ..Default::default()
    };
    let payload = Some(v1::event::Payload::Other(other));
    let event = v1::Event { payload, ..Default::default() };
    let published = gateway.client.publish(1, event).await;
    assert_eq!(published.delivery_count(), 1);
    let request = &receiver.wait_for(1).await[0];
    assert_eq!(request.body.as_bytes(), json);
    assert_eq!(request.header("webhook-event-type"), "contact_deleted");

    let stored = gateway.client.stored_events(1).await;
    let Some(v1::event::Payload::Other(other)) = &stored[0].payload else { panic!("{stored:?}") };
    let expected = v1::OtherEvent { name: "contact_deleted".into(), json: json.into(), reasons: Vec::new() };
    assert_eq!((stored[0].r#type(), other), (EventType::Other, &expected));
    gateway.stop().await;
}
