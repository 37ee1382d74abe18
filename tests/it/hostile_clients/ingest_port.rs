//! The webhook port: clients that guess paths and keep connections, and a source with bodies that are costly
//! to read, while a healthy client calls over gRPC.

use std::time::Duration;

use tokio::{io::AsyncWriteExt, time::Instant};

use super::{Attacked, MIB, Tried, side_by_side};
use crate::{
    it::ingest::{PLAIN, delivery, launcher, sender::Sender},
    support::scrape::Scrape,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn unknown_paths_and_expensive_bodies_at_the_webhook_port_delay_nobody() {
    let attacked = Attacked::start(&launcher()).await;
    let address = attacked.gateway.ingest.unwrap();
    let stranger = Sender::to(address, "a-path-that-nobody-was-given");
    let tried = attacked
        .under("strangers that try paths", 0, async move |_, until| {
            side_by_side(16, |_| try_paths(stranger.clone(), until)).await
        })
        .await;
    assert_eq!(tried.tries, tried.refused);
    let holding = Sender::to(address, PLAIN);
    attacked
        .under("400 connections that hold on to a head", 0, async move |_, until| {
            let mut held = Vec::new();
            for _ in 0..400 {
                let mut stream = holding.connect().await;
                drop(stream.write_all(b"POST /chatwoot/x HTTP/1.1\r\nx: y\r\n").await);
                held.push(stream);
            }
            tokio::time::sleep_until(until).await;
            Tried { tries: 400, refused: 0 }
        })
        .await;
    // A mebibyte each: as many values as there may be, more, a long key, and deep within.
    let values =
        |count: usize| format!("{{\"event\":\"contact_created\",\"id\":1,\"x\":[{}0]}}", "0,".repeat(count));
    let deep = format!("{}{}", "{\"a\":".repeat(120), "[1,".repeat(200_000));
    let key = format!("{{\"{}\":[{}0]}}", "k".repeat(500_000), "1,".repeat(90_000));
    let bodies = [values(99_000), values(400_000), deep, key, " ".repeat(1 << 20)];
    let sender = Sender::to(address, PLAIN);
    let tried = attacked
        .under("bodies of a mebibyte that are dear to read", 64 * MIB, async move |_, until| {
            side_by_side(8, |number| send(sender.clone(), bodies[number % bodies.len()].clone(), until)).await
        })
        .await;
    assert_eq!(tried.tries, tried.refused);
    let in_flight = [("tidings_ingest_requests_in_flight", 0.0), ("tidings_ingest_bytes_in_flight", 0.0)];
    Scrape::reaches(&attacked.gateway, &in_flight).await;
    attacked.end().await;
}

async fn try_paths(sender: Sender, until: Instant) -> Tried {
    let mut tried = Tried::default();
    while Instant::now() < until {
        let response = sender.post("{}", &delivery(), &[]).await;
        tried += Tried { tries: 1, refused: u64::from([404, 429].contains(&response.status)) };
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tried
}

async fn send(sender: Sender, body: String, until: Instant) -> Tried {
    let mut tried = Tried::default();
    while Instant::now() < until {
        let response = sender.post(&body, &delivery(), &[]).await;
        // What is a JSON object is kept as it came.
        let is_refused_or_kept = [200, 422, 429].contains(&response.status);
        tried += Tried { tries: 1, refused: u64::from(is_refused_or_kept) };
    }
    tried
}
