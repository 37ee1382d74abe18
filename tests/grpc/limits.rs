//! Every bound that a caller can reach: what is told, and that nothing has changed.

use std::sync::Arc;

use tidings::{
    config::table::Setting,
    proto::v1::{self, stream_publish_events_response::Outcome},
    store::{Store, StoreError},
};
use tonic::{Code, Status};

use crate::{harness::*, held_store::HeldStore};

const EVERYBODY: &str = "accounts/-";
const CRM: &str = "accounts/1/subscriptions/crm";

/// A server with a subscription `crm`, whose events are all owed.
async fn start(change: impl FnOnce(&mut Setup)) -> Server {
    let mut setup = Setup::default();
    change(&mut setup);
    let server = Server::start_with(setup).await;
    server.subscribe("crm").await;
    server
}

async fn try_publish(server: &Server, id: &str) -> Result<v1::PublishResult, Status> {
    let answer = server.events().await.publish_event(publish(id)).await?;
    Ok(answer.into_inner().result.expect("it is shown"))
}

async fn try_publish_batch(server: &Server, ids: &[&str]) -> Result<(), Status> {
    let requests = ids.iter().map(|id| publish(id)).collect();
    let request = v1::BatchPublishEventsRequest { parent: String::new(), requests };
    server.events().await.batch_publish_events(request).await.map(drop)
}

fn is_stored(server: &Server, id: &str) -> bool {
    server.store.event(account(), &id.parse().expect("an event id")).expect("it can be read").is_some()
}

/// That a refusal names who uses up which bound, and says when to come back.
#[track_caller]
fn check(status: &Status, reason: &str, subject: &str, limit: &str, max: &str) {
    assert_eq!(told(status), (Code::ResourceExhausted, reason.into(), vec![]), "{status:?}");
    let details = details(status);
    let violations = &details.quota_failure().expect("a QuotaFailure").violations;
    assert_eq!(violations.iter().map(|violation| &*violation.subject).collect::<Vec<_>>(), [subject]);
    let metadata = &details.error_info().expect("an ErrorInfo").metadata;
    assert_eq!((&*metadata["limit"], &*metadata["max"]), (limit, max), "{status:?}");
    assert!(Setting::by_key(limit).is_some(), "{limit} is no setting");
    assert!(violations[0].description.contains(limit), "{status:?}");
    assert!(status.message().contains(limit), "{status:?}");
    let wait = details.retry_info().and_then(|retry| retry.retry_delay);
    assert!(reason == "SUBSCRIPTION_LIMIT" || wait.is_some_and(|wait| !wait.is_zero()), "{status:?}");
}

#[tokio::test]
async fn a_bound_of_what_is_in_flight_is_named() {
    for (events_max, bytes_max, limit, max) in [
        (1, 1_000_000, "publish_events_in_flight_max", "1"),
        (1000, 1000, "publish_bytes_in_flight_max", "1000"),
    ] {
        let store = HeldStore::holding();
        let server = start(|setup| {
            setup.store = Some(Arc::clone(&store) as Arc<dyn Store>);
            setup.gateway.events_in_flight_max = events_max;
            setup.gateway.bytes_in_flight_max = bytes_max;
        })
        .await;
        let mut client = server.events().await;
        let waiting = tokio::spawn(async move { client.publish_event(publish("a")).await });
        store.has_accepts(1).await;
        check(&try_publish(&server, "b").await.unwrap_err(), "OVERLOADED", EVERYBODY, limit, max);
        store.release();
        in_time(waiting).await.unwrap().expect("what was admitted is served");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_bound_of_the_store_names_everybody() {
    let store = HeldStore::holding();
    store.release();
    store.fail_with(StoreError::Busy);
    let server = start(|setup| setup.store = Some(Arc::clone(&store) as Arc<dyn Store>)).await;
    let status = try_publish(&server, "a").await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
    let details = details(&status);
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, EVERYBODY);
    assert!(details.retry_info().is_some());
    server.stop().await;
}

#[tokio::test]
async fn bounds_of_other_calls_are_named() {
    let server = start(|setup| {
        setup.gateway.tests_in_flight_max = 0;
        setup.gateway.watches_max = 0;
        setup.gateway.subscriptions_per_account_max = 1;
    })
    .await;
    let request = v1::TestSubscriptionRequest { name: CRM.into(), ..Default::default() };
    let status = server.subscriptions().await.test_subscription(request).await.unwrap_err();
    check(&status, "OVERLOADED", EVERYBODY, "tests_in_flight_max", "0");
    let request =
        v1::WatchDeliveriesRequest { parent: "accounts/1/subscriptions/-".into(), ..Default::default() };
    let status = server.deliveries().await.watch_deliveries(request).await.unwrap_err();
    check(&status, "OVERLOADED", EVERYBODY, "watches_max", "0");
    let request = create("other", "https://other.example.com/");
    let status = server.subscriptions().await.create_subscription(request).await.unwrap_err();
    check(&status, "SUBSCRIPTION_LIMIT", PARENT, "subscriptions_per_account_max", "1");
    server.stop().await;
}

#[tokio::test]
async fn a_subscription_that_is_owed_as_much_as_it_may_is_named_and_the_event_is_refused_for_all() {
    let server = start(|setup| setup.gateway.backlog_per_subscription_max = 2).await;
    let other = server.subscribe_in("accounts/2", "other").await;
    for id in ["a", "b"] {
        try_publish(&server, id).await.unwrap();
    }
    let healthy = server.subscribe("healthy").await;
    let status = try_publish(&server, "c").await.unwrap_err();
    check(&status, "BACKLOG_FULL", CRM, "backlog_per_subscription_max", "2");
    assert!(status.message().contains(CRM), "{status:?}");
    assert!(!is_stored(&server, "c"));
    assert_eq!(server.store.owed_in_all(), 2, "nothing is owed to {} either", healthy.name);

    // Whoever has room is not concerned.
    let request = v1::PublishEventRequest { parent: "accounts/2".into(), ..publish("c") };
    let request = v1::PublishEventRequest { event: Some(message_of(2).into()), ..request };
    server
        .events()
        .await
        .publish_event(request)
        .await
        .unwrap_or_else(|status| panic!("{other:?}: {status:?}"));

    // Once something is over there is room for that much.
    let name = format!("{CRM}/deliveries/a");
    server.deliveries().await.cancel_delivery(v1::CancelDeliveryRequest { name }).await.unwrap();
    try_publish(&server, "c").await.unwrap();
    try_publish(&server, "d").await.unwrap_err();
    server.stop().await;
}

#[tokio::test]
async fn a_batch_that_would_pass_the_bound_is_refused_as_a_whole() {
    let server = start(|setup| setup.gateway.backlog_per_subscription_max = 3).await;
    try_publish(&server, "a").await.unwrap();
    let status = try_publish_batch(&server, &["b", "c", "d"]).await.unwrap_err();
    check(&status, "BACKLOG_FULL", CRM, "backlog_per_subscription_max", "3");
    assert!(["b", "c", "d"].iter().all(|id| !is_stored(&server, id)));
    try_publish_batch(&server, &["b", "c"]).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn what_is_owed_in_all_is_bounded_and_events_for_nobody_are_taken() {
    let server = start(|setup| setup.gateway.backlog_max = 3).await;
    server.subscribe("second").await;
    try_publish(&server, "a").await.unwrap();
    // One more would fit, but the event is owed to two.
    let status = try_publish(&server, "b").await.unwrap_err();
    check(&status, "BACKLOG_FULL", EVERYBODY, "backlog_max", "3");
    assert_eq!(server.store.owed_in_all(), 2);
    let request = v1::PublishEventRequest { parent: "accounts/2".into(), ..publish("b") };
    let request = v1::PublishEventRequest { event: Some(message_of(2).into()), ..request };
    server.events().await.publish_event(request).await.expect("it is owed to nobody");
    server.stop().await;
}

#[tokio::test]
async fn events_of_a_stream_are_refused_one_by_one() {
    let server = start(|setup| {
        setup.gateway.backlog_per_subscription_max = 2;
        setup.grpc.stream_events_in_flight_max = 1;
    })
    .await;
    let messages = ["a", "b", "c", "d"].into_iter().zip(1..);
    let messages = messages
        .map(|(id, sequence)| v1::StreamPublishEventsRequest { sequence, request: Some(publish(id)) });
    let mut client = server.events().await;
    let call = client.stream_publish_events(tokio_stream::iter(messages.collect::<Vec<_>>())).await;
    let mut answers = call.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(answer) = in_time(answers.message()).await.unwrap() {
        told.push(match answer.outcome.unwrap() {
            Outcome::Result(_) => (answer.sequence, String::new()),
            Outcome::Error(error) => {
                assert_eq!(Code::from(error.code), Code::ResourceExhausted);
                assert!(error.message.contains(CRM), "{error:?}");
                (answer.sequence, error.reason)
            }
        });
    }
    let full = || "BACKLOG_FULL".to_owned();
    assert_eq!(told, [(1, String::new()), (2, String::new()), (3, full()), (4, full())]);
    server.stop().await;
}

/// A message of another account.
fn message_of(account: i64) -> v1::Event {
    let account = tidings::domain::ids::AccountId::new(account).expect("it is positive");
    tidings::event::samples::typical_message(account, 3, 7)
}
