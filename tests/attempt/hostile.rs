//! Receivers that mean harm: responses that are wrong in every part, that have no end, that lie, and that
//! stop at every byte. Each attempt ends in its time, with the outcome in the tables here, and the next one
//! to somebody else is not affected.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use tidings::domain::delivery::{Attempt, Outcome};

use crate::{
    attempt::sender::{Sender, impatient},
    support::{
        profile::in_full_or_short,
        receiver::{OK, Receiver, Response},
    },
};

/// The time of an attempt that is to run out of it.
const SHORT: Duration = Duration::from_millis(400);
/// The time of all others, on a machine that has much else to do.
const LONG: Duration = Duration::from_secs(8);

/// The expected outcome and status of an attempt.
type Expected = (Outcome, u16);

/// No part of a response was usable.
const BROKEN: Expected = (Outcome::Io, 0);
/// The head was good: it decides, whatever comes after it.
const TAKEN: Expected = (Outcome::Ok, 200);
const LATE_HEAD: Expected = (Outcome::Timeout, 0);

type Try = (&'static str, Response, Expected);

/// Sends this, and waits.
fn sends(what: &'static str, bytes: impl AsRef<[u8]>, expected: Expected) -> Try {
    (what, Response::bytes(bytes), expected)
}

/// Sends this, and closes.
fn ends(what: &'static str, bytes: impl AsRef<[u8]>, expected: Expected) -> Try {
    (what, Response::last(bytes), expected)
}

/// Sends the first, and then the second for ever.
fn floods(what: &'static str, first: &str, then: impl AsRef<[u8]>, expected: Expected) -> Try {
    (what, Response::repeat(first, then), expected)
}

/// The same, a byte at a time.
fn drips(what: &'static str, first: &str, then: &str, expected: Expected) -> Try {
    (what, Response::Repeat(first.into(), then.into(), 1, Duration::from_millis(2)), expected)
}

/// A response of status 200 with these headers, and the bytes after them.
fn with(headers: &str, rest: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{headers}\r\n\r\n{rest}")
}

fn chunked(rest: &str) -> String {
    with("transfer-encoding: chunked", rest)
}

async fn attempt(response: Response, time: Duration) -> Attempt {
    let receiver = Receiver::always(response).await;
    Sender::new().post_to(impatient(&receiver.url("/"), time)).await
}

/// Makes all of these tries, and reports every one that did not end as it should.
async fn try_all(tries: Vec<Try>) {
    let count = tries.len();
    let mut wrong = Vec::new();
    for (what, response, expected) in tries {
        let time = if expected.0 == Outcome::Timeout { SHORT } else { LONG };
        let attempt = attempt(response, time).await;
        if (attempt.outcome, attempt.http_status) != expected {
            wrong.push(format!("{what}: expected {expected:?}, got {attempt:?}"));
        }
        if attempt.duration > time * 8 || attempt.response_body.len() > 4096 {
            wrong.push(format!("{what}: took {:?}, kept {}", attempt.duration, attempt.response_body.len()));
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} tries");
}

#[tokio::test]
async fn bytes_that_are_no_http_are_no_response() {
    let binary: Vec<u8> = (0..=255).cycle().take(4096).collect();
    try_all(vec![
        sends("bytes of all values", binary, BROKEN),
        sends("zeros", vec![0; 4096], BROKEN),
        sends("spaces", vec![b' '; 64], BROKEN),
        sends("a greeting of SMTP", "220 mail.example.com ESMTP\r\n", BROKEN),
        sends("a greeting of SSH", "SSH-2.0-OpenSSH_9.2\r\n", BROKEN),
        sends("a greeting of FTP", "220 ready\r\n\r\n", BROKEN),
        sends("an alert of TLS", b"\x15\x03\x01\x00\x02\x02\x28", BROKEN),
        sends("frames of HTTP/2", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", BROKEN),
        sends("a request", "GET / HTTP/1.1\r\nhost: x\r\n\r\n", BROKEN),
        sends("HTML alone", "<html></html>\r\n\r\n", BROKEN),
        sends("HTTP/0.9", "HTTP/0.9 200 OK\r\n\r\n", BROKEN),
        sends("HTTP/2.0", "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n", BROKEN),
        sends("HTTP/9.9", "HTTP/9.9 200 OK\r\ncontent-length: 0\r\n\r\n", BROKEN),
        sends("ICY", "ICY 200 OK\r\ncontent-length: 0\r\n\r\n", BROKEN),
        sends("a status of two digits", "HTTP/1.1 20 OK\r\ncontent-length: 0\r\n\r\n", BROKEN),
        sends("a status of four digits", "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n", BROKEN),
        sends("a status below 100", "HTTP/1.1 099 x\r\ncontent-length: 0\r\n\r\n", BROKEN),
        sends("a negative status", "HTTP/1.1 -20 x\r\ncontent-length: 0\r\n\r\n", BROKEN),
        sends("an invalid status", "HTTP/1.1 OK 200\r\ncontent-length: 0\r\n\r\n", BROKEN),
        sends("a reason with a NUL", "HTTP/1.1 200 O\0K\r\ncontent-length: 0\r\n\r\n", BROKEN),
        sends("a header without a colon", with("nothing", ""), BROKEN),
        sends("a header without a name", with(": x", ""), BROKEN),
        sends("a name with a space", with("x y: z", ""), BROKEN),
        sends("a space before the colon", with("x : y\r\ncontent-length: 0", ""), BROKEN),
        sends("a value with a NUL", with("x: a\0b", ""), BROKEN),
        sends("a folded value", with("x: a\r\n b\r\ncontent-length: 0", ""), BROKEN),
        sends("a lone CR", with("x: a\rb", ""), BROKEN),
        ends("nothing at all", "", BROKEN),
        ends("an empty line", "\r\n", BROKEN),
    ])
    .await;
}

#[tokio::test]
async fn lengths_that_lie_are_no_responses_and_what_is_wrong_with_a_body_changes_nothing() {
    let huge = format!("{}\r\n", "f".repeat(17));
    try_all(vec![
        ends("less than was said", with("content-length: 9", "half"), TAKEN),
        ends("nothing of what was said", with("content-length: 9", ""), TAKEN),
        sends("less than was said, and silence", with("content-length: 9", "half"), TAKEN),
        // Bytes that were not announced are not read: the next response cannot be forged with them.
        sends("more than was said", with("content-length: 2", "okHTTP/1.1 500 x\r\n\r\n"), TAKEN),
        sends("all that a number can say", with("content-length: 18446744073709551615", "x"), BROKEN),
        sends("more than a number can say", with("content-length: 18446744073709551616", "x"), BROKEN),
        sends("a negative length", with("content-length: -1", "x"), BROKEN),
        sends("a length with a sign", with("content-length: +1", "x"), BROKEN),
        sends("a length in hexadecimal", with("content-length: 0x1", "x"), BROKEN),
        sends("a length with a unit", with("content-length: 1 byte", "x"), BROKEN),
        sends("an empty length", with("content-length: ", "x"), BROKEN),
        sends("two lengths", with("content-length: 1\r\ncontent-length: 2", "xy"), BROKEN),
        sends("a length twice", with("content-length: 2\r\ncontent-length: 2", "ok"), TAKEN),
        sends("two lengths in one", with("content-length: 1, 2", "xy"), BROKEN),
        // The chunks take precedence, says RFC 9112: a reader that goes by the length could be lied to.
        sends(
            "chunks with a length",
            with("content-length: 99\r\ntransfer-encoding: chunked", "2\r\nok\r\n0\r\n\r\n"),
            TAKEN,
        ),
        ends("a coding that nobody knows", with("transfer-encoding: zip", "x"), TAKEN),
        sends("an invalid size", chunked("x\r\n"), TAKEN),
        sends("a negative size", chunked("-1\r\nx\r\n"), TAKEN),
        sends("a size with a prefix", chunked("0x1\r\nx\r\n0\r\n\r\n"), TAKEN),
        sends("a size that no number holds", chunked(&huge), TAKEN),
        sends("the largest size", chunked("ffffffffffffffff\r\nx"), TAKEN),
        sends("a chunk that is longer than its size", chunked("1\r\nxx\r\n0\r\n\r\n"), TAKEN),
        sends("a chunk without its end", chunked("1\r\nx0\r\n\r\n"), TAKEN),
        sends("a size without a line feed", chunked("1\rx"), TAKEN),
        sends("an empty size", chunked("\r\nx\r\n"), TAKEN),
        ends("no last chunk", chunked("1\r\nx\r\n"), TAKEN),
        sends("no last chunk, and silence", chunked("1\r\nx\r\n"), TAKEN),
        ends("a last chunk without its end", chunked("0\r\n"), TAKEN),
        sends("trailers", chunked("0\r\nx: y\r\n\r\n"), TAKEN),
        sends("an invalid trailer", chunked("0\r\nnothing\r\n\r\n"), TAKEN),
        sends("a trailer that changes the length", chunked("0\r\ncontent-length: 99\r\n\r\n"), TAKEN),
    ])
    .await;
}

#[tokio::test]
async fn endless_responses_are_cut_off() {
    let long_line = "y".repeat(1000);
    try_all(vec![
        floods("a status line without an end", "HTTP/1.1 200 ", "x", BROKEN),
        floods("spaces before a status", "", " ", BROKEN),
        floods("empty lines before a status", "", "\r\n", BROKEN),
        floods("a header's name without an end", "HTTP/1.1 200 OK\r\n", "x", BROKEN),
        floods("a header's value without an end", "HTTP/1.1 200 OK\r\nx: ", "y", BROKEN),
        floods("headers without an end", "HTTP/1.1 200 OK\r\n", "x: y\r\n", BROKEN),
        floods("long headers without an end", "HTTP/1.1 200 OK\r\n", format!("x: {long_line}\r\n"), BROKEN),
        sends("101 headers", with(&vec!["x: y"; 101].join("\r\n"), ""), BROKEN),
        sends("10,000 headers", with(&vec!["x: y"; 10_000].join("\r\n"), ""), BROKEN),
        sends("a header of 20,000 bytes", with(&format!("x: {}", "y".repeat(20_000)), ""), BROKEN),
        sends("a header of 20 MB", with(&format!("x: {}", "y".repeat(20_000_000)), ""), BROKEN),
        floods("garbage without an end", "", "\0\u{1}", BROKEN),
        floods("100 Continue for ever", "", "HTTP/1.1 100 Continue\r\n\r\n", LATE_HEAD),
        floods("103 Early Hints for ever", "", "HTTP/1.1 103 x\r\nlink: </>\r\n\r\n", LATE_HEAD),
        floods(
            "long hints for ever",
            "",
            format!("HTTP/1.1 103 x\r\n{}\r\n", format!("l: {long_line}\r\n").repeat(10)),
            LATE_HEAD,
        ),
        drips("100 Continue for ever, slowly", "", "HTTP/1.1 100 Continue\r\n\r\n", LATE_HEAD),
        drips("a status line for ever, slowly", "HTTP/1.1 200 ", "x", LATE_HEAD),
        drips("headers for ever, slowly", "HTTP/1.1 200 OK\r\n", "x: y\r\n", LATE_HEAD),
        drips("a body for ever, slowly", "HTTP/1.1 200 OK\r\n\r\n", "x", TAKEN),
        drips("chunks for ever, slowly", &chunked(""), "1\r\nx\r\n", TAKEN),
        drips("the size of a chunk for ever, slowly", &chunked(""), "0", TAKEN),
        drips("an extension for ever, slowly", &chunked("1;"), "x", TAKEN),
        drips("trailers for ever, slowly", &chunked("0\r\n"), "x: y\r\n", TAKEN),
        floods("a body for ever", "HTTP/1.1 200 OK\r\n\r\n", "x", TAKEN),
        floods("all the body that was said", &with("content-length: 9000000000", ""), "x", TAKEN),
        floods("chunks for ever", &chunked(""), "4\r\nxxxx\r\n", TAKEN),
        floods("tiny chunks for ever", &chunked(""), "1\r\nx\r\n", TAKEN),
        floods("one chunk for ever", &chunked("fffffffffffffff\r\n"), "x", TAKEN),
        floods("the size of a chunk for ever", &chunked(""), "0", TAKEN),
        floods("a size that grows for ever", &chunked(""), "f", TAKEN),
        floods("an extension for ever", &chunked("1;"), "x", TAKEN),
        floods("extensions for ever", &chunked(""), "1;xxxxxxxxxxxxxxxx\r\nx\r\n", TAKEN),
        floods("a trailer for ever", &chunked("0\r\nx: "), "y", TAKEN),
        floods("trailers for ever", &chunked("0\r\n"), "x: y\r\n", TAKEN),
        sends("1,000 trailers", chunked(&format!("0\r\n{}\r\n", "x: y\r\n".repeat(1000))), TAKEN),
    ])
    .await;
}

/// Whole responses, of each kind.
fn responses() -> Vec<String> {
    vec![
        with("content-length: 5\r\nx-a: b", "hello"),
        chunked("5;x=y\r\nhello\r\n0\r\nx: y\r\n\r\n"),
        format!("HTTP/1.1 100 Continue\r\n\r\n{OK}"),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
    ]
}

#[tokio::test]
async fn a_response_that_stops_at_any_byte_of_its_head_is_none() {
    let mut tries = 0;
    for response in responses() {
        // Of the last response: one may come before it.
        let start = response.rfind("HTTP/1.1").unwrap();
        let head = start + response[start..].find("\r\n\r\n").unwrap() + 4;
        for length in (0..response.len()).step_by(in_full_or_short(1, 3)) {
            for is_reset in [false, true] {
                let part = response.as_bytes()[..length].to_vec();
                let receiver = Receiver::on_connections(move |mut connection| {
                    let part = part.clone();
                    async move {
                        connection.request().await;
                        connection.send(part).await;
                        if is_reset {
                            connection.reset();
                        }
                    }
                })
                .await;
                let attempt = Sender::new().post_to(impatient(&receiver.url("/"), LONG)).await;
                let expected = if length >= head { TAKEN } else { BROKEN };
                assert_eq!((attempt.outcome, attempt.http_status), expected, "{length} of {response:?}");
                tries += 1;
            }
        }
        let whole = attempt(Response::last(&response), LONG).await;
        assert_eq!(whole.outcome, Outcome::Ok, "{response:?}: {whole:?}");
    }
    println!("{tries} tries");
}

#[tokio::test]
async fn a_response_that_stops_at_any_byte_of_a_kept_connection_costs_no_other_delivery() {
    let response = with("content-length: 5\r\nx-a: b", "hello");
    for length in 0..response.len() {
        let part = response.as_bytes()[..length].to_vec();
        let mut receiver = Receiver::on_connections(move |mut connection| {
            let part = part.clone();
            async move {
                connection.request().await;
                connection.send(OK).await;
                if connection.number == 0 && connection.request().await.is_some() {
                    connection.send(part).await;
                }
            }
        })
        .await;
        let sender = Sender::new();
        assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
        let cut = sender.post(&receiver.url("/")).await;
        // Before the first byte of the response, the receiver may have closed it in the same moment: that is
        // tried again, once.
        let has_part = 0 < length && length < response.find("hello").unwrap();
        let expected = if has_part { BROKEN } else { TAKEN };
        assert_eq!((cut.outcome, cut.http_status), expected, "{length}: {cut:?}");
        assert_eq!(cut.resent, u32::from(length == 0), "{length}: {cut:?}");
        assert_eq!(receiver.take_all().len(), if length == 0 { 3 } else { 2 }, "{length}: {cut:?}");
        assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok, "{length}");
    }
    println!("{} tries", response.len());
}

#[tokio::test]
async fn a_response_before_the_request_was_read_is_a_response_or_an_error_but_nothing_else() {
    let mut outcomes = std::collections::BTreeMap::new();
    for response in [OK, "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "garbage\r\n\r\n"] {
        for ends in [false, true] {
            for _ in 0..10 {
                let receiver = Receiver::on_connections(move |mut connection| async move {
                    connection.send(response).await;
                    if !ends {
                        connection.wait_for_end().await;
                    }
                })
                .await;
                let attempt = Sender::new().post_to(impatient(&receiver.url("/"), LONG)).await;
                // Whether it was there before the request began is a matter of luck.
                let expected = match response {
                    OK => [Outcome::Ok, Outcome::Io],
                    _ => [Outcome::HttpStatus, Outcome::Io],
                };
                assert!(expected.contains(&attempt.outcome), "{response:?}: {attempt:?}");
                *outcomes.entry(format!("{:?}", attempt.outcome)).or_insert(0) += 1;
            }
        }
    }
    println!("60 tries: {outcomes:?}");
}

/// 100 MB of zeros, compressed three times with gzip.
const BOMB: &str = "H4sIAAAAAAACA5Pv5mAAASbmt3e0/VgCBdouznP3YD/o3OPk0JTIKTHpYIIBxwYBsQNSL1oWGEgIlTUmMVqo5B04y8TBZMiVsaxa8ru9e2zsuzCt+99iY0vbFp+ffjDhZ8a7//P2vbrKBTRYI+ZzofGraYxX/aytrSyZgSJe5Tv3mb2bzmQvHt1+jBEocHS37Y37L/RZ9q1ffwwiMFvn2eU68Q+37PLnzWIHCoi8jzUAuXIRBxuQdBA7COKcUJIAUYksIEMVuhNAnBRBHiDZoNMEMkbADaxpE+WaPm2YYX438cCXtXP/XpsM9NUCh+eHj9/d+/jp9fSn8m09SzhN+xgZAHJnSctLAQAA";

#[tokio::test]
async fn compressed_responses_stay_compressed() {
    let bomb = STANDARD.decode(BOMB).unwrap();
    for coding in ["gzip", "gzip, gzip, gzip", "deflate", "br", "zstd"] {
        let head = with(&format!("content-encoding: {coding}\r\ncontent-length: {}", bomb.len()), "");
        let response = Response::bytes([head.as_bytes(), &bomb].concat());
        let mut receiver = Receiver::always(response).await;
        let attempt = Sender::new().post_to(impatient(&receiver.url("/"), LONG)).await;
        assert_eq!((attempt.outcome, attempt.http_status), TAKEN, "{attempt:?}");
        assert!(attempt.response_body.starts_with('\u{1f}'), "as it came: {:?}", attempt.response_body);
        assert!(attempt.response_body.len() <= bomb.len() * 3);
        let request = receiver.next().await;
        assert!(!request.head.to_lowercase().contains("accept-encoding"), "nobody asked for it");
    }
    println!("5 tries");
}
