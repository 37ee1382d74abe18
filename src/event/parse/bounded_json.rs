//! A JSON parser with bounds: at most as many values as a published event may have elements, and no object
//! with a duplicate key, which readers resolve differently. Numbers that would come out as others are violations.

use std::{
    cell::{Cell, RefCell},
    fmt,
};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{
    numbers::{Numbers, comes_out},
    path::Path,
    violations::BodyViolations,
};
use crate::{event::other::BYTE_ORDER_MARK, proto::elements::ELEMENTS_MAX};

/// Parses `body`, which a byte order mark may precede.
pub(super) fn parse(body: &[u8], violations: &mut BodyViolations) -> Result<Value, serde_json::Error> {
    let mut mark = [0; 4];
    let mark = BYTE_ORDER_MARK.encode_utf8(&mut mark).as_bytes();
    let body = body.strip_prefix(mark).unwrap_or(body);
    let state = State {
        left: Cell::new(ELEMENTS_MAX),
        numbers: RefCell::new(Numbers::of(body)),
        violations: RefCell::new(violations),
    };
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = Bounded { state: &state, path: Path::Top }.deserialize(&mut json)?;
    json.end()?;
    Ok(value)
}

/// The state of a parser.
struct State<'t> {
    /// The number of values that may follow.
    left: Cell<usize>,
    /// The numbers that follow, as they are written.
    numbers: RefCell<Numbers<'t>>,
    violations: RefCell<&'t mut BodyViolations>,
}

/// One more value.
#[derive(Clone, Copy)]
struct Bounded<'s, 't> {
    state: &'s State<'t>,
    path: Path<'s>,
}

impl<'s, 't> Bounded<'s, 't> {
    /// A value below this one.
    fn below<'b>(&'b self, path: Path<'b>) -> Bounded<'b, 't>
    where
        's: 'b,
    {
        Bounded { state: self.state, path }
    }

    /// How the number that is visited is written.
    fn written(&self) -> &'t str {
        self.state.numbers.borrow_mut().next().unwrap_or_default()
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.state.left.get().checked_sub(1);
        let left = left.ok_or_else(|| D::Error::custom(format_args!("more than {ELEMENTS_MAX} values")))?;
        self.state.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_, '_> {
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
        self.written();
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        self.written();
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        if !comes_out(self.written(), value) {
            let description = "must be a number that a float represents with all its digits";
            self.state.violations.borrow_mut().invalid(&self.path, description);
        }
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
        loop {
            let item = self.below(Path::Item(&self.path, values.len()));
            let Some(value) = items.next_element_seed(item)? else { break };
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let value = members.next_value_seed(self.below(Path::Key(&self.path, &key)))?;
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
    use crate::domain::{field_violation::FieldViolations, ids::AccountId, payload_format::PayloadFormat};

    fn parse(body: &[u8]) -> Result<Value, serde_json::Error> {
        super::parse(body, &mut BodyViolations::new(PayloadFormat::Chatwoot, AccountId::new(1).unwrap()))
    }

    fn violations(body: &str) -> FieldViolations {
        let mut violations = BodyViolations::new(PayloadFormat::Chatwoot, AccountId::new(1).unwrap());
        super::parse(body.as_bytes(), &mut violations).unwrap();
        violations.into_result(()).unwrap_err()
    }

    #[test]
    fn a_number_that_would_come_out_as_another_is_a_violation_with_its_path() {
        let found = violations(r#"{"a":[1,-2,0.5,{"b":18446744073709551617}],"c":"1","d":1e-400}"#);
        let fields: Vec<_> = found.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["a[3].b", "d"]);
    }

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
