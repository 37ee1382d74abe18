//! Past the limit of calls: refusals, their cost, and callers that are served all the same.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::StreamBody;
use tidings::proto::v1;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Service, ServiceExt};

use crate::support::{
    blocking_store::BlockingStore,
    events::{long_message, publish_request},
    in_process::*,
};

async fn start(store: &Arc<BlockingStore>, calls_max: usize) -> TidingsInProcess {
    let mut setup = Setup::on(store);
    setup.grpc.calls_in_flight_max = calls_max;
    // The call that uses up the bound must stay until a test lets it go, however slow the machine is.
    setup.grpc.call_timeout = Duration::from_hours(1);
    TidingsInProcess::start_with(setup).await
}

fn limit(status: &tonic::Status) -> String {
    details(status).error_info().expect("an ErrorInfo").metadata["limit"].clone()
}

#[tokio::test]
async fn past_the_bound_of_calls_any_call_is_refused_but_a_health_check() {
    let store = BlockingStore::new();
    let server = start(&store, 1).await;
    let waiting = server.publishing("a");
    store.has_accepts(1).await;

    let status = server.client.try_publish(publish("b")).await.unwrap_err();
    assert_refused(&status, Code::ResourceExhausted, "OVERLOADED", &[]);
    assert_eq!(limit(&status), "grpc_calls_in_flight_max");
    assert!(details(&status).retry_info().unwrap().retry_delay.is_some());
    let request = v1::ListSubscriptionsRequest { parent: PARENT.into(), ..Default::default() };
    let status = server.client.subscriptions.clone().list_subscriptions(request).await.unwrap_err();
    assert_eq!(limit(&status), "grpc_calls_in_flight_max");
    let mut health = HealthClient::new(server.channel().await);
    health.check(HealthCheckRequest::default()).await.expect("overloaded is not dead");

    store.release();
    waiting.await.unwrap().expect("what was taken on is served");
    server.publish("b").await;
    server.stop().await;
}

#[tokio::test]
async fn an_open_stream_does_not_count_as_a_call() {
    let store = BlockingStore::new();
    store.release();
    let server = start(&store, 1).await;
    let mut client = server.client.events.clone();
    let open = client.stream_publish_events(tokio_stream::pending()).await.unwrap();
    server.publish("a").await;
    drop(open);
    server.stop().await;
}

#[tokio::test]
async fn a_publish_is_refused_before_its_message_has_come() {
    let store = BlockingStore::new();
    let mut setup = Setup::on(&store);
    setup.gateway.events_in_flight_max = 1;
    let server = TidingsInProcess::start_with(setup).await;
    let waiting = server.publishing("a");
    store.has_accepts(1).await;

    // A call that never sends its message gets a response only if the server does not read it.
    let message = tokio_stream::pending::<Result<http_body::Frame<Bytes>, tonic::Status>>();
    let request = http::Request::post("/tidings.v1.EventService/PublishEvent")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(StreamBody::new(message)))
        .unwrap();
    let mut channel = server.channel().await;
    let response = in_time(channel.ready().await.unwrap().call(request)).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "8", "{response:?}");

    store.release();
    waiting.await.unwrap().expect("what was taken on is served");
    server.stop().await;
}

#[tokio::test]
async fn a_connection_outlives_any_number_of_refusals() {
    const REFUSALS: usize = 300;
    let store = BlockingStore::new();
    let server = start(&store, 1).await;
    let waiting = server.publishing("a");
    store.has_accepts(1).await;
    // Together more than a connection may send before it is read: refused calls must not use that up.
    let client = server.another_client().await;
    let large = |n: usize| publish_request(1, &format!("large-{n}"), long_message(1, 3, 7, 20_000));
    for n in 0..REFUSALS {
        let status = client.try_publish(large(n)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    }
    store.release();
    waiting.await.unwrap().unwrap();
    in_time(client.try_publish(large(0))).await.unwrap();
    server.stop().await;
}
