//! The tree of access tokens.

use std::sync::Arc;

use ::sled::Tree;
use prost::Message;

use super::{engine::Engine, subscriptions::RegistryError};
use crate::{
    domain::access::{AccessToken, TokenId},
    store::{
        StoreError, TokenRow, Tokens,
        disk::records::{AccessTokenRecord, RecordError, RowRecord, RowTree, TokensKind},
    },
};

/// Name of the tree.
pub const TOKENS_TREE: &str = "access_tokens";

/// The tree of the access tokens.
pub struct TokensTree(Arc<Engine>);

impl TokensTree {
    /// Reads the tree into `tokens`.
    pub fn open(engine: Arc<Engine>, tree: &Tree, tokens: &Tokens) -> Result<Self, RegistryError> {
        for row in tree.scan_prefix([TokensKind::Token as u8]) {
            let (key, value) = row?;
            let token: AccessToken =
                AccessTokenRecord::decode(&*value).map_err(RecordError::from)?.try_into()?;
            if *key != key_of(&token.id) {
                return Err(RecordError(format!("{} is stored under another key", token.id.name())).into());
            }
            tokens.apply(vec![TokenRow::Put(token)]);
        }
        Ok(Self(engine))
    }

    /// Stores rows: all or none.
    pub fn write(&self, rows: &[TokenRow]) -> Result<(), StoreError> {
        let rows = rows.iter().map(|row| match row {
            TokenRow::Put(token) => {
                RowRecord::put(key_of(&token.id), AccessTokenRecord::from(token).encode_to_vec())
            }
            TokenRow::Remove(id) => RowRecord::removed(key_of(id)),
        });
        self.0.change(RowTree::Tokens, rows.collect())
    }
}

fn key_of(id: &TokenId) -> Vec<u8> {
    let mut key = vec![TokensKind::Token as u8];
    key.extend(id.as_str().as_bytes());
    key
}
