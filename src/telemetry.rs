//! The log: structured lines on standard error, as text for people or JSON for machines.

use std::{
    env,
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
};

use clap::{Args, ValueEnum};
use tracing::Metadata;
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, fmt, layer::SubscriberExt, util::SubscriberInitExt,
};

/// Settings of the log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
pub struct LogSettings {
    /// Format of log lines on standard error: text for people, json for machines.
    #[arg(long, value_name = "WORD", default_value = "text")]
    pub log_format: LogFormat,
    /// Log lines to write: a level (off, error, warn, info, debug, trace) or target=level,…
    #[arg(long, value_name = "FILTER", default_value = "info", value_parser = log_filter)]
    pub log_level: String,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Checks a filter, which is then taken as it is.
fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',').map(str::trim) {
        // A filter takes a single word that is not a level for the name of a target, and then shows nothing
        // else: a misspelling would silence the log.
        let single_word = directive.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if single_word && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(directive)) {
            return Err(format!("{directive:?} is not one of {}, nor target=level", LEVELS.join(", ")));
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{text:?} is not a log filter: {error}")),
    }
}

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
    tracing_subscriber::registry().with(filter).with(filter_fn(is_not_of_sled)).with(lines).try_init()?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Excludes sled's lines, whatever the filter says. Its traces contain stored bytes, which may be bodies or secrets, and its
/// errors are returned as well: they are logged or printed once, with the way out.
fn is_not_of_sled(metadata: &Metadata<'_>) -> bool {
    !metadata.target().starts_with("sled")
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("a panic without a message");
    tracing::error!(panic.location = location, "panicked: {message}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_silence_the_log_is_refused() {
        assert!(log_filter("warn,tidings::delivery=debug").is_ok());
        for (text, expected) in [
            ("inof", r#""inof" is not one of off, error"#),
            ("", r#""" is not one of off"#),
            ("tidings=loud", r#""tidings=loud" is not a log filter"#),
        ] {
            assert!(log_filter(text).unwrap_err().contains(expected), "{text}");
        }
    }
}
