//! Sources of settings, and what is wrong in one of them.

use std::{fmt, path::PathBuf};

/// Where a value comes from. Displayed as people look for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The default that the setting declares.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key on that line; `None` where the line is not TOML.
        key: Option<String>,
    },
    /// An environment variable of this name.
    Environment(String),
    /// A flag of this name, without its dashes.
    Flag(String),
}

/// Something wrong with the configuration, and where to correct it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConfigFault {
    /// Where to correct it.
    pub origin: Source,
    /// The problem, without values that could be secret.
    pub problem: String,
}

/// Everything that is wrong with the configuration, in every source.
#[derive(Debug)]
pub struct ConfigFaults {
    /// The faults, at least one.
    pub faults: Vec<ConfigFault>,
    /// Possible mistakes.
    pub warnings: Vec<ConfigFault>,
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, plural) = (self.faults.len(), if self.faults.len() == 1 { "" } else { "s" });
        write!(f, "the configuration has {count} fault{plural}:")?;
        self.faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))?;
        self.warnings.iter().try_for_each(|warning| write!(f, "\n  warning: {warning}"))
    }
}

impl ConfigFault {
    /// A fault of this source.
    pub fn new(source: Source, problem: impl Into<String>) -> Self {
        Self { origin: source, problem: problem.into() }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, key: None } => write!(f, "file {} line {line}", path.display()),
            Self::File { path, line, key: Some(key) } => {
                write!(f, "file {} line {line} key {key}", path.display())
            }
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}
