//! Use cases of events: publish, get, list, render.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{Gateway, GatewayError, Resource, admission::AdmissionPermit};
use crate::{
    domain::{
        event_routing::{EventAddress, EventRouting},
        field_violation::{FieldViolations, ViolationKind},
        ids::{AccountId, EventId, EventName, Seq, SubscriptionKey, SubscriptionName},
        payload_format::PayloadFormat,
        secret::REDACTED,
        time::UnixMicros,
        webhook_headers,
    },
    event::{
        self, EventContent, StoredEvent,
        dropped::{DroppedFields, dropped_fields},
        other, parse,
        webhook::WebhookRequest,
    },
    metrics::Metrics,
    proto::v1::{self, event::Payload},
    store::{Accepted, CommitFuture, EventQuery, Matches, NewEvent, Page, Registry, StoreError},
};

/// A body has at most this many times as many bytes as its event: a record of four bytes is written with a kilobyte
/// of keys.
const BODY_GROWTH_MAX: usize = 256;

/// A valid event. Only [`Gateway::check_event`] creates one.
#[derive(Clone, Debug)]
pub struct CheckedEvent {
    address: EventAddress,
    event: Box<v1::Event>,
    content: EventContent,
    facts: EventRouting,
    fingerprint: u128,
    /// How many fields that receivers do not get its publisher wants to know, for each form.
    warnings_max: usize,
}

impl CheckedEvent {
    /// The account, and the id that its publisher chose. An id is unique in its account.
    pub fn address(&self) -> &EventAddress {
        &self.address
    }

    /// The same of an event that so many gateways have POSTed before.
    #[must_use]
    pub fn after_hops(mut self, hops: u32) -> Self {
        if hops == 0 {
            return self;
        }
        self.content = self.content.with_hops(hops);
        self.fingerprint = fingerprint(&self.content.encoded);
        self
    }

    /// The same, whose result names up to so many fields that receivers do not get of it, for each form.
    #[must_use]
    pub fn with_warnings(self, warnings_max: usize) -> Self {
        Self { warnings_max, ..self }
    }

    /// The fields that the forms of these subscriptions leave out.
    fn dropped(&self, matching: &Matches) -> Vec<DroppedFields> {
        if self.warnings_max == 0 {
            return Vec::new();
        }
        let formats = PayloadFormat::all().filter(|format| matching.formats[format.index()]);
        let dropped = formats.filter_map(|format| {
            dropped_fields(&self.content.encoded, self.facts.event_type, format, self.warnings_max)
        });
        dropped.collect()
    }

    /// Whether `other` has the same content.
    pub fn is_same_event(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }

    /// The subscriptions that match now. The store matches again when it stores the event.
    fn matching(&self, registry: &Registry) -> Matches {
        registry.matching(self.address.account, self.facts.event_type, self.facts.inbox_id)
    }

    /// Converts the event for the store. Bodies of subscriptions that get it `soon` are rendered here, while
    /// the message is decoded. The message is freed on the thread that allocated it.
    fn into_new(self, matching: Matches, mut soon: impl FnMut(SubscriptionKey) -> bool) -> NewEvent {
        let Self { address, event, content, facts, fingerprint, warnings_max: _ } = self;
        for (subscription, format) in matching.active {
            if soon(subscription) {
                content.render(&event, format);
            }
        }
        NewEvent { address, content, inbox_id: facts.inbox_id, fingerprint, recipients: None }
    }
}

/// Result of publishing one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its account.
    pub account: AccountId,
    /// Its id; `None` if it was only validated, and its publisher chose none.
    pub id: Option<EventId>,
    /// When it was stored; for a duplicate, when the first one was. `None` if it was only validated.
    pub create_time: Option<UnixMicros>,
    /// It was stored before; nothing was stored now.
    pub duplicate: bool,
    /// Subscriptions that matched when it was stored first.
    pub delivery_count: u32,
    /// What receivers do not get of it, if its publisher wants to know.
    pub dropped: Vec<DroppedFields>,
}

/// Events on their way to the disk. Resolves when they are durable. Dropping it does not cancel the write.
pub struct Publishing {
    stored: CommitFuture<Vec<Accepted>>,
    accounts: Vec<AccountId>,
    /// What receivers do not get of each event; empty if no publisher wants to know.
    dropped: Vec<Vec<DroppedFields>>,
    start: Instant,
    metrics: Arc<Metrics>,
    _permit: AdmissionPermit,
}

impl Future for Publishing {
    type Output = Result<Vec<Published>, GatewayError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let accepted = match ready!(Pin::new(&mut self.stored).poll(context)) {
            Ok(accepted) => accepted,
            Err(StoreError::EventExists { index, id }) => {
                let name = EventName { account: self.accounts[index], id };
                return Poll::Ready(Err(GatewayError::EventExists { name, index }));
            }
            Err(other) => return Poll::Ready(Err(other.into())),
        };
        self.metrics.accept_seconds.observe(self.start.elapsed().as_secs_f64());
        let dropped = std::mem::take(&mut self.dropped).into_iter().chain(std::iter::repeat_with(Vec::new));
        let accepted = accepted.into_iter().zip(&self.accounts).zip(dropped);
        let published = accepted.map(|((accepted, account), dropped)| Published {
            account: *account,
            id: Some(accepted.id),
            create_time: Some(accepted.create_time),
            duplicate: accepted.duplicate,
            delivery_count: accepted.delivery_count,
            dropped,
        });
        Poll::Ready(Ok(published.collect()))
    }
}

/// The event to render.
#[derive(Clone, Debug)]
pub enum RenderSource {
    /// A stored event.
    Stored(EventName),
    /// An event that is not stored.
    New(Box<CheckedEvent>),
}

/// A POST as it would be sent.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// The exact body.
    pub body: Bytes,
    /// The headers, names in lower case. Values of the subscription's own headers are `***`.
    pub headers: BTreeMap<String, String>,
}

impl Gateway {
    /// Validates an event for `address`. `path` is its field path in the request, for violations. Pure.
    pub fn check_event(
        &self,
        address: EventAddress,
        mut event: Box<v1::Event>,
        path: &str,
    ) -> Result<CheckedEvent, FieldViolations> {
        let mut violations = FieldViolations::default();
        let max = self.0.settings.event_bytes_max;
        if event.encoded_len() > max {
            violations.invalid(path, format_args!("must have at most {max} bytes when it is encoded"));
            return Err(violations);
        }
        if let Some(Payload::Other(other)) = &mut event.payload {
            other.reasons.clear();
        }
        let facts = event::check(&mut event, address.account, path)?;
        self.checked(address, event, facts, path)
    }

    /// The event of a webhook of Chatwoot: a typed one if that comes out exactly as the body came in, or else the
    /// body as it came, and why. Pure.
    ///
    /// # Errors
    ///
    /// The body is no JSON object, names another account, or is larger than a body may be.
    pub fn check_webhook(
        &self,
        address: EventAddress,
        body: &[u8],
    ) -> Result<(CheckedEvent, Option<FieldViolations>), FieldViolations> {
        let account = address.account;
        let typed = parse::read(body, account).and_then(|event| {
            // It was checked when it was parsed.
            let mut event = Box::new(event);
            let facts = event::check(&mut event, account, "event")?;
            self.checked(address.clone(), event, facts, "event")
        });
        let why = match typed {
            Ok(checked) => return Ok((checked, None)),
            Err(why) => why,
        };
        if why.iter().any(|violation| violation.kind == ViolationKind::AccountMismatch) {
            return Err(why);
        }
        let (event, facts) = other::keep(body, account, &why)?;
        let checked = self.checked(address, Box::new(event), facts, "body")?;
        Ok((checked, Some(why)))
    }

    /// Completes the check of an event whose fields were checked.
    fn checked(
        &self,
        address: EventAddress,
        event: Box<v1::Event>,
        facts: EventRouting,
        path: &str,
    ) -> Result<CheckedEvent, FieldViolations> {
        let encoded = Bytes::from(event.encode_to_vec());
        let fingerprint = fingerprint(&encoded);
        let content = EventContent::new(facts.event_type, facts.order_key.into(), encoded);
        self.check_bodies(&content, &event, path)?;
        Ok(CheckedEvent { address, event, content, facts, fingerprint, warnings_max: 0 })
    }

    /// Fails if a body of the event would be larger than allowed: each of many small records in it is written with
    /// all its keys.
    fn check_bodies(
        &self,
        content: &EventContent,
        event: &v1::Event,
        path: &str,
    ) -> Result<(), FieldViolations> {
        let max = self.0.settings.body_bytes_max;
        if content.encoded.len() <= max / BODY_GROWTH_MAX {
            return Ok(());
        }
        let mut violations = FieldViolations::default();
        for format in PayloadFormat::all() {
            content.render(event, format);
            let bytes = content.body(format).len();
            if bytes > max {
                let form = format.to_wire().as_str_name();
                let rule = format_args!(
                    "has a body of {bytes} bytes in the form {form}: at most body_bytes_max ({max}) are allowed. \
                     Leave out nested messages, or split it"
                );
                violations.invalid(path, rule);
            }
        }
        violations.into_result(())
    }

    /// Fails if any publish would be refused now. Cheap: to be called before an event is even read.
    pub fn check_load(&self) -> Result<(), GatewayError> {
        self.0.admission.check()
    }

    /// Starts to store events, all or none, with a delivery for each subscription that matches when they are
    /// stored. The order of calls is the order of the stored events, even if their results are not awaited.
    pub fn publish(&self, events: Vec<CheckedEvent>) -> Result<Publishing, GatewayError> {
        let start = Instant::now();
        let bytes = events.iter().map(|event| event.content.encoded.len()).sum();
        let account = events.first().map(|event| event.address.account);
        let permit = self.0.admission.admit(account, events.len(), bytes)?;
        let sizes = events.iter().map(|event| (event.address.account, event.content.encoded.len()));
        let sizes: Vec<_> = sizes.collect();
        let registry = self.0.store.registry();
        let matching = events.iter().map(|event| event.matching(registry));
        let matching: Vec<_> = matching.collect();
        self.check_backlog(&sizes, &matching)?;
        let accounts = sizes.into_iter().map(|(account, _)| account).collect();
        let dropped = match events.iter().any(|event| event.warnings_max > 0) {
            true => events.iter().zip(&matching).map(|(event, matching)| event.dropped(matching)).collect(),
            false => Vec::new(),
        };
        let mut soon = self.sent_soon();
        let new =
            events.into_iter().zip(matching).map(|(event, matching)| event.into_new(matching, &mut soon));
        let stored = self.0.store.accept(new.collect());
        let metrics = Arc::clone(&self.0.metrics);
        Ok(Publishing { stored, accounts, dropped, start, metrics, _permit: permit })
    }

    /// Decides for a subscription whether a new delivery is sent soon. A delivery behind more than a window
    /// of others is not kept in memory: it is read and rendered later.
    fn sent_soon(&self) -> impl FnMut(SubscriptionKey) -> bool {
        let (store, window) = (Arc::clone(&self.0.store), self.0.settings.lane_window as u64);
        // No subscription has more unfinished deliveries than all together.
        let all_soon = store.owed_in_all().deliveries <= window;
        let mut known = HashMap::new();
        move |subscription| {
            all_soon
                || *known
                    .entry(subscription)
                    .or_insert_with(|| store.queue_summary(subscription).owed() <= window)
        }
    }

    /// The result that [`Gateway::publish`] would have now. Nothing is stored. The delivery count of a
    /// duplicate is that of the subscriptions that match now, not when it was stored.
    pub async fn check_publish(&self, events: Vec<CheckedEvent>) -> Result<Vec<Published>, GatewayError> {
        let ids: Vec<_> = events.iter().map(|event| event.address.clone()).collect();
        let stored = self
            .read(move |store| {
                ids.iter()
                    .map(|address| match &address.id {
                        Some(id) => store.event(address.account, id),
                        None => Ok(None),
                    })
                    .collect::<Result<Vec<_>, _>>()
            })
            .await?;
        let registry = self.0.store.registry();
        let mut published = Vec::with_capacity(events.len());
        for (index, (event, stored)) in events.into_iter().zip(stored).enumerate() {
            // A damaged one counts as the same event, as it does not differ as far as anybody can say.
            if let Some(stored) = stored.as_ref().filter(|stored| stored.damage.is_none())
                && fingerprint(&stored.content.encoded) != event.fingerprint
            {
                return Err(GatewayError::EventExists { name: stored.name.clone(), index });
            }
            let matching = event.matching(registry);
            let dropped = event.dropped(&matching);
            let subscriptions = matching.subscriptions.len();
            published.push(Published {
                account: event.address.account,
                id: event.address.id,
                create_time: stored.as_ref().map(|stored| stored.create_time),
                duplicate: stored.is_some(),
                delivery_count: u32::try_from(subscriptions).unwrap_or(u32::MAX),
                dropped,
            });
        }
        Ok(published)
    }

    /// Reads one stored event. [`GatewayError::Damaged`] if the disk has lost it.
    pub async fn get_event(&self, name: &EventName) -> Result<Arc<StoredEvent>, GatewayError> {
        let EventName { account, id } = name.clone();
        let event = self.read(move |store| store.event(account, &id)).await?;
        let event = event.filter(|event| !event.is_notice());
        let event = event.ok_or_else(|| GatewayError::NotFound(Resource::Event(name.clone())))?;
        match &event.damage {
            None => Ok(event),
            Some(damage) => Err(GatewayError::Damaged(damage.clone())),
        }
    }

    /// Lists stored events, latest first.
    pub async fn list_events(&self, query: EventQuery) -> Result<Page<Arc<StoredEvent>, Seq>, GatewayError> {
        self.read(move |store| store.events(&query)).await
    }

    /// Renders the POST for an event: in the format of `subscription` and with its headers, or without a
    /// subscription in the documented format, or in `format`. Stores and sends nothing.
    ///
    /// An event without an id gets a random one, as it would if it were stored.
    pub async fn render(
        &self,
        source: RenderSource,
        subscription: Option<&SubscriptionName>,
        format: Option<PayloadFormat>,
    ) -> Result<Rendered, GatewayError> {
        let subscription = subscription.map(|name| self.get_subscription(name)).transpose()?;
        let event = match source {
            RenderSource::Stored(name) => self.get_event(&name).await?,
            RenderSource::New(checked) => {
                let EventAddress { account, id } = checked.address;
                let id = id.unwrap_or_else(|| EventId::from(self.random_uuid()));
                let name = EventName { account, id };
                Arc::new(StoredEvent::new(Seq(0), name, self.0.clock.now(), checked.content))
            }
        };
        let own = subscription.as_ref().map_or(PayloadFormat::Documented, |s| s.settings.payload_format);
        let format = format.unwrap_or(own);
        let body = event.body(format);
        let headers = match &subscription {
            None => webhook_headers::plain_headers(format),
            Some(subscription) => {
                let shared = Arc::clone(subscription);
                let request = WebhookRequest { subscription: shared, event, attempt: 1, is_test: false };
                webhook_headers::headers(subscription, request.facts(self.0.clock.now()), &body)
            }
        };
        let own = |name: &str| subscription.as_ref().is_some_and(|s| s.settings.headers.contains_key(name));
        let headers = headers.iter().map(|(name, value)| {
            let value =
                if own(name.as_str()) { REDACTED.into() } else { String::from_utf8_lossy(value.as_bytes()) };
            (name.to_string(), value.into_owned())
        });
        Ok(Rendered { headers: headers.collect(), body })
    }
}

/// Identifies an event's content: the first half of the SHA-256 of its encoding. Maps are sorted, so that
/// equal events have equal encodings.
fn fingerprint(encoded: &[u8]) -> u128 {
    let digest = Sha256::digest(encoded);
    let half = digest.first_chunk().expect("a SHA-256 has 32 bytes");
    u128::from_be_bytes(*half)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::samples;

    #[test]
    fn only_bodies_that_are_sent_soon_are_rendered_before_the_event_is_stored() {
        const FORMATS: [PayloadFormat; 2] = [PayloadFormat::Documented, PayloadFormat::Sample];
        for wanted in [&FORMATS[..0], &FORMATS[..1], &FORMATS[1..], &FORMATS] {
            let account = AccountId::new(1).unwrap();
            let mut event = Box::new(samples::typical_message(account, 1, 1));
            let facts = event::check(&mut event, account, "event").unwrap();
            let content = EventContent::from(&*event);
            let address = EventAddress { account, id: None };
            let checked = CheckedEvent { address, event, content, facts, fingerprint: 1, warnings_max: 0 };
            let (soon, late) = (SubscriptionKey(1), SubscriptionKey(2));
            let active =
                wanted.iter().map(|format| (soon, *format)).chain(FORMATS.map(|format| (late, format)));
            let matching =
                Matches { subscriptions: vec![soon, late], active: active.collect(), ..Matches::default() };
            let new = checked.into_new(matching, |subscription| subscription == soon);
            let rendered = FORMATS.into_iter().filter(|format| new.content.is_rendered(*format));
            assert_eq!(rendered.collect::<Vec<_>>(), wanted);
        }
    }
}
