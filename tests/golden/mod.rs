//! The bodies, byte for byte. The files in `tests/golden/` are formatted for people, to be compared with the
//! documentation line by line: they were written from it, not from the output of the code. Each body has
//! three variants: everything set, nothing optional set (`.unset`), and parts that exist with nothing set in
//! them (`.empty`).

use std::{env, fs, path::Path};

use prost::Message;
use tidings::{
    domain::{ids::AccountId, payload_format::PayloadFormat},
    event::{self, parse, render},
    proto::v1::{self, EventType},
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
fn a_body_of_chatwoot_is_read_as_an_event_with_the_same_body() {
    let account = AccountId::new(events::ACCOUNT).unwrap();
    for kind in events::kinds() {
        let variants = [Some(events::full(kind)), Some(events::unset(kind)), events::empty(kind)];
        for mut event in variants.into_iter().flatten() {
            event::check(&mut event, account, "event").unwrap();
            let body = render::render(&event, PayloadFormat::Chatwoot);
            match parse::read(&body, account) {
                Ok(again) => assert_eq!(render::render(&again, PayloadFormat::Chatwoot), body),
                // Only working hours name an inbox: these events have none.
                Err(faults) => {
                    let fields: Vec<_> = faults.iter().map(|fault| fault.field.as_str()).collect();
                    assert_eq!(fields, ["working_hours[0].inbox_id"], "{kind:?}");
                    assert!(matches!(kind, EventType::InboxCreated | EventType::InboxUpdated));
                }
            }
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
