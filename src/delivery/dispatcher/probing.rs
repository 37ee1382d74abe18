//! The dispatcher's part in suspending subscriptions, probing them, and making them active again. The state is changed in the
//! store as anybody would change it; the dispatcher sees the change like any other.

use std::sync::Arc;

use super::{Dispatcher, settings::STORE_RETRY_WAIT};
use crate::{
    delivery::dispatcher::{
        suspension::{Failing, ProbeTimes, Verdict},
        throttle::Pace,
    },
    domain::{
        delivery::{Attempt, Outcome},
        ids::{Seq, SubscriptionKey},
        subscription::{Health, State, Subscription},
        time::UnixMicros,
    },
    store::{self, Change, OrderFilter, OwedQuery, PendingDelivery, StoreError},
};

/// How often a change of state is made again, when others change the same subscription at the same time.
const CHANGE_ATTEMPTS_MAX: usize = 8;

/// A suspended subscription.
pub(super) struct Probe {
    times: ProbeTimes,
    step: Step,
    /// Where the next probe goes.
    url: String,
}

/// How far a probe is.
enum Step {
    Waiting,
    Reading,
    /// It waits for a place.
    Ready(PendingDelivery),
    UnderWay,
}

/// What a probe is to be made with, read from the store.
pub(super) struct Oldest {
    pub(super) lane: SubscriptionKey,
    owed: Option<PendingDelivery>,
}

impl Dispatcher {
    /// What follows from an attempt for the state of its subscription.
    pub(super) fn judge(&mut self, subscription: &Subscription, attempt: &Attempt, seq: Seq, is_probe: bool) {
        let (id, now) = (subscription.key, self.means.clock.now());
        let settings = self.means.settings.suspension;
        if attempt.outcome == Outcome::Ok {
            self.failing.remove(&id);
            match subscription.state {
                State::Suspended => {
                    tracing::info!(subscription.name = %subscription.name, "a suspended subscription answers again");
                    self.change_state(subscription, State::Active, String::new());
                }
                _ if subscription.health.failing_since.is_some() => {
                    let health = Health { failing_since: None, failures: 0, ..subscription.health };
                    self.note(subscription, health);
                }
                _ => {}
            }
            return;
        }
        let url = subscription.settings.url.as_str();
        if is_probe {
            let health = subscription.health;
            let probes = if health.probed == Some(seq) { health.probes.saturating_add(1) } else { 1 };
            self.note(subscription, Health { probed: Some(seq), probes, ..health });
        }
        if subscription.state != State::Active || attempt.url != url {
            return;
        }
        let failing =
            self.failing.entry(id).or_insert_with(|| Failing::new(subscription.health, attempt, now));
        if !failing.is_about(url) {
            *failing = Failing::new(Health::default(), attempt, now);
        }
        match failing.failed(attempt, subscription.health, now, settings) {
            Verdict::Bear => {}
            Verdict::Note(health) => self.note(subscription, health),
            Verdict::Suspend(reason) => {
                if !self.changing.contains(&id) {
                    tracing::warn!(
                        subscription.name = %subscription.name, reason, "suspending a subscription",
                    );
                    self.change_state(subscription, State::Suspended, reason);
                }
            }
        }
    }

    /// Takes notice of the state of a subscription that has changed, or was found at the start.
    pub(super) fn look_at_state(&mut self, subscription: &Subscription) {
        let (id, now) = (subscription.key, self.means.clock.now());
        let url = subscription.settings.url.as_str();
        if subscription.state != State::Suspended {
            if self.probes.remove(&id).is_some() && subscription.state == State::Active {
                self.failing.remove(&id);
                self.set_pace(id, Some(Pace::gentle(now)));
            }
            let forgiven = subscription.health.failing_since.is_none();
            let noted = self.failing.get(&id).is_some_and(Failing::is_noted);
            if subscription.state == State::Paused || forgiven && noted {
                self.failing.remove(&id);
            }
            return;
        }
        self.failing.remove(&id);
        let (settings, random) = (self.means.settings.suspension, &mut self.random);
        let probe = self.probes.entry(id).or_insert_with(|| Probe {
            times: ProbeTimes::new(now, settings, random),
            step: Step::Waiting,
            url: url.to_owned(),
        });
        if probe.url != url {
            // Another endpoint is tried at once.
            url.clone_into(&mut probe.url);
            probe.times.due = now;
        }
        let due = probe.times.due;
        self.set_timer(due, id);
    }

    /// Reads what a suspended subscription is to be probed with, if that is due.
    pub(super) fn look_at_probe(&mut self, id: SubscriptionKey) {
        let now = self.means.clock.now();
        let Some(probe) = self.probes.get_mut(&id) else { return };
        if !matches!(probe.step, Step::Waiting) || probe.times.due > now {
            return;
        }
        if self.slots.contains_key(&id) {
            // Attempts from before are still under way.
            probe.times.due = now.plus(STORE_RETRY_WAIT);
            let due = probe.times.due;
            return self.set_timer(due, id);
        }
        probe.step = Step::Reading;
        let store = Arc::clone(&self.means.store);
        self.oldest.spawn(async move {
            let query = OwedQuery { subscription: id, after: Seq(0), limit: 1, order: OrderFilter::Any };
            let owed = match store::read_blocking(&store, move |store| store.owed(&query)).await {
                Ok(Ok(page)) => page.debts.into_iter().next().map(|debt| debt.owed),
                Ok(Err(error)) => {
                    tracing::error!(lane = id.0, %error, "cannot read what to probe with; trying again later");
                    None
                }
                // The runtime is ending.
                Err(_) => None,
            };
            Oldest { lane: id, owed }
        });
    }

    /// Takes what was read to probe with.
    pub(super) fn oldest_read(&mut self, Oldest { lane, owed }: Oldest) {
        let now = self.means.clock.now();
        let Some(probe) = self.probes.get_mut(&lane) else { return };
        match owed {
            Some(owed) => {
                probe.step = Step::Ready(owed);
                self.places.want(lane);
            }
            None => {
                probe.step = Step::Waiting;
                probe.times.later(now, &mut self.random);
                let due = probe.times.due;
                self.set_timer(due, lane);
            }
        }
    }

    /// What a suspended subscription is to be probed with, if it has its place now.
    pub(super) fn take_probe(&mut self, id: SubscriptionKey) -> Option<PendingDelivery> {
        let busy = self.slots.contains_key(&id);
        let probe = self.probes.get_mut(&id)?;
        if busy && matches!(probe.step, Step::Ready(_)) {
            // Not now: it is read again a moment later.
            probe.step = Step::Waiting;
            let due = probe.times.due;
            self.set_timer(due, id);
            return None;
        }
        match std::mem::replace(&mut probe.step, Step::UnderWay) {
            Step::Ready(owed) => {
                self.probing.insert(id);
                Some(owed)
            }
            other => {
                probe.step = other;
                None
            }
        }
    }

    /// Notes that a probe is over. Has no effect on one that is not under way.
    pub(super) fn probe_ended(&mut self, id: SubscriptionKey, now: UnixMicros) {
        self.probing.remove(&id);
        let Some(probe) = self.probes.get_mut(&id) else { return };
        probe.step = Step::Waiting;
        probe.times.failed(now, self.means.settings.suspension, &mut self.random);
        let due = probe.times.due;
        self.set_timer(due, id);
    }

    /// Changes the state, unless its owner has changed it or the URL meanwhile: their word counts.
    fn change_state(&mut self, seen: &Subscription, state: State, reason: String) {
        let (store, id) = (Arc::clone(&self.means.store), seen.key);
        let (from, url) = (seen.state, seen.settings.url.clone());
        self.changing.insert(id);
        self.changes.spawn(async move {
            for _ in 0..CHANGE_ATTEMPTS_MAX {
                let Some(current) = store.registry().by_key(id) else { break };
                if current.state != from || current.settings.url != url {
                    break;
                }
                let change = Change::State(state, reason.clone());
                match store.update_subscription(id, current.version, change).await {
                    Err(StoreError::VersionMismatch) => {}
                    Err(StoreError::Busy | StoreError::Full) => tokio::time::sleep(STORE_RETRY_WAIT).await,
                    // A store that failed or closed has said so itself.
                    Ok(_) | Err(_) => break,
                }
            }
            id
        });
    }

    /// Writes down how a subscription does, unless it has changed meanwhile: then it is noted another time.
    fn note(&mut self, seen: &Subscription, health: Health) {
        let commit = self.means.store.update_subscription(seen.key, seen.version, Change::Health(health));
        self.notes.spawn(async move { drop(commit.await) });
    }
}
