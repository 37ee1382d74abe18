//! What is told of a run: each refusal as it happens, and the counts at the end.

use std::{fmt, sync::Arc};

use super::{Arguments, Ending, tell};

/// Most faults of one object that are told.
const FAULTS_TOLD_MAX: usize = 10;
/// Longest fault that is told, in characters. Its path has keys of the object, which may be long.
const FAULT_CHARS_MAX: usize = 400;

/// Where an object begins.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The file as it was named.
    pub(super) file: Arc<str>,
    /// Its line, from 1.
    pub(super) line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// How far a run is.
#[derive(Debug)]
pub(super) struct Report {
    words: Words,
    published: u64,
    already_there: u64,
    refused: u64,
    last: Option<Place>,
    is_whole: bool,
}

/// What an object is called that is not refused.
#[derive(Debug)]
enum Words {
    Published,
    WouldBePublished,
    Readable,
}

impl Report {
    pub(super) fn new(arguments: &Arguments) -> Self {
        let words = match arguments {
            Arguments { dry_run: true, .. } => Words::Readable,
            Arguments { validate_only: true, .. } => Words::WouldBePublished,
            _ => Words::Published,
        };
        Self { words, published: 0, already_there: 0, refused: 0, last: None, is_whole: false }
    }

    /// Counts an object that is published now, or that was before.
    pub(super) fn done(&mut self, place: &Place, already_there: bool) {
        *(if already_there { &mut self.already_there } else { &mut self.published }) += 1;
        self.last = Some(place.clone());
    }

    /// Counts an object that is refused, and tells why.
    pub(super) fn refuse(&mut self, place: &Place, faults: &[String]) {
        self.refused += 1;
        self.last = Some(place.clone());
        faults.iter().for_each(|fault| tell(format_args!("{place}: {fault}")));
    }

    /// Notes that there is nothing more.
    pub(super) fn came_to_the_end(&mut self) {
        self.is_whole = true;
    }

    /// How a run ends that came to the end of its input.
    pub(super) fn ending(&self) -> Ending {
        if self.refused == 0 { Ending::Complete } else { Ending::Refused }
    }

    /// The counts in one line, and how far it came if that was not to the end.
    pub(super) fn summary(&self, ending: &Ending) -> String {
        let Self { published, already_there, refused, .. } = self;
        let mut summary = match self.words {
            Words::Published => {
                format!("published {published}, already there {already_there}, refused {refused}")
            }
            Words::WouldBePublished => {
                format!("would be published {published}, already there {already_there}, refused {refused}")
            }
            Words::Readable => format!("readable {published}, refused {refused}"),
        };
        if !self.is_whole {
            let what = if matches!(ending, Ending::Interrupted) { "interrupted" } else { "stopped" };
            summary += &match &self.last {
                Some(place) => format!("; {what} after {place}"),
                None => format!("; {what} before the first object"),
            };
        }
        summary
    }
}

/// As many of the faults of an object as are told, each as one line of a bounded length.
pub(super) fn told(faults: impl ExactSizeIterator<Item = String>) -> Vec<String> {
    let more = faults.len().saturating_sub(FAULTS_TOLD_MAX);
    let mut told: Vec<_> = faults.take(FAULTS_TOLD_MAX).map(|fault| printable(&fault)).collect();
    if more > 0 {
        told.push(format!("and {more} faults more"));
    }
    told
}

/// FieldViolations hold keys of anybody's choice.
fn printable(fault: &str) -> String {
    let mut text = String::with_capacity(fault.len());
    for (count, char) in fault.chars().enumerate() {
        if count == FAULT_CHARS_MAX {
            text.push('…');
            break;
        }
        if char.is_control() { text.extend(char.escape_default()) } else { text.push(char) }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_one_short_line_whatever_keys_it_names() {
        assert_eq!(printable("extra.a\n\u{1b}[31mb"), "extra.a\\n\\u{1b}[31mb");
        assert_eq!(printable(&"x".repeat(1000)).chars().count(), FAULT_CHARS_MAX + 1);
    }

    #[test]
    fn so_many_faults_are_told_and_the_others_counted() {
        let told_of = |count: usize| told((0..count).map(|number| number.to_string()));
        assert_eq!(told_of(2), ["0", "1"]);
        assert_eq!(told_of(10).len(), 10);
        assert_eq!(told_of(13)[9..], ["9", "and 3 faults more"]);
    }
}
