//! Requests on the wire, byte by byte.

use crate::{
    attempt::sender::{NOW_SECONDS, SECRET, Sender, event, subscription},
    support::receiver::{OK, Receiver, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tidings::{
    domain::{delivery::Outcome, payload_format::PayloadFormat, secret::Secret},
    event::webhook::webhook_id,
};

fn hmac(message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

#[tokio::test]
async fn a_post_looks_as_documented() {
    let mut receiver = Receiver::always(Response::bytes(OK)).await;
    let mut subscription = subscription(&receiver.url("/a%20b/hook?x=1&y=%2F"));
    subscription.settings.headers.insert("authorization".to_owned(), Secret::new("Bearer abc"));
    subscription.settings.headers.insert("x-empty".to_owned(), Secret::new(""));
    let id = webhook_id(subscription.uid, "accounts/1/events/e-1");

    assert_eq!(Sender::new().post_to(subscription).await.outcome, Outcome::Ok);

    let received = receiver.next().await;
    let body = event().body(PayloadFormat::Documented);
    assert_eq!(received.body.as_bytes(), body);
    let standard = hmac(&[format!("{id}.{NOW_SECONDS}.").as_bytes(), &body].concat());
    let chatwoot = hmac(&[format!("{NOW_SECONDS}.").as_bytes(), &body].concat());
    let expected = [
        "POST /a%20b/hook?x=1&y=%2F HTTP/1.1".to_owned(),
        "Content-Type: application/json".to_owned(),
        "Accept: application/json".to_owned(),
        format!("User-Agent: tidings/{}", env!("CARGO_PKG_VERSION")),
        format!("Webhook-Id: {id}"),
        format!("X-Chatwoot-Delivery: {id}"),
        format!("Webhook-Timestamp: {NOW_SECONDS}"),
        format!("X-Chatwoot-Timestamp: {NOW_SECONDS}"),
        format!("Webhook-Signature: v1,{}", STANDARD.encode(standard)),
        format!(
            "X-Chatwoot-Signature: sha256={}",
            chatwoot.iter().map(|b| format!("{b:02x}")).collect::<String>()
        ),
        "Authorization: Bearer abc".to_owned(),
        "X-Empty: ".to_owned(),
        "Webhook-Attempt: 3".to_owned(),
        "Webhook-Event-Type: message_created".to_owned(),
        "Cdn-Loop: tidings; hops=1".to_owned(),
        format!("Host: {}", receiver.address),
        format!("Content-Length: {}", body.len()),
        String::new(),
        String::new(),
    ];
    assert_eq!(received.head, expected.join("\r\n"));
}

#[tokio::test]
async fn every_attempt_has_the_same_id_and_body() {
    let mut receiver = Receiver::always(Response::bytes("HTTP/1.1 500 x\r\ncontent-length: 0\r\n\r\n")).await;
    let sender = Sender::new();
    sender.post(&receiver.url("/")).await;
    sender.post(&receiver.url("/")).await;
    let [first, second] = [receiver.next().await, receiver.next().await];
    assert_eq!((first.head, first.body), (second.head, second.body));
}
