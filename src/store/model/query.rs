//! Queries for events and deliveries, and a page of results.

use std::{cmp::Reverse, ops::ControlFlow, sync::Arc};

use crate::{
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState},
        ids::{AccountId, AccountScope, EventId, Seq, SubscriptionKey},
        subscription::EventTypes,
        time::UnixMicros,
    },
    event::{StoredEvent, notice::NOTICE_TYPE},
    proto::v1::EventType,
};

/// The events that a replay queues for one subscription.
#[derive(Clone, Debug)]
pub struct ReplayQuery {
    /// To this one.
    pub subscription: SubscriptionKey,
    /// Events of this account.
    pub account: AccountId,
    /// Of these kinds; empty means all.
    pub types: Vec<EventType>,
    /// Stored within this time.
    pub time: TimeRange,
    /// With a delivery that has been over, in one of these states, since `changed_until` or earlier.
    pub states: Vec<DeliveryState>,
    /// Only deliveries that ended by this time, so that a later page queues none twice.
    pub changed_until: UnixMicros,
    /// Also events that never had a delivery to this subscription, if they match this.
    pub never_queued: Option<Wanted>,
    /// Only events after this one.
    pub after: Seq,
    /// Only events up to this one.
    pub until: Seq,
    /// Rows in a page at most.
    pub limit: usize,
}

/// The filter of a subscription.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Events of these types.
    pub types: EventTypes,
    /// Of these inboxes; empty means all.
    pub inbox_ids: Vec<i64>,
}

impl ReplayQuery {
    /// Whether the query covers an event, whatever the state of its delivery.
    pub fn wants_event(&self, seq: Seq, account: AccountId, event_type: EventType, time: UnixMicros) -> bool {
        account == self.account
            && seq > self.after
            && seq <= self.until
            && self.time.contains(time)
            && (self.types.is_empty() || self.types.contains(&event_type))
    }

    /// Whether the query covers an event without a delivery.
    pub fn wants_new(&self, event_type: EventType, inbox_id: Option<i64>) -> bool {
        self.never_queued.as_ref().is_some_and(|wanted| {
            wanted.types.wants(event_type)
                && (wanted.inbox_ids.is_empty()
                    || inbox_id.is_some_and(|inbox| wanted.inbox_ids.contains(&inbox)))
        })
    }

    /// Whether the query covers a delivery that has been in this state since `changed`.
    pub fn wants_over(&self, state: DeliveryState, changed: UnixMicros) -> bool {
        !state.is_owed()
            && changed <= self.changed_until
            && self.states.iter().any(|wanted| wanted.is_same_kind(state))
    }
}

/// A query for events, newest first.
#[derive(Clone, Debug)]
pub struct EventQuery {
    /// Of this account, or of all.
    pub scope: AccountScope,
    /// Of these kinds; empty means all but notices.
    pub types: Vec<EventType>,
    /// Stored within this time.
    pub time: TimeRange,
    /// Only those before this one.
    pub before: Option<Seq>,
    /// Rows in a page at most. It ends earlier at [`PAGE_BYTES_MAX`].
    pub limit: usize,
}

impl EventQuery {
    /// Whether it asks for events of this type.
    pub fn wants_type(&self, event_type: EventType) -> bool {
        if self.types.is_empty() { event_type != NOTICE_TYPE } else { self.types.contains(&event_type) }
    }
}

/// A query for deliveries, newest event first.
#[derive(Clone, Debug)]
pub struct DeliveryQuery {
    /// Of these subscriptions; `None` means all.
    pub subscriptions: Option<Vec<SubscriptionKey>>,
    /// In these states (the time of a retry does not matter); empty means all.
    pub states: Vec<DeliveryState>,
    /// Of this event only.
    pub event: Option<(AccountId, EventId)>,
    /// Of events stored within this time.
    pub time: TimeRange,
    /// Only those after this one in the order of the list: lower seq first, then higher subscription.
    pub after: Option<DeliveryKey>,
    /// Rows in a page at most. It ends earlier at [`PAGE_BYTES_MAX`].
    pub limit: usize,
}

impl DeliveryQuery {
    /// Sorts deliveries as they are listed: the newest event first, then by subscription.
    pub fn order(key: DeliveryKey) -> (Reverse<Seq>, SubscriptionKey) {
        (Reverse(key.seq), key.subscription)
    }

    /// Whether deliveries in this state are wanted.
    pub fn wants_state(&self, state: DeliveryState) -> bool {
        self.states.is_empty() || self.states.iter().any(|wanted| wanted.is_same_kind(state))
    }
}

/// From `start` on and before `end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// The first time that is in it.
    pub start: Option<UnixMicros>,
    /// The first time that is no longer in it.
    pub end: Option<UnixMicros>,
}

impl TimeRange {
    /// Whether `time` is in it.
    pub fn contains(&self, time: UnixMicros) -> bool {
        self.start.is_none_or(|start| start <= time) && self.end.is_none_or(|end| time < end)
    }
}

/// One page of a list.
#[derive(Clone, Debug)]
pub struct Page<T, C> {
    /// The rows.
    pub rows: Vec<T>,
    /// Where the next page starts; `None` on the last one.
    pub next: Option<C>,
}

impl<T, C> Page<T, C> {
    /// The same of a list that was broken off: what comes after `broken_off` was not looked at.
    pub fn cut_at(rows: Vec<T>, limit: usize, cursor: impl Fn(&T) -> C, broken_off: Option<C>) -> Self {
        let page = Self::cut(rows, limit, cursor);
        Self { next: page.next.or(broken_off), ..page }
    }

    /// The first `limit` of `rows`. A row more means that another page follows.
    pub fn cut(mut rows: Vec<T>, limit: usize, cursor: impl Fn(&T) -> C) -> Self {
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(cursor) } else { None };
        Self { rows, next }
    }
}

/// Most bytes of the events that one page reads, encoded; one event of a page may be larger. Larger pages would hold up
/// other calls.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// The rows of a page while they are collected: up to a limit, and up to [`PAGE_BYTES_MAX`].
#[derive(Debug)]
pub struct PageRows<T> {
    rows: Vec<T>,
    limit: usize,
    bytes: usize,
}

impl<T> PageRows<T> {
    /// None so far, and at most `limit`.
    pub fn new(limit: usize) -> Self {
        Self { rows: Vec::new(), limit, bytes: 0 }
    }

    /// Adds a row that reads so many bytes. Breaks off with the first that is of the next page.
    pub fn push(&mut self, row: T, bytes: usize) -> ControlFlow<()> {
        self.bytes += bytes;
        if self.bytes > PAGE_BYTES_MAX {
            self.limit = self.limit.min(self.rows.len().max(1));
        }
        self.rows.push(row);
        if self.rows.len() > self.limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The page. What comes after `stopped_at`, if there is one, was not looked at.
    pub fn finish<C>(self, cursor: impl Fn(&T) -> C, stopped_at: Option<C>) -> Page<T, C> {
        Page::cut_at(self.rows, self.limit, cursor, stopped_at)
    }
}

/// A delivery with its state and attempts.
#[derive(Clone, Debug)]
pub struct DeliveryRecord {
    /// Which.
    pub key: DeliveryKey,
    /// The event.
    pub event: Arc<StoredEvent>,
    /// How far it is.
    pub state: DeliveryState,
    /// Attempts made so far.
    pub attempt_count: u32,
    /// The latest attempts, the latest last.
    pub attempts: Vec<Attempt>,
    /// When the event was stored, or first replayed to this subscription.
    pub create_time: UnixMicros,
    /// When it last changed.
    pub update_time: UnixMicros,
}
