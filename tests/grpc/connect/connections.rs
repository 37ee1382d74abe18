//! Connections over HTTP/1.1: they are bounded, watched and drained as those over HTTP/2 are.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::*;
use crate::support::{eventually, exchange, read_to_close};

/// A request with these header lines.
fn request(path: &str, headers: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\n{headers}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn list() -> String {
    request(
        "/tidings.v1.EventService/ListEvents",
        "host: localhost\r\n",
        &json!({"parent": PARENT, "pageSize": 500}).to_string(),
    )
}

/// What comes until the connection is closed, as text.
async fn answer(server: &TidingsInProcess, bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8(exchange(server.address, bytes.as_ref()).await.unwrap()).unwrap()
}

fn closed(server: &TidingsInProcess, reason: &str) -> bool {
    server
        .metrics
        .text()
        .contains(&format!("tidings_grpc_connections_closed_total{{reason=\"{reason}\"}} 1\n"))
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let server = TidingsInProcess::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let last = list().replacen("host", "connection: close\r\nhost", 1);
    stream.write_all([list(), list(), last].concat().as_bytes()).await.unwrap();
    let answers = String::from_utf8(read_to_close(&mut stream).await).unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answers}");
    server.stop().await;
}

#[tokio::test]
async fn a_request_needs_one_host_and_without_tokens_one_that_no_page_can_choose() {
    let server = TidingsInProcess::start().await;
    let local = server.address.to_string();
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:50051", 200),
        ("192.0.2.7:50051", 200),
        (local.as_str(), 200),
        ("evil.example", 421),
        ("evil.example:50051", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost:", 421),
        ("", 421),
    ] {
        let text = answer(
            &server,
            list().replacen("host: localhost", &format!("connection: close\r\nhost: {host}"), 1),
        )
        .await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {text}");
        assert!(status == 200 || text.contains("create an access token"), "{text}");
    }
    let close = "connection: close\r\n";
    for headers in ["", "host: localhost\r\nhost: localhost\r\n"] {
        let text = answer(&server, request(PUBLISH, &format!("{close}{headers}"), "{}")).await;
        assert!(text.starts_with("HTTP/1.1 400 "), "{headers}: {text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn headers_are_bounded_and_lengths_do_not_lie() {
    let server = TidingsInProcess::start().await;
    let many = |count: usize| format!("host: localhost\r\nconnection: close\r\n{}", "x: y\r\n".repeat(count));
    for (what, bytes, status) in [
        ("more headers than a call may have", request(PUBLISH, &many(64), "{}"), "431"),
        ("more than are read", request(PUBLISH, &many(1000), "{}"), "431"),
        (
            "a long one",
            request(PUBLISH, &format!("host: localhost\r\nx: {}\r\n", "y".repeat(20_000)), "{}"),
            "431",
        ),
        ("two lengths", request(PUBLISH, "host: localhost\r\ncontent-length: 1\r\n", "{}"), "400"),
        (
            "no length",
            request(PUBLISH, "host: localhost\r\n", "{}").replace("length: 2", "length: -2"),
            "400",
        ),
        (
            "both framings",
            request(PUBLISH, "host: localhost\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
            "4",
        ),
        (
            "no chunk",
            format!(
                "POST {PUBLISH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n"
            ),
            "400",
        ),
        ("no line", "POST\r\n\r\n".to_owned(), "400"),
        ("HTTP/3", format!("POST {PUBLISH} HTTP/3\r\n\r\n"), "400"),
    ] {
        let text = answer(&server, bytes).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {text:.200}");
    }
    assert!(server.client.stored_events(1).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_does_not_come_ends_its_call_in_time() {
    let mut setup = Setup::default();
    setup.grpc.connections.message_timeout = Duration::from_millis(200);
    let server = TidingsInProcess::start_with(setup).await;
    let whole = request(PUBLISH, "host: localhost\r\n", &publish_json("a").to_string());
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&whole.as_bytes()[..whole.len() - 5]).await.unwrap();
    let text = String::from_utf8(read_to_close(&mut stream).await).unwrap();
    assert!(text.starts_with("HTTP/1.1 504 ") && text.contains("the message was not there"), "{text}");
    assert!(server.client.stored_events(1).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_is_refused_before_its_message_has_come_may_send_it_and_read_why() {
    let server = TidingsInProcess::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let whole = request(PUBLISH, "host: evil.example\r\n", &"x".repeat(100_000)) + &list();
    let (head, rest) = whole.as_bytes().split_at(200);
    stream.write_all(head).await.unwrap();
    // The response is there when its request is whole, and the connection goes on.
    stream.write_all(rest).await.unwrap();
    let mut text = String::new();
    while !text.contains("HTTP/1.1 200") {
        let mut some = [0; 1000];
        let length = in_time(stream.read(&mut some)).await.unwrap();
        assert!(length > 0, "{text}");
        text += str::from_utf8(&some[..length]).unwrap();
    }
    assert!(text.starts_with("HTTP/1.1 421 "), "{text}");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn headers_that_do_not_come_and_connections_that_are_idle_are_closed() {
    for bytes in [list()[..30].to_owned(), list(), list() + &list()[..20]] {
        let mut setup = Setup::default();
        setup.grpc.connections.response_timeout = Duration::from_millis(300);
        let server = TidingsInProcess::start_with(setup).await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        read_to_close(&mut stream).await;
        eventually("closed", async || closed(&server, "idle"), |closed| *closed).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_connection() {
    let mut setup = Setup::default();
    setup.grpc.connections.response_timeout = Duration::from_millis(500);
    let server = TidingsInProcess::start_with(setup).await;
    for number in 1..=30 {
        let event = crate::support::events::long_message(1, 3, number, 100_000);
        server.client.publish(1, event).await;
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    // Some pages of a megabyte, of which the system's buffers take a few.
    stream.write_all(list().repeat(30).as_bytes()).await.unwrap();
    eventually("closed", async || closed(&server, "stalled"), |closed| *closed).await;
    let mut some = [0; 100];
    assert!(stream.read(&mut some).await.unwrap() > 0, "it was being served");
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn the_drain_completes_calls_and_closes_idle_connections() {
    let store = BlockingStore::new();
    let server = TidingsInProcess::start_with(Setup::on(&store)).await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(list().as_bytes()).await.unwrap();
    idle.read_u8().await.unwrap();
    let client = HttpClient::http1(server.address);
    let waiting =
        tokio::spawn(async move { client.call("EventService/PublishEvent", &publish_json("a")).await });
    store.has_accepts(1).await;
    server.shutdown.cancel();
    read_to_close(&mut idle).await;
    store.release();
    let reply = waiting.await.unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    server.stop().await;
}
