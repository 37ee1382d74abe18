//! Fuzzing of configuration files, environment variables and flags.

use std::{ffi::OsString, path::Path, sync::OnceLock};

use clap::Command;

use super::Config;
use crate::config::{ConfigFaults, Flags, ResolvedSettings, Source};

/// The text of a configuration file.
pub fn config_file(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    agrees(read(text), text);
}

/// A line for each flag (`--flag=value`) and each environment variable (`NAME=value`).
pub fn config_values(data: &[u8]) {
    static COMMAND: OnceLock<Command> = OnceLock::new();
    let Ok(text) = str::from_utf8(data) else { return };
    let (flags, variables): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with("--"));
    let command = COMMAND.get_or_init(|| Flags::add_to::<Config>(Command::new("fuzz").no_binary_name(true)));
    let Ok(matches) = command.clone().try_get_matches_from(flags) else { return };
    let flags = Flags::from_matches::<Config>(&matches);
    if flags.names_a_file() || variables.iter().any(|line| line.starts_with("TIDINGS_CONFIG=")) {
        return; // No file is read here.
    }
    let variables = variables.iter().filter_map(|line| line.split_once('='));
    let variables = variables.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    agrees(Config::load(&flags, variables), text);
}

fn read(text: &str) -> Result<(Config, ResolvedSettings), ConfigFaults> {
    let resolved = ResolvedSettings::read_text::<Config>(Path::new("tidings.toml"), text);
    Config::resolve(resolved, &[])
}

/// Either there is a configuration, which reads the same when it is written down; or there are faults, each
/// of which names its source.
fn agrees(loaded: Result<(Config, ResolvedSettings), ConfigFaults>, text: &str) {
    match loaded {
        Ok((config, resolved)) => {
            let written = resolved.to_toml();
            if config.egress.egress_proxy.is_some() {
                return; // Its password is not written.
            }
            match read(&written) {
                Ok((again, _)) => assert_eq!(settings(again), settings(config), "{written}"),
                Err(faults) => panic!("{faults} in {written}"),
            }
        }
        Err(ConfigFaults { faults, .. }) => {
            assert!(!faults.is_empty());
            for fault in faults {
                assert!(!fault.problem.is_empty() && !fault.to_string().is_empty());
                if let Source::File { line, .. } = fault.origin {
                    assert!((1..=1 + text.matches('\n').count()).contains(&line), "line {line}");
                }
            }
        }
    }
}

/// The settings as text, without what the environment adds.
fn settings(config: Config) -> String {
    format!("{:?}", Config { secrets: Default::default(), proxies: Default::default(), ..config })
}
