//! How a gateway ends, and its log while it runs.

use std::time::Duration;

use tidings::proto::v1::{self, EventType, delivery::State};
use tokio::{net::TcpStream, time::Instant};
use tonic::Code;

use crate::support::{
    client::{attempts, duration, id_of, subscription},
    events::{contact, publish_request},
    eventually, in_time,
    process::{Launcher, TidingsProcess},
    receiver::{Receiver, Response},
};

/// How long the gateways here may drain, and the time that a busy machine may add to it.
const DRAIN: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_millis(2_500);

async fn becomes(gateway: &TidingsProcess, status: u16, body: &str) {
    eventually(body, async || gateway.readiness().await, |seen| (seen.0, &*seen.1) == (status, body)).await;
}

#[tokio::test]
async fn a_gateway_is_ready_while_it_serves_and_no_longer_once_it_drains() {
    let receiver = Receiver::always(Response::nothing()).await;
    let gateway = Launcher::new().with("drain-timeout", "1m").start().await;
    becomes(&gateway, 200, "ready\n").await;

    let asked =
        v1::Subscription { timeout: duration(Duration::from_secs(30)), ..subscription(receiver.url("/")) };
    gateway.client.subscribe(1, asked).await;
    gateway.client.publish(1, contact(1)).await;
    receiver.wait_for(1).await;
    gateway.terminate();
    becomes(&gateway, 503, "draining\n").await;
    gateway.kill().await;
}

#[tokio::test]
async fn a_gateway_waits_for_the_attempts_under_way_and_makes_no_new_ones() {
    let receiver = Receiver::always(Response::late(Duration::from_secs(1), 200)).await;
    let launcher = Launcher::new().with("drain-timeout", "1m");
    let gateway = launcher.start().await;
    let asked = v1::Subscription { max_in_flight: 2, ..subscription(receiver.url("/")) };
    gateway.client.subscribe(1, asked).await;
    for _ in 0..5 {
        gateway.client.publish(1, contact(1)).await;
    }
    receiver.wait_for(2).await;
    gateway.stop().await;
    assert_eq!(receiver.seen().len(), 2);

    let gateway = launcher.start().await;
    let done = gateway.client.deliveries_in(1, &[State::Succeeded]).await;
    assert!(done.len() >= 2, "what was under way was written down: {done:#?}");
    gateway.client.nothing_owed(1).await;
    assert_eq!(receiver.seen().len(), 5, "and nothing was sent twice");
    gateway.stop().await;
}

#[tokio::test]
async fn whatever_hangs_a_gateway_ends_within_its_bound_and_loses_nothing() {
    let receiver = Receiver::always(Response::nothing()).await;
    let launcher = Launcher::new().with("drain-timeout", format!("{}s", DRAIN.as_secs()));
    let gateway = launcher.start().await;
    let asked =
        v1::Subscription { timeout: duration(Duration::from_secs(30)), ..subscription(receiver.url("/")) };
    let subscribed = gateway.client.subscribe(1, asked).await;

    // An open stream, which waits for more.
    let (sender, mut responses) = gateway.client.publish_stream().await;
    let request = Some(publish_request(1, "streamed", contact(1)));
    sender.send(v1::StreamPublishEventsRequest { sequence: 1, request }).unwrap();
    assert_eq!(responses.message().await.unwrap().unwrap().sequence, 1);
    // A client that connected and says nothing, on both ports.
    let _silent =
        (TcpStream::connect(gateway.grpc).await.unwrap(), TcpStream::connect(gateway.http).await.unwrap());
    // A test that waits for a receiver that hangs.
    let (testing, name) = (gateway.client.clone(), subscribed.name.clone());
    let test = tokio::spawn(async move { testing.try_test(&name, EventType::MessageCreated).await });
    receiver.wait_for(2).await;

    let start = Instant::now();
    gateway.terminate();
    let ended = responses.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    let stopped = gateway.wait().await;
    assert_eq!(stopped.code, Some(0), "{stopped:#?}");
    let took = start.elapsed();
    assert!(took < DRAIN + SLACK, "it took {took:?}: {stopped:#?}");
    assert!(in_time(test).await.unwrap().is_err(), "the test was cut off");

    receiver.now(|_| Response::status(200));
    let gateway = launcher.start().await;
    gateway.client.delivery_in(&subscribed.delivery("streamed"), State::Succeeded).await;
    gateway.stop().await;
}

#[tokio::test]
async fn the_log_holds_no_secret_no_header_and_no_body() {
    const MARKERS: [&str; 6] = [
        "marker-in-the-secret",
        "marker-in-a-header",
        "marker-in-the-body",
        "marker-in-the-query",
        "marker-in-the-response",
        "marker-in-the-location",
    ];
    let receiver = Receiver::with(|request| match &*request.path {
        "/ok?key=marker-in-the-query" => Response::with_body(200, "marker-in-the-response"),
        "/moved?key=marker-in-the-query" => {
            Response::with_header(302, "location", "http://x.example/?key=marker-in-the-location")
        }
        "/closed?key=marker-in-the-query" => Response::half_head(),
        "/gone?key=marker-in-the-query" => Response::with_body(404, "marker-in-the-response"),
        _ => Response::garbage(),
    });
    let (receiver, gateway) = (receiver.await, Launcher::new().with("log-level", "trace").start().await);
    let paths = ["ok", "moved", "closed", "gone", "garbage"];
    for path in paths {
        let url = receiver.url(&format!("/{path}?key=marker-in-the-query"));
        let headers = [("authorization".to_owned(), "marker-in-a-header".to_owned())].into();
        let asked = v1::Subscription { headers, retry_policy: attempts(2), ..subscription(url) };
        let request = v1::CreateSubscriptionRequest {
            parent: "accounts/1".into(),
            subscription: Some(asked),
            signing_secret: "marker-in-the-secret".into(),
            ..Default::default()
        };
        let name = gateway.client.create(request).await.unwrap().name;
        gateway.client.test(&name, EventType::ContactCreated).await;
    }
    let mut event = contact(1);
    let Some(v1::event::Payload::ContactCreated(created)) = &mut event.payload else { unreachable!() };
    created.contact.as_mut().unwrap().name = "marker-in-the-body".into();
    let published = gateway.client.publish(1, event).await;
    gateway.client.nothing_owed(1).await;
    let deliveries = gateway.client.deliveries_in(1, &[State::Failed]).await;
    assert_eq!(deliveries.len(), paths.len() - 1);
    assert!(receiver.seen().iter().any(|request| request.body.contains("marker-in-the-body")));

    let log = gateway.stop().await;
    let failed = log.iter().filter(|line| line.contains("delivery failed permanently")).count();
    assert_eq!(failed, deliveries.len(), "each failure is logged once");
    assert!(log.iter().any(|line| line.contains(id_of(&published.event))), "by the event's name");
    for marker in MARKERS {
        // As text, and as a list of bytes.
        let bytes = format!("{:?}", marker.as_bytes());
        let bytes = bytes.trim_matches(['[', ']']);
        let found = log.iter().find(|line| line.contains(marker) || line.contains(bytes));
        assert_eq!(found, None, "{marker} is in the log");
    }
}
