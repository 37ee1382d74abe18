//! Responses with long bodies, and their effect on the connection.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::{
    attempt::sender::Sender,
    support::receiver::{OK, Receiver, Response},
};
use tidings::{delivery::http::client::RESPONSE_BYTES_MAX, domain::delivery::Outcome};

/// Bytes of a response's body that are kept by default.
const KEPT: usize = 4096;

fn response(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn connections_are_kept() {
    let mut receiver = Receiver::always(Response::bytes(OK)).await;
    let sender = Sender::new();
    for _ in 0..20 {
        assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
        assert_eq!(receiver.next().await.connection, 0);
    }
}

#[tokio::test]
async fn a_body_within_the_bound_is_read_to_its_end_and_the_connection_kept() {
    let mut receiver = Receiver::always(Response::bytes(response(&"x".repeat(RESPONSE_BYTES_MAX)))).await;
    let sender = Sender::new();
    for _ in 0..3 {
        let attempt = sender.post(&receiver.url("/")).await;
        assert_eq!((attempt.outcome, attempt.response_body), (Outcome::Ok, "x".repeat(KEPT)));
        assert_eq!(receiver.next().await.connection, 0);
    }
}

#[tokio::test]
async fn as_much_of_a_body_is_kept_as_the_setting_says() {
    let receiver = Receiver::always(Response::bytes(response(&"é".repeat(20_000)))).await;
    for kept in [0, 1, 7, 1024, RESPONSE_BYTES_MAX] {
        let sender = Sender::with(|settings| settings.response_body_kept = kept);
        let attempt = sender.post(&receiver.url("/")).await;
        // No character is cut in two.
        assert_eq!(attempt.response_body, "é".repeat((kept / 2).min(20_000)), "{kept}");
        assert_eq!(attempt.outcome, Outcome::Ok);
    }
}

#[tokio::test]
async fn the_status_of_a_longer_body_decides_and_the_connection_is_dropped() {
    // So much longer that the rest is not there yet when the bound is reached.
    let mut receiver =
        Receiver::always(Response::bytes(response(&"x".repeat(RESPONSE_BYTES_MAX + 16_000_000)))).await;
    let sender = Sender::new();
    for number in 0..3 {
        let attempt = sender.post(&receiver.url("/")).await;
        assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Ok, 200));
        assert_eq!(receiver.next().await.connection, number);
    }
}

#[tokio::test]
async fn a_flood_is_cut_off() {
    let flooded = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&flooded);
    let receiver = Receiver::on_connections(move |mut connection| {
        let flooded = Arc::clone(&counting);
        async move {
            connection.request().await;
            connection.send("HTTP/1.1 500 x\r\ntransfer-encoding: chunked\r\n\r\n").await;
            let chunk = format!("{:x}\r\n{}\r\n", 16_384, "x".repeat(16_384));
            while connection.send(&chunk).await {
                flooded.fetch_add(chunk.len(), Ordering::Relaxed);
            }
        }
    })
    .await;
    let attempt = Sender::new().post(&receiver.url("/")).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::HttpStatus, 500));
    assert_eq!(attempt.response_body.len(), KEPT);
    receiver.wait_for_closed(1).await;
    // Everything that was read, and that the system's buffers on both sides took.
    let flooded = flooded.load(Ordering::Relaxed);
    assert!(flooded < 64 * 1024 * 1024, "{flooded} bytes were taken");
}
