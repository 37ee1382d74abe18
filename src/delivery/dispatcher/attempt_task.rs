//! One attempt as a task, from the POST to its settlement.

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;
use rand::{SeedableRng, rngs::StdRng};
use tower::{Service, ServiceExt};

use super::settings::{DispatchSettings, STORE_RETRY_WAIT};
use crate::{
    clock::Clock,
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState, Outcome},
        subscription::Subscription,
        time::UnixMicros,
    },
    event::webhook::{WebhookClient, WebhookRequest},
    metrics::Metrics,
    store::{PendingDelivery, Settlement, Store, StoreError},
};

/// What every attempt needs.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) webhook_client: WebhookClient,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: DispatchSettings,
    pub(crate) metrics: Arc<Metrics>,
}

/// An attempt to be made.
pub(crate) struct Sending {
    pub(crate) means: Means,
    pub(crate) subscription: Arc<Subscription>,
    /// For the jitter of what follows.
    pub(crate) seed: u64,
    pub(crate) owed: PendingDelivery,
    /// Whether a suspended subscription is tried with it.
    pub(crate) is_probe: bool,
}

/// An attempt that is over and written down.
pub(crate) struct Ended {
    pub(crate) key: DeliveryKey,
    /// When the next one is due.
    pub(crate) due: Option<UnixMicros>,
    /// What came of it; `None` if none was made.
    pub(crate) attempt: Option<Attempt>,
    pub(crate) is_probe: bool,
}

impl Sending {
    pub(crate) async fn run(mut self) -> Ended {
        let key = DeliveryKey { seq: self.owed.event.seq, subscription: self.subscription.key };
        let metrics = Arc::clone(&self.means.metrics);
        let settings = self.means.settings;
        if !self.means.store.state(key).is_some_and(DeliveryState::is_owed) {
            // It was cancelled while it waited in the lane.
            return Ended { key, due: None, attempt: None, is_probe: self.is_probe };
        }
        metrics.attempts_in_flight.inc();
        let attempt = self.post().await;
        metrics.attempts_in_flight.dec();
        metrics.attempt_ended(&self.owed.event, &attempt, self.owed.attempts == 0);
        let attempts = self.owed.attempts + 1;
        let policy = self.subscription.settings.retry.over(settings.retry);
        let now = self.means.clock.now();
        let random = &mut StdRng::seed_from_u64(self.seed);
        let state = if self.is_probe {
            policy.next_state_of_probe(&attempt, attempts, now, settings.retry_after_max, random)
        } else {
            let of_policy = attempts.saturating_sub(self.subscription.health.probes_of(key.seq)).max(1);
            policy.next_state(&attempt, of_policy, now, settings.retry_after_max, random)
        };
        self.log(&attempt, attempts, state);
        let attempt = self.settle(Settlement { key, attempt, state }).await;
        Ended { key, due: state.due(), attempt: Some(attempt), is_probe: self.is_probe }
    }

    async fn post(&mut self) -> Attempt {
        let Means { webhook_client, clock, .. } = &mut self.means;
        let post = WebhookRequest {
            subscription: Arc::clone(&self.subscription),
            event: Arc::clone(&self.owed.event),
        };
        let start_time = clock.now();
        let posting =
            AssertUnwindSafe(async { webhook_client.ready().await?.call(post).await }).catch_unwind();
        match posting.await {
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

    /// Writes down what came of it. The place in flight is held until that is on disk: after a crash no more is sent
    /// twice than was in flight. Gives the attempt back.
    async fn settle(&self, settlement: Settlement) -> Attempt {
        loop {
            match self.means.store.settle(vec![settlement.clone()]).await {
                Err(StoreError::Busy | StoreError::Full) => tokio::time::sleep(STORE_RETRY_WAIT).await,
                // A store that failed or closed has said so itself; the delivery is still owed after a restart.
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
                http.status = attempt.http_status, error = attempt.error, "gave up a delivery",
            ),
            _ => tracing::debug!(
                event.name = %event, subscription.name = %subscription, attempt.count = attempts,
                http.status = attempt.http_status, error = attempt.error, "attempted a delivery",
            ),
        }
    }
}
