//! Names of resources: an id stands for the whole name where the account is chosen.

use anyhow::anyhow;

use super::gateway::Gateway;
use crate::{commands::ending::Ending, domain::ids::AccountScope};

/// `accounts/7`, or `accounts/-` for all.
pub(super) fn account(scope: AccountScope) -> String {
    match scope {
        AccountScope::One(account) => format!("accounts/{account}"),
        AccountScope::All => "accounts/-".to_owned(),
    }
}

/// A name without the part that every name of the chosen account has.
pub(super) fn short<'a>(name: &'a str, scope: Option<AccountScope>, collection: &str) -> &'a str {
    let Some(AccountScope::One(account)) = scope else { return name };
    name.strip_prefix(&format!("accounts/{account}/{collection}/")).unwrap_or(name)
}

impl Gateway {
    /// The account of a list: the chosen one, or all.
    pub(super) fn accounts(&self) -> String {
        account(self.account.unwrap_or(AccountScope::All))
    }

    /// The chosen account, which must be one.
    ///
    /// # Errors
    ///
    /// None is chosen, or all are.
    pub(super) fn one_account(&self) -> Result<String, Ending> {
        match self.account {
            Some(scope @ AccountScope::One(_)) => Ok(account(scope)),
            _ => Err(Ending::Misused(anyhow!(
                "which account? Use --account NUMBER, TIDINGS_ACCOUNT, or a context with an account; or write the whole name"
            ))),
        }
    }

    /// `accounts/7/subscriptions/crm` of `crm`, for this collection. A whole name stays as it is.
    ///
    /// # Errors
    ///
    /// The text is an id, and no account is chosen.
    pub(super) fn name(&self, collection: &str, text: &str) -> Result<String, Ending> {
        match text.starts_with("accounts/") {
            true => Ok(text.to_owned()),
            false => Ok(format!("{}/{collection}/{text}", self.one_account()?)),
        }
    }

    /// The whole name of a subscription.
    ///
    /// # Errors
    ///
    /// As [`Gateway::name`].
    pub(super) fn subscription(&self, text: &str) -> Result<String, Ending> {
        self.name("subscriptions", text)
    }

    /// The whole name of a delivery: `accounts/7/subscriptions/crm/deliveries/order-1` of `crm/order-1`.
    ///
    /// # Errors
    ///
    /// As [`Gateway::name`], or the text has no event.
    pub(super) fn delivery(&self, text: &str) -> Result<String, Ending> {
        if text.starts_with("accounts/") {
            return Ok(text.to_owned());
        }
        match text.split_once('/') {
            Some((subscription, event)) if !event.contains('/') => {
                Ok(format!("{}/deliveries/{event}", self.subscription(subscription)?))
            }
            _ => Err(Ending::Misused(anyhow!(
                "{text:?} is not a delivery such as crm/order-1: a subscription and an event"
            ))),
        }
    }

    /// The subscription whose deliveries a list shows: all without one.
    ///
    /// # Errors
    ///
    /// As [`Gateway::name`].
    pub(super) fn deliveries_of(&self, subscription: Option<&str>) -> Result<String, Ending> {
        match subscription {
            Some(subscription) => self.subscription(subscription),
            None => Ok(format!("{}/subscriptions/-", self.accounts())),
        }
    }
}
