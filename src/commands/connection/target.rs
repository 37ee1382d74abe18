//! Which gateway is called, and with what: from flags, the environment, a context, or the defaults, in this order.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};

use super::{
    Address, Connection, ConnectionArguments,
    contexts::{Context, Contexts},
    identity,
};
use crate::{
    config::TOKEN_ENVIRONMENT,
    domain::ids::{AccountScope, parse_account_name},
};

/// The address of a gateway with default settings on this machine.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:50051";

/// The environment variables of clients, and the file of contexts.
#[derive(Default)]
pub(in crate::commands) struct Environment {
    variables: Vec<(OsString, OsString)>,
    /// `None` if the user has no directory for configuration.
    pub(in crate::commands) contexts: Option<PathBuf>,
}

impl Environment {
    /// The variables of this process. Empty ones are as good as unset.
    pub(in crate::commands) fn of_process() -> Self {
        let variables: Vec<_> = env::vars_os().filter(|(_, value)| !value.is_empty()).collect();
        Self { variables, contexts: Contexts::path() }
    }

    fn get(&self, name: &str) -> Option<&OsString> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn text(&self, name: &str) -> anyhow::Result<Option<&str>> {
        self.get(name).map(|value| value.to_str().with_context(|| format!("{name} is not UTF-8"))).transpose()
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }
}

/// The source of the access token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum TokenSource {
    /// Calls are made without one.
    #[default]
    None,
    /// A file that contains it.
    File(PathBuf),
    /// The value of the variable [`TOKEN_ENVIRONMENT`].
    Variable(OsString),
}

/// A gateway, and the files with the credentials of both ends.
#[derive(Debug)]
pub(in crate::commands) struct Target {
    pub(in crate::commands) address: Address,
    /// The account of the environment or the context.
    pub(in crate::commands) account: Option<AccountScope>,
    pub(super) token: TokenSource,
    pub(super) ca: Option<PathBuf>,
    /// The certificate and its key.
    pub(super) client_certificate: Option<(PathBuf, PathBuf)>,
}

impl Target {
    /// A server that gets no credentials.
    pub(super) fn anonymous(address: Address) -> Self {
        Self { address, account: None, token: TokenSource::None, ca: None, client_certificate: None }
    }

    /// Reads the files.
    ///
    /// # Errors
    ///
    /// A file cannot be read or used.
    pub(in crate::commands) fn open(&self) -> anyhow::Result<Connection> {
        let token = identity::token(&self.token)?;
        Ok(Connection { address: self.address.clone(), tls: identity::tls(self)?, token })
    }
}

impl ConnectionArguments {
    /// Puts the sources together. Credentials of a context are used for the address of that context only.
    ///
    /// # Errors
    ///
    /// Values contradict each other or are malformed, or there is no such context.
    pub(in crate::commands) fn resolve(&self, environment: &Environment) -> anyhow::Result<Target> {
        let context = self.context_of(environment)?;
        let (address, is_of_context) = self.address_of(environment, &context)?;
        let own_files = (environment.file("TIDINGS_CERT"), environment.file("TIDINGS_KEY"));
        let ca = self.ca.clone().or_else(|| environment.file("TIDINGS_CA"));
        let certificate = match (pair(&self.cert, &self.key), pair(&own_files.0, &own_files.1)) {
            (Err(()), _) => bail!("--cert and --key need each other"),
            (Ok(None), Err(())) => bail!("TIDINGS_CERT and TIDINGS_KEY need each other"),
            (Ok(given), own) => given.or(own.unwrap_or_default()),
        };
        let wants_tls = self.ca.is_some() || self.cert.is_some();
        ensure!(
            address.is_https() || !wants_tls,
            "--ca and --cert are for https only, but --address is {address}"
        );
        let account = environment.text("TIDINGS_ACCOUNT")?.or(context.account.as_deref()).map(parse_account);
        let account = account.transpose().map_err(|fault| anyhow::anyhow!("the account {fault}"))?;
        let kept = if is_of_context { context } else { Context::default() };
        let token = self.token_of(environment, kept.token_file.as_deref())?;
        let kept_pair = pair(&kept.cert, &kept.key);
        Ok(Target {
            account,
            token,
            ca: ca.or(kept.ca),
            client_certificate: certificate.or(kept_pair.unwrap_or_default()),
            address,
        })
    }

    fn context_of(&self, environment: &Environment) -> anyhow::Result<Context> {
        let name = self
            .context
            .as_deref()
            .map_or_else(|| environment.text("TIDINGS_CONTEXT"), |name| Ok(Some(name)))?;
        match &environment.contexts {
            Some(path) => Contexts::read(path)?.select(name).map(Option::unwrap_or_default),
            None if name.is_some() => {
                bail!("there is no directory for contexts: set XDG_CONFIG_HOME or HOME")
            }
            None => Ok(Context::default()),
        }
    }

    /// The address, and whether it is the one of the context.
    fn address_of(&self, environment: &Environment, context: &Context) -> anyhow::Result<(Address, bool)> {
        let variable = environment.text("TIDINGS_ADDRESS")?.map(str::parse::<Address>);
        let variable = variable.transpose().map_err(|rule| anyhow::anyhow!("TIDINGS_ADDRESS {rule}"))?;
        let own = context.address.as_deref().unwrap_or(DEFAULT_ADDRESS).parse::<Address>();
        let own = own.map_err(|rule| anyhow::anyhow!("the address of the context {rule}"))?;
        let given = self.address.clone().or(variable);
        let is_own = given.as_ref().is_none_or(|address| *address == own);
        Ok((given.unwrap_or(own), is_own))
    }

    fn token_of(&self, environment: &Environment, kept: Option<&Path>) -> anyhow::Result<TokenSource> {
        let variables = (environment.get(TOKEN_ENVIRONMENT), environment.file("TIDINGS_TOKEN_FILE"));
        Ok(match (&self.token_file, variables) {
            (Some(file), _) => TokenSource::File(file.clone()),
            (None, (Some(_), Some(_))) => {
                bail!("there is a token in {TOKEN_ENVIRONMENT} and one in TIDINGS_TOKEN_FILE: remove one")
            }
            (None, (Some(token), None)) => TokenSource::Variable(token.clone()),
            (None, (None, Some(file))) => TokenSource::File(file),
            (None, (None, None)) => kept.map_or(TokenSource::None, |file| TokenSource::File(file.to_owned())),
        })
    }
}

/// Two files that need each other.
fn pair(one: &Option<PathBuf>, other: &Option<PathBuf>) -> Result<Option<(PathBuf, PathBuf)>, ()> {
    match (one, other) {
        (Some(one), Some(other)) => Ok(Some((one.clone(), other.clone()))),
        (None, None) => Ok(None),
        _ => Err(()),
    }
}

/// Reads an account: its number, `accounts/7`, or `-` for all.
///
/// # Errors
///
/// The text is no account. The error continues a sentence whose subject is the account.
pub(in crate::commands) fn parse_account(text: &str) -> Result<AccountScope, String> {
    let rule = || format!("{text:?} must be a positive integer, or - for all accounts");
    match text.strip_prefix("accounts/").unwrap_or(text) {
        "-" => Ok(AccountScope::All),
        number => {
            let name = format!("accounts/{number}");
            parse_account_name(&name).map(AccountScope::One).map_err(|_| rule())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::AccountId;

    fn environment(variables: &[(&str, &str)], contexts: &Path) -> Environment {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Environment { variables, contexts: Some(contexts.to_owned()) }
    }

    fn arguments(address: Option<&str>, token_file: Option<&str>) -> ConnectionArguments {
        let address = address.map(|address| address.parse().unwrap());
        ConnectionArguments {
            address,
            token_file: token_file.map(PathBuf::from),
            ..ConnectionArguments::default()
        }
    }

    #[test]
    fn a_flag_goes_before_the_environment_that_before_the_context_and_that_before_the_default() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("contexts.toml");
        let nothing = arguments(None, None).resolve(&environment(&[], &file)).unwrap();
        assert_eq!((nothing.address.to_string(), nothing.account), (DEFAULT_ADDRESS.to_owned(), None));
        assert_eq!(nothing.token, TokenSource::None);

        let context =
            "current = \"a\"\n[contexts.a]\naddress = \"https://a\"\naccount = \"7\"\ntoken_file = \"/t\"\n";
        std::fs::write(&file, context).unwrap();
        let of_context = arguments(None, None).resolve(&environment(&[], &file)).unwrap();
        assert_eq!(of_context.address.to_string(), "https://a");
        assert_eq!(of_context.account, Some(AccountScope::One(AccountId::new(7).unwrap())));
        assert_eq!(of_context.token, TokenSource::File("/t".into()));

        let variables = [("TIDINGS_ADDRESS", "https://b"), ("TIDINGS_ACCOUNT", "-"), ("TIDINGS_TOKEN", "t")];
        let of_environment = arguments(None, None).resolve(&environment(&variables, &file)).unwrap();
        assert_eq!(of_environment.address.to_string(), "https://b");
        assert_eq!(of_environment.account, Some(AccountScope::All));
        assert_eq!(of_environment.token, TokenSource::Variable("t".into()));

        let flags = arguments(Some("https://c"), Some("/u"));
        let of_flags = flags.resolve(&environment(&variables, &file)).unwrap();
        assert_eq!(of_flags.address.to_string(), "https://c");
        assert_eq!(of_flags.token, TokenSource::File("/u".into()));
    }

    #[test]
    fn credentials_of_a_context_go_to_no_other_address() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("contexts.toml");
        let context =
            "current = \"a\"\n[contexts.a]\naddress = \"https://a\"\ntoken_file = \"/t\"\nca = \"/ca\"\n";
        std::fs::write(&file, context).unwrap();
        let other = arguments(Some("https://other"), None).resolve(&environment(&[], &file)).unwrap();
        assert_eq!((other.token, other.ca), (TokenSource::None, None));
        let same = arguments(Some("https://a"), None).resolve(&environment(&[], &file)).unwrap();
        assert_eq!((same.token, same.ca), (TokenSource::File("/t".into()), Some("/ca".into())));
    }

    #[test]
    fn contradictions_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("contexts.toml");
        let error = |arguments: &ConnectionArguments, variables: &[(&str, &str)]| {
            format!("{:#}", arguments.resolve(&environment(variables, &file)).unwrap_err())
        };
        let both = [("TIDINGS_TOKEN", "t"), ("TIDINGS_TOKEN_FILE", "/t")];
        assert!(error(&arguments(None, None), &both).contains("remove one"));
        assert!(error(&arguments(None, None), &[("TIDINGS_CERT", "/c")]).contains("TIDINGS_KEY"));
        assert!(error(&arguments(None, None), &[("TIDINGS_ACCOUNT", "0")]).contains("positive"));
        assert!(error(&arguments(None, None), &[("TIDINGS_CONTEXT", "b")]).contains("\"b\""));
        let plain = ConnectionArguments { ca: Some("/ca".into()), ..arguments(Some("http://a"), None) };
        assert!(error(&plain, &[]).contains("https only"));
    }
}
