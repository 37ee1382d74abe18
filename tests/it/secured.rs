//! Endpoints that want to know who POSTs to them, and endpoints behind a proxy: the real binary, with certificates that
//! change while it runs.

use crate::{
    client::{Client, attempts, id_of, subscription},
    gateway::{Gateway, Home},
    proxy::HttpProxy,
    receiver::{Answer, Receiver},
    tls_receiver::{Authority, Issued, Setup, TlsReceiver},
};
use tidings::{
    domain::ids::AccountId,
    event::samples,
    proto::v1::{self, EventType, delivery::State, delivery_attempt::Outcome},
};

const USER: &str = "user:hunter2@";
const AUTHORIZATION: &str = "Basic dXNlcjpodW50ZXIy";

fn event() -> v1::Event {
    samples::sample(EventType::MessageCreated, AccountId::new(1).unwrap())
}

fn showing(authority: &Authority, issued: &Issued) -> v1::TlsOptions {
    v1::TlsOptions {
        ca_certificates: authority.pem(),
        client_certificate: issued.pem.clone(),
        client_key: issued.key.serialize_pem(),
        ..Default::default()
    }
}

/// Publishes an event, and waits until its delivery to the subscription is in this state. Returns it.
async fn delivered(client: &Client, name: &str, state: State) -> v1::Delivery {
    let event = client.publish(1, event()).await.event;
    client.delivery_in(&format!("{name}/deliveries/{}", id_of(&event)), state).await
}

/// The log of a gateway that ended well, without anything that is not to be seen.
async fn stop(gateway: Gateway) {
    let log = gateway.stop().await.join("\n");
    for secret in ["PRIVATE KEY", "hunter2", AUTHORIZATION] {
        assert!(!log.contains(secret), "the log tells {secret}");
    }
}

#[tokio::test]
async fn a_client_certificate_is_rotated_by_an_update_and_survives_a_restart() {
    let clients = Authority::new();
    let (old, new) = (clients.issue("old.example"), clients.issue("new.example"));
    let receiver = TlsReceiver::with(Setup { clients: Some(&clients), ..Setup::default() }).await;
    let home = Home::new().with("log-level", "trace");
    let gateway = home.start().await;
    let client = &gateway.client;
    let tls = Some(showing(&receiver.authority, &old));
    let asked = v1::Subscription { tls, retry_policy: attempts(1), ..subscription(receiver.url()) };
    let name = client.subscribe(1, asked).await.name;
    delivered(client, &name, State::Succeeded).await;

    let tls = Some(showing(&receiver.authority, &new));
    let updated = client.update(v1::Subscription { name: name.clone(), tls, ..Default::default() }).await;
    assert_eq!(updated.tls.unwrap().client_key, "***");
    delivered(client, &name, State::Succeeded).await;
    stop(gateway).await;

    let gateway = home.start().await;
    delivered(&gateway.client, &name, State::Succeeded).await;
    let shown: Vec<_> =
        receiver.understood.lock().unwrap().iter().map(|request| request.client.clone()).collect();
    assert_eq!(shown, [&old, &new, &new].map(|issued| Some(issued.der.clone())));

    // Without one it is not let in.
    let tls = Some(v1::TlsOptions { ca_certificates: receiver.authority.pem(), ..Default::default() });
    gateway.client.update(v1::Subscription { name: name.clone(), tls, ..Default::default() }).await;
    let failed = delivered(&gateway.client, &name, State::Failed).await;
    assert_eq!(failed.attempts[0].outcome(), Outcome::Connect, "{failed:?}");
    assert!(failed.attempts[0].error.starts_with("tls failed: "), "{failed:?}");
    stop(gateway).await;
}

#[tokio::test]
async fn the_environments_proxy_is_used_unless_the_settings_say_otherwise() {
    let proxy = HttpProxy::start(Some(AUTHORIZATION)).await;
    let receiver = TlsReceiver::with(Setup { name: "receiver.invalid", ..Setup::default() }).await;
    let variables = [("HTTPS_PROXY", format!("http://{USER}{}", proxy.address))];
    let home = Home::new().with("log-level", "trace").with("connect-timeout", "2s");
    let tls = Some(v1::TlsOptions { ca_certificates: receiver.authority.pem(), ..Default::default() });
    let asked = v1::Subscription {
        tls,
        retry_policy: attempts(1),
        ..subscription(receiver.url_at("receiver.invalid"))
    };

    let gateway = home.start_with(&variables).await;
    let name = gateway.client.subscribe(1, asked).await.name;
    delivered(&gateway.client, &name, State::Succeeded).await;
    assert_eq!(proxy.lines(), [format!("CONNECT receiver.invalid:{} HTTP/1.1", receiver.address.port())]);
    stop(gateway).await;

    // Nobody looks the name up here.
    for home in [home.clone().with("egress-proxy", "none"), home.clone().with("egress-no-proxy", "invalid")] {
        let gateway = home.start_with(&variables).await;
        let failed = delivered(&gateway.client, &name, State::Failed).await;
        assert!(failed.attempts[0].error.starts_with("receiver.invalid did not resolve"), "{failed:?}");
        stop(gateway).await;
    }
    assert_eq!(proxy.connections(), 1);

    let wrong = home.with("egress-proxy", format!("http://user:hunter3@{}", proxy.address));
    let gateway = wrong.start_with(&variables).await;
    let failed = delivered(&gateway.client, &name, State::Failed).await;
    assert_eq!(failed.attempts[0].error, "the proxy refused: 407 Proxy Authentication Required");
    let tested = gateway.client.test(&name, EventType::MessageCreated).await;
    assert_eq!(tested.error, failed.attempts[0].error);
    stop(gateway).await;
}

#[tokio::test]
async fn a_redirect_is_told_without_its_user_info() {
    let target = "https://user:hunter2@example.com/next?token=hunter2";
    let receiver = Receiver::always(Answer::with_header(302, "location", target)).await;
    let gateway = Home::new().start().await;
    let asked = v1::Subscription { retry_policy: attempts(1), ..subscription(receiver.url("/")) };
    let name = gateway.client.subscribe(1, asked).await.name;
    let failed = delivered(&gateway.client, &name, State::Failed).await;
    let expected = "answered 302 Found to https://example.com/next, and redirects are not followed";
    assert_eq!(failed.attempts[0].error, expected);
    stop(gateway).await;
}
