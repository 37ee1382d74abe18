//! Clients that stall: messages that never arrive whole, a byte a second, responses that nobody reads.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use hyper::body::Frame;
use prost::Message;
use tidings::proto::v1;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{ACCOUNT, Attacked, MIB, Tried, calls, calls::Calls, side_by_side};
use crate::support::{
    client::Client,
    events::{long_message, message, publish_request},
    process::Launcher,
    raw_http2::{self, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, RawHttp2},
    scrape::Scrape,
};

const PUBLISH: &str = "/tidings.v1.EventService/PublishEvent";
const LIST: &str = "/tidings.v1.EventService/ListEvents";
const CONNECTIONS: usize = 6;
const STREAMS: u32 = 40;
/// Lists that a connection asks for.
const PAGES: u32 = 20;
/// As large as a message may be.
const MESSAGE_BYTES: usize = 4 << 20;
const RESOURCE_EXHAUSTED: u32 = 8;
/// Calls that are not refused by then use memory.
const LONGER: Duration = Duration::from_secs(5);
/// The setting of how much of a response may be sent before its client asks for more.
const INITIAL_WINDOW_SIZE: u16 = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_that_never_arrive_whole_take_limited_memory() {
    const BOUND: u64 = 64 * MIB;
    let attacked = Attacked::start(&Launcher::new().with("publish-memory-max", "160MiB")).await;
    let tried = attacked
        .under("48 messages of 4 MiB but for the last byte", BOUND, |address, until| {
            side_by_side(CONNECTIONS, move |_| async move {
                let (calls, mut waiting) = (Calls::connect(address).await, JoinSet::new());
                for _ in 0..8 {
                    let (parts, response) = calls.open(PUBLISH);
                    let most = raw_http2::message(false, MESSAGE_BYTES, &vec![10; MESSAGE_BYTES - 1]);
                    parts.send(Ok(Frame::data(Bytes::from(most)))).unwrap();
                    waiting.spawn(async move {
                        let response = timeout_at(until + LONGER, response).await;
                        drop(parts);
                        calls::status(response.ok()?.ok()?).await
                    });
                }
                let mut tried = Tried::default();
                while let Some(status) = waiting.join_next().await {
                    tried.tries += 1;
                    tried.refused += u64::from(status.unwrap() == Some(RESOURCE_EXHAUSTED));
                }
                tried
            })
        })
        .await;
    assert!(tried.refused > tried.tries / 2, "{tried:?}");
    attacked.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_send_a_byte_at_a_time_delay_nobody() {
    let attacked = Attacked::start(&Launcher::new()).await;
    attacked
        .under("240 calls that come a byte at a time", 0, |address, until| {
            side_by_side(CONNECTIONS, move |_| async move {
                let (calls, mut slow) = (Calls::connect(address).await, JoinSet::new());
                for _ in 0..STREAMS {
                    let (parts, response) = calls.open(PUBLISH);
                    slow.spawn(async move {
                        let request = publish_request(ACCOUNT, "", message(ACCOUNT, 1, 1)).encode_to_vec();
                        let bytes = raw_http2::message(false, request.len(), &request);
                        for byte in bytes {
                            if Instant::now() >= until
                                || parts.send(Ok(Frame::data(Bytes::from(vec![byte])))).is_err()
                            {
                                break;
                            }
                            sleep(Duration::from_millis(20)).await;
                        }
                        drop(response);
                    });
                }
                let tries = slow.len() as u64;
                while slow.join_next().await.is_some() {}
                Tried { tries, refused: 0 }
            })
        })
        .await;
    attacked
        .under("100 connections that send their frames a byte at a time", 0, |address, until| {
            side_by_side(100, move |_| async move {
                let mut raw = RawHttp2::connect(address).await;
                let call = raw_http2::frame(HEADERS, END_HEADERS, 1, &raw_http2::call_headers(PUBLISH, None));
                for byte in [raw_http2::hello(), call].concat() {
                    if Instant::now() >= until || raw.send(&[byte]).await.is_err() {
                        break;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
                Tried { tries: 1, refused: 0 }
            })
        })
        .await;
    attacked.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn responses_that_nobody_reads_take_limited_memory() {
    const BOUND: u64 = 32 * MIB;
    let launcher = Launcher::new().with("publish-memory-max", "80MiB").with("client-timeout", "4s");
    let attacked = Attacked::start(&launcher).await;
    large_events(&attacked.healthy).await;
    // A few pages are made, and the others wait for their turn.
    attacked
        .under("120 pages of 1 MiB that nobody takes", BOUND, |address, until| {
            side_by_side(CONNECTIONS, move |_| async move {
                let refused = refusals_of_unread_pages(address, until).await;
                Tried { tries: PAGES.into(), refused }
            })
        })
        .await;
    Scrape::closed(&attacked.gateway, "stalled", 1.0).await;
    attacked.end().await;
}

/// Asks for pages on one connection and takes none of their bytes until the gateway closes it. Returns how
/// many were refused.
async fn refusals_of_unread_pages(address: SocketAddr, until: Instant) -> u64 {
    let request =
        v1::ListEventsRequest { parent: format!("accounts/{LARGE}"), page_size: 1000, ..Default::default() };
    let request = request.encode_to_vec();
    let mut raw = RawHttp2::greeted(address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    for number in 0..PAGES {
        let id = 2 * number + 1;
        let call = raw_http2::frame(HEADERS, END_HEADERS, id, &raw_http2::call_headers(LIST, None));
        let body = raw_http2::data(id, END_STREAM, &raw_http2::message(false, request.len(), &request));
        raw.send(&[call, body].concat()).await.unwrap();
    }
    // A refusal needs no room, and ends its stream.
    let mut refused = 0;
    while let Ok(Some(frame)) = timeout_at(until + LONGER, raw.next()).await {
        let ends = frame.flags & END_STREAM != 0 && frame.kind == HEADERS;
        refused += u64::from(ends || frame.kind == RST_STREAM);
    }
    // Held until the gateway has had enough.
    raw.end_within(Duration::from_secs(20)).await;
    refused
}

/// The account with large events.
const LARGE: i64 = 2;

/// Enough of them for a page of the largest size.
async fn large_events(client: &Client) {
    for number in 1..=16 {
        client.publish(LARGE, long_message(LARGE, 1, number, 250_000)).await;
    }
}
