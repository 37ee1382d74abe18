//! Odd JSON in any place of a body: numbers of any size and spelling, strange strings, duplicate keys, `[]` for
//! `{}`. Whatever it is, it comes out again as the same JSON, or the body is refused here and kept as it came.
//!
//! The comparison is not the program's: it reads both texts by itself, numbers with all their digits.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::{FORM, account, body, kinds, read};
use crate::{
    domain::payload_format::PayloadFormat,
    event::{other, parse::numbers::Decimal, render},
};

/// JSON as it is written: members in their order, numbers as their text, strings with their escapes resolved.
#[derive(Clone, Debug)]
enum Json {
    Null,
    Bool(bool),
    Number(String),
    /// As it is written, between its quotes.
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(value) => write!(out, "{value}").unwrap(),
            Self::Number(text) => out.push_str(text),
            Self::Text(text) => write!(out, "\"{text}\"").unwrap(),
            Self::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index > 0 { " ," } else { "" });
                    item.write(out);
                }
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    write!(out, "{}\"{key}\": ", if index > 0 { "," } else { "" }).unwrap();
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    /// The JSON of a valid text.
    fn of(text: &str) -> Self {
        let mut reader = Reader(text);
        reader.value()
    }

    /// Whether this says no more than null.
    fn is_unset(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Bool(_) | Self::Number(_) => false,
            Self::Text(text) => text.is_empty(),
            Self::Array(items) => items.is_empty(),
            Self::Object(members) => members.is_empty(),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Bool(value) => !value,
            Self::Number(text) => Decimal::of(text) == Decimal::of("0"),
            other => other.is_unset(),
        }
    }

    /// Whether `output` has everything of this, as docs/json.md allows it to be spelled.
    fn is_in(&self, output: &Self) -> bool {
        match (self, output) {
            (Self::Object(members), Self::Object(others)) => members.iter().all(|(key, value)| match others
                .iter()
                .find(|(other, _)| resolved(other) == resolved(key))
            {
                Some((_, other)) => value.is_in(other),
                None => value.is_unset() || key == "type" && matches!(value, Self::Text(t) if t == "contact"),
            }),
            (Self::Array(items), Self::Array(others)) => {
                items.len() == others.len() && items.iter().zip(others).all(|(item, other)| item.is_in(other))
            }
            (Self::Number(number), Self::Number(other)) => Decimal::of(number) == Decimal::of(other),
            (Self::Text(text), Self::Text(other)) => {
                let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
                resolved(text) == resolved(other) || time(text).is_some() && time(text) == time(other)
            }
            (Self::Bool(value), Self::Bool(other)) => value == other,
            (Self::Null, other) => other.is_empty(),
            (value, Self::Null) => value.is_unset(),
            _ => false,
        }
    }
}

fn resolved(text: &str) -> String {
    serde_json::from_str(&format!("\"{text}\"")).unwrap_or_else(|_| text.to_owned())
}

/// Reads valid JSON.
struct Reader<'t>(&'t str);

impl Reader<'_> {
    fn skip(&mut self, count: usize) {
        self.0 = self.0[count..].trim_start();
    }

    fn value(&mut self) -> Json {
        self.0 = self.0.trim_start();
        match self.0.as_bytes()[0] {
            b'n' => self.constant(4, Json::Null),
            b't' => self.constant(4, Json::Bool(true)),
            b'f' => self.constant(5, Json::Bool(false)),
            b'"' => Json::Text(self.text()),
            b'[' => Json::Array(self.list(']', Self::value)),
            b'{' => Json::Object(self.list('}', |reader| {
                let key = reader.text();
                reader.skip(1);
                (key, reader.value())
            })),
            _ => {
                let end = self.0.find(|c: char| !"+-.0123456789eE".contains(c)).unwrap_or(self.0.len());
                let number = self.0[..end].to_owned();
                self.constant(end, Json::Number(number))
            }
        }
    }

    fn constant(&mut self, length: usize, value: Json) -> Json {
        self.skip(length);
        value
    }

    fn text(&mut self) -> String {
        let mut escaped = false;
        let end = self.0[1..].find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let text = self.0[1..1 + end.unwrap()].to_owned();
        self.skip(text.len() + 2);
        text
    }

    fn list<T>(&mut self, end: char, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut items = Vec::new();
        self.skip(1);
        while !self.0.starts_with(end) {
            items.push(item(self));
            if self.0.starts_with(',') {
                self.skip(1);
            }
        }
        self.skip(1);
        items
    }
}

/// Texts of numbers: of any size, with fractions, exponents and zeros where they are allowed.
fn number() -> impl Strategy<Value = Json> {
    let known = prop::sample::select(vec![
        "0",
        "-0",
        "0.0",
        "1.0",
        "1e2",
        "1E+2",
        "10e-1",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551617",
        "5511999999999999999999",
        "9007199254740992",
        "9007199254740993",
        "-9223372036854775808",
        "-9223372036854775809",
        "0.1",
        "0.10000000000000000001",
        "1e-400",
        "1e308",
        "1e309",
        "1583240757",
        "1583240757.123456",
        "1583240757.1234567",
        "123456789012345678901234567890.5",
    ])
    .prop_map(str::to_owned);
    prop_oneof![known, "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?"].prop_map(Json::Number)
}

fn text() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "",
        "contact",
        "user",
        "incoming",
        "text",
        "2020-03-03T13:05:57Z",
        "2020-03-03T13:05:57.0001Z",
        "\\u0000",
        "\\\\u0000",
        "\\ud83d",
        "\\ud83d\\udc4b",
        "\\u00e9",
        "é",
        "\\/",
        "\\\"",
        "a\\nb",
        "\\uFFFF",
    ])
    .prop_map(str::to_owned);
    prop_oneof![known, "[a-z ]{0,8}"]
}

fn key() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "id",
        "type",
        "sender",
        "meta",
        "messages",
        "account",
        "created_at",
        "attachments",
        "private",
        "extra",
        "content_attributes",
        "event",
        "status",
    ])
    .prop_map(str::to_owned);
    prop_oneof![3 => known, 1 => text()]
}

fn odd() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        1 => Just(Json::Null),
        1 => any::<bool>().prop_map(Json::Bool),
        4 => number(),
        2 => text().prop_map(Json::Text),
        1 => Just(Json::Array(Vec::new())),
        1 => Just(Json::Object(Vec::new())),
        1 => Just(Json::Array(vec![Json::Null])),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            prop::collection::vec((key(), inner), 0..4).prop_map(Json::Object),
        ]
    })
}

/// Puts a value into a body: in place of one that is there, or as a further member.
fn put(body: &mut Json, path: &[prop::sample::Index], name: Option<String>, value: Json) {
    let mut target = body;
    for step in path {
        let is_leaf = match &*target {
            Json::Array(items) => items.is_empty(),
            Json::Object(members) => members.is_empty(),
            _ => true,
        };
        if is_leaf {
            break;
        }
        target = match target {
            Json::Array(items) => {
                let at = step.index(items.len());
                &mut items[at]
            }
            Json::Object(members) => {
                let at = step.index(members.len());
                &mut members[at].1
            }
            _ => unreachable!("it is no leaf"),
        };
    }
    match (target, name) {
        (Json::Object(members), Some(name)) => members.push((name, value)),
        (target, _) => *target = value,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn odd_json_comes_out_as_it_came_in_or_is_kept_with_all_its_bytes(
        kind in prop::sample::select(kinds().collect::<Vec<_>>()),
        path in prop::collection::vec(any::<prop::sample::Index>(), 1..5),
        name in prop::option::of(key()),
        value in odd(),
        has_mark in any::<bool>(),
    ) {
        let mut input = Json::of(&body(kind).to_string());
        put(&mut input, &path, name, value);
        let mut text = if has_mark { "\u{feff}".to_owned() } else { String::new() };
        input.write(&mut text);
        match read(text.as_bytes(), account()) {
            Ok(event) => {
                let output = String::from_utf8(render::render(&event, FORM)).unwrap();
                prop_assert!(input.is_in(&Json::of(&output)), "{}\n{}", text, output);
            }
            Err(why) => match other::keep(text.as_bytes(), account(), &why) {
                Ok((event, _)) => {
                    prop_assert_eq!(render::render(&event, PayloadFormat::Chatwoot), text.as_bytes());
                }
                // An odd value of an account's id is another account.
                Err(refused) => {
                    prop_assert!(refused.iter().all(|one| one.field.contains("account")), "{:?}", refused);
                }
            },
        }
    }
}
