//! The rules that keep a console safe, each tried by breaking it.

use std::{fs, path::Path};

use tidings::{
    console::{Console, ConsoleSettings},
    domain::access::Scope::{Admin, Manage, Read},
};

use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::browser::{Browsed, read_until};

const NEW: &str = "/accounts/1/new-webhook";
const FORM: &str = "url=https%3A%2F%2Fexample.com%2Fhook&event=message_created";

#[test]
fn beyond_loopback_a_start_without_tls_is_refused() {
    let settings = |listen: &str, url: Option<&str>| ConsoleSettings {
        console_listen: listen.parse().unwrap(),
        console_url: url.map(str::to_owned),
        ..ConsoleSettings::default()
    };
    let refused = Console::check(&settings("0.0.0.0:8090", None)).unwrap_err().to_string();
    assert!(refused.contains("console_tls_cert_file") && refused.contains("console_url"), "{refused}");
    Console::check(&settings("0.0.0.0:8090", Some("https://tidings.example.com"))).unwrap();
    Console::check(&settings("127.0.0.1:8090", None)).unwrap();
}

#[tokio::test]
async fn another_host_name_leads_nowhere() {
    let console = Browsed::start().await;
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example"] {
        let page =
            console.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(page.status, 421, "{host}");
        let post = format!(
            "POST {NEW} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nConnection: close\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{FORM}",
            FORM.len()
        );
        assert_eq!(console.send(&post).await.status, 421, "{host}");
    }
    console.get("/accounts/1/webhooks", "").await.has("There are no webhooks");
}

#[tokio::test]
async fn another_site_changes_nothing() {
    let console = Browsed::start().await;
    for headers in [
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n",
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "",
    ] {
        assert_eq!(console.post_with(NEW, headers, FORM).await.status, 403, "{headers:?}");
    }
    console.get("/accounts/1/webhooks", "").await.has("There are no webhooks");
    let own = format!("Origin: http://{}\r\n", console.address);
    console.post_with(NEW, &own, FORM).await.has("whsec_");
}

#[tokio::test]
async fn every_response_has_every_header() {
    let console = Browsed::start().await;
    let host = console.address;
    let mut pages = Vec::new();
    for path in [
        "/",
        "/start",
        "/assets/console.css",
        "/assets/console.js",
        "/favicon.ico",
        "/nothing",
        "/accounts/x/webhooks",
    ] {
        pages.push((path, console.get(path, "").await));
    }
    pages.push(("evil", console.send("GET / HTTP/1.1\r\nHost: evil\r\nConnection: close\r\n\r\n").await));
    pages.push((
        "put",
        console.send(&format!("PUT / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await,
    ));
    pages.push(("post", console.post_with(NEW, "", FORM).await));
    for (path, page) in pages {
        let policy = page.header("content-security-policy");
        assert!(
            policy.contains("default-src 'none'") && policy.contains("require-trusted-types-for"),
            "{path}"
        );
        assert!(!policy.contains("unsafe"), "{path}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(page.header(name), value, "{path} {name}");
        }
    }
}

#[tokio::test]
async fn without_tokens_there_is_no_sign_in_and_a_bar_says_so() {
    let console = Browsed::start().await;
    console.get("/accounts/1/webhooks", "").await.has("No access token exists");
    assert_eq!(console.get("/sign-in", "").await.header("location"), "/");
}

#[tokio::test]
async fn behind_a_proxy_nobody_comes_in_without_a_token() {
    let url = Some("https://tidings.example.com".to_owned());
    let console =
        Browsed::start_with(ConsoleSettings { console_url: url, ..ConsoleSettings::default() }).await;
    for path in ["/", "/status", "/accounts/1/webhooks", "/tokens/new"] {
        assert_eq!(console.get(path, "").await.header("location"), "/sign-in", "{path}");
    }
    console.get("/sign-in", "").await.has("No access token exists yet");
    assert_eq!(console.post("/tokens/new", "", "scope=admin").await.header("location"), "/sign-in");
    // Any text would do where no tokens are asked for.
    assert_eq!(console.post("/sign-in", "", "token=tdg_x").await.status, 422);
    assert!(!console.gateway.asks_for_proof());
}

#[tokio::test]
async fn a_token_signs_in_once_and_only_a_session_is_left_in_the_browser() {
    let console = Browsed::start().await;
    let token = console.token(&[Admin], &[]).await;
    assert_eq!(console.get("/accounts/1/webhooks", "").await.header("location"), "/sign-in");
    console.post("/sign-in", "", "token=tdg_wrong").await.has("There is no such access token");
    let page = console.post("/sign-in", "", &format!("token={token}")).await;
    let cookie = page.header("set-cookie");
    let port = console.address.port();
    assert!(cookie.starts_with(&format!("tidings-{port}=")), "{cookie}");
    for part in ["Path=/", "HttpOnly", "SameSite=Lax", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(&token) && !cookie.contains("Secure"), "{cookie}");
    let page = console.get("/accounts/1/webhooks", &page.cookie()).await;
    page.has("tester").has("Sign out").has_not(&token);
}

#[tokio::test]
async fn a_session_over_tls_has_a_cookie_for_this_host_alone() {
    let url = Some("https://tidings.example.com".to_owned());
    let console =
        Browsed::start_with(ConsoleSettings { console_url: url, ..ConsoleSettings::default() }).await;
    let token = console.token(&[Admin], &[]).await;
    let form = format!("token={token}");
    let request = format!(
        "POST /sign-in HTTP/1.1\r\nHost: tidings.example.com\r\nOrigin: https://tidings.example.com\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    let page = console.send(&request).await;
    let cookie = page.header("set-cookie");
    assert!(cookie.starts_with("__Host-tidings=") && cookie.contains("; Secure"), "{cookie}");
}

#[tokio::test]
async fn wrong_tokens_meet_the_limit_of_any_call() {
    let console = Browsed::start().await;
    console.token(&[Admin], &[]).await;
    let mut limited = 0;
    for _ in 0..62 {
        limited += u32::from(console.post("/sign-in", "", "token=tdg_wrong").await.status == 429);
    }
    assert_eq!(limited, 2);
}

#[tokio::test]
async fn signing_out_and_revoking_end_the_session_and_its_streams() {
    let console = Browsed::start().await;
    let admin = console.sign_in(&console.token(&[Admin], &[]).await).await;
    let cookie = console.sign_in(&console.token(&[Manage], &[1]).await).await;
    let mut stream = console.stream("/accounts/1/deliveries/live", &cookie).await;
    read_until(&mut stream, "retry:").await.expect("the stream begins");
    let tokens = console.get("/tokens", &admin).await;
    let ids: Vec<_> = tokens
        .body
        .split("/tokens/")
        .filter_map(|part| part.split_once("/revoke"))
        .map(|(id, _)| id)
        .collect();
    for id in ids {
        let asked = console.get(&format!("/tokens/{id}/revoke"), &admin).await;
        if asked.body.contains("manage") {
            console.post(&format!("/tokens/{id}/revoke"), &admin, "").await;
        }
    }
    read_until(&mut stream, "0\r\n\r\n").await.expect("the response ends");
    for _ in 0..2 {
        assert_eq!(console.get("/accounts/1/webhooks", &cookie).await.header("location"), "/sign-in");
    }
    assert_eq!(console.get("/me", &admin).await.status, 200);
    console.post("/sign-out", &admin, "").await;
    assert_eq!(console.get("/me", &admin).await.header("location"), "/sign-in");
}

#[tokio::test]
async fn a_reader_sees_no_buttons_and_cannot_send_their_forms() {
    let console = Browsed::start().await;
    let admin = console.sign_in(&console.token(&[Admin], &[]).await).await;
    console.post(NEW, &admin, &format!("{FORM}&id=crm")).await.has("whsec_");
    let reader = console.sign_in(&console.token(&[Read], &[1]).await).await;
    let list = console.get("/accounts/1/webhooks", &reader).await;
    list.has("https://example.com/hook").has_not("Add new webhook").has_not("/audit").has_not("/tokens");
    console
        .get("/accounts/1/webhooks/crm", &reader)
        .await
        .has_not("Send a test")
        .has_not("Delete")
        .has_not("Pause");
    for path in ["pause", "resume", "test", "delete", "rotate", "edit"] {
        let page = console.post(&format!("/accounts/1/webhooks/crm/{path}"), &reader, FORM).await;
        assert_eq!(page.status, 403, "{path}");
        page.has("needs the scope manage");
    }
    for path in [
        "webhooks/crm/test",
        "webhooks/crm/delete",
        "webhooks/crm/rotate",
        "webhooks/crm/edit",
        "new-webhook",
        "deliveries/replay",
    ] {
        let page = console.get(&format!("/accounts/1/{path}"), &reader).await;
        assert_eq!(page.status, 403, "{path}");
        page.has("needs the scope manage");
    }
    assert_eq!(console.get("/tokens", &reader).await.status, 403);
    assert_eq!(console.get("/accounts/2/webhooks", &reader).await.status, 403);
    console.get("/status", &reader).await.has("for tokens that cover all accounts");
}

#[tokio::test]
async fn text_of_others_is_text() {
    let console = Browsed::start().await;
    let name = "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27%E2%80%AE";
    console.post(NEW, "", &format!("{FORM}&id=crm&name={name}")).await.has("whsec_");
    for path in [
        "/accounts/1/webhooks",
        "/accounts/1/webhooks/crm",
        "/accounts/1/webhooks/crm/edit",
        "/accounts/1/deliveries",
    ] {
        console.get(path, "").await.has("&#60;script&#62;alert(1)").has_not("<script>alert");
    }
    console.get("/accounts/1/webhooks?q=%22%3E%3Cscript%3E", "").await.has_not("\"><script>");
    let refused = console.post(NEW, "", "url=%22%3E%3Cscript%3Ealert(2)%3C%2Fscript%3E").await;
    assert_eq!(refused.status, 422);
    refused.has_not("<script>alert(2)");
    console.get("/accounts/1/webhooks", "").await.has("\\u{202e}");
}

#[tokio::test]
async fn a_large_form_and_a_slow_one_are_refused() {
    let console = Browsed::start().await;
    let large = format!("{FORM}&name={}", "x".repeat(300_000));
    let request = format!(
        "POST {NEW} HTTP/1.1\r\nHost: {}\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        console.address,
        large.len()
    );
    // The response may come before the whole form is sent.
    let page = console.send(&format!("{request}{}", &large[..270_000])).await;
    assert_eq!(page.status, 413);
}

#[tokio::test]
async fn streams_are_bounded() {
    let console = Browsed::start_with(ConsoleSettings { streams_max: 1, ..ConsoleSettings::default() }).await;
    let mut first = console.stream("/accounts/1/deliveries/live", "").await;
    read_until(&mut first, "retry:").await.expect("there is room for one");
    assert_eq!(console.get("/accounts/1/deliveries/live", "").await.status, 503);
    drop(first);
}

#[tokio::test]
async fn a_live_stream_ends_when_its_browser_signs_out() {
    let console = Browsed::start().await;
    let cookie = console.sign_in(&console.token(&[Admin], &[]).await).await;
    let mut live = console.stream("/accounts/1/deliveries/live", &cookie).await;
    read_until(&mut live, "retry:").await.expect("it is signed in");
    console.post("/sign-out", &cookie, "").await;
    read_until(&mut live, "0\r\n\r\n").await.expect("the last chunk comes: the gateway ended it");
}

#[tokio::test]
async fn forms_that_never_end_take_no_page_from_others() {
    let settings = ConsoleSettings { requests_in_flight_max: 2, ..ConsoleSettings::default() };
    let console = Browsed::start_with(settings).await;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(console.address).await.unwrap();
        let head = format!(
            "POST {NEW} HTTP/1.1\r\nHost: {}\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 10\r\n\r\nu",
            console.address
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    for _ in 0..10 {
        assert_eq!(console.get("/accounts/1/webhooks", "").await.status, 200);
    }
}

#[tokio::test]
async fn an_overlap_that_is_no_number_is_refused_and_rotates_nothing() {
    let console = Browsed::start().await;
    console.post(NEW, "", &format!("{FORM}&id=crm")).await.has("whsec_");
    let refused = console.post("/accounts/1/webhooks/crm/rotate", "", "overlap=garbage").await;
    refused.has("must be one of the choices").has_not("whsec_");
}

/// Every template, with its name.
fn templates() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let read = |path: std::path::PathBuf| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
    };
    let found: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| read(entry.unwrap().path())).collect();
    assert!(found.len() > 20);
    found
}

#[test]
fn no_template_lets_markup_through_or_has_scripts_and_styles_of_its_own() {
    for (name, text) in templates() {
        for refused in [
            "|safe",
            "| safe",
            "escape(\"none\"",
            "style=",
            "<style",
            "onclick",
            "onload",
            "javascript:",
            "target=",
        ] {
            assert!(!text.contains(refused), "{name} has {refused}");
        }
        let scripts = text.matches("<script").count();
        assert_eq!(scripts, usize::from(name == "layout.html"), "{name}");
    }
}

#[test]
fn every_form_that_changes_something_is_a_post() {
    for (name, text) in templates() {
        for form in text.split("<form").skip(1).map(|rest| rest.split('>').next().unwrap()) {
            let searches = form.contains("role=\"search\"") || form.contains("class=\"filter\"");
            assert!(searches || form.contains("method=\"post\""), "{name}: <form{form}>");
        }
    }
}
