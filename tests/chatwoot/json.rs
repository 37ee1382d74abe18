//! JSON compared strictly: types, null against absent, integers against floats, and the order of keys.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// JSON whose objects keep their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Boolean(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// The differences of a body from the captured one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The body has a key that was not captured.
    Added,
    /// The body lacks a key that was captured.
    Missing,
    /// The value is another one, or of another type.
    Changed,
    /// The keys of an object stand in another order.
    Reordered,
}

#[derive(Debug)]
pub struct Difference {
    pub path: String,
    pub sort: Sort,
    pub what: String,
}

pub fn read(json: &[u8]) -> Json {
    serde_json::from_slice(json).expect("it is JSON")
}

/// Every difference of `body` from `captured`.
pub fn differences(captured: &Json, body: &Json) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(captured, body, "", &mut found);
    found
}

fn compare(captured: &Json, body: &Json, path: &str, found: &mut Vec<Difference>) {
    let mut note = |path: String, sort, what| found.push(Difference { path, sort, what });
    match (captured, body) {
        (Json::Object(captured), Json::Object(body)) => {
            let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
            for (key, value) in body.iter().filter(|(key, _)| get(captured, key).is_none()) {
                note(below(key), Sort::Added, format!("{value:?}"));
            }
            for (key, value) in captured.iter().filter(|(key, _)| get(body, key).is_none()) {
                note(below(key), Sort::Missing, format!("{value:?}"));
            }
            let common = |of: &[(String, Json)], other: &[(String, Json)]| -> Vec<String> {
                of.iter().map(|(key, _)| key.clone()).filter(|key| get(other, key).is_some()).collect()
            };
            let (order, ours) = (common(captured, body), common(body, captured));
            if order != ours {
                note(path.to_owned(), Sort::Reordered, format!("{order:?} as {ours:?}"));
            }
            for (key, value) in captured {
                if let Some(of_body) = get(body, key) {
                    compare(value, of_body, &below(key), found);
                }
            }
        }
        (Json::Array(captured), Json::Array(body)) if captured.len() == body.len() => {
            for (index, (captured, body)) in captured.iter().zip(body).enumerate() {
                compare(captured, body, &format!("{path}[{index}]"), found);
            }
        }
        _ if captured == body => {}
        _ => note(path.to_owned(), Sort::Changed, format!("{captured:?} as {body:?}")),
    }
}

fn get<'j>(object: &'j [(String, Json)], key: &str) -> Option<&'j Json> {
    object.iter().find(|(known, _)| known == key).map(|(_, value)| value)
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element()? {
            array.push(item);
        }
        Ok(Json::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(member) = members.next_entry()? {
            object.push(member);
        }
        Ok(Json::Object(object))
    }
}
