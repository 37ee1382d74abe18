//! `tidings completions`, `man` and `version`: the program described to shells, to `man`, and to people.

use std::{fs, io, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};
use clap_complete::Shell;

use super::{exit_code, print};

/// The arguments of `completions`.
pub fn completions_command(name: &'static str) -> Command {
    let shell = Arg::new("shell").value_name("SHELL").required(true).value_parser(value_parser!(Shell));
    let about = "Print the completions for a shell";
    Command::new(name)
        .about(about)
        .arg(shell.help("The shell"))
        .after_help("For bash: tidings completions bash > ~/.local/share/bash-completion/completions/tidings")
}

/// Prints the completions of the program for a shell.
///
/// # Panics
///
/// The arguments are those of another command.
pub fn print_completions(matches: &ArgMatches, mut program: Command) -> ExitCode {
    let shell: Shell = *matches.get_one("shell").expect("clap requires it");
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, "tidings", &mut script);
    exit_code(print(&String::from_utf8_lossy(&script)))
}

/// The arguments of `man`.
pub fn man_command(name: &'static str) -> Command {
    let directory = Arg::new("directory").value_name("DIRECTORY").required(true);
    let directory = directory
        .value_parser(value_parser!(PathBuf))
        .help("Directory of the pages. Made if it does not exist");
    Command::new(name).about("Write the manual pages, one for each command").arg(directory)
}

/// Writes the manual pages of the program.
///
/// # Panics
///
/// The arguments are those of another command.
pub fn write_pages(matches: &ArgMatches, program: Command) -> ExitCode {
    let directory: &PathBuf = matches.get_one("directory").expect("clap requires it");
    let write = || -> io::Result<()> {
        fs::create_dir_all(directory)?;
        clap_mangen::generate_to(program, directory)
    };
    exit_code(write().with_context(|| format!("cannot write the pages to {}", directory.display())))
}

/// The arguments of `version`.
pub fn version_command(name: &'static str) -> Command {
    Command::new(name).about("Print the version")
}

/// Prints the version.
pub fn print_version() -> ExitCode {
    exit_code(print(concat!("tidings ", env!("CARGO_PKG_VERSION"), "\n")))
}
