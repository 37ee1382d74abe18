//! What client certificates grant by themselves: the entries of `grpc_client_subjects`.

use std::fmt;

use super::{ACCOUNTS_MAX, Accounts, Rights, Scope};
use crate::domain::ids::{AccountId, AccountScope};

/// Between the subject and its rights. A subject has its `>` escaped.
const ARROW: &str = "->";

/// A subject of client certificates, and what the holder of one may do without an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSubject {
    /// The subject as the log and audit records show it: `CN=publisher,O=Acme`.
    pub subject: String,
    /// The rights of its holders.
    pub rights: Rights,
}

impl ClientSubject {
    /// Parses an entry: the subject, an arrow, scopes and accounts, such as
    /// `CN=publisher,O=Acme -> publish accounts/1`. All accounts are `accounts/-`.
    ///
    /// # Errors
    ///
    /// The rule that the entry breaks, with the entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let of_entry = |problem: String| format!("{text:?} {problem}");
        let (subject, granted) = text.split_once(ARROW).ok_or_else(|| {
            of_entry(
                "is not a subject with its rights, such as CN=publisher,O=Acme -> publish accounts/1".into(),
            )
        })?;
        let subject = subject.trim();
        check_subject(subject).map_err(of_entry)?;
        let rights = rights(granted).map_err(of_entry)?;
        Ok(Self { subject: subject.to_owned(), rights })
    }
}

/// The entry in its normal form, which parses to the same.
impl fmt::Display for ClientSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {ARROW}", self.subject)?;
        for scope in &self.rights.scopes {
            write!(f, " {}", scope.word())?;
        }
        match &self.rights.accounts {
            Accounts::All => f.write_str(" accounts/-"),
            Accounts::Only(accounts) => {
                accounts.iter().try_for_each(|account| write!(f, " accounts/{account}"))
            }
        }
    }
}

/// Refuses what no certificate is ever shown as: an entry that matches nobody is a mistake.
fn check_subject(subject: &str) -> Result<(), String> {
    let (mut parts, mut is_escaped) = (vec![String::new()], false);
    for character in subject.chars() {
        match character {
            ',' | '+' if !is_escaped => parts.push(String::new()),
            _ => parts.last_mut().expect("there is one from the start").push(character),
        }
        is_escaped = character == '\\' && !is_escaped;
    }
    let is_attribute = |part: &String| {
        let Some((kind, value)) = part.split_once('=') else { return false };
        let is_kind = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        !kind.is_empty() && kind.chars().all(is_kind) && !value.starts_with(' ') && !ends_with_space(value)
    };
    match parts.iter().find(|part| !is_attribute(part)) {
        None => Ok(()),
        Some(part) => Err(format!(
            "has {part:?} in its subject: write the subject as the log shows it, such as CN=publisher,O=Acme, without \
             spaces between its parts"
        )),
    }
}

/// Whether a value ends with a space that is not escaped.
fn ends_with_space(value: &str) -> bool {
    value.strip_suffix(' ').is_some_and(|rest| !rest.ends_with('\\'))
}

fn rights(text: &str) -> Result<Rights, String> {
    let (mut scopes, mut accounts, mut is_for_all) = (Vec::new(), Vec::<AccountId>::new(), false);
    for word in text.split_ascii_whitespace() {
        if let Some(scope) = Scope::ALL.into_iter().find(|scope| scope.word() == word) {
            scopes.push(scope);
            continue;
        }
        match word.parse() {
            Ok(AccountScope::All) => is_for_all = true,
            Ok(AccountScope::One(account)) => accounts.push(account),
            Err(_) => {
                return Err(format!(
                    "has {word:?}, which is neither a scope (publish, read, manage, admin) nor accounts/{{account}} or \
                     accounts/-"
                ));
            }
        }
    }
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() {
        return Err("has no scope: add publish, read, manage or admin".to_owned());
    }
    match (is_for_all, accounts.len()) {
        (true, 0) => Ok(Rights { scopes, accounts: Accounts::All }),
        (true, _) => Err("has accounts/- and others: accounts/- is all of them".to_owned()),
        (false, 0) => Err("has no account: add accounts/{account}, or accounts/- for all".to_owned()),
        (false, 1..=ACCOUNTS_MAX) => Ok(Rights { scopes, accounts: Accounts::of(accounts) }),
        (false, _) => Err(format!("has more than {ACCOUNTS_MAX} accounts")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_subject_with_scopes_and_accounts() {
        for (text, subject, normal) in [
            ("CN=a -> publish accounts/7", "CN=a", "CN=a -> publish accounts/7"),
            (
                "  CN=a,O=Acme\\, Inc. ->manage accounts/9  read accounts/7 read",
                "CN=a,O=Acme\\, Inc.",
                "CN=a,O=Acme\\, Inc. -> read manage accounts/7 accounts/9",
            ),
            ("CN=a+UID=b\\ -> admin accounts/-", "CN=a+UID=b\\", "CN=a+UID=b\\ -> admin accounts/-"),
            (
                "URI=spiffe://acme/x -> read accounts/-",
                "URI=spiffe://acme/x",
                "URI=spiffe://acme/x -> read accounts/-",
            ),
            ("1.2.3.4=#0401 -> read accounts/-", "1.2.3.4=#0401", "1.2.3.4=#0401 -> read accounts/-"),
        ] {
            let entry = ClientSubject::parse(text).expect(text);
            assert_eq!((&*entry.subject, &*entry.to_string()), (subject, normal));
            assert_eq!(ClientSubject::parse(normal), Ok(entry), "{text}");
        }
        let entry = ClientSubject::parse("CN=a -> publish accounts/7").unwrap();
        assert!(entry.rights.allow(Scope::Publish) && !entry.rights.allow(Scope::Read));
        assert_eq!(entry.rights.accounts, Accounts::of(vec![AccountId::new(7).unwrap()]));
    }

    #[test]
    fn a_wrong_entry_is_named_with_the_rule_that_it_breaks() {
        let many = format!("CN=a -> read {}", "accounts/1 ".repeat(ACCOUNTS_MAX + 1));
        for (text, problem) in [
            ("CN=a", "is not a subject with its rights"),
            ("a -> read accounts/-", "has \"a\" in its subject"),
            (" -> read accounts/-", "has \"\" in its subject"),
            ("CN = a -> read accounts/-", "has \"CN = a\" in its subject"),
            ("CN=a, O=b -> read accounts/-", "has \" O=b\" in its subject"),
            ("CN=a ,O=b -> read accounts/-", "has \"CN=a \" in its subject"),
            ("CN=a -> accounts/-", "has no scope"),
            ("CN=a -> read", "has no account"),
            ("CN=a -> read accounts/- accounts/7", "accounts/- is all of them"),
            ("CN=a -> read accounts/x", "has \"accounts/x\", which is neither"),
            ("CN=a -> everything accounts/-", "has \"everything\", which is neither"),
            (&many, "has more than 100 accounts"),
        ] {
            let refusal = ClientSubject::parse(text).unwrap_err();
            assert!(refusal.starts_with(&format!("{text:?} ")) && refusal.contains(problem), "{refusal}");
        }
    }
}
