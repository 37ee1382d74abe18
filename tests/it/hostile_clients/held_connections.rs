//! Connections that are held and not used: they leave room for the others, and end. With default settings, but for
//! the number of connections where all of them shall be held.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::{Instant, timeout},
};

use crate::{
    it::ingest::{PLAIN, delivery, launcher, sender::Sender},
    support::{
        PATIENCE,
        process::Launcher,
        raw_http2::{self, CONTINUATION, HEADERS, RawHttp2, frame},
        scrape::Scrape,
    },
};

/// Of the gateways here that are filled.
const CONNECTIONS_MAX: usize = 64;

/// A connection from this address of the loopback network.
async fn connect_from(last: u8, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    socket.connect(address).await.unwrap()
}

/// A gRPC connection with a call whose headers do not end.
async fn half_a_call(last: u8, address: SocketAddr) -> RawHttp2 {
    let mut raw = RawHttp2(connect_from(last, address).await);
    let headers = raw_http2::call_headers("/tidings.v1.EventService/PublishEvent", None);
    let (first, second) = headers.split_at(20);
    let begin = [raw_http2::hello(), frame(HEADERS, 0, 1, first), frame(CONTINUATION, 0, 1, second)].concat();
    // A connection past a limit may be closed by now.
    drop(raw.send(&begin).await);
    raw
}

/// The same over HTTP/1.1.
async fn half_a_request(last: u8, address: SocketAddr) -> RawHttp2 {
    let mut raw = RawHttp2(connect_from(last, address).await);
    drop(raw.send(b"POST /tidings.v1.EventService/PublishEvent HTTP/1.1\r\nhost: localhost\r\nx").await);
    raw
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_sent_headers_from_four_addresses_do_not_hold_all_connections() {
    let gateway = Launcher::new().start().await;
    let mut held = Vec::new();
    for last in 2..6 {
        for number in 0..300 {
            held.push(match number % 2 {
                0 => half_a_call(last, gateway.grpc).await,
                _ => half_a_request(last, gateway.grpc).await,
            });
        }
    }
    // A sixteenth of 4,096 for each. Some were closed before, since too many were in the handshake.
    let refused = Scrape::when(&gateway, "refused", |scrape| {
        ["unproven", "half_open"].iter().map(|reason| scrape.closed_for(reason)).sum::<f64>() >= 4.0 * 44.0
    });
    refused.await;
    let another = gateway.another_client().await;
    another.nothing_owed(1).await;
    let scrape = Scrape::of(&gateway).await;
    assert!(scrape.value("tidings_grpc_connections") <= 4.0 * 256.0 + 2.0, "{scrape:?}");
    drop(held);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_newcomer_takes_the_place_of_the_idlest_connection_of_the_largest_address() {
    let launcher = Launcher::new().with("client-connections-max", CONNECTIONS_MAX.to_string());
    let gateway = launcher.start().await;
    gateway.client.nothing_owed(1).await;
    let mut held = Vec::new();
    for number in 0..CONNECTIONS_MAX - 1 {
        let last = u8::try_from(2 + number / 16).unwrap();
        let mut raw = half_a_call(last, gateway.grpc).await;
        // Only a few may be in the handshake.
        raw.until(|frame| frame.kind == raw_http2::SETTINGS).await.expect("it is served");
        held.push(raw);
    }
    Scrape::reaches(&gateway, &[("tidings_grpc_connections", CONNECTIONS_MAX as f64)]).await;
    for evicted in 1..=5 {
        let another = gateway.another_client().await;
        another.nothing_owed(1).await;
        assert_eq!(Scrape::closed(&gateway, "evicted", f64::from(evicted)).await, f64::from(evicted));
        // Kept by nobody: its place is free again.
        drop(another);
        Scrape::reaches(&gateway, &[("tidings_grpc_connections", CONNECTIONS_MAX as f64 - 1.0)]).await;
        held.push(half_a_call(6, gateway.grpc).await);
        Scrape::reaches(&gateway, &[("tidings_grpc_connections", CONNECTIONS_MAX as f64)]).await;
    }
    gateway.client.nothing_owed(1).await;
    let mut ended = 0;
    for raw in &mut held[..16] {
        ended += usize::from(raw.end_within(Duration::from_millis(50)).await.1);
    }
    assert!(ended >= 1, "those of the first address have been idle longest");
    drop(held);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_that_has_proven_nothing_ends_and_one_that_has_stays() {
    const UNPROVEN_TIMEOUT: Duration = Duration::from_secs(30);
    let gateway = Launcher::new().start().await;
    gateway.client.nothing_owed(1).await;
    let (since, mut raw) = (Instant::now(), half_a_call(1, gateway.grpc).await);
    let mut request = half_a_request(1, gateway.grpc).await;
    for raw in [&mut raw, &mut request] {
        let (_, ended) = raw.end_within(UNPROVEN_TIMEOUT + PATIENCE).await;
        assert!(ended && since.elapsed() >= UNPROVEN_TIMEOUT, "after {:?}", since.elapsed());
    }
    assert_eq!(Scrape::closed(&gateway, "unproven_timeout", 2.0).await, 2.0);
    let scrape = Scrape::of(&gateway).await;
    assert_eq!(scrape.value("tidings_grpc_connections"), 1.0, "that of the client");
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn half_sent_webhooks_from_two_addresses_lose_no_webhook_of_others() {
    let gateway = launcher().with("client-connections-max", (2 * CONNECTIONS_MAX).to_string()).start().await;
    let address = gateway.ingest.unwrap();
    let mut held = Vec::new();
    for number in 0..CONNECTIONS_MAX * 2 {
        let last = u8::try_from(2 + number % 2).unwrap();
        let mut stream = connect_from(last, address).await;
        drop(stream.write_all(b"POST /chatwoot/x HTTP/1.1\r\nx: y\r\n").await);
        held.push(stream);
    }
    let body = r#"{"event":"webwidget_triggered","id":1}"#;
    for _ in 0..20 {
        // It has no form with a type, and is kept as it came.
        let response = Sender::to(address, PLAIN).post(body, &delivery(), &[]).await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    // Those that are held end soon.
    let reaches = Scrape::reaches(&gateway, &[("tidings_ingest_connections", 0.0)]);
    timeout(PATIENCE, reaches).await.expect("after five seconds");
    drop(held);
    gateway.stop().await;
}
