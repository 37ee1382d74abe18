//! Notices for operators: decides what sinks are told, and stores it as events with deliveries to them.
//!
//! A notice follows from a difference between what is so and what [`Noticed`] says that sinks were told. So
//! nothing is lost when this task is late or the gateway stops, and nothing is told twice. Failed deliveries are
//! the exception: they are gathered in memory from the store's changes.
//!
//! Sinks are subscriptions, but nothing here is about them: a sink that fails causes no notice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    domain::{
        delivery::DeliveryState,
        ids::SubscriptionKey,
        notice::{FailureStreak, NoticeKind, Noticed, Trouble, backlog_level},
        subscription::{State, Subscription},
        time::UnixMicros,
    },
    event::notice::NoticeFacts,
    metrics::Metrics,
    store::{Changes, Store},
};
use draft::{Draft, Failures, Outbox};
use settings::NoticeSettings;

mod draft;
pub mod settings;

/// What the dispatcher observes of endpoints. A handle: clones share one list.
#[derive(Clone)]
pub(in crate::delivery) struct Notices(Arc<Observed>);

struct Observed {
    store: Arc<dyn Store>,
    failing_after: Duration,
    endpoints: Mutex<BTreeMap<SubscriptionKey, Observation>>,
    wake: Notify,
}

/// What is so and may have to be told.
#[derive(Debug)]
enum Observation {
    /// Every attempt has failed for long enough.
    Failing(FailureStreak),
    /// An attempt succeeded.
    Recovered,
}

impl Notices {
    /// Nothing is observed yet.
    pub(super) fn new(store: Arc<dyn Store>, settings: &NoticeSettings) -> Self {
        Self(Arc::new(Observed {
            store,
            failing_after: settings.notice_failing_after,
            endpoints: Mutex::default(),
            wake: Notify::new(),
        }))
    }

    /// An attempt failed, as all have for the time `lasted`.
    pub(super) fn attempt_failed(
        &self,
        subscription: &Subscription,
        lasted: Duration,
        streak: impl FnOnce() -> FailureStreak,
    ) {
        if subscription.is_sink() || !self.0.store.registry().has_sinks() {
            return;
        }
        if subscription.noticed.trouble == Trouble::None && lasted >= self.0.failing_after {
            self.observe(subscription.key, Observation::Failing(streak()));
        } else {
            self.lock().remove(&subscription.key);
        }
    }

    /// An attempt succeeded. `was_failing` if the one before had failed.
    pub(super) fn attempt_succeeded(&self, subscription: &Subscription, was_failing: bool) {
        if subscription.is_sink() || !self.0.store.registry().has_sinks() {
            return;
        }
        if subscription.noticed.trouble != Trouble::None {
            self.observe(subscription.key, Observation::Recovered);
        } else if was_failing {
            self.lock().remove(&subscription.key);
        }
    }

    fn observe(&self, key: SubscriptionKey, observation: Observation) {
        self.lock().insert(key, observation);
        self.0.wake.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SubscriptionKey, Observation>> {
        self.0.endpoints.lock().expect("no code panics while it holds this lock")
    }
}

/// The task that makes notices.
pub(super) struct Notifier {
    outbox: Outbox,
    clock: Arc<dyn Clock>,
    settings: NoticeSettings,
    notices: Notices,
    /// Changes of deliveries, while a sink wants to know of failed ones.
    feed: Option<broadcast::Receiver<Arc<Changes>>>,
    /// Version of the registry that was handled last.
    changes_seen: u64,
    /// Subscriptions whose state may have to be told.
    changed: BTreeSet<SubscriptionKey>,
    /// Subscriptions with failed deliveries since the last notice of them.
    failures: BTreeMap<SubscriptionKey, Failures>,
    /// Subscriptions whose backlog sinks know to be large.
    backlogged: BTreeSet<SubscriptionKey>,
    /// Subscriptions whose backlog has another level than sinks know.
    grown: BTreeSet<SubscriptionKey>,
    /// Steady time of the next look at the backlogs.
    backlog_due: UnixMicros,
    /// The batch that is being stored: one at a time, so that no notice is made twice.
    sending: JoinSet<()>,
}

impl Notifier {
    /// A task for what `notices` observes.
    pub(super) fn new(
        notices: Notices,
        clock: Arc<dyn Clock>,
        settings: NoticeSettings,
        metrics: Arc<Metrics>,
    ) -> Self {
        let store = Arc::clone(&notices.0.store);
        let mut notifier = Self {
            changes_seen: store.registry().changed_since(0).0,
            outbox: Outbox { store, metrics, clock: Arc::clone(&clock), owed_max: settings.owed_notices_max },
            clock,
            settings,
            notices,
            feed: None,
            changed: BTreeSet::new(),
            failures: BTreeMap::new(),
            backlogged: BTreeSet::new(),
            grown: BTreeSet::new(),
            backlog_due: UnixMicros(0),
            sending: JoinSet::new(),
        };
        notifier.sinks_changed();
        notifier
    }

    /// Makes notices until `shutdown`, then stores what it has gathered.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let observed = Arc::clone(&self.notices.0);
        let mut registry = observed.store.registry().changes();
        self.registry_changed();
        loop {
            self.send_next(false);
            let due = self.next_due();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                changed = registry.changed() => match changed {
                    Ok(()) => self.registry_changed(),
                    Err(_) => break,
                },
                Some(_) = self.sending.join_next() => {}
                () = observed.wake.notified() => {}
                changes = next_changes(&mut self.feed) => self.deliveries_changed(&changes),
                () = sleep_at(due) => {}
            }
        }
        while self.sending.join_next().await.is_some() {}
        while let Some(Ok(changes)) = self.feed.as_mut().map(broadcast::Receiver::try_recv) {
            self.deliveries_changed(&changes);
        }
        while self.send_next(true) {
            self.sending.join_next().await;
        }
    }

    fn registry_changed(&mut self) {
        let registry = self.outbox.store.registry();
        let (seen, changed) = registry.changed_since(self.changes_seen);
        self.changes_seen = seen;
        if !registry.has_sinks() {
            return self.sinks_changed();
        }
        let Some(changed) = changed else { return self.sinks_changed() };
        if changed.iter().any(|key| registry.by_key(*key).is_none_or(|found| found.is_sink())) {
            self.sinks_changed();
        }
        self.changed.extend(changed);
    }

    /// Looks at everything again: there may be a sink that wants what nobody was told.
    fn sinks_changed(&mut self) {
        let registry = self.outbox.store.registry();
        if !registry.has_sinks_of(NoticeKind::DeliveryFailed) {
            self.feed = None;
            self.failures.clear();
        } else if self.feed.is_none() {
            self.feed = Some(self.outbox.store.changes());
        }
        self.changed.clear();
        self.backlogged.clear();
        if !registry.has_sinks() {
            self.notices.lock().clear();
            return;
        }
        for subscription in registry.keys().into_iter().filter_map(|key| registry.by_key(key)) {
            if subscription.state == State::Suspended || subscription.noticed.trouble != Trouble::None {
                self.changed.insert(subscription.key);
            }
            if subscription.noticed.backlog_level > 0 {
                self.backlogged.insert(subscription.key);
            }
        }
    }

    /// Counts deliveries that failed for good.
    fn deliveries_changed(&mut self, changes: &Changes) {
        let now = self.clock.steady();
        let registry = self.outbox.store.registry();
        for key in
            changes.deliveries.iter().filter(|one| one.state == DeliveryState::Failed).map(|one| one.key)
        {
            if registry.by_key(key.subscription).is_some_and(|found| !found.is_sink()) {
                self.failures.entry(key.subscription).or_insert_with(|| Failures::due(now)).add(key);
            }
        }
    }

    /// The steady time of the next thing to do; `None` if there is nothing to wait for.
    fn next_due(&self) -> Option<Duration> {
        let now = self.clock.steady();
        let watches = self.outbox.store.registry().has_sinks_of(NoticeKind::BacklogGrowing);
        let backlog = watches.then_some(self.backlog_due);
        let failures = self.failures.values().map(|failures| failures.due).min();
        // While a batch is being stored, its end comes first.
        let due = backlog.into_iter().chain(failures).min().filter(|_| self.sending.is_empty());
        due.map(|due| due.since(now))
    }

    /// Stores the next batch of notices, unless one is being stored. With `is_last`, failed deliveries are told
    /// before it is time. Returns whether there was one.
    fn send_next(&mut self, is_last: bool) -> bool {
        if !self.sending.is_empty() {
            return false;
        }
        let now = if is_last { UnixMicros(i64::MAX) } else { self.clock.steady() };
        if !is_last && now >= self.backlog_due {
            self.backlog_due = now.plus(self.settings.backlog_interval);
            self.look_at_backlogs();
        }
        self.failures.retain(|_, failures| failures.count > 0 || failures.due > now);
        let failed = self.failures.iter().filter(|(_, failures)| failures.is_due(now)).map(|(key, _)| *key);
        let mut keys: BTreeSet<SubscriptionKey> = failed.collect();
        keys.append(&mut self.changed);
        keys.extend(self.notices.lock().keys());
        keys.append(&mut self.grown);
        let mut drafts = Vec::new();
        let mut keys = keys.into_iter();
        for key in keys.by_ref() {
            drafts.extend(self.draft(key, now));
            if drafts.len() == self.settings.batch_max {
                break;
            }
        }
        // The others are for the next batch.
        self.changed.extend(keys);
        if drafts.is_empty() {
            return false;
        }
        let outbox = self.outbox.clone();
        self.sending.spawn(async move { outbox.send(drafts).await });
        true
    }

    /// What is to be told of a subscription now, if anything.
    fn draft(&mut self, key: SubscriptionKey, now: UnixMicros) -> Option<Draft> {
        let registry = self.outbox.store.registry();
        let subject = registry.by_key(key).filter(|found| !found.is_sink());
        let sinks = subject.as_ref().map(|subject| registry.sinks_about(subject.name.account));
        let (Some(subject), Some(sinks)) = (subject, sinks.filter(|sinks| !sinks.is_empty())) else {
            self.notices.lock().remove(&key);
            self.failures.remove(&key);
            return None;
        };
        let owed = self.outbox.store.queue_summary(key).owed();
        let mut draft = Draft::new(subject, sinks);
        self.tell_trouble(&mut draft, owed);
        self.tell_backlog(&mut draft, owed);
        if let Some(failures) = self.failures.get_mut(&key)
            && failures.is_due(now)
        {
            let next = Failures::due(now.plus(self.settings.notice_interval));
            draft.failures = Some(std::mem::replace(failures, next));
        }
        draft.says_something().then_some(draft)
    }

    fn tell_trouble(&mut self, draft: &mut Draft, owed_count: u64) {
        let key = draft.subject.key;
        let is_suspended = draft.subject.state == State::Suspended;
        let mut endpoints = self.notices.lock();
        match (draft.noticed.trouble, endpoints.get(&key)) {
            (Trouble::None | Trouble::Failing, _) if is_suspended => {
                let reason = draft.subject.state_reason.clone();
                draft.tell(NoticeFacts::EndpointSuspended { reason, owed_count });
                draft.noticed.trouble = Trouble::Suspended;
                // An attempt that succeeded since then comes next.
                return;
            }
            // The state changes in a moment.
            (Trouble::Suspended, Some(Observation::Recovered)) if is_suspended => return,
            (Trouble::Suspended | Trouble::Failing, Some(Observation::Recovered)) => {
                let was_suspended = draft.noticed.trouble == Trouble::Suspended;
                draft.tell(NoticeFacts::EndpointRecovered { was_suspended, owed_count });
                draft.noticed.trouble = Trouble::None;
            }
            // A caller resumed it. Whether it works again is not known yet.
            (Trouble::Suspended, _) if !is_suspended => draft.noticed.trouble = Trouble::Failing,
            (Trouble::None, Some(Observation::Failing(streak))) if draft.subject.state == State::Active => {
                draft.tell(NoticeFacts::failing(streak.clone(), owed_count));
                draft.noticed.trouble = Trouble::Failing;
            }
            _ => {}
        }
        endpoints.remove(&key);
    }

    fn tell_backlog(&mut self, draft: &mut Draft, owed_count: u64) {
        let Noticed { backlog_level: known, .. } = draft.noticed;
        let notice_backlog = self.settings.notice_backlog;
        let level = backlog_level(owed_count, notice_backlog);
        if level > known && draft.has_sink_of(NoticeKind::BacklogGrowing) {
            draft.tell(NoticeFacts::BacklogGrowing { owed_count, notice_backlog });
            draft.noticed.backlog_level = level;
            self.backlogged.insert(draft.subject.key);
        } else if known > 0 && owed_count <= notice_backlog / 2 {
            draft.noticed.backlog_level = 0;
            self.backlogged.remove(&draft.subject.key);
        }
    }

    /// Finds subscriptions whose backlog has grown or shrunk.
    fn look_at_backlogs(&mut self) {
        let store = &self.outbox.store;
        if !store.registry().has_sinks_of(NoticeKind::BacklogGrowing) {
            return;
        }
        let threshold = self.settings.notice_backlog;
        self.grown
            .extend(self.backlogged.iter().filter(|key| store.queue_summary(**key).owed() <= threshold / 2));
        // Most gateways never look at single subscriptions.
        if store.owed_in_all().deliveries < threshold {
            return;
        }
        let mut large_accounts = BTreeMap::new();
        for (key, account) in store.registry().accounts() {
            let is_large = *large_accounts
                .entry(account)
                .or_insert_with(|| store.owed_by(account).deliveries >= threshold);
            let level = || backlog_level(store.queue_summary(key).owed(), threshold);
            let known = || store.registry().by_key(key).map_or(u32::MAX, |found| found.noticed.backlog_level);
            if is_large && level() > known() {
                self.grown.insert(key);
            }
        }
    }
}

/// The next changes; never without a feed. Some may be missed under a flood: their deliveries are not counted.
async fn next_changes(feed: &mut Option<broadcast::Receiver<Arc<Changes>>>) -> Arc<Changes> {
    loop {
        let Some(changes) = feed else { return std::future::pending().await };
        match changes.recv().await {
            Ok(changes) => return changes,
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => *feed = None,
        }
    }
}

async fn sleep_at(due: Option<Duration>) {
    match due {
        Some(wait) => sleep_until(Instant::now() + wait).await,
        None => std::future::pending().await,
    }
}
