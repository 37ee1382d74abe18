//! What was captured from Chatwoot, sent as it sends it, and delivered as it came.

use std::fs;

use super::{Receiver, delivery, home, now, put_sources, sender, signed, source, subscription};
use crate::client::Client;
use serde_json::Value;
use tidings::{
    domain::{ids::AccountId, payload_format::PayloadFormat as Form},
    event::{parse, render::render},
    proto::v1::{self, subscription::PayloadFormat},
};

#[path = "../../chatwoot/exceptions.rs"]
#[expect(dead_code, reason = "some of it is for the tests of the form")]
mod exceptions;
#[path = "../../chatwoot/json.rs"]
mod json;

use exceptions::{EXCEPTIONS, NONE_OF_THE_TWELVE};

/// The text of a captured webhook.
pub fn text(name: &str) -> String {
    fs::read_to_string(format!("{}/tests/chatwoot/captured/{name}.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The names of all captured webhooks.
fn names() -> Vec<String> {
    let folder = format!("{}/tests/chatwoot/captured", env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

/// The account that a body is of; 1 where it does not say.
fn account_of(body: &Value) -> i64 {
    let told = [&body["account"]["id"], &body["messages"][0]["account_id"]];
    told.into_iter().find_map(Value::as_i64).unwrap_or(1)
}

async fn subscribe(client: &Client, account: i64, receiver: &Receiver) {
    let payload_format = PayloadFormat::Chatwoot.into();
    let asked = v1::Subscription { payload_format, ..subscription(receiver.url(&format!("/{account}"))) };
    client.subscribe(account, asked).await;
}

#[tokio::test]
async fn every_captured_webhook_is_delivered_as_it_came_or_refused_with_its_faults() {
    const SECRET: &str = "a secret that these are signed with";
    let bodies: Vec<_> = names().into_iter().map(|name| (text(&name), name)).collect();
    let account = |text: &str| account_of(&serde_json::from_str(text).unwrap());
    let mut accounts: Vec<_> = bodies.iter().map(|(text, _)| account(text)).collect();
    accounts.sort_unstable();
    accounts.dedup();
    let home = home();
    let path = |account: i64| format!("captured-0123456789-{account}");
    let sources = accounts.iter().map(|account| {
        format!("{}signing_secret = '{SECRET}'\n", source(*account, &path(*account), &format!("a{account}")))
    });
    put_sources(&home, &sources.collect::<String>());
    let (receiver, gateway) = (Receiver::start().await, home.start().await);
    for account in &accounts {
        subscribe(&gateway.client, *account, &receiver).await;
    }
    let (mut taken, mut refused) = (0, 0);
    for (text, name) in &bodies {
        let (number, id) = (account(text), delivery());
        let answer = sender(&gateway, &path(number)).post(text, &id, &signed(SECRET, now(), text)).await;
        if NONE_OF_THE_TWELVE.iter().any(|(none, _)| none == name) {
            assert_eq!(answer.status, 422, "{name}: {answer:?}");
            let fault = serde_json::json!({ "field": "event", "rule": "is not a known event name" });
            assert_eq!(answer.json()["faults"], serde_json::json!([fault]), "{name}");
            refused += 1;
            continue;
        }
        assert_eq!(answer.status, 200, "{name}: {answer:?}");
        taken += 1;
        let arrived = receiver.wait_for(taken).await;
        let sent = arrived.last().unwrap();
        assert_eq!(sent.path, format!("/{number}"));
        // The same as if it had been published over gRPC.
        let read = parse::read(text.as_bytes(), AccountId::new(number).unwrap()).unwrap();
        assert_eq!(sent.body.as_bytes(), render(&read, Form::Chatwoot), "{name}");
        for difference in json::differences(&json::read(text.as_bytes()), &json::read(sent.body.as_bytes())) {
            assert!(is_an_exception(name, &difference), "{name} {}: {}", difference.path, difference.what);
        }
    }
    assert_eq!((taken, refused), (20, NONE_OF_THE_TWELVE.len()));
    let log = gateway.stop().await;
    assert_eq!(super::refused(&log).len(), refused);
}

/// Whether the list of exceptions has it.
fn is_an_exception(name: &str, difference: &json::Difference) -> bool {
    let path: String = difference.path.split(['[', ']']).step_by(2).collect();
    let path = match (name.starts_with("conversation_"), path.strip_prefix("conversation")) {
        (true, _) => format!("~{path}"),
        (false, Some(within)) => format!("~{}", within.trim_start_matches('.')),
        (false, None) => path,
    };
    EXCEPTIONS.iter().any(|exception| {
        exception.sort == difference.sort
            && exception.payloads.contains(&name)
            && exception.paths.contains(&path.as_str())
    })
}
