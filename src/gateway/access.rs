//! Use cases of access tokens: authenticate, create, list, revoke.

use std::{sync::Arc, time::Duration};

use rand::RngExt;

use super::{Applied, Gateway, GatewayError, Limit, Page, Resource};
use crate::{
    domain::{
        access::{
            AccessToken, Accounts, Rights, Scope, TOKEN_CHARS_MAX, TokenHash, TokenId, TokenState, new_secret,
        },
        secret::Secret,
        time::UnixMicros,
    },
    store::{Issued, NewToken, RequestKey, StoreError, TokenChange},
};

/// How often [`Gateway::end_expired_tokens`] is to be called. An expiry takes effect within this time.
pub const TOKEN_TICK: Duration = Duration::from_millis(250);
/// Most tokens whose last use is written by one call.
const USES_MAX: usize = 1000;

/// Settings of access control.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// Hash of the administrator's token, if one is configured.
    pub admin: Option<TokenHash>,
    /// Callers must authenticate even without any token, because clients need a certificate.
    pub proof_required: bool,
    /// The configuration says what certificates grant, so that the first token takes nothing away from them.
    pub certificates_listed: bool,
    /// Most tokens in the store. Revoked and expired ones count until they are forgotten. An administrator of some
    /// accounts may have a quarter, and the last quarter is for those who have few.
    pub tokens_max: usize,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self { admin: None, proof_required: false, certificates_listed: false, tokens_max: 10_000 }
    }
}

/// A token to create.
#[derive(Clone, Debug)]
pub struct CreateAccessToken {
    /// A name for people.
    pub display_name: String,
    /// Scopes and accounts.
    pub rights: Rights,
    /// When it expires, if it does.
    pub expire_time: Option<UnixMicros>,
    /// The accounts of the administrator who creates it.
    pub administrator: Accounts,
    /// Identifies the request: a repetition returns the first result, without the text.
    pub request: Option<RequestKey>,
}

/// A created token.
#[derive(Clone, Debug)]
pub struct NewAccessToken {
    /// The stored token.
    pub issued: Arc<Issued>,
    /// Its text. Only its hash is stored, so it cannot be shown again; `None` for a repeated request.
    pub secret: Option<Secret>,
}

/// Why a token is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// No token has this text.
    Unknown,
    /// It has expired.
    Expired,
    /// It was revoked.
    Revoked,
}

/// The administrator's token, which is not in the store.
pub(super) struct Access {
    admin: Option<Arc<Issued>>,
}

impl Access {
    pub(super) fn new(settings: &TokenSettings) -> Self {
        let admin = settings.admin.map(|hash| {
            Arc::new(Issued::new(AccessToken {
                id: TokenId::configured(),
                display_name: String::new(),
                hash,
                rights: Rights { scopes: vec![Scope::Admin], accounts: Accounts::All },
                create_time: UnixMicros(0),
                expire_time: None,
                revoke_time: None,
                last_use_time: None,
            }))
        });
        Self { admin }
    }
}

impl Gateway {
    /// Whether callers must authenticate. True from the first token on.
    pub fn asks_for_proof(&self) -> bool {
        self.0.settings.tokens.proof_required || self.has_tokens()
    }

    /// Whether there is or was any token. From the first one on, a client certificate alone grants no more than the
    /// configuration says.
    pub fn has_tokens(&self) -> bool {
        self.0.access.admin.is_some() || self.0.store.tokens().are_asked_for()
    }

    /// Looks up the token with this text: one hash and one lookup.
    ///
    /// # Errors
    ///
    /// The token is unknown, expired or revoked.
    pub fn authenticate(&self, text: &str) -> Result<Arc<Issued>, TokenFault> {
        if text.len() > TOKEN_CHARS_MAX {
            return Err(TokenFault::Unknown);
        }
        let hash = TokenHash::of(text);
        if let Some(admin) = self.0.access.admin.as_ref().filter(|admin| admin.token.hash == hash) {
            return Ok(Arc::clone(admin));
        }
        let issued = self.0.store.tokens().by_hash(&hash).ok_or(TokenFault::Unknown)?;
        let now = self.0.clock.now();
        match issued.token.state(now) {
            TokenState::Revoked => Err(TokenFault::Revoked),
            TokenState::Expired => Err(TokenFault::Expired),
            // An expired token stays expired, even if the clock steps back.
            TokenState::Active if issued.ended().is_cancelled() => Err(TokenFault::Expired),
            TokenState::Active => {
                issued.use_at(now);
                Ok(issued)
            }
        }
    }

    /// Creates a token. Whether the caller may grant these `rights` is checked before
    /// ([`Accounts::cover_all`]).
    ///
    /// # Errors
    ///
    /// The limit of tokens is reached, the first token is not an administrator's, or the store failed.
    pub async fn create_access_token(
        &self,
        create: CreateAccessToken,
    ) -> Result<NewAccessToken, GatewayError> {
        let CreateAccessToken { display_name, rights, expire_time, administrator, request } = create;
        // One at a time, so that the limit holds and only one token can be the first.
        let _adding = self.0.adding.lock().await;
        let tokens = self.0.store.tokens();
        let is_administrators = rights.allow(Scope::Admin) && rights.accounts == Accounts::All;
        let is_first = !self.has_tokens() && !self.0.settings.tokens.certificates_listed;
        if is_first && !is_administrators {
            return Err(GatewayError::FirstTokenNotAdmin);
        }
        let (now, tokens_max) = (self.0.clock.now(), self.0.settings.tokens.tokens_max);
        let secret = self.with_rng(new_secret);
        let id = loop {
            let id = TokenId::made_of(self.with_rng(RngExt::random));
            if tokens.by_id(&id).is_none() {
                break id;
            }
        };
        let token = AccessToken {
            id,
            display_name,
            hash: TokenHash::of(secret.expose()),
            rights,
            create_time: now,
            expire_time,
            revoke_time: None,
            last_use_time: None,
        };
        let new = NewToken { token, secret, request, tokens_max, administrator };
        let created = self.0.store.create_token(new).await;
        let (id, secret) = created.map_err(|error| match error {
            StoreError::TooManyTokens { share } => {
                let limit = Limit { name: "access_tokens_max", max: tokens_max as u64 };
                GatewayError::TooManyTokens { limit, share }
            }
            other => other.into(),
        })?;
        let issued = tokens.by_id(&id).ok_or_else(|| no_token(&id))?;
        Ok(NewAccessToken { issued, secret })
    }

    /// Reads a token whose accounts are all among `accounts`.
    pub fn get_access_token(&self, id: &TokenId, accounts: &Accounts) -> Result<Arc<Issued>, GatewayError> {
        let issued = self.0.store.tokens().by_id(id);
        // The same error for a missing token and for one of other accounts: callers cannot probe for tokens.
        issued.filter(|issued| accounts.cover_all(&issued.token.rights.accounts)).ok_or_else(|| no_token(id))
    }

    /// Lists tokens whose accounts are all among `accounts`, by id.
    pub fn list_access_tokens(
        &self,
        accounts: &Accounts,
        after: Option<&TokenId>,
        limit: usize,
    ) -> Page<Arc<Issued>, TokenId> {
        let mut rows = Vec::new();
        self.0.store.tokens().walk(after, |issued| {
            if accounts.cover_all(&issued.token.rights.accounts) {
                rows.push(Arc::clone(issued));
            }
            rows.len() <= limit
        });
        Page::cut(rows, limit, |issued| issued.token.id.clone())
    }

    /// Revokes a token whose accounts are all among `accounts`. A token that was revoked before stays as it
    /// is.
    pub async fn revoke_access_token(
        &self,
        id: &TokenId,
        accounts: &Accounts,
    ) -> Result<Applied<Arc<Issued>>, GatewayError> {
        let changed = self.get_access_token(id, accounts)?.token.revoke_time.is_none();
        match self.0.store.change_tokens(TokenChange::Revoke(id.clone())).await {
            Err(StoreError::TokenNotFound) => return Err(no_token(id)),
            other => other?,
        }
        Ok(Applied { result: self.get_access_token(id, accounts)?, changed })
    }

    /// The current time, which decides whether tokens have expired.
    pub fn now(&self) -> UnixMicros {
        self.0.clock.now()
    }

    /// Ends the streams of tokens that have expired. To be called every [`TOKEN_TICK`].
    pub fn end_expired_tokens(&self) {
        self.0.store.tokens().expire(self.0.clock.now());
    }

    /// Stores the last use of tokens whose stored time is out of date by `age` or more. To be called at
    /// intervals, and with zero at the shutdown.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn write_token_uses(&self, age: Duration) -> Result<(), GatewayError> {
        let mut uses = Vec::new();
        self.0.store.tokens().walk(None, |issued| {
            if let Some(last) = issued.last_use() {
                let written = issued.token.last_use_time.unwrap_or_default();
                if last > written && last.since(written) >= age {
                    uses.push((issued.token.id.clone(), last));
                }
            }
            uses.len() < USES_MAX
        });
        if !uses.is_empty() {
            self.0.store.change_tokens(TokenChange::Used(uses)).await?;
        }
        Ok(())
    }
}

fn no_token(id: &TokenId) -> GatewayError {
    GatewayError::NotFound(Resource::AccessToken(id.clone()))
}
