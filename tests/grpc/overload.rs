//! Past the bound of calls: who is refused, at what price, and who is served all the same.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::StreamBody;
use tidings::{proto::v1, store::Store};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Service, ServiceExt};

use crate::{harness::*, held_store::HeldStore};

async fn start(store: &Arc<HeldStore>, calls_max: usize) -> Server {
    let mut setup = Setup { store: Some(Arc::clone(store) as Arc<dyn Store>), ..Setup::default() };
    setup.grpc.calls_in_flight_max = calls_max;
    // The call that takes up the place must stay until a test lets it go, however slow the machine is.
    setup.grpc.call_timeout = Duration::from_secs(3600);
    Server::start_with(setup).await
}

fn limit(status: &tonic::Status) -> String {
    details(status).error_info().expect("an ErrorInfo").metadata["limit"].clone()
}

#[tokio::test]
async fn past_the_bound_of_calls_any_call_is_refused_but_a_health_check() {
    let store = HeldStore::holding();
    let server = start(&store, 1).await;
    let mut client = server.events().await;
    let waiting = tokio::spawn(async move { client.publish_event(publish("a")).await });
    store.has_accepts(1).await;

    let status = server.events().await.publish_event(publish("b")).await.unwrap_err();
    assert_eq!(told(&status), (Code::ResourceExhausted, "OVERLOADED".into(), vec![]));
    assert_eq!(limit(&status), "grpc_calls_in_flight_max");
    assert!(details(&status).retry_info().unwrap().retry_delay.is_some());
    let request = v1::ListSubscriptionsRequest { parent: PARENT.into(), ..Default::default() };
    let status = server.subscriptions().await.list_subscriptions(request).await.unwrap_err();
    assert_eq!(limit(&status), "grpc_calls_in_flight_max");
    let mut health = HealthClient::new(server.channel().await);
    health.check(HealthCheckRequest::default()).await.expect("overloaded is not dead");

    store.release();
    in_time(waiting).await.unwrap().expect("what was taken on is served");
    server.publish("b").await;
    server.stop().await;
}

#[tokio::test]
async fn an_open_stream_takes_up_no_place_of_a_call() {
    let store = HeldStore::holding();
    store.release();
    let server = start(&store, 1).await;
    let mut client = server.events().await;
    let open = client.stream_publish_events(tokio_stream::pending()).await.unwrap();
    server.publish("a").await;
    drop(open);
    server.stop().await;
}

#[tokio::test]
async fn a_publish_is_refused_before_its_message_has_come() {
    let store = HeldStore::holding();
    let mut setup = Setup { store: Some(Arc::clone(&store) as Arc<dyn Store>), ..Setup::default() };
    setup.gateway.events_in_flight_max = 1;
    let server = Server::start_with(setup).await;
    let mut client = server.events().await;
    let waiting = tokio::spawn(async move { client.publish_event(publish("a")).await });
    store.has_accepts(1).await;

    // A call that never sends its message can only be answered by whoever does not read it.
    let message = tokio_stream::pending::<Result<http_body::Frame<Bytes>, tonic::Status>>();
    let request = http::Request::post("/tidings.v1.EventService/PublishEvent")
        .header("content-type", "application/grpc")
        .body(tonic::body::Body::new(StreamBody::new(message)))
        .unwrap();
    let mut channel = server.channel().await;
    let response = in_time(channel.ready().await.unwrap().call(request)).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "8", "{response:?}");

    store.release();
    in_time(waiting).await.unwrap().expect("what was taken on is served");
    server.stop().await;
}

#[tokio::test]
async fn a_connection_outlives_any_number_of_refusals() {
    const REFUSALS: usize = 300;
    let store = HeldStore::holding();
    let server = start(&store, 1).await;
    let mut client = server.events().await;
    let waiting = tokio::spawn(async move { client.publish_event(publish("a")).await });
    store.has_accepts(1).await;
    let client = server.events().await;
    // Together more than a connection may send before it is read: what is refused unread must not use that up.
    let large = |n: usize| {
        let mut request = publish(&format!("large-{n}"));
        let Some(v1::event::Payload::MessageCreated(created)) = &mut request.event.as_mut().unwrap().payload
        else {
            panic!("a message");
        };
        created.message.as_mut().unwrap().content = Some("x".repeat(20_000));
        request
    };
    for n in 0..REFUSALS {
        let status = client.clone().publish_event(large(n)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    }
    store.release();
    in_time(waiting).await.unwrap().unwrap();
    tokio::time::timeout(Duration::from_secs(20), client.clone().publish_event(large(0)))
        .await
        .unwrap()
        .unwrap();
    server.stop().await;
}
