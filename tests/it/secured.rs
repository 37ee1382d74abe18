//! Endpoints that ask for client certificates, and endpoints behind a proxy: the real binary, with
//! certificates that change while it runs.

use tidings::proto::v1::{self, EventType, delivery::State, delivery_attempt::Outcome};

use crate::support::{
    certificates::{Authority, Certificate, Valid},
    client::{Client, attempts, id_of, subscription},
    events::sample,
    http_proxy::http_proxy,
    process::{Launcher, TidingsProcess},
    receiver::{Receiver, Response, Tls},
};

const USER: &str = "user:hunter2@";
const AUTHORIZATION: &str = "Basic dXNlcjpodW50ZXIy";

fn showing(authority: &Authority, issued: &Certificate) -> v1::TlsOptions {
    v1::TlsOptions {
        ca_certificates: authority.pem(),
        client_certificate: issued.pem.clone(),
        client_key: issued.key_pem(),
        ..Default::default()
    }
}

/// Publishes an event, and waits until its delivery to the subscription is in this state. Returns it.
async fn delivered(client: &Client, name: &str, state: State) -> v1::Delivery {
    let event = client.publish(1, sample(EventType::MessageCreated, 1)).await.event;
    client.delivery_in(&format!("{name}/deliveries/{}", id_of(&event)), state).await
}

/// The log of a gateway that ended well, without any secret.
async fn stop(gateway: TidingsProcess) {
    let log = gateway.stop().await.join("\n");
    for secret in ["PRIVATE KEY", "hunter2", AUTHORIZATION] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_client_certificate_is_rotated_by_an_update_and_survives_a_restart() {
    let clients = Authority::new();
    let (old, new) = (clients.client("old.example", Valid::Now), clients.client("new.example", Valid::Now));
    let receiver = Receiver::with_tls(Tls { clients: Some(&clients), ..Tls::default() }).await;
    let launcher = Launcher::new().with("log-level", "trace");
    let gateway = launcher.start().await;
    let client = &gateway.client;
    let tls = Some(showing(receiver.authority(), &old));
    let asked = v1::Subscription { tls, retry_policy: attempts(1), ..subscription(receiver.url("/hook")) };
    let name = client.subscribe(1, asked).await.name;
    delivered(client, &name, State::Succeeded).await;

    let tls = Some(showing(receiver.authority(), &new));
    let updated = client.update(v1::Subscription { name: name.clone(), tls, ..Default::default() }).await;
    assert_eq!(updated.tls.unwrap().client_key, "***");
    delivered(client, &name, State::Succeeded).await;
    stop(gateway).await;

    let gateway = launcher.start().await;
    delivered(&gateway.client, &name, State::Succeeded).await;
    let shown: Vec<_> = receiver.seen().into_iter().map(|request| request.certificate).collect();
    assert_eq!(shown, [&old, &new, &new].map(|issued| Some(issued.der.clone())));

    // Without one it is not let in.
    let tls = Some(v1::TlsOptions { ca_certificates: receiver.authority().pem(), ..Default::default() });
    gateway.client.update(v1::Subscription { name: name.clone(), tls, ..Default::default() }).await;
    let failed = delivered(&gateway.client, &name, State::Failed).await;
    assert_eq!(failed.attempts[0].outcome(), Outcome::Connect, "{failed:?}");
    assert!(failed.attempts[0].error.starts_with("tls failed: "), "{failed:?}");
    stop(gateway).await;
}

#[tokio::test]
async fn the_environments_proxy_is_used_unless_the_settings_say_otherwise() {
    let proxy = http_proxy(Some(AUTHORIZATION)).await;
    let receiver = Receiver::with_tls(Tls { name: "receiver.invalid", ..Tls::default() }).await;
    let launcher = Launcher::new()
        .with("log-level", "trace")
        .with("delivery-timeout", "4s")
        .with_variable("HTTPS_PROXY", format!("http://{USER}{}", proxy.address));
    let tls = Some(v1::TlsOptions { ca_certificates: receiver.authority().pem(), ..Default::default() });
    let asked = v1::Subscription {
        tls,
        retry_policy: attempts(1),
        ..subscription(receiver.url_at("receiver.invalid", "/hook"))
    };

    let gateway = launcher.start().await;
    let name = gateway.client.subscribe(1, asked).await.name;
    delivered(&gateway.client, &name, State::Succeeded).await;
    let asked: Vec<_> = proxy.seen().iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect();
    assert_eq!(asked, [format!("CONNECT receiver.invalid:{}", receiver.address.port())]);
    stop(gateway).await;

    // Nobody looks the name up here.
    for launcher in
        [launcher.clone().with("egress-proxy", "none"), launcher.clone().with("egress-no-proxy", "invalid")]
    {
        let gateway = launcher.start().await;
        let failed = delivered(&gateway.client, &name, State::Failed).await;
        assert!(failed.attempts[0].error.starts_with("receiver.invalid did not resolve"), "{failed:?}");
        stop(gateway).await;
    }
    assert_eq!(proxy.connections(), 1);

    let wrong = launcher.with("egress-proxy", format!("http://user:hunter3@{}", proxy.address));
    let gateway = wrong.start().await;
    let failed = delivered(&gateway.client, &name, State::Failed).await;
    assert_eq!(failed.attempts[0].error, "the proxy refused: 407 Proxy Authentication Required");
    let tested = gateway.client.test(&name, EventType::MessageCreated).await;
    assert_eq!(tested.error, failed.attempts[0].error);
    stop(gateway).await;
}

#[tokio::test]
async fn a_redirect_is_reported_without_its_user_info() {
    let target = "https://user:hunter2@example.com/next?token=hunter2";
    let receiver = Receiver::always(Response::with_header(302, "location", target)).await;
    let gateway = Launcher::new().start().await;
    let asked = v1::Subscription { retry_policy: attempts(1), ..subscription(receiver.url("/")) };
    let name = gateway.client.subscribe(1, asked).await.name;
    let failed = delivered(&gateway.client, &name, State::Failed).await;
    let expected = "answered 302 Found to https://example.com/next, and redirects are not followed";
    assert_eq!(failed.attempts[0].error, expected);
    stop(gateway).await;
}
