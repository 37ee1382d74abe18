//! The subscriptions in memory, always the same as on disk. Engines write it; everybody reads it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::{Arc, RwLock, RwLockReadGuard},
};

use tokio::sync::watch;
use url::Url;
use xxhash_rust::xxh3::xxh3_64;

use super::error::StoreError;
use crate::{
    domain::{
        ids::{AccountId, AccountScope, SubscriptionId, SubscriptionKey, SubscriptionName},
        notice::NoticeKind,
        payload_format::PayloadFormat,
        subscription::{State, Subscription},
    },
    proto::v1::EventType,
};

/// Every subscription, by key, by name and by account.
#[derive(Debug)]
pub struct Registry {
    inner: RwLock<Inner>,
    changes: watch::Sender<u64>,
}

/// The subscriptions that want an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// Their keys in the order of creation.
    pub subscriptions: Vec<SubscriptionKey>,
    /// The active ones with the form that they are sent.
    pub active: Vec<(SubscriptionKey, PayloadFormat)>,
    /// The forms of all of them, by [`PayloadFormat::index`].
    pub formats: [bool; PayloadFormat::COUNT],
}

/// Most changes remembered. A reader further behind checks every subscription.
pub const CHANGES_REMEMBERED: usize = 4096;

/// A hash of a URL. Collisions are rare and harmless.
type UrlHash = u64;

#[derive(Debug, Default)]
struct Inner {
    /// Keys of the latest changes, the newest last.
    changed: VecDeque<SubscriptionKey>,
    /// Number of changes ever.
    change_count: u64,
    by_key: foldhash::HashMap<SubscriptionKey, Arc<Subscription>>,
    by_name: BTreeMap<SubscriptionName, Arc<Subscription>>,
    /// Without the sinks of notices.
    by_account: HashMap<AccountId, Vec<Arc<Subscription>>>,
    /// The sinks of notices, by account.
    sinks: BTreeMap<AccountId, Vec<Arc<Subscription>>>,
    /// Number of sinks that receive each kind.
    sinks_by_kind: [usize; NoticeKind::COUNT],
    /// Index of URLs by hash, without those of sinks. The subscription has the URL itself, which is long.
    by_url: BTreeSet<(AccountId, UrlHash, SubscriptionKey)>,
    /// Number of active, paused and suspended subscriptions, without sinks.
    by_state: [usize; 3],
    /// Bytes of the subscriptions of each account: see [`Subscription::bytes`].
    bytes_by_account: HashMap<AccountId, u64>,
    /// Bytes of all.
    bytes: u64,
}

impl Default for Registry {
    fn default() -> Self {
        Self { inner: RwLock::default(), changes: watch::Sender::new(0) }
    }
}

impl Registry {
    /// The subscription with this key; `None` once it is deleted.
    pub fn by_key(&self, key: SubscriptionKey) -> Option<Arc<Subscription>> {
        self.read().by_key.get(&key).cloned()
    }

    /// The subscription of this name.
    pub fn by_name(&self, name: &SubscriptionName) -> Option<Arc<Subscription>> {
        self.read().by_name.get(name).cloned()
    }

    /// The name of the account's subscription with this URL.
    pub fn by_url(&self, account: AccountId, url: &Url) -> Option<SubscriptionName> {
        self.read().by_url(account, url).map(|subscription| subscription.name.clone())
    }

    /// The account's subscriptions that want an event of this type and inbox.
    pub fn matching(&self, account: AccountId, event_type: EventType, inbox_id: Option<i64>) -> Matches {
        let inner = self.read();
        let subscriptions = inner.by_account.get(&account).map_or(&[][..], Vec::as_slice);
        let mut matching = Matches::default();
        for subscription in subscriptions.iter().filter(|other| other.wants(event_type, inbox_id)) {
            matching.subscriptions.push(subscription.key);
            matching.formats[subscription.settings.payload_format.index()] = true;
            if subscription.state == State::Active {
                matching.active.push((subscription.key, subscription.settings.payload_format));
            }
        }
        matching
    }

    /// The subscriptions that a new event is for: `given` as far as they exist, or else those that want it.
    pub fn recipients(
        &self,
        given: Option<Vec<SubscriptionKey>>,
        account: AccountId,
        event_type: EventType,
        inbox_id: Option<i64>,
    ) -> Vec<SubscriptionKey> {
        match given {
            Some(mut keys) => {
                keys.retain(|key| self.by_key(*key).is_some());
                keys
            }
            None => self.matching(account, event_type, inbox_id).subscriptions,
        }
    }

    /// The sinks of notices about an account: its own and those for all accounts. [`AccountId::ALL`] has only the
    /// latter.
    pub fn sinks_about(&self, account: AccountId) -> Vec<Arc<Subscription>> {
        let inner = self.read();
        let of_all = (account != AccountId::ALL).then_some(AccountId::ALL);
        let accounts = of_all.into_iter().chain([account]);
        accounts.filter_map(|account| inner.sinks.get(&account)).flatten().cloned().collect()
    }

    /// Whether there are sinks.
    pub fn has_sinks(&self) -> bool {
        !self.read().sinks.is_empty()
    }

    /// Whether a sink receives notices of this kind.
    pub fn has_sinks_of(&self, kind: NoticeKind) -> bool {
        self.read().sinks_by_kind[kind.index()] > 0
    }

    /// Calls `take` with the subscriptions after the name `after`, by account and id, until it returns false. Sinks are
    /// left out.
    pub fn walk(
        &self,
        scope: AccountScope,
        after: Option<&SubscriptionName>,
        mut take: impl FnMut(&Arc<Subscription>) -> bool,
    ) {
        let inner = self.read();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let first;
        let from = match (scope, from) {
            // Names sort by account first: start at the account, not at the first account of all.
            (AccountScope::One(account), Bound::Unbounded) => {
                first = SubscriptionName { account, id: SubscriptionId::lowest() };
                Bound::Included(&first)
            }
            (_, from) => from,
        };
        for (name, subscription) in inner.by_name.range::<SubscriptionName, _>((from, Bound::Unbounded)) {
            if matches!(scope, AccountScope::One(account) if account != name.account) {
                return;
            }
            if !subscription.is_sink() && !take(subscription) {
                return;
            }
        }
    }

    /// All keys, the oldest first.
    pub fn keys(&self) -> Vec<SubscriptionKey> {
        let mut keys: Vec<SubscriptionKey> = self.read().by_key.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// The account of each subscription, in no order.
    pub fn accounts(&self) -> Vec<(SubscriptionKey, AccountId)> {
        let inner = self.read();
        inner.by_key.iter().map(|(key, subscription)| (*key, subscription.name.account)).collect()
    }

    /// How many subscriptions there are.
    pub fn len(&self) -> usize {
        self.read().by_key.len()
    }

    /// How many subscriptions are active, paused and suspended, without sinks.
    pub fn count_by_state(&self) -> [usize; 3] {
        self.read().by_state
    }

    /// Bytes of the subscriptions of an account, and of all: see [`Subscription::bytes`].
    pub fn bytes(&self, account: AccountId) -> (u64, u64) {
        let inner = self.read();
        (inner.bytes_by_account.get(&account).copied().unwrap_or_default(), inner.bytes)
    }

    /// Bytes of all subscriptions.
    pub fn bytes_in_all(&self) -> u64 {
        self.read().bytes
    }

    /// Whether there are no subscriptions.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Signals every change. Subscribe before reading.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The number of changes and the keys that changed since there were `known`; `None` in place of the keys
    /// if some are no longer remembered.
    pub fn changed_since(&self, known: u64) -> (u64, Option<Vec<SubscriptionKey>>) {
        let inner = self.read();
        let news = usize::try_from(inner.change_count - known).unwrap_or(usize::MAX);
        let from = inner.changed.len().checked_sub(news);
        (inner.change_count, from.map(|from| inner.changed.range(from..).copied().collect()))
    }

    /// Inserts or replaces a subscription. For engines, after it is durable.
    pub fn put(&self, subscription: Arc<Subscription>) {
        {
            let mut inner = self.write();
            inner.remove(subscription.key);
            inner.note_change(subscription.key);
            inner.insert(subscription);
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    /// Removes a subscription. For engines, after the removal is durable.
    pub fn remove(&self, key: SubscriptionKey) {
        {
            let mut inner = self.write();
            inner.remove(key);
            inner.note_change(key);
        }
        self.changes.send_modify(|changes| *changes += 1);
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().expect("no code panics while it holds this lock")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().expect("no code panics while it holds this lock")
    }
}

/// The subscription with this key. For engines.
pub(super) fn known(registry: &Registry, key: SubscriptionKey) -> Result<Arc<Subscription>, StoreError> {
    registry.by_key(key).ok_or(StoreError::SubscriptionNotFound)
}

/// The subscription with this key, if it still has this version. For engines.
pub(super) fn check_version(
    registry: &Registry,
    key: SubscriptionKey,
    version: u64,
) -> Result<Arc<Subscription>, StoreError> {
    let current = known(registry, key)?;
    if current.version == version { Ok(current) } else { Err(StoreError::VersionMismatch) }
}

/// Checks that no other subscription has this name, or this URL within the account: sinks may share one. For engines.
pub(super) fn check_free(
    registry: &Registry,
    name: &SubscriptionName,
    url: &Url,
    key: Option<SubscriptionKey>,
) -> Result<(), StoreError> {
    if registry.by_name(name).is_some_and(|other| Some(other.key) != key) {
        return Err(StoreError::NameTaken(name.clone()));
    }
    match registry.by_url(name.account, url) {
        Some(other) if other != *name && !name.is_sink() => Err(StoreError::UrlTaken(other)),
        _ => Ok(()),
    }
}

fn state_index(state: State) -> usize {
    match state {
        State::Active => 0,
        State::Paused => 1,
        State::Suspended => 2,
    }
}

fn url_hash(url: &Url) -> UrlHash {
    xxh3_64(url.as_str().as_bytes())
}

fn url_key(subscription: &Subscription) -> (AccountId, UrlHash, SubscriptionKey) {
    (subscription.name.account, url_hash(&subscription.settings.url), subscription.key)
}

impl Inner {
    fn by_url(&self, account: AccountId, url: &Url) -> Option<&Arc<Subscription>> {
        let hash = url_hash(url);
        let maybe = self
            .by_url
            .range((account, hash, SubscriptionKey(0))..=(account, hash, SubscriptionKey(u64::MAX)));
        maybe.map(|(_, _, key)| &self.by_key[key]).find(|subscription| subscription.settings.url == *url)
    }

    fn insert(&mut self, subscription: Arc<Subscription>) {
        let name = &subscription.name;
        let bytes = subscription.bytes();
        *self.bytes_by_account.entry(name.account).or_default() += bytes;
        self.bytes += bytes;
        self.by_name.insert(name.clone(), Arc::clone(&subscription));
        self.by_key.insert(subscription.key, Arc::clone(&subscription));
        let of_account = if let Some(kinds) = subscription.settings.notices {
            kinds.iter().for_each(|kind| self.sinks_by_kind[kind.index()] += 1);
            self.sinks.entry(name.account).or_default()
        } else {
            self.by_state[state_index(subscription.state)] += 1;
            self.by_url.insert(url_key(&subscription));
            self.by_account.entry(name.account).or_default()
        };
        let index = of_account.partition_point(|other| other.key < subscription.key);
        of_account.insert(index, subscription);
    }

    fn note_change(&mut self, key: SubscriptionKey) {
        self.change_count += 1;
        self.changed.push_back(key);
        if self.changed.len() > CHANGES_REMEMBERED {
            self.changed.pop_front();
        }
    }

    fn remove(&mut self, key: SubscriptionKey) {
        let Some(subscription) = self.by_key.remove(&key) else { return };
        let account = subscription.name.account;
        let bytes = subscription.bytes();
        self.bytes -= bytes;
        if let Some(of_account) = self.bytes_by_account.get_mut(&account) {
            *of_account -= bytes;
            if *of_account == 0 {
                self.bytes_by_account.remove(&account);
            }
        }
        self.by_name.remove(&subscription.name);
        if let Some(kinds) = subscription.settings.notices {
            kinds.iter().for_each(|kind| self.sinks_by_kind[kind.index()] -= 1);
            if let Some(sinks) = self.sinks.get_mut(&account) {
                sinks.retain(|other| other.key != key);
            }
            self.sinks.retain(|_, sinks| !sinks.is_empty());
            return;
        }
        self.by_state[state_index(subscription.state)] -= 1;
        self.by_url.remove(&url_key(&subscription));
        if let Some(of_account) = self.by_account.get_mut(&account) {
            of_account.retain(|other| other.key != key);
            if of_account.is_empty() {
                self.by_account.remove(&account);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::time::UnixMicros, store::conformance::new_subscription};

    #[test]
    fn changes_are_told_by_lane_as_long_as_they_are_remembered() {
        let registry = Registry::default();
        let put = |key: u64| {
            let new = new_subscription(1, &format!("s{key}"));
            let subscription = new.into_subscription(SubscriptionKey(key), uuid::Uuid::nil(), UnixMicros(0));
            registry.put(Arc::new(subscription));
        };
        assert_eq!(registry.changed_since(0), (0, Some(vec![])));
        (1..=3).for_each(put);
        registry.remove(SubscriptionKey(2));
        assert_eq!(registry.changed_since(1), (4, Some([2, 3, 2].map(SubscriptionKey).into())));
        (0..CHANGES_REMEMBERED).for_each(|_| put(9));
        let all = CHANGES_REMEMBERED as u64 + 4;
        assert_eq!(registry.changed_since(4).1.unwrap().len(), CHANGES_REMEMBERED);
        assert_eq!(registry.changed_since(3), (all, None));
        assert_eq!(registry.changed_since(all), (all, Some(vec![])));
    }

    #[test]
    fn who_wants_an_event_is_owed_it_and_who_is_active_gets_it() {
        let registry = Registry::default();
        let (account, event_type) = (AccountId::new(1).unwrap(), EventType::MessageCreated);
        let put = |key: u64, format: PayloadFormat, state: State| {
            let mut new = new_subscription(1, &format!("s{key}"));
            new.settings.event_types = vec![event_type].into();
            new.settings.inbox_ids = Vec::new();
            new.settings.payload_format = format;
            let subscription = new.into_subscription(SubscriptionKey(key), uuid::Uuid::nil(), UnixMicros(0));
            registry.put(Arc::new(Subscription { state, ..subscription }));
            registry.matching(account, event_type, None).active
        };
        let (documented, sample) = (PayloadFormat::Documented, PayloadFormat::Sample);
        assert_eq!(put(1, sample, State::Paused), []);
        assert_eq!(put(2, sample, State::Suspended), []);
        assert_eq!(put(3, documented, State::Active), [(SubscriptionKey(3), documented)]);
        assert_eq!(
            put(4, documented, State::Active),
            [(SubscriptionKey(3), documented), (SubscriptionKey(4), documented)]
        );
        let all = [
            (SubscriptionKey(1), sample),
            (SubscriptionKey(3), documented),
            (SubscriptionKey(4), documented),
        ];
        assert_eq!(put(1, sample, State::Active), all);
        let matching = registry.matching(account, event_type, None);
        assert_eq!(matching.subscriptions, [1, 2, 3, 4].map(SubscriptionKey), "all of them are owed it");
    }
}
