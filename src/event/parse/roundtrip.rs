//! The round trip of a body: whether every value of the input is in the output.

use jiff::Timestamp;
use serde_json::{Number, Value};

use super::{path::Path, violations::BodyViolations};

/// Reports every value of `input` that `output` does not have. Further values of `output` are Chatwoot's form
/// of unset fields. A value may come out in another spelling:
///
/// * null, an empty value and a missing key are the same;
/// * a whole number may lose a fraction of zeros, and a time has three decimals;
/// * a contact has a `type` in some objects only, and everywhere in old versions of Chatwoot.
pub(super) fn compare(input: &Value, output: &Value, path: &Path<'_>, violations: &mut BodyViolations) {
    match (input, output) {
        (Value::Object(input), Value::Object(output)) => {
            for (key, value) in input {
                let path = &Path::Key(path, key);
                match output.get(key) {
                    Some(output) => compare(value, output, path, violations),
                    None if is_empty(value) || key == "type" && value == "contact" => {}
                    None => violations.invalid(path, "cannot be represented by an event"),
                }
            }
        }
        (Value::Array(input), Value::Array(output)) if input.len() == output.len() => {
            for (index, (input, output)) in input.iter().zip(output).enumerate() {
                compare(input, output, &Path::Item(path, index), violations);
            }
        }
        (Value::Number(input), Value::Number(output)) if is_same_number(input, output) => {}
        (Value::String(input), Value::String(output)) if input == output || is_same_time(input, output) => {}
        (input, output) if input == output || is_empty(input) && is_empty(output) => {}
        (_, output) => violations.invalid(path, format_args!("would be sent as {}", type_name(output))),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

/// Compares whole numbers exactly.
fn is_same_number(input: &Number, output: &Number) -> bool {
    match (input.as_i128(), output.as_i128()) {
        (Some(input), Some(output)) => input == output,
        _ => input.as_f64() == output.as_f64(),
    }
}

fn is_same_time(input: &str, output: &str) -> bool {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    time(input).is_some_and(|input| Some(input) == time(output))
}

/// The type of a value. The value itself may be confidential.
fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "another boolean",
        Value::Number(_) => "another number",
        Value::String(_) => "another string",
        Value::Array(_) => "another array",
        Value::Object(_) => "another object",
    }
}
