//! The subcommands of `tidings`, one module each, and the steps that they share.

use std::{
    env, fmt,
    future::Future,
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::ArgMatches;
use tokio::runtime;
use tokio_util::sync::CancellationToken;

use crate::{
    app::Config,
    config::{Flags, ResolvedSettings},
    shutdown,
    telemetry::{self, LogFormat},
};

pub mod admin;
pub mod backup;
pub mod check;
pub mod config;
mod connection;
pub mod demo;
pub mod dev;
mod ending;
pub mod import;
mod json_form;
pub mod manual;
pub mod receive;
pub mod rotate_keys;
pub mod serve;

/// Exit code for wrong arguments or a wrong configuration, from `sysexits.h`.
pub const EX_USAGE: u8 = 64;
/// Limit on blocking work that is still running when a command has ended.
const RUNTIME_END_TIMEOUT: Duration = Duration::from_secs(2);

/// Loads the configuration and runs a command with it, or prints every fault of the configuration.
fn with_config(matches: &ArgMatches, command: impl FnOnce(Config, ResolvedSettings) -> ExitCode) -> ExitCode {
    match Config::load(&Flags::from_matches::<Config>(matches), env::vars_os()) {
        Ok((config, resolved)) => command(config, resolved),
        Err(faults) => {
            eprintln!("tidings: {faults}");
            ExitCode::from(EX_USAGE)
        }
    }
}

/// Runs a command on a runtime of `threads` threads; 0 means one for each core. SIGTERM and SIGINT cancel its
/// token.
fn run_until_signal<T, F>(threads: usize, command: impl FnOnce(CancellationToken) -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let mut builder = runtime::Builder::new_multi_thread();
    if threads > 0 {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build().context("cannot start threads")?;
    let result = runtime.block_on(async {
        let shutdown = shutdown::on_signals().context("cannot listen for signals")?;
        shutdown::survive_file_size_limit().context("cannot listen for signals")?;
        command(shutdown).await
    });
    runtime.shutdown_timeout(RUNTIME_END_TIMEOUT);
    result
}

/// Starts the log of a command whose output is for people: warnings and errors only.
fn log_warnings(format: LogFormat) -> anyhow::Result<()> {
    telemetry::start(format, "warn").context("cannot write log lines")
}

/// Writes a line to standard error. If that is closed, the line is lost.
fn print_error(line: fmt::Arguments<'_>) {
    drop(writeln!(io::stderr(), "{line}"));
}

fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}

/// Text of others, for a terminal: control characters are escaped, and the length is limited.
fn printable(text: &str, chars_max: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(chars_max));
    for (count, char) in text.chars().enumerate() {
        if count == chars_max {
            shown.push('…');
            break;
        }
        if char.is_control() { shown.extend(char.escape_default()) } else { shown.push(char) }
    }
    shown
}

/// Prints the error, if there is one.
fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidings: {error:#}");
            ExitCode::FAILURE
        }
    }
}
