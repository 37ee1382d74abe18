//! An HTTP receiver on loopback, over TCP or TLS. It notes every request and responds as the test says: well,
//! badly, or byte by byte.

use std::{
    collections::VecDeque,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Version};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::pki_types::CertificateDer;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{PATIENCE, certificates::Authority};

/// A whole response, after which the connection can be used again.
pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// The path whose requests a receiver with TLS resets instead of responding.
pub const RESET: &str = "/reset";

/// A request as it came in.
#[derive(Clone)]
pub struct Request {
    /// The number of its connection, from 0.
    pub connection: usize,
    pub version: Version,
    pub method: String,
    pub path: String,
    /// The authority of an HTTP/2 request.
    pub authority: Option<String>,
    /// The head as it came over TCP, up to and with the empty line.
    pub head: String,
    pub headers: HeaderMap,
    pub body: String,
    /// When it was there as a whole.
    pub at: Instant,
    /// Whether the response was sent and began with a 2xx status.
    pub taken: bool,
    /// The name that TLS asked for.
    pub server_name: Option<String>,
    /// The certificate that the client showed.
    pub certificate: Option<CertificateDer<'static>>,
}

/// The reaction of a receiver to a request.
#[derive(Clone, Debug)]
pub enum Response {
    /// Sends these bytes, and waits for the next request or the end.
    Bytes(Vec<u8>),
    /// The same after a while.
    Late(Duration, Vec<u8>),
    /// Sends these bytes, and closes the connection.
    Last(Vec<u8>),
    /// Sends the first, and then the second for ever: this many bytes at a time, with a pause after them.
    Repeat(Vec<u8>, Vec<u8>, usize, Duration),
}

impl Response {
    /// A status and nothing else.
    pub fn status(status: u16) -> Self {
        Self::whole(status, "", "")
    }

    /// A status with one header.
    pub fn with_header(status: u16, name: &str, value: impl fmt::Display) -> Self {
        Self::whole(status, &format!("{name}: {value}\r\n"), "")
    }

    /// A status with a body.
    pub fn with_body(status: u16, body: &str) -> Self {
        Self::whole(status, "", body)
    }

    fn whole(status: u16, headers: &str, body: &str) -> Self {
        Self::bytes(format!("HTTP/1.1 {status} -\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))
    }

    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bytes(bytes.as_ref().to_vec())
    }

    pub fn last(bytes: impl AsRef<[u8]>) -> Self {
        Self::Last(bytes.as_ref().to_vec())
    }

    /// A status after a while.
    pub fn late(wait: Duration, status: u16) -> Self {
        Self::Late(wait, format!("HTTP/1.1 {status} -\r\ncontent-length: 0\r\n\r\n").into())
    }

    /// Nothing, until the other end gives up.
    pub fn nothing() -> Self {
        Self::bytes("")
    }

    /// The end of the connection.
    pub fn close() -> Self {
        Self::last("")
    }

    /// The start of a head, then the end of the connection.
    pub fn half_head() -> Self {
        Self::last("HTTP/1.1 200 OK\r\ncontent-le")
    }

    /// A 200 and the start of its body, then the end of the connection.
    pub fn half_body() -> Self {
        Self::last("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
    }

    /// A 200 and the start of its body, then nothing until the other end gives up.
    pub fn stalled_body() -> Self {
        Self::bytes("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
    }

    /// A 200 with a body without end, as fast as it is taken.
    pub fn endless_body() -> Self {
        Self::repeat("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "10\r\nno end in sight!\r\n")
    }

    /// A 200 with a body without end, a few bytes at a time.
    pub fn trickled_body(pause: Duration) -> Self {
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        Self::Repeat(head.into(), "1\r\n.\r\n".into(), 6, pause)
    }

    /// The first, and then the second as fast as it is taken.
    pub fn repeat(first: &str, then: impl AsRef<[u8]>) -> Self {
        // In pieces of some size: system calls would be the bound otherwise.
        let then = then.as_ref().repeat(16 * 1024 / then.as_ref().len() + 1);
        let length = then.len();
        Self::Repeat(first.into(), then, length, Duration::ZERO)
    }

    /// The same at some hundred kilobytes a second, so that others run on this thread, too.
    pub fn flood(first: &str, then: &str) -> Self {
        let then = then.repeat(4 * 1024 / then.len() + 1);
        let length = then.len();
        Self::Repeat(first.into(), then.into(), length, Duration::from_millis(5))
    }

    /// Bytes that are no HTTP.
    pub fn garbage() -> Self {
        Self::last("\x16\x03\x01 this is not HTTP\r\n\r\n")
    }
}

type Script = Box<dyn FnMut(&Request) -> Response + Send>;

/// Listens on loopback until it is dropped.
pub struct Receiver {
    pub address: SocketAddr,
    authority: Option<Authority>,
    log: Arc<Log>,
    script: Arc<Mutex<Script>>,
    /// How many requests were taken from it.
    taken: usize,
    _accepting: JoinSet<()>,
}

/// Received requests.
#[derive(Default)]
pub struct Log {
    connections: watch::Sender<usize>,
    /// Connections that ended.
    closed: watch::Sender<usize>,
    requests: watch::Sender<Vec<Request>>,
}

impl Log {
    /// Notes a request.
    pub fn add(&self, request: Request) {
        self.requests.send_modify(|requests| requests.push(request));
    }
}

/// How a receiver speaks TLS.
pub struct Tls<'a> {
    /// The protocols that it offers.
    pub protocols: &'a [&'a str],
    /// How long its bodies are.
    pub body_bytes: usize,
    /// The name that its certificate is for.
    pub name: &'a str,
    /// The authority of the certificates that its clients must show.
    pub clients: Option<&'a Authority>,
}

impl Default for Tls<'_> {
    fn default() -> Self {
        Self { protocols: &["h2", "http/1.1"], body_bytes: 2, name: "localhost", clients: None }
    }
}

impl Receiver {
    /// A receiver that responds with 200.
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0").await
    }

    /// The same at this address.
    pub async fn at(address: &str) -> Self {
        Self::scripted(address, Box::new(|_| Response::status(200))).await
    }

    /// A receiver that gives this response to every request.
    pub async fn always(response: Response) -> Self {
        Self::with(move |_| response.clone()).await
    }

    /// A receiver that gives these responses in turn, and then 200.
    pub async fn first(responses: impl IntoIterator<Item = Response>) -> Self {
        let mut responses: VecDeque<_> = responses.into_iter().collect();
        Self::with(move |_| responses.pop_front().unwrap_or(Response::status(200))).await
    }

    /// A receiver that asks `script` about every request.
    pub async fn with(script: impl FnMut(&Request) -> Response + Send + 'static) -> Self {
        Self::scripted("127.0.0.1:0", Box::new(script)).await
    }

    async fn scripted(address: &str, script: Script) -> Self {
        let script = Arc::new(Mutex::new(script));
        let asked = Arc::clone(&script);
        let mut receiver = Self::listen(address, None, move |stream, number, log| {
            serve(Connection::new(stream, number, log), Arc::clone(&asked))
        })
        .await;
        receiver.script = script;
        receiver
    }

    /// Runs `script` on every connection, and closes the connection when it ends.
    pub async fn on_connections<F>(script: impl Fn(Connection) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let start = move |stream, number, log| script(Connection::new(stream, number, log));
        Self::listen("127.0.0.1:0", None, start).await
    }

    /// A receiver with a certificate of an authority of its own, over HTTP/1.1 or HTTP/2.
    pub async fn with_tls(tls: Tls<'_>) -> Self {
        let authority = Authority::new();
        let config = authority.server_config(tls.name, tls.protocols, tls.clients);
        let (acceptor, body_bytes) = (TlsAcceptor::from(Arc::new(config)), tls.body_bytes);
        let start = move |stream, number, log| serve_tls(acceptor.clone(), stream, number, log, body_bytes);
        Self::listen("127.0.0.1:0", Some(authority), start).await
    }

    /// The same for localhost and any client: speaks these protocols, and responds with `body_bytes` bytes.
    pub async fn speaking(protocols: &[&str], body_bytes: usize) -> Self {
        Self::with_tls(Tls { protocols, body_bytes, ..Tls::default() }).await
    }

    /// Responds to every request of a connection with 200.
    pub(super) async fn respond_over_http1<S>(stream: S, number: usize, log: Arc<Log>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut connection = Connection::new(stream, number, log);
        while connection.request().await.is_some() && connection.send(OK).await {}
    }

    pub(super) async fn listen<F>(
        address: &str,
        authority: Option<Authority>,
        serve: impl Fn(TcpStream, usize, Arc<Log>) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (log, mut accepting) = (Arc::<Log>::default(), JoinSet::new());
        let noting = Arc::clone(&log);
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                noting.connections.send_modify(|count| *count += 1);
                let (served, noting) = (serve(stream, number, Arc::clone(&noting)), Arc::clone(&noting));
                serving.spawn(async move {
                    served.await;
                    noting.closed.send_modify(|count| *count += 1);
                });
                while let Some(ended) = serving.try_join_next() {
                    ended.unwrap();
                }
            }
        });
        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(|_| Response::status(200))));
        Self { address, authority, log, script, taken: 0, _accepting: accepting }
    }

    /// From now on asks `script` about every request.
    pub fn now(&self, script: impl FnMut(&Request) -> Response + Send + 'static) {
        *self.script.lock().unwrap() = Box::new(script);
    }

    /// The authority of its certificate.
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("it speaks TLS")
    }

    /// A URL that leads here.
    pub fn url(&self, path: &str) -> String {
        match self.authority {
            None => format!("http://{}{path}", self.address),
            Some(_) => self.url_at("localhost", path),
        }
    }

    /// An `https` URL with another host, which somebody must resolve.
    pub fn url_at(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.address.port())
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        *self.log.connections.borrow()
    }

    /// Waits until `count` connections have ended.
    pub async fn wait_for_closed(&self, count: usize) {
        let mut closed = self.log.closed.subscribe();
        timeout(PATIENCE, closed.wait_for(|closed| *closed >= count)).await.expect("closed in time").unwrap();
    }

    /// Demands that nobody but the test has connected. Connections are accepted in their order: all others
    /// were counted before this one.
    pub async fn assert_never_connected(&self) {
        let _own = TcpStream::connect(self.address).await.unwrap();
        let mut connections = self.log.connections.subscribe();
        timeout(PATIENCE, connections.wait_for(|count| *count > 0)).await.unwrap().unwrap();
        assert_eq!(self.connections(), 1, "somebody connected");
    }

    /// Everything that came in so far.
    pub fn seen(&self) -> Vec<Request> {
        self.log.requests.borrow().clone()
    }

    /// Waits until `count` requests have come in; returns all that there are then.
    pub async fn wait_for(&self, count: usize) -> Vec<Request> {
        self.wait_until(&format!("{count} requests"), |seen| seen.len() >= count).await
    }

    /// Waits until `wanted` accepts the received requests, and returns them.
    pub async fn wait_until(&self, what: &str, wanted: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        let mut requests = self.log.requests.subscribe();
        let waited = timeout(PATIENCE, requests.wait_for(|seen| wanted(seen))).await;
        match waited {
            Ok(seen) => seen.expect("the receiver runs").clone(),
            Err(_) => {
                let seen = self.seen();
                panic!("not {what} in time, but {}: {:#?}", seen.len(), &seen[..seen.len().min(20)])
            }
        }
    }

    /// The next `count` requests that were not taken before.
    pub async fn take(&mut self, count: usize) -> Vec<Request> {
        let seen = self.wait_for(self.taken + count).await;
        self.taken += count;
        seen[self.taken - count..self.taken].to_vec()
    }

    /// The next request that was not taken before.
    pub async fn next(&mut self) -> Request {
        self.take(1).await.remove(0)
    }

    /// Everything that came in and was not taken before.
    pub fn take_all(&mut self) -> Vec<Request> {
        let seen = self.seen();
        let taken = std::mem::replace(&mut self.taken, seen.len());
        seen[taken..].to_vec()
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

    /// The id of the delivery.
    #[track_caller]
    pub fn webhook_id(&self) -> &str {
        self.header("webhook-id")
    }

    /// The body, which must be JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The number of the message in the body.
    pub fn message_number(&self) -> i64 {
        let id = &self.json()["id"];
        id.as_i64().unwrap_or_else(|| id.as_str().unwrap().parse().unwrap())
    }

    /// A request over HTTP/1.1 without headers.
    pub fn new(path: &str, body: String) -> Self {
        Self {
            connection: 0,
            version: Version::HTTP_11,
            method: "POST".to_owned(),
            path: path.to_owned(),
            authority: None,
            head: String::new(),
            headers: HeaderMap::new(),
            body,
            at: Instant::now(),
            taken: false,
            server_name: None,
            certificate: None,
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} {:.200}", self.method, self.path, self.headers, self.body)
    }
}

/// One connection over which HTTP/1.1 is spoken by hand.
pub struct Connection<S = TcpStream> {
    /// Its number, from 0.
    pub number: usize,
    pub stream: BufReader<S>,
    log: Arc<Log>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(stream: S, number: usize, log: Arc<Log>) -> Self {
        Self { number, log, ..Self::over(stream) }
    }

    /// One of no receiver.
    pub fn over(stream: S) -> Self {
        Self { number: 0, stream: BufReader::new(stream), log: Arc::default() }
    }

    /// Reads one request and notes it; none at the end of the connection.
    pub async fn request(&mut self) -> Option<Request> {
        self.numbered_request().await.map(|(_, request)| request)
    }

    async fn numbered_request(&mut self) -> Option<(usize, Request)> {
        let (head, headers, body) = read_message(&mut self.stream).await.ok()?;
        let mut words = head.split(' ');
        let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
        let body = String::from_utf8(body).unwrap();
        let request = Request { connection: self.number, method, headers, head, ..Request::new(&path, body) };
        let mut number = 0;
        self.log.requests.send_modify(|requests| {
            number = requests.len();
            requests.push(request.clone());
        });
        Some((number, request))
    }

    /// Sends these bytes. False once the other end is gone.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Waits until the other end closes.
    pub async fn wait_for_end(&mut self) {
        let mut buffer = [0; 1024];
        while matches!(self.stream.read(&mut buffer).await, Ok(1..)) {}
    }

    /// Responds. False if the connection is to be closed then.
    async fn respond(&mut self, response: &Response) -> bool {
        match response {
            Response::Bytes(bytes) => self.send(bytes).await,
            Response::Late(wait, bytes) => {
                sleep(*wait).await;
                self.send(bytes).await
            }
            Response::Last(bytes) => {
                self.send(bytes).await;
                false
            }
            Response::Repeat(first, then, chunk, pause) => {
                self.send(first).await;
                for piece in then.chunks(*chunk).cycle() {
                    if !self.send(piece).await {
                        break;
                    }
                    if !pause.is_zero() {
                        sleep(*pause).await;
                    }
                }
                false
            }
        }
    }
}

impl Connection {
    /// Closes with a reset instead of an end.
    pub fn reset(self) {
        self.stream.into_inner().set_zero_linger().unwrap();
    }
}

/// Reads a message of HTTP/1.1: its head up to and with the empty line, the headers in it, and as much body
/// as they say.
pub async fn read_message(
    stream: &mut (impl AsyncBufReadExt + Unpin),
) -> io::Result<(String, HeaderMap, Vec<u8>)> {
    let (mut head, mut headers) = (String::new(), HeaderMap::new());
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    for (name, value) in head.lines().skip(1).filter_map(|line| line.split_once(':')) {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value.trim()).unwrap());
    }
    let length = headers.get("content-length").map_or("0", |length| length.to_str().unwrap());
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await?;
    Ok((head, headers, body))
}

/// Responds to the requests of one connection as the script says.
async fn serve(mut connection: Connection, script: Arc<Mutex<Script>>) {
    while let Some((number, request)) = connection.numbered_request().await {
        let response = (script.lock().unwrap())(&request);
        let goes_on = connection.respond(&response).await;
        let (Response::Bytes(bytes) | Response::Late(_, bytes)) = response else { return };
        if goes_on && bytes.starts_with(b"HTTP/1.1 2") {
            connection.log.requests.send_modify(|requests| requests[number].taken = true);
        }
    }
}

/// Serves one connection with TLS, by a library.
async fn serve_tls(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    number: usize,
    log: Arc<Log>,
    body_bytes: usize,
) {
    let stream = match acceptor.accept(stream).into_fallible().await {
        Ok(stream) => stream,
        // A refused client reads the reason only if its own bytes are read.
        Err((_, mut refused)) => {
            drop(tokio::io::copy(&mut refused, &mut tokio::io::sink()).await);
            return;
        }
    };
    let peer = peer_of(&stream, number);
    let service =
        service_fn(move |request| respond_over_tls(request, peer.clone(), Arc::clone(&log), body_bytes));
    // Ends with an error when the client goes away in the middle.
    drop(auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
}

/// A request of which only the connection is known.
fn peer_of(stream: &TlsStream<TcpStream>, number: usize) -> Request {
    let tls = stream.get_ref().1;
    Request {
        connection: number,
        server_name: tls.server_name().map(str::to_owned),
        certificate: tls.peer_certificates().map(|chain| chain[0].clone().into_owned()),
        ..Request::new("", String::new())
    }
}

async fn respond_over_tls(
    request: http::Request<Incoming>,
    peer: Request,
    log: Arc<Log>,
    body_bytes: usize,
) -> io::Result<http::Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let is_reset = head.uri.path() == RESET;
    let request = Request {
        version: head.version,
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        authority: head.uri.authority().map(ToString::to_string),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
        at: Instant::now(),
        taken: !is_reset,
        ..peer
    };
    log.add(request);
    if is_reset {
        return Err(io::Error::other("the stream is reset"));
    }
    Ok(http::Response::new(Full::new(Bytes::from(vec![b'x'; body_bytes]))))
}
