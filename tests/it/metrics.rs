//! `/metrics`: every line is in the format of Prometheus, the counts are right, and they add up.

use tidings::proto::v1::{self, EventType, delivery::State};
use tokio::time::timeout;
use tonic::Code;

use crate::support::{
    PATIENCE,
    client::{attempts, subscription},
    events::{contact, publish_request, sample},
    process::Launcher,
    receiver::{Receiver, Response},
    scrape::{Family, Scrape, is_name},
};

#[tokio::test]
async fn events_deliveries_and_attempts_are_counted_and_add_up() {
    let receiver = Receiver::start().await;
    receiver.now(|request| match request.path.as_str() {
        "/bad" => Response::status(500),
        "/broken" => Response::close(),
        _ => Response::status(200),
    });
    let gateway = Launcher::new().start().await;
    let client = &gateway.client;
    client.subscribe(1, subscription(receiver.url("/good"))).await;
    for path in ["/bad", "/broken"] {
        let twice = v1::Subscription { retry_policy: attempts(2), ..subscription(receiver.url(path)) };
        client.subscribe(1, twice).await;
    }
    let held = client.subscribe(1, subscription(receiver.url("/held"))).await;
    client.pause(&held.name).await;

    client.publish_as(1, "one", contact(1)).await;
    client.publish_as(1, "two", sample(EventType::MessageCreated, 1)).await;
    assert!(client.publish_as(1, "two", sample(EventType::MessageCreated, 1)).await.duplicate);
    client.publish(2, sample(EventType::InboxCreated, 2)).await;
    let reused = client.try_publish(publish_request(1, "two", sample(EventType::InboxUpdated, 1))).await;
    assert_eq!(reused.unwrap_err().code(), Code::AlreadyExists);
    let nothing = v1::PublishEventRequest { event: None, ..publish_request(1, "", v1::Event::default()) };
    assert!(client.try_publish(nothing).await.is_err());

    let settled = |scrape: &Scrape| scrape.sum("tidings_deliveries_settled_total") == 6.0;
    let scrape = Scrape::when(&gateway, "six are settled", settled).await;
    let counted = |name: &str| scrape.counted(name).into_iter().collect::<Vec<_>>();
    let pairs = |pairs: &[(&str, f64)]| pairs.iter().map(|(l, v)| ((*l).to_owned(), *v)).collect::<Vec<_>>();
    let types = [("contact_created", 1.0), ("inbox_created", 1.0), ("message_created", 1.0)];
    assert_eq!(counted("tidings_events_accepted_total"), pairs(&types));
    assert_eq!(scrape.value("tidings_events_duplicate_total"), 1.0);
    let refused = [("EVENT_EXISTS", 1.0), ("FIELD_REQUIRED", 1.0)];
    assert_eq!(counted("tidings_publishes_refused_total"), pairs(&refused));
    assert_eq!(scrape.value("tidings_deliveries_created_total"), 8.0);
    assert_eq!(counted("tidings_deliveries_settled_total"), pairs(&[("failed", 4.0), ("succeeded", 2.0)]));
    assert_eq!(counted("tidings_deliveries_owed"), pairs(&[("pending", 2.0)]));
    assert_eq!(counted("tidings_attempts_total"), pairs(&[("http_status", 4.0), ("io", 4.0), ("ok", 2.0)]));
    assert_eq!(counted("tidings_subscriptions"), pairs(&[("active", 3.0), ("paused", 1.0)]));
    scrape.assert_adds_up();

    assert_eq!(scrape.value("tidings_attempt_duration_seconds_count"), 10.0);
    assert_eq!(scrape.value("tidings_publish_to_arrival_seconds_count"), 2.0);
    // The repetition got the response of a stored event, too.
    assert_eq!(scrape.value("tidings_accept_duration_seconds_count"), 4.0);
    assert_eq!(scrape.value("tidings_commit_events_sum"), 3.0);
    assert_eq!(scrape.value("tidings_commit_settlements_sum"), 10.0);
    assert_eq!(scrape.value("tidings_commit_duration_seconds_count"), scrape.value("tidings_commits_total"));
    assert!(scrape.value(r#"tidings_oldest_owed_age_seconds{state="pending"}"#) > 0.0);
    assert_eq!(scrape.value(r#"tidings_oldest_owed_age_seconds{state="retrying"}"#), 0.0);
    assert_eq!(scrape.value("tidings_grpc_connections"), 1.0);
    assert_eq!(scrape.value("tidings_store_volumes"), 1.0);
    assert!(scrape.value("tidings_store_disk_bytes") > 0.0);
    assert_eq!(scrape.value("tidings_attempts_in_flight"), 0.0);
    scrape.assert_histograms_add_up();
    gateway.stop().await;
}

#[tokio::test]
async fn decisions_of_callers_and_a_restart_are_counted_and_add_up() {
    let receiver = Receiver::start().await;
    let launcher = Launcher::new().with("retry-min-backoff", "1h").with("retry-max-backoff", "1h");
    let gateway = launcher.start().await;
    let client = &gateway.client;
    receiver.now(|_| Response::status(500));
    let once = v1::Subscription { retry_policy: attempts(1), ..subscription(receiver.url("/once")) };
    let once = client.subscribe(1, once).await;
    let often = client.subscribe(1, subscription(receiver.url("/often"))).await;
    let held = client.subscribe(1, subscription(receiver.url("/held"))).await;
    client.pause(&held.name).await;
    for id in ["one", "two"] {
        client.publish_as(1, id, contact(1)).await;
        client.delivery_in(&once.delivery(id), State::Failed).await;
        client.delivery_in(&often.delivery(id), State::Retrying).await;
    }
    let scrape = Scrape::of(&gateway).await;
    let owed = |scrape: &Scrape| {
        ["pending", "retrying"].map(|s| scrape.value(&format!("tidings_deliveries_owed{{state={s:?}}}")))
    };
    assert_eq!(owed(&scrape), [2.0, 2.0]);
    assert!(scrape.value(r#"tidings_oldest_owed_age_seconds{state="retrying"}"#) > 0.0);
    assert!(scrape.value("tidings_endpoint_connections") >= 1.0, "a connection is kept");
    scrape.assert_adds_up();

    client.cancel(&often.delivery("one")).await;
    client.pause(&once.name).await;
    client.retry(&once.delivery("one")).await;
    let failed = r#"tidings_deliveries_settled_total{state="failed"}"#;
    let scrape =
        Scrape::when(&gateway, "the attempt that was asked for", |scrape| scrape.value(failed) == 3.0).await;
    assert_eq!(owed(&scrape), [2.0, 1.0]);
    assert_eq!(scrape.value("tidings_deliveries_reopened_total"), 1.0);
    assert_eq!(scrape.value(r#"tidings_deliveries_settled_total{state="cancelled"}"#), 1.0);
    scrape.assert_adds_up();

    client.delete(&held.name, true).await.unwrap();
    let scrape = Scrape::of(&gateway).await;
    assert_eq!(owed(&scrape), [0.0, 1.0]);
    assert_eq!(scrape.value("tidings_deliveries_dropped_total"), 2.0);
    assert_eq!(scrape.value(r#"tidings_oldest_owed_age_seconds{state="pending"}"#), 0.0);
    scrape.assert_adds_up();
    gateway.stop().await;

    let gateway = launcher.start().await;
    let scrape = Scrape::of(&gateway).await;
    assert_eq!(owed(&scrape), [0.0, 1.0], "what went with its subscription is still counted");
    assert_eq!(scrape.value("tidings_deliveries_created_total"), 0.0);
    gateway.stop().await;
}

#[tokio::test]
async fn every_look_during_work_adds_up() {
    let receiver = Receiver::start().await;
    receiver.now(|request| Response::status(if request.path == "/bad" { 500 } else { 200 }));
    let gateway = Launcher::new().start().await;
    for path in ["/good", "/bad"] {
        let twice = v1::Subscription { retry_policy: attempts(2), ..subscription(receiver.url(path)) };
        gateway.client.subscribe(1, twice).await;
    }
    let (mut looks, mut settled) = (0, 0.0);
    let publishing = async {
        for _ in 0..300 {
            gateway.client.publish(1, contact(1)).await;
        }
    };
    let looking = async {
        while settled < 600.0 {
            let scrape = Scrape::of(&gateway).await;
            scrape.assert_adds_up();
            settled = scrape.sum("tidings_deliveries_settled_total");
            looks += 1;
        }
    };
    timeout(PATIENCE, futures_util::future::join(publishing, looking)).await.unwrap();
    assert!(looks > 10, "{looks} looks are not many");
    gateway.stop().await;
}

#[tokio::test]
async fn names_are_by_convention_and_the_document_lists_them_all() {
    let gateway = Launcher::new().start().await;
    let scrape = Scrape::of(&gateway).await;
    gateway.stop().await;
    let mut rows = Vec::new();
    for (name, Family { help, kind, labels }) in &scrape.families {
        assert!(
            is_name(name) && (name.starts_with("tidings_") || name == "process_start_time_seconds"),
            "{name}"
        );
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        assert!(!name.contains("micros") && !name.contains("milli"), "{name}: seconds are the unit");
        assert!(help.ends_with('.'), "{name}: {help}");
        let labels: Vec<_> = labels.iter().filter(|label| *label != "le").map(|l| format!("`{l}`")).collect();
        assert!(labels.len() <= 1, "{name} has {labels:?}");
        rows.push(format!("| `{name}` | {kind} | {} | {help} |", labels.join(", ")).replace("|  |", "| |"));
    }
    let document = include_str!("../../docs/metrics.md");
    let (_, rest) = document.split_once("<!-- metrics:begin -->\n").expect("the table's begin is marked");
    let (table, _) = rest.split_once("<!-- metrics:end -->").expect("the table's end is marked");
    let expected = format!("| metric | type | label | meaning |\n|---|---|---|---|\n{}\n", rows.join("\n"));
    assert_eq!(table, expected, "docs/metrics.md should contain:\n{expected}");
}

#[tokio::test]
async fn a_subscription_more_makes_no_series_more() {
    let gateway = Launcher::new().start().await;
    let before = Scrape::of(&gateway).await;
    for number in 0..20 {
        let made = gateway.client.subscribe(1, subscription(format!("http://127.0.0.1:9/{number}"))).await;
        gateway.client.pause(&made.name).await;
    }
    gateway.client.publish(1, contact(1)).await;
    let after = Scrape::of(&gateway).await;
    assert!(before.samples.keys().eq(after.samples.keys()));
    assert_eq!(after.value(r#"tidings_subscriptions{state="paused"}"#), 20.0);
    assert_eq!(after.value(r#"tidings_deliveries_owed{state="pending"}"#), 20.0);
    gateway.stop().await;
}

#[tokio::test]
async fn a_refusal_counts_once_for_a_call_and_once_for_an_event_of_a_stream() {
    let gateway = Launcher::new().start().await;
    let mut events = gateway.client.events.clone();
    let bad = || publish_request(0, "", contact(1));
    let good = || publish_request(1, "", contact(1));
    let batch = |requests| v1::BatchPublishEventsRequest { requests, ..Default::default() };
    events.publish_event(bad()).await.unwrap_err();
    events.batch_publish_events(batch(vec![bad(), good(), bad()])).await.unwrap_err();
    events.batch_publish_events(batch(vec![good(), good()])).await.unwrap();
    let messages = [bad(), good(), bad()].map(Some).into_iter().chain([None]);
    let messages = messages.map(|request| v1::StreamPublishEventsRequest { sequence: 1, request });
    let messages = tokio_stream::iter(messages.collect::<Vec<_>>());
    let mut responses = events.stream_publish_events(messages).await.unwrap().into_inner();
    while responses.message().await.unwrap().is_some() {}

    let scrape = Scrape::of(&gateway).await;
    let expected = [("FIELD_INVALID", 4.0), ("FIELD_REQUIRED", 1.0)];
    let expected = expected.map(|(reason, count)| (reason.to_owned(), count));
    assert_eq!(scrape.counted("tidings_publishes_refused_total"), expected.into());
    assert_eq!(scrape.sum("tidings_events_accepted_total"), 3.0);
    // A batch and one event of the stream.
    assert_eq!(scrape.value("tidings_accept_duration_seconds_count"), 2.0);
    gateway.stop().await;
}
