//! Payloads that were captured from Chatwoot, read as events and written again.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

use std::fs;

use tidings::domain::{ids::AccountId, import};

#[test]
fn try_all() {
    let folder = format!("{}/tests/chatwoot/captured", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for file in files {
        let body = fs::read(&file).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let account = value["account"]["id"].as_i64().or(value["messages"][0]["account_id"].as_i64()).unwrap_or(1);
        match import::read(&body, AccountId::new(account).unwrap()) {
            Ok(_) => println!("{} ok", file.file_name().unwrap().display()),
            Err(faults) => {
                println!("{}", file.file_name().unwrap().display());
                for fault in faults.iter() { println!("    {}: {}", fault.field, fault.rule); }
            }
        }
    }
}
