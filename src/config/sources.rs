//! The sources of settings: the command line, the environment, a TOML file.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgMatches, Args, Command,
    builder::ValueParser,
    error::{ContextKind, ContextValue},
    parser::ValueSource,
    value_parser,
};
use toml::de::{DeTable, DeValue};

use super::{
    fault::{ConfigFault, Source},
    setting::{ENVIRONMENT_PREFIX, RawValue, Setting},
    variables,
};

/// The largest configuration file that is read.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// The flag, and the environment variable, that name the file.
const CONFIG: &str = "config";
const CONFIG_ENVIRONMENT: &str = "TIDINGS_CONFIG";
/// The settings that most operators look for first, in this order: the short help of a command has no others.
const FIRST: [&str; 10] = [
    "data_dir",
    "grpc_listen",
    "http_listen",
    "console_listen",
    "grpc_tls_cert_file",
    "grpc_tls_key_file",
    "admin_token_file",
    "egress_allow",
    "retention_age",
    "log_level",
];
/// The longest name that is compared with those of settings. A longer one is no misspelling.
const NAME_BYTES_MAX: usize = 64;

/// The settings on the command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    config: Option<PathBuf>,
    /// By their keys.
    given: Vec<(String, Vec<OsString>)>,
}

impl Flags {
    /// Adds `--config` and a flag for every setting of `T` to a command. Their values are taken as they are:
    /// all sources are checked together later.
    pub fn add_to<T: Args>(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("A TOML file with settings")
            .long_help(format!("A TOML file with settings. [env: {CONFIG_ENVIRONMENT}]"));
        let unchecked = |setting: Setting| {
            let (short, long) = (setting.short_help(), setting.long_help());
            let rank = FIRST.iter().position(|first| setting.key() == *first);
            let arg = setting.0.help(short).long_help(long);
            let arg = arg.value_parser(ValueParser::os_string()).hide_default_value(true);
            match rank {
                Some(rank) => arg.display_order(rank),
                None => arg.hide_short_help(true),
            }
        };
        let command = command.arg(config).args(Setting::all::<T>().into_iter().map(unchecked));
        let command =
            command.after_help("These are the settings to look at first: --help shows all of them.");
        command.after_long_help(
            "A flag goes before its environment variable, that before the file, and that before the default. \
             The environment variable of --grpc-listen is TIDINGS_GRPC_LISTEN, and its key in the file grpc_listen.",
        )
    }

    /// Takes the flags from the arguments of a command prepared by [`Flags::add_to`].
    pub fn from_matches<T: Args>(matches: &ArgMatches) -> Self {
        let is_given = |key: &str| matches.value_source(key) == Some(ValueSource::CommandLine);
        let values = |key: &str| matches.get_many::<OsString>(key).into_iter().flatten().cloned().collect();
        let given = Setting::all::<T>().into_iter().filter(|setting| is_given(setting.key()));
        let given = given.map(|setting| (setting.key().to_owned(), values(setting.key()))).collect();
        Self { config: matches.get_one(CONFIG).cloned(), given }
    }

    /// Whether they name a configuration file.
    pub fn names_a_file(&self) -> bool {
        self.config.is_some()
    }
}

/// The value of a setting in one source.
pub(super) struct Override {
    pub(super) key: String,
    pub(super) raw: RawValue,
    pub(super) source: Source,
}

/// Reads sources one after another, the weakest first.
pub(super) struct Reader {
    pub(super) settings: Vec<Setting>,
    pub(super) overrides: Vec<Override>,
    pub(super) faults: Vec<ConfigFault>,
    pub(super) warnings: Vec<ConfigFault>,
}

impl Reader {
    /// Reads settings of `T`; no source yet.
    pub(super) fn new<T: Args>() -> Self {
        let (overrides, faults, warnings) = (Vec::new(), Vec::new(), Vec::new());
        Self { settings: Setting::all::<T>(), overrides, faults, warnings }
    }

    /// Reads the file that a flag, or else a variable, names.
    pub(super) fn file(&mut self, flags: &Flags, environment: &[(OsString, OsString)]) {
        let variable = environment.iter().rfind(|(name, _)| name == CONFIG_ENVIRONMENT);
        let (path, named_by) = match (&flags.config, variable) {
            (Some(path), _) => (path.as_path(), Source::Flag(CONFIG.to_owned())),
            (None, Some((name, path))) => {
                (Path::new(path), Source::Environment(name.to_string_lossy().into_owned()))
            }
            (None, None) => return,
        };
        match read_to_bound(path) {
            Ok(text) => self.text(path, &text),
            Err(error) => self.fault(named_by, format!("cannot read {}: {error}", path.display())),
        }
    }

    /// Reads the text of a file. A line that is not TOML is a fault, and the others are read nevertheless.
    pub(super) fn text(&mut self, path: &Path, text: &str) {
        let at = |offset: usize, key: Option<&str>| {
            let line = 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
            Source::File { path: path.to_owned(), line, key: key.map(str::to_owned) }
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        let broken: Vec<_> = errors
            .iter()
            .map(|error| (at(error.span().map_or(0, |span| span.start), None), error.message()))
            .map(|(source, message)| ConfigFault::new(source, message))
            .collect();
        let mut found: Vec<_> =
            table.get_ref().iter().map(|(key, value)| (key.span().start, key.get_ref(), value)).collect();
        found.sort_by_key(|(offset, ..)| *offset);
        // The parser's reading of a broken line is a guess, and not worth a second fault.
        found.retain(|(offset, ..)| !broken.iter().any(|fault| fault.origin == at(*offset, None)));
        for (offset, key, value) in found {
            let source = at(offset, Some(key));
            if self.settings.iter().any(|setting| setting.key() == key) {
                self.overrides.push(Override { key: key.to_string(), raw: raw(value.get_ref()), source });
            } else {
                let problem = self.no_such_setting(key, |setting| setting.key().to_owned());
                self.fault(source, problem);
            }
        }
        self.faults.extend(broken);
    }

    /// Reads our variables. One that is no setting may be meant for something else: it is a warning.
    pub(super) fn environment(&mut self, variables: &[(OsString, OsString)]) {
        let is_setting = |name: &str| {
            let is_other = name == CONFIG_ENVIRONMENT || variables::is_other(name);
            name.starts_with(ENVIRONMENT_PREFIX) && !is_other && !is_kubernetes_service(name)
        };
        let mut variables: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.to_string_lossy(), value))
            .filter(|(name, _)| is_setting(name))
            .collect();
        // The environment has no order of its own; faults should.
        variables.sort();
        for (name, value) in variables {
            let source = Source::Environment(name.to_string());
            match (self.settings.iter().find(|setting| setting.variable() == name), value.to_str()) {
                (Some(setting), Some(text)) => {
                    let (key, raw) = (setting.key().to_owned(), RawValue::Text(text.to_owned()));
                    self.overrides.push(Override { key, raw, source });
                }
                (Some(_), None) => self.fault(source, "is not UTF-8"),
                (None, _) => {
                    // The prefix, which all share, would make everything look alike.
                    let key = name[ENVIRONMENT_PREFIX.len()..].to_ascii_lowercase();
                    let problem = self.no_such_setting(&key, Setting::variable);
                    self.warnings.push(ConfigFault::new(source, problem));
                }
            }
        }
    }

    /// Reads the command line.
    pub(super) fn flags(&mut self, flags: &Flags) {
        for (key, values) in &flags.given {
            let source = Source::Flag(key.replace('_', "-"));
            let texts = values.iter().map(|value| value.to_str().map(str::to_owned));
            let Some(texts) = texts.collect::<Option<Vec<_>>>() else {
                self.fault(source, "is not UTF-8");
                continue;
            };
            let raw = match <[String; 1]>::try_from(texts) {
                Ok([text]) => RawValue::Text(text),
                Err(texts) => RawValue::List(texts),
            };
            self.overrides.push(Override { key: key.clone(), raw, source });
        }
    }

    fn fault(&mut self, source: Source, problem: impl Into<String>) {
        self.faults.push(ConfigFault::new(source, problem));
    }

    /// Says that there is no such key, and how its source spells the one that was probably meant.
    fn no_such_setting(&self, key: &str, spelling: impl Fn(&Setting) -> String) -> String {
        match self.did_you_mean(key).map(spelling) {
            Some(near) => format!("there is no such setting; did you mean {near}?"),
            None => "there is no such setting; `tidings serve --help` lists them".to_owned(),
        }
    }

    /// The setting whose flag clap suggests in place of an unknown one.
    fn did_you_mean(&self, key: &str) -> Option<&Setting> {
        if key.len() > NAME_BYTES_MAX {
            return None;
        }
        let flag = key.replace('_', "-");
        self.settings.iter().find(|setting| setting.flag() == flag).or_else(|| {
            let name = |setting: &Setting| Arg::new(setting.key().to_owned()).long(setting.flag().to_owned());
            let command = Command::new("names").no_binary_name(true).disable_help_flag(true);
            let command = command.args(self.settings.iter().map(name));
            let error = command.try_get_matches_from([format!("--{flag}")]).err()?;
            let Some(ContextValue::String(near)) = error.get(ContextKind::SuggestedArg) else { return None };
            self.settings.iter().find(|setting| format!("--{}", setting.flag()) == *near)
        })
    }
}

/// Whether Kubernetes made the variable: for a service called `tidings` or `tidings-…` it puts the likes of
/// `TIDINGS_SERVICE_HOST` and `TIDINGS_PORT_50051_TCP_ADDR` into the environment of every pod of the
/// namespace.
fn is_kubernetes_service(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}

fn read_to_bound(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = fs::File::open(path)?.take(CONFIG_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > CONFIG_FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {CONFIG_FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn raw(value: &DeValue<'_>) -> RawValue {
    match value {
        DeValue::String(text) => RawValue::Text(text.to_string()),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map_or(RawValue::Other("number past 64 bits"), RawValue::Integer),
        DeValue::Boolean(on) => RawValue::Boolean(*on),
        DeValue::Array(items) => items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .map_or(RawValue::Other("mixed array"), RawValue::List),
        other => RawValue::Other(other.type_str()),
    }
}
