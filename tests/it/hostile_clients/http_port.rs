//! The port of the probes: idle connections are closed, and probes get their response all the while.

use std::time::Duration;

use tidings::ops::{CONNECTION_TIMEOUT, CONNECTIONS_MAX, HEADER_TIMEOUT};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::support::{PATIENCE, exchange, process::Launcher};

/// Everything received on a connection to the HTTP port until it is closed, and how long that takes.
async fn response_to(address: std::net::SocketAddr, bytes: &[u8]) -> (String, Duration) {
    let since = Instant::now();
    let response = exchange(address, bytes).await.unwrap();
    (String::from_utf8_lossy(&response).into_owned(), since.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_http_port_closes_idle_connections_and_responds_to_probes() {
    /// Time that a noisy machine may add.
    const SLACK: Duration = Duration::from_secs(5);
    let gateway = Launcher::new().start().await;
    let long = format!("GET /healthz HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET /healthz HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(1000));
    for (bytes, status) in [
        ("\x16\x03\x01\x02\x00\x01", "400"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400"),
        ("GET\r\n\r\n", "400"),
        (&long, "431"),
        (&many, "431"),
        ("DELETE /metrics HTTP/1.1\r\nhost: x\r\n\r\n", "405"),
    ] {
        let (response, took) = response_to(gateway.http, bytes.as_bytes()).await;
        let refused = response.is_empty() || response.get(9..12) == Some(status);
        assert!(refused && took < HEADER_TIMEOUT + SLACK, "{response:?} after {took:?}");
    }
    let (response, took) = response_to(gateway.http, b"GET /healthz HTTP/1.1\r\nhost:").await;
    assert!(response.is_empty() && took >= HEADER_TIMEOUT && took < CONNECTION_TIMEOUT + SLACK, "{took:?}");

    // More than there may be, each with a byte of headers now and then.
    let mut slow = JoinSet::new();
    for _ in 0..CONNECTIONS_MAX * 3 {
        // Before the probe, whose place a later one could take.
        let mut stream = TcpStream::connect(gateway.http).await.unwrap();
        slow.spawn(async move {
            drop(stream.write_all(b"GET /metrics HTTP/1.1\r\n").await);
            while stream.write_all(b"x").await.is_ok() {
                sleep(Duration::from_millis(50)).await;
            }
        });
    }
    let since = Instant::now();
    assert_eq!(gateway.readiness().await.0, 200);
    assert!(since.elapsed() < CONNECTION_TIMEOUT * 3 + SLACK, "probes wait for {:?}", since.elapsed());
    let all = async { while slow.join_next().await.is_some() {} };
    timeout(PATIENCE, all).await.expect("all of them are closed");
    gateway.stop().await;
}
