//! An HTTP proxy: tunnels, and requests that are passed on one by one. It looks every name up as this machine.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Listens on loopback until it is dropped.
pub struct HttpProxy {
    /// Where.
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl HttpProxy {
    /// Serves everybody, or those alone who send this `Proxy-Authorization`.
    pub async fn start(authorization: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            connections: Arc::default(),
            _tasks: JoinSet::new(),
        };
        let (asked, connections) = (Arc::clone(&proxy.asked), Arc::clone(&proxy.connections));
        proxy._tasks.spawn(async move {
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                // Ends when either side does.
                let serve = serve(stream, authorization, Arc::clone(&asked));
                serving.spawn(async move { drop(serve.await) });
            }
        });
        proxy
    }

    /// Every request's head up to now, those that were refused too.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The first lines of these.
    pub fn lines(&self) -> Vec<String> {
        self.asked().iter().map(|head| head.lines().next().unwrap().to_owned()).collect()
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn serve(
    mut client: TcpStream,
    authorization: Option<&str>,
    asked: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    loop {
        let head = head(&mut client).await?;
        asked.lock().unwrap().push(head.clone());
        let wanted = authorization.map(|value| format!("\r\nproxy-authorization: {value}\r\n"));
        if wanted.is_some_and(|wanted| !head.contains(&wanted)) {
            let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 3\r\n\r\nwho";
            return client.write_all(refusal.as_bytes()).await;
        }
        let mut words = head.lines().next().unwrap().split(' ');
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        if method == "CONNECT" {
            let mut endpoint = connect(target).await?;
            client.write_all(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 test\r\n\r\n").await?;
            copy_bidirectional(&mut client, &mut endpoint).await?;
            return Ok(());
        }
        let rest = target.strip_prefix("http://").expect("the whole URL");
        let (authority, path) = rest.split_at(rest.find('/').expect("a path"));
        let headers: String =
            head.split_inclusive("\r\n").skip(1).filter(|line| !line.starts_with("proxy-")).collect();
        let mut endpoint = connect(authority).await?;
        endpoint.write_all(format!("{method} {path} HTTP/1.1\r\n{headers}").as_bytes()).await?;
        pass_body(&head, &mut client, &mut endpoint).await?;
        let answer = self::head(&mut endpoint).await?;
        client.write_all(answer.as_bytes()).await?;
        pass_body(&answer, &mut endpoint, &mut client).await?;
    }
}

/// Connects to this machine, whatever the name.
async fn connect(authority: &str) -> std::io::Result<TcpStream> {
    let (_, port) = authority.rsplit_once(':').expect("a port");
    TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().expect("a port is a number"))).await
}

async fn head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

/// As long as `content-length` in the head says.
async fn pass_body(head: &str, from: &mut TcpStream, to: &mut TcpStream) -> std::io::Result<()> {
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    from.read_exact(&mut body).await?;
    to.write_all(&body).await
}
