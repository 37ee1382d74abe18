//! Every bound that a caller can reach: the refusal, and that nothing has changed.

use std::{fs, path::Path};

use tidings::{
    proto::v1::{self, EventType, stream_publish_events_response::Outcome},
    store::StoreError,
};
use tonic::{Code, Status};

use crate::support::{blocking_store::BlockingStore, events, in_process::*};

const EVERYBODY: &str = "accounts/-";

/// A server with a subscription `crm`, whose events are all owed.
async fn start(change: impl FnOnce(&mut Setup)) -> TidingsInProcess {
    let mut setup = Setup::default();
    change(&mut setup);
    let server = TidingsInProcess::start_with(setup).await;
    server.subscribe("crm").await;
    server
}

/// Whether a document names the limit.
fn is_documented(limit: &str) -> bool {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let documents = fs::read_dir(folder).expect("there are documents");
    let texts = documents.map(|document| fs::read_to_string(document.expect("it is listed").path()));
    texts.flatten().any(|text| text.contains(&format!("`{limit}`")))
}

/// Asserts that a refusal names the caller, the limit and the time to wait.
#[track_caller]
fn check(status: &Status, reason: &str, subject: &str, limit: &str, max: &str) {
    assert_eq!(in_short(status), (Code::ResourceExhausted, reason.into(), vec![]), "{status:?}");
    let details = details(status);
    let violations = &details.quota_failure().expect("a QuotaFailure").violations;
    assert_eq!(violations.iter().map(|violation| &*violation.subject).collect::<Vec<_>>(), [subject]);
    let metadata = &details.error_info().expect("an ErrorInfo").metadata;
    assert_eq!((&*metadata["limit"], &*metadata["max"]), (limit, max), "{status:?}");
    assert!(is_documented(limit), "{limit} is in no document");
    assert!(violations[0].description.contains(limit), "{status:?}");
    assert!(status.message().contains(limit), "{status:?}");
    let wait = details.retry_info().and_then(|retry| retry.retry_delay);
    assert!(reason == "SUBSCRIPTION_LIMIT" || wait.is_some_and(|wait| !wait.is_zero()), "{status:?}");
}

#[tokio::test]
async fn an_error_names_the_limit_of_calls_in_flight() {
    for (events_max, bytes_max, limit, max) in [
        (1, 1_000_000, "publish_events_in_flight_max", "1"),
        (1000, 1000, "publish_bytes_in_flight_max", "1000"),
    ] {
        let store = BlockingStore::new();
        let server = start(|setup| {
            setup.store = Some(store.clone());
            setup.gateway.events_in_flight_max = events_max;
            setup.gateway.bytes_in_flight_max = bytes_max;
        })
        .await;
        let waiting = server.publishing("a");
        store.has_accepts(1).await;
        check(
            &server.client.try_publish(publish("b")).await.unwrap_err(),
            "OVERLOADED",
            EVERYBODY,
            limit,
            max,
        );
        store.release();
        waiting.await.unwrap().expect("what was admitted is served");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_bound_of_the_store_names_everybody() {
    let store = BlockingStore::new();
    store.release();
    store.fail_with(StoreError::Busy);
    let server = start(|setup| setup.store = Some(store.clone())).await;
    let status = server.client.try_publish(publish("a")).await.unwrap_err();
    assert_refused(&status, Code::ResourceExhausted, "OVERLOADED", &[]);
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
    let status = server.client.try_test(CRM, EventType::Unspecified).await.unwrap_err();
    check(&status, "OVERLOADED", PARENT, "tests_in_flight_max", "0");
    let status = server.client.watch("accounts/1/subscriptions/-").await.unwrap_err();
    check(&status, "OVERLOADED", PARENT, "watches_max", "0");
    let status = server.client.create(create("other", "https://other.example.com/")).await.unwrap_err();
    check(&status, "SUBSCRIPTION_LIMIT", PARENT, "subscriptions_per_account_max", "1");
    server.stop().await;
}

#[tokio::test]
async fn an_event_whose_body_would_be_many_times_as_large_is_refused() {
    let server = start(|_| {}).await;
    let mut event = events::message(1, 1, 1);
    let Some(v1::event::Payload::MessageCreated(created)) = &mut event.payload else { unreachable!() };
    let conversation = created.message.as_mut().unwrap().conversation.as_mut().unwrap();
    let message_type = v1::MessageType::Incoming.into();
    let nested = |count: i64| {
        (1..=count).map(|id| v1::Message { id, message_type, ..v1::Message::default() }).collect()
    };
    conversation.messages = nested(40_000);
    let refused = server.client.try_publish(events::publish_request(1, "", event.clone())).await.unwrap_err();
    assert_refused(&refused, Code::InvalidArgument, "FIELD_INVALID", &["event"]);
    let fields = details(&refused);
    let description = &fields.bad_request().unwrap().field_violations[0].description;
    assert!(
        description.contains("body_bytes_max (4194304)") && description.contains("DOCUMENTED"),
        "{description}"
    );
    let Some(v1::event::Payload::MessageCreated(created)) = &mut event.payload else { unreachable!() };
    created.message.as_mut().unwrap().conversation.as_mut().unwrap().messages = nested(1_000);
    server.client.publish(1, event).await;
    server.stop().await;
}

#[tokio::test]
async fn watches_of_one_account_leave_the_others_theirs() {
    let server = start(|setup| setup.gateway.watches_max = 16).await;
    let mut open = Vec::new();
    for account in 1..=8 {
        let parent = format!("accounts/{account}/subscriptions/-");
        let mut own = 0;
        let refused = loop {
            match server.client.watch(&parent).await {
                Ok(watch) => open.push(watch),
                Err(status) => break status,
            }
            own += 1;
        };
        check(&refused, "OVERLOADED", &format!("accounts/{account}"), "watches_max", "16");
        // A quarter each, and in the last quarter one.
        assert_eq!(own, [4, 4, 4, 1, 1, 1, 1, 0][account - 1], "{account}");
    }
    server.stop().await;
}

#[tokio::test]
async fn bytes_of_subscriptions_have_shares() {
    let server = start(|setup| setup.gateway.subscription_bytes_max = 100_000).await;
    let large = |account: i64, id: &str| v1::CreateSubscriptionRequest {
        parent: format!("accounts/{account}"),
        subscription: Some(v1::Subscription {
            headers: [("x-large".to_owned(), "x".repeat(3000))].into(),
            ..crate::support::client::subscription(format!("https://{id}.example.com/"))
        }),
        subscription_id: id.into(),
        ..Default::default()
    };
    server.client.create(large(1, "a")).await.unwrap();
    server.client.create(large(1, "b")).await.unwrap();
    let status = server.client.create(large(1, "c")).await.unwrap_err();
    check(&status, "SUBSCRIPTION_LIMIT", PARENT, "subscription_bytes_max", "100000");
    let metadata = details(&status).error_info().unwrap().metadata.clone();
    assert_eq!(metadata["share"], "12500");
    // A change counts for what it adds.
    let annotations = [("x".to_owned(), "x".repeat(60))].into();
    let change = |annotations| v1::Subscription { name: CRM.into(), annotations, ..Default::default() };
    server.client.try_update(change(annotations), &["annotations"]).await.expect("there is room for it");
    let headers = [("x-large".to_owned(), "x".repeat(3500))].into();
    let change = v1::Subscription { name: CRM.into(), headers, ..Default::default() };
    let status = server.client.try_update(change, &["headers"]).await.unwrap_err();
    check(&status, "SUBSCRIPTION_LIMIT", PARENT, "subscription_bytes_max", "100000");
    server.client.create(large(2, "a")).await.expect("the other account has a share of its own");
    server.client.delete("accounts/1/subscriptions/a", true).await.unwrap();
    server.client.create(large(1, "c")).await.expect("there is room again");
    server.stop().await;
}

#[tokio::test]
async fn a_subscription_that_is_owed_as_much_as_it_may_is_named_and_the_event_is_refused_for_all() {
    let server = start(|setup| setup.gateway.backlog_per_subscription_max = 2).await;
    let other = server.subscribe_in("accounts/2", "other").await;
    for id in ["a", "b"] {
        server.client.try_publish(publish(id)).await.unwrap();
    }
    let healthy = server.subscribe("healthy").await;
    let status = server.client.try_publish(publish("c")).await.unwrap_err();
    check(&status, "BACKLOG_FULL", CRM, "backlog_per_subscription_max", "2");
    assert!(status.message().contains(CRM), "{status:?}");
    assert!(!server.is_stored("c"));
    assert_eq!(server.store.owed_in_all().deliveries, 2, "nothing is owed to {} either", healthy.name);

    // Whoever has room is not concerned.
    let request = events::publish_request(2, "c", events::message(2, 3, 7));
    server.client.try_publish(request).await.unwrap_or_else(|status| panic!("{other:?}: {status:?}"));

    // Once something is over there is room for that much.
    server.client.cancel(&format!("{CRM}/deliveries/a")).await;
    server.client.try_publish(publish("c")).await.unwrap();
    server.client.try_publish(publish("d")).await.unwrap_err();
    server.stop().await;
}

#[tokio::test]
async fn a_batch_that_would_pass_the_bound_is_refused_as_a_whole() {
    let server = start(|setup| setup.gateway.backlog_per_subscription_max = 3).await;
    server.client.try_publish(publish("a")).await.unwrap();
    let status =
        server.client.try_publish_batch(vec![publish("b"), publish("c"), publish("d")]).await.unwrap_err();
    check(&status, "BACKLOG_FULL", CRM, "backlog_per_subscription_max", "3");
    assert!(["b", "c", "d"].iter().all(|id| !server.is_stored(id)));
    server.client.try_publish_batch(vec![publish("b"), publish("c")]).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn owed_deliveries_are_limited_and_events_without_subscribers_are_accepted() {
    let server = start(|setup| setup.gateway.backlog_max = 3).await;
    server.subscribe("second").await;
    server.client.try_publish(publish("a")).await.unwrap();
    // One more would fit, but the event is owed to two.
    let status = server.client.try_publish(publish("b")).await.unwrap_err();
    check(&status, "BACKLOG_FULL", PARENT, "backlog_max", "3");
    assert_eq!(server.store.owed_in_all().deliveries, 2);
    let request = events::publish_request(2, "b", events::message(2, 3, 7));
    server.client.try_publish(request).await.expect("it is owed to nobody");
    server.stop().await;
}

/// Publishes for an account until it is refused, and returns how many were stored.
async fn fill(server: &TidingsInProcess, account: i64) -> (usize, Status) {
    for stored in 0..1000 {
        let request = events::publish_request(account, "", events::message(account, 3, 7));
        if let Err(status) = server.client.try_publish(request).await {
            return (stored, status);
        }
    }
    panic!("account {account} is not refused");
}

#[tokio::test]
async fn an_account_that_is_owed_its_share_is_named_and_others_publish() {
    let server = start(|setup| setup.gateway.backlog_per_account_max = 4).await;
    server.subscribe_in("accounts/2", "other").await;
    let (stored, status) = fill(&server, 1).await;
    assert_eq!(stored, 4);
    check(&status, "BACKLOG_FULL", PARENT, "backlog_per_account_max", "4");
    let metadata = details(&status).error_info().unwrap().metadata.clone();
    assert_eq!((&*metadata["owed"], &*metadata["share"]), ("4", "4"));
    assert_eq!(fill(&server, 2).await.0, 4, "the other account has a share of its own");
    server.stop().await;
}

#[tokio::test]
async fn near_the_bound_only_accounts_with_more_than_their_share_are_refused() {
    let server = start(|setup| {
        setup.gateway.backlog_max = 160;
        setup.gateway.backlog_per_account_max = 160;
    })
    .await;
    let (stored, status) = fill(&server, 1).await;
    assert_eq!(stored, 120, "all but the last quarter");
    check(&status, "BACKLOG_FULL", PARENT, "backlog_max", "160");
    for account in 2..8 {
        server.subscribe_in(&format!("accounts/{account}"), "other").await;
        let (stored, _) = fill(&server, account).await;
        assert!((1..=5).contains(&stored), "account {account} has {stored}");
    }
    // What no subscription is waiting for is not concerned.
    let request = events::publish_request(99, "", events::message(99, 3, 7));
    server.client.try_publish(request).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn bytes_that_are_owed_have_shares_too() {
    let server = start(|setup| setup.gateway.retention_bytes_max = 400_000).await;
    server.subscribe_in("accounts/2", "other").await;
    let large = |account| events::publish_request(account, "", events::long_message(account, 3, 7, 45_000));
    for _ in 0..4 {
        server.client.try_publish(large(1)).await.unwrap();
    }
    let status = server.client.try_publish(large(1)).await.unwrap_err();
    check(&status, "STORE_FULL", PARENT, "retention_bytes_max", "400000");
    let metadata = details(&status).error_info().unwrap().metadata.clone();
    assert_eq!(metadata["share"], "200000");
    assert!((180_000..200_000).contains(&metadata["owed_bytes"].parse::<u64>().unwrap()), "{metadata:?}");
    server.client.try_publish(large(2)).await.expect("it has its share");
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
    let mut client = server.client.events.clone();
    let call = client.stream_publish_events(tokio_stream::iter(messages.collect::<Vec<_>>())).await;
    let mut responses = call.unwrap().into_inner();
    let mut outcomes = Vec::new();
    while let Some(response) = in_time(responses.message()).await.unwrap() {
        outcomes.push(match response.outcome.unwrap() {
            Outcome::Result(_) => (response.sequence, String::new()),
            Outcome::Error(error) => {
                assert_eq!(Code::from(error.code), Code::ResourceExhausted);
                assert!(error.message.contains(CRM), "{error:?}");
                (response.sequence, error.reason)
            }
        });
    }
    let full = || "BACKLOG_FULL".to_owned();
    assert_eq!(outcomes, [(1, String::new()), (2, String::new()), (3, full()), (4, full())]);
    server.stop().await;
}
