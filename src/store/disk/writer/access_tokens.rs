//! Writes changes of the access tokens.

use super::Writer;
use crate::{
    domain::{access::TokenId, secret::Secret},
    store::{NewToken, StoreError, TokenChange, TokenRow},
};

impl Writer {
    /// Adds a token. With a request its record is written first, with the whole token, and a repetition
    /// completes a creation that a crash interrupted.
    pub(super) fn create_token(&mut self, new: NewToken) -> Result<(TokenId, Secret), StoreError> {
        self.registry_room()?;
        let NewToken { token, secret, request, tokens_max } = new;
        let now = self.shared.clock.now();
        let (token, secret) = match self.first_result(None, request.as_ref(), now)? {
            None => (token, secret),
            Some(first) => {
                let (token, secret) = first.token()?;
                if self.shared.tokens.by_id(&token.id).is_some() {
                    return Ok((token.id, secret));
                }
                (token, secret)
            }
        };
        let rows = self.shared.tokens.rows_of_new(token.clone(), tokens_max, now)?;
        if let Some(request) = &request {
            self.registry_tree.remember_token(&token, &secret, request, now)?;
        }
        self.write_tokens(rows)?;
        Ok((token.id, secret))
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
