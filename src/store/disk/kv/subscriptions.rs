//! The tree of subscriptions and request ids: one tree, so that both change in one batch. Its secrets are
//! sealed with one key.

use std::{collections::BTreeMap, io, sync::Arc};

use ::sled::Tree;
use prost::Message;
use rand::rngs::StdRng;
use uuid::Uuid;

use super::{
    engine::Engine,
    requests::{
        REQUEST_KEY_BYTES, REQUEST_MEMORY, Remembered, RememberedRequests, RequestEntry, RequestRowKey,
    },
};

use crate::{
    descriptors,
    domain::{
        access::{AccessToken, TokenId},
        ids::{AccountId, SubscriptionKey},
        seal::{KeyId, SealContext, SealError, SealingKeys, key_of},
        secret::Secret,
        subscription::Subscription,
        time::UnixMicros,
    },
    store::{
        RequestKey, StoreError,
        disk::{
            fs::is_for_want_of_room,
            index::volume::SUBSCRIPTION_KEY_MAX,
            records::{
                AccessTokenRecord, RecordError, RegistryKind, RequestRecord, RowRecord, RowTree,
                SubscriptionRecord,
            },
        },
    },
};

/// Name of the tree.
pub(in crate::store::disk) const REGISTRY_TREE: &str = "registry";

/// Why the registry could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] ::sled::Error),
    /// The record is invalid.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The file system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl RegistryError {
    /// What a write lacked, if it can succeed later.
    pub fn lack(&self) -> Option<StoreError> {
        match self {
            Self::Engine(::sled::Error::Io(error)) | Self::Io(error) if is_for_want_of_room(error) => {
                Some(StoreError::Full)
            }
            Self::Engine(::sled::Error::Io(error)) | Self::Io(error) if descriptors::is_exhausted(error) => {
                Some(StoreError::NoDescriptor)
            }
            _ => None,
        }
    }
}

/// How the secrets of a store are sealed, as far as some keys tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedWith {
    /// With one of these keys.
    These,
    /// With one of these keys, but for URLs, which are in the clear.
    TheseButUrls,
    /// With others, or not at all.
    Others,
}

/// The tree of the registry.
pub struct RegistryTree {
    engine: Arc<Engine>,
    store: Uuid,
    last_key: u64,
    /// The requests that are remembered.
    requests: RememberedRequests,
    /// The subscriptions that have older secrets, with when the first of these ends.
    older_secrets: BTreeMap<SubscriptionKey, UnixMicros>,
    /// The first is the one that the tree is sealed with.
    keys: SealingKeys,
    /// For nonces.
    random: StdRng,
}

impl RegistryTree {
    /// Writes the id of a new store, and the key that its secrets will be sealed with.
    pub fn create_store(
        tree: &Tree,
        store: Uuid,
        keys: &SealingKeys,
        random: &mut StdRng,
    ) -> Result<(), RegistryError> {
        tree.insert([RegistryKind::Store as u8], store.as_bytes())?;
        Self::note_key(tree, keys, random)
    }

    /// Writes down that the first of the keys is the one that every secret is sealed with, URLs among them.
    pub fn note_key(tree: &Tree, keys: &SealingKeys, random: &mut StdRng) -> Result<(), RegistryError> {
        let context = SealContext { owner: store_id(tree)?, field: KEY_FIELD };
        let sealed = keys.seal(&Secret::new(URLS_TOO), context, random);
        tree.insert([RegistryKind::SecretsKey as u8], sealed)?;
        Ok(())
    }

    /// The key that every secret is sealed with; `None` if they are in the clear.
    pub fn key_of(tree: &Tree) -> Result<Option<KeyId>, RegistryError> {
        let noted = tree.get([RegistryKind::SecretsKey as u8])?;
        noted.map(|noted| key_of(&noted)).transpose().map_err(|why| unreadable_key(why).into())
    }

    /// Whether that key is among these, and URLs are sealed with it as well.
    pub fn sealed_with(tree: &Tree, keys: &SealingKeys) -> Result<SealedWith, RegistryError> {
        let Some(noted) = tree.get([RegistryKind::SecretsKey as u8])? else { return Ok(SealedWith::Others) };
        match keys.open(&noted, SealContext { owner: store_id(tree)?, field: KEY_FIELD }) {
            Ok(noted) if noted.expose() == URLS_TOO => Ok(SealedWith::These),
            Ok(_) => Ok(SealedWith::TheseButUrls),
            Err(SealError::UnknownKey(_) | SealError::NotGenuine) => Ok(SealedWith::Others),
            Err(why @ SealError::Malformed) => Err(unreadable_key(why).into()),
        }
    }

    /// The id of the store.
    pub fn store(&self) -> Uuid {
        self.store
    }

    /// Reads the tree, and gives `take` one subscription after another, the oldest first.
    pub fn open(
        engine: Arc<Engine>,
        tree: &Tree,
        keys: SealingKeys,
        random: StdRng,
        mut take: impl FnMut(Subscription),
    ) -> Result<Self, RegistryError> {
        let mut highest = 0;
        let (mut requests, mut older_secrets) = (RememberedRequests::default(), BTreeMap::new());
        for row in tree.scan_prefix([RegistryKind::Subscription as u8]) {
            let (key, value) = row?;
            let subscription = subscription_of(&key, &value, &keys)?;
            highest = subscription.key.0;
            note_older_secrets(&mut older_secrets, &subscription);
            take(subscription);
        }
        for row in tree.scan_prefix([RegistryKind::Request as u8]) {
            let (key, value) = row?;
            let (entry, remembered) = request_of(&key, &value)?;
            requests.add(entry, remembered);
        }
        let last_key = match tree.get([RegistryKind::LastKey as u8])? {
            None => 0,
            Some(value) => u64::from_be_bytes(
                value.as_ref().try_into().map_err(|_| RecordError("the last subscription key".to_owned()))?,
            ),
        };
        if highest > last_key {
            return Err(
                RecordError(format!("subscription key {highest} is past the last one, {last_key}")).into()
            );
        }
        let store = store_id(tree)?;
        Ok(Self { engine, store, last_key, requests, older_secrets, keys, random })
    }

    /// A key that no subscription ever had.
    pub fn next_key(&self) -> Result<SubscriptionKey, RegistryError> {
        let key = self.last_key + 1;
        if key > SUBSCRIPTION_KEY_MAX {
            return Err(RecordError("no subscription key is left".to_owned()).into());
        }
        Ok(SubscriptionKey(key))
    }

    /// Adds a subscription under the next key, and its request id.
    pub fn create(
        &mut self,
        subscription: &Subscription,
        request: Option<&RequestKey>,
        now: UnixMicros,
    ) -> Result<(), StoreError> {
        let rows = vec![RowRecord::put([RegistryKind::LastKey as u8], subscription.key.0.to_be_bytes())];
        self.put_with(rows, subscription, request, now)?;
        self.last_key = subscription.key.0;
        Ok(())
    }

    /// Stores a changed subscription, and the id of the request that changed it.
    pub fn put(
        &mut self,
        subscription: &Subscription,
        request: Option<&RequestKey>,
        now: UnixMicros,
    ) -> Result<(), StoreError> {
        self.put_with(Vec::new(), subscription, request, now)
    }

    fn put_with(
        &mut self,
        mut rows: Vec<RowRecord>,
        subscription: &Subscription,
        request: Option<&RequestKey>,
        now: UnixMicros,
    ) -> Result<(), StoreError> {
        let record = self.sealed(subscription).map_err(RegistryError::from)?;
        rows.push(RowRecord::put(tree_key(subscription.key), record.encode_to_vec()));
        match request {
            None => self.engine.change(RowTree::Registry, rows)?,
            Some(request) => {
                let result = RequestRecord { subscription: Some(record), ..RequestRecord::default() };
                let key = request_key(Some(subscription.name.account), request.id);
                self.remember(rows, key, request, result, now)?;
            }
        }
        note_older_secrets(&mut self.older_secrets, subscription);
        Ok(())
    }

    /// Stores the id of a request that creates an access token, with the token.
    pub fn remember_token(
        &mut self,
        token: &AccessToken,
        request: &RequestKey,
        now: UnixMicros,
    ) -> Result<(), StoreError> {
        let result = RequestRecord { token: Some(token.into()), ..RequestRecord::default() };
        self.remember(Vec::new(), request_key(None, request.id), request, result, now)
    }

    /// Stores the id of a request with its result and these rows. Forgets expired ids, and the oldest of the
    /// account beyond its bounds.
    fn remember(
        &mut self,
        rows: Vec<RowRecord>,
        key: RequestRowKey,
        request: &RequestKey,
        result: RequestRecord,
        now: UnixMicros,
    ) -> Result<(), StoreError> {
        let token = result.token.as_ref().map(AccessTokenRecord::token_id).transpose();
        let token = token.map_err(RegistryError::from)?;
        let record = RequestRecord { time: now.0, fingerprint: request.fingerprint.to_vec(), ..result };
        let value = record.encode_to_vec();
        let bytes = value.len() as u64;
        let mut forgotten: Vec<RequestEntry> = self.requests.old(now).collect();
        forgotten.extend(self.requests.in_excess(&key, bytes));
        // First, since an expired one may have the same id.
        let removed = forgotten.iter().map(|(_, key)| RowRecord::removed(*key));
        let rows = removed.chain(rows).chain([RowRecord::put(key, value)]);
        self.engine.change(RowTree::Registry, rows.collect())?;
        forgotten.iter().for_each(|entry| self.requests.remove(entry));
        self.requests.add((now, key), Remembered { bytes, token });
        Ok(())
    }

    /// Forgets the ids of the requests that created these access tokens.
    pub fn forget_requests_of(&mut self, tokens: &[TokenId]) -> Result<(), StoreError> {
        let forgotten = if tokens.is_empty() { Vec::new() } else { self.requests.of_tokens(tokens) };
        if forgotten.is_empty() {
            return Ok(());
        }
        let rows = forgotten.iter().map(|(_, key)| RowRecord::removed(*key)).collect();
        self.engine.change(RowTree::Registry, rows)?;
        forgotten.iter().for_each(|entry| self.requests.remove(entry));
        Ok(())
    }

    /// Removes a subscription. Its request id is remembered all the same.
    pub fn remove(&mut self, key: SubscriptionKey) -> Result<(), StoreError> {
        self.engine.change(RowTree::Registry, vec![RowRecord::removed(tree_key(key))])?;
        self.older_secrets.remove(&key);
        Ok(())
    }

    /// The subscriptions with older secrets that do not sign any more.
    pub fn with_old_secrets(&self, now: UnixMicros) -> Vec<SubscriptionKey> {
        self.older_secrets.iter().filter(|(_, end)| **end <= now).map(|(key, _)| *key).collect()
    }

    /// Whether requests are remembered that are older than [`REQUEST_MEMORY`].
    pub fn has_old_requests(&self, now: UnixMicros) -> bool {
        self.requests.old(now).next().is_some()
    }

    /// Forgets these, and stores subscriptions that lost expired secrets.
    pub fn forget(&mut self, changed: &[Subscription], now: UnixMicros) -> Result<(), StoreError> {
        let old: Vec<RequestEntry> = self.requests.old(now).collect();
        let mut rows: Vec<_> = old.iter().map(|(_, key)| RowRecord::removed(*key)).collect();
        for subscription in changed {
            rows.push(self.row_of(subscription).map_err(RegistryError::from)?);
        }
        self.engine.change(RowTree::Registry, rows)?;
        old.iter().for_each(|entry| self.requests.remove(entry));
        changed.iter().for_each(|subscription| note_older_secrets(&mut self.older_secrets, subscription));
        Ok(())
    }

    fn row_of(&mut self, subscription: &Subscription) -> Result<RowRecord, RecordError> {
        Ok(RowRecord::put(tree_key(subscription.key), self.sealed(subscription)?.encode_to_vec()))
    }

    /// The record of a subscription, as it may be written.
    fn sealed(&mut self, subscription: &Subscription) -> Result<SubscriptionRecord, RecordError> {
        let mut record = SubscriptionRecord::from(subscription);
        record.seal(&self.keys, &mut self.random)?;
        Ok(record)
    }

    /// The recent use of a request id, of an account or of none: the digest of the request, and its result.
    pub fn request(
        &self,
        account: Option<AccountId>,
        id: Uuid,
        now: UnixMicros,
    ) -> Result<Option<(Vec<u8>, FirstResult)>, StoreError> {
        let key = request_key(account, id);
        self.engine.with(|sled| {
            let tree = sled.tree(REGISTRY_TREE)?;
            let Some(value) = tree.get(key)? else { return Ok(None) };
            let (time, fingerprint, first) = response_of(&value, &self.keys)?;
            Ok((now.since(time) <= REQUEST_MEMORY).then_some((fingerprint, first)))
        })
    }
}

/// The result of the first use of a request id.
pub enum FirstResult {
    /// A subscription, as the request made or changed it.
    Subscription(Arc<Subscription>),
    /// An access token, as it was created.
    Token(Box<AccessToken>),
}

impl FirstResult {
    /// The subscription.
    ///
    /// # Errors
    ///
    /// It is something else. Requests of accounts have subscriptions as their results.
    pub fn subscription(self) -> Result<Arc<Subscription>, StoreError> {
        match self {
            Self::Subscription(subscription) => Ok(subscription),
            Self::Token(_) => Err(RegistryError::from(no_result()).into()),
        }
    }

    /// The token.
    ///
    /// # Errors
    ///
    /// It is something else. Requests without an account have tokens as their results.
    pub fn token(self) -> Result<AccessToken, StoreError> {
        match self {
            Self::Token(token) => Ok(*token),
            Self::Subscription(_) => Err(RegistryError::from(no_result()).into()),
        }
    }
}

fn no_result() -> RecordError {
    RecordError("a request without its result".to_owned())
}

/// The subscription of a row.
pub(crate) fn subscription_of(
    key: &[u8],
    value: &[u8],
    keys: &SealingKeys,
) -> Result<Subscription, RecordError> {
    let mut record = SubscriptionRecord::decode(value)?;
    record.open(keys)?;
    let subscription = Subscription::try_from(record)?;
    if key != tree_key(subscription.key) {
        return Err(RecordError(format!("{} is stored under another subscription's key", subscription.name)));
    }
    Ok(subscription)
}

fn note_older_secrets(ends: &mut BTreeMap<SubscriptionKey, UnixMicros>, subscription: &Subscription) {
    match subscription.signing_secrets.older.iter().map(|older| older.until).min() {
        Some(end) => drop(ends.insert(subscription.key, end)),
        None => drop(ends.remove(&subscription.key)),
    }
}

/// A row of the tree with its secrets sealed with the first of the keys, however they are sealed now. `None`
/// for the row of the key itself, which [`RegistryTree::note_key`] writes.
pub fn reseal(
    key: &[u8],
    value: &[u8],
    keys: &SealingKeys,
    random: &mut StdRng,
) -> Result<Option<Vec<u8>>, RecordError> {
    let kind = key.first().copied();
    if kind == Some(RegistryKind::Subscription as u8) {
        let mut record = SubscriptionRecord::decode(value)?;
        record.open(keys)?;
        record.seal(keys, random)?;
        return Ok(Some(record.encode_to_vec()));
    }
    if kind == Some(RegistryKind::Request as u8) {
        let mut record = RequestRecord::decode(value)?;
        record.reseal(keys, random)?;
        return Ok(Some(record.encode_to_vec()));
    }
    Ok((kind != Some(RegistryKind::SecretsKey as u8)).then(|| value.to_vec()))
}

/// The field that the key's own row is sealed for.
const KEY_FIELD: &str = "registry";
/// The text of that row where URLs are sealed. It was empty before.
const URLS_TOO: &str = "urls";

fn store_id(tree: &Tree) -> Result<Uuid, RegistryError> {
    let id = tree.get([RegistryKind::Store as u8])?;
    let id = id.and_then(|id| Uuid::from_slice(&id).ok());
    Ok(id.ok_or_else(|| RecordError("the store's id is missing".to_owned()))?)
}

fn unreadable_key(why: SealError) -> RecordError {
    RecordError(format!("which key secrets are sealed with: {why}"))
}

/// The request of a row.
pub(crate) fn request_of(key: &[u8], value: &[u8]) -> Result<(RequestEntry, Remembered), RecordError> {
    let key = key.try_into().map_err(|_| RecordError("the key of a request".to_owned()))?;
    let record = RequestRecord::decode(value)?;
    let token = record.token.as_ref().map(AccessTokenRecord::token_id).transpose()?;
    Ok(((UnixMicros(record.time), key), Remembered { bytes: value.len() as u64, token }))
}

/// The time of a request, its digest, and its result.
pub(crate) fn response_of(
    value: &[u8],
    keys: &SealingKeys,
) -> Result<(UnixMicros, Vec<u8>, FirstResult), RecordError> {
    let mut record = RequestRecord::decode(value)?;
    let first = match (record.subscription.take(), record.token.take()) {
        (Some(mut subscription), None) => {
            subscription.open(keys)?;
            FirstResult::Subscription(Arc::new(subscription.try_into()?))
        }
        (None, Some(token)) => FirstResult::Token(Box::new(token.try_into()?)),
        _ => return Err(no_result()),
    };
    Ok((UnixMicros(record.time), record.fingerprint, first))
}

pub(crate) fn tree_key(key: SubscriptionKey) -> [u8; 9] {
    let mut bytes = [RegistryKind::Subscription as u8; 9];
    bytes[1..].copy_from_slice(&key.0.to_be_bytes());
    bytes
}

/// The key of a request of an account; of none, that is of account 0, for those about access tokens.
pub(crate) fn request_key(account: Option<AccountId>, id: Uuid) -> RequestRowKey {
    let mut key = [RegistryKind::Request as u8; REQUEST_KEY_BYTES];
    key[1..9].copy_from_slice(&account.map_or(0, AccountId::get).to_be_bytes());
    key[9..].copy_from_slice(id.as_bytes());
    key
}
