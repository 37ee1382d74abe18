//! A receiver that does with each connection what the test says, byte by byte.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

/// Longest wait for anything that a test expects.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An answer that keeps the connection.
pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A request as it came over the wire.
#[derive(Debug, PartialEq)]
pub struct Received {
    /// The number of its connection, from 0.
    pub connection: usize,
    /// Everything up to and with the empty line.
    pub head: String,
    /// What follows, as long as `content-length` says.
    pub body: Vec<u8>,
}

/// Listens on loopback until it is dropped.
pub struct Receiver {
    /// Where it listens.
    pub address: SocketAddr,
    received: mpsc::UnboundedReceiver<Received>,
    _tasks: JoinSet<()>,
}

/// One connection, for a script to read from and write to.
pub struct Connection {
    /// Its number, from 0.
    pub number: usize,
    stream: TcpStream,
    received: mpsc::UnboundedSender<Received>,
}

impl Receiver {
    /// Runs `script` on every connection; a connection is closed when its script ends.
    pub async fn start<F>(script: impl Fn(Connection) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, received) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut scripts = JoinSet::new();
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                scripts.spawn(script(Connection { number, stream, received: sender.clone() }));
            }
        });
        Self { address, received, _tasks: tasks }
    }

    /// Answers every request with `answer`.
    pub async fn answering(answer: impl Into<String>) -> Self {
        let answer = answer.into();
        Self::start(move |mut connection| {
            let answer = answer.clone();
            async move {
                while connection.request().await {
                    connection.send(&answer).await;
                }
            }
        })
        .await
    }

    /// A URL that leads here.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next request that came in whole.
    pub async fn next(&mut self) -> Received {
        let received = timeout(PATIENCE, self.received.recv()).await.expect("a request within the patience");
        received.expect("the receiver runs")
    }

    /// The requests that came in whole and were not taken yet.
    pub fn so_far(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }
}

impl Connection {
    /// Reads one request and notes it. False at the end of the connection.
    pub async fn request(&mut self) -> bool {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return false,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        if self.stream.read_exact(&mut body).await.is_err() {
            return false;
        }
        self.received.send(Received { connection: self.number, head, body }).is_ok()
    }

    /// Sends these bytes. False once the other end is gone.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Waits until the other end closes, in silence.
    pub async fn wait_for_end(&mut self) {
        let mut buffer = [0; 1024];
        while matches!(self.stream.read(&mut buffer).await, Ok(1..)) {}
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}
