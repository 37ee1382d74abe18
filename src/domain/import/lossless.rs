//! Whether everything that came is in what will go out.

use serde_json::Value;

use crate::domain::fault::Faults;

/// Notes every value of `came` that `goes` does not have. What `goes` has beyond that is Chatwoot's form of what is unset; null and an
/// empty value both say that there is none.
pub(super) fn compare(came: &Value, goes: &Value, path: &str, faults: &mut Faults) {
    match (came, goes) {
        (Value::Object(came), Value::Object(goes)) => {
            for (key, value) in came {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match goes.get(key) {
                    Some(goes) => compare(value, goes, &path, faults),
                    None if is_nothing(value) => {}
                    None => faults.invalid(path, "cannot be said by an event"),
                }
            }
        }
        (Value::Array(came), Value::Array(goes)) if came.len() == goes.len() => {
            for (index, (came, goes)) in came.iter().zip(goes).enumerate() {
                compare(came, goes, &format!("{path}[{index}]"), faults);
            }
        }
        (Value::Number(came), Value::Number(goes)) if came.as_f64() == goes.as_f64() => {}
        (came, goes) if came == goes || is_nothing(came) && is_nothing(goes) => {}
        _ => faults.invalid(path, format_args!("would come out as {}", short(goes))),
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

/// The sort of a value: the value itself may be anybody's words.
fn short(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "another boolean",
        Value::Number(_) => "another number",
        Value::String(_) => "another string",
        Value::Array(_) => "another array",
        Value::Object(_) => "another object",
    }
}
