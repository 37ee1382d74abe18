//! The use cases about access tokens: who calls, and who gives out what.

use std::{sync::Arc, time::Duration};

use rand::RngExt;

use super::{Gateway, GatewayError, Limit, Page, Resource};
use crate::{
    domain::{
        access::{
            AccessToken, Accounts, Rights, Scope, TOKEN_CHARS_MAX, TokenHash, TokenId, TokenState, new_secret,
        },
        secret::Secret,
        time::UnixMicros,
    },
    store::{Issued, StoreError, TokenChange},
};

/// How often [`Gateway::end_expired_tokens`] is to be called. A token's end takes effect within it.
pub const TOKEN_TICK: Duration = Duration::from_millis(250);
/// Most tokens whose last use is written at once.
const USES_MAX: usize = 1000;

/// Who may call.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// The hash of the token of the configuration, if it has one. Its holder is an administrator.
    pub admin: Option<TokenHash>,
    /// Callers must prove who they are even if there is no token: with a client certificate.
    pub proof_required: bool,
    /// Most tokens of the store, those that are revoked or expired included until they are forgotten.
    pub tokens_max: usize,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self { admin: None, proof_required: false, tokens_max: 10_000 }
    }
}

/// A token to be made.
#[derive(Clone, Debug)]
pub struct CreateAccessToken {
    /// For people.
    pub display_name: String,
    /// What its holder may do.
    pub rights: Rights,
    /// From when on it counts no more.
    pub expire_time: Option<UnixMicros>,
}

/// A token that was made.
#[derive(Clone, Debug)]
pub struct NewAccessToken {
    /// What is stored.
    pub issued: Arc<Issued>,
    /// Its text, which nobody sees again.
    pub secret: Secret,
}

/// Why a token does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// There is no such token.
    Unknown,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// What is known of callers beside the tokens of the store.
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
    /// Whether a caller must prove who it is. True from the first token on.
    pub fn asks_for_proof(&self) -> bool {
        self.0.settings.tokens.proof_required
            || self.0.access.admin.is_some()
            || self.0.store.tokens().are_asked_for()
    }

    /// The token with this text, if it counts: one hash and one look-up.
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
            // Once it was ended it stays so, also if the clock steps back.
            TokenState::Active if issued.ended().is_cancelled() => Err(TokenFault::Expired),
            TokenState::Active => {
                issued.use_at(now);
                Ok(issued)
            }
        }
    }

    /// Makes a token. What `rights` it may have is the caller's to check ([`Accounts::cover_all`]).
    ///
    /// # Errors
    ///
    /// There are too many, it is the first one and could not make another, or the store's.
    pub async fn create_access_token(
        &self,
        create: CreateAccessToken,
    ) -> Result<NewAccessToken, GatewayError> {
        let CreateAccessToken { display_name, rights, expire_time } = create;
        // One after another, so that the bound holds, and that the first one is the first.
        let _adding = self.0.adding.lock().await;
        let tokens = self.0.store.tokens();
        let is_administrators = rights.allow(Scope::Admin) && rights.accounts == Accounts::All;
        if !self.asks_for_proof() && !is_administrators {
            return Err(GatewayError::FirstTokenNotAdmin);
        }
        let (now, max) = (self.0.clock.now(), self.0.settings.tokens.tokens_max);
        if tokens.remembered(now) >= max {
            return Err(GatewayError::TooManyTokens(Limit { name: "access_tokens_max", max: max as u64 }));
        }
        let secret = self.draw(new_secret);
        let id = loop {
            let id = TokenId::made_of(self.draw(RngExt::random));
            if tokens.by_id(&id).is_none() {
                break id;
            }
        };
        let token = AccessToken {
            id: id.clone(),
            display_name,
            hash: TokenHash::of(secret.expose()),
            rights,
            create_time: now,
            expire_time,
            revoke_time: None,
            last_use_time: None,
        };
        self.0.store.change_tokens(TokenChange::Add(token)).await?;
        let issued = tokens.by_id(&id).ok_or_else(|| no_token(&id))?;
        Ok(NewAccessToken { issued, secret })
    }

    /// Reads a token that is limited to some of `accounts`.
    pub fn get_access_token(&self, id: &TokenId, accounts: &Accounts) -> Result<Arc<Issued>, GatewayError> {
        let issued = self.0.store.tokens().by_id(id);
        // The same answer whether there is none or it is none of the caller's business.
        issued.filter(|issued| accounts.cover_all(&issued.token.rights.accounts)).ok_or_else(|| no_token(id))
    }

    /// Lists tokens that are limited to some of `accounts`, by id.
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

    /// Ends a token that is limited to some of `accounts`. One that was ended before stays as it is.
    pub async fn revoke_access_token(
        &self,
        id: &TokenId,
        accounts: &Accounts,
    ) -> Result<Arc<Issued>, GatewayError> {
        self.get_access_token(id, accounts)?;
        match self.0.store.change_tokens(TokenChange::Revoke(id.clone())).await {
            Err(StoreError::TokenNotFound) => return Err(no_token(id)),
            other => other?,
        }
        self.get_access_token(id, accounts)
    }

    /// The time that tokens expire by.
    pub fn now(&self) -> UnixMicros {
        self.0.clock.now()
    }

    /// Ends the tokens whose time is over, on every connection. To be called every [`TOKEN_TICK`].
    pub fn end_expired_tokens(&self) {
        self.0.store.tokens().expire(self.0.clock.now());
    }

    /// Writes down when calls were last made with the tokens, of those where what is written is older than `age`. To be called
    /// from time to time, and at the end with zero.
    ///
    /// # Errors
    ///
    /// The store's.
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
