//! Where values come from: the command line, the environment, a TOML file.

use std::{
    ffi::OsString,
    fmt, fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use toml::de::{DeTable, DeValue};

use super::{
    suggest,
    table::{ENVIRONMENT_PREFIX, SETTINGS, Setting},
    value::{Kind, Raw},
};
use crate::domain::{
    access::{ConfiguredTokenError, check_configured},
    secret::Secret,
};

/// The largest configuration file that is read.
pub const CONFIG_FILE_BYTES_MAX: u64 = 1 << 20;

/// The flag, and the end of the environment variable, that names the file.
const CONFIG: &str = "config";
const CONFIG_ENVIRONMENT: &str = "TIDINGS_CONFIG";

/// The environment variable that holds the administrator's access token. It is no setting: settings are shown.
const ADMIN_TOKEN_ENVIRONMENT: &str = "TIDINGS_ADMIN_TOKEN";

/// Where a value comes from. Displayed as people look for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A place in the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key there; `None` where the file is no TOML.
        key: Option<String>,
    },
    /// An environment variable of this name.
    Environment(String),
    /// A flag of this name, without its dashes.
    Flag(String),
}

/// Something wrong with the configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConfigFault {
    /// Where it is to be put right.
    pub origin: Origin,
    /// What is wrong.
    pub problem: String,
}

/// What a source says of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) setting: &'static Setting,
    pub(super) raw: Raw,
    pub(super) origin: Origin,
}

/// What the command line says of the settings.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    config: Option<PathBuf>,
    entries: Vec<Entry>,
}

impl Flags {
    /// Adds `--config` and a flag for every setting to a command.
    pub fn add_to(command: Command) -> Command {
        let config = Arg::new(CONFIG)
            .long(CONFIG)
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help(format!("A TOML file with settings. [env: {CONFIG_ENVIRONMENT}]"));
        command.arg(config).args(SETTINGS.iter().map(flag)).after_help(
            "A flag goes before its environment variable, that before the file, and that before the default. \
             In the file a setting has the name of its flag, with _ in place of -.",
        )
    }

    /// Whether a configuration file was named.
    #[cfg(any(test, fuzzing))]
    pub(super) fn names_a_file(&self) -> bool {
        self.config.is_some()
    }

    /// Takes the flags from what a command prepared by [`Flags::add_to`] was called with.
    pub fn from_matches(matches: &ArgMatches) -> Self {
        let entry = |setting: &'static Setting| {
            let mut values: Vec<String> = matches.get_many(setting.key)?.cloned().collect();
            let raw = match setting.kind {
                Kind::Networks | Kind::Hosts => Raw::List(values),
                _ => Raw::Text(values.pop()?),
            };
            Some(Entry { setting, raw, origin: Origin::Flag(setting.flag()) })
        };
        Self {
            config: matches.get_one(CONFIG).cloned(),
            entries: SETTINGS.iter().filter_map(entry).collect(),
        }
    }
}

fn flag(setting: &'static Setting) -> Arg {
    let default = setting.default_shown();
    let values = match setting.kind {
        // Their placeholder says as much.
        Kind::Directory | Kind::OptionalFile | Kind::Address | Kind::OptionalAddress | Kind::Networks => {
            String::new()
        }
        kind => format!(" [values: {}]", kind.bounds()),
    };
    let help = format!("{}{values} [default: {default}] [env: {}]", setting.doc, setting.environment());
    let arg = Arg::new(setting.key).long(setting.flag()).value_name(setting.kind.placeholder()).help(help);
    match setting.kind {
        Kind::Networks | Kind::Hosts => arg.action(ArgAction::Append).value_delimiter(','),
        // Alone it means that it is on.
        Kind::Switch => arg.num_args(0..=1).default_missing_value("true"),
        _ => arg,
    }
}

/// What all sources say, the weakest source first.
pub(super) fn read_all(
    flags: &Flags,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    faults: &mut Vec<ConfigFault>,
) -> Vec<Entry> {
    let (from_environment, config) = read_environment(environment, faults);
    let config = match &flags.config {
        Some(path) => Some((path.clone(), Origin::Flag(CONFIG.to_owned()))),
        None => config.map(|path| (path, Origin::Environment(CONFIG_ENVIRONMENT.to_owned()))),
    };
    let mut entries = config.map_or_else(Vec::new, |(path, origin)| read_file(&path, origin, faults));
    entries.extend(from_environment);
    entries.extend(flags.entries.iter().cloned());
    entries
}

/// What our variables say, and the configuration file that they name.
fn read_environment(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
    faults: &mut Vec<ConfigFault>,
) -> (Vec<Entry>, Option<PathBuf>) {
    let mut entries = Vec::new();
    let mut config = None;
    let mut variables: Vec<_> = variables
        .into_iter()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
        .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX) && !is_kubernetes_service(name))
        .filter(|(name, _)| name != ADMIN_TOKEN_ENVIRONMENT)
        .collect();
    // The environment has no order of its own; faults should.
    variables.sort();
    for (name, value) in variables {
        if name == CONFIG_ENVIRONMENT {
            config = Some(value.into());
            continue;
        }
        let origin = Origin::Environment(name.clone());
        match (SETTINGS.iter().find(|setting| setting.environment() == name), value.into_string()) {
            (Some(setting), Ok(text)) => entries.push(Entry { setting, raw: Raw::Text(text), origin }),
            (Some(_), Err(_)) => faults.push(ConfigFault { origin, problem: "is not UTF-8".to_owned() }),
            (None, _) => {
                // The prefix, which all share, would make everything look alike.
                let key = name[ENVIRONMENT_PREFIX.len()..].to_ascii_lowercase();
                let problem = no_such_setting(&key, Setting::environment);
                faults.push(ConfigFault { origin, problem });
            }
        }
    }
    (entries, config)
}

/// The administrator's access token, if the environment has one. What is wrong with it is told without it.
pub(super) fn read_admin_token(
    environment: &[(OsString, OsString)],
    faults: &mut Vec<ConfigFault>,
) -> Option<Secret> {
    let (_, value) = environment.iter().find(|(name, _)| name == ADMIN_TOKEN_ENVIRONMENT)?;
    let token = check_configured(&value.to_string_lossy());
    let fault = |problem: ConfiguredTokenError| ConfigFault {
        origin: Origin::Environment(ADMIN_TOKEN_ENVIRONMENT.to_owned()),
        problem: problem.to_string(),
    };
    token.map_err(|problem| faults.push(fault(problem))).ok()
}

/// Whether Kubernetes made the variable: for a service called `tidings` or `tidings-…` it puts the likes of
/// `TIDINGS_SERVICE_HOST` and `TIDINGS_PORT_50051_TCP_ADDR` into the environment of every pod of the namespace.
fn is_kubernetes_service(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.split_once("_PORT_").is_some_and(|(_, rest)| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// What a file says.
fn read_file(path: &Path, named_by: Origin, faults: &mut Vec<ConfigFault>) -> Vec<Entry> {
    let text = match read_to_bound(path) {
        Ok(text) => text,
        Err(error) => {
            let problem = format!("cannot read {}: {error}", path.display());
            faults.push(ConfigFault { origin: named_by, problem });
            return Vec::new();
        }
    };
    read_text(path, &text, faults)
}

/// What the text of a file says. Lines that are no TOML are faults, and everything else is read nevertheless.
pub(super) fn read_text(path: &Path, text: &str, faults: &mut Vec<ConfigFault>) -> Vec<Entry> {
    let at = |offset: usize, key: Option<&str>| {
        let line = 1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        Origin::File { path: path.to_owned(), line, key: key.map(str::to_owned) }
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let broken: Vec<_> = errors
        .iter()
        .map(|error| ConfigFault {
            origin: at(error.span().map_or(0, |span| span.start), None),
            problem: error.message().to_owned(),
        })
        .collect();

    let mut found: Vec<_> =
        table.get_ref().iter().map(|(key, value)| (key.span().start, key, value)).collect();
    found.sort_by_key(|(offset, ..)| *offset);
    let mut entries = Vec::new();
    for (offset, key, value) in found {
        // What the parser makes of a broken line is a guess, and not worth a second fault.
        if broken.iter().any(|fault| fault.origin == at(offset, None)) {
            continue;
        }
        let origin = at(offset, Some(key.get_ref()));
        match Setting::by_key(key.get_ref()) {
            Some(setting) => entries.push(Entry { setting, raw: raw(value.get_ref()), origin }),
            None => {
                let problem = no_such_setting(key.get_ref(), |setting| setting.key.to_owned());
                faults.push(ConfigFault { origin, problem });
            }
        }
    }
    faults.extend(broken);
    entries
}

fn read_to_bound(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(CONFIG_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length <= CONFIG_FILE_BYTES_MAX) {
        return Ok(text);
    }
    Err(io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it is larger than {CONFIG_FILE_BYTES_MAX} bytes"),
    ))
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
            .map_or(Raw::Other("number past 64 bits"), Raw::Integer),
        DeValue::Boolean(on) => Raw::Boolean(*on),
        DeValue::Array(items) => items
            .iter()
            .map(|item| item.get_ref().as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .map_or(Raw::Other("mixed array"), Raw::List),
        other => Raw::Other(other.type_str()),
    }
}

/// Says that there is no such key, and how the source spells the one that was probably meant.
fn no_such_setting(key: &str, spelling: impl Fn(&Setting) -> String) -> String {
    match suggest::nearest(key, SETTINGS, |setting| setting.key) {
        Some(near) => format!("there is no such setting; did you mean {}?", spelling(near)),
        None => "there is no such setting; `tidings serve --help` lists them".to_owned(),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, key: None } => write!(f, "file {} line {line}", path.display()),
            Self::File { path, line, key: Some(key) } => {
                write!(f, "file {} line {line} key {key}", path.display())
            }
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}
