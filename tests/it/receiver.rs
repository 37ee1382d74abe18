//! An HTTP receiver that notes every request and answers as the test says, byte by byte where it must.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy, repeat},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::gateway::PATIENCE;

/// A request as it came in.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: String,
    /// When it was there as a whole.
    pub at: Instant,
    /// Whether the answer to it began with a 2xx status and is complete.
    pub taken: bool,
}

/// What the receiver does with a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A status, further headers (`name: value` lines, each with its end), a body.
    Status(u16, String, String),
    /// The same, so much later.
    Late(Duration, u16),
    /// Nothing, until the other end gives up.
    Nothing,
    /// The end of the connection.
    Close,
    /// The start of a head, then the end of the connection.
    HalfHead,
    /// A 200 and the start of its body, then the end of the connection.
    HalfBody,
    /// A 200 with a body without end.
    EndlessBody,
    /// A 200 and the start of its body, then nothing until the other end gives up.
    StalledBody,
    /// A 200 with a body without end, a few bytes in so much time.
    TrickledBody(Duration),
    /// A 200 with a body of so many bytes.
    Long(usize),
    /// Bytes that are no HTTP.
    Garbage,
    /// The first, and then the second as long as it is taken, some hundred kilobytes a second.
    Flood(String, String),
    /// These bytes, and then nothing until the other end gives up.
    Raw(Vec<u8>),
}

impl Answer {
    /// A status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::Status(status, String::new(), String::new())
    }

    /// A status with one header.
    pub fn with_header(status: u16, name: &str, value: impl fmt::Display) -> Self {
        Self::Status(status, format!("{name}: {value}\r\n"), String::new())
    }

    /// A status with a body.
    pub fn with_body(status: u16, body: impl Into<String>) -> Self {
        Self::Status(status, String::new(), body.into())
    }
}

type Script = Box<dyn FnMut(&Request) -> Answer + Send>;

/// Listens on loopback until it is dropped.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    _connections: JoinSet<()>,
}

struct Shared {
    seen: watch::Sender<Vec<Request>>,
    script: Mutex<Script>,
}

impl Receiver {
    /// A receiver that answers 200.
    pub async fn start() -> Self {
        Self::with(|_| Answer::status(200)).await
    }

    /// A receiver that answers so to every request.
    pub async fn always(answer: Answer) -> Self {
        Self::with(move |_| answer.clone()).await
    }

    /// A receiver that gives these answers in turn, and then 200.
    pub async fn first(answers: impl IntoIterator<Item = Answer>) -> Self {
        let mut answers: VecDeque<_> = answers.into_iter().collect();
        Self::with(move |_| answers.pop_front().unwrap_or(Answer::status(200))).await
    }

    /// A receiver that asks `script` about every request.
    pub async fn with(script: impl FnMut(&Request) -> Answer + Send + 'static) -> Self {
        Self::on("127.0.0.1:0", Box::new(script)).await
    }

    /// A receiver at this address that answers 200.
    pub async fn at(address: &str) -> Self {
        Self::on(address, Box::new(|_| Answer::status(200))).await
    }

    async fn on(address: &str, script: Script) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { seen: watch::Sender::new(Vec::new()), script: Mutex::new(script) });
        let mut tasks = JoinSet::new();
        let serving = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.unwrap();
                        let shared = Arc::clone(&serving);
                        // How a connection ends is the other end's business.
                        connections.spawn(async move { drop(serve(stream, &shared).await) });
                    }
                    Some(ended) = connections.join_next() => ended.unwrap(),
                }
            }
        });
        Self { address, shared, _connections: tasks }
    }

    /// From now on asks `script` about every request.
    pub fn now(&self, script: impl FnMut(&Request) -> Answer + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL that leads here.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Everything that came in so far.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.borrow().clone()
    }

    /// Waits until so many requests have come in; returns all that there are then.
    pub async fn wait_for(&self, count: usize) -> Vec<Request> {
        self.wait_until(&format!("{count} requests"), |seen| seen.len() >= count).await
    }

    /// Waits until what came in is as `wanted` wants it, and returns it.
    pub async fn wait_until(&self, what: &str, wanted: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        let mut seen = self.shared.seen.subscribe();
        let waited = timeout(PATIENCE, seen.wait_for(|seen| wanted(seen))).await;
        match waited {
            Ok(seen) => seen.expect("the receiver runs").clone(),
            Err(_) => {
                let seen = self.seen();
                panic!("not {what} in time, but {}: {:#?}", seen.len(), &seen[..seen.len().min(20)])
            }
        }
    }
}

impl Request {
    /// The value of a header that must be there once.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next().unwrap_or_else(|| panic!("no {name} in {self:#?}"));
        assert!(values.next().is_none(), "{name} is there twice");
        value.to_str().unwrap()
    }

    /// The same with another value of a header.
    pub fn with_header(&self, name: &'static str, value: &str) -> Self {
        let mut other = self.clone();
        other.headers.insert(name, value.parse().unwrap());
        other
    }

    /// What tells deliveries apart.
    #[track_caller]
    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} {:.200}", self.method, self.path, self.headers, self.body)
    }
}

/// Serves the requests of one connection.
async fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await? {
        let answer = (shared.script.lock().unwrap())(&request);
        let place = note(shared, request);
        match answer {
            Answer::Status(status, headers, body) => {
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
                stream.write_all(answer.as_bytes()).await?;
                mark(shared, place, status);
            }
            Answer::Late(wait, status) => {
                sleep(wait).await;
                stream
                    .write_all(format!("HTTP/1.1 {status} -\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .await?;
                mark(shared, place, status);
            }
            Answer::Nothing => return drain(&mut stream).await,
            Answer::Close => return Ok(()),
            Answer::HalfHead => return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await,
            Answer::HalfBody => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
            }
            Answer::EndlessBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                loop {
                    stream.write_all(b"10\r\nno end in sight!\r\n").await?;
                }
            }
            Answer::StalledBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await?;
                return drain(&mut stream).await;
            }
            Answer::TrickledBody(every) => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
                loop {
                    stream.write_all(b"1\r\n.\r\n").await?;
                    sleep(every).await;
                }
            }
            Answer::Long(length) => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).await?;
                copy(&mut repeat(b'x').take(u64::try_from(length).unwrap()), &mut stream).await?;
            }
            Answer::Flood(first, then) => {
                let piece = then.repeat(4 * 1024 / then.len() + 1);
                stream.write_all(first.as_bytes()).await?;
                loop {
                    stream.write_all(piece.as_bytes()).await?;
                    // Others run on this thread, too.
                    sleep(Duration::from_millis(5)).await;
                }
            }
            Answer::Raw(bytes) => {
                stream.write_all(&bytes).await?;
                return drain(&mut stream).await;
            }
            Answer::Garbage => return stream.write_all(b"\x16\x03\x01 this is not HTTP\r\n\r\n").await,
        }
    }
    Ok(())
}

fn note(shared: &Shared, request: Request) -> usize {
    let mut place = 0;
    shared.seen.send_modify(|seen| {
        place = seen.len();
        seen.push(request);
    });
    place
}

fn mark(shared: &Shared, place: usize, status: u16) {
    if (200..300).contains(&status) {
        shared.seen.send_modify(|seen| seen[place].taken = true);
    }
}

/// Reads on until the other end closes.
async fn drain(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Reads one request; none at the end of the connection.
async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let mut headers = HeaderMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let Some((name, value)) =
            line.trim_end().split_once(": ").or_else(|| line.trim_end().split_once(':'))
        else {
            break;
        };
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value).unwrap());
    }
    let length: usize = headers["content-length"].to_str().unwrap().parse().unwrap();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body = String::from_utf8(body).unwrap();
    Ok(Some(Request { method, path, headers, body, at: Instant::now(), taken: false }))
}
