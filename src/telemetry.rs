//! Log lines: structured, to standard error, as text for people or JSON for machines.

use std::{
    env,
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
};

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts to write log lines: those that `filter` lets through, in this format. To be called once, early.
///
/// Panics are logged from then on too, as errors: whatever task they end, the line has the format of all others.
///
/// # Errors
///
/// `filter` is no filter, or log lines are being written already.
pub fn start(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter);
    let started = match format {
        LogFormat::Text => {
            let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let colours = io::stderr().is_terminal() && !unwanted;
            lines.with_ansi(colours).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(anyhow::Error::from_boxed)?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("a panic without a message");
    tracing::error!(panic.location = location, "panicked: {message}");
}
