//! SubscriptionService, where it does as asked.

use std::collections::BTreeMap;

use prost::Message;
use tidings::proto::v1::{self, EventType, subscription::State};
use tonic::Code;
use uuid::Uuid;

use crate::support::{
    client::{all_pages, attempts, id_of, update_request},
    closed_address,
    in_process::*,
    receiver::{Receiver, Response},
};

#[tokio::test]
async fn a_subscription_lives_from_creation_to_deletion() {
    let server = TidingsInProcess::start().await;
    let mut client = server.client.subscriptions.clone();
    let request = v1::CreateSubscriptionRequest {
        subscription: Some(v1::Subscription {
            display_name: "CRM".into(),
            headers: BTreeMap::from([("X-Token".into(), "secret".into())]),
            timeout: Some(prost_types::Duration { seconds: 3, nanos: 500_000_000 }),
            annotations: BTreeMap::from([("team".into(), "a".into())]),
            ..subscription("https://crm.example.com/hook")
        }),
        signing_secret: "a-secret-of-some-length".into(),
        ..create("crm", "")
    };
    let created = client.create_subscription(request).await.unwrap().into_inner();
    // As libraries take it: the base64 of the characters.
    assert_eq!(created.signing_secret, "whsec_YS1zZWNyZXQtb2Ytc29tZS1sZW5ndGg=");
    let created = created.subscription.unwrap();
    assert_eq!(created.name, "accounts/1/subscriptions/crm");
    assert_eq!(created.headers, BTreeMap::from([("x-token".into(), "***".into())]));
    assert_eq!(created.state(), State::Active);
    assert!(created.uid.parse::<Uuid>().is_ok() && !created.etag.is_empty() && created.create_time.is_some());

    let name = created.name.clone();
    assert_eq!(server.client.subscription(&name).await, created);

    let once = server.client.pause(&name).await;
    assert_eq!(once.state(), State::Paused);
    assert_ne!(once.etag, created.etag);
    assert_eq!(server.client.pause(&name).await, once, "a second pause changed something");
    let resumed = server.client.resume(&name).await;
    assert_eq!(resumed.state(), State::Active);

    let delete = v1::DeleteSubscriptionRequest { name: name.clone(), etag: resumed.etag, force: false };
    client.delete_subscription(delete).await.unwrap();
    let get = v1::GetSubscriptionRequest { name: name.clone() };
    let status = client.get_subscription(get).await.unwrap_err();
    assert_refused(&status, Code::NotFound, "SUBSCRIPTION_NOT_FOUND", &[]);
    let details = details(&status);
    let resource = details.resource_info().unwrap();
    assert_eq!(
        (resource.resource_type.as_str(), &resource.resource_name),
        ("tidings.v1.Subscription", &name)
    );

    let again = server.subscribe("crm").await;
    assert_ne!(again.uid, created.uid, "a later subscription of the same name has the uid of the former");
    server.stop().await;
}

#[tokio::test]
async fn the_server_makes_ids_and_secrets_where_none_are_given() {
    let server = TidingsInProcess::start().await;
    let mut made = Vec::new();
    for url in ["http://a.example", "http://b.example"] {
        let created = server.client.create(create("", url)).await.unwrap();
        assert!(created.secret.starts_with("whsec_"));
        made.push((created.name, created.secret));
    }
    assert!(made[0].0 != made[1].0 && made[0].1 != made[1].1, "{made:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_mask_in_either_spelling_changes_what_it_names() {
    let server = TidingsInProcess::start().await;
    let stored = server.subscribe("crm").await;
    let named = v1::Subscription { name: stored.name.clone(), ..Default::default() };
    let new = v1::Subscription {
        display_name: "named".into(),
        max_in_flight: 9,
        retry_policy: attempts(3),
        ..named.clone()
    };
    let updated = async |change: &v1::Subscription, paths: &[&str]| {
        server.client.try_update(change.clone(), paths).await.unwrap()
    };

    let first = updated(&new, &["display_name"]).await;
    assert_eq!((first.display_name.as_str(), first.max_in_flight, first.retry_policy), ("named", 0, None));
    let second = updated(&new, &["maxInFlight", "retryPolicy.maxAttempts"]).await;
    assert_eq!((second.max_in_flight, second.retry_policy.unwrap().max_attempts), (9, 3));

    // Without a mask only the given fields change; with a star, the others are unset.
    let third = updated(&v1::Subscription { display_name: "other".into(), ..named.clone() }, &[]).await;
    assert_eq!((third.display_name.as_str(), third.max_in_flight, &third.url), ("other", 9, &stored.url));
    let whole = v1::Subscription { name: named.name, ..subscription("https://new.example.com/") };
    let fourth = updated(&whole, &["*"]).await;
    assert_eq!((fourth.display_name.as_str(), fourth.max_in_flight, fourth.retry_policy), ("", 0, None));
    assert_eq!(fourth.url, "https://new.example.com/");
    server.stop().await;
}

#[tokio::test]
async fn an_update_that_changes_nothing_keeps_the_etag() {
    let server = TidingsInProcess::start().await;
    let stored = server.subscribe("crm").await;
    // A client that reads, changes nothing, and writes back.
    assert_eq!(server.client.update(stored.clone()).await, stored);
    server.stop().await;
}

#[tokio::test]
async fn an_update_with_an_old_etag_is_aborted_and_with_the_current_one_made() {
    let server = TidingsInProcess::start().await;
    let stored = server.subscribe("crm").await;
    let change = async |etag: &str, name: &str| {
        let (etag, display_name) = (etag.to_owned(), name.to_owned());
        let change = v1::Subscription { etag, display_name, ..stored.clone() };
        server.client.try_update(change, &["display_name"]).await
    };
    let changed = change(&stored.etag, "first").await.unwrap();
    let status = change(&stored.etag, "second").await.unwrap_err();
    assert_refused(&status, Code::Aborted, "ETAG_MISMATCH", &[]);
    change(&changed.etag, "third").await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn changes_at_the_same_time_are_all_made() {
    let server = TidingsInProcess::start().await;
    let stored = server.subscribe("crm").await;
    let change = async |field: &str| {
        let changed = v1::Subscription { display_name: "d".into(), max_in_flight: 5, ..stored.clone() };
        let changed = v1::Subscription { etag: String::new(), ..changed };
        server.client.try_update(changed, &[field]).await.unwrap();
    };
    tokio::join!(change("display_name"), change("max_in_flight"));
    let read = server.client.subscription(&stored.name).await;
    assert_eq!((read.display_name.as_str(), read.max_in_flight), ("d", 5));
    server.stop().await;
}

#[tokio::test]
async fn three_stars_keep_the_value_of_a_header() {
    let mut receiver = Receiver::start().await;
    let server = TidingsInProcess::start().await;
    let headers = BTreeMap::from([("x-token".to_owned(), "first".to_owned())]);
    let wanted = v1::Subscription { headers, ..subscription(&receiver.url("/hook")) };
    let request = v1::CreateSubscriptionRequest { subscription: Some(wanted), ..create("crm", "") };
    server.client.create(request).await.unwrap();
    let mut headers = server.client.subscription(CRM).await.headers;
    headers.insert("x-other".into(), "second".into());
    let change = v1::Subscription { name: CRM.into(), headers, ..Default::default() };
    server.client.try_update(change, &["headers"]).await.unwrap();

    server.client.test(CRM, EventType::Unspecified).await;
    let got = receiver.next().await;
    assert_eq!((got.header("x-token"), got.header("x-other")), ("first", "second"));
    server.stop().await;
}

/// The response to a repetition of the call that got this one.
fn without_secret(first: v1::CreateSubscriptionResponse) -> v1::CreateSubscriptionResponse {
    v1::CreateSubscriptionResponse { signing_secret: String::new(), secret_already_shown: true, ..first }
}

#[tokio::test]
async fn a_request_id_makes_creation_safe_to_repeat() {
    let server = TidingsInProcess::start().await;
    let mut client = server.client.subscriptions.clone();
    let request_id = Uuid::from_u128(7).to_string();
    let request = v1::CreateSubscriptionRequest { request_id, ..create("", "http://a.example") };
    let first = client.create_subscription(request.clone()).await.unwrap().into_inner();
    assert!(first.signing_secret.starts_with("whsec_") && !first.secret_already_shown);
    let second = client.create_subscription(request.clone()).await.unwrap().into_inner();
    assert_eq!(second, without_secret(first.clone()), "the secret is shown once");

    let subscription = Some(subscription("http://b.example"));
    let other = v1::CreateSubscriptionRequest { subscription, ..request };
    let status = client.create_subscription(other).await.unwrap_err();
    assert_refused(&status, Code::AlreadyExists, "REQUEST_ID_REUSED", &["request_id"]);
    assert_eq!(server.store.registry().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_subscription_that_is_only_validated_is_not_stored() {
    let server = TidingsInProcess::start().await;
    let mut client = server.client.subscriptions.clone();
    let request =
        v1::CreateSubscriptionRequest { validate_only: true, ..create("crm", "https://a.example/") };
    let checked = client.create_subscription(request).await.unwrap().into_inner();
    let shown = checked.subscription.unwrap();
    assert_eq!((shown.name.as_str(), shown.url.as_str()), (CRM, "https://a.example/"));
    assert_eq!((shown.uid.as_str(), shown.etag.as_str(), checked.signing_secret.as_str()), ("", "", ""));
    assert!(server.store.registry().is_empty());

    let stored = server.subscribe("crm").await;
    let change = v1::Subscription { name: CRM.into(), display_name: "x".into(), ..Default::default() };
    let request = v1::UpdateSubscriptionRequest { validate_only: true, ..update_request(change, &[]) };
    let shown = client.update_subscription(request).await.unwrap().into_inner().subscription.unwrap();
    assert_eq!(shown, v1::Subscription { display_name: "x".into(), ..stored.clone() });
    assert_eq!(server.client.subscription(CRM).await, stored);
    server.stop().await;
}

#[tokio::test]
async fn pages_survive_insertions_between_them() {
    let server = TidingsInProcess::start().await;
    for id in ["b", "d", "f", "h"] {
        server.subscribe(id).await;
    }
    let mut inserted = ["e", "a", "z"].into_iter();
    let seen = all_pages(async |page_token| {
        let parent = PARENT.into();
        let request = v1::ListSubscriptionsRequest { parent, page_size: 2, page_token, ..Default::default() };
        let mut client = server.client.subscriptions.clone();
        let page = client.list_subscriptions(request).await.unwrap().into_inner();
        server.subscribe(inserted.next().unwrap()).await;
        (page.subscriptions, page.next_page_token)
    })
    .await;
    // Nothing twice, and everything that was there from the start. An insertion before the page is not seen.
    assert_eq!(seen.iter().map(|one| id_of(&one.name)).collect::<Vec<_>>(), ["b", "d", "e", "f", "h"]);
    server.stop().await;
}

#[tokio::test]
async fn a_list_of_large_subscriptions_comes_in_pages_that_clients_take() {
    let server = TidingsInProcess::start().await;
    let annotations: BTreeMap<_, _> = (0..15).map(|n| (n.to_string(), "x".repeat(1024))).collect();
    let inbox_ids: Vec<i64> = (0..1000).map(|n| i64::MAX - n).collect();
    for number in 0..200 {
        let annotations = annotations.clone();
        let large = subscription(&format!("https://example.com/{number}/{}", "x".repeat(2000)));
        let large = v1::Subscription { annotations, inbox_ids: inbox_ids.clone(), ..large };
        server.client.subscribe(number % 2 + 1, large).await;
    }
    let mut pages = 0;
    let seen = all_pages(async |page_token| {
        let parent = "accounts/-".into();
        let request =
            v1::ListSubscriptionsRequest { parent, page_size: 1000, page_token, ..Default::default() };
        // A page of more than 4 MiB is an error of the client's codec, and ours have one.
        let mut client = server.client.subscriptions.clone();
        let page = client.list_subscriptions(request).await.unwrap().into_inner();
        pages += 1;
        assert!(page.encoded_len() <= 1024 * 1024 + 1024, "{} bytes", page.encoded_len());
        (page.subscriptions, page.next_page_token)
    })
    .await;
    // They have 27 KB each.
    assert_eq!((seen.len(), pages), (200, 6));
    server.stop().await;
}

#[tokio::test]
async fn lists_filter_by_event_type_state_and_account() {
    let server = TidingsInProcess::start().await;
    server.subscribe("a").await;
    server.client.pause(&server.subscribe("b").await.name).await;
    let event_types = vec![EventType::ContactCreated.into()];
    let other = v1::Subscription { event_types, ..subscription("https://c.example.com") };
    let request = v1::CreateSubscriptionRequest {
        parent: "accounts/2".into(),
        subscription: Some(other),
        ..create("c", "")
    };
    server.client.create(request).await.unwrap();

    for (parent, event_type, states, expected) in [
        ("accounts/-", EventType::Unspecified, vec![], vec!["a", "b", "c"]),
        ("accounts/1", EventType::Unspecified, vec![], vec!["a", "b"]),
        ("accounts/9", EventType::Unspecified, vec![], vec![]),
        ("accounts/-", EventType::ContactCreated, vec![], vec!["c"]),
        ("accounts/-", EventType::Unspecified, vec![State::Paused], vec!["b"]),
        ("accounts/-", EventType::MessageCreated, vec![State::Paused, State::Active], vec!["a", "b"]),
    ] {
        let request = v1::ListSubscriptionsRequest {
            parent: parent.into(),
            event_type: event_type.into(),
            states: states.into_iter().map(Into::into).collect(),
            ..Default::default()
        };
        let listed = server.client.subscriptions.clone().list_subscriptions(request).await.unwrap();
        let listed = listed.into_inner().subscriptions;
        let ids: Vec<_> = listed.iter().map(|subscription| id_of(&subscription.name)).collect();
        assert_eq!(ids, expected, "{parent} {event_type:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_subscription_that_owes_deliveries_is_deleted_by_force_only() {
    let server = TidingsInProcess::start().await;
    server.subscribe("crm").await;
    server.publish("e").await;
    let status = server.client.delete(CRM, false).await.unwrap_err();
    assert_refused(&status, Code::FailedPrecondition, "UNDELIVERED_EVENTS", &[]);
    assert!(status.message().starts_with(&format!("{CRM} has 1 unfinished delivery:")), "{status:?}");
    let details = details(&status);
    assert_eq!(details.error_info().unwrap().metadata["count"], "1");
    assert_eq!(details.precondition_failure().unwrap().violations[0].subject, CRM);
    server.client.delete(CRM, true).await.unwrap();
    assert!(server.store.registry().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn an_account_has_a_bounded_number_of_subscriptions_and_repeats_still_succeed() {
    let mut setup = Setup::default();
    setup.gateway.subscriptions_per_account_max = 2;
    let server = TidingsInProcess::start_with(setup).await;
    let mut client = server.client.subscriptions.clone();
    server.subscribe("a").await;
    let request_id = Uuid::from_u128(9).to_string();
    let last = v1::CreateSubscriptionRequest { request_id, ..create("b", "https://b.example") };
    let first = client.create_subscription(last.clone()).await.unwrap().into_inner();
    let status = client.create_subscription(create("c", "https://c.example")).await.unwrap_err();
    assert_refused(&status, Code::ResourceExhausted, "SUBSCRIPTION_LIMIT", &[]);
    assert_eq!(details(&status).quota_failure().unwrap().violations[0].subject, PARENT);
    let again = client.create_subscription(last).await.unwrap().into_inner();
    assert_eq!(again, without_secret(first));
    let parent = "accounts/2".into();
    let elsewhere = v1::CreateSubscriptionRequest { parent, ..create("c", "https://c.example") };
    client.create_subscription(elsewhere).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_test_posts_a_made_up_event_and_shows_the_response() {
    let mut receiver = Receiver::always(Response::with_body(201, "thanks")).await;
    let server = TidingsInProcess::start().await;
    let client = &server.client;
    let name = client.create(create("crm", &receiver.url("/hook"))).await.unwrap().name;
    client.pause(&name).await;

    for (event_type, event) in [
        (EventType::Unspecified, "message_created"),
        // Not one of the subscription's own types: a receiver may be tried before it subscribes to it.
        (EventType::ContactCreated, "contact_created"),
    ] {
        let tested = client.test(&name, event_type).await;
        let got = receiver.next().await;
        assert_eq!(tested.request_body, got.body);
        assert!(tested.request_body.contains(&format!("\"event\":\"{event}\"")), "{}", tested.request_body);
        assert_eq!(
            (tested.http_status, tested.response_body.as_str(), tested.error.as_str()),
            (201, "thanks", "")
        );
        assert!(tested.duration.is_some());
        assert!(got.headers.contains_key("webhook-signature"));
    }
    assert!(client.stored_events(1).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_test_of_an_endpoint_that_cannot_be_reached_shows_the_error() {
    let server = TidingsInProcess::start().await;
    let url = format!("http://{}/", closed_address());
    let name = server.client.create(create("gone", &url)).await.unwrap().name;
    let tested = server.client.test(&name, EventType::Unspecified).await;
    assert_eq!(tested.http_status, 0);
    assert!(!tested.error.is_empty(), "{tested:?}");
    server.stop().await;
}
