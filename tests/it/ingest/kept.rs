//! Webhooks that no typed event represents are kept as they came, and delivered byte for byte.

use serde_json::{Value, json};
use tidings::proto::v1::{self, EventType, event::Payload, subscription::PayloadFormat};

use super::{ACCOUNT, PLAIN, Receiver, delivery, launcher, message, sender};
use crate::support::{
    client::{Client, subscription},
    scrape::Scrape,
};

/// A subscription to these types.
async fn subscribe(
    client: &Client,
    receiver: &Receiver,
    path: &str,
    format: PayloadFormat,
    types: &[EventType],
) {
    let event_types = types.iter().map(|kind| (*kind).into()).collect();
    let wanted =
        v1::Subscription { payload_format: format.into(), event_types, ..subscription(receiver.url(path)) };
    client.subscribe(ACCOUNT, wanted).await;
}

/// A message that Chatwoot could send, with a change.
fn changed(change: impl FnOnce(&mut Value)) -> String {
    let mut body: Value = serde_json::from_str(&message(7)).unwrap();
    change(&mut body);
    body.to_string()
}

/// A message with this JSON as a value of its free attributes.
fn with_attribute(json: &str) -> String {
    let body = changed(|body| body["content_attributes"] = json!({ "odd": "HERE" }));
    body.replace("\"HERE\"", json)
}

/// Bodies that Chatwoot may send and that no event represents, in words.
fn odd_bodies() -> Vec<(&'static str, String)> {
    let named = |name: &str| changed(|body| body["event"] = name.into());
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let many = format!("[{}0]", "0,".repeat(100_000));
    vec![
        ("an event that comes next", r#"{"event":"contact_deleted","id":5,"account":{"id":1}}"#.to_owned()),
        ("an event of agent bots", named("conversation_opened")),
        ("an event of an automation rule", named("automation_event.message_created")),
        ("no event name", r#"{ "a" : 1 }"#.to_owned()),
        ("an event name of another type", r#"{"event":["message_created"]}"#.to_owned()),
        ("an array in place of an object", changed(|body| body["content_attributes"] = json!([]))),
        ("an attachment that is none", changed(|body| body["attachments"] = json!([null]))),
        ("an integer past 64 bits", with_attribute("18446744073709551617")),
        ("a telephone number as a number", with_attribute("5511999999999999999999")),
        ("an integer past 2^53", with_attribute("9007199254740993")),
        ("a fraction with too many digits", with_attribute("0.12345678901234567890")),
        ("a number out of range", with_attribute("1e999")),
        ("half a character", with_attribute(r#""\ud83d""#)),
        ("a key twice", with_attribute(r#"{"a":1,"a":2}"#)),
        ("deep nesting", with_attribute(&deep)),
        ("many values", with_attribute(&many)),
        ("white space at both ends", "\n {\"event\":\"x\"}\r\n\t".to_owned()),
    ]
}

#[tokio::test]
async fn a_webhook_is_kept_whatever_it_holds_and_delivered_byte_for_byte() {
    let (receiver, gateway) = (Receiver::start().await, launcher().start().await);
    let client = &gateway.client;
    let all: Vec<_> = EventType::all().collect();
    let (chatwoot, documented) = (PayloadFormat::Chatwoot, PayloadFormat::Documented);
    subscribe(client, &receiver, "/other", chatwoot, &[EventType::Other]).await;
    subscribe(client, &receiver, "/all", chatwoot, &all).await;
    subscribe(client, &receiver, "/documented", documented, &all).await;
    subscribe(client, &receiver, "/messages", chatwoot, &[EventType::MessageCreated]).await;
    let mut arrived = 0;
    for (what, body) in odd_bodies() {
        let response = sender(&gateway, PLAIN).post(&body, &delivery(), &[]).await;
        assert_eq!(response.status, 200, "{what}: {response:?}");
        assert_eq!(response.json()["event_type"], "EVENT_TYPE_OTHER", "{what}");
        assert!(!response.json()["faults"].as_array().unwrap().is_empty(), "{what}");
        arrived += 2;
        let seen = receiver.wait_for(arrived).await;
        let mut paths: Vec<_> = seen[arrived - 2..].iter().map(|request| request.path.as_str()).collect();
        paths.sort_unstable();
        assert_eq!(paths, ["/all", "/other"], "{what}");
        assert!(seen[arrived - 2..].iter().all(|request| request.body == body), "{what}");

        let name = response.json()["name"].as_str().unwrap().to_owned();
        let request = v1::GetEventRequest { name };
        let event = client.events.clone().get_event(request).await.unwrap().into_inner().event.unwrap();
        assert_eq!(event.r#type(), EventType::Other, "{what}");
        let Some(Payload::Other(other)) = event.payload else { panic!("{what}: {event:?}") };
        assert_eq!(other.json, body.as_bytes(), "{what}");
        assert!(!other.reasons.is_empty(), "{what}");
        let in_header = if other.name.is_empty() { "other" } else { &other.name };
        assert_eq!(seen[arrived - 1].header("webhook-event-type"), in_header, "{what}");
    }
    client.nothing_owed(ACCOUNT).await;
    assert_eq!(receiver.seen().len(), arrived, "nobody else gets them");
    assert_eq!(client.stored_events(ACCOUNT).await.len(), odd_bodies().len());
    let scrape = Scrape::of(&gateway).await;
    let kept = |reason: &str| scrape.value(&format!("tidings_ingest_kept_total{{reason=\"{reason}\"}}"));
    assert_eq!(kept("unknown_event") + kept("inexact"), odd_bodies().len() as f64);
    assert_eq!(scrape.value("tidings_events_accepted_total{type=\"other\"}"), odd_bodies().len() as f64);
    let log = gateway.stop().await;
    assert!(log.iter().any(|line| line.contains("webhooks are kept as they came")), "{log:#?}");
}

#[tokio::test]
async fn a_mail_and_a_byte_order_mark_are_typed_events_and_everyone_gets_them() {
    let (receiver, gateway) = (Receiver::start().await, launcher().start().await);
    let client = &gateway.client;
    let messages = [EventType::MessageCreated];
    subscribe(client, &receiver, "/chatwoot", PayloadFormat::Chatwoot, &messages).await;
    subscribe(client, &receiver, "/documented", PayloadFormat::Documented, &messages).await;
    let mail = |bytes: usize| changed(|body| body["content"] = "x".repeat(bytes).into());
    let bodies = [
        ("a mail", mail(300 << 10)),
        ("a mail of nearly four megabytes", mail((4 << 20) - (64 << 10))),
        ("a byte order mark", format!("\u{feff}{}", message(7))),
    ];
    for (number, (what, body)) in bodies.iter().enumerate() {
        let response = sender(&gateway, PLAIN).post(body, &delivery(), &[]).await;
        assert_eq!((response.status, &response.json()["event_type"]), (200, &Value::Null), "{what}");
        let seen = receiver.wait_for(2 * (number + 1)).await;
        let content = serde_json::from_str::<Value>(body.trim_start_matches('\u{feff}')).unwrap();
        for request in &seen[2 * number..] {
            assert_eq!(request.json()["content"], content["content"], "{what}");
        }
    }
    let response = sender(&gateway, PLAIN).post(&mail(4 << 20), &delivery(), &[]).await;
    assert_eq!((response.status, &response.json()["reason"]), (413, &json!("BODY_TOO_LARGE")));
    gateway.stop().await;
}

#[tokio::test]
async fn a_body_that_is_kept_belongs_to_its_inbox_and_its_conversation() {
    let (receiver, gateway) = (Receiver::start().await, launcher().start().await);
    let client = &gateway.client;
    let wanted = v1::Subscription {
        payload_format: PayloadFormat::Chatwoot.into(),
        inbox_ids: vec![3],
        ordered: true,
        ..subscription(receiver.url("/inbox"))
    };
    client.subscribe(ACCOUNT, wanted).await;
    for (body, count) in [
        (r#"{"event":"conversation_deleted","id":7,"inbox_id":3}"#, 1),
        (r#"{"event":"conversation_deleted","id":8,"inbox_id":4}"#, 0),
        (r#"{"event":"contact_deleted","id":9}"#, 0),
        (r#"{"event":"message_deleted","id":9,"conversation":{"id":7,"inbox_id":3}}"#, 1),
    ] {
        let id = delivery();
        let response = sender(&gateway, PLAIN).post(body, &id, &[]).await;
        assert_eq!(response.status, 200, "{response:?}");
        let event = response.json()["name"].as_str().unwrap().to_owned();
        let request = v1::ListDeliveriesRequest {
            parent: format!("accounts/{ACCOUNT}/subscriptions/-"),
            event,
            ..Default::default()
        };
        let listed = client.deliveries.clone().list_deliveries(request).await.unwrap().into_inner();
        assert_eq!(listed.deliveries.len(), count, "{body}");
    }
    let seen = receiver.wait_for(2).await;
    let events: Vec<_> = seen.iter().map(|request| request.json()["event"].clone()).collect();
    assert_eq!(events, ["conversation_deleted", "message_deleted"], "in the order of the conversation");
    gateway.stop().await;
}

#[tokio::test]
async fn u_0000_in_a_webhook_is_kept_with_a_warning() {
    let (receiver, gateway) = (Receiver::start().await, launcher().start().await);
    let client = &gateway.client;
    subscribe(client, &receiver, "/", PayloadFormat::Chatwoot, &[EventType::Other]).await;
    let body = changed(|body| body["content"] = "a\0b".into());
    let response = sender(&gateway, PLAIN).post(&body, &delivery(), &[]).await;
    assert_eq!(response.status, 200, "{response:?}");
    let faults = response.json()["faults"].clone();
    assert_eq!(faults[0]["field"], "content", "{faults}");
    assert!(faults[0]["rule"].as_str().unwrap().contains("U+0000"), "{faults}");
    assert_eq!(receiver.wait_for(1).await[0].body, body);
    let events = client.stored_events(ACCOUNT).await;
    let Some(Payload::Other(other)) = &events[0].payload else { panic!("{events:?}") };
    assert!(other.reasons[0].starts_with("content must not contain the character U+0000"), "{other:?}");
    let kept = Scrape::value_of(&gateway, "tidings_ingest_kept_total{reason=\"null_character\"}").await;
    assert_eq!(kept, 1.0);
    let log = gateway.stop().await;
    let warning = log.iter().find(|line| line.contains("null_character")).expect("it is logged");
    assert!(warning.contains("content must not contain the character U+0000"), "{warning}");
}

#[tokio::test]
async fn an_inbox_event_that_names_no_inbox_goes_to_subscriptions_that_name_none() {
    let (receiver, gateway) = (Receiver::start().await, launcher().start().await);
    let client = &gateway.client;
    let wanted = |path: &str, inbox_ids| v1::Subscription {
        payload_format: PayloadFormat::Chatwoot.into(),
        event_types: vec![EventType::InboxCreated.into()],
        inbox_ids,
        ..subscription(receiver.url(path))
    };
    client.subscribe(ACCOUNT, wanted("/any", Vec::new())).await;
    client.subscribe(ACCOUNT, wanted("/one", vec![3])).await;
    let documented = subscription(receiver.url("/documented"));
    client.subscribe(ACCOUNT, documented).await;
    let body = r#"{"greeting_enabled":false,"working_hours":[],"event":"inbox_created"}"#;
    let response = sender(&gateway, PLAIN).post(body, &delivery(), &[]).await;
    assert_eq!((response.status, &response.json()["event_type"]), (200, &Value::Null), "{response:?}");
    let payload = Payload::InboxCreated(v1::InboxCreated::default());
    let published = client.publish(ACCOUNT, v1::Event { payload: Some(payload), ..Default::default() }).await;
    assert_eq!(published.delivery_count(), 2);
    let seen = receiver.wait_for(4).await;
    client.nothing_owed(ACCOUNT).await;
    assert_eq!(receiver.seen().len(), 4);
    assert!(seen.iter().all(|request| request.path != "/one"));
    let documented = seen.iter().find(|request| request.path == "/documented").unwrap();
    assert_eq!((&documented.json()["id"], &documented.json()["name"]), (&json!(0), &json!("")));
    gateway.stop().await;
}
