//! StreamPublishEvents.

use futures_util::stream;
use tidings::proto::v1::{self, stream_publish_events_response::Outcome};
use tonic::{Code, Streaming};

use crate::support::in_process::*;

fn numbered(sequence: i64, request: v1::PublishEventRequest) -> v1::StreamPublishEventsRequest {
    v1::StreamPublishEventsRequest { sequence, request: Some(request) }
}

async fn next(responses: &mut Streaming<v1::StreamPublishEventsResponse>) -> v1::StreamPublishEventsResponse {
    in_time(responses.message()).await.expect("the stream continues").expect("there is a response")
}

#[tokio::test]
async fn a_stream_is_acknowledged_in_order_and_a_bad_event_fails_no_other() {
    let server = TidingsInProcess::start().await;
    server.publish("taken").await;
    let messages = vec![
        numbered(10, publish("a")),
        numbered(20, v1::PublishEventRequest { event: None, ..publish("b") }),
        numbered(30, publish_message("taken", 8)),
        v1::StreamPublishEventsRequest { sequence: 40, request: None },
        numbered(50, publish("a")),
        numbered(60, v1::PublishEventRequest { validate_only: true, ..publish("c") }),
        numbered(70, publish("d")),
    ];
    let mut client = server.client.events.clone();
    let mut responses = client.stream_publish_events(stream::iter(messages)).await.unwrap().into_inner();
    let mut outcomes = Vec::new();
    while let Some(response) = in_time(responses.message()).await.unwrap() {
        outcomes.push(match response.outcome.unwrap() {
            Outcome::Result(result) => (response.sequence, result.event, String::new()),
            Outcome::Error(error) => {
                assert!(!error.message.is_empty());
                let fields: Vec<_> =
                    error.field_violations.into_iter().map(|violation| violation.field).collect();
                (
                    response.sequence,
                    format!("{:?} {}", Code::from(error.code), error.reason),
                    fields.join(" "),
                )
            }
        });
    }
    let expected = [
        (10, "accounts/1/events/a", ""),
        (20, "InvalidArgument FIELD_REQUIRED", "event"),
        (30, "AlreadyExists EVENT_EXISTS", "event_id"),
        (40, "InvalidArgument FIELD_REQUIRED", "request"),
        (50, "accounts/1/events/a", ""),
        (60, "accounts/1/events/c", ""),
        (70, "accounts/1/events/d", ""),
    ];
    assert_eq!(
        outcomes,
        expected.map(|(sequence, what, fields)| (sequence, what.to_owned(), fields.to_owned()))
    );
    server.stop().await;
}

#[tokio::test]
async fn events_of_a_stream_are_stored_in_their_order() {
    let server = TidingsInProcess::start().await;
    let messages = (0..500).map(|n| numbered(n, publish(&format!("e{n}"))));
    let mut client = server.client.events.clone();
    let mut responses = client.stream_publish_events(stream::iter(messages)).await.unwrap().into_inner();
    for expected in 0..500 {
        assert_eq!(next(&mut responses).await.sequence, expected);
    }
    let seq = |n: i64| server.store.event(account(), &format!("e{n}").parse().unwrap()).unwrap().unwrap().seq;
    assert!((1..500).all(|n| seq(n - 1) < seq(n)));
    server.stop().await;
}

#[tokio::test]
async fn every_event_is_acknowledged_without_waiting_for_the_next() {
    let server = TidingsInProcess::start().await;
    let (sender, mut responses) = server.client.publish_stream().await;
    for sequence in 0..3 {
        sender.send(numbered(sequence, publish(""))).unwrap();
        assert_eq!(next(&mut responses).await.sequence, sequence);
    }
    drop(sender);
    assert!(in_time(responses.message()).await.unwrap().is_none(), "the stream ends with its messages");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_unavailable_when_the_server_stops() {
    let server = TidingsInProcess::start().await;
    let (sender, mut responses) = server.client.publish_stream().await;
    sender.send(numbered(1, publish("a"))).unwrap();
    next(&mut responses).await;
    server.shutdown.cancel();
    let status = in_time(responses.message()).await.unwrap_err();
    assert_refused(&status, Code::Unavailable, "SHUTTING_DOWN", &[]);
    assert!(details(&status).retry_info().is_some());
    drop(sender);
    server.stop().await;
}
