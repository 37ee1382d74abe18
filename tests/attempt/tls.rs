//! Receivers behind TLS, over HTTP/1.1 and HTTP/2.

use std::sync::Arc;

use crate::{
    attempt::sender::Sender,
    support::receiver::{RESET, Receiver, Request},
};
use http::Version;
use rustls::pki_types::CertificateDer;
use tidings::{
    delivery::http::client::{WebhookClientError, WebhookClientSettings, certificates, webhook_client},
    domain::delivery::Outcome,
};

impl Receiver {
    /// A sender that trusts this receiver's authority.
    pub(super) fn trusting_sender(&self) -> Sender {
        Sender::with(|settings| settings.extra_roots = vec![self.authority().der()])
    }
}

#[tokio::test]
async fn the_best_protocol_that_both_speak_is_spoken() {
    for (protocols, version) in [
        (&["h2", "http/1.1"][..], Version::HTTP_2),
        (&["h2"], Version::HTTP_2),
        (&["http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let receiver = Receiver::speaking(protocols, 2).await;
        let attempt = receiver.trusting_sender().post(&receiver.url("/hook")).await;
        assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Ok, 200), "{}", attempt.error);
        assert_eq!(attempt.response_body, "xx");
        let seen = receiver.seen();
        assert_eq!(seen[0].version, version, "{protocols:?}");
        assert!(!seen[0].body.is_empty());
    }
}

#[tokio::test]
async fn a_post_over_http_2_has_the_documented_headers() {
    let receiver = Receiver::speaking(&["h2"], 2).await;
    receiver.trusting_sender().post(&receiver.url("/hook")).await;
    let seen = receiver.seen();
    let Request { authority, headers, body, .. } = &seen[0];
    assert_eq!(authority.as_deref(), Some(format!("localhost:{}", receiver.address.port()).as_str()));
    let names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
    assert_eq!(
        names,
        [
            "content-type",
            "accept",
            "user-agent",
            "webhook-id",
            "x-chatwoot-delivery",
            "webhook-timestamp",
            "x-chatwoot-timestamp",
            "webhook-signature",
            "x-chatwoot-signature",
            "webhook-attempt",
            "webhook-event-type",
            "cdn-loop",
            "content-length",
        ]
    );
    assert_eq!(headers["content-length"], body.len().to_string());
}

#[tokio::test]
async fn posts_share_one_http_2_connection() {
    let receiver = Receiver::speaking(&["h2"], 2).await;
    let sender = receiver.trusting_sender();
    let url = receiver.url("/hook");
    sender.post(&url).await;
    let attempts = futures_util::future::join_all((0..20).map(|_| sender.post(&url))).await;
    assert!(attempts.iter().all(|attempt| attempt.outcome == Outcome::Ok), "{attempts:?}");
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn an_http_2_stream_that_is_reset_fails_without_a_second_try_and_the_connection_is_kept() {
    let receiver = Receiver::speaking(&["h2"], 2).await;
    let sender = receiver.trusting_sender();
    let url = receiver.url("/hook");
    assert_eq!(sender.post(&url).await.outcome, Outcome::Ok);
    let attempt = sender.post(&url.replace("/hook", RESET)).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Io, 0), "{attempt:?}");
    assert_eq!(sender.post(&url).await.outcome, Outcome::Ok);
    assert_eq!(receiver.seen().len(), 3);
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn the_status_of_a_long_body_over_http_2_decides_and_the_connection_is_kept() {
    let receiver = Receiver::speaking(&["h2"], 10_000_000).await;
    let sender = receiver.trusting_sender();
    for _ in 0..3 {
        let attempt = sender.post(&receiver.url("/hook")).await;
        assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Ok, 200), "{}", attempt.error);
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_not_trusted() {
    let receiver = Receiver::speaking(&["h2"], 2).await;
    let attempt = Sender::new().post(&receiver.url("/hook")).await;
    assert_eq!((attempt.outcome, attempt.http_status), (Outcome::Connect, 0));
    assert_eq!(attempt.error, "tls failed: invalid peer certificate: UnknownIssuer");
    assert!(receiver.seen().is_empty());
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_trusted() {
    let receiver = Receiver::speaking(&["h2"], 2).await;
    let url = format!("https://{}/hook", receiver.address);
    let attempt = receiver.trusting_sender().post(&url).await;
    assert_eq!(attempt.outcome, Outcome::Connect);
    assert!(attempt.error.starts_with("tls failed: invalid peer certificate: "), "{}", attempt.error);
}

#[tokio::test]
async fn a_receiver_without_tls_is_no_connection_over_https() {
    let receiver = Receiver::on_connections(|mut connection| async move {
        connection.send("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    let attempt = Sender::new().post(&receiver.url("/").replace("http:", "https:")).await;
    assert_eq!(attempt.outcome, Outcome::Connect);
    assert!(attempt.error.starts_with("tls failed: "), "{}", attempt.error);
}

#[tokio::test]
async fn authorities_are_read_from_pem_and_unusable_ones_refused() {
    let receiver = Receiver::speaking(&["h2"], 2).await;
    let roots = certificates(receiver.authority().pem().as_bytes()).unwrap();
    assert_eq!(roots.as_slice(), [receiver.authority().der()]);
    assert!(certificates(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").is_err());

    let extra_roots = vec![receiver.authority().der(), CertificateDer::from(vec![1, 2, 3])];
    let settings = WebhookClientSettings { extra_roots, ..WebhookClientSettings::default() };
    let error = webhook_client(&settings, Arc::new(tidings::clock::SystemClock::default())).unwrap_err();
    assert!(matches!(error, WebhookClientError::ExtraRoot { number: 2, .. }), "{error}");
}
