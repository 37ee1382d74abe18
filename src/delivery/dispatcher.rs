//! The dispatcher: one loop that serves all lanes. It waits, takes what can be sent, and sends.
//!
//! It learns of work from the store alone: from the feed of accepted events, from what the store owes when it starts,
//! and from what becomes due. A lane with nothing to do costs nothing: it is forgotten until there is work.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, hash_map::Entry},
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::broadcast::error::RecvError,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use super::lane::{Lane, Read, ReadKind};
use crate::{
    clock::Clock,
    domain::{
        delivery::{Attempt, DeliveryKey, DeliveryState, Outcome, Post, Poster},
        ids::{LaneId, Seq},
        retry::RetryPolicy,
        subscription::{State, Subscription},
        time::UnixMicros,
    },
    metrics::Metrics,
    store::{DuePage, Fed, FedEvent, Owed, PendingPage, Settlement, Store, StoreError},
};

/// Longest time between two looks at what is due, so that a step of the clock is noticed.
pub const DUE_POLL_MAX: Duration = Duration::from_secs(5);
/// Wait before a read or a settlement that the store refused is tried again.
pub const STORE_RETRY_WAIT: Duration = Duration::from_millis(200);

/// How the dispatcher works. The defaults are the configuration's.
#[derive(Clone, Copy, Debug)]
pub struct DispatchSettings {
    /// POSTs of one subscription under way at once, where it does not say itself.
    pub max_in_flight: u16,
    /// Deliveries of one subscription kept in memory before they are sent.
    pub lane_window: usize,
    /// Where a subscription does not say itself.
    pub retry: RetryPolicy,
    /// The longest wait that an answer can ask for with `Retry-After`.
    pub retry_after_max: Duration,
}

/// Serves all lanes.
pub struct Dispatcher {
    store: Arc<dyn Store>,
    poster: Poster,
    clock: Arc<dyn Clock>,
    settings: DispatchSettings,
    metrics: Arc<Metrics>,
    random: StdRng,
    lanes: HashMap<LaneId, Lane>,
    /// When lanes have something to try again. Entries may be out of date: they only say when to look.
    timers: BinaryHeap<Reverse<(UnixMicros, LaneId)>>,
    attempts: JoinSet<Ended>,
    reads: JoinSet<(LaneId, Read, ReadResult)>,
}

/// An attempt that is over and written down.
struct Ended {
    key: DeliveryKey,
    due: Option<UnixMicros>,
}

enum ReadResult {
    Pending(PendingPage),
    Due(DuePage),
    Failed,
}

impl Dispatcher {
    /// A dispatcher of what `store` owes, by `poster`. Jitter comes from `seed`.
    pub fn new(
        store: Arc<dyn Store>,
        poster: Poster,
        clock: Arc<dyn Clock>,
        settings: DispatchSettings,
        metrics: Arc<Metrics>,
        seed: u64,
    ) -> Self {
        Self {
            store,
            poster,
            clock,
            settings,
            metrics,
            random: StdRng::seed_from_u64(seed),
            lanes: HashMap::new(),
            timers: BinaryHeap::new(),
            attempts: JoinSet::new(),
            reads: JoinSet::new(),
        }
    }

    /// Sends until `shutdown`, then waits for the attempts under way. Dropping the future ends these at once; what they
    /// were about is still owed.
    pub async fn run(mut self, shutdown: CancellationToken) {
        // Listen before looking: what is accepted in between is then seen twice, and taken once.
        let mut feed = self.store.feed();
        let mut changes = self.store.registry().changes();
        self.look_at_everything();
        loop {
            self.metrics.lanes_active.set(i64::try_from(self.lanes.len()).unwrap_or(i64::MAX));
            let due = self.next_look();
            tokio::select! {
                () = shutdown.cancelled() => break,
                // A panic was caught within the attempt, and nobody cancels one: only the runtime's end is an error.
                Some(Ok(ended)) = self.attempts.join_next() => self.attempt_ended(&ended),
                Some(Ok((lane, read, result))) = self.reads.join_next() => self.read_ended(lane, read, result),
                fed = feed.recv() => match fed {
                    Ok(Fed::Events(events)) => self.accepted(&events),
                    Ok(Fed::Due(lane, due)) => self.made_due(lane, due),
                    Err(RecvError::Lagged(_)) => self.look_at_everything(),
                    Err(RecvError::Closed) => break,
                },
                changed = changes.changed() => match changed {
                    Ok(()) => self.registry_changed(),
                    Err(_) => break,
                },
                () = sleep_until(due) => self.look_at_timers(),
            }
        }
        while self.attempts.join_next().await.is_some() {}
    }

    /// Every lane that owes something may have more in the store than is known here.
    fn look_at_everything(&mut self) {
        for id in self.store.registry().lanes() {
            let summary = self.store.lane_summary(id);
            if summary.owed() == 0 {
                continue;
            }
            match self.lanes.entry(id) {
                Entry::Occupied(mut lane) => lane.get_mut().missed(),
                Entry::Vacant(place) => drop(place.insert(Lane::behind(summary.next_due))),
            }
            self.pump(id);
        }
    }

    fn accepted(&mut self, group: &[FedEvent]) {
        for fed in group {
            for &id in &fed.lanes {
                let before = Seq(fed.event.seq.0 - 1);
                let lane = self.lanes.entry(id).or_insert_with(|| Lane::up_to_date(before));
                lane.offer(Owed { event: Arc::clone(&fed.event), attempts: 0 }, self.settings.lane_window);
                self.pump(id);
            }
        }
    }

    fn made_due(&mut self, id: LaneId, due: UnixMicros) {
        self.lanes.entry(id).or_insert_with(|| Lane::behind(None)).due_at(due);
        self.pump(id);
    }

    fn registry_changed(&mut self) {
        let ids: Vec<LaneId> = self.lanes.keys().copied().collect();
        for id in ids {
            self.pump(id);
        }
    }

    fn attempt_ended(&mut self, &Ended { key, due }: &Ended) {
        if let Some(lane) = self.lanes.get_mut(&key.lane) {
            lane.settled(key.seq, due);
            self.pump(key.lane);
        }
    }

    fn read_ended(&mut self, id: LaneId, read: Read, result: ReadResult) {
        if let Some(lane) = self.lanes.get_mut(&id) {
            match result {
                ReadResult::Pending(page) => lane.take_pending(read, page),
                ReadResult::Due(page) => lane.take_due(read, page),
                ReadResult::Failed => lane.read_failed(read),
            }
            self.pump(id);
        }
    }

    /// When to look at the timers.
    fn next_look(&self) -> Instant {
        let wait = match self.timers.peek() {
            Some(Reverse((due, _))) => due.since(self.clock.now()).min(DUE_POLL_MAX),
            None => DUE_POLL_MAX,
        };
        Instant::now() + wait
    }

    fn look_at_timers(&mut self) {
        let now = self.clock.now();
        while let Some(&Reverse((due, id))) = self.timers.peek() {
            if due > now {
                return;
            }
            self.timers.pop();
            if self.lanes.contains_key(&id) {
                self.pump(id);
            }
        }
    }

    /// Does for a lane whatever can be done now.
    fn pump(&mut self, id: LaneId) {
        let Entry::Occupied(mut place) = self.lanes.entry(id) else { return };
        let Some(subscription) = self.store.registry().by_lane(id) else {
            place.remove();
            return;
        };
        let lane = place.get_mut();
        if subscription.state != State::Active {
            lane.park();
            return;
        }
        let max_in_flight = subscription.settings.max_in_flight.unwrap_or(self.settings.max_in_flight);
        while let Some(owed) = lane.take(max_in_flight.into()) {
            let attempt = AttemptTask {
                store: Arc::clone(&self.store),
                poster: self.poster.clone(),
                clock: Arc::clone(&self.clock),
                settings: self.settings,
                metrics: Arc::clone(&self.metrics),
                subscription: Arc::clone(&subscription),
                seed: self.random.random(),
                owed,
            };
            self.attempts.spawn(attempt.run());
        }
        if let Some(read) = lane.next_read(self.clock.now(), self.settings.lane_window) {
            spawn_read(&mut self.reads, Arc::clone(&self.store), self.clock.now(), id, read);
        }
        if lane.is_idle() {
            place.remove();
        } else if let Some(due) = lane.arm() {
            self.timers.push(Reverse((due, id)));
        }
    }
}

fn spawn_read(
    reads: &mut JoinSet<(LaneId, Read, ReadResult)>,
    store: Arc<dyn Store>,
    now: UnixMicros,
    id: LaneId,
    read: Read,
) {
    reads.spawn(async move {
        let look = move || match read.kind {
            ReadKind::Pending(after) => store.pending(id, after, read.limit).map(ReadResult::Pending),
            ReadKind::Due => store.due(id, now, read.limit).map(ReadResult::Due),
        };
        let result = match tokio::task::spawn_blocking(look).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => {
                tracing::error!(lane = id.0, %error, "cannot read what is owed; trying again");
                tokio::time::sleep(STORE_RETRY_WAIT).await;
                ReadResult::Failed
            }
            // The runtime is ending.
            Err(_) => ReadResult::Failed,
        };
        (id, read, result)
    });
}

/// One attempt, from the POST to its settlement.
struct AttemptTask {
    store: Arc<dyn Store>,
    poster: Poster,
    clock: Arc<dyn Clock>,
    settings: DispatchSettings,
    metrics: Arc<Metrics>,
    subscription: Arc<Subscription>,
    /// For the jitter of what follows.
    seed: u64,
    owed: Owed,
}

impl AttemptTask {
    async fn run(mut self) -> Ended {
        let key = DeliveryKey { seq: self.owed.event.seq, lane: self.subscription.lane };
        if !self.store.state(key).is_some_and(DeliveryState::is_owed) {
            // It was cancelled while it waited in the lane.
            return Ended { key, due: None };
        }
        self.metrics.attempts_in_flight.inc();
        let attempt = self.post().await;
        self.metrics.attempts_in_flight.dec();
        self.metrics.attempt_ended(&self.owed.event, &attempt, self.owed.attempts == 0);
        let attempts = self.owed.attempts + 1;
        let policy = self.subscription.settings.retry.over(self.settings.retry);
        let now = self.clock.now();
        let mut random = StdRng::seed_from_u64(self.seed);
        let state = policy.next_state(&attempt, attempts, now, self.settings.retry_after_max, &mut random);
        self.log(&attempt, attempts, state);
        let due = match state {
            DeliveryState::Retrying { due } => Some(due),
            _ => None,
        };
        self.settle(Settlement { key, attempt, state }).await;
        Ended { key, due }
    }

    async fn post(&mut self) -> Attempt {
        let post = Post { subscription: Arc::clone(&self.subscription), event: Arc::clone(&self.owed.event) };
        let start_time = self.clock.now();
        let posting = AssertUnwindSafe(async { self.poster.ready().await?.call(post).await }).catch_unwind();
        match posting.await {
            Ok(Ok::<_, Infallible>(attempt)) => attempt,
            // A panic costs this attempt and nothing else.
            Err(_) => Attempt {
                start_time,
                duration: self.clock.now().since(start_time),
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
    /// twice than was in flight.
    async fn settle(&self, settlement: Settlement) {
        loop {
            match self.store.settle(vec![settlement.clone()]).await {
                Err(StoreError::Busy) => tokio::time::sleep(STORE_RETRY_WAIT).await,
                // A store that failed or closed has said so itself; the delivery is still owed after a restart.
                Ok(()) | Err(_) => return,
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
