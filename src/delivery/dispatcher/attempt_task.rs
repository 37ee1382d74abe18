//! One attempt as a task: sends the request, decides the next state, settles it in the store.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use rand::{SeedableRng, rngs::StdRng};
use tower::{Service, ServiceExt};

use super::settings::{DESCRIPTOR_RETRY_WAIT, DispatchSettings, STORE_RETRY_WAIT};
use crate::{
    clock::Clock,
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState, Outcome},
        subscription::Subscription,
        time::UnixMicros,
    },
    event::{
        exchange,
        webhook::{WebhookClient, WebhookRequest},
    },
    log_throttle::LogThrottle,
    metrics::Metrics,
    store::{PendingDelivery, Settlement, Store, StoreError},
};

/// The parts that every attempt uses.
#[derive(Clone)]
pub(crate) struct AttemptContext {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) webhook_client: WebhookClient,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: DispatchSettings,
    pub(crate) metrics: Arc<Metrics>,
}

/// An attempt to make.
pub(crate) struct AttemptTask {
    pub(crate) context: AttemptContext,
    pub(crate) subscription: Arc<Subscription>,
    /// Seed of the jitter of the retry.
    pub(crate) seed: u64,
    pub(crate) owed: PendingDelivery,
    pub(crate) kind: AttemptKind,
}

/// Who makes an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptKind {
    /// The lane of an active subscription.
    Lane,
    /// The occasional probe of a suspended subscription.
    Probe,
    /// A caller that asked for it, while the subscription is paused or suspended.
    Requested,
}

/// An attempt that has ended and is settled.
pub(crate) struct AttemptDone {
    pub(crate) key: DeliveryKey,
    /// Steady time of its start.
    pub(crate) began: UnixMicros,
    /// Steady time of the next attempt, if any.
    pub(crate) due: Option<UnixMicros>,
    /// `None` if nothing was sent and nothing is settled: the delivery is as it was.
    pub(crate) attempt: Option<Attempt>,
    pub(crate) kind: AttemptKind,
}

impl AttemptDone {
    /// An attempt that was not made.
    pub(crate) fn unsent(key: DeliveryKey, began: UnixMicros, kind: AttemptKind) -> Self {
        Self { key, began, due: None, attempt: None, kind }
    }
}

impl AttemptTask {
    pub(crate) async fn run(mut self) -> AttemptDone {
        let key = DeliveryKey { seq: self.owed.event.seq, subscription: self.subscription.key };
        let metrics = Arc::clone(&self.context.metrics);
        let settings = self.context.settings;
        let began = self.context.clock.steady();
        metrics.attempts_in_flight.inc();
        let (attempt, exchange) = exchange::observe(self.post()).await;
        metrics.attempts_in_flight.dec();
        if exchange.lacked_descriptor {
            return self.postpone(key, began).await;
        }
        metrics.attempt_ended(&self.owed.event, &attempt, self.owed.attempts == 0);
        let attempts = self.owed.attempts + 1;
        let policy = self.subscription.settings.retry.over(settings.retry.policy());
        let now = self.context.clock.steady();
        let random = &mut StdRng::seed_from_u64(self.seed);
        let state = if self.kind == AttemptKind::Probe {
            policy.next_state_of_probe(&attempt, attempts, now, settings.retry_after_max, random)
        } else {
            let of_policy = attempts.saturating_sub(self.subscription.health.probes_of(key.seq)).max(1);
            policy.next_state(&attempt, of_policy, now, settings.retry_after_max, random)
        };
        // A damaged event is no failure of the endpoint.
        if attempt.outcome != Outcome::Damaged {
            let now = self.context.clock.now();
            metrics.delivery_stats.note(key, &attempt, exchange, state == DeliveryState::Failed, now);
        }
        self.log(&attempt, attempts, state);
        let attempt = Some(self.settle(Settlement { key, attempt, state }).await);
        AttemptDone { key, began, due: state.due(), attempt, kind: self.kind }
    }

    /// Gives the delivery back after a pause. It stays in flight meanwhile, so that others are not started for
    /// the same descriptor.
    async fn postpone(&self, key: DeliveryKey, began: UnixMicros) -> AttemptDone {
        static LOG: LogThrottle = LogThrottle::new();
        self.context.metrics.attempts_postponed.inc();
        if let Some(attempts) = LOG.record() {
            tracing::warn!(
                attempts,
                "no file descriptor was free for a connection to an endpoint; trying again. Raise the limit of open files"
            );
        }
        tokio::time::sleep(DESCRIPTOR_RETRY_WAIT).await;
        AttemptDone::unsent(key, began, self.kind)
    }

    async fn post(&mut self) -> Attempt {
        let AttemptContext { webhook_client, clock, .. } = &mut self.context;
        if self.owed.event.damage.is_some() {
            return Attempt::of_damaged_event(clock.now());
        }
        let request = WebhookRequest {
            subscription: Arc::clone(&self.subscription),
            event: Arc::clone(&self.owed.event),
            attempt: self.owed.attempts.saturating_add(1),
        };
        let start_time = clock.now();
        let sending =
            AssertUnwindSafe(async { webhook_client.ready().await?.call(request).await }).catch_unwind();
        match sending.await {
            Ok(Ok::<_, Infallible>(attempt)) => attempt,
            // A panic costs this attempt and nothing else.
            Err(_) => Attempt {
                start_time,
                duration: clock.now().since(start_time),
                outcome: Outcome::Io,
                http_status: 0,
                error: "internal error of the gateway".to_owned(),
                response_body: String::new(),
                retry_after: None,
                url: self.subscription.settings.url.to_string(),
            },
        }
    }

    /// Settles the attempt and returns it. The attempt stays in flight until the settlement is on disk, so
    /// after a crash no more deliveries are sent twice than were in flight.
    async fn settle(&self, settlement: Settlement) -> Attempt {
        loop {
            match self.context.store.settle(vec![settlement.clone()]).await {
                Err(StoreError::Busy | StoreError::Full | StoreError::NoDescriptor) => {
                    tokio::time::sleep(STORE_RETRY_WAIT).await;
                }
                // A store that failed or closed reports that itself; the delivery is still pending after a
                // restart.
                Ok(()) | Err(_) => return settlement.attempt,
            }
        }
    }

    fn log(&self, attempt: &Attempt, attempts: u32, state: DeliveryState) {
        let event = &self.owed.event.name;
        let subscription = &self.subscription.name;
        match state {
            DeliveryState::Failed => tracing::warn!(
                event.name = %event, subscription.name = %subscription, attempt.count = attempts,
                http.status = attempt.http_status, error = attempt.error, "delivery failed permanently",
            ),
            _ => tracing::debug!(
                event.name = %event, subscription.name = %subscription, attempt.count = attempts,
                http.status = attempt.http_status, error = attempt.error, "attempted a delivery",
            ),
        }
    }
}
