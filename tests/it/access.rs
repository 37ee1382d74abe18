//! Who may call the real program: where it listens, the administrator's token, and how tokens last and end.

use std::{fs, path::PathBuf, time::Duration};

use crate::{
    client::publish_request,
    gateway::{Gateway, Home, PATIENCE},
    metrics::Scrape,
};
use prost_types::Timestamp;
use tempfile::TempDir;
use tidings::{
    clock::{Clock, SystemClock},
    domain::ids::AccountId,
    event::samples,
    proto::v1::{
        self, access_token::Scope, access_token_service_client::AccessTokenServiceClient,
        delivery_service_client::DeliveryServiceClient, event_service_client::EventServiceClient,
    },
};
use tokio::time::{Instant, timeout};
use tonic::{
    Code, Request, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

/// What the operator of these gateways chose.
const ADMIN: &str = "0123456789abcdef-the-operators-own-choice";

/// A file with the administrator's token, as `echo` writes it.
fn token_file() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("there is room");
    let path = dir.path().join("admin.token");
    fs::write(&path, format!("{ADMIN}\n")).unwrap();
    (dir, path)
}

/// A connection on which every call carries this token.
async fn calls(
    gateway: &Gateway,
    token: &str,
) -> InterceptedService<Channel, impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone + use<>> {
    let channel = Endpoint::from_shared(format!("http://{}", gateway.grpc)).unwrap().connect().await.unwrap();
    let header: tonic::metadata::MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    InterceptedService::new(channel, move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", header.clone());
        Ok(request)
    })
}

async fn create(
    gateway: &Gateway,
    scopes: &[Scope],
    expire_time: Option<Timestamp>,
) -> (v1::AccessToken, String) {
    let token = v1::AccessToken {
        scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
        expire_time,
        ..Default::default()
    };
    let request = v1::CreateAccessTokenRequest { access_token: Some(token) };
    let mut client = AccessTokenServiceClient::new(calls(gateway, ADMIN).await);
    let made = client.create_access_token(request).await.unwrap().into_inner();
    (made.access_token.unwrap(), made.token)
}

async fn get(gateway: &Gateway, name: &str) -> v1::AccessToken {
    let mut client = AccessTokenServiceClient::new(calls(gateway, ADMIN).await);
    let got = client.get_access_token(v1::GetAccessTokenRequest { name: name.into() }).await.unwrap();
    got.into_inner().access_token.unwrap()
}

async fn publish(gateway: &Gateway, token: &str, id: &str) -> Result<(), Status> {
    EventServiceClient::new(calls(gateway, token).await)
        .publish_event(publish_request(1, id, event()))
        .await
        .map(drop)
}

/// What a start ends with that is refused.
async fn refusal(home: &Home) -> String {
    let output = timeout(PATIENCE, home.command().output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn without_tokens_another_address_than_loopback_is_refused_unless_it_is_insecure() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let home = Home::new().with("grpc-listen", address);
        let told = refusal(&home).await;
        assert!(
            told.contains("gRPC is not served on grpc_listen") && told.contains("admin_token_file"),
            "{told}"
        );
    }
    let home = Home::new().with("grpc-listen", "0.0.0.0:0").with("insecure", "true");
    let gateway = home.start().await;
    gateway.client.subscriptions.clone().list_subscriptions(everything()).await.expect("everybody may call");
    let log = gateway.stop().await;
    let warned =
        |line: &&String| line.contains("WARN") && line.contains("anyone who can connect has full access");
    assert_eq!(log.iter().filter(warned).count(), 1, "{log:#?}");
}

#[tokio::test]
async fn on_loopback_everybody_on_the_machine_may_call_and_the_log_says_so() {
    let gateway = Home::new().start().await;
    gateway.client.subscriptions.clone().list_subscriptions(everything()).await.expect("everybody may call");
    let log = gateway.stop().await;
    assert!(
        log.iter().any(|line| line.contains("every process on this machine has full access")),
        "{log:#?}"
    );
}

#[tokio::test]
async fn with_the_administrators_token_any_address_is_served_and_every_call_needs_one() {
    let (_dir, file) = token_file();
    let home = Home::new().with("grpc-listen", "0.0.0.0:0").with("admin-token-file", file.to_str().unwrap());
    let gateway = home.start().await;
    let status = gateway.client.subscriptions.clone().list_subscriptions(everything()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let (publisher, text) = create(&gateway, &[Scope::Publish], None).await;
    publish(&gateway, &text, "e").await.expect("it may publish");
    let status = publish(&gateway, ADMIN, "f").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "the administrator does not publish");
    let scrape = Scrape::of(&gateway).await;
    assert_eq!(scrape.value(r#"tidings_calls_denied_total{reason="missing"}"#), 1.0);
    assert_eq!(scrape.value(r#"tidings_calls_denied_total{reason="scope"}"#), 1.0);
    let log = gateway.stop().await;
    assert!(log.iter().any(|line| line.contains("every call needs an access token")), "{log:#?}");
    assert!(log.iter().any(|line| line.contains("calls were made without a token")), "{log:#?}");
    for secret in [ADMIN, &text] {
        assert!(!log.iter().any(|line| line.contains(secret)), "{log:#?}");
    }

    // The tokens of the store are enough for the next start; the administrator's is gone with its file.
    let home = home.without("admin-token-file");
    let gateway = home.start().await;
    publish(&gateway, &text, "g").await.expect("it may still publish");
    assert_eq!(publish(&gateway, ADMIN, "h").await.unwrap_err().code(), Code::Unauthenticated);
    gateway.stop().await;
    let home = home.with("admin-token-file", file.to_str().unwrap());
    let gateway = home.start().await;
    let token = get(&gateway, &publisher.name).await;
    assert_eq!((token.name, token.scopes), (publisher.name, publisher.scopes));
    gateway.stop().await;
}

#[tokio::test]
async fn an_unusable_administrators_token_ends_the_start_and_is_not_told() {
    let (_dir, file) = token_file();
    for (text, problem) in
        [("", "does not hold an access token"), ("hunter2", "it must have 32 to 256 characters")]
    {
        fs::write(&file, text).unwrap();
        let told = refusal(&Home::new().with("admin-token-file", file.to_str().unwrap())).await;
        assert!(told.contains(problem) && !told.contains("hunter2"), "{told}");
    }
    let told = refusal(&Home::new().with("admin-token-file", "/nowhere/admin.token")).await;
    assert!(told.contains("cannot read admin_token_file /nowhere/admin.token"), "{told}");
}

#[tokio::test]
async fn the_administrators_token_may_come_from_the_environment_and_is_not_printed() {
    let home = Home::new();
    let gateway = home.start_with_environment("TIDINGS_ADMIN_TOKEN", ADMIN).await;
    create(&gateway, &[Scope::Read], None).await;
    let log = gateway.stop().await;
    assert!(!log.iter().any(|line| line.contains(ADMIN)), "{log:#?}");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    let printed = command.arg("config").env("TIDINGS_ADMIN_TOKEN", ADMIN).output().unwrap();
    assert!(printed.status.success());
    assert!(!String::from_utf8([printed.stdout, printed.stderr].concat()).unwrap().contains(ADMIN));
}

#[tokio::test]
async fn a_token_that_expires_ends_its_streams_within_a_second_and_its_last_use_is_kept() {
    let (_dir, file) = token_file();
    let home = Home::new().with("admin-token-file", file.to_str().unwrap());
    let gateway = home.start().await;
    let expire = Duration::from_secs(2);
    let expire_time = Some(SystemClock.now().plus(expire).into());
    let (made, text) = create(&gateway, &[Scope::Publish, Scope::Read], expire_time).await;
    let end = Instant::now() + expire;
    let (sender, messages) = tokio::sync::mpsc::unbounded_channel();
    let messages = tokio_stream::wrappers::UnboundedReceiverStream::new(messages);
    let mut client = EventServiceClient::new(calls(&gateway, &text).await);
    let mut answers = client.stream_publish_events(messages).await.unwrap().into_inner();
    let message =
        v1::StreamPublishEventsRequest { sequence: 1, request: Some(publish_request(1, "e", event())) };
    sender.send(message).unwrap();
    timeout(PATIENCE, answers.message()).await.unwrap().unwrap().expect("it is answered");
    let watch = v1::WatchDeliveriesRequest { parent: "accounts/1/subscriptions/-".into(), states: vec![] };
    let mut client = DeliveryServiceClient::new(calls(&gateway, &text).await);
    let mut watch = client.watch_deliveries(watch).await.unwrap().into_inner();

    for status in [
        timeout(PATIENCE, answers.message()).await.unwrap().unwrap_err(),
        timeout(PATIENCE, watch.message()).await.unwrap().unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    }
    let late = Instant::now().duration_since(end);
    assert!(late < Duration::from_secs(1), "it took {late:?} longer");
    let status = publish(&gateway, &text, "f").await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("expired"), "{status:?}");

    let last_use = get(&gateway, &made.name).await.last_use_time;
    assert!(last_use.is_some());
    gateway.stop().await;
    let gateway = home.start().await;
    let kept = get(&gateway, &made.name).await;
    assert_eq!((kept.state(), kept.last_use_time), (v1::access_token::State::Expired, last_use));
    gateway.stop().await;
}

fn event() -> v1::Event {
    samples::typical_message(AccountId::new(1).unwrap(), 3, 7)
}

fn everything() -> v1::ListSubscriptionsRequest {
    v1::ListSubscriptionsRequest { parent: "accounts/-".into(), ..Default::default() }
}
