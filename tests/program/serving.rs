use std::{
    net::{SocketAddr, TcpListener},
    path::Path,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Reads, Running, http, run, tidings};

/// A gateway on ports of its own, with a log that can be read.
fn start(directory: &TempDir) -> (Running, SocketAddr) {
    let mut running = Running::start(tidings(&arguments(directory.path(), "127.0.0.1:0")), &Reads::Stderr);
    let listen = running.wait_for(|line| {
        let line: Value = serde_json::from_str(line).expect("every line is JSON");
        Some(line.get("http.listen")?.as_str()?.to_owned())
    });
    (running, listen.parse().expect("it is an address"))
}

fn arguments<'a>(directory: &'a Path, grpc_listen: &'a str) -> [&'a str; 9] {
    let data_dir = directory.to_str().expect("it is UTF-8");
    [
        "serve",
        "--data-dir",
        data_dir,
        "--grpc-listen",
        grpc_listen,
        "--http-listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ]
}

#[test]
fn a_gateway_says_that_it_lives_and_ends_cleanly_when_told() {
    for signal in ["TERM", "INT"] {
        let directory = tempfile::tempdir().expect("there is room");
        let (running, address) = start(&directory);
        assert!(http(address, "GET", "/healthz", "", "").starts_with("HTTP/1.1 200"));
        running.signal(signal);
        let (code, lines) = running.wait();
        assert_eq!(code, Some(0), "{signal}: {lines:#?}");
        for line in &lines {
            assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()), "{line}");
        }
    }
}

#[test]
fn an_address_that_is_taken_ends_the_start_with_one_line_that_says_so() {
    let directory = tempfile::tempdir().expect("there is room");
    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let taken = taken.local_addr().expect("it is bound").to_string();
    for level in ["error", "off"] {
        let ended = run(tidings(&arguments(directory.path(), &taken)).args(["--log-level", level]));
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(&taken) && ended.stderr.contains("in use"), "{}", ended.stderr);
    }
}
