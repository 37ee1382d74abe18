//! The rules for free JSON: `google.protobuf.Struct` and `Value`.

use prost_types::{Struct, Value, value::Kind};

use super::{
    checker::{Checker, NULL_CHARACTER, has_null},
    path::Path,
};

/// Deepest nesting of objects and lists in one free value.
///
/// The codec accepts a nesting of 100 messages, and an object takes three. With this limit, the deepest value
/// in the deepest record of a batch still passes the codec, so that a publisher gets a violation and no codec
/// error.
pub const VALUE_NESTING_MAX: usize = 24;

impl Checker {
    /// Checks a free object whose keys come out next to the `reserved` ones.
    pub(super) fn object(&mut self, object: Option<&Struct>, reserved: &[&str], at: &Path<'_>) {
        let Some(object) = object else { return };
        for key in object.fields.keys().filter(|key| reserved.contains(&key.as_str())) {
            self.invalid(&at.key(key), "is the name of a field: set that instead");
        }
        self.members(object, 1, at);
    }

    /// Checks a free value.
    pub(super) fn value(&mut self, value: Option<&Value>, at: &Path<'_>) {
        if let Some(value) = value {
            self.nested_value(value, 0, at);
        }
    }

    fn members(&mut self, object: &Struct, depth: usize, at: &Path<'_>) {
        for (key, value) in &object.fields {
            if has_null(key) {
                self.invalid(at, format_args!("has a key that is no text: it {NULL_CHARACTER}"));
            }
            self.nested_value(value, depth, &at.key(key));
        }
    }

    /// A value within `depth` objects and lists.
    fn nested_value(&mut self, value: &Value, depth: usize, at: &Path<'_>) {
        match &value.kind {
            Some(Kind::StructValue(_) | Kind::ListValue(_)) if depth == VALUE_NESTING_MAX => {
                self.invalid(
                    at,
                    format_args!("is nested in {VALUE_NESTING_MAX} objects and lists: no more are allowed"),
                );
            }
            Some(Kind::StructValue(object)) => self.members(object, depth + 1, at),
            Some(Kind::ListValue(list)) => {
                for (index, value) in list.values.iter().enumerate() {
                    self.nested_value(value, depth + 1, &at.element(index));
                }
            }
            Some(Kind::NumberValue(number)) if !number.is_finite() => {
                self.invalid(at, "must be a finite number: JSON has no others");
            }
            Some(Kind::StringValue(text)) if has_null(text) => self.null_character(at),
            Some(Kind::NumberValue(_) | Kind::NullValue(_) | Kind::StringValue(_) | Kind::BoolValue(_))
            | None => {}
        }
    }
}
