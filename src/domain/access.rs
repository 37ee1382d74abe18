//! Access control: scopes of methods, accounts, and the access tokens that grant both.

use super::ids::{AccountId, AccountScope};

mod client_subject;
mod listen_policy;
mod token;

pub use client_subject::ClientSubject;
pub use listen_policy::{ListenContext, ListenPolicy, OpenToNetwork, listen_policy};
pub use token::{
    ACCOUNTS_MAX, AccessToken, ConfiguredTokenError, DISPLAY_NAME_CHARS_MAX, TOKEN_CHARS_MAX,
    TOKENS_REMEMBERED, TokenHash, TokenId, TokenState, check_configured, new_secret,
};

/// The scope that a method requires. docs/security.md lists the scope of every method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Publishing events. No other scope includes it: an administrator need not be able to publish.
    Publish,
    /// Reading subscriptions, events and deliveries.
    Read,
    /// Changing subscriptions and deliveries; includes reading.
    Manage,
    /// Creating and revoking tokens; includes managing.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 4] = [Self::Publish, Self::Read, Self::Manage, Self::Admin];

    /// Its name in messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Read => "read",
            Self::Manage => "manage",
            Self::Admin => "admin",
        }
    }

    /// Whether this scope grants `other`.
    const fn includes(self, other: Self) -> bool {
        match self {
            Self::Publish => matches!(other, Self::Publish),
            Self::Read => matches!(other, Self::Read),
            Self::Manage => matches!(other, Self::Read | Self::Manage),
            Self::Admin => matches!(other, Self::Read | Self::Manage | Self::Admin),
        }
    }
}

/// The accounts that a caller has access to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accounts {
    /// All accounts, including future ones.
    All,
    /// These accounts: sorted, unique, at least one.
    Only(Vec<AccountId>),
}

impl Accounts {
    /// These accounts; all if the list is empty.
    pub fn of(mut accounts: Vec<AccountId>) -> Self {
        accounts.sort_unstable();
        accounts.dedup();
        if accounts.is_empty() { Self::All } else { Self::Only(accounts) }
    }

    /// Whether these accounts include all of `scope`.
    pub fn cover(&self, scope: AccountScope) -> bool {
        match (self, scope) {
            (Self::All, _) => true,
            (Self::Only(_), AccountScope::All) => false,
            (Self::Only(accounts), AccountScope::One(account)) => accounts.binary_search(&account).is_ok(),
        }
    }

    /// Whether every one of `others` is among these.
    pub fn cover_all(&self, others: &Self) -> bool {
        match (self, others) {
            (Self::All, _) => true,
            (Self::Only(_), Self::All) => false,
            (Self::Only(_), Self::Only(others)) => {
                others.iter().all(|account| self.cover(AccountScope::One(*account)))
            }
        }
    }

    /// The account that a call about a resource of account `of` counts for, with what is shared by accounts: that
    /// one if it is among these, else the first of these.
    pub fn charged(&self, of: Option<AccountId>) -> Option<AccountId> {
        match self {
            Self::All => of,
            Self::Only(accounts) => of
                .filter(|account| self.cover(AccountScope::One(*account)))
                .or_else(|| accounts.first().copied()),
        }
    }

    /// The listed accounts; empty for all.
    pub fn named(&self) -> &[AccountId] {
        match self {
            Self::All => &[],
            Self::Only(accounts) => accounts,
        }
    }
}

/// The rights of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// The granted scopes: sorted, unique.
    pub scopes: Vec<Scope>,
    /// The accounts that calls may name.
    pub accounts: Accounts,
}

impl Rights {
    /// Every scope for all accounts.
    pub fn all() -> Self {
        Self { scopes: Scope::ALL.into(), accounts: Accounts::All }
    }

    /// Whether methods that require `scope` may be called.
    pub fn allow(&self, scope: Scope) -> bool {
        self.scopes.iter().any(|given| given.includes(scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts(numbers: &[i64]) -> Accounts {
        Accounts::of(numbers.iter().map(|number| AccountId::new(*number).unwrap()).collect())
    }

    #[test]
    fn admin_includes_manage_includes_read_and_publish_is_separate() {
        let allowed = |given: Scope| {
            let rights = Rights { scopes: vec![given], accounts: Accounts::All };
            Scope::ALL.into_iter().filter(|scope| rights.allow(*scope)).collect::<Vec<_>>()
        };
        use Scope::{Admin, Manage, Publish, Read};
        assert_eq!(allowed(Publish), [Publish]);
        assert_eq!(allowed(Read), [Read]);
        assert_eq!(allowed(Manage), [Read, Manage]);
        assert_eq!(allowed(Admin), [Read, Manage, Admin]);
        assert!(Scope::ALL.into_iter().all(|scope| Rights::all().allow(scope)));
    }

    #[test]
    fn some_accounts_cover_no_others_and_never_all() {
        let (some, one) = (accounts(&[7, 3, 7]), AccountScope::One(AccountId::new(3).unwrap()));
        assert_eq!(some.named().len(), 2);
        assert!(some.cover(one) && !some.cover(AccountScope::One(AccountId::new(4).unwrap())));
        assert!(!some.cover(AccountScope::All) && accounts(&[]).cover(AccountScope::All));
        assert!(some.cover_all(&accounts(&[7])) && !some.cover_all(&accounts(&[7, 8])));
        assert!(!some.cover_all(&Accounts::All) && Accounts::All.cover_all(&some));
        let [three, four] = [3, 4].map(|number| AccountId::new(number).ok());
        assert_eq!([three, four, None].map(|of| some.charged(of)), [three; 3]);
        assert_eq!([four, None].map(|of| Accounts::All.charged(of)), [four, None]);
    }
}
