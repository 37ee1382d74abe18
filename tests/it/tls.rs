//! TLS on the gRPC port: accepted clients, their certificates, and changes of certificates under running
//! connections.

use std::time::Duration;

use rustls::ProtocolVersion;
use tidings::proto::v1::{self, subscription_service_client::SubscriptionServiceClient};
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, sleep, timeout},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    PATIENCE, POLL_INTERVAL,
    certificates::{Authority, Certificate, TLS_1_2, TLS_1_3, TlsClient, Valid, replace},
    eventually, exchange,
    process::{Launcher, TidingsProcess},
    read_to_close,
    scrape::Scrape,
};

/// How long a connection may stay that is of no use.
const QUICKLY: Duration = Duration::from_secs(1);
/// How often the gateways here look at their files.
const RELOAD_INTERVAL: Duration = Duration::from_millis(100);

/// A launcher of gateways with this certificate of an authority, in `cert.pem` and `key.pem`.
fn secure(authority: &Authority, certificate: &Certificate) -> Launcher {
    let launcher = Launcher::new();
    let dir = launcher.dir().to_owned();
    certificate.write(&dir);
    launcher
        .with_file("grpc-tls-cert-file", dir.join("cert.pem"))
        .with_file("grpc-tls-key-file", dir.join("key.pem"))
        .with("reload-interval", format!("{}ms", RELOAD_INTERVAL.as_millis()))
        .with("drain-timeout", "1s")
        .with_tls_client(&authority.trusting())
}

/// The same with any certificate.
fn secure_anyhow() -> (Authority, Launcher) {
    let authority = Authority::new();
    let launcher = secure(&authority, &authority.server("localhost"));
    (authority, launcher)
}

/// The same, only for clients with a certificate of `clients`, in `clients.pem`.
pub(super) fn mutual(servers: &Authority, clients: &Authority, client: &TlsClient) -> Launcher {
    let launcher = secure(servers, &servers.server("localhost")).with_tls_client(client);
    let file = launcher.dir().join("clients.pem");
    replace(&file, &clients.pem());
    launcher.with_file("grpc-client-ca-file", file)
}

/// A call that any client may make.
async fn call(client: &TlsClient, gateway: &TidingsProcess) -> Result<(), String> {
    let channel = client.channel(gateway.grpc).await.map_err(|error| format!("{error:?}"))?;
    let request = v1::ListSubscriptionsRequest { parent: "accounts/1".into(), ..Default::default() };
    let response = SubscriptionServiceClient::new(channel).list_subscriptions(request).await;
    response.map(drop).map_err(|status| format!("{status:?}"))
}

#[tokio::test]
async fn a_key_that_every_user_can_read_is_warned_of() {
    use std::{fs, os::unix::fs::PermissionsExt};

    let (_authority, launcher) = secure_anyhow();
    let key = launcher.dir().join("key.pem");
    for (mode, warns) in [(0o600, false), (0o640, false), (0o644, true)] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let log = launcher.start().await.stop().await;
        let warned = log.iter().any(|line| line.contains("can read the key of the gRPC port's certificate"));
        assert_eq!(warned, warns, "{mode:o}: {log:#?}");
    }
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let (authority, launcher) = secure_anyhow();
    let gateway = launcher.start().await;
    for (versions, version) in [(&TLS_1_2, ProtocolVersion::TLSv1_2), (&TLS_1_3, ProtocolVersion::TLSv1_3)] {
        let client = authority.trusting().speaking(versions);
        let stream = client.connect(gateway.grpc).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        call(&client, &gateway).await.unwrap();
    }
    // TLS 1.1, with a cipher suite that it has.
    let mut hello = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x02".to_vec();
    hello.extend([7; 32]);
    hello.extend(b"\x00\x00\x02\xc0\x13\x01\x00");
    let (response, _) = response_to(&gateway, &hello).await;
    // An alert, fatal: protocol_version, or handshake_failure.
    assert!(response.starts_with(&[21]) && response.len() == 7 && response[5] == 2, "{response:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_trusts_another_authority_does_not_connect() {
    let (authority, launcher) = secure_anyhow();
    let gateway = launcher.start().await;
    let problem = call(&Authority::new().trusting(), &gateway).await.unwrap_err();
    assert!(problem.contains("InvalidCertificate"), "{problem}");
    call(&authority.trusting(), &gateway).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn with_an_authority_of_clients_only_its_certificates_are_let_in() {
    let (servers, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let good = servers.trusting().showing(&clients.client("publisher", Valid::Now));
    let gateway = mutual(&servers, &clients, &good).start().await;
    for versions in [&TLS_1_2, &TLS_1_3] {
        call(&good.clone().speaking(versions), &gateway).await.unwrap();
        let refused = [
            ("no certificate", servers.trusting()),
            ("another authority", servers.trusting().showing(&others.client("publisher", Valid::Now))),
            (
                "the authority of servers",
                servers.trusting().showing(&servers.client("publisher", Valid::Now)),
            ),
            ("expired", servers.trusting().showing(&clients.client("publisher", Valid::Until2020))),
            ("not valid yet", servers.trusting().showing(&clients.client("publisher", Valid::From2100))),
            ("not for clients", servers.trusting().showing(&clients.not_for_clients("publisher"))),
            ("too long a name", servers.trusting().showing(&clients.client(&"x".repeat(2000), Valid::Now))),
        ];
        let before = Scrape::closed(&gateway, "handshake_failed", 0.0).await;
        for (what, client) in &refused {
            assert!(call(&client.clone().speaking(versions), &gateway).await.is_err(), "{what}");
        }
        // A client that tries again is counted again.
        Scrape::closed(&gateway, "handshake_failed", before + 7.0).await;
    }
    call(&good, &gateway).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_old_ones_live_on() {
    let authority = Authority::new();
    let [first, second, third] = [(); 3].map(|()| authority.server("localhost"));
    let launcher = secure(&authority, &first);
    let (trusting, gateway) = (authority.trusting(), launcher.start().await);
    assert_eq!(trusting.shown(gateway.grpc).await, first.der);
    // A stream on the first connection, which must outlive all of it.
    let channel = trusting.channel(gateway.grpc).await.unwrap();
    let mut old = HealthClient::new(channel);
    let mut watch = old.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    second.write(launcher.dir());
    shown_in_time(&trusting, &gateway, &second).await;
    old.check(HealthCheckRequest::default()).await.expect("the old connection lives");

    // An unusable file changes nothing, and is logged once however often it is looked at.
    // Between two writes there may have been a certificate without its key.
    let before = refused(&gateway).await;
    replace(
        &launcher.dir().join("cert.pem"),
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    refused_in_time(&gateway, before + 1.0).await;
    sleep(RELOAD_INTERVAL * 5).await;
    assert_eq!(refused(&gateway).await, before + 1.0);
    assert_eq!(trusting.shown(gateway.grpc).await, second.der);
    // A certificate without its key.
    replace(&launcher.dir().join("cert.pem"), &Authority::new().pem());
    refused_in_time(&gateway, before + 2.0).await;
    assert_eq!(trusting.shown(gateway.grpc).await, second.der);

    third.write(launcher.dir());
    shown_in_time(&trusting, &gateway, &third).await;
    old.check(HealthCheckRequest::default()).await.expect("the old connection lives");
    assert!(timeout(POLL_INTERVAL, watch.message()).await.is_err(), "the stream still runs");
    let log = gateway.stop().await;
    let count = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert!(count("new certificates cannot be used; the current ones stay in use") >= 2, "{log:#?}");
    assert!(count("new certificates are in use") >= 2, "{log:#?}");
}

async fn shown_in_time(client: &TlsClient, gateway: &TidingsProcess, certificate: &Certificate) {
    eventually("shown", async || client.shown(gateway.grpc).await, |shown| *shown == certificate.der).await;
}

async fn refused(gateway: &TidingsProcess) -> f64 {
    Scrape::value_of(gateway, "tidings_grpc_certificates_refused_total").await
}

async fn refused_in_time(gateway: &TidingsProcess, count: f64) {
    eventually("refused", async || refused(gateway).await, |refused| *refused >= count).await;
}

#[tokio::test]
async fn a_new_authority_of_clients_holds_for_new_connections() {
    let (servers, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let was_good = servers.trusting().showing(&old.client("publisher", Valid::Now));
    let becomes_good = servers.trusting().showing(&new.client("publisher", Valid::Now));
    let launcher = mutual(&servers, &old, &was_good);
    let gateway = launcher.start().await;
    assert!(call(&becomes_good, &gateway).await.is_err());
    let mut connected = HealthClient::new(was_good.channel(gateway.grpc).await.unwrap());
    connected.check(HealthCheckRequest::default()).await.unwrap();

    replace(&launcher.dir().join("clients.pem"), &new.pem());
    eventually("let in", async || call(&becomes_good, &gateway).await, Result::is_ok).await.unwrap();
    assert!(call(&was_good, &gateway).await.is_err());
    connected.check(HealthCheckRequest::default()).await.expect("it was let in before");
    gateway.stop().await;
}

#[tokio::test]
async fn a_hangup_has_the_files_looked_at_at_once() {
    let authority = Authority::new();
    let [first, second] = [(); 2].map(|()| authority.server("localhost"));
    let launcher = secure(&authority, &first).with("reload-interval", "1d");
    let gateway = launcher.start().await;
    assert_eq!(authority.trusting().shown(gateway.grpc).await, first.der);
    second.write(launcher.dir());
    gateway.signal("HUP");
    shown_in_time(&authority.trusting(), &gateway, &second).await;
    gateway.stop().await;
}

#[tokio::test]
async fn http_is_negotiated_and_without_negotiation_the_first_bytes_decide() {
    let (authority, launcher) = secure_anyhow();
    let gateway = launcher.start().await;
    for protocols in [&["h2"][..], &["http/1.1", "h2"], &[]] {
        call(&authority.trusting().offering(protocols), &gateway).await.expect("HTTP/2 is spoken");
    }
    let refused = authority.trusting().offering(&["http/1.0"]).connect(gateway.grpc).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    // Without tokens the name of the certificate may be any: whoever makes another name lead here has no such certificate.
    const REQUEST: &[u8] =
        b"POST /grpc.health.v1.Health/Check HTTP/1.1\r\nhost: any.example\r\nconnection: close\r\n\
        content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    for protocols in [&["http/1.1"][..], &[]] {
        let mut stream = authority.trusting().offering(protocols).connect(gateway.grpc).await.unwrap();
        stream.write_all(REQUEST).await.unwrap();
        let response = String::from_utf8(read_to_close(&mut stream).await).unwrap();
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n") && response.contains("SERVING"), "{response}");
    }
    gateway.stop().await;
}

/// Everything received on a connection after sending `bytes`, and how long it takes until it is closed.
async fn response_to(gateway: &TidingsProcess, bytes: &[u8]) -> (Vec<u8>, Duration) {
    let since = Instant::now();
    (exchange(gateway.grpc, bytes).await.unwrap(), since.elapsed())
}

/// The shortest of a few tries: machines are noisy.
async fn closed_after(gateway: &TidingsProcess, bytes: &[u8]) -> Duration {
    let mut shortest = PATIENCE;
    for _ in 0..3 {
        shortest = shortest.min(response_to(gateway, bytes).await.1);
    }
    shortest
}

#[tokio::test]
async fn whoever_does_not_speak_tls_to_the_tls_port_is_closed_quickly() {
    let (authority, launcher) = secure_anyhow();
    let gateway = launcher.start().await;
    for bytes in
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", b"G", b"\x00", b"\x17\x03\x03"]
    {
        let took = closed_after(&gateway, bytes).await;
        assert!(took < QUICKLY, "{bytes:?}: {took:?}");
    }
    assert_eq!(Scrape::closed(&gateway, "handshake_failed", 15.0).await, 15.0);
    call(&authority.trusting(), &gateway).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn whoever_speaks_no_http_to_the_plain_port_is_closed_quickly() {
    let gateway = Launcher::new().start().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\x16",
        b"get / http/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSMTP\r\n\r\n",
    ] {
        let took = closed_after(&gateway, bytes).await;
        assert!(took < QUICKLY, "{bytes:?}: {took:?}");
    }
    assert_eq!(Scrape::closed(&gateway, "not_http", 12.0).await, 12.0);
    gateway.client.nothing_owed(1).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_off_at_its_timeout() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    for (launcher, beginning) in [
        (secure_anyhow().1, &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..]),
        (Launcher::new(), b"PRI * HTTP/2.0\r\n"),
    ] {
        let gateway = launcher.with("client-timeout", "1500ms").start().await;
        for bytes in [&b""[..], &beginning[..1], beginning] {
            let (response, took) = response_to(&gateway, bytes).await;
            assert!(response.is_empty() && took >= TIMEOUT, "{bytes:?}: {response:?} after {took:?}");
            assert!(took < PATIENCE / 2, "{bytes:?}: {took:?}");
        }
        assert_eq!(Scrape::closed(&gateway, "handshake_timeout", 3.0).await, 3.0);
        gateway.client.nothing_owed(1).await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_end_the_start_with_the_name_of_the_setting() {
    let (_, launcher) = secure_anyhow();
    launcher.file("empty.pem", "");
    let path = |name: &str| launcher.dir().join(name).to_str().unwrap().to_owned();
    let (empty, missing) = (path("empty.pem"), path("missing.pem"));
    for (flag, file, expected) in [
        ("grpc-tls-cert-file", &missing, "cannot be read: No such file or directory"),
        ("grpc-tls-cert-file", &empty, "holds no certificate"),
        ("grpc-tls-key-file", &empty, "holds no private key"),
        ("grpc-client-ca-file", &empty, "holds no certificate"),
    ] {
        let refusal = launcher.clone().with(flag, file).refusal().await;
        let expected = format!("{} {file} {expected}", flag.replace('-', "_"));
        assert!(refusal.contains(&expected), "{expected}: {refusal}");
    }
}
