//! Code that all tests share: the gateway as a process and within this one, a client, a receiver, and other
//! ends of connections.

use std::{env, fmt::Debug, fs, io, io::Write, net::SocketAddr, path::Path, thread, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

pub mod blocking_store;
pub mod certificates;
pub mod client;
pub mod delegate_store;
pub mod dns_server;
pub mod environment;
pub mod events;
pub mod facts;
pub mod http2_receiver;
pub mod http_client;
pub mod http_proxy;
pub mod in_process;
pub mod interposer;
pub mod nginx;
pub mod process;
pub mod profile;
pub mod raw_http2;
pub mod receiver;
pub mod recorded_disk;
pub mod scrape;
pub mod secret_scan;
pub mod tcp_relay;
pub mod with_peer;
pub mod wrong_clock;

/// A test that waits for longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a test looks at a state that it waits for.
pub const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The output of a future that must end.
pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("it takes longer than anything may")
}

/// Looks until `wanted` accepts a value, and returns it.
pub async fn eventually<T: Debug>(what: &str, look: impl AsyncFn() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = look().await;
        if wanted(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "not {what} in time, but {seen:#?}");
        sleep(POLL_INTERVAL).await;
    }
}

/// Sends bytes on a connection of their own. Returns everything received until it is closed.
pub async fn exchange(address: SocketAddr, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    // It may be closed before all is sent, and be reset: there are bytes that nobody reads.
    drop(stream.write_all(bytes).await);
    Ok(read_to_close(&mut stream).await)
}

/// Everything that comes on a connection until it is closed or reset.
pub async fn read_to_close(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    drop(timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the connection is closed"));
    bytes
}

/// Copies a directory with everything in it.
pub fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("it can be copied");
    for entry in fs::read_dir(from).expect("it can be copied").map(|entry| entry.expect("it can be copied")) {
        let to = to.join(entry.file_name());
        if entry.file_type().expect("it can be copied").is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("it can be copied");
        }
    }
}

/// Says that a test was skipped, and why. Says it in the file that `SKIPPED_TESTS` names as well: cargo shows
/// nothing of a test that passed.
pub fn skipped(why: &str) {
    let test = thread::current().name().unwrap_or("a test").to_owned();
    eprintln!("SKIPPED: {test}: {why}");
    if let Some(path) = env::var_os("SKIPPED_TESTS") {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {why}").unwrap();
    }
}

/// An address where nobody listens.
pub fn closed_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|taken| taken.local_addr()).expect("a port is free")
}

/// Fails the test if there is a signing secret or a private key in an output.
#[track_caller]
pub fn assert_no_keys(text: &str) {
    assert_eq!(secret_scan::keys_in(text).next(), None, "a key is printed: {text}");
}
