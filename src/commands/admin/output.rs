//! Output: tables for people; JSON, YAML and names for programs.

use std::io::{self, Write};

use anyhow::Context;
use clap::ValueEnum;
use prost::{Message, Name};
use serde::Serialize;
use tabwriter::TabWriter;

use super::describe::describe;
use crate::{
    commands::{ending::Ending, print_error, printable},
    domain::ids::AccountScope,
    proto::json::{OrderedJson, reflect},
};

/// Longest cell of a table, in characters.
const CELL_CHARS_MAX: usize = 100;

/// The form of the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Columns for people
    #[default]
    Table,
    /// Protobuf JSON of the response; with --watch one object on each line
    Json,
    /// The same as YAML
    Yaml,
    /// The whole names, one on each line
    Name,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct OutputArguments {
    /// Form of the output.
    #[arg(long, short = 'o', value_name = "FORM", value_enum, default_value_t, global = true)]
    output: Format,
}

/// A resource that lists show.
pub(super) trait Resource: Message + Name + Clone + PartialEq {
    /// The titles of its columns.
    const COLUMNS: &'static [&'static str];

    /// Its whole name.
    fn id(&self) -> String;

    /// A row of a table for readers who chose this account.
    fn cells(&self, scope: Option<AccountScope>) -> Vec<String>;
}

/// Standard output, in the chosen form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    format: Format,
    scope: Option<AccountScope>,
}

impl Output {
    pub(super) fn new(arguments: OutputArguments, scope: Option<AccountScope>) -> Self {
        Self { format: arguments.output, scope }
    }

    /// Whether people read it.
    pub(super) fn is_table(self) -> bool {
        self.format == Format::Table
    }

    /// Whether it has nothing but names, which leave out a secret.
    pub(super) fn is_names(self) -> bool {
        self.format == Format::Name
    }

    /// The response of a call about one resource: people see the resource, field by field.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(super) fn resource<R, T>(self, response: &R, resource: Option<&T>, name: &str) -> Result<(), Ending>
    where
        R: Message + Name,
        T: Message + Name,
    {
        match (self.format, resource) {
            (Format::Table, Some(resource)) => columns(describe(&reflect(resource))),
            (Format::Table, None) | (Format::Name, _) => self.line(name),
            (Format::Json | Format::Yaml, _) => self.document(response),
        }
    }

    /// The response of a call that changed something: people see one line.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(super) fn change<R: Message + Name>(
        self,
        response: &R,
        name: &str,
        what: &str,
    ) -> Result<(), Ending> {
        match self.format {
            Format::Table => self.line(&format!("{name} {what}")),
            Format::Name => self.line(name),
            Format::Json | Format::Yaml => self.document(response),
        }
    }

    /// A page of resources.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(super) fn page<R, T>(self, response: &R, items: &[T]) -> Result<(), Ending>
    where
        R: Message + Name,
        T: Resource,
    {
        match self.format {
            Format::Table => self.rows(items, true),
            Format::Name => self.names(items),
            Format::Json | Format::Yaml => self.document(response),
        }
    }

    /// Resources that are new or have changed, in a list that goes on.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(super) fn changed<T: Resource>(self, items: &[T], is_first: bool) -> Result<(), Ending> {
        match self.format {
            Format::Table => self.rows(items, is_first),
            Format::Name => self.names(items),
            Format::Json | Format::Yaml => items.iter().try_for_each(|item| self.one_of_many(item)),
        }
    }

    /// One message of a stream: a line of JSON, or a document of YAML.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(super) fn one_of_many<M: Message + Name>(self, message: &M) -> Result<(), Ending> {
        match self.format {
            Format::Yaml => write(&format!("---\n{}", yaml(&OrderedJson::full(message))?)),
            _ => self.line(&json(serde_json::to_string, message)?),
        }
    }

    /// A response as it is. People get YAML, without fields that are not set.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(super) fn document<M: Message + Name>(self, message: &M) -> Result<(), Ending> {
        match self.format {
            Format::Json => self.line(&json(serde_json::to_string_pretty, message)?),
            Format::Yaml => write(&yaml(&OrderedJson::full(message))?),
            Format::Table | Format::Name => write(&yaml(&OrderedJson::set(message))?),
        }
    }

    /// One line.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(super) fn line(self, text: &str) -> Result<(), Ending> {
        write(&format!("{text}\n"))
    }

    /// A signing secret or an access token, which is shown once. Where only names are printed it goes to standard
    /// error.
    ///
    /// # Errors
    ///
    /// Standard output cannot be written.
    pub(super) fn secret(self, what: &str, secret: &str) -> Result<(), Ending> {
        match self.format {
            Format::Table if !secret.is_empty() => self.line(&format!("{what}: {secret}")),
            Format::Name if !secret.is_empty() => {
                print_error(format_args!("{what}: {secret}"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn rows<T: Resource>(self, items: &[T], with_titles: bool) -> Result<(), Ending> {
        let rows = items.iter().map(|item| item.cells(self.scope));
        if with_titles { table(T::COLUMNS, rows) } else { columns(rows) }
    }

    fn names<T: Resource>(self, items: &[T]) -> Result<(), Ending> {
        items.iter().try_for_each(|item| self.line(&item.id()))
    }
}

/// A number of things in words: `1 event`, `2 events`.
pub(super) fn counted(number: i32, thing: &str) -> String {
    let plural = match thing.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{thing}s"),
    };
    format!("{number} {}", if number == 1 { thing } else { &plural })
}

/// Prints rows under the titles of their columns.
///
/// # Errors
///
/// Standard output cannot be written.
pub(super) fn table(titles: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Ending> {
    let titles = titles.iter().map(|title| (*title).to_owned()).collect();
    columns([titles].into_iter().chain(rows))
}

fn columns(rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), Ending> {
    let mut table = TabWriter::new(Vec::new()).minwidth(0).padding(2);
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| printable(cell, CELL_CHARS_MAX)).collect();
        writeln!(table, "{}", cells.join("\t")).expect("memory takes everything");
    }
    let text = table.into_inner().expect("memory takes everything");
    write(&String::from_utf8_lossy(&text))
}

/// Writes to standard output. If its reader has seen enough, the command is complete.
///
/// # Errors
///
/// Standard output cannot be written, or is closed.
pub(super) fn write(text: &str) -> Result<(), Ending> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Ending::Complete),
        result => result.context("cannot write to standard output").map_err(Ending::Failed),
    }
}

fn json<M: Message + Name>(
    print: fn(&OrderedJson) -> serde_json::Result<String>,
    message: &M,
) -> Result<String, Ending> {
    print(&OrderedJson::full(message)).context("cannot write JSON").map_err(Ending::Failed)
}

fn yaml(value: &impl Serialize) -> Result<String, Ending> {
    let text = serde_saphyr::to_string(value).context("cannot write YAML").map_err(Ending::Failed)?;
    Ok(format!("{}\n", text.trim_end()))
}
