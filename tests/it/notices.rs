//! Notices for operators: what happens to endpoints arrives at sinks, signed and retried, and nothing about sinks
//! does.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde_json::Value;
use tidings::proto::v1::{
    self, delivery,
    notice_sink::Kind,
    subscription::State::{Active, Suspended},
};
use tonic::Code;

use super::signing::assert_signed;
use crate::support::{
    client::{Client, Subscribed, all_pages, attempts, id_of, retry_policy, subscription},
    events::contact,
    eventually,
    process::Launcher,
    receiver::{Receiver, Request, Response},
    scrape::Scrape,
};

const ACCOUNT: i64 = 1;

const ENDPOINT: [Kind; 3] = [Kind::EndpointFailing, Kind::EndpointSuspended, Kind::EndpointRecovered];

fn launcher() -> Launcher {
    Launcher::new()
        .with("notice-failing-after", "1s")
        .with("notice-interval", "1s")
        .with("notice-backlog", "5")
        .with("suspend-after", "4s")
        .with("probe-interval-max", "200ms")
}

async fn subscribe(client: &Client, url: String) -> Subscribed {
    let retry_policy = retry_policy(50, Duration::from_millis(100), Duration::from_millis(500));
    client.subscribe(ACCOUNT, v1::Subscription { retry_policy, ..subscription(url) }).await
}

async fn publish(client: &Client, count: usize) {
    for _ in 0..count {
        client.publish(ACCOUNT, contact(ACCOUNT)).await;
    }
}

fn kind(request: &Request) -> String {
    request.json()["type"].as_str().expect("a kind").to_owned()
}

/// The body of this kind in the documentation.
fn documented(kind: &str) -> Value {
    let document = include_str!("../../docs/notices.md");
    let bodies = document.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut bodies = bodies.map(|body| serde_json::from_str::<Value>(body).unwrap());
    bodies.find(|body| body["type"] == kind).expect("it is documented")
}

/// Every key, with those of objects within, and the kind of value.
fn shape(value: &Value) -> BTreeMap<String, &'static str> {
    let Value::Object(object) = value else { return BTreeMap::new() };
    let mut shape = BTreeMap::new();
    for (key, value) in object {
        let kind = match value {
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Object(_) => "object",
            Value::Null | Value::Array(_) => "other",
        };
        shape.insert(key.clone(), kind);
        let inner = self::shape(value).into_iter();
        shape.extend(inner.map(|(inner, kind)| (format!("{key}.{inner}"), kind)));
    }
    shape
}

/// It is as documented, about this subscription, and signed.
#[track_caller]
fn assert_notice(request: &Request, kind: &str, about: &Subscribed, sink: &Subscribed) -> Value {
    let body = request.json();
    assert_eq!(body["type"], kind, "{body}");
    assert_eq!(request.header("webhook-event-type"), kind);
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(shape(&body), shape(&documented(kind)), "{body}");
    assert_eq!(body["data"]["account"], format!("accounts/{ACCOUNT}"));
    assert_eq!(body["data"]["subscription"], about.name);
    assert_signed(request, &[&sink.secret]);
    body["data"].clone()
}

#[tokio::test]
async fn an_endpoint_that_fails_is_suspended_and_recovers_is_told_in_this_order_to_its_account_and_to_all() {
    let endpoint = Receiver::always(Response::with_body(500, "no")).await;
    let (own, of_all, of_other) = (Receiver::start().await, Receiver::start().await, Receiver::start().await);
    let gateway = launcher().start().await;
    let client = &gateway.client;
    let own_sink = client.sink("accounts/1", "ops", own.url("/?key=1"), &ENDPOINT).await;
    let sink_of_all = client.sink("accounts/-", "ops", of_all.url("/"), &ENDPOINT).await;
    client.sink("accounts/2", "ops", of_other.url("/"), &[]).await;
    let about = subscribe(client, endpoint.url("/hook?token=secret")).await;
    publish(client, 3).await;

    client.subscription_in(&about.name, Suspended).await;
    endpoint.now(|_| Response::status(200));
    client.subscription_in(&about.name, Active).await;
    for (receiver, sink) in [(&own, &own_sink), (&of_all, &sink_of_all)] {
        let seen = receiver.wait_for(3).await;
        let failing = assert_notice(&seen[0], "endpoint.failing", &about, sink);
        assert!(failing["failed_attempts"].as_u64() > Some(1), "{failing}");
        assert!(failing["last_error"].as_str().unwrap().contains("answered 500"), "{failing}");
        assert_eq!(failing["endpoint"], endpoint.url(""), "no more of the URL, which may be secret");
        let suspended = assert_notice(&seen[1], "endpoint.suspended", &about, sink);
        let reason = suspended["reason"].as_str().unwrap();
        assert!(reason.starts_with("Every attempt has failed since "), "{reason}");
        assert_eq!(suspended["owed_count"], 3);
        let recovered = assert_notice(&seen[2], "endpoint.recovered", &about, sink);
        assert_eq!(recovered["was_suspended"], true);
        assert_eq!(receiver.seen().len(), 3, "each is told once");
    }
    client.nothing_owed(ACCOUNT).await;
    assert_eq!(of_other.seen().len(), 0, "another account's sink sees nothing of it");

    let scrape =
        Scrape::when(&gateway, "three notices", |scrape| scrape.sum("tidings_notices_total") == 3.0).await;
    let counted = scrape.counted("tidings_notices_total").into_keys();
    assert_eq!(counted.collect::<Vec<_>>(), ["endpoint.failing", "endpoint.recovered", "endpoint.suspended"]);
    gateway.stop().await;
}

#[tokio::test]
async fn failed_deliveries_are_gathered_with_their_number_and_the_first_and_last_of_them() {
    let endpoint = Receiver::always(Response::status(500)).await;
    let receiver = Receiver::start().await;
    let gateway = launcher().with("suspend-after", "1h").start().await;
    let client = &gateway.client;
    let sink = client.sink("accounts/1", "ops", receiver.url("/"), &[Kind::DeliveryFailed]).await;
    let once = v1::Subscription { retry_policy: attempts(1), ..subscription(endpoint.url("/")) };
    let about = client.subscribe(ACCOUNT, once).await;

    let began = Instant::now();
    client.publish_as(ACCOUNT, "first", contact(ACCOUNT)).await;
    let seen = receiver.wait_for(1).await;
    let told = assert_notice(&seen[0], "delivery.failed", &about, &sink);
    assert_eq!(told["count"], 1);
    assert_eq!(told["first"]["delivery"], about.delivery("first"));
    assert_eq!(told["first"], told["last"]);
    assert_eq!(
        (told["last"]["http_status"].as_u64(), told["last"]["attempt_count"].as_u64()),
        (Some(500), Some(1))
    );
    publish(client, 39).await;
    client.publish_as(ACCOUNT, "last", contact(ACCOUNT)).await;
    let is_all = |seen: &[Request]| {
        seen.iter().map(|request| request.json()["data"]["count"].as_u64().unwrap()).sum::<u64>() == 41
    };
    let seen = receiver.wait_until("all are told", is_all).await;
    let most = began.elapsed().as_secs() + 2;
    assert!(seen.len() as u64 <= most, "{} notices in {most} s", seen.len());
    let last = assert_notice(seen.last().unwrap(), "delivery.failed", &about, &sink);
    let is_last =
        |side: &str| last[side]["delivery"].as_str().is_some_and(|name| name.starts_with(&about.name));
    assert!(is_last("first") && is_last("last"), "{last}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_backlog_is_told_when_it_passes_the_threshold_doubles_and_grows_again() {
    let (endpoint, receiver) = (Receiver::start().await, Receiver::start().await);
    let gateway = launcher().start().await;
    let client = &gateway.client;
    let sink = client.sink("accounts/1", "ops", receiver.url("/"), &[Kind::BacklogGrowing]).await;
    let about = subscribe(client, endpoint.url("/")).await;
    client.pause(&about.name).await;
    let mut owed = Vec::new();
    for (number, more) in [(1, 6), (2, 6)] {
        publish(client, more).await;
        let seen = receiver.wait_for(number).await;
        let told = assert_notice(&seen[number - 1], "backlog.growing", &about, &sink);
        assert_eq!(told["notice_backlog"], 5);
        owed.push(told["owed_count"].as_u64().unwrap());
    }
    assert!((5..10).contains(&owed[0]) && owed[1] >= 10, "{owed:?}");
    client.resume(&about.name).await;
    client.nothing_owed(ACCOUNT).await;
    client.pause(&about.name).await;
    // Whether it has noticed by now that the backlog was gone does not matter: it will once there is more.
    let told_again = async || {
        publish(client, 1).await;
        receiver.seen().len()
    };
    eventually("told again", told_again, |count| *count >= 3).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_notice_waits_for_its_sink_over_a_crash_and_is_told_once() {
    let endpoint = Receiver::always(Response::status(410)).await;
    let receiver = Receiver::always(Response::status(500)).await;
    let launcher = launcher()
        .with("suspend-after", "1h")
        .with("retry-max-attempts", "50")
        .with("retry-max-backoff", "300ms");
    let gateway = launcher.start().await;
    let sink = gateway.client.sink("accounts/1", "ops", receiver.url("/"), &[]).await;
    let about = subscribe(&gateway.client, endpoint.url("/")).await;
    publish(&gateway.client, 1).await;
    let tried = receiver.wait_for(2).await;
    assert_notice(&tried[0], "endpoint.suspended", &about, &sink);
    gateway.kill().await;

    let gateway = launcher.start().await;
    let before = receiver.seen().len();
    receiver.wait_for(before + 2).await;
    receiver.now(|_| Response::status(200));
    let sink_is_done = |sink: &v1::NoticeSink| sink.owed_count() == 0 && sink.last_success_time.is_some();
    eventually("arrived", async || gateway.client.notice_sink(&sink.name).await, sink_is_done).await;
    let seen = receiver.seen();
    let ids: BTreeSet<_> = seen.iter().map(|request| request.webhook_id().to_owned()).collect();
    let bodies: BTreeSet<_> = seen.iter().map(|request| request.body.clone()).collect();
    assert_eq!(
        (ids.len(), bodies.len()),
        (1, 1),
        "the same notice on every attempt, and no other: {bodies:?}"
    );
    assert_notice(seen.last().unwrap(), "endpoint.suspended", &about, &sink);

    // What was told is remembered, so that the end of it is told too.
    endpoint.now(|_| Response::status(200));
    gateway.client.subscription_in(&about.name, Active).await;
    let seen =
        receiver.wait_until("recovered", |seen| kind(seen.last().unwrap()) == "endpoint.recovered").await;
    assert_notice(seen.last().unwrap(), "endpoint.recovered", &about, &sink);
    gateway.stop().await;
}

#[tokio::test]
async fn a_sink_that_fails_causes_no_notice() {
    let (gone, failing) =
        (Receiver::always(Response::status(410)).await, Receiver::always(Response::status(500)).await);
    let (endpoint, witness) = (Receiver::always(Response::status(410)).await, Receiver::start().await);
    let gateway = launcher().with("notice-backlog", "1").with("retry-max-attempts", "2").start().await;
    let client = &gateway.client;
    let gone = client.sink("accounts/1", "gone", gone.url("/"), &[]).await;
    let failing = client.sink("accounts/1", "failing", failing.url("/"), &[]).await;
    client.sink("accounts/-", "witness", witness.url("/"), &[]).await;
    let mut about = BTreeSet::new();
    for round in 1..=3 {
        let subscribed = subscribe(client, endpoint.url(&format!("/{round}"))).await;
        publish(client, 1).await;
        client.subscription_in(&subscribed.name, Suspended).await;
        about.insert(subscribed.name);
        let suspensions = |seen: &[Request]| {
            seen.iter().filter(|request| kind(request) == "endpoint.suspended").count() == round
        };
        witness.wait_until("told", suspensions).await;
        // The sinks have failed with it before the next round.
        let is_suspended = |sink: &v1::NoticeSink| sink.state() == Suspended;
        eventually("suspended", async || client.notice_sink(&gone.name).await, is_suspended).await;
        let parent = failing.name.clone();
        client.counts_when(&parent, "failed", |counts| counts.failed >= round).await;
    }
    for request in witness.seen() {
        let name = request.json()["data"]["subscription"].as_str().unwrap().to_owned();
        assert!(about.contains(&name), "{}", request.body);
    }
    assert!(client.notice_sink(&gone.name).await.owed_count() > 0, "they wait for it");
    gateway.stop().await;
}

#[tokio::test]
async fn a_sink_is_made_tested_read_and_deleted_and_is_in_no_list_of_subscriptions() {
    let receiver = Receiver::start().await;
    let gateway = launcher().start().await;
    let client = &gateway.client;
    let sink = client.sink("accounts/1", "ops", receiver.url("/"), &[Kind::BacklogGrowing]).await;
    assert_eq!(sink.name, "accounts/1/noticeSinks/ops");
    let shown = client.notice_sink(&sink.name).await;
    assert_eq!(
        (shown.kinds().collect::<Vec<_>>(), &shown.url),
        (vec![Kind::BacklogGrowing], &receiver.url("/"))
    );

    let request = v1::TestNoticeSinkRequest { name: sink.name.clone(), kind: 0 };
    let tested = client.notices.clone().test_notice_sink(request).await.unwrap().into_inner();
    let sent = &receiver.wait_for(1).await[0];
    assert_eq!(
        (tested.request_body.as_str(), sent.json()),
        (sent.body.as_str(), documented("backlog.growing"))
    );
    assert_signed(sent, &[&sink.secret]);

    // The same URL and the same id: a sink and a subscription do not get in each other's way.
    let subscribed = client.subscribe(ACCOUNT, subscription(receiver.url("/"))).await;
    let published = client.publish(ACCOUNT, contact(ACCOUNT)).await;
    assert_eq!(published.delivery_count(), 1);
    client.delivery_in(&subscribed.delivery(id_of(&published.event)), delivery::State::Succeeded).await;
    assert_eq!(client.all_subscriptions("accounts/-").await.len(), 1);
    let status = client.try_sink("accounts/1", "ops", receiver.url("/2"), &[]).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    for number in 1..10 {
        client.sink("accounts/1", &format!("s{number}"), receiver.url("/"), &[]).await;
    }
    let status = client.try_sink("accounts/1", "more", receiver.url("/"), &[]).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let status = client.try_sink("accounts/1", "x", "http://10.0.0.1/".into(), &[]).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "egress is checked");

    let request = v1::DeleteNoticeSinkRequest { name: sink.name.clone() };
    client.notices.clone().delete_notice_sink(request).await.unwrap();
    let request = v1::GetNoticeSinkRequest { name: sink.name.clone() };
    assert_eq!(client.notices.clone().get_notice_sink(request).await.unwrap_err().code(), Code::NotFound);
    let left = all_pages(async |page_token| {
        let request = v1::ListNoticeSinksRequest { parent: "accounts/1".into(), page_size: 4, page_token };
        let page = client.notices.clone().list_notice_sinks(request).await.unwrap().into_inner();
        assert!(page.notice_sinks.len() <= 4);
        (page.notice_sinks, page.next_page_token)
    });
    let left: Vec<String> = left.await.into_iter().map(|sink| sink.name).collect();
    assert_eq!(left, (1..10).map(|number| format!("accounts/1/noticeSinks/s{number}")).collect::<Vec<_>>());
    let audited =
        client.audit_records().await.into_iter().find(|record| record.resource == sink.name).unwrap();
    assert_eq!(audited.method, "tidings.v1.NoticeService/DeleteNoticeSink");
    gateway.stop().await;
}

#[tokio::test]
async fn the_notices_of_a_sink_are_listed_under_its_name_and_are_no_events() {
    let endpoint = Receiver::always(Response::status(410)).await;
    let receiver = Receiver::start().await;
    let gateway = launcher().start().await;
    let client = &gateway.client;
    let sink = client.sink("accounts/1", "ops", receiver.url("/"), &[Kind::EndpointSuspended]).await;
    let of_all = client.sink("accounts/-", "ops", receiver.url("/"), &[Kind::EndpointSuspended]).await;
    subscribe(client, endpoint.url("/")).await;
    publish(client, 1).await;
    receiver.wait_for(2).await;
    for name in [&sink.name, &of_all.name] {
        let request = v1::ListDeliveriesRequest { parent: name.clone(), ..Default::default() };
        let listed =
            client.deliveries.clone().list_deliveries(request).await.unwrap().into_inner().deliveries;
        assert_eq!(listed.len(), 1, "{listed:#?}");
        assert!(listed[0].name.starts_with(&format!("{name}/deliveries/endpoint.suspended-")), "{listed:#?}");
        client.delivery_in(&listed[0].name, delivery::State::Succeeded).await;
        let event = v1::GetEventRequest { name: listed[0].event.clone() };
        assert!(client.events.clone().get_event(event).await.is_err(), "{listed:#?}");
    }
    assert_eq!(client.stored_events(ACCOUNT).await.len(), 1, "the published one");
    assert_eq!(client.deliveries_in(ACCOUNT, &[]).await.len(), 1, "that of the subscription");
    gateway.stop().await;
}
