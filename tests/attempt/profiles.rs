//! The TLS options of a subscription: its authorities, the name of the server, and its client certificate.

use std::sync::Arc;

use tidings::domain::{
    delivery::{Attempt, Outcome},
    secret::Secret,
    subscription::{Subscription, TlsOptions, TlsProfile},
};

use crate::{
    attempt::sender::{Sender, subscription},
    support::{
        certificates::{Authority, Certificate, Valid},
        http_proxy::http_proxy,
        receiver::{Receiver, Tls},
    },
};

/// The protocols that an endpoint may speak.
const EACH: [&[&str]; 2] = [&["h2"], &["http/1.1"]];

fn with(url: &str, tls: TlsOptions) -> Subscription {
    let mut subscription = subscription(url);
    subscription.settings.tls = TlsProfile::new(tls).map(Arc::new);
    subscription
}

fn trusting(authority: &Authority) -> TlsOptions {
    TlsOptions { ca_certificates: authority.pem(), ..TlsOptions::default() }
}

/// The same, with a certificate to show.
fn showing(authority: &Authority, issued: &Certificate) -> TlsOptions {
    TlsOptions {
        client_certificate: issued.pem.clone(),
        client_key: Some(Secret::new(issued.key_pem())),
        ..trusting(authority)
    }
}

#[track_caller]
fn assert_no_tls(attempt: &Attempt, why: &str) {
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Connect, 0), "{attempt:?}");
    assert!(attempt.error.starts_with("tls failed: ") && attempt.error.contains(why), "{}", attempt.error);
}

#[tokio::test]
async fn a_private_authority_is_trusted_by_its_subscription_only() {
    let receiver = Receiver::speaking(&["h2"], 2).await;
    let sender = Sender::new();
    let trusted = sender.post_to(with(&receiver.url("/hook"), trusting(receiver.authority()))).await;
    assert_eq!(trusted.outcome, Outcome::Ok, "{}", trusted.error);
    // The connection is there, and is not for others.
    assert_no_tls(&sender.post(&receiver.url("/hook")).await, "UnknownIssuer");
    assert_no_tls(
        &sender.post_to(with(&receiver.url("/hook"), trusting(&Authority::new()))).await,
        "UnknownIssuer",
    );
    assert_eq!(receiver.seen().len(), 1);
}

#[tokio::test]
async fn a_private_authority_replaces_all_others() {
    let receiver = Receiver::speaking(&["h2"], 2).await;
    let sender = Sender::with(|settings| settings.extra_roots = vec![receiver.authority().der()]);
    assert_eq!(sender.post(&receiver.url("/hook")).await.outcome, Outcome::Ok);
    assert_no_tls(
        &sender.post_to(with(&receiver.url("/hook"), trusting(&Authority::new()))).await,
        "UnknownIssuer",
    );
    // Several may be trusted.
    let both = Authority::new().pem() + &receiver.authority().pem();
    let both = TlsOptions { ca_certificates: both, ..TlsOptions::default() };
    assert_eq!(sender.post_to(with(&receiver.url("/hook"), both)).await.outcome, Outcome::Ok);
}

#[tokio::test]
async fn the_name_that_a_subscription_gives_is_asked_for_and_checked() {
    let receiver = Receiver::with_tls(Tls { name: "inner.example", ..Tls::default() }).await;
    let sender = Sender::new();
    let named = |name: &str| TlsOptions { server_name: name.to_owned(), ..trusting(receiver.authority()) };
    assert_no_tls(&sender.post_to(with(&receiver.url("/hook"), named(""))).await, "not valid for name");
    assert_no_tls(
        &sender.post_to(with(&receiver.url("/hook"), named("other.example"))).await,
        "not valid for name",
    );
    let attempt = sender.post_to(with(&receiver.url("/hook"), named("inner.example"))).await;
    assert_eq!(attempt.outcome, Outcome::Ok, "{}", attempt.error);
    // By an address as well, which has no name of its own.
    let by_address = receiver.url_at("127.0.0.1", "/hook");
    assert_eq!(sender.post_to(with(&by_address, named("inner.example"))).await.outcome, Outcome::Ok);
    let seen = receiver.seen();
    let names: Vec<_> = seen.iter().map(|request| request.server_name.as_deref()).collect();
    assert_eq!(names, [Some("inner.example"); 2]);
    // HTTP speaks of the host of the URL nevertheless.
    let host = format!("localhost:{}", receiver.address.port());
    assert_eq!(seen[0].authority.as_deref(), Some(host.as_str()));
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_receivers_that_ask() {
    let (clients, others) = (Authority::new(), Authority::new());
    let issued = clients.client("client.example", Valid::Now);
    for protocols in EACH {
        let receiver = Receiver::with_tls(Tls { protocols, clients: Some(&clients), ..Tls::default() }).await;
        let (sender, url) = (Sender::new(), receiver.url("/hook"));
        let shown = sender.post_to(with(&url, showing(receiver.authority(), &issued))).await;
        assert_eq!(shown.outcome, Outcome::Ok, "{}", shown.error);
        assert_no_tls(
            &sender.post_to(with(&url, trusting(receiver.authority()))).await,
            "CertificateRequired",
        );
        let unknown = showing(receiver.authority(), &others.client("client.example", Valid::Now));
        assert_no_tls(&sender.post_to(with(&url, unknown)).await, "received fatal alert");
        let seen = receiver.seen();
        assert!(matches!(&*seen, [one] if one.certificate.as_ref() == Some(&issued.der)));
    }
}

#[tokio::test]
async fn different_profiles_never_share_a_connection_and_equal_ones_do() {
    let clients = Authority::new();
    let issued = [clients.client("a.example", Valid::Now), clients.client("b.example", Valid::Now)];
    for protocols in EACH {
        let receiver = Receiver::with_tls(Tls { protocols, clients: Some(&clients), ..Tls::default() }).await;
        let sender = Sender::new();
        for round in 0..3 {
            for one in &issued {
                let subscription = with(&receiver.url("/hook"), showing(receiver.authority(), one));
                let attempt = sender.post_to(subscription).await;
                assert_eq!(attempt.outcome, Outcome::Ok, "{round}: {}", attempt.error);
            }
        }
        let seen = receiver.seen();
        let seen: Vec<_> =
            seen.iter().map(|request| (request.connection, request.certificate.clone())).collect();
        let [a, b] = [(0, Some(issued[0].der.clone())), (1, Some(issued[1].der.clone()))];
        assert_eq!(seen, [a.clone(), b.clone(), a.clone(), b.clone(), a, b], "{protocols:?}");
    }
}

#[tokio::test]
async fn after_a_change_the_next_attempt_shows_the_new_certificate() {
    let clients = Authority::new();
    let (old, new) = (clients.client("old.example", Valid::Now), clients.client("new.example", Valid::Now));
    for protocols in EACH {
        let receiver = Receiver::with_tls(Tls { protocols, clients: Some(&clients), ..Tls::default() }).await;
        let sender = Sender::new();
        for one in [&old, &old, &new, &new] {
            let attempt =
                sender.post_to(with(&receiver.url("/hook"), showing(receiver.authority(), one))).await;
            assert_eq!(attempt.outcome, Outcome::Ok, "{}", attempt.error);
        }
        let seen = receiver.seen();
        let connections: Vec<_> = seen.iter().map(|request| request.connection).collect();
        assert_eq!(connections, [0, 0, 1, 1]);
        assert_eq!(seen[2].certificate.as_ref(), Some(&new.der));
    }
}

#[tokio::test]
async fn a_forgotten_profile_is_built_again() {
    let receivers = [Receiver::speaking(&["http/1.1"], 2).await, Receiver::speaking(&["http/1.1"], 2).await];
    let sender = Sender::with(|settings| {
        settings.tls_profiles_max = 1;
        settings.idle_connections_per_endpoint_max = 0;
    });
    for receiver in receivers.iter().cycle().take(6) {
        let attempt = sender.post_to(with(&receiver.url("/hook"), trusting(receiver.authority()))).await;
        assert_eq!(attempt.outcome, Outcome::Ok, "{}", attempt.error);
    }
}

#[tokio::test]
async fn options_hold_through_a_proxy() {
    let (clients, proxy) = (Authority::new(), http_proxy(None).await);
    let issued = clients.client("client.example", Valid::Now);
    let setup = Tls { name: "inner.example", clients: Some(&clients), ..Tls::default() };
    let receiver = Receiver::with_tls(setup).await;
    let sender = Sender::by(&format!("http://{}", proxy.address));
    let url = receiver.url_at("receiver.test", "/hook");
    let tls = TlsOptions { server_name: "inner.example".into(), ..showing(receiver.authority(), &issued) };
    let attempt = sender.post_to(with(&url, tls)).await;
    assert_eq!(attempt.outcome, Outcome::Ok, "{}", attempt.error);
    assert_no_tls(&sender.post_to(with(&url, trusting(receiver.authority()))).await, "not valid for name");
    assert_eq!(receiver.seen()[0].certificate.as_ref(), Some(&issued.der));
    assert_eq!(proxy.connections(), 2);
}
