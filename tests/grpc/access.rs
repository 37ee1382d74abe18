//! Access: tokens, scopes, accounts, and how they end. Over real sockets, on every method of the contract.

use std::time::{Duration, Instant};

use prost::Message;
use prost_types::FileDescriptorSet;
use tidings::{
    domain::access::TokenHash,
    grpc::Exposure,
    proto::{
        self,
        v1::{self, access_token::Scope, access_token_service_client::AccessTokenServiceClient},
    },
};
use tokio::{sync::oneshot, task::JoinHandle};
use tonic::{
    Code::{
        self, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted,
        Unauthenticated,
    },
    Request, Status,
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{client::Client, eventually, in_process::*};

mod accounts;

/// The administrator's token of every server here.
const ADMIN: &str = "an-administrators-token-of-46-characters-0123";

/// The paths of all methods of the contract.
fn methods() -> Vec<String> {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).expect("they are built in");
    let mut methods = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let path = |method: &str| format!("/{}.{}/{method}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| path(method.name())));
        }
    }
    assert!(methods.len() >= 26, "{methods:#?}");
    methods
}

/// A client on a connection of its own with this metadata `authorization`, or without.
async fn caller(server: &TidingsInProcess, header: Option<&str>) -> Client {
    let client = server.another_client().await;
    header.map_or_else(|| client.clone(), |header| client.with_authorization(header))
}

/// Calls a method whose message comes when the test sends it. Returns once the server has let the call
/// through.
async fn slow_call(
    server: &TidingsInProcess,
    client: Client,
    path: &'static str,
) -> (oneshot::Sender<Vec<u8>>, JoinHandle<Result<Vec<u8>, Status>>) {
    let (sender, message) = oneshot::channel();
    let messages = futures_util::stream::once(async { message.await.expect("a test sends it") });
    let call = tokio::spawn(async move { client.call_with(path, messages).await });
    let is_through = |text: &String| text.contains("tidings_grpc_calls_in_flight 1\n");
    eventually("let through", async || server.metrics.text(), is_through).await;
    (sender, call)
}

/// A server that asks for tokens, and takes any number of failed tries.
fn guarded() -> Setup {
    let mut setup = Setup::default();
    setup.gateway.tokens.admin = Some(TokenHash::of(ADMIN));
    setup.grpc.access.failures_per_minute_max = 1_000_000;
    setup
}

async fn start() -> (TidingsInProcess, Client) {
    let server = TidingsInProcess::start_with(guarded()).await;
    let admin = server.client_with_token(ADMIN).await;
    (server, admin)
}

/// A token of these scopes for these accounts.
fn token(scopes: &[Scope], accounts: &[&str]) -> v1::AccessToken {
    v1::AccessToken {
        scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
        accounts: accounts.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

const PUBLISH: &str = "/tidings.v1.EventService/PublishEvent";
const CREATE_SUBSCRIPTION: &str = "/tidings.v1.SubscriptionService/CreateSubscription";

const ALL: [Scope; 4] = [Scope::Publish, Scope::Read, Scope::Manage, Scope::Admin];

/// The method's scope, as docs/security.md says.
fn documented_scope(method: &str) -> Scope {
    let document = include_str!("../../docs/security.md");
    let word = method.rsplit('/').next().expect("a path");
    let names = |line: &str| line.split('`').any(|name| name == word);
    let rows: Vec<_> = document.lines().filter(|line| line.starts_with("| `") && names(line)).collect();
    assert_eq!(rows.len(), 1, "{method}: {rows:?}");
    match rows[0].split('`').nth(1).expect("a row") {
        "publish" => Scope::Publish,
        "read" => Scope::Read,
        "manage" => Scope::Manage,
        "admin" => Scope::Admin,
        other => panic!("{other} is no scope"),
    }
}

fn includes(given: Scope, needed: Scope) -> bool {
    given == needed || given != Scope::Publish && needed != Scope::Publish && given as i32 > needed as i32
}

#[tokio::test]
async fn every_method_is_refused_without_its_scope_and_let_through_with_it() {
    let (server, admin) = start().await;
    let (mut tries, mut refused) = (0, 0);
    for given in ALL {
        let (_, text) = admin.create_token(token(&[given], &[])).await.unwrap();
        let caller = server.client_with_token(&text).await;
        for method in methods() {
            tries += 1;
            let response = caller.call(&method, Vec::new()).await;
            let denied = response.as_ref().err().filter(|status| status.code() == PermissionDenied);
            let needed = documented_scope(&method);
            assert_eq!(denied.is_none(), includes(given, needed), "{method} with {given:?}: {response:?}");
            if let Some(status) = denied {
                refused += 1;
                assert_eq!(in_short(status).1, "SCOPE_DENIED", "{method}");
            }
        }
    }
    assert_eq!((tries, refused), (140, 66), "docs/security.md has these numbers");
    server.stop().await;
}

#[tokio::test]
async fn every_method_needs_a_valid_token() {
    let (server, admin) = start().await;
    let (revoked, revoked_text) = admin.create_token(token(&ALL, &[])).await.unwrap();
    admin.revoke_token(&revoked.name).await.unwrap();
    let soon = std::time::Duration::from_millis(100);
    let expire_time = Some(after(soon));
    let (_, expired_text) =
        admin.create_token(v1::AccessToken { expire_time, ..token(&ALL, &[]) }).await.unwrap();
    tokio::time::sleep(soon).await;
    let headers = [
        (None, "TOKEN_MISSING"),
        (Some(String::new()), "TOKEN_INVALID"),
        (Some("Bearer".to_owned()), "TOKEN_INVALID"),
        (Some("Bearer ".to_owned()), "TOKEN_INVALID"),
        (Some(ADMIN.to_owned()), "TOKEN_INVALID"),
        (Some(format!("Basic {ADMIN}")), "TOKEN_INVALID"),
        (Some(format!("Bearer {}", &ADMIN[1..])), "TOKEN_INVALID"),
        (Some(format!("Bearer {ADMIN} {ADMIN}")), "TOKEN_INVALID"),
        (Some(format!("Bearer {}", "x".repeat(10_000))), "TOKEN_INVALID"),
        (Some(format!("Bearer {revoked_text}")), "TOKEN_REVOKED"),
        (Some(format!("Bearer {expired_text}")), "TOKEN_EXPIRED"),
    ];
    let mut tries = 0;
    for (header, reason) in headers {
        let caller = caller(&server, header.as_deref()).await;
        for method in methods() {
            tries += 1;
            let status = caller.call(&method, Vec::new()).await.expect_err(&method);
            assert_eq!(
                in_short(&status),
                (Unauthenticated, reason.to_owned(), vec![]),
                "{method} {header:?}"
            );
            assert!(!status.message().contains("administrators"), "{}", status.message());
        }
    }
    assert_eq!(tries, 385, "docs/security.md has this number");
    // The scheme has no case.
    let caller = caller(&server, Some(&format!("bEARER {ADMIN}"))).await;
    caller.all_tokens().await.expect("it is a token");
    server.stop().await;
}

#[tokio::test]
async fn two_headers_are_no_token() {
    let (server, _) = start().await;
    let mut client = AccessTokenServiceClient::new(server.channel().await);
    let mut request = Request::new(v1::ListAccessTokensRequest::default());
    for _ in 0..2 {
        request.metadata_mut().append("authorization", format!("Bearer {ADMIN}").parse().unwrap());
    }
    let status = client.list_access_tokens(request).await.unwrap_err();
    assert_eq!(in_short(&status).1, "TOKEN_INVALID");
    server.stop().await;
}

#[tokio::test]
async fn a_token_is_shown_once_and_its_text_never_again() {
    let (server, admin) = start().await;
    let asked = v1::AccessToken {
        display_name: "the publisher".into(),
        expire_time: Some(after(Duration::from_secs(3600))),
        ..token(&[Scope::Read, Scope::Publish], &["accounts/2", "accounts/1"])
    };
    let (made, text) = admin.create_token(asked.clone()).await.unwrap();
    assert!(text.starts_with("tdg_") && text.len() == 47, "{text}");
    assert!(made.name.starts_with("accessTokens/t"), "{}", made.name);
    assert_eq!(made.scopes, [Scope::Publish, Scope::Read].map(i32::from));
    assert_eq!(made.accounts, ["accounts/1", "accounts/2"]);
    assert_eq!(
        (&made.display_name, made.expire_time),
        (&asked.display_name, asked.expire_time.map(whole_micros))
    );
    assert_eq!(made.state(), v1::access_token::State::Active);
    assert_eq!((made.last_use_time, made.revoke_time), (None, None));

    assert_eq!(admin.token(&made.name).await.unwrap(), made);
    assert_eq!(admin.all_tokens().await.unwrap(), std::slice::from_ref(&made));
    let caller = server.client_with_token(&text).await;
    caller.call(PUBLISH, encoded(&publish("e"))).await.unwrap();
    let used = admin.token(&made.name).await.unwrap();
    assert!(used.last_use_time.is_some());
    let revoked = admin.revoke_token(&made.name).await.unwrap();
    assert_eq!(revoked.state(), v1::access_token::State::Revoked);
    assert_eq!(admin.revoke_token(&made.name).await.unwrap(), revoked, "again is the same");
    assert!(!format!("{revoked:?} {:?}", server.store.tokens()).contains(&text));
    let status = admin.token("accessTokens/t0").await.unwrap_err();
    assert_refused(&status, NotFound, "ACCESS_TOKEN_NOT_FOUND", &[]);
    server.stop().await;
}

#[tokio::test]
async fn lists_have_pages() {
    let (server, admin) = start().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(admin.create_token(token(&[Scope::Read], &[])).await.unwrap().0.name);
    }
    made.sort();
    let (mut names, mut page_token) = (Vec::new(), String::new());
    loop {
        let (page, next) = admin.token_page(2, &page_token).await.unwrap();
        assert!(page.len() <= 2);
        names.extend(page.into_iter().map(|token| token.name));
        if next.is_empty() {
            break;
        }
        page_token = next;
    }
    assert_eq!(names, made);
    let status = admin.token_page(2, "x").await.unwrap_err();
    assert_eq!(in_short(&status).1, "PAGE_TOKEN_INVALID");
    server.stop().await;
}

#[tokio::test]
async fn faults_of_a_token_are_reported_by_field() {
    let (server, admin) = start().await;
    let many: Vec<_> = (1..=101).map(|id| format!("accounts/{id}")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let read = [Scope::Read];
    let with = |change: fn(&mut v1::AccessToken)| {
        let mut token = token(&read, &[]);
        change(&mut token);
        token
    };
    let cases: [(v1::AccessToken, &str, &[&str]); 10] = [
        (token(&[], &[]), "FIELD_REQUIRED", &["access_token.scopes"]),
        (token(&[Scope::Unspecified], &[]), "FIELD_INVALID", &["access_token.scopes[0]"]),
        (with(|token| token.scopes.push(9)), "FIELD_INVALID", &["access_token.scopes[1]"]),
        (token(&[Scope::Read, Scope::Read], &[]), "FIELD_INVALID", &["access_token.scopes"]),
        (token(&read, &["accounts/1", "accounts/-"]), "FIELD_INVALID", &["access_token.accounts[1]"]),
        (token(&read, &["accounts/1", "accounts/1"]), "FIELD_INVALID", &["access_token.accounts[1]"]),
        (token(&read, &many), "FIELD_INVALID", &["access_token.accounts"]),
        (with(|token| token.display_name = "x".repeat(64)), "FIELD_INVALID", &["access_token.display_name"]),
        (with(|token| token.display_name = "a\nb".into()), "FIELD_INVALID", &["access_token.display_name"]),
        (
            with(|token| token.expire_time = Some(after(Duration::ZERO))),
            "FIELD_INVALID",
            &["access_token.expire_time"],
        ),
    ];
    for (token, reason, fields) in cases {
        let status = admin.create_token(token.clone()).await.expect_err(reason);
        let expected: Vec<_> = fields.iter().map(ToString::to_string).collect();
        assert_eq!(in_short(&status), (InvalidArgument, reason.to_owned(), expected), "{token:?}");
    }
    let status =
        admin.tokens.clone().create_access_token(v1::CreateAccessTokenRequest::default()).await.unwrap_err();
    assert_refused(&status, InvalidArgument, "FIELD_REQUIRED", &["access_token"]);
    assert_eq!(admin.all_tokens().await.unwrap(), []);
    server.stop().await;
}

#[tokio::test]
async fn a_revoked_token_ends_within_a_second_on_every_connection() {
    let mut setup = guarded();
    setup.gateway.watches_max = 12;
    let server = TidingsInProcess::start_with(setup).await;
    let admin = server.client_with_token(ADMIN).await;
    admin.call(CREATE_SUBSCRIPTION, encoded(&create("crm", "https://crm.example.com/"))).await.unwrap();
    let (made, text) = admin.create_token(token(&ALL, &["accounts/1"])).await.unwrap();
    let callers = [server.client_with_token(&text).await, server.client_with_token(&text).await];
    let (mut streams, mut open) = (Vec::new(), Vec::new());
    for caller in &callers {
        let (sender, mut responses) = caller.publish_stream().await;
        sender.send(v1::StreamPublishEventsRequest { sequence: 1, request: Some(publish("")) }).unwrap();
        in_time(responses.message()).await.unwrap().expect("there is a response");
        streams.push((sender, responses));
        open.push(caller.watch("accounts/1/subscriptions/-").await.unwrap());
    }
    // The stream of another token continues.
    let (_, other_text) = admin.create_token(token(&[Scope::Read], &[])).await.unwrap();
    let mut other =
        server.client_with_token(&other_text).await.watch("accounts/1/subscriptions/crm").await.unwrap();

    let begin = Instant::now();
    admin.revoke_token(&made.name).await.unwrap();
    let ended = (Unauthenticated, "TOKEN_ENDED".to_owned(), vec![]);
    for (sender, responses) in &mut streams {
        let status = in_time(responses.message()).await.expect_err("the stream ends");
        assert_eq!(in_short(&status), ended);
        // Later events are not accepted.
        drop(sender.send(v1::StreamPublishEventsRequest { sequence: 2, request: Some(publish("late")) }));
    }
    for watch in &mut open {
        loop {
            match in_time(watch.message()).await {
                Ok(change) => assert!(change.is_some(), "it ends with a status"),
                Err(status) => break assert_eq!(in_short(&status), ended),
            }
        }
    }
    for caller in &callers {
        let status = caller.call(PUBLISH, encoded(&publish("late"))).await.unwrap_err();
        assert_eq!(in_short(&status).1, "TOKEN_REVOKED");
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "it took {:?}", begin.elapsed());

    let id = "late".parse().unwrap();
    assert!(server.store.event(account(), &id).unwrap().is_none(), "it was stored");
    let publisher = admin.create_token(token(&[Scope::Publish], &[])).await.unwrap().1;
    let publisher = server.client_with_token(&publisher).await;
    publisher.call(PUBLISH, encoded(&publish("more"))).await.unwrap();
    in_time(other.message()).await.unwrap().expect("it hears of the event");
    drop(other);
    server.stop().await;
}

#[tokio::test]
async fn failed_tries_are_limited_and_do_not_keep_others_waiting() {
    let mut setup = guarded();
    setup.grpc.access.failures_per_minute_max = 3;
    let server = TidingsInProcess::start_with(setup).await;
    let admin = server.client_with_token(ADMIN).await;
    let stranger = server.client_with_token("tdg_0000000000000000000000000000000000000000000").await;
    for attempt in 0..6 {
        let status = stranger.all_tokens().await.unwrap_err();
        let expected = if attempt < 3 {
            (Unauthenticated, "TOKEN_INVALID")
        } else {
            (ResourceExhausted, "RATE_LIMITED")
        };
        assert_eq!((status.code(), &*in_short(&status).1), expected, "{attempt}");
        if attempt >= 3 {
            let details = details(&status);
            let wait = details.retry_info().unwrap().retry_delay.unwrap();
            assert!(!wait.is_zero() && wait <= Duration::from_secs(60), "{wait:?}");
            assert_eq!(details.quota_failure().unwrap().violations[0].subject, "127.0.0.1");
            assert_eq!(details.error_info().unwrap().metadata["limit"], "access_failures_per_minute_max");
        }
    }
    admin.all_tokens().await.expect("a valid token passes from the same address");
    let denied = |reason: &str| format!("tidings_calls_denied_total{{reason=\"{reason}\"}} 3\n");
    let text = server.metrics.text();
    for reason in ["invalid", "rate_limited"] {
        assert!(text.contains(&denied(reason)), "{text}");
    }
    server.stop().await;
}

#[tokio::test]
async fn reflection_and_health_are_open_unless_they_are_closed() {
    const REFLECTION: [&str; 2] = [
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ];
    for exposure in [Exposure::Open, Exposure::Token, Exposure::Off] {
        let mut setup = guarded();
        setup.grpc.access.grpc_reflection = exposure;
        setup.grpc.access.grpc_health = exposure;
        let server = TidingsInProcess::start_with(setup).await;
        let publisher = server
            .client_with_token(ADMIN)
            .await
            .create_token(token(&[Scope::Publish], &["accounts/1"]))
            .await;
        for (header, known) in [(None, false), (Some(format!("Bearer {}", publisher.unwrap().1)), true)] {
            let caller = caller(&server, header.as_deref()).await;
            let expected = match exposure {
                Exposure::Open => Code::Ok,
                Exposure::Token if known => Code::Ok,
                Exposure::Token => Unauthenticated,
                Exposure::Off => Code::Unimplemented,
            };
            let health = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
            for path in REFLECTION.into_iter().chain(health) {
                let response = caller.call(path, Vec::new()).await;
                // The response of reflection to an empty message does not matter.
                let code = response.map_or_else(|status| status.code(), |_| Code::Ok);
                let code = if code == InvalidArgument { Code::Ok } else { code };
                assert_eq!(code, expected, "{path} {exposure:?}, with a token: {known}");
            }
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn an_open_server_is_open_until_its_first_token_which_must_be_an_administrators() {
    let server = TidingsInProcess::start().await;
    let nobody = caller(&server, None).await;
    // Tokens sent before the first one existed have no effect.
    let stale = server.client_with_token("tdg_0000000000000000000000000000000000000000000").await;
    assert_eq!(stale.all_tokens().await.unwrap(), []);
    for wrong in [token(&[Scope::Manage], &[]), token(&[Scope::Admin], &["accounts/1"])] {
        let status = nobody.create_token(wrong).await.unwrap_err();
        assert_eq!((status.code(), &*in_short(&status).1), (FailedPrecondition, "FIRST_TOKEN_NOT_ADMIN"));
    }
    let mut watch = nobody.watch("accounts/1/subscriptions/-").await.unwrap();
    let (_, text) = nobody.create_token(token(&ALL, &[])).await.expect("it is an administrator's");
    let admin = server.client_with_token(&text).await;
    for method in methods() {
        let status = nobody.call(&method, Vec::new()).await.expect_err(&method);
        assert_eq!(in_short(&status).1, "TOKEN_MISSING", "{method}");
        let response = admin.call(&method, Vec::new()).await;
        assert!(
            !response.is_err_and(|status| [PermissionDenied, Unauthenticated].contains(&status.code())),
            "{method}"
        );
    }
    admin.create_token(token(&[Scope::Read], &["accounts/1"])).await.expect("others may be anything");
    // Streams opened before the first token have none that could end.
    admin.call(CREATE_SUBSCRIPTION, encoded(&create("crm", "https://crm.example.com/"))).await.unwrap();
    admin.call(PUBLISH, encoded(&publish("e"))).await.unwrap();
    in_time(watch.message()).await.unwrap().expect("it continues");
    drop(watch);
    server.stop().await;
}

#[tokio::test]
async fn a_request_id_makes_the_creation_of_a_token_safe_to_repeat_and_shows_its_secret_once() {
    let mut setup = guarded();
    setup.gateway.tokens.tokens_max = 2;
    let server = TidingsInProcess::start_with(setup).await;
    let admin = server.client_with_token(ADMIN).await;
    let (_, another) = admin.create_token(token(&ALL, &[])).await.unwrap();
    let request = v1::CreateAccessTokenRequest {
        access_token: Some(token(&[Scope::Read], &["accounts/1"])),
        request_id: uuid::Uuid::from_u128(7).to_string(),
    };
    let create = async |client: &Client, request: &v1::CreateAccessTokenRequest| {
        client.tokens.clone().create_access_token(request.clone()).await.map(tonic::Response::into_inner)
    };
    let first = create(&admin, &request).await.unwrap();
    assert!(first.token.starts_with("tdg_") && !first.secret_already_shown);
    let repeated = |access_token| v1::CreateAccessTokenResponse {
        access_token,
        token: String::new(),
        secret_already_shown: true,
    };
    // Although there is no room for one more.
    assert_eq!(create(&admin, &request).await.unwrap(), repeated(first.access_token.clone()));
    assert_eq!(admin.all_tokens().await.unwrap().len(), 2);
    let revoked = admin.revoke_token(&first.access_token.as_ref().unwrap().name).await.unwrap();
    let after = create(&admin, &request).await.unwrap();
    assert_eq!(after, repeated(Some(revoked)), "it stays revoked");

    let another = server.client_with_token(&another).await;
    let other = v1::CreateAccessTokenRequest {
        access_token: Some(token(&[Scope::Read], &["accounts/2"])),
        ..request.clone()
    };
    for (client, request) in [(&admin, &other), (&another, &request)] {
        let status = create(client, request).await.unwrap_err();
        assert_refused(&status, Code::AlreadyExists, "REQUEST_ID_REUSED", &["request_id"]);
    }
    let invalid = v1::CreateAccessTokenRequest { request_id: "once".into(), ..request };
    let status = create(&admin, &invalid).await.unwrap_err();
    assert_refused(&status, InvalidArgument, "FIELD_INVALID", &["request_id"]);
    server.stop().await;
}

/// Fails the test unless the bound on tokens refused a call.
#[track_caller]
fn assert_too_many(refused: Result<(v1::AccessToken, String), Status>, share: &str) {
    let status = refused.expect_err("there are too many");
    assert_eq!((status.code(), &*in_short(&status).1), (ResourceExhausted, "TOKEN_LIMIT"));
    let metadata = details(&status).error_info().unwrap().metadata.clone();
    assert_eq!((&*metadata["limit"], &*metadata["share"]), ("access_tokens_max", share));
}

#[tokio::test]
async fn there_is_a_bound_on_tokens_and_those_that_ended_unused_make_room() {
    let mut setup = guarded();
    setup.gateway.tokens.tokens_max = 2;
    let server = TidingsInProcess::start_with(setup).await;
    let admin = server.client_with_token(ADMIN).await;
    let request = v1::CreateAccessTokenRequest {
        access_token: Some(token(&ALL, &[])),
        request_id: uuid::Uuid::from_u128(7).to_string(),
    };
    let create = async || admin.tokens.clone().create_access_token(request.clone()).await;
    let unused = create().await.unwrap().into_inner().access_token.unwrap();
    let (used, text) = admin.create_token(token(&ALL, &[])).await.unwrap();
    server.client_with_token(&text).await.all_tokens().await.unwrap();
    assert_too_many(admin.create_token(token(&ALL, &[])).await, "0");
    admin.revoke_token(&used.name).await.unwrap();
    assert_too_many(admin.create_token(token(&ALL, &[])).await, "0");
    admin.revoke_token(&unused.name).await.unwrap();
    let (last, _) = admin.create_token(token(&ALL, &[])).await.expect("the unused one makes room");
    let left = admin.all_tokens().await.unwrap();
    assert!(left.iter().all(|token| [&used.name, &last.name].contains(&&token.name)), "{left:?}");
    // The request that created it is forgotten with it: its repetition does not bring it back.
    let status = create().await.unwrap_err();
    assert_eq!((status.code(), &*in_short(&status).1), (ResourceExhausted, "TOKEN_LIMIT"));
    server.stop().await;
}

#[tokio::test]
async fn an_administrator_of_some_accounts_has_a_quarter_of_the_tokens_and_leaves_the_others_theirs() {
    let mut setup = guarded();
    setup.gateway.tokens.tokens_max = 40;
    let server = TidingsInProcess::start_with(setup).await;
    let admin = server.client_with_token(ADMIN).await;
    let (_, one) = admin.create_token(token(&ALL, &["accounts/1", "accounts/2"])).await.unwrap();
    let (_, other) = admin.create_token(token(&ALL, &["accounts/3"])).await.unwrap();
    let [one, other] = [server.client_with_token(&one).await, server.client_with_token(&other).await];
    let own = |number: usize| token(&ALL, &[["accounts/1"], ["accounts/2"]][number % 2]);
    // Its own token is one of the quarter.
    for number in 0..9 {
        one.create_token(own(number)).await.unwrap();
    }
    assert_too_many(one.create_token(own(9)).await, "10");
    let mut last = Ok(());
    while last.is_ok() {
        last = admin.create_token(token(&ALL, &[])).await.map(drop);
    }
    assert_eq!(admin.all_tokens().await.unwrap().len(), 30, "all but the last quarter");
    // It has its own only.
    assert_too_many(other.create_token(token(&ALL, &["accounts/3"])).await, "1");
    let (_, third) = {
        let all = admin.all_tokens().await.unwrap();
        let of_one = all.iter().find(|token| token.accounts == ["accounts/1"]).unwrap();
        admin.revoke_token(&of_one.name).await.unwrap();
        other.create_token(token(&ALL, &["accounts/3"])).await.expect("an unused one makes room")
    };
    server.client_with_token(&third).await.all_tokens().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_message_that_arrives_after_its_tokens_end_changes_nothing() {
    let (server, admin) = start().await;
    let (made, text) = admin.create_token(token(&[Scope::Publish], &[])).await.unwrap();
    let caller = server.client_with_token(&text).await;
    let (message, pending) = slow_call(&server, caller, PUBLISH).await;
    admin.revoke_token(&made.name).await.unwrap();
    message.send(encoded(&publish("late"))).expect("the call is open");
    let status: Status = in_time(pending).await.unwrap().expect_err("its token has ended");
    assert_eq!(in_short(&status).1, "TOKEN_ENDED");
    assert!(server.store.event(account(), &"late".parse().unwrap()).unwrap().is_none(), "it was stored");
    server.stop().await;
}

#[tokio::test]
async fn health_knows_the_service_of_tokens() {
    let server = TidingsInProcess::start().await;
    let mut client = HealthClient::new(server.channel().await);
    client
        .check(HealthCheckRequest { service: "tidings.v1.AccessTokenService".into() })
        .await
        .expect("it is known");
    server.stop().await;
}

/// A time to come.
fn after(wait: Duration) -> prost_types::Timestamp {
    use tidings::clock::{Clock, SystemClock};
    SystemClock::default().now().plus(wait).into()
}

fn whole_micros(time: prost_types::Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { nanos: time.nanos / 1000 * 1000, ..time }
}

fn encoded(message: &impl prost::Message) -> Vec<u8> {
    message.encode_to_vec()
}
