//! One JSON object, read key by key. What has another type than its key is for is noted as a fault and counts as unset.

use std::collections::BTreeMap;

use jiff::Timestamp as Instant;
use prost_types::{ListValue, Struct, Timestamp, value::Kind};
use serde_json::{Map, Number, Value};

use crate::{domain::fault::Faults, proto::v1};

/// The whole numbers that a `google.protobuf.Value` keeps exact: it is a float.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// The keys of an object that were not yet read.
pub(super) struct Fields<'f> {
    object: Map<String, Value>,
    path: String,
    faults: &'f mut Faults,
}

impl<'f> Fields<'f> {
    pub(super) fn new(object: Map<String, Value>, path: String, faults: &'f mut Faults) -> Self {
        Self { object, path, faults }
    }

    /// Notes that the value of `key` breaks `rule`.
    pub(super) fn fault(&mut self, key: &str, rule: &str) {
        self.faults.invalid(join(&self.path, key), rule);
    }

    /// Takes the value of `key`; none if it is null.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.object.remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn optional_text(&mut self, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            _ => {
                self.fault(key, "must be a string");
                None
            }
        }
    }

    pub(super) fn text(&mut self, key: &str) -> String {
        self.optional_text(key).unwrap_or_default()
    }

    pub(super) fn optional_boolean(&mut self, key: &str) -> Option<bool> {
        match self.take(key)? {
            Value::Bool(value) => Some(value),
            _ => {
                self.fault(key, "must be a boolean");
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &str) -> bool {
        self.optional_boolean(key).unwrap_or_default()
    }

    pub(super) fn optional_integer(&mut self, key: &str) -> Option<i64> {
        let value = self.take(key)?;
        let integer = value.as_i64();
        if integer.is_none() {
            self.fault(key, "must be an integer of 64 bits");
        }
        integer
    }

    pub(super) fn integer(&mut self, key: &str) -> i64 {
        self.optional_integer(key).unwrap_or_default()
    }

    pub(super) fn optional_small(&mut self, key: &str) -> Option<i32> {
        let small = i32::try_from(self.optional_integer(key)?).ok();
        if small.is_none() {
            self.fault(key, "must be an integer of 32 bits");
        }
        small
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
            Value::String(text) => text.parse::<Instant>().ok().map(|time| Timestamp {
                seconds: time.as_second(),
                nanos: time.subsec_nanosecond(),
            }),
            _ => None,
        };
        if time.is_none() {
            self.fault(key, "must be a time: unix seconds, or ISO 8601");
        }
        time
    }

    /// A time of which 0 means never.
    pub(super) fn time_or_never(&mut self, key: &str) -> Option<Timestamp> {
        self.time(key).filter(|time| *time != Timestamp::default())
    }

    /// An object with keys of its own.
    pub(super) fn record(&mut self, key: &str) -> Option<Fields<'_>> {
        match self.take(key)? {
            Value::Object(object) => {
                let path = join(&self.path, key);
                Some(Fields { object, path, faults: self.faults })
            }
            _ => {
                self.fault(key, "must be an object");
                None
            }
        }
    }

    /// An array of objects, each read by `read`.
    pub(super) fn records<T>(&mut self, key: &str, read: impl Fn(Fields<'_>) -> T) -> Vec<T> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let Value::Array(items) = value else {
            self.fault(key, "must be an array");
            return Vec::new();
        };
        let mut records = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{}[{index}]", join(&self.path, key));
            match item {
                Value::Object(object) => {
                    records.push(read(Fields { object, path, faults: &mut *self.faults }));
                }
                _ => self.faults.invalid(path, "must be an object"),
            }
        }
        records
    }

    /// An array of strings.
    pub(super) fn texts(&mut self, key: &str) -> Vec<String> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(items)) if items.iter().all(Value::is_string) => {
                items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
            }
            Some(_) => {
                self.fault(key, "must be an array of strings");
                Vec::new()
            }
        }
    }

    /// A free object; `{}` is as good as none.
    pub(super) fn object(&mut self, key: &str) -> Option<Struct> {
        match self.take(key)? {
            Value::Object(object) if object.is_empty() => None,
            Value::Object(object) => {
                let path = join(&self.path, key);
                Some(self.to_struct(object, &path))
            }
            _ => {
                self.fault(key, "must be an object");
                None
            }
        }
    }

    /// `[{"<name>": {"previous_value": ..., "current_value": ...}}]`
    pub(super) fn changes(&mut self, key: &str) -> Vec<v1::AttributeChange> {
        let changes = self.records(key, |mut change| {
            let name = change.object.keys().next().cloned().unwrap_or_default();
            let mut values = change.record(&name);
            let mut value = |key: &str| {
                let values = values.as_mut()?;
                let value = values.take(key)?;
                let path = join(&values.path, key);
                Some(values.to_value(value, &path))
            };
            let (current_value, previous_value) = (value("current_value"), value("previous_value"));
            v1::AttributeChange { name, current_value, previous_value }
        });
        changes
    }

    /// The inbox that the working hours are of. Nothing else in an inbox event tells which inbox it is about.
    pub(super) fn inbox_of_hours(&self) -> i64 {
        let hours = self.object.get("working_hours").and_then(Value::as_array).and_then(|hours| hours.first());
        hours.and_then(|day| day.get("inbox_id")).and_then(Value::as_i64).unwrap_or_default()
    }

    /// What was not read; none if nothing is left.
    pub(super) fn rest(mut self) -> Option<Struct> {
        let rest = std::mem::take(&mut self.object);
        let path = self.path.clone();
        (!rest.is_empty()).then(|| self.to_struct(rest, &path))
    }

    fn to_struct(&mut self, object: Map<String, Value>, path: &str) -> Struct {
        let fields = object.into_iter().map(|(key, value)| {
            let path = join(path, &key);
            let value = self.to_value(value, &path);
            (key, value)
        });
        Struct { fields: fields.collect::<BTreeMap<_, _>>() }
    }

    fn to_value(&mut self, value: Value, path: &str) -> prost_types::Value {
        let kind = match value {
            Value::Null => Kind::NullValue(0),
            Value::Bool(value) => Kind::BoolValue(value),
            Value::String(text) => Kind::StringValue(text),
            Value::Object(object) => Kind::StructValue(self.to_struct(object, path)),
            Value::Array(items) => Kind::ListValue(ListValue {
                values: items.into_iter().map(|item| self.to_value(item, path)).collect(),
            }),
            Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_else(|| {
                self.faults.invalid(path, "must be a number that a float holds");
                0.0
            })),
        };
        if let Kind::NumberValue(number) = &kind
            && number.fract() == 0.0
            && number.abs() > EXACT_MAX
        {
            self.faults.invalid(path, "must be a whole number of at most 2^53: free objects hold floats");
        }
        prost_types::Value { kind: Some(kind) }
    }
}

/// Unix seconds, with a fraction of microseconds.
fn unix_time(number: &Number) -> Option<Timestamp> {
    if let Some(seconds) = number.as_i64() {
        return Some(Timestamp { seconds, nanos: 0 });
    }
    let time = Instant::from_microsecond(exact((number.as_f64()? * 1e6).round())?).ok()?;
    // Before the epoch the two would differ in sign.
    (time.as_second() >= 0)
        .then(|| Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

fn exact(number: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "it is a whole number within the bounds of one")]
    (number.abs() <= EXACT_MAX).then_some(number as i64)
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
