//! The round trip of a body: whether every value of the input is in the output.

use jiff::Timestamp;
use serde_json::{Number, Value};

use super::{path::Path, violations::BodyViolations};
use crate::domain::payload_format::PayloadFormat;

/// Reports every value of `input` that `output` does not have. Further values of `output` are those of
/// unset fields. A value may come out in another spelling:
///
/// * null may come out as the empty value of its field, and an empty text, object or array as null or not at all;
/// * a number may have another spelling of the same digits, and a time has three decimals;
/// * a contact has a `type` in some objects only, and everywhere in old versions of Chatwoot.
///
/// Numbers are compared as they were read: those of `input` come out with all their digits.
pub(super) fn compare(input: &Value, output: &Value, path: &Path<'_>, violations: &mut BodyViolations) {
    match (input, output) {
        (Value::Object(input), Value::Object(output)) => {
            for (key, value) in input {
                let path = &Path::Key(path, key);
                match output.get(key) {
                    Some(output) => compare(value, output, path, violations),
                    None if is_unset(value) || key == "type" && value == "contact" => {}
                    None => violations.invalid(path, unknown_key(violations.form)),
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
        (Value::Null, output) if is_empty(output) => {}
        (input, Value::Null) if is_unset(input) => {}
        (input, output) if input == output => {}
        (_, output) => violations.invalid(path, format_args!("would be sent as {}", type_name(output))),
    }
}

/// The rule that a key breaks which does not come out again.
fn unknown_key(form: PayloadFormat) -> &'static str {
    match form {
        PayloadFormat::Chatwoot => "cannot be represented by an event",
        PayloadFormat::Documented => "is no key of the documented form",
        PayloadFormat::Sample => "is no key of the sample form",
    }
}

/// Whether a value says no more than null.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(object) => object.is_empty(),
    }
}

/// Whether a value is that of an unset field.
fn is_empty(value: &Value) -> bool {
    is_unset(value) || *value == Value::Bool(false) || value.as_f64() == Some(0.0)
}

/// Compares whole numbers exactly.
fn is_same_number(input: &Number, output: &Number) -> bool {
    match (whole(input), whole(output)) {
        (Some(input), Some(output)) => input == output,
        _ => input.as_f64() == output.as_f64(),
    }
}

/// A whole number with all its digits. No float beyond these bounds equals an integer of JSON as it is read.
fn whole(number: &Number) -> Option<i128> {
    const BEYOND: f64 = 1e30;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and within the bounds")]
    let of_float = |float: f64| (float.fract() == 0.0 && float.abs() < BEYOND).then_some(float as i128);
    number.as_i128().or_else(|| of_float(number.as_f64()?))
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
