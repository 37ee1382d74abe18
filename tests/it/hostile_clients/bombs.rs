//! Messages that are larger, once they are read, than they look, and prefixes that lie.

use std::{io::Write, time::Duration};

use flate2::{Compression, write::GzEncoder};
use tokio::time::{Instant, sleep};

use super::{Attacked, Tried, calls::Calls, side_by_side};
use crate::support::{process::Launcher, raw_http2};

const BATCH: &str = "/tidings.v1.EventService/BatchPublishEvents";
const PUBLISH: &str = "/tidings.v1.EventService/PublishEvent";
const CONNECTIONS: usize = 2;
/// Between two bombs of a connection.
const PAUSE: Duration = Duration::from_millis(500);
/// A message as large as it may be, but for its prefix and a little.
const MESSAGE_BYTES: usize = (4 << 20) - 100;
const OK: u32 = 0;

/// A bomb: its name, its method, its encoding, and its bytes with their prefix.
type Bomb = (&'static str, &'static str, &'static str, Vec<u8>);

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    raw_http2::message(true, bytes.len(), bytes)
}

/// A batch as large as it may be: of requests of nothing, or of one whose conversation has messages of
/// nothing.
fn requests(within: usize) -> Vec<u8> {
    if within == 0 {
        return [0x12, 0].repeat(MESSAGE_BYTES / 2);
    }
    let field = |number: u8, bytes: Vec<u8>| {
        let mut field = vec![number << 3 | 2];
        prost::encoding::encode_varint(bytes.len() as u64, &mut field);
        [field, bytes].concat()
    };
    let conversation = [0x3a, 0].repeat(within - 20);
    // requests[0].event.conversation_created.conversation.messages
    field(2, field(2, field(10, field(1, conversation))))
}

fn bombs() -> Vec<Bomb> {
    let zeros = vec![0; 64 << 20];
    vec![
        ("gzip of 64 MiB", PUBLISH, "gzip", compressed(&gzip(&zeros))),
        ("zstd of 64 MiB", PUBLISH, "zstd", compressed(&zstd::bulk::compress(&zeros, 3).unwrap())),
        ("gzip in gzip", PUBLISH, "gzip", compressed(&gzip(&gzip(&zeros)))),
        (
            "gzip of the largest message, of zeros",
            PUBLISH,
            "gzip",
            compressed(&gzip(&zeros[..MESSAGE_BYTES])),
        ),
        (
            "two million requests of nothing",
            BATCH,
            "identity",
            raw_http2::message(false, MESSAGE_BYTES, &requests(0)),
        ),
        ("the same in gzip", BATCH, "gzip", compressed(&gzip(&requests(0)))),
        (
            "two million messages within messages",
            BATCH,
            "gzip",
            compressed(&gzip(&requests(MESSAGE_BYTES / 2))),
        ),
        ("what is not gzip", PUBLISH, "gzip", compressed(&[7; 1000])),
        ("half of a gzip", PUBLISH, "gzip", compressed(&gzip(&zeros[..1 << 20])[..500])),
        ("compressed without a word of it", PUBLISH, "identity", compressed(&gzip(&zeros[..1000]))),
        ("an encoding that nobody knows", PUBLISH, "brotli", compressed(&[7; 1000])),
        ("a length of 4 GiB", PUBLISH, "identity", raw_http2::message(false, u32::MAX as usize, &[10; 1000])),
        (
            "a length that is not there",
            PUBLISH,
            "identity",
            raw_http2::message(false, MESSAGE_BYTES, &[10; 1000]),
        ),
        ("a length that is too short", PUBLISH, "identity", raw_http2::message(false, 3, &[10; 1000])),
        ("a flag that nobody knows", PUBLISH, "identity", [&[7, 0, 0, 0, 1], &[10; 1][..]].concat()),
        ("half of a prefix", PUBLISH, "identity", vec![0, 0]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bombs_are_refused_within_bounded_memory() {
    // Made before anybody is connected: it takes a while.
    let bombs = bombs();
    let attacked = Attacked::start(&Launcher::new()).await;
    for (name, path, encoding, bytes) in bombs {
        let tried = attacked
            .under(name, 0, move |address, until| {
                side_by_side(CONNECTIONS, move |_| {
                    let bytes = bytes.clone();
                    async move {
                        let (calls, mut tried) = (Calls::connect(address).await, Tried::default());
                        while Instant::now() < until {
                            let status = calls.call(path, encoding, bytes.clone()).await;
                            tried.tries += 1;
                            tried.refused += u64::from(status != Some(OK));
                            // The decoders cost more in a build for tests than in a release.
                            sleep(PAUSE).await;
                        }
                        tried
                    }
                })
            })
            .await;
        assert_eq!(tried.refused, tried.tries, "{name}");
    }
    attacked.end().await;
}
