use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tidings::domain::{secret::Secret, signature};
use uuid::Uuid;

use crate::harness::{PATIENCE, Reads, Running, http, tidings};

const SECRET: &str = "a-secret-for-the-test";

/// A receiver on a port of its own.
fn start(arguments: &[&str]) -> (Running, SocketAddr) {
    let mut command = tidings(&["receive", "--listen", "127.0.0.1:0"]);
    command.args(arguments);
    let mut running = Running::start(command, &Reads::Stdout);
    let address = running.wait_for(|line| line.strip_prefix("listening on http://").map(str::to_owned));
    (running, address.parse().expect("it is an address"))
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[test]
fn what_arrives_is_printed_and_every_third_request_fails() {
    let (mut running, address) = start(&["--status", "503", "--every", "3"]);
    let statuses: Vec<_> = (0..6)
        .map(|_| {
            let answer = http(address, "POST", "/hook", "x-one: 1\r\n", r#"{"b":1,"a":[]}"#);
            status(&answer).to_owned()
        })
        .collect();
    assert_eq!(statuses, ["200", "200", "503", "200", "200", "503"]);

    for line in ["#3 POST /hook HTTP/1.1, status 503", "x-one: 1", "  \"b\": 1,", "  \"a\": []"] {
        running.wait_for(|printed| (printed == line).then_some(()));
    }
    running.signal("TERM");
    assert_eq!(running.wait().0, Some(0));
}

#[test]
fn the_verdict_on_each_signature_is_printed() {
    let (mut running, address) = start(&["--secret", SECRET]);
    let (secret, id, timestamp, body) = (Secret::new(SECRET), Uuid::from_u128(7), 1_700_000_000, "{}");
    let standard = signature::standard(&[secret.into()], id, timestamp, body.as_bytes());
    let headers = format!(
        "webhook-id: {id}\r\nwebhook-timestamp: {timestamp}\r\nwebhook-signature: {standard}\r\n\
         x-chatwoot-timestamp: {timestamp}\r\nx-chatwoot-signature: sha256=00\r\n"
    );
    assert_eq!(status(&http(address, "POST", "/", &headers, body)), "200");
    running.wait_for(|line| (line == format!("webhook-signature: {standard} (valid)")).then_some(()));
    running.wait_for(|line| (line == "x-chatwoot-signature: sha256=00 (INVALID)").then_some(()));
}

#[test]
fn an_answer_waits_for_the_delay() {
    let (_running, address) = start(&["--delay", "300ms"]);
    let begin = Instant::now();
    assert_eq!(status(&http(address, "POST", "/", "", "")), "200");
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_body_past_the_bound_is_refused() {
    let (_running, address) = start(&[]);
    let mut stream = TcpStream::connect(address).expect("the receiver listens");
    let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 8 * 1024 * 1024 + 1);
    std::io::Write::write_all(&mut stream, head.as_bytes()).expect("the receiver reads");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    let mut start = [0; 12];
    std::io::Read::read_exact(&mut stream, &mut start)
        .expect("the receiver answers before it has read everything");
    assert_eq!(&start, b"HTTP/1.1 413");
}

#[tokio::test]
async fn http2_is_spoken_with_whoever_knows_beforehand() {
    let (mut running, address) = start(&["--status", "201"]);
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http::<Full<Bytes>>();
    let request =
        Request::post(format!("http://{address}/two")).body(Full::from("not JSON")).expect("it is sound");
    let response = tokio::time::timeout(PATIENCE, client.request(request))
        .await
        .expect("it answers")
        .expect("it answers");
    assert_eq!((response.version(), response.status().as_u16()), (Version::HTTP_2, 201));
    assert!(response.into_body().collect().await.expect("there is an end").to_bytes().is_empty());
    running.wait_for(|line| (line == "not JSON").then_some(()));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (mut running, address) = start(&["--delay", "1h"]);
    let waiting = thread::spawn(move || {
        // Ends when the receiver does.
        TcpStream::connect(address).map(|mut stream| {
            std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")?;
            std::io::Read::read(&mut stream, &mut [0; 1])
        })
    });
    running.wait_for(|line| line.starts_with("#1 GET").then_some(()));
    let begin = Instant::now();
    running.signal("INT");
    // It has heard the first signal when it no longer listens; two at once could come in as one.
    while TcpStream::connect(address).is_ok() {
        assert!(begin.elapsed() < PATIENCE, "it still listens");
        thread::yield_now();
    }
    running.signal("INT");
    assert_eq!(running.wait().0, Some(130));
    drop(waiting.join());
}
