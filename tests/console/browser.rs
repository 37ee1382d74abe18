//! A console within this process, and a browser that sends what a test wants: raw requests over a socket.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use tidings::{
    clock::{Clock, SystemClock},
    console::{Console, ConsoleSettings, GrpcListener, Surroundings},
    delivery::http::client::{WebhookClientSettings, webhook_client},
    domain::{
        access::{Accounts, Rights, Scope},
        event_routing::EventAddress,
        ids::AccountId,
    },
    gateway::{CreateAccessToken, Gateway},
    grpc::{Calls, Health},
    metrics::Metrics,
    store::{Store, memory::MemoryStore},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{events, in_process::Setup, in_time};

/// A gateway with a console.
pub struct Browsed {
    pub address: SocketAddr,
    pub gateway: Gateway,
    _serving: JoinHandle<()>,
    _end: DropGuard,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Page {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// `name=value` of the cookie that it sets.
    pub fn cookie(&self) -> String {
        self.header("set-cookie").split(';').next().unwrap_or_default().to_owned()
    }

    /// The secret that the page shows, once.
    #[track_caller]
    pub fn secret(&self) -> &str {
        let shown = self.body.split("id=\"secret\">").nth(1);
        shown.unwrap_or_else(|| panic!("no secret is in\n{}", self.body)).split('<').next().unwrap()
    }

    #[track_caller]
    pub fn has(&self, text: &str) -> &Self {
        assert!(self.body.contains(text), "{text:?} is not in\n{}", self.body);
        self
    }

    #[track_caller]
    pub fn has_not(&self, text: &str) -> &Self {
        assert!(!self.body.contains(text), "{text:?} is in\n{}", self.body);
        self
    }
}

impl Browsed {
    pub async fn start() -> Self {
        Self::start_with(ConsoleSettings::default()).await
    }

    pub async fn start_with(settings: ConsoleSettings) -> Self {
        let setup = Setup::default();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::clone(&clock), 1));
        let posting = WebhookClientSettings {
            egress: setup.gateway.egress.clone(),
            ..WebhookClientSettings::default()
        };
        let client = webhook_client(&posting, Arc::clone(&clock)).unwrap();
        let metrics = Metrics::new(clock.now());
        let random = StdRng::seed_from_u64(1);
        let gateway =
            Gateway::new(store, client, Arc::clone(&clock), setup.gateway, Arc::clone(&metrics), random);
        let shutdown = CancellationToken::new();
        let calls = Calls::new(gateway.clone(), &setup.grpc, &Health::default(), &shutdown);
        let asked = gateway.clone();
        let surroundings = Surroundings {
            calls: calls.in_process(),
            grpc: GrpcListener { address: SocketAddr::from(([127, 0, 0, 1], 50051)), tls: false },
            metrics,
            tokens_required: Box::new(move || asked.asks_for_proof()),
            now: Box::new(move || clock.now()),
            random: StdRng::seed_from_u64(2),
            shutdown: shutdown.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let console = Console::new(settings, address, false, surroundings).unwrap();
        let serving = tokio::spawn(console.serve(listener, None));
        Self { address, gateway, _serving: serving, _end: shutdown.drop_guard() }
    }

    /// Sends a request exactly as it is, and reads the response.
    pub async fn send(&self, request: &str) -> Page {
        in_time(async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.unwrap();
            parse(&String::from_utf8(bytes).unwrap())
        })
        .await
    }

    /// As a browser asks for a page that somebody typed in.
    pub async fn get(&self, path: &str, cookie: &str) -> Page {
        self.get_with(path, &format!("Cookie: {cookie}\r\nSec-Fetch-Site: none\r\n")).await
    }

    pub async fn get_with(&self, path: &str, headers: &str) -> Page {
        let host = self.address;
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n")).await
    }

    /// The id of the request that the form of a page makes.
    pub async fn request_id(&self, path: &str, cookie: &str) -> String {
        let page = self.get(path, cookie).await;
        let given = page.body.split("name=\"request_id\" value=\"").nth(1).expect("the form has one");
        given.split('"').next().unwrap().to_owned()
    }

    /// As a browser sends a form of our own pages.
    pub async fn post(&self, path: &str, cookie: &str, form: &str) -> Page {
        self.post_with(path, &format!("Cookie: {cookie}\r\nSec-Fetch-Site: same-origin\r\n"), form).await
    }

    pub async fn post_with(&self, path: &str, headers: &str, form: &str) -> Page {
        let (host, length) = (self.address, form.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{form}"
        );
        self.send(&request).await
    }

    /// A token with these scopes, for these accounts; all if there are none. The first one has to be an
    /// administrator's.
    pub async fn token(&self, scopes: &[Scope], accounts: &[i64]) -> String {
        let accounts = accounts.iter().map(|account| AccountId::new(*account).unwrap()).collect();
        let rights = Rights { scopes: scopes.to_vec(), accounts: Accounts::of(accounts) };
        let create = CreateAccessToken {
            display_name: "tester".to_owned(),
            rights,
            expire_time: None,
            administrator: Accounts::All,
            request: None,
        };
        self.gateway.create_access_token(create).await.unwrap().secret.unwrap().expose().to_owned()
    }

    /// Stores this many messages of account 1 at once.
    pub async fn publish(&self, count: i64) {
        let checked = |number| {
            let address = EventAddress { account: AccountId::new(1).unwrap(), id: None };
            self.gateway.check_event(address, events::message(1, 1, number).into(), "event").unwrap()
        };
        self.gateway.publish((1..=count).map(checked).collect()).unwrap().await.unwrap();
    }

    /// Signs in with a token, and returns the cookie.
    pub async fn sign_in(&self, token: &str) -> String {
        let page = self.post("/sign-in", "", &format!("token={token}")).await;
        assert_eq!((page.status, page.header("location")), (303, "/"), "{page:?}");
        page.cookie()
    }

    /// Opens a stream, and reads until a text is there or the stream ends. Returns what came.
    pub async fn stream(&self, path: &str, cookie: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let host = self.address;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nSec-Fetch-Site: same-origin\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }
}

/// Reads from a stream until a text is there; `None` if it ends before.
pub async fn read_until(stream: &mut TcpStream, text: &str) -> Option<String> {
    let (mut seen, mut part) = (String::new(), [0; 4096]);
    let reading = async {
        loop {
            if seen.contains(text) {
                return Some(std::mem::take(&mut seen));
            }
            match stream.read(&mut part).await {
                Ok(0) | Err(_) => return None,
                Ok(length) => seen.push_str(std::str::from_utf8(&part[..length]).unwrap()),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading).await.expect("it comes or ends in time")
}

/// Reads a response.
pub fn parse(text: &str) -> Page {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Page { status, headers, body: body.to_owned() }
}
