//! The report of a run: each refusal as it happens, and the counts at the end.

use std::{fmt, sync::Arc};

use super::Arguments;
use crate::commands::{ending::Ending, print_error, printable};

/// Most faults that are printed for one object.
const FAULTS_PRINTED_MAX: usize = 10;
/// Longest printed fault, in characters. Field paths contain keys of the object, which may be long.
const FAULT_CHARS_MAX: usize = 400;

/// The beginning of an object.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// The file, as in the arguments.
    pub(super) file: Arc<str>,
    /// The line, from 1.
    pub(super) line: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The counts of a run.
#[derive(Debug)]
pub(super) struct Report {
    mode: Mode,
    published: u64,
    already_there: u64,
    refused: u64,
    last: Option<Position>,
    is_complete: bool,
}

/// The mode of the run.
#[derive(Debug)]
enum Mode {
    Published,
    WouldBePublished,
    Readable,
}

impl Report {
    pub(super) fn new(arguments: &Arguments) -> Self {
        let mode = match arguments {
            Arguments { dry_run: true, .. } => Mode::Readable,
            Arguments { validate_only: true, .. } => Mode::WouldBePublished,
            _ => Mode::Published,
        };
        Self { mode, published: 0, already_there: 0, refused: 0, last: None, is_complete: false }
    }

    /// Counts an object that is published now, or was before.
    pub(super) fn done(&mut self, position: &Position, already_there: bool) {
        *(if already_there { &mut self.already_there } else { &mut self.published }) += 1;
        self.last = Some(position.clone());
    }

    /// Counts a refused object and prints its faults.
    pub(super) fn refuse(&mut self, position: &Position, faults: &[String]) {
        self.refused += 1;
        self.last = Some(position.clone());
        faults.iter().for_each(|fault| print_error(format_args!("{position}: {fault}")));
    }

    /// Records that the whole input was read.
    pub(super) fn reached_end(&mut self) {
        self.is_complete = true;
    }

    /// The end of a run that read its whole input.
    pub(super) fn ending(&self) -> Ending {
        if self.refused == 0 { Ending::Complete } else { Ending::Refused }
    }

    /// The counts in one line. If the run did not reach the end, with its last object.
    pub(super) fn summary(&self, ending: &Ending) -> String {
        let Self { published, already_there, refused, .. } = self;
        let mut summary = match self.mode {
            Mode::Published => {
                format!("published {published}, already there {already_there}, refused {refused}")
            }
            Mode::WouldBePublished => {
                format!("would be published {published}, already there {already_there}, refused {refused}")
            }
            Mode::Readable => format!("readable {published}, refused {refused}"),
        };
        if !self.is_complete {
            let what = if matches!(ending, Ending::Interrupted) { "interrupted" } else { "stopped" };
            summary += &match &self.last {
                Some(position) => format!("; {what} after {position}"),
                None => format!("; {what} before the first object"),
            };
        }
        summary
    }
}

/// The faults of an object to print: the first ones, each as one line of bounded length.
pub(super) fn describe(faults: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let more = faults.len().saturating_sub(FAULTS_PRINTED_MAX);
    let mut lines: Vec<_> =
        faults.take(FAULTS_PRINTED_MAX).map(|fault| printable(&fault, FAULT_CHARS_MAX)).collect();
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_short_line_whatever_keys_it_names() {
        assert_eq!(printable("extra.a\n\u{1b}[31mb", FAULT_CHARS_MAX), "extra.a\\n\\u{1b}[31mb");
        assert_eq!(printable(&"x".repeat(1000), FAULT_CHARS_MAX).chars().count(), FAULT_CHARS_MAX + 1);
    }

    #[test]
    fn the_first_faults_are_printed_and_the_others_counted() {
        let described = |count: usize| describe((0..count).map(|number| number.to_string()));
        assert_eq!(described(2), ["0", "1"]);
        assert_eq!(described(10).len(), 10);
        assert_eq!(described(13)[9..], ["9", "and 3 more"]);
    }
}
