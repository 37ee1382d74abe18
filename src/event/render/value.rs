//! `google.protobuf.Struct` and `Value` as JSON.

use prost_types::{Struct, value::Kind};
use serde::{Serialize, Serializer};

/// Integral numbers from this one are written with an exponent, as in JavaScript; smaller ones with all their
/// digits.
const EXPONENT_FROM: f64 = 1e21;

/// A free object, `{}` when unset. Its keys are sorted: a Struct has no order of keys.
#[derive(Clone, Copy)]
pub(super) struct Object<'a>(pub(super) Option<&'a Struct>);

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.0.into_iter().flat_map(|object| &object.fields);
        serializer.collect_map(fields.map(|(key, value)| (key, Value(Some(value)))))
    }
}

/// Any JSON value, `null` when unset.
#[derive(Clone, Copy)]
pub(super) struct Value<'a>(pub(super) Option<&'a prost_types::Value>);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.and_then(|value| value.kind.as_ref()) {
            None | Some(Kind::NullValue(_)) => serializer.serialize_unit(),
            Some(Kind::BoolValue(value)) => serializer.serialize_bool(*value),
            Some(Kind::NumberValue(value)) => serialize_number(*value, serializer),
            Some(Kind::StringValue(value)) => serializer.serialize_str(value),
            Some(Kind::StructValue(value)) => Object(Some(value)).serialize(serializer),
            Some(Kind::ListValue(list)) => {
                serializer.collect_seq(list.values.iter().map(|value| Value(Some(value))))
            }
        }
    }
}

/// Writes integral numbers without a fraction: 3, not 3.0, and 0 for -0.0.
fn serialize_number<S: Serializer>(number: f64, serializer: S) -> Result<S::Ok, S::Error> {
    if number.fract() != 0.0 || number.abs() >= EXPONENT_FROM {
        return serializer.serialize_f64(number);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the check above leaves no fraction, and the range fits"
    )]
    let whole = number as i128;
    match i64::try_from(whole) {
        Ok(whole) => serializer.serialize_i64(whole),
        Err(_) => serializer.serialize_i128(whole),
    }
}

/// A number as it is written in a body.
pub(in crate::event) fn number_text(number: f64) -> String {
    let value = prost_types::Value { kind: Some(Kind::NumberValue(number)) };
    serde_json::to_string(&Value(Some(&value))).expect("a number has a text")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(number: f64) -> String {
        let value = prost_types::Value::from(number);
        serde_json::to_string(&Value(Some(&value))).unwrap()
    }

    #[test]
    fn numbers_are_spelled_without_needless_fractions() {
        for (value, text) in [
            (3.0, "3"),
            (-3.0, "-3"),
            (0.0, "0"),
            (-0.0, "0"),
            (0.5, "0.5"),
            (-1.25, "-1.25"),
            (9_007_199_254_740_993.0, "9007199254740992"),
            (9_223_372_036_854_775_808.0, "9223372036854775808"),
            (-9_223_372_036_854_775_808.0, "-9223372036854775808"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1e300, "1e+300"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn unset_is_null_or_an_empty_object() {
        assert_eq!(serde_json::to_string(&Value(None)).unwrap(), "null");
        assert_eq!(serde_json::to_string(&Value(Some(&prost_types::Value { kind: None }))).unwrap(), "null");
        assert_eq!(serde_json::to_string(&Object(None)).unwrap(), "{}");
    }

    #[test]
    fn keys_are_sorted_and_text_is_escaped() {
        let object = Struct {
            fields: [("b", "\"\n\u{1}é"), ("a", ""), ("", "x")]
                .into_iter()
                .map(|(key, text)| (key.to_owned(), prost_types::Value::from(text)))
                .collect(),
        };
        let text = serde_json::to_string(&Object(Some(&object))).unwrap();
        assert_eq!(text, r#"{"":"x","a":"","b":"\"\n\u0001é"}"#);
    }

    proptest! {
        #[test]
        fn a_number_reads_back_as_itself(value in prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL) {
            prop_assert_eq!(number(value).parse::<f64>().unwrap(), value);
        }

        #[test]
        fn a_whole_number_reads_back_as_itself(value in any::<i64>()) {
            #[expect(clippy::cast_precision_loss, reason = "any whole number will do")]
            let value = value as f64;
            let text = number(value);
            prop_assert!(text.bytes().all(|b| b.is_ascii_digit() || b == b'-'), "{text}");
            prop_assert_eq!(text.parse::<f64>().unwrap(), value);
        }
    }
}
