//! TLS on the gRPC port: who is let in, with what, and that certificates change under running connections.

use std::{path::PathBuf, time::Duration};

use rustls::ProtocolVersion;
use tempfile::TempDir;
use tidings::proto::v1::{self, subscription_service_client::SubscriptionServiceClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    client::LOOK_EVERY,
    gateway::{Gateway, Home, PATIENCE},
    metrics::Scrape,
};

pub mod pki;

use pki::{Authority, Certificate, Client, Holds, TLS_1_2, TLS_1_3, put};

/// How long a connection that is none may stay.
const QUICKLY: Duration = Duration::from_secs(1);
/// How often the gateways here look at their files.
const RELOAD_INTERVAL: Duration = Duration::from_millis(100);

/// The files of a gateway with TLS.
struct Files {
    directory: TempDir,
}

impl Files {
    /// With this certificate.
    fn with(certificate: &Certificate) -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap() };
        certificate.write(files.directory.path());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A home whose gateways use them.
    fn home(&self) -> Home {
        Home::new()
            .with("grpc-tls-cert-file", self.path("cert.pem").to_str().unwrap())
            .with("grpc-tls-key-file", self.path("key.pem").to_str().unwrap())
            .with("grpc-tls-reload-interval", format!("{}ms", RELOAD_INTERVAL.as_millis()))
            .with("drain-timeout", "1s")
    }

    /// The same for clients of this authority alone.
    fn mutual_home(&self, clients: &Authority) -> Home {
        put(&self.path("clients.pem"), &clients.pem());
        self.home().with("grpc-client-ca-file", self.path("clients.pem").to_str().unwrap())
    }
}

/// A call that any client may make.
async fn call(client: &Client, gateway: &Gateway) -> Result<(), String> {
    let channel = client.channel(gateway.grpc).await.map_err(|error| format!("{error:?}"))?;
    let request = v1::ListSubscriptionsRequest { parent: "accounts/1".into(), ..Default::default() };
    let answer = SubscriptionServiceClient::new(channel).list_subscriptions(request).await;
    answer.map(drop).map_err(|status| format!("{status:?}"))
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_older() {
    let authority = Authority::new();
    let files = Files::with(&authority.server());
    let gateway = files.home().start_with_tls(&authority.trusting()).await;
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
    let (answer, _) = answer_to(&gateway, &hello).await;
    // An alert, fatal: protocol_version, or handshake_failure.
    assert!(answer.starts_with(&[21]) && answer.len() == 7 && answer[5] == 2, "{answer:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn a_client_that_trusts_another_authority_does_not_connect() {
    let (authority, other) = (Authority::new(), Authority::new());
    let files = Files::with(&authority.server());
    let gateway = files.home().start_with_tls(&authority.trusting()).await;
    let problem = call(&other.trusting(), &gateway).await.unwrap_err();
    assert!(problem.contains("InvalidCertificate"), "{problem}");
    call(&authority.trusting(), &gateway).await.unwrap();
    gateway.stop().await;
}

#[tokio::test]
async fn with_an_authority_of_clients_only_its_certificates_are_let_in() {
    let (servers, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let files = Files::with(&servers.server());
    let good = servers.trusting().showing(&clients.client("publisher", Holds::Now));
    let gateway = files.mutual_home(&clients).start_with_tls(&good).await;
    for versions in [&TLS_1_2, &TLS_1_3] {
        call(&good.clone().speaking(versions), &gateway).await.unwrap();
        let refused = [
            ("no certificate", servers.trusting()),
            ("another authority", servers.trusting().showing(&others.client("publisher", Holds::Now))),
            (
                "the authority of servers",
                servers.trusting().showing(&servers.client("publisher", Holds::Now)),
            ),
            ("expired", servers.trusting().showing(&clients.client("publisher", Holds::Until2020))),
            ("not valid yet", servers.trusting().showing(&clients.client("publisher", Holds::From2100))),
            ("not for clients", servers.trusting().showing(&clients.other("publisher"))),
            ("too long a name", servers.trusting().showing(&clients.client(&"x".repeat(2000), Holds::Now))),
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
    let (first, second, third) = (authority.server(), authority.server(), authority.server());
    let files = Files::with(&first);
    let trusting = authority.trusting();
    let gateway = files.home().start_with_tls(&trusting).await;
    assert_eq!(trusting.shown(gateway.grpc).await, *first.der());
    // A stream on the first connection, which must outlive all of it.
    let channel = trusting.channel(gateway.grpc).await.unwrap();
    let mut old = HealthClient::new(channel);
    let mut watch = old.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    second.write(files.directory.path());
    shown_in_time(&trusting, &gateway, &second).await;
    old.check(HealthCheckRequest::default()).await.expect("the old connection lives");

    // What cannot be used changes nothing, and is told once however often it is looked at.
    // Between two writes there may have been a certificate without its key.
    let before = refused(&gateway).await;
    put(&files.path("cert.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    refused_in_time(&gateway, before + 1.0).await;
    sleep(RELOAD_INTERVAL * 5).await;
    assert_eq!(refused(&gateway).await, before + 1.0);
    assert_eq!(trusting.shown(gateway.grpc).await, *second.der());
    // A certificate without its key.
    put(&files.path("cert.pem"), &Authority::new().pem());
    refused_in_time(&gateway, before + 2.0).await;
    assert_eq!(trusting.shown(gateway.grpc).await, *second.der());

    third.write(files.directory.path());
    shown_in_time(&trusting, &gateway, &third).await;
    old.check(HealthCheckRequest::default()).await.expect("the old connection lives");
    assert!(timeout(LOOK_EVERY, watch.message()).await.is_err(), "the stream still runs");
    let log = gateway.stop().await;
    let told = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert!(told("new certificates cannot be used; the old ones stay") >= 2, "{log:#?}");
    assert!(told("new certificates are in use") >= 2, "{log:#?}");
}

async fn shown_in_time(client: &Client, gateway: &Gateway, certificate: &Certificate) {
    let deadline = Instant::now() + PATIENCE;
    while client.shown(gateway.grpc).await != *certificate.der() {
        assert!(Instant::now() < deadline, "the old certificate is still shown");
        sleep(LOOK_EVERY).await;
    }
}

async fn refused(gateway: &Gateway) -> f64 {
    Scrape::of(gateway).await.value("tidings_grpc_certificates_refused_total")
}

async fn refused_in_time(gateway: &Gateway, count: f64) {
    Scrape::when(gateway, "refused", |scrape| {
        scrape.value("tidings_grpc_certificates_refused_total") >= count
    })
    .await;
}

#[tokio::test]
async fn a_new_authority_of_clients_holds_for_new_connections() {
    let (servers, old, new) = (Authority::new(), Authority::new(), Authority::new());
    let files = Files::with(&servers.server());
    let was_good = servers.trusting().showing(&old.client("publisher", Holds::Now));
    let becomes_good = servers.trusting().showing(&new.client("publisher", Holds::Now));
    let gateway = files.mutual_home(&old).start_with_tls(&was_good).await;
    assert!(call(&becomes_good, &gateway).await.is_err());
    let mut connected = HealthClient::new(was_good.channel(gateway.grpc).await.unwrap());
    connected.check(HealthCheckRequest::default()).await.unwrap();

    put(&files.path("clients.pem"), &new.pem());
    let deadline = Instant::now() + PATIENCE;
    while let Err(problem) = call(&becomes_good, &gateway).await {
        assert!(Instant::now() < deadline, "{problem}");
        sleep(LOOK_EVERY).await;
    }
    assert!(call(&was_good, &gateway).await.is_err());
    connected.check(HealthCheckRequest::default()).await.expect("it was let in before");
    gateway.stop().await;
}

#[tokio::test]
async fn a_hangup_has_the_files_looked_at_at_once() {
    let authority = Authority::new();
    let (first, second) = (authority.server(), authority.server());
    let files = Files::with(&first);
    let home = files.home().with("grpc-tls-reload-interval", "1d");
    let gateway = home.start_with_tls(&authority.trusting()).await;
    assert_eq!(authority.trusting().shown(gateway.grpc).await, *first.der());
    second.write(files.directory.path());
    gateway.signal("HUP");
    shown_in_time(&authority.trusting(), &gateway, &second).await;
    gateway.stop().await;
}

#[tokio::test]
async fn http_2_is_agreed_on_and_whoever_cannot_agree_is_judged_by_what_it_says() {
    let authority = Authority::new();
    let files = Files::with(&authority.server());
    let gateway = files.home().start_with_tls(&authority.trusting()).await;
    for protocols in [&["h2"][..], &["http/1.1", "h2"], &[]] {
        call(&authority.trusting().offering(protocols), &gateway).await.expect("HTTP/2 is spoken");
    }
    let refused = authority.trusting().offering(&["http/1.1"]).connect(gateway.grpc).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    // Without a word on protocols, HTTP/1.1 is what it says it is.
    let mut stream = authority.trusting().offering(&[]).connect(gateway.grpc).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    drop(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed"));
    assert!(answer.is_empty(), "{answer:?}");
    assert_eq!(Scrape::closed(&gateway, "not_http2", 1.0).await, 1.0);
    gateway.stop().await;
}

/// What comes back on a connection that `bytes` are sent on, and how long it takes until it is closed.
async fn answer_to(gateway: &Gateway, bytes: &[u8]) -> (Vec<u8>, Duration) {
    // Before the connection: the server's own clock starts with it.
    let since = Instant::now();
    let mut stream = TcpStream::connect(gateway.grpc).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // It may be reset: there are bytes that nobody reads.
    drop(timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is closed"));
    (answer, since.elapsed())
}

/// The shortest of a few tries: machines are noisy.
async fn closed_after(gateway: &Gateway, bytes: &[u8]) -> Duration {
    let mut shortest = PATIENCE;
    for _ in 0..3 {
        shortest = shortest.min(answer_to(gateway, bytes).await.1);
    }
    shortest
}

#[tokio::test]
async fn whoever_does_not_speak_tls_to_the_tls_port_is_closed_quickly() {
    let authority = Authority::new();
    let files = Files::with(&authority.server());
    let gateway = files.home().start_with_tls(&authority.trusting()).await;
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
async fn whoever_speaks_tls_or_http_1_to_the_plain_port_is_closed_quickly() {
    let gateway = Home::new().start().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16",
        b"PRI * HTTP/1",
    ] {
        let took = closed_after(&gateway, bytes).await;
        assert!(took < QUICKLY, "{bytes:?}: {took:?}");
    }
    assert_eq!(Scrape::closed(&gateway, "not_http2", 12.0).await, 12.0);
    gateway.client.nothing_owed(1).await;
    gateway.stop().await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_takes_its_place_only_for_the_time_that_it_has() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let authority = Authority::new();
    let files = Files::with(&authority.server());
    let secure = files.home().with("grpc-handshake-timeout", "500ms");
    let plain = Home::new().with("grpc-handshake-timeout", "500ms");
    for (gateway, beginning) in [
        (
            secure.start_with_tls(&authority.trusting()).await,
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        ),
        (plain.start().await, b"PRI * HTTP/2.0\r\n"),
    ] {
        for bytes in [&b""[..], &beginning[..1], beginning] {
            let (answer, took) = answer_to(&gateway, bytes).await;
            assert!(answer.is_empty() && took >= TIMEOUT, "{bytes:?}: {answer:?} after {took:?}");
            assert!(took < PATIENCE / 2, "{bytes:?}: {took:?}");
        }
        assert_eq!(Scrape::closed(&gateway, "handshake_timeout", 3.0).await, 3.0);
        gateway.client.nothing_owed(1).await;
        gateway.stop().await;
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_end_the_start_with_the_name_of_the_setting() {
    let authority = Authority::new();
    let files = Files::with(&authority.server());
    put(&files.path("empty.pem"), "");
    let path = |name: &str| files.path(name).to_str().unwrap().to_owned();
    for (flag, file, expected) in [
        ("grpc-tls-cert-file", "missing.pem", "cannot be read: No such file or directory"),
        ("grpc-tls-cert-file", "empty.pem", "holds no certificate"),
        ("grpc-tls-key-file", "empty.pem", "holds no private key"),
        ("grpc-client-ca-file", "empty.pem", "holds no certificate"),
    ] {
        let ended = files.home().with(flag, path(file)).command().output().await.unwrap();
        let log = String::from_utf8(ended.stderr).unwrap();
        let expected = format!("{} {} {expected}", flag.replace('-', "_"), path(file));
        assert!(ended.status.code() == Some(1) && log.contains(&expected), "{expected}: {log}");
    }
}
