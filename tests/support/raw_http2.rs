//! A client that speaks HTTP/2 by hand, as no library would: frame by frame, right or wrong.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::PATIENCE;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame as the server sent it.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub payload: Vec<u8>,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_of(payload.len(), kind, flags, stream, payload)
}

/// The bytes of a frame that says it is so long.
pub fn frame_of(length: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Preface and settings, as every client begins.
pub fn hello() -> Vec<u8> {
    hello_with(&[])
}

/// The same with these settings.
pub fn hello_with(settings: &[(u16, u32)]) -> Vec<u8> {
    [PREFACE, &self::settings(settings)].concat()
}

/// A frame of settings.
pub fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// A header, without compression and not to be remembered.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        number(&mut bytes, text.len());
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// A length in HPACK, with seven bits in the first byte.
fn number(bytes: &mut Vec<u8>, mut number: usize) {
    const FIRST: usize = 127;
    if number < FIRST {
        bytes.push(u8::try_from(number).unwrap());
        return;
    }
    bytes.push(127);
    number -= FIRST;
    while number >= 128 {
        bytes.push(u8::try_from(number % 128).unwrap() | 128);
        number /= 128;
    }
    bytes.push(u8::try_from(number).unwrap());
}

/// The headers of a call of this method.
pub fn call_headers(path: &str, encoding: Option<&str>) -> Vec<u8> {
    let mut block = [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", path),
        header(":authority", "localhost"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat();
    if let Some(encoding) = encoding {
        block.extend(header("grpc-encoding", encoding));
    }
    block
}

/// A message with its gRPC prefix, which says whether it is compressed and how long it is.
pub fn message(compressed: bool, length: usize, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![u8::from(compressed)];
    message.extend(u32::try_from(length).unwrap().to_be_bytes());
    message.extend(bytes);
    message
}

/// A message in frames as long as a server must take.
pub fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    const FRAME_BYTES_MAX: usize = 16_384;
    let count = bytes.len().div_ceil(FRAME_BYTES_MAX);
    let chunks = bytes.chunks(FRAME_BYTES_MAX).enumerate();
    chunks
        .flat_map(|(at, chunk)| frame(DATA, if at + 1 == count { flags } else { 0 }, stream, chunk))
        .collect()
}

/// A connection that is written to by hand.
pub struct RawHttp2(pub TcpStream);

impl RawHttp2 {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Connected, with preface, settings and the acknowledgement of the server's.
    pub async fn greeted(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut raw = Self::connect(address).await;
        let greeting = [hello_with(settings), frame(SETTINGS, ACK, 0, &[])].concat();
        raw.send(&greeting).await.unwrap();
        raw
    }

    /// The same, whether the server takes it or closes.
    pub async fn greeted_if_taken(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address).await;
        drop(raw.send(&hello()).await);
        drop(raw.send(&frame(SETTINGS, ACK, 0, &[])).await);
        raw
    }

    /// Whether the server has closed, as far as can be seen without waiting. Throws away its bytes.
    pub fn is_closed(&self) -> bool {
        let mut nowhere = [0; 4096];
        loop {
            match self.0.try_read(&mut nowhere) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// The next frame; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], flags: head[4], payload })
    }

    /// The next frame that `wanted` wants; `None` if the connection ends before.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let found = async {
            loop {
                let frame = self.next().await?;
                if wanted(&frame) {
                    return Some(frame);
                }
            }
        };
        timeout(PATIENCE, found).await.expect("a frame or the end in time")
    }

    /// Reads up to the end of the connection, for so long at most. Returns the code of the last GOAWAY, if
    /// there was one, and whether the connection ended.
    pub async fn end_within(&mut self, patience: Duration) -> (Option<u32>, bool) {
        let mut code = None;
        let ended = timeout(patience, async {
            while let Some(frame) = self.next().await {
                if frame.kind == GOAWAY {
                    code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
                }
            }
        });
        let ended = ended.await.is_ok();
        (code, ended)
    }
}
