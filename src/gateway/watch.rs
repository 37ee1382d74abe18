//! Use case of watching: a stream of changes of deliveries.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt};
use tokio::{
    sync::{
        broadcast::{Receiver, error::RecvError},
        mpsc::{self, error::TrySendError},
    },
    time::{MissedTickBehavior, interval},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{Gateway, GatewayError};
use crate::{
    domain::{
        delivery::DeliveryState,
        ids::{AccountScope, SubscriptionId, SubscriptionKey, SubscriptionName},
        subscription::Subscription,
        time::UnixMicros,
    },
    limits::{Permit, ShareKey},
    store::{Changes, DeliveryChange, DeliveryRecord, Store},
};

/// Most changes that wait for a client of a watch. Further changes are skipped and counted.
pub const WATCH_CHANGES_WAITING_MAX: usize = 256;

/// How often a watch of one subscription looks whether it exists.
const EXISTS_INTERVAL: Duration = Duration::from_secs(1);

/// Selects changes.
#[derive(Clone, Debug)]
pub struct WatchDeliveries {
    /// Of deliveries of this account, or of all.
    pub scope: AccountScope,
    /// Of this subscription of the account; `None` means all, future ones too.
    pub subscription: Option<SubscriptionId>,
    /// Into these states (without regard to the time of a retry); empty means all.
    pub states: Vec<DeliveryState>,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The subscription of the delivery.
    pub subscription: Arc<Subscription>,
    /// The delivery after the change.
    pub delivery: DeliveryRecord,
    /// Changes that were skipped before this one.
    pub skipped: u64,
}

/// A change that waits for the client.
struct QueuedChange {
    change: DeliveryChange,
    time: UnixMicros,
    skipped: u64,
}

impl Gateway {
    /// Streams changes of deliveries from the return of this call on, until the stream is dropped or the subscription is deleted. A slow reader does not hold up
    /// anything: changes beyond [`WATCH_CHANGES_WAITING_MAX`] are skipped and counted.
    pub fn watch_deliveries(
        &self,
        watch: WatchDeliveries,
    ) -> Result<impl Stream<Item = Watched> + Send + use<>, GatewayError> {
        let subscription = match (watch.scope, &watch.subscription) {
            (AccountScope::One(account), Some(id)) => {
                let name = SubscriptionName { account, id: id.clone() };
                Some(self.get_subscription(&name)?.key)
            }
            _ => None,
        };
        let max = self.0.settings.watches_max;
        let key = match watch.scope {
            AccountScope::One(account) => ShareKey::Account(account.get()),
            AccountScope::All => ShareKey::AllAccounts,
        };
        let permit = self.0.watches.try_acquire(key, 1).map_err(|_| match watch.scope {
            AccountScope::One(account) => GatewayError::share_used_up(account, "watches_max", max),
            AccountScope::All => GatewayError::overloaded("watches_max", max),
        })?;
        let (sender, queue) = mpsc::channel(WATCH_CHANGES_WAITING_MAX);
        let store = Arc::clone(&self.0.store);
        let wanted = Wanted { scope: watch.scope, subscription, states: watch.states };
        tokio::spawn(filter_changes(store.changes(), store, wanted, sender, permit));
        let (gateway, left_out) = (self.clone(), Arc::new(AtomicU64::new(0)));
        Ok(ReceiverStream::new(queue).filter_map(move |queued| {
            let (gateway, left_out) = (gateway.clone(), Arc::clone(&left_out));
            async move { gateway.read_change(queued, &left_out).await }
        }))
    }

    /// Reads the delivery, as it was after the change; `None` if it is gone or cannot be read. `left_out`
    /// counts the changes that were skipped or could not be read since the last one that was shown.
    async fn read_change(&self, queued: QueuedChange, left_out: &AtomicU64) -> Option<Watched> {
        let QueuedChange { change, time, skipped } = queued;
        left_out.fetch_add(skipped, Ordering::Relaxed);
        let subscription = self.0.store.registry().by_key(change.key.subscription)?;
        let read = self.read(move |store| store.delivery(change.key)).await;
        let read = read.inspect_err(|_| {
            left_out.fetch_add(1, Ordering::Relaxed);
        });
        let mut delivery = read.ok().flatten()?;
        let skipped = left_out.swap(0, Ordering::Relaxed);
        // It may have changed again since: leave out later attempts.
        let later = delivery.attempt_count.saturating_sub(change.attempts);
        let kept = delivery.attempts.len().saturating_sub(usize::try_from(later).unwrap_or(usize::MAX));
        delivery.attempts.truncate(kept);
        delivery.attempt_count = change.attempts;
        delivery.state = change.state;
        delivery.update_time = time;
        Some(Watched { subscription, delivery: self.shown(delivery), skipped })
    }
}

struct Wanted {
    scope: AccountScope,
    subscription: Option<SubscriptionKey>,
    states: Vec<DeliveryState>,
}

impl Wanted {
    fn wants(&self, change: &DeliveryChange, store: &dyn Store) -> bool {
        let of_state =
            self.states.is_empty() || self.states.iter().any(|state| state.is_same_kind(change.state));
        of_state
            && match self.subscription {
                Some(subscription) => subscription == change.key.subscription,
                None => {
                    let subscription = store.registry().by_key(change.key.subscription);
                    subscription
                        .is_some_and(|found| self.scope.contains(found.name.account) && !found.is_sink())
                }
            }
    }
}

/// Forwards the wanted changes. Never waits for the reader, so that it keeps up with the store.
async fn filter_changes(
    mut changes: Receiver<Arc<Changes>>,
    store: Arc<dyn Store>,
    wanted: Wanted,
    sender: mpsc::Sender<QueuedChange>,
    _permit: Permit,
) {
    let (mut seen, mut skipped) = (None, 0);
    let mut looks = interval(EXISTS_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let exists = |key: SubscriptionKey| store.registry().by_key(key).is_some();
    loop {
        let group = tokio::select! {
            biased;
            () = sender.closed() => return,
            _ = looks.tick(), if wanted.subscription.is_some() => {
                if wanted.subscription.is_none_or(exists) {
                    continue;
                }
                return;
            }
            group = changes.recv() => match group {
                Ok(group) => group,
                Err(RecvError::Lagged(groups)) => {
                    // The next group's count shows how many changes were missed, except before the first one: then
                    // at least one for each group.
                    skipped += seen.map_or(groups, |_| 0);
                    continue;
                }
                Err(RecvError::Closed) => return,
            },
        };
        skipped += seen.map_or(0, |seen| group.before - seen);
        seen = Some(group.before + group.deliveries.len() as u64);
        for change in group.deliveries.iter().filter(|change| wanted.wants(change, &*store)) {
            match sender.try_send(QueuedChange { change: *change, time: group.time, skipped }) {
                Ok(()) => skipped = 0,
                Err(TrySendError::Full(_)) => skipped += 1,
                Err(TrySendError::Closed(_)) => return,
            }
        }
    }
}
