//! A store that is slow, full or failing: the responses to callers, and the state of their events.

use std::{sync::Arc, time::Duration};

use tidings::{
    grpc::Drain,
    proto::v1::{self, stream_publish_events_response::Outcome},
    store::StoreError,
};
use tonic::Code;

use crate::support::{blocking_store::BlockingStore, in_process::*};

async fn start(store: &Arc<BlockingStore>, change: impl FnOnce(&mut Setup)) -> TidingsInProcess {
    let mut setup = Setup::on(store);
    change(&mut setup);
    TidingsInProcess::start_with(setup).await
}

#[tokio::test]
async fn past_the_bound_of_events_a_publisher_is_asked_to_come_back() {
    let store = BlockingStore::new();
    let server = start(&store, |setup| setup.gateway.events_in_flight_max = 2).await;
    let client = server.client.clone();
    let waiting =
        tokio::spawn(async move { client.try_publish_batch(vec![publish("a"), publish("b")]).await });
    store.has_accepts(1).await;

    let status = server.client.try_publish(publish("c")).await.unwrap_err();
    assert_refused(&status, Code::ResourceExhausted, "OVERLOADED", &[]);
    assert!(details(&status).retry_info().unwrap().retry_delay.is_some());
    assert!(!server.is_stored("c"));

    store.release();
    waiting.await.unwrap().expect("what was admitted is served");
    server.client.try_publish(publish("c")).await.expect("there is room again");
    server.stop().await;
}

#[tokio::test]
async fn past_the_bound_of_bytes_a_publisher_is_asked_to_come_back() {
    let store = BlockingStore::new();
    let server = start(&store, |setup| setup.gateway.bytes_in_flight_max = 1000).await;
    let waiting = server.publishing("a");
    store.has_accepts(1).await;
    let status = server.client.try_publish(publish("b")).await.unwrap_err();
    assert_refused(&status, Code::ResourceExhausted, "OVERLOADED", &[]);
    store.release();
    waiting.await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_stream_limits_its_events_in_flight_and_acknowledges_them_in_order() {
    let store = BlockingStore::new();
    let server = start(&store, |setup| setup.grpc.stream_events_in_flight_max = 4).await;
    let messages =
        (0..10).map(|sequence| v1::StreamPublishEventsRequest { sequence, request: Some(publish("")) });
    let mut client = server.client.events.clone();
    let call = client.stream_publish_events(tokio_stream::iter(messages)).await;
    let mut responses = call.unwrap().into_inner();
    store.has_accepts(4).await;
    // The next one would have come by now, had it been let: a call that began later is through.
    let later = server.publishing("later");
    store.has_accepts(5).await;
    assert_eq!(store.accepts(), 5);
    store.release();
    for expected in 0..10 {
        assert_eq!(in_time(responses.message()).await.unwrap().unwrap().sequence, expected);
    }
    later.await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn an_event_is_stored_although_its_publisher_went_away() {
    let store = BlockingStore::new();
    let server = start(&store, |_| {}).await;
    let call = server.publishing("a");
    store.has_accepts(1).await;
    call.abort();
    store.release();
    let repeated = server.publish("a").await;
    assert!(repeated.duplicate);
    server.stop().await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_exceeds_its_deadline() {
    let store = BlockingStore::new();
    let server = start(&store, |setup| setup.grpc.call_timeout = Duration::from_millis(100)).await;
    let status = server.client.try_publish(publish("a")).await.unwrap_err();
    assert_refused(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", &[]);
    store.release();
    assert!(server.publish("a").await.duplicate, "the write took effect");
    server.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_makes_calls_unavailable_without_the_reason() {
    let store = BlockingStore::new();
    store.release();
    let server = start(&store, |_| {}).await;
    for (error, code, reason) in [
        (StoreError::Failed("disk /dev/x is gone".into()), Code::Unavailable, "STORAGE_FAILED"),
        (StoreError::Closed, Code::Unavailable, "SHUTTING_DOWN"),
        (StoreError::Busy, Code::ResourceExhausted, "OVERLOADED"),
    ] {
        store.fail_with(error);
        let status = server.client.try_publish(publish("a")).await.unwrap_err();
        assert_eq!(in_short(&status), (code, reason.into(), vec![]));
        assert!(details(&status).retry_info().is_some() && !status.message().contains("/dev/x"));
    }
    server.stop().await;
}

#[tokio::test]
async fn calls_in_flight_when_the_server_stops_still_get_their_response() {
    let store = BlockingStore::new();
    let server = start(&store, |_| {}).await;
    let call = server.publishing("a");
    let (sender, mut responses) = server.client.publish_stream().await;
    sender.send(v1::StreamPublishEventsRequest { sequence: 7, request: Some(publish("b")) }).unwrap();
    store.has_accepts(2).await;

    server.shutdown.cancel();
    store.release();
    call.await.unwrap().expect("the call was under way");
    let response = in_time(responses.message()).await.unwrap().expect("the event was taken");
    assert!(matches!(response.outcome, Some(Outcome::Result(_))));
    assert_eq!(in_time(responses.message()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.ended().await, Drain::Complete);
}
