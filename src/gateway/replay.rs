//! The use case of queueing stored events once more.

use super::{Gateway, GatewayError};
use crate::{
    domain::{
        delivery::DeliveryState,
        ids::{Seq, SubscriptionName},
        time::UnixMicros,
    },
    proto::v1::EventType,
    store::{ReplayQuery, StoreError, TimeRange, Wanted},
};

/// Which events of its account a subscription is to get once more.
#[derive(Clone, Debug)]
pub struct ReplayDeliveries {
    /// The subscription.
    pub subscription: SubscriptionName,
    /// Events stored within this time.
    pub time: TimeRange,
    /// Of these kinds; empty means all.
    pub types: Vec<EventType>,
    /// Whose delivery is over in one of these states; empty means those that failed or were cancelled, and events that were never
    /// queued for the subscription and that it wants as it is now.
    pub states: Vec<DeliveryState>,
    /// Where an earlier call ended; `None` for a new replay.
    pub place: Option<ReplayPlace>,
    /// Most events that are queued.
    pub limit: usize,
    /// Count all of them, queue none.
    pub validate_only: bool,
}

/// How far a replay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayPlace {
    /// Everything up to here is done.
    pub after: Seq,
    /// The newest event when it began: later ones are not part of it.
    pub until: Seq,
    /// When it began: what it queued itself, and came to its end again, is not queued again.
    pub began: UnixMicros,
}

/// What came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Events that were queued, or would be.
    pub count: u64,
    /// Where to go on, if there are more.
    pub next: Option<ReplayPlace>,
}

impl Gateway {
    /// Queues events once more for a subscription, the oldest first, a page at a time. No event is queued twice by calls that are
    /// repeated: what is owed is not queued again, and what a replay queued itself is not taken by its later pages.
    pub async fn replay_deliveries(&self, replay: ReplayDeliveries) -> Result<Replayed, GatewayError> {
        let subscription = self.get_subscription(&replay.subscription)?;
        let place = replay.place.unwrap_or_else(|| ReplayPlace {
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
            changed_until: place.began,
            never_queued: by_default.then(|| Wanted {
                types: subscription.settings.event_types.clone(),
                inbox_ids: subscription.settings.inbox_ids.clone(),
            }),
            after: place.after,
            until: place.until,
            limit: if replay.validate_only { usize::MAX - 1 } else { replay.limit },
        };
        let asked = query.clone();
        let page = self.read(move |store| store.replayable(&asked)).await?;
        if replay.validate_only {
            return Ok(Replayed { count: page.rows.len() as u64, next: None });
        }
        let next = page.next.map(|after| ReplayPlace { after, ..place });
        self.check_backlog_of(subscription.key, page.rows.len() as u64)?;
        let count = self.0.store.replay(query, page.rows).await.map_err(|error| match error {
            StoreError::SubscriptionNotFound => GatewayError::no_subscription(&replay.subscription),
            other => other.into(),
        })?;
        Ok(Replayed { count, next })
    }
}
