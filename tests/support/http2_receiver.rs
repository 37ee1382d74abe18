//! A receiver over HTTP/2 and TLS whose frames a test writes: right, wrong, or none.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{
    certificates::Authority,
    raw_http2::{
        ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame,
        settings,
    },
    receiver::{Log, Receiver, Request},
};

pub const NO_ERROR: u32 = 0;
pub const REFUSED_STREAM: u32 = 7;
pub const HTTP_1_1_REQUIRED: u32 = 13;

/// A POST that has arrived as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Post {
    /// The number of its connection, from 0.
    pub connection: usize,
    /// The number of its stream: 1, 3, 5 and so on.
    pub stream: u32,
}

impl Post {
    /// A response of status 200 without a body.
    pub fn ok(self) -> Vec<u8> {
        const STATUS_200: u8 = 0x88;
        frame(HEADERS, END_HEADERS | END_STREAM, self.stream, &[STATUS_200])
    }

    /// The end of its stream.
    pub fn reset(self, code: u32) -> Vec<u8> {
        frame(RST_STREAM, 0, self.stream, &code.to_be_bytes())
    }
}

/// No stream after `last` is processed any more.
pub fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
}

type Script = Arc<Mutex<dyn FnMut(Post) -> Vec<u8> + Send>>;

impl Receiver {
    /// A receiver that speaks HTTP/2, and HTTP/1.1 if its client does not. Over HTTP/2 `script` writes the
    /// frames that follow each POST; nothing else is sent but settings and acknowledgements. Over HTTP/1.1 it
    /// responds with 200.
    pub async fn with_frames(script: impl FnMut(Post) -> Vec<u8> + Send + 'static) -> Self {
        Self::with_frames_after(settings(&[]), script).await
    }

    /// The same with other frames at the beginning.
    pub async fn with_frames_after(
        greeting: Vec<u8>,
        script: impl FnMut(Post) -> Vec<u8> + Send + 'static,
    ) -> Self {
        let authority = Authority::new();
        let config = authority.server_config("localhost", &["h2", "http/1.1"], None);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let script: Script = Arc::new(Mutex::new(script));
        let start = move |stream: TcpStream, number: usize, log: Arc<Log>| {
            let (acceptor, greeting, script) = (acceptor.clone(), greeting.clone(), Arc::clone(&script));
            async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    stream.write_all(&greeting).await.unwrap();
                    // Ends with an error when the client goes away in the middle.
                    drop(serve(stream, number, &log, &script).await);
                } else {
                    Self::respond_over_http1(stream, number, log).await;
                }
            }
        };
        Self::listen("127.0.0.1:0", Some(authority), start).await
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    connection: usize,
    log: &Log,
    script: &Script,
) -> std::io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    assert_eq!(preface, PREFACE);
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, s, t, u, v] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).unwrap()];
        stream.read_exact(&mut payload).await?;
        let number = u32::from_be_bytes([s, t, u, v]);
        let response = match kind {
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, &payload),
            DATA if flags & END_STREAM != 0 => {
                log.add(Request {
                    connection,
                    version: http::Version::HTTP_2,
                    ..Request::new("", String::from_utf8(payload).unwrap())
                });
                (script.lock().unwrap())(Post { connection, stream: number })
            }
            _ => continue,
        };
        stream.write_all(&response).await?;
    }
}
