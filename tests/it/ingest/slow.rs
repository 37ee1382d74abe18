//! Senders that do not finish, and that keep their connections.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{PLAIN, counted, delivery, launcher, message, sender, sender::response};
use crate::support::{PATIENCE, scrape::Scrape};

const LIMIT: Duration = Duration::from_millis(1500);
/// Time that a noisy machine may add.
const SLACK: Duration = Duration::from_secs(10);

/// Sends a byte now and then until the connection is closed, or for longer than it may live.
async fn trickle(stream: &mut TcpStream) -> Duration {
    let since = Instant::now();
    while since.elapsed() < LIMIT + SLACK && stream.write_all(b"x").await.is_ok() {
        sleep(LIMIT / 20).await;
    }
    since.elapsed()
}

#[tokio::test]
async fn heads_and_bodies_that_do_not_end_lose_their_connection() {
    let gateway = launcher().with("client-timeout", "1500ms").start().await;
    let sender = sender(&gateway, PLAIN);
    // Nothing at all, and a head that stops.
    for begin in ["", "POST /chatwoot/x HTTP/1.1\r\nhost: x\r\nx-y:"] {
        // From before the connection, which the gateway may see before this test does.
        let (since, mut stream) = (Instant::now(), sender.connect().await);
        stream.write_all(begin.as_bytes()).await.unwrap();
        let ended = response(&mut stream).await;
        assert!([0, 408].contains(&ended.status), "{ended:?}");
        assert!(since.elapsed() >= LIMIT && since.elapsed() < LIMIT + SLACK, "{:?}", since.elapsed());
    }
    // A head without an end.
    let mut stream = sender.connect().await;
    stream.write_all(b"POST /chatwoot/x HTTP/1.1\r\nx: ").await.unwrap();
    assert!(trickle(&mut stream).await < LIMIT + SLACK);

    // A body that stops gets a response, since the client may still listen.
    let head = format!("{}content-length: 100\r\n\r\n{{", sender.head("POST", &[]));
    let stopped = sender.raw(head.as_bytes()).await;
    assert_eq!((stopped.status, &stopped.json()["reason"]), (408, &json!("BODY_TOO_SLOW")), "{stopped:?}");
    // One without an end is closed.
    let mut stream = sender.connect().await;
    stream.write_all(head.replace("100", "100000").as_bytes()).await.unwrap();
    assert!(trickle(&mut stream).await < LIMIT + SLACK);
    // One that breaks off is nothing.
    let mut stream = sender.connect().await;
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    Scrape::reaches(&gateway, &[("tidings_ingest_requests_in_flight", 0.0)]).await;
    // Of the one that broke off nobody may have heard.
    assert!(counted(&gateway, "unread").await >= 2.0);
    assert_eq!(Scrape::value_of(&gateway, "tidings_ingest_bytes_in_flight").await, 0.0);
    assert_eq!(sender.post(&message(7), &delivery(), &[]).await.status, 200);
    assert_eq!(gateway.client.stored_events(1).await.len(), 1);
    gateway.stop().await;
}

#[tokio::test]
async fn a_kept_connection_takes_one_request_after_another_whole_or_in_pieces() {
    let gateway = launcher().start().await;
    let sender = sender(&gateway, PLAIN);
    let mut stream = sender.connect().await;
    for number in 1..=3 {
        let body = message(number);
        let head = sender.head("POST", &[]).replace("connection: close\r\n", "");
        let request = match number {
            // As chunks, the last one with a trailer.
            2 => format!(
                "{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nx: y\r\n\r\n",
                body.len()
            ),
            _ => format!("{head}content-length: {}\r\n\r\n{body}", body.len()),
        };
        for piece in request.as_bytes().chunks(1 + request.len() / 5) {
            stream.write_all(piece).await.unwrap();
            stream.flush().await.unwrap();
        }
        let mut seen = String::new();
        while !seen.ends_with("}\n") {
            let mut buffer = [0; 1024];
            let read = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
            assert!(read > 0, "closed after {seen}");
            seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
        assert!(seen.starts_with("HTTP/1.1 200 OK\r\n"), "{seen}");
    }
    assert_eq!(gateway.client.stored_events(1).await.len(), 3);
    gateway.stop().await;
}
