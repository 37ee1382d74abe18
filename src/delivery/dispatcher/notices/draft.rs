//! Notices on their way to the store: what is told of one subscription, to which sinks.

use std::{collections::BTreeMap, sync::Arc};

use super::super::settings::STORE_RETRY_WAIT;
use crate::{
    clock::Clock,
    domain::{
        delivery::DeliveryKey,
        event_routing::{EventAddress, OrderTag},
        ids::{AccountId, DeliveryName, EventId, SubscriptionKey},
        notice::{NoticeKind, Noticed},
        subscription::Subscription,
        time::UnixMicros,
    },
    event::notice::{FailedDelivery, Notice, NoticeFacts},
    metrics::Metrics,
    store::{self, Change, NewEvent, Store, StoreError},
};

/// Most attempts to write what was told while others change the same subscription.
const CHANGE_ATTEMPTS_MAX: usize = 8;

/// Deliveries of one subscription that failed for good.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failures {
    /// How many.
    pub(super) count: u64,
    /// The first and the last.
    ends: Option<(DeliveryKey, DeliveryKey)>,
    /// Steady time from which on they may be told.
    pub(super) due: UnixMicros,
}

impl Failures {
    /// None yet; those to come are told at `due` or later.
    pub(super) fn due(due: UnixMicros) -> Self {
        Self { count: 0, ends: None, due }
    }

    /// Whether there are some to tell at the steady time `now`.
    pub(super) fn is_due(&self, now: UnixMicros) -> bool {
        self.count > 0 && self.due <= now
    }

    /// Counts one.
    pub(super) fn add(&mut self, key: DeliveryKey) {
        self.count += 1;
        self.ends = Some((self.ends.map_or(key, |(first, _)| first), key));
    }
}

/// What is told of one subscription.
pub(super) struct Draft {
    pub(super) subject: Arc<Subscription>,
    sinks: Vec<Arc<Subscription>>,
    /// What sinks know once this is stored.
    pub(super) noticed: Noticed,
    /// Each with the id that it is stored by once, however often it is tried.
    told: Vec<(Option<EventId>, NoticeFacts)>,
    pub(super) failures: Option<Failures>,
}

impl Draft {
    /// Nothing about `subject` yet, for these sinks.
    pub(super) fn new(subject: Arc<Subscription>, sinks: Vec<Arc<Subscription>>) -> Self {
        Self { noticed: subject.noticed, subject, sinks, told: Vec::new(), failures: None }
    }

    /// Adds a change of what sinks know. [`Noticed::count`] goes with it.
    pub(super) fn tell(&mut self, facts: NoticeFacts) {
        self.noticed.count += 1;
        let id = format!("{}-{}-{}", facts.kind().name(), self.subject.uid.simple(), self.noticed.count);
        let id = id.parse().expect("a name, a UUID and a number are an event id");
        self.told.push((Some(id), facts));
    }

    /// Whether a sink wants notices of this kind.
    pub(super) fn has_sink_of(&self, kind: NoticeKind) -> bool {
        self.sinks.iter().any(|sink| sink.settings.notices.is_some_and(|kinds| kinds.contains(kind)))
    }

    /// Whether there is anything to store.
    pub(super) fn says_something(&self) -> bool {
        !self.told.is_empty() || self.failures.is_some() || self.noticed != self.subject.noticed
    }
}

/// Stores notices.
#[derive(Clone)]
pub(super) struct Outbox {
    pub(super) store: Arc<dyn Store>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) clock: Arc<dyn Clock>,
    /// Unfinished notices of one sink at most.
    pub(super) owed_max: u64,
}

impl Outbox {
    /// Stores a batch, then what sinks know by it. A crash in between repeats the first step, which changes nothing:
    /// the ids are the same.
    pub(super) async fn send(self, mut drafts: Vec<Draft>) {
        let (mut events, mut kinds) = (Vec::new(), Vec::new());
        for draft in &mut drafts {
            if let Some(failures) = draft.failures.take() {
                let facts = self.failed(draft, failures).await;
                draft.told.extend(facts.map(|facts| (None, facts)));
            }
            for (id, facts) in std::mem::take(&mut draft.told) {
                let kind = facts.kind();
                let new = self.events(draft, id.as_ref(), facts);
                kinds.extend((!new.is_empty()).then_some((kind, events.len())));
                events.extend(new);
            }
        }
        if !events.is_empty() && !self.accept(events, &kinds).await {
            return;
        }
        for draft in drafts.iter().filter(|draft| draft.noticed != draft.subject.noticed) {
            self.note(draft.subject.key, draft.noticed).await;
        }
    }

    /// The events of one notice: one of the account with its sinks, one of all accounts with theirs.
    fn events(&self, draft: &Draft, id: Option<&EventId>, facts: NoticeFacts) -> Vec<NewEvent> {
        let mut recipients: BTreeMap<AccountId, Vec<SubscriptionKey>> = BTreeMap::new();
        let kind = facts.kind();
        let wants =
            |sink: &&Arc<Subscription>| sink.settings.notices.is_some_and(|kinds| kinds.contains(kind));
        for sink in draft.sinks.iter().filter(wants) {
            if self.store.queue_summary(sink.key).owed() >= self.owed_max {
                self.metrics.notices_dropped.inc();
            } else {
                recipients.entry(sink.name.account).or_default().push(sink.key);
            }
        }
        // Those about one subscription keep their order.
        let [.., a, b, c, d] = draft.subject.key.0.to_be_bytes();
        let tag = OrderTag(u32::from_be_bytes([a, b, c, d]));
        let content = Notice::new(&draft.subject, self.clock.now(), facts).content(tag);
        let new = |(account, recipients)| NewEvent {
            address: EventAddress { account, id: id.cloned() },
            content: content.clone(),
            inbox_id: None,
            // The id says everything.
            fingerprint: 0,
            recipients: Some(recipients),
        };
        recipients.into_iter().map(new).collect()
    }

    /// Stores events, of which those at the positions of `kinds` count as notices. False if the store has stopped.
    async fn accept(&self, events: Vec<NewEvent>, kinds: &[(NoticeKind, usize)]) -> bool {
        loop {
            match self.store.accept(events.clone()).await {
                Ok(accepted) => {
                    let stored = kinds.iter().filter(|(_, position)| !accepted[*position].duplicate);
                    stored.for_each(|(kind, _)| self.metrics.notice_stored(*kind));
                    return true;
                }
                Err(StoreError::Busy | StoreError::Full | StoreError::NoDescriptor) => {
                    tokio::time::sleep(STORE_RETRY_WAIT).await;
                }
                // A store that failed or closed reports that itself.
                Err(error) => {
                    tracing::debug!(%error, "cannot store notices");
                    return false;
                }
            }
        }
    }

    /// Writes what sinks know of a subscription, unless it was deleted.
    async fn note(&self, key: SubscriptionKey, noticed: Noticed) {
        let mut left = CHANGE_ATTEMPTS_MAX;
        while let Some(current) = self.store.registry().by_key(key).filter(|_| left > 0) {
            match self.store.update_subscription(key, current.version, Change::Noticed(noticed)).await {
                Err(StoreError::VersionMismatch) => left -= 1,
                Err(StoreError::Busy | StoreError::Full | StoreError::NoDescriptor) => {
                    tokio::time::sleep(STORE_RETRY_WAIT).await;
                }
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// The facts of failed deliveries, as far as the store still has them.
    async fn failed(&self, draft: &Draft, failures: Failures) -> Option<NoticeFacts> {
        let (first, last) = failures.ends?;
        let first = self.failed_delivery(&draft.subject, first).await;
        let last = self.failed_delivery(&draft.subject, last).await;
        Some(NoticeFacts::DeliveryFailed { count: failures.count, first, last })
    }

    async fn failed_delivery(&self, subject: &Subscription, key: DeliveryKey) -> FailedDelivery {
        let found = store::read_blocking(&self.store, move |store| store.delivery(key)).await;
        // Retention may have removed it.
        let Ok(Ok(Some(record))) = found else { return FailedDelivery::default() };
        let event = &record.event.name;
        let name = DeliveryName { subscription: subject.name.clone(), event: event.id.clone() };
        let last = record.attempts.last();
        FailedDelivery {
            delivery: name.to_string(),
            event: event.to_string(),
            attempt_count: record.attempt_count,
            http_status: last.map_or(0, |attempt| attempt.http_status),
            error: last.map_or_else(String::new, |attempt| attempt.error.clone()),
        }
    }
}
