//! The first steps: publish an event, receive a webhook, in the reader's language.

use std::net::SocketAddr;

use askama::Template;
use axum::{
    http::{HeaderMap, Uri, header::HOST},
    response::Response,
};

use super::{Shell, Visitor, page};
use crate::console::forms::Fields;

/// The languages: the word in the address, the title, and the first code of a publisher and of a receiver.
const LANGUAGES: [(&str, &str, &str, &str); 7] = [
    (
        "shell",
        "Shell",
        include_str!("../assets/start/publish.shell"),
        include_str!("../assets/start/receive.shell"),
    ),
    (
        "python",
        "Python",
        include_str!("../assets/start/publish.python"),
        include_str!("../assets/start/receive.python"),
    ),
    (
        "node",
        "Node.js",
        include_str!("../assets/start/publish.node"),
        include_str!("../assets/start/receive.node"),
    ),
    ("go", "Go", include_str!("../assets/start/publish.go"), include_str!("../assets/start/receive.go")),
    (
        "java",
        "Java",
        include_str!("../assets/start/publish.java"),
        include_str!("../assets/start/receive.java"),
    ),
    (
        "ruby",
        "Ruby",
        include_str!("../assets/start/publish.ruby"),
        include_str!("../assets/start/receive.ruby"),
    ),
    ("php", "PHP", include_str!("../assets/start/publish.php"), include_str!("../assets/start/receive.php")),
];

#[derive(Template)]
#[template(path = "start.html")]
struct StartPage {
    shell: Shell,
    account: i64,
    languages: Vec<(&'static str, &'static str, bool)>,
    title: &'static str,
    publish: String,
    receive: String,
    needs_token: bool,
    needs_tls: bool,
}

pub(super) async fn show(visitor: Visitor, headers: HeaderMap, fields: Fields) -> Response {
    let shell =
        visitor.shell("First steps", "start", fields.number("account").filter(|account| *account > 0));
    let account = shell.account.unwrap_or(1);
    let asked = fields.get("lang");
    let (word, title, publish, receive) =
        LANGUAGES.into_iter().find(|(word, ..)| *word == asked).unwrap_or(LANGUAGES[0]);
    let needs_token = (visitor.parts.tokens_required)();
    let grpc = visitor.parts.grpc;
    let address = &address(grpc.address, &headers);
    page(&StartPage {
        account,
        languages: LANGUAGES.iter().map(|(known, title, ..)| (*known, *title, *known == word)).collect(),
        title,
        publish: filled(publish, account, address),
        receive: filled(receive, account, address),
        needs_token,
        needs_tls: grpc.tls,
        shell,
    })
}

/// Where a program on the browser's side reaches a gRPC listener: a listener on every address of the machine
/// has the name that the browser uses.
fn address(grpc: SocketAddr, headers: &HeaderMap) -> String {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    match host.and_then(|host| format!("http://{host}").parse::<Uri>().ok()).as_ref().and_then(Uri::host) {
        Some(host) if grpc.ip().is_unspecified() => format!("{host}:{}", grpc.port()),
        _ => grpc.to_string(),
    }
}

fn filled(code: &str, account: i64, address: &str) -> String {
    code.replace("{{account}}", &account.to_string()).replace("{{address}}", address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_has_the_name_that_the_browser_uses() {
        for (listens, host, named) in [
            ("127.0.0.1:50051", "tidings.example.com", "127.0.0.1:50051"),
            ("0.0.0.0:50051", "tidings.example.com", "tidings.example.com:50051"),
            ("0.0.0.0:50051", "localhost:8090", "localhost:50051"),
            ("[::]:50051", "[::1]:8090", "[::1]:50051"),
        ] {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            assert_eq!(address(listens.parse().unwrap(), &headers), named);
        }
    }

    #[test]
    fn every_language_names_the_account_and_the_address_and_no_secret() {
        for (word, _, publish, receive) in LANGUAGES {
            let filled = filled(publish, 42, "gateway:50051");
            assert!(filled.contains("accounts/42") && filled.contains("gateway:50051"), "{word}");
            assert!(!filled.contains("{{"), "{word}");
            assert!(receive.contains("TIDINGS_SIGNING_SECRET") && !receive.contains("whsec_"), "{word}");
        }
    }
}
