//! What a client certificate grants by itself, in the real program over real TLS: once there are access tokens, no
//! more than `grpc_client_subjects` says.

use tidings::proto::v1::{self, access_token::Scope};
use tonic::{Code, Status};

use super::tls::mutual;
use crate::support::{
    certificates::{Authority, TlsClient, Valid},
    client::{Client, subscription},
    events::{message, publish_request},
    process::{Launcher, TidingsProcess, run},
    secret_scan,
};

const ADMIN: &str = "0123456789abcdef-the-operators-own-choice";

/// Two authorities, and a launcher of gateways that want certificates of the second.
struct Parties {
    servers: Authority,
    clients: Authority,
    launcher: Launcher,
}

impl Parties {
    fn new() -> Self {
        let (servers, clients) = (Authority::new(), Authority::new());
        let ops = servers.trusting().showing(&clients.client("ops", Valid::Now));
        let launcher = mutual(&servers, &clients, &ops);
        Self { servers, clients, launcher }
    }

    fn certified(&self, name: &str) -> TlsClient {
        self.servers.trusting().showing(&self.clients.client(name, Valid::Now))
    }

    /// A client of a gateway with a certificate of `CN=name`.
    async fn client(&self, gateway: &TidingsProcess, name: &str) -> Client {
        let channel = self.certified(name).channel(gateway.grpc).await.unwrap();
        Client::new(secret_scan::Channel::new(channel, self.launcher.secrets().clone()))
    }
}

async fn list(client: &Client, parent: &str) -> Result<(), Status> {
    let request = v1::ListSubscriptionsRequest { parent: parent.into(), ..Default::default() };
    client.subscriptions.clone().list_subscriptions(request).await.map(drop)
}

fn token(scope: Scope) -> v1::AccessToken {
    v1::AccessToken { scopes: vec![scope.into()], ..Default::default() }
}

/// Calls that need each of the scopes but admin.
async fn try_most(client: &Client) -> [Result<(), Status>; 3] {
    let url = "https://a.example.com/";
    [
        client.try_publish(publish_request(1, "", message(1, 3, 7))).await.map(drop),
        list(client, "accounts/1").await,
        client.try_subscribe(1, subscription(url)).await.map(drop),
    ]
}

/// Calls that need each of the scopes.
async fn try_everything(client: &Client) -> [Result<(), Status>; 4] {
    let [publishing, reading, managing] = try_most(client).await;
    [publishing, reading, managing, client.create_token(token(Scope::Admin)).await.map(drop)]
}

#[tokio::test]
async fn once_there_are_tokens_a_certificate_alone_grants_nothing_also_after_they_are_revoked() {
    let parties = Parties::new();
    let launcher = parties.launcher.clone().with_variable("TIDINGS_ADMIN_TOKEN", ADMIN);
    let gateway = launcher.start().await;
    let admin = gateway.client.with_token(ADMIN);
    let (issued, text) = admin.create_token(token(Scope::Read)).await.unwrap();
    let reader = gateway.client.with_token(&text);
    list(&reader, "accounts/1").await.expect("the token is for that");

    // The holder of the certificate leaves the token out, before and after it was revoked.
    for is_revoked in [false, true] {
        for refused in try_everything(&gateway.client).await {
            let status = refused.expect_err("a certificate proves the connection only");
            assert_eq!(status.code(), Code::Unauthenticated, "{status:?}, revoked: {is_revoked}");
            assert!(status.message().contains("grpc_client_subjects has no entry"), "{status:?}");
        }
        admin.revoke_token(&issued.name).await.unwrap();
    }
    assert_eq!(list(&reader, "accounts/1").await.unwrap_err().code(), Code::Unauthenticated);
    let log = gateway.stop().await;
    assert!(log.iter().any(|line| line.contains("peer.certificate") && line.contains("CN=ops")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("full access")), "{log:#?}");

    // Without the operator's token, the revoked one in the store closes the gateway all the same.
    let gateway = parties.launcher.start().await;
    for refused in try_everything(&gateway.client).await {
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    }
    gateway.stop().await;
}

#[tokio::test]
async fn a_subject_grants_the_scopes_and_accounts_of_its_entry_and_a_token_decides_before_it() {
    let parties = Parties::new();
    let launcher = parties.launcher.clone().with_variable("TIDINGS_ADMIN_TOKEN", ADMIN).with(
        "grpc-client-subjects",
        "CN=publisher -> publish accounts/1; CN=crm -> manage accounts/1; CN=ops -> publish admin accounts/-",
    );
    let gateway = launcher.start().await;
    let code = |result: &Result<(), Status>| result.as_ref().map_or_else(Status::code, |()| Code::Ok);
    let (ok, denied) = (Code::Ok, Code::PermissionDenied);
    for (name, expected) in [
        ("publisher", [ok, denied, denied, denied]),
        ("crm", [denied, ok, ok, denied]),
        ("ops", [ok, ok, Code::AlreadyExists, ok]),
        ("other", [Code::Unauthenticated; 4]),
    ] {
        let client = parties.client(&gateway, name).await;
        let results = try_everything(&client).await;
        assert_eq!(results.each_ref().map(code), expected, "{name}: {results:?}");
    }
    let crm = parties.client(&gateway, "crm").await;
    for parent in ["accounts/2", "accounts/-"] {
        assert_eq!(list(&crm, parent).await.unwrap_err().code(), denied, "{parent}");
    }
    list(&parties.client(&gateway, "ops").await, "accounts/-").await.expect("it is for all accounts");

    let (_, text) = gateway.client.with_token(ADMIN).create_token(token(Scope::Read)).await.unwrap();
    let narrower = parties.client(&gateway, "ops").await.with_token(&text);
    assert_eq!(code(&narrower.create_token(token(Scope::Read)).await.map(drop)), denied);
    let record = gateway.client.with_token(ADMIN).audit_records().await;
    assert!(record.iter().any(|record| record.principal == "certificates/CN=crm"), "{record:?}");
    gateway.stop().await;
}

#[tokio::test]
async fn without_tokens_and_entries_a_certificate_grants_everything_and_the_log_warns_of_it() {
    let parties = Parties::new();
    let warned = |log: &[String]| {
        let warns = |line: &&String| {
            line.contains("WARN") && line.contains("every holder of a client certificate has full access")
        };
        log.iter().filter(warns).count()
    };
    let gateway = parties.launcher.start().await;
    for result in try_most(&gateway.client).await {
        result.expect("there is no token yet");
    }
    let status = gateway.client.create_token(token(Scope::Read)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "it would lock everybody out: {status:?}");
    gateway.client.create_token(token(Scope::Admin)).await.expect("the first one");
    for refused in try_everything(&gateway.client).await {
        assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated, "from the first token on");
    }
    assert_eq!(warned(&gateway.stop().await), 1);
    let gateway = parties.launcher.start().await;
    assert_eq!(warned(&gateway.stop().await), 0, "the token is still there");

    // With entries, nobody is let in that they do not name, though there is no token.
    let parties = Parties::new();
    let launcher = parties.launcher.clone().with("grpc-client-subjects", "CN=crm -> manage accounts/1");
    let gateway = launcher.start().await;
    assert_eq!(list(&gateway.client, "accounts/1").await.unwrap_err().code(), Code::Unauthenticated);
    list(&parties.client(&gateway, "crm").await, "accounts/1").await.expect("it is named");
    assert_eq!(warned(&gateway.stop().await), 0);
}

#[tokio::test]
async fn a_wrong_entry_ends_the_start_and_is_named() {
    let launcher = Parties::new().launcher;
    for (entry, problem) in [
        ("CN=a, O=b -> read accounts/1", r#"has " O=b" in its subject"#),
        ("CN=a -> read", "has no account: add accounts/{account}, or accounts/- for all"),
        ("CN=a -> reed accounts/1", r#"has "reed", which is neither a scope"#),
    ] {
        let ended = run(launcher.clone().with("grpc-client-subjects", entry).command()).await;
        let expected = format!("flag --grpc-client-subjects: {entry:?} {problem}");
        assert!(ended.code == Some(64) && ended.stderr.contains(&expected), "{expected}: {ended:?}");
    }
}
