//! One setting: everything that its `clap::Arg` declares, and how its values are read and shown.

use std::{any::TypeId, error::Error as _, ffi::OsString, fmt::Display, time::Duration};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, error::ErrorKind};
use ipnet::IpNet;

use super::proxies::ProxySetting;
use crate::domain::{access::ClientSubject, egress::HostPattern};

/// Prefix of all environment variables of settings.
pub(super) const ENVIRONMENT_PREFIX: &str = "TIDINGS_";

/// The values that the declarations of `T` give to its settings.
///
/// # Panics
///
/// A default breaks its own bounds. A test reads all of them.
pub fn declared_defaults<T: Args>() -> T {
    let command = T::augment_args(Command::new("defaults").no_binary_name(true));
    let matches = command.get_matches_from(Vec::<OsString>::new());
    T::from_arg_matches(&matches).expect("a default keeps its own bounds")
}

/// One setting: what its `clap::Arg` declares.
#[derive(Clone)]
pub(super) struct Setting(pub(super) Arg);

impl Setting {
    /// The settings of `T`, in the order of their declaration.
    pub(super) fn all<T: Args>() -> Vec<Self> {
        T::augment_args(Command::new("settings")).get_arguments().cloned().map(Self).collect()
    }

    /// Its name in the file: `grpc_listen`.
    pub(super) fn key(&self) -> &str {
        self.0.get_id().as_str()
    }

    /// Its flag without the dashes: `grpc-listen`.
    pub(super) fn flag(&self) -> &str {
        self.0.get_long().expect("every setting has a flag")
    }

    /// Its environment variable: `TIDINGS_GRPC_LISTEN`.
    pub(super) fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.key().to_ascii_uppercase())
    }

    /// Its default as it is declared; `None` if nothing is set unless somebody sets it.
    pub(super) fn default_text(&self) -> Option<&str> {
        self.0.get_default_values().first().and_then(|text| text.to_str())
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.0.get_action(), ArgAction::Append)
    }

    /// Between the items of a list in one text: what clap knows, or a semicolon if items may have commas.
    pub(super) fn separator(&self) -> char {
        self.0.get_value_delimiter().unwrap_or(';')
    }

    /// The placeholder of its value in the help.
    pub(super) fn placeholder(&self) -> String {
        self.0.get_value_names().and_then(<[_]>::first).map(ToString::to_string).unwrap_or_default()
    }

    fn is<T: 'static>(&self) -> bool {
        self.0.get_value_parser().type_id() == TypeId::of::<T>()
    }

    pub(super) fn is_switch(&self) -> bool {
        self.is::<bool>()
    }

    /// Whether TOML integers make sense for it: bare counts and sizes, and durations for a better message.
    pub(super) fn is_number(&self) -> bool {
        self.is::<u16>()
            || self.is::<u32>()
            || self.is::<u64>()
            || self.is::<usize>()
            || self.is::<Duration>()
    }

    /// The kind of value that it takes, for people.
    fn wanted(&self) -> &'static str {
        match self.placeholder().as_str() {
            _ if self.is_list() => "an array of strings",
            _ if self.is_switch() => "true or false",
            "COUNT" => "a whole number",
            "SIZE" => "a size such as \"64KiB\"",
            "DURATION" => "a duration such as \"10s\"",
            _ => "a string",
        }
    }

    /// The texts that a source gives for it.
    pub(super) fn texts(&self, raw: &RawValue) -> Result<Vec<String>, String> {
        let separator = self.separator();
        let items = |text: &str| -> Vec<String> {
            let items = split_unescaped(text, separator).map(str::trim);
            items.filter(|item| !item.is_empty()).map(str::to_owned).collect()
        };
        match raw {
            RawValue::Text(text) if self.is_list() => Ok(items(text)),
            RawValue::List(texts) if self.is_list() => {
                Ok(texts.iter().flat_map(|text| items(text)).collect())
            }
            RawValue::Text(text) => Ok(vec![text.clone()]),
            RawValue::Integer(number) if self.is_number() => Ok(vec![number.to_string()]),
            RawValue::Boolean(on) if self.is_switch() => Ok(vec![on.to_string()]),
            RawValue::Integer(_) => Err(format!("is an integer, not {}", self.wanted())),
            RawValue::Boolean(_) => Err(format!("is a boolean, not {}", self.wanted())),
            RawValue::List(_) => Err(format!("is an array, not {}", self.wanted())),
            RawValue::Other(other) => Err(format!("is a {other}, not {}", self.wanted())),
        }
    }

    /// Whether this text leaves it unset: an empty one, where nothing need be set.
    pub(super) fn unsets(&self, text: &str) -> bool {
        text.is_empty() && self.default_text().is_none()
    }

    /// The argument that sets it, as of a command line.
    pub(super) fn argument(&self, text: &str) -> String {
        format!("--{}={text}", self.flag())
    }

    /// Its value where that is shown otherwise than it was given: in its normal form, without a password.
    fn shown(&self, matches: &ArgMatches) -> Option<String> {
        fn display<T: Display + Clone + Send + Sync + 'static>(
            matches: &ArgMatches,
            key: &str,
        ) -> Option<String> {
            matches.try_get_one::<T>(key).ok()?.map(ToString::to_string)
        }
        let key = self.key();
        display::<IpNet>(matches, key)
            .or_else(|| display::<HostPattern>(matches, key))
            .or_else(|| display::<ProxySetting>(matches, key))
            .or_else(|| display::<ClientSubject>(matches, key))
    }

    /// Parses one text of it, and returns the value as it is shown.
    pub(super) fn parse(&self, text: &str) -> Result<String, String> {
        if self.unsets(text) {
            return Ok(String::new());
        }
        let command =
            Command::new("setting").no_binary_name(true).disable_help_flag(true).arg(self.0.clone());
        match command.try_get_matches_from([self.argument(text)]) {
            Ok(matches) => Ok(self.shown(&matches).unwrap_or_else(|| text.to_owned())),
            Err(error) => Err(match error.kind() {
                ErrorKind::ValueValidation => {
                    error.source().map_or_else(|| error.to_string(), ToString::to_string)
                }
                _ if text.is_empty() => "is empty".to_owned(),
                _ => format!("{text:?} is not one of {}", self.values()),
            }),
        }
    }
}

/// The parts of a text between separators that no backslash precedes.
fn split_unescaped(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut is_escaped = false;
    text.split(move |character| {
        let splits = character == separator && !is_escaped;
        is_escaped = character == '\\' && !is_escaped;
        splits
    })
}

/// A value as a source gives it, before it is parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RawValue {
    /// A flag, an environment variable, or a TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i64),
    /// A TOML boolean.
    Boolean(bool),
    /// TOML strings, or a flag given several times.
    List(Vec<String>),
    /// Something in TOML that no setting takes, such as a date: its name.
    Other(&'static str),
}
