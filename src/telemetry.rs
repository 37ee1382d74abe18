//! Log lines: structured, to standard error, as text for people or JSON for machines.

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

/// Starts to write log lines: those that `filter` lets through, in this format. To be called once, early.
///
/// Panics are logged from then on too, as errors: whatever task they end, the line has the format of all others.
///
/// # Errors
///
/// `filter` is no filter, or log lines are being written already.
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
    tracing_subscriber::registry().with(filter).with(filter_fn(tells_no_content)).with(lines).try_init()?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Whether lines of this kind may be written whatever the filter says. The storage engine traces what it stores byte by
/// byte, and that is bodies and secrets.
fn tells_no_content(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || !metadata.target().starts_with("sled")
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("a panic without a message");
    tracing::error!(panic.location = location, "panicked: {message}");
}
