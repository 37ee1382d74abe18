//! Floods: frames of one kind at full speed, from clients that read the responses and from clients that do
//! not.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout_at},
};

use super::{Attacked, Tried, side_by_side};
use crate::support::{
    process::Launcher,
    raw_http2::{
        self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, RawHttp2,
        WINDOW_UPDATE, frame, header,
    },
};

/// Connections of an attacker.
const CONNECTIONS: usize = 2;
/// Frames that are written at a time.
const FRAMES: u32 = 500;
const METHOD: &str = "/tidings.v1.SubscriptionService/ListSubscriptions";

/// Makes the next frames of a connection, from the number of the frames that it had before. The first also
/// open what the others need.
type Frames = fn(u32) -> Vec<u8>;

/// The kind of frames on an attacker's connection.
const FLOODS: [(&str, Frames); 12] = [
    ("settings", |_| raw_http2::settings(&[(4, 65_535)]).repeat(FRAMES as usize)),
    ("pings", |_| frame(PING, 0, 0, &[7; 8]).repeat(FRAMES as usize)),
    ("priorities", |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 7]).repeat(FRAMES as usize)),
    ("window updates of one byte", |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(FRAMES as usize)),
    ("empty data", |sent| in_a_stream(sent, &frame(DATA, 0, 1, &[]))),
    ("data of one byte", |sent| in_a_stream(sent, &frame(DATA, 0, 1, b"x"))),
    ("empty continuations", |sent| in_headers(sent, &frame(CONTINUATION, 0, 1, &[]))),
    ("continuations of headers without an end", |sent| {
        in_headers(sent, &frame(CONTINUATION, 0, 1, &header("x-flood", &"x".repeat(8000))))
    }),
    ("calls that are reset at once", |sent| {
        let call = raw_http2::call_headers(METHOD, None);
        streams(sent, |id| {
            [frame(HEADERS, END_HEADERS, id, &call), frame(RST_STREAM, 0, id, &[0, 0, 0, 8])].concat()
        })
    }),
    ("whole calls that are reset at once", |sent| {
        let call = raw_http2::call_headers(METHOD, None);
        streams(sent, |id| {
            [
                frame(HEADERS, END_HEADERS, id, &call),
                raw_http2::data(id, END_STREAM, &raw_http2::message(false, 0, &[])),
                frame(RST_STREAM, 0, id, &[0, 0, 0, 8]),
            ]
            .concat()
        })
    }),
    ("streams past the bound on streams", |sent| {
        let call = raw_http2::call_headers(METHOD, None);
        streams(sent, |id| frame(HEADERS, END_HEADERS, id, &call))
    }),
    ("headers that unpack to many times their size", |sent| {
        // One large header is remembered, and then repeated with a byte each.
        let mut remembered = vec![0x40];
        remembered.extend(&header("x-bomb", &"x".repeat(3900))[1..]);
        let call = raw_http2::call_headers(METHOD, None);
        let first = [call.clone(), if sent == 0 { remembered } else { vec![] }].concat();
        let begin = frame(HEADERS, END_HEADERS | END_STREAM, 2 * sent + 1, &first);
        let bomb = [call, vec![0xbe; 15_000]].concat();
        [begin, frame(HEADERS, END_HEADERS | END_STREAM, 2 * sent + 3, &bomb)].concat()
    }),
];

/// Frames within a call.
fn in_a_stream(sent: u32, repeated: &[u8]) -> Vec<u8> {
    let open = frame(HEADERS, END_HEADERS, 1, &raw_http2::call_headers(METHOD, None));
    [if sent == 0 { open } else { vec![] }, repeated.repeat(FRAMES as usize)].concat()
}

/// Frames within the headers of a call.
fn in_headers(sent: u32, repeated: &[u8]) -> Vec<u8> {
    const COUNT: usize = 20;
    let open = frame(HEADERS, 0, 1, &raw_http2::call_headers(METHOD, None));
    [if sent == 0 { open } else { vec![] }, repeated.repeat(COUNT)].concat()
}

/// Frames of streams of their own.
fn streams(sent: u32, of_one: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (sent..sent + FRAMES).flat_map(|number| of_one(2 * number + 1)).collect()
}

/// Floods one connection after another until the time is up. A refusal is a connection that the gateway
/// ended.
async fn flood(address: std::net::SocketAddr, until: Instant, frames: Frames, reads: bool) -> Tried {
    let mut tried = Tried::default();
    while Instant::now() < until {
        let raw = RawHttp2::greeted(address, &[]).await;
        let (mut read, mut write) = raw.0.into_split();
        let reading = tokio::spawn(async move {
            let mut nowhere = vec![0; 65_536];
            // One that does not read keeps the connection open all the same.
            while !reads || read.read(&mut nowhere).await.is_ok_and(|count| count > 0) {
                if !reads {
                    std::future::pending::<()>().await;
                }
            }
        });
        let mut sent = 0;
        loop {
            let bytes = frames(sent);
            match timeout_at(until, write.write_all(&bytes)).await {
                Ok(Ok(())) => {
                    sent += FRAMES;
                    tried.tries += u64::from(FRAMES);
                }
                Ok(Err(_)) => {
                    tried.refused += 1;
                    break;
                }
                // It is not read on, or the time is up.
                Err(_) => break,
            }
            if Instant::now() >= until {
                break;
            }
        }
        reading.abort();
    }
    tried
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn floods_of_frames_delay_nobody_and_take_no_memory() {
    let attacked = Attacked::start(&Launcher::new()).await;
    for (name, frames) in FLOODS {
        attacked
            .under(name, 0, move |address, until| {
                // Half of them read the responses.
                side_by_side(CONNECTIONS, move |number| flood(address, until, frames, number % 2 == 0))
            })
            .await;
    }
    attacked.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_come_and_go_delay_nobody() {
    let attacked = Attacked::start(&Launcher::new()).await;
    attacked
        .under("connections that come and go", 0, |address, until| {
            side_by_side(CONNECTIONS, move |number| async move {
                let mut tried = Tried::default();
                while Instant::now() < until {
                    let raw = if number % 2 == 0 {
                        RawHttp2::connect(address).await
                    } else {
                        RawHttp2::greeted(address, &[]).await
                    };
                    drop(raw);
                    tried.tries += 1;
                    // Ports are used up otherwise, on this side.
                    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                }
                tried
            })
        })
        .await;
    attacked.end().await;
}
