//! The bodies, byte for byte. The files in `tests/golden/` are formatted for people, to be compared with the
//! documentation line by line: they were written from it, not from the output of the code. Each body has
//! three variants: everything set, nothing optional set (`.unset`), and parts that exist with nothing set in
//! them (`.empty`).

use std::{env, fs, path::Path};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MapKey, Value};
use tidings::{
    domain::{ids::AccountId, payload_format::PayloadFormat},
    event::{self, other, parse, render},
    proto::{
        DESCRIPTORS,
        v1::{self, EventType},
    },
};

pub mod bodies;
pub mod events;

use bodies::{compact, golden, name_of};

#[track_caller]
fn assert_body(mut event: v1::Event, format: PayloadFormat, file: &str) {
    let account = AccountId::new(events::ACCOUNT).unwrap();
    event::check(&mut event, account, "event").unwrap_or_else(|faults| panic!("{file}: {faults:?}"));
    let body = String::from_utf8(render::render(&event, format)).unwrap();
    assert_eq!(body, golden(file), "{file}");
}

#[test]
fn every_event_has_its_documented_body() {
    for kind in events::kinds() {
        let name = name_of(kind);
        assert_body(events::full(kind), PayloadFormat::Documented, &format!("documented/{name}"));
        assert_body(events::unset(kind), PayloadFormat::Documented, &format!("documented/{name}.unset"));
        if let Some(event) = events::empty(kind) {
            assert_body(event, PayloadFormat::Documented, &format!("documented/{name}.empty"));
        }
    }
}

#[test]
fn message_events_have_the_body_of_the_sample() {
    for kind in [EventType::MessageCreated, EventType::MessageUpdated] {
        let name = name_of(kind);
        assert_body(events::full(kind), PayloadFormat::Sample, &format!("sample/{name}"));
        assert_body(events::unset(kind), PayloadFormat::Sample, &format!("sample/{name}.unset"));
    }
}

#[test]
fn other_events_have_their_documented_body_in_the_sample_form() {
    for kind in events::kinds().filter(|kind| !render::has_sample_form(*kind)) {
        assert_body(events::full(kind), PayloadFormat::Sample, &format!("documented/{}", name_of(kind)));
    }
}

#[test]
fn every_event_has_the_body_of_chatwoot() {
    for kind in events::kinds() {
        let name = name_of(kind);
        assert_body(events::full(kind), PayloadFormat::Chatwoot, &format!("chatwoot/{name}"));
        assert_body(events::unset(kind), PayloadFormat::Chatwoot, &format!("chatwoot/{name}.unset"));
        if let Some(event) = events::empty(kind) {
            assert_body(event, PayloadFormat::Chatwoot, &format!("chatwoot/{name}.empty"));
        }
    }
}

#[test]
fn a_documented_body_is_read_as_an_event_with_the_same_body() {
    let account = AccountId::new(events::ACCOUNT).unwrap();
    let mut read = 0;
    for (form, folder) in [(PayloadFormat::Documented, "documented"), (PayloadFormat::Sample, "sample")] {
        let path = format!("{}/tests/golden/{folder}", env!("CARGO_MANIFEST_DIR"));
        for file in fs::read_dir(path).unwrap() {
            let file = file.unwrap().path();
            let body = compact(&fs::read_to_string(&file).unwrap());
            // An event without a type has no documented form.
            if file.file_name().unwrap().to_str().unwrap().starts_with("other.") {
                parse::read_form(form, body.as_bytes(), account).unwrap_err();
                continue;
            }
            let event = parse::read_form(form, body.as_bytes(), account);
            let event = event.unwrap_or_else(|why| panic!("{}: {why:?}", file.display()));
            assert_eq!(String::from_utf8(render::render(&event, form)).unwrap(), body);
            // It is recognised without its form, too.
            let found = parse::read_any(body.as_bytes(), account).unwrap().1;
            assert_eq!(String::from_utf8(render::render(&found, form)).unwrap(), body);
            read += 1;
        }
    }
    assert!(read >= 29, "{read}");
}

#[test]
fn a_body_of_chatwoot_is_read_as_an_event_with_the_same_body() {
    let account = AccountId::new(events::ACCOUNT).unwrap();
    for kind in events::kinds() {
        let variants = [Some(events::full(kind)), Some(events::unset(kind)), events::empty(kind)];
        for mut event in variants.into_iter().flatten() {
            event::check(&mut event, account, "event").unwrap();
            let body = render::render(&event, PayloadFormat::Chatwoot);
            let again = match parse::read(&body, account) {
                Ok(again) => again,
                // It has no type of its own, and is kept.
                Err(why) => {
                    assert_eq!(kind, EventType::Other, "{why:?}");
                    other::keep(&body, account, &why).unwrap().0
                }
            };
            assert_eq!(render::render(&again, PayloadFormat::Chatwoot), body);
        }
    }
}

/// With a folder in `WRITE_SEEDS` the events are also written there, as seeds for fuzzing: `fuzz/run` does
/// it.
#[test]
fn every_event_comes_back_from_its_encoding() {
    for kind in events::kinds() {
        let variants = [Some(events::full(kind)), Some(events::unset(kind)), events::empty(kind)];
        for (event, variant) in variants.into_iter().zip(["full", "unset", "empty"]) {
            let Some(event) = event else { continue };
            let encoded = event.encode_to_vec();
            assert_eq!(v1::Event::decode(encoded.as_slice()), Ok(event));
            if let Some(folder) = env::var_os("WRITE_SEEDS") {
                let folder = Path::new(&folder).join("event");
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join(format!("{}.{variant}", name_of(kind))), encoded).unwrap();
            }
        }
    }
}

#[test]
fn the_golden_files_are_all_read() {
    let files = |form: &str| {
        let folder = format!("{}/tests/golden/{form}", env!("CARGO_MANIFEST_DIR"));
        fs::read_dir(folder).unwrap().count()
    };
    let empty = events::kinds().filter_map(events::empty).count();
    assert_eq!(files("documented"), 2 * events::kinds().count() + empty);
    assert_eq!(files("chatwoot"), files("documented"));
    assert_eq!(files("sample"), 4);
}

#[test]
fn compaction_changes_no_strings_and_no_numbers() {
    assert_eq!(compact("{ \"a b\" : [ 1.50 ,\n\"\\\\\" , \"\\\" x\" ] }\n"), r#"{"a b":[1.50,"\\","\" x"]}"#);
}

/// Each text of an event in turn gets a character that many receivers cannot store.
#[test]
fn every_text_of_an_event_is_checked_for_u_0000() {
    let account = AccountId::new(events::ACCOUNT).unwrap();
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let descriptor = pool.get_message_by_name("tidings.v1.Event").unwrap();
    let mut texts = 0;
    for kind in events::kinds().filter(|kind| *kind != EventType::Other) {
        let event = events::full(kind).encode_to_vec();
        let event = DynamicMessage::decode(descriptor.clone(), event.as_slice()).unwrap();
        for number in 0.. {
            let mut event = event.clone();
            if !spoil(&mut event, &mut { number }) {
                break;
            }
            texts += 1;
            let mut event: v1::Event = event.transcode_to().unwrap();
            let violations = event::check(&mut event, account, "event").unwrap_err();
            let is_found = violations.iter().any(|one| one.description.contains("U+0000"));
            assert!(is_found, "{violations:?}");
        }
    }
    assert!(texts > 500, "{texts}");
}

/// Appends U+0000 to the text of this number; false if there are fewer.
fn spoil(message: &mut DynamicMessage, number: &mut usize) -> bool {
    message.fields_mut().any(|(_, value)| spoil_value(value, number))
}

fn spoil_value(value: &mut Value, number: &mut usize) -> bool {
    match value {
        Value::String(text) => spoil_text(text, number),
        Value::Message(message) => spoil(message, number),
        Value::List(values) => values.iter_mut().any(|value| spoil_value(value, number)),
        Value::Map(entries) => {
            let keys: Vec<_> = entries.keys().cloned().collect();
            keys.into_iter().any(|key| {
                let MapKey::String(mut text) = key.clone() else { return false };
                if spoil_text(&mut text, number) {
                    let value = entries.remove(&key).unwrap();
                    entries.insert(MapKey::String(text), value);
                    return true;
                }
                spoil_value(entries.get_mut(&key).unwrap(), number)
            })
        }
        _ => false,
    }
}

fn spoil_text(text: &mut String, number: &mut usize) -> bool {
    match number.checked_sub(1) {
        Some(less) => {
            *number = less;
            false
        }
        None => {
            text.push('\0');
            true
        }
    }
}
