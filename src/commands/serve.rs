//! `tidings serve`: runs the gateway.

use std::process::ExitCode;

use anyhow::Context;
use clap::{ArgMatches, Command};

use super::{exit_code, run_until_signal, with_config};
use crate::{
    app::{self, Config},
    config::{ConfigFault, Flags},
    telemetry,
};

/// The arguments: all settings.
pub fn command(name: &'static str) -> Command {
    Flags::add_to::<Config>(Command::new(name).about("Run the gateway"))
}

/// Runs the gateway until SIGTERM or SIGINT.
pub fn execute(matches: &ArgMatches) -> ExitCode {
    with_config(matches, |config, resolved| match run(config, resolved.warnings()) {
        // The log may be JSON for machines: the error must be a line of it.
        Err(error) if tracing::enabled!(tracing::Level::ERROR) => {
            tracing::error!("stopped: {error:#}");
            ExitCode::FAILURE
        }
        result => exit_code(result),
    })
}

fn run(config: Config, warnings: &[ConfigFault]) -> anyhow::Result<()> {
    telemetry::start(config.log.log_format, &config.log.log_level).context("cannot write log lines")?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    run_until_signal(config.threads, |shutdown| app::run(config, shutdown))
}
