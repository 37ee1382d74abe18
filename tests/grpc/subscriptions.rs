//! SubscriptionService, where it does as asked.

use std::collections::BTreeMap;

use prost_types::FieldMask;
use tidings::proto::v1::{self, EventType, subscription::State};
use tonic::Code;
use uuid::Uuid;

use crate::harness::*;

fn update(subscription: v1::Subscription, paths: &[&str]) -> v1::UpdateSubscriptionRequest {
    let paths = paths.iter().map(ToString::to_string).collect();
    let update_mask = Some(FieldMask { paths });
    v1::UpdateSubscriptionRequest { subscription: Some(subscription), update_mask, validate_only: false }
}

fn id_of(subscription: &v1::Subscription) -> &str {
    subscription.name.rsplit('/').next().expect("a split has a part")
}

#[tokio::test]
async fn a_subscription_lives_from_creation_to_deletion() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
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
    assert_eq!(created.signing_secret, "a-secret-of-some-length");
    let created = created.subscription.unwrap();
    assert_eq!(created.name, "accounts/1/subscriptions/crm");
    assert_eq!(created.headers, BTreeMap::from([("x-token".into(), "***".into())]));
    assert_eq!(created.state(), State::Active);
    assert!(created.uid.parse::<Uuid>().is_ok() && !created.etag.is_empty() && created.create_time.is_some());

    let name = created.name.clone();
    let get = |name: &str| v1::GetSubscriptionRequest { name: name.into() };
    let read = client.get_subscription(get(&name)).await.unwrap().into_inner().subscription.unwrap();
    assert_eq!(read, created);

    let pause = v1::PauseSubscriptionRequest { name: name.clone() };
    let once = client.pause_subscription(pause.clone()).await.unwrap().into_inner().subscription.unwrap();
    assert_eq!(once.state(), State::Paused);
    assert_ne!(once.etag, created.etag);
    let twice = client.pause_subscription(pause).await.unwrap().into_inner().subscription.unwrap();
    assert_eq!(twice, once, "a second pause changed something");
    let resume = v1::ResumeSubscriptionRequest { name: name.clone() };
    let resumed = client.resume_subscription(resume).await.unwrap().into_inner().subscription.unwrap();
    assert_eq!(resumed.state(), State::Active);

    let delete = v1::DeleteSubscriptionRequest { name: name.clone(), etag: resumed.etag, force: false };
    client.delete_subscription(delete).await.unwrap();
    let status = client.get_subscription(get(&name)).await.unwrap_err();
    assert_eq!(told(&status), (Code::NotFound, "SUBSCRIPTION_NOT_FOUND".into(), vec![]));
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
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let mut made = Vec::new();
    for url in ["http://a.example", "http://b.example"] {
        let response = client.create_subscription(create("", url)).await.unwrap().into_inner();
        assert!(response.signing_secret.starts_with("whsec_"));
        made.push((response.subscription.unwrap().name, response.signing_secret));
    }
    assert!(made[0].0 != made[1].0 && made[0].1 != made[1].1, "{made:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_mask_in_either_spelling_changes_what_it_names() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let stored = server.subscribe("crm").await;
    let named = v1::Subscription { name: stored.name.clone(), ..Default::default() };
    let new = v1::Subscription {
        display_name: "named".into(),
        max_in_flight: 9,
        retry_policy: Some(v1::RetryPolicy { max_attempts: 3, ..Default::default() }),
        ..named.clone()
    };
    let mut updated = async |subscription: &v1::Subscription, paths: &[&str]| {
        let response = client.update_subscription(update(subscription.clone(), paths)).await;
        response.unwrap().into_inner().subscription.unwrap()
    };

    let first = updated(&new, &["display_name"]).await;
    assert_eq!((first.display_name.as_str(), first.max_in_flight, first.retry_policy), ("named", 0, None));
    let second = updated(&new, &["maxInFlight", "retryPolicy.maxAttempts"]).await;
    assert_eq!((second.max_in_flight, second.retry_policy.unwrap().max_attempts), (9, 3));

    // Without a mask only what is set changes; with a star, what is not set is unset.
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
    let server = Server::start().await;
    let stored = server.subscribe("crm").await;
    let mut client = server.subscriptions().await;
    // What a client does that reads, changes nothing, and writes back.
    let same = client.update_subscription(update(stored.clone(), &[])).await.unwrap().into_inner();
    assert_eq!(same.subscription.unwrap(), stored);
    server.stop().await;
}

#[tokio::test]
async fn an_update_with_an_old_etag_is_aborted_and_with_the_current_one_made() {
    let server = Server::start().await;
    let stored = server.subscribe("crm").await;
    let mut client = server.subscriptions().await;
    let change = |etag: &str, name: &str| {
        let (etag, display_name) = (etag.to_owned(), name.to_owned());
        update(v1::Subscription { etag, display_name, ..stored.clone() }, &["display_name"])
    };
    let changed = client.update_subscription(change(&stored.etag, "first")).await.unwrap().into_inner();
    let status = client.update_subscription(change(&stored.etag, "second")).await.unwrap_err();
    assert_eq!(told(&status), (Code::Aborted, "ETAG_MISMATCH".into(), vec![]));
    let etag = changed.subscription.unwrap().etag;
    client.update_subscription(change(&etag, "third")).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn changes_at_the_same_time_are_all_made() {
    let server = Server::start().await;
    let stored = server.subscribe("crm").await;
    let client = server.subscriptions().await;
    let change = |field: &'static str| {
        let changed = v1::Subscription { display_name: "d".into(), max_in_flight: 5, ..stored.clone() };
        let changed = v1::Subscription { etag: String::new(), ..changed };
        let mut client = client.clone();
        async move { client.update_subscription(update(changed, &[field])).await }
    };
    let (first, second) = tokio::join!(change("display_name"), change("max_in_flight"));
    first.unwrap();
    second.unwrap();
    let get = v1::GetSubscriptionRequest { name: stored.name.clone() };
    let read = client.clone().get_subscription(get).await.unwrap().into_inner().subscription.unwrap();
    assert_eq!((read.display_name.as_str(), read.max_in_flight), ("d", 5));
    server.stop().await;
}

#[tokio::test]
async fn three_stars_keep_the_value_of_a_header() {
    let (url, mut got) = receiver().await;
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let headers = BTreeMap::from([("x-token".to_owned(), "first".to_owned())]);
    let request = v1::CreateSubscriptionRequest {
        subscription: Some(v1::Subscription { headers, ..subscription(&url) }),
        ..create("crm", "")
    };
    let stored = client.create_subscription(request).await.unwrap().into_inner().subscription.unwrap();
    let mut headers = stored.headers.clone();
    headers.insert("x-other".into(), "second".into());
    let updated = v1::Subscription { name: stored.name.clone(), headers, ..Default::default() };
    client.update_subscription(update(updated, &["headers"])).await.unwrap();

    let test = v1::TestSubscriptionRequest { name: stored.name, event_type: 0 };
    client.test_subscription(test).await.unwrap();
    let got = in_time(got.recv()).await.unwrap();
    assert_eq!(
        (got.headers["x-token"].as_bytes(), got.headers["x-other"].as_bytes()),
        (&b"first"[..], &b"second"[..])
    );
    server.stop().await;
}

#[tokio::test]
async fn a_request_id_makes_creation_safe_to_repeat() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let request_id = Uuid::from_u128(7).to_string();
    let request = v1::CreateSubscriptionRequest { request_id, ..create("", "http://a.example") };
    let first = client.create_subscription(request.clone()).await.unwrap().into_inner();
    let second = client.create_subscription(request.clone()).await.unwrap().into_inner();
    assert_eq!(first, second);

    let subscription = Some(subscription("http://b.example"));
    let other = v1::CreateSubscriptionRequest { subscription, ..request };
    let status = client.create_subscription(other).await.unwrap_err();
    assert_eq!(told(&status), (Code::AlreadyExists, "REQUEST_ID_REUSED".into(), vec!["request_id".into()]));
    assert_eq!(server.store.registry().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn what_is_only_validated_is_not_stored() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let request =
        v1::CreateSubscriptionRequest { validate_only: true, ..create("crm", "https://a.example/") };
    let checked = client.create_subscription(request).await.unwrap().into_inner();
    let shown = checked.subscription.unwrap();
    assert_eq!(
        (shown.name.as_str(), shown.url.as_str()),
        ("accounts/1/subscriptions/crm", "https://a.example/")
    );
    assert_eq!((shown.uid.as_str(), shown.etag.as_str(), checked.signing_secret.as_str()), ("", "", ""));
    assert!(server.store.registry().is_empty());

    let stored = server.subscribe("crm").await;
    let change =
        v1::Subscription { name: stored.name.clone(), display_name: "x".into(), ..Default::default() };
    let request = v1::UpdateSubscriptionRequest { validate_only: true, ..update(change, &[]) };
    let shown = client.update_subscription(request).await.unwrap().into_inner().subscription.unwrap();
    assert_eq!(shown, v1::Subscription { display_name: "x".into(), ..stored.clone() });
    let get = v1::GetSubscriptionRequest { name: stored.name.clone() };
    assert_eq!(client.get_subscription(get).await.unwrap().into_inner().subscription.unwrap(), stored);
    server.stop().await;
}

#[tokio::test]
async fn pages_survive_insertions_between_them() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    for id in ["b", "d", "f", "h"] {
        server.subscribe(id).await;
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    for inserted in ["e", "a", "z"] {
        let parent = PARENT.into();
        let request = v1::ListSubscriptionsRequest { parent, page_size: 2, page_token, ..Default::default() };
        let page = client.list_subscriptions(request).await.unwrap().into_inner();
        seen.extend(page.subscriptions.iter().map(|subscription| id_of(subscription).to_owned()));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        server.subscribe(inserted).await;
    }
    // Nothing twice, nothing left out that was there from the start; what came before the place is not seen.
    assert_eq!(seen, ["b", "d", "e", "f", "h"]);
    server.stop().await;
}

#[tokio::test]
async fn a_list_of_large_subscriptions_comes_in_pages_that_clients_take() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let annotations: BTreeMap<_, _> = (0..15).map(|n| (n.to_string(), "x".repeat(1024))).collect();
    let inbox_ids: Vec<i64> = (0..1000).map(|n| i64::MAX - n).collect();
    for number in 0..200 {
        let annotations = annotations.clone();
        let large = subscription(&format!("https://example.com/{number}/{}", "x".repeat(2000)));
        let large = v1::Subscription { annotations, inbox_ids: inbox_ids.clone(), ..large };
        let request = v1::CreateSubscriptionRequest {
            subscription: Some(large),
            parent: format!("accounts/{}", number % 2 + 1),
            ..create("", "")
        };
        client.create_subscription(request).await.unwrap();
    }
    let (mut pages, mut seen, mut page_token) = (0, 0, String::new());
    loop {
        let parent = "accounts/-".into();
        let request =
            v1::ListSubscriptionsRequest { parent, page_size: 1000, page_token, ..Default::default() };
        // A page of more than 4 MiB is an error of the client's codec.
        let page = client.list_subscriptions(request).await.unwrap().into_inner();
        (pages, seen, page_token) = (pages + 1, seen + page.subscriptions.len(), page.next_page_token);
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!((seen, pages), (200, 2));
    server.stop().await;
}

#[tokio::test]
async fn lists_filter_by_event_type_state_and_account() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    server.subscribe("a").await;
    let paused = server.subscribe("b").await;
    client.pause_subscription(v1::PauseSubscriptionRequest { name: paused.name }).await.unwrap();
    let event_types = vec![EventType::ContactCreated.into()];
    let other = v1::Subscription { event_types, ..subscription("https://c.example.com") };
    let request = v1::CreateSubscriptionRequest {
        parent: "accounts/2".into(),
        subscription: Some(other),
        ..create("c", "")
    };
    client.create_subscription(request).await.unwrap();

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
        let listed = client.list_subscriptions(request).await.unwrap().into_inner().subscriptions;
        assert_eq!(listed.iter().map(id_of).collect::<Vec<_>>(), expected, "{parent} {event_type:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_subscription_that_owes_deliveries_is_deleted_by_force_only() {
    let server = Server::start().await;
    let stored = server.subscribe("crm").await;
    server.publish("e").await;
    let mut client = server.subscriptions().await;
    let delete = v1::DeleteSubscriptionRequest { name: stored.name.clone(), ..Default::default() };
    let status = client.delete_subscription(delete.clone()).await.unwrap_err();
    assert_eq!(told(&status), (Code::FailedPrecondition, "UNDELIVERED_EVENTS".into(), vec![]));
    let details = details(&status);
    assert_eq!(details.error_info().unwrap().metadata["count"], "1");
    assert_eq!(details.precondition_failure().unwrap().violations[0].subject, stored.name);
    client.delete_subscription(v1::DeleteSubscriptionRequest { force: true, ..delete }).await.unwrap();
    assert!(server.store.registry().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn an_account_has_room_for_so_many_subscriptions_and_repeats_are_still_answered() {
    let mut setup = Setup::default();
    setup.gateway.subscriptions_per_account_max = 2;
    let server = Server::start_with(setup).await;
    let mut client = server.subscriptions().await;
    server.subscribe("a").await;
    let request_id = Uuid::from_u128(9).to_string();
    let last = v1::CreateSubscriptionRequest { request_id, ..create("b", "https://b.example") };
    let first = client.create_subscription(last.clone()).await.unwrap().into_inner();
    let status = client.create_subscription(create("c", "https://c.example")).await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "SUBSCRIPTION_LIMIT".into(), vec![]));
    assert_eq!(details(&status).quota_failure().unwrap().violations[0].subject, PARENT);
    assert_eq!(client.create_subscription(last).await.unwrap().into_inner(), first);
    let parent = "accounts/2".into();
    let elsewhere = v1::CreateSubscriptionRequest { parent, ..create("c", "https://c.example") };
    client.create_subscription(elsewhere).await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_test_posts_a_made_up_event_and_tells_what_came_of_it() {
    let (url, mut got) = receiver().await;
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let stored = client.create_subscription(create("crm", &url)).await.unwrap().into_inner();
    let name = stored.subscription.unwrap().name;
    client.pause_subscription(v1::PauseSubscriptionRequest { name: name.clone() }).await.unwrap();

    for (event_type, event) in [
        (EventType::Unspecified, "message_created"),
        // Not one of the subscription's own types: a receiver may be tried before it subscribes to it.
        (EventType::ContactCreated, "contact_created"),
    ] {
        let request = v1::TestSubscriptionRequest { name: name.clone(), event_type: event_type.into() };
        let tested = in_time(client.test_subscription(request)).await.unwrap().into_inner();
        let got = in_time(got.recv()).await.unwrap();
        assert_eq!(tested.request_body.as_bytes(), got.body);
        assert!(tested.request_body.contains(&format!("\"event\":\"{event}\"")), "{}", tested.request_body);
        assert_eq!(
            (tested.http_status, tested.response_body.as_str(), tested.error.as_str()),
            (201, "thanks", "")
        );
        assert!(tested.duration.is_some());
        assert!(got.headers.contains_key("webhook-signature"));
    }
    let list = v1::ListEventsRequest { parent: PARENT.into(), ..Default::default() };
    assert!(server.events().await.list_events(list).await.unwrap().into_inner().events.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_test_of_an_endpoint_that_cannot_be_reached_is_an_answer() {
    let server = Server::start().await;
    let mut client = server.subscriptions().await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let created = client.create_subscription(create("gone", &format!("http://{closed}/"))).await;
    let stored = created.unwrap().into_inner().subscription.unwrap();
    let request = v1::TestSubscriptionRequest { name: stored.name, event_type: 0 };
    let tested = in_time(client.test_subscription(request)).await.unwrap().into_inner();
    assert_eq!(tested.http_status, 0);
    assert!(!tested.error.is_empty(), "{tested:?}");
    server.stop().await;
}
