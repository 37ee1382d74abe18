//! Receivers that take their time.

use std::time::Duration;

use tidings::{delivery::http::client::WebhookClientSettings, domain::delivery::Outcome};
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    attempt::sender::{Sender, impatient},
    support::receiver::{OK, Receiver, Response},
};

/// Short enough to wait for, long enough for everything that is expected before.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_receiver_that_never_responds_is_given_up_in_time() {
    let receiver = Receiver::always(Response::nothing()).await;
    let attempt = Sender::new().post_to(impatient(&receiver.url("/"), SHORT)).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Timeout, 0));
    assert_eq!(attempt.error, "no complete response within 300ms, the timeout of the subscription");
    assert!((SHORT..SHORT * 10).contains(&attempt.duration), "{:?}", attempt.duration);
}

#[tokio::test]
async fn the_default_applies_without_a_timeout_of_the_subscription() {
    let receiver = Receiver::always(Response::nothing()).await;
    let attempt = Sender::with(|settings| settings.delivery_timeout = SHORT).post(&receiver.url("/")).await;
    assert_eq!(attempt.outcome, Outcome::Timeout);
}

#[tokio::test]
async fn the_status_decides_if_the_body_stops_half_way() {
    for (status, outcome, error) in
        [(200, Outcome::Ok, ""), (500, Outcome::HttpStatus, "answered 500 Internal Server Error")]
    {
        let half = format!("HTTP/1.1 {status} -\r\ncontent-length: 10\r\n\r\nhalf");
        for response in [Response::bytes(&half), Response::last(&half)] {
            let receiver = Receiver::always(response).await;
            let attempt = Sender::new().post_to(impatient(&receiver.url("/"), SHORT)).await;
            assert_eq!((attempt.outcome, attempt.http_status), (outcome, status), "{attempt:?}");
            assert_eq!((&*attempt.response_body, &*attempt.error), ("half", error));
        }
    }
}

#[tokio::test]
async fn the_status_decides_if_the_body_drips_without_end() {
    let receiver = Receiver::always(Response::trickled_body(Duration::from_millis(5))).await;
    let attempt = Sender::new().post_to(impatient(&receiver.url("/"), SHORT)).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Ok, 200));
    assert!(attempt.response_body.starts_with(".."), "{:?}", attempt.response_body);
}

#[tokio::test]
async fn a_body_is_waited_for_no_longer_than_its_bound() {
    let receiver = Receiver::always(Response::stalled_body()).await;
    let sender = Sender::with(|settings| settings.response_body_wait = SHORT);
    let attempt = sender.post(&receiver.url("/")).await;
    assert_eq!((attempt.outcome, &*attempt.response_body), (Outcome::Ok, "half"));
    let times = SHORT..WebhookClientSettings::default().delivery_timeout;
    assert!(times.contains(&attempt.duration), "{:?}", attempt.duration);
}

#[tokio::test]
async fn headers_that_drip_without_end_are_given_up() {
    let headers = Response::Repeat("HTTP/1.1 200 OK\r\n".into(), "x".into(), 1, Duration::from_millis(5));
    let receiver = Receiver::always(headers).await;
    let attempt = Sender::new().post_to(impatient(&receiver.url("/"), SHORT)).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Timeout, 0));
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_is_given_up_in_the_time_for_connecting() {
    let receiver = Receiver::on_connections(async |mut connection| connection.wait_for_end().await).await;
    let sender = Sender::with(|settings| settings.connect_timeout = SHORT);
    let attempt = sender.post(&receiver.url("/").replace("http:", "https:")).await;
    assert_eq!(attempt.outcome, Outcome::Timeout);
    assert_eq!(attempt.error, "no connection within 300ms");
}

#[tokio::test]
async fn an_address_that_does_not_take_connections_is_given_up_in_the_time_for_connecting() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Nobody accepts: once the queue is full, the system drops all others.
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(SHORT, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    let sender = Sender::with(|settings| settings.connect_timeout = SHORT);
    let attempt = sender.post(&format!("http://{address}/")).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Timeout, 0));
    assert_eq!(attempt.error, "no connection within 300ms");
}

#[tokio::test]
async fn a_post_that_ran_out_of_time_leaves_no_connection_behind() {
    let mut receiver = Receiver::on_connections(|mut connection| async move {
        connection.request().await;
        if connection.number > 0 {
            connection.send(OK).await;
        }
        connection.wait_for_end().await;
    })
    .await;
    let sender = Sender::new();
    let late = sender.post_to(impatient(&receiver.url("/"), SHORT)).await;
    assert_eq!(late.outcome, Outcome::Timeout);
    assert_eq!(sender.post(&receiver.url("/")).await.outcome, Outcome::Ok);
    let connections: Vec<usize> = receiver.take_all().iter().map(|request| request.connection).collect();
    assert_eq!(connections, [0, 1]);
}
