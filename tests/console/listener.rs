//! The console of the real binary beyond this machine: with a certificate, behind a proxy, and refused without
//! either.

use std::net::SocketAddr;

use tidings::proto::v1::{self, access_token::Scope};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::browser::{Page, parse};
use crate::support::{
    certificates::{Authority, TlsClient},
    eventually, exchange, in_time,
    process::{Launcher, TidingsProcess},
};

/// Any address of this machine, and a free port.
const EVERYWHERE: &str = "0.0.0.0:0";
const SITE: &str = "tidings.example.com";

/// The address of the console, as a client on this machine reaches it.
fn console_of(gateway: &TidingsProcess, scheme: &str) -> SocketAddr {
    let url = gateway.console.as_deref().expect("the log names the console");
    let address = url.strip_prefix(scheme).expect(url).trim_end_matches('/');
    SocketAddr::from(([127, 0, 0, 1], address.parse::<SocketAddr>().expect(url).port()))
}

async fn send(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Page {
    in_time(async {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        // TLS may end without its farewell.
        drop(stream.read_to_end(&mut bytes).await);
        parse(&String::from_utf8(bytes).unwrap())
    })
    .await
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

fn sign_in(host: &str, token: &str) -> String {
    let form = format!("token={token}");
    format!(
        "POST /sign-in HTTP/1.1\r\nHost: {host}\r\nOrigin: https://{host}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    )
}

async fn first_token(gateway: &TidingsProcess) -> String {
    let token = v1::AccessToken { scopes: vec![Scope::Admin.into()], ..Default::default() };
    gateway.client.create_token(token).await.unwrap().1
}

#[tokio::test]
async fn with_a_certificate_there_is_only_tls_and_a_new_certificate_is_served_without_a_restart() {
    let (authority, launcher) = (Authority::new(), Launcher::new());
    let dir = launcher.dir().to_owned();
    authority.server("localhost").write(&dir);
    let gateway = launcher
        .with("console-listen", EVERYWHERE)
        .with_file("console-tls-cert-file", dir.join("cert.pem"))
        .with_file("console-tls-key-file", dir.join("key.pem"))
        .with("reload-interval", "100ms")
        .start()
        .await;
    let console = console_of(&gateway, "https://");
    let browser: TlsClient = authority.trusting().offering(&["http/1.1"]);
    let connect = async || browser.connect(console).await.expect("TLS begins");

    // Without a token nobody comes in.
    let page = send(connect().await, &get("/accounts/1/webhooks", "localhost")).await;
    assert_eq!(page.header("location"), "/sign-in");
    let token = first_token(&gateway).await;
    let signed_in = send(connect().await, &sign_in("localhost", &token)).await;
    let cookie = signed_in.header("set-cookie");
    assert!(cookie.starts_with("__Host-tidings=") && cookie.contains("; Secure"), "{cookie}");
    let cookie = format!("Cookie: {}\r\nConnection", signed_in.cookie());
    let asked = get("/accounts/1/webhooks", "localhost").replace("Connection", &cookie);
    send(connect().await, &asked).await.has("Add new webhook");
    assert_eq!(send(connect().await, &get("/", "evil.example")).await.status, 421);
    let in_clear = exchange(console, get("/sign-in", "localhost").as_bytes()).await.unwrap_or_default();
    assert!(!in_clear.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&in_clear));

    let before = browser.shown(console).await;
    authority.server("localhost").write(&dir);
    eventually("another certificate", async || browser.shown(console).await, |now| *now != before).await;
    gateway.stop().await;
}

#[tokio::test]
async fn behind_a_proxy_it_is_served_under_the_name_of_the_proxy() {
    let gateway = Launcher::new()
        .with("console-listen", EVERYWHERE)
        .with("console-url", format!("https://{SITE}"))
        .start()
        .await;
    let console = console_of(&gateway, "http://");
    let ask = async |request: &str| {
        let response = exchange(console, request.as_bytes()).await.expect("it responds");
        parse(&String::from_utf8(response).unwrap())
    };
    assert_eq!(ask(&get("/accounts/1/webhooks", SITE)).await.header("location"), "/sign-in");
    for host in ["evil.example", "tidings.example.com.evil.example"] {
        assert_eq!(ask(&get("/sign-in", host)).await.status, 421, "{host}");
    }
    let token = first_token(&gateway).await;
    let page = ask(&sign_in(SITE, &token)).await;
    let cookie = page.header("set-cookie");
    assert!(cookie.starts_with("__Host-tidings=") && cookie.contains("; Secure"), "{cookie}");
    gateway.stop().await;
}

#[tokio::test]
async fn beyond_this_machine_in_clear_text_the_start_is_refused_and_changes_nothing() {
    for (url, said) in [
        (None, "console_tls_cert_file and console_tls_key_file, or console_url=https://"),
        (Some("http://tidings.example.com"), "is not an address such as https://tidings.example.com"),
        (Some("http://127.0.0.1:8090"), "console_tls_cert_file and console_tls_key_file, or"),
    ] {
        let mut launcher = Launcher::new().with("console-listen", EVERYWHERE);
        if let Some(url) = url {
            launcher = launcher.with("console-url", url);
        }
        let refusal = launcher.refusal().await;
        assert!(refusal.contains(said), "{url:?}: {refusal}");
        assert!(!launcher.data_dir().exists(), "{url:?}");
    }
}
