//! Suspends failing subscriptions, probes suspended ones and resumes them. State changes go through the
//! store, as those of callers do; the dispatcher then sees them in the registry.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use super::{
    attempt_task::{AttemptContext, AttemptKind},
    failure_log::FailureLog,
    settings::STORE_RETRY_WAIT,
    suspension::{Failing, Moment, ProbeTimes, Verdict},
    timers::Timers,
};
use crate::{
    domain::{
        delivery::{Attempt, Outcome},
        ids::{Seq, SubscriptionKey},
        subscription::{Health, State, Subscription},
        time::UnixMicros,
    },
    store::{self, Change, OrderFilter, OwedQuery, PendingDelivery, StoreError},
};

/// Most attempts to change a state while others change the same subscription.
const CHANGE_ATTEMPTS_MAX: usize = 8;

/// The health of subscriptions: failing ones, suspended ones with their probes, and state changes under way.
#[derive(Default)]
pub(super) struct Probing {
    /// Subscriptions whose last attempt failed.
    failing: HashMap<SubscriptionKey, Failing>,
    /// Suspended subscriptions.
    probes: HashMap<SubscriptionKey, Probe>,
    /// Subscriptions with a probe under way.
    probing: HashSet<SubscriptionKey>,
    /// Subscriptions whose state is being changed here.
    changing: HashSet<SubscriptionKey>,
    log: FailureLog,
    tasks: JoinSet<Done>,
}

/// The probes of one suspended subscription.
struct Probe {
    times: ProbeTimes,
    step: Step,
    /// URL of the next probe.
    url: String,
}

/// The progress of a probe.
enum Step {
    Waiting,
    /// Reads the delivery to probe with. If `is_stale`, the store changed since the read began, and the
    /// result is not used.
    Reading {
        is_stale: bool,
    },
    /// Waits for its turn.
    Ready(PendingDelivery),
    InFlight,
}

/// The result of a task.
pub(super) enum Done {
    /// The state was changed, or need not be.
    Changed(SubscriptionKey),
    /// The health was written.
    HealthWritten,
    Candidate(ProbeCandidate),
}

/// The oldest pending delivery of a suspended subscription.
pub(super) struct ProbeCandidate {
    subscription: SubscriptionKey,
    owed: Option<PendingDelivery>,
}

/// The next step for a subscription after a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It can send again.
    Pump(SubscriptionKey),
    /// Its probe waits for its turn.
    Enqueue(SubscriptionKey),
}

impl Probing {
    /// Waits for a task. `None` without tasks.
    pub(super) async fn join_next(&mut self) -> Option<Done> {
        self.tasks.join_next().await?.ok()
    }

    /// Takes the result of a task.
    pub(super) fn done(
        &mut self,
        done: Done,
        now: UnixMicros,
        timers: &mut Timers,
        random: &mut StdRng,
    ) -> Option<Next> {
        match done {
            Done::Changed(id) => {
                self.changing.remove(&id);
                Some(Next::Pump(id))
            }
            Done::HealthWritten => None,
            Done::Candidate(candidate) => self.candidate_read(candidate, now, timers, random),
        }
    }

    /// Whether nothing else may be sent to a subscription: a probe or a change of its state is under way.
    pub(super) fn blocks(&self, id: SubscriptionKey) -> bool {
        self.probing.contains(&id) || self.changing.contains(&id)
    }

    /// Suspended subscriptions.
    pub(super) fn suspended(&self) -> impl Iterator<Item = &SubscriptionKey> {
        self.probes.keys()
    }

    /// Forgets a deleted subscription.
    pub(super) fn forget(&mut self, id: SubscriptionKey) {
        self.failing.remove(&id);
        self.probes.remove(&id);
        self.log.forget(id);
    }

    /// Updates the health of a subscription after an attempt: may suspend or resume it.
    pub(super) fn record_outcome(
        &mut self,
        context: &AttemptContext,
        subscription: &Subscription,
        attempt: &Attempt,
        seq: Seq,
        kind: AttemptKind,
    ) {
        let id = subscription.key;
        let now = Moment { wall: context.clock.now(), steady: context.clock.steady() };
        if attempt.outcome == Outcome::Ok {
            let was_failing = self.failing.remove(&id).is_some();
            context.notices.attempt_succeeded(subscription, was_failing);
            self.log.succeeded(subscription);
            match subscription.state {
                State::Suspended => {
                    tracing::info!(
                        subscription.name = %subscription.name,
                        "resuming a suspended subscription: a probe succeeded",
                    );
                    self.change_state(context, subscription, State::Active, String::new());
                }
                _ if subscription.health.failing_since.is_some() => {
                    let health = Health { failing_since: None, failures: 0, ..subscription.health };
                    self.write_health(context, subscription, health);
                }
                _ => {}
            }
            return;
        }
        let url = subscription.settings.url.as_str();
        if kind == AttemptKind::Probe {
            let health = subscription.health;
            let probes = if health.probed == Some(seq) { health.probes.saturating_add(1) } else { 1 };
            self.write_health(context, subscription, Health { probed: Some(seq), probes, ..health });
        }
        if subscription.state != State::Active || attempt.url != url {
            return;
        }
        self.log.failed(subscription, attempt, now.steady);
        let failing =
            self.failing.entry(id).or_insert_with(|| Failing::new(subscription.health, attempt, now));
        if !failing.is_about(url) {
            *failing = Failing::new(Health::default(), attempt, now);
        }
        let verdict = failing.failed(attempt, subscription.health, now, context.settings.suspension);
        context.notices.attempt_failed(subscription, failing.lasted(now), || failing.streak(attempt));
        match verdict {
            Verdict::Ignore => {}
            Verdict::WriteHealth(health) => self.write_health(context, subscription, health),
            Verdict::Suspend(reason) => {
                if !self.changing.contains(&id) {
                    tracing::warn!(
                        subscription.name = %subscription.name, reason, "suspending a subscription",
                    );
                    self.change_state(context, subscription, State::Suspended, reason);
                }
            }
        }
    }

    /// Handles the state of a subscription that has changed, or that was found at the start. Returns whether
    /// it was resumed after a suspension.
    pub(super) fn observe_state(
        &mut self,
        context: &AttemptContext,
        subscription: &Subscription,
        timers: &mut Timers,
        random: &mut StdRng,
    ) -> bool {
        let (id, now) = (subscription.key, context.clock.steady());
        let url = subscription.settings.url.as_str();
        if subscription.state != State::Suspended {
            let is_active = subscription.state == State::Active;
            let resumed = self.probes.remove(&id).is_some() && is_active;
            let is_written = self.failing.get(&id).is_some_and(Failing::is_written);
            let is_reset = is_written && subscription.health.failing_since.is_none();
            if resumed || is_reset || subscription.state == State::Paused {
                self.failing.remove(&id);
            }
            return resumed;
        }
        self.failing.remove(&id);
        let probe = self.probes.entry(id).or_insert_with(|| Probe {
            times: ProbeTimes::new(now, context.settings.suspension, random),
            step: Step::Waiting,
            url: url.to_owned(),
        });
        if probe.url != url {
            // A new endpoint is probed at once.
            url.clone_into(&mut probe.url);
            probe.times.due = now;
        }
        timers.set(probe.times.due, id);
        false
    }

    /// Reads the delivery to probe a suspended subscription with, if a probe is due. With `is_busy`, earlier
    /// attempts are still under way and the probe is postponed.
    pub(super) fn start_due_probe(
        &mut self,
        context: &AttemptContext,
        id: SubscriptionKey,
        is_busy: bool,
        timers: &mut Timers,
    ) {
        let now = context.clock.steady();
        let Some(probe) = self.probes.get_mut(&id) else { return };
        if !matches!(probe.step, Step::Waiting) || probe.times.due > now {
            return;
        }
        if is_busy {
            probe.times.due = now.plus(STORE_RETRY_WAIT);
            return timers.set(probe.times.due, id);
        }
        probe.step = Step::Reading { is_stale: false };
        let store = Arc::clone(&context.store);
        self.tasks.spawn(async move {
            let query = OwedQuery { subscription: id, after: Seq(0), limit: 1, order: OrderFilter::Any };
            let owed = match store::read_blocking(&store, move |store| store.owed(&query)).await {
                Ok(Ok(page)) => page.debts.into_iter().next().map(|debt| debt.owed),
                Ok(Err(error)) => {
                    let found = store.registry().by_key(id);
                    tracing::error!(
                        subscription.name = found.as_ref().map(|found| tracing::field::display(&found.name)),
                        %error,
                        "cannot read a delivery to probe with; retrying later",
                    );
                    None
                }
                // The runtime is ending.
                Err(_) => None,
            };
            Done::Candidate(ProbeCandidate { subscription: id, owed })
        });
    }

    fn candidate_read(
        &mut self,
        ProbeCandidate { subscription: id, owed }: ProbeCandidate,
        now: UnixMicros,
        timers: &mut Timers,
        random: &mut StdRng,
    ) -> Option<Next> {
        let probe = self.probes.get_mut(&id)?;
        let is_stale = matches!(probe.step, Step::Reading { is_stale: true });
        match owed {
            Some(owed) if !is_stale => {
                probe.step = Step::Ready(owed);
                return Some(Next::Enqueue(id));
            }
            Some(_) => {}
            None => probe.times.later(now, random),
        }
        probe.step = Step::Waiting;
        timers.set(probe.times.due, id);
        None
    }

    /// Drops the delivery that was chosen to probe with: it may be cancelled. Another one is read.
    pub(super) fn discard_candidate(&mut self, id: SubscriptionKey, timers: &mut Timers) {
        let Some(probe) = self.probes.get_mut(&id) else { return };
        match &mut probe.step {
            Step::Waiting | Step::InFlight => {}
            Step::Reading { is_stale } => *is_stale = true,
            Step::Ready(_) => {
                probe.step = Step::Waiting;
                timers.set(probe.times.due, id);
            }
        }
    }

    /// Takes the delivery to probe a suspended subscription with, if one is ready: its probe is in flight
    /// from now on.
    pub(super) fn take_probe(
        &mut self,
        id: SubscriptionKey,
        is_busy: bool,
        timers: &mut Timers,
    ) -> Option<PendingDelivery> {
        if is_busy {
            self.discard_candidate(id, timers);
            return None;
        }
        let step = &mut self.probes.get_mut(&id)?.step;
        match std::mem::replace(step, Step::InFlight) {
            Step::Ready(owed) => {
                self.probing.insert(id);
                Some(owed)
            }
            other => {
                *step = other;
                None
            }
        }
    }

    /// Handles the end of a probe and schedules the next one: at once if nothing was sent.
    pub(super) fn probe_ended(
        &mut self,
        context: &AttemptContext,
        id: SubscriptionKey,
        was_sent: bool,
        timers: &mut Timers,
        random: &mut StdRng,
    ) {
        self.probing.remove(&id);
        let Some(probe) = self.probes.get_mut(&id) else { return };
        probe.step = Step::Waiting;
        if was_sent {
            probe.times.failed(context.clock.steady(), context.settings.suspension, random);
        }
        timers.set(probe.times.due, id);
    }

    /// Changes the state, unless a caller has changed it or the URL meanwhile: the caller wins.
    fn change_state(&mut self, context: &AttemptContext, seen: &Subscription, state: State, reason: String) {
        let (store, id) = (Arc::clone(&context.store), seen.key);
        let (from, url) = (seen.state, seen.settings.url.clone());
        self.changing.insert(id);
        self.tasks.spawn(async move {
            for _ in 0..CHANGE_ATTEMPTS_MAX {
                let Some(current) = store.registry().by_key(id) else { break };
                if current.state != from || current.settings.url != url {
                    break;
                }
                let change = Change::State(state, reason.clone());
                match store.update_subscription(id, current.version, change).await {
                    Err(StoreError::VersionMismatch) => {}
                    Err(StoreError::Busy | StoreError::Full | StoreError::NoDescriptor) => {
                        tokio::time::sleep(STORE_RETRY_WAIT).await;
                    }
                    // A store that failed or closed reports that itself.
                    Ok(_) | Err(_) => break,
                }
            }
            Done::Changed(id)
        });
    }

    /// Writes the health of a subscription, unless it has changed meanwhile: then a later attempt writes it.
    fn write_health(&mut self, context: &AttemptContext, seen: &Subscription, health: Health) {
        let commit = context.store.update_subscription(seen.key, seen.version, Change::Health(health));
        self.tasks.spawn(async move {
            drop(commit.await);
            Done::HealthWritten
        });
    }
}
