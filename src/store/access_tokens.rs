//! The access tokens in memory, always as they are on disk. Engines write them; everybody reads them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{
        Arc, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicI64, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

use super::error::StoreError;
use crate::domain::{
    access::{AccessToken, Accounts, TokenHash, TokenId, TokenState},
    shared_limit::SharedLimit,
    time::UnixMicros,
};

/// A change of the tokens.
#[derive(Clone, Debug)]
pub enum TokenChange {
    /// Revokes this token. A token that is revoked already stays as it is.
    Revoke(TokenId),
    /// When calls were last made with these. Those that are gone count for nothing.
    Used(Vec<(TokenId, UnixMicros)>),
}

/// A row to be written. For engines.
#[derive(Clone, Debug)]
pub enum TokenRow {
    /// The token as it is from now on.
    Put(AccessToken),
    /// It is gone.
    Remove(TokenId),
}

impl TokenRow {
    /// The token that it removes.
    pub fn removed(&self) -> Option<&TokenId> {
        match self {
            Self::Put(_) => None,
            Self::Remove(id) => Some(id),
        }
    }
}

/// An issued token: its record, its end and its last use.
#[derive(Debug)]
pub struct Issued {
    /// The stored token.
    pub token: AccessToken,
    /// Cancelled when the token is no longer valid.
    ended: CancellationToken,
    /// In microseconds since the epoch; 0 for never.
    last_use: AtomicI64,
}

impl Issued {
    /// A token that is valid from now on.
    pub fn new(token: AccessToken) -> Self {
        let last_use = AtomicI64::new(token.last_use_time.map_or(0, |time| time.0));
        Self { ended: CancellationToken::new(), last_use, token }
    }

    /// Cancelled when the token is no longer valid.
    pub fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// Notes that a call is made with it. Nothing is written down by this.
    pub fn use_at(&self, now: UnixMicros) {
        /// Calls of the same second need not touch memory that all of them share.
        const GRAIN_MICROS: i64 = 1_000_000;
        if now.0.saturating_sub(self.last_use.load(Ordering::Relaxed)) >= GRAIN_MICROS {
            self.last_use.store(now.0, Ordering::Relaxed);
        }
    }

    /// When a call was last made with it.
    pub fn last_use(&self) -> Option<UnixMicros> {
        Some(UnixMicros(self.last_use.load(Ordering::Relaxed))).filter(|time| time.0 > 0)
    }

    /// Whether it has ended, and no call was ever made with it.
    fn is_waste(&self, now: UnixMicros) -> bool {
        self.token.state(now) != TokenState::Active && self.last_use().is_none()
    }

    /// The same with the token as stored now. Holders of the previous one notice its end.
    fn changed(&self, token: AccessToken) -> Self {
        let last_use = AtomicI64::new(self.last_use.load(Ordering::Relaxed));
        Self { ended: self.ended.clone(), last_use, token }
    }
}

/// A part of the tokens is for each administrator of some accounts: one in this many.
const ADMINISTRATOR_PARTS: u64 = 4;

/// Errors if an administrator of these accounts has its share of tokens. The last quarter is for those who have
/// few, so one of all accounts may have the others.
fn check_share(kept: &[&Arc<Issued>], max: usize, administrator: &Accounts) -> Result<(), StoreError> {
    let max = max as u64;
    let own_max = match administrator {
        Accounts::All => max,
        Accounts::Only(_) => max.div_ceil(ADMINISTRATOR_PARTS),
    };
    let own = kept.iter().filter(|issued| administrator.cover_all(&issued.token.rights.accounts));
    let (own, in_all) = (own.count() as u64, kept.len() as u64);
    let share = SharedLimit { max, own_max }.share(in_all, 1);
    if own < share { Ok(()) } else { Err(StoreError::TooManyTokens { share }) }
}

/// Every token that is remembered, by hash and by id.
#[derive(Debug, Default)]
pub struct Tokens {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_key: foldhash::HashMap<u128, Arc<Issued>>,
    by_id: BTreeMap<TokenId, Arc<Issued>>,
    /// Those that count and end by themselves.
    expiring: BTreeSet<(UnixMicros, TokenId)>,
}

impl Tokens {
    /// Whether calls need a token: from the first token on, for ever, even if all are revoked. The last one
    /// is never forgotten, so this survives a restart.
    pub fn are_asked_for(&self) -> bool {
        !self.read().by_id.is_empty()
    }

    /// The token with this hash, valid or not.
    pub fn by_hash(&self, hash: &TokenHash) -> Option<Arc<Issued>> {
        let found = self.read().by_key.get(&hash.key()).cloned();
        found.filter(|issued| issued.token.hash == *hash)
    }

    /// The token with this id, valid or not.
    pub fn by_id(&self, id: &TokenId) -> Option<Arc<Issued>> {
        self.read().by_id.get(id).cloned()
    }

    /// Tokens by id, after `after`, as long as `take` wants more.
    ///
    /// `take` is given each in turn, and ends the walk by returning false.
    pub fn walk(&self, after: Option<&TokenId>, mut take: impl FnMut(&Arc<Issued>) -> bool) {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for issued in
            self.read().by_id.range::<TokenId, _>((from, Bound::Unbounded)).map(|(_, issued)| issued)
        {
            if !take(issued) {
                return;
            }
        }
    }

    /// Ends those whose time is over. Looks at no others.
    pub fn expire(&self, now: UnixMicros) {
        // Most of the time none is: then nobody is kept from reading.
        if self.read().expiring.first().is_none_or(|(time, _)| *time > now) {
            return;
        }
        let mut inner = self.write();
        while let Some((time, id)) = inner.expiring.pop_first() {
            if time > now {
                inner.expiring.insert((time, id));
                return;
            }
            if let Some(issued) = inner.by_id.get(&id) {
                issued.ended.cancel();
            }
        }
    }

    /// The rows that one more token is made of; nothing has changed yet. Those that are to be forgotten go, and if
    /// there is no room otherwise those that ended and were never used. For engines.
    pub(super) fn rows_of_new(
        &self,
        token: AccessToken,
        max: usize,
        administrator: &Accounts,
        now: UnixMicros,
    ) -> Result<Vec<TokenRow>, StoreError> {
        let inner = self.read();
        let (mut removed, mut kept): (Vec<_>, Vec<_>) =
            inner.by_id.values().partition(|issued| issued.token.is_forgotten(now));
        if check_share(&kept, max, administrator).is_err() {
            let (unused, used): (Vec<_>, Vec<_>) = kept.into_iter().partition(|issued| issued.is_waste(now));
            removed.extend(unused);
            kept = used;
            check_share(&kept, max, administrator)?;
        }
        let removed = removed.into_iter().map(|issued| TokenRow::Remove(issued.token.id.clone()));
        Ok(removed.chain([TokenRow::Put(token)]).collect())
    }

    /// The rows that a change is made of; nothing has changed yet. For engines.
    pub(super) fn rows_of(&self, change: TokenChange, now: UnixMicros) -> Result<Vec<TokenRow>, StoreError> {
        let inner = self.read();
        match change {
            TokenChange::Revoke(id) => {
                let issued = inner.by_id.get(&id).ok_or(StoreError::TokenNotFound)?;
                if issued.token.revoke_time.is_some() {
                    return Ok(Vec::new());
                }
                let (revoke_time, last_use_time) = (Some(now), issued.last_use());
                Ok(vec![TokenRow::Put(AccessToken { revoke_time, last_use_time, ..issued.token.clone() })])
            }
            TokenChange::Used(uses) => {
                let row = |(id, time): (TokenId, UnixMicros)| {
                    let token = inner.by_id.get(&id)?.token.clone();
                    Some(TokenRow::Put(AccessToken { last_use_time: Some(time), ..token }))
                };
                Ok(uses.into_iter().filter_map(row).collect())
            }
        }
    }

    /// Takes over rows that are on disk. For engines.
    pub(super) fn apply(&self, rows: Vec<TokenRow>) {
        let mut inner = self.write();
        for row in rows {
            match row {
                TokenRow::Put(token) => inner.put(token),
                TokenRow::Remove(id) => inner.remove(&id),
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().expect("no code panics while it holds this lock")
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().expect("no code panics while it holds this lock")
    }
}

impl Inner {
    fn put(&mut self, token: AccessToken) {
        let (id, key) = (token.id.clone(), token.hash.key());
        let issued = match self.by_id.get(&id) {
            Some(before) => before.changed(token),
            None => Issued::new(token),
        };
        if let Some(time) = issued.token.expire_time {
            if issued.token.revoke_time.is_some() || issued.ended.is_cancelled() {
                self.expiring.remove(&(time, id.clone()));
            } else {
                self.expiring.insert((time, id.clone()));
            }
        }
        if issued.token.revoke_time.is_some() {
            issued.ended.cancel();
        }
        let issued = Arc::new(issued);
        self.by_key.insert(key, Arc::clone(&issued));
        self.by_id.insert(id, issued);
    }

    fn remove(&mut self, id: &TokenId) {
        if let Some(issued) = self.by_id.remove(id) {
            issued.ended.cancel();
            self.by_key.remove(&issued.token.hash.key());
            if let Some(time) = issued.token.expire_time {
                self.expiring.remove(&(time, id.clone()));
            }
        }
    }
}
