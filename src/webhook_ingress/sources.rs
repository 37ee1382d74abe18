//! The sources of webhooks: parses the text of the sources file.

use std::{collections::HashMap, sync::Arc};

use toml::de::{DeTable, DeValue};

use crate::domain::{
    access::TokenHash,
    ids::AccountId,
    secret::Secret,
    signature::{SECRET_CHARS_MAX, SECRET_CHARS_MIN},
};

/// The largest sources file, in bytes.
pub const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most sources.
pub const SOURCES_MAX: usize = 10_000;
/// Shortest path of a source, in characters. Of 64 random characters, that is 120 bits.
pub const PATH_CHARS_MIN: usize = 20;
/// Longest path of a source, in characters.
pub const PATH_CHARS_MAX: usize = 128;
/// Longest name of a source, in characters.
const NAME_CHARS_MAX: usize = 63;

/// The key of a source in the file.
const LIST: &str = "source";

/// One account of one Chatwoot.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name in the log.
    pub name: String,
    /// The account of its events.
    pub account: AccountId,
    /// The secret of its signatures; without it requests need no signature.
    pub signing_secret: Option<Secret>,
    /// The hash of its path.
    path: TokenHash,
}

/// All sources.
#[derive(Clone, Debug)]
pub struct Sources(Vec<Arc<Source>>);

/// The keys of one source as they are read.
#[derive(Default)]
struct Draft {
    account: Option<AccountId>,
    path: Option<String>,
    signing_secret: Option<Secret>,
    name: Option<String>,
}

/// Collects problems, each with its line and none with a secret.
struct Reader<'t> {
    text: &'t str,
    problems: Vec<String>,
}

impl Sources {
    /// Reads the text of a sources file.
    ///
    /// # Errors
    ///
    /// All problems of the text.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let mut reader = Reader { text, problems: Vec::new() };
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let line = reader.line(error.span().map_or(0, |span| span.start));
            reader.problems.push(format!("line {line}: {}", error.message()));
        }
        // The parser only guesses the contents of broken lines.
        let sources = if errors.is_empty() { reader.read(table.get_ref()) } else { Vec::new() };
        if reader.problems.is_empty() { Ok(Self(sources)) } else { Err(reader.problems) }
    }

    /// The source of this path. Compares all of them, in a time that does not depend on where paths differ.
    pub fn find(&self, path: &str) -> Option<Arc<Source>> {
        let hash = TokenHash::of(path);
        let mut found = None;
        for source in &self.0 {
            if source.path == hash {
                found = Some(source);
            }
        }
        found.cloned()
    }

    /// The sources, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Source> {
        self.0.iter().map(AsRef::as_ref)
    }
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    fn read(&mut self, table: &DeTable<'_>) -> Vec<Arc<Source>> {
        for (key, _) in table.iter().filter(|(key, _)| key.get_ref() != LIST) {
            let line = self.line(key.span().start);
            let shown = shown_key(key.get_ref());
            self.problems
                .push(format!("line {line}: there is no key {shown}: sources are written as [[{LIST}]]"));
        }
        let Some((_, list)) = table.iter().find(|(key, _)| key.get_ref() == LIST) else {
            self.problems.push(format!("has no [[{LIST}]]"));
            return Vec::new();
        };
        let line = self.line(list.span().start);
        let DeValue::Array(items) = list.get_ref() else {
            self.problems.push(format!("line {line}: {LIST} must be a list: write it as [[{LIST}]]"));
            return Vec::new();
        };
        if items.is_empty() || items.len() > SOURCES_MAX {
            self.problems.push(format!("must have 1 to {SOURCES_MAX} [[{LIST}]], and has {}", items.len()));
            return Vec::new();
        }
        let mut sources = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let position = format!("source {} (line {})", index + 1, self.line(item.span().start));
            let DeValue::Table(table) = item.get_ref() else {
                self.problems.push(format!("{position}: must be a table"));
                continue;
            };
            sources.extend(self.read_source(table, &position).map(|source| (position, source)));
        }
        self.check_together(&sources);
        sources.into_iter().map(|(_, source)| source).collect()
    }

    fn read_source(&mut self, table: &DeTable<'_>, position: &str) -> Option<Arc<Source>> {
        let mut draft = Draft::default();
        for (key, value) in table {
            if let Err(rule) = draft.set(key.get_ref(), value.get_ref()) {
                self.problems.push(format!("{position}: {} {rule}", shown_key(key.get_ref())));
            }
        }
        let required = [("account", draft.account.is_some()), ("path", draft.path.is_some())];
        for (key, _) in required.iter().filter(|(key, set)| !set && !table.contains_key(*key)) {
            self.problems.push(format!("{position}: {key} is required"));
        }
        let (account, path) = (draft.account?, draft.path?);
        let name = draft.name.unwrap_or_else(|| format!("account-{account}"));
        let path = TokenHash::of(&path);
        Some(Arc::new(Source { name, account, signing_secret: draft.signing_secret, path }))
    }

    /// Checks that paths and names are unique.
    fn check_together(&mut self, sources: &[(String, Arc<Source>)]) {
        let (mut paths, mut names) = (HashMap::new(), HashMap::new());
        for (position, source) in sources {
            if let Some(first) = paths.insert(source.path.as_bytes(), position) {
                self.problems.push(format!("{position}: path is that of {first}, too"));
            }
            if let Some(first) = names.insert(&source.name, position) {
                self.problems.push(format!(
                    "{position}: name {} is that of {first}, too: give it another",
                    source.name
                ));
            }
        }
    }
}

impl Draft {
    /// Sets a key. Errors with the rule that its value breaks.
    fn set(&mut self, key: &str, value: &DeValue<'_>) -> Result<(), String> {
        match key {
            "account" => {
                let DeValue::Integer(number) = value else { return Err("must be a positive integer".into()) };
                let number = i64::from_str_radix(number.as_str(), number.radix()).unwrap_or_default();
                self.account = Some(AccountId::new(number).map_err(|error| error.to_string())?);
            }
            "path" => {
                let text = text(value, PATH_CHARS_MIN, PATH_CHARS_MAX, |b| {
                    b.is_ascii_alphanumeric() || b"_-".contains(&b)
                });
                self.path = Some(text.ok_or("must be 20 to 128 characters of A-Z a-z 0-9 _ -")?.to_owned());
            }
            "signing_secret" => {
                let text =
                    text(value, SECRET_CHARS_MIN, SECRET_CHARS_MAX, |b| b == b' ' || b.is_ascii_graphic());
                self.signing_secret =
                    Some(Secret::new(text.ok_or("must be 16 to 256 printable ASCII characters")?));
            }
            "name" => {
                let text =
                    text(value, 1, NAME_CHARS_MAX, |b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
                self.name = Some(text.ok_or("must be 1 to 63 characters of A-Z a-z 0-9 . _ -")?.to_owned());
            }
            _ => {
                return Err(
                    "is not a key of a source: there are account, path, signing_secret and name".into()
                );
            }
        }
        Ok(())
    }
}

/// A string of `min` to `max` allowed characters.
fn text<'v>(value: &'v DeValue<'_>, min: usize, max: usize, allowed: impl Fn(u8) -> bool) -> Option<&'v str> {
    let text = value.as_str()?;
    ((min..=max).contains(&text.len()) && text.bytes().all(allowed)).then_some(text)
}

/// A key for an error. A long one is masked: it may be a path in the wrong position.
fn shown_key(key: &str) -> String {
    if key.len() < PATH_CHARS_MIN {
        format!("{key:?}").trim_matches('"').to_owned()
    } else {
        "***".to_owned()
    }
}

#[cfg(test)]
mod tests;
