//! The signatures of POSTs, verified as receivers do it: from the headers, the body and the secret, and while
//! secrets are rotated.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tidings::{
    clock::{Clock, SystemClock},
    domain::time::UnixMicros,
    proto::v1::delivery::State,
};
use tokio::time::sleep;

use crate::support::{
    client::{Client, subscription},
    events::contact,
    process::Launcher,
    receiver::{Receiver, Request, Response},
};

/// How far an attempt's timestamp may be from now.
const CLOCK_TOLERANCE_SECS: i64 = 120;

const DAY: Duration = Duration::from_hours(24);

/// Verifies both signatures: `webhook-signature` is made with all these secrets, the newest first, and
/// Chatwoot's with the newest.
#[track_caller]
pub fn assert_signed(request: &Request, secrets: &[&str]) {
    assert_standard_signed(request, secrets);
    assert_chatwoot_signed(request, secrets[0]);
}

/// Verifies the signatures of Standard Webhooks.
#[track_caller]
pub fn assert_standard_signed(request: &Request, secrets: &[&str]) {
    let timestamp = request.header("webhook-timestamp");
    let off = timestamp.parse::<i64>().unwrap() - SystemClock::default().now().seconds();
    assert!(off.abs() <= CLOCK_TOLERANCE_SECS, "{off} s from now");

    let signatures: Vec<_> = request.header("webhook-signature").split(' ').collect();
    assert_eq!(signatures.len(), secrets.len(), "{signatures:?}");
    let signed = format!("{}.{timestamp}.{}", request.webhook_id(), request.body);
    for (signature, secret) in signatures.into_iter().zip(secrets) {
        let key = match secret.strip_prefix("whsec_") {
            Some(encoded) => STANDARD.decode(encoded).unwrap(),
            None => secret.as_bytes().to_vec(),
        };
        let signature = signature.strip_prefix("v1,").unwrap();
        verify(&key, &signed, &STANDARD.decode(signature).unwrap());
    }
}

/// Verifies Chatwoot's signature.
#[track_caller]
pub fn assert_chatwoot_signed(request: &Request, secret: &str) {
    let signed = format!("{}.{}", request.header("x-chatwoot-timestamp"), request.body);
    let chatwoot = request.header("x-chatwoot-signature").strip_prefix("sha256=").unwrap();
    let digits = |at| u8::from_str_radix(&chatwoot[at..at + 2], 16).unwrap();
    let chatwoot: Vec<u8> = (0..chatwoot.len()).step_by(2).map(digits).collect();
    verify(secret.as_bytes(), &signed, &chatwoot);
}

#[track_caller]
fn verify(key: &[u8], signed: &str, signature: &[u8]) {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(signed.as_bytes());
    mac.verify_slice(signature).expect("the signature is of this request");
}

/// Rotates the secret. Returns the new one, and when the old one ends.
async fn rotate(client: &Client, name: &str, overlap: Duration) -> (String, UnixMicros) {
    let rotated = client.rotate(name, overlap).await;
    let end = rotated.old_secret_expire_time.unwrap();
    (rotated.signing_secret, UnixMicros(end.seconds * 1_000_000 + i64::from(end.nanos) / 1000))
}

#[tokio::test]
async fn older_secrets_sign_until_their_overlap_is_over_and_are_shown_nowhere() {
    let receiver = Receiver::start().await;
    let launcher = Launcher::new().with("log-level", "trace");
    let gateway = launcher.start().await;
    let subscribed = gateway.client.subscribe(1, subscription(receiver.url("/hook"))).await;
    let (name, first) = (subscribed.name, subscribed.secret);
    gateway.client.publish(1, contact(1)).await;
    assert_signed(&receiver.wait_for(1).await[0], &[&first]);

    let (second, _) = rotate(&gateway.client, &name, DAY).await;
    gateway.client.publish(1, contact(1)).await;
    assert_signed(&receiver.wait_for(2).await[1], &[&second, &first]);
    gateway.client.nothing_owed(1).await;
    let mut log = gateway.stop().await;

    let gateway = launcher.start().await;
    gateway.client.publish(1, contact(1)).await;
    assert_signed(&receiver.wait_for(3).await[2], &[&second, &first]);

    let (third, end) = rotate(&gateway.client, &name, Duration::from_millis(200)).await;
    // The gateway has the same clock.
    sleep(end.since(SystemClock::default().now())).await;
    gateway.client.publish(1, contact(1)).await;
    assert_signed(&receiver.wait_for(4).await[3], &[&third]);
    gateway.client.nothing_owed(1).await;

    log.extend(gateway.stop().await);
    assert!(log.iter().any(|line| line.contains("/hook") || line.contains(&name)), "the log has the rest");
    for secret in [first, second, third] {
        let key = secret.strip_prefix("whsec_").unwrap();
        assert_eq!(log.iter().find(|line| line.contains(key)), None, "a secret is in the log");
    }
}

#[tokio::test]
async fn waiting_deliveries_are_signed_with_the_new_secret() {
    let receiver = Receiver::always(Response::status(500)).await;
    // So that the second attempt is the one that is asked for.
    let launcher = Launcher::new().with("retry-min-backoff", "1d").with("retry-max-backoff", "1d");
    let gateway = launcher.start().await;
    let client = &gateway.client;
    let subscribed = client.subscribe(1, subscription(receiver.url("/hook"))).await;
    let (tried, untried) = (subscribed.delivery("tried"), subscribed.delivery("untried"));
    client.publish_as(1, "tried", contact(1)).await;
    client.delivery_in(&tried, State::Retrying).await;
    client.pause(&subscribed.name).await;
    client.publish_as(1, "untried", contact(1)).await;

    let (second, _) = rotate(client, &subscribed.name, DAY).await;
    receiver.now(|_| Response::status(200));
    client.resume(&subscribed.name).await;
    client.delivery_in(&untried, State::Succeeded).await;
    client.retry(&tried).await;
    client.delivery_in(&tried, State::Succeeded).await;

    let seen = receiver.seen();
    assert_eq!(seen.len(), 3);
    assert_signed(&seen[0], &[&subscribed.secret]);
    assert_signed(&seen[1], &[&second, &subscribed.secret]);
    assert_signed(&seen[2], &[&second, &subscribed.secret]);
    assert_eq!((seen[2].webhook_id(), &seen[2].body), (seen[0].webhook_id(), &seen[0].body));
    gateway.stop().await;
}
