//! Bytes that are no HTTP/2, or no gRPC: each on a connection of its own, which the gateway ends or resets.

use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

use super::{Attacked, Tried};
use crate::support::{
    process::Launcher,
    raw_http2::{
        self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PRIORITY,
        PUSH_PROMISE, RST_STREAM, RawHttp2, SETTINGS, WINDOW_UPDATE, frame, frame_of, header,
    },
};

/// The time that the gateway has to respond.
const PATIENCE: Duration = Duration::from_secs(15);
const METHOD: &str = "/tidings.v1.EventService/PublishEvent";

/// A request over HTTP/1.1 with these lines after the first.
fn http1(rest: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nhost: localhost\r\n{rest}").into_bytes()
}

/// The bytes of a connection from the first on, and their name.
fn from_the_first_byte() -> Vec<(&'static str, Vec<u8>)> {
    let mut wrong_preface = raw_http2::PREFACE.to_vec();
    wrong_preface[14] = b'X';
    vec![
        ("a preface with one wrong byte", wrong_preface),
        ("a preface in lower case", raw_http2::PREFACE.to_ascii_lowercase()),
        ("HTTP/1.1 that is no call", http1("connection: close\r\ncontent-length: 5\r\n\r\nhello")),
        ("HTTP/1.1 that asks for h2c", http1("connection: close, upgrade\r\nupgrade: h2c\r\n\r\n")),
        ("HTTP/1.1 with two lengths", http1("content-length: 5\r\ncontent-length: 6\r\n\r\nhello!")),
        ("HTTP/1.1 with a header without a name", http1(": x\r\n\r\n")),
        ("frames without a preface", raw_http2::settings(&[])),
        ("zeros", vec![0; 100]),
        ("a TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("SSH", b"SSH-2.0-x\r\n".to_vec()),
    ]
}

/// The bytes after the greeting.
fn after_the_greeting() -> Vec<(&'static str, Vec<u8>)> {
    let call = raw_http2::call_headers(METHOD, None);
    let open = frame(HEADERS, END_HEADERS, 1, &call);
    let without = |name: &str| {
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", METHOD),
            ("content-type", "application/grpc"),
        ];
        let block: Vec<_> = fields.iter().filter(|(field, _)| *field != name).collect();
        let block: Vec<u8> = block.iter().flat_map(|(name, value)| header(name, value)).collect();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    };
    let with = |name: &str, value: &str| {
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &[call.clone(), header(name, value)].concat())
    };
    let max = 0x7fff_ffff_u32.to_be_bytes();
    vec![
        // Sizes.
        ("settings of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("an acknowledgement of settings with content", frame(SETTINGS, ACK, 0, &[0; 6])),
        ("a ping of 7 bytes", frame(PING, 0, 0, &[0; 7])),
        ("a window update of 3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("a reset of 3 bytes", [open.clone(), frame(RST_STREAM, 0, 1, &[0; 3])].concat()),
        ("a goodbye of 4 bytes", frame(GOAWAY, 0, 0, &[0; 4])),
        ("a frame of 16 MiB", frame_of(0x00ff_ffff, DATA, 0, 1, &[0; 64])),
        ("headers longer than they may be", frame_of(70_000, HEADERS, END_HEADERS, 1, &[0; 64])),
        ("padding longer than the frame", [open.clone(), frame(DATA, 8, 1, &[200, 0, 0])].concat()),
        ("headers padded to nothing", frame(HEADERS, END_HEADERS | 8, 1, &[9, 0])),
        ("a priority of 4 bytes", [open.clone(), frame(PRIORITY, 0, 1, &[0; 4])].concat()),
        // Order.
        ("data on stream 0", frame(DATA, 0, 0, b"x")),
        ("data on a stream that nobody opened", frame(DATA, 0, 1, b"x")),
        ("headers on stream 0", frame(HEADERS, END_HEADERS, 0, &call)),
        ("headers on a stream of the server's", frame(HEADERS, END_HEADERS, 2, &call)),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &call)),
        ("another frame within headers", [frame(HEADERS, 0, 1, &call), frame(PING, 0, 0, &[0; 8])].concat()),
        (
            "a continuation of another stream",
            [frame(HEADERS, 0, 1, &call), frame(CONTINUATION, END_HEADERS, 3, &[])].concat(),
        ),
        (
            "a stream below the last",
            [frame(HEADERS, END_HEADERS, 5, &call), frame(HEADERS, END_HEADERS, 3, &call)].concat(),
        ),
        ("a promise of a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("a reset of a stream that nobody opened", frame(RST_STREAM, 0, 7, &[0, 0, 0, 8])),
        ("a window update of a stream that nobody opened", frame(WINDOW_UPDATE, 0, 7, &[0, 0, 0, 1])),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        ("a ping on a stream", frame(PING, 0, 1, &[0; 8])),
        ("a goodbye on a stream", frame(GOAWAY, 0, 1, &[0; 8])),
        (
            "data after the end",
            [frame(HEADERS, END_HEADERS | END_STREAM, 1, &call), frame(DATA, 0, 1, b"x")].concat(),
        ),
        // Values.
        ("settings with a window of 2^31", raw_http2::settings(&[(4, 0x8000_0000)])),
        ("settings with frames of 1 byte", raw_http2::settings(&[(5, 1)])),
        ("settings with a push of 2", raw_http2::settings(&[(2, 2)])),
        ("a window update of 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window of the connection past 2^31", frame(WINDOW_UPDATE, 0, 0, &max).repeat(2)),
        ("a window of a stream past 2^31", [open.clone(), frame(WINDOW_UPDATE, 0, 1, &max)].concat()),
        (
            "a window that settings and updates make too large",
            [
                open.clone(),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0, 0]),
                raw_http2::settings(&[(4, 0x7fff_ffff)]),
            ]
            .concat(),
        ),
        // Headers.
        ("an index that stands for nothing", frame(HEADERS, END_HEADERS, 1, &[0xff, 0x7f])),
        ("an index of 0", frame(HEADERS, END_HEADERS, 1, &[0x80])),
        ("a number without an end", frame(HEADERS, END_HEADERS, 1, &[0xff; 40])),
        ("a table larger than it may be", frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xff, 0xff, 0xff, 0x07])),
        (
            "an invalid Huffman code",
            frame(HEADERS, END_HEADERS, 1, &[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x00]),
        ),
        ("a value that is longer than the frame", frame(HEADERS, END_HEADERS, 1, &[0x00, 0x01, b'x', 0x7e])),
        ("no method", without(":method")),
        ("no path", without(":path")),
        (
            "two methods",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[header(":method", "POST"), call.clone()].concat()),
        ),
        ("a pseudo header after others", with(":protocol", "x")),
        ("a header in upper case", with("X-Upper", "x")),
        ("a header of a connection", with("connection", "close")),
        ("an encoding of HTTP/1.1", with("transfer-encoding", "chunked")),
        ("a header with a line break", with("x-break", "a\r\nb: c")),
        ("a header without a name", with("", "x")),
        (
            "a length that lies",
            [
                frame(HEADERS, END_HEADERS, 1, &[call.clone(), header("content-length", "9")].concat()),
                frame(DATA, END_STREAM, 1, b"x"),
            ]
            .concat(),
        ),
    ]
}

/// Sends bytes, and waits for the gateway's reaction: it closes, or resets the stream.
async fn is_refused(raw: &mut RawHttp2) -> bool {
    let ends = async {
        loop {
            match raw.next().await {
                None => return true,
                Some(frame) if [GOAWAY, RST_STREAM].contains(&frame.kind) => return true,
                // A response that is an error of HTTP.
                Some(frame) if frame.kind == HEADERS && frame.flags & END_STREAM != 0 => return true,
                Some(_) => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, ends).await.unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_that_are_no_http_2_end_their_connection_or_stream_and_nothing_else() {
    const TIMES: u64 = 5;
    let attacked = Attacked::start(&Launcher::new()).await;
    let cases = from_the_first_byte().len() + after_the_greeting().len();
    let tried = attacked
        .under("malformed HTTP/2", 0, async |address, _| {
            let mut tried = Tried::default();
            for _ in 0..TIMES {
                for (name, bytes) in from_the_first_byte() {
                    let mut raw = RawHttp2::connect(address).await;
                    drop(raw.send(&bytes).await);
                    assert!(is_refused(&mut raw).await, "{name} was taken");
                    tried += Tried { tries: 1, refused: 1 };
                }
                for (name, bytes) in after_the_greeting() {
                    let mut raw = RawHttp2::greeted(address, &[]).await;
                    drop(raw.send(&bytes).await);
                    assert!(is_refused(&mut raw).await, "{name} was taken");
                    tried += Tried { tries: 1, refused: 1 };
                }
            }
            tried
        })
        .await;
    assert_eq!(tried.refused, TIMES * cases as u64);
    attacked.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn garbage_and_incomplete_calls_delay_nobody() {
    let attacked = Attacked::start(&Launcher::new()).await;
    attacked
        .under("garbage after the greeting", 0, async |address, until| {
            let (mut random, mut tried) = (StdRng::seed_from_u64(9), Tried::default());
            while tokio::time::Instant::now() < until {
                let mut raw = RawHttp2::greeted(address, &[]).await;
                let mut garbage = vec![0; random.random_range(9..4096)];
                random.fill_bytes(&mut garbage);
                // A length that the rest is enough for: it would be waited for otherwise.
                (garbage[0], garbage[1]) = (0, 0);
                drop(raw.send(&garbage).await);
                drop(raw);
                tried.tries += 1;
            }
            tried
        })
        .await;
    attacked
        .under("calls that break off at every byte", 0, async |address, until| {
            let call = frame(HEADERS, END_HEADERS, 1, &raw_http2::call_headers(METHOD, None));
            let body = raw_http2::data(1, END_STREAM, &raw_http2::message(false, 20, &[10; 20]));
            let whole = [raw_http2::hello(), frame(SETTINGS, ACK, 0, &[]), call, body].concat();
            let mut tried = Tried::default();
            for length in (0..whole.len()).cycle() {
                if tokio::time::Instant::now() >= until {
                    break;
                }
                let mut raw = RawHttp2::connect(address).await;
                drop(raw.send(&whole[..length]).await);
                drop(raw);
                tried.tries += 1;
            }
            tried
        })
        .await;
    attacked.end().await;
}
