use std::net::TcpListener;

use serde_json::Value;

use crate::support::{exchange, process::Launcher, process::run};

#[tokio::test]
async fn a_gateway_says_that_it_lives_and_ends_cleanly_when_it_is_signalled() {
    for signal in ["TERM", "INT"] {
        let gateway = Launcher::new().start().await;
        let alive = exchange(gateway.http, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(alive.starts_with(b"HTTP/1.1 200"));
        gateway.signal(signal);
        let ended = gateway.wait().await;
        assert_eq!(ended.code, Some(0), "{signal}: {ended:#?}");
        for line in ended.stderr.lines() {
            assert!(serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()), "{line}");
        }
    }
}

#[tokio::test]
async fn an_address_that_is_taken_ends_the_start_with_one_line_that_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for level in ["error", "off"] {
        let launcher = Launcher::new().with("grpc-listen", &taken).with("log-level", level);
        let ended = run(launcher.command()).await;
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(&taken) && ended.stderr.contains("in use"), "{}", ended.stderr);
    }
}
