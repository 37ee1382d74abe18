//! The subscriptions on disk, and what request ids were used for: one tree, so that both change in one batch.

use std::{collections::VecDeque, time::Duration};

use ::sled::{Batch, Tree};
use prost::Message;
use uuid::Uuid;

use super::{
    records::{RecordError, RegistryKind, RequestRecord, SubscriptionRecord},
    volume::LANES_MAX,
};
use crate::{
    domain::{
        ids::{AccountId, LaneId},
        subscription::Subscription,
        time::UnixMicros,
    },
    store::RequestKey,
};

/// How long a request id is remembered. A repetition later than that is a new request.
pub const REQUEST_MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

/// Why the registry could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] ::sled::Error),
    /// What is there makes no sense.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The tree of the registry.
pub struct RegistryTree {
    tree: Tree,
    store: Uuid,
    last_lane: u64,
    /// The keys of remembered requests, the oldest first.
    requests: VecDeque<(UnixMicros, [u8; REQUEST_KEY_BYTES])>,
}

impl RegistryTree {
    /// Writes the id of a new store.
    pub fn create_store(tree: &Tree, store: Uuid) -> Result<(), RegistryError> {
        tree.insert([RegistryKind::Store as u8], store.as_bytes())?;
        Ok(())
    }

    /// The id of the store.
    pub fn store(&self) -> Uuid {
        self.store
    }

    /// Reads the tree, and gives `take` one subscription after another, the oldest first.
    pub fn open(tree: Tree, mut take: impl FnMut(Subscription)) -> Result<Self, RegistryError> {
        let mut highest = 0;
        let mut requests = Vec::new();
        for row in tree.scan_prefix([RegistryKind::Subscription as u8]) {
            let (key, value) = row?;
            let subscription = subscription_of(&key, &value)?;
            highest = subscription.lane.0;
            take(subscription);
        }
        for row in tree.scan_prefix([RegistryKind::Request as u8]) {
            let (key, value) = row?;
            requests.push(request_of(&key, &value)?);
        }
        requests.sort_unstable();
        let last_lane = match tree.get([RegistryKind::LastLane as u8])? {
            None => 0,
            Some(value) => u64::from_be_bytes(
                value.as_ref().try_into().map_err(|_| RecordError("the last lane's number".to_owned()))?,
            ),
        };
        if highest > last_lane {
            return Err(RecordError(format!("lane {highest} is past the last one, {last_lane}")).into());
        }
        let store = tree.get([RegistryKind::Store as u8])?;
        let store = store.and_then(|id| Uuid::from_slice(&id).ok());
        let store = store.ok_or_else(|| RecordError("the store's id is missing".to_owned()))?;
        Ok(Self { tree, store, last_lane, requests: requests.into() })
    }

    /// A lane number that was never given away.
    pub fn next_lane(&self) -> Result<LaneId, RegistryError> {
        let lane = self.last_lane + 1;
        if lane > LANES_MAX {
            return Err(RecordError("every lane number was given away".to_owned()).into());
        }
        Ok(LaneId(lane))
    }

    /// Adds a subscription under the next lane number, and what its request id stands for. Forgets requests that are
    /// older than [`REQUEST_MEMORY`].
    pub fn create(
        &mut self,
        subscription: &Subscription,
        request: Option<&RequestKey>,
        now: UnixMicros,
    ) -> Result<(), RegistryError> {
        let record = SubscriptionRecord::from(subscription);
        let mut batch = Batch::default();
        batch.insert(&[RegistryKind::LastLane as u8], &subscription.lane.0.to_be_bytes());
        batch.insert(&lane_key(subscription.lane), record.encode_to_vec());
        while let Some((_, key)) = self.requests.pop_front_if(|(time, _)| now.since(*time) > REQUEST_MEMORY) {
            batch.remove(&key);
        }
        if let Some(request) = request {
            let key = request_key(subscription.name.account, request.id);
            self.requests.push_back((now, key));
            let fingerprint = request.fingerprint.to_vec();
            let record = RequestRecord { time: now.0, fingerprint, subscription: Some(record) };
            batch.insert(&key, record.encode_to_vec());
        }
        self.tree.apply_batch(batch)?;
        self.last_lane = subscription.lane.0;
        Ok(())
    }

    /// Stores a changed subscription.
    pub fn put(&self, subscription: &Subscription) -> Result<(), RegistryError> {
        self.tree
            .insert(lane_key(subscription.lane), SubscriptionRecord::from(subscription).encode_to_vec())?;
        Ok(())
    }

    /// Removes a subscription. Its request id is remembered all the same.
    pub fn remove(&self, lane: LaneId) -> Result<(), RegistryError> {
        self.tree.remove(lane_key(lane))?;
        Ok(())
    }

    /// What a request id was used for of late: the request's digest, and the answer.
    pub fn request(
        &self,
        account: AccountId,
        id: Uuid,
        now: UnixMicros,
    ) -> Result<Option<(Vec<u8>, Subscription)>, RegistryError> {
        let Some(value) = self.tree.get(request_key(account, id))? else { return Ok(None) };
        let (time, fingerprint, subscription) = answer_of(&value)?;
        Ok((now.since(time) <= REQUEST_MEMORY).then_some((fingerprint, subscription)))
    }
}

/// The subscription of a row.
pub(super) fn subscription_of(key: &[u8], value: &[u8]) -> Result<Subscription, RecordError> {
    let subscription = Subscription::try_from(SubscriptionRecord::decode(value)?)?;
    if key != lane_key(subscription.lane) {
        return Err(RecordError(format!("{} is stored under another lane's key", subscription.name)));
    }
    Ok(subscription)
}

/// When the request of a row was made, and its key.
pub(super) fn request_of(
    key: &[u8],
    value: &[u8],
) -> Result<(UnixMicros, [u8; REQUEST_KEY_BYTES]), RecordError> {
    let key = key.try_into().map_err(|_| RecordError("the key of a request".to_owned()))?;
    Ok((UnixMicros(RequestRecord::decode(value)?.time), key))
}

/// When a request was made, its digest, and its answer.
pub(super) fn answer_of(value: &[u8]) -> Result<(UnixMicros, Vec<u8>, Subscription), RecordError> {
    let record = RequestRecord::decode(value)?;
    let subscription =
        record.subscription.ok_or_else(|| RecordError("a request without an answer".to_owned()))?;
    Ok((UnixMicros(record.time), record.fingerprint, subscription.try_into()?))
}

pub(super) fn lane_key(lane: LaneId) -> [u8; 9] {
    let mut key = [RegistryKind::Subscription as u8; 9];
    key[1..].copy_from_slice(&lane.0.to_be_bytes());
    key
}

/// Bytes of the key of a request.
pub(super) const REQUEST_KEY_BYTES: usize = 25;

pub(super) fn request_key(account: AccountId, id: Uuid) -> [u8; REQUEST_KEY_BYTES] {
    let mut key = [RegistryKind::Request as u8; REQUEST_KEY_BYTES];
    key[1..9].copy_from_slice(&account.get().to_be_bytes());
    key[9..].copy_from_slice(id.as_bytes());
    key
}
