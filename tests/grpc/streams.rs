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
async fn a_message_that_cannot_be_read_fails_alone_with_its_index() {
    let server = TidingsInProcess::start().await;
    let (sender, mut responses) = server.client.publish_stream().await;
    let many = v1::Conversation { labels: vec![String::new(); 100_001], ..Default::default() };
    let created = v1::ConversationCreated { conversation: Some(many) };
    let payload = Some(v1::event::Payload::ConversationCreated(created));
    let event = Some(Box::new(v1::Event { payload, ..Default::default() }));
    for (sequence, request) in [
        (10, publish("a")),
        (20, nested_request(100)),
        (30, v1::PublishEventRequest { event, ..publish("b") }),
        (40, publish("c")),
    ] {
        sender.send(numbered(sequence, request)).unwrap();
    }
    let mut seen = Vec::new();
    for _ in 0..4 {
        let response = next(&mut responses).await;
        seen.push((
            response.sequence,
            match response.outcome.unwrap() {
                Outcome::Result(result) => result.event,
                Outcome::Error(error) => {
                    assert!(error.message.len() <= 200, "{error:?}");
                    format!("{:?} {} {}", Code::from(error.code), error.reason, error.message_index())
                }
            },
        ));
    }
    let expected = [
        (10, "accounts/1/events/a"),
        (20, "InvalidArgument FIELD_INVALID 1"),
        (30, "InvalidArgument MESSAGE_TOO_LARGE 2"),
        (40, "accounts/1/events/c"),
    ];
    assert_eq!(seen, expected.map(|(sequence, what)| (sequence, what.to_owned())));
    drop(sender);
    assert!(in_time(responses.message()).await.unwrap().is_none(), "the stream ends with its messages");
    server.stop().await;
}

#[tokio::test]
async fn a_message_past_the_bound_in_bytes_ends_the_stream_with_its_index() {
    let mut setup = Setup::default();
    setup.grpc.message_bytes_max = 4096;
    let server = TidingsInProcess::start_with(setup).await;
    let (sender, mut responses) = server.client.publish_stream().await;
    sender.send(numbered(1, publish("a"))).unwrap();
    sender.send(numbered(2, publish(&"x".repeat(5000)))).unwrap();
    sender.send(numbered(3, publish("b"))).unwrap();
    assert!(matches!(next(&mut responses).await.outcome, Some(Outcome::Result(_))));
    let status = in_time(responses.message()).await.unwrap_err();
    assert_refused(&status, Code::InvalidArgument, "MESSAGE_TOO_LARGE", &[]);
    let metadata = details(&status).error_info().unwrap().metadata.clone();
    assert_eq!((&*metadata["limit"], &*metadata["max"]), ("grpc_message_bytes_max", "4096"));
    assert_eq!(metadata["message_index"], "1");
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
