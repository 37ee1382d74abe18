//! One attempt as a task: sends the request, decides the next state, settles it in the store.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use rand::{SeedableRng, rngs::StdRng};
use tower::{Service, ServiceExt};

use super::{
    notices::Notices,
    settings::{DESCRIPTOR_RETRY_WAIT, DispatchSettings, STORE_RETRY_WAIT},
};
use crate::{
    clock::Clock,
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState, Outcome},
        ids::SubscriptionKey,
        subscription::Subscription,
        time::UnixMicros,
    },
    event::{
        exchange,
        webhook::{ResponseRest, WebhookClient, WebhookRequest, WebhookResponse},
    },
    log_throttle::LogThrottle,
    metrics::{InFlightGuard, Metrics},
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
    pub(crate) notices: Notices,
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
    /// The rest of the response, if it has not arrived yet.
    pub(crate) rest: Option<RestTask>,
}

impl AttemptDone {
    /// An attempt that was not made.
    pub(crate) fn unsent(key: DeliveryKey, began: UnixMicros, kind: AttemptKind) -> Self {
        Self { key, began, due: None, attempt: None, kind, rest: None }
    }
}

/// The rest of a response whose attempt is settled. The attempt keeps its place meanwhile: the receiver may be at
/// work on it.
pub(crate) struct RestTask {
    subscription: SubscriptionKey,
    /// Steady time of the attempt's start.
    began: UnixMicros,
    succeeded: bool,
    rest: ResponseRest,
    clock: Arc<dyn Clock>,
    _in_flight: InFlightGuard,
}

/// The rest of a response has arrived, or is not waited for any longer.
pub(crate) struct RestDone {
    pub(crate) subscription: SubscriptionKey,
    pub(crate) succeeded: bool,
    /// From the attempt's start.
    pub(crate) duration: Duration,
}

impl RestTask {
    pub(crate) async fn run(self) -> RestDone {
        self.rest.await;
        let Self { subscription, succeeded, .. } = self;
        RestDone { subscription, succeeded, duration: self.clock.steady().since(self.began) }
    }
}

impl AttemptTask {
    pub(crate) async fn run(mut self) -> AttemptDone {
        let key = DeliveryKey { seq: self.owed.event.seq, subscription: self.subscription.key };
        let metrics = Arc::clone(&self.context.metrics);
        let settings = self.context.settings;
        let began = self.context.clock.steady();
        let in_flight = metrics.attempts_in_flight.track();
        let (WebhookResponse { attempt, rest }, exchange) = exchange::observe(self.post()).await;
        // Counted no longer, unless the response goes on.
        let rest = rest.map(|rest| RestTask {
            subscription: key.subscription,
            began,
            succeeded: attempt.outcome == Outcome::Ok,
            rest,
            clock: Arc::clone(&self.context.clock),
            _in_flight: in_flight,
        });
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
        AttemptDone { key, began, due: state.due(), attempt, kind: self.kind, rest }
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

    async fn post(&mut self) -> WebhookResponse {
        let AttemptContext { webhook_client, clock, .. } = &mut self.context;
        if self.owed.event.damage.is_some() {
            return Attempt::of_damaged_event(clock.now()).into();
        }
        let request = WebhookRequest {
            subscription: Arc::clone(&self.subscription),
            event: Arc::clone(&self.owed.event),
            attempt: self.owed.attempts.saturating_add(1),
            is_test: false,
        };
        let start_time = clock.now();
        let sending =
            AssertUnwindSafe(async { webhook_client.ready().await?.call(request).await }).catch_unwind();
        match sending.await {
            Ok(Ok::<_, Infallible>(response)) => response,
            // A panic costs this attempt and nothing else.
            Err(_) => WebhookResponse::from(Attempt {
                start_time,
                duration: clock.now().since(start_time),
                outcome: Outcome::Io,
                http_status: 0,
                error: "internal error of the gateway".to_owned(),
                response_body: String::new(),
                retry_after: None,
                resent: 0,
                url: self.subscription.settings.url.to_string(),
            }),
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
