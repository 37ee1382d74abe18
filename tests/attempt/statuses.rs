//! Answers that come whole.

use std::time::Duration;

use tidings::domain::delivery::Outcome;

use crate::{
    attempt::sender::Sender,
    support::receiver::{OK, Receiver, Response},
};

#[tokio::test]
async fn a_2xx_status_is_a_success() {
    for status in ["200 OK", "201 Created", "202 Accepted", "299 Whatever"] {
        let receiver = Receiver::always(Response::bytes(format!(
            "HTTP/1.1 {status}\r\ncontent-length: 6\r\n\r\nthanks"
        )))
        .await;
        let attempt = Sender::new().post(&receiver.url("/")).await;
        assert_eq!(attempt.outcome, Outcome::Ok, "{status}");
        assert_eq!(attempt.http_status.to_string(), status[..3]);
        assert_eq!(attempt.response_body, "thanks");
        assert_eq!(attempt.url, receiver.url("/"));
        assert!(attempt.duration > Duration::ZERO);
    }
}

#[tokio::test]
async fn a_response_without_a_body_is_a_response() {
    for response in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"] {
        let receiver = Receiver::always(Response::bytes(response)).await;
        let attempt = Sender::new().post(&receiver.url("/")).await;
        assert_eq!((attempt.outcome, attempt.response_body.as_str()), (Outcome::Ok, ""), "{response}");
    }
}

#[tokio::test]
async fn another_status_is_a_failure_that_names_it() {
    for (status, error) in [
        ("400 Bad Request", "answered 400 Bad Request"),
        ("410 Gone", "answered 410 Gone"),
        ("500 Oops", "answered 500 Internal Server Error"),
        ("503 x", "answered 503 Service Unavailable"),
    ] {
        let receiver =
            Receiver::always(Response::bytes(format!("HTTP/1.1 {status}\r\ncontent-length: 3\r\n\r\nwhy")))
                .await;
        let attempt = Sender::new().post(&receiver.url("/")).await;
        assert_eq!(attempt.outcome, Outcome::HttpStatus);
        assert_eq!(attempt.http_status.to_string(), status[..3]);
        assert_eq!(attempt.error, error);
        assert_eq!(attempt.response_body, "why");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let mut target = Receiver::always(Response::bytes(OK)).await;
        let location = target.url("/other?token=secret");
        let receiver = Receiver::always(Response::bytes(format!(
            "HTTP/1.1 {status} x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"
        )))
        .await;
        let attempt = Sender::new().post(&receiver.url("/")).await;
        assert_eq!((attempt.outcome, attempt.http_status), (Outcome::HttpStatus, status));
        assert!(attempt.error.contains(&target.url("/other")), "{}", attempt.error);
        assert!(!attempt.error.contains("secret"), "{}", attempt.error);
        assert_eq!(target.take_all().len(), 0);
    }
}

#[tokio::test]
async fn retry_after_comes_in_seconds_and_as_a_date() {
    for (header, wait) in [
        ("Retry-After: 120", Some(Duration::from_secs(120))),
        // The clock is at the last microsecond of a second.
        ("retry-after: Tue, 14 Nov 2023 22:14:21 GMT", Some(Duration::from_micros(60_000_001))),
        ("retry-after: soon", None),
        ("x: y", None),
    ] {
        let response = format!("HTTP/1.1 503 Busy\r\n{header}\r\ncontent-length: 0\r\n\r\n");
        let receiver = Receiver::always(Response::bytes(response)).await;
        let attempt = Sender::new().post(&receiver.url("/")).await;
        assert_eq!(attempt.retry_after, wait, "{header}");
    }
}

#[tokio::test]
async fn interim_responses_are_ignored() {
    let receiver = Receiver::always(Response::bytes(format!(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n{OK}"
    )))
    .await;
    let attempt = Sender::new().post(&receiver.url("/")).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Ok, 200));
}

#[tokio::test]
async fn the_start_of_a_response_is_kept_as_valid_text() {
    let receiver =
        Receiver::always(Response::last(b"HTTP/1.1 500 x\r\ncontent-length: 6\r\n\r\na\0\xff\xc3\xa9\n"))
            .await;
    let attempt = Sender::new().post(&receiver.url("/")).await;
    assert_eq!(attempt.response_body, "a\u{fffd}\u{fffd}é\n");
}
