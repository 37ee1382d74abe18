//! Requests with response 200 last: over SIGKILL right after it, and over an orderly end in the middle of a
//! request.

use std::collections::BTreeSet;

use tokio::{io::AsyncWriteExt, task::JoinSet, time::sleep};

use super::{ACCOUNT, PLAIN, Receiver, delivery, launcher, message, sender, subscribe};
use crate::support::{POLL_INTERVAL, client::id_of, profile::in_full_or_short, scrape::Scrape};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_right_after_the_response_loses_nothing() {
    let kills = in_full_or_short(6, 3);
    const SENDERS: usize = 8;
    let (receiver, launcher) = (Receiver::start().await, launcher());
    let mut gateway = launcher.start().await;
    let subscribed = subscribe(&gateway.client, &receiver).await;
    let mut acknowledged = BTreeSet::new();
    for round in 0..kills {
        let mut sending = JoinSet::new();
        for number in 0..SENDERS {
            let (sender, id) = (sender(&gateway, PLAIN), delivery());
            let body = message(i64::try_from(1 + round * SENDERS + number).unwrap());
            sending.spawn(async move { (sender.post(&body, &id, &[]).await, id) });
        }
        // Some are under way when the first few are acknowledged.
        for _ in 0..=round {
            let (response, id) = sending.join_next().await.unwrap().unwrap();
            assert_eq!(response.status, 200, "{response:?}");
            acknowledged.insert(id);
        }
        gateway.kill().await;
        while let Some(sent) = sending.join_next().await {
            let (response, id) = sent.unwrap();
            assert!([0, 200].contains(&response.status), "{response:?}");
            if response.status == 200 {
                acknowledged.insert(id);
            }
        }
        gateway = launcher.start().await;
    }
    let stored = gateway.client.stored_events(ACCOUNT).await;
    let stored: BTreeSet<_> =
        stored.iter().map(|event| id_of(&event.name).replace("chatwoot~", "")).collect();
    assert!(acknowledged.is_subset(&stored), "{:?} are lost", acknowledged.difference(&stored));
    assert!(acknowledged.len() >= kills * (kills + 1) / 2);
    gateway
        .client
        .counts_when(&subscribed.name, "all delivered", |counts| counts.succeeded == stored.len())
        .await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_request_in_flight_at_the_end_gets_its_response_and_its_event_is_stored() {
    let launcher = launcher();
    let gateway = launcher.start().await;
    let (sender, body) = (sender(&gateway, PLAIN), message(7));
    let (begin, rest) = body.split_at(body.len() / 2);
    let mut stream = sender.connect().await;
    let head = format!("{}content-length: {}\r\n\r\n{begin}", sender.head("POST", &[]), body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // An idle one, which delays nothing.
    let _idle = sender.connect().await;
    let under_way = [("tidings_ingest_connections", 2.0), ("tidings_ingest_requests_in_flight", 1.0)];
    Scrape::reaches(&gateway, &under_way).await;
    gateway.terminate();
    while gateway.readiness_if_any().await.is_some_and(|(status, _)| status == 200) {
        sleep(POLL_INTERVAL).await;
    }
    stream.write_all(rest.as_bytes()).await.unwrap();
    let response = super::sender::response(&mut stream).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(gateway.wait().await.code, Some(0));
    let gateway = launcher.start().await;
    assert_eq!(gateway.client.stored_events(ACCOUNT).await.len(), 1);
    gateway.stop().await;
}
