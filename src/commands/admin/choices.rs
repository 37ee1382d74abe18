//! Enums of the contract as arguments and in tables: `message_created` for `EVENT_TYPE_MESSAGE_CREATED`.

use std::ffi::OsStr;

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use prost_reflect::EnumDescriptor;

use crate::proto::json;

/// The end of the name of the value that is not set. The rest is the prefix of every value's name.
const UNSPECIFIED: &str = "UNSPECIFIED";

/// The prefix that all names of an enum share, such as `EVENT_TYPE_`.
fn prefix(values: &EnumDescriptor) -> String {
    let unset = values.values().next().expect("an enum has at least one value");
    unset.name().strip_suffix(UNSPECIFIED).unwrap_or_default().to_owned()
}

/// The name of a value without the prefix, in small letters. Its number if the value is one of a later version.
pub(super) fn short(values: &EnumDescriptor, number: i32) -> String {
    match values.get_value(number) {
        Some(value) => value.name().trim_start_matches(&prefix(values)).to_ascii_lowercase(),
        None => number.to_string(),
    }
}

/// The enum of the contract with this name, such as `tidings.v1.EventType`.
///
/// # Panics
///
/// The contract has no such enum. A test calls every parser.
pub(super) fn enumeration(name: &str) -> EnumDescriptor {
    json::pool().get_enum_by_name(name).expect("the contract has the enums that commands name")
}

/// Parses a value of an enum in either spelling, to its number.
#[derive(Clone)]
pub(super) struct Choice {
    values: EnumDescriptor,
}

/// A parser for the values of the enum with this name.
pub(super) fn one_of(name: &str) -> Choice {
    Choice { values: enumeration(name) }
}

impl Choice {
    fn names(&self) -> Vec<String> {
        let numbers = self.values.values().map(|value| value.number()).filter(|number| *number != 0);
        numbers.map(|number| short(&self.values, number)).collect()
    }
}

impl TypedValueParser for Choice {
    type Value = i32;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<i32, Error> {
        let text = value.to_string_lossy().to_ascii_uppercase().replace('-', "_");
        let prefix = prefix(&self.values);
        let name = format!("{prefix}{}", text.strip_prefix(&prefix).unwrap_or(&text));
        match self.values.get_value_by_name(&name).map(|value| value.number()) {
            Some(number) if number != 0 => Ok(number),
            _ => {
                let names = PossibleValuesParser::new(self.names());
                Err(names.parse_ref(command, arg, value).err().unwrap_or_else(|| {
                    Error::raw(clap::error::ErrorKind::InvalidValue, "this value cannot be chosen\n")
                        .with_cmd(command)
                }))
            }
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names().into_iter().map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::EventType;

    fn parse(text: &str) -> Result<i32, Error> {
        one_of("tidings.v1.EventType").parse_ref(&Command::new("test"), None, OsStr::new(text))
    }

    #[test]
    fn a_value_is_read_in_either_spelling_and_shown_in_the_short_one() {
        let number = i32::from(EventType::MessageCreated);
        for text in ["message_created", "EVENT_TYPE_MESSAGE_CREATED", "Message-Created"] {
            assert_eq!(parse(text).expect(text), number);
        }
        assert_eq!(short(&enumeration("tidings.v1.EventType"), number), "message_created");
        assert_eq!(short(&enumeration("tidings.v1.EventType"), 99), "99");
        for text in ["", "unspecified", "message"] {
            assert!(parse(text).expect_err(text).to_string().contains("message_created"), "{text}");
        }
    }
}
