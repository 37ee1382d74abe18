//! What was captured from Chatwoot, sent as it sends it, and delivered as it came.

use std::fs;

use serde_json::{Value, json};
use tidings::domain::{ids::AccountId, import};

use super::{Receiver, delivery, home, now, put_sources, sender, signed, source, subscription};
use crate::client::Client;
use tidings::proto::v1::{self, subscription::PayloadFormat};

/// The text of a captured webhook.
pub fn text(name: &str) -> String {
    fs::read_to_string(format!("{}/tests/chatwoot/captured/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The names of all captured webhooks.
fn names() -> Vec<String> {
    let folder = format!("{}/tests/chatwoot/captured", env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
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
    let (mut taken, mut refused) = (Vec::new(), 0);
    for (text, name) in &bodies {
        let (number, id) = (account(text), delivery());
        let read = import::read(text.as_bytes(), AccountId::new(number).unwrap());
        let answer = sender(&gateway, &path(number)).post(text, &id, &signed(SECRET, now(), text)).await;
        match read {
            Ok(_) => {
                assert_eq!(answer.status, 200, "{name}: {answer:?}");
                let arrived = receiver.wait_for(taken.len() + 1).await;
                let sent: Value = serde_json::from_str(&arrived.last().unwrap().body).unwrap();
                assert_holds(&serde_json::from_str(text).unwrap(), &sent, name);
                taken.push(name.as_str());
            }
            Err(faults) => {
                assert_eq!(answer.status, 422, "{name}: {answer:?}");
                let expected: Vec<_> =
                    faults.iter().map(|f| json!({ "field": f.field, "rule": f.rule })).collect();
                assert_eq!(answer.json()["faults"], json!(expected), "{name}");
                refused += 1;
            }
        }
    }
    // Two are of agent bots, and one of an automation.
    assert!(taken.contains(&"message_created-3.json") && taken.len() >= MOST, "only {taken:?}");
    let log = gateway.stop().await;
    assert_eq!(super::refused(&log).len(), refused);
}

/// Fewer would be a fault of the reader.
const MOST: usize = 10;

/// Everything that came is there; what is there beyond it is null or empty.
fn assert_holds(came: &Value, sent: &Value, path: &str) {
    match (came, sent) {
        (Value::Object(came), Value::Object(sent)) => {
            for (key, value) in came {
                let empty = Value::Null;
                assert_holds(value, sent.get(key).unwrap_or(&empty), &format!("{path}.{key}"));
            }
        }
        (Value::Array(came), Value::Array(sent)) if came.len() == sent.len() => {
            for (index, (came, sent)) in came.iter().zip(sent).enumerate() {
                assert_holds(came, sent, &format!("{path}[{index}]"));
            }
        }
        (Value::Number(came), Value::Number(sent)) => assert_eq!(came.as_f64(), sent.as_f64(), "{path}"),
        (came, sent) => {
            assert!(came == sent || is_nothing(came) && is_nothing(sent), "{path}: {came} is {sent}");
        }
    }
}

fn is_nothing(value: &Value) -> bool {
    [json!(null), json!(0), json!(""), json!(false), json!([]), json!({})].contains(value)
}
