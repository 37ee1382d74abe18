//! The use cases about subscriptions.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tower::ServiceExt;
use url::Url;

use super::{Gateway, GatewayError};
use crate::{
    domain::{
        delivery::Attempt,
        egress::Blocked,
        field_violation::FieldViolations,
        ids::{AccountId, AccountScope, EventId, EventName, Seq, SubscriptionId, SubscriptionName},
        key_pair::KeyPair,
        secret::Secret,
        signature::{self, Signer},
        subscription::{self, Mask, OLDER_SECRETS_MAX, Settings, SignatureScheme, State, Subscription},
        time::UnixMicros,
    },
    event::{StoredEvent, samples, webhook::WebhookRequest},
    proto::v1::{self, EventType},
    store::{Change, NewSubscription, Page, RequestKey, StoreError},
};

/// How often a change that gave no etag is made again, when others change the same subscription at the same time.
const CHANGE_ATTEMPTS_MAX: usize = 8;

/// A subscription to be added.
#[derive(Clone, Debug)]
pub struct CreateSubscription {
    /// To which account.
    pub account: AccountId,
    /// The last part of its name; made here where there is none.
    pub id: Option<SubscriptionId>,
    /// What its owner decided: [`Gateway::check_subscription`].
    pub settings: Settings,
    /// What receivers already know; made here where there is none.
    pub signing_secret: Option<Secret>,
    /// Makes a repetition return the first answer.
    pub request: Option<RequestKey>,
    /// Check only.
    pub validate_only: bool,
}

/// What came of adding a subscription.
#[derive(Clone, Debug)]
pub enum Creation {
    /// It is stored; or was, by the same request before: then as it was stored then.
    Stored(Arc<Subscription>),
    /// It could be stored.
    Checked {
        /// Its name, if the caller gave one.
        name: Option<SubscriptionName>,
        /// What would be stored.
        settings: Box<Settings>,
    },
}

/// A change of a subscription by its owner.
#[derive(Clone, Debug)]
pub struct UpdateSubscription {
    /// Which.
    pub name: SubscriptionName,
    /// Holds the new values.
    pub message: v1::Subscription,
    /// Says which of them count.
    pub mask: Mask,
    /// Where `message` is found in the request.
    pub path: &'static str,
    /// What the subscription must not have changed since.
    pub etag: Option<String>,
    /// Check only.
    pub validate_only: bool,
}

/// The removal of a subscription.
#[derive(Clone, Debug)]
pub struct DeleteSubscription {
    /// Which.
    pub name: SubscriptionName,
    /// What the subscription must not have changed since.
    pub etag: Option<String>,
    /// Drop deliveries that are not yet made.
    pub force: bool,
}

/// Which subscriptions, by name.
#[derive(Clone, Debug)]
pub struct ListSubscriptions {
    /// Of these accounts.
    pub scope: AccountScope,
    /// That take this kind of event.
    pub event_type: Option<EventType>,
    /// In one of these states; empty means all.
    pub states: Vec<State>,
    /// Only those after this name.
    pub after: Option<SubscriptionName>,
    /// At most so many.
    pub limit: usize,
}

/// What came of a rotation.
#[derive(Clone, Debug)]
pub struct Rotated {
    /// What POSTs are signed with from now on.
    pub signing_secret: Secret,
    /// What they are verified with, where that is not the secret.
    pub public_key: Option<String>,
    /// Until when they are signed with the secret before it as well.
    pub old_until: UnixMicros,
}

/// What came of a test.
#[derive(Clone, Debug)]
pub struct Tested {
    /// What was POSTed.
    pub body: Bytes,
    /// What came of it.
    pub attempt: Attempt,
}

impl Gateway {
    /// The settings that `message` asks for, or every fault, with paths that start with `path`. Pure.
    pub fn check_subscription(
        &self,
        message: &v1::Subscription,
        path: &str,
    ) -> Result<Settings, FieldViolations> {
        let settings = subscription::check_new(message, path, self.0.settings.retry_defaults)?;
        self.check_egress(&settings.url, path)?;
        Ok(settings)
    }

    /// Adds a subscription.
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
            self.check_room(account)?;
            return Ok(Creation::Checked { name, settings: Box::new(settings) });
        }
        // Where the URL is taken nothing is added: the store answers with the repetition or the conflict that it is.
        if url_taken_by.is_none() {
            self.check_room(account)?;
        }
        let id = id.unwrap_or_else(|| SubscriptionId::made_from(self.draw_uuid()));
        let secret = signing_secret.unwrap_or_else(|| self.draw(signature::new_secret));
        let signer = Signer { secret, key_pair: self.key_pair(settings.signature_scheme) };
        let name = SubscriptionName { account, id };
        let new = NewSubscription { name, settings, signer, request };
        let created = self.0.store.create_subscription(new).await?;
        drop(adding);
        Ok(Creation::Stored(created.subscription))
    }

    /// Reads one subscription.
    pub fn get_subscription(&self, name: &SubscriptionName) -> Result<Arc<Subscription>, GatewayError> {
        self.0.store.registry().by_name(name).ok_or_else(|| GatewayError::no_subscription(name))
    }

    /// Lists subscriptions by name.
    pub fn list_subscriptions(&self, list: &ListSubscriptions) -> Page<Arc<Subscription>, SubscriptionName> {
        let mut page = Page { rows: Vec::new(), next: None };
        self.0.store.registry().walk(list.scope, list.after.as_ref(), |subscription| {
            let fits = list.event_type.is_none_or(|kind| subscription.settings.event_types.contains(&kind))
                && (list.states.is_empty() || list.states.contains(&subscription.state));
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

    /// Changes what the owner decides. A change that changes nothing is not written: the etag stays.
    pub async fn update_subscription(
        &self,
        update: UpdateSubscription,
    ) -> Result<Arc<Subscription>, GatewayError> {
        let UpdateSubscription { name, message, mask, path, etag, validate_only } = update;
        let defaults = self.0.settings.retry_defaults;
        self.change(&name, etag.as_deref(), validate_only, |current| {
            let settings = subscription::check_update(&current.settings, &message, &mask, path, defaults)?;
            if settings == current.settings {
                return Ok(None);
            }
            if settings.url != current.settings.url {
                // Not otherwise: the policy may have changed since, which is no fault of this request.
                self.check_egress(&settings.url, path)?;
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

    /// Stops delivering; events are still queued. Safe to repeat.
    pub async fn pause_subscription(
        &self,
        name: &SubscriptionName,
    ) -> Result<Arc<Subscription>, GatewayError> {
        self.set_state(name, State::Paused).await
    }

    /// Delivers again after a pause or a suspension. Safe to repeat.
    pub async fn resume_subscription(
        &self,
        name: &SubscriptionName,
    ) -> Result<Arc<Subscription>, GatewayError> {
        self.set_state(name, State::Active).await
    }

    /// Signs with a new secret from the next attempt on, and for `overlap` with the ones so far as well.
    ///
    /// A call whose answer was lost may be made again: what receivers know signs on, whichever of the secrets that is.
    pub async fn rotate_signing_secret(
        &self,
        name: &SubscriptionName,
        overlap: Duration,
    ) -> Result<Rotated, GatewayError> {
        let secret = self.draw(signature::new_secret);
        let rotated = self.change(name, None, false, |current| {
            if !overlap.is_zero() {
                self.check_older_secrets(current)?;
            }
            let key_pair = self.key_pair(current.settings.signature_scheme);
            Ok(Some(Change::Secret { new: Signer { secret: secret.clone(), key_pair }, overlap }))
        });
        let rotated = rotated.await?;
        let old_until = rotated.update_time.plus(overlap);
        Ok(Rotated { signing_secret: secret, public_key: rotated.public_key(), old_until })
    }

    /// Whether one more may sign beside the newest: the one so far becomes the newest of them.
    fn check_older_secrets(&self, current: &Subscription) -> Result<(), GatewayError> {
        let older = current.signing_secrets.older_at(self.0.clock.now()).count() + 1;
        if older <= OLDER_SECRETS_MAX {
            return Ok(());
        }
        Err(GatewayError::TooManySecrets { subscription: current.name.clone(), max: OLDER_SECRETS_MAX })
    }

    /// A key pair, where the scheme needs one.
    fn key_pair(&self, scheme: SignatureScheme) -> Option<KeyPair> {
        (scheme == SignatureScheme::Ed25519).then(|| self.draw(KeyPair::draw))
    }

    /// Removes a subscription and its deliveries.
    pub async fn delete_subscription(&self, delete: DeleteSubscription) -> Result<(), GatewayError> {
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

    /// POSTs a made-up event once, whatever the subscription's state. Nothing is stored.
    ///
    /// `event_type` need not be one that the subscription takes, so that a receiver can be tried before it does; `None`
    /// is the first one that it takes.
    pub async fn test_subscription(
        &self,
        name: &SubscriptionName,
        event_type: Option<EventType>,
    ) -> Result<Tested, GatewayError> {
        let subscription = self.get_subscription(name)?;
        let max = self.0.settings.tests_in_flight_max;
        let overloaded = |_| GatewayError::overloaded("tests_in_flight_max", max);
        let _turn = self.0.tests.try_acquire().map_err(overloaded)?;

        let first = subscription.settings.event_types.first();
        let kind = event_type.or(first.copied()).expect("a subscription takes at least one event type");
        let id: EventId =
            format!("test-{}", self.draw_uuid()).parse().expect("a UUID after a prefix is an event id");
        let event = Arc::new(StoredEvent::new(
            Seq(0),
            EventName { account: name.account, id },
            self.0.clock.now(),
            samples::sample(kind, name.account),
        ));
        let body = event.body(subscription.settings.payload_format);
        let post = WebhookRequest { subscription, event };
        let attempt = match self.0.webhook_client.clone().oneshot(post).await {
            Ok(attempt) => attempt,
            Err(never) => match never {},
        };
        Ok(Tested { body, attempt })
    }

    /// The verdict that a POST to the URL would meet. It is left to the POST where the URL has a name, not an address.
    fn check_egress(&self, url: &Url, path: &str) -> Result<(), FieldViolations> {
        let mut faults = FieldViolations::default();
        if let Err(Blocked { address, reason }) = self.0.settings.egress.verdict_on_url(url) {
            faults.invalid(format!("{path}.url"), format_args!("must not lead to {address}: it is {reason}"));
        }
        faults.into_result(())
    }

    fn check_room(&self, account: AccountId) -> Result<(), GatewayError> {
        let max = self.0.settings.subscriptions_per_account_max;
        let mut count = 0;
        self.0.store.registry().walk(AccountScope::One(account), None, |_| {
            count += 1;
            count < max
        });
        if count < max { Ok(()) } else { Err(GatewayError::TooManySubscriptions { account, max }) }
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
    ) -> Result<Arc<Subscription>, GatewayError> {
        let change = |current: &Subscription| {
            Ok((current.state != state).then(|| Change::State(state, String::new())))
        };
        self.change(name, None, false, change).await
    }

    /// Makes the change that `decide` makes of the subscription as it stands; `None` is no change.
    async fn change(
        &self,
        name: &SubscriptionName,
        etag: Option<&str>,
        validate_only: bool,
        decide: impl Fn(&Subscription) -> Result<Option<Change>, GatewayError>,
    ) -> Result<Arc<Subscription>, GatewayError> {
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let current = self.current(name, etag)?;
            let change = match decide(&current)? {
                None => return Ok(current),
                Some(Change::Settings(settings) | Change::Scheme(settings, _)) if validate_only => {
                    return Ok(Arc::new(Subscription { settings: *settings, ..(*current).clone() }));
                }
                Some(change) => change,
            };
            match self.0.store.update_subscription(current.key, current.version, change).await {
                // Somebody else was faster. Without an etag the caller does not mind: decide again.
                Err(StoreError::VersionMismatch) if etag.is_none() => {}
                other => return other.map_err(|error| GatewayError::about(name, error)),
            }
        }
        Err(GatewayError::EtagMismatch(name.clone()))
    }
}
