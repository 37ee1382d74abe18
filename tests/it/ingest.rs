//! Chatwoot's own webhooks as the way in: the real gateway, real HTTP, and captured requests of Chatwoot.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde_json::{Value, json};
use tidings::{
    clock::{Clock, SystemClock},
    domain::{secret::Secret, signature},
    proto::v1::{self, subscription::PayloadFormat},
};

use crate::support::{
    client::{Client, Subscribed, subscription},
    process::{Launcher, TidingsProcess},
    receiver::Receiver,
    scrape::Scrape,
};

mod captured;
mod kept;
mod lasting;
mod loops;
mod overload;
mod refusals;
pub mod sender;
mod slow;
mod sources;

use sender::Sender;

/// How often the gateways here look at their sources.
const RELOAD_INTERVAL: Duration = Duration::from_millis(100);
/// The account of the first source, and of most captured webhooks.
const ACCOUNT: i64 = 1;
/// The path of a source whose requests need no signature.
pub const PLAIN: &str = "plain-0123456789abcdef0123";
/// The path of a source whose requests must be signed.
const SIGNED: &str = "signed-0123456789abcdef012";
const SECRET: &str = "Xk3vQ9pLw7TzRb2NcYd5HsJm";

/// A launcher whose gateways take webhooks from two sources of one account, and the file that says so.
pub fn launcher() -> Launcher {
    let launcher = Launcher::new().with("ingest-listen", "127.0.0.1:0");
    launcher.secrets().add(SECRET);
    let text = format!(
        "{}{}signing_secret = '{SECRET}'\n",
        source(ACCOUNT, PLAIN, "plain"),
        source(ACCOUNT, SIGNED, "signed")
    );
    let file = put_sources(&launcher, &text);
    launcher
        .with_file("ingest-sources-file", file)
        .with("reload-interval", format!("{}ms", RELOAD_INTERVAL.as_millis()))
}

/// One entry of a sources file. Its path is watched for from now on.
fn source(account: i64, path: &str, name: &str) -> String {
    format!("[[source]]\naccount = {account}\npath = '{path}'\nname = '{name}'\n")
}

/// Writes the sources file of a launcher, whole at once.
fn put_sources(launcher: &Launcher, text: &str) -> PathBuf {
    let (new, file) = (launcher.dir().join("sources.new"), launcher.dir().join("sources.toml"));
    for path in text.lines().filter_map(|line| line.strip_prefix("path = ")) {
        launcher.secrets().add(path.trim_matches('\''));
    }
    fs::write(&new, text).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&new, &file).unwrap();
    file
}

/// A Chatwoot that sends to a source of this path of a gateway.
fn sender(gateway: &TidingsProcess, path: &str) -> Sender {
    Sender::to(gateway.ingest.expect("it takes webhooks"), path)
}

/// A subscription of everything in Chatwoot's form.
async fn subscribe(client: &Client, receiver: &Receiver) -> Subscribed {
    let payload_format = PayloadFormat::Chatwoot.into();
    client
        .subscribe(ACCOUNT, v1::Subscription { payload_format, ..subscription(receiver.url("/hook")) })
        .await
}

/// A body that Chatwoot could send: a message of this id.
fn message(id: i64) -> String {
    let captured = crate::chatwoot::fixtures::all()
        .into_iter()
        .find(|fixture| fixture.name == "message_created-1")
        .unwrap();
    let mut body: Value = serde_json::from_slice(&captured.captured).unwrap();
    body["id"] = id.into();
    body["account"]["id"] = ACCOUNT.into();
    if let Some(inner) = body["conversation"]["messages"].get_mut(0) {
        inner["id"] = id.into();
        inner["account_id"] = ACCOUNT.into();
    }
    body.to_string()
}

/// An id that no other delivery of these tests has.
pub fn delivery() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("3f2c7a10-0000-4000-8000-{:012x}", LAST.fetch_add(1, Relaxed))
}

/// The signature that Chatwoot would make now.
fn signed(secret: &str, timestamp: i64, body: &str) -> [(&'static str, String); 2] {
    let signature = signature::chatwoot(&Secret::new(secret), timestamp, body.as_bytes());
    [("X-Chatwoot-Timestamp", timestamp.to_string()), ("X-Chatwoot-Signature", signature)]
}

fn now() -> i64 {
    SystemClock::default().now().seconds()
}

async fn counted(gateway: &TidingsProcess, outcome: &str) -> f64 {
    Scrape::value_of(gateway, &format!("tidings_ingest_requests_total{{outcome=\"{outcome}\"}}")).await
}

/// The lines of a log that say that a webhook was refused.
fn refused(log: &[String]) -> Vec<Value> {
    let lines = log.iter().filter(|line| line.contains("a webhook was rejected"));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn signed_requests_of_a_source_are_stored_and_delivered_and_all_others_get_401() {
    // With all that there is to be seen of paths and secrets.
    let (receiver, launcher) = (Receiver::start().await, launcher().with("log-level", "trace"));
    let gateway = launcher.start().await;
    subscribe(&gateway.client, &receiver).await;
    let sender = sender(&gateway, SIGNED);
    let (id, body) = (delivery(), message(7));
    let response = sender.post(&body, &id, &signed(SECRET, now(), &body)).await;
    assert_eq!(response.status, 200, "{response:?}");
    let name = format!("accounts/{ACCOUNT}/events/chatwoot~{id}");
    assert_eq!(response.json(), json!({ "name": name, "duplicate": false }));
    let arrived = receiver.wait_for(1).await;
    assert_eq!(arrived[0].message_number(), 7);

    let other = message(8);
    for (what, headers) in [
        ("nothing", Vec::new()),
        ("another body", signed(SECRET, now(), &body).to_vec()),
        ("another secret", signed("another secret than its own", now(), &other).to_vec()),
        ("too long ago", signed(SECRET, now() - 400, &other).to_vec()),
        ("to come", signed(SECRET, now() + 400, &other).to_vec()),
        ("no time", signed(SECRET, now(), &other)[1..].to_vec()),
    ] {
        let response = sender.post(&other, &delivery(), &headers).await;
        assert_eq!(
            (response.status, &response.json()["reason"]),
            (401, &json!("SIGNATURE_INVALID")),
            "{what}"
        );
    }
    assert_eq!(counted(&gateway, "unsigned").await, 6.0);
    assert_eq!(gateway.client.stored_events(ACCOUNT).await.len(), 1);
    let log = gateway.stop().await;
    assert_eq!(refused(&log).len(), 6);
    assert!(
        refused(&log).iter().all(|line| line["source.name"] == "signed" && line["status"] == 401),
        "{log:#?}"
    );
}

#[tokio::test]
async fn a_delivery_is_accepted_once_and_its_id_belongs_to_one_body_only() {
    let (receiver, launcher) = (Receiver::start().await, launcher());
    let mut gateway = launcher.start().await;
    let subscribed = subscribe(&gateway.client, &receiver).await;
    let id = delivery();
    let mut names = Vec::new();
    for (round, duplicate) in [(0, false), (1, true), (2, true)] {
        if round == 2 {
            gateway.stop().await;
            gateway = launcher.start().await;
        }
        let response = sender(&gateway, PLAIN).post(&message(7), &id, &[]).await;
        assert_eq!(
            (response.status, response.json()["duplicate"].as_bool()),
            (200, Some(duplicate)),
            "{round}"
        );
        names.push(response.json()["name"].clone());
    }
    assert!(names.iter().all(|name| *name == names[0]), "{names:?}");
    let response = sender(&gateway, PLAIN).post(&message(8), &id, &[]).await;
    assert_eq!((response.status, &response.json()["reason"]), (409, &json!("EVENT_EXISTS")), "{response:?}");

    // Without an id nobody knows that it is the same one.
    for _ in 0..2 {
        let response = sender(&gateway, PLAIN).post_with(&message(9), &[]).await;
        assert_eq!(
            (response.status, response.json()["duplicate"].as_bool()),
            (200, Some(false)),
            "{response:?}"
        );
    }
    gateway.client.counts_when(&subscribed.name, "three delivered", |counts| counts.succeeded == 3).await;
    assert_eq!(gateway.client.counts(&subscribed.name).await.all(), 3);
    let scrape = Scrape::of(&gateway).await;
    for (outcome, count) in [("accepted", 2.0), ("duplicate", 1.0), ("conflict", 1.0)] {
        assert_eq!(scrape.value(&format!("tidings_ingest_requests_total{{outcome=\"{outcome}\"}}")), count);
    }
    let log = gateway.stop().await;
    let refusals = refused(&log);
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    assert_eq!((&refusals[0]["delivery.id"], &refusals[0]["status"]), (&json!(id), &json!(409)));
}
