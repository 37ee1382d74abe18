//! Use cases of subscriptions: create, update, pause, rotate the secret, delete, test.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tower::ServiceExt;
use url::Url;

use super::{Applied, Gateway, GatewayError, Limit};
use crate::{
    domain::{
        delivery::Attempt,
        egress::Blocked,
        field_violation::FieldViolations,
        ids::{AccountId, AccountScope, EventId, EventName, Seq, SubscriptionId, SubscriptionName},
        key_pair::KeyPair,
        secret::Secret,
        shared_limit::SharedLimit,
        signature::{self, Signer},
        subscription::{self, Mask, OLDER_SECRETS_MAX, Settings, SignatureScheme, State, Subscription},
        time::UnixMicros,
    },
    event::{
        EventContent, StoredEvent,
        exchange::{self, Exchange},
        samples,
        webhook::WebhookRequest,
    },
    limits::{Permit, ShareKey},
    proto::v1::{self, EventType},
    store::{Change, NewSubscription, Page, RequestKey, StoreError},
};

/// One account may have an eighth of the bytes of subscriptions.
const ACCOUNT_BYTES_PARTS: u64 = 8;
/// Attempts at a change without an etag, while other callers change the same subscription.
const CHANGE_ATTEMPTS_MAX: usize = 8;

/// A subscription to create.
#[derive(Clone, Debug)]
pub struct CreateSubscription {
    /// Its account.
    pub account: AccountId,
    /// The last part of its name; `None` for a generated one.
    pub id: Option<SubscriptionId>,
    /// Its settings, from [`Gateway::check_subscription`].
    pub settings: Settings,
    /// A secret that receivers already know; `None` for a generated one.
    pub signing_secret: Option<Secret>,
    /// Identifies the request: a repetition returns the first result.
    pub request: Option<RequestKey>,
    /// Validate only; store nothing.
    pub validate_only: bool,
}

/// Result of creating a subscription.
#[derive(Clone, Debug)]
pub enum Creation {
    /// The stored subscription. For a repeated request, as it was stored the first time.
    Stored {
        /// The subscription.
        subscription: Arc<Subscription>,
        /// The request was made before: its response has shown the signing secret, and no other may.
        repeated: bool,
    },
    /// It is valid and could be stored.
    Checked {
        /// Its name, if the caller gave one.
        name: Option<SubscriptionName>,
        /// The settings that would be stored.
        settings: Box<Settings>,
    },
}

/// A change of a subscription's settings.
#[derive(Clone, Debug)]
pub struct UpdateSubscription {
    /// The subscription.
    pub name: SubscriptionName,
    /// The new values.
    pub message: v1::Subscription,
    /// The fields of `message` to apply.
    pub mask: Mask,
    /// Field path of `message` in the request, for violations.
    pub path: &'static str,
    /// Etag that the subscription must still have.
    pub etag: Option<String>,
    /// Validate only; store nothing.
    pub validate_only: bool,
}

/// The removal of a subscription.
#[derive(Clone, Debug)]
pub struct DeleteSubscription {
    /// The subscription.
    pub name: SubscriptionName,
    /// Etag that the subscription must still have.
    pub etag: Option<String>,
    /// Delete unfinished deliveries too, instead of failing.
    pub force: bool,
}

/// Selects subscriptions, in the order of their names.
#[derive(Clone, Debug)]
pub struct ListSubscriptions {
    /// Of these accounts.
    pub scope: AccountScope,
    /// With this event type.
    pub event_type: Option<EventType>,
    /// In one of these states; empty means all.
    pub states: Vec<State>,
    /// Only those whose latest attempt failed, and suspended ones.
    pub failing: bool,
    /// After this name.
    pub after: Option<SubscriptionName>,
    /// Most subscriptions in the page.
    pub limit: usize,
}

/// Result of a rotation.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// The new secret; `None` for a repeated request, whose first response has shown it.
    pub signing_secret: Option<Secret>,
    /// The public key to verify signatures with, if the scheme has one.
    pub public_key: Option<String>,
    /// Until when POSTs are signed with the old secret too.
    pub old_until: UnixMicros,
}

/// Result of a test.
#[derive(Clone, Debug)]
pub struct Tested {
    /// The body of the POST.
    pub body: Bytes,
    /// The attempt.
    pub attempt: Attempt,
    /// What went over the wire.
    pub exchange: Box<Exchange>,
}

impl Gateway {
    /// Parses the settings of `message`, or returns every violation, with field paths that start with `path`.
    /// Pure.
    pub fn check_subscription(
        &self,
        message: &v1::Subscription,
        path: &str,
    ) -> Result<Settings, FieldViolations> {
        let settings = subscription::check_new(message, path, self.0.settings.retry_defaults)?;
        self.check_egress(&settings.url, path)?;
        self.check_headers(&settings, path)?;
        Ok(settings)
    }

    /// Creates a subscription.
    pub async fn create_subscription(&self, create: CreateSubscription) -> Result<Creation, GatewayError> {
        let CreateSubscription { account, id, settings, signing_secret, request, validate_only } = create;
        let registry = self.0.store.registry();
        let adding = self.0.adding.lock().await;

        let url_taken_by = registry.by_url(account, &settings.url);
        if validate_only {
            let name = id.map(|id| SubscriptionName { account, id });
            if let Some(name) = name.clone().filter(|name| registry.by_name(name).is_some()) {
                return Err(GatewayError::NameTaken(name));
            }
            if let Some(other) = url_taken_by {
                return Err(GatewayError::UrlTaken(other));
            }
            self.check_subscription_limit(account, &settings)?;
            return Ok(Creation::Checked { name, settings: Box::new(settings) });
        }
        // A taken URL is left to the store: it returns the first result to a repeated request, and a conflict
        // to others.
        if url_taken_by.is_none() {
            self.check_subscription_limit(account, &settings)?;
        }
        let id = id.unwrap_or_else(|| SubscriptionId::made_from(self.random_uuid()));
        let secret = signing_secret.unwrap_or_else(|| self.with_rng(signature::new_secret));
        let signer = Signer { secret, key_pair: self.key_pair(settings.signature_scheme) };
        let name = SubscriptionName { account, id };
        let new = NewSubscription { name, settings, signer, request };
        let created = self.0.store.create_subscription(new).await?;
        drop(adding);
        Ok(Creation::Stored { subscription: created.subscription, repeated: created.repeated })
    }

    /// Reads one subscription.
    pub fn get_subscription(&self, name: &SubscriptionName) -> Result<Arc<Subscription>, GatewayError> {
        self.0.store.registry().by_name(name).ok_or_else(|| GatewayError::no_subscription(name))
    }

    /// Lists subscriptions by name.
    pub fn list_subscriptions(&self, list: &ListSubscriptions) -> Page<Arc<Subscription>, SubscriptionName> {
        let mut page = Page { rows: Vec::new(), next: None };
        self.0.store.registry().walk(list.scope, list.after.as_ref(), |subscription| {
            let fits = list.event_type.is_none_or(|kind| subscription.settings.event_types.wants(kind))
                && (list.states.is_empty() || list.states.contains(&subscription.state))
                && (!list.failing || self.is_failing(subscription));
            if fits && page.rows.len() == list.limit {
                page.next = page.rows.last().map(|last: &Arc<Subscription>| last.name.clone());
                return false;
            }
            if fits {
                page.rows.push(Arc::clone(subscription));
            }
            true
        });
        page
    }

    /// Changes settings. If nothing differs, nothing is written and the etag stays.
    pub async fn update_subscription(
        &self,
        update: UpdateSubscription,
    ) -> Result<Applied<Arc<Subscription>>, GatewayError> {
        let UpdateSubscription { name, message, mask, path, etag, validate_only } = update;
        let defaults = self.0.settings.retry_defaults;
        // One at a time, since a change may take bytes that another one counts on.
        let _adding = self.0.adding.lock().await;
        self.change(&name, etag.as_deref(), validate_only, |current| {
            let settings = subscription::check_update(&current.settings, &message, &mask, path, defaults)?;
            if settings == current.settings {
                return Ok(None);
            }
            if settings.url != current.settings.url {
                // Only for a new URL: the policy may have changed since the old one was accepted.
                self.check_egress(&settings.url, path)?;
            }
            if settings.headers != current.settings.headers {
                self.check_headers(&settings, path)?;
            }
            let more = settings.bytes().saturating_sub(current.settings.bytes());
            if more > 0 {
                self.check_subscription_bytes(name.account, more)?;
            }
            let holder = self.0.store.registry().by_url(name.account, &settings.url);
            match holder.filter(|holder| *holder != name) {
                Some(other) => Err(GatewayError::UrlTaken(other)),
                None if settings.signature_scheme != current.settings.signature_scheme => {
                    self.check_older_secrets(current)?;
                    let key_pair = self.key_pair(settings.signature_scheme);
                    Ok(Some(Change::Scheme(Box::new(settings), key_pair)))
                }
                None => Ok(Some(Change::Settings(Box::new(settings)))),
            }
        })
        .await
    }

    /// Stops deliveries; events are still queued. Safe to repeat.
    pub async fn pause_subscription(
        &self,
        name: &SubscriptionName,
    ) -> Result<Applied<Arc<Subscription>>, GatewayError> {
        self.set_state(name, State::Paused).await
    }

    /// Resumes deliveries after a pause or a suspension. Safe to repeat.
    pub async fn resume_subscription(
        &self,
        name: &SubscriptionName,
    ) -> Result<Applied<Arc<Subscription>>, GatewayError> {
        self.set_state(name, State::Active).await
    }

    /// Signs with a new secret from the next attempt on, and with the older ones too for the time of
    /// `overlap`.
    ///
    /// A call whose response was lost may be repeated: the secrets that receivers know stay in use during the
    /// overlap.
    pub async fn rotate_signing_secret(
        &self,
        name: &SubscriptionName,
        overlap: Duration,
        request: Option<RequestKey>,
    ) -> Result<Rotated, GatewayError> {
        let secret = self.with_rng(signature::new_secret);
        let rotated = self.change(name, None, false, |current| {
            let key_pair = self.key_pair(current.settings.signature_scheme);
            let new = Signer { secret: secret.clone(), key_pair };
            Ok(Some(Change::Secret { new, overlap, request: request.clone() }))
        });
        // To a repeated request this is the subscription as the first one left it, with another secret.
        let rotated = rotated.await?.result;
        Ok(Rotated {
            signing_secret: (rotated.signing_secrets.newest.secret == secret).then_some(secret),
            public_key: rotated.public_key(),
            old_until: rotated.update_time.plus(overlap),
        })
    }

    /// Fails if the subscription has the most older secrets already. The current one would become one of
    /// them.
    fn check_older_secrets(&self, current: &Subscription) -> Result<(), GatewayError> {
        if current.signing_secrets.may_rotate(self.0.clock.now()) {
            return Ok(());
        }
        Err(GatewayError::TooManySecrets { subscription: current.name.clone(), max: OLDER_SECRETS_MAX })
    }

    /// Generates a key pair, if the scheme needs one.
    fn key_pair(&self, scheme: SignatureScheme) -> Option<KeyPair> {
        (scheme == SignatureScheme::Ed25519).then(|| self.with_rng(KeyPair::draw))
    }

    /// Deletes a subscription and its deliveries. Returns how many of them were unfinished.
    pub async fn delete_subscription(&self, delete: DeleteSubscription) -> Result<u64, GatewayError> {
        let DeleteSubscription { name, etag, force } = delete;
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let current = self.current(&name, etag.as_deref())?;
            match self.0.store.delete_subscription(current.key, current.version, force).await {
                Err(StoreError::VersionMismatch) if etag.is_none() => {}
                other => return other.map_err(|error| GatewayError::about(&name, error)),
            }
        }
        Err(GatewayError::EtagMismatch(name))
    }

    /// POSTs a sample event once, whatever the subscription's state. Nothing is stored.
    ///
    /// `event_type` may be one that the subscription does not have, to try a receiver first; `None` is the
    /// first one that it has.
    pub async fn test_subscription(
        &self,
        name: &SubscriptionName,
        event_type: Option<EventType>,
    ) -> Result<Tested, GatewayError> {
        let subscription = self.get_subscription(name)?;
        let _permit = self.test_permit(name.account)?;
        let kind = event_type.unwrap_or_else(|| subscription.settings.event_types.first());
        Ok(self.post_once(subscription, samples::sample(kind, name.account).into()).await)
    }

    /// Permits one test of an account.
    pub(super) fn test_permit(&self, account: AccountId) -> Result<Permit, GatewayError> {
        let max = self.0.settings.tests_in_flight_max;
        let overloaded = |_| GatewayError::share_used_up(account, "tests_in_flight_max", max);
        self.0.tests.try_acquire(ShareKey::Account(account.get()), 1).map_err(overloaded)
    }

    /// POSTs an event that is not stored.
    pub(super) async fn post_once(&self, subscription: Arc<Subscription>, content: EventContent) -> Tested {
        let id: EventId =
            format!("test-{}", self.random_uuid()).parse().expect("a UUID after a prefix is an event id");
        let name = EventName { account: subscription.name.account, id };
        let event = Arc::new(StoredEvent::new(Seq(0), name, self.0.clock.now(), content));
        let body = event.body(subscription.settings.payload_format);
        let request = WebhookRequest { subscription, event, attempt: 1, is_test: true };
        let sending = exchange::observe(self.0.webhook_client.clone().oneshot(request));
        let (attempt, exchange) = match sending.await {
            // Nobody waits for the rest of a body: a test ends when it is answered.
            (Ok(response), exchange) => (response.attempt, exchange),
            (Err(never), _) => match never {},
        };
        Tested { body, attempt, exchange }
    }

    /// Checks the egress policy, if the URL has an address. Host names are checked on every connection
    /// instead.
    fn check_egress(&self, url: &Url, path: &str) -> Result<(), FieldViolations> {
        let mut violations = FieldViolations::default();
        if let Err(Blocked { address, reason }) = self.0.settings.egress.verdict_on_url(url) {
            violations.invalid(
                format!("{path}.url"),
                format_args!("must not lead to {address}: it is {reason}{}", reason.way_out()),
            );
        }
        violations.into_result(())
    }

    /// Checks the headers that the operator denies.
    fn check_headers(&self, settings: &Settings, path: &str) -> Result<(), FieldViolations> {
        let mut violations = FieldViolations::default();
        for name in self.0.settings.egress.denied_headers(settings.headers.keys()) {
            violations.invalid(
                format!("{path}.headers[{name:?}]"),
                "must not be set: egress_headers_deny of this server has it",
            );
        }
        violations.into_result(())
    }

    /// Fails if the account may have no subscription more.
    fn check_subscription_limit(&self, account: AccountId, new: &Settings) -> Result<(), GatewayError> {
        let max = self.0.settings.subscriptions_per_account_max;
        let mut count = 0;
        self.0.store.registry().walk(AccountScope::One(account), None, |_| {
            count += 1;
            count < max
        });
        if count >= max {
            return Err(GatewayError::TooManySubscriptions { account, max });
        }
        self.check_subscription_bytes(account, new.bytes())
    }

    /// Fails if `more` bytes exceed the account's share of bytes of subscriptions.
    pub(super) fn check_subscription_bytes(&self, account: AccountId, more: u64) -> Result<(), GatewayError> {
        let max = self.0.settings.subscription_bytes_max;
        let (own, in_all) = self.0.store.registry().bytes(account);
        let share = SharedLimit { max, own_max: max / ACCOUNT_BYTES_PARTS }.share(in_all, more);
        if own + more <= share {
            return Ok(());
        }
        let limit = Limit { name: "subscription_bytes_max", max };
        Err(GatewayError::TooManySubscriptionBytes { account, bytes: own + more, share, limit })
    }

    fn current(
        &self,
        name: &SubscriptionName,
        etag: Option<&str>,
    ) -> Result<Arc<Subscription>, GatewayError> {
        let current = self.get_subscription(name)?;
        match etag {
            Some(etag) if etag != current.etag() => Err(GatewayError::EtagMismatch(name.clone())),
            _ => Ok(current),
        }
    }

    async fn set_state(
        &self,
        name: &SubscriptionName,
        state: State,
    ) -> Result<Applied<Arc<Subscription>>, GatewayError> {
        let change = |current: &Subscription| {
            Ok((current.state != state).then(|| Change::State(state, String::new())))
        };
        self.change(name, None, false, change).await
    }

    /// Applies the change that `plan` derives from the current subscription; `None` is no change.
    async fn change(
        &self,
        name: &SubscriptionName,
        etag: Option<&str>,
        validate_only: bool,
        plan: impl Fn(&Subscription) -> Result<Option<Change>, GatewayError>,
    ) -> Result<Applied<Arc<Subscription>>, GatewayError> {
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let current = self.current(name, etag)?;
            let change = match plan(&current)? {
                None => return Ok(Applied { result: current, changed: false }),
                Some(Change::Settings(settings) | Change::Scheme(settings, _)) if validate_only => {
                    return Ok(Arc::new(Subscription { settings: *settings, ..(*current).clone() }).into());
                }
                Some(change) => change,
            };
            match self.0.store.update_subscription(current.key, current.version, change).await {
                // Another caller was faster. Without an etag, plan again from the new version.
                Err(StoreError::VersionMismatch) if etag.is_none() => {}
                other => {
                    let result = other.map_err(|error| GatewayError::about(name, error))?;
                    // A repeated request returns what the first one left.
                    return Ok(Applied { changed: result.version > current.version, result });
                }
            }
        }
        Err(GatewayError::EtagMismatch(name.clone()))
    }
}
