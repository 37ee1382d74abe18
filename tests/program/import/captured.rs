//! Payloads that were captured from Chatwoot go all the way: import, store, POST. What comes out differs from what came in as
//! `tests/chatwoot/exceptions.rs` says, and nowhere else.

use std::{collections::BTreeMap, fs};

use serde_json::Value;

use super::support::{Gateway, Receiver, file};

#[path = "../../chatwoot/exceptions.rs"]
mod exceptions;
#[path = "../../chatwoot/json.rs"]
mod json;

use exceptions::{EXCEPTIONS, NONE_OF_THE_TWELVE};

/// A captured payload: its name, its bytes, and the account that it tells.
struct Captured {
    name: String,
    bytes: Vec<u8>,
    account: i64,
}

fn all() -> Vec<Captured> {
    let folder = format!("{}/tests/chatwoot/captured", env!("CARGO_MANIFEST_DIR"));
    let read = |path: std::path::PathBuf| {
        let bytes = fs::read(&path).expect("it is there");
        let body: Value = serde_json::from_slice(&bytes).expect("it is JSON");
        let told =
            ["/account/id", "/messages/0/account_id"].iter().find_map(|told| body.pointer(told)?.as_i64());
        let name = path.file_stem().expect("it has a name").to_str().expect("it is UTF-8").to_owned();
        Captured { name, bytes, account: told.unwrap_or(1) }
    };
    let files = fs::read_dir(folder).expect("it is there");
    files.map(|file| read(file.expect("it can be read").path())).collect()
}

/// A path as the exceptions have it.
fn general(name: &str, path: &str) -> String {
    let path: String = path.split(['[', ']']).step_by(2).collect();
    match path.strip_prefix("conversation") {
        _ if name.starts_with("conversation_") => format!("~{path}"),
        Some(within) => format!("~{}", within.trim_start_matches('.')),
        None => path,
    }
}

fn is_excepted(name: &str, sort: json::Sort, path: &str) -> bool {
    let path = general(name, path);
    EXCEPTIONS.iter().any(|exception| {
        assert!(!exception.why.is_empty());
        exception.sort == sort && exception.payloads.contains(&name) && exception.paths.contains(&&*path)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_payloads_come_out_again_in_chatwoots_form() {
    let directory = tempfile::tempdir().expect("there is room");
    let gateway = Gateway::start(&directory.path().join("data"), &[]);
    let mut receivers: BTreeMap<i64, Receiver> = BTreeMap::new();
    let captured = all();
    assert_eq!(captured.len(), 23);
    for Captured { name, bytes, account } in captured {
        let account_word = account.to_string();
        if let std::collections::btree_map::Entry::Vacant(entry) = receivers.entry(account) {
            let receiver = Receiver::start().await;
            gateway.subscribe(account, &receiver).await;
            entry.insert(receiver);
        }
        let mut text = String::from_utf8(bytes.clone()).expect("it is UTF-8");
        if let Some((_, event)) = NONE_OF_THE_TWELVE.iter().find(|(none, _)| *none == name) {
            let refused =
                gateway.import(&["--account", &account_word, &file(&directory, "none.json", &text)]);
            assert_eq!(
                (refused.code, &*refused.stdout),
                (Some(65), "published 0, already there 0, refused 1\n")
            );
            let mut body: Value = serde_json::from_str(&text).expect("it is JSON");
            body["event"] = (*event).into();
            text = body.to_string();
        }
        let ended = gateway.import(&["--account", &account_word, &file(&directory, "body.json", &text)]);
        let expected = (Some(0), "published 1, already there 0, refused 0\n", "");
        assert_eq!((ended.code, &*ended.stdout, &*ended.stderr), expected, "{name}");

        let receiver = receivers.get_mut(&account).expect("it was just put there");
        let body = receiver.next_bytes().await;
        for json::Difference { path, sort, what } in
            json::differences(&json::read(&bytes), &json::read(&body))
        {
            assert!(is_excepted(&name, sort, &path), "{name}: {path} {sort:?}: {what}");
        }
    }
    gateway.stop();
}
