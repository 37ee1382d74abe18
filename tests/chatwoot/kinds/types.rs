//! Types that are as strict as the languages in which receivers are written: what JSON leaves open is a fault
//! here.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, de::Error};
use serde_json::{Map, Value};

/// An object with keys that nobody knows beforehand. Never null.
pub type Object = Map<String, Value>;

/// A time as a string: `2026-01-31T23:59:59.123Z`.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub struct Iso(Timestamp);

impl TryFrom<String> for Iso {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let decimals =
            text.strip_suffix('Z').and_then(|text| text.rsplit_once('.')).map(|(_, decimals)| decimals.len());
        match text.parse() {
            Ok(time) if decimals == Some(3) => Ok(Self(time)),
            _ => Err(format!("{text:?} is no time with three decimals in UTC")),
        }
    }
}

impl fmt::Debug for Iso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A time as an integer: seconds since 1970, or 0 for never. Milliseconds would be in the year 50000.
#[derive(Deserialize)]
#[serde(try_from = "i64")]
pub struct Unix(i64);

impl TryFrom<i64> for Unix {
    type Error = String;

    fn try_from(seconds: i64) -> Result<Self, String> {
        let known = seconds == 0 || (1_000_000_000..10_000_000_000).contains(&seconds);
        if known { Ok(Self(seconds)) } else { Err(format!("{seconds} is no time in seconds")) }
    }
}

impl fmt::Debug for Unix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A named record: account, inbox, team.
#[derive(Debug, Deserialize)]
pub struct Named {
    pub id: i64,
    pub name: String,
}

/// One changed attribute: `{"status": {"previous_value": "open", "current_value": "resolved"}}`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "std::collections::BTreeMap<String, Values>")]
pub struct Change {
    pub name: String,
    pub values: Values,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values {
    #[serde(deserialize_with = "Value::deserialize")]
    pub previous_value: Value,
    #[serde(deserialize_with = "Value::deserialize")]
    pub current_value: Value,
}

impl TryFrom<std::collections::BTreeMap<String, Values>> for Change {
    type Error = String;

    fn try_from(change: std::collections::BTreeMap<String, Values>) -> Result<Self, String> {
        let count = change.len();
        let mut changes = change.into_iter();
        match (changes.next(), count) {
            (Some((name, values)), 1) => Ok(Self { name, values }),
            _ => Err(format!("{count} attributes in one change")),
        }
    }
}

/// For a key that is always there, if only with null. (Without this serde takes a missing key for null.)
pub fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(value)
}

/// For a text that is null if it is missing, and never empty: an empty one would be taken for an id.
pub fn null_or_id<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    let text: Option<String> = Option::deserialize(value)?;
    if text.as_deref() == Some("") { Err(Error::custom("an empty id")) } else { Ok(text) }
}

/// For the URL of a picture. Everybody asks whether it is true, so that null and `""` are both none.
pub fn picture<'de, D: Deserializer<'de>>(value: D) -> Result<Option<String>, D::Error> {
    Ok(Option::deserialize(value)?.filter(|url: &String| !url.is_empty()))
}

/// For a list that is not there where it would be empty: its first element is looked at without asking.
pub fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<Vec<T>, D::Error> {
    let list: Vec<T> = Vec::deserialize(value)?;
    if list.is_empty() { Err(Error::custom("an empty list")) } else { Ok(list) }
}

/// For the list of messages in a message's conversation, which has that message and no other.
pub fn one<'de, D: Deserializer<'de>, T: Deserialize<'de>>(value: D) -> Result<T, D::Error> {
    let [only] = <[T; 1]>::deserialize(value)?;
    Ok(only)
}
