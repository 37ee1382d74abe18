//! A browser as the console sees it: one kept connection that loads pages, and tabs with live streams.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};

/// Limit on the wait for a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// A kept connection to the console.
pub struct Browser {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

/// A page that was loaded.
pub struct Page {
    /// The status of the response.
    pub status: u16,
    /// The page.
    pub body: String,
    /// From sending the request to the last byte of the response.
    pub took: Duration,
}

impl Browser {
    /// Connects.
    pub fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).context("the console does not listen")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PAGE_TIMEOUT))?;
        Ok(Self { address, stream: BufReader::new(stream) })
    }

    /// Loads a page. Redirects are not followed.
    pub fn get(&mut self, path: &str) -> anyhow::Result<Page> {
        let begin = Instant::now();
        write!(self.stream.get_mut(), "GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.address)?;
        let (status, length) = self.head().with_context(|| format!("GET {path}"))?;
        let mut body = vec![0; length.with_context(|| format!("GET {path}: a page without its length"))?];
        self.stream.read_exact(&mut body)?;
        let took = begin.elapsed();
        Ok(Page { status, body: String::from_utf8(body)?, took })
    }

    /// Reads the head of a response: the status, and the length of the body if there is one.
    fn head(&mut self) -> anyhow::Result<(u16, Option<usize>)> {
        let (mut line, mut length) = (String::new(), None);
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no HTTP response")?;
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse()?);
            }
        }
        Ok((status, length))
    }
}

/// Tabs with a live list of deliveries. They are closed when this is dropped.
pub struct Tabs {
    streams: Vec<TcpStream>,
    readers: Vec<JoinHandle<()>>,
    rows: Arc<AtomicU64>,
}

impl Tabs {
    /// Opens a tab for each account, and waits until every stream has begun.
    pub fn open(address: SocketAddr, accounts: impl IntoIterator<Item = i64>) -> anyhow::Result<Self> {
        let mut tabs = Self { streams: Vec::new(), readers: Vec::new(), rows: Arc::default() };
        for account in accounts {
            let mut tab = Browser::connect(address)?;
            // A tab that sees nothing for long is not broken.
            tab.stream.get_ref().set_read_timeout(None)?;
            let path = format!("/accounts/{account}/deliveries/live");
            write!(
                tab.stream.get_mut(),
                "GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n"
            )?;
            let (status, _) = tab.head()?;
            ensure!(status == 200, "a live stream was refused: {status}");
            tabs.streams.push(tab.stream.get_ref().try_clone()?);
            let rows = Arc::clone(&tabs.rows);
            tabs.readers.push(thread::spawn(move || read_rows(tab.stream, &rows)));
        }
        Ok(tabs)
    }

    /// Rows that have arrived in all tabs.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }
}

impl Drop for Tabs {
    fn drop(&mut self) {
        for stream in &self.streams {
            // It may have ended already.
            drop(stream.shutdown(std::net::Shutdown::Both));
        }
        for reader in self.readers.drain(..) {
            drop(reader.join());
        }
    }
}

fn read_rows(stream: impl BufRead, rows: &AtomicU64) {
    for line in stream.lines().map_while(Result::ok) {
        if line == "event: row" {
            rows.fetch_add(1, Ordering::Relaxed);
        }
    }
}
