//! One JSON object, read key by key. A value of the wrong type is a violation, and is read as unset.

use std::collections::BTreeMap;

use jiff::{Timestamp as Instant, civil::DateTime, tz::TimeZone};
use prost_types::{ListValue, Struct, Timestamp, value::Kind};
use serde_json::{Map, Number, Value};

use super::{path::Path, violations::BodyViolations};
use crate::{domain::payload_format::PayloadFormat, proto::v1};

/// Floats represent every whole number up to this one.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The keys of an object that are not read yet.
pub(in crate::event) struct Fields<'f> {
    object: Map<String, Value>,
    path: Path<'f>,
    violations: &'f mut BodyViolations,
}

impl<'f> Fields<'f> {
    /// The keys of a body.
    pub(super) fn new(object: Map<String, Value>, violations: &'f mut BodyViolations) -> Self {
        Self { object, path: Path::Top, violations }
    }

    /// The form that the body is read in.
    pub(super) fn form(&self) -> PayloadFormat {
        self.violations.form
    }

    /// Reports that the value of `key` is invalid.
    pub(super) fn invalid(&mut self, key: &str, description: &str) {
        self.violations.invalid(&Path::Key(&self.path, key), description);
    }

    /// Whether this key exists and is not read yet.
    pub(super) fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// Takes the value of `key`; `None` if it is null.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.object.remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn optional_text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            _ => {
                self.invalid(key, "must be a string");
                None
            }
        }
    }

    pub(in crate::event) fn text(&mut self, key: &str) -> String {
        self.optional_text(key).unwrap_or_default()
    }

    pub(super) fn optional_boolean(&mut self, key: &str) -> Option<bool> {
        match self.take(key)? {
            Value::Bool(value) => Some(value),
            _ => {
                self.invalid(key, "must be a boolean");
                None
            }
        }
    }

    pub(in crate::event) fn boolean(&mut self, key: &str) -> bool {
        self.optional_boolean(key).unwrap_or_default()
    }

    pub(super) fn optional_integer(&mut self, key: &str) -> Option<i64> {
        let integer = self.take(key)?.as_i64();
        if integer.is_none() {
            self.invalid(key, "must be an integer of 64 bits");
        }
        integer
    }

    pub(in crate::event) fn integer(&mut self, key: &str) -> i64 {
        self.optional_integer(key).unwrap_or_default()
    }

    pub(super) fn optional_small(&mut self, key: &str) -> Option<i32> {
        let small = i32::try_from(self.optional_integer(key)?).ok();
        if small.is_none() {
            self.invalid(key, "must be an integer of 32 bits");
        }
        small
    }

    /// The id of an account, which must be the account of the body.
    pub(super) fn account_number(&mut self, key: &str) -> i64 {
        let number = self.integer(key);
        self.violations.account(number, &Path::Key(&self.path, key));
        number
    }

    /// An integer in a string.
    pub(super) fn text_integer(&mut self, key: &str) -> i64 {
        let Some(text) = self.optional_text(key) else { return 0 };
        text.parse().unwrap_or_else(|_| {
            self.invalid(key, "must be an integer of 64 bits, in a string");
            0
        })
    }

    /// The id of an account in a string, which must be the account of the body.
    pub(super) fn account_text(&mut self, key: &str) -> i64 {
        let number = self.text_integer(key);
        self.violations.account(number, &Path::Key(&self.path, key));
        number
    }

    /// A string, or an integer.
    pub(super) fn word_or_number(&mut self, key: &str) -> Option<Result<String, i64>> {
        match self.take(key)? {
            Value::String(text) => Some(Ok(text)),
            Value::Number(number) => number.as_i64().map(Err),
            _ => None,
        }
    }

    /// A time, as unix seconds or as ISO 8601.
    pub(super) fn time(&mut self, key: &str) -> Option<Timestamp> {
        let value = self.take(key)?;
        let time = match &value {
            Value::Number(number) => unix_time(number),
            Value::String(text) => text.parse().ok().map(timestamp),
            _ => None,
        };
        if time.is_none() {
            self.invalid(key, "must be a time: unix seconds, or ISO 8601");
        }
        time
    }

    /// A time as `2020-03-03 13:05:57 UTC`.
    pub(super) fn sample_time(&mut self, key: &str) -> Option<Timestamp> {
        let text = self.optional_text(key)?;
        let civil = text.strip_suffix(" UTC").and_then(|text| text.parse::<DateTime>().ok());
        let time = civil.and_then(|civil| TimeZone::UTC.to_timestamp(civil).ok()).map(timestamp);
        if time.is_none() {
            self.invalid(key, "must be a time as 2020-03-03 13:05:57 UTC");
        }
        time
    }

    /// A time for which the number 0 means never.
    pub(super) fn time_or_never(&mut self, key: &str) -> Option<Timestamp> {
        let is_number = self.object.get(key).is_some_and(Value::is_number);
        self.time(key).filter(|time| !is_number || *time != Timestamp::default())
    }

    /// A nested object.
    pub(in crate::event) fn record<'s>(&'s mut self, key: &'s str) -> Option<Fields<'s>> {
        match self.take(key)? {
            Value::Object(object) => {
                Some(Fields { object, path: Path::Key(&self.path, key), violations: &mut *self.violations })
            }
            _ => {
                self.invalid(key, "must be an object");
                None
            }
        }
    }

    /// An array of objects, each read by `read`.
    pub(super) fn records<T>(&mut self, key: &str, read: impl Fn(Fields<'_>) -> T) -> Vec<T> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Value::Array(items) = value else {
            self.invalid(key, "must be an array");
            return Vec::new();
        };
        let path = Path::Key(&self.path, key);
        let mut records = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let path = Path::Item(&path, index);
            match item {
                Value::Object(object) => {
                    records.push(read(Fields { object, path, violations: &mut *self.violations }));
                }
                _ => self.violations.invalid(&path, "must be an object"),
            }
        }
        records
    }

    /// An array of strings.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        let is_text = |item: &Value| item.is_string();
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) if items.iter().all(is_text) => {
                items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            Some(_) => {
                self.invalid(key, "must be an array of strings");
                Vec::new()
            }
        }
    }

    /// A free object; `{}` is read as unset.
    pub(super) fn object(&mut self, key: &str) -> Option<Struct> {
        match self.take(key)? {
            Value::Object(object) if object.is_empty() => None,
            Value::Object(object) => Some(to_struct(object, &Path::Key(&self.path, key), self.violations)),
            _ => {
                self.invalid(key, "must be an object");
                None
            }
        }
    }

    /// `[{"<name>": {"previous_value": ..., "current_value": ...}}]`
    pub(super) fn changes(&mut self, key: &str) -> Vec<v1::AttributeChange> {
        self.records(key, |mut change| {
            let name = change.object.keys().next().cloned().unwrap_or_default();
            let mut values = change.record(&name);
            let mut value = |key: &str| values.as_mut()?.value(key);
            let (current_value, previous_value) = (value("current_value"), value("previous_value"));
            v1::AttributeChange { name, current_value, previous_value }
        })
    }

    fn value(&mut self, key: &str) -> Option<prost_types::Value> {
        let value = self.take(key)?;
        Some(to_value(value, &Path::Key(&self.path, key), self.violations))
    }

    /// The inbox of the working hours, if they name one. Nothing else in an inbox event identifies its inbox.
    pub(super) fn inbox_of_hours(&self) -> Option<v1::Inbox> {
        let hours = self.object.get("working_hours").and_then(|hours| hours.get(0));
        let id = hours.and_then(|day| day.get("inbox_id")).and_then(Value::as_i64).filter(|id| *id > 0);
        id.map(|id| v1::Inbox { id, ..v1::Inbox::default() })
    }

    /// Checks the account of an inbox's settings, which they name in up to three fields.
    pub(super) fn check_account_of_settings(&mut self) {
        let account_id =
            |value: Option<&Value>, key: &str| value.and_then(|value| value.get(key)).and_then(Value::as_i64);
        let [account, channel, hours] = ["account", "channel", "working_hours"]
            .map(|key| (self.object.get(key), Path::Key(&self.path, key)));
        let day = (hours.0.and_then(|hours| hours.get(0)), Path::Item(&hours.1, 0));
        for ((value, path), key) in [(account, "id"), (channel, "account_id"), (day, "account_id")] {
            self.violations.account(account_id(value, key).unwrap_or_default(), &Path::Key(&path, key));
        }
    }

    /// The keys that are left; `None` if there are none.
    pub(in crate::event) fn rest(&mut self) -> Option<Struct> {
        let rest = std::mem::take(&mut self.object);
        (!rest.is_empty()).then(|| to_struct(rest, &self.path, self.violations))
    }
}

fn to_struct(object: Map<String, Value>, path: &Path<'_>, violations: &mut BodyViolations) -> Struct {
    let fields = object.into_iter().map(|(key, value)| {
        let value = to_value(value, &Path::Key(path, &key), violations);
        (key, value)
    });
    Struct { fields: fields.collect::<BTreeMap<_, _>>() }
}

fn to_value(value: Value, path: &Path<'_>, violations: &mut BodyViolations) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::String(text) => Kind::StringValue(text),
        Value::Object(object) => Kind::StructValue(to_struct(object, path, violations)),
        Value::Array(items) => {
            let items = items.into_iter().enumerate();
            let values = items.map(|(index, item)| to_value(item, &Path::Item(path, index), violations));
            Kind::ListValue(ListValue { values: values.collect() })
        }
        Value::Number(number) => {
            let float = number.as_f64().unwrap_or_default();
            if number.as_i128().is_some_and(|whole| !is_exact(whole, float)) {
                violations.invalid(
                    path,
                    "must be a whole number that a float represents exactly, such as those up to 2^53",
                );
            }
            Kind::NumberValue(float)
        }
    };
    prost_types::Value { kind: Some(kind) }
}

fn timestamp(time: Instant) -> Timestamp {
    let (mut seconds, mut nanos) = (time.as_second(), time.subsec_nanosecond());
    // Before the epoch jiff has negative seconds and nanos, protobuf negative seconds only.
    if nanos < 0 {
        (seconds, nanos) = (seconds - 1, nanos + 1_000_000_000);
    }
    Timestamp { seconds, nanos }
}

/// Unix seconds, with a fraction of microseconds.
fn unix_time(number: &Number) -> Option<Timestamp> {
    if let Some(seconds) = number.as_i64() {
        return Some(Timestamp { seconds, nanos: 0 });
    }
    let micros = exact((number.as_f64()? * 1e6).round())?;
    Instant::from_microsecond(micros).ok().map(timestamp)
}

#[expect(clippy::cast_possible_truncation, reason = "it was a whole number of 65 bits, and is one")]
fn is_exact(whole: i128, float: f64) -> bool {
    float as i128 == whole
}

fn exact(number: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "it is a whole number within the bounds of one")]
    (number.abs() <= EXACT_MAX).then_some(number as i64)
}
