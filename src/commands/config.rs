//! `tidings config`: prints the settings.

use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{exit_code, print, with_config};
use crate::{
    app::Config,
    config::{Flags, settings_table},
};

/// The arguments: all settings, and `--markdown`.
pub fn command(name: &'static str) -> Command {
    let about = "Print the settings in force, with the origin of each, as a configuration file";
    let markdown = Arg::new("markdown")
        .long("markdown")
        .action(ArgAction::SetTrue)
        .help("Print the documentation's table of all settings instead");
    Flags::add_to::<Config>(Command::new(name)).about(about).arg(markdown)
}

/// Prints the settings, and warnings about them on standard error.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    if matches.get_flag("markdown") {
        return exit_code(print(&settings_table::<Config>()));
    }
    with_config(matches, |_, resolved| {
        for warning in resolved.warnings() {
            eprintln!("tidings: warning: {warning}");
        }
        exit_code(print(&resolved.to_toml()))
    })
}
