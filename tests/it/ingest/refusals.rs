//! Refused requests: each has its status and its reason, is logged without its values, and never stored.

use serde_json::{Value, json};

use super::{
    PLAIN, Receiver, counted, delivery, launcher, message, put_sources, refused, sender, source, subscribe,
};
use crate::support::{process::run, scrape::Scrape};

const WORDS: &str = "words of somebody that no log should have";

#[tokio::test]
async fn what_is_no_json_object_or_of_another_account_is_refused_and_logged_without_its_values() {
    let (receiver, launcher) = (Receiver::start().await, launcher());
    launcher.secrets().add(WORDS);
    let gateway = launcher.start().await;
    let subscribed = subscribe(&gateway.client, &receiver).await;
    let changed = |change: fn(&mut Value)| {
        let mut body: Value = serde_json::from_str(&message(7)).unwrap();
        body["content"] = WORDS.into();
        change(&mut body);
        body.to_string()
    };
    let deep = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    let twice = "{\"event\":\"message_created\"} {}".to_owned();
    let cases = [
        ("no JSON", format!("{{\"content\": \"{WORDS}\""), "body", None),
        ("no object", format!("[\"{WORDS}\"]"), "body", None),
        ("nothing", String::new(), "body", None),
        ("too deep", deep, "body", None),
        ("two objects", twice, "body", None),
        (
            "another account",
            changed(|body| body["account"]["id"] = 99.into()),
            "account.id",
            Some("message_created"),
        ),
        (
            "another account in an event that has no type",
            changed(|body| {
                body["event"] = "message_deleted".into();
                body["account"]["id"] = 99.into();
            }),
            "account.id",
            Some("message_deleted"),
        ),
    ];
    for (what, body, field, _) in &cases {
        let response = sender(&gateway, PLAIN).post(body, &delivery(), &[]).await;
        assert_eq!(
            (response.status, &response.json()["reason"]),
            (422, &json!("FIELD_INVALID")),
            "{what}: {response:?}"
        );
        let faults = response.json()["faults"].as_array().unwrap().clone();
        assert!(faults.iter().any(|fault| fault["field"] == *field), "{what}: {faults:?}");
        assert!(faults.iter().all(|fault| !fault["rule"].as_str().unwrap().is_empty()), "{what}: {faults:?}");
        assert!(!response.body.contains(WORDS), "{what}: {response:?}");
    }
    let count = cases.len();
    assert_eq!(counted(&gateway, "invalid").await, f64::from(u32::try_from(count).unwrap()));
    assert_eq!(gateway.client.counts(&subscribed.name).await.all(), 0);
    assert_eq!(gateway.client.stored_events(1).await, []);
    // The log is looked through for the words when it ends.
    let log = gateway.stop().await;
    let lines = refused(&log);
    assert_eq!(lines.len(), count);
    for (line, (what, _, field, event)) in lines.iter().zip(&cases) {
        assert_eq!(line["source.name"], "plain", "{what}: {line}");
        assert!(line["delivery.id"].as_str().unwrap().starts_with("3f2c7a10-"), "{what}: {line}");
        assert!(line["faults"].as_str().unwrap().starts_with(*field), "{what}: {line}");
        assert_eq!(line["webhook.event"].as_str(), *event, "{what}: {line}");
    }
}

#[tokio::test]
async fn methods_paths_sizes_and_ids_are_refused_as_http_does() {
    let gateway = launcher().with("body-bytes-max", "64KiB").start().await;
    let known = sender(&gateway, PLAIN);
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let response = known.raw(format!("{}\r\n", known.head(method, &[])).as_bytes()).await;
        assert_eq!(
            (response.status, response.header("allow")),
            (405, Some("POST")),
            "{method}: {response:?}"
        );
    }
    let long = "x".repeat(120);
    for id in ["", "a b", "a/b", "ä", long.as_str()] {
        let response = known.post(&message(7), id, &[]).await;
        assert_eq!(
            (response.status, &response.json()["reason"]),
            (400, &json!("DELIVERY_INVALID")),
            "{id}: {response:?}"
        );
    }
    // Larger than it may be: as its length says, and without one.
    let large = "x".repeat(64 * 1024 + 1);
    let response = known.post(&large, &delivery(), &[]).await;
    assert_eq!(
        (response.status, &response.json()["reason"]),
        (413, &json!("BODY_TOO_LARGE")),
        "{response:?}"
    );
    let endless = format!("{}transfer-encoding: chunked\r\n\r\n", known.head("POST", &[]))
        + &format!("1000\r\n{}\r\n", "x".repeat(4096)).repeat(17);
    assert_eq!(known.raw(endless.as_bytes()).await.status, 413);
    // A client that asks before it sends is refused at once.
    let asks = format!("{}expect: 100-continue\r\ncontent-length: 100000\r\n\r\n", known.head("POST", &[]));
    let response = known.raw(asks.as_bytes()).await;
    assert_eq!(response.status, 413, "{response:?}");
    let headers = format!("{}x: {}\r\n\r\n", known.head("POST", &[]), "y".repeat(100_000));
    assert_eq!(known.raw(headers.as_bytes()).await.status, 431);
    let headers = format!("{}{}\r\n", known.head("POST", &[]), "x: y\r\n".repeat(200));
    assert_eq!(known.raw(headers.as_bytes()).await.status, 431);
    for garbage in ["\x16\x03\x01\x02\x00\x01", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "POST\r\n\r\n"] {
        let response = known.raw(garbage.as_bytes()).await;
        assert!([0, 400].contains(&response.status), "{garbage:?}: {response:?}");
    }
    // A length that is given twice could end the body where another reader does not.
    let twice = format!("{}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}} ", known.head("POST", &[]));
    assert_eq!(known.raw(twice.as_bytes()).await.status, 400);

    let target = |target: &str| super::Sender { target: target.to_owned(), ..known.clone() };
    for path in [
        "/",
        "/chatwoot",
        "/chatwoot/",
        "/healthz",
        &known.target[..known.target.len() - 1],
        &format!("{}/", known.target),
    ] {
        for method in ["POST", "GET"] {
            let sender = target(path);
            let response =
                sender.raw(format!("{}content-length: 0\r\n\r\n", sender.head(method, &[])).as_bytes()).await;
            assert_eq!(
                (response.status, &response.json()["reason"]),
                (404, &json!("NOT_FOUND")),
                "{method} {path}: {response:?}"
            );
        }
    }
    // A query is nobody's business.
    let response = target(&format!("{}?x=y", known.target)).post(&message(7), &delivery(), &[]).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(gateway.client.stored_events(1).await.len(), 1);
    let log = gateway.stop().await;
    assert!(!log.iter().any(|line| line.contains("panicked")), "{log:#?}");
}

#[tokio::test]
async fn guesses_of_paths_are_limited_and_known_paths_are_not() {
    const FAILURES_PER_MINUTE_MAX: u32 = 60;
    let gateway = launcher().start().await;
    let stranger = sender(&gateway, "a-path-that-nobody-was-given");
    for _ in 0..FAILURES_PER_MINUTE_MAX {
        assert_eq!(stranger.post(&message(7), &delivery(), &[]).await.status, 404);
    }
    for _ in 0..3 {
        let response = stranger.post(&message(7), &delivery(), &[]).await;
        assert_eq!(
            (response.status, &response.json()["reason"]),
            (429, &json!("RATE_LIMITED")),
            "{response:?}"
        );
        let wait: u64 = response.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        assert_eq!(sender(&gateway, PLAIN).post(&message(7), &delivery(), &[]).await.status, 200);
    }
    let scrape = Scrape::of(&gateway).await;
    for (outcome, count) in [("not_found", 60.0), ("rate_limited", 3.0), ("accepted", 3.0)] {
        assert_eq!(scrape.value(&format!("tidings_ingest_requests_total{{outcome=\"{outcome}\"}}")), count);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn without_usable_sources_there_is_no_start() {
    let launcher = launcher();
    for (text, reason) in [
        ("", "has no [[source]]"),
        ("source = []", "must have 1 to 10000 [[source]]"),
        (&source(0, "hunter2", "a b"), "source 1 (line 1): path must be 20 to 128"),
        (&source(1, PLAIN, "a").repeat(2), "source 2 (line 5): path is that of source 1 (line 1), too"),
    ] {
        let file = put_sources(&launcher, text);
        let log = launcher.refusal().await;
        assert!(
            log.contains(&format!("ingest_sources_file {}", file.display())) && log.contains(reason),
            "{reason}: {log}"
        );
        assert!(!log.contains("hunter2") && !log.contains(PLAIN), "{log}");
    }
    let log = launcher.clone().with("ingest-sources-file", "/nowhere/sources.toml").refusal().await;
    assert!(log.contains("ingest_sources_file /nowhere/sources.toml: cannot be read"), "{log}");
    let ended = run(launcher.without("ingest-sources-file").command()).await;
    let reason = "needs ingest_sources_file, which is not set";
    assert!(ended.code == Some(64) && ended.stderr.contains(reason), "{ended:?}");
}
