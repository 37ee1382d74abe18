//! Subscriptions, events and posters for these tests.

use std::{sync::Arc, time::Duration};

use crate::support::PATIENCE;
use tidings::{
    clock::Clock,
    delivery::http::client::{WebhookClientSettings, webhook_client},
    domain::{
        delivery::{Attempt, Outcome},
        egress::EgressPolicy,
        ids::{Seq, SubscriptionKey},
        notice::Noticed,
        secret::Secret,
        signature::Signer,
        subscription::{Health, Settings, State, Subscription},
        time::UnixMicros,
    },
    event::{
        StoredEvent, exchange,
        webhook::{WebhookClient, WebhookRequest},
    },
    proto::v1::{self, EventType, event::Payload},
};
use tokio::time::timeout;
use tower::{Service, ServiceExt};
use uuid::Uuid;

/// The time of the clock: 2023-11-14T22:13:20Z.
pub const NOW_SECONDS: i64 = 1_700_000_000;
/// The signing secret of the subscriptions.
pub const SECRET: &str = "a secret for the tests";

struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> UnixMicros {
        UnixMicros(NOW_SECONDS * 1_000_000 + 999_999)
    }

    fn steady(&self) -> UnixMicros {
        self.now()
    }

    fn ahead(&self) -> i64 {
        0
    }
}

/// A sender that may POST to loopback. Clones share its connections.
#[derive(Clone)]
pub struct Sender(WebhookClient);

impl Sender {
    /// With the default settings, loopback allowed.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// With other settings.
    pub fn with(change: impl FnOnce(&mut WebhookClientSettings)) -> Self {
        let allowed = ["127.0.0.0/8", "::1/128"].iter().map(|net| net.parse().unwrap()).collect();
        let mut settings =
            WebhookClientSettings { egress: EgressPolicy::new(allowed), ..WebhookClientSettings::default() };
        change(&mut settings);
        Self(webhook_client(&settings, Arc::new(StoppedClock)).unwrap())
    }

    /// One attempt of the sample event to `url`.
    pub async fn post(&self, url: &str) -> Attempt {
        self.post_to(subscription(url)).await
    }

    /// One attempt of the sample event to a subscription.
    pub async fn post_to(&self, subscription: Subscription) -> Attempt {
        let (subscription, event) = (Arc::new(subscription), Arc::new(event()));
        self.send(WebhookRequest { subscription, event, attempt: 3, is_test: false }).await
    }

    /// One test of an endpoint.
    pub async fn test(&self, url: &str) -> Attempt {
        let (subscription, event) = (Arc::new(subscription(url)), Arc::new(event()));
        self.send(WebhookRequest { subscription, event, attempt: 1, is_test: true }).await
    }

    async fn send(&self, post: WebhookRequest) -> Attempt {
        let mut webhook_client = self.0.clone();
        let attempting = async { webhook_client.ready().await?.call(post).await };
        let (Ok(response), _) =
            timeout(PATIENCE, exchange::observe(attempting)).await.expect("an attempt ends");
        let attempt = response.attempt;
        assert_eq!(attempt.start_time.seconds(), NOW_SECONDS);
        assert_eq!(attempt.error.is_empty(), attempt.outcome == Outcome::Ok, "{attempt:?}");
        attempt
    }
}

/// An active subscription without anything special.
pub fn subscription(url: &str) -> Subscription {
    Subscription {
        key: SubscriptionKey(1),
        uid: Uuid::from_u128(0x5eed),
        version: 1,
        name: "accounts/1/subscriptions/test".parse().unwrap(),
        settings: Settings::new(url.parse().unwrap(), vec![EventType::MessageCreated]),
        state: State::Active,
        state_reason: String::new(),
        health: Health::default(),
        noticed: Noticed::default(),
        signing_secrets: Signer::from(Secret::new(SECRET)).into(),
        create_time: UnixMicros(0),
        update_time: UnixMicros(0),
    }
}

/// The same with a time for one POST.
pub fn impatient(url: &str, timeout: Duration) -> Subscription {
    let mut subscription = subscription(url);
    subscription.settings.timeout = Some(timeout);
    subscription
}

/// A message.
pub fn event() -> StoredEvent {
    let message = v1::Message { id: 7, content: Some("Grüße".to_owned()), ..v1::Message::default() };
    let payload = Payload::MessageCreated(v1::MessageCreated { message: Some(message) });
    let event = v1::Event { payload: Some(payload), ..v1::Event::default() };
    StoredEvent::new(Seq(1), "accounts/1/events/e-1".parse().unwrap(), UnixMicros(0), event)
}
