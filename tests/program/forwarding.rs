//! `tidings receive --forward-to`: the receiver as a way to another server.

use super::receiving::{post, start};
use crate::support::{
    closed_address,
    receiver::{Receiver, Response},
};

#[tokio::test]
async fn each_request_is_passed_on_and_gets_the_response_of_the_other_server() {
    let mut other = Receiver::always(Response::status(202)).await;
    let url = other.url("/hooks?from=tidings");
    let (forwarder, address) = start(&["--forward-to", &url]).await;
    let body = "{\"event\": \"message_created\"}";
    assert_eq!(post(address, "/", "webhook-id: one\r\nX-Own: 2\r\n", body).await, "202");

    let arrived = other.next().await;
    assert_eq!((&*arrived.body, &*arrived.path), (body, "/hooks?from=tidings"));
    assert_eq!(arrived.header("webhook-id"), "one");
    assert_eq!(arrived.header("x-own"), "2");
    forwarder.stdout.wait_for(|line| line.ends_with(", status 202").then_some(())).await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_a_bad_gateway() {
    let url = format!("http://{}/hooks", closed_address());
    let (forwarder, address) = start(&["--forward-to", &url]).await;
    assert_eq!(post(address, "/", "", "no JSON").await, "502");
    forwarder.stdout.wait_for(|line| line.ends_with(", status 502").then_some(())).await;
    forwarder.stdout.wait_for(|line| line.starts_with("not forwarded: cannot connect").then_some(())).await;
}
