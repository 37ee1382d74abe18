//! Reads the golden files: the bodies as a person reads them.

use std::fs;

use tidings::proto::v1::EventType;

/// The body in a file, as it is sent; `documented/message_created`.
#[track_caller]
pub fn golden(file: &str) -> String {
    let path = format!("{}/tests/golden/{file}.json", env!("CARGO_MANIFEST_DIR"));
    compact(&fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
}

/// The name of a kind as the JSON says it.
pub fn name_of(kind: EventType) -> String {
    kind.as_str_name().trim_start_matches("EVENT_TYPE_").to_lowercase()
}

/// `json` without the white space between its tokens; order and spelling stay as they are.
pub fn compact(json: &str) -> String {
    let mut compact = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for character in json.chars() {
        if in_string {
            in_string = escaped || character != '"';
            escaped = !escaped && character == '\\';
        } else if character.is_ascii_whitespace() {
            continue;
        } else {
            in_string = character == '"';
        }
        compact.push(character);
    }
    compact
}
