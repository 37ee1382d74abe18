//! Access to the real program: where it listens, the administrator's token, and how tokens last and end.

use std::{path::Path, time::Duration};

use prost_types::Timestamp;
use tidings::{
    clock::{Clock, SystemClock},
    proto::v1::{self, access_token::Scope},
};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::support::{
    client::Client,
    events::{message, publish_request},
    in_time,
    process::{Launcher, TidingsProcess, run, tidings},
    scrape::Scrape,
};

/// The token that the operator of these gateways chose.
const ADMIN: &str = "0123456789abcdef-the-operators-own-choice";

/// A launcher with the administrator's token in a file, as `echo` writes it.
fn with_admin_token() -> Launcher {
    let launcher = Launcher::new();
    let file = launcher.file("admin.token", format!("{ADMIN}\n"));
    launcher.with_file("admin-token-file", file)
}

async fn create(
    gateway: &TidingsProcess,
    scopes: &[Scope],
    expire_time: Option<Timestamp>,
) -> (v1::AccessToken, String) {
    let token = v1::AccessToken {
        scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
        expire_time,
        ..Default::default()
    };
    gateway.client.with_token(ADMIN).create_token(token).await.unwrap()
}

async fn get(gateway: &TidingsProcess, name: &str) -> v1::AccessToken {
    gateway.client.with_token(ADMIN).token(name).await.unwrap()
}

async fn publish(gateway: &TidingsProcess, token: &str, id: &str) -> Result<(), Status> {
    gateway.client.with_token(token).try_publish(request(id)).await.map(drop)
}

/// Lists the subscriptions of all accounts.
async fn list(client: &Client) -> Result<(), Status> {
    let everything = v1::ListSubscriptionsRequest { parent: "accounts/-".into(), ..Default::default() };
    client.subscriptions.clone().list_subscriptions(everything).await.map(drop)
}

fn request(id: &str) -> v1::PublishEventRequest {
    publish_request(1, id, message(1, 3, 7))
}

#[tokio::test]
async fn without_tokens_another_address_than_loopback_is_refused_unless_it_is_insecure() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let launcher = Launcher::new().with("grpc-listen", address);
        let refusal = launcher.refusal().await;
        assert!(
            refusal.contains("gRPC is not served on grpc_listen") && refusal.contains("admin_token_file"),
            "{refusal}"
        );
    }
    let launcher = Launcher::new().with("grpc-listen", "0.0.0.0:0").with("insecure", "true");
    let gateway = launcher.start().await;
    list(&gateway.client).await.expect("everybody may call");
    let log = gateway.stop().await;
    let warned =
        |line: &&String| line.contains("WARN") && line.contains("anyone who can connect has full access");
    assert_eq!(log.iter().filter(warned).count(), 1, "{log:#?}");
}

#[tokio::test]
async fn on_loopback_everybody_on_the_machine_may_call_and_the_log_says_so() {
    let gateway = Launcher::new().start().await;
    list(&gateway.client).await.expect("everybody may call");
    let log = gateway.stop().await;
    assert!(
        log.iter().any(|line| line.contains("every process on this machine has full access")),
        "{log:#?}"
    );
}

#[tokio::test]
async fn with_the_administrators_token_any_address_is_served_and_every_call_needs_one() {
    let launcher = with_admin_token().with("grpc-listen", "0.0.0.0:0");
    let gateway = launcher.start().await;
    let status = list(&gateway.client).await.unwrap_err();
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
    assert!(log.iter().any(|line| line.contains("rejected calls without a valid access token")), "{log:#?}");
    for secret in [ADMIN, &text] {
        assert!(!log.iter().any(|line| line.contains(secret)), "{log:#?}");
    }

    // The tokens of the store are enough for the next start; the administrator's is gone with its file.
    let launcher = launcher.without("admin-token-file");
    let gateway = launcher.start().await;
    publish(&gateway, &text, "g").await.expect("it may still publish");
    assert_eq!(publish(&gateway, ADMIN, "h").await.unwrap_err().code(), Code::Unauthenticated);
    gateway.stop().await;
    let file = launcher.dir().join("admin.token");
    let gateway = launcher.with_file("admin-token-file", file).start().await;
    let token = get(&gateway, &publisher.name).await;
    assert_eq!((token.name, token.scopes), (publisher.name, publisher.scopes));
    gateway.stop().await;
}

#[tokio::test]
async fn an_unusable_administrators_token_ends_the_start_and_is_not_printed() {
    for (text, problem) in
        [("", "does not contain an access token"), ("hunter2", "it must have 32 to 256 characters")]
    {
        let launcher = with_admin_token();
        launcher.file("admin.token", text);
        let refusal = launcher.refusal().await;
        assert!(refusal.contains(problem) && !refusal.contains("hunter2"), "{refusal}");
    }
    let nowhere = Path::new("/nowhere/admin.token");
    let refusal = Launcher::new().with_file("admin-token-file", nowhere).refusal().await;
    assert!(refusal.contains("cannot read admin_token_file /nowhere/admin.token"), "{refusal}");
}

#[tokio::test]
async fn the_administrators_token_may_come_from_the_environment_and_is_not_printed() {
    let launcher = Launcher::new().with_variable("TIDINGS_ADMIN_TOKEN", ADMIN);
    let gateway = launcher.start().await;
    create(&gateway, &[Scope::Read], None).await;
    let log = gateway.stop().await;
    assert!(!log.iter().any(|line| line.contains(ADMIN)), "{log:#?}");
    let mut command = tidings(&["config"]);
    command.env("TIDINGS_ADMIN_TOKEN", ADMIN);
    let ended = run(command).await;
    assert_eq!(ended.code, Some(0));
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains(ADMIN));
}

#[tokio::test]
async fn a_token_that_expires_ends_its_streams_within_a_second_and_its_last_use_is_kept() {
    let launcher = with_admin_token();
    let gateway = launcher.start().await;
    let expire = Duration::from_secs(2);
    let expire_time = Some(SystemClock::default().now().plus(expire).into());
    let (made, text) = create(&gateway, &[Scope::Publish, Scope::Read], expire_time).await;
    let end = Instant::now() + expire;
    let client = gateway.client.with_token(&text);
    let (sender, mut responses) = client.publish_stream().await;
    sender.send(v1::StreamPublishEventsRequest { sequence: 1, request: Some(request("e")) }).unwrap();
    in_time(responses.message()).await.unwrap().expect("a response");
    let mut watch = client.watch("accounts/1/subscriptions/-").await.unwrap();

    for status in
        [in_time(responses.message()).await.unwrap_err(), in_time(watch.message()).await.unwrap_err()]
    {
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
    let gateway = launcher.start().await;
    let kept = get(&gateway, &made.name).await;
    assert_eq!((kept.state(), kept.last_use_time), (v1::access_token::State::Expired, last_use));
    gateway.stop().await;
}
