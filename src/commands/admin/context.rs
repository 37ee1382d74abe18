//! `tidings context`: which gateways there are, and which one commands call.

use std::path::{self, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Subcommand;

use super::{
    names,
    output::{self, table},
};
use crate::commands::{
    connection::{
        Address,
        contexts::{Context, Contexts},
        parse_account,
    },
    ending::Ending,
};

/// The end of the help text.
const AFTER_HELP: &str = "\
A context is a gateway's address, an account, and the files with credentials for that address: never a secret itself. Commands use \
the current context, or the one of --context or TIDINGS_CONTEXT. Flags and environment variables go before it. Its credentials are \
used for its own address only.

The file is $XDG_CONFIG_HOME/tidings/contexts.toml (~/.config/tidings/contexts.toml), readable by its user alone.";

/// Manages contexts.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

/// What to do with contexts.
#[derive(Clone, Debug, Subcommand)]
enum Action {
    /// List contexts; a star marks the current one.
    #[command(visible_alias = "ls")]
    List,
    /// Make or change a context. The first one becomes the current one.
    Set(Box<Set>),
    /// Make a context the current one.
    Use {
        /// Name of the context.
        name: String,
    },
    /// Print a context, as it is in the file.
    Show {
        /// Name of the context. Without it the current one.
        name: Option<String>,
    },
    /// Delete a context.
    #[command(visible_alias = "rm")]
    Delete {
        /// Name of the context.
        name: String,
    },
}

/// A context. An empty value removes a setting from it.
#[derive(Clone, Debug, clap::Args)]
struct Set {
    /// Name of the context.
    name: String,
    /// The gateway's gRPC address.
    #[arg(long, value_name = "URL", value_parser = checked_address)]
    address: Option<String>,
    /// Account: its number, or - for all.
    #[arg(long, short = 'a', value_name = "NUMBER", value_parser = checked_account, allow_hyphen_values = true)]
    account: Option<String>,
    /// File with the access token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// PEM file with the certificate authorities to trust.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// PEM file with the client certificate.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// PEM file with the private key of that certificate.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// The normal form of an address; nothing stays nothing.
fn checked_address(text: &str) -> Result<String, &'static str> {
    if text.is_empty() { Ok(String::new()) } else { text.parse().map(|address: Address| address.to_string()) }
}

/// The normal form of an account; nothing stays nothing.
fn checked_account(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    let account = parse_account(text).map(names::account)?;
    Ok(account.trim_start_matches("accounts/").to_owned())
}

impl Arguments {
    /// Reads or changes the file.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written, or has no such context.
    pub(super) fn run(self) -> Result<(), Ending> {
        let no_path =
            || Ending::Failed(anyhow!("there is no directory for contexts: set XDG_CONFIG_HOME or HOME"));
        let path = Contexts::path().ok_or_else(no_path)?;
        let mut contexts = Contexts::read(&path).map_err(Ending::Failed)?;
        let done = match self.action {
            Action::List => return list(&contexts),
            Action::Show { name } => return show(contexts, name.as_deref()),
            Action::Set(set) => set.apply(&mut contexts).map_err(Ending::Failed)?,
            Action::Use { name } => {
                check(&contexts, &name)?;
                contexts.current = Some(name.clone());
                format!("context {name} is the current one")
            }
            Action::Delete { name } => {
                check(&contexts, &name)?;
                contexts.contexts.remove(&name);
                contexts.current = contexts.current.filter(|current| *current != name);
                format!("context {name} deleted")
            }
        };
        contexts.write(&path).map_err(Ending::Failed)?;
        output::write(&format!("{done}\n"))
    }
}

fn check(contexts: &Contexts, name: &str) -> Result<(), Ending> {
    match contexts.contexts.contains_key(name) {
        true => Ok(()),
        false => Err(Ending::Misused(anyhow!(contexts.no_such(name)))),
    }
}

fn list(contexts: &Contexts) -> Result<(), Ending> {
    let rows = contexts.contexts.iter().map(|(name, context)| {
        let is_current = contexts.current.as_ref() == Some(name);
        let shown = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![
            if is_current { "*" } else { "" }.to_owned(),
            name.clone(),
            shown(context.address.clone()),
            shown(context.account.clone()),
            shown(context.token_file.as_ref().map(|file| file.display().to_string())),
        ]
    });
    table(&["CURRENT", "NAME", "ADDRESS", "ACCOUNT", "TOKEN FILE"], rows)
}

fn show(contexts: Contexts, name: Option<&str>) -> Result<(), Ending> {
    let context = contexts.select(name).map_err(Ending::Misused)?;
    let context = context
        .ok_or_else(|| Ending::Misused(anyhow!("there is no current context: see tidings context use")))?;
    let text = toml::to_string(&context).context("cannot write TOML").map_err(Ending::Failed)?;
    output::write(&text)
}

impl Set {
    /// Changes the context in the file. Returns what was done.
    fn apply(self, contexts: &mut Contexts) -> anyhow::Result<String> {
        let context = contexts.contexts.entry(self.name.clone()).or_default();
        for (given, field) in [(self.address, &mut context.address), (self.account, &mut context.account)] {
            if let Some(text) = given {
                *field = Some(text).filter(|text| !text.is_empty());
            }
        }
        let Context { token_file, ca, cert, key, .. } = context;
        for (given, field) in
            [(self.token_file, token_file), (self.ca, ca), (self.cert, cert), (self.key, key)]
        {
            match given {
                None => {}
                Some(file) if file.as_os_str().is_empty() => *field = None,
                // Commands run in any directory.
                Some(file) => *field = Some(path::absolute(file).context("there is no working directory")?),
            }
        }
        let is_first = contexts.current.is_none();
        let current = contexts.current.get_or_insert_with(|| self.name.clone());
        Ok(format!(
            "context {} is set{}",
            self.name,
            if is_first || *current == self.name { " and the current one" } else { "" }
        ))
    }
}
