//! Gateways with tokens and with TLS.

use std::{fs, path::Path};

use tidings::proto::v1::{AccessToken, access_token::Scope};

use super::{file, lines};
use crate::support::{
    certificates::{Authority, Certificate, Valid},
    process::{Ended, Launcher, TidingsProcess, run, tidings},
};

const ADMIN_TOKEN: &str = "the-token-of-the-administrator-0123456789";

/// Writes a certificate, its key and its authority's certificate. Returns the paths.
fn write(directory: &Path, authority: &Authority, certificate: &Certificate) -> [String; 3] {
    fs::create_dir(directory).unwrap();
    certificate.write(directory);
    fs::write(directory.join("ca.pem"), authority.pem()).unwrap();
    ["ca.pem", "cert.pem", "key.pem"].map(|name| directory.join(name).to_str().unwrap().to_owned())
}

/// Runs the command, whose output must not have the token.
async fn import(arguments: &[&str], token: Option<&str>) -> Ended {
    let mut command = tidings(&[&["import"], arguments].concat());
    if let Some(token) = token {
        command.env("TIDINGS_TOKEN", token);
    }
    let ended = run(command).await;
    assert!(!format!("{}{}", ended.stdout, ended.stderr).contains("0123456789"), "{}", ended.stderr);
    ended
}

#[tokio::test]
async fn over_tls_the_gateway_must_be_known_and_a_certificate_is_shown() {
    let launcher = Launcher::new();
    let (servers, clients) = (Authority::new(), Authority::new());
    let (server, client) = (servers.server("localhost"), clients.client("importer", Valid::Now));
    let [ca, cert, key] = write(&launcher.dir().join("server"), &servers, &server);
    let [client_ca, client_cert, client_key] = write(&launcher.dir().join("client"), &clients, &client);
    let launcher = launcher
        .with("grpc-tls-cert-file", cert)
        .with("grpc-tls-key-file", key)
        .with("grpc-client-ca-file", &client_ca)
        .with_tls_client(&servers.trusting().showing(&client));
    let gateway = launcher.start().await;
    let port = gateway.grpc.port();
    let (secure, plain) = (format!("https://localhost:{port}"), format!("http://localhost:{port}"));
    let input = file(&launcher, "hooks.jsonl", lines([1, 2]));
    let shown = ["--cert", &client_cert, "--key", &client_key];

    let ended = import(&[&["--address", &secure, "--ca", &ca, &input], &shown[..]].concat(), None).await;
    let expected = (Some(0), "published 2, already there 0, refused 0\n");
    assert_eq!((ended.code, &*ended.stdout), expected, "{}", ended.stderr);
    for (arguments, what) in [
        // The system's authorities do not know it.
        (
            [&["--address", &secure, "--ca", &client_ca, &input], &shown[..]].concat(),
            "invalid peer certificate",
        ),
        (vec!["--address", &secure, "--ca", &ca, &input], ""),
        (vec!["--address", &plain, &input], ""),
    ] {
        let ended = import(&arguments, None).await;
        assert_eq!(ended.code, Some(75), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("cannot reach"), "{}", ended.stderr);
        assert!(ended.stderr.contains(what) && ended.stderr.lines().count() == 1, "{}", ended.stderr);
    }
    gateway.stop().await;
}

/// Makes a token that may publish to account 1.
async fn publisher(gateway: &TidingsProcess) -> String {
    let access_token = AccessToken {
        display_name: "import".to_owned(),
        scopes: vec![Scope::Publish.into()],
        accounts: vec!["accounts/1".to_owned()],
        ..AccessToken::default()
    };
    gateway.client.with_token(ADMIN_TOKEN).create_token(access_token).await.unwrap().1
}

#[tokio::test]
async fn a_token_comes_from_a_file_or_the_environment_and_must_be_valid() {
    let launcher = Launcher::new();
    let admin = file(&launcher, "admin.token", ADMIN_TOKEN);
    let launcher = launcher.with("admin-token-file", &admin);
    let gateway = launcher.start().await;
    let (url, token) = (format!("http://{}", gateway.grpc), publisher(&gateway).await);
    let token_file = file(&launcher, "token", format!("{token}\n"));
    let input = file(&launcher, "hooks.jsonl", lines([1, 2]));
    let of_another = file(&launcher, "other.jsonl", super::message(2, 3, 1));
    let import = async |arguments: &[&str], variable| {
        import(&[&["--address", &url], arguments].concat(), variable).await
    };

    let from_file = import(&["--token-file", &token_file, &input], None).await;
    assert_eq!(from_file.stdout, "published 2, already there 0, refused 0\n", "{}", from_file.stderr);
    let from_environment = import(&[&input], Some(&*token)).await;
    assert_eq!(from_environment.stdout, "published 0, already there 2, refused 0\n");

    let counts = "published 0, already there 0, refused 0; stopped before the first object\n";
    for (arguments, variable, what) in [
        (vec![&*input], None, "authorization"),
        (vec![&*input], Some("tdg_of_somebody_else_0123456789"), "access token"),
        (vec!["--token-file", &admin, &input], None, "scope"),
        (vec![&*of_another], Some(&*token), "other.jsonl:1: the gateway"),
    ] {
        let ended = import(&arguments, variable).await;
        assert_eq!((ended.code, &*ended.stdout), (Some(77), counts), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(what), "{what}: {}", ended.stderr);
    }
    let flag_first =
        import(&["--token-file", &token_file, &input], Some("tdg_of_somebody_else_0123456789")).await;
    assert_eq!(flag_first.stdout, "published 0, already there 2, refused 0\n", "{}", flag_first.stderr);
    gateway.stop().await;
}
