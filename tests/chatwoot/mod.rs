//! Payloads that were captured from Chatwoot: each has an event that renders to it again. `chatwoot/captured`
//! has them, `chatwoot/events` has the events as protobuf JSON, and `chatwoot/exceptions.rs` lists the
//! differences, and why.

use std::{collections::BTreeSet, env};

use tidings::{
    domain::payload_format::PayloadFormat::{self, Chatwoot},
    event::{self, parse, render::render},
};

mod document;
pub mod exceptions;
pub mod fixtures;
pub mod json;
mod kinds;

use exceptions::{EXCEPTIONS, NONE_OF_THE_TWELVE};
use fixtures::Fixture;
use json::{Difference, Sort};

/// A difference, or an exception from having none: the payload, the sort, and the path as the exceptions have
/// it.
type Place = (String, String, String);

#[test]
fn every_captured_payload_can_be_said_as_an_event() {
    let fixtures = fixtures::all();
    assert_eq!(fixtures.len(), 23);
    assert_differences(fixtures.iter().flat_map(|fixture| {
        let mut event = fixture.event();
        let facts = event::check(&mut event, fixture.account(), "event");
        facts.unwrap_or_else(|faults| panic!("{}: {faults:?}", fixture.name));
        assert_eq!(event, fixture.event(), "{} is complete as it is kept", fixture.name);
        differences(fixture, &render(&event, Chatwoot))
    }));
}

/// `WRITE_EVENTS=1` writes the events as they are read now, before they are compared: look at the changes.
#[test]
fn every_captured_payload_comes_out_again() {
    assert_differences(fixtures::all().iter().flat_map(|fixture| {
        let body = fixture.as_one_of_the_twelve();
        let event = parse::read(&body, fixture.account());
        let event = event.unwrap_or_else(|faults| panic!("{}: {faults:?}", fixture.name));
        if env::var_os("WRITE_EVENTS").is_some() {
            fixture.keep(&event);
        }
        assert_eq!(event, fixture.event(), "{} is read as the event that is kept", fixture.name);
        differences(fixture, &render(&event, Chatwoot))
    }));
}

#[test]
fn events_other_than_the_twelve_are_refused() {
    for (name, _) in NONE_OF_THE_TWELVE {
        let fixtures = fixtures::all();
        let fixture = fixtures.iter().find(|fixture| fixture.name == name).unwrap();
        let faults = parse::read(&fixture.captured, fixture.account()).unwrap_err();
        let fields: Vec<_> =
            faults.iter().map(|fault| (fault.field.as_str(), fault.description.as_str())).collect();
        assert_eq!(fields, [("event", "is not a known event name")]);
    }
}

/// A rendered body is read again, and rendered to the same bytes.
#[test]
fn converted_events_can_be_read_again() {
    for fixture in fixtures::all() {
        let body = render(&fixture.event(), Chatwoot);
        let event = parse::read(&body, fixture.account()).unwrap_or_else(|faults| panic!("{faults:?}"));
        assert_eq!(render(&event, Chatwoot), body, "{}", fixture.name);
        for format in [PayloadFormat::Documented, PayloadFormat::Sample] {
            let _: serde_json::Value = serde_json::from_slice(&render(&event, format)).unwrap();
        }
    }
}

#[test]
fn the_comparison_is_strict() {
    let sorts = |captured: &str, body: &str| -> Vec<(String, Sort)> {
        let found = json::differences(&json::read(captured.as_bytes()), &json::read(body.as_bytes()));
        found.into_iter().map(|difference| (difference.path, difference.sort)).collect()
    };
    let changed = |path: &str| vec![(path.to_owned(), Sort::Changed)];
    assert_eq!(sorts(r#"{"a":[1]}"#, r#"{"a":[1]}"#), []);
    assert_eq!(sorts(r#"{"a":1}"#, r#"{"a":1.0}"#), changed("a"));
    assert_eq!(sorts(r#"{"a":1}"#, r#"{"a":"1"}"#), changed("a"));
    assert_eq!(sorts(r#"{"a":null}"#, r#"{"a":""}"#), changed("a"));
    assert_eq!(sorts(r#"{"a":[]}"#, r#"{"a":[null]}"#), changed("a"));
    assert_eq!(sorts(r#"{"a":null}"#, "{}"), [("a".to_owned(), Sort::Missing)]);
    assert_eq!(sorts(r#"{"a":[{}]}"#, r#"{"a":[{"b":null}]}"#), [("a[0].b".to_owned(), Sort::Added)]);
    assert_eq!(sorts(r#"{"a":1,"b":2}"#, r#"{"b":2,"c":3,"a":1}"#).len(), 2);
}

fn differences(fixture: &Fixture, body: &[u8]) -> Vec<(Place, String)> {
    let place = |Difference { path, sort, what }| ((fixture.name.clone(), format!("{sort:?}"), path), what);
    fixture.differences(body).into_iter().map(place).collect()
}

/// That the differences are the exceptions: none more, and none less.
#[track_caller]
fn assert_differences(found: impl Iterator<Item = (Place, String)>) {
    let mut unexplained = Vec::new();
    let mut needed = BTreeSet::new();
    let allowed: BTreeSet<Place> = EXCEPTIONS.iter().flat_map(places).collect();
    for (place, what) in found {
        if !allowed.contains(&place) {
            unexplained.push((place.clone(), what));
        }
        needed.insert(place);
    }
    assert!(unexplained.is_empty(), "not what was captured: {unexplained:#?}");
    let needless: Vec<_> = allowed.difference(&needed).collect();
    assert!(needless.is_empty(), "exceptions that are not needed: {needless:#?}");
    assert!(EXCEPTIONS.iter().all(|exception| !exception.why.is_empty()));
}

fn places(exception: &exceptions::Exception) -> impl Iterator<Item = Place> + '_ {
    let sort = format!("{:?}", exception.sort);
    exception.payloads().flat_map(move |payload| {
        let sort = sort.clone();
        exception.paths().map(move |path| (payload.to_owned(), sort.clone(), path.to_owned()))
    })
}
