//! Gateways that want to know who calls, and that callers want to know.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;
use tidings::proto::v1::{
    AccessToken, CreateAccessTokenRequest, access_token::Scope,
    access_token_service_client::AccessTokenServiceClient,
};
use tonic::Request;

use super::support::{Gateway, file, lines};
use crate::harness::{Ended, run, tidings};

const ADMIN_TOKEN: &str = "the-token-of-the-administrator-0123456789";

/// An authority, and certificates of it in files.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("keys can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("it can be signed"))
    }

    /// Writes `NAME-ca.pem`, `NAME.pem` and `NAME.key`, and tells where.
    fn write(&self, directory: &Path, name: &str, usage: ExtendedKeyUsagePurpose) -> [String; 3] {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("it is a name");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("keys can be made");
        let signed = params.signed_by(&key, &self.0).expect("it can be signed");
        let files = [
            (format!("{name}-ca.pem"), self.0.pem()),
            (format!("{name}.pem"), signed.pem()),
            (format!("{name}.key"), key.serialize_pem()),
        ];
        files.map(|(name, text)| {
            let path = directory.join(name);
            fs::write(&path, text).expect("there is room");
            path.to_str().expect("it is UTF-8").to_owned()
        })
    }
}

/// Runs the command, whose output must not have the token.
fn import(arguments: &[&str], token: Option<&str>) -> Ended {
    let mut command = tidings(&["import"]);
    command.args(arguments);
    if let Some(token) = token {
        command.env("TIDINGS_TOKEN", token);
    }
    let ended = run(&mut command);
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains("0123456789"), "{}", ended.stderr);
    ended
}

#[test]
fn over_tls_the_gateway_must_be_known_and_a_certificate_is_shown() {
    let directory = TempDir::new().expect("there is room");
    let [ca, cert, key] =
        Authority::new().write(directory.path(), "server", ExtendedKeyUsagePurpose::ServerAuth);
    let [client_ca, client_cert, client_key] =
        Authority::new().write(directory.path(), "client", ExtendedKeyUsagePurpose::ClientAuth);
    let flags =
        ["--grpc-tls-cert-file", &cert, "--grpc-tls-key-file", &key, "--grpc-client-ca-file", &client_ca];
    let gateway = Gateway::start(&directory.path().join("data"), &flags);
    let port = gateway.address.port();
    let (secure, plain) = (format!("https://localhost:{port}"), format!("http://localhost:{port}"));
    let input = file(&directory, "hooks.jsonl", lines([1, 2]));
    let shown = ["--cert", &client_cert, "--key", &client_key];

    let ended = import(&[&["--address", &secure, "--ca", &ca, &input], &shown[..]].concat(), None);
    assert_eq!(
        (ended.code, &*ended.stdout),
        (Some(0), "published 2, already there 0, refused 0\n"),
        "{}",
        ended.stderr
    );
    for (arguments, what) in [
        // The system's authorities do not know it.
        (
            [&["--address", &secure, "--ca", &client_ca, &input], &shown[..]].concat(),
            "invalid peer certificate",
        ),
        (vec!["--address", &secure, "--ca", &ca, &input], ""),
        (vec!["--address", &plain, &input], ""),
    ] {
        let ended = import(&arguments, None);
        assert_eq!(ended.code, Some(75), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("cannot reach"), "{}", ended.stderr);
        assert!(ended.stderr.contains(what) && ended.stderr.lines().count() == 1, "{}", ended.stderr);
    }
    gateway.stop();
}

/// Makes a token that may publish to account 1.
async fn publisher(gateway: &Gateway) -> String {
    let access_token = AccessToken {
        display_name: "import".to_owned(),
        scopes: vec![Scope::Publish.into()],
        accounts: vec!["accounts/1".to_owned()],
        ..AccessToken::default()
    };
    let mut request = Request::new(CreateAccessTokenRequest { access_token: Some(access_token) });
    let value = format!("Bearer {ADMIN_TOKEN}").parse().expect("it is ASCII");
    request.metadata_mut().insert("authorization", value);
    let mut client = AccessTokenServiceClient::new(gateway.channel().await);
    client.create_access_token(request).await.expect("it can be made").into_inner().token
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_comes_from_a_file_or_the_environment_and_must_count() {
    let directory = TempDir::new().expect("there is room");
    let admin = file(&directory, "admin.token", ADMIN_TOKEN);
    let gateway = Gateway::start(&directory.path().join("data"), &["--admin-token-file", &admin]);
    let (url, token) = (gateway.url(), publisher(&gateway).await);
    let token_file = file(&directory, "token", format!("{token}\n"));
    let input = file(&directory, "hooks.jsonl", lines([1, 2]));
    let of_another = file(&directory, "other.jsonl", super::message(2, 3, 1));
    let import = |arguments: &[&str], variable| import(&[&["--address", &url], arguments].concat(), variable);

    let from_file = import(&["--token-file", &token_file, &input], None);
    assert_eq!(from_file.stdout, "published 2, already there 0, refused 0\n", "{}", from_file.stderr);
    let from_environment = import(&[&input], Some(&token));
    assert_eq!(from_environment.stdout, "published 0, already there 2, refused 0\n");

    let counts = "published 0, already there 0, refused 0; stopped before the first object\n";
    for (arguments, variable, what) in [
        (vec![&*input], None, "authorization"),
        (vec![&*input], Some("tdg_of_somebody_else_0123456789"), "access token"),
        (vec!["--token-file", &admin, &input], None, "scope"),
        (vec![&*of_another], Some(&*token), "other.jsonl:1: the gateway"),
    ] {
        let ended = import(&arguments, variable);
        assert_eq!((ended.code, &*ended.stdout), (Some(77), counts), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(what), "{what}: {}", ended.stderr);
    }
    let both = import(&["--token-file", &token_file, &input], Some(&token));
    assert_eq!(both.code, Some(1));
    assert!(both.stderr.contains("--token-file and one in TIDINGS_TOKEN"), "{}", both.stderr);
    gateway.stop();
}
