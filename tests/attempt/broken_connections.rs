//! Receivers that break off, and receivers that are not there.

use tidings::domain::delivery::Outcome;

use crate::{
    attempt::sender::Sender,
    support::{
        closed_address,
        receiver::{OK, Receiver, Response},
    },
};

#[tokio::test]
async fn a_connection_closed_before_the_response_fails_without_a_second_try() {
    let mut receiver = Receiver::always(Response::close()).await;
    let attempt = Sender::new().post(&receiver.url("/")).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Io, 0));
    assert_eq!(attempt.error, "the connection was closed before the response was complete");
    assert_eq!(receiver.take_all().len(), 1);
}

#[tokio::test]
async fn a_connection_reset_before_the_response_fails() {
    let receiver = Receiver::on_connections(|mut connection| async move {
        connection.request().await;
        connection.reset();
    })
    .await;
    let attempt = Sender::new().post(&receiver.url("/")).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Io, 0));
    assert_eq!(attempt.error, "the connection broke: connection reset");
}

#[tokio::test]
async fn a_connection_closed_in_the_middle_of_a_head_fails_and_in_the_middle_of_a_body_does_not() {
    for (response, expected, body) in [
        ("HTTP/1.1 200 OK\r\ncontent-le", (Outcome::Io, 0), ""),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", (Outcome::Ok, 200), "half"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", (Outcome::Ok, 200), "half"),
    ] {
        let receiver = Receiver::always(Response::last(response)).await;
        let attempt = Sender::new().post(&receiver.url("/")).await;
        assert_eq!((attempt.outcome, attempt.http_status), expected, "{response:?}");
        assert_eq!(attempt.response_body, body);
    }
}

#[tokio::test]
async fn a_response_that_ends_with_the_connection_is_whole() {
    let receiver = Receiver::always(Response::last("HTTP/1.1 200 OK\r\n\r\nuntil the end")).await;
    let attempt = Sender::new().post(&receiver.url("/")).await;
    assert_eq!((attempt.outcome, attempt.response_body.as_str()), (Outcome::Ok, "until the end"));
}

#[tokio::test]
async fn a_response_that_is_not_http_fails() {
    for response in [
        "garbage\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 2000 x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ] {
        let receiver = Receiver::always(Response::bytes(response)).await;
        let attempt = Sender::new().post(&receiver.url("/")).await;
        assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Io, 0), "{response:?}");
        assert!(attempt.error.starts_with("the response is not http: "), "{}", attempt.error);
    }
}

#[tokio::test]
async fn a_response_with_too_many_or_too_long_headers_fails() {
    let long = format!("x: {}\r\n", "y".repeat(20_000));
    for headers in [long, "x: y\r\n".repeat(200)] {
        let response = Response::bytes(format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n"));
        let receiver = Receiver::always(response).await;
        let attempt = Sender::new().post(&receiver.url("/")).await;
        assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Io, 0));
        assert_eq!(attempt.error, "the response has more than 100 headers, or more than 16384 bytes of them");
    }
}

#[tokio::test]
async fn nobody_listening_is_no_connection() {
    let address = closed_address();
    let attempt = Sender::new().post(&format!("http://{address}/hook?token=secret")).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Connect, 0));
    assert_eq!(attempt.error, format!("could not connect to {address}: connection refused"));
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_no_connection() {
    let attempt = Sender::new().post("http://nobody.invalid/").await;
    assert_eq!(attempt.outcome, Outcome::Connect);
    assert!(attempt.error.starts_with("nobody.invalid did not resolve: "), "{}", attempt.error);
}

/// A receiver whose first connection sends one response, then `rest` to another request, and closes. Later
/// connections send a response if `responds`, and close otherwise.
async fn closing_when_used_again(rest: &'static str, responds: bool) -> Receiver {
    Receiver::on_connections(move |mut connection| async move {
        connection.request().await;
        if connection.number == 0 {
            connection.send(OK).await;
            if connection.request().await.is_some() {
                connection.send(rest).await;
            }
        } else if responds {
            connection.send(OK).await;
            connection.wait_for_end().await;
        }
    })
    .await
}

/// The outcome of two attempts, how often each was sent again, and the connections that the POSTs came over.
async fn two_posts(receiver: &mut Receiver) -> ([(Outcome, u32); 2], Vec<usize>) {
    let (sender, url) = (Sender::new(), receiver.url("/"));
    let attempts = [sender.post(&url).await, sender.post(&url).await];
    let connections = receiver.take_all().iter().map(|request| request.connection).collect();
    (attempts.map(|attempt| (attempt.outcome, attempt.resent)), connections)
}

#[tokio::test]
async fn a_kept_connection_that_ends_without_a_byte_of_a_response_costs_no_attempt_which_says_so() {
    let mut receiver = closing_when_used_again("", true).await;
    let (attempts, connections) = two_posts(&mut receiver).await;
    assert_eq!(attempts, [(Outcome::Ok, 0), (Outcome::Ok, 1)]);
    assert_eq!(connections, [0, 0, 1]);
}

#[tokio::test]
async fn it_is_sent_again_once() {
    let mut receiver = closing_when_used_again("", false).await;
    let (attempts, connections) = two_posts(&mut receiver).await;
    assert_eq!(attempts, [(Outcome::Ok, 0), (Outcome::Io, 1)]);
    assert_eq!(connections, [0, 0, 1]);
}

#[tokio::test]
async fn a_kept_connection_that_ends_after_a_byte_of_a_response_costs_the_attempt() {
    for rest in ["H", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-le"] {
        let mut receiver = closing_when_used_again(rest, true).await;
        let (attempts, connections) = two_posts(&mut receiver).await;
        assert_eq!(attempts, [(Outcome::Ok, 0), (Outcome::Io, 0)], "{rest:?}");
        assert_eq!(connections, [0, 0], "{rest:?}");
    }
}

#[tokio::test]
async fn a_test_is_never_sent_twice() {
    let mut receiver = closing_when_used_again("", false).await;
    let (sender, url) = (Sender::new(), receiver.url("/"));
    assert_eq!(sender.post(&url).await.outcome, Outcome::Ok);
    let attempt = sender.test(&url).await;
    assert_eq!((attempt.outcome, attempt.resent), (Outcome::Io, 0));
    assert_eq!(attempt.error, "the connection was closed before the response was complete");
    let connections: Vec<usize> = receiver.take_all().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 1]);
}
