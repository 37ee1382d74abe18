//! What callers are told when the store is slow, full or failing, and what becomes of their events.

use std::{sync::Arc, time::Duration};

use tidings::{
    grpc::Drain,
    proto::v1::{self, stream_publish_events_response::Outcome},
    store::{Store, StoreError},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use crate::{harness::*, held_store::HeldStore};

async fn start(store: &Arc<HeldStore>, change: impl FnOnce(&mut Setup)) -> Server {
    let mut setup = Setup { store: Some(Arc::clone(store) as Arc<dyn Store>), ..Setup::default() };
    change(&mut setup);
    Server::start_with(setup).await
}

fn is_stored(store: &HeldStore, id: &str) -> bool {
    store.event(account(), &id.parse().expect("an event id")).expect("it can be read").is_some()
}

#[tokio::test]
async fn past_the_bound_of_what_waits_a_publisher_is_told_to_come_back() {
    let store = HeldStore::holding();
    let server = start(&store, |setup| setup.gateway.events_in_flight_max = 2).await;
    let requests = vec![publish("a"), publish("b")];
    let request = v1::BatchPublishEventsRequest { parent: String::new(), requests };
    let mut client = server.events().await;
    let waiting = tokio::spawn(async move { client.batch_publish_events(request).await });
    store.has_accepts(1).await;

    let mut client = server.events().await;
    let status = client.publish_event(publish("c")).await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
    assert!(details(&status).retry_info().unwrap().retry_delay.is_some());
    assert!(!is_stored(&store, "c"));

    store.release();
    in_time(waiting).await.unwrap().expect("what was admitted is served");
    client.publish_event(publish("c")).await.expect("there is room again");
    server.stop().await;
}

#[tokio::test]
async fn past_the_bound_of_bytes_a_publisher_is_told_to_come_back() {
    let store = HeldStore::holding();
    let server = start(&store, |setup| setup.gateway.bytes_in_flight_max = 1000).await;
    let mut client = server.events().await;
    let waiting = tokio::spawn(async move { client.publish_event(publish("a")).await });
    store.has_accepts(1).await;
    let status = server.events().await.publish_event(publish("b")).await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
    store.release();
    in_time(waiting).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_stream_has_so_many_events_under_way_and_answers_them_in_order() {
    let store = HeldStore::holding();
    let server = start(&store, |setup| setup.grpc.stream_events_in_flight_max = 4).await;
    let messages =
        (0..10).map(|sequence| v1::StreamPublishEventsRequest { sequence, request: Some(publish("")) });
    let mut client = server.events().await;
    let call = client.stream_publish_events(tokio_stream::iter(messages)).await;
    let mut answers = call.unwrap().into_inner();
    store.has_accepts(4).await;
    // The next one would have come by now, had it been let: a call that began later is through.
    let mut other = server.events().await;
    let later = tokio::spawn(async move { other.publish_event(publish("later")).await });
    store.has_accepts(5).await;
    assert_eq!(store.accepts(), 5);
    store.release();
    for expected in 0..10 {
        assert_eq!(in_time(answers.message()).await.unwrap().unwrap().sequence, expected);
    }
    in_time(later).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn an_event_whose_publisher_went_away_is_stored_all_the_same() {
    let store = HeldStore::holding();
    let server = start(&store, |_| {}).await;
    let mut client = server.events().await;
    let call = tokio::spawn(async move { client.publish_event(publish("a")).await });
    store.has_accepts(1).await;
    call.abort();
    store.release();
    let repeated = server.publish("a").await;
    assert!(repeated.duplicate);
    server.stop().await;
}

#[tokio::test]
async fn a_call_that_takes_too_long_exceeds_its_deadline() {
    let store = HeldStore::holding();
    let server = start(&store, |setup| setup.grpc.call_timeout = Duration::from_millis(100)).await;
    let status = server.events().await.publish_event(publish("a")).await.unwrap_err();
    assert_eq!(told(&status), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".into(), vec![]));
    store.release();
    assert!(server.publish("a").await.duplicate, "the write took effect");
    server.stop().await;
}

#[tokio::test]
async fn a_store_that_fails_makes_calls_unavailable_without_telling_why() {
    let store = HeldStore::holding();
    store.release();
    let server = start(&store, |_| {}).await;
    for (error, code, reason) in [
        (StoreError::Failed("disk /dev/x is gone".into()), Code::Unavailable, "STORAGE_FAILED"),
        (StoreError::Closed, Code::Unavailable, "SHUTTING_DOWN"),
        (StoreError::Busy, Code::ResourceExhausted, "OVERLOADED"),
    ] {
        store.fail_with(error);
        let status = server.events().await.publish_event(publish("a")).await.unwrap_err();
        assert_eq!(told(&status), (code, reason.into(), vec![]));
        assert!(details(&status).retry_info().is_some() && !status.message().contains("/dev/x"));
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_under_way_when_the_server_stops_is_still_answered() {
    let store = HeldStore::holding();
    let server = start(&store, |_| {}).await;
    let mut client = server.events().await;
    let call = tokio::spawn(async move { client.publish_event(publish("a")).await });
    let (sender, messages) = mpsc::unbounded_channel();
    let mut client = server.events().await;
    let call_of_stream = client.stream_publish_events(UnboundedReceiverStream::new(messages)).await;
    let mut answers = call_of_stream.unwrap().into_inner();
    sender.send(v1::StreamPublishEventsRequest { sequence: 7, request: Some(publish("b")) }).unwrap();
    store.has_accepts(2).await;

    server.shutdown.cancel();
    store.release();
    in_time(call).await.unwrap().expect("the call was under way");
    let answer = in_time(answers.message()).await.unwrap().expect("the event was taken");
    assert!(matches!(answer.outcome, Some(Outcome::Result(_))));
    assert_eq!(in_time(answers.message()).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.ended().await, Drain::Complete);
}
