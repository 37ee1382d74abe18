use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tidings::domain::{secret::Secret, signature};
use tokio::{net::TcpStream, time::sleep};
use uuid::Uuid;

use crate::support::{
    PATIENCE, POLL_INTERVAL, exchange, in_time,
    process::{Process, run, tidings},
};

const SECRET: &str = "a-secret-for-the-test";

/// A receiver on a port of its own.
pub async fn start(arguments: &[&str]) -> (Process, SocketAddr) {
    let receiver = Process::start(tidings(&[&["receive", "--listen", "127.0.0.1:0"], arguments].concat()));
    let address = |line: &str| line.strip_prefix("listening on http://").map(str::to_owned);
    let address = receiver.stdout.wait_for(address).await;
    (receiver, address.parse().unwrap())
}

/// POSTs with these headers, each with its line's end. Returns the status.
pub async fn post(address: SocketAddr, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    );
    let response = String::from_utf8(exchange(address, request.as_bytes()).await.unwrap()).unwrap();
    response.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn every_request_is_printed_and_every_third_fails() {
    let (receiver, address) = start(&["--status", "503", "--every", "3"]).await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        statuses.push(post(address, "/hook", "x-one: 1\r\n", r#"{"b":1,"a":[]}"#).await);
    }
    assert_eq!(statuses, ["200", "200", "503", "200", "200", "503"]);

    for line in ["#3 POST /hook HTTP/1.1, status 503", "x-one: 1", "  \"b\": 1,", "  \"a\": []"] {
        receiver.stdout.wait_for_line(line).await;
    }
    receiver.signal("TERM");
    assert_eq!(receiver.wait().await.code, Some(0));
}

#[tokio::test]
async fn signatures_are_verified_and_the_result_is_printed() {
    let (receiver, address) = start(&["--secret", SECRET]).await;
    let (secret, id, timestamp, body) = (Secret::new(SECRET), Uuid::from_u128(7), 1_700_000_000, "{}");
    let standard = signature::standard(&[secret.into()], id, timestamp, body.as_bytes());
    let headers = format!(
        "webhook-id: {id}\r\nwebhook-timestamp: {timestamp}\r\nwebhook-signature: {standard}\r\n\
         x-chatwoot-timestamp: {timestamp}\r\nx-chatwoot-signature: sha256=00\r\n"
    );
    assert_eq!(post(address, "/", &headers, body).await, "200");
    receiver.stdout.wait_for_line(&format!("webhook-signature: {standard} (valid)")).await;
    receiver.stdout.wait_for_line("x-chatwoot-signature: sha256=00 (INVALID)").await;
}

#[tokio::test]
async fn a_public_key_verifies_and_a_signature_without_a_key_is_not_checked() {
    // The test vector of docs/json.md.
    let key = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    let (receiver, address) = start(&["--public-key", key]).await;
    let headers = "webhook-id: msg_p5jXN8AQM9LWM0D4loKWxJek\r\nwebhook-timestamp: 1614265330\r\n\
                   x-chatwoot-timestamp: 1614265330\r\nx-chatwoot-signature: sha256=00\r\nwebhook-signature: v1a,\
                   hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==\r\n";
    assert_eq!(post(address, "/", headers, r#"{"test": 2432232314}"#).await, "200");
    receiver.stdout.wait_for(|line| line.ends_with("TBAg== (valid)").then_some(())).await;
    receiver.stdout.wait_for_line("x-chatwoot-signature: sha256=00 (not checked)").await;

    let (receiver, address) = start(&[]).await;
    assert_eq!(post(address, "/", headers, "{}").await, "200");
    receiver.stdout.wait_for(|line| line.ends_with("TBAg== (not checked)").then_some(())).await;
    let malformed = run(tidings(&["receive", "--public-key", "whpk_AAAA"])).await;
    assert_eq!(malformed.code, Some(64), "{}", malformed.stderr);
}

#[tokio::test]
async fn a_response_waits_for_the_delay() {
    let (_receiver, address) = start(&["--delay", "300ms"]).await;
    let begin = Instant::now();
    assert_eq!(post(address, "/", "", "").await, "200");
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_body_past_the_bound_is_refused_before_it_is_read() {
    let (_receiver, address) = start(&[]).await;
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 8 * 1024 * 1024 + 1);
    let response = exchange(address, head.as_bytes()).await.unwrap();
    assert!(response.starts_with(b"HTTP/1.1 413"));
}

#[tokio::test]
async fn clients_with_prior_knowledge_get_http2() {
    let (receiver, address) = start(&["--status", "201"]).await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
    let request = Request::post(format!("http://{address}/two")).body(Full::from("not JSON")).unwrap();
    let response = in_time(client.request(request)).await.unwrap();
    assert_eq!((response.version(), response.status().as_u16()), (Version::HTTP_2, 201));
    assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    receiver.stdout.wait_for_line("not JSON").await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (receiver, address) = start(&["--delay", "1h"]).await;
    let waiting = tokio::spawn(async move { exchange(address, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await });
    receiver.stdout.wait_for(|line| line.starts_with("#1 GET").then_some(())).await;
    let begin = Instant::now();
    receiver.signal("INT");
    // It has taken the first signal when it no longer listens; two at once could come in as one.
    while TcpStream::connect(address).await.is_ok() {
        assert!(begin.elapsed() < PATIENCE, "it still listens");
        sleep(POLL_INTERVAL).await;
    }
    receiver.signal("INT");
    assert_eq!(receiver.wait().await.code, Some(130));
    drop(waiting.await);
}
