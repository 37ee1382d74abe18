//! Queries of events and deliveries.

use std::{ops::ControlFlow, sync::Arc};

use foldhash::HashSet;

use super::fetch::{EventRef, ScanOrder};
use crate::{
    domain::{
        delivery::{ATTEMPTS_SHOWN_MAX, DeliveryKey},
        ids::{AccountId, AccountScope, EventId, Seq, SubscriptionKey},
        time::UnixMicros,
    },
    event::StoredEvent,
    store::{
        DeliveryQuery, DeliveryRecord, DueDelivery, DuePage, EventQuery, OrderedPage, OwedQuery, Page,
        PageRows, PendingDelivery, PendingPage, ReplayQuery, TimeRange,
        disk::{
            index::{
                ledger::compact_key,
                volume::{SubscriptionCounts, Volume},
                volume_detail::{DeliveryEntry, EntryState, EventMeta, VolumeDetail},
            },
            log::ReadError,
            shared::Shared,
        },
    },
};

/// Volumes that one page scans at most. A page of 50 deliveries of one subscription among a thousand takes
/// 13; reading one from disk takes about 0.4 ms.
pub const VOLUMES_PER_PAGE_MAX: usize = 16;
/// No due time.
const NEVER: UnixMicros = UnixMicros(i64::MAX);

/// A delivery: its event, to whom, and how far it is.
type Row = (EventRef, SubscriptionKey, DeliveryEntry);

/// The progress of a page, from the newest volume back.
#[derive(Debug, Default)]
struct PageScan {
    volumes: usize,
    /// The first sequence number of the last scanned volume, if the page reached its bound.
    stopped_at: Option<Seq>,
}

impl PageScan {
    /// Counts a scanned volume. Breaks off at the bound.
    fn finish_volume(&mut self, volume: &Volume) -> ControlFlow<()> {
        self.volumes += 1;
        if self.volumes < VOLUMES_PER_PAGE_MAX {
            return ControlFlow::Continue(());
        }
        self.stopped_at = Some(volume.first);
        ControlFlow::Break(())
    }
}

impl Shared {
    /// The event of this id.
    pub fn find(&self, account: AccountId, id: &EventId) -> Result<Option<EventRef>, ReadError> {
        let candidate_volumes = self.ledger().candidate_volumes(account, id);
        for first in candidate_volumes {
            let is_it = |meta: &EventMeta| meta.account == account.get() && *meta.id == *id.as_str();
            let made = id.made_for();
            let found = self.with_detail(first, |volume, detail| {
                let made = made.and_then(|seq| detail.event_at(volume.first, seq));
                let event = made
                    .filter(|event| is_it(&detail.events[*event]))
                    .or_else(|| detail.events.iter().position(is_it))?;
                Some(EventRef::new(volume, detail, event))
            })?;
            if let Some(found) = found.flatten() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// See [`crate::store::Store::pending`].
    pub fn pending(
        &self,
        subscription: SubscriptionKey,
        after: Seq,
        limit: usize,
    ) -> Result<PendingPage, ReadError> {
        let has = |counts: &SubscriptionCounts| counts.count(EntryState::Pending) > 0;
        let is_wanted = |entry: &DeliveryEntry, _: &EventMeta| entry.state == EntryState::Pending;
        let Waiting { found, until, more, .. } = self.waiting(subscription, after, limit, has, is_wanted)?;
        Ok(PendingPage { owed: self.owed_of(found)?, until, more })
    }

    /// See [`crate::store::Store::owed`].
    pub fn owed(&self, query: &OwedQuery) -> Result<OrderedPage, ReadError> {
        let has = |counts: &SubscriptionCounts| counts.owed() > 0;
        let is_wanted =
            |entry: &DeliveryEntry, event: &EventMeta| entry.state.is_owed() && query.order.wants(event.tag);
        let Waiting { found, dues, until, more } =
            self.waiting(query.subscription, query.after, query.limit, has, is_wanted)?;
        let owed = self.owed_of(found)?.into_iter().zip(dues);
        Ok(OrderedPage { debts: owed.map(|(owed, due)| DueDelivery { owed, due }).collect(), until, more })
    }

    /// A page of matching deliveries of a subscription after an event, in stored order. `has` selects volumes
    /// that may have some.
    fn waiting(
        &self,
        subscription: SubscriptionKey,
        after: Seq,
        limit: usize,
        has: impl Fn(&SubscriptionCounts) -> bool,
        is_wanted: impl Fn(&DeliveryEntry, &EventMeta) -> bool,
    ) -> Result<Waiting, ReadError> {
        // Read first: events stored meanwhile come after it.
        let last = Seq(self.ledger().next_seq.0 - 1);
        let mut waiting =
            Waiting { found: Vec::new(), dues: Vec::new(), until: after.max(last), more: false };
        let may_have = |volume: &Volume| {
            volume.end.0 > after.0 + 1 && volume.of_subscription(subscription).is_some_and(&has)
        };
        self.scan_volumes(ScanOrder::OldestFirst, may_have, |volume, detail| {
            for event in detail.event_from(volume.first, Seq(after.0 + 1))..detail.len() {
                let key = DeliveryKey { seq: detail.seq(volume.first, event), subscription };
                let entry = detail.position(volume.first, key).map(|entry| detail.deliveries[entry]);
                let Some(entry) = entry.filter(|entry| is_wanted(entry, &detail.events[event])) else {
                    continue;
                };
                if waiting.found.len() == limit {
                    waiting.more = true;
                    return ControlFlow::Break(());
                }
                waiting.found.push((EventRef::new(volume, detail, event), entry.attempts_now()));
                waiting.dues.push(entry.delivery_state().due());
            }
            ControlFlow::Continue(())
        })?;
        let newest = waiting.found.last().map_or(after, |(found, _)| found.seq);
        waiting.until = if waiting.more { newest } else { newest.max(waiting.until) };
        Ok(waiting)
    }

    /// See [`crate::store::Store::due`].
    pub fn due(
        &self,
        subscription: SubscriptionKey,
        now: UnixMicros,
        limit: usize,
    ) -> Result<DuePage, ReadError> {
        let volumes: Vec<(UnixMicros, Seq)> = self.ledger().due_volumes(subscription).collect();
        let mut due: Vec<(UnixMicros, Seq, EventRef, u32)> = Vec::new();
        let mut next_due = NEVER;
        for (position, &(first_due, first)) in volumes.iter().enumerate() {
            // Deliveries found so far are due before everything in this volume and the later ones.
            let is_enough = due.len() >= limit && due[..limit].iter().all(|(time, ..)| *time < first_due);
            if first_due > now || is_enough {
                next_due =
                    next_due.min(volumes[position..].iter().map(|(due, _)| *due).min().unwrap_or(NEVER));
                break;
            }
            let read = self.with_detail(first, |volume, detail| {
                for (time, event) in detail.retries_of(compact_key(subscription)) {
                    if time > now {
                        next_due = next_due.min(time);
                        break;
                    }
                    let found = EventRef::new(volume, detail, event);
                    let key = DeliveryKey { seq: found.seq, subscription };
                    let attempts = detail
                        .position(volume.first, key)
                        .map_or(0, |entry| detail.deliveries[entry].attempts_now());
                    due.push((time, found.seq, found, attempts));
                }
            });
            match read {
                // It is left out, as by `scan_volumes`.
                Err(ReadError::Damaged(_)) => continue,
                read => drop(read?),
            }
            due.sort_unstable_by_key(|(time, seq, ..)| (*time, *seq));
        }
        if let Some((time, ..)) = due.get(limit) {
            next_due = next_due.min(*time);
        }
        due.truncate(limit);
        let due = due.into_iter().map(|(_, _, found, attempts)| (found, attempts)).collect();
        Ok(DuePage { owed: self.owed_of(due)?, next_due: (next_due != NEVER).then_some(next_due) })
    }

    fn owed_of(&self, found: Vec<(EventRef, u32)>) -> Result<Vec<PendingDelivery>, ReadError> {
        let (found, attempts): (Vec<EventRef>, Vec<u32>) = found.into_iter().unzip();
        let events = self.load(&found)?;
        Ok(events
            .into_iter()
            .zip(attempts)
            .map(|(event, attempts)| PendingDelivery { event, attempts })
            .collect())
    }

    /// See [`crate::store::Store::replayable`].
    pub fn replayable(&self, query: &ReplayQuery) -> Result<Page<Seq, Seq>, ReadError> {
        let mut found = Vec::new();
        let account = query.account.get();
        let wanted = |volume: &Volume| {
            volume.accounts.binary_search(&account).is_ok()
                && volume.end > query.after
                && volume.first <= query.until
                && overlaps(&query.time, volume)
                && (query.never_queued.is_some() || volume.of_subscription(query.subscription).is_some())
        };
        self.scan_volumes(ScanOrder::OldestFirst, wanted, |volume, detail| {
            for event in detail.event_from(volume.first, Seq(query.after.0 + 1))..detail.len() {
                if is_replayable(query, volume, detail, event) {
                    found.push(detail.seq(volume.first, event));
                    if found.len() > query.limit {
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        Ok(Page::cut(found, query.limit, |seq| *seq))
    }

    /// When the oldest event was stored that is owed to one of these subscriptions.
    pub fn oldest_owed(&self, subscriptions: &[SubscriptionKey]) -> Result<Option<UnixMicros>, ReadError> {
        let subscriptions: HashSet<SubscriptionKey> = subscriptions.iter().copied().collect();
        let owing = {
            let ledger = self.ledger();
            ledger.oldest_owing(&subscriptions).map(|volume| volume.first)
        };
        let Some(first) = owing else { return Ok(None) };
        self.first_event(first, |_, key, entry| {
            entry.state.is_owed() && subscriptions.contains(&key.subscription)
        })
    }

    /// When the oldest event was stored that waits for somebody in this state. If that cannot be read, at most
    /// a volume too early.
    pub fn oldest_in(&self, state: EntryState) -> Option<UnixMicros> {
        let (first, first_time) = {
            let ledger = self.ledger();
            let mut volumes = ledger.volumes.iter();
            let volume = volumes.find(|v| v.subscriptions.iter().any(|counts| counts.count(state) > 0))?;
            (volume.first, volume.first_time)
        };
        let oldest = self.first_event(first, |volume, key, entry| {
            entry.state == state && volume.of_subscription(key.subscription).is_some()
        });
        oldest.unwrap_or_else(|error| {
            tracing::error!(%error, "cannot read what is owed longest");
            Some(first_time)
        })
    }

    /// When the first event of a volume was stored that has a delivery like this; of a damaged volume, when
    /// its first event was.
    fn first_event(
        &self,
        first: Seq,
        is_like: impl Fn(&Volume, DeliveryKey, &DeliveryEntry) -> bool,
    ) -> Result<Option<UnixMicros>, ReadError> {
        let found = self.with_detail(first, |volume, detail| {
            let mut like = (0..detail.len()).filter(|event| {
                let mut deliveries = detail.deliveries_of(volume.first, *event);
                deliveries.any(|(key, entry)| is_like(volume, key, entry))
            });
            like.next().map(|event| detail.events[event].time)
        });
        match found {
            Err(ReadError::Damaged(_)) => Ok(self.ledger().volume(first).map(|volume| volume.first_time)),
            found => Ok(found?.flatten()),
        }
    }

    /// See [`crate::store::Store::events`].
    pub fn events(&self, query: &EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, ReadError> {
        let (mut found, mut scan) = (PageRows::new(query.limit), PageScan::default());
        let account = match query.scope {
            AccountScope::One(account) => Some(account.get()),
            AccountScope::All => None,
        };
        let wanted = |volume: &Volume| {
            account.is_none_or(|account| volume.accounts.binary_search(&account).is_ok())
                && query.before.is_none_or(|before| volume.first < before)
                && overlaps(&query.time, volume)
        };
        self.scan_volumes(ScanOrder::NewestFirst, wanted, |volume, detail| {
            for event in (0..detail.len()).rev() {
                let meta = &detail.events[event];
                let seq = detail.seq(volume.first, event);
                if account.is_none_or(|account| meta.account == account)
                    && query.before.is_none_or(|before| seq < before)
                    && query.time.contains(meta.time)
                    && query.wants_type(meta.event_type())
                {
                    found.push(EventRef::new(volume, detail, event), meta.len as usize)?;
                }
            }
            scan.finish_volume(volume)
        })?;
        let page = found.finish(|event| event.seq, scan.stopped_at);
        Ok(Page { rows: self.load(&page.rows)?, next: page.next })
    }

    /// See [`crate::store::Store::delivery`].
    pub fn delivery(&self, key: DeliveryKey) -> Result<Option<DeliveryRecord>, ReadError> {
        let volume = self.ledger().volume_of_delivery(key);
        let Some(first) = volume else { return Ok(None) };
        let row = self.with_detail(first, |volume, detail| {
            let entry = detail.deliveries[detail.position(volume.first, key)?];
            let event = detail.event_at(volume.first, key.seq)?;
            Some((EventRef::new(volume, detail, event), key.subscription, entry))
        })?;
        let Some(row) = row.flatten() else { return Ok(None) };
        Ok(self.records(vec![row], ATTEMPTS_SHOWN_MAX)?.pop())
    }

    /// See [`crate::store::Store::deliveries`].
    pub fn deliveries(&self, query: &DeliveryQuery) -> Result<Page<DeliveryRecord, DeliveryKey>, ReadError> {
        let event = match &query.event {
            None => None,
            Some((account, id)) => match self.find(*account, id)? {
                Some(found) => Some(found.seq),
                None => return Ok(Page { rows: Vec::new(), next: None }),
            },
        };
        let page = self.delivery_rows(query, event)?;
        Ok(Page { rows: self.records(page.rows, 1)?, next: page.next })
    }

    fn delivery_rows(
        &self,
        query: &DeliveryQuery,
        event: Option<Seq>,
    ) -> Result<Page<Row, DeliveryKey>, ReadError> {
        let mut subscriptions = query.subscriptions.clone();
        if let Some(subscriptions) = &mut subscriptions {
            subscriptions.sort_unstable();
        }
        // Without a list, those that were not deleted.
        let is_listed = |volume: &Volume, subscription: SubscriptionKey| match &subscriptions {
            Some(listed) => listed.binary_search(&subscription).is_ok(),
            None => volume.of_subscription(subscription).is_some(),
        };
        let states: Vec<EntryState> = match query.states.is_empty() {
            true => EntryState::ALL.to_vec(),
            false => query.states.iter().map(|state| EntryState::from(*state)).collect(),
        };
        let upper = event.or(query.after.map(|after| after.seq));
        let wanted = |volume: &Volume| {
            upper.is_none_or(|upper| volume.first <= upper)
                && event.is_none_or(|event| event < volume.end)
                && (volume.has_added || overlaps(&query.time, volume))
                && volume.has_any(subscriptions.as_deref(), &states)
        };
        let (mut rows, mut scan) = (PageRows::new(query.limit), PageScan::default());
        self.scan_volumes(ScanOrder::NewestFirst, wanted, |volume, detail| {
            for number in (0..detail.len()).rev() {
                let seq = detail.seq(volume.first, number);
                if upper.is_some_and(|upper| seq > upper) || event.is_some_and(|event| event != seq) {
                    continue;
                }
                // The event is read once for all its deliveries.
                let mut bytes = detail.events[number].len as usize;
                for (key, entry) in detail.deliveries_of(volume.first, number) {
                    let is_after = query
                        .after
                        .is_none_or(|after| DeliveryQuery::order(after) < DeliveryQuery::order(key));
                    let created = created(entry, &detail.events[number]);
                    if is_after
                        && is_listed(volume, key.subscription)
                        && states.contains(&entry.state)
                        && query.time.contains(created)
                    {
                        let event = EventRef::new(volume, detail, number);
                        rows.push((event, key.subscription, *entry), std::mem::take(&mut bytes))?;
                    }
                }
            }
            scan.finish_volume(volume)
        })?;
        // Subscription keys start at 1: every delivery of that event comes after this.
        let stopped_at =
            scan.stopped_at.map(|seq| DeliveryKey { seq: Seq(seq.0 - 1), subscription: SubscriptionKey(0) });
        Ok(rows.finish(
            |(event, subscription, _)| DeliveryKey { seq: event.seq, subscription: *subscription },
            stopped_at,
        ))
    }

    /// Loads deliveries with at most `attempts_max` of their latest attempts.
    fn records(&self, rows: Vec<Row>, attempts_max: usize) -> Result<Vec<DeliveryRecord>, ReadError> {
        let found: Vec<EventRef> = rows.iter().map(|(found, ..)| found.clone()).collect();
        let events = self.load(&found)?;
        let mut records = Vec::with_capacity(rows.len());
        for ((found, subscription, entry), event) in rows.into_iter().zip(events) {
            let create_time = created(&entry, &found.meta);
            records.push(DeliveryRecord {
                key: DeliveryKey { seq: found.seq, subscription },
                state: entry.delivery_state(),
                attempt_count: entry.attempts,
                attempts: self.read_attempts(&found, subscription, entry.last, attempts_max)?,
                create_time,
                update_time: if entry.changed == UnixMicros(0) { create_time } else { entry.changed },
                event,
            });
        }
        Ok(records)
    }
}

/// Whether a replay would queue an event.
pub fn is_replayable(query: &ReplayQuery, volume: &Volume, detail: &VolumeDetail, event: usize) -> bool {
    let (meta, seq) = (&detail.events[event], detail.seq(volume.first, event));
    let event_type = meta.event_type();
    let Ok(account) = AccountId::stored(meta.account) else { return false };
    if !query.wants_event(seq, account, event_type, meta.time) {
        return false;
    }
    match detail
        .position(volume.first, DeliveryKey { seq, subscription: query.subscription })
        .map(|entry| detail.deliveries[entry])
    {
        Some(entry) => query.wants_over(entry.delivery_state(), entry.changed.max(meta.time)),
        None => query.wants_new(event_type, (meta.inbox != 0).then_some(meta.inbox)),
    }
}

/// A page of owed deliveries.
struct Waiting {
    /// The events, and the attempts made of each.
    found: Vec<(EventRef, u32)>,
    /// When each is due, if it is retried.
    dues: Vec<Option<UnixMicros>>,
    until: Seq,
    more: bool,
}

/// When a delivery was made.
fn created(entry: &DeliveryEntry, event: &EventMeta) -> UnixMicros {
    entry.added.max(event.time)
}

fn overlaps(time: &TimeRange, volume: &Volume) -> bool {
    time.start.is_none_or(|start| volume.last_time >= start)
        && time.end.is_none_or(|end| volume.first_time < end)
}
