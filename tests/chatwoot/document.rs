//! The table of docs/chatwoot.md, compared with rendered bodies: which keys there are, in which form and
//! where.

use serde_json::Value;
use tidings::{
    domain::{ids::AccountId, payload_format::PayloadFormat},
    event::{self, render, samples},
};

const DOCUMENT: &str = include_str!("../../docs/chatwoot.md");

/// One row about a record: its keys, in the documented form, in the outer record and in the inner one.
struct Row<'a> {
    keys: Vec<&'a str>,
    record: &'a str,
    cells: Vec<&'a str>,
}

fn rows() -> Vec<Row<'static>> {
    let (_, table) = DOCUMENT.split_once("| key | documented | live, outer | live, inner |\n").unwrap();
    table.lines().skip(1).take_while(|line| line.starts_with('|')).filter_map(row).collect()
}

/// None for a row that is about the changes or about inboxes.
fn row(line: &'static str) -> Option<Row<'static>> {
    let mut cells = line.trim_matches('|').split(" |").map(str::trim);
    let (keys, record) = cells.next()?.rsplit_once(" of a ")?;
    let keys = keys.split(", ").map(|key| key.trim_matches('`')).collect();
    Some(Row { keys, record, cells: cells.collect() })
}

/// Where a record is: in the documented form, and twice in Chatwoot's.
fn places(record: &str) -> [&'static str; 3] {
    match record {
        "message" => ["", "", "/conversation/messages/0"],
        "conversation" => ["/conversation", "/conversation", "/none"],
        "contact" => ["/conversation/meta/sender", "/sender", "/conversation/meta/sender"],
        // The sender of the made-up message is a contact: of a user there is no outer record in it.
        "user" => ["/conversation/meta/assignee", "/none", "/conversation/meta/assignee"],
        other => panic!("what is a {other}?"),
    }
}

#[test]
fn the_table_in_the_document_names_the_keys_that_are_there() {
    let account = AccountId::new(1).unwrap();
    let mut event = samples::typical_message(account, 3, 7);
    event::check(&mut event, account, "event").unwrap();
    let [documented, live] = [PayloadFormat::Documented, PayloadFormat::Chatwoot]
        .map(|format| serde_json::from_slice::<Value>(&render::render(&event, format)).unwrap());

    let rows = rows();
    assert!(rows.len() >= 25, "{}", rows.len());
    let mut compared = 0;
    for Row { keys, record, cells } in &rows {
        let bodies = [&documented, &live, &live];
        for ((cell, body), place) in cells.iter().zip(bodies).zip(places(record)) {
            let Some(object) = body.pointer(place) else { continue };
            for key in keys {
                // The table says when a key may be missing.
                if !cell.contains("no key if") {
                    let is_listed = !cell.is_empty() && !cell.starts_with("no such key");
                    assert_eq!(object.get(key).is_some(), is_listed, "{key} of a {record}: {cell}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 100, "{compared}");
}
