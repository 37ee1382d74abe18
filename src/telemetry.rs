//! The log: structured lines on standard error, as text for people or JSON for machines.

use std::{
    env,
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

use crate::config::LogFormat;

/// Starts the log with a filter and a format. Call it once, early.
///
/// Panics are logged too, as errors in the same format.
///
/// # Errors
///
/// `filter` is invalid, or the log is started already.
pub fn start(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)?;
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => {
            let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let colours = io::stderr().is_terminal() && !unwanted;
            lines.with_ansi(colours).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
    };
    tracing_subscriber::registry().with(filter).with(filter_fn(has_no_content)).with(lines).try_init()?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Excludes sled's traces, whatever the filter says: they contain stored bytes, which may be bodies or
/// secrets.
fn has_no_content(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || !metadata.target().starts_with("sled")
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("a panic without a message");
    tracing::error!(panic.location = location, "panicked: {message}");
}
