//! The limits on gRPC connections: the effect of each when it is reached, and that it affects no other
//! client.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    PATIENCE,
    client::subscription,
    process::{Launcher, TidingsProcess},
    raw_http2::{self, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RawHttp2},
    scrape::Scrape,
};

const NO_ERROR: u32 = 0;
/// The setting of how much of a response may be sent before its client asks for more.
const INITIAL_WINDOW_SIZE: u16 = 4;

async fn connections(gateway: &TidingsProcess, count: f64) {
    Scrape::reaches(gateway, &[("tidings_grpc_connections", count)]).await;
}

#[tokio::test]
async fn an_address_has_a_bounded_number_of_connections_and_further_ones_are_closed_at_once() {
    let gateway = Launcher::new().with("client-connections-per-address-max", "3").start().await;
    // With that of the gateway's own client.
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut raw = RawHttp2::greeted(gateway.grpc, &[]).await;
        raw.until(|frame| frame.kind == raw_http2::SETTINGS).await.expect("it is served");
        kept.push(raw);
    }
    for refused in 1..=5 {
        let mut raw = RawHttp2::connect(gateway.grpc).await;
        assert!(raw.end_within(PATIENCE).await.1);
        assert_eq!(Scrape::closed(&gateway, "address", f64::from(refused)).await, f64::from(refused));
    }
    gateway.client.nothing_owed(1).await;
    // A closed connection makes room for another.
    drop(kept.pop());
    connections(&gateway, 2.0).await;
    let mut raw = RawHttp2::greeted(gateway.grpc, &[]).await;
    raw.until(|frame| frame.kind == raw_http2::SETTINGS).await.expect("there is a place again");
    drop((raw, kept));
    gateway.stop().await;
}

#[tokio::test]
async fn connections_that_have_not_begun_are_bounded_and_do_not_count_once_they_have() {
    let launcher = Launcher::new().with("client-connections-max", "64").with("client-timeout", "3m");
    let gateway = launcher.start().await;
    // The gateway's own client has begun.
    gateway.client.nothing_owed(1).await;
    // A quarter of them for one address.
    let mut silent = [RawHttp2::connect(gateway.grpc).await, RawHttp2::connect(gateway.grpc).await];
    connections(&gateway, 3.0).await;
    assert!(RawHttp2::connect(gateway.grpc).await.end_within(PATIENCE).await.1);
    assert_eq!(Scrape::closed(&gateway, "half_open", 1.0).await, 1.0);
    silent[0].send(&raw_http2::hello()).await.unwrap();
    silent[0].until(|frame| frame.kind == raw_http2::SETTINGS).await.expect("it is served");
    let mut another = RawHttp2::greeted(gateway.grpc, &[]).await;
    another.until(|frame| frame.kind == raw_http2::SETTINGS).await.expect("there is a place again");
    drop((silent, another));
    gateway.stop().await;
}

#[tokio::test]
async fn a_connection_without_calls_is_asked_to_go_and_one_with_a_call_stays() {
    const IDLE: Duration = Duration::from_millis(800);
    let gateway = Launcher::new().with("grpc-idle-timeout", "800ms").start().await;
    let mut watched = HealthClient::new(gateway.another_client().await.channel);
    let mut watch = watched.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    let since = Instant::now();
    let mut idle = RawHttp2::greeted(gateway.grpc, &[]).await;
    let goaway = idle.until(|frame| frame.kind == GOAWAY).await.expect("it is asked to go");
    assert!(since.elapsed() >= IDLE, "after {:?}", since.elapsed());
    assert_eq!(goaway.payload[4..8], NO_ERROR.to_be_bytes());
    drop(idle);

    assert!(timeout(IDLE, watch.message()).await.is_err(), "the stream continues");
    watched.check(HealthCheckRequest::default()).await.expect("on the same connection");
    // This client's own connection was closed, and it makes another.
    gateway.client.nothing_owed(1).await;
    Scrape::closed(&gateway, "idle", 1.0).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_its_responses_is_disconnected_and_others_are_not() {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let gateway = Launcher::new().with("client-timeout", "1500ms").start().await;
    let subscribed = gateway.client.subscribe(1, subscription("http://127.0.0.1:9/")).await;
    // Nothing happens that it could show: no response waits to be taken.
    let mut watch = gateway.client.watch(&subscribed.name).await.unwrap();

    // A client that has no room for a single byte.
    let since = Instant::now();
    let mut stalled = RawHttp2::greeted(gateway.grpc, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    let block = raw_http2::call_headers("/grpc.health.v1.Health/Check", None);
    stalled.send(&raw_http2::frame(HEADERS, END_HEADERS, 1, &block)).await.unwrap();
    stalled.send(&raw_http2::data(1, END_STREAM, &raw_http2::message(false, 0, &[]))).await.unwrap();
    let (_, ended) = stalled.end_within(PATIENCE).await;
    assert!(ended && since.elapsed() >= TIMEOUT, "after {:?}", since.elapsed());
    assert_eq!(Scrape::closed(&gateway, "stalled", 1.0).await, 1.0);
    assert!(timeout(TIMEOUT, watch.message()).await.is_err(), "the stream continues");
    gateway.client.nothing_owed(1).await;
    gateway.stop().await;
}
