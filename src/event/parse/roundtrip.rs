//! Whether everything that came is in what will go out.

use jiff::Timestamp;
use serde_json::{Number, Value};

use super::{faults::Found, path::Path};

/// Notes every value of `came` that `goes` does not have. What `goes` has beyond that is Chatwoot's form of what is unset. A value may come
/// out in another spelling:
///
/// * null and an empty value both say that there is none, and so does a key that is not there;
/// * a whole number may have lost its fraction of zeros, a time has three decimals;
/// * a contact says that it is one in some places only, and everywhere in old versions of Chatwoot.
pub(super) fn compare(came: &Value, goes: &Value, path: &Path<'_>, found: &mut Found) {
    match (came, goes) {
        (Value::Object(came), Value::Object(goes)) => {
            for (key, value) in came {
                let path = &Path::Key(path, key);
                match goes.get(key) {
                    Some(goes) => compare(value, goes, path, found),
                    None if is_nothing(value) || key == "type" && value == "contact" => {}
                    None => found.invalid(path, "cannot be said by an event"),
                }
            }
        }
        (Value::Array(came), Value::Array(goes)) if came.len() == goes.len() => {
            for (index, (came, goes)) in came.iter().zip(goes).enumerate() {
                compare(came, goes, &Path::Item(path, index), found);
            }
        }
        (Value::Number(came), Value::Number(goes)) if is_same_number(came, goes) => {}
        (Value::String(came), Value::String(goes)) if came == goes || is_same_time(came, goes) => {}
        (came, goes) if came == goes || is_nothing(came) && is_nothing(goes) => {}
        (_, goes) => found.invalid(path, format_args!("would come out as {}", sort(goes))),
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

/// Whole numbers by all their digits.
fn is_same_number(came: &Number, goes: &Number) -> bool {
    match (came.as_i128(), goes.as_i128()) {
        (Some(came), Some(goes)) => came == goes,
        _ => came.as_f64() == goes.as_f64(),
    }
}

fn is_same_time(came: &str, goes: &str) -> bool {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    time(came).is_some_and(|came| Some(came) == time(goes))
}

/// The sort of a value: the value itself may be anybody's words.
fn sort(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "another boolean",
        Value::Number(_) => "another number",
        Value::String(_) => "another string",
        Value::Array(_) => "another array",
        Value::Object(_) => "another object",
    }
}
