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

#[tokio::test]
async fn everything_that_can_be_refused_is_refused_before_a_data_directory_or_a_key_is_made() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let launcher = Launcher::new();
    let no_key = launcher.file("key", "this is no key");
    let refused = [
        (launcher.clone().with("grpc-listen", "0.0.0.0:0"), "access tokens"),
        (launcher.clone().with("grpc-listen", &taken), "in use"),
        (launcher.clone().with("http-listen", &taken), "in use"),
        (launcher.clone().with("console-listen", &taken), "in use"),
        (launcher.clone().with_file("admin-token-file", launcher.dir().join("none")), "admin_token_file"),
        (launcher.clone().with_file("secrets-key-file", launcher.dir().join("none")), "key"),
        (launcher.clone().with_file("secrets-key-file", &no_key), "key"),
        (launcher.clone().with_file("egress-ca-file", &no_key), "egress_ca_file"),
        (
            launcher.clone().with_file("grpc-tls-cert-file", &no_key).with_file("grpc-tls-key-file", &no_key),
            "certificate",
        ),
        (
            launcher.clone().with("ingest-listen", "127.0.0.1:0").with_file("ingest-sources-file", &no_key),
            "ingest_sources_file",
        ),
    ];
    for (launcher, why) in refused {
        let refusal = launcher.refusal().await;
        assert!(refusal.contains(why), "{why}: {refusal}");
        assert!(!launcher.data_dir().exists(), "{refusal}");
    }
}

#[tokio::test]
async fn a_key_in_the_data_directory_that_cannot_be_read_is_refused_before_a_store_is_made() {
    let launcher = Launcher::new();
    std::fs::create_dir(launcher.data_dir()).unwrap();
    let key = launcher.data_dir().join("secrets.key");
    std::fs::write(&key, "this is no key").unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let refusal = launcher.refusal().await;
    assert!(refusal.contains("secrets.key"), "{refusal}");
    let entries: Vec<_> =
        std::fs::read_dir(launcher.data_dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(entries, ["secrets.key"], "{refusal}");
}
