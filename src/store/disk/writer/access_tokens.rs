//! Writes changes of the access tokens.

use super::Writer;
use crate::{
    domain::{
        access::{AccessToken, TokenId},
        secret::Secret,
    },
    store::{NewToken, StoreError, TokenChange, TokenRow, disk::kv::subscriptions::FirstResult},
};

impl Writer {
    /// Adds a token. With a request its record is written first, with the token, and a repetition completes a
    /// creation that a crash interrupted, with a text of its own: nobody has got the first one.
    pub(super) fn create_token(&mut self, new: NewToken) -> Result<(TokenId, Option<Secret>), StoreError> {
        self.registry_room()?;
        let NewToken { token, secret, request, tokens_max, administrator } = new;
        let now = self.shared.clock.now();
        let first = self.first_result(None, request.as_ref(), now)?.map(FirstResult::token).transpose()?;
        if let Some(first) = &first
            && self.shared.tokens.by_id(&first.id).is_some()
        {
            return Ok((first.id.clone(), None));
        }
        let is_remembered = first.is_some();
        let token = match first {
            None => token,
            Some(first) => AccessToken { hash: token.hash, ..first },
        };
        let id = token.id.clone();
        let rows = self.shared.tokens.rows_of_new(token.clone(), tokens_max, &administrator, now)?;
        // A repetition of their requests must not create them again.
        let removed = rows.iter().filter_map(TokenRow::removed).cloned().collect::<Vec<_>>();
        self.registry_tree.forget_requests_of(&removed)?;
        if let Some(request) = request.filter(|_| !is_remembered) {
            self.registry_tree.remember_token(&token, &request, now)?;
        }
        self.write_tokens(rows)?;
        Ok((id, Some(secret)))
    }

    pub(super) fn change_tokens(&mut self, change: TokenChange) -> Result<(), StoreError> {
        self.registry_room()?;
        let rows = self.shared.tokens.rows_of(change, self.shared.clock.now())?;
        if rows.is_empty() { Ok(()) } else { self.write_tokens(rows) }
    }

    fn write_tokens(&mut self, rows: Vec<TokenRow>) -> Result<(), StoreError> {
        self.tokens_tree.write(&rows)?;
        self.shared.tokens.apply(rows);
        Ok(())
    }
}
