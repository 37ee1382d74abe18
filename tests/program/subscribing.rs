//! `tidings receive --subscribe`: a receiver with a subscription of its own.

use std::time::Duration;

use serde_json::Value;
use tidings::proto::v1::{self, subscription::SignatureScheme};
use tokio::process::Command;

use crate::support::{
    events::message,
    process::{Launcher, Process, TidingsProcess, run, tidings},
};

fn command(gateway: &TidingsProcess, arguments: &[&str]) -> Command {
    let address = format!("http://{}", gateway.grpc);
    let common = ["receive", "--listen", "127.0.0.1:0", "--subscribe", "--address", &address];
    tidings(&[&common[..], arguments].concat())
}

/// A receiver, and the name of its subscription.
async fn start(gateway: &TidingsProcess, arguments: &[&str]) -> (Process, String) {
    let receiver = Process::start(command(gateway, arguments));
    let lines = if arguments.contains(&"--json") { &receiver.stderr } else { &receiver.stdout };
    let name = lines.wait_for(|line| line.strip_prefix("subscribed as ").map(str::to_owned)).await;
    (receiver, name)
}

/// The webhook of this number.
async fn webhook(receiver: &Process, number: u64) -> Value {
    let find = |line: &str| serde_json::from_str(line).ok().filter(|line: &Value| line["number"] == number);
    receiver.stdout.wait_for(find).await
}

async fn publish(gateway: &TidingsProcess, number: i64) {
    gateway.client.publish(1, message(1, 1, number)).await;
}

#[tokio::test]
async fn it_verifies_with_the_secret_of_its_subscription_and_removes_it_at_the_end() {
    let gateway = Launcher::new().start().await;
    let (receiver, name) = start(&gateway, &["--json", "--type", "message_created"]).await;
    let stored = gateway.client.subscription(&name).await;
    assert_eq!(stored.event_types, [i32::from(v1::EventType::MessageCreated)]);
    publish(&gateway, 1).await;
    let first = webhook(&receiver, 1).await;
    assert_eq!(first["body"]["id"], 1);
    assert_eq!(first["signatures"]["webhook-signature"], "valid");
    assert_eq!(first["signatures"]["x-chatwoot-signature"], "valid");

    // While both secrets sign, the older one is enough for one of the headers.
    gateway.client.rotate(&name, Duration::from_hours(1)).await;
    publish(&gateway, 2).await;
    let second = webhook(&receiver, 2).await;
    assert_eq!(second["signatures"]["webhook-signature"], "valid; the secret is being rotated");
    let newer = second["signatures"]["x-chatwoot-signature"].as_str().unwrap_or_default();
    assert!(newer.contains("newer secret"), "{second}");

    receiver.signal("INT");
    let ended = receiver.wait().await;
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(gateway.client.all_subscriptions("accounts/1").await.is_empty());
    gateway.stop().await;
}

#[tokio::test]
async fn it_follows_the_public_key_of_its_subscription() {
    let gateway = Launcher::new().start().await;
    let (receiver, name) = start(&gateway, &["--json"]).await;
    let signature_scheme = SignatureScheme::Ed25519.into();
    gateway
        .client
        .update(v1::Subscription { name: name.clone(), signature_scheme, ..Default::default() })
        .await;
    for number in 1..3 {
        // Nothing older signs any more.
        gateway.client.rotate(&name, Duration::ZERO).await;
        publish(&gateway, i64::try_from(number).expect("it is small")).await;
        let verdict = webhook(&receiver, number).await["signatures"]["webhook-signature"].clone();
        assert_eq!(verdict, "valid");
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_refusal_of_its_address_names_the_setting() {
    let gateway = Launcher::new().without("egress-allow").start().await;
    let ended = run(command(&gateway, &[])).await;
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""));
    assert!(
        ended.stderr.contains("cannot subscribe: ") && ended.stderr.contains("egress_allow"),
        "{}",
        ended.stderr
    );
    gateway.stop().await;
}
