//! Overload: refused in HTTP's terms, with the time to wait, while other requests are accepted.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{ACCOUNT, PLAIN, Receiver, counted, delivery, launcher, message, sender, subscribe};
use crate::support::{events::publish_request, scrape::Scrape};

#[tokio::test]
async fn a_full_backlog_is_429_with_how_long_to_wait_and_room_is_taken_again() {
    let (receiver, launcher) =
        (Receiver::start().await, launcher().with("backlog-per-subscription-max", "1000"));
    let gateway = launcher.start().await;
    let subscribed = subscribe(&gateway.client, &receiver).await;
    gateway.client.pause(&subscribed.name).await;
    let events =
        (1..=1000).map(|id| publish_request(ACCOUNT, "", crate::support::events::message(ACCOUNT, 1, id)));
    gateway.client.publish_all(events).await;

    let id = delivery();
    let response = sender(&gateway, PLAIN).post(&message(7), &id, &[]).await;
    assert_eq!((response.status, &response.json()["reason"]), (429, &json!("BACKLOG_FULL")), "{response:?}");
    assert_eq!(response.header("retry-after"), Some("10"));
    assert_eq!(counted(&gateway, "overloaded").await, 1.0);
    gateway.client.delete(&subscribed.name, true).await.unwrap();
    assert_eq!(sender(&gateway, PLAIN).post(&message(7), &id, &[]).await.status, 200);
    let log = gateway.stop().await;
    let is_logged =
        |line: &&String| line.contains("webhooks are rejected for now") && line.contains("BACKLOG_FULL");
    assert_eq!(log.iter().filter(is_logged).count(), 1, "{log:#?}");
}

#[tokio::test]
async fn requests_and_bytes_in_flight_are_bounded() {
    for (setting, most, limit, bodies) in [
        // Half of each for the account.
        ("client-connections-max", "16", "ingest_requests_in_flight_max is 4", [65_000, 65_000]),
        ("publish-memory-max", "40MiB", "ingest_bytes_in_flight_max is 4194304", [1_500_000, 597_000]),
    ] {
        let launcher = launcher().with(setting, most);
        let gateway = launcher.start().await;
        let sender = sender(&gateway, PLAIN);
        // All but the last byte of bodies that take up almost all room.
        let mut held = Vec::new();
        for bytes in bodies {
            let mut stream = sender.connect().await;
            let head = format!("{}content-length: {bytes}\r\n\r\n", sender.head("POST", &[]));
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&vec![b' '; bytes - 1]).await.unwrap();
            held.push(stream);
        }
        let arrived: usize = bodies.iter().map(|bytes| bytes - 1).sum();
        Scrape::reaches(&gateway, &[("tidings_ingest_bytes_in_flight", arrived as f64)]).await;
        let id = delivery();
        let refused = sender.post(&message(7), &id, &[]).await;
        assert_eq!((refused.status, &refused.json()["reason"]), (429, &json!("OVERLOADED")), "{refused:?}");
        assert!(refused.body.contains(limit), "{refused:?}");
        assert_eq!(refused.header("retry-after"), Some("1"));
        // The requests that use the memory are no JSON, and give it back.
        for mut stream in held {
            stream.write_all(b" ").await.unwrap();
            assert_eq!(super::sender::response(&mut stream).await.status, 422);
        }
        assert_eq!(sender.post(&message(7), &id, &[]).await.status, 200);
        gateway.stop().await;
    }
}

#[tokio::test]
async fn the_connections_of_an_address_are_limited_and_can_be_opened_again() {
    let gateway = launcher().with("client-connections-per-address-max", "4").start().await;
    let sender = sender(&gateway, PLAIN);
    let kept = [sender.connect().await, sender.connect().await];
    Scrape::reaches(&gateway, &[("tidings_ingest_connections", 2.0)]).await;
    assert_eq!(sender.post(&message(7), &delivery(), &[]).await.status, 0);
    assert_eq!(Scrape::of(&gateway).await.value("tidings_ingest_connections_refused_total"), 1.0);
    drop(kept);
    Scrape::reaches(&gateway, &[("tidings_ingest_connections", 0.0)]).await;
    assert_eq!(sender.post(&message(7), &delivery(), &[]).await.status, 200);
    gateway.stop().await;
}
