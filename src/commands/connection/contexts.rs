//! The file of contexts: by name, which gateway to call and the files with credentials for it. Never a secret
//! itself.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// One gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::commands) struct Context {
    /// The URL of its gRPC port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) address: Option<String>,
    /// The account that commands are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) account: Option<String>,
    /// The file with the access token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) token_file: Option<PathBuf>,
    /// The file with the authorities to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) ca: Option<PathBuf>,
    /// The file with the client certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) cert: Option<PathBuf>,
    /// The file with the key of that certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) key: Option<PathBuf>,
}

/// All contexts of a user.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::commands) struct Contexts {
    /// The one that is used where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(in crate::commands) current: Option<String>,
    /// By their names.
    #[serde(default)]
    pub(in crate::commands) contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// `$XDG_CONFIG_HOME/tidings/contexts.toml`, or under `~/.config`.
    pub(in crate::commands) fn path() -> Option<PathBuf> {
        let configured = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || env::home_dir().filter(|home| !home.as_os_str().is_empty());
        let directory = configured.or_else(|| home().map(|home| home.join(".config")))?;
        Some(directory.join("tidings/contexts.toml"))
    }

    /// Reads the file. Without one there are no contexts.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is no file of contexts.
    pub(in crate::commands) fn read(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("cannot use the contexts in {}", path.display());
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).with_context(context),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(context),
        }
    }

    /// Replaces the file: readable by its user alone, and whole or as before.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(in crate::commands) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let write = || -> anyhow::Result<()> {
            let directory = path.parent().context("it is in no directory")?;
            fs::create_dir_all(directory)?;
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(toml::to_string(self)?.as_bytes())?;
            file.persist(path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write the contexts to {}", path.display()))
    }

    /// The context of this name, or else the current one, if there is any.
    ///
    /// # Errors
    ///
    /// No context has this name.
    pub(in crate::commands) fn select(mut self, name: Option<&str>) -> anyhow::Result<Option<Context>> {
        let Some(name) = name.or(self.current.as_deref()).map(str::to_owned) else { return Ok(None) };
        match self.contexts.remove(&name) {
            Some(context) => Ok(Some(context)),
            None => bail!("{}", self.no_such(&name)),
        }
    }

    /// Says that there is no such context, and which ones there are.
    pub(in crate::commands) fn no_such(&self, name: &str) -> String {
        let names: Vec<_> = self.contexts.keys().map(String::as_str).collect();
        match names.is_empty() {
            true => format!("there is no context {name:?}: make it with `tidings context set {name}`"),
            false => format!("there is no context {name:?}, only {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_written_for_their_user_alone_and_read_again() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidings/contexts.toml");
        assert!(Contexts::read(&path).unwrap().contexts.is_empty());
        let one = Context { account: Some("1".to_owned()), ..Context::default() };
        let contexts = Contexts {
            current: Some("a".to_owned()),
            contexts: BTreeMap::from([("a".to_owned(), one.clone())]),
        };
        contexts.write(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Contexts::read(&path).unwrap().select(None).unwrap(), Some(one));
        let error = Contexts::read(&path).unwrap().select(Some("b")).unwrap_err().to_string();
        assert_eq!(error, "there is no context \"b\", only a");
    }

    #[test]
    fn a_file_with_an_unknown_key_is_refused_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("contexts.toml");
        fs::write(&path, "[contexts.a]\ntoken = \"tdg_secret\"\n").unwrap();
        let error = format!("{:#}", Contexts::read(&path).unwrap_err());
        assert!(error.contains("contexts.toml") && error.contains("token"), "{error}");
    }
}
