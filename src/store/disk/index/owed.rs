//! What is owed, by account and in all: changed with every commit, and rebuilt by a start.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use foldhash::HashMap;

use super::{
    ledger::Ledger,
    volume::{SubscriptionCounts, Volume},
    volume_detail::{EventMeta, VolumeDetail},
};
use crate::{
    domain::ids::{Seq, SubscriptionKey},
    store::{OWED_DELIVERY_BYTES, OWED_EVENT_BYTES, Owed},
};

/// The sums over all accounts; read without the lock of the ledger.
#[derive(Debug, Default)]
pub struct OwedInAll {
    deliveries: AtomicU64,
    bytes: AtomicU64,
}

impl OwedInAll {
    /// The sums.
    pub fn get(&self) -> Owed {
        Owed {
            deliveries: self.deliveries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// What is owed by account.
#[derive(Debug, Default)]
pub struct OwedCounters {
    in_all: Arc<OwedInAll>,
    /// Only accounts to which something is owed.
    by_account: HashMap<i64, Owed>,
}

impl OwedCounters {
    /// The sums over all accounts.
    pub fn in_all(&self) -> Arc<OwedInAll> {
        Arc::clone(&self.in_all)
    }

    /// What is owed to one account.
    pub fn of(&self, account: i64) -> Owed {
        self.by_account.get(&account).copied().unwrap_or_default()
    }

    /// Counts deliveries more.
    pub fn add_deliveries(&mut self, account: i64, count: u64) {
        self.add(account, Owed { deliveries: count, bytes: count * OWED_DELIVERY_BYTES });
    }

    /// Counts deliveries less.
    pub fn remove_deliveries(&mut self, account: i64, count: u64) {
        self.remove(account, Owed { deliveries: count, bytes: count * OWED_DELIVERY_BYTES });
    }

    /// Counts bytes of events more.
    pub fn add_bytes(&mut self, account: i64, bytes: u64) {
        self.add(account, Owed { deliveries: 0, bytes });
    }

    /// Counts bytes of events less.
    pub fn remove_bytes(&mut self, account: i64, bytes: u64) {
        self.remove(account, Owed { deliveries: 0, bytes });
    }

    fn add(&mut self, account: i64, more: Owed) {
        if more == Owed::default() {
            return;
        }
        let own = self.by_account.entry(account).or_default();
        own.deliveries += more.deliveries;
        own.bytes = own.bytes.saturating_add(more.bytes);
        self.in_all.deliveries.fetch_add(more.deliveries, Ordering::Relaxed);
        self.in_all.bytes.fetch_add(more.bytes, Ordering::Relaxed);
    }

    fn remove(&mut self, account: i64, less: Owed) {
        if less == Owed::default() {
            return;
        }
        let own = self.by_account.get_mut(&account).expect("it was added before");
        own.deliveries -= less.deliveries;
        own.bytes = own.bytes.saturating_sub(less.bytes);
        if *own == Owed::default() {
            self.by_account.remove(&account);
        }
        self.in_all.deliveries.fetch_sub(less.deliveries, Ordering::Relaxed);
        self.in_all.bytes.fetch_sub(less.bytes, Ordering::Relaxed);
    }
}

/// Bytes that an owed event takes.
pub fn event_bytes(event: &EventMeta) -> u64 {
    u64::from(event.len) + OWED_EVENT_BYTES
}

/// The bytes of the owed events of a volume, by account.
pub fn bytes_by_account(detail: &VolumeDetail, is_known: impl Fn(u32) -> bool) -> Vec<(i64, u64)> {
    let mut bytes: BTreeMap<i64, u64> = BTreeMap::new();
    for (index, event) in detail.events.iter().enumerate() {
        if detail.is_owed(index, &is_known) {
            *bytes.entry(event.account).or_default() += event_bytes(event);
        }
    }
    bytes.into_iter().collect()
}

impl Volume {
    /// Counts bytes of an event that became owed.
    pub fn hold(&mut self, account: i64, bytes: u64) {
        match self.owed_bytes.binary_search_by_key(&account, |(other, _)| *other) {
            Ok(position) => self.owed_bytes[position].1 += bytes,
            Err(position) => self.owed_bytes.insert(position, (account, bytes)),
        }
    }

    /// Counts bytes of an event that is no longer owed. Returns how many were counted.
    pub fn release(&mut self, account: i64, bytes: u64) -> u64 {
        let position = self.owed_bytes.binary_search_by_key(&account, |(other, _)| *other);
        let Ok(position) = position else { return 0 };
        let held = &mut self.owed_bytes[position].1;
        let released = bytes.min(*held);
        *held -= released;
        if *held == 0 {
            self.owed_bytes.remove(position);
        }
        released
    }

    /// Bytes of its owed events.
    pub fn owed_bytes(&self) -> u64 {
        self.owed_bytes.iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }
}

impl Ledger {
    /// Counts again which bytes of a volume are owed, from its detail, if that is in memory.
    pub fn recount_owed_bytes(&mut self, first: Seq) {
        let Some(detail) = self.details.get(&first) else { return };
        let bytes = bytes_by_account(detail, |subscription| self.has_subscription(subscription));
        let Some(volume) = self.volume_mut(first) else { return };
        volume.owed_bytes_known = true;
        let before = std::mem::replace(&mut volume.owed_bytes, bytes.clone());
        before.into_iter().for_each(|(account, bytes)| self.owed.remove_bytes(account, bytes));
        bytes.into_iter().for_each(|(account, bytes)| self.owed.add_bytes(account, bytes));
    }

    /// The bytes of a volume's owed events as far as its summary shows, as if all were of the same size.
    pub(super) fn estimate_owed_bytes(&self, volume: &Volume) -> Vec<(i64, u64)> {
        let mut owed: BTreeMap<i64, u64> = BTreeMap::new();
        for counts in volume.subscriptions.iter().filter(|counts| counts.owed() > 0) {
            if let Some(account) = self.account_of(counts.subscription) {
                *owed.entry(account).or_default() += u64::from(counts.owed());
            }
        }
        let event = (volume.bytes / u64::from(volume.events).max(1)).saturating_add(OWED_EVENT_BYTES);
        let bytes = |owed: u64| owed.min(volume.events.into()).saturating_mul(event);
        owed.into_iter().map(|(account, owed)| (account, bytes(owed))).collect()
    }

    /// Forgets the bytes of an account to which a volume owes nothing since a subscription was removed. If it owes
    /// something at all, retention counts again, which can read the detail.
    pub(super) fn forget_owed_bytes(&mut self, index: usize, account: i64) {
        let owes_to = |counts: &SubscriptionCounts| {
            counts.owed() > 0 && self.account_of(counts.subscription) == Some(account)
        };
        let still_owed = self.volumes[index].subscriptions.iter().any(owes_to);
        let volume = &mut self.volumes[index];
        volume.owed_bytes_known = volume.owes_nothing();
        let is_forgotten = |other: i64| volume.owed_bytes_known || (other == account && !still_owed);
        let bytes = std::mem::take(&mut volume.owed_bytes);
        let (forgotten, kept) = bytes.into_iter().partition(|(other, _)| is_forgotten(*other));
        volume.owed_bytes = kept;
        let forgotten: Vec<(i64, u64)> = forgotten;
        forgotten.into_iter().for_each(|(account, bytes)| self.owed.remove_bytes(account, bytes));
    }

    pub(super) fn account_of(&self, subscription: u32) -> Option<i64> {
        self.subscriptions.get(&SubscriptionKey(subscription.into())).copied()
    }
}
