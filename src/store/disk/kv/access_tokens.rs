//! The tree of access tokens.

use ::sled::{Batch, Tree};
use prost::Message;

use super::subscriptions::RegistryError;
use crate::{
    domain::access::{AccessToken, TokenId},
    store::{
        TokenRow, Tokens,
        disk::records::{AccessTokenRecord, RecordError, TokensKind},
    },
};

/// Name of the tree.
pub const TOKENS_TREE: &str = "access_tokens";

/// The tree of the access tokens.
pub struct TokensTree(Tree);

impl TokensTree {
    /// Reads the tree into `tokens`.
    pub fn open(tree: Tree, tokens: &Tokens) -> Result<Self, RegistryError> {
        for row in tree.scan_prefix([TokensKind::Token as u8]) {
            let (key, value) = row?;
            let token: AccessToken =
                AccessTokenRecord::decode(&*value).map_err(RecordError::from)?.try_into()?;
            if *key != key_of(&token.id) {
                return Err(RecordError(format!("{} is stored under another key", token.id.name())).into());
            }
            tokens.apply(vec![TokenRow::Put(token)]);
        }
        Ok(Self(tree))
    }

    /// Stores rows: all or none.
    pub fn write(&self, rows: &[TokenRow]) -> Result<(), RegistryError> {
        let mut batch = Batch::default();
        for row in rows {
            match row {
                TokenRow::Put(token) => {
                    batch.insert(key_of(&token.id), AccessTokenRecord::from(token).encode_to_vec());
                }
                TokenRow::Remove(id) => batch.remove(key_of(id)),
            }
        }
        Ok(self.0.apply_batch(batch)?)
    }
}

fn key_of(id: &TokenId) -> Vec<u8> {
    let mut key = vec![TokensKind::Token as u8];
    key.extend(id.as_str().as_bytes());
    key
}
