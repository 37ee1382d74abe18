//! A message for people: a row for each field that is set, and for each number, also if it is zero.

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use prost_types::{Duration, Timestamp};

use super::{choices, times};

/// The rows: the path of a field, and its value.
pub(super) fn describe(message: &DynamicMessage) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    fields(message, "", &mut rows);
    rows
}

fn fields(message: &DynamicMessage, prefix: &str, rows: &mut Vec<Vec<String>>) {
    for field in message.descriptor().fields() {
        if field.supports_presence() && !message.has_field(&field) {
            continue;
        }
        let path = format!("{prefix}{}", field.name());
        match message.get_field(&field).as_ref() {
            Value::List(values) if is_header(&field) => {
                let headers = values.iter().filter_map(Value::as_message);
                rows.extend(headers.map(|header| header_row(&path, header)));
            }
            Value::List(values) if matches!(field.kind(), Kind::Message(_)) => {
                for (index, value) in values.iter().enumerate() {
                    one(&field, value, format!("{path}[{index}]"), rows);
                }
            }
            Value::List(values) => {
                let texts: Vec<_> = values.iter().filter_map(|value| text(&field, value)).collect();
                if !texts.is_empty() {
                    rows.push(vec![path, texts.join(", ")]);
                }
            }
            Value::Map(entries) => {
                let mut entries: Vec<_> = entries.iter().map(|(key, value)| (key_text(key), value)).collect();
                entries.sort_by(|(one, _), (other, _)| one.cmp(other));
                for (key, value) in entries {
                    rows.push(vec![format!("{path}.{key}"), text(&field, value).unwrap_or_default()]);
                }
            }
            value => one(&field, value, path, rows),
        }
    }
}

fn one(field: &FieldDescriptor, value: &Value, path: String, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Message(message) => match well_known(message) {
            Some(text) => rows.push(vec![path, text]),
            None => fields(message, &format!("{path}."), rows),
        },
        value => rows.extend(text(field, value).map(|text| vec![path, text])),
    }
}

fn is_header(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(message) if message.full_name() == "tidings.v1.HttpHeader")
}

/// A header as an entry of a map.
fn header_row(path: &str, header: &DynamicMessage) -> Vec<String> {
    let text = |name| header.get_field_by_name(name).and_then(|value| value.as_str().map(str::to_owned));
    vec![format!("{path}.{}", text("name").unwrap_or_default()), text("value").unwrap_or_default()]
}

/// A time or a duration.
fn well_known(message: &DynamicMessage) -> Option<String> {
    match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => {
            message.transcode_to::<Timestamp>().ok().map(|time| times::shown(Some(&time)))
        }
        "google.protobuf.Duration" => message.transcode_to::<Duration>().ok().map(|span| duration(&span)),
        _ => None,
    }
}

/// A duration in seconds, with as many digits as it has milliseconds.
pub(super) fn duration(span: &Duration) -> String {
    let millis = span.seconds.saturating_mul(1000).saturating_add(i64::from(span.nanos / 1_000_000));
    match (millis, millis % 1000) {
        (..1000, _) => format!("{millis}ms"),
        (_, 0) => format!("{}s", millis / 1000),
        (_, rest) => format!("{}.{rest:03}s", millis / 1000),
    }
}

/// A value that is no message. `None` if it says nothing: an empty text, a switch that is off.
fn text(field: &FieldDescriptor, value: &Value) -> Option<String> {
    match (value, field.kind()) {
        (Value::EnumNumber(0), _) | (Value::Bool(false), _) => None,
        (Value::EnumNumber(number), Kind::Enum(values)) => Some(choices::short(&values, *number)),
        (Value::Bool(true), _) => Some("true".to_owned()),
        (Value::String(text), _) => (!text.is_empty()).then(|| text.clone()),
        (Value::Bytes(bytes), _) => Some(String::from_utf8_lossy(bytes).into_owned()),
        (Value::I32(number), _) => Some(number.to_string()),
        (Value::I64(number), _) => Some(number.to_string()),
        (Value::U32(number), _) => Some(number.to_string()),
        (Value::U64(number), _) => Some(number.to_string()),
        (Value::F32(number), _) => Some(number.to_string()),
        (Value::F64(number), _) => Some(number.to_string()),
        _ => None,
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.clone(),
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{
        json::reflect,
        v1::{EventType, RetryPolicy, Subscription},
    };

    #[test]
    fn fields_are_shown_in_short_words_and_zero_counts_are_there() {
        let subscription = Subscription {
            name: "accounts/1/subscriptions/crm".to_owned(),
            event_types: vec![EventType::MessageCreated.into(), EventType::ContactCreated.into()],
            headers: [("b".to_owned(), "***".to_owned()), ("a".to_owned(), "***".to_owned())].into(),
            retry_policy: Some(RetryPolicy {
                min_backoff: Some(Duration { seconds: 1, nanos: 500_000_000 }),
                ..RetryPolicy::default()
            }),
            create_time: Some(Timestamp { seconds: 0, nanos: 0 }),
            owed_count: Some(0),
            ..Subscription::default()
        };
        let rows: Vec<_> = describe(&reflect(&subscription)).iter().map(|row| row.join(" ")).collect();
        for expected in [
            "name accounts/1/subscriptions/crm",
            "event_types message_created, contact_created",
            "headers.a ***",
            "retry_policy.max_attempts 0",
            "retry_policy.min_backoff 1.500s",
            "create_time 1970-01-01T00:00:00Z",
            "owed_count 0",
        ] {
            assert!(rows.iter().any(|row| row == expected), "{expected}: {rows:?}");
        }
        assert!(!rows.iter().any(|row| row.starts_with("ordered") || row.starts_with("state")), "{rows:?}");
    }
}
