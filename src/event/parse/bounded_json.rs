//! A JSON parser with bounds: at most as many values as a published event may have elements, and no object
//! with a duplicate key, which readers resolve differently.

use std::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::proto::elements::ELEMENTS_MAX;

/// Parses `body`.
pub(super) fn parse(body: &[u8]) -> Result<Value, serde_json::Error> {
    let left = Cell::new(ELEMENTS_MAX);
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = Bounded(&left).deserialize(&mut json)?;
    json.end()?;
    Ok(value)
}

/// One more value, and the number of values that may follow.
#[derive(Clone, Copy)]
struct Bounded<'b>(&'b Cell<usize>);

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| D::Error::custom(format_args!("more than {ELEMENTS_MAX} values")))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        // JSON numbers are finite.
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = members.next_value_seed(self)?;
            if object.insert(key, value).is_some() {
                return Err(A::Error::custom("an object has a duplicate key"));
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parsed_value_prints_as_the_input() {
        let text = r#"{"a":[null,true,-1,18446744073709551615,0.8144278719272577,"\n\u0001"],"b":{"c":{}}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap().to_string(), text);
    }

    #[test]
    fn there_are_bounds() {
        let refused = |text: String| parse(text.as_bytes()).unwrap_err().to_string();
        let items = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        parse(items(ELEMENTS_MAX - 1).as_bytes()).unwrap();
        assert!(refused(items(ELEMENTS_MAX)).starts_with("more than 100000 values"));
        assert!(refused("[".repeat(1 << 20)).starts_with("recursion limit exceeded"));
        assert!(refused(r#"{"a":1,"a":1}"#.into()).starts_with("an object has a duplicate key"));
        assert!(refused("{} {}".into()).starts_with("trailing characters"));
        assert!(refused("1e999".into()).starts_with("number out of range"));
    }
}
