//! Endpoints behind a stock reverse proxy.

use std::collections::HashSet;

use crate::support::{
    client::{attempts, subscription},
    events::{message, publish_request},
    nginx::Nginx,
    process::Launcher,
    receiver::Receiver,
};
use tidings::proto::v1;

#[tokio::test]
async fn a_proxy_that_ends_connections_after_50_requests_costs_no_delivery_an_attempt() {
    const EVENTS: i64 = 500;
    let receiver = Receiver::start().await;
    let Some(nginx) = Nginx::in_front_of(receiver.address, "keepalive_requests 50;").await else { return };
    let launcher = Launcher::new();
    let authorities = launcher.file("authorities.pem", nginx.authority.pem());
    let gateway = launcher.with_file("egress-ca-file", authorities).start().await;
    let subscribed = v1::Subscription { retry_policy: attempts(1), ..subscription(nginx.url("/hook")) };
    let subscribed = gateway.client.subscribe(1, subscribed).await;
    let events = (1..=EVENTS).map(|number| publish_request(1, &format!("e-{number}"), message(1, 1, number)));
    gateway.client.publish_all(events).await;
    gateway.client.nothing_owed(1).await;
    let counts = gateway.client.counts(&subscribed.name).await;
    let seen = receiver.seen();
    let ids: HashSet<_> = seen.iter().map(|request| request.webhook_id().to_owned()).collect();
    assert_eq!((counts.succeeded, seen.len(), ids.len()), (500, 500, 500), "{counts:?}");
    gateway.stop().await;
}
