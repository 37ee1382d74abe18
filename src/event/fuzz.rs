//! Fuzz targets of events: publishing, and parsing in every form.

use std::{collections::HashSet, fmt};

use prost::Message;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};

use super::{EventContent, check, other, parse, render};
use crate::{
    domain::{
        event_routing::OrderTag, field_violation::FieldViolations, ids::AccountId,
        payload_format::PayloadFormat,
    },
    proto::v1::{self, EventType, event::Payload},
};

/// A published event: once it passes the check it is complete, is stored unchanged, and has one body in each
/// form, which is sound JSON.
pub fn event(data: &[u8]) {
    let account = AccountId::new(1).expect("one is positive");
    let Ok(mut event) = v1::Event::decode(data) else { return };
    let Ok(routing) = check(&mut event, account, "event") else { return };

    let mut again = event.clone();
    assert_eq!(
        check(&mut again, account, "event").as_ref(),
        Ok(&routing),
        "a second check has the same result"
    );
    assert_eq!(again, event, "a second check finds nothing to complete");

    let content = EventContent::from(&event);
    assert_eq!(content.event_type, routing.event_type);
    assert_eq!(content.order_tag, OrderTag::from(routing.order_key));
    assert_eq!(content.decode(), event, "the stored content is the event");
    for format in PayloadFormat::all() {
        let body = render::render(&event, format);
        assert_eq!(content.body(format), body, "an event has one body");
        match &event.payload {
            Some(Payload::Other(other)) => assert_eq!(other.json, body, "it is kept as it came"),
            _ => is_sound(&body),
        }
    }
    if routing.event_type == EventType::Other {
        return;
    }
    for form in PayloadFormat::all() {
        round_trips(form, &content.body(form), account);
    }
}

/// A webhook: in each form in which it can be parsed, the event passes the check unchanged, and can be rendered and
/// parsed again.
pub fn import(data: &[u8]) {
    let account = AccountId::new(1).expect("one is positive");
    for form in PayloadFormat::all() {
        match parse::read_form(form, data, account) {
            Ok(event) => is_parsed(form, &event, account),
            Err(violations) if form == PayloadFormat::Chatwoot => is_kept(data, account, &violations),
            Err(_) => {}
        }
    }
}

fn is_parsed(form: PayloadFormat, event: &v1::Event, account: AccountId) {
    let mut checked = event.clone();
    check(&mut checked, account, "event").expect("a parsed event was checked");
    assert_eq!(checked, *event, "a second check finds nothing to complete");
    for format in PayloadFormat::all() {
        is_sound(&render::render(event, format));
    }
    assert!(round_trips(form, &render::render(event, form), account), "a rendered body can be parsed");
}

/// A webhook that cannot be parsed is kept with all its bytes, if it is a JSON object.
fn is_kept(data: &[u8], account: AccountId, violations: &FieldViolations) {
    let Ok((event, routing)) = other::keep(data, account, violations) else { return };
    for format in PayloadFormat::all() {
        assert_eq!(render::render(&event, format), data, "it is kept as it came");
    }
    let content = EventContent::from(&event);
    assert_eq!(content.order_tag, OrderTag::from(routing.order_key));
}

/// Whether a body in this form can be parsed; the parsed event must have the same body.
fn round_trips(form: PayloadFormat, body: &[u8], account: AccountId) -> bool {
    let read = parse::read_form(form, body, account);
    if let Ok(event) = &read {
        let again = render::render(event, form);
        assert_eq!(again, body, "a parsed event has the body that it was parsed from");
    }
    read.is_ok()
}

/// Panics unless a text is JSON without duplicate keys, which readers resolve differently.
pub(crate) fn is_sound(json: &[u8]) {
    if let Err(error) = serde_json::from_slice::<Sound>(json) {
        panic!("{error}: {}", String::from_utf8_lossy(json));
    }
}

/// JSON without duplicate keys.
struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self, A::Error> {
        let mut keys = HashSet::new();
        while let Some((key, Self)) = members.next_entry::<String, Self>()? {
            if let Some(twice) = keys.replace(key) {
                return Err(A::Error::custom(format_args!("duplicate key {twice:?}")));
            }
        }
        Ok(self)
    }
}
