//! Use case of replay: queue stored events again.

use super::{Gateway, GatewayError};
use crate::{
    domain::{
        delivery::DeliveryState,
        ids::{Seq, SubscriptionName},
        subscription::EventTypes,
        time::UnixMicros,
    },
    proto::v1::EventType,
    store::{ReplayQuery, StoreError, TimeRange, Wanted},
};

/// Selects the events that a subscription gets again.
#[derive(Clone, Debug)]
pub struct ReplayDeliveries {
    /// The subscription.
    pub subscription: SubscriptionName,
    /// Events stored within this time.
    pub time: TimeRange,
    /// Of these types; empty means all.
    pub types: Vec<EventType>,
    /// With a delivery in one of these final states. Empty means failed and cancelled deliveries, and events
    /// that were never queued for the subscription and match it now.
    pub states: Vec<DeliveryState>,
    /// Where the call before ended; `None` for a new replay.
    pub cursor: Option<ReplayCursor>,
    /// Most events to queue.
    pub limit: usize,
    /// Count all of them, queue none.
    pub validate_only: bool,
}

/// Progress of a replay over several calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayCursor {
    /// The last event that is done.
    pub after: Seq,
    /// The newest event when the replay began. Later events are not part of it.
    pub until: Seq,
    /// When the replay began. Deliveries that it queued itself and that ended since are not queued again.
    pub began: UnixMicros,
}

/// Result of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Events that were queued, or would be with `validate_only`.
    pub count: u64,
    /// Where the next call continues, if there are more events.
    pub next: Option<ReplayCursor>,
}

impl Gateway {
    /// Queues events again for a subscription, oldest first, a page at a time.
    ///
    /// Repeated calls queue no event twice: an unfinished delivery is not queued again, and later pages of a
    /// replay skip the deliveries that it queued itself.
    pub async fn replay_deliveries(&self, replay: ReplayDeliveries) -> Result<Replayed, GatewayError> {
        let subscription = self.get_subscription(&replay.subscription)?;
        // Nothing that is over before the first page was queued by it, whenever it ended: the clock may have been
        // ahead then.
        let changed_until = replay.cursor.map_or(UnixMicros(i64::MAX), |cursor| cursor.began);
        let cursor = replay.cursor.unwrap_or_else(|| ReplayCursor {
            after: Seq(0),
            until: self.0.store.newest(),
            began: self.0.clock.now(),
        });
        let by_default = replay.states.is_empty();
        let query = ReplayQuery {
            subscription: subscription.key,
            account: subscription.name.account,
            types: replay.types,
            time: replay.time,
            states: if by_default {
                vec![DeliveryState::Failed, DeliveryState::Cancelled]
            } else {
                replay.states
            },
            changed_until,
            never_queued: by_default.then(|| Wanted {
                types: EventTypes::Only(
                    EventType::all().filter(|kind| subscription.settings.wants_type(*kind)).collect(),
                ),
                inbox_ids: subscription.settings.inbox_ids.clone(),
            }),
            after: cursor.after,
            until: cursor.until,
            limit: if replay.validate_only { usize::MAX - 1 } else { replay.limit },
        };
        let page = {
            let query = query.clone();
            self.read(move |store| store.replayable(&query)).await?
        };
        if replay.validate_only {
            return Ok(Replayed { count: page.rows.len() as u64, next: None });
        }
        let next = page.next.map(|after| ReplayCursor { after, ..cursor });
        self.check_backlog_of(&subscription, page.rows.len() as u64)?;
        let count = self.0.store.replay(query, page.rows).await.map_err(|error| match error {
            StoreError::SubscriptionNotFound => GatewayError::no_subscription(&replay.subscription),
            other => other.into(),
        })?;
        Ok(Replayed { count, next })
    }
}
